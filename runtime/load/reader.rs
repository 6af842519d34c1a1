//! Little-endian values read from a byte slice, one after the other.
//!
//! Invariant: a read either lies whole inside the slice or is an error that names the file, the field and the value;
//! a count is never returned before it is known that the rest of the file could hold that many items.

use super::{Array, Strings, Value};
use crate::{Error, Result, memory};
use std::fmt::Arguments;
use std::path::Path;

/// A place in a file. Fields are named by [`format_args!`], which costs nothing until there is an error.
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

/// What the bits of a metadata value mean.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Unsigned,
    Signed,
    Float,
    Bool,
    String,
    Array,
}

/// gguf_metadata_value_type, by number: its class, and its size in bytes (the least size of strings and arrays).
const VALUE_TYPES: [(Class, usize); 13] = [
    (Class::Unsigned, 1),
    (Class::Signed, 1),
    (Class::Unsigned, 2),
    (Class::Signed, 2),
    (Class::Unsigned, 4),
    (Class::Signed, 4),
    (Class::Float, 4),
    (Class::Bool, 1),
    (Class::String, 8),
    (Class::Array, 12),
    (Class::Unsigned, 8),
    (Class::Signed, 8),
    (Class::Float, 8),
];

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Reader { path, bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about `field`.
    #[cold]
    pub(super) fn error(&self, field: Arguments, what: Arguments) -> Error {
        Error::format(self.path, format!("{field}: {what}"))
    }

    /// The next `n` bytes.
    #[inline]
    pub(super) fn take(&mut self, n: usize, field: Arguments) -> Result<&'a [u8]> {
        let Some(bytes) = self.bytes[self.at..].get(..n) else {
            let what = format_args!("the file ends at byte {}: {n} bytes wanted at {}", self.bytes.len(), self.at);
            return Err(self.error(field, what));
        };
        self.at += n;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, field: Arguments) -> Result<u32> {
        Ok(unsigned(self.take(4, field)?) as u32)
    }

    #[inline]
    pub(super) fn u64(&mut self, field: Arguments) -> Result<u64> {
        Ok(unsigned(self.take(8, field)?))
    }

    /// A number of items of at least `least` bytes each, all of which must fit the rest of the file.
    pub(super) fn count(&mut self, least: usize, field: Arguments) -> Result<usize> {
        let count = self.u64(field)?;
        usize::try_from(count).ok().filter(|n| *n <= self.left() / least).ok_or_else(|| {
            let left = self.left();
            self.error(field, format_args!("{count} items of at least {least} bytes, but {left} bytes are left"))
        })
    }

    /// A string of at most `max` bytes.
    #[inline]
    pub(super) fn string(&mut self, max: usize, field: Arguments) -> Result<&'a str> {
        let len = self.u64(field)?;
        let Some(n) = usize::try_from(len).ok().filter(|n| *n <= self.left()) else {
            let what =
                format_args!("string length {len} reaches past the end of the file ({} bytes left)", self.left());
            return Err(self.error(field, what));
        };
        if n > max {
            return Err(self.error(field, format_args!("string length {n} is above the limit of {max}")));
        }
        let bytes = self.take(n, field)?;
        std::str::from_utf8(bytes)
            .map_err(|e| self.error(field, format_args!("not UTF-8: \"{}\": {e}", bytes[..n.min(40)].escape_ascii())))
    }

    fn value_type(&mut self, field: Arguments) -> Result<(Class, usize)> {
        let id = self.u32(field)?;
        let known = usize::try_from(id).ok().and_then(|i| VALUE_TYPES.get(i));
        known.copied().ok_or_else(|| self.error(field, format_args!("unknown value type {id}")))
    }

    fn bool(&self, byte: u8, field: Arguments) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error(field, format_args!("boolean is {byte}, expected 0 or 1"))),
        }
    }

    /// A type and a value of that type.
    pub(super) fn value(&mut self, field: Arguments) -> Result<Value> {
        let (class, size) = self.value_type(field)?;
        Ok(match class {
            Class::Unsigned => Value::Unsigned(unsigned(self.take(size, field)?)),
            Class::Signed => Value::Signed(signed(self.take(size, field)?)),
            Class::Float => Value::Float(float(self.take(size, field)?)),
            Class::Bool => {
                let byte = self.take(1, field)?[0];
                Value::Bool(self.bool(byte, field)?)
            }
            Class::String => Value::String(memory::text("a string", self.string(usize::MAX, field)?)?),
            Class::Array => Value::Array(self.array(field)?),
        })
    }

    fn array(&mut self, field: Arguments) -> Result<Array> {
        let (class, size) = self.value_type(format_args!("{field}: element type"))?;
        if class == Class::Array {
            return Err(self.error(field, format_args!("an array of arrays is not supported")));
        }
        let count = self.count(size, format_args!("{field}: array length"))?;
        if class == Class::String {
            return self.strings(count, field).map(Array::Strings);
        }
        // Cannot overflow: count was bounded by the bytes left over size.
        let raw = self.take(count * size, field)?;
        let items = raw.chunks_exact(size);
        let what = "an array";
        Ok(match class {
            Class::Signed => Array::Signed(memory::collect(what, count, items.map(signed))?),
            Class::Float => Array::Float(memory::collect(what, count, items.map(|b| float(b) as f32))?),
            Class::Bool => {
                for (i, byte) in raw.iter().enumerate() {
                    self.bool(*byte, format_args!("{field}[{i}]"))?;
                }
                Array::Unsigned(memory::collect(what, count, items.map(unsigned))?)
            }
            _ => Array::Unsigned(memory::collect(what, count, items.map(unsigned))?),
        })
    }

    fn strings(&mut self, count: usize, field: Arguments) -> Result<Strings> {
        let mut strings = Strings::with_capacity(count)?;
        for i in 0..count {
            strings.push(self.string(usize::MAX, format_args!("{field}[{i}]"))?)?;
        }
        Ok(strings)
    }
}

/// At most 8 little-endian bytes.
#[inline]
fn unsigned(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

/// At most 8 little-endian bytes in two's complement.
fn signed(bytes: &[u8]) -> i64 {
    let shift = 64 - 8 * bytes.len() as u32;
    ((unsigned(bytes) << shift) as i64) >> shift
}

/// An IEEE single (4 bytes) or double (8).
fn float(bytes: &[u8]) -> f64 {
    match bytes.len() {
        4 => f64::from(f32::from_bits(unsigned(bytes) as u32)),
        _ => f64::from_bits(unsigned(bytes)),
    }
}
