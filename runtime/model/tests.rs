use super::*;
use crate::batch::Logits;
use crate::chat::ChatTemplate;
use crate::load::mutate::mutate;
use crate::tokenizer::Tokenizer;

fn config(device: DeviceConfig) -> EngineConfig {
    EngineConfig { device, threads: 1, pin: false, max_sequences: 4, max_batch_tokens: 64, ..Default::default() }
}

fn load(bytes: &[u8], config: &EngineConfig) -> Result<Model> {
    Model::from_file(Gguf::from_bytes(Path::new("tiny.gguf"), bytes)?, config, &mut |_| Ok(()))
}

/// Logits of the last token of `tokens`, computed in chunks of `chunk`.
fn last_logits(model: &mut Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let table: Vec<u32> = (0..tokens.len().div_ceil(BLOCK_TOKENS) as u32).rev().collect();
    let mut batch = Batch::default();
    for (i, part) in tokens.chunks(chunk).enumerate() {
        batch.clear();
        batch.push(part, i * chunk, &table, Logits::Last);
        model.forward(&batch).unwrap();
    }
    model.compute_logits(0..1).unwrap();
    model.logits_row(0).to_vec()
}

#[test]
fn every_architecture_runs_on_every_device() {
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 256).collect();
    for architecture in tiny::ARCHITECTURES {
        let file = tiny::gguf(architecture, 7, 1).bytes();
        let want = last_logits(&mut load(&file, &config(DeviceConfig::Reference)).unwrap(), &tokens, 50);
        let spread = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(spread > 0.1 && spread.is_finite(), "{architecture}: {spread}");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut model = load(&file, &config(DeviceConfig::Cpu(Some(isa)))).unwrap();
            let got = last_logits(&mut model, &tokens, 50);
            let error = got.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(error < 0.1 * spread, "{architecture} on {}: {error} of {spread}", isa.name());
            for chunk in [1, 7, 16] {
                assert_eq!(last_logits(&mut model, &tokens, chunk), got, "{architecture}, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn a_config_out_of_range_is_named() {
    let file = tiny::gguf("llama", 1, 1).bytes();
    let base = config(DeviceConfig::Cpu(None));
    let cases = [
        (EngineConfig { context: 1000, ..base.clone() }, "context: 1000 is above the model's 256"),
        (EngineConfig { max_sequences: 0, ..base.clone() }, "max_sequences: 0"),
        (EngineConfig { max_batch_tokens: 2, ..base.clone() }, "max_batch_tokens: 2"),
        (EngineConfig { threads: 5000, ..base }, "threads: 5000"),
    ];
    for (config, want) in cases {
        let message = load(&file, &config).unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let whole = tiny::gguf("llama", 1, 1);
    let config = config(DeviceConfig::Reference);
    let renamed = |from: &str, to: &str| {
        let mut bytes = whole.bytes();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        load(&bytes, &config).unwrap_err().to_string()
    };
    assert!(renamed("blk.0.ffn_up.weight", "blk.0.ffn_xx.weight").contains("tensor blk.0.ffn_up.weight: missing"));
    let message = renamed("attn_output.weight", "attn_outpux.weight");
    assert!(message.contains("tensor blk.0.attn_output.weight: missing"), "{message}");
    let wide = tiny::gguf("llama", 1, 1).u32("llama.unused", 0);
    let message = load(&wide.bytes(), &config).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(message, Ok(()), "an unknown key is no error");
    let bytes = whole.bytes();
    let key = b"llama.feed_forward_length";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let mut bytes = bytes;
    bytes[at..at + 4].copy_from_slice(&64u32.to_le_bytes());
    let message = load(&bytes, &config).unwrap_err().to_string();
    assert!(message.contains("blk.0.ffn_gate.weight: shape [64, 96], expected [64, 64]"), "{message}");
}

/// A damaged file is refused with a clean error, or loads and runs.
#[test]
fn ten_thousand_damaged_models() {
    damaged_models(DeviceConfig::Cpu(None), 10_000);
}

/// The same on an emulated GPU, whose kernels take less than the host's.
#[cfg(feature = "emulate")]
#[test]
fn damaged_models_on_cuda() {
    damaged_models(DeviceConfig::Cuda(1), 500);
}

fn damaged_models(device: DeviceConfig, count: u64) {
    const SEED: u64 = 0x6d_6f_64_65_6c;
    let config = EngineConfig { max_batch_tokens: 4, kv_tokens: 32, ..config(device) };
    let writer = tiny::gguf("gemma3", 1, 2);
    let (whole, head) = (writer.bytes(), writer.head().len());
    let run = |bytes: &[u8]| -> Result<()> {
        let mut model = load(bytes, &config)?;
        let tokenizer = Tokenizer::from_metadata(model.file().metadata())?;
        let ids = tokenizer.encode("one <|im_end|> two", true, true)?;
        ids.iter().for_each(|id| drop(tokenizer.token_text(*id)));
        if let Some(template) = ChatTemplate::from_metadata(model.file().metadata())? {
            drop(template.render(&[], true));
        }
        let vocab = model.vocab() as u32;
        last_logits(&mut model, &[0, vocab - 1, vocab / 2], 3);
        Ok(())
    };
    let (mut loads, mut refusals) = (0, 0);
    for index in 0..count {
        let bytes = mutate(&whole, head, SEED, index);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes)));
        match outcome.unwrap_or_else(|_| panic!("panic at seed {SEED:#x}, index {index}")) {
            Ok(()) => loads += 1,
            Err(Error::ModelFormat { .. } | Error::Unsupported(_)) => refusals += 1,
            Err(other) => panic!("seed {SEED:#x}, index {index}: {other:?}"),
        }
    }
    println!("seed {SEED:#x}: {loads} loads, {refusals} refusals");
    let least = count / 10;
    assert!(loads > least && refusals > least, "{loads} loads, {refusals} refusals: not a test any more");
}

/// The same kernels that a GPU runs, on the CPU: close to the oracle, and the same bits in chunks of any size, of which those
/// of one token are recorded launches and the others are not; and in any order of lanes.
#[cfg(feature = "emulate")]
#[test]
fn every_architecture_runs_on_cuda() {
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 256).collect();
    for architecture in tiny::ARCHITECTURES {
        let file = tiny::gguf(architecture, 7, 1).bytes();
        let want = last_logits(&mut load(&file, &config(DeviceConfig::Reference)).unwrap(), &tokens, 50);
        let spread = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        let mut first = None;
        for seed in 1..=3 {
            let mut model = load(&file, &config(DeviceConfig::Cuda(seed))).unwrap();
            for chunk in [50, 1, 7, 16] {
                let got = last_logits(&mut model, &tokens, chunk);
                let error = got.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                println!("{architecture}: {error} of {spread}");
                assert!(error < 0.05 * spread, "{architecture}, seed {seed}: {error} of {spread}");
                let first = first.get_or_insert_with(|| got.clone());
                assert_eq!(&got, first, "{architecture}, seed {seed}, chunks of {chunk}");
            }
        }
    }
}

/// A model whose heads a device's blocks have no room for is refused, and not found out in a step.
#[cfg(feature = "emulate")]
#[test]
fn cuda_without_shared_memory_is_refused() {
    let load = |bytes: usize| {
        let file = Gguf::from_bytes(Path::new("tiny.gguf"), &tiny::gguf("llama", 1, 1).bytes())?;
        let gpu = aieng_cuda::Gpu::emulated_with_shared_bytes(1, bytes);
        Model::from_file_to(Some(gpu), file, &config(DeviceConfig::Cuda(1)), &mut |_| Ok(()))
    };
    let error = load(16 << 10).unwrap_err().to_string();
    assert!(error.contains("heads of 32 elements, with 16384 bytes of shared memory"), "{error}");
    assert!(load(99 << 10).is_ok());
}

/// Whichever call to the device's driver fails, in load or in a step: an error, and never a panic. The first failure that is
/// not for want of memory poisons the device.
#[cfg(feature = "emulate")]
#[test]
fn each_call_to_cuda_may_fail() {
    use aieng_cuda::Gpu;
    let config = EngineConfig { max_sequences: 2, max_batch_tokens: 4, ..config(DeviceConfig::Cuda(1)) };
    let file = tiny::gguf("gemma3", 1, 1).bytes();
    let run = |gpu: Gpu| -> Result<()> {
        let file = Gguf::from_bytes(Path::new("tiny.gguf"), &file)?;
        let mut model = Model::from_file_to(Some(gpu), file, &config, &mut |_| Ok(()))?;
        let mut batch = Batch::default();
        for (tokens, first) in [(&[1u32, 2, 3][..], 0), (&[4], 3)] {
            batch.clear();
            batch.push(tokens, first, &[0], Logits::Last);
            batch.copies = vec![(1, 2)];
            model.forward(&batch)?;
            model.compute_logits(0..1)?;
        }
        Ok(())
    };
    let mut refusals = [0; 2];
    for call in 0.. {
        assert!(call < 2000, "it never ends");
        match run(Gpu::emulated_with_fault(1, call)) {
            Ok(()) => break,
            Err(Error::OutOfMemory(_)) => refusals[0] += 1,
            Err(Error::Internal(what)) => {
                assert!(what.contains("a planted fault"), "{what}");
                refusals[1] += 1;
            }
            Err(other) => panic!("call {call}: {other:?}"),
        }
    }
    println!("refused: {} allocations, {} other calls", refusals[0], refusals[1]);
    assert!(refusals[0] > 20 && refusals[1] > 50, "{refusals:?}");
}
