//! Shapes, axes and strides: from what a caller passed to a [`Plan`] of integers. No elements are touched here.

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::simd::LINE;

/// Lengths of axes. Few arrays have more than four.
pub(crate) type Shape = SmallVec<[usize; 4]>;
/// Bytes from one element to the next along each axis.
pub(crate) type Strides = SmallVec<[isize; 4]>;

/// The axes that a function works along; negative numbers count from the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Axis {
    /// The whole array is one distribution.
    All,
    /// One axis.
    One(isize),
    /// Several axes together, or none: then each element is its own distribution.
    Several(SmallVec<[isize; 4]>),
}

impl From<isize> for Axis {
    fn from(axis: isize) -> Self {
        Self::One(axis)
    }
}

impl Axis {
    /// For each dimension, whether it is one of the axes.
    pub(crate) fn reduced(&self, ndim: usize) -> Result<SmallVec<[bool; 4]>> {
        let mut reduced = SmallVec::from_elem(false, ndim);
        let mut mark = |axis: isize| {
            // A 0-d array is taken for one of a single element, as NumPy does.
            if ndim == 0 && (axis == 0 || axis == -1) {
                return Ok(());
            }
            let index = if axis < 0 { axis.checked_add_unsigned(ndim) } else { Some(axis) };
            match index.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < ndim) {
                Some(index) if reduced[index] => {
                    Err(Error::Value(format!("axis {axis} is named twice; name each axis once")))
                }
                Some(index) => {
                    reduced[index] = true;
                    Ok(())
                }
                None => Err(Error::Axis { axis, ndim }),
            }
        };
        match self {
            Self::All => reduced.fill(true),
            Self::One(axis) => mark(*axis)?,
            Self::Several(axes) => axes.iter().try_for_each(|axis| mark(*axis))?,
        }
        Ok(reduced)
    }
}

/// The number of operands that a plan has room for; absent ones have strides of 0.
pub(crate) const OPERANDS: usize = 6;

/// The strides of a plan with one operand.
pub(crate) fn only(strides: &[isize]) -> [Option<&[isize]>; OPERANDS] {
    let mut operands = [None; OPERANDS];
    operands[0] = Some(strides);
    operands
}

/// One loop: its length and every operand's stride, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dim {
    pub(crate) len: usize,
    pub(crate) strides: [isize; OPERANDS],
}

/// Loops over rows, and within a row over its elements, the outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) outer: SmallVec<[Dim; 4]>,
    pub(crate) axis: SmallVec<[Dim; 2]>,
    /// The number of rows.
    pub(crate) rows: usize,
    /// The number of elements of a row.
    pub(crate) len: usize,
}

impl Plan {
    /// The plan for an array of this shape, whose `reduced` dimensions are the axes.
    ///
    /// `strides` holds one list for each operand, as long as the shape, 0 where the operand is repeated.
    pub(crate) fn new(shape: &[usize], reduced: &[bool], strides: [Option<&[isize]>; OPERANDS]) -> Self {
        let mut outer: SmallVec<[Dim; 4]> = SmallVec::new();
        let mut axis: SmallVec<[Dim; 2]> = SmallVec::new();
        let (mut rows, mut len) = (1, 1);
        for (index, (&length, &is_axis)) in shape.iter().zip(reduced).enumerate() {
            let dim = Dim { len: length, strides: strides.map(|strides| strides.map_or(0, |s| s[index])) };
            if is_axis {
                len *= length;
                push(&mut axis, dim);
            } else {
                rows *= length;
                push(&mut outer, dim);
            }
        }
        // The order of rows is free, that of a row's elements is not. Large steps first, as memory lies; two loops
        // that have come to lie side by side may then be one.
        if outer.len() > 1 {
            outer.sort_by_key(|dim| std::cmp::Reverse((dim.strides[0].unsigned_abs(), dim.strides[1].unsigned_abs())));
            let sorted = std::mem::take(&mut outer);
            sorted.into_iter().for_each(|dim| push(&mut outer, dim));
        }
        Self { outer, axis, rows, len }
    }

    /// The plan of results that have other rows than the logits: `len` values each, with these strides.
    pub(crate) fn with_axis(&self, len: usize, strides: [isize; OPERANDS]) -> Self {
        let mut axis = SmallVec::new();
        push(&mut axis, Dim { len, strides });
        Self { outer: self.outer.clone(), axis, rows: self.rows, len }
    }

    /// The rows of the innermost outer loop: each is one step from the one before.
    pub(crate) fn lanes(&self) -> usize {
        self.outer.last().map_or(1, |dim| dim.len)
    }

    /// At most so many rows from `first` on that end at `end` and can be a tile: each one step from the one before, and
    /// their elements, too. One row need not be a tile.
    pub(crate) fn lanes_from(&self, first: usize, end: usize, most: usize) -> usize {
        let most = if self.axis.len() <= 1 { most } else { 1 };
        most.min(end - first).min(self.lanes() - first % self.lanes())
    }

    /// The rows of an operand whose first element is at `address` that would lie before it in its line of memory, where
    /// all of its lines begin alike; else 0.
    pub(crate) fn past_line(&self, operand: usize, address: usize, size: usize) -> usize {
        let Some(lane) = self.outer.last() else { return 0 };
        let lines = lane.strides[operand] == size.cast_signed() && self.lines_are_alike(operand);
        if lines && address.is_multiple_of(size) { address % LINE / size } else { 0 }
    }

    /// Whether what is along the innermost outer axis of an operand begins at the same place in its line of memory everywhere.
    pub(crate) fn lines_are_alike(&self, operand: usize) -> bool {
        let outer = self.outer.split_last().map_or(&[][..], |(_, outer)| outer);
        outer.iter().chain(&self.axis).all(|dim| dim.strides[operand].unsigned_abs().is_multiple_of(LINE))
    }

    /// Whether all rows of an operand lie one after another in memory.
    pub(crate) fn is_dense(&self, operand: usize, size: usize) -> bool {
        match self.outer.as_slice() {
            [] => true,
            [dim] => dim.strides[operand] == (self.len * size).cast_signed(),
            _ => false,
        }
    }

    /// The stride of an operand within a row, where a single one describes it.
    pub(crate) fn axis_stride(&self, operand: usize) -> Option<isize> {
        match self.axis.as_slice() {
            [] => Some(0),
            [dim] => Some(dim.strides[operand]),
            _ => None,
        }
    }
}

/// Appends a loop inside the others; joins it with the innermost where both are one loop over memory.
fn push<A: smallvec::Array<Item = Dim>>(dims: &mut SmallVec<A>, dim: Dim) {
    if dim.len == 1 {
        return;
    }
    if let Some(last) = dims.last_mut() {
        let joins = (0..OPERANDS).all(|operand| {
            isize::try_from(dim.len).ok().and_then(|len| dim.strides[operand].checked_mul(len))
                == Some(last.strides[operand])
        });
        if joins && dim.len > 0 && last.len > 0 {
            *last = Dim { len: last.len * dim.len, strides: dim.strides };
            return;
        }
    }
    dims.push(dim);
}

/// The strides with which an operand of shape `from` is read as if it had shape `to`, by NumPy's rules.
pub(crate) fn broadcast(from: &[usize], strides: &[isize], to: &[usize], name: &str) -> Result<Strides> {
    let fail = || {
        Error::Value(format!("{name} has shape {}, which does not broadcast against {}", display(from), display(to)))
    };
    let missing = to.len().checked_sub(from.len()).ok_or_else(fail)?;
    let mut result: Strides = SmallVec::from_elem(0, missing);
    for ((&have, &stride), &want) in from.iter().zip(strides).zip(&to[missing..]) {
        match have {
            _ if have == want => result.push(stride),
            1 => result.push(0),
            _ => return Err(fail()),
        }
    }
    Ok(result)
}

/// A shape as Python writes it.
pub(crate) fn display(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// The least and the greatest offset of an element; none where there are no elements.
pub(crate) fn reach<'a>(dims: impl Iterator<Item = (&'a usize, &'a isize)>) -> Option<(isize, isize)> {
    let (mut low, mut high) = (0isize, 0isize);
    for (&len, &stride) in dims {
        let last = isize::try_from(len.checked_sub(1)?).ok()?;
        let span = last.checked_mul(stride)?;
        if span < 0 {
            low = low.checked_add(span)?;
        } else {
            high = high.checked_add(span)?;
        }
    }
    Some((low, high))
}

/// Whether distinct indices reach distinct, non-overlapping elements. (It may say no where the truth is yes.)
pub(crate) fn is_injective(dims: impl Iterator<Item = (usize, isize)>, size: usize) -> bool {
    let mut dims: SmallVec<[(usize, usize); 8]> = dims.map(|(len, stride)| (stride.unsigned_abs(), len)).collect();
    if dims.iter().any(|(_, len)| *len == 0) {
        return true;
    }
    dims.retain(|(_, len)| *len > 1);
    dims.sort_unstable();
    let mut span = size;
    for (stride, len) in dims {
        if stride < span {
            return false;
        }
        match stride.checked_mul(len - 1).and_then(|s| s.checked_add(span)) {
            Some(next) => span = next,
            None => return false,
        }
    }
    true
}
