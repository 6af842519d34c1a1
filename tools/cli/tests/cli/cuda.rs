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
