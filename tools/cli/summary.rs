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

/// A model in one line, and its formats.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// As in "llama"; "?" if the file does not say.
    pub architecture: String,
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
        Summary { architecture, parameters, bytes, dtypes }
    }

    /// Architecture, size and main format, as in "llama 134.52 M Q4_1".
    pub fn name(&self) -> String {
        let dtype = self.dtypes.first().map_or("?", |total| total.dtype);
        format!("{} {} {dtype}", self.architecture, count(self.parameters))
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
