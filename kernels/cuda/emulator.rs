//! The emulated device: memory is the host's, a launch runs at once, in the calling thread (see emu/).

use crate::driver::{Driver, GraphId};
use crate::{DevicePtr, GpuError, Launch, Properties};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

unsafe extern "C" {
    /// Runs a kernel; 0, or an error's text in `error`.
    fn emu_launch(
        kernel: *const c_char,
        grid: *const u32,
        block: u32,
        shared_bytes: u32,
        params: *mut *mut c_void,
        seed: u64,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    /// A letter for each parameter of a kernel, or null.
    fn emu_kernel_signature(kernel: *const c_char) -> *const c_char;
}

#[cfg(test)]
unsafe extern "C" {
    fn emu_sanitizer() -> *const c_char;
}

/// The sanitizer that the kernels are instrumented for: "address", "thread", or "".
#[cfg(test)]
pub(crate) fn sanitizer() -> &'static str {
    // SAFETY: the function returns a string literal.
    unsafe { CStr::from_ptr(emu_sanitizer()) }.to_str().unwrap()
}

/// What memory on a device is aligned to.
const ALIGN: usize = 256;
/// Most bytes of a kernel's arguments.
const MAX_ARG: usize = 8;

/// A launch of a graph: what the kernel got, but for where its arguments stand.
struct Recorded {
    kernel: &'static str,
    config: Launch,
    args: Vec<[u8; MAX_ARG]>,
}

#[derive(Default)]
struct State {
    /// Bytes of each allocation.
    allocations: HashMap<u64, usize>,
    capture: Option<Vec<Recorded>>,
    graphs: HashMap<GraphId, std::sync::Arc<Vec<Recorded>>>,
    next_graph: GraphId,
}

/// A device that is none.
pub struct Emulator {
    seed: u64,
    /// Calls so far.
    calls: AtomicU64,
    /// The call that fails.
    fault: Option<u64>,
    /// What a block can have.
    shared_bytes: usize,
    state: Mutex<State>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Emulator").field("seed", &self.seed).field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// Memory to pretend to have.
const TOTAL: usize = 16 << 30;

impl Emulator {
    /// A device that has what an H100 has.
    pub fn new(seed: u64) -> Emulator {
        Emulator { seed, calls: AtomicU64::new(0), fault: None, shared_bytes: 227 << 10, state: Mutex::default() }
    }

    /// One whose call number `fault` fails.
    pub fn with_fault(mut self, fault: u64) -> Emulator {
        self.fault = Some(fault);
        self
    }

    /// One whose blocks have less shared memory.
    pub fn with_shared_bytes(mut self, bytes: usize) -> Emulator {
        self.shared_bytes = bytes;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails if it is the one that is to fail.
    fn count(&self, call: &'static str) -> Result<(), GpuError> {
        match self.fault == Some(self.calls.fetch_add(1, Ordering::Relaxed)) {
            true => Err(GpuError::Failed { call, what: "a planted fault".into() }),
            false => Ok(()),
        }
    }

    fn run(&self, kernel: &'static str, config: Launch, args: &mut [*mut c_void]) -> Result<(), GpuError> {
        let name = CString::new(kernel).expect("names of kernels have no zeros");
        // SAFETY: null, or a string that is never freed.
        let signature = unsafe { emu_kernel_signature(name.as_ptr()).as_ref().map(|s| CStr::from_ptr(s)) };
        if let Some(signature) = signature.filter(|s| s.count_bytes() != args.len()) {
            let what = format!("{} arguments, and parameters {signature:?}", args.len());
            return Err(GpuError::Failed { call: kernel, what });
        }
        let mut error = [0u8; 1024];
        // SAFETY: the emulator reads as many arguments as the kernel has; the caller vouches for them.
        let code = unsafe {
            emu_launch(
                name.as_ptr(),
                config.grid.as_ptr(),
                config.block,
                config.shared,
                args.as_mut_ptr(),
                self.seed,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).map(|t| t.to_string_lossy().into_owned());
        Err(GpuError::Failed { call: kernel, what: text.unwrap_or_default() })
    }

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, ALIGN).ok()
    }
}

impl Driver for Emulator {
    fn name(&self) -> &str {
        "emulated"
    }

    /// So few that blocks have more than one thing to do.
    fn properties(&self) -> Properties {
        Properties { multiprocessors: 2, shared_bytes: 164 << 10, block_shared_bytes: self.shared_bytes }
    }

    fn is_emulated(&self) -> bool {
        true
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.count("cuMemGetInfo")?;
        let used: usize = self.state().allocations.values().sum();
        Ok((TOTAL - used, TOTAL))
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, GpuError> {
        let missing = GpuError::OutOfMemory { bytes };
        // On a device it is this call that most often fails, and it is no reason to give the device up.
        self.count("cuMemAlloc").map_err(|_| missing.clone())?;
        let layout = Emulator::layout(bytes).ok_or(missing.clone())?;
        let mut state = self.state();
        let used: usize = state.allocations.values().sum();
        if bytes > TOTAL - used {
            return Err(missing);
        }
        // SAFETY: the layout has a size.
        let ptr = unsafe { alloc(layout) };
        if ptr.is_null() {
            return Err(missing);
        }
        // NaN in every float format: a kernel that reads what nobody wrote shows it.
        // SAFETY: this many bytes were given.
        unsafe { ptr.write_bytes(0xff, bytes) };
        state.allocations.insert(ptr as u64, bytes);
        Ok(DevicePtr(ptr as u64))
    }

    fn free(&self, ptr: DevicePtr) {
        if let Some(layout) = self.state().allocations.remove(&ptr.0).and_then(Emulator::layout) {
            // SAFETY: allocated with this layout, and no longer listed.
            unsafe { dealloc(ptr.0 as *mut u8, layout) };
        }
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError> {
        self.alloc(bytes).map(|ptr| ptr.0 as *mut u8)
    }

    fn free_pinned(&self, ptr: *mut u8) {
        self.free(DevicePtr(ptr as u64));
    }

    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<(), GpuError> {
        self.count("cuMemcpyHtoDAsync")?;
        // SAFETY: there is room (the caller vouches).
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.0 as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<(), GpuError> {
        self.count("cuMemcpyDtoHAsync")?;
        // SAFETY: there is as much (the caller vouches).
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn launch(&self, kernel: &'static str, config: Launch, args: &mut [*mut c_void]) -> Result<(), GpuError> {
        self.count(kernel)?;
        let (shared, most) = (config.shared as usize, self.shared_bytes);
        if shared > most {
            let what = format!("{shared} bytes of shared memory, and a block has at most {most}");
            return Err(GpuError::Failed { call: kernel, what });
        }
        if let Some(capture) = &mut self.state().capture {
            // SAFETY: the launcher's arguments are eight bytes each.
            let args = args.iter().map(|arg| unsafe { arg.cast::<[u8; MAX_ARG]>().read() }).collect();
            capture.push(Recorded { kernel, config, args });
            return Ok(());
        }
        self.run(kernel, config, args)
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        self.count("cuStreamSynchronize")
    }

    fn begin_capture(&self) -> Result<(), GpuError> {
        self.count("cuStreamBeginCapture")?;
        self.state().capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphId, GpuError> {
        let counted = self.count("cuStreamEndCapture");
        let mut state = self.state();
        let launches = state.capture.take().unwrap_or_default();
        counted?;
        state.next_graph += 1;
        let id = state.next_graph;
        state.graphs.insert(id, std::sync::Arc::new(launches));
        Ok(id)
    }

    fn launch_graph(&self, graph: GraphId) -> Result<(), GpuError> {
        self.count("cuGraphLaunch")?;
        let launches = self.state().graphs.get(&graph).cloned();
        let Some(launches) = launches else {
            return Err(GpuError::Failed { call: "cuGraphLaunch", what: format!("there is no graph {graph}") });
        };
        for Recorded { kernel, config, args } in launches.iter() {
            let mut args = args.clone();
            let mut addresses: Vec<*mut c_void> = args.iter_mut().map(|arg| arg.as_mut_ptr().cast()).collect();
            self.run(kernel, *config, &mut addresses)?;
        }
        Ok(())
    }

    fn free_graph(&self, graph: GraphId) {
        self.state().graphs.remove(&graph);
    }

    fn enter(&self) -> Result<(), GpuError> {
        self.count("cuCtxSetCurrent")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let left: Vec<u64> = self.state().allocations.keys().copied().collect();
        left.into_iter().for_each(|ptr| self.free(DevicePtr(ptr)));
    }
}
