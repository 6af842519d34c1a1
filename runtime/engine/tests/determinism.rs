//! A request's tokens and log-probabilities are the same bits alone and in any company.

use super::*;
use crate::testing::Random;
use aieng_kernels::KvDType;

/// Requests whose prompts share beginnings, greedy and seeded, with and without what interferes with sampling.
fn requests(r: &mut Random) -> Vec<Request> {
    let stem: String = (0..100).map(|_| char::from(b'a' + r.below(26) as u8)).collect();
    let mut make = |i: u32| {
        let shared = r.below(100) as usize;
        let tail: String = (0..1 + r.below(40)).map(|_| char::from(b'A' + r.below(26) as u8)).collect();
        let mut request = request(&format!("{}{i}{tail}", &stem[..shared]), 1 + r.below(40));
        request.sampling.seed = r.below(1000).into();
        request.sampling.temperature = if r.below(3) == 0 { 0.0 } else { 0.8 };
        request.sampling.top_p = if r.below(2) == 0 { 1.0 } else { 0.9 };
        request.sampling.top_k = r.below(40);
        request.sampling.frequency_penalty = if r.below(3) == 0 { 0.5 } else { 0.0 };
        request.n = if r.below(6) == 0 { 1 + r.below(3) } else { 1 };
        request.prompt_logprobs = (r.below(8) == 0).then_some(1);
        request
    };
    (0..24).map(&mut make).collect()
}

/// What each request delivers when it runs alone, on one thread, without a cache.
fn alone(requests: &[Request], kv_dtype: Option<KvDType>) -> Vec<Vec<(Output, Output)>> {
    let engine = engine(&EngineConfig { threads: 1, prefix_cache: false, kv_dtype, ..config() });
    let mut run = |request: &Request| {
        let id = engine.submit(request.clone()).unwrap();
        delivered(collect_samples(&engine, 1).remove(&id).unwrap())
    };
    requests.iter().map(&mut run).collect()
}

fn delivered(samples: Vec<Sample>) -> Vec<(Output, Output)> {
    samples.into_iter().map(|s| (s.prompt, s.output)).collect()
}

#[test]
fn company_chunks_caches_preemption_and_threads_change_no_bit() {
    let mut r = Random::new("determinism");
    let (mut preemptions, mut hits) = (0, 0);
    for round in 0..6 {
        let requests = requests(&mut r);
        let kv_dtype = Some(KvDType::ALL[r.below(4) as usize]);
        let expected = alone(&requests, kv_dtype);
        for _ in 0..4 {
            let max_sequences = 2 + r.below(63) as usize;
            let config = EngineConfig {
                threads: 1 + r.below(2) as usize,
                max_sequences,
                max_batch_tokens: max_sequences.max(16 + r.below(497) as usize),
                // Some have room for all, some for little more than the longest.
                kv_tokens: if r.below(2) == 0 { 256 + 16 * r.below(8) as usize } else { 4096 },
                prefix_cache: r.below(3) > 0,
                kv_dtype,
                max_requests: 64,
                ..config()
            };
            let engine = engine(&config);
            let ids: Vec<RequestId> = requests.iter().map(|q| engine.submit(q.clone()).unwrap()).collect();
            let mut outputs = collect_samples(&engine, ids.len());
            for (i, id) in ids.iter().enumerate() {
                let samples = outputs.remove(id).unwrap();
                hits += samples[0].finish.as_ref().unwrap().cached_tokens;
                assert_eq!(delivered(samples), expected[i], "round {round}, {:?}, {config:?}", requests[i]);
            }
            preemptions += engine.metrics().preemptions;
        }
    }
    assert!(preemptions > 0 && hits > 0, "{preemptions} preemptions, {hits} tokens from the cache");
}
