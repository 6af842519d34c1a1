//! The cases that rotary embedding is checked on, by each device's tests.

/// (rows, heads, head_dim, dims)
pub const CASES: [(usize, usize, usize, usize); 5] =
    [(1, 1, 64, 64), (5, 3, 64, 64), (19, 4, 256, 256), (3, 2, 80, 32), (2, 1, 10, 6)];
