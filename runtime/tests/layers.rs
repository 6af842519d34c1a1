//! The import rules of ARCHITECTURE.md, which Cargo cannot enforce inside one crate.

use std::path::{Path, PathBuf};

/// (file or folder, what its sources may not contain)
const RULES: [(&str, &[&str]); 8] = [
    (
        "scheduler",
        &["crate::model", "crate::engine", "crate::tokenizer", "crate::sampling", "aieng_kernels", "Instant"],
    ),
    ("kv", &["crate::model", "crate::engine", "crate::scheduler", "aieng_kernels"]),
    ("model", &["crate::scheduler", "crate::kv", "crate::queue"]),
    ("queue", &["crate::"]),
    ("load", &["crate::model", "crate::engine", "crate::scheduler"]),
    ("sampling", &["crate::scheduler", "crate::model"]),
    ("model/forward.rs", &["llama", "qwen", "gemma", "architecture =="]),
    ("engine/step.rs", &["crate::model", "crate::load"]),
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let inside = entries.flat_map(|entry| sources(&entry.expect("an entry").path()));
    inside.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

#[test]
fn modules_know_only_what_they_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (place, forbidden) in RULES {
        let sources = sources(&root.join(place));
        assert!(!sources.is_empty(), "{place} has no sources");
        for source in sources.iter().filter(|s| !s.ends_with("tests.rs")) {
            let text = std::fs::read_to_string(source).expect("a source is text");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                let found = forbidden.iter().find(|word| line.contains(**word));
                assert!(found.is_none(), "{}: line {number} of code: {line}", source.display());
            }
        }
    }
}

#[test]
fn unsafe_code_stands_in_two_places() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = ["load/map.rs", "queue/ring.rs", "queue/sync.rs", "tests/layers.rs"].map(|path| root.join(path));
    for source in sources(root).iter().filter(|s| !allowed.contains(s)) {
        let text = std::fs::read_to_string(source).expect("a source is text");
        assert!(!text.contains("unsafe {") && !text.contains("unsafe impl"), "{}", source.display());
    }
}
