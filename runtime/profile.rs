//! A prefill, or steps that decode, run on a model and broken down by operation.

use crate::batch::{Batch, Logits};
use crate::engine::EngineConfig;
use crate::model::{Model, Op, Spent, Work, open_device};
use crate::{Error, Result, memory};
use aieng_kernels::sample::{Choice, Draw, Draws, Filter, Penalties};
use aieng_kernels::{BLOCK_TOKENS, Device};
use std::panic::resume_unwind;
use std::time::Duration;

pub use aieng_kernels::cpu::ceiling::{Arithmetic, Bound, Ceilings};

/// Decoding steps that one sample averages.
const DECODE_STEPS: usize = 16;

/// What is profiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// So many tokens of each sequence's prompt, in steps of the model's size.
    Prefill(usize),
    /// One token of each sequence.
    Decode,
}

/// A profile's work: `sequences` sequences, each behind `depth` tokens of context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Which steps are measured.
    pub phase: Phase,
    /// How many at once.
    pub sequences: usize,
    /// Tokens of each in the cache before that.
    pub depth: usize,
}

impl Load {
    /// Tokens of each sequence that are computed behind its context.
    pub fn tokens(&self) -> usize {
        match self.phase {
            Phase::Prefill(tokens) => tokens,
            Phase::Decode => 1,
        }
    }

    /// Tokens of each sequence at the end.
    pub fn length(&self) -> usize {
        self.depth.saturating_add(self.tokens())
    }

    /// Tokens of KV cache that all sequences need, in whole blocks each.
    pub fn kv_tokens(&self) -> usize {
        self.sequences.saturating_mul(self.length().div_ceil(BLOCK_TOKENS).saturating_mul(BLOCK_TOKENS))
    }
}

/// The sample with the median time.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Of a prefill, or of one step: the sum of `operations`' times.
    pub total: Duration,
    /// In the order of [`Op::ALL`].
    pub operations: Vec<OpProfile>,
}

/// One operation of all layers.
#[derive(Debug, Clone, Copy)]
pub struct OpProfile {
    /// Which.
    pub op: Op,
    /// Its time.
    pub time: Duration,
    /// What it read and computed, where that is counted.
    pub work: Option<Work>,
}

/// What the machine can do at best with the instruction set and the threads of `config`.
///
/// Errors: as a model's loading with this device; [`Error::Unsupported`] for the reference, which is not made for speed.
pub fn ceilings(config: &EngineConfig) -> Result<Ceilings> {
    config.validate()?;
    let Device::Cpu(cpu) = open_device(config)? else {
        return Err(Error::Unsupported("the reference device has no ceilings".into()));
    };
    let ceilings = on_own_thread(|| {
        cpu.pool().pin_caller();
        Ceilings::measure(&cpu)
    });
    ceilings.map_err(|e| Error::OutOfMemory(format!("ceilings: no memory for {} bytes", e.bytes)))
}

/// The thread that begins a kernel computes too, and is bound to a core. If the caller's were, all threads that it starts later
/// would be bound to the same core.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Measures `load`, once to warm up and then `repetitions` (at least 1) times.
///
/// Errors: [`Error::InvalidArgument`] if the load does not fit the model's context, KV cache or batch.
pub fn profile(model: &mut Model, load: Load, repetitions: usize) -> Result<Profile> {
    check(model, load)?;
    on_own_thread(|| {
        model.device().pin_caller();
        measure(model, load, repetitions)
    })
}

fn measure(model: &mut Model, load: Load, repetitions: usize) -> Result<Profile> {
    let mut driver = Driver { load, batch: Batch::default(), state: 0 };
    driver.fill(model)?;
    driver.sample(model, &mut Vec::new())?;
    let mut works = Vec::new();
    let mut samples: Vec<Spent> = Vec::new();
    for _ in 0..repetitions.max(1) {
        works.clear();
        samples.push(driver.sample(model, &mut works)?);
    }
    samples.sort_by_key(|spent| spent.iter().sum::<Duration>());
    let median = samples[samples.len() / 2];
    let steps = if load.phase == Phase::Decode { DECODE_STEPS as u32 } else { 1 };
    let operations: Vec<OpProfile> = Op::ALL
        .into_iter()
        .map(|op| {
            let parts = works.iter().filter(|(of, _)| *of == op).map(|(_, work)| *work);
            OpProfile { op, time: median[op as usize] / steps, work: parts.reduce(|a, b| a + b) }
        })
        .collect();
    Ok(Profile { total: operations.iter().map(|o| o.time).sum(), operations })
}

fn check(model: &Model, load: Load) -> Result<()> {
    let refuse = |what: String| Err(Error::InvalidArgument(what));
    let (tokens, sequences) = (load.tokens(), load.sequences);
    if tokens == 0 || sequences == 0 {
        return refuse(format!("profile: {sequences} sequences of {tokens} tokens"));
    }
    let most = model.max_batch_tokens().min(model.logits_rows());
    if sequences > most {
        return refuse(format!("profile: {sequences} sequences, the model takes {most} at once"));
    }
    if load.length() > model.context() {
        return refuse(format!("profile: {} tokens, the context has {}", load.length(), model.context()));
    }
    let room = model.kv_blocks() * BLOCK_TOKENS;
    if load.kv_tokens() > room {
        return refuse(format!("profile: {} tokens of KV cache, there are {room}", load.kv_tokens()));
    }
    Ok(())
}

/// Makes batches of random tokens: what tokens they are does not change the speed.
struct Driver {
    load: Load,
    batch: Batch,
    state: u64,
}

impl Driver {
    /// The sequences' context.
    fn fill(&mut self, model: &mut Model) -> Result<()> {
        (0..self.load.sequences).try_for_each(|s| self.prefill(model, s, 0..self.load.depth, &mut |_, _| Ok(())))
    }

    /// Tokens `range` of one sequence, in as few steps as there can be; `ran` sees each behind its layers.
    fn prefill(
        &mut self,
        model: &mut Model,
        sequence: usize,
        range: std::ops::Range<usize>,
        ran: &mut dyn FnMut(&mut Model, &Batch) -> Result<()>,
    ) -> Result<()> {
        let mut done = range.start;
        while done < range.end {
            let end = range.end.min(done + model.max_batch_tokens());
            let logits = if end == range.end { Logits::Last } else { Logits::None };
            self.batch.clear();
            self.push(model, sequence, done..end, logits);
            model.forward(&self.batch)?;
            ran(model, &self.batch)?;
            done = end;
        }
        Ok(())
    }

    fn push(&mut self, model: &Model, sequence: usize, range: std::ops::Range<usize>, logits: Logits) {
        let blocks = self.load.length().div_ceil(BLOCK_TOKENS) as u32;
        let first = sequence as u32 * blocks;
        let table: Vec<u32> = (first..first + blocks).take(range.end.div_ceil(BLOCK_TOKENS)).collect();
        let tokens: Vec<u32> = range.clone().map(|_| self.token(model.vocab())).collect();
        self.batch.push(&tokens, range.start, &table, logits);
    }

    fn token(&mut self, vocab: usize) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % vocab.max(1) as u64) as u32
    }

    /// One sample's times; the work of its prefill, or of one of its steps, is added to `works`.
    fn sample(&mut self, model: &mut Model, works: &mut Vec<(Op, Work)>) -> Result<Spent> {
        let Load { phase, sequences, depth } = self.load;
        let mut note = |model: &Model, batch: &Batch| {
            works.extend(Op::ALL.into_iter().filter_map(|op| model.work(op, batch).map(|work| (op, work))));
        };
        model.start_profile();
        match phase {
            Phase::Prefill(tokens) => {
                for sequence in 0..sequences {
                    self.prefill(model, sequence, depth..depth + tokens, &mut |model, batch| {
                        finish(model, batch.logits_indices.len())?;
                        note(model, batch);
                        Ok(())
                    })?;
                }
            }
            // The same position again: each step computes the same, however many there are.
            Phase::Decode => {
                for step in 0..DECODE_STEPS {
                    self.batch.clear();
                    (0..sequences).for_each(|s| self.push(model, s, depth..depth + 1, Logits::Last));
                    model.forward(&self.batch)?;
                    finish(model, sequences)?;
                    if step == 0 {
                        note(model, &self.batch);
                    }
                }
            }
        }
        Ok(model.finish_profile())
    }
}

/// Logits, and the likeliest token of each row.
fn finish(model: &mut Model, rows: usize) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    model.launch_logits(0..rows)?;
    let choice = Choice::Sample(Filter { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }, 0.0);
    let penalties = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };
    let mut draws = Draws::default();
    for row in 0..rows {
        let draw = Draw { row, choice, penalties, seen: &[], bias: &[], banned: &[], logprobs: None };
        draws.push(draw).map_err(|_| memory::missing::<Draw>("draws", rows))?;
    }
    model.draw(&draws, &mut memory::list("drawn tokens", rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{DeviceConfig, EngineConfig};
    use crate::load::Gguf;
    use crate::model::tiny;
    use aieng_kernels::KvDType;
    use std::path::Path;

    fn model(architecture: &str) -> Model {
        let file = Gguf::from_bytes(Path::new("tiny.gguf"), &tiny::gguf(architecture, 2, 1).bytes()).unwrap();
        let config = EngineConfig {
            device: DeviceConfig::Cpu(None),
            threads: 1,
            pin: false,
            max_batch_tokens: 32,
            kv_tokens: 256,
            ..Default::default()
        };
        Model::from_file(file, &config, &mut |_| Ok(())).unwrap()
    }

    fn part(profile: &Profile, op: Op) -> OpProfile {
        *profile.operations.iter().find(|part| part.op == op).unwrap()
    }

    #[test]
    fn a_profile_accounts_for_all_time_and_work() {
        let mut model = model("llama");
        let decode = Load { phase: Phase::Decode, sequences: 4, depth: 20 };
        let decode = profile(&mut model, decode, 3).unwrap();
        assert_eq!(decode.total, decode.operations.iter().map(|part| part.time).sum());
        assert_eq!(decode.operations.len(), Op::ALL.len());
        assert!(decode.operations.iter().all(|part| !part.time.is_zero()), "{decode:?}");
        // Down: 2 layers of [64, 96], 4 rows. Attention: 21 positions of 4 heads of 32, and 2 KV heads of 16 bits.
        let down = part(&decode, Op::Down).work.unwrap();
        assert_eq!(down.operations, 2 * (64 * 96) * 2 * 4);
        let attention = part(&decode, Op::Attention).work.unwrap();
        // The cache's own, which follows the machine.
        let bf16 = model.kv_memory().0 == KvDType::BF16;
        let arithmetic = if bf16 { Arithmetic::Bf16 } else { Arithmetic::F32 };
        let (bytes, operations) = (2 * 4 * 21 * (2 * 2 * 32 * 2), 2 * 4 * 21 * (4 * 4 * 32));
        assert_eq!(attention, Work { bytes, operations, arithmetic });
        assert_eq!(part(&decode, Op::Norm).work, None);

        // A prompt of two steps reads all weights twice, but the head's: only the last token has logits.
        let prompt = Load { phase: Phase::Prefill(48), sequences: 1, depth: 0 };
        let prompt = profile(&mut model, prompt, 1).unwrap();
        let prompt_down = part(&prompt, Op::Down).work.unwrap();
        assert_eq!(prompt_down, Work { bytes: 2 * down.bytes, operations: 12 * down.operations, ..down });
        assert_eq!(
            part(&prompt, Op::Head).work.unwrap().operations * 4,
            part(&decode, Op::Head).work.unwrap().operations
        );
    }

    #[test]
    fn a_window_bounds_what_attention_reads() {
        // One layer of gemma3 in six sees everything; the first two see 16 tokens.
        let work = |depth| {
            let load = Load { phase: Phase::Decode, sequences: 1, depth };
            part(&profile(&mut model("gemma3"), load, 1).unwrap(), Op::Attention).work.unwrap()
        };
        assert_eq!(work(100), work(15));
        assert!(work(100).bytes > work(3).bytes);
    }

    #[test]
    fn nothing_is_recorded_unasked() {
        assert_eq!(model("llama").finish_profile(), Spent::default());
    }

    #[test]
    fn a_load_that_does_not_fit_is_refused() {
        let decode = |sequences, depth| Load { phase: Phase::Decode, sequences, depth };
        let cases = [
            (decode(17, 0), "17 sequences"),
            (decode(0, 0), "0 sequences"),
            (decode(1, 256), "257 tokens, the context has 256"),
            (decode(2, 200), "KV cache"),
            (Load { phase: Phase::Prefill(0), sequences: 1, depth: 0 }, "of 0 tokens"),
        ];
        for (load, words) in cases {
            let message = profile(&mut model("llama"), load, 1).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
