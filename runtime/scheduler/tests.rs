use super::*;
use std::collections::HashMap;

const LIMITS: Limits = Limits { sequences: 3, batch_tokens: 20, blocks: 16, block_tokens: 16 };

/// Runs a step; each sampled sequence gets token 7. Returns the batch's (length, sampled ids).
fn step(scheduler: &mut Scheduler) -> (usize, Vec<u64>) {
    let step = scheduler.schedule();
    let result = (step.batch.len(), step.sampled.iter().map(|s| s.0).collect::<Vec<_>>());
    assert_eq!(step.sampled.len(), step.batch.logits_indices.len());
    for id in &result.1 {
        scheduler.append(SeqId(*id), 7);
    }
    result
}

#[test]
fn prompts_are_cut_to_the_budget_and_decoding_goes_first() {
    let mut s = Scheduler::new(LIMITS);
    s.add(SeqId(1), vec![1; 25], 40);
    s.add(SeqId(2), vec![2; 10], 40);
    assert_eq!(step(&mut s), (20, vec![]));
    assert_eq!(step(&mut s), (15, vec![1, 2]));
    s.add(SeqId(3), vec![3; 30], 40);
    assert_eq!(step(&mut s), (20, vec![1, 2]));
    assert_eq!(step(&mut s), (14, vec![1, 2, 3]));
    assert_eq!(step(&mut s), (3, vec![1, 2, 3]));
}

#[test]
fn who_does_not_fit_waits_and_keeps_its_turn() {
    let mut s = Scheduler::new(LIMITS);
    s.add(SeqId(1), vec![1; 4], 200);
    s.add(SeqId(2), vec![2; 4], 100);
    s.add(SeqId(3), vec![3; 4], 16);
    assert_eq!(step(&mut s), (4, vec![1]), "2 needs 7 of the 3 blocks left, and 3 may not overtake it");
    assert!(s.remove(SeqId(1)));
    assert_eq!(step(&mut s), (8, vec![2, 3]));
    assert!(!s.fits(257) && s.fits(256));
}

#[test]
fn slots_and_tables_follow_the_blocks() {
    let mut s = Scheduler::new(LIMITS);
    s.add(SeqId(1), vec![1; 18], 32);
    s.add(SeqId(2), vec![2; 4], 32);
    let batch = s.schedule().batch.clone();
    assert_eq!(batch.block_tables, [0, 1, 2]);
    assert_eq!(batch.cu_blocks, [0, 2, 3]);
    assert_eq!(batch.cu_seqlens_q, [0, 18, 20]);
    assert_eq!(batch.context_lens, [18, 2]);
    assert_eq!(batch.slot_mapping[15..], [15, 16, 17, 32, 33]);
    assert_eq!(batch.positions[15..], [15, 16, 17, 0, 1]);
    assert_eq!(batch.logits_indices, [17]);
}

/// Random arrivals, ends and cancels: no block is shared or lost, and everything that fits runs in the end.
#[test]
fn blocks_are_neither_shared_nor_lost() {
    let seed = 42u64;
    eprintln!("seed {seed}");
    let mut state = seed;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut s = Scheduler::new(LIMITS);
    let (mut left, mut next) = (HashMap::new(), 0);
    for turn in 0..20_000 {
        if turn < 15_000 && random(4) == 0 {
            let (prompt, output) = (1 + random(100) as usize, 1 + random(60) as usize);
            s.add(SeqId(next), vec![0; prompt], prompt + output);
            left.insert(next, output);
            next += 1;
        }
        if random(50) == 0 && next > 0 {
            let id = random(next);
            assert_eq!(s.remove(SeqId(id)), left.remove(&id).is_some());
        }
        let (tokens, sampled) = step(&mut s);
        assert!(tokens <= LIMITS.batch_tokens && (tokens > 0 || s.is_idle()));
        for id in sampled {
            let n = left.get_mut(&id).unwrap();
            *n -= 1;
            if *n == 0 {
                left.remove(&id);
                assert!(s.remove(SeqId(id)));
            }
        }
        let mut owned: Vec<u32> = s.running.iter().flat_map(|q| q.blocks.iter().copied()).collect();
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(owned.len(), s.used_blocks());
    }
    assert!(left.is_empty() && s.is_idle() && s.used_blocks() == 0);
}
