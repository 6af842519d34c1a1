//! What stands between every exported function and its caller: errors become statuses, panics end here.
//!
//! A panic inside a call on an engine may leave that engine's state half changed. So it is shut down, and each later call
//! on it is `AIENG_ERR_CLOSED` with the panic's message; other engines and the host go on. Nothing of it is printed, unless
//! RUST_BACKTRACE asks for that.

use crate::abi::{aieng_engine, aieng_status};
use crate::engine::{self, Entry};
use crate::status::fail;
use aieng_runtime::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What the library calls its threads begins with this.
const OWN_THREADS: &str = "aieng-";

thread_local! {
    /// Exported functions that this thread is in.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Lives while this thread is in an exported function.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        // Gone only while the thread is ending.
        let _ = INSIDE.try_with(|depth| depth.set(depth.get() + 1));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|depth| depth.set(depth.get() - 1));
    }
}

/// Whether a panic of this thread is the library's.
fn is_own_panic() -> bool {
    let inside = INSIDE.try_with(|depth| depth.get() > 0).unwrap_or(false);
    inside || std::thread::current().name().is_some_and(|name| name.starts_with(OWN_THREADS))
}

/// Keeps Rust from printing the library's panics, which become statuses. Those of a Rust program that it is linked with are
/// printed as before.
fn print_no_panics() {
    static DONE: Once = Once::new();
    // The hook cannot be changed by a thread that unwinds; another call will do it.
    if DONE.is_completed() || std::thread::panicking() {
        return;
    }
    DONE.call_once(|| {
        if std::env::var_os("RUST_BACKTRACE").is_none() {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !is_own_panic() {
                    before(panic);
                }
            }));
        }
    });
}

/// Runs the body of an exported function.
pub(crate) fn call(body: impl FnOnce() -> Result<aieng_status>) -> aieng_status {
    let _inside = Inside::enter();
    // Unwind safe: what a body shares with later calls are the handle tables, whose locks hold no half-made state, and
    // engines, which `call_engine` closes.
    catch_unwind(AssertUnwindSafe(|| {
        print_no_panics();
        body().unwrap_or_else(|error| fail(&error))
    }))
    .unwrap_or_else(|payload| fail(&Error::Internal(message(payload))))
}

/// Runs the body of an exported function on an engine.
pub(crate) fn call_engine(
    handle: *mut aieng_engine,
    body: impl FnOnce(&Entry) -> Result<aieng_status>,
) -> aieng_status {
    call(|| {
        let entry = engine::find(handle)?;
        if let Some(why) = entry.poison.get() {
            return Err(Error::Closed(format!("the engine was closed by an internal error: {why}")));
        }
        // Unwind safe: after a panic, only `shutdown` and drop see the engine again.
        catch_unwind(AssertUnwindSafe(|| body(&entry))).unwrap_or_else(|payload| {
            let why = message(payload);
            let first = entry.poison.set(why.clone()).is_ok();
            if first && let Err(payload) = catch_unwind(AssertUnwindSafe(|| entry.engine.shutdown())) {
                message(payload);
            }
            Err(Error::Internal(why))
        })
    })
}

/// What a panic said.
pub(crate) fn message(payload: Box<dyn Any + Send>) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => {
            // Dropping it would run code of unknown origin that may itself panic, here outside any guard.
            std::mem::forget(other);
            "a panic without a message".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{AIENG_ERR_BUSY, AIENG_ERR_CLOSED, AIENG_ERR_INTERNAL, AIENG_OK, aieng_engine_config};
    use crate::engine::{aieng_engine_create, aieng_engine_destroy};
    use crate::request::aieng_cancel;
    use crate::status::aieng_last_error;
    use std::ffi::{CStr, CString};
    use std::path::PathBuf;

    fn last_error() -> String {
        // SAFETY: a string that ends in NUL, read before the next failing call.
        unsafe { CStr::from_ptr(aieng_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn errors_and_panics_become_statuses() {
        assert_eq!(call(|| Ok(AIENG_OK)), AIENG_OK);
        assert_eq!(call(|| Err(Error::Busy("full".into()))), AIENG_ERR_BUSY);
        assert_eq!(call(|| panic!("row {}", 7)), AIENG_ERR_INTERNAL);
        assert_eq!(last_error(), "internal error: row 7");
    }

    #[test]
    fn panics_print_nothing() {
        const CHILD: &str = "AIENG_TEST_PANIC_CHILD";
        let name = "guard::tests::panics_print_nothing";
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(call(|| panic!("in a call")), AIENG_ERR_INTERNAL);
            let own = std::thread::Builder::new().name("aieng-test".into());
            assert!(own.spawn(|| panic!("in a thread of the library's")).unwrap().join().is_err());
            assert!(catch_unwind(|| panic!("elsewhere")).is_err());
            return;
        }
        // In a process of its own: what other tests do with panics does not matter there.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").env_remove("RUST_BACKTRACE");
        let output = child.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{printed}");
        assert!(
            printed.contains("elsewhere") && !printed.contains("in a call") && !printed.contains("in a thread"),
            "{printed}"
        );
    }

    #[test]
    fn a_panic_closes_its_engine_alone() {
        let home = std::env::var_os("AIENG_HOME").map(PathBuf::from);
        let model = home.map(|home| home.join("models/smollm2-135m.gguf")).filter(|path| path.is_file());
        let Some(model) = model else {
            eprintln!("SKIPPED: a_panic_closes_its_engine_alone: no smollm2-135m.gguf in $AIENG_HOME/models");
            return;
        };
        let model = CString::new(model.into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: integers only.
        let mut config: aieng_engine_config = unsafe { std::mem::zeroed() };
        config.struct_size = size_of_val(&config) as u32;
        let create = || {
            let mut engine = std::ptr::null_mut();
            // SAFETY: a string, a struct and room for a handle.
            assert_eq!(unsafe { aieng_engine_create(model.as_ptr(), &config, &mut engine) }, AIENG_OK);
            engine
        };
        let (broken, other) = (create(), create());
        assert_eq!(call_engine(broken, |_| panic!("row 8")), AIENG_ERR_INTERNAL);
        // SAFETY: handles that are in use.
        unsafe {
            assert_eq!(aieng_cancel(broken, 1), AIENG_ERR_CLOSED);
            assert_eq!(last_error(), "the engine was closed by an internal error: row 8");
            assert_eq!(aieng_cancel(other, 1), AIENG_OK);
            assert_eq!(aieng_engine_destroy(broken), AIENG_OK);
            assert_eq!(aieng_engine_destroy(other), AIENG_OK);
        }
    }

    #[test]
    fn a_payload_that_panics_in_drop_does_no_harm() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        assert_eq!(call(|| std::panic::panic_any(Bomb)), AIENG_ERR_INTERNAL);
    }
}
