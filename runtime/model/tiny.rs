//! Tiny models of every architecture with random weights, for tests: real files, real formats, a real vocabulary.

use crate::load::writer::GgufWriter;
use crate::tokenizer::BYTE_CHARS;
use aieng_kernels::DType;

/// Architectures that [`gguf`] makes.
pub const ARCHITECTURES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

/// Sizes of all tiny models.
const HIDDEN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const WIDTH: usize = 96;
/// Positions.
pub const CONTEXT: usize = 256;
/// Tokens: the 256 bytes and [`SPECIAL`].
pub const VOCAB: usize = 259;
/// Control tokens, the last ids: end of text, and what begins and ends a message.
pub const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// A model of `layers` layers. `seed` decides its weights.
pub fn gguf(architecture: &str, layers: usize, seed: u64) -> GgufWriter {
    let mut w = Weights { file: metadata(architecture, layers), state: seed };
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    w.matrix("token_embd.weight", DType::Q8_0, VOCAB, HIDDEN);
    w.vector("output_norm.weight", HIDDEN);
    for i in 0..layers {
        let name = |part: &str| format!("blk.{i}.{part}");
        w.vector(&name("attn_norm.weight"), HIDDEN);
        w.matrix(&name("attn_q.weight"), DType::Q4_0, q, HIDDEN);
        w.matrix(&name("attn_k.weight"), DType::Q4_0, kv, HIDDEN);
        w.matrix(&name("attn_v.weight"), DType::Q8_0, kv, HIDDEN);
        w.matrix(&name("attn_output.weight"), DType::F16, HIDDEN, q);
        w.vector(&name("ffn_norm.weight"), HIDDEN);
        w.matrix(&name("ffn_gate.weight"), DType::Q5_1, WIDTH, HIDDEN);
        w.matrix(&name("ffn_up.weight"), DType::Q4_1, WIDTH, HIDDEN);
        w.matrix(&name("ffn_down.weight"), DType::Q5_0, HIDDEN, WIDTH);
        if architecture == "qwen2" {
            w.vector(&name("attn_q.bias"), q);
            w.vector(&name("attn_k.bias"), kv);
            w.vector(&name("attn_v.bias"), kv);
        }
        if matches!(architecture, "qwen3" | "gemma3") {
            w.vector(&name("attn_q_norm.weight"), HEAD_DIM);
            w.vector(&name("attn_k_norm.weight"), HEAD_DIM);
        }
        if architecture == "gemma3" {
            w.vector(&name("post_attention_norm.weight"), HIDDEN);
            w.vector(&name("post_ffw_norm.weight"), HIDDEN);
        }
    }
    w.file
}

fn metadata(architecture: &str, layers: usize) -> GgufWriter {
    let key = |key: &str| format!("{architecture}.{key}");
    let tokens: Vec<String> = BYTE_CHARS.iter().map(char::to_string).chain(SPECIAL.map(str::to_owned)).collect();
    let types: Vec<i32> = (0..VOCAB).map(|i| if i < 256 { 1 } else { 3 }).collect();
    GgufWriter::new()
        .string("general.architecture", architecture)
        .string("general.name", "tiny")
        .u32(&key("embedding_length"), HIDDEN as u32)
        .u32(&key("block_count"), layers as u32)
        .u32(&key("context_length"), CONTEXT as u32)
        .u32(&key("feed_forward_length"), WIDTH as u32)
        .u32(&key("attention.head_count"), HEADS as u32)
        .u32(&key("attention.head_count_kv"), KV_HEADS as u32)
        .u32(&key("attention.key_length"), HEAD_DIM as u32)
        .u32(&key("attention.value_length"), HEAD_DIM as u32)
        .u32(&key("attention.sliding_window"), 16)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 10000.0)
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings::<&str>("tokenizer.ggml.merges", &[])
        .u32("tokenizer.ggml.eos_token_id", 258)
        .string("tokenizer.chat_template", "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
}

struct Weights {
    file: GgufWriter,
    state: u64,
}

impl Weights {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    /// Near 1, as norms are.
    fn vector(&mut self, name: &str, len: usize) {
        let values: Vec<f32> = (0..len).map(|_| 0.75 + (self.next() % 1000) as f32 / 2000.0).collect();
        self.file = std::mem::take(&mut self.file).tensor_f32(name, &[len], &values);
    }

    /// Random codes, and scales that keep rows of about unit length.
    fn matrix(&mut self, name: &str, dtype: DType, rows: usize, cols: usize) {
        let (scale, minimum) = match dtype {
            DType::Q8_0 => (0.002, 0.0),
            DType::Q4_1 => (0.04, -0.3),
            DType::Q5_1 => (0.02, -0.3),
            _ => (0.04, 0.0),
        };
        let mut bytes: Vec<u8> = (0..rows * dtype.row_bytes(cols)).map(|_| self.next() as u8).collect();
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
            match dtype {
                DType::F16 => block.copy_from_slice(&half((self.next() % 1000) as f32 / 2500.0 - 0.2)),
                DType::Q4_1 | DType::Q5_1 => {
                    block[..2].copy_from_slice(&half(scale));
                    block[2..4].copy_from_slice(&half(minimum));
                }
                _ => block[..2].copy_from_slice(&half(scale)),
            }
        }
        self.file = std::mem::take(&mut self.file).tensor(name, dtype, &[cols, rows], &bytes);
    }
}
