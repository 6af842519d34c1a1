//! What a device must be able to do: the seam between one launcher and two drivers.

use crate::GpuError;
use std::ffi::c_void;
use std::fmt::Debug;

/// An address in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePtr(pub(crate) u64);

impl DevicePtr {
    /// No address: what a kernel takes for an argument that is not there.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }

    /// Whether it is a multiple of `bytes`.
    pub fn is_aligned(self, bytes: u64) -> bool {
        self.0.is_multiple_of(bytes)
    }
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer.
    Ptr(DevicePtr),
    /// `uint32_t`
    U32(u32),
    /// `int32_t`
    I32(i32),
    /// `float`
    F32(f32),
}

impl Arg {
    /// The argument's bytes, the first of these eight.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Arg::Ptr(ptr) => ptr.0,
            Arg::U32(x) => x.into(),
            Arg::I32(x) => (x as u32).into(),
            Arg::F32(x) => x.to_bits().into(),
        }
    }
}

impl From<DevicePtr> for Arg {
    fn from(ptr: DevicePtr) -> Arg {
        Arg::Ptr(ptr)
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg::U32(x)
    }
}

impl From<i32> for Arg {
    fn from(x: i32) -> Arg {
        Arg::I32(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::F32(x)
    }
}

/// What a launch is fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory of each, in bytes.
    pub shared_bytes: usize,
    /// Of that, what one block can have: 163 KiB on an A100, 227 on an H100, 99 on devices of 8.6 and 8.9.
    pub block_shared_bytes: usize,
}

/// A captured sequence of launches.
pub(crate) type GraphId = u64;

/// A device with one stream, in which all of this happens in order.
///
/// Its callers vouch that addresses are those of living allocations of this driver with room for what is done there;
/// kernels get theirs from checked tensors.
pub(crate) trait Driver: Send + Sync + Debug {
    /// The device's own name.
    fn name(&self) -> &str;
    /// What a launch is fitted to.
    fn properties(&self) -> Properties;
    /// Whether it only pretends.
    fn is_emulated(&self) -> bool;
    /// Free and total bytes.
    fn memory(&self) -> Result<(usize, usize), GpuError>;
    /// Memory for `bytes` (more than none).
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, GpuError>;
    /// Gives memory back, once what was launched is done.
    fn free(&self, ptr: DevicePtr);
    /// Host memory that the device reaches itself.
    fn alloc_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError>;
    /// Gives it back.
    fn free_pinned(&self, ptr: *mut u8);
    /// Copies to the device. Pinned memory may be read until [`Driver::synchronize`]; other memory is free on return.
    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<(), GpuError>;
    /// Copies from the device, and waits for that.
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<(), GpuError>;
    /// Starts a kernel; `args` are addresses of its parameters.
    fn launch(&self, kernel: &'static str, config: Launch, args: &mut [*mut c_void]) -> Result<(), GpuError>;
    /// Waits for all that was started.
    fn synchronize(&self) -> Result<(), GpuError>;
    /// From here on launches are recorded instead of run.
    fn begin_capture(&self) -> Result<(), GpuError>;
    /// Ends that.
    fn end_capture(&self) -> Result<GraphId, GpuError>;
    /// Runs what was recorded.
    fn launch_graph(&self, graph: GraphId) -> Result<(), GpuError>;
    /// Forgets it.
    fn free_graph(&self, graph: GraphId);
    /// Makes the device usable by the calling thread.
    fn enter(&self) -> Result<(), GpuError>;
}
