//! A row that one vector holds, from its logits to its results in one go: what is done once for each row is nearly all
//! there is, and between two functions more of it would be spent than on the row.
//!
//! The arithmetic is `fold`'s and `row`'s, and so are the bits.

use super::Temperature;
use super::exp::{Exp, Mode};
use super::fold::{Fold, Partial, larger};
use super::log_row::Logits;
use super::real::Real;
use super::row::{Map, Results};
use super::sum::{Sum, center, halve, total};
use crate::simd::{Simd, Vector};

/// Logits with a temperature are left to others.
const MODE: u8 = Mode::Clamped as u8;

/// The results of a row of at least one logit. False where the row needs more: it is too long, or has a temperature, a NaN,
/// an infinite maximum, or one that needs a base.
#[inline(always)]
pub(crate) fn write<S: Simd, T: Real, R: Results<T>>(
    token: S,
    x: &[T],
    out: &mut [T],
    temperature: &Temperature<T>,
    logits: &Logits<'_, T>,
) -> bool {
    if S::COMPACT || x.len() > T::LANES || !temperature.is_one() {
        return false;
    }
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    // The lanes past the end hold minus infinity, whose term is 0.
    let x = T::Vector::<S>::load_some(token, x, T::NEG_INFINITY);
    let max = halve(x.max(lowest).to_array(), larger);
    let Some(shift) = temperature.shift_within(max, None) else { return false };
    let exp = Exp::new(token, temperature, shift);
    let mut sum = Sum::new(token, center::<_, MODE>(token, &exp, max));
    let (about, p, s) = exp.term_about::<MODE>(x, sum.minus_center());
    sum.add(about, s);
    let partial = Partial { k: shift.k, sum: total::<S, T>(token, sum) };
    if T::double(partial.sum).high.is_nan() {
        return false;
    }
    let fold = Fold { max, partial, ..Fold::empty(shift.base) };
    let results = R::of(token, &fold, temperature, logits);
    let map = results.map(token, temperature);
    let results = if R::KEEPS { map.with_p::<MODE>(x, p) } else { map.apply::<MODE>(x) };
    results.store_some(out);
    true
}
