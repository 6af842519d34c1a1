use super::*;
use crate::kv_write::tests::{DTYPES, fill};
use crate::testing::{Matrix, assert_close, decode, gpus, rounded};
use aieng_kernels::attention::cases::{Batch, CASES, Case};
use aieng_kernels::testing::Matrix as Host;
use aieng_kernels::{Device, KvDType};
use std::ops::Range;

/// Weights and results are bf16, off by up to a part in 512 each; values and keys of other formats too, once they are
/// rounded to it.
const TOLERANCE: f32 = 6e-3;

fn values_of(x: &Host) -> Vec<f32> {
    (0..x.rows()).flat_map(|r| x.view().row(r).to_vec()).collect()
}

fn rounded_to_bf16(x: &Host) -> Host {
    Host::from_rows(&rounded(&values_of(x)), x.rows(), x.cols())
}

/// A case's batch with numbers that bf16 holds.
fn batch_of(case: &Case, seed: u64) -> Batch {
    let mut batch = Batch::new(case, seed);
    batch.q = rounded_to_bf16(&batch.q);
    batch.keys = batch.keys.iter().map(rounded_to_bf16).collect();
    batch.values = batch.values.iter().map(rounded_to_bf16).collect();
    batch
}

/// The cases that the device takes.
fn cases() -> impl Iterator<Item = (usize, Batch)> {
    let taken = CASES.iter().enumerate().filter(|(_, case)| case.dim <= MAX_HEAD_DIM);
    taken.map(|(i, case)| (i, batch_of(case, i as u64)))
}

/// A cache with the batch's keys and values, NaN in all other slots.
fn cache_of(gpu: &Gpu, batch: &Batch, dtype: KvDType) -> GpuKvCache {
    let cache = GpuKvCache::new(gpu, dtype, vec![batch.shape], batch.blocks).unwrap();
    let all: Vec<u32> = (0..16 * batch.blocks as u32).collect();
    let poison = vec![f32::NAN; all.len() * batch.shape.heads * batch.shape.head_dim];
    fill(gpu, &cache, 0, &poison, &poison, &all);
    for (s, (keys, values)) in batch.keys.iter().zip(&batch.values).enumerate() {
        fill(gpu, &cache, 0, &values_of(keys), &values_of(values), &batch.slots(s));
    }
    cache
}

/// How a batch is run, where that must make no difference to the bits.
#[derive(Clone, Copy)]
struct Way {
    /// Of the workspace.
    bytes: usize,
    /// What the host knows of lengths is this many times too much.
    slack: usize,
}

const USUAL: Way = Way { bytes: 1 << 20, slack: 1 };

/// The bits of attention's result, row after row.
fn run(gpu: &Gpu, batch: &Batch, cache: &GpuKvCache, way: Way) -> Vec<u8> {
    let (rows, cols) = (batch.q.rows(), batch.q.cols());
    let q = Matrix::with_gap(gpu, Element::BF16, rows, cols, 6, &values_of(&batch.q));
    let out = Matrix::poisoned(gpu, Element::BF16, rows, cols, 2);
    let integers = [&batch.cu_seqlens_q, &batch.context_lens, &batch.block_tables, &batch.cu_blocks];
    let [cu_seqlens_q, context_lens, block_tables, cu_blocks] = integers.map(|x| Matrix::from_u32(gpu, x));
    let q_lens = batch.cu_seqlens_q.windows(2).map(|w| (w[1] - w[0]) as usize);
    let sequences = GpuSequences {
        cu_seqlens_q: cu_seqlens_q.view(),
        context_lens: context_lens.view(),
        block_tables: block_tables.view(),
        cu_blocks: cu_blocks.view(),
        sequences: batch.context_lens.len(),
        max_q_len: way.slack * q_lens.max().unwrap(),
        max_context: way.slack * *batch.context_lens.iter().max().unwrap() as usize,
    };
    let workspace = Workspace::new(gpu, way.bytes).unwrap();
    // Twice: the first must leave the workspace as it found it.
    for _ in 0..2 {
        attention(gpu, q.view(), cache, 0, &sequences, batch.params, &workspace, out.view()).unwrap();
    }
    out.read_bits()
}

/// One sequence's tokens `tokens`, of those of this step, in a batch of their own.
fn part(batch: &Batch, s: usize, tokens: Range<usize>) -> Batch {
    let q_start = batch.cu_seqlens_q[s] as usize;
    let later = batch.cu_seqlens_q[s + 1] as usize - q_start - tokens.end;
    let rows: Vec<f32> = tokens.clone().flat_map(|token| batch.q.view().row(q_start + token).to_vec()).collect();
    let table = &batch.block_tables[batch.cu_blocks[s] as usize..batch.cu_blocks[s + 1] as usize];
    Batch {
        q: Host::from_rows(&rows, tokens.len(), batch.q.cols()),
        cu_seqlens_q: vec![0, tokens.len() as u32],
        context_lens: vec![batch.context_lens[s] - later as u32],
        block_tables: table.to_vec(),
        cu_blocks: vec![0, table.len() as u32],
        ..batch.clone()
    }
}

#[test]
fn matches_the_reference_in_any_order_of_lanes() {
    for (i, batch) in cases() {
        for dtype in DTYPES {
            let want = values_of(&batch.run(&Device::Reference, &batch.cache(dtype)));
            let mut emulated: Option<Vec<u8>> = None;
            for gpu in gpus() {
                let what = format!("case {i} {} on {}", dtype.name(), gpu.name());
                let bits = run(&gpu, &batch, &cache_of(&gpu, &batch, dtype), USUAL);
                assert_close(&decode(Element::BF16, &bits), &want, batch.q.cols(), TOLERANCE, &what);
                if gpu.name() == "emulated" {
                    assert!(*emulated.get_or_insert(bits.clone()) == bits, "bits depend on the order of lanes; {what}");
                }
            }
        }
    }
}

/// Alone, in chunks of any size, decoded token by token, with and without room to spread the pieces.
#[test]
fn a_row_does_not_depend_on_the_way_it_comes() {
    for gpu in gpus().into_iter().take(1) {
        for (i, batch) in cases() {
            let cache = cache_of(&gpu, &batch, KvDType::BF16);
            let whole = run(&gpu, &batch, &cache, USUAL);
            let row = 2 * batch.q.cols();
            for way in [Way { bytes: 0, slack: 1 }, Way { bytes: 9 << 10, slack: 1 }, Way { slack: 3, ..USUAL }] {
                assert!(run(&gpu, &batch, &cache, way) == whole, "case {i}, {} bytes, slack {}", way.bytes, way.slack);
            }
            for s in 0..batch.context_lens.len() {
                let rows = batch.cu_seqlens_q[s] as usize..batch.cu_seqlens_q[s + 1] as usize;
                for chunk in [1, 3, 13] {
                    // The last chunks are enough: they see most.
                    for start in (0..rows.len()).step_by(chunk).rev().take(3) {
                        let tokens = start..(start + chunk).min(rows.len());
                        let want = &whole[(rows.start + tokens.start) * row..(rows.start + tokens.end) * row];
                        let got = run(&gpu, &part(&batch, s, tokens.clone()), &cache, USUAL);
                        assert!(got == want, "case {i}, sequence {s}, tokens {tokens:?}");
                    }
                }
            }
        }
    }
}

/// Lengths and tables are read when a captured launch runs, not when it was captured.
#[test]
fn a_captured_launch_serves_other_lengths() {
    for gpu in gpus() {
        let (_, batch) = cases().find(|(_, batch)| batch.context_lens.contains(&700)).unwrap();
        let cache = cache_of(&gpu, &batch, KvDType::BF16);
        let tokens = batch.last_tokens();
        let mut shorter = tokens.clone();
        shorter.context_lens = tokens.context_lens.iter().map(|n| n.div_ceil(3)).collect();
        let (rows, cols) = (tokens.q.rows(), tokens.q.cols());
        let q = Matrix::from(&gpu, Element::BF16, rows, cols, &values_of(&tokens.q));
        let out = Matrix::poisoned(&gpu, Element::BF16, rows, cols, 0);
        let integers = [&tokens.cu_seqlens_q, &tokens.block_tables, &tokens.cu_blocks];
        let [cu_seqlens_q, block_tables, cu_blocks] = integers.map(|x| Matrix::from_u32(&gpu, x));
        let lens = gpu.alloc(4 * rows).unwrap();
        let sequences = GpuSequences {
            cu_seqlens_q: cu_seqlens_q.view(),
            context_lens: GpuTensor::new(&lens, Element::U32, 1, rows),
            block_tables: block_tables.view(),
            cu_blocks: cu_blocks.view(),
            sequences: rows,
            max_q_len: 1,
            max_context: 4096,
        };
        let workspace = Workspace::new(&gpu, USUAL.bytes).unwrap();
        let launch = || attention(&gpu, q.view(), &cache, 0, &sequences, tokens.params, &workspace, out.view());
        let graph = gpu.capture(launch).unwrap();
        for batch in [&tokens, &shorter, &tokens] {
            let bytes: Vec<u8> = batch.context_lens.iter().flat_map(|n| n.to_le_bytes()).collect();
            lens.upload(0, &bytes).unwrap();
            graph.launch().unwrap();
            assert!(out.read_bits() == run(&gpu, batch, &cache, USUAL), "contexts {:?}", batch.context_lens);
        }
    }
}

#[cfg(feature = "emulate")]
#[test]
fn large_heads_need_shared_memory() {
    let fits =
        |kib: usize| [32, 128, 256, 257].map(|dim| super::fits(&Gpu::emulated_with_shared_bytes(1, kib << 10), dim));
    assert_eq!([16, 99, 163].map(fits), [[false; 4], [true, true, false, false], [true, true, true, false]]);
}

/// Buckets have more rows than a step has sequences.
#[test]
fn padding_is_left_alone() {
    for gpu in gpus() {
        let (_, batch) = cases().nth(1).unwrap();
        let cache = cache_of(&gpu, &batch, KvDType::BF16);
        let want = run(&gpu, &batch, &cache, USUAL);
        let mut padded = batch.clone();
        let rows = batch.q.rows();
        let q = [values_of(&batch.q), vec![f32::NAN; 2 * batch.q.cols()]].concat();
        padded.q = Host::from_rows(&q, rows + 2, batch.q.cols());
        padded.context_lens.extend([0, 0]);
        padded.cu_seqlens_q.extend([rows as u32 + 1, rows as u32 + 2]);
        padded.cu_blocks.extend([*batch.cu_blocks.last().unwrap(); 2]);
        let got = run(&gpu, &padded, &cache, USUAL);
        assert!(got[..want.len()] == want, "rows of sequences");
        assert!(got[want.len()..].iter().all(|byte| *byte == 0xfe), "rows of padding");
    }
}
