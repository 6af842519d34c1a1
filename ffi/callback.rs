//! Functions of the caller's that the library calls, each on a thread of its own: never on the one that steps the engine.

use crate::abi::*;
use crate::engine::Names;
use crate::event::Batch;
use crate::input::invalid;
use aieng_runtime::engine::Engine;
use aieng_runtime::log::{Level, Log, Writer};
use aieng_runtime::{Error, Result};
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

/// Events that are taken out of the engine's queue at once.
const BATCH: usize = 64;

/// What the caller wants to have back with each call.
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: the library never follows it; that its own functions may run on a thread of the library's is the caller's promise.
unsafe impl Send for UserData {}

impl UserData {
    /// As a method, so that closures capture the whole, which is `Send`.
    fn get(&self) -> *mut c_void {
        self.0
    }
}

/// The engine's log, if the caller wants one.
///
/// # Safety
/// `config.log` may be called as the header says.
pub(crate) unsafe fn log(config: &aieng_engine_config) -> Result<Option<(Log, Writer)>> {
    let level = match config.log_level {
        AIENG_LOG_DEFAULT | AIENG_LOG_INFO => Level::Info,
        AIENG_LOG_ERROR => Level::Error,
        AIENG_LOG_WARN => Level::Warn,
        AIENG_LOG_DEBUG => Level::Debug,
        other => return Err(invalid(format!("config.log_level: {other} is no aieng_log_level"))),
    };
    let Some(function) = config.log else {
        return match config.log_level {
            AIENG_LOG_DEFAULT => Ok(None),
            level => Err(invalid(format!("config.log_level: {level}, but log is NULL"))),
        };
    };
    let data = UserData(config.log_data);
    let sink = Log::new(level, move |record| {
        let level = match record.level {
            Level::Error => AIENG_LOG_ERROR,
            Level::Warn => AIENG_LOG_WARN,
            Level::Info => AIENG_LOG_INFO,
            Level::Debug => AIENG_LOG_DEBUG,
        };
        let message = record.message.replace(|c: char| c.is_control(), " ");
        let text = |text: String| CString::new(text).unwrap_or_default();
        let (target, message) = (text(record.target.to_owned()), text(message));
        // SAFETY: passed on; the strings live through the call.
        unsafe { function(data.get(), level, target.as_ptr(), message.as_ptr()) };
    })?;
    Ok(Some(sink))
}

/// The thread that takes an engine's events to the caller's function. Dropped after the engine was shut down, it delivers
/// those that are left, and ends.
pub(crate) struct Delivery {
    thread: Option<JoinHandle<()>>,
}

/// Starts a delivery, if the caller wants one.
///
/// # Safety
/// `config.on_event` may be called as the header says.
pub(crate) unsafe fn deliver(
    config: &aieng_engine_config,
    engine: &Arc<Engine>,
    names: &Arc<Names>,
) -> Result<Option<Delivery>> {
    let Some(function) = config.on_event else { return Ok(None) };
    let (engine, names, data) = (Arc::clone(engine), Arc::clone(names), UserData(config.event_data));
    let thread = std::thread::Builder::new().name("aieng-deliver".into()).spawn(move || {
        let mut batch = Batch::default();
        loop {
            match batch.take(&engine, &names, BATCH, None) {
                // SAFETY: passed on; the event lives through the call.
                Ok(_) => batch.events().for_each(|event| unsafe { function(data.get(), &event) }),
                Err(Error::Closed(_)) => return,
                // No memory for a batch: its events wait in the queue until there is.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    let thread = thread.map_err(|e| Error::OutOfMemory(format!("the thread that delivers events: {e}")))?;
    Ok(Some(Delivery { thread: Some(thread) }))
}

impl Delivery {
    /// The thread that the caller's function runs on.
    pub(crate) fn thread(&self) -> Option<ThreadId> {
        self.thread.as_ref().map(|thread| thread.thread().id())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics but by a bug, and then there is nobody to tell.
            let _ = thread.join();
        }
    }
}
