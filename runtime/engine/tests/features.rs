//! Samples, scoring, priorities, deadlines, cached prefixes.

use super::*;
use std::time::Duration;

/// Runs one request alone.
fn run(engine: &Engine, request: Request) -> Vec<Sample> {
    let id = engine.submit(request).unwrap();
    collect_samples(engine, 1).remove(&id).unwrap()
}

fn mean_logprob(sample: &Sample) -> f64 {
    let sum: f64 = sample.output.logprobs.iter().map(|l| f64::from(l.chosen.logprob)).sum();
    sum / sample.output.logprobs.len() as f64
}

#[test]
fn samples_go_ways_of_their_own_and_the_first_is_that_of_a_single_request() {
    let engine = engine(&config());
    let alone = run(&engine, request("Once upon a time there was", 20)).remove(0).output;
    // More samples than the batch has places.
    let samples = run(&engine, Request { n: 7, ..request("Once upon a time there was", 20) });
    assert_eq!(samples.len(), 7);
    assert_eq!(samples[0].output, alone);
    let mut texts: Vec<&str> = samples.iter().map(|s| s.output.text.as_str()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 7, "samples repeat each other");
    let seeds: Vec<(u64, u32)> = samples.iter().map(|s| s.finish.as_ref().unwrap().provenance.seed).collect();
    assert!(seeds.iter().copied().eq((0..7).map(|i| (5, i))), "{seeds:?}");
    // Greedy samples are all the same.
    let mut greedy = request("Once upon a time there was", 20);
    greedy.sampling.temperature = 0.0;
    let samples = run(&engine, Request { n: 3, ..greedy });
    assert!(samples.iter().all(|s| s.output == samples[0].output));
}

#[test]
fn the_best_samples_are_delivered_best_first() {
    let engine = engine(&config());
    let all = run(&engine, Request { n: 6, ..request("best", 12) });
    let mut ranked: Vec<&Sample> = all.iter().collect();
    ranked.sort_by(|a, b| mean_logprob(b).total_cmp(&mean_logprob(a)));
    let mut wanted = Request { n: 2, best_of: 6, ..request("best", 12) };
    let best = run(&engine, wanted.clone());
    assert_eq!(best.len(), 2);
    assert_eq!((&best[0].output, &best[1].output), (&ranked[0].output, &ranked[1].output));
    wanted.sampling.logprobs = None;
    let without = run(&engine, wanted);
    assert_eq!(without[0].output.tokens, best[0].output.tokens);
    assert!(without[0].output.logprobs.is_empty(), "they were not asked for");
}

#[test]
fn a_prompt_is_scored_as_if_it_had_been_generated() {
    for max_batch_tokens in [4, 32] {
        let engine = engine(&EngineConfig { max_batch_tokens, ..config() });
        let whole = run(&engine, request("score", 40)).remove(0);
        let text = [&request("score", 1).prompt[..], &whole.output.tokens].concat();
        let mut scoring = Request { prompt_logprobs: Some(2), ..Request::new(text.clone(), request("", 0).sampling) };
        let scored = run(&engine, scoring.clone()).remove(0);
        assert_eq!((scored.output.reason, scored.output.tokens.len()), (Some(FinishReason::Length), 0));
        assert_eq!(scored.prompt.tokens, text);
        assert_eq!(scored.prompt.logprobs.len(), text.len() - 1, "the first token follows nothing");
        assert_eq!(scored.prompt.logprobs[4..], whole.output.logprobs, "steps of {max_batch_tokens} tokens");
        // Again, now that the cache has it, and with output.
        scoring.sampling.max_tokens = 5;
        let again = run(&engine, scoring).remove(0);
        assert_eq!((again.prompt, again.output.tokens.len()), (scored.prompt, 5));
        let echo = run(&engine, Request { echo: true, n: 2, ..request("écho", 3) });
        assert_eq!((echo[0].prompt.text.as_str(), echo[0].prompt.logprobs.len()), ("écho", 0));
        assert!(echo[1].prompt.tokens.is_empty(), "the prompt comes once");
    }
}

#[test]
fn nothing_ends_a_sample_before_min_tokens() {
    let engine = engine(&config());
    let plain = run(&engine, request("hello", 30)).remove(0).output;
    let (early, late) = (plain.tokens[2], plain.tokens[20]);
    let mut with = request("hello", 30);
    with.sampling.stop_token_ids = vec![early, late];
    with.sampling.stop = vec![plain.text.chars().take(1).collect()];
    let stopped = run(&engine, with.clone()).remove(0);
    assert_eq!(stopped.finish.unwrap().stop, Some(StopCause::Text(0)));
    with.sampling.min_tokens = 10;
    let held = run(&engine, with.clone()).remove(0);
    assert!(held.output.tokens.len() >= 10 && !held.output.tokens[..10].contains(&early), "{held:?}");
    with.sampling.stop.clear();
    let by_token = run(&engine, Request { n: 1, ..with }).remove(0);
    let last = *by_token.output.tokens.last().unwrap();
    let cause = by_token.finish.unwrap().stop;
    assert!(cause.is_none() || cause == Some(StopCause::Token(last)), "{cause:?}");
}

#[test]
fn a_repeated_prefix_is_not_computed_again_and_changes_no_bit() {
    let engine = engine(&EngineConfig { kv_tokens: 1024, ..config() });
    let long = "0123456789".repeat(10);
    let first = run(&engine, request(&long, 10)).remove(0);
    let second = run(&engine, request(&long, 10)).remove(0);
    let cached = |s: &Sample| s.finish.as_ref().unwrap().cached_tokens;
    assert_eq!((cached(&first), cached(&second)), (0, 96));
    assert_eq!(first.output, second.output);
    let other = run(&engine, Request { tenant: 1, ..request(&long, 10) }).remove(0);
    assert_eq!((cached(&other), &other.output), (0, &first.output), "another tenant finds nothing");
    let off = run(&engine, Request { prefix_cache: false, ..request(&long, 10) }).remove(0);
    assert_eq!((cached(&off), &off.output), (0, &first.output));
    // An answer belongs to the prefix of the question after it.
    let mut prompt = request(&long, 1).prompt;
    prompt.extend_from_slice(&first.output.tokens);
    let next = run(&engine, Request { prompt, ..request("", 5) }).remove(0);
    assert_eq!(cached(&next), 96);
    let timings = next.finish.unwrap().timings;
    assert_eq!(timings.ttft, Some(timings.queue.unwrap() + timings.prefill.unwrap()));
}

#[test]
fn deadlines_end_what_runs_and_what_waits() {
    let engine = engine(&EngineConfig { max_sequences: 1, max_batch_tokens: 1, ..config() });
    // The first has 250 steps to make. The second must not find it ended, however late this thread submits.
    let (soon, at_once) = (Some(Duration::from_micros(500)), Some(Duration::from_nanos(1)));
    let ids = [
        engine.submit(Request { deadline: soon, ..request(&"slow ".repeat(40), 50) }).unwrap(),
        engine.submit(Request { deadline: at_once, n: 2, ..request("waits", 50) }).unwrap(),
        engine.submit(request("patient", 3)).unwrap(),
    ];
    let samples = collect_samples(&engine, 3);
    for id in &ids[..2] {
        assert!(samples[id].iter().all(|s| s.output.reason == Some(FinishReason::Deadline)), "{samples:?}");
    }
    assert_eq!(samples[&ids[1]].len(), 2, "every sample is told");
    assert_eq!(samples[&ids[2]][0].output.reason, Some(FinishReason::Length));
    assert_eq!(samples[&ids[1]][0].finish.as_ref().unwrap().timings, Timings::default(), "it never ran");
}

#[test]
fn features_out_of_range_are_refused() {
    let engine = engine(&config());
    let with = |request: Request| match engine.submit(request) {
        Err(Error::InvalidArgument(what)) => what,
        other => panic!("{other:?}"),
    };
    let base = || request("hi", 10);
    assert_eq!(with(Request { n: 0, ..base() }), "n: 0 is not from 1 to 128");
    assert_eq!(with(Request { n: 10_000, ..base() }), "n: 10000 is not from 1 to 128");
    assert!(with(Request { n: 3, best_of: 2, ..base() }).starts_with("best_of: 2"));
    assert!(with(Request { priority: 1001, ..base() }).starts_with("priority: 1001"));
    assert!(with(Request { priority: i32::MIN, ..base() }).starts_with("priority: -2147483648"));
    assert!(with(Request { deadline: Some(Duration::ZERO), ..base() }).starts_with("deadline: 0"));
    assert!(with(Request { prompt_logprobs: Some(21), ..base() }).starts_with("prompt_logprobs: 21"));
    let mut request = base();
    request.sampling.min_tokens = 11;
    assert_eq!(with(request), "min_tokens: 11 is above max_tokens = 10");
    let mut request = base();
    request.sampling.stop = vec!["x".into(); 10_000];
    assert_eq!(with(request), "stop: 10000, at most 64 allowed");
}
