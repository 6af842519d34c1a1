//! The engine: load a model, submit requests from any thread, read their events from one queue.
//!
//! One thread owns the model and all scheduling state ([`step`]); it shares with the world only two bounded queues.

mod executor;
mod step;
mod stream;
#[cfg(test)]
mod tests;

pub use executor::Executor;

use crate::chat::ChatTemplate;
use crate::model::Model;
use crate::queue::Queue;
use crate::sampling::SamplingParams;
use crate::scheduler::Limits;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, TokenId};
use aieng_kernels::{BLOCK_TOKENS, DType, Isa};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceConfig {
    /// Scalar f32 oracle: slow and exact.
    Reference,
    /// The CPU; `None` picks the best instruction set.
    Cpu(Option<Isa>),
}

/// How to load and run a model. [`Default`] suits one user on the whole machine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the model runs.
    pub device: DeviceConfig,
    /// Worker threads, the step thread included; 0 takes one a physical core that this process may use.
    pub threads: usize,
    /// Pin each worker to a core.
    pub pin: bool,
    /// Longest sequence, prompt and output together; 0 takes the smaller of the model's context and 4096.
    pub context: usize,
    /// Sequences in one batch.
    pub max_sequences: usize,
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// KV cache size in tokens, rounded up to blocks, shared by all sequences; 0 takes `context`.
    pub kv_tokens: usize,
    /// F32 or F16; `None` takes F32 on the reference device and F16 elsewhere.
    pub kv_dtype: Option<DType>,
    /// Requests accepted and not yet finished; one more is [`Error::Busy`].
    pub max_requests: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            device: DeviceConfig::Cpu(None),
            threads: 0,
            pin: true,
            context: 0,
            max_sequences: 16,
            max_batch_tokens: 512,
            kv_tokens: 0,
            kv_dtype: None,
            max_requests: 256,
        }
    }
}

/// Names one request of one engine; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What to generate from.
#[derive(Debug, Clone)]
pub struct Request {
    /// At least one token, and fewer than the engine's context.
    pub prompt: Vec<TokenId>,
    /// Sampling and stopping.
    pub sampling: SamplingParams,
}

/// A token and its log-probability in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// ln p, from the logits before penalties and temperature.
    pub logprob: f32,
}

/// Log-probabilities of one generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The most likely ones, best first.
    pub top: Vec<TokenLogprob>,
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// By [`Engine::cancel`] or shutdown.
    Cancelled,
    /// By an error inside the engine; the event's text says which.
    Error,
}

/// Sent once for each request, as its last event.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// For [`FinishReason::Error`]: what happened.
    pub message: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended it included.
    pub completion_tokens: usize,
    /// From submit to the first token.
    pub ttft: Option<Duration>,
    /// Mean time of each token after the first.
    pub tpot: Option<Duration>,
}

/// Something happened to a request. A token's text may be empty (half a character, or held back by a stop string that
/// may be starting), and the finishing event carries whatever text was held back.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose.
    pub request: RequestId,
    /// The generated token, if this event carries one.
    pub token: Option<TokenId>,
    /// Its log-probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Text that became final with this event: always whole UTF-8 characters.
    pub text: String,
    /// Set on the request's last event.
    pub finish: Option<Finish>,
}

impl EngineConfig {
    /// Checks every range that does not depend on the model.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, n: usize, least: usize, most: usize| {
            let ok = (least..=most).contains(&n);
            if ok { Ok(()) } else { Err(Error::InvalidArgument(format!("{name}: {n} is not from {least} to {most}"))) }
        };
        within("threads", self.threads, 0, 1024)?;
        within("max_sequences", self.max_sequences, 1, 4096)?;
        within("max_batch_tokens", self.max_batch_tokens, self.max_sequences, 65_536)?;
        within("max_requests", self.max_requests, 1, 1 << 20)?;
        within("context", self.context, 0, 1 << 24)?;
        within("kv_tokens", self.kv_tokens, 0, 1 << 30)?;
        match self.kv_dtype {
            None | Some(DType::F32 | DType::F16) => Ok(()),
            Some(other) => Err(Error::InvalidArgument(format!("kv_dtype: {} is not F32 or F16", other.name()))),
        }
    }
}

/// What callers put into the engine.
enum Command {
    Submit(Box<Submission>),
    Cancel(RequestId),
}

/// A checked request on its way to the step thread.
struct Submission {
    id: RequestId,
    request: Request,
    at: Instant,
}

/// What the engine's two sides share.
struct Shared {
    commands: Queue<Command>,
    events: Queue<Event>,
    next_id: AtomicU64,
    /// Requests accepted whose last event is not queued yet.
    in_flight: AtomicUsize,
    /// No new requests; those in flight end.
    shutdown: AtomicBool,
    /// Nobody will read events any more.
    abandoned: AtomicBool,
    /// The step thread is gone, and all its events are queued.
    ended: AtomicBool,
    /// What poisoned the engine.
    panic: OnceLock<String>,
}

impl Shared {
    fn new(max_requests: usize) -> Shared {
        Shared {
            // Room for every request's submit and cancel.
            commands: Queue::new(2 * max_requests),
            events: Queue::new(2 * max_requests),
            next_id: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            panic: OnceLock::new(),
        }
    }

    fn closed(&self) -> Error {
        match self.panic.get() {
            Some(what) => Error::Closed(format!("the engine stopped after an internal error: {what}")),
            None => Error::Closed("the engine was shut down".into()),
        }
    }
}

/// A loaded model and the thread that steps it.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    context: usize,
    vocab: usize,
    kv_tokens: usize,
    max_requests: usize,
}

impl Engine {
    /// Loads `path` and starts the step thread. `progress` is called with the fraction loaded, 0 to 1.
    ///
    /// Errors: as [`Model::load`], [`Tokenizer::from_metadata`] and [`ChatTemplate::from_metadata`].
    pub fn load(path: &Path, config: &EngineConfig, progress: &mut dyn FnMut(f32)) -> Result<Engine> {
        Engine::start(Model::load(path, config, progress)?, config)
    }

    /// Starts the step thread of a model that was loaded with the same config.
    pub fn start(model: Model, config: &EngineConfig) -> Result<Engine> {
        let metadata = model.file().metadata();
        let tokenizer = Arc::new(Tokenizer::from_metadata(metadata)?);
        let template = ChatTemplate::from_metadata(metadata)?;
        let limits = Limits {
            sequences: config.max_sequences,
            batch_tokens: config.max_batch_tokens,
            blocks: model.kv_blocks(),
            block_tokens: BLOCK_TOKENS,
        };
        let (context, vocab) = (model.context(), model.vocab());
        let shared = Arc::new(Shared::new(config.max_requests));
        let step = step::StepLoop::new(model, limits, context, Arc::clone(&tokenizer), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("aieng-step".into()).spawn(move || step.run());
        let thread = thread.map_err(|e| Error::OutOfMemory(format!("the step thread: {e}")))?;
        Ok(Engine {
            shared,
            thread: Some(thread),
            tokenizer,
            template,
            context,
            vocab,
            kv_tokens: limits.blocks * limits.block_tokens,
            max_requests: config.max_requests,
        })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template, if its file has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Longest sequence, prompt and output together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Number of tokens that logits are computed for.
    pub fn vocab_size(&self) -> usize {
        self.vocab
    }

    /// Queues a request; never waits. Any thread.
    ///
    /// Errors: [`Error::InvalidArgument`] for an empty or too long prompt, an id outside the vocabulary or a parameter
    /// out of range; [`Error::Busy`] when `max_requests` are in flight; [`Error::Closed`] after shutdown or a panic.
    pub fn submit(&self, request: Request) -> Result<RequestId> {
        self.check(&request)?;
        let shared = &*self.shared;
        if shared.shutdown.load(Ordering::SeqCst) {
            return Err(shared.closed());
        }
        let most = self.max_requests;
        let place = |n: usize| (n < most).then_some(n + 1);
        if shared.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, place).is_err() {
            return Err(Error::Busy(format!("{most} requests are in flight, the most this engine takes")));
        }
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let submission = Box::new(Submission { id, request, at: Instant::now() });
        if shared.commands.push(Command::Submit(submission)).is_err() {
            shared.in_flight.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Busy("the queue of commands is full".into()));
        }
        Ok(id)
    }

    /// What can be wrong with a request before it runs.
    fn check(&self, request: &Request) -> Result<()> {
        request.sampling.validate()?;
        let prompt = &request.prompt;
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        if prompt.is_empty() {
            return invalid("prompt: no tokens".into());
        }
        if prompt.len() >= self.context {
            return invalid(format!("prompt: {} tokens leave no room in a context of {}", prompt.len(), self.context));
        }
        let named = prompt.iter().chain(&request.sampling.stop_token_ids);
        let named = named.chain(request.sampling.logit_bias.iter().map(|(id, _)| id));
        if let Some(bad) = named.into_iter().find(|t| t.0 as usize >= self.vocab) {
            return invalid(format!("token {} is outside the vocabulary of {}", bad.0, self.vocab));
        }
        let most = step::longest(prompt.len(), request.sampling.max_tokens, self.context);
        if most > self.kv_tokens {
            return invalid(format!("prompt and output of {most} tokens do not fit a KV cache of {}", self.kv_tokens));
        }
        Ok(())
    }

    /// Asks for a request's end; its last event follows. Unknown and finished ids are ignored. Any thread.
    ///
    /// Errors: [`Error::Busy`] if the queue of commands is full; [`Error::Closed`] after shutdown or a panic.
    pub fn cancel(&self, id: RequestId) -> Result<()> {
        if self.shared.shutdown.load(Ordering::SeqCst) {
            return Err(self.shared.closed());
        }
        let push = self.shared.commands.push(Command::Cancel(id));
        push.map_err(|_| Error::Busy("the queue of commands is full".into()))
    }

    /// The next event of any request; waits up to `timeout` (`None`: until there is one), then returns `Ok(None)`.
    ///
    /// Errors: [`Error::Closed`] once a shut-down or poisoned engine has no more events.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<Event>> {
        let shared = &*self.shared;
        let ended = || shared.ended.load(Ordering::SeqCst);
        // `ended` is set after the last event is queued, so one more look settles it.
        match shared.events.pop_wait(timeout, ended).or_else(|| shared.events.pop()) {
            Some(event) => {
                // The step thread may be waiting for room.
                shared.commands.wake();
                Ok(Some(event))
            }
            None if ended() => Err(shared.closed()),
            None => Ok(None),
        }
    }

    /// Ends every request with [`FinishReason::Cancelled`]; later submits are [`Error::Closed`]. Dropping does the same
    /// and joins the step thread.
    pub fn shutdown(&self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.commands.wake();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("context", &self.context).field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::SeqCst);
        self.shutdown();
        if let Some(thread) = self.thread.take() {
            // The step thread catches its panics.
            let _ = thread.join();
        }
    }
}
