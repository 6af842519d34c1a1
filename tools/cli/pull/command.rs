//! `aieng pull`, and the pull behind the first use of a model by any other command.

use super::pull;
use crate::failure::{Failure, Result};
use crate::models::{self, ALIASES, DEFAULT_MODEL, ModelError, Resolved};
use crate::output;
use crate::progress::Progress;
use clap::Args;
use std::path::PathBuf;

/// Fetch a model into the cache
#[derive(Debug, Args)]
#[command(after_help = aliases())]
pub struct PullArgs {
    /// An alias, or hf:org/repo/file.gguf
    #[arg(default_value = DEFAULT_MODEL)]
    model: String,
}

/// Runs the command: prints where the model is.
pub fn run(args: PullArgs) -> Result<()> {
    let path = pull_with_progress(&args.model)?;
    Ok(output::text(&format!("{}\n", path.display()))?)
}

/// The file of an alias, an `hf:` name or a path, pulled if it is not there.
pub fn model_file(model: &str) -> Result<PathBuf> {
    match models::resolve(model)? {
        Resolved::File(path) => Ok(path),
        Resolved::NeedsPull => pull_with_progress(model),
    }
}

/// A pull has stages, and each has a bar.
fn pull_with_progress(model: &str) -> Result<PathBuf> {
    let mut current: Option<(String, u64, Progress)> = None;
    let path = pull(model, &mut |stage, done, total| {
        let same = matches!(&current, Some((name, bytes, _)) if name == stage && *bytes == total);
        if !same {
            let bar = Progress::bytes(&format!("{model}: {stage}"), (total > 0).then_some(total));
            current = Some((stage.to_owned(), total, bar));
        }
        if let Some((_, _, bar)) = &current {
            bar.set(done);
        }
    })?;
    Ok(path)
}

fn aliases() -> String {
    let lines = ALIASES.iter().map(|alias| {
        format!("  {:<14} {}, {:.0} MB{}\n", alias.name, alias.about, alias.len as f64 / 1e6, default_mark(alias.name))
    });
    format!(
        "Aliases:\n{}Models are kept in $AIENG_HOME/models, or else below the XDG cache folder.",
        lines.collect::<String>()
    )
}

fn default_mark(name: &str) -> &'static str {
    if name == DEFAULT_MODEL { " (default)" } else { "" }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Failure::Failed(error.0)
    }
}
