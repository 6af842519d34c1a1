use super::*;
use crate::testing::{Rng, cpus, devices};

const ALL: Filter = Filter { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

#[test]
fn reductions_match_the_reference() {
    let mut rng = Rng::new(7);
    for len in [1, 15, 16, 1000, 49152, 50001] {
        let logits: Vec<f32> = rng.floats(len).iter().map(|x| x * 20.0).collect();
        let (id, lse) = (argmax(&Device::Reference, &logits), log_sum_exp(&Device::Reference, &logits));
        for device in cpus() {
            assert_eq!(argmax(&device, &logits), id, "{len} on {}", device.name());
            let got = log_sum_exp(&device, &logits);
            assert!((got - lse).abs() <= 1e-5 * lse.abs().max(1.0), "{got} {lse}: {len} on {}", device.name());
        }
    }
}

#[test]
fn the_first_of_equals_wins_and_nan_never_does() {
    for device in devices() {
        let mut logits = vec![0.5; 100];
        logits[3] = f32::NAN;
        logits[40] = 7.0;
        logits[70] = 7.0;
        assert_eq!(argmax(&device, &logits), 40);
        assert_eq!(argmax(&device, &[f32::NAN; 20]), 0);
        // Far apart, and where nothing else is a number.
        let mut logits = vec![f32::NAN; 5000];
        logits[2500..].fill(f32::NEG_INFINITY);
        assert_eq!(argmax(&device, &logits), 2500);
        logits[3000] = -1.0;
        logits[4999] = -1.0;
        assert_eq!(argmax(&device, &logits), 3000);
        let mut scratch = Vec::new();
        assert_eq!(sample(&device, &[f32::NAN; 20], ALL, 0.9, &mut scratch), 0);
    }
}

/// Frequencies of tokens over evenly spaced draws.
fn shares(logits: &[f32], filter: Filter) -> Vec<f64> {
    let (mut counts, mut scratch) = (vec![0.0; logits.len()], Vec::new());
    for i in 0..10_000 {
        let u = (f64::from(i) + 0.5) / 10_000.0;
        counts[sample(&Device::Reference, logits, filter, u, &mut scratch) as usize] += 1e-4;
    }
    counts
}

#[test]
fn draws_follow_the_probabilities() {
    let p = [0.5f32, 0.25, 0.15, 0.1];
    let logits = p.map(f32::ln);
    let close = |got: &[f64], want: [f64; 4]| {
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-3), "{got:?} {want:?}");
    };
    close(&shares(&logits, ALL), [0.5, 0.25, 0.15, 0.1]);
    close(&shares(&logits, Filter { top_k: 2, ..ALL }), [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
    close(&shares(&logits, Filter { top_p: 0.7, ..ALL }), [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
    close(&shares(&logits, Filter { top_p: 0.76, ..ALL }), [5.0 / 9.0, 2.5 / 9.0, 1.5 / 9.0, 0.0]);
    close(&shares(&logits, Filter { min_p: 0.29, ..ALL }), [5.0 / 9.0, 2.5 / 9.0, 1.5 / 9.0, 0.0]);
    close(&shares(&logits, Filter { temperature: 0.0, ..ALL }), [1.0, 0.0, 0.0, 0.0]);
    let squares: Vec<f64> = p.iter().map(|p| f64::from(p * p)).collect();
    let total: f64 = squares.iter().sum();
    let half = shares(&logits, Filter { temperature: 0.5, ..ALL });
    assert!(half.iter().zip(squares).all(|(g, s)| (g - s / total).abs() < 1e-3), "{half:?}");
}

/// However large the head has to grow, top-p keeps what a full sort keeps.
#[test]
fn top_p_keeps_the_smallest_set() {
    let mut rng = Rng::new(8);
    for (share, spread) in [(0.1, 8.0), (0.9, 1.0), (0.999, 0.01), (0.5, 0.0)] {
        let mut candidates: Vec<Candidate> = (0..5000).map(|id| ((rng.float() * spread).exp(), id)).collect();
        let mut sorted = candidates.clone();
        sorted.sort_by(better);
        let wanted = share * candidates.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
        let mut sum = 0.0;
        let enough = |(w, _): &Candidate| {
            sum += f64::from(*w);
            sum >= wanted
        };
        let n = sorted.iter().position(enough).unwrap_or(4999) + 1;
        keep_mass(&mut candidates, share);
        candidates.sort_by(better);
        assert_eq!(candidates, sorted[..n], "share {share}, spread {spread}");
    }
}

#[test]
fn penalties_touch_seen_tokens_only() {
    let mut logits = [2.0, -2.0, 1.0, 1.0];
    let seen = [Seen { id: 0, in_output: 0 }, Seen { id: 1, in_output: 3 }, Seen { id: 99, in_output: 1 }];
    penalize(&mut logits, &seen, Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 });
    assert_eq!(logits, [1.0, -5.25, 1.0, 1.0]);
}

#[test]
fn the_best_come_first() {
    let mut scratch = Vec::new();
    assert_eq!(top_n(&[1.0, 3.0, 3.0, 2.0], 3, &mut scratch), [(3.0, 1), (3.0, 2), (2.0, 3)]);
    assert_eq!(top_n(&[1.0], 5, &mut scratch), [(1.0, 0)]);
}

#[test]
fn draws_keep_their_lists_apart() {
    let off = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };
    let seen = [Seen { id: 3, in_output: 1 }, Seen { id: 4, in_output: 0 }];
    let greedy = Choice::Sample(Filter { temperature: 0.0, ..ALL }, 0.0);
    let none = Draw { row: 1, choice: greedy, penalties: off, seen: &[], bias: &[], banned: &[], logprobs: None };
    let asked = [
        Draw { seen: &seen, penalties: Penalties { frequency: 5.0, ..off }, ..none },
        Draw { bias: &[(1, 9.0), (1, -8.0), (2, 0.5)], banned: &[3], ..none },
        Draw { choice: Choice::Given(0), logprobs: Some(2), banned: &[0], ..none },
        none,
    ];
    let mut draws = Draws::default();
    for _ in 0..2 {
        draws.truncate(0);
        asked.iter().for_each(|draw| draws.push(*draw).unwrap());
        draws.push(asked[1]).unwrap();
        draws.truncate(asked.len());
        assert!(draws.iter().eq(asked));
    }
    let (row, mut scratch, mut drawn) = ([0.0f32, 1.0, 2.0, 3.0, 2.5], [DrawScratch::default()], Vec::new());
    draw_all(&Device::Reference, &draws, |i| &row[..4 + i], &mut scratch, &mut drawn);
    let tokens: Vec<u32> = drawn.iter().map(|d| d.token).collect();
    assert_eq!(tokens, [4, 2, 0, 3]);
    let total = row.iter().map(|x| x.exp()).sum::<f32>().ln();
    assert!((drawn[2].logprob + total).abs() < 1e-6);
    assert_eq!(drawn[2].best().iter().map(|(_, id)| *id).collect::<Vec<_>>(), [3, 4]);
    assert!(drawn[3].best().is_empty());
}

#[test]
fn threads_that_share_draws_answer_them_all() {
    let mut rng = Rng::new(11);
    let (vocab, rows) = (3000, 7);
    let logits: Vec<f32> = rng.floats(vocab * rows).iter().map(|x| x * 9.0).collect();
    let row = |i: usize| &logits[i * vocab..][..vocab];
    let mut draws = Draws::default();
    for i in 0..2 * rows {
        let filter = Filter { temperature: (i % 3) as f32, top_k: 40, top_p: 0.9, ..ALL };
        let draw = Draw {
            row: i % rows,
            choice: Choice::Sample(filter, i as f64 / 20.0),
            penalties: Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 },
            seen: &[],
            bias: &[(i as u32, 5.0)],
            banned: &[],
            logprobs: (i % 2 == 0).then_some(3),
        };
        draws.push(draw).unwrap();
    }
    for device in cpus() {
        draw_all(&device, &Draws::default(), row, &mut [DrawScratch::default()], &mut Vec::new());
        let alone: Vec<Drawn> =
            draws.iter().map(|one| draw(&device, row(one.row), one, &mut DrawScratch::default())).collect();
        for threads in [1, 2, 5, 20] {
            let mut scratch: Vec<_> = (0..threads).map(|_| DrawScratch::default()).collect();
            let mut drawn = vec![alone[0]];
            draw_all(&device, &draws, row, &mut scratch, &mut drawn);
            assert_eq!(drawn, alone, "{threads} shares on {}", device.name());
        }
    }
}
