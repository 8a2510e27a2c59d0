//! What lies in arrays, as numbers: the conversion of one element, to what the arithmetic uses and back.

use std::cell::RefCell;

use half::{bf16, f16};

use super::scratch::Kept;
use crate::element::Element;
use crate::kernel::Real;
use crate::simd::{Half, Simd};

/// A type that lies in arrays, and how its bytes become a number.
pub(super) trait Raw: Copy {
    fn swapped(self) -> Self;
    fn as_f32(self) -> f32;
    fn as_f64(self) -> f64;
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
            fn as_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            #[allow(clippy::cast_precision_loss, clippy::cast_lossless, reason = "rounded, as NumPy does")]
            fn as_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
raw_integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! raw_floats {
    ($($type:ty: $as_f32:expr, $as_f64:expr;)*) => {$(
        impl Raw for $type {
            #[inline(always)]
            fn swapped(self) -> Self {
                Self::from_bits(self.to_bits().swap_bytes())
            }
            #[inline(always)]
            fn as_f32(self) -> f32 {
                $as_f32(self)
            }
            #[inline(always)]
            fn as_f64(self) -> f64 {
                $as_f64(self)
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
pub(super) trait RawFloat: Raw {
    fn of_f32(value: f32) -> Self;
    fn of_f64(value: f64) -> Self;
}

macro_rules! raw_results {
    ($($type:ty: $of_f32:expr, $of_f64:expr;)*) => {$(
        impl RawFloat for $type {
            #[inline(always)]
            fn of_f32(value: f32) -> Self {
                $of_f32(value)
            }
            #[inline(always)]
            fn of_f64(value: f64) -> Self {
                $of_f64(value)
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
    fn of<E: Raw>(element: E) -> Self;
    #[doc(hidden)]
    fn into<E: RawFloat>(self) -> E;
    /// `if keep { self } else { other }`, without a branch: masks are not to be foreseen.
    #[doc(hidden)]
    fn or(self, other: Self, keep: bool) -> Self;
    /// Many float16 at once; see [`Simd::widen_halves`].
    #[doc(hidden)]
    #[inline(always)]
    fn of_halves<S: Simd>(_: S, from: &[f16], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::of(*from);
        }
    }
    /// The reverse of [`Compute::of_halves`].
    #[doc(hidden)]
    #[inline(always)]
    fn into_halves<S: Simd>(_: S, from: &[Self], to: &mut [f16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = (*from).into();
        }
    }
    /// The working memory that this thread keeps.
    #[doc(hidden)]
    fn kept() -> &'static Kept<Self>;
}

#[allow(private_bounds, reason = "the conversions are this module's own")]
impl Compute for f32 {
    #[inline(always)]
    fn of<E: Raw>(element: E) -> Self {
        element.as_f32()
    }
    #[inline(always)]
    fn into<E: RawFloat>(self) -> E {
        E::of_f32(self)
    }
    #[inline(always)]
    fn or(self, other: Self, keep: bool) -> Self {
        let keep = u32::from(keep).wrapping_neg();
        Self::from_bits((self.to_bits() & keep) | (other.to_bits() & !keep))
    }
    #[inline(always)]
    fn of_halves<S: Simd>(token: S, from: &[f16], to: &mut [f32]) {
        token.widen_halves(from, to);
    }
    #[inline(always)]
    fn into_halves<S: Simd>(token: S, from: &[f32], to: &mut [f16]) {
        token.narrow_halves(from, to);
    }
    fn kept() -> &'static Kept<Self> {
        thread_local!(static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });
        &KEPT
    }
}

#[allow(private_bounds, reason = "the conversions are this module's own")]
impl Compute for f64 {
    #[inline(always)]
    fn of<E: Raw>(element: E) -> Self {
        element.as_f64()
    }
    #[inline(always)]
    fn into<E: RawFloat>(self) -> E {
        E::of_f64(self)
    }
    #[inline(always)]
    fn or(self, other: Self, keep: bool) -> Self {
        let keep = u64::from(keep).wrapping_neg();
        Self::from_bits((self.to_bits() & keep) | (other.to_bits() & !keep))
    }
    fn kept() -> &'static Kept<Self> {
        thread_local!(static KEPT: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) });
        &KEPT
    }
}

/// Half precision, many at once.
pub(super) trait Halves: Element + Default {
    /// The nearest of each number.
    fn narrow_all<S: Simd, C: Compute>(token: S, from: &[C], to: &mut [Self]);
}

impl Halves for f16 {
    #[inline(always)]
    fn narrow_all<S: Simd, C: Compute>(token: S, from: &[C], to: &mut [Self]) {
        C::into_halves(token, from, to);
    }
}

impl Halves for bf16 {
    #[inline(always)]
    fn narrow_all<S: Simd, C: Compute>(_: S, from: &[C], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = (*from).into();
        }
    }
}
