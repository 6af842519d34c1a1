use super::*;

fn config() -> Config {
    Config {
        sequences: 3,
        batch_tokens: 20,
        context: 256,
        blocks: 16,
        policy: Policy::Continuous,
        ageing: Duration::from_secs(1),
        weights: vec![(7, 3)],
    }
}

/// A sequence without a prefix in the cache.
fn scheduler(config: Config) -> Scheduler {
    Scheduler::new(config).unwrap()
}

fn arrival(id: u64, tokens: Vec<u32>) -> Arrival {
    let at = Duration::ZERO;
    Arrival {
        id: SeqId(id),
        tokens,
        most: config().context,
        room: Room::default(),
        at,
        priority: 0,
        tenant: 0,
        salt: None,
        score: false,
    }
}

/// Runs a step at the second `now`; each sampled sequence gets token 7. Returns the batch's (length, sampled ids).
fn step_at(scheduler: &mut Scheduler, now: u64) -> (usize, Vec<u64>) {
    let step = scheduler.schedule(Duration::from_secs(now));
    assert_eq!(step.rows.len(), step.batch.logits_indices.len());
    let (len, rows) = (step.batch.len(), step.rows.to_vec());
    for row in &rows {
        scheduler.advance(*row, 7);
    }
    scheduler.check();
    (len, rows.iter().map(|row| row.seq.0).collect())
}

fn step(scheduler: &mut Scheduler) -> (usize, Vec<u64>) {
    step_at(scheduler, 0)
}

#[test]
fn prompts_are_cut_to_what_decoding_leaves_of_the_budget() {
    let mut s = scheduler(config());
    s.add(arrival(1, vec![1; 25]));
    s.add(arrival(2, vec![2; 10]));
    assert_eq!(step(&mut s), (20, vec![]));
    assert_eq!(step(&mut s), (15, vec![1, 2]));
    s.add(arrival(3, vec![3; 30]));
    assert_eq!(step(&mut s), (20, vec![1, 2]));
    assert_eq!(step(&mut s), (14, vec![1, 2, 3]));
    assert_eq!(step(&mut s), (3, vec![1, 2, 3]));
}

#[test]
fn slots_and_tables_follow_the_blocks() {
    let mut s = scheduler(config());
    s.add(arrival(1, vec![1; 18]));
    s.add(arrival(2, vec![2; 4]));
    let batch = s.schedule(Duration::ZERO).batch.clone();
    assert_eq!(batch.block_tables, [0, 1, 8]);
    assert_eq!(batch.cu_blocks, [0, 2, 3]);
    assert_eq!(batch.cu_seqlens_q, [0, 18, 20]);
    assert_eq!(batch.context_lens, [18, 2]);
    assert_eq!(batch.slot_mapping[15..], [15, 16, 17, 128, 129]);
    assert_eq!(batch.positions[15..], [15, 16, 17, 0, 1]);
    assert_eq!(batch.logits_indices, [17]);
}

#[test]
fn who_lacks_a_block_takes_those_of_the_newest() {
    let mut s = scheduler(Config { blocks: 4, ..config() });
    s.add(arrival(1, vec![1; 16]));
    s.add(arrival(2, vec![2; 16]));
    step(&mut s);
    step(&mut s);
    // Each has two blocks; both want a third one after 16 more tokens.
    for _ in 0..15 {
        step(&mut s);
    }
    assert_eq!((s.stats().used_blocks, s.stats().preemptions), (4, 0));
    step(&mut s);
    assert_eq!(step(&mut s).1, [1], "2 waits, although a block is free: it needs three");
    assert_eq!((s.stats().used_blocks, s.stats().preemptions, s.stats().waiting), (3, 1, 1));
    assert!(s.remove(SeqId(1)));
    let (mut computed, mut sampled) = (0, Vec::new());
    while sampled.is_empty() {
        let (tokens, ids) = step(&mut s);
        (computed, sampled) = (computed + tokens, ids);
    }
    assert_eq!((computed, sampled), (32, vec![2]), "all its tokens are computed anew");
}

#[test]
fn priority_decides_who_runs_and_time_overcomes_it() {
    let mut s = scheduler(Config { sequences: 1, ..config() });
    let with = |id, priority, at| Arrival { priority, at: Duration::from_secs(at), ..arrival(id, vec![1; 4]) };
    s.add(with(1, 0, 0));
    assert_eq!(step(&mut s).1, [1]);
    s.add(with(2, 0, 1));
    s.add(with(3, 2, 2));
    s.add(with(4, 2, 4));
    for expected in [3, 2, 4] {
        assert!(s.remove(SeqId(if expected == 3 {
            1
        } else if expected == 2 {
            3
        } else {
            2
        })));
        assert_eq!(step(&mut s).1, [expected], "4 came 3 s after 2, more than its two steps of priority are worth");
    }
}

#[test]
fn tenants_share_by_weight() {
    let mut s = scheduler(Config { sequences: 1, ..config() });
    let mut served = [0usize; 2];
    // Tenant 0 has come first and with more than tenant 7, which has three times its weight.
    for id in 0..400 {
        s.add(arrival(id, vec![1; 10]));
        s.add(Arrival { tenant: 7, ..arrival(1000 + id, vec![1; 10]) });
    }
    for _ in 0..300 {
        let (_, ids) = step(&mut s);
        served[usize::from(ids[0] >= 1000)] += 1;
        s.remove(SeqId(ids[0]));
    }
    assert!((70..=80).contains(&served[0]), "{served:?}");
}

#[test]
fn a_tenant_brings_no_claim_from_its_absence() {
    let mut s = scheduler(Config { sequences: 1, ..config() });
    for id in 0..100 {
        s.add(arrival(id, vec![1; 10]));
    }
    for id in 0..50 {
        assert_eq!(step(&mut s).1, [id]);
        s.remove(SeqId(id));
    }
    for id in 0..50 {
        s.add(Arrival { tenant: 1, ..arrival(1000 + id, vec![1; 10]) });
    }
    let mut newcomers = 0;
    for _ in 0..20 {
        let (_, ids) = step(&mut s);
        newcomers += usize::from(ids[0] >= 1000);
        s.remove(SeqId(ids[0]));
    }
    assert_eq!(newcomers, 10);
}

#[test]
fn a_prefix_is_computed_once_even_in_one_step() {
    let mut s = scheduler(Config { batch_tokens: 128, ..config() });
    let prompt: Vec<u32> = (0..40).collect();
    for id in 1..=2 {
        s.add(Arrival { salt: Some(0), ..arrival(id, prompt.clone()) });
    }
    s.add(Arrival { salt: Some(1), ..arrival(3, prompt.clone()) });
    let step = s.schedule(Duration::ZERO);
    assert_eq!(step.batch.len(), 40 + 8 + 40, "two blocks of 1 serve 2; 3 has another salt");
    assert_eq!(step.started.iter().map(|s| s.cached).collect::<Vec<_>>(), [0, 32, 0]);
    let tables = &step.batch.block_tables;
    assert_eq!(tables[..2], tables[3..5]);
    s.rows.clone().into_iter().for_each(|row| s.finish(row));
    s.check();
    assert_eq!(s.stats().used_blocks, 0);
    // The blocks are free, and still there. A prompt of whole blocks computes its last one.
    s.add(Arrival { salt: Some(0), ..arrival(4, prompt[..32].to_vec()) });
    let step = s.schedule(Duration::ZERO);
    assert_eq!((step.batch.len(), step.started[0].cached), (16, 16));
    assert_eq!((s.stats().prefix_queries, s.stats().prefix_hits), (152, 48));
}

#[test]
fn forks_share_blocks_and_copy_the_one_that_they_write() {
    let mut s = scheduler(config());
    s.add(arrival(1, vec![1; 20]));
    let row = s.schedule(Duration::ZERO).rows[0];
    s.fork(row, SeqId(2), 9).unwrap();
    s.fork(row, SeqId(3), 9).unwrap();
    s.fork(row, SeqId(4), 9).unwrap();
    s.advance(row, 7);
    let step = s.schedule(Duration::ZERO);
    assert_eq!(step.batch.token_ids, [7, 9, 9], "the fourth finds no place");
    assert_eq!(step.batch.copies, [(1, 8), (1, 9)], "the last owner of block 1 keeps it");
    assert_eq!(step.batch.block_tables, [0, 8, 0, 9, 0, 1]);
    let rows = step.rows.to_vec();
    rows.into_iter().for_each(|row| s.finish(row));
    s.check();
    assert_eq!(step_lengths(&mut s), [20, 1], "the fourth computes its 21 tokens anew");
}

fn step_lengths(s: &mut Scheduler) -> [usize; 2] {
    [s.schedule(Duration::ZERO).batch.len(), s.schedule(Duration::ZERO).batch.len()]
}

#[test]
fn scored_prompts_get_all_rows_and_no_cache() {
    let mut s = scheduler(config());
    let prompt: Vec<u32> = (0..24).collect();
    s.add(Arrival { salt: Some(0), ..arrival(1, prompt.clone()) });
    step(&mut s);
    step(&mut s);
    s.remove(SeqId(1));
    s.add(Arrival { salt: Some(0), score: true, ..arrival(2, prompt) });
    let mut rows = s.schedule(Duration::ZERO).rows.to_vec();
    rows.extend_from_slice(s.schedule(Duration::ZERO).rows);
    assert!(rows.iter().map(|r| (r.position, r.sample)).eq((0..24).map(|p| (p, p == 23))), "{rows:?}");
}

#[test]
fn run_to_completion_policies_wait_and_close() {
    let wait = Duration::from_secs(2);
    let mut s = scheduler(Config { policy: Policy::Dynamic { size: 2, wait }, ..config() });
    assert_eq!(s.ready(Duration::ZERO), Ready::Idle);
    s.add(arrival(1, vec![1; 4]));
    assert_eq!(s.ready(Duration::from_secs(1)), Ready::At(wait));
    assert_eq!(step_at(&mut s, 1).0, 0);
    assert_eq!(step_at(&mut s, 2).1, [1]);
    s.add(arrival(2, vec![1; 4]));
    assert_eq!(step_at(&mut s, 9).1, [1], "2 may not join");
    s.remove(SeqId(1));
    s.add(arrival(3, vec![1; 4]));
    s.add(arrival(4, vec![1; 4]));
    assert_eq!(step_at(&mut s, 0).1, [2, 3], "as many as make a batch do not wait");

    let mut s = scheduler(Config { policy: Policy::Static { size: 2 }, ..config() });
    (1..=3).for_each(|id| s.add(arrival(id, vec![1; 4])));
    assert_eq!(step(&mut s).1, [1, 2]);
    s.remove(SeqId(1));
    assert_eq!(step(&mut s).1, [2]);
    s.remove(SeqId(2));
    assert_eq!(step(&mut s).1, [3]);
}

/// SmolLM2's cache of 2 GiB in f16: 23,040 bytes a token.
const TWO_GIGABYTES: usize = (2 << 30) / 23_040 / 16;

#[test]
fn four_hundred_sequences_of_200_tokens_fit_two_gigabytes() {
    let mut s = scheduler(Config { sequences: 400, batch_tokens: 8192, blocks: TWO_GIGABYTES, ..config() });
    (0..400).for_each(|id| s.add(arrival(id, vec![id as u32; 136])));
    while s.running.len() < 400 || s.running.iter().any(|q| q.tokens.len() < 200) {
        let rows = s.schedule(Duration::ZERO).rows.to_vec();
        // Whoever has 200 tokens waits for the others.
        for row in rows.into_iter().filter(|row| row.sample) {
            s.advance(row, 7);
        }
        assert_eq!(s.stats().preemptions, 0);
    }
    assert_eq!(s.stats().running, 400);
}

#[test]
fn little_of_the_blocks_is_wasted() {
    let mut random = crate::testing::Random::new("waste");
    let mut s =
        scheduler(Config { sequences: 64, batch_tokens: 4096, context: 1024, blocks: TWO_GIGABYTES, ..config() });
    // Prompts and outputs as `aieng bench serve` draws them: 32 to 512 and 16 to 128 tokens.
    for id in 0..64 {
        s.add(arrival(id, vec![id as u32; (32 + random.below(481)) as usize]));
    }
    let (mut used, mut held) = (0, 0);
    for turn in 0..128 {
        step(&mut s);
        if turn >= 16 {
            used += s.running.iter().map(|q| q.computed).sum::<usize>();
            held += s.stats().used_blocks * 16;
        }
    }
    let waste = 1.0 - used as f64 / held as f64;
    eprintln!("{:.2}% of the blocks' slots hold nothing", 100.0 * waste);
    assert!(waste < 0.04, "{waste}");
}
