//! tests/c/hammer.c under AddressSanitizer: a library built for it, a minute of it. (Everyday tests run it for seconds, without.)

use crate::cargo::{cargo, finish};
use crate::report::Outcome;
use crate::root;
use std::process::{Command, Stdio};

const SECONDS: &str = "60";
/// Sanitizers need the target named, for build scripts to be built without them.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds and runs.
pub fn run() -> Outcome {
    let folder = root().join("target/address");
    let mut build = cargo(&["build", "--release", "--package", "aieng", "--target", TARGET, "--target-dir"]);
    // The option is an unstable one; the compiler is the stable one all the same.
    build.arg(&folder).env("RUSTC_BOOTSTRAP", "1");
    build.env("RUSTFLAGS", "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer");
    match finish(&mut build) {
        Outcome::Passed => {}
        other => return other,
    }
    let built = folder.join(TARGET).join("release");
    let link = built.join("libaieng.so.1");
    let _ = std::fs::remove_file(&link);
    if let Err(error) = std::os::unix::fs::symlink("libaieng.so", &link) {
        return Outcome::Failed(format!("{}: {error}", link.display()));
    }
    let program = folder.join("hammer");
    let mut compile = Command::new("gcc");
    compile.args(["-std=c99", "-O1", "-g", "-fsanitize=address", "-pthread", "-I"]).arg(root().join("include"));
    compile.arg(root().join("tests/c/hammer.c")).arg("-L").arg(&built).arg("-laieng");
    compile.arg(format!("-Wl,-rpath,{}", built.display())).arg("-o").arg(&program);
    match finish(compile.stdin(Stdio::null())) {
        Outcome::Passed => finish(Command::new(program).arg(SECONDS).stdin(Stdio::null())),
        other => other,
    }
}
