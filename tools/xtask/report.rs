//! What passed, failed and was skipped, and why.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How a step or a test ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Passed,
    /// Not, and this is why.
    Failed(String),
    /// Could not be tried, and this is why.
    Skipped(String),
}

/// The sum of a run.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: Vec<(String, String)>,
    /// What was skipped, by reason: one missing model can take many tests along.
    skipped: BTreeMap<String, Vec<String>>,
    /// How long each step took.
    times: Vec<(String, Duration)>,
}

impl Report {
    /// Counts something that ended.
    pub fn add(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(why) => self.failed.push((name.to_owned(), why)),
            Outcome::Skipped(why) => self.skipped.entry(why).or_default().push(name.to_owned()),
        }
    }

    /// Counts tests that passed.
    pub fn add_passed(&mut self, count: usize) {
        self.passed += count;
    }

    /// Prints what comes next.
    pub fn section(&self, name: &str) {
        println!("\n==> {name}");
    }

    /// Does, counts and times a step.
    pub fn step(&mut self, name: &str, body: impl FnOnce() -> Outcome) {
        self.section(name);
        let started = Instant::now();
        let outcome = body();
        if let Outcome::Failed(why) | Outcome::Skipped(why) = &outcome {
            println!("{why}");
        }
        self.add(name, outcome);
        self.timed(name, started.elapsed());
    }

    /// Notes how long something took.
    pub fn timed(&mut self, name: &str, time: Duration) {
        self.times.push((name.to_owned(), time));
    }

    /// Nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    fn skipped_count(&self) -> usize {
        self.skipped.values().map(Vec::len).sum()
    }

    /// The last line.
    fn closing_line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped_count())
    }

    /// Prints all of it.
    pub fn print(&self, total: Duration) {
        println!();
        for (name, time) in &self.times {
            println!("{:7.1} s  {name}", time.as_secs_f64());
        }
        println!("{:7.1} s  in all", total.as_secs_f64());
        for (why, names) in &self.skipped {
            println!("SKIPPED: {why}: {}", names.join(", "));
        }
        for (name, why) in &self.failed {
            println!("FAILED: {name}: {why}");
        }
        println!("{}", self.closing_line());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_counts_everything_once() {
        let mut report = Report::default();
        report.add("a", Outcome::Passed);
        report.add_passed(3);
        report.add("b", Outcome::Skipped("no model".into()));
        report.add("c", Outcome::Skipped("no model".into()));
        assert!(report.is_clean());
        report.add("d", Outcome::Failed("exit status: 1".into()));
        assert_eq!(report.closing_line(), "4 passed, 1 failed, 2 skipped");
        assert!(!report.is_clean());
    }
}
