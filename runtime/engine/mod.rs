//! The engine: load a model, submit requests from any thread, read their events from one queue.
//!
//! One thread owns the model and all scheduling state ([`step`]); it shares with the world only two bounded queues.

mod config;
mod executor;
mod flight;
mod info;
mod outbox;
mod request;
mod simulated;
mod step;
mod stream;
#[cfg(test)]
mod tests;
mod trace;

pub use crate::scheduler::Policy;
pub use config::{DeviceConfig, EngineConfig, MAX_KV_TOKENS};
pub use executor::Executor;
pub use info::Info;
pub use request::{
    Event, Finish, FinishReason, Logprobs, MAX_PRIORITY, MAX_SAMPLES, Origin, Provenance, Request, RequestId,
    StopCause, Timings, TokenLogprob,
};
pub use simulated::SimulatedCost;

use flight::Flight;

use crate::chat::ChatTemplate;
use crate::load::Metadata;
use crate::log::{Level, Log};
use crate::metrics::{Metrics, Snapshot};
use crate::model::{Model, Progress};
use crate::queue::Queue;
use crate::scheduler::{Arrival, Room};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, TokenId, memory};
use aieng_kernels::BLOCK_TOKENS;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What callers put into the engine.
enum Command {
    Submit(Box<Submission>),
    Cancel(RequestId),
}

/// A checked request on its way to the step thread, with the memory that it will need: the caller's thread asks for it,
/// who can be told that there is none.
struct Submission {
    arrival: Arrival,
    flight: Box<Flight>,
}

/// What a request's place in the engine depends on.
#[derive(Debug, Clone, Copy)]
struct Terms {
    context: usize,
    prefix_cache: bool,
    provenance: Provenance,
}

impl Terms {
    fn new(executor: &impl Executor, sizes: Sizes, config: &EngineConfig) -> Terms {
        let provenance = Provenance {
            model: executor.fingerprint(),
            kernels: executor.kernels(),
            seed: (0, 0),
            determinism: "batch-invariant",
        };
        Terms { context: sizes.context, prefix_cache: config.prefix_cache, provenance }
    }
}

impl Submission {
    fn new(id: RequestId, mut request: Request, terms: &Terms) -> Result<Submission> {
        let prompt = request.prompt.len();
        let most = step::longest(prompt, request.sampling.max_tokens, terms.context);
        let flight = Box::new(Flight::new(id, &mut request, most - prompt, Instant::now(), terms.provenance)?);
        // In the prompt's own memory: a long one is copied once, where it comes from C.
        let mut tokens: Vec<u32> = request.prompt.into_iter().map(|token| token.0).collect();
        memory::reserve_exact("prompt", &mut tokens, most - prompt)?;
        let arrival = Arrival {
            id: step::sequence(id, 0),
            tokens,
            most,
            room: Room::new(most)?,
            at: Duration::ZERO,
            priority: request.priority,
            tenant: request.tenant,
            salt: (terms.prefix_cache && request.prefix_cache).then_some(request.tenant.into()),
            score: request.prompt_logprobs.is_some(),
        };
        Ok(Submission { arrival, flight })
    }
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
    metrics: Metrics,
    /// What poisoned the engine.
    panic: OnceLock<String>,
    log: Log,
}

impl Shared {
    fn new(max_requests: usize, log: Log) -> Result<Shared> {
        Ok(Shared {
            // Room for every request's submit and cancel.
            commands: memory::queue("commands", 2 * max_requests)?,
            events: memory::queue("events", 2 * max_requests)?,
            next_id: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            metrics: Metrics::default(),
            panic: OnceLock::new(),
            log,
        })
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
    sizes: Sizes,
    info: Info,
    terms: Terms,
    max_requests: usize,
}

/// The greatest of some tokens. A loop without an early exit, over numbers: so it is vectorised, and a long prompt's check
/// takes no longer than its copy.
fn greatest(ids: &[TokenId]) -> Option<TokenId> {
    let first = ids.first()?.0;
    Some(TokenId(ids.iter().fold(first, |greatest, id| greatest.max(id.0))))
}

/// What an executor has room for.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Longest sequence, prompt and output together.
    context: usize,
    /// Numbers of a row of logits.
    vocab: usize,
    /// Blocks of the KV cache.
    blocks: usize,
}

impl Engine {
    /// Loads `path` and starts the step thread.
    ///
    /// Errors: as [`Model::load`], [`Tokenizer::from_metadata`] and [`ChatTemplate::from_metadata`].
    pub fn load(path: &Path, config: &EngineConfig, progress: Progress) -> Result<Engine> {
        let begin = Instant::now();
        let loaded = Model::load(path, config, progress).and_then(|model| Engine::start(model, config));
        config.log.say(if loaded.is_ok() { Level::Info } else { Level::Error }, "load", || match &loaded {
            Ok(engine) => format!("{}: {} in {:.0?}", path.display(), engine.info, begin.elapsed()),
            Err(error) => error.to_string(),
        });
        loaded
    }

    /// Starts the step thread of a model that was loaded with the same config.
    pub fn start(model: Model, config: &EngineConfig) -> Result<Engine> {
        let file = Arc::clone(model.file());
        let metadata = file.metadata();
        let sizes = Sizes { context: model.context(), vocab: model.vocab(), blocks: model.kv_blocks() };
        let (kv_dtype, kv_bytes) = model.kv_memory();
        let mut info = Info { kv_dtype, kv_bytes, weight_bytes: model.weight_bytes(), ..Info::new(&model, metadata) };
        if let Some(gpu) = model.gpu_name() {
            (info.gpu, info.isa) = (Some(gpu.to_owned()), None);
        }
        Engine::with_executor(model, metadata, sizes, info, config)
    }

    /// Starts the step thread of any executor.
    fn with_executor(
        executor: impl Executor + 'static,
        metadata: &Metadata,
        sizes: Sizes,
        info: Info,
        config: &EngineConfig,
    ) -> Result<Engine> {
        config.validate()?;
        let tokenizer = Arc::new(Tokenizer::from_metadata(metadata)?);
        let template = ChatTemplate::from_metadata(metadata)?;
        let shared = Arc::new(Shared::new(config.max_requests, config.log.clone())?);
        let terms = Terms::new(&executor, sizes, config);
        let step = step::StepLoop::new(executor, sizes, config, Arc::clone(&tokenizer), Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("aieng-step".into()).spawn(move || step.run());
        let thread = thread.map_err(|e| Error::OutOfMemory(format!("the step thread: {e}")))?;
        let max_requests = config.max_requests;
        Ok(Engine { shared, thread: Some(thread), tokenizer, template, sizes, info, terms, max_requests })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template, if its file has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// What it runs.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Tokens that the KV cache has room for.
    pub fn kv_tokens(&self) -> usize {
        self.sizes.blocks * BLOCK_TOKENS
    }

    /// Longest sequence, prompt and output together.
    pub fn context(&self) -> usize {
        self.sizes.context
    }

    /// Number of tokens that logits are computed for.
    pub fn vocab_size(&self) -> usize {
        self.sizes.vocab
    }

    /// What the engine counts and measures, as of its last step. Any thread; takes no lock.
    pub fn metrics(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    /// Queues a request; never waits. Any thread.
    ///
    /// Errors: [`Error::InvalidArgument`] for an empty or too long prompt, an id outside the vocabulary or a parameter
    /// out of range; [`Error::Busy`] when `max_requests` are in flight; [`Error::Closed`] after shutdown or a panic.
    pub fn submit(&self, request: Request) -> Result<RequestId> {
        let result = self.check(&request).and_then(|()| self.enqueue(request));
        match &result {
            Err(Error::Busy(_)) => self.shared.metrics.rejected_busy.add_shared(),
            Err(Error::InvalidArgument(_)) => self.shared.metrics.rejected_invalid.add_shared(),
            _ => {}
        }
        result
    }

    fn enqueue(&self, request: Request) -> Result<RequestId> {
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
        let submission = Submission::new(id, request, &self.terms).map(Box::new).inspect_err(|_| {
            shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        })?;
        if shared.commands.push(Command::Submit(submission)).is_err() {
            shared.in_flight.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Busy("the queue of commands is full".into()));
        }
        Ok(id)
    }

    /// What can be wrong with a request before it runs.
    fn check(&self, request: &Request) -> Result<()> {
        request.validate()?;
        let prompt = &request.prompt;
        let Sizes { context, vocab, blocks } = self.sizes;
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        if prompt.len() >= context {
            return invalid(format!("prompt: {} tokens leave no room in a context of {context}", prompt.len()));
        }
        let bias_ids = request.sampling.logit_bias.iter().map(|(id, _)| *id);
        let greatest = [
            ("prompt", greatest(prompt)),
            ("stop_token_ids", greatest(&request.sampling.stop_token_ids)),
            ("logit_bias", bias_ids.max()),
        ];
        for (name, id) in greatest {
            if let Some(bad) = id.filter(|id| id.0 as usize >= vocab) {
                return invalid(format!("{name}: token {} is outside the vocabulary of {vocab}", bad.0));
            }
        }
        let (most, room) = (step::longest(prompt.len(), request.sampling.max_tokens, context), blocks * BLOCK_TOKENS);
        if most > room {
            return invalid(format!("prompt and output of {most} tokens do not fit a KV cache of {room}"));
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

    /// As [`Engine::next`], for up to `most` events at once, which are appended to `events`. Returns how many came; 0 after
    /// the timeout.
    pub fn next_many(&self, events: &mut Vec<Event>, most: usize, timeout: Option<Duration>) -> Result<usize> {
        let before = events.len();
        if most > 0 {
            events.extend(self.next(timeout)?);
        }
        while events.len() > before && events.len() - before < most {
            match self.shared.events.pop() {
                Some(event) => events.push(event),
                None => break,
            }
        }
        Ok(events.len() - before)
    }

    /// A descriptor that poll(2), epoll(7) and their like call readable while there may be events. Once it is, take events
    /// until there are none, with a timeout of 0: only then does it become unreadable again. It lives as long as the
    /// engine; to read, write or close it is an error.
    ///
    /// Errors: the system's, if it has no descriptor left.
    pub fn event_fd(&self) -> std::io::Result<BorrowedFd<'_>> {
        self.shared.events.descriptor()
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
        f.debug_struct("Engine")
            .field("context", &self.sizes.context)
            .field("vocab", &self.sizes.vocab)
            .finish_non_exhaustive()
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
