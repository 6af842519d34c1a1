//! `aieng bench --make-model SHAPE FILE`: a model with random weights to measure.

use super::subject;
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Progress;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

/// Every file has the same weights.
const SEED: u64 = 1;

/// Writes the file beside its place and then moves it there, so that what stands there is whole.
pub fn run(shape: &str, path: &Path) -> Result<()> {
    let shape = subject::shape("--make-model", shape)?;
    let part = path.with_added_extension("part");
    let progress = Progress::fraction("Writing");
    let write = || {
        let mut out = BufWriter::new(File::create(&part)?);
        shape.write(SEED, &mut out, &mut |done| progress.set_fraction(done))?;
        fs::rename(&part, path)
    };
    write().map_err(|e| {
        // What there is of it is of no use; the error that matters is the first.
        let _ = fs::remove_file(&part);
        Failure::Failed(format!("{}: {e}", path.display()))
    })?;
    Ok(output::text(&format!("{}\n", path.display()))?)
}
