//! Weights that are made where they are to be and never were a file, for measuring models of any size. The same shape gives
//! the same weights on devices of a kind.
//!
//! A matrix is a few random rows again and again: so it takes as long as its copies, and no memory besides.

use super::Progress;
use super::spec::{LayerSpec, ModelSpec};
use super::synthetic::{CODES_4, Random, Shape, deviation};
use super::weights::{LayerWeights, Layout, Role, Weights};
use crate::{Result, memory};
use aieng_kernels::linear::Source;
use aieng_kernels::rope::Frequencies;
use aieng_kernels::{Bytes, DType};
use std::fmt;
use std::sync::Arc;

/// Rows that are random; any more are these again.
pub(super) const PATTERN: usize = 256;

/// Columns of a group, of which each has a scale and a zero.
pub(super) const GROUP: usize = 128;

/// What a random model's matrices are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// 4 bits with a scale and a zero for each 128 columns, as GPTQ and AWQ quantise; on the host, which has no such format,
    /// Q4_0.
    Int4,
    /// 16 bits.
    Bf16,
}

impl Quant {
    /// The host's format.
    pub(super) fn on_host(self) -> DType {
        match self {
            Quant::Int4 => DType::Q4_0,
            Quant::Bf16 => DType::BF16,
        }
    }
}

/// A matrix to be made.
pub struct RandomMatrix<'a> {
    /// What it is for.
    pub role: Role,
    /// What it is held in.
    pub quant: Quant,
    /// Output features, of which gate and up have two each.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    random: &'a mut Random,
}

impl RandomMatrix<'_> {
    /// The rows that repeat, in a file's format.
    pub(super) fn pattern(&mut self, dtype: DType) -> Result<Source> {
        let len = PATTERN * dtype.row_bytes(self.cols);
        let mut bytes = memory::collect("random weights", len, std::iter::repeat_n(0, len))?;
        self.random.weights(dtype, self.cols, &mut bytes);
        Ok(Source { dtype, rows: PATTERN, bytes: Bytes::Shared(Arc::new(bytes), 0..len) })
    }

    /// The same as codes of 4 bits, and the scale of all.
    pub(super) fn codes(&mut self) -> Result<(Vec<u8>, f32)> {
        let len = PATTERN * self.cols / 2;
        let mut codes = memory::collect("random weights", len, std::iter::repeat_n(0, len))?;
        self.random.fill(&mut codes);
        Ok((codes, deviation(self.cols) / CODES_4))
    }
}

/// Format, rows and columns of all matrices, as the host has them.
pub(super) fn matrices_on_host(shape: &Shape, quant: Quant) -> impl Iterator<Item = (DType, usize, usize)> {
    let format = move |name: &str| if name == "token_embd.weight" { table(shape, quant) } else { quant };
    let matrices = shape.tensors().into_iter().filter(|tensor| tensor.rows > 1);
    matrices.map(move |tensor| (format(&tensor.name).on_host(), tensor.rows, tensor.cols))
}

/// An embedding that is no head is only looked up, and so has 16 bits.
fn table(shape: &Shape, quant: Quant) -> Quant {
    if shape.tied { quant } else { Quant::Bf16 }
}

/// All weights of a model of this shape.
pub(super) fn weights<M: fmt::Debug, V: fmt::Debug>(
    layout: &impl Layout<Matrix = M, Vector = V>,
    shape: &Shape,
    quant: Quant,
    spec: &ModelSpec,
    progress: Progress,
) -> Result<Weights<M, V>> {
    let mut maker = Maker { layout, quant, random: Random(1) };
    let (hidden, vocab) = (spec.hidden, shape.vocab);
    let embedding = maker.matrix_in(table(shape, quant), Role::Vocabulary, vocab, hidden)?;
    let head = (!shape.tied).then(|| maker.matrix(Role::Vocabulary, vocab, hidden)).transpose()?;
    let mut layers = memory::list("layers", spec.layers.len())?;
    for (i, layer) in spec.layers.iter().enumerate() {
        layers.push(maker.layer(layer, hidden)?);
        progress((i + 1) as f32 / spec.layers.len() as f32)?;
    }
    let ropes = spec.ropes.iter().map(|rope| Frequencies::new(rope.dims, rope.base, rope.scaling, None)).collect();
    Ok(Weights { embedding, head, norm: maker.norm(hidden)?, ropes, layers })
}

struct Maker<'a, L> {
    layout: &'a L,
    quant: Quant,
    random: Random,
}

impl<L: Layout> Maker<'_, L> {
    fn layer(&mut self, spec: &LayerSpec, hidden: usize) -> Result<LayerWeights<L::Matrix, L::Vector>> {
        Ok(LayerWeights {
            attn_norm: self.norm(hidden)?,
            qkv: self.matrix(Role::Attention, spec.attn.qkv_cols(), hidden)?,
            q_norm: None,
            k_norm: None,
            output: self.matrix(Role::Attention, hidden, spec.attn.q_cols())?,
            attn_post_norm: None,
            mlp_norm: self.norm(hidden)?,
            gate_up: self.matrix(Role::GateUp, 2 * spec.mlp.width, hidden)?,
            down: self.matrix(Role::Down, hidden, spec.mlp.width)?,
            mlp_post_norm: None,
        })
    }

    fn matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<L::Matrix> {
        self.matrix_in(self.quant, role, rows, cols)
    }

    fn matrix_in(&mut self, quant: Quant, role: Role, rows: usize, cols: usize) -> Result<L::Matrix> {
        self.layout.random(RandomMatrix { role, quant, rows, cols, random: &mut self.random })
    }

    fn norm(&mut self, len: usize) -> Result<L::Vector> {
        let mut values = memory::collect("random weights", len, std::iter::repeat_n(0f32, len))?;
        self.random.weights(DType::F32, len, bytemuck::cast_slice_mut(&mut values));
        self.layout.vector(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Logits};
    use crate::engine::{DeviceConfig, EngineConfig};
    use crate::model::Model;

    /// Logits of a prompt's last token.
    fn logits(shape: &Shape, quant: Quant, device: DeviceConfig) -> Vec<f32> {
        let config = EngineConfig { device, threads: 1, pin: false, context: 64, ..Default::default() };
        let mut model = Model::random(shape, quant, &config, &mut |_| Ok(())).unwrap();
        let mut batch = Batch::default();
        batch.clear();
        batch.push(&[5, 1000, 77, 300], 0, &[0], Logits::Last);
        model.forward(&batch).unwrap();
        model.compute_logits(0..1).unwrap();
        model.logits_row(0).to_vec()
    }

    fn shapes() -> [Shape; 2] {
        let mut shapes = [Shape::find("llama-small").unwrap(); 2];
        shapes[1].tied = !shapes[0].tied;
        shapes
    }

    fn assert_ordinary_logits(device: DeviceConfig) {
        for (shape, quant) in shapes().iter().flat_map(|shape| [(shape, Quant::Int4), (shape, Quant::Bf16)]) {
            let logits = logits(shape, quant, device);
            let largest = logits.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(logits.len() == 1024 && logits.iter().all(|x| x.is_finite()), "{quant:?}");
            assert!((0.1..100.0).contains(&largest), "{quant:?}: {largest}");
            // Rows of the head repeat, and so logits do.
            assert!(logits[0] == logits[PATTERN] && logits[0] != logits[1], "{quant:?}");
        }
    }

    #[test]
    fn logits_are_ordinary_numbers() {
        assert_ordinary_logits(DeviceConfig::Cpu(None));
    }

    #[cfg(feature = "emulate")]
    #[test]
    fn logits_of_cuda_are_ordinary_numbers() {
        assert_ordinary_logits(DeviceConfig::Cuda(1));
    }
}
