//! What the queue is built from. `tests/loom` compiles the queue with loom's versions of the same names.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::OnceLock;
pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// As [`std::cell::UnsafeCell`], with loom's interface.
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Hands out the pointer; whoever follows it answers for being alone.
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A count of rings that threads can wait for a change of (futex(2)).
#[derive(Debug, Default)]
pub(super) struct Futex(AtomicU32);

impl Futex {
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Sleeps while the count is `seen`, for the time `timeout` at most; may wake for nothing.
    pub(super) fn wait(&self, seen: u32, timeout: Option<Duration>) {
        let time = timeout.map(|t| libc::timespec {
            tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: t.subsec_nanos() as _,
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: both pointers live through the call; whatever it returns, the caller looks at the world again.
        unsafe {
            libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, time);
        }
    }

    /// Counts a ring and wakes all that wait.
    pub(super) fn wake_all(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the address is that of a live futex word.
        unsafe {
            libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX);
        }
    }
}

/// An eventfd(2).
#[derive(Debug)]
pub struct Descriptor(OwnedFd);

impl Descriptor {
    pub(super) fn new() -> io::Result<Descriptor> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else owns.
        Ok(Descriptor(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable.
    pub(super) fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`. It fails only if the counter is full: then it is readable.
        unsafe { libc::write(self.0.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Makes it unreadable.
    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`. It fails if the counter is 0 already.
        unsafe { libc::read(self.0.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether poll(2) calls `fd` readable within `milliseconds`.
#[cfg(test)]
pub(super) fn readable(fd: std::os::fd::RawFd, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&mut poll, 1, milliseconds) == 1 }
}
