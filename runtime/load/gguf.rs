//! GGUF versions 2 and 3 over a memory map (format: ggml-org/ggml docs/gguf.md).
//!
//! Invariant: once `open` has returned, each tensor's range lies inside the file, fits its shape and dtype, is aligned
//! and overlaps no other; keys and tensor names are unique. Nothing else in the runtime needs to check those again.

use super::map::Map;
use super::reader::Reader;
use super::{Metadata, Value};
use crate::{Error, Result, memory};
use aieng_kernels::DType;
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

/// The specification's limit.
const MAX_KEY_BYTES: usize = 65535;
/// The specification says 64; image and audio models are known to exceed it.
const MAX_NAME_BYTES: usize = 256;
const MAX_DIMS: usize = 4;
const DEFAULT_ALIGNMENT: u32 = 32;
const MAX_ALIGNMENT: u32 = 1 << 20;
/// Key length, value type, shortest value.
const LEAST_ENTRY_BYTES: usize = 8 + 4 + 1;
/// Name length, dimension count, one dimension, dtype, offset.
const LEAST_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// First bytes of what is handed in by mistake for a model.
const OTHER_FILES: [(&[u8], &str); 6] = [
    (b"vers", " (a Git LFS pointer? fetch the file itself)"),
    (b"PK\x03\x04", " (a zip archive: a wheel, or a PyTorch checkpoint)"),
    (b"<!DO", " (a web page)"),
    (b"<htm", " (a web page)"),
    (b"tjgg", " (GGJT, older than GGUF: convert the model again)"),
    (b"lmgg", " (GGML, older than GGUF: convert the model again)"),
];

/// ggml_type numbers that exist, or once did, and that aieng does not read.
const OTHER_TYPES: [(u32, &str); 25] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// Where one tensor lies in the file, checked: `offset + len` is inside the file, `len` fits the shape and dtype.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name, as in "blk.0.attn_q.weight".
    pub name: String,
    /// Element format.
    pub dtype: DType,
    /// Sizes in GGUF's order: `shape[0]` is the row length (contiguous), `shape[1]` the number of rows.
    pub shape: Vec<usize>,
    /// From the start of the file, in bytes.
    pub offset: usize,
    /// In bytes.
    pub len: usize,
}

impl TensorInfo {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// An open model file.
#[derive(Debug)]
pub struct Gguf {
    map: Map,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Opens and checks a file; the tensors' bytes are mapped, not read.
    ///
    /// Errors: [`Error::Io`] if it cannot be opened or mapped, [`Error::ModelFormat`] if anything in it is wrong,
    /// [`Error::Unsupported`] for a GGUF version or tensor type that aieng does not read.
    pub fn open(path: &Path) -> Result<Gguf> {
        Gguf::parse(path, Map::open(path)?)
    }

    /// The same for bytes in memory, which are copied; `path` is named in errors only.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Gguf> {
        Gguf::parse(path, Map::from_bytes(path, bytes)?)
    }

    fn parse(path: &Path, map: Map) -> Result<Gguf> {
        let mut r = Reader::new(path, &map);
        let version = read_version(path, &mut r)?;
        let tensor_count = r.count(LEAST_TENSOR_BYTES, format_args!("tensor count"))?;
        let entry_count = r.count(LEAST_ENTRY_BYTES, format_args!("metadata count"))?;
        let metadata = Metadata::new(path, read_entries(&mut r, entry_count)?);
        refuse_parts(&metadata)?;
        let alignment = read_alignment(&metadata)?;
        let mut tensors = memory::list("tensors", tensor_count)?;
        for index in 0..tensor_count {
            tensors.push(read_tensor(path, &mut r, index, alignment)?);
        }
        let by_name = index_names(path, &tensors)?;
        // Cannot overflow: a position in the file plus at most 1 MiB.
        place_tensors(path, &mut tensors, r.at().next_multiple_of(alignment), map.len())?;
        Ok(Gguf { version, metadata, tensors, by_name, map })
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Size of the file in bytes.
    pub fn file_len(&self) -> usize {
        self.map.len()
    }

    /// Names the weights: the first half of a SHA-256 of the file's length, of each tensor's name, type and shape, and of
    /// 2 KiB from the beginning, the middle and the end of each tensor. (All bytes would take longer than all else that
    /// loading does.)
    pub fn fingerprint(&self) -> u128 {
        const SAMPLE: usize = 2048;
        let mut hash = Sha256::new();
        hash.update((self.map.len() as u64).to_le_bytes());
        for tensor in &self.tensors {
            hash.update(format!("{}\0{}\0{:?}\0", tensor.name, tensor.dtype.name(), tensor.shape));
            let bytes = self.bytes(tensor);
            for start in [0, bytes.len() / 2, bytes.len().saturating_sub(SAMPLE)] {
                hash.update(&bytes[start..bytes.len().min(start + SAMPLE)]);
            }
        }
        let digest = hash.finalize();
        u128::from_be_bytes(std::array::from_fn(|i| digest[i]))
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// The bytes of a tensor of this file, aligned to at least 8. Panics on a tensor of another file that does not fit.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map[tensor.range()]
    }

    /// Tells the system that a tensor's pages are not needed again, so that they stop counting as resident.
    /// A later look at its bytes is correct, but reads the file again.
    pub fn release(&self, tensor: &TensorInfo) {
        self.map.release(tensor.range());
    }

    /// [`Gguf::release`] for a part of a tensor, in bytes from its start: for tensors too large to be resident whole.
    pub fn release_range(&self, tensor: &TensorInfo, part: Range<usize>) {
        let end = part.end.min(tensor.len);
        let start = part.start.min(end);
        self.map.release(tensor.offset + start..tensor.offset + end);
    }
}

/// Magic and version.
fn read_version(path: &Path, r: &mut Reader) -> Result<u32> {
    let magic = r.take(4, format_args!("magic"))?;
    if magic != b"GGUF" {
        let hint = OTHER_FILES.iter().find(|(m, _)| *m == magic).map_or("", |(_, hint)| hint);
        let what = format_args!("expected \"GGUF\", found \"{}\"{hint}", magic.escape_ascii());
        return Err(r.error(format_args!("magic"), what));
    }
    let version = r.u32(format_args!("version"))?;
    let refuse = |what: &str| Err(Error::Unsupported(format!("{}: version: {what}", path.display())));
    match version {
        2 | 3 => Ok(version),
        1 => refuse("GGUF 1 is not supported; convert the model again to GGUF 3"),
        // The magic is the same in either byte order, so the version is what gives it away.
        _ if (1..=0xffff).contains(&version.swap_bytes()) => {
            refuse("the file is big-endian; convert it to little-endian")
        }
        0 => Err(r.error(format_args!("version"), format_args!("0 is not a GGUF version"))),
        _ => refuse(&format!("GGUF {version} is not supported (2 and 3 are)")),
    }
}

fn read_entries(r: &mut Reader, count: usize) -> Result<BTreeMap<String, Value>> {
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let key = r.string(MAX_KEY_BYTES, format_args!("key {index}"))?;
        if key.is_empty() {
            return Err(r.error(format_args!("key {index}"), format_args!("is empty")));
        }
        let value = r.value(format_args!("{}", shown(key)))?;
        match entries.entry(key.to_owned()) {
            Entry::Vacant(slot) => slot.insert(value),
            Entry::Occupied(old) => {
                let what = format_args!("duplicate key, with {} and {}", old.get().brief(), value.brief());
                return Err(r.error(format_args!("{}", shown(key)), what));
            }
        };
    }
    Ok(entries)
}

/// A model split over several files would otherwise be reported as lacking tensors.
fn refuse_parts(metadata: &Metadata) -> Result<()> {
    match metadata.u32("split.count")? {
        None | Some(0 | 1) => Ok(()),
        Some(n) => Err(Error::Unsupported(format!(
            "{}: split.count: a model split into {n} files is not supported; merge it into one",
            metadata.path().display()
        ))),
    }
}

fn read_alignment(metadata: &Metadata) -> Result<usize> {
    let key = "general.alignment";
    let alignment = metadata.u32(key)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(metadata.error(key, format!("{alignment} is not a power of two from 8 to {MAX_ALIGNMENT}")));
    }
    Ok(alignment as usize)
}

/// One tensor's description; its offset still counts from the start of the data.
fn read_tensor(path: &Path, r: &mut Reader, index: usize, alignment: usize) -> Result<TensorInfo> {
    let name = r.string(MAX_NAME_BYTES, format_args!("tensor {index}: name"))?;
    if name.is_empty() {
        return Err(r.error(format_args!("tensor {index}: name"), format_args!("is empty")));
    }
    let field = &shown(name);
    let dims = r.u32(format_args!("tensor {field}: dimension count"))?;
    if !(1..=MAX_DIMS as u32).contains(&dims) {
        return Err(
            r.error(format_args!("tensor {field}"), format_args!("{dims} dimensions, expected 1 to {MAX_DIMS}"))
        );
    }
    let mut sizes = [1u64; MAX_DIMS];
    let sizes = &mut sizes[..dims as usize];
    for (d, size) in sizes.iter_mut().enumerate() {
        *size = r.u64(format_args!("tensor {field}: dimension {d}"))?;
    }
    let dtype = dtype(path, field, r.u32(format_args!("tensor {field}: type"))?)?;
    let offset = r.u64(format_args!("tensor {field}: offset"))?;
    if !offset.is_multiple_of(alignment as u64) {
        let what = format_args!("offset {offset} is not a multiple of alignment {alignment}");
        return Err(r.error(format_args!("tensor {field}"), what));
    }
    let (shape, len) =
        check_shape(dtype, sizes).map_err(|what| Error::format(path, format!("tensor {field}: {what}")))?;
    let offset = usize::try_from(offset)
        .map_err(|_| r.error(format_args!("tensor {field}"), format_args!("offset {offset} is past any address")))?;
    Ok(TensorInfo { name: name.to_owned(), dtype, shape, offset, len })
}

fn dtype(path: &Path, tensor: &impl Display, id: u32) -> Result<DType> {
    DType::from_ggml(id).ok_or_else(|| {
        let name = OTHER_TYPES.iter().find(|(n, _)| *n == id).map_or("unknown", |(_, name)| name);
        let known: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
        let path = path.display();
        Error::Unsupported(format!(
            "{path}: tensor {tensor}: type {id} ({name}) is not supported (these are: {})",
            known.join(", ")
        ))
    })
}

/// Shape and length in bytes, if the sizes make sense for the dtype.
fn check_shape(dtype: DType, sizes: &[u64]) -> std::result::Result<(Vec<usize>, usize), String> {
    if let Some(d) = sizes.iter().position(|s| *s == 0) {
        return Err(format!("dimension {d} is 0"));
    }
    let block = dtype.block_len() as u64;
    if !sizes[0].is_multiple_of(block) {
        return Err(format!("row length {} is not a multiple of {}'s block of {block}", sizes[0], dtype.name()));
    }
    let elements = sizes.iter().try_fold(1u64, |product, s| product.checked_mul(*s));
    let len = elements.and_then(|n| (n / block).checked_mul(dtype.block_bytes() as u64));
    let len = len
        .and_then(|n| isize::try_from(n).ok())
        .ok_or_else(|| format!("the product of dimensions {sizes:?} overflows"))?;
    // A size that usize cannot hold belongs to a tensor that no file holds: `place_tensors` refuses it.
    let shape = sizes.iter().map(|s| *s as usize).collect();
    Ok((shape, len as usize))
}

fn index_names(path: &Path, tensors: &[TensorInfo]) -> Result<HashMap<String, usize>> {
    let mut by_name = memory::map("tensors", tensors.len())?;
    for (index, t) in tensors.iter().enumerate() {
        if let Some(first) = by_name.insert(t.name.clone(), index) {
            let what = format!("tensor {}: duplicate name, of tensors {first} and {index}", shown(&t.name));
            return Err(Error::format(path, what));
        }
    }
    Ok(by_name)
}

/// Makes offsets count from the start of the file, and checks that each tensor has bytes of its own there.
fn place_tensors(path: &Path, tensors: &mut [TensorInfo], data_start: usize, file_len: usize) -> Result<()> {
    for t in tensors.iter_mut() {
        let offset = data_start.checked_add(t.offset);
        let end = offset.and_then(|o| o.checked_add(t.len));
        let (Some(offset), Some(_)) = (offset, end.filter(|e| *e <= file_len)) else {
            let (name, len, relative) = (shown(&t.name), t.len, t.offset);
            let what = format!(
                "tensor {name}: {len} bytes at offset {relative} of the data (byte {data_start} of the file) reach past \
                 the file's end at {file_len}; is the file cut off?"
            );
            return Err(Error::format(path, what));
        };
        t.offset = offset;
    }
    let mut in_order = memory::collect("tensors", tensors.len(), tensors.iter())?;
    // In place: a stable sort would ask for memory.
    in_order.sort_unstable_by_key(|t| t.offset);
    for pair in in_order.windows(2) {
        if pair[0].range().end > pair[1].offset {
            let (a, b) = (pair[0].range(), pair[1].range());
            let what =
                format!("tensor {}: its bytes {b:?} overlap {a:?} of {}", shown(&pair[1].name), shown(&pair[0].name));
            return Err(Error::format(path, what));
        }
    }
    Ok(())
}

/// A name from the file, made safe for a terminal and short.
fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}

impl AsRef<[u8]> for Gguf {
    /// The whole file.
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
