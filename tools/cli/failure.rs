//! Why a command ends early, and the exit code that says so: 1 failure, 2 usage, 130 interrupted.

use aieng_runtime::Error;
use std::io;
use std::process::ExitCode;

/// A command's early end.
#[derive(Debug)]
pub enum Failure {
    /// A parameter or a prompt is outside its range: exit code 2.
    Usage(String),
    /// Anything else that went wrong: exit code 1.
    Failed(String),
    /// Ctrl-C: exit code 130, as a shell reports it. What was done so far is on standard output.
    Interrupted,
    /// Whoever read standard output has had enough, as `head` does: success, and nothing to say.
    ReaderGone,
}

/// Result with a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::ReaderGone => 0,
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Interrupted => crate::interrupt::EXIT_CODE,
        })
    }

    /// What to tell the user, if anything.
    pub fn message(&self) -> Option<&str> {
        match self {
            Failure::Usage(what) | Failure::Failed(what) => Some(what),
            Failure::Interrupted | Failure::ReaderGone => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidArgument(what) => Failure::Usage(what),
            other => Failure::Failed(other.to_string()),
        }
    }
}

/// For errors in writing standard output; errors in files are [`Error::Io`], which names the file.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Failed(format!("standard output: {error}")),
        }
    }
}
