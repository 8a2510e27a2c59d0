//! The instruction sets, behind one narrow trait.
//!
//! A [`Simd`] token is a zero-sized witness: it can be had only where the processor has the instructions, so
//! everything above this module is safe code, written once. A [`Vector`] has the **same number of lanes at every
//! level** (16 of float32, 8 of float64: one AVX-512 register, two of AVX2, four of NEON), and every operation is
//! one IEEE 754 operation per lane. The same program on the same input therefore gives the same bits everywhere.
//!
//! What each operation does with NaN is part of the trait; where instruction sets differ (max, min), the trait
//! names one meaning and each level implements that one.

mod convert;
mod dispatch;
pub(crate) mod flags;
mod level;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub(crate) use convert::Half;
pub(crate) use dispatch::{Kernel, dispatch};
pub use level::Level;

use half::f16;

use crate::kernel::Real;
use crate::kernel::column::LANES;

/// The exponent bits of a float32.
const EXPONENT: i32 = 0x7f80_0000;

/// Bytes of a cache line, of a streaming store, and of every [`Vector`].
pub(crate) const LINE: usize = 64;

/// A witness that this processor has the instructions of one level.
pub(crate) trait Simd: Copy + 'static {
    /// 16 lanes of float32.
    type F32: Vector<Scalar = f32, Token = Self>;
    /// 8 lanes of float64.
    type F64: Vector<Scalar = f64, Token = Self>;

    /// Whether small code counts more than speed at this level.
    const COMPACT: bool = false;

    /// Whether sums are made of two vectors at a time: where the operations of one that do not depend on each other are too
    /// few to keep the processor busy, as far as it looks ahead.
    const PAIRS: bool = false;

    /// Runs a kernel as a function of its own that is compiled for this level.
    ///
    /// What is `#[inline(always)]` is compiled again wherever it is used; a loop that many callers share belongs
    /// behind this, so that there is one of it for each level.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// The lanes as float64, exactly: the lower half, and the upper.
    fn widen(self, lanes: Self::F32) -> [Self::F64; 2];

    /// The reverse of [`Simd::widen`], each lane rounded once.
    fn narrow(self, lanes: [Self::F64; 2]) -> Self::F32;

    /// The float16 as float32, exactly.
    #[inline(always)]
    fn widen_halves(self, from: &[f16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    }

    /// The reverse of [`Simd::widen_halves`], each rounded once. NaN is the canonical one, or gives some NaN.
    #[inline(always)]
    fn narrow_halves(self, from: &[f32], to: &mut [f16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f16::narrow(*from);
        }
    }

    /// Copies half precision, the whole lines of it past the cache, in the order that [`Simd::fence`] makes.
    #[inline(always)]
    fn stream_halves(self, from: &[u16], to: &mut [u16]) {
        to.copy_from_slice(from);
    }

    /// Asks for the cache line that holds `data[index]`, which may lie past the end, into the second cache.
    ///
    /// (The first has no room for what is far enough ahead, and reads from the second keep up with the arithmetic.)
    fn prefetch<T>(self, data: &[T], index: usize);

    /// The same into the first cache.
    fn prefetch_near<T>(self, data: &[T], index: usize);

    /// Orders the streaming stores of this thread before whatever it does next.
    fn fence(self);
}

/// Asks for the cache line at an address, whatever it is. (For code that no level is compiled for.)
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of every x86-64, and it never faults; the pointer is not dereferenced.
    #[allow(unsafe_code, reason = "an intrinsic")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// One line of output that a streaming store may fill.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<A>(A);

impl<A> Line<A> {
    /// One that is no output yet.
    pub(crate) fn new(numbers: A) -> Self {
        Self(numbers)
    }

    /// The numbers that it has.
    #[inline(always)]
    pub(crate) fn numbers(&mut self) -> &mut A {
        &mut self.0
    }
}

/// The numbers in half precision that a line has.
#[cfg(target_arch = "x86_64")]
const HALVES: usize = LINE / size_of::<f16>();

/// Copies what is before the first whole line of `to` and after the last. The lines are left.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn copy_ends<'a>(from: &'a [u16], to: &'a mut [u16]) -> (&'a [u16], &'a mut [u16]) {
    let (from, from_lines) = from.split_at(to.as_ptr().align_offset(LINE).min(to.len()));
    let (to, to_lines) = to.split_at_mut(from.len());
    let whole = to_lines.len() / HALVES * HALVES;
    let (from_lines, from_rest) = from_lines.split_at(whole);
    let (to_lines, to_rest) = to_lines.split_at_mut(whole);
    to.copy_from_slice(from);
    to_rest.copy_from_slice(from_rest);
    (from_lines, to_lines)
}

/// The columns of [`Vector::load_columns`].
pub(crate) const COLUMNS: usize = 4;

/// The elements from the first row's to the last of the columns of so many rows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn span(rows: usize, pitch: usize) -> usize {
    pitch.saturating_mul(rows - 1).saturating_add(COLUMNS)
}

/// A fixed number of lanes, on which every operation acts lane by lane.
pub(crate) trait Vector: Copy {
    /// The element of a lane.
    type Scalar: Real;
    /// The witness that makes a value of this type possible.
    type Token: Simd;
    /// The lanes as an array.
    type Array: Copy + AsRef<[Self::Scalar]> + AsMut<[Self::Scalar]>;
    /// One truth value for each lane.
    type Mask: Copy;

    /// The number of lanes, the same at every level.
    const LANES: usize = Self::Scalar::LANES;

    /// All lanes the same.
    fn splat(token: Self::Token, value: Self::Scalar) -> Self;
    /// The first `LANES` elements; panics where there are fewer.
    fn load(token: Self::Token, from: &[Self::Scalar]) -> Self;
    /// The first `LANES` elements, at any address.
    fn store(self, to: &mut [Self::Scalar]);
    /// Writes past the cache, in the order that [`Simd::fence`] makes.
    fn stream(self, to: &mut Line<Self::Array>);
    /// The lanes as an array.
    fn to_array(self) -> Self::Array;

    /// `self + other`, rounded once.
    fn add(self, other: Self) -> Self;
    /// `self - other`, rounded once.
    fn sub(self, other: Self) -> Self;
    /// `self * other`, rounded once.
    fn mul(self, other: Self) -> Self;
    /// `self / other`, rounded once.
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once: a fused multiply-add at every level.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `if self > other { self } else { other }`: NaN on either side gives `other`.
    fn max(self, other: Self) -> Self;
    /// `if self < other { self } else { other }`: NaN on either side gives `other`.
    fn min(self, other: Self) -> Self;
    /// The power of two that the low mantissa bits tell: they hold an integer, of which the quotient by the number of
    /// [`Real::STEPS`] is the biased exponent.
    fn octave(self) -> Self;
    /// The step that the same integer tells, by the remainder: that element of `steps`, which has them all, repeated.
    #[inline(always)]
    fn step(self, steps: Self) -> Self {
        let _ = self;
        steps
    }
    /// The product of both: the integer becomes the exponent, and the element of `powers` is added to the bits.
    #[inline(always)]
    fn power(self, powers: Self) -> Self {
        let _ = powers;
        self.octave()
    }

    /// The same, for what a loop carries from step to step. Where registers are few, it has the compiler keep that in
    /// them, and leave in memory what does not change.
    #[inline(always)]
    fn carried(self) -> Self {
        self
    }

    /// `self < other`; false where either is NaN.
    fn less(self, other: Self) -> Self::Mask;
    /// `if mask { yes } else { no }`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// True in so many lanes, from the first on.
    #[inline(always)]
    fn first_lanes(token: Self::Token, count: usize) -> Self::Mask {
        let mut places = Self::splat(token, Self::Scalar::ZERO).to_array();
        for (place, lane) in places.as_mut().iter_mut().zip(0u8..) {
            *place = Self::Scalar::from_f64(f64::from(lane));
        }
        #[allow(clippy::cast_precision_loss, reason = "more than the lanes are as good as all of them")]
        let count = Self::splat(token, Self::Scalar::from_f64(count as f64));
        Self::load(token, places.as_ref()).less(count)
    }
    /// Whether any lane is true.
    fn any(mask: Self::Mask) -> bool;
    /// A bit for each lane, from the lowest on: whether it is true.
    #[inline(always)]
    fn bits(token: Self::Token, mask: Self::Mask) -> u32 {
        let splat = |value| Self::splat(token, Self::Scalar::from_f64(value));
        let mut bits = 0;
        for (lane, is_true) in Self::select(mask, splat(1.0), splat(0.0)).to_array().as_ref().iter().enumerate() {
            bits |= u32::from(*is_true > Self::Scalar::ZERO) << lane;
        }
        bits
    }

    /// Lane i of vector j becomes lane j of vector i. There are as many vectors as lanes.
    #[inline(always)]
    fn transpose(token: Self::Token, vectors: &mut [Self]) {
        let from = [Self::splat(token, Self::Scalar::ZERO).to_array(); LANES];
        let (mut from, mut to) = (from, from);
        for (from, vector) in from.iter_mut().zip(&*vectors) {
            *from = vector.to_array();
        }
        for (i, (to, vector)) in to.iter_mut().zip(vectors).enumerate() {
            for (to, from) in to.as_mut().iter_mut().zip(&from) {
                *to = from.as_ref()[i];
            }
            *vector = Self::load(token, to.as_ref());
        }
    }

    /// Four columns of as many rows as there are lanes: lane i of vector j is element j of row i. Rows begin `pitch`
    /// elements from each other; panics where the last has fewer than four.
    #[inline(always)]
    fn load_columns(token: Self::Token, from: &[Self::Scalar], pitch: usize) -> [Self; COLUMNS] {
        let mut columns = [Self::splat(token, Self::Scalar::ZERO).to_array(); COLUMNS];
        for row in 0..Self::LANES {
            for (column, from) in columns.iter_mut().zip(&from[row * pitch..][..COLUMNS]) {
                column.as_mut()[row] = *from;
            }
        }
        let mut vectors = [Self::splat(token, Self::Scalar::ZERO); COLUMNS];
        for (vector, column) in vectors.iter_mut().zip(&columns) {
            *vector = Self::load(token, column.as_ref());
        }
        vectors
    }

    /// The reverse of [`Vector::load_columns`], row after row: they may overlap, the later one stays.
    #[inline(always)]
    fn store_columns(columns: [Self; COLUMNS], to: &mut [Self::Scalar], pitch: usize) {
        for row in 0..Self::LANES {
            for (to, column) in to[row * pitch..][..COLUMNS].iter_mut().zip(&columns) {
                *to = column.to_array().as_ref()[row];
            }
        }
    }

    /// Fewer than `LANES` elements; the lanes after them hold `fill`.
    #[inline(always)]
    fn load_partial(token: Self::Token, from: &[Self::Scalar], fill: Self::Scalar) -> Self {
        let mut lanes = Self::splat(token, fill).to_array();
        lanes.as_mut()[..from.len()].copy_from_slice(from);
        Self::load(token, lanes.as_ref())
    }

    /// The first `LANES` elements, or as many as there are; the lanes after them hold `fill`.
    #[inline(always)]
    fn load_some(token: Self::Token, from: &[Self::Scalar], fill: Self::Scalar) -> Self {
        if from.len() >= Self::LANES { Self::load(token, from) } else { Self::load_partial(token, from, fill) }
    }

    /// The first `to.len()` lanes, fewer than `LANES`.
    #[inline(always)]
    fn store_partial(self, to: &mut [Self::Scalar]) {
        let count = to.len();
        to.copy_from_slice(&self.to_array().as_ref()[..count]);
    }

    /// All lanes, or as many as `to` takes.
    #[inline(always)]
    fn store_some(self, to: &mut [Self::Scalar]) {
        if to.len() >= Self::LANES {
            self.store(to);
        } else {
            self.store_partial(to);
        }
    }

    /// Cuts `out` into the elements before the first whole line, the whole lines, and the rest.
    #[inline(always)]
    #[allow(clippy::type_complexity, reason = "three slices")]
    fn lines(out: &mut [Self::Scalar]) -> (&mut [Self::Scalar], &mut [Line<Self::Array>], &mut [Self::Scalar]) {
        const { assert!(size_of::<Line<Self::Array>>() == LINE) };
        // SAFETY: a `Line` is an array of `LANES` scalars (the assertion above) with a stricter alignment, which
        // `align_to_mut` sees to; floats have no invalid bit patterns and no padding. No safe function cuts a
        // slice at an alignment; `as_chunks` cuts at a count.
        #[allow(unsafe_code, reason = "no safe function cuts a slice where the alignment begins")]
        unsafe {
            out.align_to_mut()
        }
    }
}

#[cfg(test)]
mod tests;
