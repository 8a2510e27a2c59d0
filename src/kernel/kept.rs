//! What the first read keeps of a row's logits for the second: p of each, or p and s.
//!
//! With p alone, the second read looks at the logits again to know s; with both it does not, and is three operations and
//! two loads. But what is kept must be stored, in the way of the results: both are kept only where one row is folded while
//! the one before is written ([`super::stream::overlap`]).
//!
//! The s of a chunk carry the power of two of the chunk's own shift, so that of each chunk is kept, too. (A row of one chunk
//! has the row's.)
//!
//! ```text
//! p   slack | element 0, 1, 2, ... | slack          for vectors that reach over a row's ends
//! s   slack | element 0, 1, 2, ... | slack | k of chunk 0, 1, ...
//! ```

use std::ops::Range;

use super::fold::{self, CHUNK};
use super::real::Real;

/// Nothing is kept.
pub(crate) const NOTHING: u8 = 0;
/// p is kept.
pub(crate) const P: u8 = 1;
/// p and s are kept.
pub(crate) const TERMS: u8 = 2;

/// The low bits of an address by which a processor compares loads with the stores before them: so many bytes.
pub(crate) const PAGE: usize = 4096;

/// Elements of working memory for p of some rows; as much is for s and k.
///
/// Each such part begins a quarter of a page after the one before it, whole pages aside: of two rows, of which one is read
/// while the other is kept, no load follows a store at a short distance ([`super::stream::overlap`]).
const fn part<T: Real>(len: usize, rows: usize) -> usize {
    let (size, quarter) = (size_of::<T>(), PAGE / 4);
    let bytes = (elements::<T>(len, rows) + 2 * T::LANES + chunks(len)) * size;
    (bytes.saturating_sub(quarter).next_multiple_of(PAGE) + quarter) / size
}

/// The elements of so many rows, of which each begins with a vector.
const fn elements<T: Real>(len: usize, rows: usize) -> usize {
    if rows == 1 { len } else { fold::room::<T>(len) * rows }
}

/// The chunks of which k is kept.
const fn chunks(len: usize) -> usize {
    if len > CHUNK { len.div_ceil(CHUNK) } else { 0 }
}

/// Elements of working memory for what is kept ([`P`] or [`TERMS`]) of so many rows.
pub(crate) const fn room<T: Real>(what: u8, len: usize, rows: usize) -> usize {
    what as usize * part::<T>(len, rows)
}

/// Where p, and s and k, are put. Those that are empty are not kept.
pub(crate) struct Keep<'a, T> {
    pub(crate) p: &'a mut [T],
    pub(crate) s: &'a mut [T],
    k: &'a mut [T],
}

impl<'a, T: Real> Keep<'a, T> {
    /// Nothing is kept.
    #[inline(always)]
    pub(crate) fn nothing() -> Self {
        Self { p: &mut [], s: &mut [], k: &mut [] }
    }

    /// p of so many rows, in working memory with [`room`]; or nothing, where that is empty.
    #[inline(always)]
    pub(crate) fn within(memory: &'a mut [T], len: usize, rows: usize) -> Self {
        let count = if memory.is_empty() { 0 } else { elements::<T>(len, rows) };
        let first = T::LANES.min(memory.len());
        Self { p: &mut memory[first..][..count], ..Self::nothing() }
    }

    /// [`P`] or [`TERMS`] of a row.
    #[inline(always)]
    pub(crate) fn of_row(what: u8, memory: &'a mut [T], len: usize) -> Self {
        if what == TERMS { Self::terms_within(memory, len) } else { Self::within(memory, len, 1) }
    }

    /// p and s of a row.
    #[inline(always)]
    fn terms_within(memory: &'a mut [T], len: usize) -> Self {
        let (p, s) = memory.split_at_mut(part::<T>(len, 1));
        let (s, k) = s.split_at_mut(len + 2 * T::LANES);
        let places = T::LANES..len + T::LANES;
        Self { p: &mut p[places.clone()], s: &mut s[places], k: &mut k[..chunks(len)] }
    }

    #[inline(always)]
    pub(crate) fn is_nothing(&self) -> bool {
        self.p.is_empty()
    }

    /// The same, once more.
    #[inline(always)]
    pub(crate) fn again(&mut self) -> Keep<'_, T> {
        Keep { p: &mut *self.p, s: &mut *self.s, k: &mut *self.k }
    }

    /// p alone.
    #[inline(always)]
    pub(crate) fn p_alone(&mut self) -> Keep<'_, T> {
        Keep { p: &mut *self.p, ..Keep::nothing() }
    }

    /// For some of the elements, of which the first begins a chunk or a row.
    #[inline(always)]
    pub(crate) fn some(&mut self, elements: Range<usize>) -> Keep<'_, T> {
        if self.is_nothing() {
            return Keep::nothing();
        }
        let s = if self.s.is_empty() { 0..0 } else { elements.clone() };
        let k = if self.k.is_empty() { 0..0 } else { elements.start / CHUNK..elements.end.div_ceil(CHUNK) };
        Keep { p: &mut self.p[elements], s: &mut self.s[s], k: &mut self.k[k] }
    }

    /// Keeps the k of the chunk that begins with an element.
    #[inline(always)]
    pub(crate) fn shift(&mut self, start: usize, k: f64) {
        if let Some(kept) = self.k.get_mut(start / CHUNK) {
            *kept = T::from_f64(k);
        }
    }
}

/// What was kept of a row, from an element of it on; or nothing.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a, T> {
    p: &'a [T],
    s: &'a [T],
    k: &'a [T],
    /// Where the element is in `p` and in `s`.
    at: usize,
    /// Its place in the row.
    place: usize,
}

impl<'a, T: Real> Kept<'a, T> {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { p: &[], s: &[], k: &[], at: 0, place: 0 };

    /// As [`Keep::within`].
    #[inline(always)]
    pub(crate) fn within(memory: &'a [T], len: usize, rows: usize) -> Self {
        let count = if memory.is_empty() { 0 } else { elements::<T>(len, rows) + 2 * T::LANES };
        Self { p: &memory[..count], at: T::LANES, ..Self::NOTHING }
    }

    /// As [`Keep::of_row`].
    #[inline(always)]
    pub(crate) fn of_row(what: u8, memory: &'a [T], len: usize) -> Self {
        if what == TERMS { Self::terms_within(memory, len) } else { Self::within(memory, len, 1) }
    }

    /// As [`Keep::terms_within`].
    #[inline(always)]
    fn terms_within(memory: &'a [T], len: usize) -> Self {
        let (p, s) = memory.split_at(part::<T>(len, 1));
        let (s, k) = s.split_at(len + 2 * T::LANES);
        Self { p: &p[..s.len()], s, k: &k[..chunks(len)], at: T::LANES, place: 0 }
    }

    #[inline(always)]
    pub(crate) fn is_nothing(&self) -> bool {
        self.p.is_empty()
    }

    /// From so many elements further on.
    #[inline(always)]
    pub(crate) fn from(self, elements: usize) -> Self {
        Self { at: self.at + elements, place: self.place + elements, ..self }
    }

    /// p of so many elements.
    #[inline(always)]
    pub(crate) fn p(&self, count: usize) -> &'a [T] {
        &self.p[self.at..][..count]
    }

    /// p of a vector that begins so many elements earlier, fewer than a vector has.
    #[inline(always)]
    pub(crate) fn p_before(&self, count: usize) -> &'a [T] {
        &self.p[self.at - count..]
    }

    /// p and s of so many elements.
    #[inline(always)]
    pub(crate) fn terms(&self, count: usize) -> (&'a [T], &'a [T]) {
        (self.p(count), &self.s[self.at..][..count])
    }

    /// p and s of a vector that begins so many elements earlier, fewer than a vector has.
    #[inline(always)]
    pub(crate) fn terms_before(&self, count: usize) -> (&'a [T], &'a [T]) {
        (self.p_before(count), &self.s[self.at - count..])
    }

    /// The elements from this one on that have its shift.
    #[inline(always)]
    pub(crate) fn alike(&self) -> usize {
        if self.k.is_empty() { usize::MAX } else { CHUNK - self.place % CHUNK }
    }

    /// The k of the shift of the element that is so many further on; the row's, where there is but one.
    #[inline(always)]
    pub(crate) fn shift(&self, elements: usize, row: f64) -> f64 {
        self.k.get((self.place + elements) / CHUNK).map_or(row, |k| k.to_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_a_quarter_of_a_page_apart() {
        for len in [1, 16, 1000, 1024, 1025, 1536, 2049, 4096, 32_000, 128 * 1024] {
            assert_eq!(part::<f32>(len, 1) * size_of::<f32>() % PAGE, PAGE / 4, "{len}");
            assert_eq!(part::<f64>(len, 1) * size_of::<f64>() % PAGE, PAGE / 4, "{len}");
        }
    }

    #[test]
    fn terms_and_shifts_are_those_of_the_element() {
        let len = 2 * CHUNK + 7;
        let memory = &mut vec![0.0f32; room::<f32>(TERMS, len, 1)];
        let mut keep = Keep::terms_within(memory, len);
        for (p, s) in keep.p.iter_mut().zip(keep.s.iter_mut()) {
            (*p, *s) = (1.0, 2.0);
        }
        for (chunk, k) in [3.0, -4.0, 5.0].into_iter().enumerate() {
            keep.shift(chunk * CHUNK, k);
        }
        let mut some = keep.some(CHUNK..len);
        some.shift(0, -6.0);
        some.p[0] = 7.0;
        let kept = Kept::terms_within(memory, len);
        for (element, k, alike) in [(0, 3.0, CHUNK), (CHUNK - 1, 3.0, 1), (CHUNK, -6.0, CHUNK), (len - 1, 5.0, 1018)] {
            let from = kept.from(element);
            assert_eq!((kept.shift(element, 9.0), from.shift(0, 9.0), from.alike()), (k, k, alike), "{element}");
            let p = if element == CHUNK { 7.0 } else { 1.0 };
            assert_eq!((from.terms(1).0[0], from.terms(1).1[0]), (p, 2.0), "{element}");
        }
        assert_eq!((&kept.terms_before(1).0[..2], &kept.terms_before(1).1[..2]), (&[0.0, 1.0][..], &[0.0, 2.0][..]));
        assert_eq!(kept.from(len).p_before(0)[..1], [0.0]);
    }

    #[test]
    fn p_of_short_rows_begins_with_a_vector() {
        let memory = &mut vec![0.0f32; room::<f32>(P, 100, 16)];
        Keep::within(memory, 100, 16).some(3 * 112..3 * 112 + 100).p.fill(1.0);
        let kept = Kept::within(memory, 100, 16);
        assert_eq!(kept.from(3 * 112).p(100), [1.0; 100]);
        assert_eq!(
            (&kept.from(3 * 112).p_before(1)[..2], kept.from(3 * 112 + 100).p(1)),
            (&[0.0, 1.0][..], &[0.0][..])
        );
        // A row of one chunk has no shift but its own.
        let memory = &mut vec![0.0f32; room::<f32>(TERMS, 100, 1)];
        let kept = Kept::terms_within(memory, 100);
        assert_eq!((kept.shift(50, 9.0), kept.alike()), (9.0, usize::MAX));
        assert!(Kept::<f32>::within(&[], 100, 1).is_nothing() && Keep::<f32>::within(&mut [], 100, 1).is_nothing());
    }
}
