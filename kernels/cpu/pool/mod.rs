//! Fork and join on pinned threads that spin between kernels: a kernel takes 20 to 200 µs, a futex wake-up 50.
//!
//! The thread that forks is worker 0. The others wait for the next job by spinning, and park when nothing comes, so an idle
//! engine uses no CPU. Nobody yields: where neighbours want the cores, a yield costs a tick of 4 ms, but who parks is woken
//! at once. Nor does anybody wait for a worker that has not begun: the caller goes on when all items are done, whoever did
//! them.
//!
//! Invariants: one job at a time (`parallel_for` asserts it); `parallel_for` returns, or unwinds, only when no item is left and
//! all that were taken are done, so the job may borrow from the caller's stack; a panic in a worker is raised again in the
//! caller.

mod shares;
mod sync;

use core_affinity::CoreId;
use shares::{Job, Shares};
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Threads that run kernels together.
pub struct Pool {
    shares: Arc<Shares>,
    workers: Vec<JoinHandle<()>>,
    /// For waking parked workers, worker 1 first.
    handles: Vec<Thread>,
    cores: Option<Vec<CoreId>>,
    busy: AtomicBool,
}

/// The system would not start a thread.
#[derive(Debug)]
pub struct PoolError(pub std::io::Error);

impl Pool {
    /// A pool of `threads` (at least 1), the caller's included. With `pin`, and if this process may use that many
    /// cores, each worker is bound to a core; [`Pool::pin_caller`] binds the caller to the first.
    pub fn new(threads: usize, pin: bool) -> Result<Pool, PoolError> {
        let threads = threads.max(1);
        let shares = Arc::new(Shares::new(threads));
        let cores = core_affinity::get_core_ids().filter(|cores| pin && cores.len() >= threads);
        let busy = AtomicBool::new(false);
        let mut pool = Pool { shares, workers: Vec::new(), handles: Vec::new(), cores, busy };
        for worker in 1..threads {
            let shares = Arc::clone(&pool.shares);
            let core = pool.cores.as_ref().map(|cores| cores[worker]);
            let body = move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                shares.work(worker);
            };
            // If a later thread cannot be started, dropping `pool` ends the earlier ones.
            let handle = std::thread::Builder::new().name(format!("aieng-{worker}")).spawn(body).map_err(PoolError)?;
            pool.handles.push(handle.thread().clone());
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Binds the calling thread to the pool's first core, if the pool is pinned.
    pub fn pin_caller(&self) {
        if let Some(cores) = &self.cores {
            core_affinity::set_for_current(cores[0]);
        }
    }

    /// Runs `job(worker)` once on each thread and waits for all of them.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let begun = AtomicUsize::new(0);
        self.parallel_for(self.threads(), 1, &|item| {
            begun.fetch_add(1, Ordering::Relaxed);
            // So nobody takes two: each thread has the item of its own share. And no job can panic before all have one.
            while begun.load(Ordering::Relaxed) < self.threads() {
                std::thread::yield_now();
            }
            job(item.start);
        });
    }

    /// Runs `body(range)` for ranges of up to `grain` items that cover `0..items`. Each thread goes through a share of its
    /// own from one end to the other, which is what memory likes best; who is done first helps the others. Panics for 2^32 items or
    /// more.
    pub fn parallel_for(&self, items: usize, grain: usize, body: &Job) {
        let grain = grain.max(1);
        if items <= grain || self.workers.is_empty() {
            if items > 0 {
                body(0..items);
            }
            return;
        }
        assert!(!self.busy.swap(true, Ordering::Acquire), "two jobs at once on one pool");
        let (items, grain) = (u32::try_from(items).expect("fewer than 2^32 items"), grain.min(items) as u32);
        // SAFETY: `busy` was clear, so the last job has ended; this one is joined below, even if `body` unwinds here.
        let number = unsafe { self.shares.begin(&body, items, grain) };
        self.shares.asleep().for_each(|worker| self.handles[worker - 1].unpark());
        let done = Cell::new(0);
        let own = catch_unwind(AssertUnwindSafe(|| self.shares.take_part(0, number, &|n| done.set(done.get() + n))));
        if own.is_err() {
            done.set(done.get() + self.shares.abandon(number));
        }
        let others = self.shares.join(number, items - done.get());
        self.busy.store(false, Ordering::Release);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(others.is_ok(), "a kernel panicked on a worker thread");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shares.shut_down();
        self.handles.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker cannot panic: it catches what its jobs raise.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// A pointer that threads may share: each kernel says why its threads never write the same element.
#[derive(Debug)]
pub struct SyncMutPtr<T>(pub *mut T);

impl<T> Clone for SyncMutPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SyncMutPtr<T> {}

// SAFETY: see above; the user's obligation.
unsafe impl<T: Send> Send for SyncMutPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SyncMutPtr<T> {}

/// A pointer that threads only read through, while a borrow keeps its target alive.
#[derive(Debug, Clone, Copy)]
pub struct SyncPtr<T>(pub *const T);
// SAFETY: as a shared reference.
unsafe impl<T: Sync> Send for SyncPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for SyncPtr<T> {}

impl<T> SyncMutPtr<T> {
    /// The pointer; a method, so that closures capture the whole.
    pub fn get(self) -> *mut T {
        self.0
    }
}

impl<T> SyncPtr<T> {
    /// The pointer; a method, so that closures capture the whole.
    pub fn get(self) -> *const T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_is_done_once() {
        let pool = Pool::new(3, false).unwrap();
        for items in [0, 1, 7, 100, 1000] {
            let done: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
            pool.parallel_for(items, 7, &|range| {
                for i in range {
                    done[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{items} items");
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = Pool::new(2, true).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let count = AtomicU64::new(0);
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn a_parked_caller_is_woken_by_the_last_to_leave() {
        let pool = Pool::new(3, false).unwrap();
        let left = AtomicU64::new(0);
        pool.run(&|worker| {
            std::thread::sleep(std::time::Duration::from_millis(20 * worker as u64));
            left.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(left.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn jobs_follow_each_other_closely() {
        let pool = Pool::new(4, false).unwrap();
        let done = AtomicU64::new(0);
        for items in 1..2000 {
            pool.parallel_for(items % 40, 3, &|range| _ = done.fetch_add(range.len() as u64, Ordering::Relaxed));
        }
        assert_eq!(done.load(Ordering::Relaxed), (1..2000).map(|items| items % 40).sum());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3, false).unwrap();
        for bad in (0..3).cycle().take(300) {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| assert!(worker != bad))));
            assert!(result.is_err(), "worker {bad}");
            pool.run(&|_| ());
        }
    }
}
