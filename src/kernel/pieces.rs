//! Several short rows, folded together.
//!
//! What is done once for each row (its maximum over the lanes, its shift, its sum over the lanes) takes as long as a row
//! of a hundred logits itself. Here it is done for all of them at a time, a lane each; only the loops over their logits
//! are one after another. The order of every sum is `fold`'s, and so are the bits.

use super::Temperature;
use super::ahead::Ahead;
use super::column::{Folds, LANES};
use super::exp::{Anchors, Exp, Mode, of_maxima};
use super::fold::{CHUNK, Fold, FoldPieces, PIECES, extremes, fold_row, keeps, pieces, room, sum_in_mode};
use super::kept::{Keep, NOTHING, P};
use super::real::{self, Real, Stored};
use super::sum::{centers, wide_sum};
use crate::simd::{Kernel, Simd, Vector};

/// Fewer rows than this are folded faster by [`FoldPieces`].
const MANY: usize = 3;
/// The same where p is kept. (These are quotients, which take less time to finish, and no less by lanes.)
const MANY_KEPT: usize = PIECES;

/// [`FoldRows`] by lanes. The output is whether the rows are alike; where they are not (a NaN, an infinity, a base),
/// nothing is told of any.
struct FoldByLanes<'a, T: Real> {
    x: &'a [T],
    /// At most [`CHUNK`].
    len: usize,
    keep: Keep<'a, T>,
    temperature: &'a Temperature<T>,
    ahead: Ahead,
    folds: &'a mut Folds<T>,
    sums: &'a mut [Stored; LANES],
}

impl<T: Real> Kernel for FoldByLanes<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> bool {
        if S::COMPACT || size_of::<T>() != size_of::<f32>() {
            // (Not for float64 either: its code would be as large again.)
            return false;
        }
        let general = Mode::of(self.temperature) == Mode::General;
        match (keeps::<S, T>(&self.keep), general) {
            (false, false) => self.fold::<S, NOTHING, { Mode::Clamped as u8 }>(token),
            (false, true) => self.fold::<S, NOTHING, { Mode::General as u8 }>(token),
            (true, false) => self.fold::<S, P, { Mode::Clamped as u8 }>(token),
            (true, true) => self.fold::<S, P, { Mode::General as u8 }>(token),
        }
    }
}

impl<T: Real> FoldByLanes<'_, T> {
    #[inline(always)]
    fn fold<S: Simd, const KEEP: u8, const MODE: u8>(self, token: S) -> bool {
        let Self { x, len, mut keep, temperature, ahead, folds, sums } = self;
        let rows = x.len() / len;
        let mut max = [T::Vector::<S>::splat(token, T::NEG_INFINITY); LANES];
        for (max, x) in max.iter_mut().zip(x.chunks_exact(len)) {
            *max = extremes::<S, T>(token, x).0;
        }
        // Lanes that have no row are like the first.
        for lane in rows..T::LANES {
            max[lane] = max[0];
        }
        let max = over_lanes::<S, T>(token, &mut max, T::Vector::<S>::max);
        let Some((exp, k)) = of_maxima::<S, T>(token, temperature, max) else { return false };
        let anchors = Anchors::of(&exp);
        let center = centers::<_, MODE>(token, &exp, max);
        let (mut centers, mut aparts) = ([T::ZERO; LANES], [center; LANES]);
        center.store(&mut centers);
        for (index, x) in x.chunks_exact(len).enumerate() {
            let exp = Exp::at(token, temperature, &anchors.get(index));
            let keep = pieces::<T, KEEP>(&mut keep, index * room::<T>(len), x.len());
            let center = T::Vector::<S>::splat(token, centers[index]);
            let sum = sum_in_mode::<S, T, KEEP, MODE>(token, x, keep, &exp, center, ahead.from(index * len));
            let (wide, apart) = wide_sum::<S, T>(token, sum);
            real::store::<S>(wide, &mut sums[index]);
            aparts[index] = apart;
        }
        for lane in rows..T::LANES {
            (sums[lane], aparts[lane]) = (sums[0], aparts[0]);
        }
        let aparts = over_lanes::<S, T>(token, &mut aparts, T::Vector::<S>::add);
        let sums = T::with_aparts(token, T::totals(token, sums), center, aparts);
        folds.set_alike(token, max, k, sums)
    }
}

/// The lanes of each of so many vectors as there are lanes, combined as a halving tree ([`super::sum::halve`]).
#[inline(always)]
fn over_lanes<S: Simd, T: Real>(
    token: S,
    vectors: &mut [T::Vector<S>; LANES],
    combine: impl Fn(T::Vector<S>, T::Vector<S>) -> T::Vector<S>,
) -> T::Vector<S> {
    T::Vector::<S>::transpose(token, &mut vectors[..T::LANES]);
    let mut half = T::LANES / 2;
    while half > 0 {
        for j in 0..half {
            vectors[j] = combine(vectors[j], vectors[j + half]);
        }
        half /= 2;
    }
    vectors[0]
}

/// Rows of `len` logits to fold, at most as many as a vector has lanes, one after another in `x`. For `keep` see
/// [`FoldPieces`].
pub(crate) struct FoldRows<'a, T: Real> {
    pub(crate) x: &'a [T],
    pub(crate) len: usize,
    pub(crate) keep: Keep<'a, T>,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) ahead: Ahead,
    /// A lane for each row.
    pub(crate) folds: &'a mut Folds<T>,
    /// Room for the sums of each row. (To fill it takes as long as to sum up a short one.)
    pub(crate) sums: &'a mut [Stored; LANES],
}

impl<T: Real> Kernel for FoldRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { x, len, mut keep, temperature, ahead, folds, sums } = self;
        let rows = x.len() / len;
        if len <= CHUNK && rows >= if keeps::<S, T>(&keep) { MANY_KEPT } else { MANY } {
            let (folds, sums, keep) = (&mut *folds, &mut *sums, keep.again());
            if token.call(FoldByLanes { x, len, keep, temperature, ahead, folds, sums }) {
                return;
            }
        }
        folds.alike = false;
        let together = len <= CHUNK && rows <= PIECES;
        if together {
            let some = &mut [Fold::empty(T::ZERO); PIECES][..rows];
            let (keep, sums) = (keep.again(), &mut sums[..rows]);
            token.call(FoldPieces { x, len, keep, temperature, fixed: None, ahead, folds: some, sums });
            for (index, fold) in some.iter().enumerate() {
                folds.set(index, *fold);
            }
        }
        for (index, x) in x.chunks_exact(len).enumerate() {
            if !together || folds.get(index).retry(temperature).is_some() {
                let start = index * room::<T>(len);
                let keep = keep.some(start..start + len);
                folds.set(index, fold_row::<S, T>(token, x, keep, temperature, ahead.from(index * len)));
            }
        }
    }
}
