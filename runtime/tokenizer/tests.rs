//! Tests of the whole tokenizer.

/// A small generator whose seed is printed, so that a failure can be had again (`AIENG_TEST_SEED`).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(test: &str) -> Random {
        let given = std::env::var("AIENG_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let clock =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        eprintln!("{test}: AIENG_TEST_SEED={seed}");
        Random(seed | 1)
    }

    /// A number below `n` (0 for 0).
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (((self.0 >> 33) * u64::from(n)) >> 31) as u32
    }
}
