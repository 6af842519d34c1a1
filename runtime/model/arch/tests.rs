use super::*;
use crate::load::Value;
use std::path::Path;

fn metadata(architecture: &str, changes: &[(&str, Option<Value>)]) -> Metadata {
    let n = |x| Some(Value::Unsigned(x));
    let mut entries = std::collections::BTreeMap::new();
    let base = [
        ("embedding_length", n(64)),
        ("block_count", n(7)),
        ("context_length", n(2048)),
        ("feed_forward_length", n(128)),
        ("attention.head_count", n(4)),
        ("attention.head_count_kv", n(2)),
        ("attention.layer_norm_rms_epsilon", Some(Value::Float(1e-5))),
    ];
    entries.insert("general.architecture".to_owned(), Value::String(architecture.to_owned()));
    for (key, value) in base.iter().chain(changes) {
        let key = format!("{architecture}.{key}");
        match value {
            Some(value) => entries.insert(key, value.clone()),
            None => entries.remove(&key),
        };
    }
    Metadata::new(Path::new("model.gguf"), entries)
}

#[test]
fn architectures_differ_where_they_should() {
    let llama = spec(&metadata("llama", &[])).unwrap();
    assert_eq!((llama.layers[0].attn.head_dim, llama.ropes[0].style), (16, Style::Interleaved));
    let qwen2 = spec(&metadata("qwen2", &[])).unwrap();
    assert!(qwen2.layers.iter().all(|l| l.attn.qkv_bias && !l.attn.qk_norm));
    let qwen3 = spec(&metadata("qwen3", &[("attention.key_length", Some(Value::Unsigned(32)))])).unwrap();
    assert!(qwen3.layers.iter().all(|l| l.attn.qk_norm && l.attn.head_dim == 32));
    let gemma = spec(&metadata("gemma3", &[("attention.sliding_window", Some(Value::Unsigned(512)))])).unwrap();
    let windows: Vec<bool> = gemma.layers.iter().map(|l| l.attn.window.is_some()).collect();
    assert_eq!(windows, [true, true, true, true, true, false, true]);
    assert_eq!((gemma.embedding_scale, gemma.ropes[0].base, gemma.ropes[1].base), (8.0, 1e6, 1e4));
}

#[test]
fn bad_values_are_named() {
    let n = |x| Some(Value::Unsigned(x));
    let s = |x: &str| Some(Value::String(x.to_owned()));
    let cases = [
        ("attention.head_count", n(0), "llama.attention.head_count: 0 is not from 1"),
        ("attention.head_count_kv", n(3), "3 does not divide 4 heads"),
        ("block_count", n(4_000_000), "llama.block_count: 4000000 is above 1024"),
        ("embedding_length", n(1 << 30), "llama.embedding_length: 1073741824"),
        ("feed_forward_length", None, "llama.feed_forward_length: missing"),
        ("context_length", s("long"), "llama.context_length: expected an integer"),
        ("rope.dimension_count", n(7), "llama.rope.dimension_count: 7"),
        ("rope.freq_base", Some(Value::Float(-1.0)), "llama.rope.freq_base: -1"),
        ("rope.scaling.type", s("longrope"), "\"longrope\" is not one of"),
        ("attention.key_length", n(24), "keys of 24"),
        ("attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon: missing"),
        ("expert_count", n(8), "no experts"),
    ];
    for (key, value, want) in cases {
        let message = spec(&metadata("llama", &[(key, value)])).unwrap_err().to_string();
        assert!(message.starts_with("model.gguf: ") && message.contains(want), "{key}: {message}");
    }
    let message = spec(&metadata("mamba", &[])).unwrap_err().to_string();
    assert!(message.contains("\"mamba\" is not one of llama, qwen2, qwen3, gemma3"), "{message}");
}
