//! Ctrl-C: while an answer is generated it asks for the answer's end, at any other time and the second time it ends
//! the process.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

static WATCHED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Exit code of a process that SIGINT ended, as a shell reports it.
pub const EXIT_CODE: u8 = 130;

/// Takes over Ctrl-C. If the system refuses, Ctrl-C keeps ending the process, which is what it would do anyway.
pub fn install() {
    let _ = ctrlc::set_handler(|| {
        if !WATCHED.load(SeqCst) || REQUESTED.swap(true, SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    });
}

/// While it lives, Ctrl-C is a request. One at a time.
#[derive(Debug)]
pub struct Watch(());

/// Begins to treat Ctrl-C as a request.
pub fn watch() -> Watch {
    REQUESTED.store(false, SeqCst);
    WATCHED.store(true, SeqCst);
    Watch(())
}

impl Watch {
    /// Whether Ctrl-C was pressed since [`watch`].
    pub fn requested(&self) -> bool {
        REQUESTED.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, SeqCst);
    }
}
