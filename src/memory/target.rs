//! Rows to write: cut into parts, each of which one task has to itself.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use smallvec::SmallVec;

use super::raw::{Compute, Halves, RawFloat};
use super::{Grid, Tile, View, ViewMut, check, is_direct, is_line, row_offset, walk};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::kernel::fold::CHUNK;
use crate::shape::{self, Plan};
use crate::simd::{LINE, Simd};

/// How an output is cut among the tasks of a call: blocks of `rows` rows, or of `elements` elements of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) rows: usize,
    pub(crate) elements: usize,
    /// Rows by which blocks begin earlier than at a multiple of `rows`: less than that.
    pub(crate) early: usize,
}

impl Cut {
    /// So many whole rows.
    pub(crate) fn rows(rows: usize) -> Self {
        Self { rows, elements: usize::MAX, early: 0 }
    }

    /// So many elements of one row.
    pub(crate) fn elements(elements: usize) -> Self {
        Self { rows: 1, elements, early: 0 }
    }
}

/// An array as rows to write, a part to a task.
pub(crate) struct Target<'a> {
    /// May be written through: the [`ViewMut`] it comes from is borrowed for as long.
    view: View<'a>,
    exclusive: PhantomData<&'a mut [u8]>,
    plan: &'a Plan,
    operand: usize,
    /// The number of elements of a row: the plan's, or 1 for a reduction.
    len: usize,
    cut: Cut,
    /// Where the parts of the one row begin and end, if they are not all of a size.
    bounds: Option<&'a [usize]>,
    taken: SmallVec<[AtomicBool; 16]>,
}

impl<'a> Target<'a> {
    /// The rows of `view`, the operand of this number in the plan.
    pub(crate) fn new(
        view: &'a mut ViewMut<'_>,
        plan: &'a Plan,
        operand: usize,
        reduced: bool,
        cut: Cut,
    ) -> Result<Self> {
        check(view.array(), plan, operand)?;
        let len = if reduced { 1 } else { plan.len };
        let axis = if reduced { &[][..] } else { &plan.axis };
        let dims = plan.outer.iter().chain(axis).map(|dim| (dim.len, dim.strides[operand]));
        if !shape::is_injective(dims, view.array().dtype.size()) {
            return Err(Error::Internal("a plan writes an element twice".into()));
        }
        let rows = cut.rows.max(1);
        let cut = Cut { rows, elements: cut.elements.clamp(1, len.max(1)), early: cut.early % rows };
        let parts = if plan.rows == 0 { 0 } else { plan.rows.saturating_add(cut.early).div_ceil(rows) };
        let parts = parts * len.div_ceil(cut.elements);
        let taken = std::iter::repeat_with(AtomicBool::default).take(parts).collect();
        Ok(Self { view: view.array.clone(), exclusive: PhantomData, plan, operand, len, cut, bounds: None, taken })
    }

    /// A plan's only row, in parts of any size: part i is the elements from `bounds[i]` to `bounds[i + 1]`.
    pub(crate) fn between(
        view: &'a mut ViewMut<'_>,
        plan: &'a Plan,
        operand: usize,
        bounds: &'a [usize],
    ) -> Result<Self> {
        // Bounds that do not decrease make the parts disjoint, and the last one keeps them within the row.
        if plan.rows != 1 || !bounds.is_sorted() || bounds.last().is_none_or(|last| *last > plan.len) {
            return Err(Error::Internal("parts of a row overlap or reach outside it".into()));
        }
        let whole = Self::new(view, plan, operand, false, Cut::rows(1))?;
        let taken = std::iter::repeat_with(AtomicBool::default).take(bounds.len() - 1).collect();
        Ok(Self { bounds: Some(bounds), taken, ..whole })
    }

    /// The number of parts.
    pub(crate) fn parts(&self) -> usize {
        self.taken.len()
    }

    /// A part, which can be had once.
    pub(crate) fn part(&self, index: usize) -> Part<'_> {
        assert!(!self.taken[index].swap(true, Ordering::Relaxed), "part {index} was taken twice");
        if let Some(bounds) = self.bounds {
            return Part { target: self, rows: 0..1, elements: bounds[index]..bounds[index + 1] };
        }
        let across = self.len.div_ceil(self.cut.elements);
        let end = (index / across).saturating_add(1).saturating_mul(self.cut.rows) - self.cut.early;
        let start = index % across * self.cut.elements;
        Part {
            target: self,
            rows: end.saturating_sub(self.cut.rows)..end.min(self.plan.rows),
            elements: start..(start + self.cut.elements).min(self.len),
        }
    }

    fn lends<T: Element>(&self) -> bool {
        is_direct::<T>(&self.view, self.plan, self.operand)
    }
}

/// Writes numbers as half precision.
#[inline(always)]
fn write_halves<S: Simd, C: Compute, H: Halves>(token: S, from: &[C], to: &mut [H], streams: bool)
where
    [H]: HalfFloatSliceExt,
{
    if !streams {
        H::narrow_all(token, from, to);
        return;
    }
    // Converted in the first cache, and copied from there: all but the first and the last in whole lines.
    let mut some = [H::default(); CHUNK];
    let mut most = CHUNK - to.as_ptr().addr() % LINE / size_of::<H>();
    let (mut from, mut to) = (from, to);
    while !from.is_empty() {
        let count = most.min(from.len());
        let (first, rest) = from.split_at(count);
        let (first_to, rest_to) = to.split_at_mut(count);
        H::narrow_all(token, first, &mut some[..count]);
        token.stream_halves(some[..count].reinterpret_cast(), first_to.reinterpret_cast_mut());
        (from, to, most) = (rest, rest_to, CHUNK);
    }
}

/// A part of a [`Target`] that no other task has.
pub(crate) struct Part<'a> {
    target: &'a Target<'a>,
    pub(crate) rows: Range<usize>,
    pub(crate) elements: Range<usize>,
}

impl Part<'_> {
    /// Whether [`Part::row`] lends rows of type `T`.
    pub(crate) fn lends<T: Element>(&self) -> bool {
        self.target.lends::<T>()
    }

    /// Whether [`Part::rows_dense`] lends several rows of type `T` at once.
    pub(crate) fn is_dense<T: Element>(&self) -> bool {
        self.lends::<T>() && self.target.plan.is_dense(self.target.operand, size_of::<T>())
    }

    #[inline]
    fn pointer(&self, offset: isize) -> *mut u8 {
        self.target.view.pointer.cast_mut().wrapping_offset(offset)
    }

    /// Elements of a row as they lie in memory. The target must lend, see [`Part::lends`].
    #[inline]
    pub(crate) fn row<T: Element>(&mut self, row: usize, elements: Range<usize>) -> &mut [T] {
        self.rows_dense(row, 1, elements)
    }

    /// Elements of several rows that lie one after another.
    #[inline]
    pub(crate) fn rows_dense<T: Element>(&mut self, row: usize, count: usize, elements: Range<usize>) -> &mut [T] {
        let target = self.target;
        assert!(target.lends::<T>() && self.rows.start <= row && row + count <= self.rows.end);
        assert!(self.elements.start <= elements.start && elements.end <= self.elements.end);
        assert!(count == 1 || (elements.len() == target.len && target.plan.is_dense(target.operand, size_of::<T>())));
        let first = self.pointer(row_offset(target.plan, target.operand, row)).cast::<T>();
        // SAFETY: `lends` says that the elements of a row are adjacent, aligned, and of type `T`, and `is_dense` the
        // same of several rows; the plan was checked to stay within the array, the indices just now. Parts are
        // disjoint, since the plan is injective and each part is handed out once; the borrow of `self` keeps this
        // part from lending twice.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            std::slice::from_raw_parts_mut(first.add(elements.start), elements.len() * count)
        }
    }

    /// Writes elements of a row, from `start` on, converted to the array's dtype.
    #[inline(never)]
    pub(crate) fn write<C: Compute>(&mut self, row: usize, start: usize, from: &[C]) {
        assert!(self.rows.contains(&row));
        assert!(self.elements.start <= start && start + from.len() <= self.elements.end);
        let target = self.target;
        let row = row_offset(target.plan, target.operand, row);
        let mut done = 0;
        walk(&target.plan.axis, target.operand, start, from.len(), &mut |offset, stride, len| {
            self.store(row + offset, Grid::line(len, stride), &from[done..]);
            done += len;
        });
    }

    /// [`Part::write`] for half precision that lies in memory element after element, compiled for the level of the
    /// kernel that it is inlined into, and past the cache where it is to be; false, and nothing done, for anything else.
    #[inline(always)]
    pub(crate) fn write_halves<S: Simd, C: Compute>(
        &mut self,
        token: S,
        row: usize,
        start: usize,
        from: &[C],
        streams: bool,
    ) -> bool {
        let elements = start..start + from.len();
        if self.lends::<f16>() {
            write_halves::<S, C, f16>(token, from, self.row(row, elements), streams);
        } else if self.lends::<bf16>() {
            write_halves::<S, C, bf16>(token, from, self.row(row, elements), streams);
        } else {
            return false;
        }
        true
    }

    /// The elements that would lie between the beginning of a line and a row's first element.
    pub(crate) fn past_line(&self, row: usize) -> usize {
        let target = self.target;
        let start = self.pointer(row_offset(target.plan, target.operand, row)).addr();
        start % LINE / target.view.dtype.size()
    }

    /// Writes the one result of a row of a reduction.
    pub(crate) fn write_one<C: Compute>(&mut self, row: usize, value: C) {
        assert!(self.rows.contains(&row) && self.target.len == 1);
        // A NaN that the processor made has a sign, and not the same one on all.
        let value = if value.is_nan() { C::NAN } else { value };
        self.store(row_offset(self.target.plan, self.target.operand, row), Grid::line(1, 0), &[value]);
    }

    /// The same for rows that are one step of the plan's innermost outer loop apart.
    pub(crate) fn write_each<C: Compute>(&mut self, first: usize, values: &mut [C]) {
        if let [value] = values {
            self.write_one(first, *value);
            return;
        }
        values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = C::NAN);
        self.write_tile(Tile { first, lanes: values.len(), start: 0, len: 1, pitch: values.len() }, values);
    }

    /// Writes indices to elements of a row of an int64 array, from `start` on.
    pub(crate) fn write_indices(&mut self, row: usize, start: usize, from: &[i64]) {
        assert!(self.rows.contains(&row));
        assert!(self.elements.start <= start && start + from.len() <= self.elements.end);
        let target = self.target;
        assert!(target.view.dtype == DType::I64);
        let row = row_offset(target.plan, target.operand, row);
        let mut done = 0;
        walk(&target.plan.axis, target.operand, start, from.len(), &mut |offset, stride, len| {
            for (i, index) in from[done..done + len].iter().enumerate() {
                let at = self.pointer(row + offset + stride * i.cast_signed());
                #[allow(clippy::cast_ptr_alignment, reason = "written unaligned")]
                let at = at.cast::<i64>();
                #[allow(unsafe_code, reason = "writes elements of any alignment, any distance apart")]
                // SAFETY: as in `store`: an element of the array, by a plan that `check` found to stay within it, in a
                // part that no other task has; int64 by the assertion above.
                unsafe {
                    at.write_unaligned(if target.view.swapped { index.swap_bytes() } else { *index });
                }
            }
            done += len;
        });
    }

    /// The lines of a tile of type `T`, where the elements of a line lie one after another.
    pub(crate) fn lines<T: Element>(&mut self, tile: Tile) -> Option<LinesMut<'_, T>> {
        assert!(self.rows.start <= tile.first && tile.first + tile.lanes <= self.rows.end);
        assert!(self.elements.start <= tile.start && tile.start + tile.len <= self.elements.end);
        let target = self.target;
        let (lane_stride, apart) = tile.strides(target.plan, target.operand);
        let offset = row_offset(target.plan, target.operand, tile.first) + apart * tile.start.cast_signed();
        let first = self.pointer(offset);
        let lends = is_line::<T>(&target.view, first, lane_stride, apart);
        lends.then_some(LinesMut { first, apart, number: tile.len, count: tile.lanes, elements: PhantomData })
    }

    /// The reverse of [`Source::read_tile`].
    #[inline(never)]
    pub(crate) fn write_tile<C: Compute>(&mut self, tile: Tile, from: &[C]) {
        assert!(self.rows.start <= tile.first && tile.first + tile.lanes <= self.rows.end);
        assert!(self.elements.start <= tile.start && tile.start + tile.len <= self.elements.end);
        let target = self.target;
        let (lane_stride, axis_stride) = tile.strides(target.plan, target.operand);
        let first = row_offset(target.plan, target.operand, tile.first) + axis_stride * tile.start.cast_signed();
        let grid =
            Grid { lines: tile.len, apart: axis_stride, pitch: tile.pitch, count: tile.lanes, stride: lane_stride };
        self.store(first, grid, from);
    }

    fn store<C: Compute>(&self, offset: isize, grid: Grid, from: &[C]) {
        let to = self.pointer(offset);
        let array = &self.target.view;
        match array.dtype {
            DType::F16 => store::<f16, C>(to, grid, array.swapped, from),
            DType::BF16 => store::<bf16, C>(to, grid, array.swapped, from),
            DType::F32 => store::<f32, C>(to, grid, array.swapped, from),
            DType::F64 => store::<f64, C>(to, grid, array.swapped, from),
            _ => unreachable!("ops refuse results that are not floats"),
        }
    }
}

/// See [`Part::lines`].
pub(crate) struct LinesMut<'a, T> {
    first: *mut u8,
    apart: isize,
    number: usize,
    count: usize,
    elements: PhantomData<&'a mut [T]>,
}

impl<T: Element> LinesMut<'_, T> {
    /// After so many lines, one begins as far from where a line of memory does as the first.
    pub(crate) fn period(&self) -> usize {
        LINE >> (self.apart.unsigned_abs() | LINE).trailing_zeros()
    }

    /// All of them, where each begins where the one before ends.
    pub(crate) fn together(&mut self) -> Option<&mut [T]> {
        let adjacent = self.apart == (self.count * size_of::<T>()).cast_signed();
        // SAFETY: as in `get`, for each of the lines; there is nothing between them.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        adjacent.then(|| unsafe { std::slice::from_raw_parts_mut(self.first.cast(), self.number * self.count) })
    }

    /// A line.
    #[inline(always)]
    pub(crate) fn get(&mut self, line: usize) -> &mut [T] {
        assert!(line < self.number);
        // SAFETY: as in `source::Lines`; lines are disjoint, since the plan is injective, nobody else has this part, and
        // the borrow of `self` keeps this one from being lent twice.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            let first = self.first.offset(self.apart * line.cast_signed());
            std::slice::from_raw_parts_mut(first.cast::<T>(), self.count)
        }
    }
}

/// Writes the lines of `from` to the elements of a grid.
fn store<E: RawFloat, C: Compute>(to: *mut u8, grid: Grid, swapped: bool, from: &[C]) {
    // SAFETY, for both writes: as in `source::load`; the memory is writable and no other thread of ours has this part.
    for line in 0..grid.lines {
        let to = to.wrapping_offset(grid.apart * line.cast_signed());
        let from = &from[line * grid.pitch..][..grid.count];
        if !swapped && grid.stride == size_of::<E>().cast_signed() {
            for (i, from) in from.iter().enumerate() {
                #[allow(unsafe_code, reason = "writes elements of any alignment")]
                // SAFETY: see above.
                unsafe {
                    to.cast::<E>().add(i).write_unaligned((*from).into());
                }
            }
            continue;
        }
        for (i, from) in from.iter().enumerate() {
            let at = to.wrapping_offset(grid.stride * i.cast_signed()).cast::<E>();
            let element: E = (*from).into();
            #[allow(unsafe_code, reason = "writes elements of any alignment, any distance apart")]
            // SAFETY: see above.
            unsafe {
                at.write_unaligned(if swapped { element.swapped() } else { element });
            }
        }
    }
}
