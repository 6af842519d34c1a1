//! `aieng pull`: a stand-in.

use crate::failure::{Failure, Result};
use clap::Args;

/// Fetch a model
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Alias
    model: String,
}

/// Runs the command.
pub fn run(args: PullArgs) -> Result<()> {
    Err(Failure::Failed(format!("{}: not yet", args.model)))
}
