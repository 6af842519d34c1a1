//! The same answers as llama.cpp and an f32 reference: golden files in `tests/parity/golden`, whose README tells how
//! they were made.

use crate::support::{GEMMA3, SMOLLM2, aieng, model};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// llama.cpp's tokens are binding up to the first one whose lead is below this (nats): int8 activations cost up to 0.22.
const CLEAR_MARGIN: f64 = 0.3;

/// Tokens in each golden answer that was not ended by the model.
const MAX_TOKENS: &str = "48";

struct Golden {
    model: String,
    results: Vec<Value>,
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden")
}

impl Golden {
    fn load(test: &str, model_file: &str, golden_file: &str) -> Option<Golden> {
        let model = model(test, model_file)?;
        let text = std::fs::read_to_string(golden_folder().join(golden_file)).expect("part of the repository");
        let json: Value = serde_json::from_str(&text).expect("golden files are JSON");
        Some(Golden { model, results: json["results"].as_array().expect("a list").clone() })
    }

    /// `aieng run` on the raw prompt of `result`, greedy.
    fn run(&self, result: &Value, options: &[&str]) -> Value {
        let prompt = result["prompt"].as_str().expect("text");
        let base = ["run", "--raw", "--json", "--temperature", "0", "--top-logprobs", "20", "-m", &self.model];
        aieng(&[&base[..], options, &["--", prompt]].concat()).json()
    }

    fn check_prompt_tokens(&self) {
        for result in &self.results {
            let prompt = result["prompt"].as_str().expect("text");
            let json = aieng(&["tokenize", "--json", "-m", &self.model, "--", prompt]).json();
            assert_eq!(json["token_ids"], result["prompt_tokens"], "{prompt:?}");
        }
    }

    /// First-token log-probabilities within `tolerance` of `result[reference]`, then greedy tokens like llama.cpp's.
    fn check_answers(&self, reference: &str, tolerance: f64) {
        for result in &self.results {
            let run = self.run(result, &["-n", MAX_TOKENS]);
            check_first_token(result, &run, &result[reference], tolerance);
            check_tokens(result, &run);
        }
    }
}

fn check_first_token(result: &Value, run: &Value, best: &Value, tolerance: f64) {
    let top = run["logprobs"][0]["top_logprobs"].as_array().expect("a list");
    for expected in best.as_array().expect("five tokens") {
        let found = top.iter().find(|token| token["token_id"] == expected["id"]);
        let found = found.unwrap_or_else(|| panic!("{}: {expected} is not among {top:?}", result["prompt"]));
        let logprob = |value: &Value| value["logprob"].as_f64().expect("a number");
        let distance = (logprob(found) - logprob(expected)).abs();
        assert!(distance <= tolerance, "{}: {found} is {distance} from {expected}", result["prompt"]);
    }
}

/// Equal tokens up to the first one of which llama.cpp was not sure.
fn check_tokens(result: &Value, run: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (expected, found, margins) = (list(&result["tokens"]), list(&run["token_ids"]), list(&result["margins"]));
    let sure = margins.iter().position(|m| m.as_f64() < Some(CLEAR_MARGIN)).unwrap_or(expected.len());
    assert_eq!(found.get(..sure), expected.get(..sure), "{}: {}", result["prompt"], run["text"]);
    if sure == expected.len() {
        assert_eq!(run["text"].as_str(), result["text"].as_str());
    }
}

#[test]
fn smollm2_prompt_tokens() {
    if let Some(golden) = Golden::load("smollm2_prompt_tokens", SMOLLM2, "smollm2-135m-q4_1.json") {
        golden.check_prompt_tokens();
    }
}

#[test]
fn gemma3_prompt_tokens() {
    if let Some(golden) = Golden::load("gemma3_prompt_tokens", GEMMA3, "gemma3-270m-q4_k_m.json") {
        golden.check_prompt_tokens();
    }
}

#[test]
fn smollm2_answers() {
    if let Some(golden) = Golden::load("smollm2_answers", SMOLLM2, "smollm2-135m-q4_1.json") {
        golden.check_answers("ref_f32_first_top5", 0.25);
    }
}

#[test]
fn gemma3_answers() {
    if let Some(golden) = Golden::load("gemma3_answers", GEMMA3, "gemma3-270m-q4_k_m.json") {
        golden.check_answers("first_top5", LLAMA_CPP_ROUNDING);
    }
}

/// How far llama.cpp's own rounding takes its log-probabilities on Gemma 3: the scalar reference, which rounds nothing,
/// is up to 0.269 away from them.
const LLAMA_CPP_ROUNDING: f64 = 0.28;

/// Our own rounding on Gemma 3, for which there is no golden f32: the scalar reference stands in.
#[test]
fn gemma3_rounding() {
    let Some(golden) = Golden::load("gemma3_rounding", GEMMA3, "gemma3-270m-q4_k_m.json") else { return };
    for result in &golden.results {
        let reference = golden.run(result, &["-n", "1", "--device", "reference"]);
        let best = reference["logprobs"][0]["top_logprobs"].as_array().expect("a list")[..5].iter();
        let best: Vec<Value> =
            best.map(|t| serde_json::json!({ "id": t["token_id"], "logprob": t["logprob"] })).collect();
        check_first_token(result, &golden.run(result, &["-n", "1"]), &Value::from(best), 0.25);
    }
}

/// The scalar reference is slow, so only the first token.
#[test]
fn smollm2_reference_device() {
    let Some(golden) = Golden::load("smollm2_reference_device", SMOLLM2, "smollm2-135m-q4_1.json") else { return };
    for result in &golden.results {
        let run = golden.run(result, &["-n", "1", "--device", "reference"]);
        check_first_token(result, &run, &result["ref_f32_first_top5"], 0.01);
    }
}

fn perplexity(model: &str) -> f64 {
    let text = golden_folder().join("gpl3.txt");
    let text = text.to_str().expect("a test path is UTF-8");
    let json = aieng(&["perplexity", "--json", "--ctx", "512", "--file", text, "-m", model]).json();
    assert_eq!(json["tokens"], 14 * 255, "14 windows, 255 tokens of each: {json}");
    json["value"].as_f64().expect("a number")
}

#[test]
fn smollm2_perplexity() {
    let Some(model) = model("smollm2_perplexity", SMOLLM2) else { return };
    let value = perplexity(&model);
    assert!(value <= 18.300 * 1.005, "{value} is more than 0.5% above f32's 18.300");
    assert!(value >= 18.300 * 0.98, "{value} is too good to be true");
}

#[test]
fn gemma3_perplexity() {
    let Some(model) = model("gemma3_perplexity", GEMMA3) else { return };
    let value = perplexity(&model);
    assert!((value / 13.906 - 1.0).abs() <= 0.01, "{value} is not within 1% of llama.cpp's 13.906");
}
