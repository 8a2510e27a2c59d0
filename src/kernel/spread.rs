//! One read of a row for its entropy: how far its logits lie below the largest, weighted with their terms.
//!
//! ```text
//! H = log(1 + y) + W / (m e_max + Y) / T     m logits equal the maximum, e_max is the term of one of them
//!     Y = sum of the terms of all others      y = ((m - 1) e_max + Y) / e_max
//!     W = sum of e_i (max - x_i)
//! ```
//!
//! Every part is positive, so nothing cancels, and Y leaves the maximum out from the start: a row of which one logit
//! outweighs all others keeps its digits, however small its entropy is.
//!
//! Chunks, shifts and lanes are those of `fold`; each chunk measures from its own maximum. Where the larger of two
//! chunks' maxima is D above the other, the other's W grows by D times its terms. Within a chunk, a lane adds four
//! terms, and four products, as a tree and the result to a pair of floats (Knuth's two-sum). A term and a product are
//! pairs too: of a row with few probabilities above 0 these are all there is, and no error averages out. (In float32, s
//! and s (max - x); what rounding takes from them and what p adds, which is little, is summed up beside them.) What is
//! left is the error of p and, in float32, that of max - x: 2^-24 of a product.

use super::ahead::Ahead;
use super::double::{Double, power_of_two_at_most_one};
use super::exp::{Exp, Mode, Shift, Temperature};
use super::fold::{CHUNK, Fold, Partial, larger, largest};
use super::real::Real;
use super::sum::{halve, is_whole, total_wide};
use crate::simd::{Simd, Vector};

/// Vectors whose products are added up before they join a lane's sum.
const GROUP: usize = 4;

/// What one read of some logits of a row tells.
#[derive(Clone, Copy)]
pub(crate) struct Spread<T: Real> {
    /// The largest logit, NaN left aside; minus infinity where there is nothing else.
    pub(crate) max: T,
    /// Whether there is a NaN.
    pub(crate) nan: bool,
    /// As [`Fold::skipped`].
    skipped: T,
    base: T,
    /// The largest logit that was counted.
    counted: T,
    /// How many equal it.
    maxima: f64,
    /// The shift of the three sums.
    k: f64,
    /// The term of the largest logit.
    top: Double,
    /// The terms of those below it.
    others: Double,
    /// Their products with their distance from it, in scaled logits.
    weighted: Double,
}

impl<T: Real> Spread<T> {
    /// No logits.
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        Self {
            max: T::NEG_INFINITY,
            nan: false,
            skipped: T::NEG_INFINITY,
            base: T::ZERO,
            counted: T::NEG_INFINITY,
            maxima: 0.0,
            k: Partial::<T>::empty().k,
            top: Double::default(),
            others: Double::default(),
            weighted: Double::default(),
        }
    }

    /// The logits of both, which had the same base.
    #[inline(always)]
    pub(crate) fn with(self, other: Self, temperature: &Temperature<T>) -> Self {
        let (high, low) = if other.counted > self.counted { (other, self) } else { (self, other) };
        let mut both = Self {
            max: larger(self.max, other.max),
            nan: self.nan | other.nan,
            skipped: larger(self.skipped, other.skipped),
            base: other.base,
            ..high
        };
        if low.maxima == 0.0 {
            return both;
        }
        if low.counted == high.counted {
            both.maxima += low.maxima;
            both.others = high.others.plus(low.others);
            both.weighted = high.weighted.plus(low.weighted);
            return both;
        }
        let scale = power_of_two_at_most_one(low.k - high.k);
        if !is_whole::<T>() {
            // The same in float64, which has the digits that float32 needs.
            let terms = scale * (low.others.high + low.top.high * low.maxima);
            let distance = (high.counted.to_f64() - low.counted.to_f64()) * temperature.scale();
            both.others = Double::new(high.others.high + terms);
            both.weighted = Double::new(high.weighted.high + (scale * low.weighted.high + terms * distance));
            return both;
        }
        let terms = low.others.plus(low.top.times(low.maxima)).times_power(scale);
        if terms.high == 0.0 {
            return both;
        }
        let distance = Double::sum(high.counted.to_f64(), -low.counted.to_f64()).times_power(temperature.scale());
        both.others = high.others.plus(terms);
        both.weighted = high.weighted.plus(low.weighted.times_power(scale).plus(terms.times_double(distance)));
        both
    }

    /// The fold of the same logits, without their sum.
    #[inline(always)]
    pub(crate) fn fold(&self) -> Fold<T> {
        Fold { max: self.max, nan: self.nan, skipped: self.skipped, ..Fold::empty(self.base) }
    }

    /// The entropy of a whole row, in nats.
    #[inline(always)]
    pub(crate) fn entropy(&self, temperature: &Temperature<T>) -> T {
        let max = self.max;
        if self.nan || max == T::INFINITY || max == T::NEG_INFINITY {
            return T::NAN;
        }
        let others = self.others.plus(self.top.times(self.maxima - 1.0));
        let mean = self.weighted.times_double(self.top.plus(others).reciprocal());
        let mean = mean.times_double(Double::new(temperature.scaled()).reciprocal());
        T::from_f64(T::ln_1p_of_quotient(others, self.top).plus(mean).high)
    }
}

/// The spread of `row`'s logits and of `x`, which begin a chunk. For `fixed` and `ahead` see [`super::fold::fold`].
#[inline(always)]
pub(crate) fn spread<S: Simd, T: Real>(
    token: S,
    row: Spread<T>,
    x: &[T],
    temperature: &Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
) -> Spread<T> {
    let (mut row, mut max) = (row, largest::<S, T>(token, &x[..x.len().min(CHUNK)]));
    for start in (0..x.len()).step_by(CHUNK) {
        let (chunk, next) = x[start..x.len().min(start + 2 * CHUNK)].split_at(CHUNK.min(x.len() - start));
        // Each chunk's maximum is looked for while the one before is summed up, if that is as long.
        let searched = if next.len() == chunk.len() { next } else { chunk };
        let (part, found) = of_chunk(token, chunk, max, searched, temperature, fixed, ahead.from(start));
        row = row.with(part, temperature);
        max = if next.len() == chunk.len() { found } else { largest::<S, T>(token, next) };
    }
    row
}

/// The spread of a chunk with a maximum, and the maximum of others, as many.
#[inline(always)]
fn of_chunk<S: Simd, T: Real>(
    token: S,
    x: &[T],
    max: T,
    searched: &[T],
    temperature: &Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
) -> (Spread<T>, T) {
    let Some(shift) = temperature.shift_within(max, fixed) else {
        let Fold { nan, skipped, base, .. } = Fold::left_out(x, max, fixed);
        return (Spread { max, nan, skipped, base, ..Spread::empty() }, largest::<S, T>(token, searched));
    };
    let mut part = Spread { max, base: shift.base, ..Spread::empty() };
    let exp = Exp::<T::Vector<S>>::new(token, temperature, shift);
    let lanes = T::Vector::<S>::splat(token, max);
    let sums = match shift.mode(temperature).at::<S>() {
        Mode::Clamped => sums::<S, T, { Mode::Clamped as u8 }>(token, x, lanes, searched, &exp, ahead),
        Mode::General => sums::<S, T, { Mode::General as u8 }>(token, x, lanes, searched, &exp, ahead),
    };
    let (p, s) = exp.term::<{ Mode::General as u8 }>(lanes);
    part.counted = max;
    part.k = shift.k;
    part.top = T::double(T::wide(s.to_array().as_ref()[0], p.mul(s).to_array().as_ref()[0]));
    part.maxima = halve(sums.maxima.to_array(), T::plus).to_f64();
    part.others = total::<S, T>(token, &sums.others);
    part.weighted = total::<S, T>(token, &sums.weighted);
    part.nan = part.weighted.high.is_nan();
    (part, halve(sums.searched.to_array(), larger))
}

/// The three sums, a lane each, and the maximum of the logits that were searched.
struct Sums<V> {
    searched: V,
    maxima: V,
    others: Pair<V>,
    weighted: Pair<V>,
}

/// A sum and what rounding took from it.
struct Pair<V> {
    sum: V,
    rest: V,
}

impl<V: Vector> Pair<V> {
    /// Adds four values to each lane, and what is left of them together.
    #[inline(always)]
    fn add(&mut self, values: [V; GROUP], rest: V) {
        let value = values[0].add(values[1]).add(values[2].add(values[3]));
        let sum = self.sum.add(value);
        let virtual_value = sum.sub(self.sum);
        let error = self.sum.sub(sum.sub(virtual_value)).add(value.sub(virtual_value));
        self.sum = sum;
        self.rest = self.rest.add(error.add(rest));
    }
}

/// The sum over the lanes, as a halving tree.
#[inline(always)]
fn total<S: Simd, T: Real>(token: S, pair: &Pair<T::Vector<S>>) -> Double {
    T::double(total_wide::<S, T>(T::wide_sum(token, pair.sum, pair.rest)))
}

#[inline(always)]
fn sums<S: Simd, T: Real, const MODE: u8>(
    token: S,
    x: &[T],
    max: T::Vector<S>,
    searched: &[T],
    exp: &Exp<T::Vector<S>>,
    ahead: Ahead,
) -> Sums<T::Vector<S>> {
    let lanes = T::LANES;
    let zero = T::Vector::<S>::splat(token, T::ZERO);
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let mut sums = Sums {
        searched: lowest,
        maxima: zero,
        others: Pair { sum: zero, rest: zero },
        weighted: Pair { sum: zero, rest: zero },
    };
    // (What is to be small has but one copy of the sums, that for groups of any length.)
    let whole = if S::COMPACT { 0 } else { x.len() / (GROUP * lanes) * (GROUP * lanes) };
    let ((x, tail), (searched, searched_tail)) = (x.split_at(whole), searched.split_at(whole));
    for (group, searched) in x.chunks_exact(GROUP * lanes).zip(searched.chunks_exact(GROUP * lanes)) {
        let mut vectors = [zero; GROUP];
        for (i, vector) in vectors.iter_mut().enumerate() {
            token.prefetch(group, ahead.index(i * lanes));
            *vector = T::Vector::<S>::load(token, &group[i * lanes..(i + 1) * lanes]);
            let searched = T::Vector::<S>::load(token, &searched[i * lanes..(i + 1) * lanes]);
            sums.searched = searched.max(sums.searched);
        }
        sums.add::<MODE>(token, vectors, max, exp);
    }
    for vector in searched_tail.chunks(lanes) {
        sums.searched = T::Vector::<S>::load_some(token, vector, T::NEG_INFINITY).max(sums.searched);
    }
    for group in tail.chunks(GROUP * lanes) {
        // Lanes without a logit hold minus infinity, whose term is 0.
        let mut vectors = [lowest; GROUP];
        for (vector, from) in vectors.iter_mut().zip(group.chunks(lanes)) {
            *vector = T::Vector::<S>::load_some(token, from, T::NEG_INFINITY);
        }
        sums.add::<MODE>(token, vectors, max, exp);
    }
    sums
}

impl<V: Vector> Sums<V> {
    #[inline(always)]
    fn add<const MODE: u8>(&mut self, token: V::Token, x: [V; GROUP], max: V, exp: &Exp<V>) {
        let (zero, one) = (V::splat(token, V::Scalar::ZERO), V::splat(token, V::Scalar::from_f64(1.0)));
        let minus_one = V::splat(token, V::Scalar::from_f64(-1.0));
        let max = exp.logit::<MODE>(max);
        let (mut others, mut weighted) = ([zero; GROUP], [zero; GROUP]);
        let (mut of_others, mut of_weighted) = (zero, zero);
        for i in 0..GROUP {
            let (p, s) = exp.term::<MODE>(x[i]);
            let logit = exp.logit::<MODE>(x[i]);
            let below = logit.less(max);
            let distance = max.sub(logit);
            if is_whole::<V::Scalar>() {
                let e = p.mul_add(s, s);
                let of_e = p.mul_add(s, s.sub(e));
                others[i] = V::select(below, e, zero);
                of_others = of_others.add(V::select(below, of_e, zero));
                weighted[i] = e.mul(distance);
                let lost = of_e.mul_add(distance, e.mul_add(distance, weighted[i].mul(minus_one)));
                // float64's p leaves less room: what rounding takes from max - x as well (Knuth's two-sum).
                let virtual_logit = max.sub(distance);
                let of_distance = virtual_logit.sub(logit).add(max.sub(distance.add(virtual_logit)));
                of_weighted = of_weighted.add(e.mul_add(of_distance, lost));
            } else {
                // What p adds is next to nothing beside s, and may be rounded.
                others[i] = V::select(below, s, zero);
                of_others = p.mul_add(others[i], of_others);
                weighted[i] = s.mul(distance);
                let lost = s.mul_add(distance, weighted[i].mul(minus_one));
                of_weighted = p.mul_add(weighted[i], of_weighted.add(lost));
            }
            self.maxima = self.maxima.add(V::select(below, zero, one));
        }
        self.others.add(others, of_others);
        self.weighted.add(weighted, of_weighted);
    }
}
