//! `aieng perplexity`: how well a model predicts a text, by llama-perplexity's protocol.

use crate::args::{DeviceArgs, ModelArgs, load_model};
use crate::failure::Result;
use crate::progress::Progress;
use crate::{input, output};
use aieng_runtime::perplexity::{Perplexity, perplexity};
use aieng_runtime::tokenizer::Tokenizer;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Measure how well a model predicts a text
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// UTF-8 text of at least one window
    #[arg(short, long)]
    file: PathBuf,
    /// Tokens in a window; the second half of each window is scored
    #[arg(short, long, default_value_t = 512)]
    ctx: usize,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also print the log-likelihood of each token scored
    #[arg(long, requires = "json")]
    log_likelihoods: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Serialize)]
struct Output {
    value: f64,
    standard_error: f64,
    tokens: usize,
    ctx: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_likelihoods: Option<Vec<f32>>,
}

/// Runs the command.
pub fn run(args: PerplexityArgs) -> Result<()> {
    let config = args.device.engine_config(args.ctx)?;
    let text = input::file(&args.file)?;
    let path = args.model.file()?;
    let mut model = load_model(&path, &config)?;
    let tokenizer = Tokenizer::from_metadata(model.file().metadata())?;
    let tokens = tokenizer.encode(&text, true, false)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let Perplexity { value, standard_error, log_likelihoods } = {
        let progress = Progress::fraction("Perplexity");
        perplexity(&mut model, &tokens, args.ctx, bos, &mut |done, so_far| {
            progress.message(format!("Perplexity {so_far:.3}"));
            progress.set_fraction(done);
        })?
    };
    let (tokens, ctx) = (log_likelihoods.len(), args.ctx);
    if args.json {
        let log_likelihoods = args.log_likelihoods.then_some(log_likelihoods);
        return output::json(&Output { value, standard_error, tokens, ctx, log_likelihoods });
    }
    Ok(output::text(&format!("perplexity {value:.4} ± {standard_error:.4} over {tokens} tokens, windows of {ctx}\n"))?)
}
