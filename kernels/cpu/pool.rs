//! Fork and join on pinned threads that spin between kernels: a kernel takes 20 to 200 µs, a futex wake-up 50.
//!
//! The thread that forks is worker 0. The others wait for the next job by spinning, and park when nothing comes, so an idle
//! engine uses no CPU. Nobody yields: where neighbours want the cores, a yield costs a tick of 4 ms, but who parks is woken
//! at once. Nor does anybody wait for a worker that has not begun: the caller closes a job that has no work left, and waits
//! only for those who entered.
//!
//! Invariants: one job at a time (`fork` asserts it); `fork` returns, or unwinds, only after every worker that entered the
//! job is done with it, so the job may borrow from the caller's stack; a panic in a worker is raised again in the caller.

use core_affinity::CoreId;
use crossbeam_utils::CachePadded;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Pauses before a waiting thread parks: some 80 µs, more than what lies between two kernels of a step.
const SPINS: u32 = 2048;

type Job = dyn Fn(usize) + Sync;

/// Threads that run kernels together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// For waking parked workers, worker 1 first.
    handles: Vec<Thread>,
    cores: Option<Vec<CoreId>>,
}

/// What [`Shared::gate`] holds: the number of the job, how many workers are in it, and two flags.
mod gate {
    /// Workers may enter.
    pub const OPEN: u64 = 1;
    /// The caller is parked, or about to be: who leaves last wakes it.
    pub const WAITING: u64 = 2;
    /// A worker in the job.
    pub const WORKER: u64 = 4;
    /// A job.
    pub const JOB: u64 = 1 << 32;
    /// All workers in the job.
    pub const WORKERS: u64 = JOB - WORKER;
}

struct Shared {
    gate: CachePadded<AtomicU64>,
    /// The job of the gate; written only while it is closed and nobody is in it.
    job: UnsafeCell<Option<*const Job>>,
    /// The caller; written only before `WAITING` is set, read only by workers in the job after it.
    caller: UnsafeCell<Option<Thread>>,
    /// For each worker the next item of its share in [`Pool::parallel_for`].
    next: Vec<CachePadded<AtomicUsize>>,
    parked: Vec<CachePadded<AtomicBool>>,
    busy: AtomicBool,
    panicked: AtomicBool,
    shutdown: AtomicBool,
}

// SAFETY: `job` is written by the one caller of `fork` before the gate opens and read by workers that entered after it; the
// gate's release and acquire order the two, and the count in it keeps the next write behind the last read. `caller` likewise.
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
            gate: CachePadded::new(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
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
        let begun = AtomicUsize::new(0);
        self.fork(&|worker| {
            begun.fetch_add(1, Ordering::Relaxed);
            job(worker);
            // Whoever has not begun when worker 0 returns need not.
            while worker == 0 && begun.load(Ordering::Relaxed) < self.threads() {
                std::thread::yield_now();
            }
        });
    }

    /// Runs `job(0)` here and `job(worker)` on each worker that is there before `job(0)` returns.
    fn fork(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        assert!(!shared.busy.swap(true, Ordering::Acquire), "two jobs at once on one pool");
        // SAFETY: the gate is closed and nobody is in the job: `busy` was clear, so the last one has ended. The pointer's
        // lifetime is stretched, but every use ends before `join` below returns, and it runs even if `job` unwinds.
        unsafe { *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Job>(job)) };
        shared.gate.fetch_add(gate::JOB | gate::OPEN, Ordering::SeqCst);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        shared.join();
        shared.busy.store(false, Ordering::Release);
        let others_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!others_panicked, "a kernel panicked on a worker thread");
    }

    /// Wakes the workers that are parked.
    fn wake(&self) {
        for (handle, parked) in self.handles.iter().zip(&self.shared.parked[1..]) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                handle.unpark();
            }
        }
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
        self.fork(&|worker| {
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
        while let Some(job) = self.enter(worker, seen) {
            seen = job;
            // SAFETY: this worker is in the job: `fork` has stored it, and keeps it alive until nobody is in it.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe {
                if let Some(job) = *self.job.get() {
                    (*job)(worker)
                }
            }));
            if result.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.leave();
        }
    }

    /// Waits for another open job than number `seen`, enters it and returns its number; `None` to shut down.
    fn enter(&self, worker: usize, seen: u64) -> Option<u64> {
        loop {
            for _ in 0..SPINS {
                let now = self.gate.load(Ordering::SeqCst);
                if now & gate::OPEN != 0 && now / gate::JOB != seen {
                    if self.shutdown.load(Ordering::Acquire) {
                        return None;
                    }
                    let entered = now + gate::WORKER;
                    if self.gate.compare_exchange(now, entered, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                        return Some(now / gate::JOB);
                    }
                }
                std::hint::spin_loop();
            }
            // Announce, look again, park: the caller opens the gate before it looks for parked workers.
            self.parked[worker].store(true, Ordering::SeqCst);
            let now = self.gate.load(Ordering::SeqCst);
            if now & gate::OPEN == 0 || now / gate::JOB == seen {
                std::thread::park();
            }
            self.parked[worker].store(false, Ordering::SeqCst);
        }
    }

    /// Leaves the job that this worker is in.
    fn leave(&self) {
        let mut now = self.gate.load(Ordering::Acquire);
        loop {
            let last_of_awaited = now & (gate::WORKERS | gate::WAITING) == gate::WORKER | gate::WAITING;
            // Cloned before the count says that nobody is in the job: after it the caller is gone.
            // SAFETY: `WAITING` is set, so `caller` is written, and not again while this worker is in the job.
            let caller = if last_of_awaited { unsafe { (*self.caller.get()).clone() } } else { None };
            match self.gate.compare_exchange(now, now - gate::WORKER, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return caller.into_iter().for_each(|caller| caller.unpark()),
                Err(changed) => now = changed,
            }
        }
    }

    /// Closes the gate and waits until nobody is in the job.
    fn join(&self) {
        self.gate.fetch_and(!gate::OPEN, Ordering::AcqRel);
        for _ in 0..SPINS {
            if self.gate.load(Ordering::Acquire) & gate::WORKERS == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        // SAFETY: workers read this only after `WAITING` is set.
        unsafe { *self.caller.get() = Some(std::thread::current()) };
        self.gate.fetch_or(gate::WAITING, Ordering::AcqRel);
        while self.gate.load(Ordering::Acquire) & gate::WORKERS != 0 {
            std::thread::park();
        }
        self.gate.fetch_and(!gate::WAITING, Ordering::AcqRel);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        self.shared.gate.fetch_add(gate::JOB | gate::OPEN, Ordering::SeqCst);
        self.wake();
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
        let pool = Pool::new(2, false).unwrap();
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| assert!(worker != bad))));
            assert!(result.is_err(), "worker {bad}");
            pool.run(&|_| ());
        }
    }
}
