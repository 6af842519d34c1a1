use super::*;
use crate::kv_write::tests::read_slot;
use crate::testing::{Matrix, assert_close, gpus, rounded};
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::rope::cases::CASES;
use aieng_kernels::rope::{Scaling, rope};
use aieng_kernels::testing::{Matrix as Host, Rng};
use aieng_kernels::{Device, KvDType, RopeAngles, rms_norm};

const EPS: f32 = 1e-5;

/// A step's queries, keys and values, and what is to become of them.
struct Setup {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    style: Style,
    frequencies: Frequencies,
    positions: Vec<u32>,
    qkv: Vec<f32>,
    norms: Option<[Vec<f32>; 2]>,
}

/// Positions that the tables reach.
const CONTEXT: usize = 300;

impl Setup {
    /// As many KV heads as there are query heads, and one more.
    fn new((rows, heads, head_dim, dims): (usize, usize, usize, usize), style: Style, normed: bool) -> Setup {
        let mut rng = Rng::new(4);
        let frequencies = Frequencies::new(dims, 10000.0, Scaling::None, None);
        let positions = (0..rows).map(|_| rng.below(CONTEXT) as u32).collect();
        let qkv = rounded(&rng.floats(rows * (3 * heads + 2) * head_dim));
        let norms = normed.then(|| [0, 1].map(|_| rng.floats(head_dim)));
        Setup { heads, kv_heads: heads + 1, head_dim, style, frequencies, positions, qkv, norms }
    }

    fn cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Rows' queries and keys as the reference turns them, then their values.
    fn expected(&self) -> [Vec<f32>; 3] {
        let (q_cols, kv_cols) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let part = |from: usize, cols: usize| -> Vec<f32> {
            self.qkv.chunks_exact(self.cols()).flat_map(|row| row[from..from + cols].to_vec()).collect()
        };
        let mut angles = RopeAngles::default();
        angles.set(&self.frequencies, &self.positions);
        let turned = |x: Vec<f32>, cols: usize, norm: usize| {
            let mut x = Host::from_rows(&x, self.positions.len(), cols);
            if let Some(norms) = &self.norms {
                rms_norm::rms_norm_in_place(&Device::Reference, &mut x.view_mut(), &norms[norm], EPS);
            }
            rope(&Device::Reference, &mut x.view_mut(), self.head_dim, self.style, &angles);
            (0..x.rows()).flat_map(|r| x.view().row(r).to_vec()).collect()
        };
        let (q, k) = (turned(part(0, q_cols), q_cols, 0), turned(part(q_cols, kv_cols), kv_cols, 1));
        [q, k, part(q_cols + kv_cols, kv_cols)]
    }

    /// Runs it with row `r` in `slots[r]`; the qkv matrix afterwards.
    fn run(&self, gpu: &Gpu, cache: &GpuKvCache, slots: &[u32]) -> Matrix {
        let qkv = Matrix::with_gap(gpu, Element::BF16, slots.len(), self.cols(), 6, &self.qkv);
        let table = table(&self.frequencies, CONTEXT).unwrap();
        let dims = 2 * self.frequencies.inverse().len();
        let table = Matrix::from(gpu, Element::F32, CONTEXT, dims, &table);
        let (positions, slots) = (Matrix::from_u32(gpu, &self.positions), Matrix::from_u32(gpu, slots));
        let weights = self.norms.as_ref();
        let weights = weights.map(|n| [0, 1].map(|i| Matrix::from(gpu, Element::F32, 1, self.head_dim, &n[i])));
        let params = RopeKvParams {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dims,
            style: self.style,
            q_norm: weights.as_ref().map(|w| w[0].view()),
            k_norm: weights.as_ref().map(|w| w[1].view()),
            eps: EPS,
        };
        rope_kv_write(gpu, qkv.view(), &params, table.view(), positions.view(), slots.view(), cache, 0).unwrap();
        qkv
    }
}

/// What rounding to a format costs, as a share of a head's greatest element.
fn tolerance(dtype: KvDType) -> f32 {
    match dtype {
        KvDType::Q8 => 0.5 / 127.0 + 1e-5,
        KvDType::BF16 => 1.0 / 256.0,
        _ => 1.0 / 2048.0,
    }
}

#[test]
fn queries_turn_in_place_and_keys_and_values_go_into_their_slots() {
    for (i, case) in CASES.into_iter().enumerate().filter(|(_, case)| case.2 % 16 == 0) {
        for (style, dtype, normed) in [
            (Style::Interleaved, KvDType::BF16, false),
            (Style::Neox, KvDType::BF16, true),
            (Style::Neox, KvDType::F16, false),
            (Style::Neox, KvDType::Q8, true),
        ] {
            let setup = Setup::new(case, style, normed);
            let [q, keys, values] = setup.expected();
            let shape = KvShape { heads: setup.kv_heads, head_dim: setup.head_dim };
            let cols = shape.heads * shape.head_dim;
            let slots: Vec<u32> = (0..case.0).map(|r| (31 * r as u32 + 17) % 48).collect();
            let what = format!("case {i} {style:?} {}", dtype.name());
            let mut first: Option<Vec<u8>> = None;
            for gpu in gpus() {
                let cache = GpuKvCache::new(&gpu, dtype, vec![shape], 3).unwrap();
                let out = setup.run(&gpu, &cache, &slots);
                let got: Vec<f32> =
                    out.read().chunks(setup.cols()).flat_map(|r| r[..q.len() / case.0].to_vec()).collect();
                assert_close(&got, &q, setup.head_dim, 1.0 / 256.0, &what);
                for (r, slot) in slots.iter().enumerate() {
                    let [k, v] = read_slot(&cache, 0, *slot as usize);
                    assert_close(&k, &keys[r * cols..][..cols], setup.head_dim, tolerance(dtype), &what);
                    assert_close(&v, &values[r * cols..][..cols], setup.head_dim, tolerance(dtype), &what);
                }
                let bits = out.read_bits();
                assert!(!gpu.name().contains("emulated") || *first.get_or_insert(bits.clone()) == bits, "{what}: bits");
            }
        }
    }
}

#[test]
fn padding_is_left_alone() {
    for gpu in gpus() {
        let setup = Setup::new(CASES[1], Style::Neox, false);
        let shape = KvShape { heads: setup.kv_heads, head_dim: setup.head_dim };
        let cache = GpuKvCache::new(&gpu, KvDType::BF16, vec![shape], 1).unwrap();
        let blank = read_slot(&cache, 0, 0)[0].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let out = setup.run(&gpu, &cache, &[NO_SLOT, 3, NO_SLOT, 7, NO_SLOT]).read();
        let q_cols = setup.heads * setup.head_dim;
        for (r, (after, before)) in out.chunks(setup.cols()).zip(setup.qkv.chunks(setup.cols())).enumerate() {
            assert_eq!(after[..q_cols] == before[..q_cols], r % 2 == 0, "row {r}");
            assert_eq!(after[q_cols..], before[q_cols..], "row {r}");
        }
        for slot in [0, 1, 2, 4, 15] {
            let bits: Vec<u32> = read_slot(&cache, 0, slot)[0].iter().map(|x| x.to_bits()).collect();
            assert!(!gpu.name().contains("emulated") || bits == blank, "slot {slot}");
        }
    }
}
