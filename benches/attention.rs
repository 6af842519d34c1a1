//! Speed of attention: a prompt's step, and decoding behind short and long contexts.

mod harness;

use aieng_kernels::attention::{AttentionParams, Partials, Sequences};
use aieng_kernels::cpu::ceiling::Arithmetic;
use aieng_kernels::kv_write::KvShape;
use aieng_kernels::{BLOCK_TOKENS, Isa, KvCache, KvDType, Tensor, TensorMut, attention, kv_write};
use harness::{Bench, Work};

/// Query heads, KV heads and a head's elements.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (32, 8, 64), (4, 1, 256)];

/// Sequences, the query tokens of each, and its context with them.
const LOADS: [(usize, usize, usize); 6] =
    [(1, 512, 512), (1, 512, 2048), (1, 1, 512), (1, 1, 4096), (16, 1, 512), (64, 1, 128)];

/// Layers that runs take in turn, as a step does: what one of them reads has left the caches that are small enough.
const LAYERS: usize = 24;

/// Blocks of a run: all contexts above have whole ones.
const RUN: usize = 8;

fn main() {
    harness::run("attention", measure);
}

fn measure(bench: &Bench) {
    bench.head(&["isa", "heads", "kv", "sequences", "queries", "context"]);
    for shape in SHAPES {
        for dtype in KvDType::ALL {
            for load in LOADS {
                // Plain Rust is too slow for prompts.
                let skipped = bench.isa == Isa::Portable && load.1 > 1;
                let (heads, kv_heads, head_dim) = shape;
                let heads = format!("{heads}/{kv_heads}x{head_dim}");
                let (sequences, queries, context) = (load.0.to_string(), load.1.to_string(), load.2.to_string());
                let cells = [bench.isa.name(), &heads, dtype.name(), &sequences, &queries, &context];
                if bench.wants(&cells) && !skipped {
                    row(bench, &cells, shape, dtype, load);
                }
            }
        }
    }
}

fn row(
    bench: &Bench,
    cells: &[&str],
    (heads, kv_heads, head_dim): (usize, usize, usize),
    dtype: KvDType,
    (sequences, queries, context): (usize, usize, usize),
) {
    let blocks = context.div_ceil(BLOCK_TOKENS);
    let shape = KvShape { heads: kv_heads, head_dim };
    let mut cache = KvCache::new(dtype, vec![shape; LAYERS], sequences * blocks).expect("memory");
    fill(bench, &mut cache, kv_heads * head_dim);
    let counts = |step: usize| (0..=sequences).map(|s| (s * step) as u32).collect::<Vec<u32>>();
    let (cu_seqlens_q, cu_blocks) = (counts(queries), counts(blocks));
    let context_lens = vec![context as u32; sequences];
    // Runs of blocks of different sequences lie between each other, as they do where these grow together in an empty cache. (In one
    // full of remembered prefixes blocks alternate one by one: several sequences then take up to 14% longer.)
    let place = |s: usize, b: usize| (b / RUN * sequences + s) * RUN + b % RUN;
    let block_tables: Vec<u32> = (0..sequences).flat_map(|s| (0..blocks).map(move |b| place(s, b) as u32)).collect();
    let batch = Sequences {
        cu_seqlens_q: &cu_seqlens_q,
        context_lens: &context_lens,
        block_tables: &block_tables,
        cu_blocks: &cu_blocks,
    };
    let params = AttentionParams { heads, scale: (head_dim as f32).sqrt().recip(), window: None, softcap: None };
    let (rows, cols) = (sequences * queries, heads * head_dim);
    let q: Vec<f32> = (0..rows * cols).map(|i| (i % 241) as f32 / 120.0 - 1.0).collect();
    let mut out = vec![0.0; rows * cols];
    // The query at position p sees p + 1 tokens.
    let pairs = sequences * (context - queries + 1..=context).sum::<usize>();
    let mut layer = 0;
    let mut partials = Partials::new(heads, head_dim, sequences * context, sequences).expect("memory");
    let work = Work {
        bytes: sequences * blocks * cache.block_bytes(0),
        footprint: cache.bytes(),
        operations: 4 * pairs * cols,
        arithmetic: if dtype == KvDType::BF16 { Arithmetic::Bf16 } else { Arithmetic::F32 },
    };
    bench.row(cells, work, &mut || {
        let out = &mut TensorMut::new(&mut out, rows, cols);
        attention(&bench.device, Tensor::new(&q, rows, cols), &cache, layer, batch, params, &mut partials, out);
        layer = (layer + 1) % LAYERS;
    });
}

/// Ordinary keys and values in every slot.
fn fill(bench: &Bench, cache: &mut KvCache, cols: usize) {
    let tokens = cache.blocks() * BLOCK_TOKENS;
    let slots: Vec<u32> = (0..tokens as u32).collect();
    let values: Vec<f32> = (0..tokens * cols).map(|i| (i % 239) as f32 / 120.0 - 1.0).collect();
    let values = Tensor::new(&values, tokens, cols);
    (0..LAYERS).for_each(|layer| kv_write(&bench.device, values, values, &slots, cache, layer));
}
