//! The GPU's kernels without a GPU: compiled by g++ and run by the emulator (kernels/cuda/emu), plainly and under two sanitizers;
//! then whole models on them, through the same engine and command line as on a device.

use crate::cargo::{self, Environment};
use crate::libtest;
use crate::report::{Outcome, Report};
use std::process::{Command, Stdio};

/// Runs all of it.
pub fn run(report: &mut Report, environment: &Environment) {
    if !has_compiler() {
        return report.add("emulated kernels", Outcome::Skipped("there is no g++".into()));
    }
    report.section("GPU kernels, emulated");
    libtest::run_command(report, "emulated kernels", kernels());
    for sanitizer in ["address", "thread"] {
        report.section(&format!("GPU kernels, emulated, {sanitizer} sanitizer"));
        match sanitized(sanitizer) {
            Ok(command) => libtest::run_command(report, &format!("{sanitizer} sanitizer"), command),
            Err(why) => report.add(&format!("emulated kernels, {sanitizer} sanitizer"), Outcome::Skipped(why)),
        }
    }
    report.section("models on emulated GPUs");
    // The command line is the tests' own binary, which has the emulator.
    let environment = Environment { home: environment.home.clone(), binary: None };
    let packages = ["-p", "aieng-runtime", "-p", "aieng", "--lib", "--test", "abi", "--test", "cli"];
    let mut models = emulating(&[&packages[..], &["--no-fail-fast", "--", "cuda"]].concat());
    environment.apply(&mut models);
    libtest::run_command(report, "models on emulated GPUs", models);
}

fn kernels() -> Command {
    emulating(&["-p", "aieng-cuda", "--lib", "--"])
}

/// `cargo test` with the emulator.
fn emulating(args: &[&str]) -> Command {
    cargo::cargo(&[&["test", "--release", "--features", "emulate"], cargo::AS_IN_ALL_TESTS, args].concat())
}

/// The same, instrumented. Only the kernels are; so the sanitizer's library must come before all others by itself.
fn sanitized(sanitizer: &str) -> Result<Command, String> {
    let (library, options) = match sanitizer {
        "address" => ("libasan.so", ("ASAN_OPTIONS", "detect_leaks=0")),
        _ => ("libtsan.so", ("TSAN_OPTIONS", "report_signal_unsafe=0")),
    };
    let output = Command::new("g++").arg(format!("-print-file-name={library}")).stdin(Stdio::null()).output();
    let path = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if !path.starts_with('/') {
        return Err(format!("this g++ has no {library}"));
    }
    let mut command = kernels();
    command.env("AIENG_EMULATE_SANITIZE", sanitizer).env(options.0, options.1);
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", format!("env LD_PRELOAD={path}"));
    Ok(command)
}

fn has_compiler() -> bool {
    Command::new("g++").arg("--version").stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}
