//! What the operations' tests share: seeded random data, guarded matrices, devices of every instruction set.

use crate::cpu::Pool;
use crate::linear::Source;
use crate::quant::DType;
use crate::{AlignedBuffer, Bytes, Cpu, Device, Isa, Tensor, TensorMut};
use std::sync::Arc;

/// SplitMix64 (Steele et al. 2014).
pub struct Rng(u64);

impl Rng {
    /// Prints its seed.
    pub fn new(seed: u64) -> Rng {
        eprintln!("seed {seed}");
        Rng(seed)
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `n` numbers in [-1, 1).
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A matrix whose rows lie apart, with guards between and around them; dropping it checks that they are untouched.
#[derive(Debug, Clone)]
pub struct Matrix {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

const GUARD: usize = 19;
const GUARD_BITS: u32 = 0x7fc0_dead;

impl Matrix {
    /// All of one value.
    pub fn filled(rows: usize, cols: usize, value: f32) -> Matrix {
        let mut data = vec![f32::from_bits(GUARD_BITS); GUARD + rows * (cols + GUARD)];
        for row in data[GUARD..].chunks_exact_mut(cols + GUARD) {
            row[..cols].fill(value);
        }
        Matrix { data, rows, cols }
    }

    /// All NaN.
    pub fn poisoned(rows: usize, cols: usize) -> Matrix {
        Matrix::filled(rows, cols, f32::NAN)
    }

    /// Numbers in [-1, 1).
    pub fn random(rng: &mut Rng, rows: usize, cols: usize) -> Matrix {
        Matrix::from_rows(&rng.floats(rows * cols), rows, cols)
    }

    /// Holds `values`, whose rows lie end to end.
    pub fn from_rows(values: &[f32], rows: usize, cols: usize) -> Matrix {
        let mut m = Matrix::poisoned(rows, cols);
        for (r, values) in values.chunks_exact(cols).enumerate() {
            m.row_mut(r).copy_from_slice(values);
        }
        m
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `r`.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        let start = GUARD + r * (self.cols + GUARD);
        &mut self.data[start..start + self.cols]
    }

    /// To read.
    pub fn view(&self) -> Tensor<'_> {
        Tensor::new(&self.data[GUARD..], self.rows, self.cols + GUARD).columns(0..self.cols)
    }

    /// To write.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let (rows, cols) = (self.rows, self.cols);
        TensorMut::new(&mut self.data[GUARD..], rows, cols + GUARD).into_columns(0..cols)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        let guard = |x: &[f32]| x.iter().all(|x| x.to_bits() == GUARD_BITS);
        let rows = self.data[GUARD..].chunks_exact(self.cols + GUARD);
        let intact = guard(&self.data[..GUARD]) && rows.into_iter().all(|row| guard(&row[self.cols..]));
        assert!(intact || std::thread::panicking(), "an element outside the matrix was written");
    }
}

/// Every element within `tolerance` times the greatest of `want` and 1.
pub fn assert_close(got: &Matrix, want: &Matrix, tolerance: f32, what: &str) {
    for r in 0..want.rows {
        let (got, want) = (got.view().row(r), want.view().row(r));
        let scale = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        for (c, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * scale, "[{r}, {c}]: {g}, expected {w}; {what}");
        }
    }
}

/// A CPU device of each instruction set that this machine has, with one thread and with three.
pub fn cpus() -> Vec<Device> {
    let mut devices = Vec::new();
    for isa in Isa::ALL {
        for threads in [1, 3] {
            match Cpu::new(isa, Pool::new(threads, false).unwrap()) {
                Some(cpu) => devices.push(Device::Cpu(cpu)),
                None => eprintln!("SKIPPED: {}: this machine lacks it", isa.name()),
            }
        }
    }
    devices
}

/// [`cpus`] and the reference.
pub fn devices() -> Vec<Device> {
    let mut devices = cpus();
    devices.push(Device::Reference);
    devices
}

/// Random rows of a format: random codes, and scales of some 1e-2 so that f16 neither overflows nor vanishes.
pub fn random_source(rng: &mut Rng, dtype: DType, rows: usize, cols: usize) -> Source {
    let mut buffer = AlignedBuffer::new(rows * dtype.row_bytes(cols)).unwrap();
    let half = |rng: &mut Rng| half::f16::from_f32(0.01 + 0.02 * rng.float()).to_le_bytes();
    for block in buffer.as_mut_slice().chunks_exact_mut(dtype.block_bytes()) {
        block.iter_mut().for_each(|b| *b = rng.next() as u8);
        match dtype {
            DType::F32 => block.copy_from_slice(&rng.float().to_le_bytes()),
            DType::F16 => block.copy_from_slice(&half::f16::from_f32(rng.float()).to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(rng.float()).to_le_bytes()),
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => {
                block[..2].copy_from_slice(&half(rng));
                block[2..4].copy_from_slice(&half(rng));
            }
            DType::Q6_K => block[208..].copy_from_slice(&half(rng)),
            DType::Q8_0 | DType::Q4_0 | DType::Q5_0 => block[..2].copy_from_slice(&half(rng)),
        }
    }
    Source { dtype, rows, bytes: Bytes::Owned(Arc::new(buffer)) }
}
