//! `out[t] = scale * W[ids[t]]`: rows of the embedding matrix `W` `[vocab, hidden]`, decoded to f32.

use crate::{Device, TensorMut, Weight};

/// Gathers and decodes rows. Shapes: ids `[T]`, out `[T, w.cols()]`. Panics for an id outside the vocabulary.
///
/// One implementation serves every device: decoding a row is defined once (`quant::dequantize_row`), and a step reads
/// too few rows for speed to matter.
pub fn embed(_device: &Device, w: &Weight, ids: &[u32], scale: f32, out: &mut TensorMut) {
    assert_eq!(ids.len(), out.rows(), "ids and rows of out");
    for (t, id) in ids.iter().enumerate() {
        let row = out.row_mut(t);
        w.row(*id as usize, row);
        if scale != 1.0 {
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arena;
    use crate::quant::{DType, dequantize_row};
    use crate::testing::{Rng, devices, random_source};

    #[test]
    fn every_device_decodes_the_same_rows() {
        let (rows, cols) = (37, 512);
        for dtype in DType::ALL {
            let source = random_source(&mut Rng::new(1), dtype, rows, cols);
            for device in devices() {
                let w = Weight::new(
                    &device,
                    cols,
                    std::slice::from_ref(&source),
                    Vec::new(),
                    &Arena::default(),
                    &mut |_, _| (),
                )
                .unwrap();
                let ids = [0u32, 36, 15, 16, 31];
                let mut out = vec![0.0; ids.len() * cols];
                embed(&device, &w, &ids, 2.0, &mut TensorMut::new(&mut out, ids.len(), cols));
                for (id, out) in ids.iter().zip(out.chunks(cols)) {
                    let bytes = dtype.row_bytes(cols);
                    let mut want = vec![0.0; cols];
                    dequantize_row(dtype, &source.bytes.as_slice()[*id as usize * bytes..][..bytes], &mut want);
                    want.iter_mut().for_each(|x| *x *= 2.0);
                    assert_eq!(out, want, "{} on {}", dtype.name(), device.name());
                }
            }
        }
    }
}
