//! libaieng.so: what it exports, what it is called, what it needs.

use crate::header;
use crate::support::{library, scratch, succeed};
use std::process::Command;

/// Values of one kind of entry in the dynamic section, as in "Library soname: [libaieng.so.1]".
fn dynamic(kind: &str) -> Vec<String> {
    let listing = succeed(Command::new("readelf").args(["--dynamic", "--wide"]).arg(library()));
    let lines = listing.lines().filter(|line| line.contains(&format!("({kind})")));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

#[test]
fn exports_what_the_header_declares_and_nothing_else() {
    let listing = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let mut exported: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let declared = header::functions();
    let mut declared: Vec<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
    exported.sort_unstable();
    declared.sort_unstable();
    assert_eq!(exported, declared);
}

#[test]
fn is_called_by_its_major_version() {
    assert_eq!(dynamic("SONAME"), ["libaieng.so.1"]);
}

#[test]
fn needs_the_c_library_alone() {
    for needed in dynamic("NEEDED") {
        // The last is the program that loads shared libraries, so it is there before they are. Thread-local variables of a
        // library that can be opened at any time are found by its __tls_get_addr(); the model of them that does without,
        // initial-exec, would make dlopen(3) fail where the space for it is used up.
        let allowed = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-"];
        assert!(allowed.iter().any(|name| needed.starts_with(name)), "{needed}");
    }
}

#[test]
fn is_small() {
    let stripped = scratch("strip").join("libaieng.so");
    succeed(Command::new("strip").arg("-o").arg(&stripped).arg(library()));
    let size = stripped.metadata().expect("just written").len();
    // The figure is 15 MB; tests may be compiled with little optimisation.
    assert!(size < if cfg!(debug_assertions) { 60 } else { 15 } * 1_000_000, "{size} bytes");
}
