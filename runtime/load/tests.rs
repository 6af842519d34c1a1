//! The reader accepts what is right, and says what is wrong: file, field and value.

use super::mutate::mutate;
use super::writer::{GgufWriter, array, string};
use super::{Array, Gguf, Value};
use crate::{Error, Result};
use aieng_kernels::DType;
use std::path::{Path, PathBuf};

const NAME: &str = "dir/model.gguf";

fn parse(bytes: &[u8]) -> Result<Gguf> {
    Gguf::from_bytes(Path::new(NAME), bytes)
}

/// The file must be refused as damaged, with a message that has all of `parts` and the file's name.
#[track_caller]
fn damaged(bytes: &[u8], parts: &[&str]) {
    let error = parse(bytes).expect_err("must be refused");
    assert!(matches!(error, Error::ModelFormat { .. }), "{error:?}");
    says(&error, parts);
}

/// The same for files that are well formed, but beyond aieng.
#[track_caller]
fn unsupported(bytes: &[u8], parts: &[&str]) {
    let error = parse(bytes).expect_err("must be refused");
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    says(&error, parts);
}

#[track_caller]
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    assert!(text.starts_with(NAME), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// One of everything.
fn small() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("general.alignment", 32)
        .u32("llama.block_count", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["<s>", "é", "", "▁the"])
        .f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0, -3.5])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, -1])
        .entry("bits", 9, &array(7, 3, &[1, 0, 1]))
        .entry("wide", 10, &u64::MAX.to_le_bytes())
        .entry("narrow", 1, &[0x80])
        .entry("double", 12, &0.1f64.to_le_bytes())
        .tensor_f32("norm.weight", &[4], &[1.0, 2.0, 3.0, 4.0])
        .tensor("blk.0.attn_q.weight", DType::Q8_0, &[32, 2], &[7; 68])
        .tensor("blk.0.attn_k.weight", DType::Q4_K, &[256, 1], &[9; 144])
}

#[test]
fn reads_what_was_written() {
    for version in [2, 3] {
        let gguf = parse(&small().version(version).bytes()).unwrap();
        assert_eq!(gguf.version(), version);
        let m = gguf.metadata();
        assert_eq!(m.str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(m.u32("llama.block_count").unwrap(), Some(1));
        assert_eq!(m.f32("llama.attention.layer_norm_rms_epsilon").unwrap(), Some(1e-5));
        assert_eq!(m.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        let tokens: Vec<&str> = m.strings("tokenizer.ggml.tokens").unwrap().unwrap().iter().collect();
        assert_eq!(tokens, ["<s>", "é", "", "▁the"]);
        assert_eq!(m.f32s("tokenizer.ggml.scores").unwrap().unwrap(), [0.0, -1.0, -2.0, -3.5]);
        assert_eq!(m.i32s("tokenizer.ggml.token_type").unwrap().unwrap(), [3, 1, 1, -1]);
        assert!(matches!(m.get("bits"), Some(Value::Array(Array::Unsigned(b))) if *b == [1, 0, 1]));
        assert!(matches!(m.get("wide"), Some(Value::Unsigned(u64::MAX))));
        assert!(matches!(m.get("narrow"), Some(Value::Signed(-128))));
        assert!(matches!(m.get("double"), Some(Value::Float(x)) if *x == 0.1));

        let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight"]);
        let q = gguf.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!((q.dtype, &q.shape[..], q.len), (DType::Q8_0, &[32, 2][..], 68));
        assert_eq!(gguf.bytes(q), [7; 68]);
        assert!(gguf.tensor("output.weight").is_none());
        for t in gguf.tensors() {
            assert_eq!(gguf.bytes(t).as_ptr() as usize % 32, 0, "{}", t.name);
            gguf.release(t);
        }
        assert_eq!(gguf.bytes(q), [7; 68], "bytes that came from memory survive a release");
    }
}

#[test]
fn metadata_errors_name_key_and_value() {
    let gguf = parse(&small().bytes()).unwrap();
    let m = gguf.metadata();
    says(&m.u32("general.architecture").unwrap_err(), &["general.architecture", "\"llama\"", "integer"]);
    says(&m.u32("wide").unwrap_err(), &["wide", "18446744073709551615"]);
    says(&m.str("tokenizer.ggml.tokens").unwrap_err(), &["tokenizer.ggml.tokens", "an array of 4 strings"]);
    says(&m.f32s("tokenizer.ggml.tokens").unwrap_err(), &["tokenizer.ggml.tokens", "floats"]);
    says(&m.require::<u32>("x.y", None).unwrap_err(), &["x.y", "missing"]);
}

#[test]
fn magic() {
    damaged(b"", &["empty"]);
    damaged(b"GG", &["magic", "ends at byte 2"]);
    damaged(b"PK\x03\x04....", &["magic", "PK", "zip"]);
    damaged(b"version https://git-lfs", &["magic", "vers", "Git LFS"]);
    damaged(b"\x1b[2J", &["magic", "\\x1b[2J"]);
}

#[test]
fn version() {
    let of = |version| small().version(version).bytes();
    unsupported(&of(1), &["version", "GGUF 1"]);
    unsupported(&of(4), &["version", "GGUF 4"]);
    unsupported(&of(3u32.swap_bytes()), &["version", "big-endian"]);
    damaged(&of(0), &["version", "0"]);
    damaged(b"GGUF\x03", &["version", "ends at byte 5"]);
}

#[test]
fn counts_beyond_the_file() {
    for count in [1000, u64::from(u32::MAX), u64::MAX / 32, u64::MAX] {
        let value = count.to_string();
        damaged(&small().claim_tensors(count).bytes(), &["tensor count", &value]);
        damaged(&small().claim_entries(count).bytes(), &["metadata count", &value]);
        for element_type in [0, 4, 8, 12] {
            let value = array(element_type, count, &[0; 64]);
            damaged(&small().entry("list", 9, &value).bytes(), &["list: array length", &count.to_string()]);
        }
    }
}

#[test]
fn strings_past_the_end() {
    let long = |len: u64| [&len.to_le_bytes()[..], b"abc"].concat();
    for len in [400, i64::MAX as u64, u64::MAX] {
        let value = format!("string length {len}");
        damaged(&GgufWriter::new().entry("k", 8, &long(len)).bytes(), &["k: ", &value]);
        let list = array(8, 1, &long(len));
        damaged(&GgufWriter::new().entry("list", 9, &list).bytes(), &["list[0]: ", &value]);
        let key = [&b"GGUF\x03\0\0\0"[..], &[0; 8], &1u64.to_le_bytes(), &long(len), &[0; 8]].concat();
        damaged(&key, &["key 0: ", &value]);
    }
    let long_key = "k".repeat(65536);
    damaged(&GgufWriter::new().u32(&long_key, 1).bytes(), &["key 0", "65536", "limit of 65535"]);
    let long_name = "n".repeat(257);
    damaged(
        &GgufWriter::new().tensor_f32(&long_name, &[1], &[0.0]).bytes(),
        &["tensor 0: name", "257", "limit of 256"],
    );
}

#[test]
fn strings_that_are_not_utf8() {
    let bad = b"a\xffb";
    damaged(&GgufWriter::new().entry(bad, 4, &[0; 4]).bytes(), &["key 0", "a\\xffb", "UTF-8"]);
    damaged(&GgufWriter::new().entry("k", 8, &string(bad)).bytes(), &["k: ", "a\\xffb", "UTF-8"]);
    let list = array(8, 2, &[string("ok"), string(bad)].concat());
    damaged(&GgufWriter::new().entry("list", 9, &list).bytes(), &["list[1]", "a\\xffb", "UTF-8"]);
    damaged(&GgufWriter::new().info(bad, &[1], 0, 0).bytes(), &["tensor 0: name", "a\\xffb", "UTF-8"]);
}

#[test]
fn keys_and_names() {
    damaged(&small().u32("llama.block_count", 2).bytes(), &["llama.block_count", "duplicate key", "1 and 2"]);
    damaged(&small().u32("", 2).bytes(), &["key 12", "empty"]);
    let twice = small().tensor_f32("norm.weight", &[1], &[0.0]);
    damaged(&twice.bytes(), &["norm.weight", "duplicate name", "0 and 3"]);
    damaged(&small().tensor_f32("", &[1], &[0.0]).bytes(), &["tensor 3: name", "empty"]);
    damaged(&small().tensor_f32("a\x1b[2Jb", &[0], &[]).bytes(), &["tensor a\\u{1b}[2Jb", "dimension 0 is 0"]);
}

#[test]
fn value_types() {
    damaged(&small().entry("k", 13, &[0; 16]).bytes(), &["k: ", "value type 13"]);
    damaged(&small().entry("k", u32::MAX, &[0; 16]).bytes(), &["k: ", "value type 4294967295"]);
    damaged(&small().entry("k", 9, &array(99, 1, &[0; 16])).bytes(), &["k: element type", "value type 99"]);
    damaged(&small().entry("k", 9, &array(9, 1, &array(4, 1, &[0; 4]))).bytes(), &["k: ", "array of arrays"]);
    damaged(&small().entry("k", 7, &[2]).bytes(), &["k: ", "boolean is 2"]);
    damaged(&small().entry("k", 9, &array(7, 2, &[1, 3])).bytes(), &["k[1]: ", "boolean is 3"]);
    damaged(&GgufWriter::new().entry("k", 10, &[0; 4]).head(), &["k: ", "8 bytes wanted"]);
}

#[test]
fn alignment() {
    for bad in [0, 1, 4, 24, 33, 1 << 21, u32::MAX] {
        let file = GgufWriter::new().u32("general.alignment", bad);
        damaged(&file.bytes(), &["general.alignment", &bad.to_string(), "power of two"]);
    }
    damaged(&GgufWriter::new().string("general.alignment", "x").bytes(), &["general.alignment", "\"x\""]);
    for alignment in [8, 64, 4096] {
        let file = GgufWriter::new()
            .alignment(alignment)
            .u32("general.alignment", alignment as u32)
            .tensor_f32("a", &[1], &[1.0])
            .tensor_f32("b", &[1], &[2.0]);
        let gguf = parse(&file.bytes()).unwrap();
        assert_eq!(gguf.bytes(gguf.tensor("b").unwrap()), 2f32.to_le_bytes());
    }
}

#[test]
fn tensor_types() {
    let of = |id| GgufWriter::new().info("blk.0.q", &[256], id, 0).bytes();
    unsupported(&of(23), &["tensor blk.0.q", "type 23 (IQ4_XS)", "Q4_K"]);
    unsupported(&of(10), &["tensor blk.0.q", "type 10 (Q2_K)"]);
    unsupported(&of(u32::MAX), &["tensor blk.0.q", "type 4294967295 (unknown)"]);
}

#[test]
fn shapes() {
    let of = |shape: &[u64], dtype: DType| GgufWriter::new().info("w", shape, dtype as u32, 0).bytes();
    damaged(&of(&[], DType::F32), &["tensor w", "0 dimensions"]);
    damaged(&of(&[1; 5], DType::F32), &["tensor w", "5 dimensions"]);
    damaged(&of(&[4, 0], DType::F32), &["tensor w", "dimension 1 is 0"]);
    damaged(&of(&[33, 2], DType::Q4_0), &["tensor w", "row length 33", "Q4_0's block of 32"]);
    damaged(&of(&[128, 2], DType::Q6_K), &["tensor w", "row length 128", "Q6_K's block of 256"]);
    for shape in [vec![u64::MAX], vec![1 << 32, 1 << 32], vec![1 << 61], vec![1 << 20; 4]] {
        damaged(&of(&shape, DType::F32), &["tensor w", &shape[0].to_string(), "overflows"]);
    }
    damaged(&of(&[1 << 60], DType::F32), &["tensor w", "past the file's end"]);
    let cut = GgufWriter::new().info("w", &[1, 2], 0, 0).head();
    damaged(&cut[..cut.len() - 14], &["tensor w: dimension 1", "8 bytes wanted"]);
}

#[test]
fn offsets() {
    let of = |offset| GgufWriter::new().tensor_f32("a", &[16], &[0.0; 16]).info("b", &[8], 0, offset).bytes();
    damaged(&of(12), &["tensor b", "offset 12", "alignment 32"]);
    damaged(&of(64), &["tensor b", "32 bytes at offset 64", "past the file's end"]);
    damaged(&of(u64::MAX - 31), &["tensor b", "18446744073709551584", "past the file's end"]);
    damaged(&of(1 << 63), &["tensor b", "9223372036854775808", "past the file's end"]);
    damaged(&of(32), &["tensor b", "overlap", "of a"]);
    let whole = small().bytes();
    damaged(&whole[..whole.len() - 1], &["blk.0.attn_k.weight", "144 bytes", "cut off"]);
}

#[test]
fn split_models() {
    unsupported(&small().entry("split.count", 2, &[3, 0]).bytes(), &["split.count", "3 files"]);
    parse(&small().entry("split.count", 2, &[1, 0]).bytes()).unwrap();
}

/// Every proper prefix of a file is refused, since its last tensor ends at its last byte.
#[test]
fn truncation_at_every_byte() {
    let whole = small().bytes();
    for len in 0..whole.len() {
        damaged(&whole[..len], &[]);
    }
    parse(&whole).unwrap();
}

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("aieng-load-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files() {
    let folder = Folder::new("files");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, small().bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let q = gguf.tensor("blk.0.attn_q.weight").unwrap();
    gguf.release(q);
    gguf.release_range(q, 10..usize::MAX);
    assert_eq!(gguf.bytes(q), [7; 68]);
    assert_eq!(gguf.file_len(), small().bytes().len());

    let missing = Gguf::open(&folder.0.join("none.gguf")).unwrap_err();
    assert!(matches!(missing, Error::Io { action: "open", .. }), "{missing}");
    std::fs::write(folder.0.join("empty.gguf"), b"").unwrap();
    for (name, part) in [("", "is a directory"), ("empty.gguf", "empty")] {
        let text = Gguf::open(&folder.0.join(name)).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains(name), "{text}");
    }
    for device in ["/dev/null", "/dev/zero"] {
        let text = Gguf::open(Path::new(device)).unwrap_err().to_string();
        assert!(text.contains("not a regular file") && text.contains(device), "{text}");
    }
}

/// Nobody ever opens the other end: a plain open would wait forever.
#[test]
fn fifo() {
    let folder = Folder::new("fifo");
    let path = folder.0.join("model.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let text = Gguf::open(&path).unwrap_err().to_string();
    assert!(text.contains("not a regular file"), "{text}");
}

#[test]
fn unreadable() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("unreadable");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, small().bytes()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        println!("skipped: the superuser may read anything");
        return;
    }
    let text = Gguf::open(&path).unwrap_err().to_string();
    assert!(text.contains("cannot open") && text.contains("model.gguf"), "{text}");
}

/// Pages released stop being resident, and their bytes come back from the file.
#[test]
fn release_lowers_resident_memory() {
    const LEN: usize = 64 << 20;
    let folder = Folder::new("release");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, small().tensor("big", DType::F32, &[LEN / 4], &vec![5; LEN]).bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let big = gguf.tensor("big").unwrap();
    assert!(gguf.bytes(big).iter().all(|b| *b == 5));
    let before = status_kib("RssFile:");
    gguf.release(big);
    let after = status_kib("RssFile:");
    assert!(before.saturating_sub(after) > (LEN / 1024) as u64 * 3 / 4, "{before} KiB before, {after} KiB after");
    assert!(gguf.bytes(big).iter().all(|b| *b == 5));
}

/// A field of /proc/self/status, in KiB.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Looks at all that a loaded file offers.
fn use_all(gguf: &Gguf) -> usize {
    let text: usize = gguf.metadata().entries().values().map(|v| v.brief().len()).sum();
    let bytes: usize = gguf.tensors().iter().map(|t| gguf.bytes(t).iter().filter(|b| **b > 0).count()).sum();
    gguf.tensors().iter().for_each(|t| gguf.release(t));
    text + bytes
}

#[test]
fn ten_thousand_mutations() {
    const SEED: u64 = 0x61_69_65_6e_67;
    let (whole, head) = (small().bytes(), small().head().len());
    let virtual_before = status_kib("VmPeak:");
    let (mut loads, mut refusals) = (0, 0);
    for index in 0..10_000 {
        let bytes = mutate(&whole, head, SEED, index);
        let outcome = std::panic::catch_unwind(|| parse(&bytes).map(|g| use_all(&g)));
        match outcome.unwrap_or_else(|_| panic!("panic at seed {SEED:#x}, index {index}")) {
            Ok(_) => loads += 1,
            Err(Error::ModelFormat { .. } | Error::Unsupported(_)) => refusals += 1,
            Err(other) => panic!("seed {SEED:#x}, index {index}: {other:?}"),
        }
    }
    println!("seed {SEED:#x}: {loads} loads, {refusals} refusals");
    assert!(loads > 1000 && refusals > 1000, "{loads} loads, {refusals} refusals: not a test any more");
    // A length that was believed would have asked for gigabytes; other tests' threads account for some of this.
    let grown = status_kib("VmPeak:") - virtual_before;
    assert!(grown < 1 << 20, "the peak of virtual memory grew by {grown} KiB");
}
