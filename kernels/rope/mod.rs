//! Rotary position embedding (arXiv:2104.09864): element pairs of each head turn by `position * frequency`.
//!
//! [`Style::Interleaved`] pairs elements `2i` and `2i + 1` (GGUF's llama), [`Style::Neox`] `i` and `i + dims / 2`.
//! Frequencies are worked out once for a model ([`Frequencies`]), angles once for a step ([`RopeAngles`]), and all layers
//! that share frequencies share the angles.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod frequencies;
#[cfg(test)]
mod tests;

pub use frequencies::{Frequencies, Scaling};

use crate::cpu::{Kernel, Simd, SyncMutPtr};
use crate::{Device, TensorMut};
use std::ops::Range;

/// Which elements make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `2i` and `2i + 1`.
    Interleaved,
    /// `i` and `i + dims / 2`.
    Neox,
}

/// Cosines and sines of one step's positions: `[T, dims / 2]` each.
#[derive(Debug, Default)]
pub struct RopeAngles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    rows: usize,
}

impl RopeAngles {
    /// Room for the angles of `rows` positions, or `None` if the system has no memory left.
    pub fn new(frequencies: &Frequencies, rows: usize) -> Option<RopeAngles> {
        let mut angles = RopeAngles::default();
        let count = rows.checked_mul(frequencies.inverse().len())?;
        angles.cos.try_reserve_exact(count).ok()?;
        angles.sin.try_reserve_exact(count).ok()?;
        Some(angles)
    }

    /// Works out the angles of `positions`. Allocates only when there are more of them than ever before.
    pub fn set(&mut self, frequencies: &Frequencies, positions: &[u32]) {
        self.rows = positions.len();
        self.cos.clear();
        self.sin.clear();
        let magnitude = f64::from(frequencies.magnitude());
        for position in positions {
            for frequency in frequencies.inverse() {
                // In f64: at position 100,000 an f32 product is off by 0.004 radians.
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                self.cos.push((cos * magnitude) as f32);
                self.sin.push((sin * magnitude) as f32);
            }
        }
    }
}

/// Turns the first `dims` elements of each head of `x`, where they stand.
///
/// Shapes: x `[T, heads * head_dim]`, angles set for T positions and `dims <= head_dim`. Panics otherwise.
pub fn rope(device: &Device, x: &mut TensorMut, head_dim: usize, style: Style, angles: &RopeAngles) {
    let rows = x.rows();
    assert_eq!(rows, angles.rows, "rows of x and positions");
    assert!(x.cols().is_multiple_of(head_dim), "columns {} of heads of {head_dim}", x.cols());
    if rows == 0 {
        return;
    }
    let pairs = angles.cos.len() / rows;
    assert!(2 * pairs <= head_dim, "{pairs} pairs in a head of {head_dim}");
    let turn = Turn {
        x: SyncMutPtr(x.ptr()),
        stride: x.stride(),
        cols: x.cols(),
        head_dim,
        pairs,
        style,
        angles,
        rows: 0..rows,
    };
    match device {
        Device::Reference => turn.turn(),
        Device::Cpu(cpu) => cpu.parallel(rows, 8, |rows| Turn { rows, ..turn.clone() }),
    }
}

/// Each pair is one independent rotation, so the scalar loop is both the oracle and, vectorised by the compiler, the
/// fast path; the tests check it against complex multiplication.
#[derive(Clone)]
struct Turn<'a> {
    x: SyncMutPtr<f32>,
    stride: usize,
    cols: usize,
    head_dim: usize,
    pairs: usize,
    style: Style,
    angles: &'a RopeAngles,
    rows: Range<usize>,
}

impl Kernel for Turn<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        self.turn();
    }
}

impl Turn<'_> {
    #[inline(always)]
    fn turn(self) {
        for row in self.rows.clone() {
            // SAFETY: rows of x do not overlap, and each is one thread's.
            let x = unsafe { std::slice::from_raw_parts_mut(self.x.get().add(row * self.stride), self.cols) };
            let cos = &self.angles.cos[row * self.pairs..][..self.pairs];
            let sin = &self.angles.sin[row * self.pairs..][..self.pairs];
            for head in x.chunks_exact_mut(self.head_dim) {
                match self.style {
                    Style::Interleaved => {
                        for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                            *pair = turned(*pair, *cos, *sin);
                        }
                    }
                    Style::Neox => {
                        let (first, second) = head[..2 * self.pairs].split_at_mut(self.pairs);
                        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            [*a, *b] = turned([*a, *b], *cos, *sin);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turned([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
}
