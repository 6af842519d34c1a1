//! Wrong options are refused with exit code 2 before a model is looked for: the model named here does not exist.

use crate::support::{aieng, aieng_with_input};

const NO_MODEL: [&str; 2] = ["-m", "no-such-model.gguf"];

#[test]
fn values_out_of_range() {
    let cases: [(&[&str], &[&str]); 18] = [
        (&["--temperature", "-1"], &["temperature", "-1"]),
        (&["--temperature", "NaN"], &["temperature", "NaN"]),
        (&["--temperature", "inf"], &["temperature", "inf"]),
        (&["--temperature", "warm"], &["--temperature", "warm"]),
        (&["--top-p", "0"], &["top_p", "0"]),
        (&["--top-p", "1.5"], &["top_p", "1.5"]),
        (&["--min-p", "-0.5"], &["min_p", "-0.5"]),
        (&["--repetition-penalty", "0"], &["repetition_penalty", "0"]),
        (&["--presence-penalty", "-3"], &["presence_penalty", "-3"]),
        (&["--logit-bias", "5"], &["--logit-bias", "5"]),
        (&["--logit-bias", "5=NaN"], &["logit_bias", "5", "NaN"]),
        (&["--stop", ""], &["stop", "empty"]),
        (&["-n", "0"], &["max_tokens", "0"]),
        (&["--json", "--top-logprobs", "21"], &["logprobs", "21"]),
        (&["--seed", "-1"], &["-1"]),
        (&["--device", "reference", "--isa", "avx2"], &["--isa", "--device"]),
        (&["--device", "cuda", "--isa", "avx2"], &["--isa", "--device"]),
        (&["--gpu", "1"], &["--gpu", "--device"]),
    ];
    for (options, words) in cases {
        let args = [&["run"], &NO_MODEL[..], options, &["Hello"]].concat();
        aieng(&args).assert_refused(2, words);
    }
}

#[test]
fn wrong_options() {
    let cases: [(&[&str], &[&str]); 12] = [
        (&[], &["Usage"]),
        (&["dance"], &["dance"]),
        (&["run", "--nope"], &["--nope"]),
        (&["run", "--raw", "--system", "x", "y"], &["--raw", "--system"]),
        (&["run", "--top-logprobs", "3", "x"], &["--json"]),
        (&["run", "--isa", "sse9", "x"], &["--isa", "sse9"]),
        (&["perplexity"], &["--file"]),
        (&["bench", "-p", "5-1"], &["5-1"]),
        (&["bench", "-p", "0", "-n", "0"], &["nothing to measure"]),
        (&["bench", "--profile", "-p", "0", "-n", "0"], &["nothing to profile"]),
        (&["bench", "--profile", "--csv"], &["--profile", "--csv"]),
        (&["bench", "--plot", "x.svg"], &["--profile"]),
    ];
    for (args, words) in cases {
        aieng(args).assert_refused(2, words);
    }
}

#[test]
fn empty_prompts() {
    for input in [&b""[..], b"\n", b"\r\n"] {
        aieng_with_input(&[&["run"], &NO_MODEL[..]].concat(), input).assert_refused(2, &["prompt is empty"]);
        aieng_with_input(&[&["run", "-"], &NO_MODEL[..]].concat(), input).assert_refused(2, &["prompt is empty"]);
    }
    aieng(&[&["run", ""], &NO_MODEL[..]].concat()).assert_refused(2, &["prompt is empty"]);
}

#[test]
fn help_and_version() {
    for command in ["run", "chat", "pull", "info", "tokenize", "perplexity", "bench"] {
        let help = aieng(&[command, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
        assert!(help.stdout.contains("Usage: aieng"), "{help:?}");
    }
    assert!(aieng(&["--version"]).stdout.starts_with("aieng "));
}
