//! Section "Version": constants, so nothing here can fail.

use crate::abi;
use std::ffi::{CStr, c_char};

/// With the git revision, if there was one: see build.rs.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("AIENG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a NUL in the version"),
};

/// See include/aieng.h.
///
/// # Safety
/// Always safe; unsafe because its prototype, like that of any C function, is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_version() -> *const c_char {
    VERSION.as_ptr()
}

/// See include/aieng.h.
///
/// # Safety
/// Always safe; unsafe because its prototype, like that of any C function, is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_abi_version() -> u32 {
    abi::AIENG_ABI_VERSION
}
