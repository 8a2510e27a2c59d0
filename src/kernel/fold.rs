//! One read of a row: its maximum, and the sum of its terms.
//!
//! ```text
//! for each chunk of 1,024 logits:                  the chunk is in the first cache from here on
//!     max of the chunk                             of a later one, while the chunk before it is summed up
//!     k = rint(max log2(e) / T)                    its own shift: powers of two are exact, so chunks merge exactly
//!     for each vector, lane j:                     lane j has the elements j, j + 16, j + 32, ... of the chunk
//!         (high_j, low_j) += s                     Fast2Sum
//!         apart_j += s (p - p_max)                 next to nothing beside it; least of all from the largest term
//!     chunk = sum (1 + p_max) + apart              halving trees over the lanes: j and j + 8, j and j + 4, ...
//! row = chunk + chunk + ...                        in order; 64 chunks make a block, blocks add up in order
//! ```
//!
//! The order depends on indices alone, never on threads, alignment or registers: `column` follows it too. The
//! running sum starts at a power of two above every term (the *guard*), so that `Fast2Sum` needs no comparison; the
//! guard comes off exactly at the end. Logarithms take the largest term off again, which is exact, and have the digits of
//! what is left. (float64, whose p is not small, adds s + s p, rounded, and what that took joins the rest.)

use super::ahead::Ahead;
use super::column::LANES;
use super::exp::{Exp, Mode, PLAIN, Shift, Temperature};
use super::kept::{Keep, NOTHING, P, TERMS};
use super::real::{self, Real, Stored};
use super::sum::{Sum, center, halve, lanes_of, total, total_apart, wide_sum};
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

/// The sum of terms of a slice of at most [`CHUNK`] logits. What lies `ahead` is asked for meanwhile.
#[inline(always)]
fn sum<S: Simd, T: Real, const KEEP: u8>(
    token: S,
    x: &[T],
    keep: Keep<'_, T>,
    exp: &Exp<T::Vector<S>>,
    max: T,
    (mode, plain): (Mode, bool),
    ahead: Ahead,
) -> Sum<T::Vector<S>> {
    if mode.at::<S>() == Mode::General {
        let center = center::<_, { Mode::General as u8 }>(token, exp, max);
        return sum_in_mode::<S, T, KEEP, { Mode::General as u8 }>(token, x, keep, exp, center, ahead);
    }
    let center = center::<_, { Mode::Clamped as u8 }>(token, exp, max);
    if plain {
        sum_in_mode::<S, T, KEEP, PLAIN>(token, x, keep, exp, center, ahead)
    } else {
        sum_in_mode::<S, T, KEEP, { Mode::Clamped as u8 }>(token, x, keep, exp, center, ahead)
    }
}

/// [`sum`] in a mode that is known.
#[inline(always)]
pub(crate) fn sum_in_mode<S: Simd, T: Real, const KEEP: u8, const MODE: u8>(
    token: S,
    x: &[T],
    keep: Keep<'_, T>,
    exp: &Exp<T::Vector<S>>,
    center: T::Vector<S>,
    ahead: Ahead,
) -> Sum<T::Vector<S>> {
    let mut sum = Sum::new(token, center);
    add_terms::<S, T, KEEP, MODE>(token, &mut sum, x, keep, exp, ahead);
    sum
}

/// Adds the terms of some vectors of logits and, if `SEARCH`, finds the largest of as many that follow in `next`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a loop's own")]
fn add_vectors<S: Simd, T: Real, const KEEP: u8, const MODE: u8, const SEARCH: bool>(
    token: S,
    sum: &mut Sum<T::Vector<S>>,
    max: &mut T::Vector<S>,
    x: &[T],
    next: &[T],
    keep: &mut Keep<'_, T>,
    exp: &Exp<T::Vector<S>>,
    ahead: Ahead,
) {
    let lanes = T::LANES;
    let next = if SEARCH { next } else { x };
    // (What keeps p is held up by its stores.)
    let pairs = if S::PAIRS && KEEP == NOTHING { x.len() / (2 * lanes) * (2 * lanes) } else { 0 };
    let two = x[..pairs].chunks_exact(2 * lanes).zip(next[..pairs].chunks_exact(2 * lanes));
    for (index, (vectors, next)) in two.enumerate() {
        let at = [2 * index * lanes, (2 * index + 1) * lanes];
        ask::<S, T, KEEP>(token, x, at[0], ahead);
        ask::<S, T, KEEP>(token, x, at[1], ahead);
        if SEARCH {
            *max = T::Vector::<S>::load(token, next).max(*max);
            *max = T::Vector::<S>::load(token, &next[lanes..]).max(*max);
        }
        // Both before their sums: so operations that do not depend on each other stand side by side.
        let first = exp.term_about::<MODE>(T::Vector::<S>::load(token, vectors), sum.minus_center());
        let second = exp.term_about::<MODE>(T::Vector::<S>::load(token, &vectors[lanes..]), sum.minus_center());
        sum.add(first.0, first.2);
        sum.add(second.0, second.2);
        *sum = sum.carried();
        if SEARCH {
            *max = max.carried();
        }
    }
    let one = x[pairs..].chunks_exact(lanes).zip(next[pairs..].chunks_exact(lanes));
    for (index, (vector, next)) in one.enumerate() {
        let at = pairs + index * lanes;
        ask::<S, T, KEEP>(token, x, at, ahead);
        if SEARCH {
            *max = T::Vector::<S>::load(token, next).max(*max);
        }
        let (about, p, s) = exp.term_about::<MODE>(T::Vector::<S>::load(token, vector), sum.minus_center());
        sum.add(about, s);
        if KEEP >= P {
            p.store(&mut keep.p[at..]);
        }
        if KEEP >= TERMS {
            s.store(&mut keep.s[at..]);
        }
        *sum = sum.carried();
        if SEARCH {
            *max = max.carried();
        }
    }
}

/// Asks for what lies ahead of an element.
#[inline(always)]
fn ask<S: Simd, T: Real, const KEEP: u8>(token: S, x: &[T], element: usize, ahead: Ahead) {
    // (What keeps no p has no results in the caches. Its loop is short enough for a branch to show.)
    if KEEP > NOTHING && ahead.is_near() {
        token.prefetch_near(x, ahead.index(element));
    } else {
        token.prefetch(x, ahead.index(element));
    }
}

/// Adds the terms of the last logits of a chunk.
#[inline(always)]
pub(crate) fn add_terms<S: Simd, T: Real, const KEEP: u8, const MODE: u8>(
    token: S,
    sum: &mut Sum<T::Vector<S>>,
    x: &[T],
    mut keep: Keep<'_, T>,
    exp: &Exp<T::Vector<S>>,
    ahead: Ahead,
) {
    let lanes = T::LANES;
    let whole = x.len() / lanes * lanes;
    let (x, tail) = x.split_at(whole);
    let mut none = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    add_vectors::<S, T, KEEP, MODE, false>(token, sum, &mut none, x, &[], &mut keep, exp, ahead);
    let Keep { p: keep_p, s: keep_s, .. } = keep;
    if !tail.is_empty() {
        // The lanes past the end hold minus infinity, whose term is 0 in every mode.
        let tail_len = tail.len();
        let tail = T::Vector::<S>::load_partial(token, tail, T::NEG_INFINITY);
        let about = sum.minus_center();
        let (about, p, s) = if MODE == PLAIN {
            exp.term_about::<{ Mode::Clamped as u8 }>(tail, about)
        } else {
            exp.term_about::<MODE>(tail, about)
        };
        sum.add(about, s);
        if KEEP >= P {
            p.store_partial(&mut keep_p[whole..whole + tail_len]);
        }
        if KEEP >= TERMS {
            s.store_partial(&mut keep_s[whole..whole + tail_len]);
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

    /// Logits that are not summed up, because of their maximum ([`Temperature::shift_within`]).
    #[inline(always)]
    pub(crate) fn left_out(x: &[T], max: T, fixed: Option<Shift<T>>) -> Self {
        let skipped = if max == T::INFINITY { T::NEG_INFINITY } else { max };
        Self { max, nan: any_nan(x), skipped, ..Self::empty(base(fixed)) }
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
        Shift { base: self.base, k: self.partial.k }
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

/// What a row of `len` logits takes of the room for p, so that the next row begins with a vector.
pub(crate) const fn room<T: Real>(len: usize) -> usize {
    len.next_multiple_of(T::LANES)
}

/// The part of `keep` for some logits, from an element on.
#[inline(always)]
pub(crate) fn pieces<'a, T: Real, const KEEP: u8>(keep: &'a mut Keep<'_, T>, start: usize, len: usize) -> Keep<'a, T> {
    if KEEP > NOTHING { keep.some(start..start + len) } else { Keep::nothing() }
}

/// Logits in at most [`PIECES`] pieces that each have a shift of their own, or all the `fixed` one of a
/// [`Fold::retry`].
///
/// p is left in `keep` for [`super::row`], that of a piece from a whole number of vectors on ([`room`]);
/// nothing is where the second read computes it again.
pub(crate) struct FoldPieces<'a, T: Real> {
    pub(crate) x: &'a [T],
    /// The elements of a piece: at most [`CHUNK`].
    pub(crate) len: usize,
    pub(crate) keep: Keep<'a, T>,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) fixed: Option<Shift<T>>,
    pub(crate) ahead: Ahead,
    /// One for each piece.
    pub(crate) folds: &'a mut [Fold<T>],
    /// Room for the sum of each piece.
    pub(crate) sums: &'a mut [Stored],
}

impl<T: Real> Kernel for FoldPieces<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        if keeps::<S, T>(&self.keep) {
            self.fold_keeping::<S, P>(token);
        } else {
            self.fold_keeping::<S, NOTHING>(token);
        }
    }
}

/// Whether p is kept: not where it is computed again.
#[inline(always)]
pub(crate) fn keeps<S: Simd, T: Real>(keep: &Keep<'_, T>) -> bool {
    !S::COMPACT && !keep.is_nothing()
}

impl<T: Real> FoldPieces<'_, T> {
    /// What is done once for each piece is done for all of them at a time.
    #[inline(always)]
    fn fold_keeping<S: Simd, const KEEP: u8>(self, token: S) {
        let Self { x, len, mut keep, temperature, fixed, ahead, folds, sums } = self;
        let (mut smallest, mut rests) = ([T::NEG_INFINITY; PIECES], [(T::ZERO, T::ZERO); PIECES]);
        for ((fold, x), smallest) in folds.iter_mut().zip(x.chunks(len)).zip(&mut smallest) {
            let (max, min) = extremes::<S, T>(token, x);
            *fold = Fold { max: halve(max.to_array(), larger), ..Fold::empty(base(fixed)) };
            *smallest = halve(min.to_array(), |a, b| if b < a { b } else { a });
        }
        for (index, x) in x.chunks(len).enumerate() {
            let fold = &mut folds[index];
            let keep = pieces::<T, KEEP>(&mut keep, index * room::<T>(len), x.len());
            let max = fold.max;
            let Some(shift) = temperature.shift_within(max, fixed) else {
                *fold = Fold::left_out(x, max, fixed);
                // Either the results of these logits are 0 or NaN whatever p is, or they are read again.
                keep.p.fill(T::ZERO);
                continue;
            };
            let exp = Exp::new(token, temperature, shift);
            fold.partial.k = shift.k;
            let highest = (shift.k * std::f64::consts::LN_2).max(max.to_f64());
            let plain = highest - smallest[index].to_f64() <= T::NARROW;
            let mode = (shift.mode(temperature), plain);
            let sum = sum::<S, T, KEEP>(token, x, keep, &exp, max, mode, ahead.from(index * len));
            let (wide, apart) = wide_sum::<S, T>(token, sum);
            real::store::<S>(wide, &mut sums[index]);
            rests[index] = (sum.first_center(), total_apart(apart));
        }
        for ((fold, sum), (center, apart)) in folds.iter_mut().zip(sums).zip(rests) {
            if fold.partial.k > Partial::<T>::empty().k {
                fold.partial.sum = T::with_apart(halve(lanes_of::<T>(sum), T::add_wide), center, apart);
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
/// p is left in `keep` for [`super::row`]; nothing is where the second read computes it again.
#[inline(always)]
pub(crate) fn fold<S: Simd, T: Real>(
    token: S,
    x: &[T],
    keep: Keep<'_, T>,
    temperature: &Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
) -> Fold<T> {
    token.call(FoldBlock { x, keep, temperature, fixed, ahead })
}

/// The arguments of [`fold`].
struct FoldBlock<'a, T: Real> {
    x: &'a [T],
    keep: Keep<'a, T>,
    temperature: &'a Temperature<T>,
    fixed: Option<Shift<T>>,
    ahead: Ahead,
}

impl<T: Real> Kernel for FoldBlock<'_, T> {
    type Output = Fold<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<T> {
        let Self { x, mut keep, temperature, fixed, ahead } = self;
        let mut fold = Fold::empty(base(fixed));
        let mut max = largest::<S, T>(token, &x[..x.len().min(CHUNK)]);
        for start in (0..x.len()).step_by(CHUNK) {
            let (chunk, next) = x[start..x.len().min(start + 2 * CHUNK)].split_at(CHUNK.min(x.len() - start));
            let keep_chunk = keep.some(start..start + chunk.len());
            let chunk = Chunk { x: chunk, max, next, keep: keep_chunk, temperature, fixed, ahead: ahead.from(start) };
            let (part, found) = token.call(chunk);
            fold = fold.with(part);
            max = found;
        }
        fold
    }
}

/// A chunk whose maximum is known, and the logits that follow it, at most as many. For `keep` and `fixed` see
/// [`FoldPieces`].
///
/// The maximum of what follows is looked for meanwhile: these are operations for pipes that the sum leaves idle.
pub(crate) struct Chunk<'a, T: Real> {
    pub(crate) x: &'a [T],
    pub(crate) max: T,
    pub(crate) next: &'a [T],
    pub(crate) keep: Keep<'a, T>,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) fixed: Option<Shift<T>>,
    pub(crate) ahead: Ahead,
}

impl<T: Real> Kernel for Chunk<'_, T> {
    /// The fold of the chunk, and the maximum of what follows.
    type Output = (Fold<T>, T);

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> (Fold<T>, T) {
        let general = self.fixed.map_or(Mode::of(self.temperature), |shift| shift.mode(self.temperature));
        match (keeps::<S, T>(&self.keep), general.at::<S>()) {
            (false, Mode::Clamped) => self.fold::<S, NOTHING, { Mode::Clamped as u8 }>(token),
            (false, Mode::General) => self.fold::<S, NOTHING, { Mode::General as u8 }>(token),
            (true, Mode::Clamped) => self.fold::<S, P, { Mode::Clamped as u8 }>(token),
            (true, Mode::General) => self.fold::<S, P, { Mode::General as u8 }>(token),
        }
    }
}

impl<T: Real> Chunk<'_, T> {
    #[inline(always)]
    fn fold<S: Simd, const KEEP: u8, const MODE: u8>(self, token: S) -> (Fold<T>, T) {
        let Self { x, max, next, keep, temperature, fixed, ahead } = self;
        let Some(shift) = temperature.shift_within(max, fixed) else {
            keep.p.fill(T::ZERO);
            return (Fold::left_out(x, max, fixed), largest::<S, T>(token, next));
        };
        let exp = Exp::new(token, temperature, shift);
        let mut sum = Sum::new(token, center::<_, MODE>(token, &exp, max));
        let found = add_and_search::<S, T, KEEP, MODE>(token, &mut sum, x, keep, &exp, next, ahead);
        let partial = Partial { k: shift.k, sum: total::<S, T>(token, sum) };
        let nan = T::double(partial.sum).high.is_nan();
        (Fold { max, nan, partial, ..Fold::empty(shift.base) }, found)
    }
}

/// [`add_terms`], and the maximum of the logits that follow: at most as many.
#[inline(always)]
fn add_and_search<S: Simd, T: Real, const KEEP: u8, const MODE: u8>(
    token: S,
    sum: &mut Sum<T::Vector<S>>,
    x: &[T],
    mut keep: Keep<'_, T>,
    exp: &Exp<T::Vector<S>>,
    next: &[T],
    ahead: Ahead,
) -> T {
    let lanes = T::LANES;
    let both = next.len() / lanes * lanes;
    let (x, x_rest) = x.split_at(both);
    let (next, next_rest) = next.split_at(both);
    let mut max = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    add_vectors::<S, T, KEEP, MODE, true>(token, sum, &mut max, x, next, &mut keep, exp, ahead);
    if !next_rest.is_empty() {
        max = T::Vector::<S>::load_partial(token, next_rest, T::NEG_INFINITY).max(max);
    }
    if !x_rest.is_empty() {
        let keep = pieces::<T, KEEP>(&mut keep, both, x_rest.len());
        add_terms::<S, T, KEEP, MODE>(token, sum, x_rest, keep, exp, ahead.from(both));
    }
    halve(max.to_array(), larger)
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

/// The fold of a row of any length, read again where it must be. For `keep` see [`FoldPieces`].
#[inline(always)]
pub(crate) fn fold_row<S: Simd, T: Real>(
    token: S,
    x: &[T],
    keep: Keep<'_, T>,
    temperature: &Temperature<T>,
    ahead: Ahead,
) -> Fold<T> {
    token.call(FoldRow { x, keep, temperature, ahead })
}

/// The arguments of [`fold_row`].
struct FoldRow<'a, T: Real> {
    x: &'a [T],
    keep: Keep<'a, T>,
    temperature: &'a Temperature<T>,
    ahead: Ahead,
}

impl<T: Real> Kernel for FoldRow<'_, T> {
    type Output = Fold<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<T> {
        let Self { x, mut keep, temperature, ahead } = self;
        let mut fixed: Option<Shift<T>> = None;
        if x.len() <= CHUNK {
            // As below, with less around it.
            let (len, keep) = (x.len().max(1), keep.again());
            let (mut folds, sums) = ([Fold::empty(T::ZERO)], &mut [[0.0; LANES]]);
            token.call(FoldPieces { x, len, keep, temperature, fixed, ahead, folds: &mut folds, sums });
            fixed = folds[0].retry(temperature);
            if fixed.is_none() {
                return folds[0];
            }
        }
        loop {
            let mut row = Fold::empty(base(fixed));
            for (index, x) in x.chunks(BLOCK).enumerate() {
                let keep = keep.some(index * BLOCK..index * BLOCK + x.len());
                row = row.with(fold::<S, T>(token, x, keep, temperature, fixed, ahead.from(index * BLOCK)));
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
