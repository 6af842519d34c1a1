//! bf16 weights times f32 activations, by AMX.
//!
//! An activation is the sum of three numbers of bf16, of which each has eight of its 24 bits, so what the unit adds up are the
//! products of f32 as they are: but for rounding while summing, which any order of f32 has, and but for numbers below 2^-126, which
//! the unit takes for zero. Weights are right tiles as they lie ([`Layout::Pairs`]).
//!
//! A row's sums follow from the row and the weights alone: columns are added in steps of 32, in their order, and of a step the
//! first parts of activations, the second and the third.

use super::cpu::{PartJob, evenly};
use super::weight::{Layout, STEP};
use crate::Tensor;
use crate::cpu::amx::{self, Shapes, TILE_ROWS, TileKernel, V};
use crate::cpu::{Cpu, LANES, Simd, SyncMutPtr, SyncPtr};
use std::ops::Range;

/// Bytes of a tile.
const TILE: usize = TILE_ROWS * 2 * STEP;
/// Of an activation.
const PARTS: usize = 3;
/// Most steps of a chunk of columns where rows are many: tiles of weights are then found in the second-level cache.
const CHUNK: usize = 24;
/// Groups of rows, and tiles of weights, that are multiplied at once.
const PAIR: usize = 2;
/// Bytes between what is multiplied and what is asked for from memory.
const AHEAD: usize = 4 * TILE;

/// Bytes of so many rows of packed activations.
pub(super) fn packed_bytes(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS).saturating_mul(PARTS * 2).saturating_mul(cols)
}

/// Splits rows of activations into their parts and packs these, group by group of 16, as left tiles: of each step the tiles of the
/// three parts.
pub(super) fn pack(cpu: &Cpu, x: Tensor, tiles: SyncMutPtr<u8>) {
    let pack = Pack { x: SyncPtr(x.ptr()), stride: x.stride(), cols: x.cols(), tiles, rows: 0..0 };
    cpu.pool().parallel_for(x.rows(), 4, &|rows| amx::run(Pack { rows, ..pack.clone() }));
}

#[derive(Clone)]
struct Pack {
    x: SyncPtr<f32>,
    stride: usize,
    cols: usize,
    tiles: SyncMutPtr<u8>,
    rows: Range<usize>,
}

impl TileKernel for Pack {
    #[inline(always)]
    unsafe fn run(self) {
        for row in self.rows.clone() {
            // SAFETY: amx::run vouches for the instruction set; there are tiles for all rows, and each row is one thread's.
            unsafe {
                let x = self.x.get().add(row * self.stride);
                let tiles = self.tiles.get().add(packed_bytes(row / TILE_ROWS * TILE_ROWS, self.cols));
                for step in 0..self.cols / STEP {
                    let mut rest = [V::load(x.add(step * STEP)), V::load(x.add(step * STEP + LANES))];
                    for part in 0..PARTS {
                        let place = tiles.add((step * PARTS + part) * TILE + row % TILE_ROWS * 2 * STEP).cast::<u16>();
                        for (half, rest) in rest.iter_mut().enumerate() {
                            V::store_bf16(place.add(half * LANES), *rest);
                            *rest = V::sub(*rest, V::load_bf16(place.add(half * LANES)));
                        }
                    }
                }
            }
        }
    }
}

/// Evaluates `$body` for each tile S of sums: of `$T` tiles of weights and `$G` groups of rows those of `$t` and `$g`.
macro_rules! each_sum {
    ($T:expr, $G:expr, |$S:ident, $t:ident, $g:ident| $body:expr) => {
        each_sum!(@ $T, $G, $S, $t, $g, $body, (0, 0, 0) (1, 1, 0) (2, 0, 1) (3, 1, 1))
    };
    (@ $T:expr, $G:expr, $S:ident, $t:ident, $g:ident, $body:expr, $(($sums:literal, $tile:literal, $group:literal))*) => {
        $(if $tile < $T && $group < $G {
            const $S: u8 = $sums;
            let ($t, $g) = ($tile, $group);
            $body
        })*
    };
}

/// A part that lies as [`Layout::Pairs`].
pub struct Bf16Tiles<'a>(pub &'a PartJob<'a>);

impl TileKernel for Bf16Tiles<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        debug_assert_eq!(self.0.part.layout, Layout::Pairs);
        let rows = self.0.job.rows.clone();
        let whole = rows.end - rows.len() % TILE_ROWS;
        // SAFETY: amx::run vouches for the instruction set; rows are the job's.
        unsafe {
            for rows in [rows.start..whole, whole..rows.end] {
                if !rows.is_empty() {
                    let tile_rows = rows.len().min(TILE_ROWS);
                    let (left, right) = ((tile_rows, 64), (TILE_ROWS, 64));
                    amx::shape(&Shapes::new([left, left, left, left, left, left, right, right]));
                    self.rows(rows);
                }
            }
        }
    }
}

impl Bf16Tiles<'_> {
    /// The job's tiles times whole groups of rows, or one group that is smaller: two tiles at once, far apart, as a core reads memory
    /// faster in two places than in one.
    ///
    /// # Safety
    /// Needs the instruction set, as all below, and that tiles have the shapes for the rows, which are the job's.
    #[inline(always)]
    unsafe fn rows(&self, rows: Range<usize>) {
        let job = self.0.job;
        let steps = job.x.cols() / STEP;
        // Weights of few rows come from memory, which is read best without a break.
        let chunk = if rows.len() > PAIR * TILE_ROWS { CHUNK } else { steps };
        let (tiles, half) = (job.tiles.clone(), job.tiles.len() / 2);
        for steps in evenly(0..steps, chunk) {
            // SAFETY: the caller's.
            unsafe {
                for tile in tiles.start..tiles.start + half {
                    self.tiles::<2>([tile, tile + half], steps.clone(), rows.clone());
                }
                if !tiles.len().is_multiple_of(2) {
                    self.tiles::<1>([tiles.end - 1], steps, rows.clone());
                }
            }
        }
    }

    /// Some steps of T tiles, times the rows.
    ///
    /// # Safety
    /// As [`Bf16Tiles::rows`].
    #[inline(always)]
    unsafe fn tiles<const T: usize>(&self, tiles: [usize; T], steps: Range<usize>, rows: Range<usize>) {
        for row in rows.clone().step_by(PAIR * TILE_ROWS) {
            // SAFETY: the caller's.
            unsafe {
                if rows.end - row > TILE_ROWS {
                    self.groups::<T, 2>(tiles, steps.clone(), row, row == rows.start);
                } else {
                    self.groups::<T, 1>(tiles, steps.clone(), row, row == rows.start);
                }
            }
        }
    }

    /// Adds the products of some steps of T tiles with G groups of rows to their sums; the first ones ask for weights ahead.
    ///
    /// # Safety
    /// As [`Bf16Tiles::rows`].
    #[inline(always)]
    unsafe fn groups<const T: usize, const G: usize>(
        &self,
        tiles: [usize; T],
        steps: Range<usize>,
        row: usize,
        first: bool,
    ) {
        let (part, job) = (self.0, self.0.job);
        let mut weights = tiles.map(|tile| part.tile(tile).wrapping_add(steps.start * TILE));
        let mut x = [0; G].map(|_| std::ptr::null());
        for (g, x) in x.iter_mut().enumerate() {
            *x = job.scratch.left_tiles(row + g * TILE_ROWS, job.x.cols()).wrapping_add(steps.start * PARTS * TILE);
        }
        let sums = |t: usize, g: usize| part.sums(tiles[t], row + g * TILE_ROWS).cast::<u8>();
        // SAFETY: the caller's; sums of the steps before have been gathered.
        unsafe {
            let begins = steps.start == 0;
            each_sum!(T, G, |S, t, g| if begins { amx::zero::<S>() } else { amx::load::<S>(sums(t, g), 64) });
            for _ in steps {
                amx::load::<6>(weights[0], 64);
                if T > 1 {
                    amx::load::<7>(weights[1], 64);
                }
                for part in 0..PARTS {
                    amx::load::<4>(x[0].wrapping_add(part * TILE), 64);
                    amx::add_bf16::<0, 4, 6>();
                    if T > 1 {
                        amx::add_bf16::<1, 4, 7>();
                    }
                    if G > 1 {
                        amx::load::<5>(x[1].wrapping_add(part * TILE), 64);
                        amx::add_bf16::<2, 5, 6>();
                    }
                    if T > 1 && G > 1 {
                        amx::add_bf16::<3, 5, 7>();
                    }
                }
                if first {
                    for tile in weights {
                        for line in 0..TILE / 64 {
                            V::prefetch(tile.wrapping_add(AHEAD + line * 64));
                        }
                    }
                }
                weights = weights.map(|tile| tile.wrapping_add(TILE));
                x = x.map(|x| x.wrapping_add(PARTS * TILE));
            }
            each_sum!(T, G, |S, t, g| amx::store::<S>(sums(t, g), 64));
        }
    }
}
