//! tests/c/hammer.c under a sanitizer: a library built for it, a minute of it. (Everyday tests run it for seconds, without.)

use crate::cargo::{cargo, finish};
use crate::report::Outcome;
use crate::root;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SECONDS: &str = "60";
/// Sanitizers need the target named, for build scripts to be built without them.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What looks on.
#[derive(Debug, Clone, Copy)]
pub struct Sanitizer {
    /// As compilers call it.
    name: &'static str,
    /// As its runtime is called, which comes with the Rust toolchain.
    runtime: &'static str,
    /// C source that has to be linked with it.
    shim: Option<&'static str>,
    /// Functions that the shim stands in front of: what it calls each, and the beginning and end of the name that it
    /// has in the library.
    wrapped: &'static [(&'static str, &'static str, &'static str)],
}

/// Memory.
pub const ADDRESS: Sanitizer = Sanitizer { name: "address", runtime: "asan", shim: None, wrapped: &[] };

/// Races.
pub const THREAD: Sanitizer = Sanitizer {
    name: "thread",
    runtime: "tsan",
    shim: Some("tests/c/thread_sanitizer.c"),
    wrapped: &[
        ("MUTEX_LOCK_CONTENDED", "5mutex5futex", "5Mutex14lock_contended"),
        ("CONDVAR_WAIT", "7condvar5futex", "7Condvar4wait"),
        ("FETCH_SUB", "__tsan_atomic64_fetch_sub", "__tsan_atomic64_fetch_sub"),
    ],
};

/// Builds and runs.
pub fn run(sanitizer: Sanitizer) -> Outcome {
    run_steps(sanitizer).unwrap_or_else(|outcome| outcome)
}

fn run_steps(sanitizer: Sanitizer) -> Result<Outcome, Outcome> {
    let folder = root().join("target").join(sanitizer.name);
    let mut build = cargo(&["build", "--release", "--package", "aieng", "--target", TARGET, "--target-dir"]);
    // The option is an unstable one; the compiler is the stable one all the same.
    build.arg(&folder).env("RUSTC_BOOTSTRAP", "1");
    let flags = format!("-Zsanitizer={} -Cunsafe-allow-abi-mismatch=sanitizer", sanitizer.name);
    passed(build.env("RUSTFLAGS", flags))?;
    let library = folder.join(TARGET).join("release/libaieng.a");
    let program = link(sanitizer, &folder, &library)?;
    // Each thing that is found is printed, and makes the program fail when it ends.
    Ok(finish(Command::new(program).arg(SECONDS).stdin(Stdio::null())))
}

/// Links the program with the library and the sanitizer's runtime that belongs to its compiler.
fn link(sanitizer: Sanitizer, folder: &Path, library: &Path) -> Result<PathBuf, Outcome> {
    let (object, program) = (folder.join("hammer.o"), folder.join("hammer"));
    let mut hammer = gcc("tests/c/hammer.c", &object);
    passed(hammer.args(["-std=c99", "-pthread"]).arg(format!("-fsanitize={}", sanitizer.name)))?;
    let mut link = Command::new("gcc");
    link.arg(&object);
    if let Some(source) = sanitizer.shim {
        let shim = folder.join("shim.o");
        let mut compile = gcc(source, &shim);
        for (name, symbol) in wrapped(sanitizer, library)? {
            compile.arg(format!("-D{name}={symbol}"));
            link.arg(format!("-Wl,--wrap={symbol}"));
        }
        passed(&mut compile)?;
        link.arg(&shim);
    }
    link.arg(library).arg("-Wl,--whole-archive").arg(runtime(sanitizer)?).arg("-Wl,--no-whole-archive");
    passed(link.args(["-pthread", "-lm", "-ldl", "-lrt", "-lgcc_s", "-o"]).arg(&program))?;
    Ok(program)
}

/// Compiles a source of the repository.
fn gcc(source: &str, object: &Path) -> Command {
    let mut command = Command::new("gcc");
    command.args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("include"));
    command.arg("-c").arg(root().join(source)).arg("-o").arg(object).stdin(Stdio::null());
    command
}

fn passed(command: &mut Command) -> Result<(), Outcome> {
    match finish(command) {
        Outcome::Passed => Ok(()),
        other => Err(other),
    }
}

/// The wrapped functions and what they are called in the library, which has them from the standard library.
fn wrapped(sanitizer: Sanitizer, library: &Path) -> Result<Vec<(&'static str, String)>, Outcome> {
    // What it says of parts that it cannot read does not matter: those that call the functions it can.
    let output = Command::new("nm").arg("--undefined-only").arg(library).stderr(Stdio::null()).output();
    let output = output.map_err(|error| Outcome::Failed(format!("nm: {error}")))?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let symbols = || listing.lines().filter_map(|line| line.split_whitespace().last());
    let found = sanitizer.wrapped.iter().map(|(name, part, end)| {
        let symbol = symbols().find(|symbol| symbol.contains(part) && symbol.ends_with(end));
        let missing = || Outcome::Failed(format!("{}: calls no function like {part}…{end}", library.display()));
        Ok((*name, symbol.ok_or_else(missing)?.to_owned()))
    });
    found.collect()
}

/// The sanitizer's runtime.
fn runtime(sanitizer: Sanitizer) -> Result<PathBuf, Outcome> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let output = output.map_err(|error| Outcome::Failed(format!("rustc: {error}")))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let end = format!("_rt.{}.a", sanitizer.runtime);
    let files = std::fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    files
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(&end))
        .ok_or_else(|| Outcome::Skipped(format!("{}: no librustc-*{end}", folder.display())))
}
