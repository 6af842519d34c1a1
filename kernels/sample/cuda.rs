//! Choosing tokens on a GPU: draws go there in one upload, one launch answers them, and the answers come back in one
//! download, of the same size for every draw.
//!
//! Weights are whole numbers, in units of 2^-44 of the greatest: a draw is exact in them, and differs from the host's
//! where that rounds otherwise. Top-p's ties are of equal logits. What is no number is not among the best.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::{Arg, Element, Gpu, GpuBuffer, GpuError, GpuTensor, Launch, PinnedBuffer};
use aieng_kernels::sample::{Candidate, Choice, Draw, Drawn, Draws, Filter, MAX_BEST};

const THREADS: u32 = 1024;
/// 32-bit words of a draw and of an answer, as sample.cu has them.
const DRAW: usize = 20;
const ANSWER: usize = 4 + 2 * MAX_BEST;
/// No token, no row.
const NONE: u32 = u32::MAX;
/// Draws of one launch that change logits, each in a row of scratch memory.
const MAX_CHANGED: usize = 64;
/// Entries of one draw's lists: every token seen or banned, and biases.
const BIASES: usize = 4096;
/// The largest vocabulary whose weights can be added up.
pub const MAX_VOCAB: usize = 1 << 19;

/// Memory to draw with, on the device and to exchange with it.
#[derive(Debug)]
pub struct Workspace {
    gpu: Gpu,
    vocab: usize,
    /// Draws of one launch.
    draws: usize,
    /// `[draws, DRAW]`, and their lists: on the host, and on the device.
    packed: PinnedBuffer,
    packed_there: GpuBuffer,
    /// `[draws, ANSWER]`
    answers: PinnedBuffer,
    answers_there: GpuBuffer,
    /// `[min(draws, MAX_CHANGED), vocab]`
    scratch: GpuBuffer,
}

impl Workspace {
    /// For `draws` draws at once from rows of `vocab` logits; more take more launches. Panics for none of either.
    ///
    /// Errors: [`GpuError::Unavailable`] for a vocabulary above [`MAX_VOCAB`]; [`GpuError::OutOfMemory`].
    pub fn new(gpu: &Gpu, draws: usize, vocab: usize) -> Result<Workspace, GpuError> {
        assert!(draws > 0 && vocab > 0, "{draws} draws from {vocab} logits");
        if vocab > MAX_VOCAB {
            return Err(GpuError::Unavailable(format!("a vocabulary of {vocab} tokens, above {MAX_VOCAB}")));
        }
        let words = draws * DRAW + 2 * (2 * vocab + BIASES);
        Ok(Workspace {
            gpu: gpu.clone(),
            vocab,
            draws,
            packed: gpu.alloc_pinned(4 * words)?,
            packed_there: gpu.alloc(4 * words)?,
            answers: gpu.alloc_pinned(4 * draws * ANSWER)?,
            answers_there: gpu.alloc(4 * draws * ANSWER)?,
            scratch: gpu.alloc(4 * draws.min(MAX_CHANGED) * vocab)?,
        })
    }
}

/// Answers all draws, in their order; `drawn` is overwritten.
///
/// Shapes: logits `[L, vocab]` f32. Panics otherwise, and for rows and given tokens that are not there.
pub fn sample(
    workspace: &mut Workspace,
    logits: GpuTensor,
    draws: &Draws,
    drawn: &mut Vec<Drawn>,
) -> Result<(), GpuError> {
    logits.expect("logits", Element::F32, logits.rows(), workspace.vocab);
    drawn.clear();
    while drawn.len() < draws.len() {
        let first = drawn.len();
        let (count, words) = pack(workspace, logits.rows(), draws, first);
        let Workspace { gpu, packed, packed_there, answers, answers_there, scratch, vocab, .. } = &mut *workspace;
        packed_there.upload(0, &packed.as_slice()[..4 * words])?;
        let args = [
            logits.arg(),
            Arg::U32(logits.stride() as u32),
            Arg::U32(*vocab as u32),
            Arg::Ptr(packed_there.ptr()),
            Arg::Ptr(scratch.ptr()),
            Arg::Ptr(answers_there.ptr()),
        ];
        gpu.launch("sample_draws", Launch { grid: [count as u32, 1, 1], block: THREADS, shared: 0 }, &args)?;
        let answers = &mut answers.as_mut_slice()[..4 * count * ANSWER];
        answers_there.download(0, answers)?;
        drawn.extend(answers.as_chunks::<4>().0.as_chunks::<ANSWER>().0.iter().map(unpack));
    }
    Ok(())
}

/// `x = cap tanh(x / cap)`, in place: what some models do to their logits `[L, vocab]`, which are f32 and end to end.
pub fn soft_cap(gpu: &Gpu, cap: f32, logits: GpuTensor) -> Result<(), GpuError> {
    logits.expect("logits", Element::F32, logits.rows(), logits.stride());
    let count = logits.rows() * logits.cols();
    let grid = [count.div_ceil(THREADS as usize) as u32, 1, 1];
    let args = [logits.arg(), Arg::U32(count as u32), Arg::F32(cap)];
    gpu.launch("sample_soft_cap", Launch { grid, block: THREADS, shared: 0 }, &args)
}

/// Packs draws from number `first` on, as many as one launch can take. Returns how many, and how many words they are.
fn pack(workspace: &mut Workspace, rows: usize, draws: &Draws, first: usize) -> (usize, usize) {
    let Workspace { packed, vocab, draws: most, .. } = workspace;
    let words = packed.as_mut_slice().as_chunks_mut::<4>().0;
    let most = (*most).min(draws.len() - first);
    let (mut end, mut changed, mut count) = (most * DRAW, 0, 0);
    while count < most {
        let draw = draws.get(first + count);
        assert!(draw.row < rows, "row {} of {rows}", draw.row);
        let lists = 2 * (draw.seen.len() + draw.bias.len() + draw.banned.len());
        let scratch = if draw.changes() { changed } else { NONE };
        if draw.changes() {
            if changed as usize == MAX_CHANGED || end + lists > words.len() {
                assert!(count > 0, "{} tokens in the lists of a draw", lists / 2);
                break;
            }
            changed += 1;
        }
        let begin = end;
        if draw.changes() {
            end = append(words, end, draw.seen.iter().map(|seen| (seen.id, seen.in_output)));
            end = append(words, end, draw.bias.iter().map(|(id, bias)| (*id, bias.to_bits())));
            end = append(words, end, draw.banned.iter().map(|id| (*id, f32::NEG_INFINITY.to_bits())));
        }
        let lists = [begin, (begin + 2 * draw.seen.len()).min(end), end];
        let record = pack_one(&draw, *vocab, scratch, lists.map(|place| place as u32));
        words[count * DRAW..][..DRAW].copy_from_slice(&record.map(u32::to_le_bytes));
        count += 1;
    }
    (count, end)
}

/// Writes pairs from word `at` on, and returns where they end.
fn append(words: &mut [[u8; 4]], at: usize, pairs: impl ExactSizeIterator<Item = (u32, u32)>) -> usize {
    let end = at + 2 * pairs.len();
    for (pair, (id, value)) in words[at..end].as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        *pair = [id.to_le_bytes(), value.to_le_bytes()];
    }
    end
}

/// `Draw` of sample.cu. `lists`: where those seen begin, where they end and biases begin, where these end.
fn pack_one(draw: &Draw, vocab: usize, scratch: u32, lists: [u32; 3]) -> [u32; DRAW] {
    let unused = Filter { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let (filter, uniform, given) = match draw.choice {
        Choice::Sample(filter, uniform) => (filter, uniform, NONE),
        Choice::Given(token) => (unused, 0.0, token),
    };
    assert!(given == NONE || (given as usize) < vocab, "token {given} of {vocab}");
    let reports = draw.logprobs.map_or(0, |n| 1 + n.min(MAX_BEST) as u32);
    // In units of 2^-64; `as` ends at the greatest.
    let units = |x: f64| (x * 2f64.powi(64)) as u64;
    let share = if filter.top_p < 1.0 { units(filter.top_p.into()).max(1) } else { 0 };
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let slope = (std::f64::consts::LOG2_E / f64::from(filter.temperature)).min(f32::MAX.into()) as f32;
    let floor = filter.temperature * filter.min_p.max(1e-30).ln();
    let [[share, share_high], [uniform, uniform_high]] = [halves(share), halves(units(uniform))];
    let [seen, bias, end] = lists;
    [
        draw.row as u32,
        given,
        reports,
        scratch,
        (filter.temperature == 0.0).into(),
        u32::try_from(filter.top_k).unwrap_or(u32::MAX),
        share,
        share_high,
        uniform,
        uniform_high,
        slope.to_bits(),
        floor.to_bits(),
        draw.penalties.repetition.to_bits(),
        draw.penalties.presence.to_bits(),
        draw.penalties.frequency.to_bits(),
        seen,
        bias,
        bias,
        end,
        0,
    ]
}

/// Reads `Drawn` of sample.cu.
fn unpack(words: &[[u8; 4]; ANSWER]) -> Drawn {
    let (word, float) = (|i: usize| u32::from_le_bytes(words[i]), |i: usize| f32::from_le_bytes(words[i]));
    let mut best: [Candidate; MAX_BEST] = [(0.0, 0); MAX_BEST];
    for (i, (logprob, id)) in best.iter_mut().enumerate() {
        (*logprob, *id) = (float(4 + MAX_BEST + i), word(4 + i));
    }
    Drawn::new(word(0), float(1), float(2), &best[..MAX_BEST.min(word(3) as usize)])
}
