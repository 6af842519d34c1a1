//! Handles: 64-bit numbers that name a value in a table, so that a stale, doubled or invented one is seen, not followed.
//!
//! A number is tag (8 bit, one for each table) | generation (32) | index (24). A slot's generation rises when its value
//! leaves, and a slot whose generation has run out is never used again: no number names two values, ever. The tag keeps
//! numbers of one table out of the other, and numbers apart from addresses, whose top byte is 0 on the targets we have.

use aieng_runtime::{Error, Result};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 32;

/// Values by number. Its lock is held for a few instructions only, never while a value is made, used or dropped.
pub(crate) struct Table<T: 'static> {
    tag: u8,
    slots: Mutex<Slots<T>>,
    /// Signalled when a [`Ref`] goes.
    released: Condvar,
}

/// A locked table.
pub(crate) type Guard<T> = MutexGuard<'static, Slots<T>>;

pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

struct Slot<T> {
    generation: u32,
    value: Option<Arc<T>>,
}

/// Why a number names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It did once.
    Gone,
    /// It never did.
    NeverMade,
}

impl<T> Table<T> {
    pub(crate) const fn new(tag: u8) -> Self {
        assert!(tag != 0);
        Table { tag, slots: Mutex::new(Slots { slots: Vec::new(), free: Vec::new() }), released: Condvar::new() }
    }

    /// Keeps the table as it is, for fork(2) to copy.
    pub(crate) fn lock_for_fork(&'static self) -> Guard<T> {
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Slots<T>> {
        // Nothing panics under the lock, and each change is a single assignment: a poisoned lock would mean nothing.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self, index: usize, generation: u32) -> u64 {
        u64::from(self.tag) << (GENERATION_BITS + INDEX_BITS) | u64::from(generation) << INDEX_BITS | index as u64
    }

    /// The number's index and generation.
    fn split(&self, number: u64) -> std::result::Result<(usize, u32), Missing> {
        if number >> (GENERATION_BITS + INDEX_BITS) != u64::from(self.tag) {
            return Err(Missing::NeverMade);
        }
        Ok(((number & ((1 << INDEX_BITS) - 1)) as usize, (number >> INDEX_BITS) as u32))
    }

    /// A place for a value, whose number will not be 0.
    pub(crate) fn vacancy(&'static self) -> Result<Vacancy<T>> {
        let mut guard = self.lock();
        let slots = &mut *guard;
        if let Some(index) = slots.free.pop() {
            return Ok(Vacancy { table: self, index });
        }
        let index = slots.slots.len();
        // Room in `free` is made here, because `remove` cannot report that there is none.
        if index >> INDEX_BITS != 0
            || slots.slots.try_reserve(1).is_err()
            || slots.free.try_reserve(index + 1 - slots.free.len()).is_err()
        {
            return Err(Error::OutOfMemory(format!("no room for one more handle after {index}")));
        }
        slots.slots.push(Slot { generation: 0, value: None });
        Ok(Vacancy { table: self, index })
    }

    /// The value, which stays whole while the [`Ref`] lives.
    pub(crate) fn get(&'static self, number: u64) -> std::result::Result<Ref<T>, Missing> {
        let (index, generation) = self.split(number)?;
        let slots = self.lock();
        let slot = slots.slots.get(index).filter(|slot| generation <= slot.generation).ok_or(Missing::NeverMade)?;
        match &slot.value {
            Some(value) if generation == slot.generation => Ok(Ref { table: self, value: Some(value.clone()) }),
            None if generation == slot.generation => Err(Missing::NeverMade),
            _ => Err(Missing::Gone),
        }
    }

    /// Takes the value out of the table: its number names nothing from now on. Holders of a [`Ref`] keep theirs.
    pub(crate) fn remove(&self, number: u64) -> std::result::Result<Arc<T>, Missing> {
        let (index, generation) = self.split(number)?;
        let mut guard = self.lock();
        let slots = &mut *guard;
        let slot = slots.slots.get_mut(index).filter(|slot| generation <= slot.generation).ok_or(Missing::NeverMade)?;
        if generation != slot.generation {
            return Err(Missing::Gone);
        }
        let value = slot.value.take().ok_or(Missing::NeverMade)?;
        // The last generation is never given out: a slot that reaches it stays empty for good.
        slot.generation += 1;
        if slot.generation < u32::MAX {
            slots.free.push(index);
        }
        Ok(value)
    }

    /// Waits until every [`Ref`] to a removed value is gone, and gives it whole.
    pub(crate) fn unshare(&self, mut value: Arc<T>) -> T {
        let mut slots = self.lock();
        loop {
            match Arc::try_unwrap(value) {
                Ok(alone) => return alone,
                Err(shared) => value = shared,
            }
            slots = self.released.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A place in a table. Who has one can put a value in without fail; dropped, it is given back.
pub(crate) struct Vacancy<T: 'static> {
    table: &'static Table<T>,
    index: usize,
}

impl<T> Vacancy<T> {
    /// Puts a value in and names it.
    pub(crate) fn fill(self, value: T) -> u64 {
        let value = Arc::new(value);
        let mut slots = self.table.lock();
        let slot = &mut slots.slots[self.index];
        slot.value = Some(value);
        let number = self.table.number(self.index, slot.generation);
        drop(slots);
        std::mem::forget(self);
        number
    }
}

impl<T> Drop for Vacancy<T> {
    fn drop(&mut self) {
        // There is room: `Table::vacancy` has made it.
        self.table.lock().free.push(self.index);
    }
}

/// A value in use. Never the last owner: that is the table, or who removed the value and waits in [`Table::unshare`].
pub(crate) struct Ref<T: 'static> {
    table: &'static Table<T>,
    /// `None` only inside `drop`.
    value: Option<Arc<T>>,
}

impl<T> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("a Ref loses its value in drop alone"),
        }
    }
}

impl<T> Drop for Ref<T> {
    fn drop(&mut self) {
        // Under the lock, so that `unshare` cannot look between the drop and the signal, and then wait for ever.
        let _slots = self.table.lock();
        self.value = None;
        self.table.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_name_one_value_each() {
        static TABLE: Table<&str> = Table::new(1);
        static OTHER: Table<&str> = Table::new(2);
        let a = TABLE.vacancy().unwrap().fill("a");
        assert_eq!(*TABLE.get(a).unwrap(), "a");
        assert_eq!(OTHER.get(a).err(), Some(Missing::NeverMade));
        assert_eq!(*TABLE.remove(a).unwrap(), "a");
        assert_eq!(TABLE.remove(a).err(), Some(Missing::Gone));
        let b = TABLE.vacancy().unwrap().fill("b");
        assert_ne!(a, b);
        assert_eq!(TABLE.get(a).err(), Some(Missing::Gone));
        assert_eq!(*TABLE.get(b).unwrap(), "b");
        let never = [0, 1, b + 1, b + (1 << INDEX_BITS), u64::MAX, b ^ 1 << 63, 0x7fff_1234_5678];
        for number in never {
            assert_eq!(TABLE.get(number).err(), Some(Missing::NeverMade), "{number:#x}");
            assert_eq!(TABLE.remove(number).err(), Some(Missing::NeverMade), "{number:#x}");
        }
    }

    #[test]
    fn a_slot_whose_generations_ran_out_is_not_used_again() {
        static TABLE: Table<u32> = Table::new(1);
        TABLE.vacancy().unwrap().fill(0);
        TABLE.lock().slots[0].generation = u32::MAX - 1;
        let last = TABLE.number(0, u32::MAX - 1);
        assert_eq!(*TABLE.remove(last).unwrap(), 0);
        let next = TABLE.vacancy().unwrap().fill(1);
        assert_eq!(TABLE.split(next), Ok((1, 0)));
        assert_eq!(TABLE.get(last).err(), Some(Missing::Gone));
        assert_eq!(TABLE.get(TABLE.number(0, u32::MAX)).err(), Some(Missing::NeverMade));
    }

    #[test]
    fn unshare_waits_for_those_inside() {
        static TABLE: Table<u32> = Table::new(1);
        let number = TABLE.vacancy().unwrap().fill(5);
        let inside = TABLE.get(number).unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(*inside, 5);
            drop(inside);
        });
        let removed = TABLE.remove(number).unwrap();
        assert_eq!(TABLE.get(number).err(), Some(Missing::Gone));
        assert_eq!(TABLE.unshare(removed), 5);
        thread.join().unwrap();
    }
}
