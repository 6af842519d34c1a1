//! The command line of aieng.
fn main() {}
