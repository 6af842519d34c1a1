//! Writes GGUF files for tests and benchmarks: well-formed ones, and ones that lie where a test wants them to.
//!
//! Everything is appended as given; nothing is checked, since the reader's checks are what is being tested.

use aieng_kernels::DType;

/// A GGUF file under construction.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    version: u32,
    alignment: usize,
    /// What the header is to say, if not the truth.
    tensor_count: Option<u64>,
    entry_count: Option<u64>,
    entries: Vec<u8>,
    entries_written: u64,
    infos: Vec<u8>,
    infos_written: u64,
    data: Vec<u8>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter {
            version: 3,
            alignment: 32,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            entries_written: 0,
            infos: Vec::new(),
            infos_written: 0,
            data: Vec::new(),
        }
    }
}

/// A length and the bytes.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// An element type, a length and the elements' bytes.
pub fn array(element_type: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

impl GgufWriter {
    /// An empty GGUF 3.
    pub fn new() -> Self {
        GgufWriter::default()
    }

    /// Version in the header, 3 unless set.
    pub fn version(self, version: u32) -> Self {
        GgufWriter { version, ..self }
    }

    /// Padding unit of the data, 32 unless set; to be set before the first tensor. The file says so only by
    /// [`GgufWriter::u32`] with the key "general.alignment".
    pub fn alignment(self, alignment: usize) -> Self {
        GgufWriter { alignment, ..self }
    }

    /// A header that lies about the number of tensors.
    pub fn claim_tensors(self, count: u64) -> Self {
        GgufWriter { tensor_count: Some(count), ..self }
    }

    /// A header that lies about the number of key-value pairs.
    pub fn claim_entries(self, count: u64) -> Self {
        GgufWriter { entry_count: Some(count), ..self }
    }

    /// Any key-value pair: the value's type number and bytes as they are to stand in the file.
    pub fn entry(mut self, key: impl AsRef<[u8]>, value_type: u32, value: &[u8]) -> Self {
        self.entries.extend(string(key));
        self.entries.extend(value_type.to_le_bytes());
        self.entries.extend(value);
        self.entries_written += 1;
        self
    }

    /// A string.
    pub fn string(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &string(value))
    }

    /// A u32.
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    /// An f32.
    pub fn f32(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    /// A boolean.
    pub fn bool(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[u8::from(value)])
    }

    /// An array of strings.
    pub fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|s| string(s.as_ref())).collect();
        self.entry(key, 9, &array(8, values.len() as u64, &elements))
    }

    /// An array of f32.
    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.entry(key, 9, &array(6, values.len() as u64, &elements))
    }

    /// An array of i32.
    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.entry(key, 9, &array(5, values.len() as u64, &elements))
    }

    /// A tensor's description alone, without data.
    pub fn info(mut self, name: impl AsRef<[u8]>, shape: &[u64], type_id: u32, offset: u64) -> Self {
        self.infos.extend(string(name));
        self.infos.extend((shape.len() as u32).to_le_bytes());
        self.infos.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        self.infos.extend(type_id.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self.infos_written += 1;
        self
    }

    /// A tensor whose data follow those of the tensor before, padded to the alignment.
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        self.info(name, &shape, dtype as u32, offset)
    }

    /// A tensor of f32.
    pub fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, DType::F32, shape, &bytes)
    }

    /// Header, entries and descriptions, without padding or data.
    pub fn head(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.infos_written).to_le_bytes());
        file.extend(self.entry_count.unwrap_or(self.entries_written).to_le_bytes());
        file.extend(&self.entries);
        file.extend(&self.infos);
        file
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = self.head();
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(&self.data);
        file
    }
}
