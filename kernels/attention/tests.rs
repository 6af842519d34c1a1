use super::*;
use crate::testing::{Matrix, Rng, assert_close, cpus, devices};
use crate::{KvDType, kv_write, kv_write::KvShape};

struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// (query rows, context) of each sequence.
    sequences: &'static [(usize, usize)],
    window: Option<u32>,
    softcap: Option<f32>,
}

const CASES: [Case; 9] = [
    Case { heads: 1, kv_heads: 1, dim: 16, sequences: &[(1, 1)], window: None, softcap: None },
    Case { heads: 9, kv_heads: 3, dim: 64, sequences: &[(1, 17), (1, 100), (5, 5)], window: None, softcap: None },
    Case { heads: 4, kv_heads: 1, dim: 256, sequences: &[(33, 33), (1, 16)], window: Some(20), softcap: None },
    Case { heads: 2, kv_heads: 2, dim: 80, sequences: &[(7, 40), (16, 31)], window: None, softcap: Some(5.0) },
    Case { heads: 14, kv_heads: 2, dim: 64, sequences: &[(3, 70)], window: Some(1), softcap: None },
    Case { heads: 6, kv_heads: 2, dim: 32, sequences: &[(65, 130)], window: Some(64), softcap: Some(30.0) },
    Case { heads: 5, kv_heads: 1, dim: 512, sequences: &[(2, 19)], window: None, softcap: None },
    // Several pieces: threads share them where there are few rows.
    Case { heads: 9, kv_heads: 3, dim: 64, sequences: &[(1, 700), (2, 257), (40, 520)], window: None, softcap: None },
    Case { heads: 4, kv_heads: 2, dim: 32, sequences: &[(4, 600), (1, 1024)], window: Some(300), softcap: None },
];

/// Tokens that there is room to share: as many as any case has, or none.
const ROOM: usize = 2048;

/// Scores are sums of `dim` products, and f16 keys are the same for all devices. Where keys are bf16, queries and weights
/// are rounded to bf16 too, by up to a part in 512.
fn tolerance(dtype: KvDType) -> f32 {
    if dtype == KvDType::BF16 { 4e-3 } else { 5e-6 }
}

/// A batch with its cache: blocks in random order, slots that hold no token poisoned with NaN.
struct Setup {
    q: Matrix,
    cache: KvCache,
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    cu_blocks: Vec<u32>,
    params: AttentionParams,
}

impl Setup {
    fn new(case: &Case, dtype: KvDType, seed: u64) -> Setup {
        let mut rng = Rng::new(seed);
        let shape = KvShape { heads: case.kv_heads, head_dim: case.dim };
        let blocks: usize = case.sequences.iter().map(|s| s.1.div_ceil(BLOCK_TOKENS)).sum::<usize>() + 3;
        let mut cache = KvCache::new(dtype, vec![shape], blocks).unwrap();
        let cols = case.kv_heads * case.dim;
        let all: Vec<u32> = (0..(blocks * BLOCK_TOKENS) as u32).collect();
        let poison = Matrix::filled(all.len(), cols, f32::NAN);
        kv_write(&Device::Reference, poison.view(), poison.view(), &all, &mut cache, 0);
        let order = rng.permutation(blocks);
        let (mut cu_seqlens_q, mut cu_blocks) = (vec![0], vec![0]);
        let (mut context_lens, mut block_tables) = (Vec::new(), Vec::new());
        for (q_len, context) in case.sequences {
            let from = block_tables.len();
            block_tables.extend(order[from..from + context.div_ceil(BLOCK_TOKENS)].iter().map(|b| *b as u32));
            let slot =
                |p: usize| block_tables[from + p / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (p % BLOCK_TOKENS) as u32;
            let slots: Vec<u32> = (0..*context).map(slot).collect();
            let (k, v) = (Matrix::random(&mut rng, *context, cols), Matrix::random(&mut rng, *context, cols));
            kv_write(&Device::Reference, k.view(), v.view(), &slots, &mut cache, 0);
            cu_seqlens_q.push(cu_seqlens_q.last().unwrap() + *q_len as u32);
            cu_blocks.push(block_tables.len() as u32);
            context_lens.push(*context as u32);
        }
        let rows = *cu_seqlens_q.last().unwrap() as usize;
        let q = Matrix::random(&mut rng, rows, case.heads * case.dim);
        let scale = 1.0 / (case.dim as f32).sqrt();
        let params = AttentionParams { heads: case.heads, scale, window: case.window, softcap: case.softcap };
        Setup { q, cache, cu_seqlens_q, context_lens, block_tables, cu_blocks, params }
    }

    fn run(&self, device: &Device, room: usize) -> Matrix {
        let mut out = Matrix::poisoned(self.q.rows(), self.q.cols());
        let sequences = Sequences {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            cu_blocks: &self.cu_blocks,
        };
        let mut partials = Partials::new(self.params.heads, 512, room, 0).unwrap();
        attention(device, self.q.view(), &self.cache, 0, sequences, self.params, &mut partials, &mut out.view_mut());
        out
    }
}

#[test]
fn matches_the_reference() {
    for (i, case) in CASES.iter().enumerate() {
        for dtype in KvDType::ALL {
            let setup = Setup::new(case, dtype, i as u64);
            let want = setup.run(&Device::Reference, 0);
            for device in cpus() {
                let out = setup.run(&device, ROOM);
                assert_close(&out, &want, tolerance(dtype), &format!("case {i} {} on {}", dtype.name(), device.name()));
            }
        }
    }
}

/// The last token of a chunk of many gets the same bits as when it comes alone, shared by threads or not.
#[test]
fn a_row_does_not_depend_on_its_chunk() {
    let cases =
        KvDType::ALL.into_iter().flat_map(|dtype| CASES.iter().enumerate().map(move |(i, case)| (dtype, i, case)));
    for (dtype, i, case) in cases {
        let setup = Setup::new(case, dtype, i as u64);
        for device in devices() {
            let whole = setup.run(&device, 0);
            let last_rows: Vec<usize> = setup.cu_seqlens_q[1..].iter().map(|end| *end as usize - 1).collect();
            let mut alone = Setup::new(case, dtype, i as u64);
            let rows: Vec<f32> = last_rows.iter().flat_map(|r| setup.q.view().row(*r).to_vec()).collect();
            alone.q = Matrix::from_rows(&rows, last_rows.len(), setup.q.cols());
            alone.cu_seqlens_q = (0..=last_rows.len() as u32).collect();
            let out = alone.run(&device, ROOM);
            for (r, row) in last_rows.iter().enumerate() {
                let bits = |m: &Matrix, r: usize| m.view().row(r).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&out, r), bits(&whole, *row), "case {i} {} on {}", dtype.name(), device.name());
            }
        }
    }
}
