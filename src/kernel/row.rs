//! Rows that lie in memory one element after another: the quotients, once the row is folded.
//!
//! With 1 / sum = r + r' (r' what rounding takes from r), a result is
//!
//! ```text
//! s * (1 + p) * (r + r') = s * (r + (p r + r'))        one fma, one addition: the one rounding that counts;
//!                                                      the multiplication by the power of two s is exact
//! ```
//!
//! Left out is p r', at most 0.2 ULP. Where s is small the product is rounded once more, into the subnormal range.

use super::exp::{Exp, Mode};
use super::fold::Fold;
use super::real::Real;
use super::Temperature;
use crate::simd::{Simd, Vector};

/// Where results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Through the cache.
    Cached,
    /// Past it: for results that the cache could not keep.
    Streaming,
}

/// All that the quotients of a row have in common.
#[derive(Clone, Copy)]
pub(crate) struct Quotient<T: Real> {
    /// The fold of the row.
    pub(crate) fold: Fold<T>,
    /// The reciprocal of the sum, in two parts; NaN where all results are.
    pub(crate) reciprocal: (T, T),
}

impl<T: Real> Quotient<T> {
    /// From the complete fold of a row.
    #[inline(always)]
    pub(crate) fn new(fold: Fold<T>) -> Self {
        // The terms of the sum and the s of the quotient both carry 2^OFFSET; the reciprocal carries it away twice.
        let defined = !fold.nan && fold.extent.max > T::NEG_INFINITY && fold.extent.max < T::INFINITY;
        let reciprocal = if defined { T::reciprocal(fold.partial.sum) } else { (T::NAN, T::NAN) };
        Self { fold, reciprocal }
    }
}

/// A function of each element of a row.
pub(crate) trait Map<V: Vector>: Copy {
    /// The results of a vector of logits.
    fn apply<const MODE: u8>(&self, x: V) -> V;
}

/// [`Quotient`] in every lane.
#[derive(Clone, Copy)]
pub(crate) struct Probability<V: Vector> {
    pub(crate) exp: Exp<V>,
    pub(crate) reciprocal: (V, V),
}

impl<V: Vector> Map<V> for Probability<V> {
    #[inline(always)]
    fn apply<const MODE: u8>(&self, x: V) -> V {
        let (p, s) = self.exp.term::<MODE>(x);
        let (r, rest) = self.reciprocal;
        r.add(p.mul_add(r, rest)).mul(s)
    }
}

/// The probabilities of one row. `next` is what will be read after it; it is asked for meanwhile.
#[inline(always)]
pub(crate) fn probabilities<S: Simd, T: Real>(
    token: S,
    x: &[T],
    out: &mut [T],
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
    store: Store,
    next: &[T],
) {
    if quotient.reciprocal.0.is_nan() {
        out.fill(T::NAN);
        return;
    }
    let map = probability(token, temperature, quotient);
    match quotient.fold.extent.mode(temperature, quotient.fold.shift()) {
        Mode::Plain => write::<S, T, _, { Mode::Plain as u8 }>(token, x, out, map, store, next),
        Mode::Clamped => write::<S, T, _, { Mode::Clamped as u8 }>(token, x, out, map, store, next),
        Mode::General => write::<S, T, _, { Mode::General as u8 }>(token, x, out, map, store, next),
    }
}

/// The probabilities of one row, in the place of its logits.
#[inline(always)]
pub(crate) fn probabilities_in_place<S: Simd, T: Real>(
    token: S,
    data: &mut [T],
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
) {
    if quotient.reciprocal.0.is_nan() {
        data.fill(T::NAN);
        return;
    }
    let map = probability(token, temperature, quotient);
    match quotient.fold.extent.mode(temperature, quotient.fold.shift()) {
        Mode::Plain => write_in_place::<S, T, _, { Mode::Plain as u8 }>(token, data, map),
        Mode::Clamped => write_in_place::<S, T, _, { Mode::Clamped as u8 }>(token, data, map),
        Mode::General => write_in_place::<S, T, _, { Mode::General as u8 }>(token, data, map),
    }
}

#[inline(always)]
fn probability<S: Simd, T: Real>(
    token: S,
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
) -> Probability<T::Vector<S>> {
    let splat = |value| T::Vector::<S>::splat(token, value);
    Probability {
        exp: Exp::new(token, temperature, quotient.fold.shift()),
        reciprocal: (splat(quotient.reciprocal.0), splat(quotient.reciprocal.1)),
    }
}

/// Applies `map` to every element of `x`.
#[inline(always)]
fn write<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(
    token: S,
    x: &[T],
    out: &mut [T],
    map: M,
    store: Store,
    next: &[T],
) {
    debug_assert_eq!(x.len(), out.len());
    if store == Store::Cached {
        write_cached::<S, T, M, MODE>(token, x, out, map, next);
        return;
    }
    // The lanes are independent here, so the vectors may begin where the lines of the output do.
    let (head, lines, tail) = T::Vector::<S>::lines(out);
    let (x_head, x) = x.split_at(head.len());
    let (x_lines, x_tail) = x.split_at(lines.len() * T::Vector::<S>::LANES);
    write_cached::<S, T, M, MODE>(token, x_head, head, map, next);
    for (index, (x, line)) in x_lines.chunks_exact(T::Vector::<S>::LANES).zip(lines).enumerate() {
        token.prefetch(next, index * T::Vector::<S>::LANES);
        map.apply::<MODE>(T::Vector::<S>::load(token, x)).stream(line);
    }
    write_cached::<S, T, M, MODE>(token, x_tail, tail, map, next);
}

#[inline(always)]
fn write_cached<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(
    token: S,
    x: &[T],
    out: &mut [T],
    map: M,
    next: &[T],
) {
    let lanes = T::Vector::<S>::LANES;
    let mut from = x.chunks_exact(lanes);
    let mut to = out.chunks_exact_mut(lanes);
    for (index, (x, out)) in (&mut from).zip(&mut to).enumerate() {
        token.prefetch(next, index * lanes);
        map.apply::<MODE>(T::Vector::<S>::load(token, x)).store(out);
    }
    let (from, to) = (from.remainder(), to.into_remainder());
    if !from.is_empty() {
        map.apply::<MODE>(T::Vector::<S>::load_partial(token, from, T::ZERO)).store_partial(to);
    }
}

#[inline(always)]
fn write_in_place<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(token: S, data: &mut [T], map: M) {
    let mut vectors = data.chunks_exact_mut(T::Vector::<S>::LANES);
    for vector in &mut vectors {
        map.apply::<MODE>(T::Vector::<S>::load(token, vector)).store(vector);
    }
    let tail = vectors.into_remainder();
    if !tail.is_empty() {
        map.apply::<MODE>(T::Vector::<S>::load_partial(token, tail, T::ZERO)).store_partial(tail);
    }
}
