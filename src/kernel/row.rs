//! Rows that lie in memory one element after another: the quotients, once the row is folded.
//!
//! With 1 / sum = r + r' (r' what rounding takes from r), a result is
//!
//! ```text
//! s = 2^n T                                            T one of the steps of an octave
//! R + R' = T (r + r')                                  the same for all terms of the row with that step
//! s * (1 + p) * (r + r') = 2^n * (R + (p R + R'))      one fma, one addition: the one rounding that counts;
//!                                                      the multiplication by the power of two is exact
//! ```
//!
//! Left out is p R', at most 0.02 ULP. float64 has one step and a p of up to 0.42; there what rounding takes from p R is
//! added, too. Where 2^n is small the product is rounded once more, into the subnormal range.

use super::Temperature;
use super::column::{Folds, LANES};
use super::exp::{Anchor, Anchors, Exp, Mode, of_shifts};
use super::fold::Fold;
use super::log_row::Logits;
use super::real::Real;
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
    anchor: Anchor<T>,
    mode: Mode,
    /// The reciprocal of the sum, in two parts; NaN where all results are.
    pub(crate) reciprocal: (T, T),
}

impl<T: Real> Quotient<T> {
    /// From the complete fold of a row.
    #[inline(always)]
    pub(crate) fn new(fold: &Fold<T>, temperature: &Temperature<T>) -> Self {
        let defined = !fold.nan && fold.max > T::NEG_INFINITY && fold.max < T::INFINITY;
        // Powers of two of quotients are an octave lower than those of the sum: 0 for what is nothing to the sum.
        let half = T::add_scaled(fold.partial.sum, 0.5, T::Wide::default(), 0.0);
        let reciprocal = if defined { T::reciprocal(half) } else { (T::NAN, T::NAN) };
        let shift = fold.shift();
        Self { anchor: Anchor::new(temperature, shift).lowered(), mode: shift.mode(temperature), reciprocal }
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
    exp: Exp<V>,
    /// R and R' of each step.
    scaled: (V, V),
}

/// A [`Quotient`] in each lane.
#[derive(Clone, Copy)]
pub(crate) struct Probabilities<V: Vector> {
    exp: Exp<V>,
    step: V,
    zero: V,
    /// r and r' of each lane.
    reciprocal: (V, V),
}

/// R and R': T (r + r') as the sum of two.
#[inline(always)]
fn scaled<V: Vector>(step: V, (r, rest): (V, V), zero: V) -> (V, V) {
    let product = step.mul(r);
    (product, step.mul_add(rest, step.mul_add(r, zero.sub(product))))
}

/// (R + R') (1 + p).
#[inline(always)]
fn quotient<V: Vector>((r, rest): (V, V), p: V) -> V {
    if V::Scalar::STEPS < 2.0 {
        // Here p is as large as 0.42, and what rounding takes from p R counts.
        let high = p.mul_add(r, r);
        return high.add(p.mul_add(r, r.sub(high)).add(rest));
    }
    r.add(p.mul_add(r, rest))
}

/// `(p, z)` of a logit, where `KEPT` with the p that the fold left.
#[inline(always)]
fn placed<V: Vector, const MODE: u8, const KEPT: bool>(exp: &Exp<V>, x: V, p: V) -> (V, V) {
    if KEPT { (p, exp.place::<MODE>(x)) } else { exp.placed::<MODE>(x) }
}

impl<V: Vector> Map<V> for Probability<V> {
    #[inline(always)]
    fn apply<const MODE: u8, const KEPT: bool>(&self, x: V, p: V) -> V {
        let (p, z) = placed::<V, MODE, KEPT>(&self.exp, x, p);
        let (r, rest) = (z.step(self.scaled.0), z.step(self.scaled.1));
        quotient((r, rest), p).mul(z.octave())
    }
}

impl<V: Vector> Map<V> for Probabilities<V> {
    #[inline(always)]
    fn apply<const MODE: u8, const KEPT: bool>(&self, x: V, p: V) -> V {
        let (p, z) = placed::<V, MODE, KEPT>(&self.exp, x, p);
        let (r, rest) = scaled(z.step(self.step), self.reciprocal, self.zero);
        quotient((r, rest), p).mul(z.octave())
    }
}

/// What one row is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    /// The logits.
    pub(crate) x: &'a [T],
    /// What the fold kept of them, or nothing.
    pub(crate) kept: &'a [T],
}

/// What the results of a row have in common, once it is folded.
pub(crate) trait Results<T: Real>: Copy + Send + Sync {
    /// The function of each logit of a row.
    type Map<S: Simd>: Map<T::Vector<S>>;
    /// The function of logits of many rows, a lane each.
    type Lanes<S: Simd>: Map<T::Vector<S>>;

    /// Of a row whose results are all NaN.
    const NAN: Self;

    /// From the complete fold of a row.
    fn of<S: Simd>(token: S, fold: &Fold<T>, temperature: &Temperature<T>, logits: &Logits<'_, T>) -> Self;
    /// Whether all results are NaN.
    fn is_undefined(&self) -> bool;
    /// How much of the reduction the row's logits need.
    fn mode(&self) -> Mode;
    /// The function for the logits of this row.
    fn map<S: Simd>(&self, token: S, temperature: &Temperature<T>) -> Self::Map<S>;
    /// The function for the logits of many rows, a lane each.
    fn lanes<S: Simd>(token: S, temperatures: &[Temperature<T>], lanes: &[Self; LANES]) -> Self::Lanes<S>;

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
    fn alike<S: Simd>(token: S, temperature: &Temperature<T>, folds: &Folds<T>) -> Self::Lanes<S>;
}

impl<T: Real> Results<T> for Quotient<T> {
    type Map<S: Simd> = Probability<T::Vector<S>>;
    type Lanes<S: Simd> = Probabilities<T::Vector<S>>;

    const NAN: Self = Self { anchor: Anchor::NONE, mode: Mode::Clamped, reciprocal: (T::NAN, T::NAN) };

    #[inline(always)]
    fn of<S: Simd>(_: S, fold: &Fold<T>, temperature: &Temperature<T>, _: &Logits<'_, T>) -> Self {
        Self::new(fold, temperature)
    }

    #[inline(always)]
    fn is_undefined(&self) -> bool {
        self.reciprocal.0.is_nan()
    }

    #[inline(always)]
    fn mode(&self) -> Mode {
        self.mode
    }

    #[inline(always)]
    fn map<S: Simd>(&self, token: S, temperature: &Temperature<T>) -> Self::Map<S> {
        let splat = |value| T::Vector::<S>::splat(token, value);
        let reciprocal = (splat(self.reciprocal.0), splat(self.reciprocal.1));
        Probability {
            exp: Exp::at(token, temperature, &self.anchor),
            scaled: scaled(T::Vector::<S>::load(token, &T::STEP), reciprocal, splat(T::ZERO)),
        }
    }

    #[inline(always)]
    fn lanes<S: Simd>(token: S, temperatures: &[Temperature<T>], lanes: &[Self; LANES]) -> Self::Lanes<S> {
        let (mut anchors, mut r, mut rest) = (Anchors::none(), [T::ZERO; LANES], [T::ZERO; LANES]);
        for (lane, quotient) in lanes.iter().enumerate() {
            anchors.set(lane, quotient.anchor);
            (r[lane], rest[lane]) = quotient.reciprocal;
        }
        let load = |lanes: &[T; LANES]| T::Vector::<S>::load(token, lanes);
        Probabilities {
            exp: Exp::of_lanes(token, temperatures, &anchors),
            step: load(&T::STEP),
            zero: T::Vector::<S>::splat(token, T::ZERO),
            reciprocal: (load(&r), load(&rest)),
        }
    }

    #[inline(always)]
    fn each<S: Simd>(
        token: S,
        temperature: &Temperature<T>,
        folds: &Folds<T>,
        _: usize,
        to: &mut [Self; LANES],
    ) -> bool {
        if S::COMPACT || size_of::<T>() != size_of::<f32>() {
            return false;
        }
        let lanes = Self::alike(token, temperature, folds);
        let (anchors, mode) = (Anchors::of(&lanes.exp), Mode::of(temperature));
        let (mut r, mut rest) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        lanes.reciprocal.0.store(&mut r);
        lanes.reciprocal.1.store(&mut rest);
        for (lane, to) in to.iter_mut().enumerate().take(T::LANES) {
            *to = Self { anchor: anchors.get(lane), mode, reciprocal: (r[lane], rest[lane]) };
        }
        true
    }

    const BY_LANES: bool = true;

    #[inline(always)]
    fn alike<S: Simd>(token: S, temperature: &Temperature<T>, folds: &Folds<T>) -> Self::Lanes<S> {
        let half = S::F64::splat(token, 0.5);
        let sums = folds.sums(token);
        Probabilities {
            exp: of_shifts(token, temperature, folds.shifts(token)).lowered(),
            step: T::Vector::<S>::load(token, &T::STEP),
            zero: T::Vector::<S>::splat(token, T::ZERO),
            reciprocal: T::reciprocals(token, [sums[0].mul(half), sums[1].mul(half)]),
        }
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
        match results.mode().at::<S>() {
            Mode::Clamped => write::<S, T, _, { Mode::Clamped as u8 }>(token, inputs, out, map),
            Mode::General => write::<S, T, _, { Mode::General as u8 }>(token, inputs, out, map),
        }
    }
}

/// The results of one row, to be written in the place of its logits.
pub(crate) struct WriteInPlace<'a, T: Real, R> {
    pub(crate) data: &'a mut [T],
    pub(crate) kept: &'a [T],
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) results: &'a R,
}

impl<T: Real, R: Results<T>> Kernel for WriteInPlace<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { data, kept, temperature, results } = self;
        if results.is_undefined() {
            data.fill(T::NAN);
            return;
        }
        let map = results.map(token, temperature);
        match results.mode().at::<S>() {
            Mode::Clamped => write_in_place::<S, T, _, { Mode::Clamped as u8 }>(token, data, kept, map),
            Mode::General => write_in_place::<S, T, _, { Mode::General as u8 }>(token, data, kept, map),
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

/// Applies `map` to every element of a row.
#[inline(always)]
fn write<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(
    token: S,
    inputs: Inputs<'_, T>,
    out: &mut [T],
    map: M,
) {
    if S::COMPACT || inputs.kept.is_empty() {
        write_some::<S, T, M, MODE, false>(token, Inputs { kept: inputs.x, ..inputs }, out, map);
    } else {
        write_some::<S, T, M, MODE, true>(token, inputs, out, map);
    }
}

/// The same, where it is known whether p was kept; `inputs.kept` has to have the elements all the same.
#[inline(always)]
fn write_some<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8, const KEPT: bool>(
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
    for ((x, kept), out) in x.chunks_exact(lanes).zip(kept.chunks_exact(lanes)).zip(out.chunks_exact_mut(lanes)) {
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
    if S::COMPACT || kept.is_empty() {
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
