//! Memory for weights and caches.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Zeroed bytes, aligned to a cache line. The system hands out pages when they are first touched, so a large buffer
/// costs only what is used of it.
pub struct AlignedBuffer {
    ptr: NonNull<u8>,
    len: usize,
}

/// What buffers are aligned to.
#[repr(align(64))]
struct CacheLine;

const ALIGN: usize = align_of::<CacheLine>();

// SAFETY: the buffer owns its memory, and shared access to it is read-only.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zero bytes, or `None` if the system has no memory left.
    pub fn new(len: usize) -> Option<AlignedBuffer> {
        if len == 0 {
            return Some(AlignedBuffer { ptr: NonNull::<CacheLine>::dangling().cast(), len });
        }
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        Some(AlignedBuffer { ptr: NonNull::new(ptr)?, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: ptr and len describe memory that self owns and has initialised.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: allocated in `new` with this very layout, which was valid there.
            unsafe { dealloc(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.len, ALIGN)) }
        }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

/// Zeroed f32 in an [`AlignedBuffer`].
#[derive(Debug)]
pub struct Floats(AlignedBuffer);

impl Floats {
    /// `len` zeros, or `None` if the system has no memory left.
    pub fn new(len: usize) -> Option<Floats> {
        AlignedBuffer::new(len.checked_mul(size_of::<f32>())?).map(Floats)
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_slice())
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.0.as_mut_slice())
    }
}

/// Bytes of a weight: its own, or part of something shared such as a mapped file.
#[derive(Clone)]
pub enum Bytes {
    /// Repacked for a device.
    Owned(Arc<AlignedBuffer>),
    /// As the file has them.
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>),
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(b) => b.as_slice(),
            Bytes::Shared(b, range) => &(**b).as_ref()[range.clone()],
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.as_slice().len())
    }
}
