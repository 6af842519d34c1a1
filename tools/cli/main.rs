//! The command line of aieng: parses, dispatches, and turns a command's end into an exit code
//! (0 done, 1 failure, 2 usage, 130 interrupted).
#![forbid(unsafe_code)]

mod args;
mod bench;
mod chat;
mod failure;
mod generation;
mod info;
mod input;
mod interrupt;
mod models;
mod output;
mod perplexity;
mod plot;
mod progress;
mod pull;
mod run;
mod summary;
mod tokenize;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run language models on this machine
#[derive(Debug, Parser)]
#[command(name = "aieng", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Chat(chat::ChatArgs),
    Pull(pull::command::PullArgs),
    Info(info::InfoArgs),
    Tokenize(tokenize::TokenizeArgs),
    Perplexity(perplexity::PerplexityArgs),
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Pull(args) => pull::command::run(args),
        Command::Info(args) => info::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Bench(args) => bench::run(args),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        output::note(message);
    }
    failure.exit_code()
}
