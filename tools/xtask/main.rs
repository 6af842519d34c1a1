//! What developers and continuous integration run.
//!
//! `check` looks at the sources and runs the tests that need no model, in the dev profile, whose debug assertions and
//! overflow checks the release profile lacks. `test` looks at the sources too, fetches what the tests need and runs all
//! of them on what users get, the release build, and the examples on an installation of it; its last line reads "N passed,
//! N failed, N skipped". `install` lays that installation where the user wants it. `abi` writes ffi/abi.rs from
//! include/aieng.h.
//!
//! Nothing here needs more than Cargo, a C compiler and Python's pip; where one of them or the network is missing, the
//! steps that need it are skipped, and the report says so.

mod abi;
mod budget;
mod cargo;
mod emulated;
mod examples;
mod fetch;
mod gpu_check;
mod hammer;
mod install;
mod libtest;
mod models;
mod report;
mod toolchain;

use report::Report;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check        formatting, lints, documentation, the C ABI, and the tests that need no model
  test         the same, and all tests on the release build, models fetched first
  test --emulated
               only what runs on emulated GPUs
  soak         ten minutes of random load on the engine (AIENG_SOAK_SECONDS sets another time)
  hammer       sixteen threads call anything for a minute, under AddressSanitizer
  hammer --thread
               the same under ThreadSanitizer
  install --prefix FOLDER
               build the library in release mode and lay it there: lib/, include/, pkg-config, CMake
  examples     install into target/tmp, and build and run the examples in C, C++, Go and Python from there
  abi          write ffi/abi.rs from include/aieng.h
  abi --check  only compare
  budget       compare what GPU kernels take of a multiprocessor with kernels/budget.toml
  budget --write
               write that file
  gpu-check    build what a machine with a GPU is to run, and run it if this is one
  gpu-check --pack FOLDER
               only build it; FOLDER/run.sh needs neither Cargo nor nvcc nor a network
  gpu-check --emulated
               the same with the emulator, on tiny shapes
  toolchain    fetch nvcc into .toolchain/, for builds with the feature `cuda`
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    let report = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(),
        ["test"] => test(),
        ["test", "--emulated"] => emulated(),
        ["soak"] => soak(),
        ["hammer"] => one("hammer", hammer::run(hammer::ADDRESS)),
        ["hammer", "--thread"] => one("hammer --thread", hammer::run(hammer::THREAD)),
        ["install", "--prefix", prefix] => one("install", install::install(&absolute(prefix))),
        ["examples"] => examples(),
        ["abi"] => one("abi", abi::write()),
        ["abi", "--check"] => one("abi", abi::compare()),
        ["budget"] => one("budget", budget::compare()),
        ["budget", "--write"] => one("budget", budget::write()),
        ["gpu-check"] => gpu_check(|report| gpu_check::run(report, gpu_check::Device::Cuda)),
        ["gpu-check", "--emulated"] => gpu_check(|report| gpu_check::run(report, gpu_check::Device::Emulated)),
        ["gpu-check", "--pack", folder] => gpu_check(|report| {
            gpu_check::pack(report, gpu_check::Device::Cuda, &absolute(folder));
        }),
        ["toolchain"] => one("toolchain", toolchain::fetch()),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    report.print(started.elapsed());
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A path of the caller's, who may be in another folder than the repository.
fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn one(name: &str, outcome: report::Outcome) -> Report {
    let mut report = Report::default();
    report.add(name, outcome);
    report
}

/// What concerns the sources alone.
fn look_at_sources(report: &mut Report) {
    report.step("formatting", || match cargo::has("rustfmt") {
        Ok(()) => cargo::run(&["fmt", "--check"], &[]),
        Err(skipped) => skipped,
    });
    report.step("lints", || match cargo::has("clippy-driver") {
        Ok(()) => cargo::run(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[]),
        Err(skipped) => skipped,
    });
    report.step("documentation", || {
        let args = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        // Private items are documented, too, so that links to them lead somewhere.
        cargo::run(&args, &[("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links")])
    });
    report.step("the comparison with other engines, without them", || match cargo::has("python3") {
        Ok(()) => cargo::finish(
            Command::new("python3").args(["-B", "-m", "unittest", "discover", "benches/peers"]).current_dir(root()),
        ),
        Err(_) => report::Outcome::Skipped("there is no python3".into()),
    });
    report.step("ffi/abi.rs is what include/aieng.h says", abi::compare);
}

/// What only a build with the feature has; `flags` choose the profile.
fn tracing(report: &mut Report, flags: &[&str]) {
    report.step("the feature tracing", || {
        let what = ["-p", "aieng-runtime", "--features", "aieng-runtime/tracing", "--lib", "engine::trace"];
        cargo::run(&[&["test", "--quiet"], flags, cargo::AS_IN_ALL_TESTS, &what].concat(), &[])
    });
}

fn check() -> Report {
    let mut report = Report::default();
    look_at_sources(&mut report);
    tracing(&mut report, &[]);
    report.section("tests, dev build, no models");
    libtest::run(&mut report, &[], &cargo::Environment::without_models());
    report
}

fn soak() -> Report {
    let mut report = Report::default();
    let environment = models::fetch(&mut report);
    report.step("soak", || {
        let args = ["test", "--release", "-p", "aieng-runtime", "--test", "soak", "--", "--ignored", "--nocapture"];
        let mut command = cargo::cargo(&args);
        environment.apply(&mut command);
        cargo::finish(&mut command)
    });
    report
}

fn gpu_check(body: impl FnOnce(&mut Report)) -> Report {
    let mut report = Report::default();
    body(&mut report);
    report
}

fn emulated() -> Report {
    let mut report = Report::default();
    let environment = models::fetch(&mut report);
    emulated::run(&mut report, &environment);
    report
}

fn examples() -> Report {
    let mut report = Report::default();
    let environment = models::fetch(&mut report);
    examples::run(&mut report, &environment);
    report
}

fn test() -> Report {
    let mut report = Report::default();
    look_at_sources(&mut report);
    report.step("GPU kernels are what kernels/budget.toml says", budget::compare);
    report.step("the feature cuda", budget::check_feature);
    report.step("release build", || libtest::build(&["--release"]));
    tracing(&mut report, &["--release"]);
    let environment = models::fetch(&mut report);
    report.section("tests, release build");
    libtest::run(&mut report, &["--release"], &environment);
    emulated::run(&mut report, &environment);
    examples::run(&mut report, &environment);
    report
}
