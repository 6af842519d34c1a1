//! Bounded queues between threads. Pushes and pops never wait for each other; the kernel is called only to sleep and to
//! wake a sleeper. [`ring`] and [`bell`] are the only code that threads of the engine share; `tests/loom` runs them through
//! all interleavings.

mod bell;
mod ring;
mod sync;

use bell::Bell;
use ring::Ring;
use std::collections::TryReserveError;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A bounded queue of many producers and many consumers.
#[derive(Debug)]
pub struct Queue<T> {
    items: Ring<T>,
    bell: Bell,
}

impl<T> Queue<T> {
    /// A queue that holds up to `capacity` items; at least one.
    ///
    /// Errors: no memory.
    pub fn new(capacity: usize) -> Result<Queue<T>, TryReserveError> {
        Ok(Queue { items: Ring::new(capacity)?, bell: Bell::default() })
    }

    /// Appends an item and wakes who waits; gives the item back if the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.items.push(item)?;
        self.bell.ring();
        Ok(())
    }

    /// The same without waking anybody: for several items, after the last of which comes [`Queue::wake`]. A sleeper would
    /// otherwise be woken for each, find one, and sleep again.
    pub fn push_quietly(&self, item: T) -> Result<(), T> {
        self.items.push(item)
    }

    /// Takes the oldest item, if there is one.
    pub fn pop(&self) -> Option<T> {
        self.items.pop().or_else(|| self.bell.nothing_there(|| self.items.pop()))
    }

    /// Waits for an item, for the time `timeout` (`None`: for ever), or until `stop` says so.
    pub fn pop_wait(&self, timeout: Option<Duration>, stop: impl Fn() -> bool) -> Option<T> {
        let mut item = None;
        self.bell.wait(timeout, || {
            item = self.pop();
            item.is_some() || stop()
        });
        item
    }

    /// Items that can be pushed now. For a single producer at least so many: others can only make room.
    pub fn room(&self) -> usize {
        self.items.capacity() - self.items.len()
    }

    /// Wakes all that wait, so that they look at their conditions again.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// A descriptor that is readable while there may be items; see [`Bell::descriptor`].
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.bell.descriptor()?.as_fd())
    }
}

/// Whether poll(2) calls a descriptor readable within `milliseconds`.
#[cfg(test)]
pub(crate) fn readable(fd: BorrowedFd, milliseconds: i32) -> bool {
    use std::os::fd::AsRawFd;
    sync::readable(fd.as_raw_fd(), milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn items_from_many_threads_arrive_once_and_in_order() {
        let queue = Arc::new(Queue::new(4).unwrap());
        let producers: Vec<_> = (0..4u64)
            .map(|p| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || {
                    for i in 0..1000 {
                        let mut item = (p, i);
                        while let Err(back) = queue.push(item) {
                            item = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0u64; 4];
        for _ in 0..4000 {
            let (p, i) = queue.pop_wait(Some(Duration::from_secs(10)), || false).expect("an item within 10 s");
            assert_eq!(next[p as usize], i);
            next[p as usize] += 1;
        }
        assert!(queue.pop().is_none());
        producers.into_iter().for_each(|p| p.join().unwrap());
    }

    #[test]
    fn a_full_queue_gives_the_item_back_and_a_wait_ends() {
        let queue = Queue::new(2).unwrap();
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(queue.room(), 0);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
        assert_eq!(queue.pop_wait(Some(Duration::from_millis(5)), || false), None);
        assert_eq!(queue.pop_wait(None, || true), None);
    }

    #[test]
    fn items_left_are_dropped_with_the_queue() {
        let item = Arc::new(());
        let queue = Queue::new(3).unwrap();
        // Over the end of the slots.
        for _ in 0..5 {
            queue.push(Arc::clone(&item)).unwrap();
            queue.pop().unwrap();
        }
        (0..3).for_each(|_| queue.push(Arc::clone(&item)).unwrap());
        assert_eq!(Arc::strong_count(&item), 4);
        drop(queue);
        assert_eq!(Arc::strong_count(&item), 1);
    }

    /// Whether poll(2) calls the queue's descriptor readable within `milliseconds`.
    fn readable(queue: &Queue<u64>, milliseconds: i32) -> bool {
        super::readable(queue.descriptor().unwrap(), milliseconds)
    }

    #[test]
    fn the_descriptor_is_readable_while_there_are_items() {
        let queue = Queue::new(4).unwrap();
        queue.push(1).unwrap();
        assert!(readable(&queue, 0), "an item from before the descriptor");
        queue.push(2).unwrap();
        assert_eq!(queue.pop(), Some(1));
        assert!(readable(&queue, 0), "one is left");
        assert_eq!((queue.pop(), queue.pop()), (Some(2), None));
        assert!(!readable(&queue, 0), "none is left");
        queue.push(3).unwrap();
        assert!(readable(&queue, 0));
        queue.wake();
        assert_eq!((queue.pop(), queue.pop()), (Some(3), None));
        assert!(!readable(&queue, 0));
    }

    #[test]
    fn pollers_miss_nothing() {
        let queue = Arc::new(Queue::new(8).unwrap());
        let count = 20_000u64;
        let producer = Arc::clone(&queue);
        queue.descriptor().unwrap();
        let thread = std::thread::spawn(move || {
            for mut item in 0..count {
                while let Err(back) = producer.push(item) {
                    item = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < count {
            assert!(readable(&queue, 10_000), "not told of item {next}");
            while let Some(item) = queue.pop() {
                assert_eq!(item, next);
                next += 1;
            }
        }
        thread.join().unwrap();
    }
}
