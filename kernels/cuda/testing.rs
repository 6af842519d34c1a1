//! What the operations' tests share: devices, and matrices in their memory with guards around them.

use crate::{Element, Gpu, GpuBuffer, GpuTensor};
use half::{bf16, f16};

/// Orders of lanes that every test is run in.
#[cfg(feature = "emulate")]
const SEEDS: [u64; 3] = [1, 2, 3];

/// The emulator with each of three orders of lanes, if it is in this build, and the real device, if there is one. A device
/// that is not there is said to be missed.
pub fn gpus() -> Vec<Gpu> {
    let mut gpus = Vec::new();
    // A sanitizer, which slows all of it down, sees in one order what it sees in any.
    #[cfg(feature = "emulate")]
    let orders = if crate::emulator::sanitizer().is_empty() { SEEDS.len() } else { 1 };
    #[cfg(feature = "emulate")]
    gpus.extend(SEEDS.into_iter().take(orders).map(Gpu::emulated));
    // Without CUDA, `open` gives one more emulated device.
    #[cfg(any(feature = "cuda", not(feature = "emulate")))]
    match Gpu::open(0) {
        Ok(gpu) => gpus.push(gpu),
        Err(error) => eprintln!("SKIPPED: {}: {error}", std::thread::current().name().unwrap_or("a test")),
    }
    gpus
}

/// Whether ThreadSanitizer slows kernels down a hundred times: then small shapes must do.
pub fn slowed() -> bool {
    #[cfg(feature = "emulate")]
    return crate::emulator::sanitizer() == "thread";
    #[cfg(not(feature = "emulate"))]
    false
}

/// Whether a test is left out under ThreadSanitizer, which is then said: one that takes many launches, and of whose kernels
/// others show small shapes.
pub fn left_out(test: &str) -> bool {
    if slowed() {
        eprintln!("SKIPPED: {test}: it takes too long under ThreadSanitizer");
    }
    slowed()
}

/// Fills what a kernel must not touch: a NaN in every format.
const GUARD: u8 = 0xfe;
/// Bytes of guard before and behind a matrix.
const MARGIN: usize = 256;

/// A matrix `[rows, cols]` in a device's memory, its rows `stride` elements apart, with guards before it, between its rows
/// and behind it.
pub struct Matrix {
    buffer: GpuBuffer,
    element: Element,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Matrix {
    /// Poisoned: what a kernel reads of it is NaN. `gap` elements lie between two rows.
    pub fn poisoned(gpu: &Gpu, element: Element, rows: usize, cols: usize, gap: usize) -> Matrix {
        let stride = cols + gap;
        let bytes = rows * stride * element.bytes() + 2 * MARGIN;
        let buffer = gpu.from_bytes(&vec![GUARD; bytes]).unwrap();
        Matrix { buffer, element, rows, cols, stride }
    }

    /// Holds `values`, rounded to the element format; rows lie end to end.
    pub fn from(gpu: &Gpu, element: Element, rows: usize, cols: usize, values: &[f32]) -> Matrix {
        Matrix::with_gap(gpu, element, rows, cols, 0, values)
    }

    /// As [`Matrix::from`], with `gap` elements between two rows.
    pub fn with_gap(gpu: &Gpu, element: Element, rows: usize, cols: usize, gap: usize, values: &[f32]) -> Matrix {
        assert_eq!(values.len(), rows * cols);
        let matrix = Matrix::poisoned(gpu, element, rows, cols, gap);
        for (r, values) in values.chunks_exact(cols.max(1)).enumerate() {
            matrix.buffer.upload(matrix.row_offset(r), &encode(element, values)).unwrap();
        }
        matrix
    }

    /// Holds integers.
    pub fn from_u32(gpu: &Gpu, values: &[u32]) -> Matrix {
        let matrix = Matrix::poisoned(gpu, Element::U32, 1, values.len(), 0);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        matrix.buffer.upload(MARGIN, &bytes).unwrap();
        matrix
    }

    fn row_offset(&self, row: usize) -> usize {
        MARGIN + row * self.stride * self.element.bytes()
    }

    /// To give to an operation.
    pub fn view(&self) -> GpuTensor<'_> {
        GpuTensor::strided(&self.buffer, MARGIN, self.element, self.rows, self.cols, self.stride)
    }

    /// What it holds, row after row; panics if a guard was touched.
    pub fn read(&self) -> Vec<f32> {
        let bytes = self.bytes();
        let row = self.cols * self.element.bytes();
        (0..self.rows).flat_map(|r| decode(self.element, &bytes[self.row_offset(r)..][..row])).collect()
    }

    /// The bits that it holds, row after row; panics if a guard was touched.
    pub fn read_bits(&self) -> Vec<u8> {
        let bytes = self.bytes();
        let row = self.cols * self.element.bytes();
        (0..self.rows).flat_map(|r| bytes[self.row_offset(r)..][..row].to_vec()).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer.len()];
        self.buffer.download(0, &mut bytes).unwrap();
        let mut guards = bytes.clone();
        for r in 0..self.rows {
            guards[self.row_offset(r)..][..self.cols * self.element.bytes()].fill(GUARD);
        }
        let touched = guards.iter().position(|b| *b != GUARD);
        assert_eq!(touched, None, "byte written outside [{}, {}]", self.rows, self.cols);
        bytes
    }
}

/// `values` in a format.
pub fn encode(element: Element, values: &[f32]) -> Vec<u8> {
    match element {
        Element::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Element::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Element::U32 | Element::U8 => panic!("integers are not rounded"),
    }
}

/// The other way round.
pub fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match element {
        Element::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Element::BF16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Element::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Element::U32 => bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b) as f32).collect(),
        Element::U8 => bytes.iter().map(|b| f32::from(*b)).collect(),
    }
}

/// `values` as bf16 holds them: what an operation on the device sees.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// Every element within `tolerance` times the greatest magnitude of `want` in its row, or 1.
pub fn assert_close(got: &[f32], want: &[f32], cols: usize, tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (r, (got, want)) in got.chunks(cols).zip(want.chunks(cols)).enumerate() {
        let scale = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        for (c, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * scale, "[{r}, {c}]: {g}, expected {w}; {what}");
        }
    }
}
