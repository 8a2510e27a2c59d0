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
    /// The results of a vector of logits. Where `KEPT`, `p` is what [`super::fold`] left of them.
    fn apply<const MODE: u8, const KEPT: bool>(&self, x: V, p: V) -> V;
}

/// [`Quotient`] in every lane.
#[derive(Clone, Copy)]
pub(crate) struct Probability<V: Vector> {
    pub(crate) exp: Exp<V>,
    pub(crate) reciprocal: (V, V),
}

impl<V: Vector> Map<V> for Probability<V> {
    #[inline(always)]
    fn apply<const MODE: u8, const KEPT: bool>(&self, x: V, p: V) -> V {
        let (p, s) = if KEPT { (p, self.exp.power::<MODE>(x)) } else { self.exp.term::<MODE>(x) };
        let (r, rest) = self.reciprocal;
        r.add(p.mul_add(r, rest)).mul(s)
    }
}

/// What one row is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    /// The logits.
    pub(crate) x: &'a [T],
    /// What the fold kept of them, or nothing.
    pub(crate) kept: &'a [T],
    /// What will be read after this row; it is asked for meanwhile.
    pub(crate) next: &'a [T],
}

/// The probabilities of one row.
#[inline(always)]
pub(crate) fn probabilities<S: Simd, T: Real>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
    store: Store,
) {
    if quotient.reciprocal.0.is_nan() {
        out.fill(T::NAN);
        return;
    }
    let map = probability(token, temperature, quotient);
    match quotient.fold.extent.mode(temperature, quotient.fold.shift()) {
        Mode::Plain => write::<S, T, _, { Mode::Plain as u8 }>(token, inputs, out, map, store),
        Mode::Clamped => write::<S, T, _, { Mode::Clamped as u8 }>(token, inputs, out, map, store),
        Mode::General => write::<S, T, _, { Mode::General as u8 }>(token, inputs, out, map, store),
    }
}

/// The probabilities of one row, in the place of its logits.
#[inline(always)]
pub(crate) fn probabilities_in_place<S: Simd, T: Real>(
    token: S,
    data: &mut [T],
    kept: &[T],
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
) {
    if quotient.reciprocal.0.is_nan() {
        data.fill(T::NAN);
        return;
    }
    let map = probability(token, temperature, quotient);
    match quotient.fold.extent.mode(temperature, quotient.fold.shift()) {
        Mode::Plain => write_in_place::<S, T, _, { Mode::Plain as u8 }>(token, data, kept, map),
        Mode::Clamped => write_in_place::<S, T, _, { Mode::Clamped as u8 }>(token, data, kept, map),
        Mode::General => write_in_place::<S, T, _, { Mode::General as u8 }>(token, data, kept, map),
    }
}

#[inline(always)]
fn probability<S: Simd, T: Real>(
    token: S,
    temperature: &Temperature<T>,
    quotient: &Quotient<T>,
) -> Probability<T::Vector<S>> {
    Probability {
        exp: Exp::new(token, temperature, quotient.fold.shift()),
        reciprocal: (
            T::Vector::<S>::splat(token, quotient.reciprocal.0),
            T::Vector::<S>::splat(token, quotient.reciprocal.1),
        ),
    }
}

/// Applies `map` to every element of a row.
#[inline(always)]
fn write<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    map: M,
    store: Store,
) {
    if inputs.kept.is_empty() {
        write_as::<S, T, M, MODE, false>(token, Inputs { kept: inputs.x, ..inputs }, out, map, store);
    } else {
        write_as::<S, T, M, MODE, true>(token, inputs, out, map, store);
    }
}

#[inline(always)]
fn write_as<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    map: M,
    store: Store,
) {
    let Inputs { x, kept, next } = inputs;
    if store == Store::Cached {
        write_cached::<S, T, M, MODE, KEPT>(token, inputs, out, map);
        return;
    }
    // The lanes are independent here, so the vectors may begin where the lines of the output do.
    let lanes = T::LANES;
    let (head, lines, tail) = T::Vector::<S>::lines(out);
    let (begin, end) = (head.len(), head.len() + lines.len() * lanes);
    let part = |range: std::ops::Range<usize>| Inputs { x: &x[range.clone()], kept: &kept[range], next: &[] };
    let (first, middle, last) = (part(0..begin), part(begin..end), part(end..x.len()));
    write_cached::<S, T, M, MODE, KEPT>(token, first, head, map);
    for (index, line) in lines.iter_mut().enumerate() {
        let at = index * lanes;
        token.prefetch(next, begin + at);
        let p = T::Vector::<S>::load(token, &middle.kept[at..at + lanes]);
        let x = T::Vector::<S>::load(token, &middle.x[at..at + lanes]);
        map.apply::<MODE, KEPT>(x, p).stream(line);
    }
    write_cached::<S, T, M, MODE, KEPT>(token, last, tail, map);
}

#[inline(always)]
fn write_cached<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    map: M,
) {
    let lanes = T::LANES;
    let whole = out.len() / lanes * lanes;
    let (x, x_tail) = inputs.x[..out.len()].split_at(whole);
    let (kept, kept_tail) = inputs.kept[..out.len()].split_at(whole);
    let (out, out_tail) = out.split_at_mut(whole);
    for (index, ((x, kept), out)) in
        x.chunks_exact(lanes).zip(kept.chunks_exact(lanes)).zip(out.chunks_exact_mut(lanes)).enumerate()
    {
        token.prefetch(inputs.next, index * lanes);
        let p = T::Vector::<S>::load(token, kept);
        map.apply::<MODE, KEPT>(T::Vector::<S>::load(token, x), p).store(out);
    }
    if !x_tail.is_empty() {
        let p = T::Vector::<S>::load_partial(token, kept_tail, T::ZERO);
        let x = T::Vector::<S>::load_partial(token, x_tail, T::ZERO);
        map.apply::<MODE, KEPT>(x, p).store_partial(out_tail);
    }
}

#[inline(always)]
fn write_in_place<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(
    token: S,
    data: &mut [T],
    kept: &[T],
    map: M,
) {
    if kept.is_empty() {
        write_in_place_as::<S, T, M, MODE, false>(token, data, kept, map);
    } else {
        write_in_place_as::<S, T, M, MODE, true>(token, data, kept, map);
    }
}

#[inline(always)]
fn write_in_place_as<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
    token: S,
    data: &mut [T],
    kept: &[T],
    map: M,
) {
    let lanes = T::LANES;
    let whole = data.len() / lanes * lanes;
    let (data, tail) = data.split_at_mut(whole);
    for (index, vector) in data.chunks_exact_mut(lanes).enumerate() {
        let x = T::Vector::<S>::load(token, vector);
        let p = if KEPT { T::Vector::<S>::load(token, &kept[index * lanes..]) } else { x };
        map.apply::<MODE, KEPT>(x, p).store(vector);
    }
    if !tail.is_empty() {
        let x = T::Vector::<S>::load_partial(token, tail, T::ZERO);
        let p = if KEPT { T::Vector::<S>::load_partial(token, &kept[whole..whole + tail.len()], T::ZERO) } else { x };
        map.apply::<MODE, KEPT>(x, p).store_partial(tail);
    }
}
