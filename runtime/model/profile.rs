//! Where a step's time goes, by operation, and what the operations have to read and compute.
//!
//! The forward pass stamps the clock behind each operation: all time since the stamp before belongs to it, so the parts add
//! up to the whole. While nothing is recorded a stamp is one test of a flag.

use super::host::Host;
use super::weights::LayerWeights;
use super::{Model, ModelSpec, Place};
use crate::batch::Batch;
use aieng_kernels::cpu::ceiling::Arithmetic;
use aieng_kernels::{BLOCK_TOKENS, KvDType, Weight};
use std::ops::Add;
use std::time::{Duration, Instant};

/// The operations of a step, in the order of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Rows of the embedding.
    Embed,
    /// All norms, and the additions to the residual stream that are done with them.
    Norm,
    /// Query, key and value projections.
    Qkv,
    /// Angles, and turning queries and keys by them.
    Rope,
    /// Keys and values into the cache.
    KvWrite,
    /// Attention over the cache.
    Attention,
    /// Attention's output projection.
    Output,
    /// Gate and up projections, and the activation.
    GateUp,
    /// Down projection.
    Down,
    /// Logits.
    Head,
    /// Everything else.
    Rest,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 11] = [
        Op::Embed,
        Op::Norm,
        Op::Qkv,
        Op::Rope,
        Op::KvWrite,
        Op::Attention,
        Op::Output,
        Op::GateUp,
        Op::Down,
        Op::Head,
        Op::Rest,
    ];

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Op::Embed => "embed",
            Op::Norm => "norm",
            Op::Qkv => "qkv",
            Op::Rope => "rope",
            Op::KvWrite => "kv_write",
            Op::Attention => "attention",
            Op::Output => "output",
            Op::GateUp => "gate_up",
            Op::Down => "down",
            Op::Head => "head",
            Op::Rest => "rest",
        }
    }
}

/// The time of each operation.
pub type Spent = [Duration; Op::ALL.len()];

/// Records, if it was told to.
#[derive(Debug, Default)]
pub(super) struct Recorder(Option<Clock>);

#[derive(Debug)]
struct Clock {
    last: Instant,
    spent: Spent,
}

impl Recorder {
    /// The time since the last stamp was `op`'s.
    #[inline]
    pub(super) fn stamp(&mut self, op: Op) {
        if let Some(clock) = &mut self.0 {
            let now = Instant::now();
            clock.spent[op as usize] += now - clock.last;
            clock.last = now;
        }
    }
}

/// What an operation cannot do without, however it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Weights, or keys and values: each byte once a step.
    pub bytes: u64,
    /// Multiplications and additions.
    pub operations: u64,
    /// What most of them are made of.
    pub arithmetic: Arithmetic,
}

impl Add for Work {
    type Output = Work;

    /// The arithmetic is that of the greater part.
    fn add(self, other: Work) -> Work {
        let arithmetic = if self.operations >= other.operations { self.arithmetic } else { other.arithmetic };
        Work { bytes: self.bytes + other.bytes, operations: self.operations + other.operations, arithmetic }
    }
}

impl Model {
    /// Begins to record where the time goes, from nought; on the host only, whose operations end one after another.
    pub fn start_profile(&mut self) {
        if let Place::Host(host) = &mut self.place {
            *host.recorder() = Recorder(Some(Clock { last: Instant::now(), spent: Spent::default() }));
        }
    }

    /// Ends what [`Model::start_profile`] began: the parts add up to the time between the two. All zero without it.
    pub fn finish_profile(&mut self) -> Spent {
        let Place::Host(host) = &mut self.place else { return Spent::default() };
        host.recorder().stamp(Op::Rest);
        std::mem::take(host.recorder()).0.map_or(Spent::default(), |clock| clock.spent)
    }

    /// The work of the matrix operations and of attention on `batch`; `None` for the others, which are short.
    pub fn work(&self, op: Op, batch: &Batch) -> Option<Work> {
        match &self.place {
            Place::Host(host) => host.work(&self.spec, op, batch),
            Place::Cuda(_) => None,
        }
    }
}

impl Host {
    fn work(&self, spec: &ModelSpec, op: Op, batch: &Batch) -> Option<Work> {
        let matrices = |weight: fn(&LayerWeights) -> &Weight| {
            self.weights.layers.iter().map(|l| matrix_work(weight(l), batch.len())).reduce(Work::add)
        };
        match op {
            Op::Qkv => matrices(|l| &l.qkv),
            Op::Output => matrices(|l| &l.output),
            Op::GateUp => matrices(|l| &l.gate_up),
            Op::Down => matrices(|l| &l.down),
            Op::Head => Some(matrix_work(self.weights.head(), batch.logits_indices.len())),
            Op::Attention => Some(self.attention_work(spec, batch)),
            Op::Embed | Op::Norm | Op::Rope | Op::KvWrite | Op::Rest => None,
        }
    }

    fn attention_work(&self, spec: &ModelSpec, batch: &Batch) -> Work {
        let arithmetic = if self.cache.dtype() == KvDType::BF16 { Arithmetic::Bf16 } else { Arithmetic::F32 };
        let mut work = Work { bytes: 0, operations: 0, arithmetic };
        for (i, layer) in spec.layers.iter().enumerate() {
            let token_bytes = self.cache.block_bytes(i) / BLOCK_TOKENS;
            for (lens, &context) in batch.cu_seqlens_q.windows(2).zip(&batch.context_lens) {
                let seen = |end: u32| layer.attn.window.map_or(end, |window| end.min(window));
                let first = context - (lens[1] - lens[0]) + 1;
                let pairs: u64 = (first..=context).map(|end| u64::from(seen(end))).sum();
                let read = u64::from(context - (first - seen(first)));
                // A score and a weighted value: a multiplication and an addition for each element of a head.
                let pair = 4 * layer.attn.q_cols() as u64;
                work.bytes += read * token_bytes as u64;
                work.operations += pairs * pair;
            }
        }
        work
    }
}

fn matrix_work(weight: &Weight, rows: usize) -> Work {
    let arithmetic = weight.arithmetic();
    let bytes = if rows == 0 { 0 } else { weight.bytes() as u64 };
    Work { bytes, operations: 2 * (weight.rows() * weight.cols() * rows) as u64, arithmetic }
}
