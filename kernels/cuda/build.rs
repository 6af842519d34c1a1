//! Compiles the kernels: with nvcc to one fatbin for each `.cu` (feature `cuda`), with g++ for the emulator (feature
//! `emulate`).
//!
//! `AIENG_EMULATE_SANITIZE` (`address` or `thread`) instruments the emulated kernels; the program must then be run with
//! that sanitizer's library loaded first.

mod nvcc;

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A new operation is named there.
    println!("cargo::rerun-if-changed=lib.rs");
    println!("cargo::rustc-check-cfg=cfg(gpu)");
    let (cuda, emulate) = (has_feature("CUDA"), has_feature("EMULATE"));
    if !cuda && !emulate {
        return;
    }
    println!("cargo::rustc-cfg=gpu");
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    watch(&here);
    if cuda {
        embed_fatbins(&here, nvcc::sources(&here, has_feature("PROOFS")));
    }
    #[cfg(feature = "emulate")]
    emulator::compile(&here, &nvcc::sources(&here, true));
}

fn has_feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// Has Cargo look at all that the kernels are made of.
fn watch(here: &Path) {
    for file in nvcc::folders(here).iter().flat_map(|folder| nvcc::files(folder)) {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["cu", "cuh", "h", "cpp", "S"].contains(&extension) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
}

/// Writes a Rust file with the fatbins as bytes.
fn embed_fatbins(here: &Path, sources: Vec<PathBuf>) {
    println!("cargo::rerun-if-changed=nvcc.rs");
    println!("cargo::rerun-if-env-changed=AIENG_NVCC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let compiled = nvcc::compile(here, sources, &out, &[]).unwrap_or_else(|why| panic!("the feature `cuda`: {why}"));
    let entries = compiled.iter().map(|c| format!("    ({:?}, include_bytes!({:?})),\n", c.name, c.fatbin));
    let list = format!("&[\n{}]", entries.collect::<String>());
    std::fs::write(out.join("fatbins.rs"), list).expect("OUT_DIR can be written");
}

#[cfg(feature = "emulate")]
mod emulator {
    use super::{Path, PathBuf};

    /// Compiles the emulator and all kernels into one library that is linked whole: kernels register themselves.
    pub fn compile(here: &Path, sources: &[PathBuf]) {
        println!("cargo::rerun-if-env-changed=AIENG_EMULATE_SANITIZE");
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").include(here).warnings(false).debug(true).opt_level(2).pic(true);
        build.flag("-fno-omit-frame-pointer").flag("-Wno-psabi").flag("-Wno-attributes");
        // A .cu is C++ to g++ only if it is told so.
        build.flag("-xc++").file(here.join("emu/launch.cpp")).files(sources);
        build.link_lib_modifier("+whole-archive");
        if let Ok(sanitizer) = std::env::var("AIENG_EMULATE_SANITIZE") {
            build.flag(format!("-fsanitize={sanitizer}"));
            let library = if sanitizer == "address" { "asan" } else { "tsan" };
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        build.compile("aieng_emulated");
    }
}
