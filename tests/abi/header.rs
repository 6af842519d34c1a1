//! include/aieng.h under compilers, and its own rules.

use crate::support::{root, scratch, succeed};
use std::process::Command;

/// The header's text.
pub fn text() -> String {
    std::fs::read_to_string(root().join("include/aieng.h")).expect("part of the repository")
}

/// Names of the functions that the header declares, with the comment before each.
pub fn functions() -> Vec<(String, String)> {
    let text = text();
    let mut comment = String::new();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("/**") {
            comment = line.to_owned();
            while !comment.ends_with("*/") {
                comment.push('\n');
                comment.push_str(lines.next().expect("the comment ends"));
            }
        } else if let Some((declaration, _)) = line.split_once('(')
            && line.starts_with(|c: char| c.is_ascii_lowercase())
            && !line.starts_with("typedef ")
        {
            let name = declaration.rsplit([' ', '*']).next().unwrap_or_default();
            found.push((name.to_owned(), comment.clone()));
            comment.clear();
        }
    }
    found
}

/// Compiles the header, included twice, without a warning.
fn compile(test: &str, compiler: &str, flags: &[&str], extension: &str) {
    let source = scratch(test).join(format!("twice.{extension}"));
    std::fs::write(&source, "#include \"aieng.h\"\n#include \"aieng.h\"\nint main(void) { return 0; }\n")
        .expect("written");
    let mut command = Command::new(compiler);
    // -Wpadded: room that the compiler leaves between fields would be read as part of the field that comes to lie there
    // when the struct grows.
    command.args(flags).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wpadded", "-fsyntax-only", "-I"]);
    succeed(command.arg(root().join("include")).arg(source));
}

#[test]
fn header_is_c99() {
    compile("header_is_c99", "gcc", &["-std=c99", "-Wc++-compat", "-Wstrict-prototypes"], "c");
}

#[test]
fn header_is_cpp17() {
    if Command::new("g++").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: header_is_cpp17: there is no g++");
    }
    compile("header_is_cpp17", "g++", &["-std=c++17", "-Wold-style-cast"], "cpp");
}

#[test]
fn every_function_says_who_owns_what_which_threads_whether_it_waits_and_how_it_fails() {
    let functions = functions();
    assert!(functions.len() >= 10, "{functions:?}");
    for (name, comment) in functions {
        let mut rest = comment.as_str();
        for label in ["\n * Ownership: ", "\n * Threads:   ", "\n * Blocking:  ", "\n * Errors:    "] {
            let at = rest.find(label).unwrap_or_else(|| panic!("{name}: no line {label:?} after the ones before it"));
            rest = &rest[at + label.len()..];
        }
    }
}
