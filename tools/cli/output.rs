//! What commands write: results to standard output, notes to standard error. Neither panics when it cannot.

use crate::failure::{Failure, Result};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// One JSON value and a line end on standard output.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}

/// As [`json`], laid out over lines.
pub fn json_pretty(value: &impl Serialize) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}

/// Text as it is on standard output, at once.
pub fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Text in a file of its own.
pub fn file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}

/// Something the user should know, on standard error. If that is closed or full, nobody can be told.
pub fn note(what: &str) {
    let _ = writeln!(io::stderr(), "aieng: {what}");
}
