//! Fetches the models that tests use, with the command line that is under test.

use crate::cargo::{Environment, finish};
use crate::report::{Outcome, Report};
use crate::root;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const ALIASES: [&str; 2] = ["smollm2-135m", "gemma3-270m"];

/// Pulls the models into `$AIENG_HOME`, or into .toolchain/ where that is not set. One that cannot be had is skipped, and
/// the tests that need it will skip themselves.
pub fn fetch(report: &mut Report) -> Environment {
    let set = std::env::var_os("AIENG_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    // A relative path would lead each test, in its package's folder, somewhere else.
    let home = set.and_then(|home| std::path::absolute(home).ok());
    let environment =
        Environment { home: Some(home.unwrap_or_else(|| root().join(".toolchain/aieng-home"))), binary: binary() };
    for alias in ALIASES {
        report.step(&format!("model {alias}"), || {
            let Some(binary) = &environment.binary else {
                return Outcome::Skipped("no release build of the command line to pull with".into());
            };
            let mut command = Command::new(binary);
            environment.apply(&mut command);
            match finish(command.args(["pull", alias]).stdin(Stdio::null())) {
                Outcome::Failed(why) => Outcome::Skipped(format!("could not be pulled: {why}")),
                other => other,
            }
        });
    }
    environment
}

/// The release build of the command line: this program is target/debug/xtask, and that is target/release/aieng.
fn binary() -> Option<PathBuf> {
    let xtask = std::env::current_exe().ok()?;
    Some(xtask.ancestors().nth(2)?.join("release/aieng")).filter(|binary| binary.is_file())
}
