//! Sections "Version" and "Build": constants, most of them from build.rs.

use crate::input::put;
use crate::{abi, guard};
use aieng_runtime::Isa;
use std::ffi::{CStr, c_char};

/// A constant as C has it.
macro_rules! text {
    ($text:expr) => {
        match CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => panic!("a NUL in a constant"),
        }
    };
}

/// With the git revision, if there was one.
const VERSION: &CStr = text!(env!("AIENG_VERSION"));

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

/// See include/aieng.h.
///
/// # Safety
/// As C has it: `info` is NULL or a struct of the size it begins with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_build_describe(info: *mut abi::aieng_build_info) -> abi::aieng_status {
    const REVISION: &CStr = text!(env!("AIENG_REVISION"));
    const TARGET: &CStr = text!(env!("AIENG_TARGET"));
    const PROFILE: &CStr = text!(env!("AIENG_PROFILE"));
    const COMPILER: &CStr = text!(env!("AIENG_COMPILER"));
    guard::call(|| {
        let described = abi::aieng_build_info {
            struct_size: 0,
            abi_version: abi::AIENG_ABI_VERSION,
            version: VERSION.as_ptr(),
            revision: REVISION.as_ptr(),
            target: TARGET.as_ptr(),
            profile: PROFILE.as_ptr(),
            compiler: COMPILER.as_ptr(),
            kernels: kernels(Isa::best()).as_ptr(),
        };
        // SAFETY: passed on.
        unsafe { put("info", info, &described) }?;
        Ok(abi::AIENG_OK)
    })
}

/// What provenance calls the kernels of an instruction set.
fn kernels(isa: Isa) -> &'static CStr {
    match isa {
        Isa::Portable => c"cpu-portable",
        Isa::Avx2 => c"cpu-avx2",
        Isa::AvxVnni => c"cpu-avx-vnni",
        Isa::Avx512 => c"cpu-avx512",
        Isa::Avx512Bf16 => c"cpu-avx512-bf16",
        Isa::Amx => c"cpu-amx",
    }
}
