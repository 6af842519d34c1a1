//! Random load on the real engine for a long time: `cargo xtask soak` (ten minutes; `AIENG_SOAK_SECONDS` sets another time).
//!
//! Requests of all kinds come and are cancelled while memory is watched; each ends once, and nothing comes after its end.

use aieng_runtime::TokenId;
use aieng_runtime::engine::{Engine, EngineConfig, FinishReason, Request, RequestId};
use aieng_runtime::sampling::SamplingParams;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn request(random: &mut Random) -> Request {
    let shared = random.below(200);
    let own = 1 + random.below(200);
    let mut prompt: Vec<TokenId> = (0..shared).map(|i| TokenId(i as u32)).collect();
    prompt.extend((0..own).map(|_| TokenId(random.below(40_000) as u32)));
    let sampling = SamplingParams {
        temperature: if random.below(2) == 0 { 0.0 } else { 0.9 },
        top_p: 0.95,
        repetition_penalty: if random.below(3) == 0 { 1.1 } else { 1.0 },
        seed: random.below(1 << 32),
        max_tokens: 1 + random.below(100) as u32,
        logprobs: (random.below(4) == 0).then_some(3),
        stop: if random.below(3) == 0 { vec![".".into(), "the end".into()] } else { Vec::new() },
        ..SamplingParams::default()
    };
    Request {
        n: if random.below(8) == 0 { 3 } else { 1 },
        best_of: if random.below(20) == 0 { 4 } else { 0 },
        tenant: random.below(3) as u32,
        priority: random.below(5) as i32 - 2,
        deadline: (random.below(10) == 0).then(|| Duration::from_millis(1 + random.below(2000))),
        echo: random.below(10) == 0,
        prompt_logprobs: (random.below(20) == 0).then_some(2),
        ..Request::new(prompt, sampling)
    }
}

#[test]
#[ignore = "takes ten minutes: cargo xtask soak"]
fn ten_minutes_of_random_load() {
    let home = std::env::var_os("AIENG_HOME").expect("AIENG_HOME has the models");
    let model = PathBuf::from(home).join("models/smollm2-135m.gguf");
    let seconds = std::env::var("AIENG_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(600);
    let seed = std::env::var("AIENG_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    eprintln!("{seconds} s, AIENG_TEST_SEED={seed}");
    let config = EngineConfig { context: 512, kv_tokens: 4096, max_requests: 64, ..EngineConfig::default() };
    let engine = Engine::load(&model, &config, &mut |_| Ok(())).expect("the model loads");
    let mut random = Random(seed);
    // Samples that have not ended, by request.
    let mut open: HashMap<RequestId, u32> = HashMap::new();
    let (mut submitted, mut ended, mut events) = (0u64, 0u64, 0u64);
    let mut reasons: HashMap<String, u64> = HashMap::new();
    let (begin, mut settled, mut greatest) = (Instant::now(), 0, 0);
    let mut report = Instant::now();
    loop {
        let over = begin.elapsed() >= Duration::from_secs(seconds);
        if over && open.is_empty() {
            break;
        }
        if !over && open.len() < 48 {
            let request = request(&mut random);
            let samples = request.n;
            open.insert(engine.submit(request).expect("there is room"), samples);
            submitted += 1;
        }
        if random.below(60) == 0
            && let Some(id) = open.keys().next().copied()
        {
            engine.cancel(id).expect("the queue has room");
        }
        // Most of the time the batch is full; sometimes the engine runs dry.
        let patience = if random.below(2000) == 0 { 300 } else { 1 };
        while let Some(event) = engine.next(Some(Duration::from_millis(patience))).expect("the engine lives") {
            events += 1;
            let samples = open.get_mut(&event.request).expect("an event of a request that has not ended");
            let Some(finish) = event.finish else { break };
            assert_ne!(finish.reason, FinishReason::Error, "{finish:?}");
            *reasons.entry(format!("{:?}", finish.reason)).or_default() += 1;
            *samples -= 1;
            assert_eq!(finish.last, *samples == 0);
            if finish.last {
                open.remove(&event.request);
                ended += 1;
            }
        }
        // Everything has been touched after a tenth of the time.
        if begin.elapsed() > Duration::from_secs(seconds / 10) {
            greatest = resident().max(greatest);
            settled = if settled == 0 { resident() } else { settled };
        }
        if report.elapsed() > Duration::from_secs(60) {
            report = Instant::now();
            eprintln!("{:?}: {ended} requests, {events} events, {} MiB", begin.elapsed(), resident() >> 20);
        }
    }
    let metrics = engine.metrics();
    eprintln!("{submitted} requests, {events} events, {reasons:?}, {} preemptions", metrics.preemptions);
    eprintln!("memory {} MiB after a tenth of the time, at most {} MiB later", settled >> 20, greatest >> 20);
    assert_eq!(submitted, ended);
    assert_eq!((metrics.running, metrics.waiting, metrics.kv_blocks_used), (0, 0, 0));
    assert!(greatest < settled + (8 << 20), "memory grew from {settled} to {greatest} bytes");
    assert!(matches!(engine.next(Some(Duration::from_millis(50))), Ok(None)), "an event of nobody's");
}
