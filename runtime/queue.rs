//! Bounded queues between threads: pushes and pops are lock-free; a lock is taken only to sleep and to wake a sleeper.

use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bounded queue of many producers and many consumers.
#[derive(Debug)]
pub struct Queue<T> {
    items: ArrayQueue<T>,
    bell: Bell,
}

impl<T> Queue<T> {
    /// A queue that holds up to `capacity` items; at least one.
    pub fn new(capacity: usize) -> Queue<T> {
        Queue { items: ArrayQueue::new(capacity.max(1)), bell: Bell::default() }
    }

    /// Appends an item and wakes a sleeper; gives the item back if the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.items.push(item)?;
        self.bell.ring();
        Ok(())
    }

    /// Takes the oldest item, if there is one.
    pub fn pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// Waits for an item, for the time `timeout` (`None`: for ever), or until `stop` says so.
    pub fn pop_wait(&self, timeout: Option<Duration>, stop: impl Fn() -> bool) -> Option<T> {
        let mut item = None;
        self.bell.wait(timeout, || {
            item = self.items.pop();
            item.is_some() || stop()
        });
        item
    }

    /// Items that can be pushed now. Exact for a single producer's own use: others can only make room.
    pub fn room(&self) -> usize {
        self.items.capacity() - self.items.len()
    }

    /// Wakes all sleepers, so that they look at their conditions again.
    pub fn wake(&self) {
        self.bell.ring();
    }
}

/// Lets threads sleep until a condition holds. Who changes the condition rings afterwards.
#[derive(Debug, Default)]
pub struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// Wakes the sleepers; costs a fence and a load where there are none.
    pub fn ring(&self) {
        // Either this sees the sleeper, or the sleeper, which counts itself before it looks, sees the change.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Sleeps until `ready` or the timeout; looks at `ready` at least once.
    pub fn wait(&self, timeout: Option<Duration>, mut ready: impl FnMut() -> bool) {
        if ready() {
            return;
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !ready() {
            guard = match deadline {
                None => self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn items_from_many_threads_arrive_once_and_in_order() {
        let queue = Arc::new(Queue::new(4));
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
        let queue = Queue::new(2);
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(queue.room(), 0);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
        assert_eq!(queue.pop_wait(Some(Duration::from_millis(5)), || false), None);
        assert_eq!(queue.pop_wait(None, || true), None);
    }
}
