//! Input that cannot be used ends in exit code 1 and a message that names the file and what is wrong with it.

use crate::support::{SMOLLM2, aieng, aieng_with_input, model, scratch, skipped};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Every command that opens a model, up to the model's path.
const COMMANDS: [&[&str]; 6] = [
    &["run", "Hello", "-m"],
    &["chat", "-m"],
    &["info", "-m"],
    &["tokenize", "Hello", "-m"],
    &["perplexity", "--file", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "-m"],
    &["bench", "-p", "1", "-n", "1", "-r", "1", "-m"],
];

fn assert_refused(model: &Path, words: &[&str]) {
    let path = model.to_str().expect("a test path is UTF-8");
    for command in COMMANDS {
        let args = [command, &[path]].concat();
        aieng(&args).assert_refused(1, &[words, &[path]].concat());
    }
}

#[test]
fn model_that_is_not_there() {
    assert_refused(&scratch("absent").join("model.gguf"), &["No such file"]);
}

#[test]
fn model_that_is_a_directory() {
    assert_refused(&scratch("directory"), &["directory"]);
}

#[test]
fn model_that_is_a_fifo() {
    let fifo = scratch("fifo").join("model.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("coreutils").success());
    assert_refused(&fifo, &["not a regular file"]);
}

#[test]
fn model_that_is_unreadable() {
    let path = scratch("unreadable").join("model.gguf");
    fs::write(&path, b"GGUF").expect("scratch");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("own file");
    if fs::File::open(&path).is_ok() {
        return skipped("model_that_is_unreadable", "this user may read everything");
    }
    assert_refused(&path, &["Permission denied"]);
}

#[test]
fn model_that_is_something_else() {
    let folder = scratch("something_else");
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"This is not a model.\n"),
        ("magic alone", b"GGUF"),
        ("version 99", b"GGUF\x63\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("endless counts", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ];
    for (name, bytes) in cases {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("scratch");
        assert_refused(&path, &[]);
    }
}

#[test]
fn model_that_is_truncated() {
    let Some(whole) = model("model_that_is_truncated", SMOLLM2) else { return };
    let whole = fs::read(whole).expect("model");
    let folder = scratch("truncated");
    for length in [23, 1000, 1 << 20, whole.len() - 1] {
        let path = folder.join(format!("{length}.gguf"));
        fs::write(&path, &whole[..length]).expect("scratch");
        assert_refused(&path, &[]);
        fs::remove_file(&path).expect("own file");
    }
}

#[test]
fn text_that_is_not_utf8() {
    let place = "standard input: not UTF-8: byte 0xff at offset 6";
    for command in ["run", "tokenize"] {
        aieng_with_input(&[command, "-m", "no-such-model.gguf"], b"Hello \xff world").assert_refused(1, &[place]);
    }
    let path = scratch("not_utf8").join("text");
    fs::write(&path, b"caf\xe9").expect("scratch");
    let path = path.to_str().expect("a test path is UTF-8");
    aieng(&["perplexity", "--file", path, "-m", "no-such-model.gguf"])
        .assert_refused(1, &[path, "byte 0xe9 at offset 3"]);
}

#[test]
fn chat_line_that_is_not_utf8() {
    let Some(model) = model("chat_line_that_is_not_utf8", SMOLLM2) else { return };
    let chat = aieng_with_input(&["chat", "-m", &model], b"/clear\n\xff\n");
    chat.assert_refused(1, &["standard input: not UTF-8: byte 0xff at offset 7"]);
}

#[test]
fn text_that_is_not_there() {
    let folder = scratch("no_text");
    let path = folder.join("text");
    let path = path.to_str().expect("a test path is UTF-8");
    aieng(&["perplexity", "--file", path]).assert_refused(1, &[path, "No such file"]);
    let folder = folder.to_str().expect("a test path is UTF-8");
    aieng(&["perplexity", "--file", folder]).assert_refused(1, &[folder, "directory"]);
}

#[test]
fn prompt_longer_than_the_context() {
    let Some(model) = model("prompt_longer_than_the_context", SMOLLM2) else { return };
    let prompt = "all work and no play ".repeat(100);
    let run = aieng_with_input(&["run", "--raw", "--ctx", "64", "-m", &model], prompt.as_bytes());
    run.assert_refused(2, &["prompt", "64"]);
}

#[test]
fn token_outside_the_vocabulary() {
    let Some(model) = model("token_outside_the_vocabulary", SMOLLM2) else { return };
    aieng(&["run", "-m", &model, "--logit-bias", "999999=1", "Hi"]).assert_refused(2, &["999999"]);
    aieng(&["run", "-m", &model, "--stop-token", "999999", "Hi"]).assert_refused(2, &["999999"]);
}

#[test]
fn text_shorter_than_a_window() {
    let Some(model) = model("text_shorter_than_a_window", SMOLLM2) else { return };
    let path = scratch("short_text").join("text");
    fs::write(&path, b"Too short.").expect("scratch");
    let perplexity = aieng(&["perplexity", "-m", &model, "--file", path.to_str().expect("UTF-8")]);
    assert!(matches!(perplexity.code, Some(1 | 2)), "{perplexity:?}");
    assert_eq!(perplexity.stdout, "");
}
