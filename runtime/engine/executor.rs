//! The seam between scheduling and computing: a batch goes in, logits come out.

use crate::batch::Batch;
use crate::model::Model;
use aieng_kernels::Device;
use std::ops::Range;

/// Computes batches. The step thread owns it; a test may put a fake in the model's place.
pub trait Executor: Send {
    /// Copies the batch's blocks and computes its tokens: their keys and values are then in the cache.
    fn execute(&mut self, batch: &Batch);

    /// Most rows of [`Executor::compute_logits`]; at least 1.
    fn logits_rows(&self) -> usize;

    /// Computes the logits of some of the last batch's `logits_indices`, by their place in that list.
    fn compute_logits(&mut self, rows: Range<usize>);

    /// Row `row` `[vocab]` of the last [`Executor::compute_logits`].
    fn logits(&self, row: usize) -> &[f32];

    /// Where sampling runs.
    fn device(&self) -> &Device;

    /// Names the model that computes.
    fn fingerprint(&self) -> u128;
}

impl Executor for Model {
    fn execute(&mut self, batch: &Batch) {
        self.forward(batch);
    }

    fn logits_rows(&self) -> usize {
        Model::logits_rows(self)
    }

    fn compute_logits(&mut self, rows: Range<usize>) {
        Model::compute_logits(self, rows);
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.logits_row(row)
    }

    fn device(&self) -> &Device {
        Model::device(self)
    }

    fn fingerprint(&self) -> u128 {
        Model::fingerprint(self)
    }
}
