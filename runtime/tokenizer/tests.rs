//! Tests of the whole tokenizer: golden ids on real models, hostile metadata, streams, long texts.

use super::*;
use crate::load::{Array, Strings, Value};
use crate::testing::{GEMMA3, Random, SMOLLM2, model};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

fn golden(file: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/golden").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden file")).expect("JSON")
}

fn ids(value: &serde_json::Value) -> Vec<TokenId> {
    value.as_array().expect("ids").iter().map(|id| TokenId(id.as_u64().expect("id") as u32)).collect()
}

#[test]
fn prompts_have_llama_cpps_ids() {
    for (file, record) in [(SMOLLM2, "smollm2-135m-q4_1.json"), (GEMMA3, "gemma3-270m-q4_k_m.json")] {
        let Some(metadata) = model(file) else { continue };
        let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
        for result in golden(record)["results"].as_array().expect("results") {
            let prompt = result["prompt"].as_str().expect("prompt");
            assert_eq!(tokenizer.encode(prompt, true, true).expect("ids"), ids(&result["prompt_tokens"]), "{prompt:?}");
            assert_eq!(
                tokenizer.decode(&ids(&result["tokens"]), false).expect("memory"),
                result["text"].as_str().expect("text"),
                "{prompt:?}"
            );
        }
    }
}

#[test]
fn treacherous_texts_have_llama_cpps_ids() {
    let golden = golden("tokenize.json");
    let mut tokenizers = BTreeMap::new();
    for case in golden["cases"].as_array().expect("cases") {
        let (file, replaced) =
            (case["model"].as_str().expect("model"), case["override"].as_object().expect("override"));
        let tokenizer = tokenizers.entry(format!("{file} {replaced:?}")).or_insert_with(|| {
            let metadata = model(file)?;
            let mut entries = metadata.entries().clone();
            for (key, value) in replaced {
                let value = value.as_str().map_or(Value::Bool(value == true), |s| Value::String(s.to_owned()));
                entries.insert(key.clone(), value);
            }
            Some(Tokenizer::from_metadata(&Metadata::new(Path::new(file), entries)).expect("tokenizer"))
        });
        let Some(tokenizer) = tokenizer else { continue };
        let flag = |name: &str| case[name].as_bool().expect("flag");
        let text = case["text"].as_str().expect("text");
        let found = tokenizer.encode(text, flag("add_bos"), flag("parse_special")).expect("ids");
        assert_eq!(found, ids(&case["ids"]), "{file} {replaced:?} {text:?}");
    }
}

#[test]
fn streams_of_any_tokens_make_the_lossy_whole() {
    let mut random = Random::new("streams");
    let real = [SMOLLM2, GEMMA3].iter().filter_map(|file| model(file));
    for metadata in real.chain([byte_level(), sentence_piece()]) {
        let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
        let size = tokenizer.vocab_size() as u32;
        let bytes = tokenizer.vocab.of_kind(&[Kind::Byte]).unwrap();
        for _ in 0..2000 {
            // Ids past the end too; half of the stream bytes, so that characters are cut and broken.
            let mut id = || match random.below(2) {
                0 if !bytes.is_empty() => bytes[random.below(bytes.len() as u32) as usize],
                _ => random.below(size + 2),
            };
            let stream: Vec<TokenId> = (0..12).map(|_| TokenId(id())).collect();
            let whole: Vec<u8> = stream.iter().flat_map(|&id| tokenizer.token_bytes(id, false)).collect();
            assert_eq!(
                tokenizer.decode(&stream, false).expect("memory"),
                String::from_utf8_lossy(&whole),
                "{stream:?}"
            );
        }
    }
}

#[test]
fn text_survives_the_round_trip() {
    let text = include_str!("../../tests/parity/golden/gpl3.txt");
    for metadata in [SMOLLM2, GEMMA3].iter().filter_map(|file| model(file)).chain([byte_level()]) {
        let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true, true).expect("ids"), false).expect("memory"), text);
    }
}

#[test]
fn the_real_models_stop_where_llama_cpp_does() {
    // <|endoftext|>, <|im_end|>, <reponame>; <eos>, <end_of_turn>, but not </s>, which is HTML to Gemma.
    for (file, stops) in [(SMOLLM2, vec![0, 2, 4]), (GEMMA3, vec![1, 106])] {
        let Some(metadata) = model(file) else { continue };
        let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
        assert_eq!(tokenizer.stop_tokens(), stops.into_iter().map(TokenId).collect::<Vec<_>>());
        assert_eq!(tokenizer.adds_bos(), file == GEMMA3);
    }
}

fn strings<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Value {
    let mut strings = Strings::default();
    texts.into_iter().for_each(|text| strings.push(text.as_ref()).unwrap());
    Value::Array(Array::Strings(strings))
}

fn metadata_of(entries: &[(&str, Value)]) -> Metadata {
    let entries = entries.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value.clone())).collect();
    Metadata::new(Path::new("tiny.gguf"), entries)
}

/// A byte-level vocabulary: 256 bytes, four merged tokens (256 to 259), two control (260, 261) and a user-defined one.
fn byte_level() -> Metadata {
    let bytes =
        (0..=255u8).map(|byte| (0..0x144).filter_map(char::from_u32).find(|&c| bpe::byte_of_char(c) == Some(byte)));
    let mut tokens: Vec<String> = bytes.map(|c| c.expect("every byte has a character").to_string()).collect();
    tokens.extend(["he", "ll", "hell", "hello", "<|im_start|>", "<|im_end|>", "<b>"].map(String::from));
    let kinds = (0..tokens.len()).map(|id| [1, 3, 4][(id >= 260) as usize + (id >= 262) as usize]).collect();
    metadata_of(&[
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("gpt-2".into())),
        ("tokens", strings(tokens)),
        ("token_type", Value::Array(Array::Signed(kinds))),
        ("merges", strings(["h e", "l l", "he ll", "hell o"])),
        ("bos_token_id", Value::Unsigned(260)),
        ("eos_token_id", Value::Unsigned(261)),
    ])
}

/// A SentencePiece vocabulary: four special tokens, 256 bytes (4 to 259), then pieces of "▁hello".
fn sentence_piece() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<b>"].map(String::from).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "h", "e", "l", "o", "he", "ll", "llo", "hello", "▁hello"].map(String::from));
    let kind = |id: usize| [2, 3, 3, 4].get(id).copied().unwrap_or(if id < 260 { 6 } else { 1 });
    metadata_of(&[
        ("model", Value::String("llama".into())),
        ("scores", Value::Array(Array::Float((0..tokens.len()).map(|id| -(id as f32)).collect()))),
        ("token_type", Value::Array(Array::Signed((0..tokens.len()).map(kind).collect()))),
        ("tokens", strings(tokens)),
        ("bos_token_id", Value::Unsigned(1)),
        ("eos_token_id", Value::Unsigned(2)),
    ])
}

fn encoded(metadata: &Metadata, text: &str, add_bos: bool, parse_special: bool) -> Vec<u32> {
    let tokenizer = Tokenizer::from_metadata(metadata).expect("tokenizer");
    tokenizer.encode(text, add_bos, parse_special).expect("ids").iter().map(|id| id.0).collect()
}

#[test]
fn special_tokens_need_leave_and_user_defined_ones_do_not() {
    let metadata = byte_level();
    assert_eq!(encoded(&metadata, "<|im_start|>hello<b>", false, true), [260, 259, 262]);
    let plain = encoded(&metadata, "<|im_start|>hello<b>", false, false);
    assert_eq!((plain[0], plain.last()), (u32::from(b'<'), Some(&262)));
    let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
    assert_eq!(tokenizer.decode(&[260, 259, 262, 9999].map(TokenId), false).expect("memory"), "hello<b>");
    assert_eq!(tokenizer.token_text(TokenId(260)), "<|im_start|>");
    assert_eq!(tokenizer.stop_tokens(), [TokenId(261)]);
}

#[test]
fn sentence_piece_prefixes_falls_back_and_prefixes_again_after_special_tokens() {
    let metadata = sentence_piece();
    assert_eq!(encoded(&metadata, "hello", true, true), [1, 269]);
    assert_eq!(encoded(&metadata, "hello</s>hello", true, true), [1, 269, 2, 269]);
    // "é" is two bytes of no token: 0xC3, 0xA9.
    assert_eq!(encoded(&metadata, "é", false, true), [260, 4 + 0xc3, 4 + 0xa9]);
    assert_eq!(encoded(&metadata, "", true, true), [1]);
    assert!(encoded(&metadata, "", false, true).is_empty());
}

#[test]
fn a_prompt_that_spells_bos_gets_one() {
    let metadata = sentence_piece();
    assert_eq!(encoded(&metadata, "<s>hello", true, true), [1, 269]);
    assert_eq!(encoded(&metadata, "<s><s>", true, true), [1, 1]);
}

#[test]
fn bos_is_added_as_the_metadata_says() {
    let with = |metadata: Metadata, pre: &str, add: Option<bool>| {
        let mut entries = metadata.entries().clone();
        entries.insert(PRE.into(), Value::String(pre.into()));
        entries.extend(add.map(|add| (ADD_BOS.into(), Value::Bool(add))));
        Tokenizer::from_metadata(&Metadata::new(Path::new("tiny.gguf"), entries)).expect("tokenizer").adds_bos()
    };
    assert!(!with(byte_level(), "gpt-2", None) && with(byte_level(), "gpt-2", Some(true)));
    assert!(with(byte_level(), "llama-bpe", None) && !with(byte_level(), "llama-bpe", Some(false)));
    assert!(with(sentence_piece(), "default", None) && !with(sentence_piece(), "default", Some(false)));
}

/// A change to a sound file, and what its error has to name.
type Fault = (&'static str, Option<Value>, &'static [&'static str]);

#[test]
fn bad_metadata_is_named() {
    let many = |text: &str| strings([text, text]);
    let faults: &[Fault] = &[
        ("model", None, &["tokenizer.ggml.model", "missing"]),
        ("model", Some(Value::String("bert".into())), &["tiny.gguf", "tokenizer.ggml.model", "bert"]),
        ("pre", None, &["tokenizer.ggml.pre", "missing"]),
        ("pre", Some(Value::String("viking".into())), &["tiny.gguf", "tokenizer.ggml.pre", "viking"]),
        ("tokens", None, &["tokenizer.ggml.tokens", "missing"]),
        ("tokens", Some(Value::Bool(true)), &["tokenizer.ggml.tokens", "true"]),
        ("tokens", Some(strings::<&str>([])), &["tokenizer.ggml.tokens", "0 tokens"]),
        ("tokens", Some(many("x")), &["tokenizer.ggml.token_type", "263 values for 2"]),
        ("tokens", Some(strings((0..263).map(|id| format!("x{}", id % 262)))), &["tokens", "\"x0\"", "token 262"]),
        ("tokens", Some(strings((0..263).map(|id| "y".repeat(20 * id)))), &["tokens", "token 205", "4100 bytes"]),
        ("token_type", Some(Value::Array(Array::Signed(vec![7; 263]))), &["token_type", "7", "token 0"]),
        ("token_type", Some(Value::Array(Array::Signed(vec![6; 263]))), &["tokens", "byte token 0"]),
        ("merges", None, &["tokenizer.ggml.merges", "missing"]),
        ("merges", Some(strings(["h e", "he"])), &["merges", "merge 1", "\"he\"", "no space"]),
        ("merges", Some(strings([""])), &["merges", "merge 0"]),
        ("merges", Some(strings(["h xyz"])), &["merges", "merge 0", "\"hxyz\"", "not in the vocabulary"]),
        ("merges", Some(strings(["h o"])), &["merges", "\"ho\""]),
        ("bos_token_id", Some(Value::Unsigned(263)), &["tokenizer.ggml.bos_token_id", "263"]),
        ("eos_token_id", Some(Value::Signed(-1)), &["tokenizer.ggml.eos_token_id", "-1"]),
        ("eot_token_id", Some(Value::Unsigned(1 << 40)), &["tokenizer.ggml.eot_token_id", "1099511627776"]),
        ("unknown_token_id", Some(Value::Unsigned(400)), &["tokenizer.ggml.unknown_token_id", "400"]),
        ("add_bos_token", Some(Value::Unsigned(1)), &["tokenizer.ggml.add_bos_token", "boolean"]),
    ];
    for fault in faults {
        check_fault(&byte_level(), fault);
    }
    let scores = |scores: Vec<f32>| Some(Value::Array(Array::Float(scores)));
    check_fault(&sentence_piece(), &("scores", None, &["tokenizer.ggml.scores", "missing"]));
    check_fault(&sentence_piece(), &("scores", scores(vec![0.0; 3]), &["scores", "3 values for 270"]));
    check_fault(&sentence_piece(), &("scores", scores(vec![f32::NAN; 270]), &["scores", "NaN for token 0"]));
}

fn check_fault(sound: &Metadata, (key, value, names): &Fault) {
    let mut entries = sound.entries().clone();
    let key = format!("tokenizer.ggml.{key}");
    match value {
        Some(value) => entries.insert(key.clone(), value.clone()),
        None => entries.remove(&key),
    };
    let error = Tokenizer::from_metadata(&Metadata::new(Path::new("tiny.gguf"), entries)).expect_err(&key).to_string();
    for name in *names {
        assert!(error.contains(name), "{key}: {error:?} does not name {name:?}");
    }
}

#[test]
fn add_bos_without_bos_is_named() {
    let mut entries = byte_level().entries().clone();
    entries.remove(BOS);
    entries.insert(ADD_BOS.into(), Value::Bool(true));
    let error =
        Tokenizer::from_metadata(&Metadata::new(Path::new("tiny.gguf"), entries)).expect_err("no BOS").to_string();
    assert!(error.contains("tiny.gguf") && error.contains(BOS) && error.contains(ADD_BOS), "{error}");
}

#[test]
fn any_metadata_is_refused_or_works() {
    let mut random = Random::new("metadata");
    let sound = [byte_level(), sentence_piece()];
    let values: Vec<Value> = sound.iter().flat_map(|m| m.entries().values().cloned()).collect();
    let keys: Vec<String> = sound.iter().flat_map(|m| m.entries().keys().cloned()).collect();
    for _ in 0..1000 {
        let mut entries = sound[random.below(2) as usize].entries().clone();
        for _ in 0..1 + random.below(2) {
            let key = keys[random.below(keys.len() as u32) as usize].clone();
            entries.insert(key, values[random.below(values.len() as u32) as usize].clone());
        }
        if let Ok(tokenizer) = Tokenizer::from_metadata(&Metadata::new(Path::new("tiny.gguf"), entries)) {
            let ids = tokenizer.encode("<s>hello <|im_end|> wörld\n  <b>", true, random.below(2) == 1).expect("ids");
            assert!(ids.iter().all(|id| (id.0 as usize) < tokenizer.vocab_size()));
            tokenizer.decode(&ids, false).expect("memory");
        }
    }
}

#[test]
fn a_long_word_does_not_take_quadratic_time() {
    let mut tokenizers = vec![byte_level(), sentence_piece()];
    tokenizers.extend([SMOLLM2, GEMMA3].iter().filter_map(|file| model(file)));
    for metadata in tokenizers {
        let tokenizer = Tokenizer::from_metadata(&metadata).expect("tokenizer");
        for letter in ["a", "l", " ", "\n", "字", "="] {
            let text = letter.repeat((1 << 20) / letter.len());
            let start = Instant::now();
            let ids = tokenizer.encode(&text, false, true).expect("ids");
            // A quadratic algorithm would take hours; this bound holds without optimisation on a busy machine.
            assert!(start.elapsed() < Duration::from_secs(60), "{letter:?} took {:?}", start.elapsed());
            assert!(!ids.is_empty());
        }
    }
}
