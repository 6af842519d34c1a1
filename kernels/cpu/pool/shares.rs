//! How threads share out a job's items, and learn that there are some and that they are done.
//!
//! Each worker has a lane. In it are its share of the items, from which it takes a few at a time, all that it needs to know of the
//! job, and what it has done. Who has nothing left in its own lane looks into the others'.
//!
//! What a fork costs is lines that travel from one core's cache to another's, some 100 ns each. So whoever begins needs its own
//! lane alone, workers do not meet in any line that all of them write, and a share that is used up is only looked at.
//!
//! Invariants: only who has taken an item looks at the job, and until that item counts as done the caller keeps the job alive. A
//! lane's job is the caller's to change, and it does so only when all items of the one before are done. Who takes part in an earlier
//! job takes nothing of a later one, as a share says whose it is.

use super::sync::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, SPINS, Thread, fence, spin_loop, thread,
};
use crossbeam_utils::CachePadded;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

/// Does some items.
pub type Job<'a> = dyn Fn(Range<usize>) + Sync + 'a;

/// A worker panicked.
#[derive(Debug)]
pub struct Panicked;

/// The lanes of all workers, of which the caller is the first.
pub struct Shares {
    lanes: Vec<CachePadded<Lane>>,
    /// The last job.
    number: AtomicU32,
    panicked: AtomicBool,
    shutdown: AtomicBool,
    /// Whether there is a [`Shares::caller`], whom who has done items wakes.
    waiting: AtomicBool,
    caller: Mutex<Option<Thread>>,
}

struct Lane {
    /// Items of its share that nobody has taken, and the number of the job ([`numbered`]). Jobs are numbered by 32 bits: a worker
    /// would have to sleep through all of them between a look and an exchange.
    left: AtomicU64,
    /// Items, of whatever share, that this worker has done, and the job's number.
    done: AtomicU64,
    /// Where the caller has the job.
    job: AtomicPtr<&'static Job<'static>>,
    /// All items of the job, and how many are taken at once.
    items: AtomicU32,
    grain: AtomicU32,
    /// The worker is parked, or about to be.
    parked: AtomicBool,
}

/// Looks a number of times whether something holds, and returns whether it does.
fn spin_until(holds: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if holds() {
            return true;
        }
        spin_loop();
    }
    false
}

/// A count beside the number of a job.
fn numbered(number: u32, count: u32) -> u64 {
    u64::from(number) << 32 | u64::from(count)
}

fn number_of(numbered: u64) -> u32 {
    (numbered >> 32) as u32
}

fn count_of(numbered: u64) -> u32 {
    numbered as u32
}

impl Shares {
    pub fn new(workers: usize) -> Shares {
        Shares {
            lanes: (0..workers).map(|_| CachePadded::new(Lane::new())).collect(),
            number: AtomicU32::new(0),
            panicked: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            caller: Mutex::new(None),
        }
    }

    /// Shares out a job, and returns its number.
    ///
    /// # Safety
    /// All of the job must be joined ([`Shares::join`]) before `job` goes, and before the next one begins.
    pub unsafe fn begin(&self, job: &&Job, items: u32, grain: u32) -> u32 {
        let number = self.number.load(Ordering::Relaxed).wrapping_add(1);
        self.number.store(number, Ordering::Relaxed);
        for (worker, lane) in self.lanes.iter().enumerate() {
            lane.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
            lane.items.store(items, Ordering::Relaxed);
            lane.grain.store(grain, Ordering::Relaxed);
            let share = self.share(worker, items);
            lane.left.store(numbered(number, share.end - share.start), Ordering::Release);
        }
        number
    }

    /// The workers that do not see by themselves that a job has begun.
    pub fn asleep(&self) -> impl Iterator<Item = usize> {
        // Who parks says so before it looks for a job for the last time.
        fence(Ordering::SeqCst);
        let parked = |lane: &Lane| lane.parked.load(Ordering::Relaxed) && lane.parked.swap(false, Ordering::Relaxed);
        (1..self.lanes.len()).filter(move |worker| parked(&self.lanes[*worker]))
    }

    /// Does items of a job as worker `worker` until none is left: of its own share from one end to the other, then of the others'.
    /// Counts them by `done`, share by share, even if the job panics.
    pub fn take_part(&self, worker: usize, number: u32, done: &dyn Fn(u32)) {
        for other in (worker..self.lanes.len()).chain(0..worker) {
            self.take_share(&self.lanes[worker], other, number, Taken { items: 0, done });
        }
    }

    /// Does what is left of the share of worker `other`, on behalf of the one whose lane is `mine`.
    fn take_share(&self, mine: &Lane, other: usize, number: u32, mut taken: Taken) {
        while let Some((left, count)) = self.lanes[other].take(number, mine.grain.load(Ordering::Relaxed)) {
            taken.items += count;
            let start = self.share(other, mine.items.load(Ordering::Relaxed)).end - left;
            // SAFETY: these items are not done, so the caller keeps the job, and has written no other into any lane.
            unsafe { (*mine.job.load(Ordering::Relaxed))(start as usize..(start + count) as usize) };
        }
    }

    /// Takes all that is left of a job, and returns how many items that are.
    pub fn abandon(&self, number: u32) -> u32 {
        self.lanes.iter().filter_map(|lane| lane.take(number, u32::MAX)).map(|(_, count)| count).sum()
    }

    /// Waits until the workers beside the caller have done so many items of a job.
    pub fn join(&self, number: u32, items: u32) -> Result<(), Panicked> {
        let of = |done: u64| if number_of(done) == number { count_of(done) } else { 0 };
        let done = || self.lanes[1..].iter().map(|lane| of(lane.done.load(Ordering::Acquire))).sum::<u32>() == items;
        if !spin_until(done) {
            *self.caller() = Some(thread::current());
            self.waiting.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            while !done() {
                thread::park();
            }
            self.waiting.store(false, Ordering::Relaxed);
            *self.caller() = None;
        }
        match self.panicked.swap(false, Ordering::Relaxed) {
            true => Err(Panicked),
            false => Ok(()),
        }
    }

    /// The life of worker `worker`, until [`Shares::shut_down`].
    pub fn work(&self, worker: usize) {
        let mut seen = 0;
        while let Some(number) = self.wait(worker, seen) {
            seen = number;
            let all = Cell::new(0);
            let done = |count| {
                if std::thread::panicking() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                all.set(all.get() + count);
                self.report(worker, number, all.get());
            };
            // What it raises has been noted.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take_part(worker, number, &done)));
        }
    }

    /// Waits for another job than number `seen`, and returns its number; `None` to end.
    fn wait(&self, worker: usize, seen: u32) -> Option<u32> {
        let lane = &self.lanes[worker];
        let number = || number_of(lane.left.load(Ordering::Acquire));
        while !spin_until(|| number() != seen) {
            lane.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if number() == seen {
                thread::park();
            }
            lane.parked.store(false, Ordering::Relaxed);
        }
        Some(number()).filter(|_| !self.shutdown.load(Ordering::Relaxed))
    }

    /// Says that worker `worker` has done so many items of a job.
    fn report(&self, worker: usize, number: u32, items: u32) {
        self.lanes[worker].done.store(numbered(number, items), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) {
            self.caller().iter().for_each(Thread::unpark);
        }
    }

    /// The caller, while it is parked or about to be.
    fn caller(&self) -> MutexGuard<'_, Option<Thread>> {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the workers' lives; those that sleep must be woken.
    pub fn shut_down(&self) {
        self.shutdown.store(true, Ordering::Relaxed);
        let number = self.number.load(Ordering::Relaxed).wrapping_add(1);
        self.lanes.iter().for_each(|lane| lane.left.store(numbered(number, 0), Ordering::Release));
    }

    /// A worker's share of so many items.
    fn share(&self, worker: usize, items: u32) -> Range<u32> {
        let until = |worker: usize| (u64::from(items) * worker as u64 / self.lanes.len() as u64) as u32;
        until(worker)..until(worker + 1)
    }
}

impl Lane {
    fn new() -> Lane {
        Lane {
            left: AtomicU64::new(0),
            done: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            items: AtomicU32::new(0),
            grain: AtomicU32::new(0),
            parked: AtomicBool::new(false),
        }
    }

    /// Takes up to `most` items of the share, if it is one of job `number` and has any left. Returns how many were left, and how
    /// many have been taken.
    fn take(&self, number: u32, most: u32) -> Option<(u32, u32)> {
        let mut now = self.left.load(Ordering::Acquire);
        loop {
            let left = count_of(now);
            if number_of(now) != number || left == 0 {
                return None;
            }
            let count = left.min(most);
            match self.left.compare_exchange_weak(now, now - u64::from(count), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((left, count)),
                Err(changed) => now = changed,
            }
        }
    }
}

/// Items taken of a share; when it goes, they count as done.
struct Taken<'a> {
    items: u32,
    done: &'a dyn Fn(u32),
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.items > 0 {
            (self.done)(self.items);
        }
    }
}
