//! Spans and events for `tracing` subscribers, with the feature "tracing"; without it nothing is compiled.
//!
//! `aieng.step` (tokens, sequences) spans a step and `aieng.execute` the model's part of it; `aieng.request` tells of each
//! sample's end (request, sample, reason, prompt_tokens, cached_tokens, completion_tokens, ttft_ms).

use super::Event;

/// A span that ends when it is dropped.
#[must_use]
pub(super) struct Span {
    #[cfg(feature = "tracing")]
    _span: tracing::span::EnteredSpan,
}

/// A step.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables))]
pub(super) fn step(tokens: usize, sequences: usize) -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _span: tracing::debug_span!("aieng.step", tokens, sequences).entered(),
    }
}

/// The model's part of a step.
pub(super) fn execute() -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _span: tracing::debug_span!("aieng.execute").entered(),
    }
}

/// An event goes out.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables))]
pub(super) fn deliver(event: &Event) {
    #[cfg(feature = "tracing")]
    if let Some(finish) = &event.finish {
        tracing::info!(
            name: "aieng.request",
            request = event.request.0,
            sample = event.sample,
            reason = ?finish.reason,
            prompt_tokens = finish.prompt_tokens,
            cached_tokens = finish.cached_tokens,
            completion_tokens = finish.completion_tokens,
            ttft_ms = finish.timings.ttft.map(|t| t.as_secs_f64() * 1e3),
        );
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use super::super::simulated::{Simulated, metadata};
    use super::super::step::StepLoop;
    use super::super::*;
    use crate::TokenId;
    use crate::sampling::SamplingParams;
    use std::sync::Mutex;
    use tracing::span::{Attributes, Id, Record};

    /// Notes the names of spans and events.
    struct Names(Arc<Mutex<Vec<&'static str>>>);

    impl tracing::Subscriber for Names {
        fn enabled(&self, _: &tracing::Metadata) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes) -> Id {
            self.0.lock().unwrap().push(span.metadata().name());
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &tracing::Event) {
            self.0.lock().unwrap().push(event.metadata().name());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_request_leaves_its_trace() {
        let config = EngineConfig { max_requests: 4, ..EngineConfig::default() };
        let (executor, sizes) = Simulated::new(&config, SimulatedCost::default()).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_metadata(&metadata().unwrap()).unwrap());
        let shared = Arc::new(Shared::new(4, Log::default()).unwrap());
        let terms = Terms::new(&executor, sizes, &config);
        let mut steps = StepLoop::new(executor, sizes, &config, tokenizer, Arc::clone(&shared)).unwrap();
        let sampling = SamplingParams { max_tokens: 2, ignore_eos: true, ..Default::default() };
        let request = Request::new(vec![TokenId(1); 3], sampling);
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let submission = Submission::new(RequestId(1), request, &terms).unwrap();
        assert!(shared.commands.push(Command::Submit(Box::new(submission))).is_ok());
        let names = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Names(Arc::clone(&names)), || {
            steps.turn().unwrap();
            steps.turn().unwrap();
        });
        let step = ["aieng.step", "aieng.execute"];
        assert_eq!(*names.lock().unwrap(), [&step[..], &step[..], &["aieng.request"]].concat());
    }
}
