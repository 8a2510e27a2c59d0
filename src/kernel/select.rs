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
        // Where logits are above the bar, without a jump for each.
        let mut hits = [0u16; CHUNK + 1];
        let mut count = 0;
        let lanes = T::LANES;
        let least = T::Vector::<S>::splat(token, bar);
        for (vector, logits) in x.chunks(lanes).enumerate() {
            if logits.len() == lanes && !T::Vector::<S>::any(least.less(T::Vector::<S>::load(token, logits))) {
                continue;
            }
            for (lane, logit) in logits.iter().enumerate() {
                #[allow(clippy::cast_possible_truncation, reason = "at most a chunk")]
                {
                    hits[count] = (vector * lanes + lane) as u16;
                }
                count += usize::from(*logit > bar);
            }
        }
        for at in &hits[..count] {
            let at = usize::from(*at);
            // The bar may have risen meanwhile.
            if self.bar.is_none_or(|bar| x[at] > bar) {
                self.push(Entry::new(x[at], first + at));
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
    if k > PARTS * lanes || x.len() < 2 * PARTS * lanes {
        return None;
    }
    let lowest = T::Vector::<S>::splat(token, T::NEG_INFINITY);
    let mut max = [lowest; PARTS];
    for group in x.chunks_exact(PARTS * lanes) {
        for (i, max) in max.iter_mut().enumerate() {
            *max = T::Vector::<S>::load(token, &group[i * lanes..(i + 1) * lanes]).max(*max);
        }
    }
    let (parts, count) = if k <= lanes / 2 {
        max[0] = max[0].max(max[1]).max(max[2].max(max[3]));
        (1, lanes)
    } else {
        (PARTS, PARTS * lanes)
    };
    let mut ranks = [0; PARTS * 16];
    for (i, max) in max[..parts].iter().enumerate() {
        for (rank_of, max) in ranks[i * lanes..].iter_mut().zip(max.to_array().as_ref()) {
            *rank_of = rank(max.to_f64());
        }
    }
    let (_, part, _) = ranks[..count].select_nth_unstable(k - 1);
    below(T::from_f64(logit_of(*part)))
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
