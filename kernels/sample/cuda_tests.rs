use super::*;
use crate::testing::{Matrix, gpus, left_out, slowed};
use aieng_kernels::Device;
use aieng_kernels::sample::{DrawScratch, Penalties, Seen, draw};
use aieng_kernels::testing::Rng;

const ALL: Filter = Filter { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
const OFF: Penalties = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };

fn plain(row: usize, filter: Filter, uniform: f64) -> Draw<'static> {
    let choice = Choice::Sample(filter, uniform);
    Draw { row, choice, penalties: OFF, seen: &[], bias: &[], banned: &[], logprobs: None }
}

/// Logits as a model's are spread: most near zero, few far above.
fn spread(rng: &mut Rng, vocab: usize) -> Vec<f32> {
    (0..vocab).map(|_| (0..6).map(|_| rng.float()).sum::<f32>() * 3.0 + 2.0).collect()
}

/// Rows with all that can be odd about one.
fn rows(rng: &mut Rng, vocab: usize) -> Vec<Vec<f32>> {
    let usual = spread(rng, vocab);
    let mut change = |often: usize, to: f32| -> Vec<f32> {
        usual.iter().map(|x| if rng.below(often) == 0 { to } else { *x }).collect()
    };
    let (numbers, cut, endless) = (change(10, f32::NAN), change(2, f32::NEG_INFINITY), change(100, f32::INFINITY));
    // With one zero: the host sets -0 below 0, where the device sees equals.
    let tied = usual.iter().map(|x| (x * 2.0).round() / 2.0 + 0.0).collect();
    let far = usual.iter().map(|x| x * 1e30).collect();
    let same = [1.5, -0.25, f32::NAN, f32::NEG_INFINITY].map(|x| vec![x; vocab]);
    [vec![usual, tied, cut, numbers, endless, far], same.into()].concat()
}

/// Lists of a draw, as [`Draw`] borrows them.
#[derive(Default)]
struct Lists {
    seen: Vec<Seen>,
    bias: Vec<(u32, f32)>,
    banned: Vec<u32>,
}

impl Lists {
    fn random(rng: &mut Rng, vocab: usize) -> Lists {
        let mut lists = Lists::default();
        if rng.below(3) == 0 {
            let some = rng.permutation(vocab + 3).into_iter().take(rng.below(200));
            lists.seen = some.map(|id| Seen { id: id as u32, in_output: rng.below(4) as u32 }).collect();
        }
        if rng.below(4) == 0 {
            // Some tokens more than once, some outside the vocabulary.
            lists.bias = (0..40).map(|_| (rng.below(20.min(vocab + 1)) as u32, rng.float() * 9.0)).collect();
        }
        if rng.below(4) == 0 {
            lists.banned = (0..rng.below(6)).map(|_| rng.below(vocab + 1) as u32).collect();
        }
        lists
    }
}

fn random_draw<'a>(rng: &mut Rng, row: usize, vocab: usize, lists: &'a Lists) -> Draw<'a> {
    fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
        of[rng.below(of.len())]
    }
    let filter = Filter {
        temperature: pick(rng, &[0.0, 0.7, 1.0, 5.0, 100.0, 1e-3, 1e-40]),
        top_k: pick(rng, &[0, 0, 1, 50, vocab / 2, vocab]),
        top_p: pick(rng, &[1.0, 1.0, 0.1, 0.5, 0.9, 0.999]),
        min_p: pick(rng, &[0.0, 0.0, 0.05, 1.0]),
    };
    let uniform = (rng.next() >> 11) as f64 / (1u64 << 53) as f64;
    let uniform = if rng.below(20) == 0 { pick(rng, &[0.0, 1.0 - f64::EPSILON / 2.0]) } else { uniform };
    let given = rng.below(8) == 0;
    Draw {
        row,
        choice: if given { Choice::Given(rng.below(vocab) as u32) } else { Choice::Sample(filter, uniform) },
        penalties: Penalties { repetition: 1.0 + rng.float() / 2.0, presence: rng.float(), frequency: rng.float() },
        seen: &lists.seen,
        bias: &lists.bias,
        banned: &lists.banned,
        logprobs: pick(rng, &[None, None, Some(0), Some(5), Some(20)]),
    }
}

/// What an answer is made of, to the bit.
fn bits(drawn: &Drawn) -> Vec<u32> {
    let best = drawn.best().iter().flat_map(|(x, id)| [x.to_bits(), *id]);
    [drawn.token, drawn.logit.to_bits(), drawn.logprob.to_bits()].into_iter().chain(best).collect()
}

/// Fails unless the answer is the host's, but for what rounding may decide. Returns whether that was needed.
fn check(logits: &[f32], asked: Draw, got: &Drawn) -> bool {
    let mut scratch = DrawScratch::default();
    let mut host = |asked| draw(&Device::Reference, logits, asked, &mut scratch);
    let mut want = host(asked);
    let exact = want.token == got.token;
    if let (Choice::Sample(filter, uniform), false) = (asked.choice, exact) {
        let near = |u: f64, p: f32| {
            let top_p = if filter.top_p < 1.0 { filter.top_p + p } else { 1.0 };
            Choice::Sample(Filter { top_p, ..filter }, (uniform + u).clamp(0.0, 1.0 - f64::EPSILON))
        };
        let close = [(3e-6, 0.0), (-3e-6, 0.0), (0.0, 3e-6), (0.0, -3e-6)].map(|(u, p)| near(u, p));
        let found = close.into_iter().map(|choice| host(Draw { choice, ..asked })).find(|d| d.token == got.token);
        want = found.unwrap_or_else(|| panic!("token {}, not {}: {asked:?}", got.token, want.token));
    }
    assert_eq!(got.logit.to_bits(), logits[got.token as usize].to_bits());
    let same = |a: f32, b: f32| a.is_nan() && b.is_nan() || a == b || (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    assert!(same(got.logprob, want.logprob), "{} {}: {asked:?}", got.logprob, want.logprob);
    if !logits.iter().any(|x| x.is_nan()) {
        let ids = |d: &Drawn| d.best().iter().map(|(_, id)| *id).collect::<Vec<_>>();
        assert_eq!(ids(got), ids(&want), "{asked:?}");
        let mut pairs = got.best().iter().zip(want.best());
        assert!(pairs.all(|((a, _), (b, _))| same(*a, *b)), "{got:?} {want:?}");
    }
    exact
}

/// What every device answers; on the emulator that is the same bits in every order of lanes.
fn answers(logits: &[Vec<f32>], draws: &Draws, at_once: usize) -> Vec<Vec<Drawn>> {
    let (vocab, mut emulated) = (logits[0].len(), None);
    let mut answer = |gpu: Gpu| {
        let matrix = Matrix::with_gap(&gpu, Element::F32, logits.len(), vocab, 3, &logits.concat());
        let before = matrix.read_bits();
        let mut workspace = Workspace::new(&gpu, at_once, vocab).unwrap();
        let mut drawn = Vec::new();
        sample(&mut workspace, matrix.view(), draws, &mut drawn).unwrap();
        assert!(matrix.read_bits() == before, "the logits have changed");
        let all: Vec<_> = drawn.iter().map(bits).collect();
        if gpu.name() == "emulated" {
            assert!(*emulated.get_or_insert_with(|| all.clone()) == all, "the order of lanes shows");
        }
        drawn
    };
    gpus().into_iter().map(&mut answer).collect()
}

/// As many random draws from each of the rows as told, against the host's.
fn compare(rng: &mut Rng, logits: &[Vec<f32>], each: usize, at_once: usize) {
    let (vocab, mut draws) = (logits[0].len(), Draws::default());
    for i in 0..logits.len() * each {
        let lists = Lists::random(rng, vocab);
        draws.push(random_draw(rng, i / each, vocab, &lists)).unwrap();
    }
    for drawn in answers(logits, &draws, at_once) {
        let exact = draws.iter().zip(&drawn).filter(|(asked, got)| check(&logits[asked.row], *asked, got)).count();
        assert!(exact * 50 >= draws.len() * 49, "{exact} of {} are exact", draws.len());
    }
}

#[test]
fn a_draw_is_the_hosts() {
    let mut rng = Rng::new(11);
    for vocab in [1, 5, 1000] {
        let logits = rows(&mut rng, vocab);
        compare(&mut rng, &logits, if slowed() { 1 } else { 12 }, 64);
    }
}

/// Rows that do not fit the list of candidates, with filters that keep more than fits there.
#[test]
fn a_draw_from_a_large_vocabulary_is_the_hosts() {
    if left_out("a_draw_from_a_large_vocabulary_is_the_hosts") {
        return;
    }
    let mut rng = Rng::new(12);
    let mut logits = rows(&mut rng, 151_936);
    logits.truncate(3);
    logits.push(vec![-3.0; 151_936]);
    compare(&mut rng, &logits, 8, 64);
}

#[test]
fn draws_are_answered_whatever_their_number_and_company() {
    if left_out("draws_are_answered_whatever_their_number_and_company") {
        return;
    }
    let mut rng = Rng::new(13);
    let logits = rows(&mut rng, 50);
    let lists: Vec<Lists> = (0..150).map(|_| Lists::random(&mut rng, 50)).collect();
    let mut ask = |(i, lists)| random_draw(&mut rng, i % logits.len(), 50, lists);
    let asked: Vec<Draw> = lists.iter().enumerate().map(&mut ask).collect();
    let answers = |asked: &[Draw], at_once: usize| -> Vec<Vec<Vec<u32>>> {
        let mut draws = Draws::default();
        asked.iter().for_each(|draw| draws.push(*draw).unwrap());
        answers(&logits, &draws, at_once).iter().map(|drawn| drawn.iter().map(bits).collect()).collect()
    };
    // All at once, but for those whose changed rows have to wait for the next launch; and three at a time.
    let together = answers(&asked, 150);
    assert!(answers(&asked, 3) == together);
    for (i, one) in asked.iter().enumerate().step_by(10) {
        let alone = answers(&[*one], 1);
        assert!(alone.iter().zip(&together).all(|(alone, together)| alone[0] == together[i]), "{one:?}");
    }
}

#[test]
fn draws_follow_the_probabilities() {
    if left_out("draws_follow_the_probabilities") {
        return;
    }
    let p = [0.5f32, 0.25, 0.15, 0.1];
    let logits = [p.map(f32::ln).to_vec()];
    let shares = |filter: Filter| {
        let mut draws = Draws::default();
        (0..100).for_each(|i| draws.push(plain(0, filter, (f64::from(i) + 0.5) / 100.0)).unwrap());
        let share = |drawn: Vec<Drawn>| {
            let mut shares = [0.0; 4];
            drawn.iter().for_each(|d| shares[d.token as usize] += 1.0 / 100.0);
            shares
        };
        answers(&logits, &draws, 256).into_iter().map(share).collect::<Vec<_>>()
    };
    let close = |filter, want: [f64; 4]| {
        for got in shares(filter) {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0101), "{got:?} {want:?}: {filter:?}");
        }
    };
    close(ALL, [0.5, 0.25, 0.15, 0.1]);
    close(Filter { top_k: 2, ..ALL }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
    close(Filter { top_p: 0.76, ..ALL }, [5.0 / 9.0, 2.5 / 9.0, 1.5 / 9.0, 0.0]);
    close(Filter { min_p: 0.29, ..ALL }, [5.0 / 9.0, 2.5 / 9.0, 1.5 / 9.0, 0.0]);
    close(Filter { temperature: 0.5, ..ALL }, [0.25, 0.0625, 0.0225, 0.01].map(|square| square / 0.345));
}

#[test]
fn a_soft_cap_bounds_logits() {
    let values: Vec<f32> = (0..3 * 1111).map(|i| (i as f32 - 1600.0) / 20.0).collect();
    let want: Vec<f32> = values.iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
    for gpu in gpus() {
        let matrix = Matrix::from(&gpu, Element::F32, 3, 1111, &values);
        soft_cap(&gpu, 30.0, matrix.view()).unwrap();
        crate::testing::assert_close(&matrix.read(), &want, 1111, 1e-6, "a cap of 30");
    }
}
