use super::*;
use crate::rope::{RopeKvParams, rope_kv_write};
use crate::testing::{Matrix, decode, gpus};
use aieng_kernels::rope::Style;
use aieng_kernels::testing::Rng;
use std::iter::repeat_n;

/// The formats that the device has.
pub const DTYPES: [KvDType; 3] = [KvDType::BF16, KvDType::F16, KvDType::Q8];

/// What slot `slot` holds, read as the layout says: keys and values of all heads.
pub fn read_slot(cache: &GpuKvCache, layer: usize, slot: usize) -> [Vec<f32>; 2] {
    let KvShape { heads, head_dim } = cache.shape(layer);
    let (block, row) = (slot / 16, slot % 16);
    let (element, scales) = if cache.dtype() == KvDType::Q8 { (1, 64) } else { (2, 0) };
    let head_bytes = 16 * head_dim * element + scales;
    let read = |side: usize, head: usize| {
        let at = cache.offsets[layer] + ((block * 2 + side) * heads + head) * head_bytes;
        let mut bytes = vec![0; head_bytes];
        cache.buffer.download(at, &mut bytes).unwrap();
        let x = &bytes[row * head_dim * element..][..head_dim * element];
        match cache.dtype() {
            KvDType::BF16 => decode(Element::BF16, x),
            KvDType::F16 => decode(Element::F16, x),
            _ => {
                let scale = decode(Element::F32, &bytes[16 * head_dim + 4 * row..][..4])[0];
                x.iter().map(|code| f32::from(*code as i8) * scale).collect()
            }
        }
    };
    [0, 1].map(|side| (0..heads).flat_map(|head| read(side, head)).collect())
}

/// Writes keys and values, `[slots, heads * head_dim]` each, as they are.
pub fn fill(gpu: &Gpu, cache: &GpuKvCache, layer: usize, keys: &[f32], values: &[f32], slots: &[u32]) {
    let KvShape { heads, head_dim } = cache.shape(layer);
    let cols = heads * head_dim;
    let rows = keys.chunks_exact(cols).zip(values.chunks_exact(cols));
    let rows: Vec<f32> = rows.flat_map(|(k, v)| [k, v].concat()).collect();
    let kv = Matrix::from(gpu, Element::BF16, slots.len(), 2 * cols, &rows);
    let params = RopeKvParams {
        heads: 0,
        kv_heads: heads,
        head_dim,
        dims: 0,
        style: Style::Neox,
        q_norm: None,
        k_norm: None,
        eps: 0.0,
    };
    let table = Matrix::poisoned(gpu, Element::F32, 1, 0, 0);
    let positions = Matrix::from_u32(gpu, &vec![0; slots.len()]);
    let slots = Matrix::from_u32(gpu, slots);
    rope_kv_write(gpu, kv.view(), &params, table.view(), positions.view(), slots.view(), cache, layer).unwrap();
}

const LAYERS: [KvShape; 2] = [KvShape { heads: 3, head_dim: 32 }, KvShape { heads: 1, head_dim: 80 }];

#[test]
fn a_copied_block_holds_the_same_in_all_layers() {
    for (gpu, dtype) in gpus().iter().flat_map(|gpu| DTYPES.map(|dtype| (gpu, dtype))) {
        let mut rng = Rng::new(9);
        let cache = GpuKvCache::new(gpu, dtype, LAYERS.to_vec(), 5).unwrap();
        let slots: Vec<u32> = (0..80).collect();
        for (layer, shape) in LAYERS.iter().enumerate() {
            let count = 80 * shape.heads * shape.head_dim;
            fill(gpu, &cache, layer, &rng.floats(count), &rng.floats(count), &slots);
        }
        let all = || -> Vec<_> { (0..160).map(|i| read_slot(&cache, i / 80, i % 80)).collect() };
        let before = all();
        // The last pair is beyond the count.
        let pairs = gpu.from_bytes(&[2u32, 0, 4, 3, 1, 2].map(u32::to_le_bytes).concat()).unwrap();
        copy_blocks(gpu, GpuTensor::new(&pairs, Element::U32, 3, 2), 2, &cache).unwrap();
        for (i, after) in all().iter().enumerate() {
            let from = match i % 80 / 16 {
                0 => i + 32,
                3 => i + 16,
                _ => i,
            };
            assert_eq!(*after, before[from], "{}: layer {}, slot {}", dtype.name(), i / 80, i % 80);
        }
    }
}

#[test]
fn what_is_no_number_is_not_lost() {
    for (gpu, dtype) in gpus().iter().flat_map(|gpu| DTYPES.map(|dtype| (gpu, dtype))) {
        for bad in [f32::NAN, f32::INFINITY] {
            let cache = GpuKvCache::new(gpu, dtype, vec![KvShape { heads: 1, head_dim: 32 }], 1).unwrap();
            let mut x: Vec<f32> = repeat_n(1.0, 32).collect();
            x[7] = bad;
            fill(gpu, &cache, 0, &x, &x, &[3]);
            let [keys, values] = read_slot(&cache, 0, 3);
            assert!(!keys[7].is_finite() && !values[7].is_finite(), "{bad} as {}", dtype.name());
        }
    }
}

#[test]
fn eight_bits_take_little_more_than_half_of_sixteen() {
    let gpus = gpus();
    let Some(gpu) = gpus.first() else { return };
    let bytes = |dtype| GpuKvCache::new(gpu, dtype, vec![KvShape { heads: 3, head_dim: 64 }], 100).unwrap().bytes();
    assert_eq!(bytes(KvDType::BF16), 100 * 16 * 3 * 64 * 2 * 2);
    assert!((bytes(KvDType::Q8) as f64) < 0.55 * bytes(KvDType::F16) as f64);
}
