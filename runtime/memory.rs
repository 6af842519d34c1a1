//! Memory whose size follows from input: it is had, or there is an error. What `Vec` does by itself ends the process.
//!
//! Everything that can pass some 64 KiB is asked for here, or by `aieng_kernels::AlignedBuffer`.

use crate::{Error, Result};

fn missing(what: &str, count: usize, size: usize) -> Error {
    Error::OutOfMemory(format!("{what}: no memory for {} bytes", count.saturating_mul(size)))
}

/// Makes room for `count` more items.
pub(crate) fn reserve<T>(what: &str, list: &mut Vec<T>, count: usize) -> Result<()> {
    list.try_reserve(count).map_err(|_| missing(what, list.len().saturating_add(count), size_of::<T>()))
}

/// An empty list with room for exactly `count` items.
pub(crate) fn list<T>(what: &str, count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| missing(what, count, size_of::<T>()))?;
    Ok(list)
}

/// The items of an iterator, which are `count` at most.
pub(crate) fn collect<T>(what: &str, count: usize, items: impl Iterator<Item = T>) -> Result<Vec<T>> {
    let mut list = list(what, count)?;
    list.extend(items.take(count));
    Ok(list)
}

/// Appends to a text.
pub(crate) fn push_str(what: &str, text: &mut String, more: &str) -> Result<()> {
    text.try_reserve(more.len()).map_err(|_| missing(what, text.len().saturating_add(more.len()), 1))?;
    text.push_str(more);
    Ok(())
}
