//! Merging neighbours by priority: the one algorithm behind byte-level BPE and SentencePiece BPE.
//!
//! A text is a chain of symbols. Of all neighbours that may be merged, the pair of the best priority is, and of equal
//! ones the leftmost, until none is left. Candidates wait in a heap; those that a later merge has overtaken are
//! recognised when they surface. So n symbols cost O(n log n), even where the whole text is one word.

use crate::{Result, memory};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol, or no token.
pub(super) const NONE: u32 = u32::MAX;

/// A piece of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Its token, or [`NONE`].
    pub(super) token: u32,
    /// Where it begins, in bytes.
    pub(super) start: u32,
    /// In bytes; 0 once it has been merged into its left neighbour.
    pub(super) len: u32,
    prev: u32,
    next: u32,
}

/// What a pair of neighbours would become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// Lower is better.
    pub(super) priority: u32,
    /// The token of the merged symbol.
    pub(super) token: u32,
}

/// Field order is the heap's order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    right: u32,
    len: u32,
    token: u32,
}

/// The chain and the heap, kept from word to word so that a text costs few allocations.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Begins a new chain, of `count` symbols at most.
    pub(super) fn begin(&mut self, count: usize) -> Result<()> {
        self.symbols.clear();
        memory::reserve("symbols of a text", &mut self.symbols, count)
    }

    /// Appends a symbol to the chain. The caller keeps texts below 2³² bytes.
    pub(super) fn push(&mut self, token: u32, start: u32, len: u32) {
        let index = self.symbols.len() as u32;
        self.symbols.push(Symbol { token, start, len, prev: index.wrapping_sub(1), next: index + 1 });
    }

    /// Merges until `pair` has nothing more to offer.
    pub(super) fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<Pair>) -> Result<()> {
        let Some(last) = self.symbols.last_mut() else { return Ok(()) };
        last.next = NONE;
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        heap.clear();
        memory::reserve("merges of a text", &mut heap, self.symbols.len())?;
        heap.extend((1..self.symbols.len() as u32).filter_map(|right| self.candidate(right - 1, right, &pair)));
        // Built from a whole vector, a heap costs O(n) instead of n pushes.
        self.heap = heap.into();
        while let Some(Reverse(best)) = self.heap.pop() {
            let (left, right) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue; // one of the two has been merged meanwhile
            }
            self.symbols[best.right as usize].len = 0;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = best.left;
            }
            self.symbols[best.left as usize] = Symbol { token: best.token, len: best.len, next: right.next, ..left };
            let before = self.candidate(left.prev, best.left, &pair);
            let after = self.candidate(best.left, right.next, &pair);
            let more = before.into_iter().chain(after);
            self.heap.try_reserve(2).map_err(|_| memory::missing::<Candidate>("merges of a text", self.heap.len()))?;
            self.heap.extend(more);
        }
        Ok(())
    }

    fn candidate(
        &self,
        left: u32,
        right: u32,
        pair: impl Fn(&Symbol, &Symbol) -> Option<Pair>,
    ) -> Option<Reverse<Candidate>> {
        let (l, r) = (self.symbols.get(left as usize)?, self.symbols.get(right as usize)?);
        let Pair { priority, token } = pair(l, r)?;
        Some(Reverse(Candidate { priority, left, right, len: l.len + r.len, token }))
    }

    /// What is left of the chain, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        std::iter::successors(self.symbols.first(), |symbol| self.symbols.get(symbol.next as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: again and again, merge the leftmost pair of the best priority.
    fn naive(tokens: &[u32], pair: impl Fn(u32, u32) -> Option<Pair>) -> Vec<u32> {
        let mut tokens = tokens.to_vec();
        loop {
            let pairs = (1..tokens.len()).filter_map(|i| Some((pair(tokens[i - 1], tokens[i])?, i)));
            let Some((best, i)) = pairs.min_by_key(|(p, i)| (p.priority, *i)) else { return tokens };
            tokens[i - 1] = best.token;
            tokens.remove(i);
        }
    }

    fn merged(tokens: &[u32], pair: impl Fn(u32, u32) -> Option<Pair>) -> Vec<u32> {
        let mut merger = Merger::default();
        merger.begin(tokens.len()).unwrap();
        for (start, &token) in (0u32..).zip(tokens) {
            merger.push(token, start, 1);
        }
        merger.merge(|l, r| pair(l.token, r.token)).unwrap();
        merger.symbols().map(|s| s.token).collect()
    }

    #[test]
    fn the_heap_finds_what_the_definition_finds() {
        let mut random = crate::testing::Random::new("merge");
        for _ in 0..300 {
            // A random grammar over few letters: every rule makes a new token, so that chains of merges are common.
            let letters = 2 + random.below(3);
            let mut rules = std::collections::HashMap::new();
            for rank in 0..random.below(40) {
                let token = letters + rank;
                rules.entry((random.below(token), random.below(token))).or_insert(Pair { priority: rank / 2, token });
            }
            let text: Vec<u32> = (0..random.below(60)).map(|_| random.below(letters)).collect();
            let pair = |l, r| rules.get(&(l, r)).copied();
            assert_eq!(merged(&text, pair), naive(&text, pair), "text {text:?}, rules {rules:?}");
        }
    }

    #[test]
    fn an_empty_chain_stays_empty() {
        assert!(merged(&[], |_, _| None).is_empty());
    }
}
