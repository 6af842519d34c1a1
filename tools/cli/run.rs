//! `aieng run`: one prompt, one answer.

use crate::args::{DeviceArgs, ModelArgs, SamplingArgs, load_engine};
use crate::failure::{Failure, Result};
use crate::generation::{Generation, chat_prompt, generate, raw_prompt, reason_name};
use crate::{input, interrupt, output};
use aieng_runtime::TokenId;
use aieng_runtime::chat::Message;
use aieng_runtime::engine::{Engine, FinishReason, Logprobs, Request, TokenLogprob};
use aieng_runtime::tokenizer::Tokenizer;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Answer one prompt
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The prompt; absent or "-" reads standard input (a line end at its end is dropped)
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Longest sequence, prompt and output together [default: the smaller of the model's and 4096]
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    ctx: usize,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Instructions that come before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Print one JSON object at the end instead of text as it comes
    #[arg(long)]
    json: bool,
    /// Report each token's log-probability and the N likeliest tokens (at most 20)
    #[arg(long, value_name = "N", requires = "json")]
    top_logprobs: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command. Everything that can be checked without the model is checked before the model is touched.
pub fn run(args: RunArgs) -> Result<()> {
    interrupt::install();
    let sampling = args.sampling.params(args.top_logprobs)?;
    let config = args.device.engine_config(args.ctx)?;
    let text = input::prompt(args.prompt.clone())?;
    let engine = load_engine(&args.model.file()?, &config)?;
    let prompt = prompt_ids(&engine, &args, &text)?;

    let mut ends_line = true;
    let mut stream = |piece: &str| {
        ends_line = piece.ends_with('\n');
        if args.json { Ok(()) } else { output::text(piece) }
    };
    let generation = generate(&engine, Request::new(prompt, sampling), &mut stream)?;
    if args.json {
        output::json(&Output::new(&generation, engine.tokenizer(), args.top_logprobs.is_some()))?;
    } else if !ends_line {
        output::text("\n")?;
    }
    match generation.finish.reason {
        FinishReason::Cancelled => Err(Failure::Interrupted),
        FinishReason::Length if !args.json => {
            output::note(&format!("stopped after {} tokens, see -n and --ctx", generation.token_ids.len()));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn prompt_ids(engine: &Engine, args: &RunArgs, text: &str) -> Result<Vec<TokenId>> {
    if args.raw {
        return raw_prompt(engine, text);
    }
    let system = args.system.as_deref().map(|system| Message::new("system", system));
    match (engine.chat_template(), &system) {
        (Some(template), _) => {
            let messages: Vec<_> = system.into_iter().chain([Message::new("user", text)]).collect();
            chat_prompt(engine, template, &messages)
        }
        (None, None) => {
            output::note("the model has no chat template: the prompt is used as it is (as with --raw)");
            raw_prompt(engine, text)
        }
        (None, Some(_)) => {
            Err(Failure::Failed("--system: the model has no chat template, so it has no place for instructions".into()))
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output<'a> {
    text: &'a str,
    token_ids: Vec<u32>,
    prompt_tokens: usize,
    finish_reason: &'static str,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenReport>>,
}

/// One generated token and the likeliest ones at its place.
#[derive(Debug, Serialize)]
struct TokenReport {
    #[serde(flatten)]
    chosen: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Serialize)]
struct Alternative {
    token_id: u32,
    token: String,
    logprob: f32,
}

impl<'a> Output<'a> {
    fn new(generation: &'a Generation, tokenizer: &Tokenizer, logprobs: bool) -> Self {
        let ms = |time: Option<Duration>| time.map(|t| t.as_secs_f64() * 1e3);
        let finish = &generation.finish;
        let report = |logprobs: &Logprobs| TokenReport::new(logprobs, tokenizer);
        Output {
            text: &generation.text,
            token_ids: generation.token_ids.iter().map(|id| id.0).collect(),
            prompt_tokens: finish.prompt_tokens,
            finish_reason: reason_name(finish.reason),
            ttft_ms: ms(finish.timings.ttft),
            tpot_ms: ms(finish.timings.tpot),
            logprobs: logprobs.then(|| generation.logprobs.iter().map(report).collect()),
        }
    }
}

impl TokenReport {
    fn new(logprobs: &Logprobs, tokenizer: &Tokenizer) -> Self {
        let alternative =
            |t: &TokenLogprob| Alternative { token_id: t.id.0, token: tokenizer.token_text(t.id), logprob: t.logprob };
        TokenReport {
            chosen: alternative(&logprobs.chosen),
            top_logprobs: logprobs.top.iter().map(alternative).collect(),
        }
    }
}
