//! loom's versions of what `kernels/cpu/pool/sync.rs` has.

pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
pub use loom::sync::{Mutex, MutexGuard};
pub use loom::thread::{self, Thread};

/// A look, so that threads park often.
pub const SPINS: u32 = 1;

/// Nothing: behind loom's own a thread no longer sees what others have overwritten, and fences could be left out unnoticed.
pub fn spin_loop() {}
