//! What becomes of the library in a child of fork(2): the memory is there, the threads are not.
//!
//! Around each fork the tables of handles are locked, so that a child finds them whole and unlocked. Engines remember which
//! process made them; in a child, calls on those of its parent are refused, and their memory is left alone for good.

use crate::handle::{Guard, Table};
use crate::{engine, event};
use aieng_runtime::{Error, Result};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Forks between the first process that used the library and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The locks, between the handler before the fork and the one after it, which the same thread runs.
    static HELD: RefCell<Option<(Guard<engine::Entry>, Guard<event::Batch>)>> = const { RefCell::new(None) };
}

/// A process, as far as forks tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u64);

/// The process that runs this.
pub(crate) fn process() -> Process {
    Process(FORKS.load(Ordering::Relaxed))
}

/// Prepares for forks; to be called before the first engine is made.
pub(crate) fn watch() -> Result<()> {
    static WATCHING: AtomicBool = AtomicBool::new(false);
    if WATCHING.load(Ordering::Acquire) {
        return Ok(());
    }
    // Two threads may both come here, and the handlers be there twice: they know what has been done already.
    // SAFETY: three functions that stay loaded (build.rs links with nodelete).
    if unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after_in_child)) } != 0 {
        return Err(Error::OutOfMemory("no memory to watch for forks".into()));
    }
    WATCHING.store(true, Ordering::Release);
    Ok(())
}

// A thread that is ending has no HELD any more, and cannot be in a call of ours: its fork goes unlocked, and finds the
// tables locked in the child only if another thread was inside one of its few instructions.

unsafe extern "C" fn before() {
    let _ = HELD.try_with(|held| {
        let mut held = held.borrow_mut();
        if held.is_none() {
            *held = Some((Table::lock_for_fork(&engine::ENGINES), Table::lock_for_fork(&event::STORAGE)));
        }
    });
}

unsafe extern "C" fn after() {
    let _ = HELD.try_with(|held| held.borrow_mut().take());
}

unsafe extern "C" fn after_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    let _ = HELD.try_with(|held| held.borrow_mut().take());
}
