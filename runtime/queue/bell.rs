//! How threads wait for each other: they sleep until a condition holds, and whoever makes it hold rings.
//!
//! Ringing costs a fence and two loads while nobody sleeps and no descriptor is armed. No ring is lost: the sleeper first
//! counts itself, then looks at its condition; the ringer first makes the condition hold, then looks for sleepers; with a
//! fence between the two on either side, one of them sees the other.

use super::sync::{AtomicBool, AtomicUsize, Descriptor, Futex, OnceLock, Ordering, fence};
use std::io;
use std::time::{Duration, Instant};

/// Wakes threads that wait, and makes a file descriptor readable for those that poll.
#[derive(Debug, Default)]
pub struct Bell {
    sleepers: AtomicUsize,
    rings: Futex,
    descriptor: OnceLock<Descriptor>,
    /// The descriptor is not readable: the next ring has to make it so.
    armed: AtomicBool,
}

impl Bell {
    /// Wakes the sleepers and the pollers.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.rings.wake_all();
        }
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::SeqCst) {
            self.signal();
        }
    }

    /// Sleeps until `ready` or the timeout; looks at `ready` at least once.
    pub fn wait(&self, timeout: Option<Duration>, mut ready: impl FnMut() -> bool) {
        if ready() || timeout.is_some_and(|t| t.is_zero()) {
            return;
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let rings = self.rings.count();
            fence(Ordering::SeqCst);
            if ready() {
                break;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            self.rings.wait(rings, left);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// A descriptor that is readable whenever something may be there; made at the first call. Poll it for input, then
    /// take things until there are none: that is what makes it unreadable again. Nothing but the bell reads or writes it.
    pub fn descriptor(&self) -> io::Result<&Descriptor> {
        if self.descriptor.get().is_none() {
            // Two threads may both make one; the second is dropped.
            let _ = self.descriptor.set(Descriptor::new()?);
            // What came before the descriptor was there.
            self.signal();
        }
        self.descriptor.get().ok_or_else(|| io::Error::other("the descriptor is gone"))
    }

    /// Called by a consumer that found nothing: makes the descriptor unreadable until the next ring. Then `look` looks
    /// again; if it finds something, more may have come unnoticed, and the descriptor is made readable.
    pub fn nothing_there<T>(&self, look: impl FnOnce() -> Option<T>) -> Option<T> {
        let descriptor = self.descriptor.get()?;
        descriptor.clear();
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let found = look();
        if found.is_some() {
            self.signal();
        }
        found
    }

    fn signal(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            descriptor.signal();
        }
    }
}
