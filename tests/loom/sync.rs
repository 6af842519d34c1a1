//! loom's versions of what `runtime/queue/sync.rs` has.

pub use loom::cell::UnsafeCell;
pub use loom::hint::spin_loop;
pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
pub use std::sync::OnceLock;

use loom::sync::{Condvar, Mutex};
use std::io;
use std::time::Duration;

/// A futex made of a lock, which adds no ordering that a futex lacks: the kernel, too, compares and sleeps at once.
#[derive(Debug)]
pub struct Futex(Mutex<u32>, Condvar);

impl Default for Futex {
    fn default() -> Futex {
        Futex(Mutex::new(0), Condvar::new())
    }
}

impl Futex {
    pub fn count(&self) -> u32 {
        *self.0.lock().unwrap()
    }

    /// Without timeouts: a lost wake-up is then a deadlock, which loom reports.
    pub fn wait(&self, seen: u32, _: Option<Duration>) {
        let mut count = self.0.lock().unwrap();
        while *count == seen {
            count = self.1.wait(count).unwrap();
        }
    }

    pub fn wake_all(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }
}

/// A pretended eventfd. The kernel's lock orders signals and clears, as exchanges do.
#[derive(Debug)]
pub struct Descriptor(AtomicBool);

impl Descriptor {
    pub fn new() -> io::Result<Descriptor> {
        Ok(Descriptor(AtomicBool::new(false)))
    }

    pub fn signal(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    pub fn clear(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    pub fn is_readable(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
