//! A device, its memory, and the one launcher.

use crate::driver::{Driver, GraphId};
use crate::{Arg, DevicePtr, GpuError, Launch, Properties};
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

/// Most parameters of a kernel.
const MAX_ARGS: usize = 32;

/// A device with one stream: what is asked of it happens in that order. Clones are the same device.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    driver: Box<dyn Driver>,
    /// The first failure that was not for want of memory.
    poison: OnceLock<String>,
}

impl Gpu {
    /// Device number `ordinal` of the system.
    ///
    /// Errors: [`GpuError::Unavailable`] where this build, the driver or the device does not serve.
    #[cfg(feature = "cuda")]
    pub fn open(ordinal: usize) -> Result<Gpu, GpuError> {
        Ok(Gpu::new(crate::nvidia::Nvidia::open(ordinal)?))
    }

    /// An emulated device: this build has no other.
    #[cfg(all(feature = "emulate", not(feature = "cuda")))]
    pub fn open(ordinal: usize) -> Result<Gpu, GpuError> {
        Ok(Gpu::emulated(ordinal as u64))
    }

    /// Device number `ordinal` of the system: not in this build.
    #[cfg(not(any(feature = "cuda", feature = "emulate")))]
    pub fn open(_ordinal: usize) -> Result<Gpu, GpuError> {
        Err(GpuError::Unavailable("this library was built without CUDA (feature `cuda`)".into()))
    }

    /// An emulated device; `seed` decides in what order its blocks and lanes run, where the program leaves that open.
    #[cfg(feature = "emulate")]
    pub fn emulated(seed: u64) -> Gpu {
        Gpu::new(crate::emulator::Emulator::new(seed))
    }

    /// An emulated device whose call number `call`, counted from 0, fails.
    #[cfg(feature = "emulate")]
    pub fn emulated_with_fault(seed: u64, call: u64) -> Gpu {
        Gpu::new(crate::emulator::Emulator::new(seed).with_fault(call))
    }

    /// An emulated device whose blocks have so many bytes of shared memory.
    #[cfg(feature = "emulate")]
    pub fn emulated_with_shared_bytes(seed: u64, bytes: usize) -> Gpu {
        Gpu::new(crate::emulator::Emulator::new(seed).with_shared_bytes(bytes))
    }

    #[cfg(gpu)]
    fn new(driver: impl Driver + 'static) -> Gpu {
        Gpu(Arc::new(Inner { driver: Box::new(driver), poison: OnceLock::new() }))
    }

    /// The device's own name.
    pub fn name(&self) -> &str {
        self.0.driver.name()
    }

    /// What launches are fitted to.
    pub fn properties(&self) -> Properties {
        self.0.driver.properties()
    }

    /// Whether this is no device, but the emulator.
    pub fn is_emulated(&self) -> bool {
        self.0.driver.is_emulated()
    }

    /// Free and total bytes of the device's memory.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.call(|driver| driver.memory())
    }

    /// Memory of the device, with whatever was in it.
    pub fn alloc(&self, bytes: usize) -> Result<GpuBuffer, GpuError> {
        let ptr = if bytes == 0 { DevicePtr::NULL } else { self.call(|driver| driver.alloc(bytes))? };
        Ok(GpuBuffer { gpu: self.clone(), ptr, bytes })
    }

    /// Memory of the device that holds `bytes`.
    pub fn from_bytes(&self, bytes: &[u8]) -> Result<GpuBuffer, GpuError> {
        let buffer = self.alloc(bytes.len())?;
        buffer.upload(0, bytes)?;
        Ok(buffer)
    }

    /// Host memory that the device reaches itself.
    pub fn alloc_pinned(&self, bytes: usize) -> Result<PinnedBuffer, GpuError> {
        let ptr = self.call(|driver| driver.alloc_pinned(bytes.max(1)))?;
        // What a stranger may have left there is not to be seen.
        // SAFETY: the driver gave this many bytes.
        unsafe { ptr.write_bytes(0, bytes) };
        Ok(PinnedBuffer { gpu: self.clone(), ptr, bytes })
    }

    /// Starts a kernel. Panics for more arguments than any kernel has.
    pub fn launch(&self, kernel: &'static str, config: Launch, args: &[Arg]) -> Result<(), GpuError> {
        assert!(args.len() <= MAX_ARGS, "{kernel}: {} arguments", args.len());
        if config.grid.contains(&0) {
            return Ok(());
        }
        let mut values = [0u64; MAX_ARGS];
        let mut addresses = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        for ((arg, value), address) in args.iter().zip(&mut values).zip(&mut addresses) {
            *value = arg.bits();
            *address = (value as *mut u64).cast();
        }
        self.call(|driver| driver.launch(kernel, config, &mut addresses[..args.len()]))
    }

    /// Waits for all that was started. An error of a kernel that ran meanwhile shows here.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.call(|driver| driver.synchronize())
    }

    /// Records what `launches` launches, to be run again and again; nothing of it runs now.
    pub fn capture(&self, launches: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph, GpuError> {
        self.call(|driver| driver.begin_capture())?;
        // A capture that is not ended would swallow all that comes after it.
        let launched = launches();
        let id = self.call(|driver| driver.end_capture());
        launched?;
        Ok(Graph { gpu: self.clone(), id: id? })
    }

    /// Makes the device usable by the calling thread, which must be done once on each thread but that which opened it.
    pub fn enter(&self) -> Result<(), GpuError> {
        self.call(|driver| driver.enter())
    }

    /// What poisoned the device.
    pub fn poison(&self) -> Option<&str> {
        self.0.poison.get().map(String::as_str)
    }

    fn call<T>(&self, call: impl FnOnce(&dyn Driver) -> Result<T, GpuError>) -> Result<T, GpuError> {
        if let Some(first) = self.0.poison.get() {
            return Err(GpuError::Poisoned(first.clone()));
        }
        let result = call(&*self.0.driver);
        if let Err(error @ GpuError::Failed { .. }) = &result {
            let _ = self.0.poison.set(error.to_string());
        }
        result
    }
}

/// Memory of a device. It is given back when this is dropped.
#[derive(Debug)]
pub struct GpuBuffer {
    gpu: Gpu,
    ptr: DevicePtr,
    bytes: usize,
}

impl GpuBuffer {
    /// Where it begins.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whose memory it is.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Copies `from` to byte `offset` on. Panics if it does not fit.
    pub fn upload(&self, offset: usize, from: &[u8]) -> Result<(), GpuError> {
        self.check(offset, from.len());
        if from.is_empty() { Ok(()) } else { self.gpu.call(|driver| driver.upload(self.ptr.offset(offset), from)) }
    }

    /// Copies from byte `offset` on, once all that was started before is done. Panics if there is not that much.
    pub fn download(&self, offset: usize, to: &mut [u8]) -> Result<(), GpuError> {
        self.check(offset, to.len());
        if to.is_empty() { Ok(()) } else { self.gpu.call(|driver| driver.download(self.ptr.offset(offset), to)) }
    }

    fn check(&self, offset: usize, len: usize) {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.bytes);
        assert!(fits, "bytes {offset}.. ({len}) of {}", self.bytes);
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.gpu.0.driver.free(self.ptr);
        }
    }
}

/// Host memory that a device reaches itself: an upload from it does not wait.
#[derive(Debug)]
pub struct PinnedBuffer {
    gpu: Gpu,
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: the buffer owns its memory.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the driver gave this many bytes, and they were zeroed.
        unsafe { std::slice::from_raw_parts(self.ptr, self.bytes) }
    }

    /// Its bytes. What was uploaded from here must have arrived ([`Gpu::synchronize`], or any download since).
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        self.gpu.0.driver.free_pinned(self.ptr);
    }
}

/// Recorded launches. What they use must live as long.
#[derive(Debug)]
pub struct Graph {
    gpu: Gpu,
    id: GraphId,
}

impl Graph {
    /// Runs them.
    pub fn launch(&self) -> Result<(), GpuError> {
        self.gpu.call(|driver| driver.launch_graph(self.id))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.0.driver.free_graph(self.id);
    }
}
