//! Runs the binary with a deadline, and finds the models.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const SMOLLM2: &str = "smollm2-135m.gguf";
pub const GEMMA3: &str = "gemma3-270m.gguf";

/// Longer than any test takes; a hang must not become the whole suite's.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output as JSON, of a process that ended well.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts a clean refusal: exit code, and the words that the message must hold.
    pub fn assert_refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// The binary with these arguments, nothing on its standard input.
pub fn aieng<S: AsRef<OsStr>>(args: &[S]) -> Finished {
    aieng_with_input(args, b"")
}

/// The binary with these arguments and bytes on its standard input.
pub fn aieng_with_input<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> Finished {
    let mut child = spawn(args);
    let mut stdin = child.stdin.take().expect("piped");
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    // A process that refuses its arguments does not read: then this fails, and the test looks at the refusal.
    let _ = stdin.write_all(input);
    drop(stdin);
    let status = wait(&mut child);
    let text = |bytes: JoinHandle<Vec<u8>>| String::from_utf8(bytes.join().expect("reader")).expect("UTF-8 out");
    let finished = Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    finished
}

/// The binary, all three streams piped.
pub fn spawn<S: AsRef<OsStr>>(args: &[S]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_aieng"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built")
}

/// Waits until the deadline, then kills.
pub fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("own child") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("own child");
    panic!("still running after {DEADLINE:?}");
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("pipe");
        bytes
    })
}

/// The path of a model, or `None` after saying that `test` is skipped.
pub fn model(test: &str, file: &str) -> Option<String> {
    let home = std::env::var_os("AIENG_HOME").map(PathBuf::from);
    let path = home.map(|home| home.join("models").join(file)).filter(|path| path.is_file());
    if path.is_none() {
        skipped(test, &format!("no {file} in $AIENG_HOME/models"));
    }
    path.map(|path| path.to_str().expect("a test path is UTF-8").to_owned())
}

/// Says that a test was skipped, in the form that `cargo xtask test` collects.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: {why}");
}

/// A fresh folder for one test.
pub fn scratch(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder below target");
    folder
}
