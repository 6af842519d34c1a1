//! Finds the library and the models, runs compilers and programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Longer than any program takes; a hang must not become the whole suite's.
const DEADLINE: Duration = Duration::from_secs(120);

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library that Cargo built for this test, beside it: `cargo test` does not lift it out of target/PROFILE/deps.
pub fn library() -> PathBuf {
    let library = std::env::current_exe().expect("own path").with_file_name("libaieng.so");
    assert!(library.is_file(), "{}: not built", library.display());
    library
}

/// A folder that holds the library under its name for linking and its name for loading, as an installation does.
pub fn link_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch("link");
        for name in ["libaieng.so", "libaieng.so.1"] {
            std::os::unix::fs::symlink(library(), folder.join(name)).expect("a link in a fresh folder");
        }
        folder
    })
}

/// A fresh folder below target.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder below target");
    folder
}

/// The path of a model, or `None` after saying that `test` is skipped.
pub fn model(test: &str, alias: &str) -> Option<PathBuf> {
    let file = format!("{alias}.gguf");
    let home = std::env::var_os("AIENG_HOME").map(PathBuf::from);
    let path = home.map(|home| home.join("models").join(&file)).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("SKIPPED: {test}: no {file} in $AIENG_HOME/models");
    }
    path
}

/// Held by whoever runs a command, and alone by who measures one.
static RUNNING: RwLock<()> = RwLock::new(());

/// Runs a command to its end; it must succeed and be silent on stderr. Gives what it printed.
pub fn succeed(command: &mut Command) -> String {
    let _running = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
    run(command)
}

/// The same while no other test runs one.
pub fn succeed_alone(command: &mut Command) -> String {
    let _running = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
    run(command)
}

fn run(command: &mut Command) -> String {
    let folder = scratch(&format!("run-{:?}", std::thread::current().id()));
    let streams = [folder.join("stdout"), folder.join("stderr")];
    // Into files: a full pipe that nobody reads would be a hang.
    let [stdout, stderr] = streams.each_ref().map(|path| std::fs::File::create(path).expect("a file below target"));
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("program starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("own child") {
            Some(status) => break Some(status),
            None if started.elapsed() > DEADLINE => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let status = status.map_or_else(
        || {
            child.kill().expect("own child");
            format!("still running after {DEADLINE:?}")
        },
        |status| status.to_string(),
    );
    let [stdout, stderr] =
        streams.map(|path| String::from_utf8_lossy(&std::fs::read(path).expect("own file")).into_owned());
    assert!(status == "exit status: 0" && stderr.is_empty(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout
}
