//! Section "Engine": loading, destroying, and the table of engines by handle.

use crate::abi::*;
use crate::callback::{self, Delivery, UserData};
use crate::fork::{self, Process};
use crate::guard;
use crate::handle::{Missing, Ref, Table};
use crate::input::{invalid, known_flags, or, put, read, slice};

use aieng_runtime::engine::{DeviceConfig, Engine, EngineConfig, Policy, SimulatedCost};
use aieng_runtime::log::{Log, Writer};
use aieng_runtime::{Error, Isa, KvDType, Result};
use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// An engine as its handle names it. Fields go in this order: nobody speaks after the engine, nobody listens after that.
pub(crate) struct Entry {
    /// Calls `on_event`.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) engine: Arc<Engine>,
    log: Option<Writer>,
    pub(crate) names: Arc<Names>,
    config: EngineConfig,
    device: aieng_device,
    made_by: Process,
    /// What the first panic in a call on it said; from then on it is closed.
    pub(crate) poison: OnceLock<String>,
}

/// Strings that outlive calls, as C has them.
pub(crate) struct Names {
    pub(crate) kernels: CString,
    model: CString,
    architecture: CString,
    gpu: CString,
}

pub(crate) static ENGINES: Table<Entry> = Table::new(0xAE);

/// The engine that a handle names.
pub(crate) fn find(handle: *mut aieng_engine) -> Result<Ref<Entry>> {
    let entry = ENGINES.get(number(handle)?).map_err(refuse)?;
    if entry.made_by != fork::process() {
        return Err(Error::Closed("engine: belongs to the process that this one is a fork of".into()));
    }
    Ok(entry)
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

fn isa(config: &aieng_engine_config) -> Result<Option<Isa>> {
    Ok(match config.isa {
        AIENG_ISA_AUTO => None,
        AIENG_ISA_PORTABLE => Some(Isa::Portable),
        AIENG_ISA_AVX2 => Some(Isa::Avx2),
        AIENG_ISA_AVX512 => Some(Isa::Avx512),
        AIENG_ISA_AVX512_BF16 => Some(Isa::Avx512Bf16),
        AIENG_ISA_AMX => Some(Isa::Amx),
        AIENG_ISA_AVX_VNNI => Some(Isa::AvxVnni),
        other => return Err(invalid(format!("config.isa: {other} is no aieng_isa"))),
    })
}

/// The simulation has no device of its own: what is said here of the reference device then does no harm.
fn device(config: &aieng_engine_config) -> Result<DeviceConfig> {
    if config.reserved != 0 {
        return Err(invalid(format!("config.reserved: {}, and must be 0", config.reserved)));
    }
    if config.gpu != 0 && config.device != AIENG_DEVICE_CUDA {
        return Err(invalid(format!("config.gpu: {}, but the device is no GPU", config.gpu)));
    }
    match (config.device, isa(config)?) {
        (AIENG_DEVICE_AUTO | AIENG_DEVICE_CPU, isa) => Ok(DeviceConfig::Cpu(isa)),
        (AIENG_DEVICE_CUDA, None) => Ok(DeviceConfig::Cuda(config.gpu as usize)),
        (AIENG_DEVICE_REFERENCE | AIENG_DEVICE_SIMULATED, None) => Ok(DeviceConfig::Reference),
        (AIENG_DEVICE_REFERENCE | AIENG_DEVICE_SIMULATED | AIENG_DEVICE_CUDA, Some(isa)) => {
            Err(invalid(format!("config.isa: {}, but the device is no CPU", isa.name())))
        }
        (other, _) => Err(invalid(format!("config.device: {other} is no aieng_device"))),
    }
}

fn policy(config: &aieng_engine_config) -> Result<Policy> {
    let (size, wait) = (config.policy_size as usize, Duration::from_millis(config.policy_wait_ms.into()));
    let unused = |name: &str, value: u32| match value {
        0 => Ok(()),
        _ => Err(invalid(format!("config.{name}: {value}, but the policy does not use it"))),
    };
    match config.policy {
        AIENG_POLICY_CONTINUOUS => {
            unused("policy_size", config.policy_size)?;
            unused("policy_wait_ms", config.policy_wait_ms)?;
            Ok(Policy::Continuous)
        }
        AIENG_POLICY_DYNAMIC => Ok(Policy::Dynamic { size, wait }),
        AIENG_POLICY_STATIC => {
            unused("policy_wait_ms", config.policy_wait_ms)?;
            Ok(Policy::Static { size })
        }
        other => Err(invalid(format!("config.policy: {other} is no aieng_policy"))),
    }
}

fn kv_dtype(config: &aieng_engine_config) -> Result<Option<KvDType>> {
    Ok(match config.kv_type {
        AIENG_KV_AUTO => None,
        AIENG_KV_F32 => Some(KvDType::F32),
        AIENG_KV_F16 => Some(KvDType::F16),
        AIENG_KV_BF16 => Some(KvDType::BF16),
        AIENG_KV_Q8 => Some(KvDType::Q8),
        other => return Err(invalid(format!("config.kv_type: {other} is no aieng_kv_type"))),
    })
}

/// # Safety
/// The pointers in it are NULL or point to what the header says.
unsafe fn tenant_weights(config: &aieng_engine_config) -> Result<Vec<(u32, u32)>> {
    if config.tenant_count > 1024 {
        return Err(invalid(format!("config.tenant_count: {}, at most 1024 allowed", config.tenant_count)));
    }
    // SAFETY: passed on.
    let (tenants, weights) = unsafe {
        (
            slice("config.tenants", config.tenants, config.tenant_count)?,
            slice("config.tenant_weights", config.tenant_weights, config.tenant_count)?,
        )
    };
    Ok(tenants.iter().copied().zip(weights.iter().copied()).collect())
}

/// # Safety
/// As for [`tenant_weights`].
unsafe fn engine_config(config: &aieng_engine_config) -> Result<EngineConfig> {
    known_flags("config.flags", config.flags, AIENG_ENGINE_UNPINNED | AIENG_ENGINE_NO_PREFIX_CACHE)?;
    let size = |name: &str, bytes: u64| {
        usize::try_from(bytes).map_err(|_| invalid(format!("config.{name}: {bytes} is too large")))
    };
    if config.simulated_step_us != 0 && config.device != AIENG_DEVICE_SIMULATED {
        let us = config.simulated_step_us;
        return Err(invalid(format!("config.simulated_step_us: {us}, but the device is not simulated")));
    }
    let default = EngineConfig::default();
    Ok(EngineConfig {
        device: device(config)?,
        threads: or(config.threads as usize, default.threads),
        pin: config.flags & AIENG_ENGINE_UNPINNED == 0,
        context: or(config.context as usize, default.context),
        max_sequences: or(config.max_sequences as usize, default.max_sequences),
        max_batch_tokens: or(config.max_batch_tokens as usize, default.max_batch_tokens),
        kv_tokens: size("kv_tokens", config.kv_tokens)?,
        kv_bytes: size("kv_bytes", config.kv_bytes)?,
        kv_dtype: kv_dtype(config)?,
        max_requests: or(config.max_requests as usize, default.max_requests),
        policy: policy(config)?,
        prefix_cache: config.flags & AIENG_ENGINE_NO_PREFIX_CACHE == 0,
        ageing: or(Duration::from_millis(config.ageing_ms.into()), default.ageing),
        // SAFETY: passed on.
        tenant_weights: unsafe { tenant_weights(config) }?,
        log: Log::default(),
    })
}

/// Text of the model's file for C, which knows no NUL within.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// A file's path, which is no longer than the system takes.
///
/// # Safety
/// `path` is NULL or a string that ends in NUL.
unsafe fn file_path(path: *const c_char) -> Result<PathBuf> {
    if path.is_null() {
        return Err(invalid("path: NULL".into()));
    }
    // SAFETY: not NULL, so a string that ends in NUL.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    let most = libc::PATH_MAX as usize - 1;
    if bytes.len() > most {
        return Err(invalid(format!("path: {} bytes, at most {most} allowed", bytes.len())));
    }
    Ok(OsStr::from_bytes(bytes).into())
}

/// Loads what the caller asks for.
///
/// # Safety
/// As for [`tenant_weights`]; the callbacks are functions that may be called as the header says.
unsafe fn create(path: Option<PathBuf>, given: &aieng_engine_config) -> Result<Entry> {
    // SAFETY: passed on.
    let mut config = unsafe { engine_config(given) }?;
    config.validate()?;
    fork::watch()?;
    // SAFETY: passed on.
    let log = unsafe { callback::log(given) }?;
    let writer = log.map(|(log, writer)| {
        config.log = log;
        writer
    });
    let engine = match path {
        None => {
            let cost =
                SimulatedCost { step: Duration::from_micros(given.simulated_step_us.into()), ..Default::default() };
            Engine::simulated(&config, cost)?
        }
        Some(path) => {
            let progress = given.progress.map(|function| (function, UserData(given.progress_data)));
            let mut told = |done: f32| match &progress {
                // SAFETY: the caller's promise, on the caller's own thread.
                Some((function, data)) if unsafe { function(data.0, done) } != 0 => {
                    Err(Error::Cancelled("progress: ended the load".into()))
                }
                _ => Ok(()),
            };
            Engine::load(&path, &config, &mut told)?
        }
    };
    let info = engine.info();
    let names = Arc::new(Names {
        kernels: c_string(info.kernels),
        model: c_string(&info.name),
        architecture: c_string(&info.architecture),
        gpu: c_string(info.gpu.as_deref().unwrap_or_default()),
    });
    let engine = Arc::new(engine);
    // SAFETY: passed on.
    let delivery = unsafe { callback::deliver(given, &engine, &names) }?;
    let (made_by, poison) = (fork::process(), OnceLock::new());
    let device = if given.device == AIENG_DEVICE_AUTO { AIENG_DEVICE_CPU } else { given.device };
    Ok(Entry { delivery, engine, log: writer, names, config, device, made_by, poison })
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
        // SAFETY: NULL or a struct of the size it begins with.
        let config = unsafe { read("config", config) };
        let simulated = config.as_ref().is_ok_and(|config| config.device == AIENG_DEVICE_SIMULATED);
        // SAFETY: passed on.
        let path = if simulated { None } else { Some(unsafe { file_path(path) }?) };
        let vacancy = ENGINES.vacancy()?;
        // SAFETY: passed on.
        let number = vacancy.fill(unsafe { create(path, &config?) }?);
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
        let entry = find(engine)?;
        let callbacks =
            [entry.delivery.as_ref().and_then(Delivery::thread), entry.log.as_ref().and_then(Writer::thread)];
        if callbacks.into_iter().flatten().any(|thread| thread == std::thread::current().id()) {
            return Err(invalid("engine: cannot be destroyed by its own callback".into()));
        }
        drop(entry);
        let entry = ENGINES.remove(number(engine)?).map_err(refuse)?;
        // Ends the waits of calls that are inside, so that the last one comes out and the threads can be joined.
        entry.engine.shutdown();
        drop(ENGINES.unshare(entry));
        Ok(AIENG_OK)
    })
}

/// See include/aieng.h.
///
/// # Safety
/// Any pointer will do: it is looked up, not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_engine_shutdown(engine: *mut aieng_engine) -> aieng_status {
    guard::call_engine(engine, |entry| {
        entry.engine.shutdown();
        Ok(AIENG_OK)
    })
}

/// A number for C, which has fewer bits for it than a number of things in memory can need.
fn saturated(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// See include/aieng.h.
///
/// # Safety
/// As C has it: `info` is NULL or a struct of the size it begins with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aieng_engine_describe(
    engine: *mut aieng_engine,
    info: *mut aieng_engine_info,
) -> aieng_status {
    guard::call_engine(engine, |entry| {
        let Entry { engine, config, names, .. } = entry;
        let of = engine.info();
        let described = aieng_engine_info {
            struct_size: 0,
            device: entry.device,
            isa: of.isa.map_or(AIENG_ISA_AUTO, |isa| match isa {
                Isa::Portable => AIENG_ISA_PORTABLE,
                Isa::Avx2 => AIENG_ISA_AVX2,
                Isa::AvxVnni => AIENG_ISA_AVX_VNNI,
                Isa::Avx512 => AIENG_ISA_AVX512,
                Isa::Avx512Bf16 => AIENG_ISA_AVX512_BF16,
                Isa::Amx => AIENG_ISA_AMX,
            }),
            kv_type: match of.kv_dtype {
                KvDType::F32 => AIENG_KV_F32,
                KvDType::F16 => AIENG_KV_F16,
                KvDType::BF16 => AIENG_KV_BF16,
                KvDType::Q8 => AIENG_KV_Q8,
            },
            kernels: names.kernels.as_ptr(),
            model_name: names.model.as_ptr(),
            architecture: names.architecture.as_ptr(),
            fingerprint: halves(of.fingerprint),
            weight_bytes: of.weight_bytes as u64,
            kv_bytes: of.kv_bytes as u64,
            kv_tokens: engine.kv_tokens() as u64,
            threads: saturated(of.threads),
            context: saturated(engine.context()),
            max_sequences: saturated(config.max_sequences),
            max_batch_tokens: saturated(config.max_batch_tokens),
            max_requests: saturated(config.max_requests),
            vocab_size: saturated(engine.vocab_size()),
            has_chat_template: engine.chat_template().is_some().into(),
            bos_token: engine.tokenizer().bos().map_or(u32::MAX, |token| token.0),
            gpu: names.gpu.as_ptr(),
        };
        // SAFETY: passed on.
        unsafe { put("info", info, &described) }?;
        Ok(AIENG_OK)
    })
}

/// The lower half first.
pub(crate) fn halves(n: u128) -> [u64; 2] {
    [n as u64, (n >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::zero;

    fn read(config: &aieng_engine_config) -> Result<EngineConfig> {
        // SAFETY: no pointers in it.
        unsafe { engine_config(config) }
    }

    #[test]
    fn zero_is_what_the_header_says() {
        let config = read(&zero()).unwrap();
        assert_eq!(config.device, DeviceConfig::Cpu(None));
        assert!(config.pin);
        assert_eq!((config.max_sequences, config.max_batch_tokens, config.max_requests), (16, 512, 256));
        assert_eq!((config.threads, config.context, config.kv_tokens, config.kv_dtype), (0, 0, 0, None));
    }

    #[test]
    fn unknown_values_are_named() {
        let cases = [
            (aieng_engine_config { flags: 6, ..zero() }, "config.flags: unknown bits 0x4"),
            (aieng_engine_config { device: 5, ..zero() }, "config.device: 5 is no aieng_device"),
            (aieng_engine_config { reserved: 1, ..zero() }, "config.reserved: 1, and must be 0"),
            (aieng_engine_config { gpu: 1, ..zero() }, "config.gpu: 1, but the device is no GPU"),
            (aieng_engine_config { isa: 7, ..zero() }, "config.isa: 7 is no aieng_isa"),
            (aieng_engine_config { kv_type: 5, ..zero() }, "config.kv_type: 5 is no aieng_kv_type"),
            (
                aieng_engine_config { device: AIENG_DEVICE_REFERENCE, isa: AIENG_ISA_AVX2, ..zero() },
                "config.isa: avx2, but the device is no CPU",
            ),
            (aieng_engine_config { policy: 3, ..zero() }, "config.policy: 3 is no aieng_policy"),
            (aieng_engine_config { policy_size: 4, ..zero() }, "config.policy_size: 4, but the policy does not use it"),
            (
                aieng_engine_config { policy: AIENG_POLICY_STATIC, policy_wait_ms: 5, ..zero() },
                "config.policy_wait_ms: 5, but the policy does not use it",
            ),
            (
                aieng_engine_config { simulated_step_us: 5, ..zero() },
                "config.simulated_step_us: 5, but the device is not simulated",
            ),
            (aieng_engine_config { tenant_count: 1025, ..zero() }, "config.tenant_count: 1025, at most 1024 allowed"),
            (aieng_engine_config { tenant_count: 1, ..zero() }, "config.tenants: NULL, but its count is not 0"),
        ];
        for (config, message) in cases {
            assert_eq!(read(&config).unwrap_err().to_string(), message);
        }
    }
}
