//! nvcc, from NVIDIA's wheels on PyPI: it needs no installation, no environment variables and no device.

use crate::fetch;
use crate::report::Outcome;

/// The folder is one that kernels/cuda/build.rs looks into.
const NAME: &str = "nvcc";
const VERSION: &str = "13.0.88";

/// All pinned: wheels of one version ask for any later version of the others, and they do not fit together.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// Fetches it, unless it is there.
pub fn fetch() -> Outcome {
    match fetch::packages(NAME, VERSION, &WHEELS) {
        Ok(folder) => {
            println!("{}", folder.join("nvidia/cu13/bin/nvcc").display());
            Outcome::Passed
        }
        Err(why) => Outcome::Failed(why),
    }
}
