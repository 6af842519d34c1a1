//! Shapes that every device's norms are checked on.

/// (rows, groups in a row, width of a group)
pub const CASES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 1, 15),
    (3, 1, 576),
    (2, 3, 64),
    (17, 1, 640),
    (33, 5, 33),
    (1, 4, 256),
    (3, 1, 4096),
    (2, 1, 9000),
];
