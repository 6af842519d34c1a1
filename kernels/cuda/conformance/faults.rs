//! Planted faults, which the emulator must find: by an error that says where, by results that are NaN or that differ from
//! seed to seed, or, in a build with a sanitizer, by its report in a process of its own.
//!
//! Sanitized builds need the sanitizer's library in front of all others. `cargo xtask test --emulated` runs them; by hand:
//!
//!     AIENG_EMULATE_SANITIZE=address ASAN_OPTIONS=detect_leaks=0 \
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$(g++ -print-file-name=libasan.so)" \
//!     cargo test -p aieng-cuda --features emulate --target-dir target/asan
//!
//! and the same with `thread` and libtsan.so.

use super::{bytes, words};
use crate::emulator::sanitizer;
use crate::{Arg, Gpu, GpuError, Launch};
use aieng_kernels::testing::Rng;
use std::process::{Command, Output};

const THREADS: usize = 128;

/// Runs a kernel on words, with four of input, output and shared memory for a thread, or with exactly one.
fn run(kernel: &'static str, seed: u64, each: usize) -> Result<Vec<u32>, GpuError> {
    run_blocks(kernel, seed, each, 1)
}

fn run_blocks(kernel: &'static str, seed: u64, each: usize, blocks: u32) -> Result<Vec<u32>, GpuError> {
    let gpu = Gpu::emulated(seed);
    let input = gpu.from_bytes(&bytes(&words(&mut Rng::new(13), each * THREADS))).unwrap();
    let output = gpu.from_bytes(&vec![0; 4 * each * THREADS]).unwrap();
    let shared = if each == 1 { 4 * THREADS } else { 32 << 10 };
    let config = Launch { grid: [blocks, 1, 1], block: THREADS as u32, shared: shared as u32 };
    gpu.launch(kernel, config, &[Arg::Ptr(input.ptr()), Arg::Ptr(output.ptr())])?;
    let mut got = vec![0; output.len()];
    output.download(0, &mut got).unwrap();
    Ok(got.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
}

/// What the emulator says of a kernel, whatever the seed.
fn assert_error(kernel: &'static str, parts: &[&str]) {
    for seed in 0..4 {
        let error = run(kernel, seed, 4).expect_err(kernel).to_string();
        for part in parts.iter().chain(&[kernel, "block (0, 0, 0)"]) {
            assert!(error.contains(part), "{kernel}, seed {seed}: no {part:?} in {error:?}");
        }
    }
}

#[test]
fn divergence_is_told_with_its_place() {
    assert_error("fault_divergent_barrier", &["thread ", "divergence", "barrier"]);
    assert_error("fault_two_shuffles", &["thread ", "divergence", "faults.cu:"]);
    assert_error("fault_wrong_mask", &["thread ", "mask", "faults.cu:"]);
    assert_error("fault_foreign_lane", &["thread ", "not in mask 55555555", "faults.cu:"]);
}

#[test]
fn deadlocks_are_told_with_those_who_wait() {
    assert_error("fault_divergent_shuffle", &["deadlock", "__shfl_xor_sync", "faults.cu:", "64 wait", "64 have ended"]);
    assert_error("fault_deadlock", &["deadlock", "a barrier", "faults.cu:", "64 wait"]);
    assert_error("fault_lost_arrival", &["deadlock", "mbarrier_wait", "faults.cu:", "128 wait"]);
}

#[test]
fn bad_addresses_are_told_and_the_process_lives() {
    if !sanitizer().is_empty() {
        return eprintln!("SKIPPED: bad_addresses_are_told_and_the_process_lives: the sanitizer's own report ends it");
    }
    assert_error("fault_null_pointer", &["thread ", "signal 11", "0x10"]);
    assert_error("fault_endless_recursion", &["thread ", "signal 11"]);
}

#[test]
fn an_engine_goes_on_after_a_failed_launch() {
    for seed in 0..4 {
        run("fault_deadlock", seed, 4).expect_err("a deadlock");
        let got = run("fault_none", seed, 1).unwrap();
        let input = words(&mut Rng::new(13), THREADS);
        assert!((0..THREADS).all(|t| got[t] == input[(t + 32) % THREADS]));
    }
}

#[test]
fn launches_that_no_device_would_take_are_refused() {
    let gpu = || Gpu::emulated(1);
    let launch = |kernel, grid, block, shared| {
        gpu().launch(kernel, Launch { grid, block, shared }, &[Arg::U32(0), Arg::U32(0)]).unwrap_err().to_string()
    };
    assert!(launch("fault_of_nobody", [1; 3], 32, 0).contains("none of this name"));
    assert!(launch("fault_none", [1, 70_000, 1], 32, 0).contains("1 x 70000 x 1 blocks"));
    assert!(launch("fault_none", [1; 3], 48, 0).contains("blocks of 48 threads"));
    assert!(launch("conform_wgmma_n32", [1; 3], 256, 0).contains("at most 128 threads"));
    assert!(launch("fault_none", [1; 3], 128, 256 << 10).contains("262144 bytes of shared memory"));
    let error = gpu().launch("fault_none", Launch { grid: [1; 3], block: 32, shared: 0 }, &[Arg::U32(0)]).unwrap_err();
    assert!(error.to_string().contains("1 arguments"), "{error}");
}

#[test]
fn a_wait_that_is_too_shallow_reads_poison() {
    let input = words(&mut Rng::new(13), 4 * THREADS);
    for seed in 0..4 {
        assert_eq!(run("fault_deep_wait", seed, 4).unwrap(), input);
        assert!(run("fault_shallow_wait", seed, 4).unwrap().iter().all(|w| *w == u32::MAX));
        assert!(run("fault_uninitialised_shared", seed, 1).unwrap().iter().all(|w| *w == u32::MAX));
        // Nor does the second block see what the first one wrote.
        assert!(run_blocks("fault_uninitialised_variable", seed, 1, 2).unwrap().iter().all(|w| *w == u32::MAX));
    }
    assert_error("fault_misaligned_copy", &["thread 70", "not aligned", "faults.cu:"]);
}

#[test]
fn a_stage_that_is_released_too_early_is_read_too_late() {
    let right = run("fault_late_release", 0, 4).unwrap();
    for seed in 0..4 {
        assert_eq!(run("fault_late_release", seed, 4).unwrap(), right);
        assert_ne!(run("fault_early_release", seed, 4).unwrap(), right);
    }
}

/// Without a sanitizer, a race shows in results that depend on the order.
#[test]
fn races_differ_from_seed_to_seed() {
    if sanitizer() == "thread" {
        return eprintln!("SKIPPED: races_differ_from_seed_to_seed: ThreadSanitizer is to report them, in a child");
    }
    for kernel in ["fault_race", "fault_race_in_warp"] {
        let results: Vec<_> = (0..4).map(|seed| run(kernel, seed, 1).unwrap()).collect();
        assert!(results.iter().any(|r| *r != results[0]), "{kernel}");
        assert!(results.iter().all(|r| r.contains(&u32::MAX)), "{kernel} reads what is not yet written");
    }
    let right = run("fault_none", 0, 1).unwrap();
    assert!((1..4).all(|seed| run("fault_none", seed, 1).unwrap() == right));
}

/// Runs a fault in a process of its own.
fn child(kernel: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "conformance::faults::is_a_child", "--ignored", "--nocapture"]);
    command.env("AIENG_FAULT", kernel).output().unwrap()
}

#[test]
#[ignore = "run by others as a process that may die"]
fn is_a_child() {
    const KERNELS: [&str; 8] = [
        "fault_none",
        "fault_race",
        "fault_race_in_warp",
        "fault_global_out_of_bounds",
        "fault_global_read_out_of_bounds",
        "fault_shared_out_of_bounds",
        "fault_dynamic_shared_out_of_bounds",
        "fault_two_shuffles",
    ];
    let name = std::env::var("AIENG_FAULT").unwrap_or_default();
    let kernel = KERNELS.into_iter().find(|kernel| *kernel == name).expect("AIENG_FAULT names a kernel");
    for seed in 0..2 {
        eprintln!("{kernel}: {:?}", run(kernel, seed, 1).map(|_| "ran"));
    }
}

#[test]
fn sanitizers_report_what_they_are_for() {
    let (report, faults): (&str, &[&str]) = match sanitizer() {
        "address" => (
            "ERROR: AddressSanitizer",
            &[
                "fault_global_out_of_bounds",
                "fault_global_read_out_of_bounds",
                "fault_shared_out_of_bounds",
                "fault_dynamic_shared_out_of_bounds",
            ],
        ),
        "thread" => ("WARNING: ThreadSanitizer: data race", &["fault_race", "fault_race_in_warp"]),
        _ => return eprintln!("SKIPPED: sanitizers_report_what_they_are_for: this build has none"),
    };
    for fault in faults {
        let output = child(fault);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(report), "{fault}: {}: {text}", output.status);
        assert!(text.contains("faults.cu"), "{fault}: no place in {text}");
    }
    for sound in ["fault_none", "fault_two_shuffles"] {
        let output = child(sound);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains(report), "{sound}: {}: {text}", output.status);
    }
}
