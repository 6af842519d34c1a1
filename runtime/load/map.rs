//! The bytes of a model file, mapped read-only.
//!
//! The only unsafe code of the loader. Invariant: every tensor's bytes are re-readable from the file, so dropping
//! resident pages loses nothing; bytes that came from memory are never dropped.
#![allow(unsafe_code)]

use crate::{Error, Result};
use memmap2::{Mmap, MmapMut, UncheckedAdvice};
use std::fs::OpenOptions;
use std::ops::{Deref, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A read-only view of a file, or a copy of bytes in memory; aligned to a page either way.
#[derive(Debug)]
pub(super) struct Map {
    bytes: Mmap,
    file_backed: bool,
}

impl Map {
    /// Maps a regular file that is not empty.
    pub(super) fn open(path: &Path) -> Result<Map> {
        // Without O_NONBLOCK, opening a FIFO would wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| Error::io(path, "open", e))?;
        let about = file.metadata().map_err(|e| Error::io(path, "examine", e))?;
        if about.is_dir() {
            return Err(Error::format(path, "is a directory, not a model file"));
        }
        if !about.is_file() {
            return Err(Error::format(path, "is not a regular file"));
        }
        if about.len() == 0 {
            return Err(Error::format(path, "the file is empty"));
        }
        // SAFETY: the map is private and read-only, and Rust sees its bytes only as u8, for which any value is valid.
        // What cannot be ruled out is another process that writes to the file (the bytes change under us; each value
        // that is checked is copied out first) or truncates it (a later access raises SIGBUS). Every mapped loader
        // shares that limit; model files are to be replaced by rename, as `aieng pull` does.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        Ok(Map { bytes, file_backed: true })
    }

    /// Copies bytes into page-aligned memory, so that tensors are as aligned as in a mapped file.
    pub(super) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Map> {
        if bytes.is_empty() {
            return Err(Error::format(path, "the file is empty"));
        }
        let fail = |e| Error::io(path, "copy to memory", e);
        let mut copy = MmapMut::map_anon(bytes.len()).map_err(fail)?;
        copy.copy_from_slice(bytes);
        Ok(Map { bytes: copy.make_read_only().map_err(fail)?, file_backed: false })
    }

    /// Drops the whole pages inside `range` from memory; a later access reads them from the file again.
    pub(super) fn release(&self, range: Range<usize>) {
        let page = page_size();
        let start = range.start.next_multiple_of(page);
        let end = range.end.min(self.bytes.len()) / page * page;
        if !self.file_backed || start >= end {
            return;
        }
        // SAFETY: the pages belong to a private, read-only map of a file that nothing in this process has written to,
        // so "don't need" only makes the next access fault the same bytes in again.
        let dropped = unsafe { self.bytes.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // Advice that the system refuses costs memory, not correctness.
        drop(dropped);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // 64 KiB is a multiple of every page size in use, so it is a safe answer where there is none.
    usize::try_from(size).ok().filter(|s| s.is_power_of_two()).unwrap_or(65536)
}
