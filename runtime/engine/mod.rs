//! The engine: load a model, submit requests from any thread, read their events from one queue.

use crate::chat::ChatTemplate;
use crate::sampling::SamplingParams;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, TokenId};
use aieng_kernels::{DType, Isa};
use std::path::Path;
use std::time::Duration;

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

/// A loaded model and the thread that steps it.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Loads `path` and starts the step thread. `progress` is called with the fraction loaded, 0 to 1.
    pub fn load(_path: &Path, _config: &EngineConfig, _progress: &mut dyn FnMut(f32)) -> Result<Engine> {
        Err(Error::Internal("not yet".into()))
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        unreachable!()
    }

    /// The model's chat template, if its file has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        None
    }

    /// Longest sequence, prompt and output together.
    pub fn context(&self) -> usize {
        0
    }

    /// Queues a request; never waits. Any thread.
    ///
    /// Errors: [`Error::InvalidArgument`] for an empty or too long prompt, an id outside the vocabulary or a parameter
    /// out of range; [`Error::Busy`] when `max_requests` are in flight; [`Error::Closed`] after shutdown or a panic.
    pub fn submit(&self, _request: Request) -> Result<RequestId> {
        Err(Error::Internal("not yet".into()))
    }

    /// Asks for a request's end; its last event follows. Unknown and finished ids are ignored. Any thread.
    pub fn cancel(&self, _id: RequestId) -> Result<()> {
        Ok(())
    }

    /// The next event of any request; waits up to `timeout` (`None`: until there is one), then returns `Ok(None)`.
    ///
    /// Errors: [`Error::Closed`] once a shut-down or poisoned engine has no more events.
    pub fn next(&self, _timeout: Option<Duration>) -> Result<Option<Event>> {
        Ok(None)
    }

    /// Ends every request with [`FinishReason::Cancelled`]; later submits are [`Error::Closed`]. Dropping does the same
    /// and joins the step thread.
    pub fn shutdown(&self) {}
}
