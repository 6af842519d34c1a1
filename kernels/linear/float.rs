//! Float weights times f32 activations.

use super::activations::in_row_groups;
use super::cpu::PartJob;
use crate::cpu::{Kernel, LANES, Simd};
use std::marker::PhantomData;
use std::ops::Range;

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
/// Bytes between what is multiplied and what is asked for from memory. Tiles of a thread's share follow each other.
const AHEAD: usize = 8 * 1024;

/// A part in format F.
pub struct FloatTiles<'a, F>(pub PartJob<'a>, pub PhantomData<F>);

impl<F: Float> Kernel for FloatTiles<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0.job;
        let rows = (CACHED_BYTES / (4 * job.x.cols()) / GROUP * GROUP).max(4 * GROUP);
        let (tiles, half) = (job.tiles.clone(), job.tiles.len() / 2);
        for start in job.rows.clone().step_by(rows) {
            let rows = start..job.rows.end.min(start + rows);
            // SAFETY: Isa::run vouches for the instruction set; rows and tiles are the job's.
            unsafe {
                for tile in tiles.start..tiles.start + half {
                    self.tiles::<S, 2>([tile, tile + half], rows.clone());
                }
                if !tiles.len().is_multiple_of(2) {
                    self.tiles::<S, 1>([tiles.end - 1], rows);
                }
            }
        }
    }
}

impl<F: Float> FloatTiles<'_, F> {
    /// T tiles times rows: they share what is loaded of the rows, and a core reads memory faster in two places than in one.
    ///
    /// # Safety
    /// Needs the instruction set, as all below; rows and tiles are the job's.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const T: usize>(&self, tiles: [usize; T], rows: Range<usize>) {
        in_row_groups!(S::ROWS, rows, |row, R| {
            // SAFETY: the caller's.
            unsafe {
                if R <= 2 || S::TILES > 1 {
                    self.group::<S, R, T>(tiles, row);
                } else {
                    // There are no registers for more.
                    for tile in tiles {
                        self.group::<S, R, 1>([tile], row);
                    }
                }
            }
        });
    }

    /// T tiles times R rows: each sum is one chain, in the order of the columns.
    ///
    /// # Safety
    /// As [`FloatTiles::tiles`].
    #[inline(always)]
    unsafe fn group<S: Simd, const R: usize, const T: usize>(&self, tiles: [usize; T], row: usize) {
        let job = self.0.job;
        let weights = tiles.map(|tile| self.0.tile(tile));
        let mut x = [std::ptr::null(); R];
        for r in 0..R {
            x[r] = job.x.row(row + r).as_ptr();
        }
        // SAFETY: k stays inside the rows and the tiles; the instruction set is the caller's.
        unsafe {
            let mut sums = [[S::splat(0.0); R]; T];
            for k in 0..job.x.cols() {
                let offset = k * LANES * F::BYTES;
                let mut w = [S::splat(0.0); T];
                for t in 0..T {
                    w[t] = F::load::<S>(weights[t].add(offset));
                    if offset.is_multiple_of(64) {
                        S::prefetch(weights[t].wrapping_add(offset + AHEAD));
                    }
                }
                for r in 0..R {
                    let x = S::splat(*x[r].add(k));
                    for t in 0..T {
                        sums[t][r] = S::fma(w[t], x, sums[t][r]);
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    S::store(self.0.sums(tiles[t], row + r), sums[t][r]);
                }
            }
        }
    }
}
