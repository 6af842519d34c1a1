//! What a model file holds, in totals: from its metadata and tensor list, no weights are read.

use aieng_runtime::DType;
use aieng_runtime::load::{Gguf, Value};
use serde::Serialize;

/// Tensors of one format.
#[derive(Debug, Serialize)]
pub struct DTypeTotal {
    /// The format's name.
    pub dtype: &'static str,
    /// How many tensors have it.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Mixes of formats by their number in `general.file_type`, as llama.cpp names them (llama.h, enum llama_ftype).
const FILE_TYPES: [(u64, &str); 18] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (21, "Q2_K_S"),
    (32, "BF16"),
];

/// A model in one line, and its formats.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// As in "llama"; "?" if the file does not say.
    pub architecture: String,
    /// The mix of formats, or else the one with most bytes, as in "Q4_K_M".
    pub file_type: &'static str,
    /// Elements of all tensors. Tied embeddings count once.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Largest share of bytes first.
    pub dtypes: Vec<DTypeTotal>,
}

impl Summary {
    /// Adds up the tensors of `gguf`.
    pub fn new(gguf: &Gguf) -> Summary {
        let architecture = match gguf.metadata().get("general.architecture") {
            Some(Value::String(name)) => name.escape_debug().to_string(),
            _ => "?".into(),
        };
        let mut dtypes: Vec<DTypeTotal> = DType::ALL.into_iter().filter_map(|d| DTypeTotal::new(gguf, d)).collect();
        dtypes.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        let parameters = dtypes.iter().map(|total| total.parameters).sum();
        let bytes = dtypes.iter().map(|total| total.bytes).sum();
        let file_type = match gguf.metadata().get("general.file_type") {
            Some(Value::Unsigned(n)) => FILE_TYPES.iter().find(|(number, _)| number == n).map(|(_, name)| *name),
            _ => None,
        };
        let file_type = file_type.or(dtypes.first().map(|total| total.dtype)).unwrap_or("?");
        Summary { architecture, file_type, parameters, bytes, dtypes }
    }

    /// Architecture, size and mix of formats, as in "llama 134.52 M Q4_1".
    pub fn name(&self) -> String {
        format!("{} {} {}", self.architecture, count(self.parameters), self.file_type)
    }
}

impl DTypeTotal {
    fn new(gguf: &Gguf, dtype: DType) -> Option<DTypeTotal> {
        let mut total = DTypeTotal { dtype: dtype.name(), tensors: 0, parameters: 0, bytes: 0 };
        for tensor in gguf.tensors().iter().filter(|t| t.dtype == dtype) {
            total.tensors += 1;
            total.parameters += tensor.shape.iter().product::<usize>() as u64;
            total.bytes += tensor.len as u64;
        }
        (total.tensors > 0).then_some(total)
    }
}

/// A number of parameters as llama-bench writes it: "134.52 M", "7.24 B".
pub fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
        _ => format!("{:.2} M", n as f64 / 1e6),
    }
}

/// A number of bytes as llama-bench writes it: "92.45 MiB", "3.56 GiB".
pub fn size(bytes: u64) -> String {
    const MIB: f64 = (1 << 20) as f64;
    match bytes {
        0x4000_0000.. => format!("{:.2} GiB", bytes as f64 / MIB / 1024.0),
        _ => format!("{:.2} MiB", bytes as f64 / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(count(134_515_008), "134.52 M");
        assert_eq!(count(7_241_732_096), "7.24 B");
        assert_eq!(size(98_362_432), "93.81 MiB");
        assert_eq!(size(1 << 30), "1.00 GiB");
    }
}
