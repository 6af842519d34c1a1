//! The seam between scheduling and computing: a batch goes in, logits come out.

use crate::batch::Batch;
use crate::model::Model;
use aieng_kernels::Device;

/// Computes batches. The step thread owns it; a test may put a fake in the model's place.
pub trait Executor: Send {
    /// Computes the batch and the logits of its `logits_indices`.
    fn execute(&mut self, batch: &Batch);

    /// Logits `[vocab]` of the last batch's `logits_indices[row]`.
    fn logits(&self, row: usize) -> &[f32];

    /// Where sampling runs.
    fn device(&self) -> &Device;
}

impl Executor for Model {
    fn execute(&mut self, batch: &Batch) {
        self.forward(batch);
        self.compute_logits(0..batch.logits_indices.len());
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.logits_row(row)
    }

    fn device(&self) -> &Device {
        Model::device(self)
    }
}
