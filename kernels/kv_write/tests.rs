use super::*;
use crate::testing::{Matrix, Rng, devices};
use half::f16;

/// What slot `slot` holds, read element by element as the layout says.
fn read(cache: &KvCache, layer: usize, slot: usize) -> (Vec<f32>, Vec<f32>) {
    let shape = cache.shape(layer);
    let (block, token) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
    let at = |i: usize| match cache.dtype() {
        DType::F32 => bytemuck::cast_slice::<u8, f32>(cache.layer(layer))[i],
        _ => bytemuck::cast_slice::<u8, f16>(cache.layer(layer))[i].to_f32(),
    };
    let each = |f: &dyn Fn(usize, usize) -> usize| {
        (0..shape.heads).flat_map(|h| (0..shape.head_dim).map(move |d| (h, d))).map(|(h, d)| at(f(h, d))).collect()
    };
    let keys = each(&|h, d| KvCache::keys_at(shape, block, h) + d * BLOCK_TOKENS + token);
    let values = each(&|h, d| KvCache::values_at(shape, block, h) + token * shape.head_dim + d);
    (keys, values)
}

#[test]
fn slots_hold_what_was_written_and_others_nothing() {
    let mut rng = Rng::new(5);
    let layers = vec![KvShape { heads: 3, head_dim: 32 }, KvShape { heads: 1, head_dim: 64 }];
    for dtype in [DType::F32, DType::F16] {
        for device in devices() {
            let mut cache = KvCache::new(dtype, layers.clone(), 3).unwrap();
            let slots = [47u32, 0, 17, 16, 5];
            for (layer, shape) in layers.iter().enumerate() {
                let cols = shape.heads * shape.head_dim;
                let (k, v) = (Matrix::random(&mut rng, slots.len(), cols), Matrix::random(&mut rng, slots.len(), cols));
                kv_write(&device, k.view(), v.view(), &slots, &mut cache, layer);
                let stored = |x: &[f32]| -> Vec<f32> {
                    let round = |x: &f32| if dtype == DType::F16 { f16::from_f32(*x).to_f32() } else { *x };
                    x.iter().map(round).collect()
                };
                for slot in 0..48 {
                    let want = match slots.iter().position(|s| *s == slot) {
                        Some(t) => (stored(k.view().row(t)), stored(v.view().row(t))),
                        None => (vec![0.0; cols], vec![0.0; cols]),
                    };
                    assert_eq!(read(&cache, layer, slot as usize), want, "slot {slot}, layer {layer}");
                }
            }
        }
    }
}

#[test]
fn a_cache_too_large_is_an_error() {
    let result = KvCache::new(DType::F32, vec![KvShape { heads: 1 << 20, head_dim: 1 << 20 }; 4], 1 << 30);
    assert!(result.is_err());
}
