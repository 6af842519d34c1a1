//! Runs Cargo and other programs, none of which gets standard input.

use crate::report::Outcome;
use crate::root;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All packages but the one that needs bindgen.
pub const PACKAGES: &[&str] = &["--workspace", "--exclude", "abigen"];

/// Beside packages that build on the kernels: Cargo then chooses the features of all that the kernels need as for [`PACKAGES`]' tests,
/// and takes their kernels, which take minutes to compile. (The command line asks for more than the other packages of two crates
/// that all need.)
pub const AS_IN_ALL_TESTS: &[&str] = &["-p", "aieng-cli", "--features", "aieng-kernels/testing"];

/// What the tests find in their environment.
pub struct Environment {
    /// Where models are, if the tests are to see any.
    pub home: Option<PathBuf>,
    /// The command line's binary.
    pub binary: Option<PathBuf>,
}

impl Environment {
    /// For tests that need no model.
    pub fn without_models() -> Self {
        Environment { home: None, binary: None }
    }

    /// Sets what there is, and hides what the caller's environment may have had.
    pub fn apply(&self, command: &mut Command) {
        for (name, value) in [("AIENG_HOME", &self.home), ("AIENG_BIN", &self.binary)] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
}

/// The Cargo that runs this program, in the repository.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs Cargo to its end.
pub fn run(args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    finish(cargo(args).envs(variables.iter().copied()))
}

/// A component of this Rust toolchain, by its program; a minimal installation lacks it.
pub fn has(program: &str) -> Result<(), Outcome> {
    let version = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Outcome::Skipped(format!("this Rust toolchain has no {program}"))),
    }
}

/// Runs a program to its end.
pub fn finish(command: &mut Command) -> Outcome {
    let status = command.status();
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display();
    match status {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("{name}: {status}: see above")),
        Err(error) => Outcome::Failed(format!("{name}: {error}")),
    }
}
