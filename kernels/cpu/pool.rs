//! Fork and join on pinned threads that spin between kernels: a kernel takes 20 to 200 µs, a futex wake-up 50.
//!
//! The thread that calls [`Pool::run`] is worker 0. A worker waits for the next job by spinning, then by yielding (a
//! neighbour may want the core), and parks when nothing comes, so an idle engine uses no CPU.
//!
//! Invariants: one job at a time (`run` asserts it); `run` returns, or unwinds, only after every worker is done with
//! the job, so the job may borrow from the caller's stack; a panic in a worker is raised again in the caller.

use core_affinity::CoreId;
use crossbeam_utils::CachePadded;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Pauses before a waiting thread begins to yield: some 20 µs.
const SPINS: u32 = 512;
/// Yields before a waiting worker parks: at least some 50 µs.
const YIELDS: u32 = 128;

type Job = dyn Fn(usize) + Sync;

/// Threads that run kernels together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// For waking parked workers, worker 1 first.
    handles: Vec<Thread>,
    cores: Option<Vec<CoreId>>,
}

struct Shared {
    /// Counts jobs; a worker runs one job each time it changes.
    epoch: CachePadded<AtomicUsize>,
    /// The job of the current epoch; written only while no worker runs.
    job: UnsafeCell<Option<*const Job>>,
    /// Workers that have not finished the current job.
    pending: CachePadded<AtomicUsize>,
    /// For each worker the next item of its share in [`Pool::parallel_for`].
    next: Vec<CachePadded<AtomicUsize>>,
    parked: Vec<CachePadded<AtomicBool>>,
    busy: AtomicBool,
    panicked: AtomicBool,
    shutdown: AtomicBool,
}

// SAFETY: `job` is written by the one caller of `run` before the epoch changes and read by workers after it; the epoch's
// release and acquire order the two, and `pending` keeps the next write behind the last read.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The system would not start a thread.
#[derive(Debug)]
pub struct PoolError(pub std::io::Error);

impl Pool {
    /// A pool of `threads` (at least 1), the caller's included. With `pin`, and if this process may use that many
    /// cores, each worker is bound to a core; [`Pool::pin_caller`] binds the caller to the first.
    pub fn new(threads: usize, pin: bool) -> Result<Pool, PoolError> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            epoch: CachePadded::new(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            pending: CachePadded::new(AtomicUsize::new(0)),
            next: (0..threads).map(|_| CachePadded::new(AtomicUsize::new(0))).collect(),
            parked: (0..threads).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
        });
        let cores = core_affinity::get_core_ids().filter(|cores| pin && cores.len() >= threads);
        let mut pool = Pool { shared, workers: Vec::new(), handles: Vec::new(), cores };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = pool.cores.as_ref().map(|cores| cores[worker]);
            let body = move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                shared.work(worker);
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
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        assert!(!shared.busy.swap(true, Ordering::Acquire), "two jobs at once on one pool");
        // SAFETY: no worker reads `job` now: `busy` was clear, so the last job has ended. The pointer's lifetime is
        // stretched, but every use ends before `join` below returns, and it runs even if `job` unwinds.
        unsafe { *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Job>(job)) };
        shared.pending.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (handle, parked) in self.handles.iter().zip(&shared.parked[1..]) {
            if parked.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        shared.join();
        shared.busy.store(false, Ordering::Release);
        let others_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!others_panicked, "a kernel panicked on a worker thread");
    }

    /// Runs `body(range)` for ranges of up to `grain` items that cover `0..items`. Each thread goes through a share of its
    /// own from one end to the other, which is what memory likes best; who is done first helps the others.
    pub fn parallel_for(&self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let grain = grain.max(1);
        if items <= grain || self.workers.is_empty() {
            if items > 0 {
                body(0..items);
            }
            return;
        }
        let threads = self.threads();
        let share = |worker: usize| items * worker / threads..items * (worker + 1) / threads;
        for (worker, next) in self.shared.next.iter().enumerate() {
            next.store(share(worker).start, Ordering::Relaxed);
        }
        self.run(&|worker| {
            for other in (worker..threads).chain(0..worker) {
                let (next, end) = (&self.shared.next[other], share(other).end);
                loop {
                    let start = next.fetch_add(grain, Ordering::Relaxed);
                    if start >= end {
                        break;
                    }
                    body(start..end.min(start + grain));
                }
            }
        });
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(worker, seen);
            if self.shutdown.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the epoch changed, so `run` has stored a job, and it keeps the job alive until `pending` is 0.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe {
                if let Some(job) = *self.job.get() {
                    (*job)(worker)
                }
            }));
            if result.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is not `seen` and returns it.
    fn wait(&self, worker: usize, seen: usize) -> usize {
        for turn in 0..SPINS + YIELDS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            if turn < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        // Announce, look again, park: the caller changes the epoch before it looks for parked workers.
        self.parked[worker].store(true, Ordering::SeqCst);
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                self.parked[worker].store(false, Ordering::Relaxed);
                return epoch;
            }
            std::thread::park();
        }
    }

    /// Waits until every worker has finished the job.
    fn join(&self) {
        let mut turn = 0u32;
        while self.pending.load(Ordering::Acquire) != 0 {
            if turn < SPINS {
                std::hint::spin_loop();
                turn += 1;
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, handle) in self.workers.drain(..).zip(&self.handles) {
            handle.unpark();
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
#[derive(Debug, Clone, Copy)]
pub struct SyncMutPtr<T>(pub *mut T);
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
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2, false).unwrap();
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| assert!(worker != bad))));
            assert!(result.is_err(), "worker {bad}");
            pool.run(&|_| ());
        }
    }
}
