//! Shapes that every device's products are checked on.

use crate::quant::DType;

/// (rows of x, outputs, columns); columns are rounded up to whole blocks ([`columns`]).
pub const CASES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (1, 16, 32),
    (1, 48, 256),
    (2, 17, 96),
    (3, 33, 576),
    (7, 40, 288),
    (13, 15, 512),
    (16, 64, 1536),
    (20, 40, 800),
    (33, 40, 288),
    (67, 100, 320),
];

/// Columns of a case for a format.
pub fn columns(dtype: DType, cols: usize) -> usize {
    cols.next_multiple_of(dtype.block_len())
}
