//! Rows to read: lent where they lie, or copied and converted to the type that the arithmetic uses.

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};

use super::raw::{Compute, Raw};
use super::{Grid, Tile, View, check, is_direct, is_line, row_offset, walk};
use crate::element::{DType, Element};
use crate::error::Result;
use crate::shape::Plan;
use crate::simd::{LINE, Simd, prefetch};

/// An array as rows to read.
pub(crate) struct Source<'a> {
    view: View<'a>,
    plan: &'a Plan,
    operand: usize,
    lends: bool,
}

impl<'a> Source<'a> {
    /// The rows of `view`, the operand of this number in the plan. A source that shares memory with the target must
    /// not lend.
    pub(crate) fn new(view: View<'a>, plan: &'a Plan, operand: usize, lends: bool) -> Result<Self> {
        check(&view, plan, operand)?;
        Ok(Self { view, plan, operand, lends })
    }

    /// The dtype of the elements.
    pub(crate) fn dtype(&self) -> DType {
        self.view.dtype
    }

    /// Whether [`Source::row`] lends rows of type `T`.
    pub(crate) fn lends<T: Element>(&self) -> bool {
        self.lends && is_direct::<T>(&self.view, self.plan, self.operand)
    }

    /// Whether there is such a row.
    pub(crate) fn has(&self, row: usize) -> bool {
        row < self.plan.rows
    }

    /// Elements of a row as they lie in memory. The source must lend, see [`Source::lends`].
    #[inline]
    pub(crate) fn row<T: Element>(&self, row: usize, elements: Range<usize>) -> &[T] {
        assert!(self.lends::<T>() && row < self.plan.rows);
        assert!(elements.start <= elements.end && elements.end <= self.plan.len);
        // SAFETY: `lends` says that the elements of a row are adjacent, aligned, and of type `T`; the plan was
        // checked to stay within the array, row and elements just now; the target does not share its memory.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            let first = self.view.pointer.offset(row_offset(self.plan, self.operand, row)).cast::<T>();
            std::slice::from_raw_parts(first.add(elements.start), elements.len())
        }
    }

    /// Truth values of a row as bytes, where they lie one after another and may be lent: 0 is false.
    pub(crate) fn bools(&self, row: usize, elements: Range<usize>) -> Option<&[u8]> {
        let adjacent = self.plan.len <= 1 || self.plan.axis_stride(self.operand) == Some(1);
        if !self.lends || self.view.dtype != DType::Bool || !adjacent {
            return None;
        }
        assert!(row < self.plan.rows && elements.start <= elements.end && elements.end <= self.plan.len);
        // SAFETY: as in `row`; a byte is aligned anywhere.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            let first = self.view.pointer.offset(row_offset(self.plan, self.operand, row));
            Some(std::slice::from_raw_parts(first.add(elements.start), elements.len()))
        }
    }

    /// Whether [`Source::rows_dense`] lends several rows of type `T` at once.
    pub(crate) fn is_dense<T: Element>(&self) -> bool {
        self.lends::<T>() && self.plan.is_dense(self.operand, size_of::<T>())
    }

    /// Whole rows, several of which must lie one after another. The source must lend, see [`Source::lends`].
    #[inline]
    pub(crate) fn rows_dense<T: Element>(&self, row: usize, count: usize) -> &[T] {
        assert!(self.lends::<T>() && row + count <= self.plan.rows);
        assert!(count == 1 || self.plan.is_dense(self.operand, size_of::<T>()));
        // SAFETY: as in `row`; `is_dense` says that the rows are adjacent too.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            let first = self.view.pointer.offset(row_offset(self.plan, self.operand, row)).cast::<T>();
            std::slice::from_raw_parts(first, self.plan.len * count)
        }
    }

    /// All rows from one on, which must lie one after another.
    pub(crate) fn rows_dense_from<T: Element>(&self, row: usize) -> &[T] {
        self.rows_dense(row, self.plan.rows - row)
    }

    /// Copies elements of a row, from `start` on, converted to the compute type.
    #[inline(never)]
    pub(crate) fn read<C: Compute>(&self, row: usize, start: usize, to: &mut [C]) {
        self.visit(row, start, to, &mut |offset, grid, to| self.load(offset, grid, to));
    }

    /// See [`Plan::lanes_from`].
    pub(crate) fn lanes_from(&self, first: usize, end: usize, most: usize) -> usize {
        self.plan.lanes_from(first, end, most)
    }

    /// Asks for the lines of elements of a row that lie one after another, so many elements further on. (Nothing is done
    /// for others.)
    #[inline]
    pub(crate) fn ask(&self, row: usize, elements: Range<usize>, ahead: usize) {
        let size = self.view.dtype.size();
        if self.plan.axis_stride(self.operand) != Some(size.cast_signed()) {
            return;
        }
        let row = self.view.pointer.wrapping_offset(row_offset(self.plan, self.operand, row));
        for at in (elements.start * size..elements.end * size).step_by(LINE) {
            prefetch(row.wrapping_add(ahead * size + at));
        }
    }

    /// Whether [`Source::read_halves`] reads it.
    pub(crate) fn is_half(&self) -> bool {
        self.lends::<f16>() || self.lends::<bf16>()
    }

    /// [`Source::read`] for half precision that lies in memory element after element, compiled for the level of the
    /// kernel that it is inlined into; false, and nothing done, for anything else. What lies so many elements `ahead` is
    /// asked for.
    #[inline(always)]
    pub(crate) fn read_halves<S: Simd, C: Compute>(
        &self,
        token: S,
        row: usize,
        start: usize,
        to: &mut [C],
        ahead: usize,
    ) -> bool {
        let elements = start..start + to.len();
        if self.lends::<f16>() {
            self.ask(row, elements.clone(), ahead);
            C::of_halves(token, self.row::<f16>(row, elements), to);
        } else if self.lends::<bf16>() {
            self.ask(row, elements.clone(), ahead);
            for (to, from) in to.iter_mut().zip(self.row::<bf16>(row, elements)) {
                *to = C::of(*from);
            }
        } else {
            return false;
        }
        true
    }

    /// For a source of booleans: puts `value` wherever it is false.
    #[inline(never)]
    pub(crate) fn exclude<C: Compute>(&self, row: usize, start: usize, to: &mut [C], value: C) {
        self.visit(row, start, to, &mut |offset, grid, to| self.clear(offset, grid, to, value));
    }

    fn visit<C: Compute>(&self, row: usize, start: usize, to: &mut [C], visit: &mut dyn FnMut(isize, Grid, &mut [C])) {
        assert!(row < self.plan.rows && start + to.len() <= self.plan.len);
        let row = row_offset(self.plan, self.operand, row);
        let mut done = 0;
        walk(&self.plan.axis, self.operand, start, to.len(), &mut |offset, stride, len| {
            visit(row + offset, Grid::line(len, stride), &mut to[done..]);
            done += len;
        });
    }

    /// Whether [`Source::lines`] lends those of tiles, if the plan has one axis.
    pub(crate) fn lends_lines<T: Element>(&self) -> bool {
        self.plan.rows > 0 && self.lines::<T>(Tile { first: 0, lanes: 1, start: 0, len: 1, pitch: 1 }).is_some()
    }

    /// The lines of a tile of type `T`, where the elements of a line lie one after another and may be lent.
    pub(crate) fn lines<T: Element>(&self, tile: Tile) -> Option<Lines<'_, T>> {
        let (lane_stride, apart) = tile.strides(self.plan, self.operand);
        let offset = row_offset(self.plan, self.operand, tile.first) + apart * tile.start.cast_signed();
        let first = self.view.pointer.wrapping_offset(offset);
        let lends = self.lends && is_line::<T>(&self.view, first, lane_stride, apart);
        lends.then_some(Lines { first, apart, number: tile.len, count: tile.lanes, elements: PhantomData })
    }

    /// Copies a tile: element `start + i` of row `first + lane` to `to[i * pitch + lane]`.
    #[inline(never)]
    pub(crate) fn read_tile<C: Compute>(&self, tile: Tile, to: &mut [C]) {
        let (offset, grid) = self.grid(tile);
        self.load(offset, grid, to);
    }

    /// [`Source::exclude`] for a tile.
    #[inline(never)]
    pub(crate) fn exclude_tile<C: Compute>(&self, tile: Tile, to: &mut [C], value: C) {
        let (offset, grid) = self.grid(tile);
        self.clear(offset, grid, to, value);
    }

    /// Where a tile begins, and its elements from there.
    fn grid(&self, tile: Tile) -> (isize, Grid) {
        let (lane_stride, axis_stride) = tile.strides(self.plan, self.operand);
        let first = row_offset(self.plan, self.operand, tile.first);
        let first = first + axis_stride * tile.start.cast_signed();
        (first, Grid { lines: tile.len, apart: axis_stride, pitch: tile.pitch, count: tile.lanes, stride: lane_stride })
    }

    /// Copies the elements of a grid that begins at an offset.
    fn load<C: Compute>(&self, offset: isize, grid: Grid, to: &mut [C]) {
        let from = self.view.pointer.wrapping_offset(offset);
        macro_rules! load {
            ($($dtype:ident => $type:ty),* $(,)?) => {
                match self.view.dtype {
                    $(DType::$dtype => load::<$type, C>(from, grid, self.view.swapped, to, &|to, from| *to = from),)*
                    #[allow(unreachable_patterns, reason = "the second table has every dtype")]
                    dtype => unreachable!("{} is computed in float64", dtype.name()),
                }
            };
        }
        // What else there is float32 does not hold, see `DType::computes_in_f64`.
        if C::DTYPE == DType::F32 {
            load!(Bool => u8, F16 => f16, BF16 => bf16, F32 => f32);
        } else {
            load!(
                Bool => u8, I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64,
                F16 => f16, BF16 => bf16, F32 => f32, F64 => f64,
            );
        }
    }

    /// Puts `value` wherever an element of a grid of booleans is false.
    fn clear<C: Compute>(&self, offset: isize, grid: Grid, to: &mut [C], value: C) {
        assert!(self.view.dtype == DType::Bool);
        let from = self.view.pointer.wrapping_offset(offset);
        load::<u8, C>(from, grid, false, to, &|to, from| *to = to.or(value, from != C::ZERO));
    }
}

/// See [`Source::lines`].
pub(crate) struct Lines<'a, T> {
    first: *const u8,
    apart: isize,
    number: usize,
    count: usize,
    elements: PhantomData<&'a [T]>,
}

impl<'a, T: Element> Lines<'a, T> {
    /// Lines of working memory, that begin `pitch` elements from each other: so many, of `count` elements each.
    pub(crate) fn of(data: &'a [T], pitch: usize, number: usize, count: usize) -> Self {
        assert!(number > 0 && (number - 1) * pitch + count <= data.len());
        Self {
            first: data.as_ptr().cast(),
            apart: (pitch * size_of::<T>()).cast_signed(),
            number,
            count,
            elements: PhantomData,
        }
    }

    /// From one line to the next, in elements; 0 where they lie in the other direction.
    pub(crate) fn pitch(&self) -> usize {
        usize::try_from(self.apart).unwrap_or(0) / size_of::<T>()
    }

    /// All of them, where each begins where the one before ends.
    pub(crate) fn together(&self) -> Option<&[T]> {
        let adjacent = self.apart == (self.count * size_of::<T>()).cast_signed();
        // SAFETY: as in `get`, for each of the lines; there is nothing between them.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        adjacent.then(|| unsafe { std::slice::from_raw_parts(self.first.cast(), self.number * self.count) })
    }

    /// A line.
    #[inline(always)]
    pub(crate) fn get(&self, line: usize) -> &[T] {
        assert!(line < self.number);
        // SAFETY: the lines of a tile are within the array, see `Tile::strides` and `check`; `is_line` says that their
        // elements are adjacent, aligned, and of type `T`; and the target does not share their memory. Those of a slice
        // are within it by the assertion in `of`, and it is borrowed for as long.
        #[allow(unsafe_code, reason = "cuts a slice out of an array of any shape")]
        unsafe {
            let first = self.first.offset(self.apart * line.cast_signed());
            std::slice::from_raw_parts(first.cast::<T>(), self.count)
        }
    }
}

/// How many lines of a grid ahead memory is asked.
const LINES_AHEAD: isize = 16;

/// Visits the lines of `to` with the elements of a grid.
fn load<E: Raw, C: Compute>(from: *const u8, grid: Grid, swapped: bool, to: &mut [C], visit: &impl Fn(&mut C, C)) {
    // SAFETY, for both reads: the callers pass offsets and strides of a plan that `check` found to stay within the
    // array, for as many lines and elements. Elements may be unaligned or far apart, so no slice can be made of them.
    for line in 0..grid.lines {
        let from = from.wrapping_offset(grid.apart * line.cast_signed());
        let to = &mut to[line * grid.pitch..][..grid.count];
        if !swapped && grid.stride == size_of::<E>().cast_signed() {
            if grid.lines > 1 {
                // Lines far apart are none that the processor would foresee.
                let ahead = from.wrapping_offset(grid.apart * LINES_AHEAD);
                for line in (0..grid.count * size_of::<E>()).step_by(LINE) {
                    prefetch(ahead.wrapping_add(line));
                }
            }
            // A loop of its own, with a constant stride, so that the compiler can make vectors of it.
            for (i, to) in to.iter_mut().enumerate() {
                #[allow(unsafe_code, reason = "reads elements of any alignment")]
                // SAFETY: see above.
                let element = unsafe { from.cast::<E>().add(i).read_unaligned() };
                visit(to, C::of(element));
            }
            continue;
        }
        for (i, to) in to.iter_mut().enumerate() {
            let at = from.wrapping_offset(grid.stride * i.cast_signed()).cast::<E>();
            #[allow(unsafe_code, reason = "reads elements of any alignment, any distance apart")]
            // SAFETY: see above.
            let element = unsafe { at.read_unaligned() };
            visit(to, C::of(if swapped { element.swapped() } else { element }));
        }
    }
}
