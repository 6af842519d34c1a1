//! Views of a device's memory: matrices whose rows may lie apart.

use crate::{Arg, DevicePtr, GpuBuffer};
use std::ops::Range;

/// Element formats of activations and metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE single.
    F32,
    /// The upper half of an IEEE single.
    BF16,
    /// IEEE half.
    F16,
    /// Unsigned integers.
    U32,
    /// Bytes.
    U8,
}

impl Element {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 | Element::U32 => 4,
            Element::BF16 | Element::F16 => 2,
            Element::U8 => 1,
        }
    }
}

/// A matrix `[rows, cols]` in a device's memory, to read or to write: row `r` begins at element `r * stride`.
///
/// Kernels run later and in order, so views say nothing about who else may write; an operation says what it writes.
#[derive(Debug, Clone, Copy)]
pub struct GpuTensor<'a> {
    buffer: &'a GpuBuffer,
    element: Element,
    /// In bytes.
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> GpuTensor<'a> {
    /// The first `rows * cols` elements of `buffer`; panics if it is shorter.
    pub fn new(buffer: &'a GpuBuffer, element: Element, rows: usize, cols: usize) -> GpuTensor<'a> {
        GpuTensor::at(buffer, 0, element, rows, cols)
    }

    /// As [`GpuTensor::new`], from byte `offset` on.
    pub fn at(buffer: &'a GpuBuffer, offset: usize, element: Element, rows: usize, cols: usize) -> GpuTensor<'a> {
        GpuTensor::strided(buffer, offset, element, rows, cols, cols)
    }

    /// As [`GpuTensor::at`], with rows `stride` elements apart.
    pub fn strided(
        buffer: &'a GpuBuffer,
        offset: usize,
        element: Element,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> GpuTensor<'a> {
        let elements = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
        let bytes = elements * element.bytes();
        assert!(offset + bytes <= buffer.len(), "[{rows}, {cols}] from byte {offset} on of {}", buffer.len());
        GpuTensor { buffer, element, offset, rows, cols, stride }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements between the beginnings of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Element format.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Some of the columns.
    pub fn columns(&self, range: Range<usize>) -> GpuTensor<'a> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        GpuTensor { offset: self.offset + range.start * self.element.bytes(), cols: range.len(), ..*self }
    }

    /// Some of the rows.
    pub fn row_range(&self, range: Range<usize>) -> GpuTensor<'a> {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let offset = self.offset + range.start * self.stride * self.element.bytes();
        GpuTensor { offset, rows: range.len(), ..*self }
    }

    /// Where it begins.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().offset(self.offset)
    }

    /// As a kernel's argument.
    pub fn arg(&self) -> Arg {
        Arg::Ptr(self.ptr())
    }

    /// Panics unless it is `[rows, cols]` of `element`.
    pub fn expect(&self, what: &str, element: Element, rows: usize, cols: usize) {
        assert_eq!((self.element, self.rows, self.cols), (element, rows, cols), "{what}");
    }
}
