//! Commands that read a model's metadata only: `tokenize` and `info`.

use crate::support::{GEMMA3, SMOLLM2, aieng, aieng_with_input, model};
use serde_json::json;

#[test]
fn tokenize_prints_ids_and_pieces() {
    let Some(model) = model("tokenize_prints_ids_and_pieces", SMOLLM2) else { return };
    let json = aieng(&["tokenize", "--json", "-m", &model, "The capital of France is"]).json();
    assert_eq!(json["pieces"], json!(["The", " capital", " of", " France", " is"]));
    assert_eq!(json["token_ids"].as_array().map(Vec::len), Some(5));

    let lines = aieng_with_input(&["tokenize", "-m", &model], b"The capital\n");
    let pieces: Vec<&str> = lines.stdout.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!((lines.code, pieces), (Some(0), vec!["The", " capital", "\\n"]), "{lines:?}");
}

#[test]
fn tokenize_reads_special_tokens_only_when_asked() {
    let Some(model) = model("tokenize_reads_special_tokens_only_when_asked", SMOLLM2) else { return };
    let count = |extra: &[&str]| {
        let json = aieng(&[&["tokenize", "--json", "-m", &model, "<|im_start|>"], extra].concat()).json();
        json["token_ids"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(&["--special"]), 1);
    assert!(count(&[]) > 1);
}

#[test]
fn tokenize_puts_bos_first_where_the_model_wants_it() {
    let Some(model) = model("tokenize_puts_bos_first_where_the_model_wants_it", GEMMA3) else { return };
    let with = aieng(&["tokenize", "--json", "-m", &model, "Hello"]).json();
    let without = aieng(&["tokenize", "--json", "--no-bos", "-m", &model, "Hello"]).json();
    let ids = |json: &serde_json::Value| json["token_ids"].as_array().cloned().unwrap_or_default();
    assert_eq!(ids(&with)[1..], ids(&without)[..]);
    assert_eq!(with["pieces"][0], "<bos>");
}

#[test]
fn info_adds_up() {
    let Some(model) = model("info_adds_up", SMOLLM2) else { return };
    let json = aieng(&["info", "--json", "-m", &model]).json();
    assert_eq!((&json["architecture"], &json["parameters"]), (&json!("llama"), &json!(134_515_008)));
    assert_eq!(json["metadata"]["llama.block_count"], 30);
    assert_eq!((&json["spec"]["layers"], &json["spec"]["layer_kinds"][0]["kv_heads"]), (&json!(30), &json!(3)));
    let tensors = json["tensors"].as_array().expect("a list");
    let bytes: u64 = tensors.iter().filter_map(|t| t["bytes"].as_u64()).sum();
    assert_eq!((tensors.len(), json["bytes"].as_u64()), (272, Some(bytes)));

    let text = aieng(&["info", "-m", &model]);
    assert!(text.stdout.contains("llama 134.52 M Q4_1, 92.10 MiB of weights"), "{text:?}");
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""));
}
