//! Sums of columns, of which each lane has a row's: slot by slot, in the order of `fold`.
//!
//! What is lane j of a vector in `fold` is slot j here: the columns j, j + 16, j + 32, ... of a chunk.

use super::column::LANES;
use super::real::{self, Real, Stored, Wide};
use super::sum::{Sum, wide_sum};
use crate::simd::{Simd, Vector};

/// Half of the slots. (float64 has but half of them altogether, and uses half of what is for them.)
pub(crate) const HALF: usize = LANES / 2;

/// Room for the sums of a strip's slots. (To fill it for each strip takes as long as to sum up a column.)
pub(crate) struct Slots<T> {
    /// Of slots of one column each, what is apart of it. (s is elsewhere.)
    pub(crate) apart: [[T; LANES]; LANES],
    /// Of slots of more, the sums of s of two of them, and what is apart from it.
    sums: [Stored; HALF],
    aparts: [[T; LANES]; HALF],
}

/// A sum of s, and what is apart from it.
pub(crate) type Branch<S, T> = (Wide<S>, <T as Real>::Vector<S>);

#[inline(always)]
fn plus<S: Simd, T: Real>(a: Branch<S, T>, b: Branch<S, T>) -> Branch<S, T> {
    (T::add_wides::<S>(a.0, b.0), a.1.add(b.1))
}

impl<T: Real> Slots<T> {
    /// Of no matter what.
    pub(crate) fn new() -> Self {
        let zeros = [T::ZERO; LANES];
        Self { apart: [zeros; LANES], sums: [[0.0; LANES]; HALF], aparts: [zeros; HALF] }
    }

    /// The sum of a slot; those of the second half after those of the first, to which the tree adds them.
    #[inline(always)]
    pub(crate) fn set<S: Simd>(&mut self, token: S, slot: usize, mut sum: Branch<S, T>) {
        let half = T::LANES / 2;
        if slot >= half {
            sum = plus::<S, T>(self.get(token, slot - half), sum);
        }
        self.put::<S>(slot % half, sum);
    }

    /// The same of two slots at once, the second of which is as far in its half.
    #[inline(always)]
    pub(crate) fn set_both<S: Simd>(&mut self, token: S, slot: usize, sums: [Sum<T::Vector<S>>; 2]) {
        let [first, second] = sums;
        self.put::<S>(slot, plus::<S, T>(wide_sum::<S, T>(token, first), wide_sum::<S, T>(token, second)));
    }

    #[inline(always)]
    fn put<S: Simd>(&mut self, slot: usize, (sum, apart): Branch<S, T>) {
        real::store::<S>(sum, &mut self.sums[slot]);
        apart.store(&mut self.aparts[slot]);
    }

    #[inline(always)]
    fn get<S: Simd>(&self, token: S, slot: usize) -> Branch<S, T> {
        (real::load(token, &self.sums[slot]), T::Vector::<S>::load(token, &self.aparts[slot]))
    }

    /// The sum over so many columns: of slots of one each if `SINGLE`, whose s are in `terms` one column after another; or of
    /// those that were [`set`](Self::set).
    ///
    /// A halving tree, without the additions of 0 that slots past the end would be: branch by branch, so that it takes few
    /// registers.
    #[inline(always)]
    pub(crate) fn total<S: Simd, const SINGLE: bool>(
        &self,
        token: S,
        columns: usize,
        terms: &[T],
        center: T::Vector<S>,
    ) -> Wide<S> {
        let (sum, apart) = Tree::<T, SINGLE> { slots: self, columns, terms }.all::<S>(token);
        T::with_aparts(token, sum, center, apart)
    }
}

/// Whether each slot has one column at most, so that its sum is that. (Not in float64, where s is not the term.)
#[inline(always)]
pub(crate) fn is_single<T: Real>(columns: usize) -> bool {
    columns <= T::LANES && !super::sum::is_whole::<T>()
}

/// The halving tree over the slots.
struct Tree<'a, T, const SINGLE: bool> {
    slots: &'a Slots<T>,
    columns: usize,
    terms: &'a [T],
}

impl<T: Real, const SINGLE: bool> Tree<'_, T, SINGLE> {
    #[inline(always)]
    fn all<S: Simd>(&self, token: S) -> Branch<S, T> {
        let sum = self.second::<S>(token, 0);
        if self.columns > 1 { plus::<S, T>(sum, self.second::<S>(token, 1)) } else { sum }
    }

    /// Every second slot, from one on.
    #[inline(always)]
    fn second<S: Simd>(&self, token: S, slot: usize) -> Branch<S, T> {
        let sum = self.fourth::<S>(token, slot);
        if slot + 2 < self.columns { plus::<S, T>(sum, self.fourth::<S>(token, slot + 2)) } else { sum }
    }

    /// Every fourth slot.
    #[inline(always)]
    fn fourth<S: Simd>(&self, token: S, slot: usize) -> Branch<S, T> {
        let sum = self.eighth::<S>(token, slot);
        // (float64 has eight slots.)
        if T::LANES > HALF && slot + 4 < self.columns {
            plus::<S, T>(sum, self.eighth::<S>(token, slot + 4))
        } else {
            sum
        }
    }

    /// A slot of the first half and that of the second.
    #[inline(always)]
    fn eighth<S: Simd>(&self, token: S, slot: usize) -> Branch<S, T> {
        if !SINGLE {
            return self.slots.get(token, slot);
        }
        let sum = self.of_one::<S>(token, slot);
        if slot + HALF < self.columns { plus::<S, T>(sum, self.of_one::<S>(token, slot + HALF)) } else { sum }
    }

    #[inline(always)]
    fn of_one<S: Simd>(&self, token: S, slot: usize) -> Branch<S, T> {
        let s = T::Vector::<S>::load(token, &self.terms[slot * T::LANES..]);
        (T::widened(token, s), T::Vector::<S>::load(token, &self.slots.apart[slot]))
    }
}
