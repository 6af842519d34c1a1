//! `--device cuda`: refused by a build that has none; in one with the emulator, a real model on the kernels of GPUs.

use crate::support::aieng;

#[cfg(not(any(feature = "cuda", feature = "emulate")))]
#[test]
fn a_build_without_cuda_says_so() {
    let Some(model) = crate::support::model("a_build_without_cuda_says_so", crate::support::SMOLLM2) else { return };
    aieng(&["run", "-m", &model, "--device", "cuda", "Hello"]).assert_refused(1, &["built without CUDA"]);
}

/// Weights in four formats, thirty layers, three query heads for each of three KV heads: the CPU's tokens, with nearly its
/// log-probabilities.
#[cfg(feature = "emulate")]
#[test]
fn smollm2_on_cuda() {
    let Some(model) = crate::support::model("smollm2_on_cuda", crate::support::SMOLLM2) else { return };
    let run = |device: &str| {
        let options = ["--raw", "--json", "--top-logprobs", "5", "--temperature", "0", "-n", "3", "--device", device];
        aieng(&[&["run", "-m", &model, "The capital of France is"], &options[..]].concat()).json()
    };
    let (cpu, gpu) = (run("cpu"), run("cuda"));
    assert_eq!(gpu["token_ids"], cpu["token_ids"]);
    for (gpu, cpu) in gpu["logprobs"].as_array().unwrap().iter().zip(cpu["logprobs"].as_array().unwrap()) {
        let error = gpu["logprob"].as_f64().unwrap() - cpu["logprob"].as_f64().unwrap();
        println!("{}: {error:+.3} from the CPU's", gpu["token"]);
        assert!(error.abs() < 0.25, "{gpu}, {cpu}");
    }
}

/// The benchmark of a model that never is a file: rows like those of any other.
#[cfg(feature = "emulate")]
#[test]
fn random_weights_on_cuda() {
    for quant in ["int4", "bf16"] {
        let options = ["-p", "9", "-n", "2", "-d", "16", "--sequences", "1,3", "-r", "1", "--json", "--quant", quant];
        let args = [&["bench", "--device", "cuda", "--random-weights", "llama-small"], &options[..]].concat();
        let rows = aieng(&args).json();
        let tests: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["test"].as_str().unwrap()).collect();
        assert_eq!(tests, ["pp9 @ d16", "tg2 @ d16", "pp9 x3 @ d16", "tg2 x3 @ d16"]);
        let row = &rows[0];
        assert_eq!(
            (row["model_type"].as_str(), row["backends"].as_str()),
            (Some(&*format!("llama-small 1.44 M {quant}")), Some("cuda-emulated"))
        );
        assert!(rows.as_array().unwrap().iter().all(|row| row["avg_ts"].as_f64().unwrap() > 0.0), "{rows}");
    }
}
