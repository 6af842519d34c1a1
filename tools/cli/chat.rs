//! `aieng chat`: a conversation on a terminal or through a pipe, one message a line.

use crate::args::{DeviceArgs, ModelArgs, SamplingArgs, load_engine};
use crate::failure::{Failure, Result};
use crate::generation::{chat_prompt, generate};
use crate::input::Lines;
use crate::{interrupt, output};
use aieng_runtime::TokenId;
use aieng_runtime::chat::{ChatTemplate, Message};
use aieng_runtime::engine::{Engine, FinishReason, Request};
use aieng_runtime::sampling::SamplingParams;
use clap::Args;

/// Talk with a model
#[derive(Debug, Args)]
#[command(after_help = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends the answer.")]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Longest conversation in tokens; beyond it the oldest turns are forgotten [default: the smaller of the model's and 4096]
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    ctx: usize,
    /// Instructions that hold for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: ChatArgs) -> Result<()> {
    interrupt::install();
    let sampling = args.sampling.params(None)?;
    let config = args.device.engine_config(args.ctx)?;
    let engine = load_engine(&args.model.file()?, &config)?;
    let Some(template) = engine.chat_template() else {
        return Err(Failure::Failed("the model has no chat template; `aieng run --raw` continues a text".into()));
    };
    let system = args.system.map(|system| Message::new("system", system));
    let mut conversation = Conversation { engine: &engine, template, sampling, system, turns: Vec::new() };
    let mut lines = Lines::new("> ")?;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/clear" => conversation.turns.clear(),
            command if command.starts_with('/') => {
                output::note(&format!("{command}: no such command, there are /clear and /exit"));
            }
            message => conversation.answer(message)?,
        }
    }
    Ok(())
}

/// What was said so far. `turns` begins with the user and alternates.
struct Conversation<'a> {
    engine: &'a Engine,
    template: &'a ChatTemplate,
    sampling: SamplingParams,
    system: Option<Message>,
    turns: Vec<Message>,
}

impl Conversation<'_> {
    /// Streams the answer to `message` and remembers both. A message too long for the context is refused.
    fn answer(&mut self, message: &str) -> Result<()> {
        self.turns.push(Message::new("user", message));
        let Some(prompt) = self.fitting_prompt()? else {
            self.turns.pop();
            let context = self.engine.context();
            output::note(&format!("the message does not fit the context of {context} tokens, see --ctx"));
            return Ok(());
        };
        let request = Request::new(prompt, self.sampling.clone());
        let generation = generate(self.engine, request, &mut output::text)?;
        output::text("\n")?;
        if generation.finish.reason == FinishReason::Length {
            output::note(&format!("stopped after {} tokens, see -n and --ctx", generation.token_ids.len()));
        }
        self.turns.push(Message::new("assistant", generation.text));
        Ok(())
    }

    /// The prompt, with room left for an answer: the oldest exchanges go until it fits. `None` if even the last
    /// message alone is too long.
    fn fitting_prompt(&mut self) -> Result<Option<Vec<TokenId>>> {
        let context = self.engine.context();
        let answer = (self.sampling.max_tokens as usize).min(context / 4).max(1);
        let mut forgotten = 0;
        loop {
            let messages: Vec<Message> = self.system.iter().chain(&self.turns).cloned().collect();
            let ids = chat_prompt(self.engine, self.template, &messages)?;
            let last = self.turns.len() == 1;
            let room = context.saturating_sub(ids.len());
            if room < answer && !last {
                self.turns.drain(..2);
                forgotten += 1;
                continue;
            }
            if forgotten > 0 {
                output::note(&format!("the context of {context} tokens is full: forgot the oldest {forgotten} turns"));
            }
            return Ok((room > 0).then_some(ids));
        }
    }
}
