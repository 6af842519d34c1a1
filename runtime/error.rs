//! Operating errors. One variant per `aieng_status` of the C ABI; programmer errors are asserts where they happen.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, in words that name the file, the field and the value.
#[derive(Debug)]
pub enum Error {
    /// A parameter or a request is outside its documented range.
    InvalidArgument(String),
    /// The operating system refused to open, read, map or write a file.
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What was being done, as in "open" or "map".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A model file is damaged or contradicts itself.
    ModelFormat {
        /// The file.
        path: PathBuf,
        /// Field and value, as in "tensor blk.0.attn_q.weight: offset 12 is not a multiple of alignment 32".
        what: String,
    },
    /// The input is well formed, but asks for something aieng does not have.
    Unsupported(String),
    /// A bounded queue is full; try again later.
    Busy(String),
    /// Memory for weights, cache or buffers could not be had.
    OutOfMemory(String),
    /// The engine was shut down, or a caught panic has poisoned it.
    Closed(String),
    /// A bug in aieng, caught before it could harm the host.
    Internal(String),
    /// The caller's own callback ended it.
    Cancelled(String),
}

/// Result with aieng's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::ModelFormat`].
    pub fn format(path: &Path, what: impl Into<String>) -> Self {
        Error::ModelFormat { path: path.to_owned(), what: what.into() }
    }

    /// An [`Error::Io`].
    pub fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), action, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, action, source } => write!(f, "{}: cannot {action}: {source}", path.display()),
            Error::ModelFormat { path, what } => write!(f, "{}: {what}", path.display()),
            Error::InvalidArgument(what)
            | Error::Unsupported(what)
            | Error::Busy(what)
            | Error::OutOfMemory(what)
            | Error::Closed(what)
            | Error::Cancelled(what) => f.write_str(what),
            Error::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
