//! A real device, through cudarc's bindings of the driver API.
//!
//! Only the thinnest layer of cudarc is used: it tells of every error, where the safe one panics for some, and memory is the
//! caller's business. The library is probed before the first call, which would panic without it.

use crate::driver::{Driver, GraphId};
use crate::{DevicePtr, GpuError, Launch, Properties};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};

/// The kernels, by the operation whose source they come from.
static FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// What the fatbins were built with: an older driver does not take them.
const DRIVER: c_int = 13000;
/// Compute capability of the A100: bf16 products and asynchronous copies begin there.
const CAPABILITY: (c_int, c_int) = (8, 0);

/// A device with its primary context, one stream and all kernels.
#[derive(Debug)]
pub struct Nvidia {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    kernels: HashMap<String, sys::CUfunction>,
    name: String,
    properties: Properties,
}

// SAFETY: the driver's handles may be used from any thread that has entered the context.
unsafe impl Send for Nvidia {}
// SAFETY: as above; the driver serialises calls that concern the same stream.
unsafe impl Sync for Nvidia {}

/// Turns the driver's answer into ours.
fn tell<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T, GpuError> {
    result.map_err(|error| {
        let text =
            |text: Result<&CStr, DriverError>| text.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
        GpuError::Failed { call, what: format!("{} ({})", text(error.error_string()), text(error.error_name())) }
    })
}

/// As [`tell`], for allocations.
fn tell_memory<T>(call: &'static str, bytes: usize, result: Result<T, DriverError>) -> Result<T, GpuError> {
    match result {
        Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(GpuError::OutOfMemory { bytes }),
        other => tell(call, other),
    }
}

fn unavailable<T>(why: impl Into<String>) -> Result<T, GpuError> {
    Err(GpuError::Unavailable(why.into()))
}

impl Nvidia {
    /// Opens device `ordinal` and loads all kernels.
    pub fn open(ordinal: usize) -> Result<Nvidia, GpuError> {
        let (device, name) = find(ordinal)?;
        let properties = Properties {
            multiprocessors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared_bytes: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?
                as usize,
            block_shared_bytes: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize,
        };
        // SAFETY: the device is one that the driver named; handles are used as the driver's manual has it. What is made
        // here is given back by `drop`, also if a later call fails, because `nvidia` owns it from the beginning.
        unsafe {
            let context = tell("cuDevicePrimaryCtxRetain", result::primary_ctx::retain(device))?;
            let stream = std::ptr::null_mut();
            let (modules, kernels) = (Vec::new(), HashMap::new());
            let mut nvidia = Nvidia { device, context, stream, modules, kernels, name, properties };
            nvidia.enter()?;
            nvidia.stream = tell("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
            for (source, fatbin) in FATBINS {
                nvidia.load(source, fatbin)?;
            }
            Ok(nvidia)
        }
    }

    /// Loads one source's kernels, and lets each have all shared memory.
    ///
    /// # Safety
    /// The context must be the calling thread's.
    unsafe fn load(&mut self, source: &str, fatbin: &[u8]) -> Result<(), GpuError> {
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        };
        // SAFETY: a fatbin says itself how long it is; all handles come from the calls before.
        unsafe {
            let module = match result::module::load_data(fatbin.as_ptr().cast()) {
                Ok(module) => module,
                Err(error) => {
                    return unavailable(format!("the driver does not take the kernels of {source}: {error:?}"));
                }
            };
            self.modules.push(module);
            let mut count = 0;
            tell("cuModuleGetFunctionCount", sys::cuModuleGetFunctionCount(&mut count, module).result())?;
            let mut functions = vec![std::ptr::null_mut(); count as usize];
            let listed = sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module).result();
            tell("cuModuleEnumerateFunctions", listed)?;
            let most = self.properties.block_shared_bytes as c_int;
            for function in functions {
                let mut name = std::ptr::null();
                tell("cuFuncGetName", sys::cuFuncGetName(&mut name, function).result())?;
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                let fixed = result::function::get_function_attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
                let rest = most - tell("cuFuncGetAttribute", fixed)?;
                let set = result::function::set_function_attribute(
                    function,
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    rest,
                );
                tell("cuFuncSetAttribute", set)?;
                self.kernels.insert(name, function);
            }
        }
        Ok(())
    }
}

/// Checks that driver and device serve.
fn find(ordinal: usize) -> Result<(sys::CUdevice, String), GpuError> {
    use Attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: loading the driver's library runs its initialisers, as any program that uses CUDA does.
    if !unsafe { sys::is_culib_present() } {
        return unavailable("there is no driver (libcuda.so.1 cannot be loaded)");
    }
    let mut version = 0;
    // SAFETY: takes a place for one number.
    tell("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
    if version < DRIVER {
        let dotted = |v: c_int| format!("{}.{}", v / 1000, v % 1000 / 10);
        return unavailable(format!("the driver is for CUDA {}, older than {}", dotted(version), dotted(DRIVER)));
    }
    if let Err(error) = result::init() {
        return unavailable(format!("cuInit: {error:?}"));
    }
    let count = tell("cuDeviceGetCount", result::device::get_count())?;
    let Some(number) = c_int::try_from(ordinal).ok().filter(|n| *n < count) else {
        return unavailable(format!("there is no device {ordinal}; the driver names {count}"));
    };
    let device = tell("cuDeviceGet", result::device::get(number))?;
    let name = tell("cuDeviceGetName", result::device::get_name(device))?;
    let capability = (attribute(device, MAJOR)?, attribute(device, MINOR)?);
    if capability < CAPABILITY {
        let ((major, minor), (least, zero)) = (capability, CAPABILITY);
        return unavailable(format!("{name} has compute capability {major}.{minor}, below {least}.{zero}"));
    }
    Ok((device, name))
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<c_int, GpuError> {
    // SAFETY: the driver named the device.
    tell("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, which) })
}

impl Driver for Nvidia {
    fn name(&self) -> &str {
        &self.name
    }

    fn properties(&self) -> Properties {
        self.properties
    }

    fn is_emulated(&self) -> bool {
        false
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        tell("cuMemGetInfo", result::mem_get_info())
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, GpuError> {
        // SAFETY: what is in it is not assumed.
        tell_memory("cuMemAlloc", bytes, unsafe { result::malloc_sync(bytes) }).map(DevicePtr)
    }

    fn free(&self, ptr: DevicePtr) {
        // SAFETY: from `alloc`, once. The driver waits for what may still use it. An error is one of an earlier call.
        unsafe {
            let _ = self.enter();
            let _ = result::free_sync(ptr.0);
        }
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError> {
        // SAFETY: what is in it is not assumed.
        tell_memory("cuMemHostAlloc", bytes, unsafe { result::malloc_host(bytes, 0) }).map(<*mut c_void>::cast)
    }

    fn free_pinned(&self, ptr: *mut u8) {
        // SAFETY: from `alloc_pinned`, once; nothing is under way any more that reads it.
        unsafe {
            let _ = self.enter();
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_host(ptr.cast());
        }
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<(), GpuError> {
        // SAFETY: there is room (the caller vouches). Memory that is not pinned is copied elsewhere before this returns.
        tell("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to.0, from, self.stream) })
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<(), GpuError> {
        // SAFETY: as above; `to` is borrowed until the copy is done.
        tell("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) })?;
        self.synchronize()
    }

    fn launch(&self, kernel: &'static str, config: Launch, args: &mut [*mut c_void]) -> Result<(), GpuError> {
        let Some(function) = self.kernels.get(kernel) else {
            return Err(GpuError::Failed { call: kernel, what: "there is no such kernel".into() });
        };
        let [x, y, z] = config.grid;
        // SAFETY: the caller vouches for the arguments.
        let launched = unsafe {
            result::launch_kernel(*function, (x, y, z), (config.block, 1, 1), config.shared, self.stream, args)
        };
        tell(kernel, launched)
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: our stream.
        tell("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    fn begin_capture(&self) -> Result<(), GpuError> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: our stream.
        tell("cuStreamBeginCapture", unsafe { result::stream::begin_capture(self.stream, mode) })
    }

    fn end_capture(&self) -> Result<GraphId, GpuError> {
        // SAFETY: our stream, whose capture began; the graph is not needed once it is instantiated.
        unsafe {
            let graph = tell("cuStreamEndCapture", result::stream::end_capture(self.stream))?;
            let flags = sys::CUgraphInstantiate_flags_enum(0);
            let instance = tell("cuGraphInstantiate", result::graph::instantiate(graph, flags));
            let _ = result::graph::destroy(graph);
            Ok(instance? as GraphId)
        }
    }

    fn launch_graph(&self, graph: GraphId) -> Result<(), GpuError> {
        // SAFETY: from `end_capture`, and not yet freed.
        tell("cuGraphLaunch", unsafe { result::graph::launch(graph as sys::CUgraphExec, self.stream) })
    }

    fn free_graph(&self, graph: GraphId) {
        // SAFETY: from `end_capture`, once.
        unsafe {
            let _ = self.enter();
            let _ = result::graph::exec_destroy(graph as sys::CUgraphExec);
        }
    }

    fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: retained until this is dropped.
        tell("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: all of it is ours, and buffers and graphs, which keep the device, are gone.
        unsafe {
            let _ = self.enter();
            for module in &self.modules {
                let _ = result::module::unload(*module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
