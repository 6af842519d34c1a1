//! Typed metadata of a model file, with lookups whose errors name the file, the key and the value found.

use crate::{Error, Result, memory};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Strings of one array, stored end to end (a vocabulary has 260,000 of them).
#[derive(Debug, Default, Clone)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// None yet, with room for `count`.
    pub fn with_capacity(count: usize) -> Result<Self> {
        Ok(Strings { text: String::new(), ends: memory::list("a list of strings", count)? })
    }

    /// Appends one string.
    ///
    /// Errors: [`Error::OutOfMemory`].
    pub fn push(&mut self, s: &str) -> Result<()> {
        memory::reserve("a list of strings", &mut self.ends, 1)?;
        memory::push_str("a list of strings", &mut self.text, s)?;
        self.ends.push(self.text.len());
        Ok(())
    }

    /// The same strings once more.
    pub fn try_clone(&self) -> Result<Strings> {
        let what = "a list of strings";
        Ok(Strings { text: memory::text(what, &self.text)?, ends: memory::copy(what, &self.ends)? })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

/// One array of scalars or strings. Arrays of arrays are rejected by the reader.
#[derive(Debug, Clone)]
pub enum Array {
    /// Any unsigned integer type, or booleans as 0 and 1.
    Unsigned(Vec<u64>),
    /// Any signed integer type.
    Signed(Vec<i64>),
    /// f32 or f64 (rounded to f32).
    Float(Vec<f32>),
    /// UTF-8 strings.
    Strings(Strings),
}

/// One metadata value.
#[derive(Debug, Clone)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A byte that is 0 or 1.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// A list.
    Array(Array),
}

/// Key-value pairs of one model file.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// Metadata of the file at `path` (named in errors only; the file is not touched).
    pub fn new(path: &Path, entries: BTreeMap<String, Value>) -> Self {
        Metadata { path: path.to_owned(), entries }
    }

    /// The file that the metadata came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries in the order of their keys.
    pub fn entries(&self) -> &BTreeMap<String, Value> {
        &self.entries
    }

    /// The raw value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// An error that names this file and `key`.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::format(&self.path, format!("{key}: {what}"))
    }

    /// Turns an absent `key` into an error: `metadata.require(key, metadata.u32(key)?)`.
    pub fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, f: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => f(v).map(Some).ok_or_else(|| self.error(key, format!("expected {wanted}, found {}", v.brief()))),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// A whole number that fits u32, of any integer type.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 4294967295", |v| match v {
            Value::Unsigned(n) => u32::try_from(*n).ok(),
            Value::Signed(n) => u32::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a finite number", |v| {
            let x = match v {
                Value::Float(x) => *x as f32,
                Value::Unsigned(n) => *n as f32,
                Value::Signed(n) => *n as f32,
                _ => return None,
            };
            x.is_finite().then_some(x)
        })
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::Strings(s)) => Some(s),
            _ => None,
        })
    }

    /// An array of floats.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Array(Array::Float(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of integers that fit i32, of any integer type.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        fn narrow<T: Copy>(x: &[T]) -> Result<Option<Vec<i32>>>
        where
            i32: TryFrom<T>,
        {
            let all_fit = x.iter().all(|&n| i32::try_from(n).is_ok());
            let narrowed = x.iter().filter_map(|&n| i32::try_from(n).ok());
            all_fit.then(|| memory::collect("an array", x.len(), narrowed)).transpose()
        }
        let narrowed = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(Array::Unsigned(x))) => narrow(x)?,
            Some(Value::Array(Array::Signed(x))) => narrow(x)?,
            Some(_) => None,
        };
        // With a value there, `typed` says what is wrong with it.
        narrowed.map_or_else(|| self.typed(key, "an array of 32-bit integers", |_| None), |x| Ok(Some(x)))
    }
}

impl Value {
    /// The value in at most some 60 characters, for errors and listings.
    pub fn brief(&self) -> String {
        match self {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            // Most floats are stored as f32, whose shortest form reads better: 1e-5, not 9.999999747378752e-6.
            Value::Float(x) if f64::from(*x as f32) == *x => (*x as f32).to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::String(s) if s.chars().count() > 56 => format!("{:?}…", s.chars().take(56).collect::<String>()),
            Value::String(s) => format!("{s:?}"),
            Value::Array(a) => format!("an array of {} {}", a.len(), a.kind()),
        }
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Unsigned(x) => x.len(),
            Array::Signed(x) => x.len(),
            Array::Float(x) => x.len(),
            Array::Strings(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the elements are, in the plural.
    pub fn kind(&self) -> &'static str {
        match self {
            Array::Unsigned(_) | Array::Signed(_) => "integers",
            Array::Float(_) => "floats",
            Array::Strings(_) => "strings",
        }
    }
}
