//! What C sees of the header, value by value: compared with what Rust sees (ffi/abi.rs), and with what was there before
//! (tests/abi/snapshot.txt). Lines are only ever added to the snapshot: whoever linked against an older one goes on working.

use crate::header;
use crate::support::{root, scratch, succeed};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;
use std::sync::OnceLock;

const SNAPSHOT: &str = "tests/abi/snapshot.txt";

/// The header without comments, in one line for each declaration.
fn declarations() -> String {
    let text = header::text();
    let mut bare = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        bare.push_str(before);
        rest = comment.split_once("*/").expect("the comment ends").1;
    }
    bare + rest
}

/// The words of a declaration with single spaces between them.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Structs and the names of their fields.
fn structs(declarations: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for part in declarations.split("typedef struct ").skip(1) {
        let Some((name, body)) = part.split_once('{').filter(|(name, _)| !name.contains(';')) else { continue };
        let fields = body.split_once('}').expect("the struct ends").0.split(';').map(str::trim);
        let field = |declaration: &str| {
            let name = declaration.rsplit([' ', '*']).next().unwrap_or_default();
            name.split('[').next().unwrap_or_default().to_owned()
        };
        found.push((name.trim().to_owned(), fields.filter(|f| !f.is_empty()).map(field).collect()));
    }
    found
}

/// Names of enumerators and of macros that are numbers.
fn constants(declarations: &str) -> Vec<String> {
    let of_enums = declarations.split("enum {").skip(1).flat_map(|part| part.split('}').next());
    let enumerators = of_enums.flat_map(|body| body.split(',')).filter_map(|entry| Some(entry.split_once('=')?.0));
    let macros = declarations.lines().filter_map(|line| line.strip_prefix("#define ")?.split_once(' '));
    let macros = macros.filter(|(_, value)| value.ends_with('u')).map(|(name, _)| name);
    enumerators.chain(macros).map(|name| name.trim().to_owned()).collect()
}

/// Prototypes, function types and fields as the header writes them.
fn written(declarations: &str) -> Vec<String> {
    let code = declarations.lines().filter(|line| !line.starts_with('#') && !line.starts_with("extern"));
    let code = one_line(&code.collect::<Vec<_>>().join(" "));
    let functions = code.split(';').map(str::trim).filter(|s| s.contains('(') && !s.contains('{'));
    let mut lines: Vec<String> = functions.map(|s| format!("declares {s}")).collect();
    for part in code.split("typedef struct ").skip(1) {
        let Some((name, body)) = part.split_once(" {").filter(|(name, _)| !name.contains(';')) else { continue };
        let fields = body.split_once('}').expect("the struct ends").0.split(';').map(str::trim);
        lines.extend(fields.filter(|f| !f.is_empty()).map(|field| format!("field of {name}: {field}")));
    }
    lines
}

/// Layouts and values as the C compiler has them, one a line.
fn seen_by_c() -> Vec<String> {
    static SEEN: OnceLock<Vec<String>> = OnceLock::new();
    SEEN.get_or_init(ask_c).clone()
}

fn ask_c() -> Vec<String> {
    let declarations = declarations();
    let mut program = String::from("#include \"aieng.h\"\n#include <stdio.h>\nint main(void) {\n");
    for (name, fields) in structs(&declarations) {
        let _ = writeln!(program, "printf(\"size of {name} %zu\\n\", sizeof({name}));");
        for field in fields {
            let _ = writeln!(program, "printf(\"offset of {name}.{field} %zu\\n\", offsetof({name}, {field}));");
        }
    }
    for name in constants(&declarations) {
        let _ = writeln!(program, "printf(\"value of {name} %lu\\n\", (unsigned long){name});");
    }
    program.push_str("return 0;\n}\n");
    let folder = scratch("layout");
    let (source, binary) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&source, program).expect("written");
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("include"));
    succeed(command.arg(source).arg("-o").arg(&binary));
    succeed(&mut Command::new(binary)).lines().map(str::to_owned).collect()
}

/// The same as Rust has them: abi.rs asserts each number when it is compiled.
fn seen_by_rust() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("ffi/abi.rs")).expect("part of the repository");
    let mut seen = BTreeSet::new();
    let text = one_line(&text);
    for part in text.split("[\"").skip(1) {
        let (what, rest) = part.split_once("\"]").expect("the name ends");
        let number = rest.split_once(" - ").and_then(|(_, rest)| rest.split_once("usize")).expect("a number").0;
        if let Some(name) = what.strip_prefix("Size of ") {
            seen.insert(format!("size of {name} {number}"));
        } else if let Some(field) = what.strip_prefix("Offset of field: ") {
            seen.insert(format!("offset of {} {number}", field.replace("::", ".")));
        }
    }
    for part in text.split("pub const ").skip(1) {
        let (name, rest) = part.split_once(':').expect("a type");
        let value = rest.split_once("= ").and_then(|(_, rest)| rest.split_once(';')).expect("a value").0;
        seen.insert(format!("value of {name} {value}"));
    }
    seen
}

#[test]
fn c_and_rust_see_the_same() {
    let of_c: BTreeSet<String> = seen_by_c().into_iter().collect();
    let of_rust = seen_by_rust();
    let differences: Vec<&String> = of_c.symmetric_difference(&of_rust).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(of_c.len() > 200, "{}", of_c.len());
}

#[test]
fn nothing_that_was_there_has_changed() {
    let mut lines = seen_by_c();
    // Sizes grow; that what is inside stays where it is, the offsets say.
    lines.retain(|line| !line.starts_with("size of "));
    lines.retain(|line| !line.starts_with("value of AIENG_ABI_VERSION"));
    lines.extend(written(&declarations()));
    let snapshot = std::fs::read_to_string(root().join(SNAPSHOT)).unwrap_or_default();
    let now: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let gone: Vec<&str> = snapshot.lines().filter(|line| !now.contains(line)).collect();
    assert!(gone.is_empty(), "these were there, and programs rely on them: {gone:#?}");
    let known: BTreeSet<&str> = snapshot.lines().collect();
    let new: Vec<&String> = lines.iter().filter(|line| !known.contains(line.as_str())).collect();
    if std::env::var_os("AIENG_SNAPSHOT").is_some() {
        let more: String = new.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(root().join(SNAPSHOT), snapshot + &more).expect("written");
    } else {
        assert!(new.is_empty(), "these are new: run with AIENG_SNAPSHOT=1 to append them to {SNAPSHOT}: {new:#?}");
    }
}
