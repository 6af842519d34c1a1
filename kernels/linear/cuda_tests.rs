use super::*;
use crate::testing::{Matrix, assert_close, gpus, left_out, rounded, slowed};
use aieng_kernels::linear::cases::{CASES, columns};
use aieng_kernels::linear::{Scratch, Source, Weight};
use aieng_kernels::testing::{Rng, random_source};
use aieng_kernels::{Arena, Bytes, DType, Device, Tensor, TensorMut};
use half::{bf16, f16};

/// Shapes besides those of the CPU: several segments of K, blocks of 128 both ways and what is left of them.
const MORE: [(usize, usize, usize); 3] = [(9, 40, 2560), (33, 272, 640), (131, 136, 576)];

const PATHS: [Path; 4] = Path::ALL;

/// As the device holds it: floats become bf16.
fn as_held(source: &Source) -> Source {
    let values: Vec<f32> = match source.dtype {
        DType::F32 => source.bytes.as_slice().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::F16 => {
            source.bytes.as_slice().as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        _ => return source.clone(),
    };
    let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let len = bytes.len();
    Source { dtype: DType::BF16, rows: source.rows, bytes: Bytes::Shared(std::sync::Arc::new(bytes), 0..len) }
}

/// The oracle's result.
fn reference(x: &[f32], cols: usize, sources: &[Source], bias: &[f32]) -> Vec<f32> {
    let sources: Vec<Source> = sources.iter().map(as_held).collect();
    let device = Device::Reference;
    let w = Weight::new(&device, cols, &sources, bias.to_vec(), &Arena::default(), &mut |_, _| ()).unwrap();
    let rows = x.len() / cols;
    let mut y = vec![0.0; rows * w.rows()];
    let out = &mut TensorMut::new(&mut y, rows, w.rows());
    aieng_kernels::linear(&device, Tensor::new(x, rows, cols), &w, &mut Scratch::default(), out);
    y
}

/// f32 outputs by one kernel.
fn run(gpu: &Gpu, path: Path, x: &[f32], w: &GpuWeight) -> Matrix {
    let rows = x.len() / w.cols();
    let x = Matrix::with_gap(gpu, Element::BF16, rows, w.cols(), 8, x);
    let y = Matrix::poisoned(gpu, Element::F32, rows, w.rows(), 3);
    linear_by(gpu, x.view().into(), w, y.view(), |_| path).unwrap();
    y
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng::new(9);
    for dtype in DType::ALL {
        let fits = |(rows, outputs, cols): &(usize, usize, usize)| !slowed() || rows * outputs * cols < 3_000;
        for (rows, outputs, cols) in CASES.into_iter().chain(MORE).filter(fits) {
            let cols = columns(dtype, cols).next_multiple_of(32);
            let x = rounded(&rng.floats(rows * cols));
            let source = random_source(&mut rng, dtype, outputs, cols);
            let bias = rng.floats(outputs);
            let want = reference(&x, cols, std::slice::from_ref(&source), &bias);
            // Only sums in f32 differ. Minima cancel: the bound is on the scale of the terms, not of the result.
            let tolerance = 1e-6 * (cols as f32).sqrt();
            for gpu in gpus() {
                let w = GpuWeight::new(&gpu, cols, std::slice::from_ref(&source), Some(&bias)).unwrap();
                for path in PATHS {
                    let what = format!("{} {rows}x{outputs}x{cols} {path:?} on {}", dtype.name(), gpu.name());
                    assert_close(&run(&gpu, path, &x, &w).read(), &want, outputs, tolerance, &what);
                }
            }
        }
    }
}

/// A row's bits are the same alone, in any batch, by any kernel, and in every order of lanes.
#[test]
fn a_row_depends_on_itself_alone() {
    if left_out("a_row_depends_on_itself_alone") {
        return;
    }
    let mut rng = Rng::new(11);
    for dtype in DType::ALL {
        let (outputs, cols) = (23, 1280);
        let x = rounded(&rng.floats(131 * cols));
        let source = random_source(&mut rng, dtype, outputs, cols);
        let mut by_device: Vec<(String, Vec<u8>)> = Vec::new();
        for gpu in gpus() {
            let w = GpuWeight::new(&gpu, cols, std::slice::from_ref(&source), None).unwrap();
            let alone: Vec<u8> =
                x.chunks(cols).take(40).flat_map(|x| run(&gpu, Path::Few1, x, &w).read_bits()).collect();
            let others = (2..=16).map(|rows| (rows, Path::suited(rows, outputs)));
            let others = others.chain([
                (13, Path::Few1),
                (40, Path::Few4),
                (5, Path::Many1),
                (131, Path::Many1),
                (131, Path::Many2),
            ]);
            for (rows, path) in others {
                let got = run(&gpu, path, &x[..rows * cols], &w).read_bits();
                let both = got.len().min(alone.len());
                assert!(got[..both] == alone[..both], "{} rows {rows} {path:?} on {}", dtype.name(), gpu.name());
            }
            match by_device.iter().find(|(name, _)| name == gpu.name()) {
                Some((_, before)) => assert!(*before == alone, "{} in another order", dtype.name()),
                None => by_device.push((gpu.name().to_owned(), alone)),
            }
        }
    }
}

/// Parts of several formats beside each other, as bf16.
#[test]
fn parts_stand_one_above_the_other() {
    let mut rng = Rng::new(12);
    let cols = 512;
    let x = rounded(&rng.floats(5 * cols));
    let dtypes = [(DType::Q4_K, 33), (DType::Q4_K, 7), (DType::Q6_K, 9), (DType::BF16, 20)];
    let sources = dtypes.map(|(dtype, rows)| random_source(&mut rng, dtype, rows, cols));
    let bias = rng.floats(69);
    let want = reference(&x, cols, &sources, &bias);
    for gpu in gpus() {
        let w = GpuWeight::new(&gpu, cols, &sources, Some(&bias)).unwrap();
        assert_eq!((w.rows(), w.parts.len()), (69, 3));
        let x = Matrix::from(&gpu, Element::BF16, 5, cols, &x);
        let y = Matrix::poisoned(&gpu, Element::BF16, 5, 69, 1);
        linear(&gpu, x.view(), &w, y.view()).unwrap();
        assert_close(&y.read(), &want, 69, 0.004, gpu.name());
    }
}

fn activated(gate_and_up: &[f32], outputs: usize, activation: Activation) -> Vec<f32> {
    let rows = gate_and_up.len() / (2 * outputs);
    let mut out = vec![0.0; rows * outputs];
    let x = Tensor::new(gate_and_up, rows, 2 * outputs);
    aieng_kernels::act_mul(x, activation, &mut TensorMut::new(&mut out, rows, outputs));
    out
}

#[test]
fn gate_and_up_meet_in_one_launch() {
    let mut rng = Rng::new(13);
    for (dtype, outputs, cols) in [(DType::Q4_K, 90, 512), (DType::Q8_0, 8, 96), (DType::BF16, 37, 320)] {
        let sources = [0, 1].map(|_| random_source(&mut rng, dtype, outputs, cols));
        let bias = rng.floats(2 * outputs);
        let x = rounded(&rng.floats(37 * cols));
        let sums = reference(&x, cols, &sources, &bias);
        for gpu in gpus() {
            let [gate, up] = &sources;
            let w = GpuWeight::gate_up(&gpu, cols, gate, up, Some(&bias)).unwrap().unwrap();
            let x = Matrix::from(&gpu, Element::BF16, 37, cols, &x);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let want = activated(&sums, outputs, activation);
                let mut bits = Vec::new();
                for path in PATHS {
                    let out = Matrix::poisoned(&gpu, Element::BF16, 37, outputs, 5);
                    gate_up_by(&gpu, x.view().into(), &w, activation, out.view(), path).unwrap();
                    let what = format!("{} {activation:?} {path:?} on {}", dtype.name(), gpu.name());
                    assert_close(&out.read(), &want, outputs, 0.005, &what);
                    bits.push(out.read_bits());
                }
                assert!(bits.iter().all(|other| *other == bits[0]), "{} {activation:?}", dtype.name());
            }
        }
    }
    if let Some(gpu) = gpus().first() {
        let [a, b] = [DType::Q4_0, DType::Q4_1].map(|dtype| random_source(&mut rng, dtype, 8, 32));
        assert!(GpuWeight::gate_up(gpu, 32, &a, &b, None).unwrap().is_none());
    }
}

/// Codes with scales and zeros by groups, against the values they stand for.
#[test]
fn groups_have_scales_and_zeros() {
    let mut rng = Rng::new(14);
    for (group, outputs, cols) in [(32, 21, 352), (128, 40, 640)] {
        let groups = outputs * cols / group;
        let codes: Vec<u8> = (0..outputs * cols / 2).map(|_| rng.next() as u8).collect();
        let scales: Vec<f16> = (0..groups).map(|_| f16::from_f32(0.02 + 0.01 * rng.float())).collect();
        let zeros: Vec<u8> = (0..groups).map(|_| rng.below(17) as u8).collect();
        let rows = Int4Rows { group, rows: outputs, codes: &codes, scales: &scales, zeros: &zeros };
        let value = |i: usize| {
            let code = (codes[i / 2] >> (4 * (i % 2))) & 15;
            scales[i / group].to_f32() * (f32::from(code) - f32::from(zeros[i / group]))
        };
        let values: Vec<u8> = (0..outputs * cols).flat_map(|i| value(i).to_le_bytes()).collect();
        let x = rounded(&rng.floats(19 * cols));
        // Held as f32, which the oracle takes as it is.
        let len = values.len();
        let source =
            Source { dtype: DType::F32, rows: outputs, bytes: Bytes::Shared(std::sync::Arc::new(values), 0..len) };
        let w =
            Weight::new(&Device::Reference, cols, &[source], Vec::new(), &Arena::default(), &mut |_, _| ()).unwrap();
        let mut want = vec![0.0; 19 * outputs];
        let out = &mut TensorMut::new(&mut want, 19, outputs);
        aieng_kernels::linear(&Device::Reference, Tensor::new(&x, 19, cols), &w, &mut Scratch::default(), out);
        for gpu in gpus() {
            let w = GpuWeight::int4(&gpu, cols, &[rows], None).unwrap();
            for path in PATHS {
                let what = format!("groups of {group}, {path:?} on {}", gpu.name());
                assert_close(&run(&gpu, path, &x, &w).read(), &want, outputs, 2e-5, &what);
            }
            let gated = GpuWeight::int4_gate_up(&gpu, cols, &rows, &rows, None).unwrap();
            let xs = Matrix::from(&gpu, Element::BF16, 19, cols, &x);
            let out = Matrix::poisoned(&gpu, Element::BF16, 19, outputs, 0);
            gate_up(&gpu, xs.view(), &gated, Activation::Silu, out.view()).unwrap();
            let twice: Vec<f32> = want.chunks(outputs).flat_map(|row| [row, row].concat()).collect();
            assert_close(&out.read(), &activated(&twice, outputs, Activation::Silu), outputs, 0.005, gpu.name());
        }
    }
}

/// A stream of two products with a norm between them, by any kernels: `residual += x W1ᵀ`, and `norm(residual) W2ᵀ`.
struct Chain {
    cols: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    norm: Vec<f32>,
    sources: [Source; 2],
}

const EPS: f32 = 1e-5;

impl Chain {
    fn new(rng: &mut Rng, dtype: DType, rows: usize, cols: usize, outputs: usize) -> Chain {
        let (x, residual) = (rounded(&rng.floats(rows * cols)), rng.floats(rows * cols));
        let sources = [cols, outputs].map(|outputs| random_source(rng, dtype, outputs, cols));
        Chain { cols, x, residual, norm: rng.floats(cols), sources }
    }

    /// The residual stream and the last product, of rows from `first` on.
    fn run(&self, gpu: &Gpu, weights: &[GpuWeight; 2], rows: std::ops::Range<usize>, path: Path) -> [Vec<u8>; 2] {
        let (n, cols, outputs) = (rows.len(), self.cols, weights[1].rows());
        let part = rows.start * cols..rows.end * cols;
        let x = Matrix::with_gap(gpu, Element::BF16, n, cols, 8, &self.x[part.clone()]);
        let residual = Matrix::with_gap(gpu, Element::F32, n, cols, 4, &self.residual[part]);
        let norm = Matrix::from(gpu, Element::F32, 1, cols, &self.norm);
        let between = Matrix::poisoned(gpu, Element::BF16, n, Weighed::stride(cols), 8);
        let y = Matrix::poisoned(gpu, Element::F32, n, outputs, 3);
        let next = Weighed::new(between.view(), cols);
        add_linear_by(gpu, x.view(), &weights[0], residual.view(), (norm.view(), next), path).unwrap();
        linear_by(gpu, Input::Normed(next, EPS), &weights[1], y.view(), |_| path).unwrap();
        [residual, y].map(|matrix| matrix.read_bits())
    }

    fn weights(&self, gpu: &Gpu) -> [GpuWeight; 2] {
        [0, 1].map(|i| GpuWeight::new(gpu, self.cols, std::slice::from_ref(&self.sources[i]), None).unwrap())
    }

    /// The oracle's stream and last product.
    fn want(&self, outputs: usize) -> [Vec<f32>; 2] {
        let (cols, rows) = (self.cols, self.x.len() / self.cols);
        let delta = reference(&self.x, cols, &self.sources[..1], &[]);
        let stream: Vec<f32> = self.residual.iter().zip(&delta).map(|(r, d)| r + d).collect();
        let norm = |row: &[f32]| {
            let squares: f32 = row.iter().map(|x| x * x).sum();
            let weighed: Vec<f32> = row.iter().zip(&self.norm).map(|(x, weight)| x * weight).collect();
            let factor = (squares / cols as f32 + EPS).sqrt().recip();
            rounded(&weighed).into_iter().map(move |x| x * factor)
        };
        let normed: Vec<f32> = stream.chunks(cols).flat_map(norm).collect();
        let y = reference(&normed, cols, &self.sources[1..], &[]);
        assert_eq!(y.len(), rows * outputs);
        [stream, y]
    }
}

/// Alone and among others, by every kernel and in every order of lanes the same bits, which are near the oracle's.
#[test]
fn a_norm_is_part_of_the_products_around_it() {
    let mut rng = Rng::new(18);
    let all = [(DType::Q4_0, 37, 576, 40), (DType::Q4_K, 70, 512, 33), (DType::BF16, 131, 32, 16)];
    for (dtype, rows, cols, outputs) in all.into_iter().filter(|(_, rows, ..)| !slowed() || *rows == 131) {
        let rows = if slowed() { 9 } else { rows };
        let chain = Chain::new(&mut rng, dtype, rows, cols, outputs);
        let want = chain.want(outputs);
        let mut first: Option<[Vec<u8>; 2]> = None;
        for gpu in gpus() {
            let weights = chain.weights(&gpu);
            for path in PATHS {
                let what = format!("{} {rows}x{cols} {path:?} on {}", dtype.name(), gpu.name());
                let got = chain.run(&gpu, &weights, 0..rows, path);
                for ((bits, want), (cols, tolerance)) in got.iter().zip(&want).zip([(cols, 3e-5), (outputs, 1e-4)]) {
                    assert_close(&crate::testing::decode(Element::F32, bits), want, cols, tolerance, &what);
                }
                for row in [0, rows / 2, rows - 1] {
                    for (one, all) in chain.run(&gpu, &weights, row..row + 1, Path::Few1).iter().zip(&got) {
                        assert!(*one == all[row * one.len()..][..one.len()], "{what}: row {row} alone");
                    }
                }
                // A device rounds products and sums at once, and may differ from the emulator.
                if gpu.is_emulated() {
                    assert!(*first.get_or_insert_with(|| got.clone()) == got, "{what}");
                }
            }
        }
    }
}

/// The pattern's products come again and again, also where the last repetition is cut short.
#[test]
fn a_pattern_repeats() {
    let mut rng = Rng::new(17);
    let (cols, outputs) = (256, 70);
    let x = rounded(&rng.floats(3 * cols));
    let pattern = random_source(&mut rng, DType::Q4_0, 32, cols);
    for gpu in gpus() {
        let once = GpuWeight::new(&gpu, cols, std::slice::from_ref(&pattern), None).unwrap();
        let once = run(&gpu, Path::Few1, &x, &once).read();
        let w = GpuWeight::repeating(&gpu, cols, &pattern, outputs, false).unwrap();
        let want: Vec<f32> = once.chunks(32).flat_map(|row| (0..outputs).map(|i| row[i % 32])).collect();
        assert_eq!(run(&gpu, Path::Few1, &x, &w).read(), want);
        // Of tiles of gate and up the last is cut short, too: 35 outputs in five of eight.
        let gated = GpuWeight::repeating(&gpu, cols, &pattern, 35, true).unwrap();
        let (xs, out) =
            (Matrix::from(&gpu, Element::BF16, 3, cols, &x), Matrix::poisoned(&gpu, Element::BF16, 3, 35, 0));
        gate_up(&gpu, xs.view(), &gated, Activation::Silu, out.view()).unwrap();
        let at = |row: &[f32], i: usize, up: usize| row[(i / 8 * 16 + 8 * up + i % 8) % 32];
        let both = once.chunks(32).flat_map(|row| (0..70).map(move |i| at(row, i % 35, i / 35))).collect::<Vec<_>>();
        assert_close(&out.read(), &activated(&both, 35, Activation::Silu), 35, 0.005, gpu.name());
    }
}

#[test]
fn no_rows_are_no_work() {
    for gpu in gpus() {
        let source = random_source(&mut Rng::new(15), DType::Q4_0, 16, 32);
        let w = GpuWeight::new(&gpu, 32, &[source], None).unwrap();
        assert_eq!(run(&gpu, Path::Few1, &[], &w).read(), []);
    }
}

/// A weight takes no more bytes than the file's, but for whole tiles.
#[test]
fn weights_do_not_grow() {
    for gpu in gpus() {
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::F32) {
            let source = random_source(&mut Rng::new(16), dtype, 32, 512);
            let w = GpuWeight::new(&gpu, 512, std::slice::from_ref(&source), None).unwrap();
            assert_eq!(w.bytes(), source.bytes.as_slice().len(), "{}", dtype.name());
        }
    }
}

/// Every shape of launch stays within the shared memory of an A100's block, and the last resort within that of any device.
#[test]
fn shared_memory_suffices() {
    let formats = DType::ALL.map(Format::of).into_iter().chain([Format::Int4Group32, Format::Int4Group128]);
    for format in formats {
        for path in PATHS {
            let (name, config) = path.launch(format, 1, 65536, 1);
            let most = if path == Path::Few1 { 99 << 10 } else { 163 << 10 };
            assert!(config.shared <= most, "{name}: {} bytes", config.shared);
        }
    }
}

/// Where blocks have less shared memory, as on devices of 8.6 and 8.9, other kernels give the same bits.
#[cfg(feature = "emulate")]
#[test]
fn a_kernel_that_fits_is_taken() {
    if left_out("a_kernel_that_fits_is_taken") {
        return;
    }
    let mut rng = Rng::new(19);
    let (large, small) = (Gpu::emulated(1), Gpu::emulated_with_shared_bytes(1, 99 << 10));
    for (dtype, rows, cols, want) in [
        (DType::BF16, 520, 64, [Path::Many2, Path::Many1]),
        (DType::Q6_K, 9, 2048, [Path::Few4, Path::Few1]),
        (DType::Q4_0, 9, 2048, [Path::Few4, Path::Few4]),
    ] {
        let x = rounded(&rng.floats(rows * cols));
        let source = random_source(&mut rng, dtype, 16, cols);
        let [large, small] = [&large, &small].map(|gpu| {
            let w = GpuWeight::new(gpu, cols, std::slice::from_ref(&source), None).unwrap();
            let x = Matrix::from(gpu, Element::BF16, rows, cols, &x);
            let y = Matrix::poisoned(gpu, Element::F32, rows, 16, 0);
            linear(gpu, x.view(), &w, y.view()).unwrap();
            (Path::of(gpu, &w.parts[0], cols, rows), y.read_bits())
        });
        assert_eq!([large.0, small.0], want, "{}", dtype.name());
        assert!(large.1 == small.1, "{}", dtype.name());
        let too_much = run_on(&source, cols, want[0], &Gpu::emulated_with_shared_bytes(1, 99 << 10));
        assert_eq!(too_much.is_err(), want[0] != want[1], "{}", dtype.name());
    }
}

/// Whether a device launches this kernel.
#[cfg(feature = "emulate")]
fn run_on(source: &Source, cols: usize, path: Path, gpu: &Gpu) -> Result<(), GpuError> {
    let w = GpuWeight::new(gpu, cols, std::slice::from_ref(source), None)?;
    let (x, y) = (Matrix::poisoned(gpu, Element::BF16, 1, cols, 0), Matrix::poisoned(gpu, Element::F32, 1, 16, 0));
    linear_by(gpu, x.view().into(), &w, y.view(), |_| path)
}
