//! Tiles in which every lane is a row of its own, its logits one below the other.
//!
//! A tile is a dense matrix of a few hundred columns at most, copied out of the array: columns of an array whose
//! axis is not the last (a large power-of-two pitch would leave them a handful of cache sets), or rows of a few
//! classes, transposed. The order of every sum is `fold`'s, lane for lane: what is lane j of a vector there is
//! slot j here, the logits j, j + 16, j + 32, ... of a chunk. The bits are therefore the same.
//!
//! What is done once for each row is done for all lanes at a time, unless some lane is special (NaN, an infinity, a base,
//! a temperature of its own). For rows of ten logits that is half of the work.

use super::Temperature;
use super::exp::{Anchor, Anchors, Exp, Mode, Shift, of_maxima};
use super::fold::{Fold, Partial};
use super::real::{self, Real, Stored, Wide};
use super::row::{Map, Results};
use super::slots::{Slots, is_single};
use super::sum::{Sum, centers, wide_sum};
use crate::simd::{COLUMNS, Kernel, Simd, Vector};

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
    nan: [bool; LANES],
    skipped: [T; LANES],
    base: [T; LANES],
    k: Stored,
    sum: Stored,
    /// Whether no lane is special: all have a maximum, a shift without a base, and a sum.
    pub(crate) alike: bool,
}

impl<T: Real> Folds<T> {
    /// No logits in any lane.
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        Self {
            max: [T::NEG_INFINITY; LANES],
            nan: [false; LANES],
            skipped: [T::NEG_INFINITY; LANES],
            base: [T::ZERO; LANES],
            k: [Partial::<T>::empty().k; LANES],
            sum: [0.0; LANES],
            alike: false,
        }
    }

    /// The maximum of each lane.
    #[inline(always)]
    pub(crate) fn maxima<S: Simd>(&self, token: S) -> T::Vector<S> {
        T::Vector::<S>::load(token, &self.max)
    }

    /// The k of each lane.
    #[inline(always)]
    pub(crate) fn shifts<S: Simd>(&self, token: S) -> Wide<S> {
        real::load(token, &self.k)
    }

    /// The sum of each lane.
    #[inline(always)]
    pub(crate) fn sums<S: Simd>(&self, token: S) -> Wide<S> {
        real::load(token, &self.sum)
    }

    /// The fold of a lane.
    #[inline(always)]
    pub(crate) fn get(&self, lane: usize) -> Fold<T> {
        Fold {
            max: self.max[lane],
            nan: self.nan[lane],
            skipped: self.skipped[lane],
            base: self.base[lane],
            partial: Partial { k: self.k[lane], sum: T::wide_of(&self.sum, lane) },
        }
    }

    /// Sets that of lanes that are alike, from their maxima, the k of their shifts, and their sums. Returns whether they
    /// are: none of the sums is NaN.
    #[inline(always)]
    pub(crate) fn set_alike<S: Simd>(&mut self, token: S, max: T::Vector<S>, k: Wide<S>, sum: Wide<S>) -> bool {
        *self = Self { alike: !any_undefined::<S>(token, sum), ..Self::empty() };
        max.store(&mut self.max);
        real::store::<S>(k, &mut self.k);
        real::store::<S>(sum, &mut self.sum);
        self.alike
    }

    /// Sets that of a lane.
    #[inline(always)]
    pub(crate) fn set(&mut self, lane: usize, fold: Fold<T>) {
        self.max[lane] = fold.max;
        self.nan[lane] = fold.nan;
        self.skipped[lane] = fold.skipped;
        self.base[lane] = fold.base;
        self.k[lane] = fold.partial.k;
        T::store_wide(fold.partial.sum, &mut self.sum, lane);
    }

    /// Finds out whether the first so many lanes, with `one` temperature for all, are alike; then the others are like the
    /// first of them. (Not inlined, nor compiled for a level: scalars.)
    #[inline(never)]
    pub(crate) fn compare(&mut self, lanes: usize, one: bool) {
        self.alike = one;
        for lane in 0..lanes {
            let Fold { nan, skipped, base, partial, .. } = self.get(lane);
            let is_plain = !nan && skipped == T::NEG_INFINITY && base == T::ZERO;
            self.alike &= is_plain && partial.k > Partial::<T>::empty().k;
        }
        if self.alike {
            let first = self.get(0);
            for lane in lanes..T::LANES {
                self.set(lane, first);
            }
        }
    }

    /// Adds another chunk's folds, lane by lane.
    #[inline(always)]
    pub(crate) fn add(&mut self, other: &Self) {
        for lane in 0..T::LANES {
            let fold = Fold { base: other.base[lane], ..self.get(lane) };
            self.set(lane, fold.with(other.get(lane)));
        }
        self.alike &= other.alike;
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

/// The tile that is read next, to be asked for while this one is folded: line by line, a vector's width at a time.
#[derive(Clone, Copy)]
pub(crate) struct Next<'a, T> {
    /// Its first line; the others begin `pitch` elements from each other.
    pub(crate) line: &'a [T],
    pub(crate) pitch: usize,
    pub(crate) width: usize,
    /// Where to begin.
    pub(crate) at: (usize, usize),
}

impl<T: Real> Next<'_, T> {
    /// Of nothing.
    pub(crate) const NONE: Self = Self { line: &[], pitch: 0, width: 0, at: (0, 0) };

    #[inline(always)]
    fn ask<S: Simd>(&mut self, token: S) {
        let (line, column) = self.at;
        token.prefetch(self.line, line * self.pitch + column);
        let column = column + T::LANES;
        self.at = if column < self.width { (line, column) } else { (line + 1, 0) };
    }
}

/// Room for a [`FoldStrip`].
pub(crate) struct Room<T> {
    slots: Slots<T>,
    /// Of slots of one column each, s.
    terms: [T; LANES * LANES],
}

impl<T: Real> Room<T> {
    /// Of no matter what.
    pub(crate) fn new() -> Self {
        Self { slots: Slots::new(), terms: [T::ZERO; LANES * LANES] }
    }
}

/// One chunk of a strip, to be folded. Lanes with a `fixed` shift use that.
pub(crate) struct FoldStrip<'a, T: Real> {
    pub(crate) tile: &'a [T],
    pub(crate) strip: Strip,
    pub(crate) temperatures: &'a [Temperature<T>],
    pub(crate) fixed: Option<&'a [Option<Shift<T>>; LANES]>,
    /// The largest of each lane, if it is known.
    pub(crate) max: Option<&'a [T; LANES]>,
    /// What comes of it.
    pub(crate) folds: &'a mut Folds<T>,
    pub(crate) room: &'a mut Room<T>,
    pub(crate) next: Next<'a, T>,
}

impl<T: Real> Kernel for FoldStrip<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { tile, strip, temperatures, fixed, max, folds, room, next } = self;
        let max = match max {
            Some(max) => T::Vector::<S>::load(token, max),
            None => largest::<S, T>(token, tile, strip),
        };
        max.store(&mut folds.max);
        folds.nan = [false; LANES];
        folds.skipped = [T::NEG_INFINITY; LANES];
        folds.base = [T::ZERO; LANES];

        let shifts = match (temperatures, fixed) {
            ([temperature], None) => of_maxima::<S, T>(token, temperature, max),
            _ => None,
        };
        let alike = shifts.is_some();
        let mut counted = [true; LANES];
        let (mode, exp) = if let Some((exp, k)) = shifts {
            real::store::<S>(k, &mut folds.k);
            (Mode::of(&temperatures[0]), exp)
        } else {
            shift_each(token, folds, temperatures, fixed, &mut counted)
        };
        let sum = if mode.at::<S>() == Mode::General {
            sum::<S, T, { Mode::General as u8 }>(token, tile, strip, &exp, max, room, next)
        } else {
            sum::<S, T, { Mode::Clamped as u8 }>(token, tile, strip, &exp, max, room, next)
        };
        real::store::<S>(sum, &mut folds.sum);
        folds.alike = alike && !any_undefined::<S>(token, sum);
        if folds.alike {
            return;
        }
        for (lane, counted) in counted.iter().enumerate().take(T::LANES) {
            folds.nan[lane] = folds.sum[lane].is_nan();
            if !counted {
                folds.nan[lane] = strip.lane(lane).any(|index| tile[index].is_nan());
                folds.k[lane] = Partial::<T>::empty().k;
                T::store_wide(T::Wide::default(), &mut folds.sum, lane);
            }
        }
    }
}

/// Whether some sum is NaN, or infinite.
#[inline(always)]
pub(crate) fn any_undefined<S: Simd>(token: S, sum: Wide<S>) -> bool {
    let (zero, infinity) = (S::F64::splat(token, 0.0), S::F64::splat(token, f64::INFINITY));
    // NaN where one of the halves is undefined, and 0 elsewhere.
    let zeros = sum[0].mul(zero).add(sum[1].mul(zero));
    S::F64::any(zero.less(S::F64::select(zeros.less(infinity), zero, infinity)))
}

/// The largest logit of each lane.
#[inline(always)]
fn largest<S: Simd, T: Real>(token: S, tile: &[T], strip: Strip) -> T::Vector<S> {
    // Two: the operations depend on the ones before, and take as long as two loads.
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let (mut max, mut other) = (lowest, lowest);
    let mut index = strip.first;
    for _ in 0..strip.rows / 2 {
        max = T::Vector::<S>::load(token, &tile[index..]).max(max);
        other = T::Vector::<S>::load(token, &tile[index + strip.pitch..]).max(other);
        index += 2 * strip.pitch;
    }
    if !strip.rows.is_multiple_of(2) {
        max = T::Vector::<S>::load(token, &tile[index..]).max(max);
    }
    max.max(other)
}

/// The shift of each lane by itself, and what the reduction needs for all of them.
#[inline(always)]
fn shift_each<S: Simd, T: Real>(
    token: S,
    folds: &mut Folds<T>,
    temperatures: &[Temperature<T>],
    fixed: Option<&[Option<Shift<T>>; LANES]>,
    counted: &mut [bool; LANES],
) -> (Mode, Exp<T::Vector<S>>) {
    let mut mode = Mode::Clamped;
    let mut anchors = Anchors::none();
    for lane in 0..T::LANES {
        let temperature = of_lane(temperatures, lane);
        let max = folds.max[lane];
        let finite = max > T::NEG_INFINITY && max < T::INFINITY;
        let fixed = fixed.and_then(|fixed| fixed[lane]);
        counted[lane] = finite && (fixed.is_some() || !temperature.needs_base(max));
        // Lanes that do not count get a harmless shift; their sum tells of NaN alone.
        let shift = match fixed {
            Some(shift) if counted[lane] => shift,
            _ if counted[lane] => temperature.shift(max, T::ZERO),
            _ => Shift { base: T::ZERO, k: 0.0 },
        };
        folds.base[lane] = fixed.map_or(T::ZERO, |shift| shift.base);
        folds.k[lane] = shift.k;
        anchors.set(lane, Anchor::new(temperature, Shift { base: folds.base[lane], ..shift }));
        if finite && !counted[lane] {
            folds.skipped[lane] = max;
        }
        if counted[lane] {
            mode = mode.max(Shift { base: folds.base[lane], ..shift }.mode(temperature));
        }
    }
    (mode, Exp::of_lanes(token, temperatures, &anchors))
}

#[inline(always)]
fn sum<S: Simd, T: Real, const MODE: u8>(
    token: S,
    tile: &[T],
    strip: Strip,
    exp: &Exp<T::Vector<S>>,
    max: T::Vector<S>,
    room: &mut Room<T>,
    mut next: Next<'_, T>,
) -> Wide<S> {
    let center = centers::<_, MODE>(token, exp, max);
    let Room { slots, terms } = room;
    if is_single::<T>(strip.rows) {
        single::<S, T, MODE>(token, tile, strip, exp, center, (&mut *slots, &mut *terms));
        slots.total::<S, true>(token, strip.rows, terms, center)
    } else {
        for slot in 0..T::LANES.min(strip.rows) {
            let mut index = strip.first + slot * strip.pitch;
            let mut sum = Sum::new(token, center);
            for _ in 0..(strip.rows - slot).div_ceil(T::LANES) {
                next.ask(token);
                let x = T::Vector::<S>::load(token, &tile[index..]);
                let (about, _, s) = exp.term_about::<MODE>(x, sum.minus_center());
                sum.add(about, s);
                index += T::LANES * strip.pitch;
            }
            slots.set(token, slot, wide_sum::<S, T>(token, sum));
        }
        slots.total::<S, false>(token, strip.rows, terms, center)
    }
}

/// The terms of slots of one column each.
///
/// First all of them, then their sums: one after the other for each slot would be a chain of operations so long that the
/// processor has no room for enough of them to overlap.
#[inline(always)]
fn single<S: Simd, T: Real, const MODE: u8>(
    token: S,
    tile: &[T],
    strip: Strip,
    exp: &Exp<T::Vector<S>>,
    center: T::Vector<S>,
    (slots, terms): (&mut Slots<T>, &mut [T; LANES * LANES]),
) {
    let minus_center = Sum::new(token, center).minus_center();
    for ((index, term), apart) in strip.rows().zip(terms.chunks_exact_mut(T::LANES)).zip(&mut slots.apart) {
        let (about, _, s) = exp.term_about::<MODE>(T::Vector::<S>::load(token, &tile[index..]), minus_center);
        s.store(term);
        about.mul(s).store(apart);
    }
}

/// What the results of a strip are computed from.
pub(crate) enum Strips<'a, T: Real, R> {
    /// The folds of lanes that are alike, for results with [`Results::BY_LANES`].
    Alike(&'a Folds<T>),
    /// What each lane's results have in common.
    Each(&'a [R; LANES]),
}

/// The results of a strip, to be written in the place of its logits.
pub(crate) struct Write<'a, T: Real, R> {
    pub(crate) tile: &'a mut [T],
    pub(crate) strip: Strip,
    pub(crate) temperatures: &'a [Temperature<T>],
    pub(crate) from: Strips<'a, T, R>,
}

impl<T: Real, R: Results<T>> Kernel for Write<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { tile, strip, temperatures, from } = self;
        let mut undefined = false;
        let (mode, map) = match from {
            Strips::Alike(folds) => (Mode::of(&temperatures[0]), R::alike(token, &temperatures[0], folds)),
            Strips::Each(results) => {
                let mut mode = Mode::Clamped;
                for (lane, results) in results.iter().enumerate().take(T::LANES) {
                    mode = mode.max(results.mode(of_lane(temperatures, lane)));
                    undefined |= results.is_undefined();
                }
                (mode, R::lanes(token, temperatures, results))
            }
        };
        if mode.at::<S>() == Mode::General {
            write::<S, T, _, { Mode::General as u8 }>(token, tile, strip, map);
        } else {
            write::<S, T, _, { Mode::Clamped as u8 }>(token, tile, strip, map);
        }
        if let Strips::Each(results) = from
            && undefined
        {
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
        map.apply::<MODE>(x).store(row);
    }
}

/// Rows that lie one after another, to be copied into a tile.
///
/// Columns are copied by fours, which reach over a row's end into the next row. Of the strips, those are copied for which
/// there is enough there; the output is the number of their rows.
pub(crate) struct ReadRows<'a, T> {
    /// From the first row on; there may be more after the last.
    pub(crate) x: &'a [T],
    pub(crate) rows: usize,
    pub(crate) len: usize,
    pub(crate) tile: &'a mut [T],
    pub(crate) pitch: usize,
}

impl<T: Real> Kernel for ReadRows<'_, T> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> usize {
        let Self { x, rows, len, tile, pitch } = self;
        let lanes = T::LANES;
        for first in (0..rows).step_by(lanes) {
            if reach::<T>(first, len) > x.len() {
                return first;
            }
            for start in (0..len).step_by(COLUMNS) {
                let columns = T::Vector::<S>::load_columns(token, &x[first * len + start..], len);
                for (j, column) in columns.iter().enumerate() {
                    if start + j < len {
                        // As many rows ahead as these are, line by line.
                        token.prefetch(x, (rows + first) * len + (start + j) * lanes);
                        column.store(&mut tile[(start + j) * pitch + first..]);
                    }
                }
            }
        }
        rows
    }
}

/// The reverse of [`ReadRows`]. What lies after the last row is written, too, where later rows' results belong.
pub(crate) struct WriteRows<'a, T> {
    pub(crate) tile: &'a [T],
    pub(crate) pitch: usize,
    pub(crate) out: &'a mut [T],
    pub(crate) rows: usize,
    pub(crate) len: usize,
}

impl<T: Real> Kernel for WriteRows<'_, T> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> usize {
        let Self { tile, pitch, out, rows, len } = self;
        for first in (0..rows).step_by(T::LANES) {
            if reach::<T>(first, len) > out.len() {
                return first;
            }
            // From the last columns to the first: what these write past their row's end is written again, as results of the
            // next row.
            for start in (0..len).step_by(COLUMNS).rev() {
                let mut columns = [T::Vector::<S>::splat(token, T::ZERO); COLUMNS];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = T::Vector::<S>::load(token, &tile[(start + j).min(len - 1) * pitch + first..]);
                }
                T::Vector::<S>::store_columns(columns, &mut out[first * len + start..], len);
            }
        }
        rows
    }
}

/// Where the columns of a strip that begins with row `first` end.
fn reach<T: Real>(first: usize, len: usize) -> usize {
    (first + T::LANES - 1) * len + len.next_multiple_of(COLUMNS)
}
