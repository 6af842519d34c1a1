//! Views of activations: row-major f32 matrices whose rows may lie apart, so that a view can pick columns.

use std::ops::Range;

/// A matrix to read: `[rows, cols]`, row `r` begins at `r * stride`.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A matrix to write: `[rows, cols]`, row `r` begins at `r * stride`.
#[derive(Debug)]
pub struct TensorMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Elements from the first to the last one of a view.
fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + cols }
}

impl<'a> Tensor<'a> {
    /// All of `data` as `[rows, cols]`; panics if it is shorter than that.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Tensor { data: &data[..rows * cols], rows, cols, stride: cols }
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

    /// Row `r`.
    pub fn row(&self, r: usize) -> &'a [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &self.data[r * self.stride..][..self.cols]
    }

    /// The view of some of the columns.
    pub fn columns(&self, range: Range<usize>) -> Tensor<'a> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let cols = range.len();
        let data = if self.rows == 0 { self.data } else { &self.data[range.start..] };
        Tensor { data: &data[..span(self.rows, cols, self.stride)], cols, ..*self }
    }

    /// The view of some of the rows.
    pub fn row_range(&self, range: Range<usize>) -> Tensor<'a> {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let rows = range.len();
        let data = if rows == 0 { &[] } else { &self.data[range.start * self.stride..] };
        Tensor { data: &data[..span(rows, self.cols, self.stride)], rows, ..*self }
    }

    pub(crate) fn ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }
}

impl<'a> TensorMut<'a> {
    /// All of `data` as `[rows, cols]`; panics if it is shorter than that.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        TensorMut { data: &mut data[..rows * cols], rows, cols, stride: cols }
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

    /// Row `r`.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &mut self.data[r * self.stride..][..self.cols]
    }

    /// The view of some of the columns.
    pub fn columns_mut(&mut self, range: Range<usize>) -> TensorMut<'_> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let (rows, cols, stride) = (self.rows, range.len(), self.stride);
        let data = if rows == 0 { &mut self.data[..] } else { &mut self.data[range.start..] };
        TensorMut { data: &mut data[..span(rows, cols, stride)], rows, cols, stride }
    }

    /// As [`TensorMut::columns_mut`], for good.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn into_columns(self, range: Range<usize>) -> TensorMut<'a> {
        let data = if self.rows == 0 { self.data } else { &mut self.data[range.start..] };
        let len = span(self.rows, range.len(), self.stride);
        TensorMut { data: &mut data[..len], rows: self.rows, cols: range.len(), stride: self.stride }
    }

    /// The same matrix, to read.
    pub fn view(&self) -> Tensor<'_> {
        Tensor { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    pub(crate) fn ptr(&mut self) -> *mut f32 {
        self.data.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_matrix_keep_its_stride() {
        let mut data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut t = TensorMut::new(&mut data, 3, 4);
        t.columns_mut(1..3).row_mut(2)[1] = 100.0;
        let t = t.view().columns(2..4);
        assert_eq!((t.rows(), t.cols(), t.stride()), (3, 2, 4));
        assert_eq!(t.row(0), [2.0, 3.0]);
        assert_eq!(t.row(2), [100.0, 11.0]);
        assert_eq!(t.row_range(1..2).row(0), [6.0, 7.0]);
    }

    #[test]
    fn empty_views_are_fine() {
        let t = Tensor::new(&[], 0, 8);
        assert_eq!(t.columns(4..8).rows(), 0);
        assert_eq!(t.row_range(0..0).rows(), 0);
    }

    #[test]
    #[should_panic(expected = "row 3 of 3")]
    fn a_row_outside_panics() {
        Tensor::new(&[0.0; 6], 3, 2).row(3);
    }
}
