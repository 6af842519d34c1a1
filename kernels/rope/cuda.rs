//! Rotary embedding on the device, together with all else that happens to queries, keys and values before attention: norm
//! of each head where the model has one, and the way into the KV cache. One launch.

use crate::kv_write::GpuKvCache;
use crate::{Arg, DevicePtr, Element, Gpu, GpuError, GpuTensor, Launch};
use aieng_kernels::rope::{Frequencies, Style};

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

/// Heads that a block of threads does (WARPS in rope.cu).
const HEADS: usize = 4;
/// Greatest head dimension (MAX_DIM in rope.cu).
const MAX_DIM: usize = 512;

/// What the slot of a row that is padding is.
pub const NO_SLOT: u32 = u32::MAX;

/// What a layer does with its queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct RopeKvParams<'a> {
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The first of them, which turn: a multiple of 4.
    pub dims: usize,
    /// Which of those make pairs.
    pub style: Style,
    /// Weights of the norm of each query head, f32 `[1, head_dim]`.
    pub q_norm: Option<GpuTensor<'a>>,
    /// As well of each key head.
    pub k_norm: Option<GpuTensor<'a>>,
    /// The norms' epsilon.
    pub eps: f32,
}

/// Cosines, then sines of positions `0..context`: `[context, dims]`. Computed in f64, as on the CPU; `None` if the system
/// has no memory left.
pub fn table(frequencies: &Frequencies, context: usize) -> Option<Vec<f32>> {
    let pairs = frequencies.inverse().len();
    let magnitude = f64::from(frequencies.magnitude());
    let mut table = Vec::new();
    table.try_reserve_exact(context.checked_mul(2 * pairs)?).ok()?;
    for position in 0..context {
        let angle = |f: &f64| position as f64 * f;
        table.extend(frequencies.inverse().iter().map(|f| (angle(f).cos() * magnitude) as f32));
        table.extend(frequencies.inverse().iter().map(|f| (angle(f).sin() * magnitude) as f32));
    }
    Some(table)
}

/// Norms and turns queries where they stand, norms and turns keys, and writes keys and values into their slots.
///
/// Shapes: qkv bf16 `[T, (heads + 2 kv_heads) * head_dim]`, table as [`table`] makes it, f32 `[context, dims]`, positions and
/// slots u32 `[1, T]`. Positions are below `context`, slots different and in the cache; rows whose slot is [`NO_SLOT`] are
/// padding and left alone.
#[allow(clippy::too_many_arguments, reason = "what the launch takes")]
pub fn rope_kv_write(
    gpu: &Gpu,
    qkv: GpuTensor,
    params: &RopeKvParams,
    table: GpuTensor,
    positions: GpuTensor,
    slots: GpuTensor,
    cache: &GpuKvCache,
    layer: usize,
) -> Result<(), GpuError> {
    let RopeKvParams { heads, kv_heads, head_dim, dims, .. } = *params;
    let shape = cache.shape(layer);
    assert_eq!((shape.heads, shape.head_dim), (kv_heads, head_dim), "heads of the cache");
    let (tokens, units) = (qkv.rows(), heads + 2 * kv_heads);
    qkv.expect("qkv", Element::BF16, tokens, units * head_dim);
    assert!(qkv.stride().is_multiple_of(2) && head_dim <= MAX_DIM, "stride {}, head_dim {head_dim}", qkv.stride());
    assert!(dims.is_multiple_of(4) && dims <= head_dim, "{dims} elements of {head_dim} turn");
    table.expect("table", Element::F32, table.rows(), dims);
    assert_eq!(table.stride(), dims, "stride of the table");
    positions.expect("positions", Element::U32, 1, tokens);
    slots.expect("slots", Element::U32, 1, tokens);
    let norm = |weight: Option<GpuTensor>| match weight {
        None => Arg::Ptr(DevicePtr::NULL),
        Some(weight) => {
            weight.expect("weight of a head's norm", Element::F32, 1, head_dim);
            weight.arg()
        }
    };
    let blocks = (tokens * units).div_ceil(HEADS);
    let config = Launch { grid: [blocks as u32, 1, 1], block: 32 * HEADS as u32, shared: 0 };
    let args = [
        qkv.arg(),
        Arg::U32(qkv.stride() as u32),
        Arg::U32(tokens as u32),
        Arg::U32(heads as u32),
        Arg::U32(kv_heads as u32),
        Arg::U32(head_dim as u32),
        Arg::U32(dims as u32),
        Arg::U32((params.style == Style::Interleaved).into()),
        norm(params.q_norm),
        norm(params.k_norm),
        Arg::F32(params.eps),
        table.arg(),
        positions.arg(),
        slots.arg(),
        Arg::Ptr(cache.layer(layer)),
        Arg::U32(cache.format()),
    ];
    gpu.launch("rope_kv_write", config, &args)
}
