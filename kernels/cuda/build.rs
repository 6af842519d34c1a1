//! Compiles the kernels: with nvcc to one fatbin for each `.cu` (feature `cuda`), with g++ for the emulator (feature
//! `emulate`).
//!
//! nvcc is the one that `cargo xtask toolchain` put into .toolchain/, or what `AIENG_NVCC` names, or that of the `PATH`.
//! `AIENG_EMULATE_SANITIZE` (`address` or `thread`) instruments the emulated kernels; the program must then be run with
//! that sanitizer's library loaded first.

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
    let kernels = sources(&here);
    if cuda {
        nvcc::compile(&here, &kernels);
    }
    #[cfg(feature = "emulate")]
    emulator::compile(&here, &kernels);
}

fn has_feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// All `kernels/*/*.cu` and those of this folder's own subfolders, each with the headers of its folder watched.
fn sources(here: &Path) -> Vec<PathBuf> {
    let folders = [here.parent().unwrap(), here].into_iter().flat_map(files).filter(|path| path.is_dir());
    let mut sources = Vec::new();
    for file in folders.flat_map(|folder| files(&folder)).chain(files(here)) {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["cu", "cuh", "h", "cpp", "S"].contains(&extension) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        if extension == "cu" {
            sources.push(file);
        }
    }
    sources.sort();
    sources
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|e| e.path()).collect());
    entries.unwrap_or_default()
}

mod nvcc {
    use super::{Path, PathBuf};
    use std::process::Command;

    /// What a fatbin holds: machine code for A100 and for H100, and PTX for what comes after them.
    const TARGETS: [&str; 3] = [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ];

    /// Compiles all sources, and writes a Rust file with them as bytes.
    pub fn compile(here: &Path, sources: &[PathBuf]) {
        println!("cargo::rerun-if-env-changed=AIENG_NVCC");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
        let nvcc = find(here);
        let mut list = String::from("&[\n");
        for source in sources {
            let name = source.file_stem().unwrap().to_str().unwrap();
            let fatbin = out.join(format!("{name}.fatbin"));
            let mut command = Command::new(&nvcc);
            command.args(["-std=c++17", "-O3", "--fatbin", "-lineinfo", "--compress-mode=size"]).args(TARGETS);
            command.arg("-I").arg(here).arg("-o").arg(&fatbin).arg(source);
            match command.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => panic!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)),
                Err(error) => panic!(
                    "the feature `cuda` needs nvcc: {}: {error}. Run `cargo xtask toolchain`, or set AIENG_NVCC",
                    nvcc.display()
                ),
            }
            list += &format!("    ({name:?}, include_bytes!({fatbin:?})),\n");
        }
        list.push(']');
        std::fs::write(out.join("fatbins.rs"), list).expect("OUT_DIR can be written");
    }

    fn find(here: &Path) -> PathBuf {
        let toolchain = here.ancestors().nth(2).unwrap().join(".toolchain/nvcc-13.0.88/nvidia/cu13/bin/nvcc");
        match std::env::var_os("AIENG_NVCC") {
            Some(path) => path.into(),
            None if toolchain.is_file() => toolchain,
            None => "nvcc".into(),
        }
    }
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
