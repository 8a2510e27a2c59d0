//! Tiles in which every lane is a row of its own, its logits one below the other.
//!
//! A tile is a dense matrix of a few hundred columns at most, copied out of the array: columns of an array whose
//! axis is not the last (a large power-of-two pitch would leave them a handful of cache sets), or rows of a few
//! classes, transposed. The order of every sum is `fold`'s, lane for lane: what is lane j of a vector there is
//! slot j here, the logits j, j + 16, j + 32, ... of a chunk. The bits are therefore the same.

use std::marker::PhantomData;

use super::Temperature;
use super::exp::{Anchor, Exp, Mode, Shift};
use super::fold::{Extent, Fold, Partial, Precision, Sum, lanes};
use super::real::Real;
use super::row::{Map, Results};
use crate::simd::{Kernel, Simd, Vector};

/// The most lanes a vector has.
pub(crate) const LANES: usize = 16;

/// The logits of one vector's columns: `rows` of them, `pitch` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) pitch: usize,
}

impl Strip {
    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = usize> {
        (0..self.rows).map(move |row| self.first + row * self.pitch)
    }

    /// The elements of one lane.
    #[inline(always)]
    pub(crate) fn lane(self, lane: usize) -> impl Iterator<Item = usize> {
        self.rows().map(move |index| index + lane)
    }
}

/// A [`Fold`] for each lane, part by part.
#[derive(Clone, Copy)]
pub(crate) struct Folds<T: Real> {
    max: [T; LANES],
    min: [T; LANES],
    nan: [bool; LANES],
    skipped: [T; LANES],
    base: [T; LANES],
    k: [f64; LANES],
    sum: [T::Wide; LANES],
}

impl<T: Real> Folds<T> {
    /// No logits in any lane.
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        Self {
            max: [T::NEG_INFINITY; LANES],
            min: [T::INFINITY; LANES],
            nan: [false; LANES],
            skipped: [T::NEG_INFINITY; LANES],
            base: [T::ZERO; LANES],
            k: [Partial::<T>::empty().k; LANES],
            sum: [T::Wide::default(); LANES],
        }
    }

    /// The fold of a lane.
    #[inline(always)]
    pub(crate) fn get(&self, lane: usize) -> Fold<T> {
        Fold {
            extent: Extent { max: self.max[lane], min: self.min[lane] },
            nan: self.nan[lane],
            skipped: self.skipped[lane],
            base: self.base[lane],
            partial: Partial { k: self.k[lane], sum: self.sum[lane] },
        }
    }

    #[inline(always)]
    fn set(&mut self, lane: usize, fold: Fold<T>) {
        self.max[lane] = fold.extent.max;
        self.min[lane] = fold.extent.min;
        self.nan[lane] = fold.nan;
        self.skipped[lane] = fold.skipped;
        self.base[lane] = fold.base;
        self.k[lane] = fold.partial.k;
        self.sum[lane] = fold.partial.sum;
    }

    /// Adds another chunk's folds, lane by lane.
    #[inline(always)]
    pub(crate) fn add(&mut self, other: &Self) {
        for lane in 0..LANES {
            let fold = Fold { base: other.base[lane], ..self.get(lane) };
            self.set(lane, fold.with(other.get(lane)));
        }
    }

    /// The shifts of lanes that must be read again; see [`Fold::retry`].
    pub(crate) fn retry(&self, temperatures: &[Temperature<T>], lanes: usize) -> Option<[Option<Shift<T>>; LANES]> {
        let mut shifts = [None; LANES];
        for (lane, shift) in shifts.iter_mut().enumerate().take(lanes) {
            *shift = self.get(lane).retry(of_lane(temperatures, lane));
        }
        shifts.iter().any(Option::is_some).then_some(shifts)
    }
}

/// The temperature of a lane, where there is one for each or one for all.
#[inline(always)]
pub(crate) fn of_lane<T>(temperatures: &[Temperature<T>], lane: usize) -> &Temperature<T> {
    &temperatures[if temperatures.len() == 1 { 0 } else { lane }]
}

/// The folds of one chunk of a strip. Lanes with a `fixed` shift use that.
#[inline(always)]
pub(crate) fn fold<S: Simd, T: Real, P: Precision>(
    token: S,
    tile: &[T],
    strip: Strip,
    temperatures: &[Temperature<T>],
    fixed: Option<&[Option<Shift<T>>; LANES]>,
) -> Folds<T> {
    token.call(FoldStrip::<T, T::Sum<P>> { tile, strip, temperatures, fixed, precision: PhantomData })
}

/// The arguments of [`fold`].
struct FoldStrip<'a, T: Real, P> {
    tile: &'a [T],
    strip: Strip,
    temperatures: &'a [Temperature<T>],
    fixed: Option<&'a [Option<Shift<T>>; LANES]>,
    precision: PhantomData<P>,
}

impl<T: Real, P: Precision> Kernel for FoldStrip<'_, T, P> {
    type Output = Folds<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Folds<T> {
        fold_strip::<S, T, P>(token, self.tile, self.strip, self.temperatures, self.fixed)
    }
}

#[inline(always)]
fn fold_strip<S: Simd, T: Real, P: Precision>(
    token: S,
    tile: &[T],
    strip: Strip,
    temperatures: &[Temperature<T>],
    fixed: Option<&[Option<Shift<T>>; LANES]>,
) -> Folds<T> {
    let lanes = T::Vector::<S>::LANES;
    let mut folds = Folds::empty();
    let mut max = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let mut min = T::Vector::<S>::splat(token, T::INFINITY);
    for index in strip.rows() {
        let v = T::Vector::<S>::load(token, &tile[index..]);
        max = v.max(max);
        min = v.min(min);
    }
    folds.max[..lanes].copy_from_slice(max.to_array().as_ref());
    folds.min[..lanes].copy_from_slice(min.to_array().as_ref());

    let mut counted = [true; LANES];
    let mut mode = Mode::Plain;
    let mut anchors = [Anchor::none(); LANES];
    for lane in 0..lanes {
        let temperature = of_lane(temperatures, lane);
        let max = folds.max[lane];
        let finite = max > T::NEG_INFINITY && max < T::INFINITY;
        let fixed = fixed.and_then(|fixed| fixed[lane]);
        counted[lane] = finite && (fixed.is_some() || !temperature.needs_base(max));
        // Lanes that do not count get a harmless shift; their sum tells of NaN alone.
        let shift = match fixed {
            Some(shift) if counted[lane] => shift,
            _ if counted[lane] => temperature.shift(max, T::ZERO),
            _ => Shift::new(T::ZERO, 0.0),
        };
        folds.base[lane] = fixed.map_or(T::ZERO, |shift| shift.base);
        folds.k[lane] = shift.k;
        anchors[lane] = Anchor::new(temperature, Shift { base: folds.base[lane], ..shift });
        if finite && !counted[lane] {
            folds.skipped[lane] = max;
        }
        let needed = if counted[lane] { folds.get(lane).extent.mode(temperature, shift) } else { Mode::Clamped };
        mode = mode.max(needed);
    }

    let exp = Exp::of_lanes(token, temperatures, &anchors);
    folds.sum = match mode.at::<S>() {
        Mode::Plain => sum::<S, T, P, { Mode::Plain as u8 }>(token, tile, strip, &exp),
        Mode::Clamped => sum::<S, T, P, { Mode::Clamped as u8 }>(token, tile, strip, &exp),
        Mode::General => sum::<S, T, P, { Mode::General as u8 }>(token, tile, strip, &exp),
    };
    #[allow(clippy::needless_range_loop, reason = "one index, several arrays")]
    for lane in 0..lanes {
        folds.nan[lane] = T::double(folds.sum[lane]).high.is_nan();
        if !counted[lane] {
            folds.nan[lane] = strip.lane(lane).any(|index| tile[index].is_nan());
            folds.k[lane] = Partial::<T>::empty().k;
            folds.sum[lane] = T::Wide::default();
        }
    }
    folds
}

#[inline(always)]
fn sum<S: Simd, T: Real, P: Precision, const MODE: u8>(
    token: S,
    tile: &[T],
    strip: Strip,
    exp: &Exp<T::Vector<S>>,
) -> [T::Wide; LANES] {
    let slots = T::Vector::<S>::LANES;
    let mut sums = [[T::Wide::default(); LANES]; LANES];
    let mut filled = slots.min(strip.rows);
    for (slot, total) in sums.iter_mut().enumerate().take(filled) {
        let mut sum = Sum::new::<P>(token, exp);
        let mut line = slot;
        while line < strip.rows {
            let row = &tile[strip.first + line * strip.pitch..];
            let (p, s) = exp.term::<MODE>(T::Vector::<S>::load(token, row));
            sum.add::<P>(p, s);
            line += slots;
        }
        *total = lanes::<S, T>(token, sum);
    }
    // `fold::halve`, without the additions of 0 that slots past the end would be.
    let mut half = slots / 2;
    while half > 0 {
        for slot in 0..half.min(filled.saturating_sub(half)) {
            #[allow(clippy::needless_range_loop, reason = "one index, several arrays")]
            for lane in 0..slots {
                sums[slot][lane] = T::add_wide(sums[slot][lane], sums[slot + half][lane]);
            }
        }
        filled = filled.min(half);
        half /= 2;
    }
    sums[0]
}

/// The results of a strip, to be written in the place of its logits.
pub(crate) struct Write<'a, T: Real, R> {
    pub(crate) tile: &'a mut [T],
    pub(crate) strip: Strip,
    pub(crate) temperatures: &'a [Temperature<T>],
    pub(crate) results: &'a [R; LANES],
}

impl<T: Real, R: Results<T>> Kernel for Write<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { tile, strip, temperatures, results } = self;
        let mut mode = Mode::Plain;
        let mut undefined = false;
        for results in results.iter().take(T::LANES) {
            mode = mode.max(results.mode());
            undefined |= results.is_undefined();
        }
        let map = R::lanes(token, temperatures, results);
        match mode.at::<S>() {
            Mode::Plain => write::<S, T, _, { Mode::Plain as u8 }>(token, tile, strip, map),
            Mode::Clamped => write::<S, T, _, { Mode::Clamped as u8 }>(token, tile, strip, map),
            Mode::General => write::<S, T, _, { Mode::General as u8 }>(token, tile, strip, map),
        }
        if undefined {
            for (lane, _) in results.iter().enumerate().take(T::LANES).filter(|(_, r)| r.is_undefined()) {
                strip.lane(lane).for_each(|index| tile[index] = T::NAN);
            }
        }
    }
}

#[inline(always)]
fn write<S: Simd, T: Real, M: Map<T::Vector<S>>, const MODE: u8>(token: S, tile: &mut [T], strip: Strip, map: M) {
    for index in strip.rows() {
        let row = &mut tile[index..];
        let x = T::Vector::<S>::load(token, row);
        map.apply::<MODE, false>(x, x).store(row);
    }
}
