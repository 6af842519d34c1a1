//! Reductions over the vocabulary, on one thread: some 10 µs for 50,000 logits. Rows are shared out among threads.

use super::draws::{DrawScratch, Drawn, Draws, draw};
use crate::Device;
use crate::cpu::{Cpu, Kernel, LANES, Simd, SyncMutPtr, exp};
use std::ops::Range;

/// Logits of a part: sums are in f32 within one, and of the greatest it is known in which one it is.
const PART: usize = 64 * LANES;

/// Answers draw `i` in `drawn[i]`: as many threads at once as there is scratch.
pub fn draw_all<'a>(
    device: &Device,
    cpu: &Cpu,
    draws: &Draws,
    row: impl Fn(usize) -> &'a [f32] + Sync,
    scratch: &mut [DrawScratch],
    drawn: &mut [Drawn],
) {
    assert!(!scratch.is_empty() && drawn.len() == draws.len(), "{} draws, {} answers", draws.len(), drawn.len());
    let shares = scratch.len().min(draws.len());
    let (scratch, drawn) = (SyncMutPtr(scratch.as_mut_ptr()), SyncMutPtr(drawn.as_mut_ptr()));
    cpu.pool().parallel_for(shares, 1, &|items| {
        for share in items {
            // SAFETY: there is scratch for each share, which is one thread's.
            let scratch = unsafe { &mut *scratch.get().add(share) };
            // In turn: costly draws may stand side by side.
            for i in (share..draws.len()).step_by(shares) {
                let asked = draws.get(i);
                let answer = draw(device, row(asked.row), asked, scratch);
                // SAFETY: there are as many answers as draws, and each draw is in one share.
                unsafe { drawn.get().add(i).write(answer) };
            }
        }
    });
}

/// The greatest logit, and the part in which it is first: all of them, where none is above negative infinity. NaN are passed over.
pub fn max(cpu: &Cpu, logits: &[f32]) -> (f32, Range<usize>) {
    let (mut greatest, mut place) = (f32::NEG_INFINITY, 0..logits.len());
    for (part, first) in logits.chunks(PART).zip((0..).step_by(PART)) {
        let mut max = f32::NEG_INFINITY;
        cpu.isa().run(Max { logits: part, max: &mut max });
        if max > greatest {
            (greatest, place) = (max, first..first + part.len());
        }
    }
    (greatest, place)
}

pub fn log_sum_exp(cpu: &Cpu, logits: &[f32]) -> f32 {
    let (max, mut sum) = (max(cpu, logits).0, 0.0);
    cpu.isa().run(SumExp { logits, max, sum: &mut sum });
    max + sum.ln() as f32
}

struct Max<'a> {
    logits: &'a [f32],
    max: &'a mut f32,
}

impl Kernel for Max<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let chunks = self.logits.chunks_exact(LANES);
        for x in chunks.remainder() {
            *self.max = self.max.max(*x);
        }
        // SAFETY: Isa::run vouches for the instruction set; chunks have 16 elements.
        unsafe {
            let mut acc = S::splat(f32::NEG_INFINITY);
            for chunk in chunks {
                // `max` returns its second operand where one is NaN: NaN logits are passed over.
                acc = S::max(S::load(chunk.as_ptr()), acc);
            }
            *self.max = self.max.max(S::max_lane(acc));
        }
    }
}

struct SumExp<'a> {
    logits: &'a [f32],
    max: f32,
    sum: &'a mut f64,
}

impl Kernel for SumExp<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // Short f32 sums, added up in f64: a vocabulary of 260,000 tiny terms would lose digits in f32.
        for part in self.logits.chunks(PART) {
            let chunks = part.chunks_exact(LANES);
            *self.sum += chunks.remainder().iter().map(|x| f64::from(x - self.max).exp()).sum::<f64>();
            // SAFETY: as above.
            unsafe {
                let mut acc = S::splat(0.0);
                for chunk in chunks {
                    acc = S::add(acc, exp::<S>(S::sub(S::load(chunk.as_ptr()), S::splat(self.max))));
                }
                *self.sum += f64::from(S::sum(acc));
            }
        }
    }
}
