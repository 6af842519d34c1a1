//! Turns include/aieng.h into ffi/abi.rs: `abigen HEADER` writes Rust to stdout.
//!
//! Run by `cargo xtask abi`, which brings libclang. The output depends on the header and on the pinned versions of
//! bindgen, libclang and rustfmt alone, so that a difference from the committed file means that one of them changed.

use bindgen::{Builder, Formatter, MacroTypeVariation, RustEdition, RustTarget};
use std::error::Error;

const PREAMBLE: &str = "\
//! The C ABI's types, constants and prototypes, written by bindgen from include/aieng.h. Do not edit: change the header,
//! then run `cargo xtask abi`. The asserts keep size, alignment and offsets equal to what the C compiler sees.";

fn main() -> Result<(), Box<dyn Error>> {
    let header = std::env::args().nth(1).ok_or("usage: abigen HEADER")?;
    let bindings = Builder::default()
        .header(header)
        .clang_arg("-std=c99")
        .allowlist_item("(aieng|AIENG)_.*")
        // Its value is SIZE_MAX, which bindgen takes for an int; ffi/input.rs has it.
        .blocklist_item("AIENG_STRLEN")
        // The header is the documentation; a second copy would only be a second place to read.
        .generate_comments(false)
        .default_macro_constant_type(MacroTypeVariation::Unsigned)
        .prepend_enum_name(false)
        .derive_debug(false)
        .layout_tests(true)
        .merge_extern_blocks(true)
        .use_core()
        // The newest that bindgen knows need not be the workspace's; this is the first with edition 2024.
        .rust_target(RustTarget::stable(85, 0).map_err(|_| "bindgen does not know Rust 1.85")?)
        .rust_edition(RustEdition::Edition2024)
        .disable_header_comment()
        .raw_line(PREAMBLE)
        .formatter(Formatter::Rustfmt)
        .rustfmt_configuration_file(Some(std::fs::canonicalize("rustfmt.toml")?))
        .generate()?;
    print!("{bindings}");
    Ok(())
}
