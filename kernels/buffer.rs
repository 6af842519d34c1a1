//! Memory for weights and caches.

use memmap2::{Advice, MmapOptions, MmapRaw};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Zeroed bytes, aligned to a cache line. The system hands out pages when they are first touched, so a large buffer
/// costs only what is used of it.
pub struct AlignedBuffer {
    ptr: NonNull<u8>,
    len: usize,
    memory: Memory,
}

/// Whose memory a buffer lies in.
enum Memory {
    /// Nobody's: there are no bytes.
    None,
    /// Allocated for this buffer, with the layout of its length.
    Own(NonNull<u8>),
    /// Part of an arena's.
    Arena(#[expect(dead_code, reason = "keeps the memory alive")] Arc<MmapRaw>),
}

/// What buffers are aligned to.
const ALIGN: usize = 64;

/// What is allocated for `len` bytes: room to align within. A layout with a greater alignment than this would make the
/// allocator write the zeros, and so touch every page.
fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.checked_add(ALIGN)?, 16).ok()
}

// SAFETY: the buffer owns its memory, and shared access to it is read-only.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zero bytes, or `None` if the system has no memory left.
    pub fn new(len: usize) -> Option<AlignedBuffer> {
        #[repr(align(64))]
        struct CacheLine;
        if len == 0 {
            return Some(AlignedBuffer { ptr: NonNull::<CacheLine>::dangling().cast(), len, memory: Memory::None });
        }
        // SAFETY: the layout's size is not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout(len)?) })?;
        // SAFETY: an aligned address lies at most ALIGN - 1 bytes on, and the block is ALIGN bytes longer than `len`.
        let ptr = unsafe { block.add(block.align_offset(ALIGN)) };
        Some(AlignedBuffer { ptr, len, memory: Memory::Own(block) })
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
        if let (Memory::Own(block), Some(layout)) = (&self.memory, layout(self.len)) {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(block.as_ptr(), layout) }
        }
    }
}

/// Memory for buffers that live together, such as a model's weights, in huge pages where the system has them: decoding
/// reads all weights for each token, and with pages of 4 KiB a fifth of that time goes into finding them.
#[derive(Debug, Default)]
pub struct Arena {
    memory: Option<Arc<MmapRaw>>,
    /// Bytes that are handed out, from the first huge page on.
    used: AtomicUsize,
}

const HUGE_PAGE: usize = 2 << 20;

impl Arena {
    /// Room for buffers of `len` bytes together, each rounded up to a multiple of 64; `None` if the system has no
    /// memory left.
    pub fn new(len: usize) -> Option<Arena> {
        if len == 0 {
            return Some(Arena::default());
        }
        let memory = MmapOptions::new().len(len.checked_add(HUGE_PAGE)?).map_anon().ok()?;
        // A system without huge pages refuses the advice, which costs speed alone.
        let _ = memory.advise(Advice::HugePage);
        Some(Arena { memory: Some(Arc::new(memory.into())), used: AtomicUsize::new(0) })
    }

    /// `len` zero bytes: from the arena, or, where it has no room, from the system; `None` if that has no memory left.
    pub fn buffer(&self, len: usize) -> Option<AlignedBuffer> {
        let Some(memory) = self.memory.as_ref().filter(|_| len > 0) else { return AlignedBuffer::new(len) };
        let skip = memory.as_ptr().align_offset(HUGE_PAGE);
        let room = memory.len() - skip;
        let take = |used: usize| used.checked_add(len.checked_next_multiple_of(ALIGN)?).filter(|end| *end <= room);
        let Ok(start) = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
            return AlignedBuffer::new(len);
        };
        // SAFETY: the range lies inside the mapped memory, was never handed out before, and is zero.
        let ptr = unsafe { NonNull::new_unchecked(memory.as_mut_ptr().add(skip + start)) };
        Some(AlignedBuffer { ptr, len, memory: Memory::Arena(Arc::clone(memory)) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_and_writable() {
        for len in [0, 1, 63, 64, 1000, 1 << 20] {
            let mut buffer = AlignedBuffer::new(len).unwrap();
            assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(buffer.as_slice().len() == len && buffer.as_slice().iter().all(|b| *b == 0));
            buffer.as_mut_slice().fill(7);
        }
        assert!(AlignedBuffer::new(usize::MAX).is_none() && AlignedBuffer::new(1 << 60).is_none());
        assert_eq!(Floats::new(3).unwrap()[..], [0.0; 3]);
    }

    #[test]
    fn an_arenas_buffers_are_apart_and_outlive_it() {
        let arena = Arena::new(3 * 64 + 1000).unwrap();
        let mut buffers: Vec<_> = [1, 64, 65, 0, 900, 5000].map(|len| arena.buffer(len).unwrap()).into();
        drop(arena);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(buffer.as_slice().iter().all(|b| *b == 0));
            buffer.as_mut_slice().fill(1 + i as u8);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_slice().iter().all(|b| *b == 1 + i as u8));
        }
        assert!(Arena::new(usize::MAX).is_none());
    }
}
