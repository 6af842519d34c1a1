//! What proves and measures the GPU backend on a machine that has a GPU, but neither Cargo nor nvcc: built here, packed into one
//! folder, and run there by its `run.sh` (gpu_check.sh).

use crate::cargo::{cargo, finish};
use crate::report::{Outcome, Report};
use crate::{root, toolchain};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a package may have in all.
const MOST_BYTES: u64 = 64 << 20;

/// What the package's kernels run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A GPU.
    Cuda,
    /// The emulator.
    Emulated,
}

impl Device {
    fn feature(self) -> &'static str {
        match self {
            Device::Cuda => "cuda",
            Device::Emulated => "emulate",
        }
    }
}

/// Packs, and runs the package if there is a device for it.
pub fn run(report: &mut Report, device: Device) {
    let folder = root().join("target/gpu-check").join(device.feature());
    if !pack(report, device, &folder) {
        return;
    }
    let has_device = device == Device::Emulated || Path::new("/dev/nvidiactl").exists();
    report.step("run.sh", || {
        if !has_device {
            return Outcome::Skipped("no CUDA device".into());
        }
        let mut command = Command::new("sh");
        command.arg(folder.join("run.sh")).stdin(Stdio::null());
        if device == Device::Emulated {
            command.arg("--emulated");
        }
        finish(command.arg(folder.join("results")))
    });
}

/// Builds everything and lays it into `folder`. Whether that went well.
pub fn pack(report: &mut Report, device: Device, folder: &Path) -> bool {
    let name = format!("package for the feature {}", device.feature());
    let mut well = false;
    report.step(&name, || match try_pack(device, folder) {
        Ok(bytes) => {
            println!("{}: {:.1} MB", folder.display(), bytes as f64 / 1e6);
            well = true;
            Outcome::Passed
        }
        Err(outcome) => outcome,
    });
    well
}

fn try_pack(device: Device, folder: &Path) -> Result<u64, Outcome> {
    if device == Device::Cuda
        && let Outcome::Failed(why) = toolchain::fetch()
    {
        return Err(Outcome::Skipped(why));
    }
    let failed = |why: String| Outcome::Failed(why);
    let feature = device.feature();
    let features = format!("{feature},proofs");
    let kernels = ["test", "--release", "--no-run", "-p", "aieng-cuda", "--lib", "--bench", "cuda", "--features"];
    let said = build(&[&kernels[..], &[&features]].concat())?;
    let tests = executable(&said, "lib.rs").ok_or_else(|| failed("Cargo names no test binary".into()))?;
    let bench = executable(&said, "cuda.rs").ok_or_else(|| failed("Cargo names no benchmark".into()))?;
    build(&["build", "--release", "-p", "aieng-cli", "--features", feature])?;
    let here = root();
    let files = [
        (tests, "tests"),
        (bench, "bench"),
        (here.join("target/release/aieng"), "aieng"),
        (here.join("tools/xtask/gpu_check.sh"), "run.sh"),
        (here.join("benches/peers/gpu.py"), "gpu.py"),
    ];
    std::fs::create_dir_all(folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    let mut bytes = 0;
    for (from, name) in files {
        let to = folder.join(name);
        let copied = std::fs::copy(&from, &to);
        copied.map_err(|error| failed(format!("{} to {}: {error}", from.display(), to.display())))?;
        // Lines of the source are in the debug information, which is most of a binary. Without binutils it stays.
        if !name.contains('.') {
            let _ = Command::new("strip").arg(&to).stdin(Stdio::null()).status();
        }
        bytes += to.metadata().map_err(|error| failed(format!("{}: {error}", to.display())))?.len();
    }
    if bytes > MOST_BYTES {
        return Err(failed(format!("{}: {bytes} bytes, more than {MOST_BYTES}", folder.display())));
    }
    Ok(bytes)
}

/// Runs Cargo, and gives what it said, which is printed, too, if it fails.
fn build(args: &[&str]) -> Result<String, Outcome> {
    let output = cargo(args).output().map_err(|error| Outcome::Failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    eprint!("{said}");
    Err(Outcome::Failed(format!("cargo {}: {}", args.join(" "), output.status)))
}

/// The binary of the target whose source ends so, of the lines "Executable unittests lib.rs (target/...)".
fn executable(said: &str, source: &str) -> Option<PathBuf> {
    let line = said.lines().find(|line| {
        let before = line.trim_start().strip_prefix("Executable").and_then(|rest| rest.split_once(" ("));
        before.is_some_and(|(name, _)| name.ends_with(source))
    })?;
    let path = line.rsplit_once('(')?.1.strip_suffix(')')?;
    Some(root().join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_binaries_that_cargo_names() {
        let said = "\
    Finished `release` profile [optimized + debuginfo] target(s) in 1m 53s
  Executable unittests lib.rs (target/release/deps/aieng_cuda-1234)
  Executable ../../benches/cuda.rs (target/release/deps/cuda-5678)
";
        assert_eq!(executable(said, "lib.rs"), Some(root().join("target/release/deps/aieng_cuda-1234")));
        assert_eq!(executable(said, "cuda.rs"), Some(root().join("target/release/deps/cuda-5678")));
        assert_eq!(executable("", "lib.rs"), None);
    }
}
