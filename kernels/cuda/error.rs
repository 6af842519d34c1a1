//! What can go wrong on a device.

use std::fmt;

/// A call to a device failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuError {
    /// There is no such device, no driver, or one that is too old; or this build is without CUDA.
    Unavailable(String),
    /// The device has not this much memory left.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A call failed. What runs on a device cannot be undone, so after this the device is poisoned: every later call fails.
    Failed {
        /// The driver's function, or the kernel.
        call: &'static str,
        /// What the driver says.
        what: String,
    },
    /// An earlier call failed.
    Poisoned(String),
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            GpuError::Unavailable(why) => write!(f, "CUDA device: {why}"),
            GpuError::OutOfMemory { bytes } => write!(f, "CUDA device: no memory for {bytes} bytes"),
            GpuError::Failed { call, what } => write!(f, "CUDA device: {call}: {what}"),
            GpuError::Poisoned(first) => write!(f, "CUDA device: unusable since an earlier error: {first}"),
        }
    }
}

impl std::error::Error for GpuError {}
