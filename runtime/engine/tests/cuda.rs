//! The engine on an emulated GPU: the same scheduler, the same events, the device's kernels.

use super::*;

fn gpu_config(seed: usize) -> EngineConfig {
    EngineConfig { device: DeviceConfig::Cuda(seed), ..config() }
}

/// Alone, and together in steps that are padded, cut and preempted otherwise; lanes and blocks run in another order each time.
#[test]
fn cuda_requests_get_the_same_bits_alone_and_in_any_batch() {
    let sampled = |prompt: &str, i: usize| {
        let mut request = request(prompt, 6);
        request.sampling.temperature = if i.is_multiple_of(2) { 0.0 } else { 0.9 };
        request.sampling.top_p = 0.9;
        request.sampling.repetition_penalty = 1.1;
        request
    };
    let alone: Vec<Output> = PROMPTS
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let engine = engine(&EngineConfig { max_batch_tokens: 7, ..gpu_config(i) });
            let id = engine.submit(sampled(prompt, i)).unwrap();
            collect(&engine, 1).remove(&id).unwrap()
        })
        .collect();
    assert!(alone.iter().all(|o| o.tokens.len() == 6 && o.reason == Some(FinishReason::Length)), "{alone:?}");
    for (seed, max_batch_tokens) in [(100, 5), (101, 32)] {
        let engine = engine(&EngineConfig { max_batch_tokens, ..gpu_config(seed) });
        let ids: Vec<RequestId> =
            PROMPTS.iter().enumerate().map(|(i, p)| engine.submit(sampled(p, i)).unwrap()).collect();
        let mut outputs = collect(&engine, ids.len());
        for (id, alone) in ids.iter().zip(&alone) {
            assert_eq!(outputs.remove(id).as_ref(), Some(alone), "steps of {max_batch_tokens} tokens");
        }
    }
}

/// Samples that share a prompt's blocks and copy the last one, and a prompt whose tokens are scored.
#[test]
fn cuda_requests_fork_and_are_scored() {
    let engine = engine(&gpu_config(1));
    let mut forked = request("The quick brown fox", 5);
    (forked.n, forked.sampling.temperature) = (3, 1.0);
    let mut scored = request("1234567890", 2);
    scored.prompt_logprobs = Some(2);
    let (forked, scored) = (engine.submit(forked).unwrap(), engine.submit(scored).unwrap());
    let outputs = collect_samples(&engine, 2);
    assert!(outputs[&forked].len() == 3 && outputs[&forked].iter().all(|s| s.output.tokens.len() == 5));
    let prompt = &outputs[&scored][0].prompt;
    assert_eq!((prompt.tokens.len(), prompt.logprobs.len()), (10, 9));
    assert!(prompt.logprobs.iter().all(|l| l.chosen.logprob < 0.0 && l.top.len() == 2));
}
