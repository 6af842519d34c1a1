//! An engine without a model: steps cost a set time and tokens are a hash, so that scheduling can be measured and an
//! integration be tested where no model is at hand.

use super::{Engine, EngineConfig, Executor, Info, Sizes};
use crate::batch::Batch;
use crate::load::{Array, Metadata, Strings, Value};
use crate::tokenizer::BYTE_CHARS;
use crate::{Result, memory};
use aieng_kernels::sample::{DrawScratch, Drawn, Draws, draw_all};
use aieng_kernels::{BLOCK_TOKENS, Device};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Tokens: the 256 bytes and one that ends a text.
const VOCAB: usize = 257;

/// What a pretended step costs: a constant, as a GPU's that waits for its weights, and something for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimulatedCost {
    /// Of each step.
    pub step: Duration,
    /// Of each token of a step.
    pub token: Duration,
}

/// An executor that pretends.
pub(super) struct Simulated {
    device: Device,
    cost: SimulatedCost,
    /// The most likely token of each row of the last batch.
    next: Vec<u32>,
    /// `[rows, VOCAB]`, 0 but for the most likely token.
    logits: Vec<f32>,
    rows: usize,
    scratch: Vec<DrawScratch>,
}

impl Engine {
    /// An engine that runs no model: a step takes the time of `cost`, and the most likely token after each token is a hash
    /// of that token and its position. Its vocabulary is the 256 bytes and one token that ends a text.
    ///
    /// Errors: as [`EngineConfig::validate`].
    pub fn simulated(config: &EngineConfig, cost: SimulatedCost) -> Result<Engine> {
        config.validate()?;
        let (executor, sizes) = Simulated::new(config, cost)?;
        let metadata = metadata()?;
        let info = Info::new(&executor, &metadata);
        Engine::with_executor(executor, &metadata, sizes, info, config)
    }
}

impl Simulated {
    pub(super) fn new(config: &EngineConfig, cost: SimulatedCost) -> Result<(Simulated, Sizes)> {
        let context = if config.context == 0 { 4096 } else { config.context };
        let kv_tokens = if config.kv_tokens == 0 { context } else { config.kv_tokens };
        let sizes = Sizes { context, vocab: VOCAB, blocks: kv_tokens.div_ceil(BLOCK_TOKENS) };
        let rows = config.max_sequences;
        let next = memory::list("tokens of a step", config.max_batch_tokens)?;
        let logits = memory::collect("logits", rows * VOCAB, std::iter::repeat_n(0.0, rows * VOCAB))?;
        let scratch = memory::draw_scratch(VOCAB, 1)?;
        Ok((Simulated { device: Device::Reference, cost, next, logits, rows, scratch }, sizes))
    }
}

impl Executor for Simulated {
    fn execute(&mut self, batch: &Batch) -> Result<()> {
        let tokens = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + self.cost.step + self.cost.token * tokens;
        self.next.clear();
        self.next.extend(batch.logits_indices.iter().map(|index| {
            let (token, position) = (batch.token_ids[*index as usize], batch.positions[*index as usize]);
            (token ^ position).wrapping_mul(0x9e37_79b9) >> 24
        }));
        // Sleeping is good to a tenth of a millisecond.
        let rest = until.saturating_duration_since(Instant::now());
        if rest > Duration::from_micros(300) {
            std::thread::sleep(rest - Duration::from_micros(200));
        }
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn logits_rows(&self) -> usize {
        self.rows
    }

    fn compute_logits(&mut self, rows: Range<usize>) -> Result<()> {
        for (logits, next) in self.logits.chunks_exact_mut(VOCAB).zip(&self.next[rows]) {
            logits.fill(0.0);
            logits[*next as usize] = 4.0;
        }
        Ok(())
    }

    fn draw(&mut self, draws: &Draws, drawn: &mut Vec<Drawn>) -> Result<()> {
        let Simulated { device, logits, scratch, .. } = self;
        draw_all(device, draws, |row| &logits[row * VOCAB..][..VOCAB], scratch, drawn);
        Ok(())
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn fingerprint(&self) -> u128 {
        0
    }
}

/// What a tokenizer and a chat template need to know.
pub(super) fn metadata() -> Result<Metadata> {
    let mut tokens = Strings::default();
    for c in BYTE_CHARS {
        tokens.push(c.encode_utf8(&mut [0; 4]))?;
    }
    tokens.push("<|endoftext|>")?;
    let types = (0..VOCAB).map(|id| if id < 256 { 1 } else { 3 }).collect();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant:{% endif %}";
    let entries = [
        ("general.architecture", Value::String("simulated".into())),
        ("general.name", Value::String("Simulated".into())),
        ("tokenizer.chat_template", Value::String(template.into())),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::Strings(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::Signed(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::Strings(Strings::default()))),
        ("tokenizer.ggml.eos_token_id", Value::Unsigned(256)),
    ];
    let entries: BTreeMap<String, Value> = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Metadata::new(Path::new("simulated"), entries))
}
