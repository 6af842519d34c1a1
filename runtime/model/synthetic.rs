//! Model files of real shapes with random weights, for measuring speed: it depends on sizes and formats, not on what a model
//! has learnt. The same shape and seed give the same bytes.
//!
//! The files are as llama.cpp's quantiser would lay them out, and any GGUF reader takes them. Their tokens are the bytes and
//! then names that no text contains.

use crate::load::writer::GgufWriter;
use crate::tokenizer::BYTE_CHARS;
use aieng_kernels::DType;
use std::io::{self, Write};

/// A llama.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// What commands call it.
    pub name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    pub(super) vocab: usize,
    context: usize,
    /// Whether the embedding is the head, too.
    pub(super) tied: bool,
    /// Format of a layer's matrices, and of an embedding that is not the head.
    matrices: DType,
    /// Format of the head.
    head: DType,
}

/// All shapes.
pub const SHAPES: [Shape; 3] = [
    // Llama 3 8B, quantised to Q4_0.
    Shape {
        name: "llama-3-8b",
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        width: 14336,
        vocab: 128_256,
        context: 8192,
        tied: false,
        matrices: DType::Q4_0,
        head: DType::Q6_K,
    },
    // Llama 3.2 1B, quantised to Q4_0.
    Shape {
        name: "llama-1b",
        layers: 16,
        hidden: 2048,
        heads: 32,
        kv_heads: 8,
        width: 8192,
        vocab: 128_256,
        context: 131_072,
        tied: true,
        matrices: DType::Q4_0,
        head: DType::Q6_K,
    },
    // The same in small, to try things out.
    Shape {
        name: "llama-small",
        layers: 2,
        hidden: 256,
        heads: 4,
        kv_heads: 2,
        width: 512,
        vocab: 1024,
        context: 4096,
        tied: true,
        matrices: DType::Q4_0,
        head: DType::Q6_K,
    },
];

/// Bytes of data that are made and written at once, about.
const CHUNK: usize = 1 << 20;
const ALIGNMENT: usize = 32;

/// A tensor of the file: rows of columns; vectors have one row and are f32.
pub(super) struct Tensor {
    pub name: String,
    dtype: DType,
    pub rows: usize,
    pub cols: usize,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.rows * self.dtype.row_bytes(self.cols)
    }

    fn padded(&self) -> usize {
        self.bytes().next_multiple_of(ALIGNMENT)
    }
}

impl Shape {
    /// The shape of this name.
    pub fn find(name: &str) -> Option<Shape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Writes the file; `progress` is called with the fraction written, 0 to 1.
    pub fn write(&self, seed: u64, out: &mut impl Write, progress: &mut dyn FnMut(f32)) -> io::Result<()> {
        let tensors = self.tensors();
        let total: usize = tensors.iter().map(Tensor::padded).sum();
        let mut header = self.metadata();
        let mut offset = 0;
        for tensor in &tensors {
            let shape = [tensor.cols as u64, tensor.rows as u64];
            let dimensions = if tensor.rows == 1 { 1 } else { 2 };
            header = header.info(&tensor.name, &shape[..dimensions], tensor.dtype as u32, offset as u64);
            offset += tensor.padded();
        }
        out.write_all(&header.bytes())?;
        let mut random = Random(seed);
        let mut written = 0;
        for tensor in &tensors {
            let row_bytes = tensor.dtype.row_bytes(tensor.cols);
            let rows = (CHUNK / row_bytes).max(1);
            for first in (0..tensor.rows).step_by(rows) {
                let mut bytes = vec![0; rows.min(tensor.rows - first) * row_bytes];
                random.weights(tensor.dtype, self.hidden, &mut bytes);
                out.write_all(&bytes)?;
                written += bytes.len();
                progress(written as f32 / total as f32);
            }
            out.write_all(&[0; ALIGNMENT][..tensor.padded() - tensor.bytes()])?;
        }
        out.flush()
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let head_dim = self.hidden / self.heads;
        let vector = |name: String| Tensor { name, dtype: DType::F32, rows: 1, cols: self.hidden };
        let matrix = |name: String, rows, cols| Tensor { name, dtype: self.matrices, rows, cols };
        let of_vocabulary =
            |name: &str, dtype| Tensor { name: name.into(), dtype, rows: self.vocab, cols: self.hidden };
        let embedding = of_vocabulary("token_embd.weight", if self.tied { self.head } else { self.matrices });
        let head = (!self.tied).then(|| of_vocabulary("output.weight", self.head));
        let mut tensors = vec![embedding, vector("output_norm.weight".into())];
        tensors.extend(head);
        for i in 0..self.layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            tensors.push(vector(name("attn_norm")));
            tensors.push(matrix(name("attn_q"), self.hidden, self.hidden));
            tensors.push(matrix(name("attn_k"), self.kv_heads * head_dim, self.hidden));
            tensors.push(matrix(name("attn_v"), self.kv_heads * head_dim, self.hidden));
            tensors.push(matrix(name("attn_output"), self.hidden, self.hidden));
            tensors.push(vector(name("ffn_norm")));
            tensors.push(matrix(name("ffn_gate"), self.width, self.hidden));
            tensors.push(matrix(name("ffn_up"), self.width, self.hidden));
            tensors.push(matrix(name("ffn_down"), self.hidden, self.width));
        }
        tensors
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.rows * tensor.cols).sum()
    }

    /// What a file says of the model before its tensors.
    pub(super) fn metadata(&self) -> GgufWriter {
        let names = (BYTE_CHARS.len()..self.vocab).map(|id| format!("<|token {id}|>"));
        let tokens: Vec<String> = BYTE_CHARS.iter().map(char::to_string).chain(names).collect();
        GgufWriter::new()
            .string("general.architecture", "llama")
            .string("general.name", &format!("{} with random weights", self.name))
            // Mostly Q4_0.
            .u32("general.file_type", 2)
            .u32("llama.embedding_length", self.hidden as u32)
            .u32("llama.block_count", self.layers as u32)
            .u32("llama.context_length", self.context as u32)
            .u32("llama.feed_forward_length", self.width as u32)
            .u32("llama.attention.head_count", self.heads as u32)
            .u32("llama.attention.head_count_kv", self.kv_heads as u32)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .f32("llama.rope.freq_base", 500_000.0)
            .u32("llama.rope.dimension_count", (self.hidden / self.heads) as u32)
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", "llama-bpe")
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &vec![1; self.vocab])
            .strings::<&str>("tokenizer.ggml.merges", &[])
            .u32("tokenizer.ggml.bos_token_id", self.vocab as u32 - 2)
            .u32("tokenizer.ggml.eos_token_id", self.vocab as u32 - 1)
    }
}

/// How far the weights of a matrix of `hidden` columns are from zero, so that what passes through it stays about as large.
pub(super) fn deviation(hidden: usize) -> f32 {
    (hidden as f32).sqrt().recip()
}

/// Codes of 4 bits deviate by this much from their mean.
pub(super) const CODES_4: f32 = 4.6;

/// Steele, Lea and Flood's SplitMix64.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fills `bytes` with any.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes()[..eight.len()]);
        }
    }

    /// Fills rows of this format: random codes, and scales that give them the deviation of `hidden` columns. Norms, which are
    /// f32, are near 1.
    pub fn weights(&mut self, dtype: DType, hidden: usize, bytes: &mut [u8]) {
        self.fill(bytes);
        let deviation = deviation(hidden);
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            match dtype {
                DType::F32 => block.copy_from_slice(&(0.75 + f32::from(block[0]) / 512.0).to_le_bytes()),
                // Evenly from -1.73 to 1.73 deviations.
                DType::BF16 => {
                    let unit = f32::from(u16::from_le_bytes([block[0], block[1]])) / 32768.0 - 1.0;
                    block.copy_from_slice(&half::bf16::from_f32(3f32.sqrt() * deviation * unit).to_le_bytes());
                }
                // Codes from -8 to 7.
                DType::Q4_0 => block[..2].copy_from_slice(&half::f16::from_f32(deviation / CODES_4).to_le_bytes()),
                // Codes from -32 to 31 by 18.5; 16 scales of 8 to 23, times one of 16 bits.
                DType::Q6_K => {
                    block[192..208].iter_mut().for_each(|scale| *scale = 8 + *scale % 16);
                    block[208..].copy_from_slice(&half::f16::from_f32(deviation / 18.5 / 16.0).to_le_bytes());
                }
                other => unreachable!("no shape has weights in {}", other.name()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Logits};
    use crate::engine::EngineConfig;
    use crate::load::Gguf;
    use crate::model::Model;
    use std::path::Path;

    fn file(seed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut done = Vec::new();
        Shape::find("llama-small").unwrap().write(seed, &mut bytes, &mut |part| done.push(part)).unwrap();
        assert!(done.is_sorted() && done[0] > 0.0 && *done.last().unwrap() > 0.99, "{done:?}");
        bytes
    }

    #[test]
    fn a_seed_names_its_file() {
        assert!(file(1) == file(1) && file(1) != file(2));
    }

    #[test]
    fn a_file_loads_and_its_logits_are_ordinary_numbers() {
        let file = Gguf::from_bytes(Path::new("small.gguf"), &file(7)).unwrap();
        let config = EngineConfig { threads: 1, pin: false, context: 64, ..Default::default() };
        let mut model = Model::from_file(file, &config, &mut |_| Ok(())).unwrap();
        let mut batch = Batch::default();
        batch.clear();
        batch.push(&[5, 1000, 77, 300], 0, &[0], Logits::Last);
        model.forward(&batch).unwrap();
        model.compute_logits(0..1).unwrap();
        let logits = model.logits_row(0);
        let largest = logits.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(logits.len() == 1024 && logits.iter().all(|x| x.is_finite()), "{largest}");
        assert!((0.1..100.0).contains(&largest), "{largest}");
    }

    #[test]
    fn large_shapes_have_the_sizes_of_their_models() {
        let shape = Shape::find("llama-1b").unwrap();
        let bytes: usize = shape.tensors().iter().map(Tensor::bytes).sum();
        assert_eq!(shape.parameters(), 1_235_814_400);
        assert_eq!(Shape::find("llama-3-8b").unwrap().parameters(), 8_030_261_248);
        assert_eq!(bytes, 215_470_080 + 547_356_672 + 270_336);
    }
}
