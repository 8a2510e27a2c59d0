//! Arrays as pointers and integers: any strides, any byte order, any alignment; overlap; working memory.
//!
//! This module and `simd` are the only ones below `python` that hold unsafe code. What the rest of the crate sees is
//! safe: a [`Source`] or [`Target`] is made from an array and a plan, is checked once to stay within the array, and
//! then reads rows into working memory, or lends them where they can be used in place.
//!
//! Another thread of the interpreter may write to an array meanwhile. That can spoil numbers, never memory: pointer,
//! shape and strides were read once, and no address depends on an element. (Rust calls such a race undefined;
//! NumPy's own loops have it too, and there is no way to lock an array.)

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};
use ndarray::{ArrayRef, Dimension};
use smallvec::SmallVec;

use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::kernel::Real;
use crate::shape::{self, Dim, Plan, Shape, Strides};
use crate::simd::Half;

/// An array that is read.
#[derive(Clone)]
pub struct View<'a> {
    pointer: *const u8,
    pub(crate) dtype: DType,
    /// Whether the elements have the other byte order.
    pub(crate) swapped: bool,
    pub(crate) shape: Shape,
    pub(crate) strides: Strides,
    lifetime: PhantomData<&'a [u8]>,
}

/// An array that is written.
pub struct ViewMut<'a> {
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
    pub fn of<T: Element, D: Dimension>(array: &'a ArrayRef<T, D>) -> Self {
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

    /// Whether the elements lie one after another, in C order, aligned, and are of type `T`.
    #[inline]
    fn is_slice_of<T: Element>(&self) -> bool {
        let mut stride = size_of::<T>().cast_signed();
        for (len, have) in self.shape.iter().zip(&self.strides).rev() {
            if *len != 1 && *have != stride {
                return false;
            }
            stride = stride.wrapping_mul(len.cast_signed());
        }
        self.dtype == T::DTYPE && !self.swapped && self.pointer.addr().is_multiple_of(align_of::<T>())
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
        let plan = Plan::new(&self.shape, &vec![true; self.shape.len()], [Some(&self.strides), None, None, None]);
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
    pub fn of<T: Element, D: Dimension>(array: &'a mut ArrayRef<T, D>) -> Self {
        let pointer = array.as_mut_ptr();
        let mut view = View::of(&*array);
        view.pointer = pointer.cast_const().cast();
        Self { array: view, exclusive: PhantomData }
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

/// Working memory of `count` zeros.
pub(crate) fn scratch<T: Default + Clone>(count: usize) -> Result<Vec<T>> {
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

    /// Whether [`Source::row`] lends rows of type `T`.
    pub(crate) fn lends<T: Element>(&self) -> bool {
        self.lends && is_direct::<T>(&self.view, self.plan, self.operand)
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

    /// Copies elements of a row, from `start` on, converted to the compute type.
    pub(crate) fn read<C: Compute>(&self, row: usize, start: usize, to: &mut [C]) {
        self.visit(row, start, to, |to, from| *to = from);
    }

    /// For a source of booleans: puts `value` wherever it is false.
    pub(crate) fn exclude<C: Compute>(&self, row: usize, start: usize, to: &mut [C], value: C) {
        self.visit(row, start, to, |to: &mut C, from: C| {
            if from == C::ZERO {
                *to = value
            }
        });
    }

    fn visit<C: Compute>(&self, row: usize, start: usize, to: &mut [C], visit: impl Fn(&mut C, C)) {
        assert!(row < self.plan.rows && start + to.len() <= self.plan.len);
        let row = row_offset(self.plan, self.operand, row);
        let mut done = 0;
        walk(&self.plan.axis, self.operand, start, to.len(), &mut |offset, stride, len| {
            self.load(row + offset, stride, &mut to[done..done + len], 1, &visit);
            done += len;
        });
    }

    /// Copies a tile: element `start + i` of row `first + lane` to `to[i * pitch + lane]`.
    pub(crate) fn read_tile<C: Compute>(&self, tile: Tile, to: &mut [C]) {
        self.visit_tile(tile, to, |to, from| *to = from);
    }

    /// [`Source::exclude`] for a tile.
    pub(crate) fn exclude_tile<C: Compute>(&self, tile: Tile, to: &mut [C], value: C) {
        self.visit_tile(tile, to, |to: &mut C, from: C| {
            if from == C::ZERO {
                *to = value
            }
        });
    }

    fn visit_tile<C: Compute>(&self, tile: Tile, to: &mut [C], visit: impl Fn(&mut C, C)) {
        let (lane_stride, axis_stride) = tile.strides(self.plan, self.operand);
        let first = row_offset(self.plan, self.operand, tile.first);
        let first = first + axis_stride * tile.start.cast_signed();
        if tile.by_row(lane_stride, axis_stride) {
            for lane in 0..tile.lanes {
                let offset = first + lane_stride * lane.cast_signed();
                let to = &mut to[lane..(tile.len - 1) * tile.pitch + lane + 1];
                self.load(offset, axis_stride, to, tile.pitch, &visit);
            }
        } else {
            for i in 0..tile.len {
                let offset = first + axis_stride * i.cast_signed();
                let to = &mut to[i * tile.pitch..][..tile.lanes];
                self.load(offset, lane_stride, to, 1, &visit);
            }
        }
    }

    /// Visits `to[0]`, `to[step]`, ... with the elements from `offset` on, `stride` bytes apart.
    fn load<C: Compute>(&self, offset: isize, stride: isize, to: &mut [C], step: usize, visit: &impl Fn(&mut C, C)) {
        let from = self.view.pointer.wrapping_offset(offset);
        macro_rules! load {
            ($($dtype:ident => $type:ty),* $(,)?) => {
                match self.view.dtype {
                    $(DType::$dtype => load::<$type, C>(from, stride, self.view.swapped, to, step, visit),)*
                }
            };
        }
        load!(
            Bool => u8, I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64,
            F16 => f16, BF16 => bf16, F32 => f32, F64 => f64,
        );
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

    /// Whether to copy row by row rather than across the rows: whichever follows memory more closely.
    fn by_row(self, lane_stride: isize, axis_stride: isize) -> bool {
        axis_stride.unsigned_abs() < lane_stride.unsigned_abs()
    }
}

/// Whether rows are adjacent, aligned elements of type `T`.
fn is_direct<T: Element>(view: &View<'_>, plan: &Plan, operand: usize) -> bool {
    let aligned = |stride: isize| stride.unsigned_abs() % align_of::<T>() == 0;
    view.dtype == T::DTYPE
        && !view.swapped
        && (plan.len <= 1 || plan.axis_stride(operand) == Some(size_of::<T>().cast_signed()))
        && view.pointer.addr() % align_of::<T>() == 0
        && plan.outer.iter().all(|dim| aligned(dim.strides[operand]))
}

/// A type that lies in arrays, and how its bytes become a number.
trait Raw: Copy {
    fn swapped(self) -> Self;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
}

macro_rules! raw_integers {
    ($($type:ty),*) => {$(
        impl Raw for $type {
            #[inline(always)]
            fn swapped(self) -> Self {
                self.swap_bytes()
            }
            #[inline(always)]
            #[allow(clippy::cast_precision_loss, clippy::cast_lossless, reason = "rounded, as NumPy does")]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            #[allow(clippy::cast_precision_loss, clippy::cast_lossless, reason = "rounded, as NumPy does")]
            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
raw_integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! raw_floats {
    ($($type:ty: $to_f32:expr, $to_f64:expr;)*) => {$(
        impl Raw for $type {
            #[inline(always)]
            fn swapped(self) -> Self {
                Self::from_bits(self.to_bits().swap_bytes())
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to_f64(self)
            }
        }
    )*};
}
#[allow(clippy::cast_possible_truncation, reason = "rounded once, where the result is narrower")]
const fn nearest(value: f64) -> f32 {
    value as f32
}
raw_floats! {
    f16: Half::widen, |value| f64::from(Half::widen(value));
    bf16: Half::widen, |value| f64::from(Half::widen(value));
    f32: |value| value, f64::from;
    f64: nearest, |value| value;
}

/// A type of results.
trait RawFloat: Raw {
    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
}

macro_rules! raw_results {
    ($($type:ty: $from_f32:expr, $from_f64:expr;)*) => {$(
        impl RawFloat for $type {
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $from_f64(value)
            }
        }
    )*};
}
raw_results! {
    f16: Half::narrow, |value| Half::narrow(nearest(value));
    bf16: Half::narrow, |value| Half::narrow(nearest(value));
    f32: |value| value, nearest;
    f64: f64::from, |value| value;
}

/// float32 or float64: what rows are converted to before any arithmetic, and from after it.
#[allow(private_bounds, reason = "the conversions are this module's own")]
pub(crate) trait Compute: Real + Element + RawFloat {
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn of<E: Raw>(element: E) -> Self;
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn into<E: RawFloat>(self) -> E;
}

impl Compute for f32 {
    #[inline(always)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn of<E: Raw>(element: E) -> Self {
        element.to_f32()
    }
    #[inline(always)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn into<E: RawFloat>(self) -> E {
        E::from_f32(self)
    }
}

impl Compute for f64 {
    #[inline(always)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn of<E: Raw>(element: E) -> Self {
        element.to_f64()
    }
    #[inline(always)]
    #[allow(private_interfaces, reason = "the conversions are this module's own")]
    fn into<E: RawFloat>(self) -> E {
        E::from_f64(self)
    }
}

/// See [`Source::load`].
fn load<E: Raw, C: Compute>(
    from: *const u8,
    stride: isize,
    swapped: bool,
    to: &mut [C],
    step: usize,
    visit: &impl Fn(&mut C, C),
) {
    // SAFETY, for both reads: the callers pass offsets and strides of a plan that `check` found to stay within the
    // array, for as many elements as `to` has steps. Elements may be unaligned or far apart, so no slice can be
    // made of them.
    if step == 1 && !swapped && stride == size_of::<E>().cast_signed() {
        // A loop of its own, with a constant stride, so that the compiler can make vectors of it.
        let from = from.cast::<E>();
        for (i, to) in to.iter_mut().enumerate() {
            #[allow(unsafe_code, reason = "reads elements of any alignment")]
            // SAFETY: see above.
            let element = unsafe { from.add(i).read_unaligned() };
            visit(to, C::of(element));
        }
        return;
    }
    for (i, to) in to.iter_mut().step_by(step).enumerate() {
        let at = from.wrapping_offset(stride * i.cast_signed()).cast::<E>();
        #[allow(unsafe_code, reason = "reads elements of any alignment, any distance apart")]
        // SAFETY: see above.
        let element = unsafe { at.read_unaligned() };
        visit(to, C::of(if swapped { element.swapped() } else { element }));
    }
}

/// The reverse of [`load`].
fn store<E: RawFloat, C: Compute>(to: *mut u8, stride: isize, swapped: bool, from: &[C], step: usize) {
    // SAFETY, for both writes: as in `load`; the memory is writable and no other thread of ours has this part.
    if step == 1 && !swapped && stride == size_of::<E>().cast_signed() {
        let to = to.cast::<E>();
        for (i, from) in from.iter().enumerate() {
            #[allow(unsafe_code, reason = "writes elements of any alignment")]
            // SAFETY: see above.
            unsafe {
                to.add(i).write_unaligned((*from).into());
            }
        }
        return;
    }
    for (i, from) in from.iter().step_by(step).enumerate() {
        let at = to.wrapping_offset(stride * i.cast_signed()).cast::<E>();
        let element: E = (*from).into();
        #[allow(unsafe_code, reason = "writes elements of any alignment, any distance apart")]
        // SAFETY: see above.
        unsafe {
            at.write_unaligned(if swapped { element.swapped() } else { element });
        }
    }
}

/// How an output is cut among the tasks of a call: blocks of `rows` rows, or of `elements` elements of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) rows: usize,
    pub(crate) elements: usize,
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
        let cut = Cut { rows: cut.rows.max(1), elements: cut.elements.clamp(1, len.max(1)) };
        let parts = plan.rows.div_ceil(cut.rows) * len.div_ceil(cut.elements);
        let taken = std::iter::repeat_with(AtomicBool::default).take(parts).collect();
        Ok(Self { view: view.array.clone(), exclusive: PhantomData, plan, operand, len, cut, taken })
    }

    /// The number of parts.
    pub(crate) fn parts(&self) -> usize {
        self.taken.len()
    }

    /// A part, which can be had once.
    pub(crate) fn part(&self, index: usize) -> Part<'_> {
        assert!(!self.taken[index].swap(true, Ordering::Relaxed), "part {index} was taken twice");
        let across = self.len.div_ceil(self.cut.elements);
        let first = index / across * self.cut.rows;
        let start = index % across * self.cut.elements;
        Part {
            target: self,
            rows: first..(first + self.cut.rows).min(self.plan.rows),
            elements: start..(start + self.cut.elements).min(self.len),
        }
    }

    fn lends<T: Element>(&self) -> bool {
        is_direct::<T>(&self.view, self.plan, self.operand)
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
    pub(crate) fn write<C: Compute>(&mut self, row: usize, start: usize, from: &[C]) {
        assert!(self.rows.contains(&row));
        assert!(self.elements.start <= start && start + from.len() <= self.elements.end);
        let target = self.target;
        let row = row_offset(target.plan, target.operand, row);
        let mut done = 0;
        walk(&target.plan.axis, target.operand, start, from.len(), &mut |offset, stride, len| {
            self.store(row + offset, stride, &from[done..done + len], 1);
            done += len;
        });
    }

    /// The reverse of [`Source::read_tile`].
    pub(crate) fn write_tile<C: Compute>(&mut self, tile: Tile, from: &[C]) {
        assert!(self.rows.start <= tile.first && tile.first + tile.lanes <= self.rows.end);
        assert!(self.elements.start <= tile.start && tile.start + tile.len <= self.elements.end);
        let target = self.target;
        let (lane_stride, axis_stride) = tile.strides(target.plan, target.operand);
        let first = row_offset(target.plan, target.operand, tile.first) + axis_stride * tile.start.cast_signed();
        if tile.by_row(lane_stride, axis_stride) {
            for lane in 0..tile.lanes {
                let offset = first + lane_stride * lane.cast_signed();
                self.store(offset, axis_stride, &from[lane..(tile.len - 1) * tile.pitch + lane + 1], tile.pitch);
            }
        } else {
            for i in 0..tile.len {
                let offset = first + axis_stride * i.cast_signed();
                self.store(offset, lane_stride, &from[i * tile.pitch..][..tile.lanes], 1);
            }
        }
    }

    fn store<C: Compute>(&self, offset: isize, stride: isize, from: &[C], step: usize) {
        let to = self.pointer(offset);
        let array = &self.target.view;
        match array.dtype {
            DType::F16 => store::<f16, C>(to, stride, array.swapped, from, step),
            DType::BF16 => store::<bf16, C>(to, stride, array.swapped, from, step),
            DType::F32 => store::<f32, C>(to, stride, array.swapped, from, step),
            DType::F64 => store::<f64, C>(to, stride, array.swapped, from, step),
            _ => unreachable!("ops refuse results that are not floats"),
        }
    }
}

/// The size of a last cache where the system does not say.
const USUAL_LAST: usize = 32 << 20;

/// Whether results of so many bytes would not stay in the last cache anyway, so that they are best written past it.
pub(crate) fn exceeds_last_cache(bytes: usize) -> bool {
    static LAST: OnceLock<usize> = OnceLock::new();
    bytes / 3 * 4 >= *LAST.get_or_init(|| last_cache().unwrap_or(USUAL_LAST))
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the C library's question about the machine")]
fn last_cache() -> Option<usize> {
    // SAFETY: `sysconf` takes any number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_LEVEL3_CACHE_SIZE) };
    usize::try_from(size).ok().filter(|size| *size > 0)
}

#[cfg(not(target_os = "linux"))]
fn last_cache() -> Option<usize> {
    None
}
