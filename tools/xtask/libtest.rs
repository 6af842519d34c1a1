//! Runs `cargo test` and reads what it prints.
//!
//! How a test says that it cannot run here: it prints a line "SKIPPED: NAME: WHY", where NAME is its own, and returns. It
//! then counts as skipped and not as passed. Another NAME, as in "SKIPPED: avx512: this machine lacks it", is a part that
//! was left out: the test passed, and the part is reported once, however many tests leave it out. Ignored tests are
//! skipped ones, too, with the reason that their attribute gives.

use crate::cargo::{self, Environment};
use crate::report::{Outcome, Report};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Builds the tests of the workspace and what they test. `cargo build` would not do in its place: without the tests'
/// own dependencies, features are unified otherwise, and half of it is built again for the tests.
pub fn build(flags: &[&str]) -> Outcome {
    cargo::run(&[&["test", "--no-run"], flags, cargo::PACKAGES].concat(), &[])
}

/// Runs the tests of the workspace; `flags` choose the profile.
pub fn run(report: &mut Report, flags: &[&str], environment: &Environment) {
    let args = [&["test", "--no-fail-fast"], flags, cargo::PACKAGES, &["--"]].concat();
    let mut command = cargo::cargo(&args);
    environment.apply(&mut command);
    run_command(report, "tests", command);
}

/// Runs a command that is `cargo test … --`, and counts its tests.
pub fn run_command(report: &mut Report, name: &str, mut command: Command) {
    let started = Instant::now();
    // libtest keeps what a passing test printed to itself otherwise.
    command.arg("--show-output");
    let mut output = Output::default();
    match command.stdout(Stdio::piped()).spawn() {
        Ok(mut child) => {
            for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line);
                if output.read(&line) {
                    println!("{line}");
                }
            }
            let well = child.wait().is_ok_and(|status| status.success());
            output.finish(report, well);
        }
        Err(error) => report.add("cargo test", Outcome::Failed(error.to_string())),
    }
    report.timed(name, started.elapsed());
}

/// Which part of a test binary's output a line is in.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Part {
    /// Between binaries.
    #[default]
    Outside,
    /// Results as they come.
    Results,
    /// What passing tests printed, and their names once more.
    Successes,
    /// What failing tests printed, and their names once more.
    Failures,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Output {
    part: Part,
    /// The test whose printed lines are being read.
    test: String,
    /// By the summary lines' count, those that skipped themselves included.
    passed: usize,
    skipped_themselves: usize,
    failed: Vec<String>,
    /// Failed by the summary lines' count.
    failed_count: usize,
    skipped: Vec<(String, String)>,
    left_out: BTreeSet<(String, String)>,
    /// Binaries that began and did not come to their summary line.
    crashed: usize,
}

impl Output {
    /// Reads a line; true if it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if line.starts_with("running ") && line.trim_end_matches('s').ends_with(" test") {
            self.crashed += usize::from(self.part != Part::Outside);
            self.part = Part::Results;
        } else if let Some(summary) = line.strip_prefix("test result: ") {
            self.read_summary(summary);
            self.part = Part::Outside;
        } else if self.part != Part::Outside && line == "successes:" {
            self.part = Part::Successes;
        } else if self.part != Part::Outside && line == "failures:" {
            self.part = Part::Failures;
        } else if self.part == Part::Successes {
            self.read_success(line);
        } else if self.part == Part::Results {
            self.read_result(line);
        }
        self.part != Part::Successes && !(line.is_empty() && self.part == Part::Outside)
    }

    /// "ok. 3 passed; 0 failed; 1 ignored; …"
    fn read_summary(&mut self, summary: &str) {
        let count = |what: &str| {
            let words: Vec<&str> = summary.split([' ', ';']).collect();
            let number = words.windows(2).find(|pair| pair[1] == what).map(|pair| pair[0].parse());
            number.and_then(Result::ok).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed_count += count("failed");
    }

    /// "test NAME ... ok", "… FAILED" or "… ignored, WHY".
    fn read_result(&mut self, line: &str) {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { return };
        if result.starts_with("FAILED") {
            self.failed.push(name.to_owned());
        } else if let Some(why) = result.strip_prefix("ignored") {
            let why = why.strip_prefix(", ").unwrap_or("ignored");
            self.skipped.push((name.to_owned(), why.to_owned()));
        }
    }

    /// "---- NAME stdout ----", then what the test printed.
    fn read_success(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = name.to_owned();
        } else if let Some((name, why)) = line.strip_prefix("SKIPPED: ").and_then(|rest| rest.split_once(": ")) {
            if self.test.rsplit("::").next() == Some(name) {
                self.skipped_themselves += 1;
                self.skipped.push((name.to_owned(), why.to_owned()));
            } else {
                self.left_out.insert((name.to_owned(), why.to_owned()));
            }
        }
    }

    /// Adds up; `well` is whether Cargo itself ended so.
    fn finish(mut self, report: &mut Report, well: bool) {
        self.crashed += usize::from(self.part != Part::Outside);
        report.add_passed(self.passed.saturating_sub(self.skipped_themselves));
        for (name, why) in self.skipped.into_iter().chain(self.left_out) {
            report.add(&name, Outcome::Skipped(why));
        }
        let (named, counted) = (self.failed.len(), self.failed_count);
        for name in self.failed {
            report.add(&name, Outcome::Failed("see above".into()));
        }
        for _ in named..counted {
            report.add("a test", Outcome::Failed("see above".into()));
        }
        for _ in 0..self.crashed {
            report.add("a test binary", Outcome::Failed("it ended before its last test did: see above".into()));
        }
        if !well && named.max(counted) + self.crashed == 0 {
            report.add("cargo test", Outcome::Failed("it failed before or between the tests: see above".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 5 tests
test gguf::cut_short ... ok
test kernels::on_every_isa ... ok
test model::answers ... ok
test model::perplexity ... ignored, takes minutes
test model::wrong ... FAILED

successes:

---- gguf::cut_short stdout ----
SKIPPED is not the first word here

---- kernels::on_every_isa stdout ----
SKIPPED: avx512: this machine lacks it
SKIPPED: avx512: this machine lacks it

---- model::answers stdout ----
SKIPPED: answers: no model

successes:
    gguf::cut_short
    kernels::on_every_isa
    model::answers

failures:

---- model::wrong stdout ----
SKIPPED: wrong: this does not count, it failed

failures:
    model::wrong

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test second ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn read(text: &str) -> Output {
        let mut output = Output::default();
        text.lines().for_each(|line| {
            output.read(line);
        });
        output
    }

    #[test]
    fn counts_each_test_once() {
        let output = read(OUTPUT);
        assert_eq!((output.passed, output.skipped_themselves), (4, 1));
        assert_eq!((output.failed_count, &output.failed[..]), (1, &["model::wrong".to_owned()][..]));
        let skipped = [("model::perplexity", "takes minutes"), ("answers", "no model")];
        assert_eq!(output.skipped, skipped.map(|(name, why)| (name.to_owned(), why.to_owned())));
        assert_eq!(output.left_out.len(), 1);
        let mut report = Report::default();
        output.finish(&mut report, false);
        assert!(!report.is_clean());
    }

    #[test]
    fn a_crash_is_a_failure() {
        let output = read("running 2 tests\ntest a ... ok\n\nrunning 1 test\ntest b ... ");
        let mut report = Report::default();
        assert_eq!(output.crashed, 1);
        output.finish(&mut report, false);
        assert!(!report.is_clean());
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let mut report = Report::default();
        read("").finish(&mut report, false);
        assert!(!report.is_clean());
    }
}
