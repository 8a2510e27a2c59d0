//! Arrays as pointers and integers: any strides, any byte order, any alignment; overlap; working memory; the caches.
//!
//! This module and `simd` hold the unsafe code below `python`, but for what `parallel` needs to lend work to threads
//! and to notice a fork. What the rest of the crate sees is safe, `recycle` apart, which is an allocator for `python`:
//! a [`Source`] or [`Target`] is made from an array and a plan, is checked once to stay within the array, and then
//! reads rows into working memory, or lends them where they can be used in place.
//!
//! Another thread of the interpreter may write to an array meanwhile. That can spoil numbers, never memory: pointer,
//! shape and strides were read once, and no address depends on an element. (Rust calls such a race undefined;
//! NumPy's own loops have it too, and there is no way to lock an array.)

mod machine;
mod raw;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "for the binding alone"))]
pub(crate) mod recycle;
mod scratch;
mod source;
mod target;

use std::marker::PhantomData;
use std::ops::Range;

use ndarray::{ArrayRef, Dimension};
use smallvec::SmallVec;

#[cfg(test)]
pub(crate) use machine::{HAS_NO_CACHE, IS_ANOTHER_MACHINE};
pub(crate) use machine::{exceeds_last_cache, stores_hold_up};
pub(crate) use raw::Compute;
pub(crate) use scratch::{Scratch, scratch};
pub(crate) use source::{Lines, Source};
pub(crate) use target::{Cut, LinesMut, Part, Target};

use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::shape::{self, Dim, Plan, Shape, Strides};

/// An array that is read.
#[derive(Clone)]
pub(crate) struct View<'a> {
    pointer: *const u8,
    pub(crate) dtype: DType,
    /// Whether the elements have the other byte order.
    pub(crate) swapped: bool,
    pub(crate) shape: Shape,
    pub(crate) strides: Strides,
    lifetime: PhantomData<&'a [u8]>,
}

/// An array that is written.
pub(crate) struct ViewMut<'a> {
    /// The array; `pointer` may be written through.
    array: View<'a>,
    exclusive: PhantomData<&'a mut [u8]>,
}

// SAFETY: a view is a borrow of plain numbers; it is as free to move as `&[u8]` is.
#[allow(unsafe_code, reason = "a pointer hides that this is a borrow")]
unsafe impl Send for View<'_> {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a pointer hides that this is a borrow")]
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A view of an array that somebody else described.
    ///
    /// # Safety
    /// For the lifetime `'a`, every element that shape and strides reach is readable memory of `dtype.size()` bytes.
    #[allow(unsafe_code, reason = "takes the word of NumPy's headers")]
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "for the binding alone"))]
    pub(crate) unsafe fn new(
        pointer: *const u8,
        dtype: DType,
        swapped: bool,
        shape: &[usize],
        strides: &[isize],
    ) -> Self {
        debug_assert_eq!(shape.len(), strides.len());
        Self {
            pointer,
            dtype,
            swapped: swapped && dtype.size() > 1,
            shape: SmallVec::from_slice(shape),
            strides: SmallVec::from_slice(strides),
            lifetime: PhantomData,
        }
    }

    /// A view of an `ndarray` array.
    pub(crate) fn of<T: Element, D: Dimension>(array: &'a ArrayRef<T, D>) -> Self {
        let size = isize::try_from(size_of::<T>()).unwrap_or(1);
        Self {
            pointer: array.as_ptr().cast(),
            dtype: T::DTYPE,
            swapped: false,
            shape: SmallVec::from_slice(array.shape()),
            strides: array.strides().iter().map(|stride| stride * size).collect(),
            lifetime: PhantomData,
        }
    }

    /// The same elements as seen from a larger shape; `name` is what an error calls them.
    pub(crate) fn broadcast(&self, shape: &[usize], name: &str) -> Result<Self> {
        let strides = shape::broadcast(&self.shape, &self.strides, shape, name)?;
        Ok(Self { shape: SmallVec::from_slice(shape), strides, ..self.clone() })
    }

    /// Whether the elements lie one after another, in C order.
    #[inline]
    fn is_in_order(&self) -> bool {
        let mut stride = self.dtype.size().cast_signed();
        for (len, have) in self.shape.iter().zip(&self.strides).rev() {
            if *len != 1 && *have != stride {
                return false;
            }
            stride = stride.wrapping_mul(len.cast_signed());
        }
        true
    }

    /// The same, and aligned, and of type `T`.
    #[inline]
    fn is_slice_of<T: Element>(&self) -> bool {
        self.dtype == T::DTYPE
            && !self.swapped
            && self.pointer.addr().is_multiple_of(align_of::<T>())
            && self.is_in_order()
    }

    /// The elements, where they lie one after another in C order. Nothing may write to them meanwhile.
    #[inline]
    pub(crate) fn as_slice<T: Element>(&self) -> Option<&[T]> {
        if !self.is_slice_of::<T>() {
            return None;
        }
        // SAFETY: all elements are valid, see `View::new`; they are adjacent, aligned, and of type `T`.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        Some(unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.size()) })
    }

    /// Some elements of a one-dimensional array.
    pub(crate) fn slice(&self, elements: Range<usize>) -> Self {
        assert!(self.shape.len() == 1 && elements.start <= elements.end && elements.end <= self.shape[0]);
        let offset = self.strides[0].wrapping_mul(elements.start.cast_signed());
        let shape = SmallVec::from_slice(&[elements.len()]);
        Self { pointer: self.pointer.wrapping_offset(offset), shape, ..self.clone() }
    }

    /// Where the first element is.
    pub(crate) fn address(&self) -> usize {
        self.pointer.addr()
    }

    /// The number of elements.
    pub(crate) fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// The addresses from the first byte to the one after the last.
    fn span(&self) -> Option<(isize, isize)> {
        let (low, high) = shape::reach(self.shape.iter().zip(&self.strides))?;
        let start = self.pointer as isize;
        Some((start.checked_add(low)?, start.checked_add(high)?.checked_add_unsigned(self.dtype.size())?))
    }

    /// Whether elements of both may share memory. (It may say yes where the truth is no.)
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self.span(), other.span()) {
            (Some(a), Some(b)) => a.0 < b.1 && b.0 < a.1,
            _ => false,
        }
    }

    /// Whether both are the very same elements in the same places.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.pointer == other.pointer
            && self.dtype == other.dtype
            && self.swapped == other.swapped
            && self.shape == other.shape
            && self.shape.iter().zip(&self.strides).zip(&other.strides).all(|((len, a), b)| *len <= 1 || a == b)
    }

    /// A private copy of the elements, for an operand that overlaps the output.
    pub(crate) fn to_owned(&self) -> Result<Owned> {
        let size = self.dtype.size();
        let count = self.size();
        let mut bytes: Vec<u8> = reserve(count * size)?;
        let plan = Plan::new(&self.shape, &vec![true; self.shape.len()], shape::only(&self.strides));
        walk(&plan.axis, 0, 0, count, &mut |offset, stride, len| {
            for i in 0..len {
                let at = offset + stride * i.cast_signed();
                // SAFETY: `at` is the offset of an element, by the plan made from this view's shape and strides; a
                // slice cannot be used because the elements need not be adjacent.
                #[allow(unsafe_code, reason = "reads an element through a stride")]
                let element = unsafe { std::slice::from_raw_parts(self.pointer.offset(at), size) };
                bytes.extend_from_slice(element);
            }
        });
        Ok(Owned { bytes, dtype: self.dtype, swapped: self.swapped, shape: self.shape.clone() })
    }
}

/// A private copy of an operand, in C order.
pub(crate) struct Owned {
    bytes: Vec<u8>,
    dtype: DType,
    swapped: bool,
    shape: Shape,
}

impl Owned {
    /// The copy as an array.
    pub(crate) fn view(&self) -> View<'_> {
        let mut strides: Strides = SmallVec::from_elem(0, self.shape.len());
        let mut stride = self.dtype.size().cast_signed();
        for (index, len) in self.shape.iter().enumerate().rev() {
            strides[index] = stride;
            stride *= len.cast_signed();
        }
        View {
            pointer: self.bytes.as_ptr(),
            dtype: self.dtype,
            swapped: self.swapped,
            shape: self.shape.clone(),
            strides,
            lifetime: PhantomData,
        }
    }
}

impl<'a> ViewMut<'a> {
    /// A view of an array that somebody else described.
    ///
    /// # Safety
    /// As [`View::new`], and the memory is writable. Other views of it may exist; [`Target::new`] is given them.
    #[allow(unsafe_code, reason = "takes the word of NumPy's headers")]
    #[cfg_attr(not(feature = "python"), allow(dead_code, reason = "for the binding alone"))]
    pub(crate) unsafe fn new(
        pointer: *mut u8,
        dtype: DType,
        swapped: bool,
        shape: &[usize],
        strides: &[isize],
    ) -> Self {
        // SAFETY: the caller's promise.
        let array = unsafe { View::new(pointer.cast_const(), dtype, swapped, shape, strides) };
        Self { array, exclusive: PhantomData }
    }

    /// A view of an `ndarray` array.
    pub(crate) fn of<T: Element, D: Dimension>(array: &'a mut ArrayRef<T, D>) -> Self {
        let pointer = array.as_mut_ptr();
        let mut view = View::of(&*array);
        view.pointer = pointer.cast_const().cast();
        Self { array: view, exclusive: PhantomData }
    }

    /// Some elements of a one-dimensional array.
    pub(crate) fn slice(&mut self, elements: Range<usize>) -> ViewMut<'_> {
        ViewMut { array: self.array.slice(elements), exclusive: PhantomData }
    }

    /// The array, to be looked at.
    pub(crate) fn array(&self) -> &View<'a> {
        &self.array
    }

    /// The elements, where they lie one after another in C order.
    #[inline]
    pub(crate) fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        if !self.array.is_slice_of::<T>() {
            return None;
        }
        // SAFETY: as in `View::as_slice`, and the memory is writable and borrowed from `self`.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        Some(unsafe { std::slice::from_raw_parts_mut(self.array.pointer.cast_mut().cast(), self.array.size()) })
    }

    /// Whether every element has memory of its own.
    pub(crate) fn is_injective(&self) -> bool {
        // (Nearly all are, and to sort strides takes a tenth of a small call.)
        if self.array.is_in_order() {
            return true;
        }
        let dims = self.array.shape.iter().copied().zip(self.array.strides.iter().copied());
        shape::is_injective(dims, self.array.dtype.size())
    }
}

/// Memory for `count` values, empty; [`Error::Memory`] where the system has none.
pub(crate) fn reserve<T>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::Memory(count.saturating_mul(size_of::<T>())))?;
    Ok(values)
}

/// `count` zeros.
pub(crate) fn zeros<T: Default + Clone>(count: usize) -> Result<Vec<T>> {
    let mut values = reserve(count)?;
    values.resize(count, T::default());
    Ok(values)
}

/// Calls `run(offset, stride, len)` for each stretch of `count` elements of a row, from its element `start` on.
fn walk(axis: &[Dim], operand: usize, start: usize, count: usize, run: &mut dyn FnMut(isize, isize, usize)) {
    let Some((inner, outer)) = axis.split_last() else {
        if count > 0 {
            run(0, 0, 1);
        }
        return;
    };
    let (mut start, end) = (start, start + count);
    while start < end {
        let (mut rest, column) = (start / inner.len, start % inner.len);
        let mut offset = inner.strides[operand] * column.cast_signed();
        for dim in outer.iter().rev() {
            offset += dim.strides[operand] * (rest % dim.len).cast_signed();
            rest /= dim.len;
        }
        let len = (inner.len - column).min(end - start);
        run(offset, inner.strides[operand], len);
        start += len;
    }
}

/// The offset of the first element of a row.
#[inline]
fn row_offset(plan: &Plan, operand: usize, row: usize) -> isize {
    let mut rest = row;
    let mut offset = 0;
    for (index, dim) in plan.outer.iter().enumerate().rev() {
        let position = if index == 0 { rest } else { rest % dim.len };
        offset += dim.strides[operand] * position.cast_signed();
        rest /= dim.len;
    }
    offset
}

/// Whether the plan's loops over an operand stay within the array that they were made from.
fn check(view: &View<'_>, plan: &Plan, operand: usize) -> Result<()> {
    let dims = plan.outer.iter().chain(&plan.axis);
    let planned = shape::reach(dims.map(|dim| (&dim.len, &dim.strides[operand])));
    let real = shape::reach(view.shape.iter().zip(&view.strides));
    match (planned, real) {
        (None, _) => Ok(()),
        (Some(planned), Some(real)) if real.0 <= planned.0 && planned.1 <= real.1 => Ok(()),
        _ => Err(Error::Internal("a plan reaches outside its array".into())),
    }
}

/// Elements in lines: `count` of them `stride` bytes apart, lines `apart` bytes from each other; their copies lie one
/// after another, lines `pitch` elements from each other.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) lines: usize,
    pub(super) apart: isize,
    pub(super) pitch: usize,
    pub(super) count: usize,
    pub(super) stride: isize,
}

impl Grid {
    /// A single line.
    pub(super) fn line(count: usize, stride: isize) -> Self {
        Self { lines: 1, apart: 0, pitch: count, count, stride }
    }
}

/// A part of an array: elements `start..start + len` of the rows `first..first + lanes`, which lie one step of the
/// plan's innermost outer loop apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) first: usize,
    pub(crate) lanes: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Elements from one line of the tile's copy to the next.
    pub(crate) pitch: usize,
}

impl Tile {
    /// The same without so many rows at its beginning.
    pub(crate) fn after(self, rows: usize) -> Self {
        Self { first: self.first + rows, lanes: self.lanes - rows, ..self }
    }

    /// Bytes between neighbouring lanes and between neighbouring elements of a row.
    fn strides(self, plan: &Plan, operand: usize) -> (isize, isize) {
        let lane = plan.outer.last();
        let within = lane.map_or(1, |dim| dim.len);
        assert!(
            self.first % within + self.lanes <= within
                && self.first < plan.rows
                && self.start + self.len <= plan.len
                && self.len > 0
                && plan.axis.len() <= 1
        );
        (lane.map_or(0, |dim| dim.strides[operand]), plan.axis_stride(operand).unwrap_or(0))
    }
}

/// Whether rows are adjacent, aligned elements of type `T`.
fn is_direct<T: Element>(view: &View<'_>, plan: &Plan, operand: usize) -> bool {
    let aligned = |stride: isize| stride.unsigned_abs().is_multiple_of(align_of::<T>());
    view.dtype == T::DTYPE
        && !view.swapped
        && (plan.len <= 1 || plan.axis_stride(operand) == Some(size_of::<T>().cast_signed()))
        && view.pointer.addr().is_multiple_of(align_of::<T>())
        && plan.outer.iter().all(|dim| aligned(dim.strides[operand]))
}

/// Whether lines that begin at `first`, `apart` bytes from each other, have adjacent, aligned elements of type `T`.
fn is_line<T: Element>(view: &View<'_>, first: *const u8, lane_stride: isize, apart: isize) -> bool {
    view.dtype == T::DTYPE
        && !view.swapped
        && lane_stride == size_of::<T>().cast_signed()
        && apart.unsigned_abs().is_multiple_of(align_of::<T>())
        && first.addr().is_multiple_of(align_of::<T>())
}
