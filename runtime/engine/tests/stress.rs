//! Many threads on one engine: nothing is lost, nothing comes twice.

use super::*;
use crate::testing::Random;
use std::sync::Mutex;

const PRODUCERS: u64 = 8;

/// Eight threads submit, two cancel at random, two read; the cache is too small for all.
fn hammer(requests_each: usize, mut random: impl FnMut() -> Random) {
    let config = EngineConfig {
        max_sequences: 8,
        max_batch_tokens: 64,
        max_requests: 48,
        kv_tokens: 640,
        context: 256,
        ..config()
    };
    let engine = Engine::simulated(&config, SimulatedCost::default()).unwrap();
    let accepted: Mutex<Vec<RequestId>> = Mutex::default();
    let ended: Mutex<Vec<RequestId>> = Mutex::default();
    let randoms: Vec<Random> = (0..PRODUCERS + 2).map(|_| random()).collect();
    let all = PRODUCERS as usize * requests_each;
    std::thread::scope(|scope| {
        for (thread, mut random) in randoms.into_iter().enumerate() {
            let (engine, accepted, ended) = (&engine, &accepted, &ended);
            scope.spawn(move || {
                if thread < PRODUCERS as usize {
                    (0..requests_each).for_each(|_| accepted.lock().unwrap().push(submit(engine, &mut random)));
                    return;
                }
                while ended.lock().unwrap().len() < all {
                    let known = accepted.lock().unwrap().last().map_or(0, |id| id.0);
                    let id = RequestId(known.saturating_sub(random.below(20).into()));
                    assert!(matches!(engine.cancel(id), Ok(()) | Err(Error::Busy(_))));
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
        for _ in 0..2 {
            let (engine, ended) = (&engine, &ended);
            scope.spawn(move || {
                let mut events = Vec::new();
                while ended.lock().unwrap().len() < all {
                    engine.next_many(&mut events, 16, Some(Duration::from_millis(10))).unwrap();
                    let last = events.drain(..).filter(|e| e.finish.as_ref().is_some_and(|f| f.last));
                    ended.lock().unwrap().extend(last.map(|e| e.request));
                }
            });
        }
    });
    let (mut accepted, mut ended) = (accepted.into_inner().unwrap(), ended.into_inner().unwrap());
    accepted.sort_unstable();
    ended.sort_unstable();
    assert_eq!(accepted.len(), all);
    assert_eq!(accepted, ended, "each request ends once");
    assert!(matches!(engine.next(Some(Duration::from_millis(20))), Ok(None)), "an event of nobody's");
    let metrics = engine.metrics();
    assert_eq!((metrics.running, metrics.waiting, metrics.kv_blocks_used), (0, 0, 0));
}

/// Submits a request of random kind, as soon as there is a place.
fn submit(engine: &Engine, random: &mut Random) -> RequestId {
    let request = Request {
        n: 1 + random.below(3),
        deadline: (random.below(10) == 0).then_some(Duration::from_millis(2)),
        tenant: random.below(3),
        ..request(&"abcdefgh".repeat(1 + random.below(12) as usize), 1 + random.below(60))
    };
    loop {
        match engine.submit(request.clone()) {
            Ok(id) => return id,
            Err(Error::Busy(_)) => std::thread::sleep(Duration::from_micros(100)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn eight_producers_and_cancels_lose_and_repeat_nothing() {
    hammer(150, || Random::new("stress"));
}

#[test]
fn the_event_descriptor_tells_of_every_event() {
    let engine = Engine::simulated(&config(), SimulatedCost::default()).unwrap();
    let fd = engine.event_fd().unwrap();
    let ids: Vec<RequestId> = (0..8).map(|_| engine.submit(request("poll", 50)).unwrap()).collect();
    let mut ended = 0;
    while ended < ids.len() {
        assert!(crate::queue::readable(fd, 10_000), "nothing for ten seconds");
        while let Some(event) = engine.next(Some(Duration::ZERO)).unwrap() {
            ended += usize::from(event.finish.is_some());
        }
    }
    assert!(!crate::queue::readable(fd, 0));
}
