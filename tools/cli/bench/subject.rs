//! What `aieng bench` measures: a file, or a model of a known shape with random weights.

use super::BenchArgs;
use crate::args::{load_model, with_progress};
use crate::failure::{Failure, Result};
use crate::summary::{Summary, count};
use aieng_runtime::engine::EngineConfig;
use aieng_runtime::load::Gguf;
use aieng_runtime::model::synthetic::{SHAPES, Shape};
use aieng_runtime::model::{Model, Quant};
use clap::ValueEnum;
use std::path::PathBuf;

/// Formats of random weights, by the names of the option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantName {
    /// 4 bits, in groups of 128 with a scale and a zero each; on the CPU Q4_0
    Int4,
    Bf16,
}

impl QuantName {
    fn quant(self) -> Quant {
        match self {
            QuantName::Int4 => Quant::Int4,
            QuantName::Bf16 => Quant::Bf16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            QuantName::Int4 => "int4",
            QuantName::Bf16 => "bf16",
        }
    }
}

/// The model to measure.
#[derive(Debug)]
pub enum Subject {
    File(PathBuf),
    Random(Shape, QuantName),
}

/// What reports say of it.
#[derive(Debug)]
pub struct Description {
    pub filename: String,
    pub kind: String,
    pub bytes: u64,
    pub parameters: u64,
}

impl Subject {
    /// The one that the options name.
    pub fn new(args: &BenchArgs) -> Result<Subject> {
        match &args.random_weights {
            Some(name) => Ok(Subject::Random(shape("--random-weights", name)?, args.quant)),
            None => Ok(Subject::File(args.model.file()?)),
        }
    }

    /// Loads it, or makes it.
    pub fn load(&self, config: &EngineConfig) -> Result<Model> {
        match self {
            Subject::File(path) => load_model(path, config),
            Subject::Random(shape, quant) => {
                with_progress(|progress| Model::random(shape, quant.quant(), config, progress))
            }
        }
    }

    /// Describes it as `model`, which was loaded from it, has it.
    pub fn describe(&self, model: &Model) -> Result<Description> {
        match self {
            Subject::File(path) => {
                let summary = Summary::new(&Gguf::open(path)?);
                let (bytes, parameters) = (summary.bytes, summary.parameters);
                Ok(Description { filename: path.display().to_string(), kind: summary.name(), bytes, parameters })
            }
            Subject::Random(shape, quant) => {
                let (bytes, parameters) = (model.weight_bytes() as u64, shape.parameters() as u64);
                let kind = format!("{} {} {}", shape.name, count(parameters), quant.name());
                Ok(Description { filename: String::new(), kind, bytes, parameters })
            }
        }
    }
}

/// The shape that `option` names.
pub fn shape(option: &str, name: &str) -> Result<Shape> {
    let names = SHAPES.map(|shape| shape.name).join(", ");
    Shape::find(name).ok_or_else(|| Failure::Usage(format!("{option}: {name} is none of: {names}")))
}
