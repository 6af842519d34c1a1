//! The seam between scheduling and computing: a batch goes in, tokens come out.

use crate::Result;
use crate::batch::Batch;
use crate::model::Model;
use aieng_kernels::Device;
use aieng_kernels::sample::{Drawn, Draws};
use std::ops::Range;

/// Computes batches. The step thread owns it; a test may put a fake in the model's place.
pub trait Executor: Send {
    /// Copies the batch's blocks and computes its tokens: their keys and values are then in the cache.
    ///
    /// Errors: a device has failed, and computes nothing more.
    fn execute(&mut self, batch: &Batch) -> Result<()>;

    /// Most rows of [`Executor::compute_logits`]; at least 1.
    fn logits_rows(&self) -> usize;

    /// Computes the logits of some of the last batch's `logits_indices`, by their place in that list.
    ///
    /// Errors: as [`Executor::execute`].
    fn compute_logits(&mut self, rows: Range<usize>) -> Result<()>;

    /// Answers draws from the rows of the last [`Executor::compute_logits`], in their order; `drawn` is overwritten.
    ///
    /// Errors: as [`Executor::execute`].
    fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()>;

    /// The host's device, whose threads the step thread is one of.
    fn device(&self) -> &Device;

    /// The set of kernels: "cpu-avx512", for example.
    fn kernels(&self) -> &'static str {
        self.device().name()
    }

    /// Names the model that computes.
    fn fingerprint(&self) -> u128;
}

impl Executor for Model {
    fn execute(&mut self, batch: &Batch) -> Result<()> {
        self.forward(batch)
    }

    fn logits_rows(&self) -> usize {
        Model::logits_rows(self)
    }

    fn compute_logits(&mut self, rows: Range<usize>) -> Result<()> {
        Model::launch_logits(self, rows)
    }

    fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()> {
        Model::draw(self, draws, drawn)
    }

    fn device(&self) -> &Device {
        Model::device(self)
    }

    fn kernels(&self) -> &'static str {
        Model::kernels(self)
    }

    fn fingerprint(&self) -> u128 {
        Model::fingerprint(self)
    }
}
