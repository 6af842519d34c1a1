//! Loading under a limit on the address space, in a process of its own.

use crate::support::{self, Outcome};
use crate::{AIENG_DEVICE_CPU, config};
use std::path::Path;
use std::process::Command;

/// Set for the process with a limit.
const CHILD: &str = "AIENG_FAULT_CHILD";

/// Megabytes: too little for the model's file, for its weights, and for its cache.
const LEVELS: [u64; 3] = [96, 256, 448];

/// Starts this program once for each level.
pub fn run_all(test: &str) {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: {test}: there is no prlimit(1)");
    }
    for level in LEVELS {
        let output = Command::new("prlimit")
            .arg(format!("--as={}", level << 20))
            .arg(std::env::current_exe().expect("own path"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .expect("prlimit starts");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{level} MB: {}\n{stdout}{stderr}", output.status);
        eprintln!("{level} MB: {}", stdout.lines().find(|line| line.contains("outcome")).unwrap_or("?"));
    }
}

/// Whether this is the process with a limit.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// In the process with a limit: the model cannot be loaded, which is an error, and the simulation still can.
pub fn child(model: &Path) {
    let outcome = support::load(Some(model), &config(AIENG_DEVICE_CPU)).map_or_else(|error| error, |_| Outcome::Done);
    println!("outcome: {outcome:?}");
    match outcome {
        Outcome::NoMemory => {}
        // The file cannot even be mapped.
        Outcome::Other(message) => assert!(message.contains("cannot map"), "{message}"),
        Outcome::Done => panic!("the limit is no limit"),
    }
    let small = crate::abi::aieng_engine_config { device: crate::AIENG_DEVICE_SIMULATED, ..support::zero() };
    let client = support::load(None, &small).expect("room for the simulation");
    assert_eq!(client.generate("Once upon a time", 4), Outcome::Done);
}
