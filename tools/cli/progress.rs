//! Progress bars: on standard error, only if that is a terminal, and only for work that takes long enough to notice.
//! In a pipe nothing is written, so that logs stay clean.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Work that ends sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// `Progress::fraction` counts in thousandths.
const WHOLE: u64 = 1000;

/// A bar that is removed when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Counts bytes up to `total`, or without an end if it is not known.
    pub fn bytes(what: &str, total: Option<u64>) -> Progress {
        let template = match total {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg} {bytes} {bytes_per_sec}",
        };
        Progress::new(what, total, template)
    }

    /// Shows the share of the work that is done.
    pub fn fraction(what: &str) -> Progress {
        Progress::new(what, Some(WHOLE), "{msg} {wide_bar} {percent}% {eta}")
    }

    fn new(what: &str, total: Option<u64>, template: &str) -> Progress {
        let visible = std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style).with_message(what.to_owned());
        Progress { bar, started: Instant::now() }
    }

    /// `done` bytes so far.
    pub fn set(&self, done: u64) {
        if self.started.elapsed() >= PATIENCE {
            self.bar.set_position(done);
        }
    }

    /// The share done so far, 0 to 1.
    pub fn set_fraction(&self, done: f32) {
        self.set((f64::from(done.clamp(0.0, 1.0)) * WHOLE as f64) as u64);
    }

    /// Replaces the words in front of the bar.
    pub fn message(&self, what: String) {
        self.bar.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
