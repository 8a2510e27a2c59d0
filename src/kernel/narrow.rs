//! The folds of a matrix of a few columns, line after line.
//!
//! A vector with a logit of each column would be empty for the most part. But as many lines as there are slots are as many
//! vectors as there are columns, and every place of them is one column's and one slot's (`column`): place i that of column
//! i mod width, and of slot i div width. So vectors are taken as they come, with constants that differ from place to place:
//!
//! ```text
//! for each of the vectors of sixteen lines: the sums of their places, over every sixteenth line of the chunk
//! for each slot: the sums of its columns, which lie one after another there; then the halving tree
//! ```

use super::Temperature;
use super::column::{Folds, LANES};
use super::exp::{Anchor, Exp, Mode, of_maxima};
use super::real::Real;
use super::slots::Slots;
use super::sum::{Sum, centers, wide_sum};
use crate::simd::{Kernel, Simd, Vector};

/// The most places there are, and a vector after the last.
const PLACES: usize = LANES * LANES;

/// The mode of the reduction that there is code for.
const MODE: u8 = Mode::Clamped as u8;

/// Room for what each place has.
pub(crate) struct Places<T> {
    max: [T; PLACES],
    magic: [T; PLACES],
    least: [T; PLACES],
    center: [T; PLACES],
    sum: [f64; PLACES],
    apart: [T; PLACES],
    /// The last lines of a chunk, where they are fewer than slots.
    last: [T; PLACES],
    slots: Slots<T>,
}

impl<T: Real> Places<T> {
    /// Of no matter what.
    pub(crate) fn new() -> Self {
        let zeros = [T::ZERO; PLACES];
        Self {
            max: zeros,
            magic: zeros,
            least: zeros,
            center: zeros,
            sum: [0.0; PLACES],
            apart: zeros,
            last: zeros,
            slots: Slots::new(),
        }
    }
}

/// Whether there is code for so many columns: fewer than lanes.
pub(crate) const fn is_narrow<T: Real>(width: usize) -> bool {
    width > 1 && width < T::LANES && size_of::<T>() == size_of::<f32>()
}

/// Has every place of `to` what its column has: up to `size` of them, and a vector more.
#[inline(always)]
pub(crate) fn repeat<V: Vector>(columns: V, width: usize, size: usize, to: &mut [V::Scalar]) {
    for first in (0..size + V::LANES).step_by(width) {
        if first + V::LANES > to.len() {
            break;
        }
        columns.store(&mut to[first..]);
    }
}

/// One chunk of such a matrix, to be folded, of temperature 1.
pub(crate) struct FoldNarrow<'a, T: Real> {
    pub(crate) x: &'a [T],
    pub(crate) width: usize,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) places: &'a mut Places<T>,
    /// What comes of it.
    pub(crate) folds: &'a mut Folds<T>,
}

impl<T: Real> Kernel for FoldNarrow<'_, T> {
    /// Whether the columns are alike; if not, nothing has come of it.
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> bool {
        let Self { x, width, temperature, places, folds } = self;
        if S::COMPACT || !is_narrow::<T>(width) {
            return false;
        }
        let (lanes, size) = (T::LANES, width * T::LANES);
        let groups = x.len() / size;
        let (x, rest) = x.split_at(groups * size);
        let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
        if !rest.is_empty() {
            places.last.fill(T::NEG_INFINITY);
            places.last[..rest.len()].copy_from_slice(rest);
        }
        for place in (0..size).step_by(lanes) {
            // Two: the operations depend on the ones before.
            let (mut max, mut other) = (lowest, lowest);
            let mut pairs = x.chunks_exact(2 * size);
            for pair in &mut pairs {
                max = T::Vector::<S>::load(token, &pair[place..]).max(max);
                other = T::Vector::<S>::load(token, &pair[size + place..]).max(other);
            }
            if !pairs.remainder().is_empty() {
                max = T::Vector::<S>::load(token, &pairs.remainder()[place..]).max(max);
            }
            if !rest.is_empty() {
                other = T::Vector::<S>::load(token, &places.last[place..]).max(other);
            }
            max.max(other).store(&mut places.max[place..]);
        }
        let mut max = lowest;
        for slot in 0..lanes {
            max = T::Vector::<S>::load(token, &places.max[slot * width..]).max(max);
        }
        // The lanes after the last column have something of others. (Their sums are nobody's.)
        let first = T::Vector::<S>::splat(token, max.to_array().as_ref()[0]);
        let max = T::Vector::<S>::select(T::Vector::<S>::first_lanes(token, width), max, first);

        let Some((exp, k)) = of_maxima::<S, T>(token, temperature, max) else { return false };
        let center = centers::<_, MODE>(token, &exp, max);
        let (magic, least) = exp.anchor();
        repeat(magic, width, size, &mut places.magic);
        repeat(least, width, size, &mut places.least);
        repeat(center, width, size, &mut places.center);

        let exp = Exp::at(token, temperature, &Anchor::NONE);
        for place in (0..size).step_by(lanes) {
            let magic = T::Vector::<S>::load(token, &places.magic[place..]);
            let exp = exp.anchored(magic, T::Vector::<S>::load(token, &places.least[place..]));
            let mut sum = Sum::new(token, T::Vector::<S>::load(token, &places.center[place..]));
            for group in x.chunks_exact(size) {
                let x = T::Vector::<S>::load(token, &group[place..]);
                let (about, _, s) = exp.term_about::<MODE>(x, sum.minus_center());
                sum.add(about, s);
            }
            if !rest.is_empty() {
                // (The terms of what is not there are nothing to a sum.)
                let x = T::Vector::<S>::load(token, &places.last[place..]);
                let (about, _, s) = exp.term_about::<MODE>(x, sum.minus_center());
                sum.add(about, s);
            }
            let (wide, apart) = wide_sum::<S, T>(token, sum);
            wide[0].store(&mut places.sum[place..]);
            wide[1].store(&mut places.sum[place + LANES / 2..]);
            apart.store(&mut places.apart[place..]);
        }
        for slot in 0..lanes {
            let first = slot * width;
            let wide =
                [S::F64::load(token, &places.sum[first..]), S::F64::load(token, &places.sum[first + LANES / 2..])];
            let apart = T::Vector::<S>::load(token, &places.apart[first..]);
            places.slots.set(token, slot, (wide, apart));
        }
        let sum = places.slots.total::<S, false>(token, lanes, &[], center);
        folds.set_alike(token, max, k, sum)
    }
}
