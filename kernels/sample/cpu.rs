//! Reductions over the vocabulary, on one thread: some 10 µs for 50,000 logits.

use crate::cpu::{Cpu, Kernel, LANES, Simd, exp};

pub fn max(cpu: &Cpu, logits: &[f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    cpu.isa().run(Max { logits, max: &mut max });
    max
}

pub fn log_sum_exp(cpu: &Cpu, logits: &[f32]) -> f32 {
    let (max, mut sum) = (max(cpu, logits), 0.0);
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
        for part in self.logits.chunks(64 * LANES) {
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
