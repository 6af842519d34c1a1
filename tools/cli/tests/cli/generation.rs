//! Commands that run a model, in pipes: `run`, `chat`, `bench` and `perplexity`.

use crate::support::{GEMMA3, SMOLLM2, aieng, aieng_with_input, model, scratch, spawn, wait};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::process::Command;

fn strings(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn run_streams_text_and_nothing_else() {
    let Some(model) = model("run_streams_text_and_nothing_else", SMOLLM2) else { return };
    let options = ["run", "-m", &model, "--raw", "--temperature", "0", "--stop", "\n", "The capital of France is"];
    let run = aieng(&options);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "no progress, no notes: {run:?}");
    assert_eq!(run.stdout, " Paris.\n");
}

#[test]
fn run_prints_one_json_object() {
    let Some(model) = model("run_prints_one_json_object", SMOLLM2) else { return };
    let options = ["--json", "--top-logprobs", "3", "--temperature", "0", "-n", "4", "--ignore-eos"];
    let json = aieng(&[&["run", "-m", &model, "Hello"], &options[..]].concat()).json();
    let keys = ["text", "token_ids", "prompt_tokens", "finish_reason", "ttft_ms", "tpot_ms", "logprobs"];
    assert_eq!(strings(&json), keys);
    assert_eq!((json["finish_reason"].as_str(), json["token_ids"].as_array().map(Vec::len)), (Some("length"), Some(4)));
    assert!(json["ttft_ms"].as_f64() > Some(0.0) && json["tpot_ms"].as_f64() > Some(0.0), "{json}");
    let logprobs = json["logprobs"].as_array().expect("a list");
    assert_eq!(logprobs.len(), 4);
    for (token, id) in logprobs.iter().zip(json["token_ids"].as_array().expect("a list")) {
        assert_eq!(strings(token), ["token_id", "token", "logprob", "top_logprobs"]);
        assert_eq!(&token["token_id"], id);
        let top = token["top_logprobs"].as_array().expect("a list");
        assert_eq!((top.len(), strings(&top[0])), (3, vec!["token_id", "token", "logprob"]));
        assert_eq!(top[0]["token_id"], *id, "greedy takes the likeliest");
        assert!(top.is_sorted_by_key(|t| -t["logprob"].as_f64().unwrap_or(f64::NAN)), "{token}");
    }
    let plain = aieng(&["run", "-m", &model, "--json", "-n", "1", "Hello"]).json();
    assert_eq!(strings(&plain), keys[..6]);
}

#[test]
fn run_is_reproducible() {
    let Some(model) = model("run_is_reproducible", SMOLLM2) else { return };
    let ids = |extra: &[&str]| {
        let base = ["run", "--json", "-n", "24", "--ignore-eos", "-m", &model, "Tell me a story."];
        aieng(&[&base[..], extra].concat()).json()["token_ids"].clone()
    };
    let first = ids(&[]);
    assert_eq!(first, ids(&[]), "the default seed is fixed");
    assert_eq!(first, ids(&["--threads", "1"]), "the number of threads does not matter");
    assert_ne!(first, ids(&["--seed", "7"]), "the seed does");
}

#[test]
fn run_stops_where_told() {
    let Some(model) = model("run_stops_where_told", SMOLLM2) else { return };
    let base = ["run", "--raw", "--json", "--temperature", "0", "-n", "24", "-m", &model, "The capital of France is"];
    let json = aieng(&[&base[..], &["--stop", "Paris"]].concat()).json();
    assert_eq!((json["text"].as_str(), json["finish_reason"].as_str()), (Some(" "), Some("stop")), "{json}");
    let whole = aieng(&base).json();
    let (first, second) = (&whole["token_ids"][0], &whole["token_ids"][1]);
    let json = aieng(&[&base[..], &["--stop-token", &second.to_string()]].concat()).json();
    assert_eq!((&json["token_ids"][0], json["finish_reason"].as_str()), (first, Some("stop")), "{json}");
    let json = aieng(&[&base[..], &["--logit-bias", &format!("{first}=-100")]].concat()).json();
    assert_ne!(&json["token_ids"][0], first);
}

#[test]
fn run_reads_the_prompt_from_a_pipe() {
    let Some(model) = model("run_reads_the_prompt_from_a_pipe", SMOLLM2) else { return };
    let options = ["run", "--raw", "--json", "--temperature", "0", "-n", "8", "-m", &model];
    let argument = aieng(&[&options[..], &["The capital of France is"]].concat()).json();
    let pipe = aieng_with_input(&options, b"The capital of France is\n").json();
    assert_eq!((&argument["text"], &argument["prompt_tokens"]), (&pipe["text"], &pipe["prompt_tokens"]));
}

#[test]
fn run_without_a_chat_template_says_so() {
    let Some(model) = model("run_without_a_chat_template_says_so", GEMMA3) else { return };
    let run = aieng(&["run", "-m", &model, "-n", "1", "The capital of France is"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("no chat template"), "{run:?}");
    aieng(&["run", "-m", &model, "--system", "Be brief", "Hi"]).assert_refused(1, &["--system", "no chat template"]);
    aieng(&["chat", "-m", &model]).assert_refused(1, &["no chat template"]);
}

/// Starts a long answer and waits for its first bytes.
fn spawn_long_answer(model: &str) -> std::process::Child {
    let mut child = spawn(&["run", "-m", model, "--ignore-eos", "-n", "3000", "Tell me a story."]);
    let mut first = [0; 8];
    child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("text");
    child
}

#[test]
fn run_ends_quietly_when_its_reader_goes() {
    let Some(model) = model("run_ends_quietly_when_its_reader_goes", SMOLLM2) else { return };
    let mut child = spawn_long_answer(&model);
    drop(child.stdout.take());
    let status = wait(&mut child);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn run_ends_cleanly_on_interrupt() {
    let Some(model) = model("run_ends_cleanly_on_interrupt", SMOLLM2) else { return };
    let mut child = spawn_long_answer(&model);
    // The shell's own `kill`, so that no other package is needed.
    let signal = Command::new("sh").args(["-c", "kill -INT $0", &child.id().to_string()]).status();
    assert!(signal.expect("sh").success());
    let mut rest = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut rest).expect("whole characters");
    assert_eq!(wait(&mut child).code(), Some(130));
}

#[test]
fn chat_answers_each_line_of_a_pipe() {
    let Some(model) = model("chat_answers_each_line_of_a_pipe", SMOLLM2) else { return };
    let options = ["chat", "-m", &model, "--temperature", "0", "-n", "64"];
    let chat = aieng_with_input(&options, b"Hello\n\n/clear\n/nope\n/exit\nnot reached\n");
    assert_eq!(chat.code, Some(0), "{chat:?}");
    assert!(chat.stdout.trim().len() > 10 && chat.stdout.ends_with('\n'), "{chat:?}");
    assert!(chat.stderr.contains("/nope: no such command"), "{chat:?}");
}

#[test]
fn chat_forgets_the_oldest_turns_when_full() {
    let Some(model) = model("chat_forgets_the_oldest_turns_when_full", SMOLLM2) else { return };
    let lines = "Say a few words about the sea.\n".repeat(4) + &"far too long ".repeat(200) + "\n";
    let chat = aieng_with_input(&["chat", "-m", &model, "--ctx", "128", "-n", "24"], lines.as_bytes());
    assert_eq!(chat.code, Some(0), "{chat:?}");
    assert!(chat.stderr.contains("the context of 128 tokens is full: forgot"), "{chat:?}");
    assert!(chat.stderr.contains("the message does not fit the context of 128 tokens"), "{chat:?}");
}

#[test]
fn bench_prints_a_table_csv_or_json() {
    let Some(model) = model("bench_prints_a_table_csv_or_json", SMOLLM2) else { return };
    let base = ["bench", "-m", &model, "-p", "8", "-n", "2", "--pg", "8,2", "-t", "1,2", "-r", "2"];
    let json = aieng(&[&base[..], &["--json"]].concat()).json();
    let rows = json.as_array().expect("a list");
    let tests: Vec<_> = rows.iter().map(|row| (row["test"].as_str(), row["n_threads"].as_u64())).collect();
    let names = ["pp8", "tg2", "pp8+tg2"].map(Some);
    let expected: Vec<_> = [1, 2].iter().flat_map(|&threads| names.map(|name| (name, Some(threads)))).collect();
    assert_eq!(tests, expected);
    assert!(rows.iter().all(|row| row["avg_ts"].as_f64() > Some(0.0)), "{json}");
    assert!(rows.iter().all(|row| row["samples_ns"].as_array().map(Vec::len) == Some(2)), "{json}");

    let table = aieng(&[&base[..9], &["-r", "1"]].concat());
    assert!(table.stdout.starts_with("| model ") && table.stdout.contains("|           tg2 |"), "{table:?}");
    assert_eq!(table.stderr, "");
    let csv = aieng(&[&base[..9], &["-r", "1", "--csv"]].concat());
    assert_eq!(csv.stdout.lines().count(), 4, "a header and three tests: {csv:?}");
}

#[test]
fn bench_measures_behind_a_context() {
    let Some(model) = model("bench_measures_behind_a_context", SMOLLM2) else { return };
    let json = aieng(&["bench", "-m", &model, "-p", "8", "-n", "2", "-d", "0,40", "-r", "1", "--json"]).json();
    let tests: Vec<_> = json.as_array().expect("a list").iter().map(|row| row["test"].as_str()).collect();
    assert_eq!(tests, ["pp8", "tg2", "pp8 @ d32", "tg2 @ d32"].map(Some), "in whole blocks: {json}");
}

#[test]
fn bench_profiles_by_operation() {
    let Some(model) = model("bench_profiles_by_operation", SMOLLM2) else { return };
    let svg = scratch("profile").join("p.svg");
    let base = ["bench", "--profile", "-m", &model, "-p", "16", "-d", "0,32", "-r", "2", "--sequences", "1,3"];
    let plot = ["--plot", svg.to_str().expect("UTF-8")];
    let json = aieng(&[&base[..], &plot, &["--json"]].concat()).json();
    let reports = json.as_array().expect("a list");
    let tests: Vec<_> = reports.iter().map(|report| report["test"].as_str()).collect();
    let names = ["pp16", "decode", "decode x3", "pp16 @ d32", "decode @ d32", "decode x3 @ d32"];
    assert_eq!(tests, names.map(Some));
    for report in reports {
        let operations = report["operations"].as_array().expect("a list");
        let sum = |field: &str| operations.iter().map(|o| o[field].as_f64().expect("a number")).sum::<f64>();
        assert!((sum("ms") / report["ms"].as_f64().expect("a number") - 1.0).abs() < 1e-6, "{report}");
        assert!((sum("share") - 1.0).abs() < 1e-6, "{report}");
        let gate_up = operations.iter().find(|o| o["operation"] == "gate_up").expect("every model has it");
        // 30 layers of 2 * 1536 x 576.
        let rows = match report["test"].as_str().expect("a name") {
            name if name.starts_with("pp16") => 16.0,
            name if name.starts_with("decode x3") => 3.0,
            _ => 1.0,
        };
        assert_eq!(gate_up["operations"].as_f64(), Some(2.0 * 30.0 * 2.0 * 1536.0 * 576.0 * rows));
        assert!(gate_up["operations_per_second"].as_f64() > Some(0.0) && gate_up["bytes"].as_f64() > Some(3e7));
        let shares = operations.iter().filter_map(|o| o["ceiling_share"].as_f64());
        assert!(shares.clone().count() >= 5 && shares.into_iter().all(|share| share > 0.0 && share < 20.0), "{report}");
        assert!(report["ceilings"]["memory"].as_f64() > Some(0.0), "{report}");
    }
    let svg = fs::read_to_string(&svg).expect("drawn");
    assert_eq!(svg.matches("<g ").count(), 6);
    assert!(svg.contains(">gate_up</text>") && svg.ends_with("</svg>\n"), "{svg}");

    let table = aieng(&[&base[..6], &["-n", "0"]].concat());
    assert_eq!((table.code, table.stdout.matches("| attention ").count()), (Some(0), 1), "{table:?}");
}

#[test]
fn bench_makes_a_model_and_measures_it() {
    let path = scratch("make-model").join("small.gguf");
    let file = path.to_str().expect("UTF-8");
    let made = aieng(&["bench", "--make-model", "llama-small", file]);
    assert_eq!((made.code, made.stdout.trim_end(), made.stderr.as_str()), (Some(0), file, ""));
    let files: Vec<_> = fs::read_dir(path.parent().expect("a folder")).expect("scratch").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let json = aieng(&["bench", "-m", file, "-p", "8", "-n", "2", "-r", "1", "--json"]).json();
    assert_eq!(json[1]["test"], "tg2");
    assert_eq!(aieng(&["tokenize", "-m", file, "--json", "hi"]).json()["token_ids"].as_array().map(Vec::len), Some(3));

    aieng(&["bench", "--make-model", "llama-9t", file]).assert_refused(2, &["llama-9t", "llama-1b"]);
    aieng(&["bench", "--make-model", "llama-small", "/nowhere/x.gguf"]).assert_refused(1, &["/nowhere/x.gguf"]);
}

#[test]
fn bench_measures_random_weights() {
    for (quant, kind) in [("int4", "llama-small 1.44 M int4"), ("bf16", "llama-small 1.44 M bf16")] {
        let base = ["bench", "--random-weights", "llama-small", "--quant", quant, "-p", "8", "-n", "2", "-r", "1"];
        let json = aieng(&[&base[..], &["--json"]].concat()).json();
        assert_eq!((json[0]["model_type"].as_str(), json[1]["test"].as_str()), (Some(kind), Some("tg2")));
    }
    aieng(&["bench", "--random-weights", "llama-9t"])
        .assert_refused(2, &["--random-weights", "llama-9t", "llama-3-8b"]);
    aieng(&["bench", "--quant", "bf16"]).assert_refused(2, &["--random-weights"]);
}

#[test]
fn bench_measures_the_ceilings() {
    let json = aieng(&["bench", "--ceilings", "--json", "-t", "1", "--isa", "portable"]).json();
    assert_eq!((json[0]["isa"].as_str(), json[0]["threads"].as_u64()), (Some("portable"), Some(1)));
    let ceilings = &json[0]["ceilings"];
    assert_eq!(strings(ceilings), ["memory", "cache", "int8", "bf16", "f32"]);
    assert!(ceilings["memory"].as_f64() > Some(0.0) && ceilings["int8"].is_null(), "{json}");
    let table = aieng(&["bench", "--ceilings", "-t", "1"]);
    assert_eq!(table.stdout.lines().count(), 3, "{table:?}");
    aieng(&["bench", "--ceilings", "--device", "reference"]).assert_refused(1, &["reference"]);
}

#[test]
fn perplexity_reports_in_a_pipe_without_progress() {
    let Some(model) = model("perplexity_reports_in_a_pipe_without_progress", SMOLLM2) else { return };
    let path = scratch("perplexity").join("text");
    fs::write(&path, "The quick brown fox jumps over the lazy dog. ".repeat(40)).expect("scratch");
    let base = ["perplexity", "-m", &model, "--ctx", "64", "--file", path.to_str().expect("UTF-8")];
    let run = aieng(&[&base[..], &["--json"]].concat());
    assert_eq!(run.stderr, "");
    let json = run.json();
    assert_eq!(strings(&json), ["value", "standard_error", "tokens", "ctx"]);
    assert!(json["value"].as_f64() > Some(1.0), "{json}");
    assert_eq!(json["tokens"].as_u64().map(|n| n % 31), Some(0), "31 tokens of each window of 64: {json}");
    let with_each = aieng(&[&base[..], &["--json", "--log-likelihoods"]].concat()).json();
    let each: Vec<f64> =
        with_each["log_likelihoods"].as_array().expect("a list").iter().filter_map(|x| x.as_f64()).collect();
    assert_eq!(json["tokens"], each.len());
    let value = (-each.iter().sum::<f64>() / each.len() as f64).exp();
    assert!((value / json["value"].as_f64().expect("a number") - 1.0).abs() < 1e-6, "{value} of {json}");
    let text = aieng(&base);
    assert!(text.stdout.starts_with("perplexity "), "{text:?}");
}

#[test]
fn bench_takes_turns() {
    let folder = scratch("turns").join("small.gguf");
    let file = folder.to_str().expect("UTF-8");
    aieng(&["bench", "--make-model", "llama-small", file]);
    let turns = |orders: &str| {
        let args = ["bench", "turns", "-m", file, "--context", "512", "--sequences", "4", "-t", "1"];
        aieng_with_input(&args, orders.as_bytes())
    };
    let order = |test: &str, sizes: [usize; 4]| {
        let [prompt, generate, sequences, depth] = sizes;
        serde_json::json!({ "test": test, "prompt": prompt, "generate": generate, "sequences": sequences, "depth": depth })
            .to_string()
            + "\n"
    };
    let done = turns(&(order("pp32", [32, 0, 1, 0]) + &order("tg4x4", [0, 4, 4, 0]) + &order("deep", [0, 4, 1, 100])));
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["ready"], env!("CARGO_PKG_VERSION"));
    let tokens: Vec<_> = lines[1..].iter().map(|line| (line["test"].as_str(), line["tokens"].as_f64())).collect();
    assert_eq!(tokens, [(Some("pp32"), Some(32.0)), (Some("tg4x4"), Some(16.0)), (Some("deep"), Some(4.0))]);
    assert!(lines[1..].iter().all(|line| line["seconds"][0].as_f64() > Some(0.0)), "{lines:?}");

    let cases = [
        (order("none", [0, 0, 1, 0]), "none: nothing to measure"),
        (order("wide", [8, 0, 5, 0]), "wide: more than"),
        (order("long", [600, 0, 1, 0]), "long: more than"),
        ("{}\n".into(), "standard input, line 1"),
    ];
    for (orders, words) in cases {
        let refused = turns(&orders);
        assert!(refused.code == Some(2) && refused.stderr.contains(words), "{refused:?}");
    }
}
