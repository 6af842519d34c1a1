//! `aieng bench turns`: tests by the line, so that another program can let engines take turns (benches/peers/compare.py).
//!
//! Reads {"test": "pp512", "prompt": 512, "generate": 0, "sequences": 1, "depth": 0} from standard input, runs it and answers
//! {"test": "pp512", "tokens": 512, "seconds": [0.25]}; the first line says {"ready": VERSION}.

use super::test::Test;
use crate::args::{DeviceArgs, ModelArgs, load_engine};
use crate::failure::{Failure, Result};
use crate::output;
use aieng_runtime::engine::EngineConfig;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use std::io::stdin;

/// Run tests that standard input names, one JSON object a line
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct TurnsArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tokens of the KV cache, and of the longest sequence
    #[arg(long, value_name = "N", default_value_t = 8192)]
    context: usize,
    /// Most sequences at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    sequences: usize,
}

#[derive(Deserialize)]
struct Order {
    test: String,
    #[serde(flatten)]
    size: Test,
}

/// Runs the command, until standard input ends.
pub fn run(args: TurnsArgs) -> Result<()> {
    let config = EngineConfig { max_sequences: args.sequences, ..args.device.engine_config(args.context)? };
    let engine = load_engine(&args.model.file()?, &config)?;
    output::json(&json!({ "ready": env!("CARGO_PKG_VERSION") }))?;
    for (turn, line) in stdin().lines().enumerate() {
        let line = line.map_err(|e| Failure::Failed(format!("standard input: {e}")))?;
        let order: Order = serde_json::from_str(&line)
            .map_err(|e| Failure::Usage(format!("standard input, line {}: {e}", turn + 1)))?;
        let size = order.size;
        if size.sequences == 0 || size.prompt + size.generated == 0 {
            return Err(Failure::Usage(format!("{}: nothing to measure", order.test)));
        }
        if size.sequences > args.sequences || size.kv_tokens() > args.context {
            return Err(Failure::Usage(format!("{}: more than --sequences or --context have room for", order.test)));
        }
        let seconds = size.run(&engine, turn as u32 + 1)? / 1e9;
        output::json(&json!({ "test": order.test, "tokens": size.tokens(), "seconds": [seconds] }))?;
    }
    Ok(())
}
