//! A bounded queue of many producers and many consumers without locks: Dmitry Vyukov's bounded MPMC queue
//! (1024cores.net, "Bounded MPMC queue"), with turns in place of sequence numbers so that one slot is enough.
//!
//! Position `p` of the endless sequence of items lies in slot `p % capacity`, on lap `p / capacity`. A slot's turn is
//! `2 lap` while it waits for that lap's item and `2 lap + 1` while it holds it. Whoever moves `tail` (or `head`) over a
//! position owns its slot until they advance the turn, and nobody else touches the value meanwhile. Turns would have to
//! overflow 64 bits to be mistaken.

use super::sync::{AtomicUsize, Ordering, UnsafeCell, spin_loop};
use crossbeam_utils::CachePadded;
use std::collections::TryReserveError;
use std::mem::MaybeUninit;

/// The queue.
#[derive(Debug)]
pub struct Ring<T> {
    /// The next position to pop, on a cache line of its own, as is `tail`: consumers and producers do not disturb each other.
    head: CachePadded<AtomicUsize>,
    /// The next position to push.
    tail: CachePadded<AtomicUsize>,
    slots: Box<[Slot<T>]>,
}

#[derive(Debug)]
struct Slot<T> {
    turn: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: a value is touched by one thread at a time, the one that has claimed its position, and handed over by a release
// of the turn that the next one acquires.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    /// A ring of `capacity` slots; at least one.
    ///
    /// Errors: no memory.
    pub fn new(capacity: usize) -> Result<Ring<T>, TryReserveError> {
        let capacity = capacity.max(1);
        let slot = || Slot { turn: AtomicUsize::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity)?;
        slots.resize_with(capacity, slot);
        let (head, tail) = (CachePadded::new(AtomicUsize::new(0)), CachePadded::new(AtomicUsize::new(0)));
        // The capacity is exact, so nothing is allocated here.
        Ok(Ring { head, tail, slots: slots.into_boxed_slice() })
    }

    /// Most items.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Items at some moment during the call.
    pub fn len(&self) -> usize {
        let head = self.head.load(Ordering::SeqCst);
        self.tail.load(Ordering::SeqCst).saturating_sub(head).min(self.capacity())
    }

    /// Appends an item; gives it back if all slots hold one (or are just being emptied).
    pub fn push(&self, item: T) -> Result<(), T> {
        let Some((slot, turn)) = self.claim(&self.tail, 0) else { return Err(item) };
        // SAFETY: the position is ours, and its slot is empty.
        slot.value.with_mut(|value| unsafe { (*value).write(item) });
        slot.turn.store(turn + 1, Ordering::Release);
        Ok(())
    }

    /// Takes the oldest item, if there is one (and nobody is just putting it there).
    pub fn pop(&self) -> Option<T> {
        let (slot, turn) = self.claim(&self.head, 1)?;
        // SAFETY: the position is ours, and its slot holds an item, which nobody reads again before it is overwritten.
        let item = slot.value.with_mut(|value| unsafe { (*value).assume_init_read() });
        slot.turn.store(turn + 1, Ordering::Release);
        Some(item)
    }

    /// Moves `end` over the next position whose slot's turn is `2 lap + full`; `None` if that has not come.
    fn claim(&self, end: &AtomicUsize, full: usize) -> Option<(&Slot<T>, usize)> {
        let mut position = end.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[position % self.capacity()];
            let wanted = 2 * (position / self.capacity()) + full;
            let turn = slot.turn.load(Ordering::Acquire);
            if turn < wanted {
                return None;
            }
            if turn > wanted {
                // Somebody else was here since.
                spin_loop();
                position = end.load(Ordering::Relaxed);
                continue;
            }
            match end.compare_exchange_weak(position, position + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((slot, turn)),
                Err(now) => position = now,
            }
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
