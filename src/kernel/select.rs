//! The largest logits of a row, and where they are.
//!
//! ```text
//! for each chunk, in order:
//!     nothing, if its maximum is not above the bar          the bar: the k-th largest logit so far
//!     for each vector: nothing, if no lane is above the bar
//!     else note where the logits above the bar are          equal ones come too late: lowest index first
//!     push each of them that still is above the bar
//! ```
//!
//! 1. Of few logits, a sorted list is kept. Of many, a buffer of 2 k that is cut down to k whenever it is full, so
//!    that a push costs as much for any k. (A buffer of fewer than 8 would be cut too often.)
//! 2. The first chunk sets a bar before anything is pushed: of the maxima of 16 (or 64) disjoint parts, the k-th
//!    largest is no larger than the k-th largest logit.
//!
//! NaN counts as larger than everything; -0 equals 0.

use super::fold::CHUNK;
use super::real::Real;
use crate::simd::{Simd, Vector};

/// Up to so many logits are kept sorted.
const SORTED: usize = 8;

/// Logits whose hits are noted in one integer.
const WORD: usize = 64;

/// Vectors whose lanes are the parts that the first bar is taken from.
const PARTS: usize = 4;

/// A logit and its place in the row as one integer: integers are sorted without a jump.
///
/// From the top: 64 bits that are the smaller the larger the logit is, the index, and whether the logit is -0 (which is
/// no smaller than 0, but must be told apart in the end).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(u128);

const SIGN: u64 = 1 << 63;

/// The smaller the larger the logit is; 0 for NaN.
#[inline(always)]
fn rank(logit: f64) -> u64 {
    // Adding 0 makes 0 of -0.
    let bits = (logit + 0.0).to_bits();
    let rank = if bits & SIGN == 0 { !(bits | SIGN) } else { bits };
    if logit.is_nan() { 0 } else { rank }
}

/// The logit with this rank.
#[inline(always)]
fn logit_of(rank: u64) -> f64 {
    match rank {
        0 => f64::NAN,
        _ if rank & SIGN == 0 => f64::from_bits(!rank & !SIGN),
        _ => f64::from_bits(rank),
    }
}

impl Entry {
    #[inline(always)]
    fn new<T: Real>(logit: T, index: usize) -> Self {
        let logit = logit.to_f64();
        let minus_zero = u128::from(logit.to_bits() == SIGN);
        Self(u128::from(rank(logit)) << 64 | (index as u128) << 1 | minus_zero)
    }

    /// The logit.
    #[inline(always)]
    pub(crate) fn logit<T: Real>(self) -> T {
        T::from_f64(if self.0 & 1 == 1 { -0.0 } else { logit_of((self.0 >> 64) as u64) })
    }

    /// Its place in the row, to count with.
    #[inline(always)]
    pub(crate) fn place(self) -> usize {
        usize::try_from(self.index()).unwrap_or(usize::MAX)
    }

    /// Its place in the row, to be written.
    #[inline(always)]
    pub(crate) fn index(self) -> i64 {
        #[allow(clippy::cast_possible_truncation, reason = "the index has at most 63 bits; the rank is cut off")]
        (self.0 as u64 >> 1).cast_signed()
    }
}

/// The `k` largest logits of what has been offered.
pub(crate) struct Selection<T> {
    k: usize,
    /// In order where `k` is at most [`SORTED`].
    entries: Vec<Entry>,
    /// Logits that are not above it cannot be among the largest.
    bar: Option<T>,
}

impl<T: Real> Selection<T> {
    /// The entries that are kept at a time, of a row of so many logits.
    pub(crate) fn room(k: usize, len: usize) -> usize {
        if k <= SORTED { k } else { Self::buffer(k).min(len) }
    }

    /// The most entries of a buffer.
    fn buffer(k: usize) -> usize {
        2 * k.max(SORTED)
    }

    /// No logits; `entries` is empty memory for [`Selection::room`], and `k` at least 1.
    pub(crate) fn new(k: usize, entries: Vec<Entry>) -> Self {
        Self { k, entries, bar: None }
    }

    /// Forgets all logits.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bar = None;
    }

    /// Whether none of a chunk of logits can be among the largest.
    #[inline(always)]
    pub(crate) fn is_beyond(&self, max: T, nan: bool) -> bool {
        // A bar that is NaN lets nothing pass.
        self.bar.is_some_and(|bar| bar.is_nan() || (max <= bar && !nan))
    }

    /// Offers a chunk of logits, the first of which has the index `first`. Chunks come in order.
    #[inline(always)]
    pub(crate) fn offer<S: Simd>(&mut self, token: S, x: &[T], first: usize, max: T, nan: bool) {
        if nan {
            self.offer_each(x, first);
            return;
        }
        if self.bar.is_none() {
            self.bar = first_bar(token, x, self.k, max);
        }
        let Some(bar) = self.bar else {
            self.offer_each(x, first);
            return;
        };
        // First where logits are above the bar, without a jump.
        let mut hits = [0u64; CHUNK / WORD];
        let lanes = T::LANES;
        let bars = T::Vector::<S>::splat(token, bar);
        for (hits, x) in hits.iter_mut().zip(x.chunks(WORD)) {
            let mut vectors = x.chunks_exact(lanes);
            for (index, vector) in (&mut vectors).enumerate() {
                *hits |= above(token, bars, T::Vector::<S>::load(token, vector)) << (index * lanes);
            }
            let tail = vectors.remainder();
            if !tail.is_empty() {
                let tail = T::Vector::<S>::load_partial(token, tail, T::NEG_INFINITY);
                *hits |= above(token, bars, tail) << (x.len() / lanes * lanes);
            }
        }
        for (start, hits) in (0..x.len()).step_by(WORD).zip(hits) {
            let mut hits = hits;
            while hits != 0 {
                let at = start + hits.trailing_zeros() as usize;
                hits &= hits - 1;
                // The bar may have risen meanwhile.
                if self.bar.is_none_or(|bar| x[at] > bar) {
                    self.push(Entry::new(x[at], first + at));
                }
            }
        }
    }

    /// Offers logits one by one.
    fn offer_each(&mut self, x: &[T], first: usize) {
        for (index, logit) in x.iter().enumerate() {
            let barred = self.bar.is_some_and(|bar| *logit <= bar || bar.is_nan());
            if !barred {
                self.push(Entry::new(*logit, first + index));
            }
        }
    }

    /// Offers what another selection kept of the logits that come next.
    pub(crate) fn merge(&mut self, other: &mut Self) {
        other.finish().iter().for_each(|entry| self.push(*entry));
    }

    /// Adds an entry.
    #[inline]
    fn push(&mut self, entry: Entry) {
        if self.k > SORTED {
            if self.entries.len() == Self::buffer(self.k) {
                self.cut();
            }
            self.entries.push(entry);
            return;
        }
        let mut at = self.entries.len();
        if at < self.k {
            self.entries.push(entry);
        } else {
            at -= 1;
            if entry > self.entries[at] {
                return;
            }
        }
        while at > 0 && entry < self.entries[at - 1] {
            self.entries[at] = self.entries[at - 1];
            at -= 1;
        }
        self.entries[at] = entry;
        if self.entries.len() == self.k {
            self.bar = Some(self.entries[self.k - 1].logit());
        }
    }

    /// Keeps the largest, in no order.
    fn cut(&mut self) {
        if self.entries.len() >= self.k {
            let (_, last, _) = self.entries.select_nth_unstable(self.k - 1);
            self.bar = Some(last.logit());
            self.entries.truncate(self.k);
        }
    }

    /// The largest logits in descending order; of equal ones, the lowest index first.
    pub(crate) fn finish(&mut self) -> &[Entry] {
        if self.k > SORTED {
            self.cut();
            self.entries.sort_unstable();
        }
        &self.entries
    }
}

/// A value below at least `k` logits of `x`, if one is easily found.
#[inline(always)]
fn first_bar<S: Simd, T: Real>(token: S, x: &[T], k: usize, max: T) -> Option<T> {
    if k == 1 {
        return below(max);
    }
    let lanes = T::LANES;
    let parts = if k <= lanes / 2 { 1 } else { PARTS };
    if k > parts * lanes || x.len() < 2 * parts * lanes {
        return None;
    }
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let mut max = [lowest; PARTS];
    let mut groups = x.chunks_exact(PARTS * lanes);
    for group in &mut groups {
        for (i, max) in max.iter_mut().enumerate() {
            *max = T::Vector::<S>::load(token, &group[i * lanes..]).max(*max);
        }
    }
    for (i, vector) in groups.remainder().chunks_exact(lanes).enumerate() {
        max[i] = T::Vector::<S>::load(token, vector).max(max[i]);
    }
    if parts == 1 {
        max[0] = max[0].max(max[1]).max(max[2].max(max[3]));
    }
    // The least of those that fewer than k are above.
    let mut bar = T::INFINITY;
    for of in &max[..parts] {
        for value in of.to_array().as_ref() {
            let values = T::Vector::<S>::splat(token, *value);
            let mut larger = 0;
            for max in &max[..parts] {
                larger += above(token, values, *max).count_ones() as usize;
            }
            if larger < k && *value < bar {
                bar = *value;
            }
        }
    }
    below(bar)
}

/// Which lanes are above those of `bar`, a bit each.
#[inline(always)]
fn above<V: Vector>(token: V::Token, bar: V, lanes: V) -> u64 {
    u64::from(V::bits(token, bar.less(lanes)))
}

/// A value a little below `value`, unless there is none.
#[inline(always)]
fn below<T: Real>(value: T) -> Option<T> {
    if value == T::INFINITY {
        return Some(T::from_f64(-T::LOWEST.to_f64()));
    }
    let wide = value.to_f64();
    (value > T::NEG_INFINITY).then(|| T::from_f64(wide - (wide.abs() * 1e-6).max(1e-30)))
}
