use super::*;
use crate::testing::{Matrix, Rng, devices};

/// What slot `slot` holds, read element by element as the layout says.
fn read_slot(cache: &KvCache, layer: usize, slot: usize) -> (Vec<f32>, Vec<f32>) {
    let (KvShape { heads, head_dim }, layout) = (cache.shape(layer), cache.layout(layer));
    let (block, token, dtype) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS, cache.dtype());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in 0..heads {
        for d in 0..head_dim {
            let key = read(cache, layer, layout.keys_at(block, head), dtype.key_index(d, token), token);
            let value = read(cache, layer, layout.values_at(block, head), dtype.value_index(d, token, head_dim), token);
            keys.push(key as f32);
            values.push(value as f32);
        }
    }
    (keys, values)
}

/// `x` as it is after a way through the cache, a head after the other.
fn stored(dtype: KvDType, x: &[f32], head_dim: usize) -> Vec<f32> {
    let head = |x: &[f32]| {
        let scale = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let round = |x: &f32| match dtype {
            KvDType::F32 => *x,
            KvDType::F16 => f16::from_f32(*x).to_f32(),
            KvDType::BF16 => bf16::from_f32(*x).to_f32(),
            KvDType::Q8 => (f64::from((x * (127.0 / (127.0 * scale))).round_ties_even()) * f64::from(scale)) as f32,
        };
        x.iter().map(round).collect::<Vec<f32>>()
    };
    x.chunks_exact(head_dim).flat_map(head).collect()
}

const LAYERS: [KvShape; 2] = [KvShape { heads: 3, head_dim: 32 }, KvShape { heads: 1, head_dim: 64 }];

#[test]
fn slots_hold_what_was_written_and_others_nothing() {
    let mut rng = Rng::new(5);
    // Few tokens, and so many that heads are written by several threads.
    let few = vec![47u32, 0, 17, 16, 5];
    let many: Vec<u32> = (0..48).filter(|s| s % 3 != 1).collect();
    for (dtype, slots) in KvDType::ALL.into_iter().flat_map(|dtype| [(dtype, &few), (dtype, &many)]) {
        for device in devices() {
            let mut cache = KvCache::new(dtype, LAYERS.to_vec(), 3).unwrap();
            for (layer, shape) in LAYERS.iter().enumerate() {
                let cols = shape.heads * shape.head_dim;
                let (k, v) = (Matrix::random(&mut rng, slots.len(), cols), Matrix::random(&mut rng, slots.len(), cols));
                kv_write(&device, k.view(), v.view(), slots, &mut cache, layer);
                for slot in 0..48 {
                    let row = |m: &Matrix, t: usize| stored(dtype, m.view().row(t), shape.head_dim);
                    let want = match slots.iter().position(|s| *s == slot) {
                        Some(t) => (row(&k, t), row(&v, t)),
                        None => (vec![0.0; cols], vec![0.0; cols]),
                    };
                    let got = read_slot(&cache, layer, slot as usize);
                    assert_eq!(got, want, "{} on {}: slot {slot}, layer {layer}", dtype.name(), device.name());
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_lost() {
    for dtype in KvDType::ALL {
        for device in devices() {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = Matrix::filled(1, 32, 1.0);
                x.view_mut().row_mut(0)[7] = bad;
                let mut cache = KvCache::new(dtype, vec![KvShape { heads: 1, head_dim: 32 }], 1).unwrap();
                kv_write(&device, x.view(), x.view(), &[3], &mut cache, 0);
                let (keys, values) = read_slot(&cache, 0, 3);
                assert!(!keys[7].is_finite() && !values[7].is_finite(), "{bad} as {}", dtype.name());
            }
        }
    }
}

#[test]
fn a_copied_block_holds_the_same_in_all_layers() {
    let mut rng = Rng::new(9);
    for dtype in KvDType::ALL {
        let mut cache = KvCache::new(dtype, LAYERS.to_vec(), 3).unwrap();
        let slots: Vec<u32> = (0..48).collect();
        for (layer, shape) in LAYERS.iter().enumerate() {
            let x = Matrix::random(&mut rng, 48, shape.heads * shape.head_dim);
            kv_write(&Device::Reference, x.view(), x.view(), &slots, &mut cache, layer);
        }
        let before: Vec<_> = (0..96).map(|i| read_slot(&cache, i / 48, i % 48)).collect();
        cache.copy_block(2, 0);
        for (i, before_here) in before.iter().enumerate() {
            let want = if i % 48 < 16 { &before[i + 32] } else { before_here };
            assert_eq!(read_slot(&cache, i / 48, i % 48), *want, "{}: layer {}, slot {}", dtype.name(), i / 48, i % 48);
        }
    }
}

#[test]
fn eight_bits_take_little_more_than_half_of_sixteen() {
    let bytes = |dtype| KvCache::new(dtype, vec![KvShape { heads: 3, head_dim: 64 }], 100).unwrap().bytes();
    assert_eq!(bytes(KvDType::F16), 100 * 16 * 3 * 64 * 2 * 2);
    assert!((bytes(KvDType::Q8) as f64) < 0.55 * bytes(KvDType::F16) as f64);
}

#[test]
fn a_cache_too_large_is_an_error() {
    let result = KvCache::new(KvDType::F32, vec![KvShape { heads: 1 << 20, head_dim: 1 << 20 }; 4], 1 << 30);
    assert!(result.is_err());
}
