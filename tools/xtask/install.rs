//! Lays the library, its headers and what finds them (pkg-config, CMake) into a prefix, which may be moved as a whole.

use crate::report::Outcome;
use crate::{cargo, root};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a program that links libaieng.a needs besides: `rustc --print native-static-libs`.
const STATIC_LIBS: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

/// Builds in release mode and installs. The command line is not built, only there so that features are those of `cargo build
/// --release`, whose kernels then serve here.
pub fn install(prefix: &Path) -> Outcome {
    match cargo::run(&["build", "--release", "--package", "aieng", "--package", "aieng-cli", "--lib"], &[]) {
        Outcome::Passed => {}
        other => return other,
    }
    match lay(&root().join("target/release"), prefix) {
        Ok(()) => {
            println!("installed in {}", prefix.display());
            Outcome::Passed
        }
        Err(error) => Outcome::Failed(format!("{}: {error}", prefix.display())),
    }
}

fn lay(built: &Path, prefix: &Path) -> io::Result<()> {
    let (lib, include) = (prefix.join("lib"), prefix.join("include"));
    for folder in [&lib.join("pkgconfig"), &lib.join("cmake/aieng"), &include] {
        fs::create_dir_all(folder)?;
    }
    place(&built.join("libaieng.so"), &lib.join("libaieng.so.1"))?;
    place(&built.join("libaieng.a"), &lib.join("libaieng.a"))?;
    strip("--strip-unneeded", &lib.join("libaieng.so.1"));
    strip("--strip-debug", &lib.join("libaieng.a"));
    let link = lib.join("libaieng.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("libaieng.so.1", &link)?;
    for header in ["aieng.h", "aieng.hpp"] {
        place(&root().join("include").join(header), &include.join(header))?;
    }
    fs::write(lib.join("pkgconfig/aieng.pc"), pkg_config())?;
    fs::write(lib.join("cmake/aieng/aieng-config.cmake"), CMAKE.replace("@STATIC_LIBS@", STATIC_LIBS))?;
    let version = CMAKE_VERSION.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    fs::write(lib.join("cmake/aieng/aieng-config-version.cmake"), version)
}

/// Copies under another name first: a program that has the old library mapped keeps it.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    let unfinished: PathBuf = to.with_extension("unfinished");
    fs::copy(from, &unfinished)?;
    fs::rename(&unfinished, to)
}

/// Takes debug information out. Without binutils it stays in, which does no harm.
fn strip(what: &str, file: &Path) {
    let _ = Command::new("strip").arg(what).arg(file).stdin(Stdio::null()).status();
}

fn pkg_config() -> String {
    format!(
        "prefix=${{pcfiledir}}/../..\n\
         libdir=${{prefix}}/lib\n\
         includedir=${{prefix}}/include\n\n\
         Name: aieng\n\
         Description: LLM inference runtime that is linked, not run\n\
         Version: {}\n\
         Libs: -L${{libdir}} -laieng\n\
         Libs.private: {STATIC_LIBS}\n\
         Cflags: -I${{includedir}}\n",
        env!("CARGO_PKG_VERSION")
    )
}

const CMAKE: &str = r#"# aieng::aieng is the shared library, aieng::static the static one.
get_filename_component(_aieng_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET aieng::aieng)
  add_library(aieng::aieng SHARED IMPORTED)
  set_target_properties(aieng::aieng PROPERTIES
    IMPORTED_LOCATION "${_aieng_prefix}/lib/libaieng.so.1"
    IMPORTED_SONAME "libaieng.so.1"
    INTERFACE_INCLUDE_DIRECTORIES "${_aieng_prefix}/include")
  add_library(aieng::static STATIC IMPORTED)
  set_target_properties(aieng::static PROPERTIES
    IMPORTED_LOCATION "${_aieng_prefix}/lib/libaieng.a"
    INTERFACE_LINK_LIBRARIES "@STATIC_LIBS@"
    INTERFACE_INCLUDE_DIRECTORIES "${_aieng_prefix}/include")
endif()
unset(_aieng_prefix)
"#;

const CMAKE_VERSION: &str = r#"set(PACKAGE_VERSION "@VERSION@")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"#;
