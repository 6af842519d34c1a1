//! Fetches tools from PyPI into .toolchain/, through pip, so that its configured index is honoured.

use crate::root;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder with this package in it, or why there is none. Fetched once for each version.
pub fn package(name: &str, version: &str) -> Result<PathBuf, String> {
    packages(name, version, &[&format!("{name}=={version}")])
}

/// As [`package`], of several packages in one folder.
pub fn packages(name: &str, version: &str, requirements: &[&str]) -> Result<PathBuf, String> {
    let folder = root().join(".toolchain").join(format!("{name}-{version}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    // Into a folder of another name first: one that an interrupted run left behind would look like a whole one.
    let unfinished = folder.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--no-deps", "--only-binary=:all:", "--target"])
        .arg(&unfinished)
        .args(requirements)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{name} {version}: python3: {error}"))?;
    if !status.success() {
        return Err(format!("{name} {version}: pip could not fetch it ({status})"));
    }
    std::fs::rename(&unfinished, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
