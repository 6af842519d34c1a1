//! An engine's messages, for a sink of the caller's. There is no global one, and without a sink nothing is put into words.
//!
//! Who speaks never waits: messages go through a bounded queue to a thread that calls the sink. What finds no room is
//! dropped, and counted in the next message.

use crate::queue::Queue;
use crate::{Error, Result, memory};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};

/// Messages that can wait for the sink.
const CAPACITY: usize = 1024;

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The engine cannot go on.
    Error,
    /// It goes on, but not as it should.
    Warn,
    /// What it was set up with, and its end.
    Info,
    /// Each request.
    Debug,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How much it matters.
    pub level: Level,
    /// The part of the engine that speaks.
    pub target: &'static str,
    /// One line.
    pub message: String,
}

/// Where an engine's messages go in; [`Default`] is nowhere.
#[derive(Clone, Default)]
pub struct Log(Option<Arc<Shared>>);

struct Shared {
    level: Level,
    records: Queue<Record>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

impl Log {
    /// A log whose messages up to `level` are given to `sink`, by a thread that ends with the [`Writer`].
    pub fn new(level: Level, sink: impl FnMut(Record) + Send + 'static) -> Result<(Log, Writer)> {
        let (dropped, closed) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { level, records: memory::queue("the log", CAPACITY)?, dropped, closed });
        let reader = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("aieng-log".into()).spawn(move || reader.write_to(sink));
        let thread = thread.map_err(|e| Error::OutOfMemory(format!("the log's thread: {e}")))?;
        Ok((Log(Some(Arc::clone(&shared))), Writer { shared, thread: Some(thread) }))
    }

    /// Says something; `message` is only called if somebody listens.
    pub fn say(&self, level: Level, target: &'static str, message: impl FnOnce() -> String) {
        let Some(shared) = self.0.as_ref().filter(|shared| level <= shared.level) else { return };
        if shared.records.push(Record { level, target, message: message() }).is_err() {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn write_to(&self, mut sink: impl FnMut(Record)) {
        let closed = || self.closed.load(Ordering::SeqCst);
        // `closed` comes after the last message, so one more look settles it.
        while let Some(record) = self.records.pop_wait(None, closed).or_else(|| self.records.pop()) {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let message = format!("{dropped} messages were dropped: they came faster than they were taken");
                sink(Record { level: Level::Warn, target: "log", message });
            }
            sink(record);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({:?})", self.0.as_ref().map(|shared| shared.level))
    }
}

/// The thread that calls the sink. Dropped, it hands over what was said until then, and ends.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// The thread that the sink runs on.
    pub fn thread(&self) -> Option<ThreadId> {
        self.thread.as_ref().map(|thread| thread.thread().id())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.records.wake();
        if let Some(thread) = self.thread.take() {
            // A sink that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn messages_arrive_in_order_up_to_their_level() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        let (log, writer) = Log::new(Level::Info, move |record| ear.lock().unwrap().push(record)).unwrap();
        log.say(Level::Info, "a", || "one".into());
        log.say(Level::Debug, "a", || unreachable!("nobody listens"));
        log.say(Level::Error, "b", || "two".into());
        drop(writer);
        let record = |level, target, message: &str| Record { level, target, message: message.into() };
        assert_eq!(*heard.lock().unwrap(), [record(Level::Info, "a", "one"), record(Level::Error, "b", "two")]);
        Log::default().say(Level::Error, "a", || unreachable!("nobody listens"));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ear, gate) = (Arc::clone(&heard), Arc::new(Mutex::new(())));
        let held = gate.lock().unwrap();
        let open = Arc::clone(&gate);
        let (log, writer) = Log::new(Level::Debug, move |record| {
            drop(open.lock());
            ear.lock().unwrap().push(record.message);
        })
        .unwrap();
        (0..CAPACITY + 100).for_each(|i| log.say(Level::Info, "a", || i.to_string()));
        drop(held);
        drop(writer);
        let heard = heard.lock().unwrap();
        let dropped: usize = heard.iter().find_map(|m| m.split_once(" messages were")?.0.parse().ok()).unwrap();
        assert_eq!(heard.len() - 1 + dropped, CAPACITY + 100);
    }
}
