//! `aieng tokenize`: what a model's tokenizer makes of a text. Reads metadata only, no weights.

use crate::args::ModelArgs;
use crate::failure::Result;
use crate::{input, output};
use aieng_runtime::TokenId;
use aieng_runtime::load::Gguf;
use aieng_runtime::tokenizer::Tokenizer;
use clap::Args;
use serde::Serialize;

/// Show the tokens of a text
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The text; absent or "-" reads standard input, every byte of it
    text: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Leave out the token that begins a text
    #[arg(long)]
    no_bos: bool,
    /// Read spellings such as "<|im_start|>" as special tokens
    #[arg(long)]
    special: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Output {
    token_ids: Vec<u32>,
    /// Lossy where a token is half a character.
    pieces: Vec<String>,
}

/// Runs the command.
pub fn run(args: TokenizeArgs) -> Result<()> {
    let text = input::argument_or_stdin(args.text)?;
    let gguf = Gguf::open(&args.model.file()?)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    let ids = tokenizer.encode(&text, !args.no_bos, args.special)?;
    let pieces: Vec<String> = ids.iter().map(|&id: &TokenId| tokenizer.token_text(id)).collect();
    if args.json {
        return output::json(&Output { token_ids: ids.iter().map(|id| id.0).collect(), pieces });
    }
    let mut lines = String::new();
    for (id, piece) in ids.iter().zip(&pieces) {
        // Quoted, so that spaces and control characters can be seen.
        lines += &format!("{:>7} {piece:?}\n", id.0);
    }
    Ok(output::text(&lines)?)
}
