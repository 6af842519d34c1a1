//! The rows: shapes of Llama 3 8B.

use crate::{Bench, Work};
use aieng_cuda::attention::{GpuSequences, Workspace, attention};
use aieng_cuda::kv_write::GpuKvCache;
use aieng_cuda::linear::{GpuWeight, Input, Int4Rows, add_linear, gate_up, linear};
use aieng_cuda::rms_norm::{Weighed, add_rms_norm};
use aieng_cuda::rope::{RopeKvParams, rope_kv_write};
use aieng_cuda::{Element, GpuBuffer, GpuError, GpuTensor};
use aieng_kernels::act_mul::Activation;
use aieng_kernels::attention::AttentionParams;
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::rope::Style;
use aieng_kernels::testing::{Rng, random_source};
use aieng_kernels::{DType, KvDType};
use half::{bf16, f16};

const HEADS: usize = 32;
const KV: KvShape = KvShape { heads: 8, head_dim: 128 };

/// Measures all of them.
pub fn run(bench: &mut Bench) -> Result<(), GpuError> {
    for rows in if bench.tiny { vec![1, 3] } else { vec![1, 64, 4096] } {
        norm(bench, rows)?;
        gate(bench, rows)?;
    }
    let shapes: &[(usize, usize)] =
        if bench.tiny { &[(256, 512)] } else { &[(4096, 4096), (14336, 4096), (4096, 14336), (128_256, 4096)] };
    let batches: &[usize] = if bench.tiny { &[1, 9, 65] } else { &[1, 2, 4, 8, 64, 512, 4096] };
    for format in [Format::File(DType::Q4_0), Format::File(DType::Q4_K), Format::Int4, Format::File(DType::BF16)] {
        for &(outputs, cols) in shapes {
            products(bench, "linear", format, outputs, cols, batches)?;
        }
        let (width, cols) = if bench.tiny { (256, 512) } else { (14336, 4096) };
        products(bench, "gate_up", format, width, cols, batches)?;
        products(bench, "add_linear", format, cols, width, batches)?;
    }
    let decode: &[(usize, usize)] = if bench.tiny { &[(2, 48)] } else { &[(1, 32768), (64, 4096), (256, 1024)] };
    for &(sequences, context) in decode {
        paged(bench, "attention, decode", sequences, 1, context)?;
    }
    for context in if bench.tiny { vec![80] } else { vec![4096, 8192] } {
        paged(bench, "attention, prompt", 1, context, context)?;
    }
    Ok(())
}

/// Rows of activations.
fn some(bench: &Bench, element: Element, rows: usize, cols: usize) -> Result<GpuBuffer, GpuError> {
    let row: Vec<f32> = (0..cols).map(|i| (i % 241) as f32 / 120.0 - 1.0).collect();
    let bytes: Vec<u8> = match element {
        Element::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => row.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    };
    bench.gpu.from_bytes(&bytes.repeat(rows))
}

/// As many copies as keep the L2 from holding them.
fn copies<T>(bench: &Bench, bytes: usize, make: impl Fn() -> Result<T, GpuError>) -> Result<Vec<T>, GpuError> {
    (0..bench.copies(bytes)).map(|_| make()).collect()
}

fn weighed(buffer: &GpuBuffer, rows: usize, cols: usize) -> Weighed<'_> {
    Weighed::new(GpuTensor::new(buffer, Element::BF16, rows, Weighed::stride(cols)), cols)
}

fn norm(bench: &mut Bench, rows: usize) -> Result<(), GpuError> {
    let cols = if bench.tiny { 64 } else { 4096 };
    let cells = ["add_rms_norm", &cols.to_string(), &rows.to_string()];
    if !bench.wants(&cells) {
        return Ok(());
    }
    // The residual is read and written in f32; the addend is read and the result written in bf16. The squares are few.
    let work = Work { bytes: 12 * rows * cols, operations: 0 };
    let operands = copies(bench, work.bytes, || {
        let [residual, delta] = [Element::F32, Element::BF16].map(|element| some(bench, element, rows, cols));
        Ok((residual?, delta?, bench.gpu.alloc(2 * rows * Weighed::stride(cols))?))
    })?;
    let weight = some(bench, Element::F32, 1, cols)?;
    let (gpu, weight) = (bench.gpu.clone(), GpuTensor::new(&weight, Element::F32, 1, cols));
    bench.row(cells, work, &mut |i| {
        let (residual, delta, out) = &operands[i % operands.len()];
        let view = |buffer, element| GpuTensor::new(buffer, element, rows, cols);
        let delta = Some((view(delta, Element::BF16), weight));
        add_rms_norm(&gpu, view(residual, Element::F32), delta, weight, EPS, weighed(out, rows, cols))
    })
}

fn gate(bench: &mut Bench, rows: usize) -> Result<(), GpuError> {
    let cols = if bench.tiny { 64 } else { 14336 };
    let cells = ["act_mul", &cols.to_string(), &rows.to_string()];
    if !bench.wants(&cells) {
        return Ok(());
    }
    let work = Work { bytes: 6 * rows * cols, operations: 0 };
    let operands = copies(bench, work.bytes, || {
        Ok((some(bench, Element::BF16, rows, 2 * cols)?, bench.gpu.alloc(2 * rows * cols)?))
    })?;
    let gpu = bench.gpu.clone();
    bench.row(cells, work, &mut |i| {
        let (x, out) = &operands[i % operands.len()];
        let x = GpuTensor::new(x, Element::BF16, rows, 2 * cols);
        let out = GpuTensor::new(out, Element::BF16, rows, cols);
        aieng_cuda::act_mul::act_mul(&gpu, x, Activation::Silu, out)
    })
}

/// Formats of weights.
#[derive(Debug, Clone, Copy)]
enum Format {
    /// A file's.
    File(DType),
    /// 4 bits, with a scale and a zero for each 128 columns.
    Int4,
}

/// Rows that a matrix is made of: one of random rows would take longer to make than to measure.
const PATTERN: usize = 64;
const GROUP: usize = 128;
const EPS: f32 = 1e-5;

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::File(dtype) => dtype.name(),
            Format::Int4 => "int4 group 128",
        }
    }

    /// As many copies of a weight as the L2 does not hold.
    fn weights(self, bench: &Bench, outputs: usize, cols: usize, gated: bool) -> Result<Vec<GpuWeight>, GpuError> {
        let fill = |make: &dyn Fn() -> Result<GpuWeight, GpuError>| {
            let mut weights = vec![make()?];
            while weights.len() < bench.copies(weights[0].bytes()) {
                weights.push(make()?);
            }
            Ok(weights)
        };
        let mut rng = Rng::new(1);
        let Format::File(dtype) = self else {
            let codes: Vec<u8> = (0..PATTERN * cols / 2).map(|_| rng.next() as u8).collect();
            let groups = PATTERN * cols / GROUP;
            let (scales, zeros) = (vec![f16::from_f32(0.01); groups], vec![8; groups]);
            let rows = Int4Rows { group: GROUP, rows: PATTERN, codes: &codes, scales: &scales, zeros: &zeros };
            return fill(&|| GpuWeight::int4_repeating(&bench.gpu, cols, &rows, outputs, gated));
        };
        let pattern = random_source(&mut rng, dtype, PATTERN, cols);
        fill(&|| GpuWeight::repeating(&bench.gpu, cols, &pattern, outputs, gated))
    }
}

/// Residual rows on their way into a norm.
fn entering(bench: &Bench, rows: usize, cols: usize) -> Result<GpuBuffer, GpuError> {
    let [residual, weight] = [rows, 1].map(|rows| some(bench, Element::F32, rows, cols));
    let (residual, weight) = (residual?, weight?);
    let out = bench.gpu.alloc(2 * rows * Weighed::stride(cols))?;
    let view = |buffer, rows| GpuTensor::new(buffer, Element::F32, rows, cols);
    add_rms_norm(&bench.gpu, view(&residual, rows), None, view(&weight, 1), EPS, weighed(&out, rows, cols))?;
    bench.gpu.synchronize()?;
    Ok(out)
}

/// `linear`; `gate_up` of as many outputs, whose weight has twice the rows, behind a norm; `add_linear`.
fn products(
    bench: &mut Bench,
    operation: &str,
    format: Format,
    outputs: usize,
    cols: usize,
    batches: &[usize],
) -> Result<(), GpuError> {
    let (gated, adds) = (operation == "gate_up", operation == "add_linear");
    let shape = format!("{outputs}x{cols}");
    let name = format!("{operation} {}", format.name());
    let batches: Vec<usize> =
        batches.iter().copied().filter(|rows| bench.wants(&[&name, &shape, &rows.to_string()])).collect();
    if batches.is_empty() {
        return Ok(());
    }
    let weights = format.weights(bench, outputs, cols, gated)?;
    let (weight_bytes, weight_rows) = (weights[0].bytes(), if gated { 2 * outputs } else { outputs });
    let gpu = bench.gpu.clone();
    let norm = some(bench, Element::F32, 1, if adds { outputs } else { 0 })?;
    // The residual is read and written in f32, and what goes into the next norm is bf16.
    let (y_bytes, next_stride) = if adds { (10, Weighed::stride(outputs)) } else { (2, 0) };
    for rows in batches {
        let x = entering(bench, rows, cols)?;
        let y = bench.gpu.alloc(4 * rows * outputs)?;
        let next = bench.gpu.alloc(2 * rows * next_stride)?;
        let operations = 2 * rows * cols * weight_rows;
        let work = Work { bytes: weight_bytes + rows * (2 * cols + y_bytes * outputs), operations };
        bench.row([&name, &shape, &rows.to_string()], work, &mut |i| {
            let (x, w) = (weighed(&x, rows, cols), &weights[i % weights.len()]);
            let y = |element| GpuTensor::new(&y, element, rows, outputs);
            if gated {
                return gate_up(&gpu, Input::Normed(x, EPS), w, Activation::Silu, y(Element::BF16));
            }
            if adds {
                let (norm, next) = (GpuTensor::new(&norm, Element::F32, 1, outputs), weighed(&next, rows, outputs));
                return add_linear(&gpu, x.x(), w, y(Element::F32), norm, next);
            }
            linear(&gpu, x.x(), w, y(Element::BF16))
        })?;
    }
    Ok(())
}

fn integers(bench: &Bench, values: impl Iterator<Item = usize>) -> Result<GpuBuffer, GpuError> {
    bench.gpu.from_bytes(&values.flat_map(|x| (x as u32).to_le_bytes()).collect::<Vec<u8>>())
}

/// Attention of `sequences` sequences with `q_len` rows each at the end of a context.
fn paged(bench: &mut Bench, name: &str, sequences: usize, q_len: usize, context: usize) -> Result<(), GpuError> {
    let shape = format!("{HEADS}/{} x {}, {context}", KV.heads, KV.head_dim);
    let rows = sequences * q_len;
    if !bench.wants(&[name, &shape, &rows.to_string()]) {
        return Ok(());
    }
    let blocks = context.div_ceil(16);
    let token_bytes = 2 * 2 * KV.heads * KV.head_dim;
    // What one launch reads fits into no L2, but for the longest of prompts, which are bound by arithmetic.
    let cache = GpuKvCache::new(&bench.gpu, KvDType::BF16, vec![KV], sequences * blocks)?;
    fill(bench, &cache)?;
    let q = some(bench, Element::BF16, rows, HEADS * KV.head_dim)?;
    let out = bench.gpu.alloc(q.len())?;
    let workspace = Workspace::new(&bench.gpu, if bench.tiny { 1 << 16 } else { Workspace::BYTES })?;
    let cu_seqlens_q = integers(bench, (0..=sequences).map(|s| s * q_len))?;
    let context_lens = integers(bench, (0..sequences).map(|_| context))?;
    // Sequences' blocks lie among each other, as those of requests that grew together.
    let tables = (0..sequences).flat_map(|s| (0..blocks).map(move |b| b * sequences + s));
    let block_tables = integers(bench, tables)?;
    let cu_blocks = integers(bench, (0..=sequences).map(|s| s * blocks))?;
    let view = |buffer, n| GpuTensor::new(buffer, Element::U32, 1, n);
    let sequences_on_device = GpuSequences {
        cu_seqlens_q: view(&cu_seqlens_q, sequences + 1),
        context_lens: view(&context_lens, sequences),
        block_tables: view(&block_tables, sequences * blocks),
        cu_blocks: view(&cu_blocks, sequences + 1),
        sequences,
        max_q_len: q_len,
        max_context: context,
    };
    let scale = (KV.head_dim as f32).powf(-0.5);
    let params = AttentionParams { heads: HEADS, scale, window: None, softcap: None };
    // Every row sees the context up to itself.
    let seen = sequences * (q_len * context - q_len * (q_len - 1) / 2);
    let bytes = sequences * context * token_bytes + 2 * q.len();
    let work = Work { bytes, operations: 4 * HEADS * KV.head_dim * seen };
    let gpu = bench.gpu.clone();
    bench.row([name, &shape, &rows.to_string()], work, &mut |_| {
        let q = GpuTensor::new(&q, Element::BF16, rows, HEADS * KV.head_dim);
        let out = GpuTensor::new(&out, Element::BF16, rows, HEADS * KV.head_dim);
        attention(&gpu, q, &cache, 0, &sequences_on_device, params, &workspace, out)
    })
}

/// Writes every slot: what new memory holds may be no number.
fn fill(bench: &Bench, cache: &GpuKvCache) -> Result<(), GpuError> {
    let slots = 16 * cache.blocks();
    let step = slots.min(4096);
    let cols = 2 * KV.heads * KV.head_dim;
    let kv = some(bench, Element::BF16, step, cols)?;
    let empty = bench.gpu.alloc(0)?;
    let positions = bench.zeros(4 * step)?;
    let params = RopeKvParams {
        heads: 0,
        kv_heads: KV.heads,
        head_dim: KV.head_dim,
        dims: 0,
        style: Style::Neox,
        q_norm: None,
        k_norm: None,
        eps: 0.0,
    };
    for first in (0..slots).step_by(step) {
        let rows = step.min(slots - first);
        let numbers = integers(bench, first..first + rows)?;
        let kv = GpuTensor::new(&kv, Element::BF16, rows, cols);
        let table = GpuTensor::new(&empty, Element::F32, 1, 0);
        let view = |buffer| GpuTensor::new(buffer, Element::U32, 1, rows);
        rope_kv_write(&bench.gpu, kv, &params, table, view(&positions), view(&numbers), cache, 0)?;
    }
    bench.gpu.synchronize()
}
