//! What the sharing out of jobs is built from. `tests/loom` compiles it with loom's versions of the same names.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard};
pub(super) use std::thread::{self, Thread};

/// Pauses before a waiting thread parks: some 80 µs, more than what lies between two kernels of a step.
pub(super) const SPINS: u32 = 2048;
