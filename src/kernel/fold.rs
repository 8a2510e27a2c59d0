//! One read of a row: its maximum, and the sum of its terms.
//!
//! ```text
//! for each chunk of 1,024 logits:                  the chunk is in the first cache from here on
//!     max of the chunk
//!     k = rint(max log2(e) / T)                    its own shift: powers of two are exact, so chunks merge exactly
//!     for each vector, lane j:                     lane j has the elements j, j + 16, j + 32, ... of the chunk
//!         (high_j, low_j) += s                     Fast2Sum; s (p - p_max) is summed up apart,
//!                         or s + s p, rounded      and what rounding took before joins low_j, too
//!     chunk = halving tree over the lanes          lane j and j + 8, j and j + 4, ...
//! row = chunk + chunk + ...                        in order; 64 chunks make a block, blocks add up in order
//! ```
//!
//! The order depends on indices alone, never on threads, alignment or registers: `column` follows it too. The
//! running sum starts at a power of two above every term (the *guard*), so that `Fast2Sum` needs no comparison; the
//! guard comes off exactly at the end. The first way is for quotients, the second for logarithms ([`Precision`]).

use std::marker::PhantomData;

use super::ahead::Ahead;
use super::column::LANES;
use super::exp::{Exp, Mode, PLAIN, Shift, Temperature};
use super::real::{self, Real, Stored, Wide};
use crate::simd::{Kernel, Simd, Vector};

/// Elements that share a shift; the unit of which sums are made.
pub(crate) const CHUNK: usize = 1024;

/// Elements whose chunks are added up before they join the row: the unit that threads take from one row.
pub(crate) const BLOCK: usize = 64 * CHUNK;

/// The larger of two logits, NaN left aside.
#[inline(always)]
pub(crate) fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// The largest logit of a slice, NaN left aside; minus infinity where there is nothing else.
#[inline(always)]
pub(crate) fn largest<S: Simd, T: Real>(token: S, x: &[T]) -> T {
    halve(extremes::<S, T>(token, x).0.to_array(), larger)
}

/// The largest and the smallest logit of each lane. (Which of them is not used costs nothing.)
#[inline(always)]
pub(crate) fn extremes<S: Simd, T: Real>(token: S, x: &[T]) -> (T::Vector<S>, T::Vector<S>) {
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let highest = T::Vector::<S>::splat(token, T::INFINITY);
    let lanes = T::Vector::<S>::LANES;
    // Four of each: the operations take four cycles and do not depend on each other.
    let (mut max, mut min) = ([lowest; 4], [highest; 4]);
    let mut blocks = x.chunks_exact(4 * lanes);
    for block in &mut blocks {
        for i in 0..4 {
            let v = T::Vector::<S>::load(token, &block[i * lanes..]);
            max[i] = v.max(max[i]);
            min[i] = v.min(min[i]);
        }
    }
    let mut vectors = blocks.remainder().chunks_exact(lanes);
    for (i, vector) in (&mut vectors).enumerate() {
        let v = T::Vector::<S>::load(token, vector);
        max[i] = v.max(max[i]);
        min[i] = v.min(min[i]);
    }
    let tail = vectors.remainder();
    if !tail.is_empty() {
        max[3] = T::Vector::<S>::load_partial(token, tail, T::NEG_INFINITY).max(max[3]);
        min[3] = T::Vector::<S>::load_partial(token, tail, T::INFINITY).min(min[3]);
    }
    (max[0].max(max[1]).max(max[2].max(max[3])), min[0].min(min[1]).min(min[2].min(min[3])))
}

/// Combines lanes j and j + h for h = half the lanes, a quarter, ..., 1.
#[inline(always)]
pub(crate) fn halve<A: AsMut<[T]>, T: Copy>(mut lanes: A, combine: impl Fn(T, T) -> T) -> T {
    let lanes = lanes.as_mut();
    let mut half = lanes.len() / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] = combine(lanes[j], lanes[j + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// How precise a sum of terms is to be.
pub(crate) trait Precision: Copy + Send + Sync + 'static {
    /// Whether what rounding takes from each term is kept; else, where p is small, only what it takes from the sum.
    const EXACT: bool;
}

/// For quotients.
#[derive(Clone, Copy)]
pub(crate) struct Rounded;

/// For logarithms, which take the largest term off the sum again and need the digits of what is left.
#[derive(Clone, Copy)]
pub(crate) struct Exact;

impl Precision for Rounded {
    const EXACT: bool = false;
}

impl Precision for Exact {
    const EXACT: bool = true;
}

/// Sums of terms, a lane each, with what rounding took from them.
#[derive(Clone, Copy)]
pub(crate) struct Sum<V> {
    high: V,
    /// What rounding took from `high`.
    low: V,
    /// About the p of the largest term, or 0: what all terms have of it is added at the end, so that the largest leaves
    /// next to nothing in `apart`, where it would cost the digits of all others.
    center: V,
    /// The sum of all s * (p - center), where s alone is added above.
    apart: V,
}

impl<V: Vector> Sum<V> {
    /// A power of two that no term exceeds: the terms of a maximum are below 2^(OFFSET + 1/2 + 1/16) ORIGIN.
    #[inline(always)]
    fn guard() -> V::Scalar {
        V::Scalar::from_f64(super::double::power_of_two(V::Scalar::OFFSET + 1))
    }

    /// No terms yet of those that `exp` gives.
    #[inline(always)]
    pub(crate) fn new<P: Precision>(token: V::Token, exp: &Exp<V>) -> Self {
        let zero = V::splat(token, V::Scalar::ZERO);
        let center = if Self::is_whole::<P>() { zero } else { exp.center };
        Self { high: V::splat(token, Self::guard()), low: zero, center, apart: zero }
    }

    /// Whether whole terms are added; else, where p is small, s and s p apart.
    #[inline(always)]
    fn is_whole<P: Precision>() -> bool {
        P::EXACT || V::Scalar::STEPS < 2.0
    }

    /// Adds s * (1 + p) to each lane.
    #[inline(always)]
    pub(crate) fn add<P: Precision>(&mut self, p: V, s: V) {
        let term = if Self::is_whole::<P>() { p.mul_add(s, s) } else { s };
        let high = self.high.add(term);
        let added = high.sub(self.high);
        // s - added is exact, and so s + s p - added is rounded once.
        let lost = s.sub(added);
        if Self::is_whole::<P>() {
            self.low = self.low.add(p.mul_add(s, lost));
        } else {
            self.low = self.low.add(lost);
            self.apart = p.sub(self.center).mul_add(s, self.apart);
        }
        self.high = high;
    }
}

/// A sum for each lane.
pub(crate) type Lanes<T> = [<T as Real>::Wide; LANES];

/// The sum of each lane; those past the vector's are empty.
#[inline(always)]
pub(crate) fn lanes<S: Simd, T: Real, P: Precision>(token: S, sum: Sum<T::Vector<S>>) -> Lanes<T> {
    let mut stored = [0.0; LANES];
    real::store::<S>(wide_sum::<S, T, P>(token, sum), &mut stored);
    lanes_of::<T>(&stored)
}

/// The same, of what was stored.
#[inline(always)]
pub(crate) fn lanes_of<T: Real>(stored: &Stored) -> Lanes<T> {
    let mut lanes = [T::Wide::default(); LANES];
    for (lane, sum) in lanes.iter_mut().enumerate().take(T::LANES) {
        *sum = T::wide_of(stored, lane);
    }
    lanes
}

/// The sum of each lane.
#[inline(always)]
pub(crate) fn wide_sum<S: Simd, T: Real, P: Precision>(token: S, sum: Sum<T::Vector<S>>) -> Wide<S> {
    let high = sum.high.sub(T::Vector::<S>::splat(token, Sum::<T::Vector<S>>::guard()));
    let wide = T::wide_sum(token, high, sum.low);
    if Sum::<T::Vector<S>>::is_whole::<P>() {
        return wide;
    }
    // At most a twentieth of the sum, so that it may be rounded.
    let more = sum.center.mul_add(high.add(sum.low), sum.apart);
    T::add_wides::<S>(wide, T::widened(token, more))
}

/// The sum of one term, s * (1 + p), in each lane, as two numbers for [`Real::wide_sum`]: what [`Sum::add`] and
/// [`wide_sum`] make of it, of which the guard's part is exact.
#[inline(always)]
pub(crate) fn term<S: Simd, T: Real, P: Precision>(
    token: S,
    exp: &Exp<T::Vector<S>>,
    p: T::Vector<S>,
    s: T::Vector<S>,
) -> [T::Vector<S>; 2] {
    if Sum::<T::Vector<S>>::is_whole::<P>() {
        let mut sum = Sum::new::<P>(token, exp);
        sum.add::<P>(p, s);
        return [sum.high.sub(T::Vector::<S>::splat(token, Sum::<T::Vector<S>>::guard())), sum.low];
    }
    [s, exp.center.mul_add(s, p.sub(exp.center).mul(s))]
}

/// The sum of terms of a slice of at most [`CHUNK`] logits. What lies `ahead` is asked for meanwhile.
#[inline(always)]
fn sum<S: Simd, T: Real, P: Precision, const KEEP: bool>(
    token: S,
    x: &[T],
    kept: &mut [T],
    exp: &Exp<T::Vector<S>>,
    (mode, plain): (Mode, bool),
    ahead: Ahead,
) -> Sum<T::Vector<S>> {
    match mode.at::<S>() {
        Mode::Clamped if plain => sum_in_mode::<S, T, P, KEEP, PLAIN>(token, x, kept, exp, ahead),
        Mode::Clamped => sum_in_mode::<S, T, P, KEEP, { Mode::Clamped as u8 }>(token, x, kept, exp, ahead),
        Mode::General => sum_in_mode::<S, T, P, KEEP, { Mode::General as u8 }>(token, x, kept, exp, ahead),
    }
}

/// [`sum`] in a mode that is known.
#[inline(always)]
pub(crate) fn sum_in_mode<S: Simd, T: Real, P: Precision, const KEEP: bool, const MODE: u8>(
    token: S,
    x: &[T],
    kept: &mut [T],
    exp: &Exp<T::Vector<S>>,
    ahead: Ahead,
) -> Sum<T::Vector<S>> {
    let mut sum = Sum::new::<P>(token, exp);
    add_terms::<S, T, P, KEEP, MODE>(token, &mut sum, x, kept, exp, ahead);
    sum
}

/// Adds the terms of the last logits of a chunk.
#[inline(always)]
pub(crate) fn add_terms<S: Simd, T: Real, P: Precision, const KEEP: bool, const MODE: u8>(
    token: S,
    sum: &mut Sum<T::Vector<S>>,
    x: &[T],
    kept: &mut [T],
    exp: &Exp<T::Vector<S>>,
    ahead: Ahead,
) {
    let lanes = T::LANES;
    let whole = x.len() / lanes * lanes;
    let (x, tail) = x.split_at(whole);
    let (kept, kept_tail) = kept.split_at_mut(if KEEP { whole } else { 0 });
    for (index, vector) in x.chunks_exact(lanes).enumerate() {
        // (What keeps no p has no results in the caches. Its loop is short enough for a branch to show.)
        if KEEP && ahead.is_near() {
            token.prefetch_near(x, ahead.index(index * lanes));
        } else {
            token.prefetch(x, ahead.index(index * lanes));
        }
        let (p, s) = exp.term::<MODE>(T::Vector::<S>::load(token, vector));
        sum.add::<P>(p, s);
        if KEEP {
            p.store(&mut kept[index * lanes..]);
        }
    }
    if !tail.is_empty() {
        // The lanes past the end hold minus infinity, whose term is 0 in every mode.
        let tail = T::Vector::<S>::load_partial(token, tail, T::NEG_INFINITY);
        let (p, s) = if MODE == PLAIN { exp.term::<{ Mode::Clamped as u8 }>(tail) } else { exp.term::<MODE>(tail) };
        sum.add::<P>(p, s);
        if KEEP {
            p.store_partial(kept_tail);
        }
    }
}

/// A sum of terms that carry the power of two 2^(OFFSET - k).
#[derive(Clone, Copy)]
pub(crate) struct Partial<T: Real> {
    pub(crate) k: f64,
    pub(crate) sum: T::Wide,
}

impl<T: Real> Partial<T> {
    /// No terms. (The k of an empty sum is below every other's, far enough for a power of two of 0.)
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        Self { k: -1e5, sum: Default::default() }
    }

    /// The sum of both.
    #[inline(always)]
    pub(crate) fn plus(self, other: Self) -> Self {
        let k = if other.k > self.k { other.k } else { self.k };
        let scale = |partial: Self| super::double::power_of_two_at_most_one(partial.k - k);
        Self { k, sum: T::add_scaled(self.sum, scale(self), other.sum, scale(other)) }
    }
}

/// What one read of some logits of a row tells.
#[derive(Clone, Copy)]
pub(crate) struct Fold<T: Real> {
    /// The largest logit, NaN left aside; minus infinity where there is nothing else.
    pub(crate) max: T,
    /// Whether there is a NaN.
    pub(crate) nan: bool,
    /// The largest logit of the chunks that were left out, because their maximum was beyond the shift's range.
    pub(crate) skipped: T,
    /// The base of the sum.
    pub(crate) base: T,
    /// The sum.
    pub(crate) partial: Partial<T>,
}

/// Logits this many temperatures below the maximum change no sum and no result.
pub(crate) const FAR: f64 = 800.0;

impl<T: Real> Fold<T> {
    /// No logits, to be summed up with `base`.
    #[inline(always)]
    pub(crate) fn empty(base: T) -> Self {
        Self { max: T::NEG_INFINITY, nan: false, skipped: T::NEG_INFINITY, base, partial: Partial::empty() }
    }

    /// The logits of both, which had the same base.
    #[inline(always)]
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            max: larger(self.max, other.max),
            nan: self.nan | other.nan,
            skipped: larger(self.skipped, other.skipped),
            base: self.base,
            partial: self.partial.plus(other.partial),
        }
    }

    /// The shift that all terms of the row share.
    #[inline(always)]
    pub(crate) fn shift(&self) -> Shift<T> {
        Shift::new(self.base, self.partial.k)
    }

    /// The shift with which the logits must be read again, because chunks that count were left out.
    #[inline(always)]
    pub(crate) fn retry(&self, temperature: &Temperature<T>) -> Option<Shift<T>> {
        let max = self.max;
        if self.skipped == T::NEG_INFINITY || max == T::INFINITY || self.nan {
            return None;
        }
        if max.to_f64() - self.skipped.to_f64() > FAR * temperature.value {
            return None;
        }
        let base = if temperature.needs_base(max) { max } else { T::ZERO };
        Some(temperature.shift(max, base))
    }
}

/// The most pieces that are folded together: what is done once for each takes longer than a short one itself, but
/// several pieces' overlap.
pub(crate) const PIECES: usize = 8;

/// The chunks of a long row that are folded together.
const CHUNKS: usize = 2;

/// What a row of `len` logits takes of the room for p, so that the next row begins with a vector.
pub(crate) const fn room<T: Real>(len: usize) -> usize {
    len.next_multiple_of(T::LANES)
}

/// Logits in at most [`PIECES`] pieces that each have a shift of their own, or all the `fixed` one of a
/// [`Fold::retry`].
///
/// Where `kept` is not empty, each logit's p is left there for [`super::row`], those of a piece from a whole number of
/// vectors on ([`room`]); it is empty where the second read computes p again.
pub(crate) struct FoldPieces<'a, T: Real, P> {
    pub(crate) x: &'a [T],
    /// The elements of a piece: at most [`CHUNK`].
    pub(crate) len: usize,
    pub(crate) kept: &'a mut [T],
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) fixed: Option<Shift<T>>,
    pub(crate) ahead: Ahead,
    /// One for each piece.
    pub(crate) folds: &'a mut [Fold<T>],
    /// Room for the sum of each piece.
    pub(crate) sums: &'a mut [Stored],
    pub(crate) precision: PhantomData<P>,
}

impl<T: Real, P: Precision> Kernel for FoldPieces<'_, T, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        if keeps::<S, P, T>(self.kept) {
            self.fold_keeping::<S, true>(token);
        } else {
            self.fold_keeping::<S, false>(token);
        }
    }
}

/// Whether p is kept: not for logarithms, nor where it is computed again.
#[inline(always)]
pub(crate) fn keeps<S: Simd, P: Precision, T>(kept: &[T]) -> bool {
    !P::EXACT && !S::COMPACT && !kept.is_empty()
}

impl<T: Real, P: Precision> FoldPieces<'_, T, P> {
    /// What is done once for each piece is done for all of them at a time.
    #[inline(always)]
    fn fold_keeping<S: Simd, const KEEP: bool>(self, token: S) {
        let Self { x, len, kept, temperature, fixed, ahead, folds, sums, .. } = self;
        let mut smallest = [T::NEG_INFINITY; PIECES];
        for ((fold, x), smallest) in folds.iter_mut().zip(x.chunks(len)).zip(&mut smallest) {
            let (max, min) = extremes::<S, T>(token, x);
            *fold = Fold { max: halve(max.to_array(), larger), ..Fold::empty(base(fixed)) };
            *smallest = halve(min.to_array(), |a, b| if b < a { b } else { a });
        }
        for (index, x) in x.chunks(len).enumerate() {
            let fold = &mut folds[index];
            let kept = if KEEP { &mut kept[index * room::<T>(len)..][..x.len()] } else { &mut [] };
            let max = fold.max;
            let infinite = max == T::NEG_INFINITY || max == T::INFINITY;
            if infinite || (fixed.is_none() && temperature.needs_base(max)) {
                fold.nan = any_nan(x);
                fold.skipped = if infinite { T::NEG_INFINITY } else { max };
                // Either the results of these logits are 0 or NaN whatever p is, or they are read again.
                kept.fill(T::ZERO);
                continue;
            }
            let shift = match fixed {
                Some(shift) => shift,
                None => temperature.shift(max, T::ZERO),
            };
            let exp = Exp::new(token, temperature, shift);
            fold.partial.k = shift.k;
            let highest = (shift.k * std::f64::consts::LN_2).max(max.to_f64());
            let plain = highest - smallest[index].to_f64() <= T::NARROW;
            let sum =
                sum::<S, T, P, KEEP>(token, x, kept, &exp, (shift.mode(temperature), plain), ahead.from(index * len));
            real::store::<S>(wide_sum::<S, T, P>(token, sum), &mut sums[index]);
        }
        for (fold, sum) in folds.iter_mut().zip(sums) {
            if fold.partial.k > Partial::<T>::empty().k {
                fold.partial.sum = halve(lanes_of::<T>(sum), T::add_wide);
                fold.nan = T::double(fold.partial.sum).high.is_nan();
            }
        }
    }
}

/// The base that a shift has, or none.
fn base<T: Real>(fixed: Option<Shift<T>>) -> T {
    fixed.map_or(T::ZERO, |shift| shift.base)
}

/// The fold of a block: at most [`BLOCK`] logits. All have the `fixed` shift of a [`Fold::retry`], or each chunk its own.
///
/// Where `kept` is not empty, each logit's p is left there for [`super::row`]; it is empty where the second read computes
/// p again.
#[inline(always)]
pub(crate) fn fold<S: Simd, T: Real, P: Precision>(
    token: S,
    x: &[T],
    kept: &mut [T],
    temperature: &Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
) -> Fold<T> {
    token.call(FoldBlock::<T, T::Sum<P>> { x, kept, temperature, fixed, ahead, precision: PhantomData })
}

/// The arguments of [`fold`].
struct FoldBlock<'a, T: Real, P> {
    x: &'a [T],
    kept: &'a mut [T],
    temperature: &'a Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
    precision: PhantomData<P>,
}

impl<T: Real, P: Precision> Kernel for FoldBlock<'_, T, P> {
    type Output = Fold<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<T> {
        let Self { x, kept, temperature, fixed, ahead, precision } = self;
        let mut fold = Fold::empty(base(fixed));
        let mut folds = [fold; CHUNKS];
        let sums = &mut [[0.0; LANES]; CHUNKS];
        for (index, x) in x.chunks(CHUNKS * CHUNK).enumerate() {
            let kept = if kept.is_empty() { &mut [] } else { &mut kept[index * CHUNKS * CHUNK..][..x.len()] };
            let folds = &mut folds[..x.len().div_ceil(CHUNK)];
            let ahead = ahead.from(index * CHUNKS * CHUNK);
            token.call(FoldPieces { x, len: CHUNK, kept, temperature, fixed, ahead, folds, sums, precision });
            for part in folds {
                fold = fold.with(*part);
            }
        }
        fold
    }
}

/// Whether there is a NaN.
#[inline(always)]
fn any_nan<T: Real>(x: &[T]) -> bool {
    let mut any = false;
    for x in x {
        any |= x.is_nan();
    }
    any
}

/// The fold of a row of any length, read again where it must be. For `kept` see [`FoldPieces`].
#[inline(always)]
pub(crate) fn fold_row<S: Simd, T: Real, P: Precision>(
    token: S,
    x: &[T],
    kept: &mut [T],
    temperature: &Temperature<T>,
    ahead: Ahead,
) -> Fold<T> {
    token.call(FoldRow::<T, T::Sum<P>> { x, kept, temperature, ahead, precision: PhantomData })
}

/// The arguments of [`fold_row`].
struct FoldRow<'a, T: Real, P> {
    x: &'a [T],
    kept: &'a mut [T],
    temperature: &'a Temperature<T>,
    ahead: Ahead,
    precision: PhantomData<P>,
}

impl<T: Real, P: Precision> Kernel for FoldRow<'_, T, P> {
    type Output = Fold<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<T> {
        let Self { x, kept, temperature, ahead, precision } = self;
        let mut fixed: Option<Shift<T>> = None;
        if x.len() <= CHUNK {
            // As below, with less around it.
            let (len, kept) = (x.len().max(1), &mut *kept);
            let (mut folds, sums) = ([Fold::empty(T::ZERO)], &mut [[0.0; LANES]]);
            token.call(FoldPieces { x, len, kept, temperature, fixed, ahead, folds: &mut folds, sums, precision });
            fixed = folds[0].retry(temperature);
            if fixed.is_none() {
                return folds[0];
            }
        }
        loop {
            let mut row = Fold::empty(base(fixed));
            for (index, x) in x.chunks(BLOCK).enumerate() {
                let kept = if kept.is_empty() { &mut [] } else { &mut kept[index * BLOCK..][..x.len()] };
                row = row.with(fold::<S, T, P>(token, x, kept, temperature, fixed, ahead.from(index * BLOCK)));
            }
            if fixed.is_some() {
                return row;
            }
            match row.retry(temperature) {
                None => return row,
                retry => fixed = retry,
            }
        }
    }
}
