//! The step loop in its steady state: what it costs beside the kernels, and that it allocates nothing.

use super::super::simulated::{Simulated, metadata};
use super::super::step::StepLoop;
use super::*;

/// A loop that decodes `sequences` sequences of 100 tokens and more, on this thread.
fn decoding(sequences: usize) -> (StepLoop<Simulated>, Arc<Shared>) {
    let config = EngineConfig {
        max_sequences: sequences,
        max_batch_tokens: 512.max(sequences),
        max_requests: sequences,
        context: 2048,
        kv_tokens: sequences * 2048,
        ..config()
    };
    let (executor, sizes) = Simulated::new(&config, SimulatedCost::default()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_metadata(&metadata().unwrap()).unwrap());
    let shared = Arc::new(Shared::new(sequences, Log::default()).unwrap());
    let terms = Terms::new(&executor, sizes, &config);
    let mut steps = StepLoop::new(executor, sizes, &config, tokenizer, Arc::clone(&shared)).unwrap();
    for id in 0..sequences as u64 {
        let sampling = SamplingParams { max_tokens: 1900, ignore_eos: true, top_p: 0.9, ..Default::default() };
        let request = Request::new(vec![TokenId(id as u32 % 256); 100], sampling);
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let submission = Submission::new(RequestId(1 + id), request, &terms).unwrap();
        assert!(shared.commands.push(Command::Submit(Box::new(submission))).is_ok());
    }
    while turn(&mut steps, &shared) < sequences {}
    // Every queue and buffer has had its greatest length.
    for _ in 0..4 {
        turn(&mut steps, &shared);
    }
    (steps, shared)
}

/// One turn, and a reader that keeps up. Returns how many events there were.
fn turn(steps: &mut StepLoop<Simulated>, shared: &Shared) -> usize {
    steps.turn().unwrap();
    std::iter::from_fn(|| shared.events.pop()).inspect(|e| assert!(e.finish.is_none(), "{e:?}")).count()
}

#[test]
fn a_step_that_only_decodes_allocates_nothing() {
    for sequences in [1, 16, 256] {
        let (mut steps, shared) = decoding(sequences);
        // Sequences cross the ends of many blocks meanwhile.
        let counted = allocation_counter::measure(|| {
            for _ in 0..200 {
                assert_eq!(turn(&mut steps, &shared), sequences);
            }
        });
        assert_eq!(counted.count_total, 0, "{sequences} sequences: {counted:?}");
    }
}

#[test]
fn what_a_step_costs_beside_kernels_is_small() {
    // The figure is 100 µs, in a release build on a quiet machine; tests are compiled with little optimisation.
    let most = Duration::from_micros(if cfg!(debug_assertions) { 1000 } else { 100 });
    // Other tests run beside this one, and other guests beside this machine; they only ever add to a step. So the quietest of
    // some rounds tells what a step costs; where none is quiet, the other tests have ended some loops later.
    let mut loops: Vec<Duration> = Vec::new();
    while loops.len() < 8 && loops.last().is_none_or(|least| *least >= most) {
        let (mut steps, shared) = decoding(256);
        let rounds = (0..16).map(|_| beside_kernels(&mut steps, &shared, 100));
        loops.extend(rounds.min());
    }
    eprintln!("256 sequences: {loops:?} a step beside kernels");
    assert!(loops.iter().min().is_some_and(|least| *least < most), "{loops:?}");
}

/// The median of what `count` steps cost beside kernels.
fn beside_kernels(steps: &mut StepLoop<Simulated>, shared: &Shared, count: usize) -> Duration {
    let costs = (0..count).map(|_| {
        let before = shared.metrics.snapshot();
        turn(steps, shared);
        let after = shared.metrics.snapshot();
        (after.step_time - before.step_time) - (after.kernel_time - before.kernel_time)
    });
    let mut costs: Vec<Duration> = costs.collect();
    costs.sort_unstable();
    costs[count / 2]
}
