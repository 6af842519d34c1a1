//! Section "Engine": loading, destroying, and the table of engines by handle.

use crate::abi::*;
use crate::guard;
use crate::handle::{Missing, Ref, Table};
use crate::input::{invalid, known_flags, read};

use aieng_runtime::engine::{DeviceConfig, Engine, EngineConfig};
use aieng_runtime::{Error, Isa, KvDType, Result};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// An engine as its handle names it.
pub(crate) struct Entry {
    pub(crate) engine: Engine,
    /// What the first panic in a call on it said; from then on it is closed.
    pub(crate) poison: OnceLock<String>,
}

static ENGINES: Table<Entry> = Table::new(0xAE);

/// The engine that a handle names.
pub(crate) fn find(handle: *mut aieng_engine) -> Result<Ref<Entry>> {
    ENGINES.get(number(handle)?).map_err(refuse)
}

/// A handle is its number in the guise of a pointer, and is never followed.
fn number(handle: *mut aieng_engine) -> Result<u64> {
    if handle.is_null() {
        return Err(invalid("engine: NULL".into()));
    }
    Ok(handle.addr() as u64)
}

fn refuse(missing: Missing) -> Error {
    match missing {
        Missing::Gone => Error::Closed("engine: was destroyed".into()),
        Missing::NeverMade => invalid("engine: not a handle that aieng_engine_create made".into()),
    }
}

/// The value of a field, or its default where it is zero.
fn or(value: u32, default: usize) -> usize {
    if value == 0 { default } else { value as usize }
}

fn engine_config(config: &aieng_engine_config) -> Result<EngineConfig> {
    known_flags("config.flags", config.flags, AIENG_ENGINE_UNPINNED)?;
    let isa = match config.isa {
        AIENG_ISA_AUTO => None,
        AIENG_ISA_PORTABLE => Some(Isa::Portable),
        AIENG_ISA_AVX2 => Some(Isa::Avx2),
        AIENG_ISA_AVX512 => Some(Isa::Avx512),
        other => return Err(invalid(format!("config.isa: {other} is no aieng_isa"))),
    };
    let device = match (config.device, isa) {
        (AIENG_DEVICE_AUTO | AIENG_DEVICE_CPU, isa) => DeviceConfig::Cpu(isa),
        (AIENG_DEVICE_REFERENCE, None) => DeviceConfig::Reference,
        (AIENG_DEVICE_REFERENCE, Some(isa)) => {
            return Err(invalid(format!("config.isa: {}, but the reference device has none", isa.name())));
        }
        (other, _) => return Err(invalid(format!("config.device: {other} is no aieng_device"))),
    };
    let kv_dtype = match config.kv_type {
        AIENG_KV_AUTO => None,
        AIENG_KV_F32 => Some(KvDType::F32),
        AIENG_KV_F16 => Some(KvDType::F16),
        AIENG_KV_BF16 => Some(KvDType::BF16),
        AIENG_KV_Q8 => Some(KvDType::Q8),
        other => return Err(invalid(format!("config.kv_type: {other} is no aieng_kv_type"))),
    };
    let default = EngineConfig::default();
    Ok(EngineConfig {
        device,
        threads: or(config.threads, default.threads),
        pin: config.flags & AIENG_ENGINE_UNPINNED == 0,
        context: or(config.context, default.context),
        max_sequences: or(config.max_sequences, default.max_sequences),
        max_batch_tokens: or(config.max_batch_tokens, default.max_batch_tokens),
        kv_tokens: usize::try_from(config.kv_tokens)
            .map_err(|_| invalid(format!("config.kv_tokens: {} is too large", config.kv_tokens)))?,
        kv_dtype,
        max_requests: or(config.max_requests, default.max_requests),
        ..default
    })
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: each pointer is NULL or points to what the header says, and nobody changes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_engine_create(
    path: *const c_char,
    config: *const aieng_engine_config,
    engine: *mut *mut aieng_engine,
) -> aieng_status {
    guard::call(|| {
        if engine.is_null() {
            return Err(invalid("engine: NULL".into()));
        }
        // SAFETY: not NULL, so there is room for a handle.
        unsafe { engine.write_unaligned(std::ptr::null_mut()) };
        if path.is_null() {
            return Err(invalid("path: NULL".into()));
        }
        // SAFETY: not NULL, so a string that ends in NUL.
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
        // SAFETY: NULL or a struct of the size it begins with.
        let config = engine_config(&unsafe { read("config", config) }?)?;
        let loaded = Engine::load(path, &config, &mut |_| ())?;
        let number = ENGINES.insert(Entry { engine: loaded, poison: OnceLock::new() })?;
        // SAFETY: as above.
        unsafe { engine.write_unaligned(std::ptr::without_provenance_mut(number as usize)) };
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// Any pointer will do: it is looked up, not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_engine_destroy(engine: *mut aieng_engine) -> aieng_status {
    if engine.is_null() {
        return AIENG_OK;
    }
    guard::call(|| {
        let entry = ENGINES.remove(number(engine)?).map_err(refuse)?;
        // Ends the waits of calls that are inside, so that the last one comes out and the threads can be joined.
        entry.engine.shutdown();
        drop(ENGINES.unshare(entry));
        Ok(AIENG_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zero() -> aieng_engine_config {
        // SAFETY: integers only.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn zero_is_what_the_header_says() {
        let config = engine_config(&zero()).unwrap();
        assert_eq!(config.device, DeviceConfig::Cpu(None));
        assert!(config.pin);
        assert_eq!((config.max_sequences, config.max_batch_tokens, config.max_requests), (16, 512, 256));
        assert_eq!((config.threads, config.context, config.kv_tokens, config.kv_dtype), (0, 0, 0, None));
    }

    #[test]
    fn unknown_values_are_named() {
        let cases = [
            (aieng_engine_config { flags: 6, ..zero() }, "config.flags: unknown bits 0x6"),
            (aieng_engine_config { device: 3, ..zero() }, "config.device: 3 is no aieng_device"),
            (aieng_engine_config { isa: 4, ..zero() }, "config.isa: 4 is no aieng_isa"),
            (aieng_engine_config { kv_type: 5, ..zero() }, "config.kv_type: 5 is no aieng_kv_type"),
            (
                aieng_engine_config { device: AIENG_DEVICE_REFERENCE, isa: AIENG_ISA_AVX2, ..zero() },
                "config.isa: avx2, but the reference device has none",
            ),
        ];
        for (config, message) in cases {
            assert_eq!(engine_config(&config).unwrap_err().to_string(), message);
        }
    }
}
