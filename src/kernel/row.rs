//! Rows that lie in memory one element after another: the quotients, once the row is folded.
//!
//! With 1 / sum = r + r' (r' what rounding takes from r), a result is
//!
//! ```text
//! s = 2^n T                                            T one of the steps of an octave
//! s (1 + p) (r + r') = 2^n (T r + T (p r + r'))        two multiply-adds and a product: the one rounding that counts;
//!                                                      the multiplication by the power of two is exact
//! ```
//!
//! Left out is s p r', at most 0.02 ULP. float64 has one step and a p of up to 0.42; there what rounding takes from p r is
//! added, too. Where 2^n is small the product is rounded once more, into the subnormal range.
//!
//! Where s was kept ([`super::kept`]) it takes the place of T, and the power of two is one for all: the same bits.

use super::Temperature;
use super::ahead::Ahead;
use super::column::{Folds, LANES, of_lane};
use super::double::{power_of_two, power_of_two_at_most_one};
use super::exp::{Anchor, Anchors, Exp, Mode, Shift, of_shifts};
use super::fold::Fold;
use super::kept::Kept;
use super::log_row::Logits;
use super::real::{Real, Wide};
use crate::simd::{Kernel, Simd, Vector};

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
    /// The base and the k of the row's shift. (Small: rows are completed many at a time.)
    base: T,
    k: T,
    /// The reciprocal of the sum, in two parts; NaN where all results are.
    pub(crate) reciprocal: (T, T),
}

impl<T: Real> Quotient<T> {
    /// From the complete fold of a row.
    #[inline(always)]
    pub(crate) fn new(fold: &Fold<T>) -> Self {
        let defined = !fold.nan && fold.max > T::NEG_INFINITY && fold.max < T::INFINITY;
        let reciprocal = if defined { T::reciprocal(fold.partial.sum) } else { (T::NAN, T::NAN) };
        Self { base: fold.base, k: T::from_f64(fold.partial.k), reciprocal }
    }

    #[inline(always)]
    fn shift(&self) -> Shift<T> {
        Shift { base: self.base, k: self.k.to_f64() }
    }
}

/// A function of each element of a row.
pub(crate) trait Map<V: Vector>: Copy {
    /// The results of a vector of logits.
    fn apply<const MODE: u8>(&self, x: V) -> V;
    /// The same where p of each was kept (as it is only where [`Results::KEEPS`]).
    fn with_p<const MODE: u8>(&self, x: V, p: V) -> V;
    /// All that can differ between the lanes of rows that are alike: of one temperature, without a base.
    fn parts(&self) -> [V; PARTS];
    /// The same function with these.
    fn with_parts(self, parts: [V; PARTS]) -> Self;
}

/// See [`Map::parts`].
pub(crate) const PARTS: usize = 4;

/// `factor` (1 + p) (r + r'), for a factor of s; it is a power of two where there is but one step.
#[inline(always)]
fn quotient<V: Vector>(factor: V, (r, rest): (V, V), p: V) -> V {
    if V::Scalar::STEPS < 2.0 {
        // Here p is as large as 0.42, and what rounding takes from p r counts.
        let high = p.mul_add(r, r);
        return high.add(p.mul_add(r, r.sub(high)).add(rest)).mul(factor);
    }
    factor.mul_add(r, factor.mul(p.mul_add(r, rest)))
}

/// A number in every lane. (Not a closure, which is not sure to be inlined.)
#[inline(always)]
fn splat<V: Vector>(token: V::Token, value: f64) -> V {
    V::splat(token, V::Scalar::from_f64(value))
}

/// Terms that were kept, over their sum.
#[derive(Clone, Copy)]
pub(crate) struct KeptShare<V: Vector> {
    /// r and r' times a power of two, so that nothing leaves the normal range before the end; and what makes up for it.
    reciprocal: (V, V),
    end: V,
    /// Of s so much is taken off that results of logits far below the maximum are made of 0, and not of numbers that leave
    /// the normal range, which takes some processors a hundred times as long.
    floor: V,
    /// What brings s to the row's shift, and the floor, scaled and negative.
    scale: V,
    minus_floor: V,
}

impl<V: Vector> KeptShare<V> {
    /// For terms that have their row's shift.
    #[inline(always)]
    fn new(token: V::Token, (r, rest): (V, V)) -> Self {
        let (scaled, floor) = (power_of_two(V::Scalar::OFFSET), highest_floor::<V::Scalar>());
        let scale = splat::<V>(token, scaled);
        Self {
            reciprocal: (r.mul(scale), rest.mul(scale)),
            end: splat(token, 1.0 / scaled),
            floor: splat(token, floor),
            scale: splat(token, 1.0),
            minus_floor: splat(token, -floor),
        }
    }

    /// The same of terms whose results are all in the normal range, where `reciprocal` has no power of two.
    #[inline(always)]
    pub(crate) fn of_plain(&self, p: V, s: V) -> V {
        quotient(s, self.reciprocal, p)
    }

    /// s (1 + p) (r + r').
    #[inline(always)]
    pub(crate) fn of(&self, p: V, s: V) -> V {
        quotient(s.max(self.floor).mul_add(self.scale, self.minus_floor), self.reciprocal, p).mul(self.end)
    }
}

/// The largest floor by which no result changes.
fn highest_floor<T: Real>() -> f64 {
    // The sum is at least 2^(OFFSET - 1/2), so that s of less than 2^(LOWEST_EXPONENT + OFFSET - 2) give 0 ...
    let least = T::LOWEST_EXPONENT + T::OFFSET - 2;
    // ... and the others lose less than half of their last place.
    power_of_two(least - T::DIGITS - 2)
}

/// The terms of a row that were kept.
#[derive(Clone, Copy)]
pub(crate) struct KeptTerms<V: Vector> {
    token: V::Token,
    /// The k of the row's shift.
    k: f64,
    /// For terms that have that shift.
    share: KeptShare<V>,
}

impl<V: Vector> KeptTerms<V> {
    /// What is left to do of the terms that were kept, and of how many. These are at least a vector: the last of a chunk and
    /// the first of the next, if need be.
    #[inline(always)]
    pub(crate) fn of(&self, kept: &Kept<'_, V::Scalar>) -> (usize, KeptShare<V>) {
        let count = kept.alike();
        let (count, scale) = if count == usize::MAX {
            return (count, self.share);
        } else if count >= V::LANES {
            (count, self.scale(kept, 0))
        } else {
            let (these, next) = (self.scale(kept, 0), self.scale(kept, count));
            (V::LANES, V::select(V::first_lanes(self.token, count), these, next))
        };
        (count, KeptShare { scale, minus_floor: self.share.minus_floor.mul(scale), ..self.share })
    }

    /// What brings the s of an element to the row's shift.
    #[inline(always)]
    fn scale(&self, kept: &Kept<'_, V::Scalar>, element: usize) -> V {
        splat(self.token, power_of_two_at_most_one(kept.shift(element, self.k) - self.k))
    }
}

/// What the results of a row are computed from, and how.
pub(crate) enum Origin<K, M> {
    /// The terms that were kept.
    Terms(K),
    /// Its logits, and p where that was kept.
    Logits(M),
}

/// The results of a vector of logits, of each of which p was kept if `KEPT`.
#[inline(always)]
pub(crate) fn apply<V: Vector, M: Map<V>, const MODE: u8, const KEPT: bool>(map: &M, x: V, p: V) -> V {
    if KEPT { map.with_p::<MODE>(x, p) } else { map.apply::<MODE>(x) }
}

/// [`Quotient`] in every lane, or one in each.
#[derive(Clone, Copy)]
pub(crate) struct Probability<V: Vector> {
    /// With all s an octave lower than those of the sum.
    exp: Exp<V>,
    step: V,
    /// Twice r and r'.
    reciprocal: (V, V),
}

impl<V: Vector> Probability<V> {
    #[inline(always)]
    fn new(token: V::Token, exp: Exp<V>, (r, rest): (V, V)) -> Self {
        Self { exp: exp.lowered(), step: V::load(token, &V::Scalar::STEP), reciprocal: (r.add(r), rest.add(rest)) }
    }

    #[inline(always)]
    fn of(&self, p: V, z: V) -> V {
        if V::Scalar::STEPS < 2.0 {
            return quotient(z.octave(), self.reciprocal, p);
        }
        quotient(z.step(self.step), self.reciprocal, p).mul(z.octave())
    }
}

impl<V: Vector> Map<V> for Probability<V> {
    #[inline(always)]
    fn apply<const MODE: u8>(&self, x: V) -> V {
        let (p, z) = self.exp.placed::<MODE>(x);
        self.of(p, z)
    }

    #[inline(always)]
    fn with_p<const MODE: u8>(&self, x: V, p: V) -> V {
        self.of(p, self.exp.place::<MODE>(x))
    }

    #[inline(always)]
    fn parts(&self) -> [V; PARTS] {
        let (magic, least) = self.exp.anchor();
        [magic, least, self.reciprocal.0, self.reciprocal.1]
    }

    #[inline(always)]
    fn with_parts(self, [magic, least, r, rest]: [V; PARTS]) -> Self {
        Self { exp: self.exp.anchored(magic, least), reciprocal: (r, rest), ..self }
    }
}

/// What one row is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    /// The logits.
    pub(crate) x: &'a [T],
    /// What the fold kept of them, or nothing.
    pub(crate) kept: Kept<'a, T>,
}

/// What the results of a row have in common, once it is folded.
pub(crate) trait Results<T: Real>: Copy + Send + Sync {
    /// The function of each logit of a row.
    type Map<S: Simd>: Map<T::Vector<S>>;

    /// Of a row whose results are all NaN.
    const NAN: Self;

    /// From the complete fold of a row.
    fn of<S: Simd>(token: S, fold: &Fold<T>, temperature: &Temperature<T>, logits: &Logits<'_, T>) -> Self;
    /// Whether all results are NaN.
    fn is_undefined(&self) -> bool;
    /// How much of the reduction the row's logits need.
    fn mode(&self, temperature: &Temperature<T>) -> Mode;
    /// The function for the logits of this row.
    fn map<S: Simd>(&self, token: S, temperature: &Temperature<T>) -> Self::Map<S>;
    /// The function for the logits of many rows, a lane each.
    fn lanes<S: Simd>(token: S, temperatures: &[Temperature<T>], lanes: &[Self; LANES]) -> Self::Map<S>;

    /// Whether p is kept for these results, and terms are ([`Results::kept`]).
    const KEEPS: bool;
    /// The function for terms of this row that were kept.
    fn kept<S: Simd>(&self, token: S) -> KeptTerms<T::Vector<S>>;

    /// For terms that were kept of rows that are alike, a lane each, from their sums; `PLAIN` if all results are in the normal
    /// range.
    fn kept_alike<S: Simd, const PLAIN: bool>(token: S, sums: Wide<S>) -> KeptShare<T::Vector<S>>;

    /// The first [`Map::parts`] of rows of `len` logits that are alike, a lane each, whose terms are not kept: from their largest
    /// logits, what gives their terms, and their sums. NaN where a row needs more.
    fn offsets<S: Simd>(
        token: S,
        exp: &Exp<T::Vector<S>>,
        max: T::Vector<S>,
        sums: Wide<S>,
        len: usize,
    ) -> [T::Vector<S>; 2];

    /// What each of some rows of `len` logits that are alike has in common, by vectors from their folds; undefined where a
    /// row needs more. False where there is no such code.
    fn each<S: Simd>(
        token: S,
        temperature: &Temperature<T>,
        folds: &Folds<T>,
        len: usize,
        to: &mut [Self; LANES],
    ) -> bool;

    /// Whether there is [`Results::alike`].
    const BY_LANES: bool;
    /// The same for rows that are alike, by vectors from their folds.
    fn alike<S: Simd>(token: S, temperature: &Temperature<T>, folds: &Folds<T>) -> Self::Map<S>;
}

impl<T: Real> Results<T> for Quotient<T> {
    type Map<S: Simd> = Probability<T::Vector<S>>;

    const NAN: Self = Self { base: T::ZERO, k: T::ZERO, reciprocal: (T::NAN, T::NAN) };

    #[inline(always)]
    fn of<S: Simd>(_: S, fold: &Fold<T>, _: &Temperature<T>, _: &Logits<'_, T>) -> Self {
        Self::new(fold)
    }

    #[inline(always)]
    fn is_undefined(&self) -> bool {
        self.reciprocal.0.is_nan()
    }

    #[inline(always)]
    fn mode(&self, temperature: &Temperature<T>) -> Mode {
        self.shift().mode(temperature)
    }

    #[inline(always)]
    fn map<S: Simd>(&self, token: S, temperature: &Temperature<T>) -> Self::Map<S> {
        let splat = |value| T::Vector::<S>::splat(token, value);
        let reciprocal = (splat(self.reciprocal.0), splat(self.reciprocal.1));
        Probability::new(token, Exp::new(token, temperature, self.shift()), reciprocal)
    }

    #[inline(always)]
    fn lanes<S: Simd>(token: S, temperatures: &[Temperature<T>], lanes: &[Self; LANES]) -> Self::Map<S> {
        let (mut anchors, mut r, mut rest) = (Anchors::none(), [T::ZERO; LANES], [T::ZERO; LANES]);
        for (lane, quotient) in lanes.iter().enumerate().take(T::LANES) {
            anchors.set(lane, Anchor::new(of_lane(temperatures, lane), quotient.shift()));
            (r[lane], rest[lane]) = quotient.reciprocal;
        }
        let load = |lanes: &[T; LANES]| T::Vector::<S>::load(token, lanes);
        Probability::new(token, Exp::of_lanes(token, temperatures, &anchors), (load(&r), load(&rest)))
    }

    const KEEPS: bool = true;

    #[inline(always)]
    fn kept<S: Simd>(&self, token: S) -> KeptTerms<T::Vector<S>> {
        let reciprocal = (splat(token, self.reciprocal.0.to_f64()), splat(token, self.reciprocal.1.to_f64()));
        KeptTerms { token, k: self.k.to_f64(), share: KeptShare::new(token, reciprocal) }
    }

    #[inline(always)]
    fn kept_alike<S: Simd, const PLAIN: bool>(token: S, sums: Wide<S>) -> KeptShare<T::Vector<S>> {
        let reciprocal = T::reciprocals(token, sums);
        let share = KeptShare::new(token, reciprocal);
        if PLAIN { KeptShare { reciprocal, ..share } } else { share }
    }

    fn offsets<S: Simd>(_: S, _: &Exp<T::Vector<S>>, _: T::Vector<S>, _: Wide<S>, _: usize) -> [T::Vector<S>; 2] {
        unreachable!("see `Results::KEEPS`")
    }

    #[inline(always)]
    fn each<S: Simd>(token: S, _: &Temperature<T>, folds: &Folds<T>, _: usize, to: &mut [Self; LANES]) -> bool {
        if S::COMPACT || size_of::<T>() != size_of::<f32>() {
            return false;
        }
        let reciprocals = T::reciprocals(token, folds.sums(token));
        let (mut k, mut r, mut rest) = ([T::ZERO; LANES], [T::ZERO; LANES], [T::ZERO; LANES]);
        T::narrowed(token, folds.shifts(token)).store(&mut k);
        reciprocals.0.store(&mut r);
        reciprocals.1.store(&mut rest);
        for (lane, to) in to.iter_mut().enumerate().take(T::LANES) {
            *to = Self { base: T::ZERO, k: k[lane], reciprocal: (r[lane], rest[lane]) };
        }
        true
    }

    const BY_LANES: bool = true;

    #[inline(always)]
    fn alike<S: Simd>(token: S, temperature: &Temperature<T>, folds: &Folds<T>) -> Self::Map<S> {
        let exp = of_shifts(token, temperature, folds.shifts(token));
        Probability::new(token, exp, T::reciprocals(token, folds.sums(token)))
    }
}

/// The results of one row, to be written through the cache; past it see [`super::stream`].
pub(crate) struct Write<'a, T: Real, R> {
    pub(crate) inputs: Inputs<'a, T>,
    pub(crate) out: &'a mut [T],
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) results: &'a R,
}

impl<T: Real, R: Results<T>> Kernel for Write<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { inputs, out, temperature, results } = self;
        if results.is_undefined() {
            out.fill(T::NAN);
            return;
        }
        let map = results.map(token, temperature);
        match results.mode(temperature).at::<S>() {
            Mode::Clamped => write::<S, T, R, { Mode::Clamped as u8 }>(token, inputs, out, map),
            Mode::General => write::<S, T, R, { Mode::General as u8 }>(token, inputs, out, map),
        }
    }
}

/// The results of one row, to be written in the place of its logits.
pub(crate) struct WriteInPlace<'a, T: Real, R> {
    pub(crate) data: &'a mut [T],
    pub(crate) kept: Kept<'a, T>,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) results: &'a R,
    /// What is asked for meanwhile.
    pub(crate) ahead: Ahead,
}

impl<T: Real, R: Results<T>> Kernel for WriteInPlace<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { data, kept, temperature, results, ahead } = self;
        if results.is_undefined() {
            data.fill(T::NAN);
            return;
        }
        let map = results.map(token, temperature);
        match results.mode(temperature).at::<S>() {
            Mode::Clamped => write_in_place::<S, T, R, { Mode::Clamped as u8 }>(token, data, kept, map, ahead),
            Mode::General => write_in_place::<S, T, R, { Mode::General as u8 }>(token, data, kept, map, ahead),
        }
    }
}

/// Writes rows that were computed into working memory to where they belong, past the cache.
#[inline(always)]
pub(crate) fn copy_streaming<S: Simd, T: Real>(token: S, from: &[T], to: &mut [T]) {
    let (head, lines, tail) = T::Vector::<S>::lines(to);
    let (from_head, from) = from.split_at(head.len());
    let (from_lines, from_tail) = from.split_at(lines.len() * T::LANES);
    head.copy_from_slice(from_head);
    for (index, line) in lines.iter_mut().enumerate() {
        T::Vector::<S>::load(token, &from_lines[index * T::LANES..(index + 1) * T::LANES]).stream(line);
    }
    tail.copy_from_slice(from_tail);
}

/// The same through the cache, for a few vectors.
#[inline(always)]
pub(crate) fn copy_some<S: Simd, T: Real>(token: S, from: &[T], to: &mut [T]) {
    let (mut from, mut to) = (from.chunks_exact(T::LANES), to.chunks_exact_mut(T::LANES));
    for (from, to) in (&mut from).zip(&mut to) {
        T::Vector::<S>::load(token, from).store(to);
    }
    let (from, to) = (from.remainder(), to.into_remainder());
    if !from.is_empty() {
        T::Vector::<S>::load_partial(token, from, T::ZERO).store_partial(to);
    }
}

/// Whether p of a row need not be computed.
#[inline(always)]
pub(crate) fn has_p<S: Simd, T: Real, R: Results<T>>(kept: &Kept<'_, T>) -> bool {
    R::KEEPS && !S::COMPACT && !kept.is_nothing()
}

/// Applies `map` to every element of a row.
#[inline(always)]
fn write<S: Simd, T: Real, R: Results<T>, const MODE: u8>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    map: R::Map<S>,
) {
    let Inputs { x, kept } = inputs;
    if has_p::<S, T, R>(&kept) {
        write_some::<S, T, _, MODE, true>(token, x, kept.p(out.len()), out, map);
    } else {
        write_some::<S, T, _, MODE, false>(token, x, x, out, map);
    }
}

/// The same, where it is known whether p was kept; there have to be as many `kept` all the same.
#[inline(always)]
fn write_some<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
    token: S,
    x: &[T],
    kept: &[T],
    out: &mut [T],
    map: M,
) {
    let lanes = T::LANES;
    let whole = out.len() / lanes * lanes;
    let (x, x_tail) = x[..out.len()].split_at(whole);
    let (kept, kept_tail) = kept[..out.len()].split_at(whole);
    let (out, out_tail) = out.split_at_mut(whole);
    for ((x, kept), out) in x.chunks_exact(lanes).zip(kept.chunks_exact(lanes)).zip(out.chunks_exact_mut(lanes)) {
        let (x, p) = (T::Vector::<S>::load(token, x), T::Vector::<S>::load(token, kept));
        apply::<_, _, MODE, KEPT>(&map, x, p).store(out);
    }
    if !x_tail.is_empty() {
        let p = T::Vector::<S>::load_partial(token, kept_tail, T::ZERO);
        let x = T::Vector::<S>::load_partial(token, x_tail, T::ZERO);
        apply::<_, _, MODE, KEPT>(&map, x, p).store_partial(out_tail);
    }
}

#[inline(always)]
fn write_in_place<S: Simd, T: Real, R: Results<T>, const MODE: u8>(
    token: S,
    data: &mut [T],
    kept: Kept<'_, T>,
    map: R::Map<S>,
    ahead: Ahead,
) {
    if has_p::<S, T, R>(&kept) {
        write_in_place_as::<S, T, _, MODE, true>(token, data, kept.p(data.len()), map, ahead);
    } else {
        write_in_place_as::<S, T, _, MODE, false>(token, data, &[], map, ahead);
    }
}

#[inline(always)]
fn write_in_place_as<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
    token: S,
    data: &mut [T],
    kept: &[T],
    map: M,
    ahead: Ahead,
) {
    let lanes = T::LANES;
    let whole = data.len() / lanes * lanes;
    let (data, tail) = data.split_at_mut(whole);
    for (index, vector) in data.chunks_exact_mut(lanes).enumerate() {
        token.prefetch_near(vector, ahead.from(index * lanes).index(0));
        let x = T::Vector::<S>::load(token, vector);
        let p = if KEPT { T::Vector::<S>::load(token, &kept[index * lanes..]) } else { x };
        apply::<_, _, MODE, KEPT>(&map, x, p).store(vector);
    }
    if !tail.is_empty() {
        let x = T::Vector::<S>::load_partial(token, tail, T::ZERO);
        let p = if KEPT { T::Vector::<S>::load_partial(token, &kept[whole..whole + tail.len()], T::ZERO) } else { x };
        apply::<_, _, MODE, KEPT>(&map, x, p).store_partial(tail);
    }
}
