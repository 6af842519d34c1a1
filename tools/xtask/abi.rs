//! ffi/abi.rs, generated from include/aieng.h by tools/abigen.

use crate::report::Outcome;
use crate::{cargo, fetch, root};
use std::process::{Command, Stdio};

/// bindgen's parser, and part of what its output depends on: changed together with bindgen only.
const LIBCLANG: &str = "18.1.1";

const HEADER: &str = "include/aieng.h";
const GENERATED: &str = "ffi/abi.rs";

/// Writes the file.
pub fn write() -> Outcome {
    match generate() {
        Ok(text) => match std::fs::write(root().join(GENERATED), text) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{GENERATED}: {error}")),
        },
        Err(outcome) => outcome,
    }
}

/// Compares the file with what it should be.
pub fn compare() -> Outcome {
    let generated = match generate() {
        Ok(text) => text,
        Err(outcome) => return outcome,
    };
    let committed = match std::fs::read_to_string(root().join(GENERATED)) {
        Ok(text) => text,
        Err(error) => return Outcome::Failed(format!("{GENERATED}: {error}")),
    };
    if committed == generated {
        return Outcome::Passed;
    }
    let same = committed.lines().zip(generated.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(end)").to_owned();
    Outcome::Failed(format!(
        "{GENERATED} line {} is `{}`, but the header makes it `{}`: run cargo xtask abi",
        same + 1,
        line(&committed),
        line(&generated)
    ))
}

/// What the file should hold; skipped where libclang or rustfmt cannot be had.
fn generate() -> Result<String, Outcome> {
    cargo::has("rustfmt")?;
    let libclang = fetch::package("libclang", LIBCLANG).map_err(Outcome::Skipped)?;
    let mut command = cargo::cargo(&["run", "--quiet", "--package", "abigen", "--", HEADER]);
    command.env("LIBCLANG_PATH", libclang.join("clang/native"));
    // The wheel has the library alone, without the compiler's own headers (stddef.h).
    command.env("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{}", compiler_headers()?));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| Outcome::Failed(error.to_string()))?;
    if !output.status.success() {
        return Err(Outcome::Failed(format!("abigen: {}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(|error| Outcome::Failed(format!("abigen: {error}")))
}

/// Where gcc keeps its own headers.
fn compiler_headers() -> Result<String, Outcome> {
    let output = Command::new("gcc").arg("-print-file-name=include").stdin(Stdio::null()).output();
    let folder = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    folder.map(|folder| folder.trim().to_owned()).ok_or_else(|| Outcome::Skipped("there is no gcc".into()))
}
