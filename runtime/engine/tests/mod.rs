#[cfg(feature = "emulate")]
mod cuda;
mod determinism;
mod features;
mod steady;
mod stress;

use super::*;
use crate::TokenId;
use crate::load::Gguf;
use crate::model::tiny;
use crate::sampling::SamplingParams;
use aieng_kernels::sample::{DrawScratch, Drawn, Draws, draw_all};
use std::collections::HashMap;

fn config() -> EngineConfig {
    EngineConfig {
        threads: 2,
        pin: false,
        max_sequences: 4,
        max_batch_tokens: 32,
        max_requests: 8,
        ..Default::default()
    }
}

fn engine(config: &EngineConfig) -> Engine {
    let file = Gguf::from_bytes(Path::new("tiny.gguf"), &tiny::gguf("qwen3", 2, 3).bytes()).unwrap();
    Engine::start(Model::from_file(file, config, &mut |_| Ok(())).unwrap(), config).unwrap()
}

fn request(prompt: &str, max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens, ignore_eos: true, seed: 5, logprobs: Some(2), ..Default::default() };
    Request::new(prompt.bytes().map(|b| TokenId(u32::from(b))).collect(), sampling)
}

#[derive(Debug, Default, PartialEq)]
struct Output {
    tokens: Vec<TokenId>,
    logprobs: Vec<Logprobs>,
    text: String,
    reason: Option<FinishReason>,
}

/// Reads events until `count` requests have ended.
fn collect(engine: &Engine, count: usize) -> HashMap<RequestId, Output> {
    let samples = collect_samples(engine, count);
    let one = |(id, mut samples): (RequestId, Vec<Sample>)| {
        assert_eq!(samples.len(), 1);
        (id, samples.remove(0).output)
    };
    samples.into_iter().map(one).collect()
}

#[derive(Debug, Default)]
struct Sample {
    output: Output,
    /// Tokens of the prompt, with the scores of all but the first.
    prompt: Output,
    finish: Option<Finish>,
}

/// Reads events until `count` requests have ended.
fn collect_samples(engine: &Engine, count: usize) -> HashMap<RequestId, Vec<Sample>> {
    let mut requests: HashMap<RequestId, Vec<Sample>> = HashMap::new();
    let mut ended = Vec::new();
    while ended.len() < count {
        let event = engine.next(Some(Duration::from_secs(60))).unwrap().expect("an event within a minute");
        assert!(!ended.contains(&event.request), "an event after the last one");
        let samples = requests.entry(event.request).or_default();
        let number = event.sample as usize;
        samples.resize_with(samples.len().max(number + 1), Sample::default);
        let sample = &mut samples[number];
        assert!(sample.finish.is_none(), "an event after the sample's last one");
        let output = if event.origin == Origin::Prompt { &mut sample.prompt } else { &mut sample.output };
        output.tokens.extend(event.token);
        output.logprobs.extend(event.logprobs);
        output.text.push_str(&event.text);
        if let Some(finish) = event.finish {
            sample.output.reason = Some(finish.reason);
            assert_eq!(finish.completion_tokens, sample.output.tokens.len());
            if let Some(message) = &finish.message {
                println!("{:?}: {message}", event.request);
            }
            let last = finish.last;
            sample.finish = Some(*finish);
            if last {
                assert!(samples.iter().all(|s| s.finish.is_some()), "the last event, but not of every sample");
                ended.push(event.request);
            }
        }
    }
    requests
}

const PROMPTS: [&str; 6] = ["a", "The quick brown fox jumps over the lazy dog", "1234567890", "x y z", "äöü", "....."];

#[test]
fn a_request_gets_the_same_bits_alone_and_in_any_batch() {
    let alone: Vec<Output> = PROMPTS
        .iter()
        .map(|prompt| {
            let engine = engine(&EngineConfig { threads: 1, max_batch_tokens: 7, ..config() });
            let id = engine.submit(request(prompt, 40)).unwrap();
            collect(&engine, 1).remove(&id).unwrap()
        })
        .collect();
    assert!(alone.iter().all(|o| o.tokens.len() == 40 && o.reason == Some(FinishReason::Length)));
    for max_batch_tokens in [5, 32, 64] {
        let engine = engine(&EngineConfig { max_batch_tokens, ..config() });
        let ids: Vec<RequestId> = PROMPTS.iter().map(|p| engine.submit(request(p, 40)).unwrap()).collect();
        let mut outputs = collect(&engine, ids.len());
        for (id, alone) in ids.iter().zip(&alone) {
            assert_eq!(outputs.remove(id).as_ref(), Some(alone), "steps of {max_batch_tokens} tokens");
        }
    }
}

/// Tokens and log-probabilities are drawn on the device, with all that changes logits.
#[cfg(feature = "emulate")]
#[test]
fn an_emulated_gpu_draws_the_same_alone_and_in_any_batch() {
    let with = |max_batch_tokens: usize| {
        let device = DeviceConfig::Cuda(1);
        engine(&EngineConfig { device, max_batch_tokens, ..config() })
    };
    let wanted = |prompt: &str| {
        let mut request = request(prompt, 6);
        request.sampling.frequency_penalty = 0.5;
        request.sampling.top_p = 0.9;
        request.sampling.logit_bias = vec![(TokenId(65), 1.0)];
        Request { n: 2, prompt_logprobs: Some(1), ..request }
    };
    let delivered = |samples: Vec<Sample>| samples.into_iter().map(|s| (s.prompt, s.output)).collect::<Vec<_>>();
    let (alone, together) = (with(7), with(32));
    let ids: Vec<RequestId> = PROMPTS[..3].iter().map(|p| together.submit(wanted(p)).unwrap()).collect();
    let mut outputs = collect_samples(&together, ids.len());
    for (id, prompt) in ids.iter().zip(PROMPTS) {
        let single = alone.submit(wanted(prompt)).unwrap();
        let expected = delivered(collect_samples(&alone, 1).remove(&single).unwrap());
        assert!(expected.iter().all(|(_, output)| output.tokens.len() == 6 && output.logprobs.len() == 6));
        assert_eq!(delivered(outputs.remove(id).unwrap()), expected, "{prompt}");
    }
}

#[test]
fn stops_end_a_request_where_they_should() {
    let engine = engine(&config());
    let plain = request("hello", 30);
    engine.submit(plain.clone()).unwrap();
    let whole = collect(&engine, 1).into_values().next().unwrap();

    let token = whole.tokens[9];
    let first = whole.tokens.iter().position(|t| *t == token).unwrap();
    let mut by_token = plain.clone();
    by_token.sampling.stop_token_ids = vec![token];
    engine.submit(by_token).unwrap();
    let output = collect(&engine, 1).into_values().next().unwrap();
    assert_eq!((output.reason, &output.tokens[..]), (Some(FinishReason::Stop), &whole.tokens[..=first]));

    let chars: Vec<char> = whole.text.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 2].iter().collect();
    let mut by_text = plain.clone();
    by_text.sampling.stop = vec!["never".into(), stop.clone()];
    engine.submit(by_text).unwrap();
    let output = collect(&engine, 1).into_values().next().unwrap();
    assert_eq!(output.reason, Some(FinishReason::Stop));
    assert_eq!(output.text, whole.text[..whole.text.find(&stop).unwrap()]);
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let engine = engine(&EngineConfig { kv_tokens: 64, ..config() });
    let with = |change: fn(&mut Request)| {
        let mut r = request("hi", 10);
        change(&mut r);
        match engine.submit(r) {
            Err(Error::InvalidArgument(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(|r| r.prompt.clear()), "prompt: no tokens");
    assert!(with(|r| r.prompt = vec![TokenId(1); 256]).contains("256 tokens leave no room in a context of 256"));
    assert!(with(|r| r.prompt[0] = TokenId(259)).contains("token 259 is outside the vocabulary of 259"));
    assert!(with(|r| r.sampling.stop_token_ids = vec![TokenId(999)]).contains("token 999"));
    assert!(with(|r| r.sampling.max_tokens = 100).contains("102 tokens do not fit a KV cache of 64"));
    assert!(with(|r| r.sampling.max_tokens = 0).contains("max_tokens: 0"));
    assert!(with(|r| r.sampling.temperature = -1.0).contains("temperature: -1"));
    assert!(with(|r| r.sampling.top_p = f32::NAN).contains("top_p: NaN"));
}

#[test]
fn a_full_engine_is_busy_and_a_slow_reader_loses_nothing() {
    let engine = engine(&config());
    // Sixteen events fit the queue: the engine has to wait for the reader, and more requests for a place.
    let ids: Vec<RequestId> = (0..8).map(|_| engine.submit(request("slow", 50)).unwrap()).collect();
    assert!(matches!(engine.submit(request("ninth", 1)), Err(Error::Busy(_))));
    std::thread::sleep(Duration::from_millis(50));
    let outputs = collect(&engine, 8);
    assert!(ids.iter().all(|id| outputs[id].tokens.len() == 50));
    engine.submit(request("ninth", 1)).unwrap();
    collect(&engine, 1);
}

#[test]
fn cancelled_requests_end_once_and_others_go_on() {
    let engine = engine(&config());
    let ids: Vec<RequestId> = (0..6).map(|_| engine.submit(request("cancel me", 200)).unwrap()).collect();
    for id in &ids[1..] {
        engine.cancel(*id).unwrap();
    }
    engine.cancel(RequestId(999)).unwrap();
    let outputs = collect(&engine, 6);
    assert_eq!(outputs[&ids[0]].reason, Some(FinishReason::Length));
    let cancelled = |id: &RequestId| outputs[id].reason == Some(FinishReason::Cancelled);
    assert!(ids[1..].iter().all(cancelled), "{outputs:?}");
    assert!(matches!(engine.next(Some(Duration::from_millis(20))), Ok(None)));
}

#[test]
fn shutdown_ends_every_request_and_closes_the_queue() {
    let engine = engine(&config());
    for _ in 0..8 {
        engine.submit(request("on and on", 240)).unwrap();
    }
    engine.shutdown();
    assert!(matches!(engine.submit(request("late", 1)), Err(Error::Closed(_))));
    let outputs = collect(&engine, 8);
    assert!(outputs.values().all(|o| o.reason == Some(FinishReason::Cancelled)));
    assert!(matches!(engine.next(None), Err(Error::Closed(_))));
}

#[test]
fn dropping_an_engine_that_nobody_reads_does_not_hang() {
    let engine = engine(&config());
    for _ in 0..8 {
        engine.submit(request("unread", 240)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// Stands in for a model that breaks.
struct Broken {
    device: aieng_kernels::Device,
    logits: Vec<f32>,
    steps_left: usize,
    /// It breaks with an error, not with a panic.
    fails: bool,
}

impl Executor for Broken {
    fn execute(&mut self, _: &crate::batch::Batch) -> Result<()> {
        assert!(self.steps_left > 0 || self.fails, "a bug in a kernel");
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Error::Internal("a device that failed".into()))?;
        Ok(())
    }

    fn logits_rows(&self) -> usize {
        4
    }

    fn compute_logits(&mut self, _: std::ops::Range<usize>) -> Result<()> {
        Ok(())
    }

    fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()> {
        draw_all(&self.device, draws, |_| &self.logits, &mut [DrawScratch::default()], drawn);
        Ok(())
    }

    fn device(&self) -> &aieng_kernels::Device {
        &self.device
    }

    fn fingerprint(&self) -> u128 {
        7
    }
}

/// An engine whose model is replaced by one that breaks after some steps.
fn broken(steps_left: usize, logit: f32, fails: bool) -> Engine {
    let file = Gguf::from_bytes(Path::new("tiny.gguf"), &tiny::gguf("llama", 1, 3).bytes()).unwrap();
    let (device, logits) = (aieng_kernels::Device::Reference, vec![logit; tiny::VOCAB]);
    let executor = Broken { device, logits, steps_left, fails };
    let sizes = Sizes { context: tiny::CONTEXT, vocab: tiny::VOCAB, blocks: 64 };
    let info = Info::new(&executor, file.metadata());
    Engine::with_executor(executor, file.metadata(), sizes, info, &config()).unwrap()
}

#[test]
fn a_panic_or_a_failed_device_ends_the_requests_and_closes_the_engine() {
    for (fails, why) in [(false, "a bug in a kernel"), (true, "a device that failed")] {
        let engine = broken(3, 0.0, fails);
        // It may have closed before the second.
        let taken = (0..2).filter(|_| engine.submit(request("x", 100)).is_ok()).count();
        let outputs = collect(&engine, taken);
        assert!(
            taken > 0 && outputs.values().all(|o| o.reason == Some(FinishReason::Error) && o.tokens.len() <= 3),
            "{outputs:?}"
        );
        let closed = engine.next(None).unwrap_err().to_string();
        assert!(closed.contains(why), "{closed}");
        assert!(matches!(engine.submit(request("x", 1)), Err(Error::Closed(_))));
    }
}

#[test]
fn logits_that_are_no_numbers_end_a_request_with_an_error() {
    let engine = broken(100, f32::NAN, false);
    engine.submit(request("x", 10)).unwrap();
    let event = engine.next(Some(Duration::from_secs(10))).unwrap().unwrap();
    let finish = event.finish.unwrap();
    assert_eq!((finish.reason, event.token), (FinishReason::Error, None));
    assert!(finish.message.unwrap().contains("not finite"));
}
