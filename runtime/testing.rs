//! What tests share: seeded random numbers, and models where they have been pulled.

use crate::load::{Gguf, Metadata};
use std::path::PathBuf;

/// The default model.
pub(crate) const SMOLLM2: &str = "smollm2-135m.gguf";
/// The SentencePiece model.
pub(crate) const GEMMA3: &str = "gemma3-270m.gguf";

/// A small generator whose seed is printed, so that a failure can be had again (`AIENG_TEST_SEED`).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(test: &str) -> Random {
        let given = std::env::var("AIENG_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        eprintln!("{test}: AIENG_TEST_SEED={seed}");
        Random(seed)
    }

    /// A number below `n` (0 for 0).
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (((self.0 >> 33) * u64::from(n)) >> 31) as u32
    }
}

/// The metadata of a model under `$AIENG_HOME/models`; a test without its model says so and passes.
pub(crate) fn model(file: &str) -> Option<Metadata> {
    let path = std::env::var_os("AIENG_HOME").map(|home| PathBuf::from(home).join("models").join(file));
    match path.filter(|path| path.exists()) {
        Some(path) => Some(Gguf::open(&path).expect("model").metadata().clone()),
        None => {
            eprintln!("SKIPPED: {file}: not in $AIENG_HOME/models");
            None
        }
    }
}
