//! Float weights times f32 activations.

use super::activations::in_row_groups;
use super::cpu::PartJob;
use crate::cpu::{Kernel, LANES, Simd};
use std::marker::PhantomData;

/// Bytes of activations that a pass over the tiles should find in the second-level cache.
const CACHED_BYTES: usize = 512 * 1024;

/// A float format of weights.
pub trait Float: 'static {
    const BYTES: usize;
    /// # Safety
    /// Needs the instruction set, and sixteen elements at `p`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

macro_rules! float {
    ($name:ident, $bytes:expr, $load:ident) => {
        pub struct $name;
        impl Float for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const u8) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::$load(p.cast()) }
            }
        }
    };
}
float!(F32, 4, load);
float!(F16, 2, load_f16);
float!(Bf16, 2, load_bf16);

/// What rows are cut into multiples of: the largest group.
const GROUP: usize = 8;

/// A part in format F.
pub struct FloatTiles<'a, F>(pub PartJob<'a>, pub PhantomData<F>);

impl<F: Float> Kernel for FloatTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0.job;
        let rows = (CACHED_BYTES / (4 * job.x.cols()) / GROUP * GROUP).max(4 * GROUP);
        for start in job.rows.clone().step_by(rows) {
            let rows = start..job.rows.end.min(start + rows);
            for tile in job.tiles.clone() {
                let weights = self.0.tile(tile);
                // SAFETY: Isa::run vouches for the instruction set; rows and tile are the job's.
                in_row_groups!(S::ROWS, rows.clone(), |row, R| unsafe {
                    let sums = self.rows::<S, R>(weights, row);
                    for r in 0..R {
                        S::store(self.0.sums(tile, row + r), sums[r]);
                    }
                });
            }
        }
    }
}

impl<F: Float> FloatTiles<'_, F> {
    /// Weights of a tile times R rows.
    ///
    /// # Safety
    /// Needs the instruction set; the rows are in the job.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, weights: *const u8, row: usize) -> [S::F; R] {
        let job = self.0.job;
        let mut x = [std::ptr::null(); R];
        for r in 0..R {
            x[r] = job.x.row(row + r).as_ptr();
        }
        // SAFETY: k stays inside the rows and the tile; the instruction set is the caller's.
        unsafe {
            let mut acc = [S::splat(0.0); R];
            for k in 0..job.x.cols() {
                let w = F::load::<S>(weights.add(k * LANES * F::BYTES));
                for r in 0..R {
                    acc[r] = S::fma(w, S::splat(*x[r].add(k)), acc[r]);
                }
            }
            acc
        }
    }
}
