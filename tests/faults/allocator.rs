//! An allocator that refuses what it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests below this are never refused: those that can be this large have to be fallible.
const LEAST: usize = 64 << 10;

/// Large requests until the one that is refused; 0 after it, and when none is to be.
static LEFT: AtomicUsize = AtomicUsize::new(0);

struct Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Whether a request of this size is the one.
fn refuses(size: usize) -> bool {
    if size < LEAST {
        return false;
    }
    let refuses = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
    if refuses && std::env::var_os("AIENG_FAULT_TRACE").is_some() {
        eprintln!("refused {size} bytes:\n{}", std::backtrace::Backtrace::force_capture());
    }
    refuses
}

// SAFETY: the system's allocator, or null, which any allocator may give.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        if refuses(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        if refuses(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on.
        if refuses(size) { std::ptr::null_mut() } else { unsafe { System.realloc(old, layout, size) } }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Does something while the nth large allocation is refused; says whether there was an nth.
pub fn with_nth_refused<T>(n: usize, action: impl FnOnce() -> T) -> (T, bool) {
    LEFT.store(n, Ordering::SeqCst);
    let result = action();
    (result, LEFT.swap(0, Ordering::SeqCst) == 0)
}
