//! Text from an argument, standard input or a file: bounded in size and checked to be UTF-8.

use crate::failure::{Failure, Result};
use aieng_runtime::Error;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

const STDIN: &str = "standard input";

/// More text than any context holds; an endless stream must not eat the memory.
const MAX_BYTES: u64 = 64 << 20;

/// `argument`, or all of standard input if it is absent or "-".
pub fn argument_or_stdin(argument: Option<String>) -> Result<String> {
    match argument {
        Some(text) if text != "-" => Ok(text),
        _ => stdin(),
    }
}

/// The prompt of a command: as [`argument_or_stdin`], but not empty, and without the line end that `echo` and editors
/// put after a text that comes through a pipe.
pub fn prompt(argument: Option<String>) -> Result<String> {
    let piped = argument.as_deref().is_none_or(|text| text == "-");
    let mut text = argument_or_stdin(argument)?;
    if piped && text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() { Err(Failure::Usage("the prompt is empty".into())) } else { Ok(text) }
}

/// All of a file.
pub fn file(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    read(file, path)
}

fn stdin() -> Result<String> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        crate::output::note("reading text from the terminal; Ctrl-D on an empty line ends it");
    }
    read(stdin, Path::new(STDIN))
}

fn read(source: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(name, "read", e))?;
    text(bytes, name, 0)
}

/// `bytes`, which began `offset` bytes after the start of `name`, as text.
fn text(bytes: Vec<u8>, name: &Path, offset: u64) -> Result<String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::Failed(format!("{}: more than {} MiB of text", name.display(), MAX_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let (byte, at) = (e.as_bytes()[valid], offset + valid as u64);
        Failure::Failed(format!("{}: not UTF-8: byte 0x{byte:02x} at offset {at}", name.display()))
    })
}

/// Lines that a user types: edited and with a history on a terminal, as they are through a pipe.
#[derive(Debug)]
pub enum Lines {
    /// A terminal at both ends. The text is what stands in front of each line.
    Editor(Box<DefaultEditor>, &'static str),
    /// Anything else; the number is the offset of the next line.
    Pipe(u64),
}

impl Lines {
    /// Lines of standard input, each after `prompt` if they are typed on a terminal.
    pub fn new(prompt: &'static str) -> Result<Lines> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Lines::Pipe(0));
        }
        let editor = DefaultEditor::new().map_err(|e| Failure::Failed(format!("{STDIN}: {e}")))?;
        Ok(Lines::Editor(Box::new(editor), prompt))
    }

    /// The next line, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<String>> {
        match self {
            Lines::Editor(editor, prompt) => match editor.readline(*prompt) {
                Ok(line) => {
                    // Without its history a line is still a line.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof) => Ok(None),
                Err(ReadlineError::Interrupted) => Err(Failure::Interrupted),
                Err(e) => Err(Failure::Failed(format!("{STDIN}: {e}"))),
            },
            Lines::Pipe(offset) => {
                let (name, mut bytes) = (Path::new(STDIN), Vec::new());
                let mut limited = io::stdin().lock().take(MAX_BYTES + 1);
                let read = limited.read_until(b'\n', &mut bytes).map_err(|e| Error::io(name, "read", e))? as u64;
                let line = text(bytes, name, *offset)?;
                *offset += read;
                Ok((read > 0).then_some(line))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_byte_that_is_not_utf8() {
        let error = read(&b"ab\xffc"[..], Path::new("x")).expect_err("0xff is never UTF-8");
        assert_eq!(error.message(), Some("x: not UTF-8: byte 0xff at offset 2"));
        let cut_short = read(&b"ab\xe2\x82"[..], Path::new("x")).expect_err("half a character");
        assert_eq!(cut_short.message(), Some("x: not UTF-8: byte 0xe2 at offset 2"));
    }

    #[test]
    fn stops_at_the_limit() {
        let error = read(io::repeat(b'a'), Path::new("x")).expect_err("endless");
        assert_eq!(error.message(), Some("x: more than 64 MiB of text"));
    }
}
