//! Memory whose size follows from input: it is had, or there is an error. What `Vec` does by itself ends the process.
//!
//! Everything that can pass some 64 KiB is asked for here, or by `aieng_kernels::AlignedBuffer`.

use crate::queue::Queue;
use crate::{Error, Result};
use aieng_kernels::sample::{Candidate, DrawScratch};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// There is none for `count` items.
pub(crate) fn missing<T>(what: &str, count: usize) -> Error {
    Error::OutOfMemory(format!("{what}: no memory for {} bytes", count.saturating_mul(size_of::<T>())))
}

/// Makes room for `count` more items.
pub(crate) fn reserve<T>(what: &str, list: &mut Vec<T>, count: usize) -> Result<()> {
    list.try_reserve(count).map_err(|_| missing::<T>(what, list.len().saturating_add(count)))
}

/// Makes room for `count` more items, and no more.
pub(crate) fn reserve_exact<T>(what: &str, list: &mut Vec<T>, count: usize) -> Result<()> {
    list.try_reserve_exact(count).map_err(|_| missing::<T>(what, list.len().saturating_add(count)))
}

/// An empty list with room for exactly `count` items.
pub(crate) fn list<T>(what: &str, count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    reserve_exact(what, &mut list, count)?;
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
    text.try_reserve(more.len()).map_err(|_| missing::<u8>(what, text.len().saturating_add(more.len())))?;
    text.push_str(more);
    Ok(())
}

/// A queue for `capacity` items.
pub(crate) fn queue<T>(what: &str, capacity: usize) -> Result<Queue<T>> {
    Queue::new(capacity).map_err(|_| missing::<T>(what, capacity))
}

/// A copy of a text.
pub(crate) fn text(what: &str, text: &str) -> Result<String> {
    let mut copy = String::new();
    push_str(what, &mut copy, text)?;
    Ok(copy)
}

/// A copy of a list.
pub(crate) fn copy<T: Copy>(what: &str, items: &[T]) -> Result<Vec<T>> {
    collect(what, items.len(), items.iter().copied())
}

/// An empty map with room for `count` entries.
pub(crate) fn map<K: Eq + Hash, V, S: BuildHasher + Default>(what: &str, count: usize) -> Result<HashMap<K, V, S>> {
    let mut map = HashMap::default();
    map.try_reserve(count).map_err(|_| missing::<(K, V)>(what, count))?;
    Ok(map)
}

/// What so many threads of the host draw from rows of `vocab` logits with.
pub(crate) fn draw_scratch(vocab: usize, threads: usize) -> Result<Vec<DrawScratch>> {
    let what = "candidates for a token";
    let mut scratch = list(what, threads)?;
    for _ in 0..threads {
        scratch.push(DrawScratch::new(vocab).map_err(|_| missing::<(f32, Candidate)>(what, vocab))?);
    }
    Ok(scratch)
}

/// Asks for memory and gives it back, before code that cannot be refused any: a crate's own tables, for example.
pub(crate) fn probe(what: &str, bytes: usize) -> Result<()> {
    list::<u8>(what, bytes).map(drop)
}
