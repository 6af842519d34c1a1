//! A million steps of random work over a pretended model.
//!
//! The pretended cache holds, in each slot, a hash of all tokens up to there, computed from the slot before as attention
//! would read it; the next token is such a hash. So a token is right only if every block that the sequence was given
//! holds what it should, whatever was shared, copied, forgotten or computed again.

use super::*;
use crate::testing::Random;
use std::collections::HashMap;

const STEPS: u64 = 1_000_000;
const CONTEXT: usize = 192;
const BATCH_TOKENS: usize = 96;

/// The hash of a sequence that goes on with `token`.
fn extend(history: u64, token: u32) -> u64 {
    let z = (history ^ u64::from(token).wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// What follows; `sample` makes forks differ in their first token.
fn next_token(history: u64, sample: u64) -> u32 {
    (extend(history, sample as u32) >> 40) as u32
}

/// A sequence as the caller sees it.
struct Live {
    /// Hash of the tokens, those of the prompt and of the output.
    history: u64,
    /// Tokens until it ends.
    left: usize,
    /// Samples to fork at the first token.
    forks: u64,
    since: u64,
}

struct World {
    scheduler: Scheduler,
    random: Random,
    /// For each slot the hash of all tokens up to there.
    cache: Vec<u64>,
    live: HashMap<SeqId, Live>,
    next_id: u64,
    ended: u64,
    longest_life: u64,
}

impl World {
    fn new(random: Random, policy: Policy, blocks: usize) -> World {
        let config = Config {
            sequences: 6,
            batch_tokens: BATCH_TOKENS,
            context: CONTEXT,
            blocks,
            policy,
            ageing: Duration::from_millis(50),
            weights: vec![(1, 2)],
        };
        let cache = vec![0; blocks * BLOCK_TOKENS];
        let scheduler = Scheduler::new(config).unwrap();
        World { scheduler, random, cache, live: HashMap::new(), next_id: 0, ended: 0, longest_life: 0 }
    }

    fn arrive(&mut self, turn: u64) {
        let r = &mut self.random;
        let (family, shared) = (r.below(3), r.below(96) as usize);
        let own = 1 + r.below(64) as usize;
        let id = SeqId(self.next_id);
        let tokens: Vec<u32> =
            (0..shared + own).map(|i| if i < shared { family } else { id.0 as u32 * 1000 + i as u32 }).collect();
        let most = CONTEXT - tokens.len();
        let live = Live {
            history: tokens.iter().fold(0, |h, t| extend(h, *t)),
            left: 1 + r.below(most.min(40) as u32) as usize,
            forks: if r.below(6) == 0 { u64::from(r.below(4)) } else { 0 },
            since: turn,
        };
        // Forks are numbered behind their parent.
        self.next_id += 1 + live.forks;
        self.scheduler.add(Arrival {
            id,
            most: CONTEXT,
            room: Room::default(),
            tokens,
            at: Duration::from_millis(turn),
            priority: r.below(3) as i32,
            tenant: r.below(3),
            salt: (r.below(4) > 0).then(|| u64::from(r.below(2))),
            score: r.below(10) == 0,
        });
        self.live.insert(id, live);
    }

    /// Executes the step's batch and returns its rows with the hash that each follows.
    fn execute(&mut self, turn: u64) -> Vec<(Row, u64)> {
        let step = self.scheduler.schedule(Duration::from_millis(turn));
        let batch = step.batch;
        assert!(batch.len() <= BATCH_TOKENS && batch.context_lens.len() <= 6);
        for (from, to) in &batch.copies {
            self.cache.copy_within(
                *from as usize * BLOCK_TOKENS..(*from as usize + 1) * BLOCK_TOKENS,
                *to as usize * BLOCK_TOKENS,
            );
        }
        for s in 0..batch.context_lens.len() {
            let table = &batch.block_tables[batch.cu_blocks[s] as usize..batch.cu_blocks[s + 1] as usize];
            for i in batch.cu_seqlens_q[s] as usize..batch.cu_seqlens_q[s + 1] as usize {
                let position = batch.positions[i] as usize;
                let slot = |p: usize| table[p / BLOCK_TOKENS] as usize * BLOCK_TOKENS + p % BLOCK_TOKENS;
                assert_eq!(slot(position), batch.slot_mapping[i] as usize);
                let before = if position == 0 { 0 } else { self.cache[slot(position - 1)] };
                self.cache[slot(position)] = extend(before, batch.token_ids[i]);
            }
        }
        let slots = batch.logits_indices.iter().map(|i| batch.slot_mapping[*i as usize] as usize);
        step.rows.iter().zip(slots).map(|(row, slot)| (*row, self.cache[slot])).collect()
    }

    fn step(&mut self, turn: u64) {
        for (row, history) in self.execute(turn).into_iter().filter(|(row, _)| row.sample) {
            let live = self.live.get_mut(&row.seq).expect("only living sequences run");
            assert_eq!(history, live.history, "turn {turn}: {row:?} was computed from wrong blocks");
            let (left, since) = (live.left, live.since);
            for fork in 1..=std::mem::take(&mut live.forks) {
                let (id, token) = (SeqId(row.seq.0 + fork), next_token(history, fork));
                if left > 1 {
                    self.scheduler.fork(row, id, token).unwrap();
                    self.live.insert(id, Live { history: extend(history, token), left: left - 1, forks: 0, since });
                }
            }
            let live = self.live.get_mut(&row.seq).expect("it is still there");
            let token = next_token(history, 0);
            (live.history, live.left) = (extend(history, token), left - 1);
            if left == 1 {
                self.scheduler.finish(row);
                self.end(row.seq, turn);
            } else {
                self.scheduler.advance(row, token);
            }
        }
        self.scheduler.check();
    }

    fn end(&mut self, id: SeqId, turn: u64) {
        let live = self.live.remove(&id).expect("a sequence ends once");
        self.longest_life = self.longest_life.max(turn - live.since);
        self.ended += 1;
    }

    fn cancel(&mut self, turn: u64) {
        let id = SeqId(self.next_id - 1 - u64::from(self.random.below(self.next_id.min(30) as u32)));
        let there = self.scheduler.remove(id);
        assert_eq!(there, self.live.contains_key(&id), "turn {turn}: cancel of {id:?}");
        if there {
            self.end(id, turn);
        }
        self.scheduler.check();
    }
}

fn simulate(policy: Policy, blocks: usize, steps: u64) -> Stats {
    let random = Random::new(&format!("{policy:?}, {blocks} blocks, {steps} steps"));
    let mut world = World::new(random, policy, blocks);
    for turn in 0..steps {
        // Bursts, so that the queue is now long, now empty.
        let rate = if turn % 2000 < 1000 { 6 } else { 18 };
        if world.random.below(rate) == 0 && world.live.len() < 60 {
            world.arrive(turn);
        }
        if world.random.below(40) == 0 && world.next_id > 0 {
            world.cancel(turn);
        }
        world.step(turn);
    }
    let mut turn = steps;
    while !world.live.is_empty() {
        world.step(turn);
        turn += 1;
        assert!(turn < steps + 20_000, "{} sequences do not end", world.live.len());
    }
    assert_eq!(world.scheduler.ready(Duration::from_millis(turn)), Ready::Idle);
    assert_eq!(world.scheduler.stats().used_blocks, 0);
    assert!(world.ended > steps / 40, "only {} sequences ended", world.ended);
    assert!(world.longest_life < 5000, "a sequence lived for {} steps", world.longest_life);
    world.scheduler.stats()
}

#[test]
fn a_million_random_steps_keep_every_promise() {
    let roomy = simulate(Policy::Continuous, 80, STEPS * 3 / 10);
    assert!(roomy.prefix_hits > 100_000 && roomy.preemptions == 0, "{roomy:?}");
    let tight = simulate(Policy::Continuous, 16, STEPS * 4 / 10);
    assert!(tight.preemptions > 1000 && tight.prefix_hits > 50_000 && tight.evictions > 10_000, "{tight:?}");
    simulate(Policy::Static { size: 4 }, 20, STEPS * 3 / 20);
    let wait = Duration::from_millis(20);
    simulate(Policy::Dynamic { size: 4, wait }, 20, STEPS * 3 / 20);
}
