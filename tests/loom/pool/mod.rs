//! How the kernels' pool shares out jobs.

#[path = "../../../kernels/cpu/pool/shares.rs"]
#[allow(dead_code, reason = "the whole file is compiled, and parts of it are run")]
mod shares;
mod sync;

use crate::tests::model;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};
use shares::{Job, Shares};
use std::cell::Cell;
use std::ops::Range;
use sync::{AtomicU32, Ordering};

/// What items write, without any ordering of its own.
struct Items([UnsafeCell<u32>; 2]);

// SAFETY: an item is one thread's; loom reports it if not.
unsafe impl Sync for Items {}

impl Items {
    fn add(&self, items: Range<usize>) {
        // SAFETY: loom answers for being alone.
        self.0[items].iter().for_each(|item| item.with_mut(|item| unsafe { *item += 1 }));
    }
}

/// A caller and its workers.
struct Pool {
    shares: Arc<Shares>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    fn new(threads: usize) -> Pool {
        let shares = Arc::new(Shares::new(threads));
        let work = |worker| {
            let shares = Arc::clone(&shares);
            thread::spawn(move || shares.work(worker))
        };
        Pool { workers: (1..threads).map(work).collect(), shares }
    }

    /// As the pool's `parallel_for` of two items.
    fn two_items(&self, job: &Job) {
        // SAFETY: the job is joined below.
        let number = unsafe { self.shares.begin(&job, 2, 1) };
        self.shares.asleep().for_each(|worker| self.workers[worker - 1].thread().unpark());
        let own = Cell::new(0);
        self.shares.take_part(0, number, &|count| own.set(own.get() + count));
        self.shares.join(number, 2 - own.get()).unwrap();
    }

    /// Both items must then be done, and be seen to be.
    fn add_to_both(&self) {
        let items = Items(Default::default());
        self.two_items(&|range| items.add(range));
        // SAFETY: as above.
        items.0.iter().for_each(|item| item.with(|item| assert_eq!(unsafe { *item }, 1)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shares.shut_down();
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker.join().unwrap();
        }
    }
}

#[test]
fn items_are_done_once_and_the_caller_sleeps_through_none() {
    model(3, || {
        let pool = Pool::new(2);
        pool.add_to_both();
        pool.add_to_both();
    });
}

#[test]
fn workers_that_help_each_other_do_nothing_twice() {
    model(2, || Pool::new(3).add_to_both());
}

#[test]
fn workers_sleep_through_no_job() {
    model(3, || {
        let begun = AtomicU32::new(0);
        // Each item waits for the other, so it takes both threads.
        Pool::new(2).two_items(&|_| {
            begun.fetch_add(1, Ordering::Relaxed);
            while begun.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
        });
    });
}
