use super::cases::{Batch, CASES};
use crate::KvDType;
use crate::testing::{Matrix, assert_close, cpus, devices};

/// Tokens of context that there is room to share between threads: more than any case needs, or none.
const ROOM: usize = 1 << 14;

/// Scores are sums of `dim` products, and f16 keys are the same for all devices. Where keys are bf16, queries and weights
/// are rounded to bf16 too, by up to a part in 512.
fn tolerance(dtype: KvDType) -> f32 {
    if dtype == KvDType::BF16 { 4e-3 } else { 5e-6 }
}

#[test]
fn matches_the_reference() {
    for (i, case) in CASES.iter().enumerate() {
        let batch = Batch::new(case, i as u64);
        for dtype in KvDType::ALL {
            let cache = batch.cache(dtype);
            let want = batch.run(&crate::Device::Reference, &cache);
            for device in cpus() {
                let out = batch.run_sharing(&device, &cache, ROOM);
                assert_close(&out, &want, tolerance(dtype), &format!("case {i} {} on {}", dtype.name(), device.name()));
            }
        }
    }
}

/// The last token of a chunk of many gets the same bits as when it comes alone, shared by threads or not.
#[test]
fn a_row_does_not_depend_on_its_chunk() {
    for (i, case) in CASES.iter().enumerate() {
        let batch = Batch::new(case, i as u64);
        for dtype in KvDType::ALL {
            let cache = batch.cache(dtype);
            for device in devices() {
                let whole = batch.run_sharing(&device, &cache, 0);
                let alone = batch.last_tokens().run_sharing(&device, &cache, ROOM);
                for (r, row) in batch.last_rows().into_iter().enumerate() {
                    let bits = |m: &Matrix, r: usize| m.view().row(r).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&alone, r), bits(&whole, row), "case {i} {} on {}", dtype.name(), device.name());
                }
            }
        }
    }
}

/// What is no number is not lost, in a context of several pieces either.
#[test]
fn nan_spreads_over_its_row_alone() {
    let mut batch = Batch::new(&CASES[7], 7);
    let cols = batch.q.cols();
    let mut q: Vec<f32> = (0..batch.q.rows()).flat_map(|r| batch.q.view().row(r).to_vec()).collect();
    q[3 * cols] = f32::NAN;
    batch.q = Matrix::from_rows(&q, batch.q.rows(), cols);
    for dtype in KvDType::ALL {
        let cache = batch.cache(dtype);
        for (device, room) in cpus().iter().flat_map(|device| [(device, 0), (device, ROOM)]) {
            let out = batch.run_sharing(device, &cache, room);
            for r in 0..batch.q.rows() {
                let nan = out.view().row(r).iter().map(|x| x.is_nan()).collect::<Vec<_>>();
                let want: Vec<bool> = (0..cols).map(|c| r == 3 && c < CASES[7].dim).collect();
                assert_eq!(nan, want, "row {r} {} on {}", dtype.name(), device.name());
            }
        }
    }
}
