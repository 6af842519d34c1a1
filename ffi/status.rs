//! Section "Statuses": one status for each `runtime::Error`, and each thread's message of its latest error.

use crate::abi::*;
use aieng_runtime::Error;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

const NAMES: [(aieng_status, &CStr); 11] = [
    (AIENG_OK, c"AIENG_OK"),
    (AIENG_TIMEOUT, c"AIENG_TIMEOUT"),
    (AIENG_ERR_INVALID_ARGUMENT, c"AIENG_ERR_INVALID_ARGUMENT"),
    (AIENG_ERR_IO, c"AIENG_ERR_IO"),
    (AIENG_ERR_MODEL_FORMAT, c"AIENG_ERR_MODEL_FORMAT"),
    (AIENG_ERR_UNSUPPORTED, c"AIENG_ERR_UNSUPPORTED"),
    (AIENG_ERR_BUSY, c"AIENG_ERR_BUSY"),
    (AIENG_ERR_OUT_OF_MEMORY, c"AIENG_ERR_OUT_OF_MEMORY"),
    (AIENG_ERR_CLOSED, c"AIENG_ERR_CLOSED"),
    (AIENG_ERR_INTERNAL, c"AIENG_ERR_INTERNAL"),
    (AIENG_ERR_CANCELLED, c"AIENG_ERR_CANCELLED"),
];

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

fn status_of(error: &Error) -> aieng_status {
    match error {
        Error::InvalidArgument(_) => AIENG_ERR_INVALID_ARGUMENT,
        Error::Io { .. } => AIENG_ERR_IO,
        Error::ModelFormat { .. } => AIENG_ERR_MODEL_FORMAT,
        Error::Unsupported(_) => AIENG_ERR_UNSUPPORTED,
        Error::Busy(_) => AIENG_ERR_BUSY,
        Error::OutOfMemory(_) => AIENG_ERR_OUT_OF_MEMORY,
        Error::Closed(_) => AIENG_ERR_CLOSED,
        Error::Internal(_) => AIENG_ERR_INTERNAL,
        Error::Cancelled(_) => AIENG_ERR_CANCELLED,
    }
}

/// Keeps the message for this thread's [`aieng_last_error`], and gives the status to return.
pub(crate) fn fail(error: &Error) -> aieng_status {
    let message = CString::new(one_line(&error.to_string())).ok();
    // Gone only while the thread is ending: then nobody can ask for the message any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
    status_of(error)
}

/// Messages quote file names and model metadata, which may hold anything.
fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// See include/aieng.h.
///
/// # Safety
/// Always safe; unsafe because its prototype, like that of any C function, is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_status_name(status: aieng_status) -> *const c_char {
    let known = NAMES.iter().find(|(value, _)| *value == status);
    known.map_or(c"AIENG_STATUS_UNKNOWN", |(_, name)| name).as_ptr()
}

/// See include/aieng.h.
///
/// # Safety
/// Always safe; unsafe because its prototype, like that of any C function, is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_deref().map(CStr::as_ptr)).ok().flatten().unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the pointer is to a string that ends in NUL, and no call that fails comes between.
        unsafe { CStr::from_ptr(aieng_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_message_is_one_line_and_belongs_to_its_thread() {
        assert_eq!(last_error(), "");
        assert_eq!(fail(&Error::Busy("a\nb\0c".into())), AIENG_ERR_BUSY);
        assert_eq!(last_error(), "a b c");
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().unwrap();
    }

    #[test]
    fn every_status_has_its_name() {
        for (value, name) in NAMES {
            // SAFETY: the names are constants that end in NUL.
            assert_eq!(unsafe { CStr::from_ptr(aieng_status_name(value)) }, name);
        }
        // SAFETY: as above.
        assert_eq!(unsafe { CStr::from_ptr(aieng_status_name(u32::MAX)) }, c"AIENG_STATUS_UNKNOWN");
    }
}
