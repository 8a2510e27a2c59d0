//! Results on their way out, in whole lines: past the cache, or what was kept through it.
//!
//! Rows that follow each other in memory are one stream of lines. A line that two rows share waits for the second of them
//! and is written once: in two parts it would be read from memory first, and all later stores would wait for that.

pub(crate) mod overlap;

use std::ops::Range;

use super::Temperature;
use super::ahead::Ahead;
use super::column::LANES;
use super::exp::Mode;
use super::fold::room;
use super::kept::Kept;
use super::real::Real;
use super::row::{self, Inputs, KeptTerms, Results, Store};
use crate::simd::{Kernel, Line, Simd, Vector};

/// Rows that follow each other in memory, as they are read and as they are written.
pub(crate) struct Stream<'a, T> {
    x: &'a [T],
    out: &'a mut [T],
    /// The elements that are written: up to where the next row begins, or to its line's beginning.
    written: usize,
    /// The results between these two.
    line: Line<[T; LANES]>,
    store: Store,
}

impl<'a, T: Real> Stream<'a, T> {
    /// Nothing written yet.
    pub(crate) fn new(x: &'a [T], out: &'a mut [T], store: Store) -> Self {
        assert!(x.len() == out.len());
        Self { x, out, written: 0, line: Line::new([T::ZERO; LANES]), store }
    }

    /// A row's logits, and the place of its results.
    pub(crate) fn row(&mut self, elements: Range<usize>) -> (&[T], &mut [T]) {
        (&self.x[elements.clone()], &mut self.out[elements])
    }

    /// Writes the line that waits together with the first results of the row that begins with element `start`: `ours` has
    /// them at the places that they have in the line.
    #[inline(always)]
    fn complete<S: Simd, const PAST: bool>(&mut self, token: S, start: usize, ours: T::Vector<S>) {
        let theirs = T::Vector::<S>::load(token, self.line.numbers());
        let line = T::Vector::<S>::select(T::Vector::<S>::first_lanes(token, start - self.written), theirs, ours);
        let (head, lines, _) = T::Vector::<S>::lines(self.out);
        put::<_, PAST>(line, &mut lines[(self.written - head.len()) / T::LANES]);
        self.written += T::LANES;
    }

    /// Writes the results that wait, without those that would complete their line.
    fn flush(&mut self, start: usize) {
        let count = start - self.written;
        self.out[self.written..start].copy_from_slice(&self.line.numbers()[..count]);
        self.written = start;
    }

    /// The elements from one on that are no whole line, of a row that begins with it, where no line waits.
    fn before_line<S: Simd>(&mut self, start: usize) -> usize {
        let head = T::Vector::<S>::lines(self.out).0.len();
        (head + T::LANES - start % T::LANES) % T::LANES
    }

    /// Whether the line of an element is left to the next row.
    fn waits(&self, at: usize) -> bool {
        at + T::LANES <= self.x.len()
    }
}

/// Writes a line: past the cache, or through it.
#[inline(always)]
fn put<V: Vector, const PAST: bool>(results: V, line: &mut Line<V::Array>) {
    if PAST {
        results.stream(line);
    } else {
        results.store(line.numbers().as_mut());
    }
}

/// What the results of a row are computed from.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a, T, R> {
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) results: &'a R,
}

/// Writes one row that is a stream of its own, past the cache. For `kept` see [`WriteNext`].
#[inline(always)]
pub(crate) fn write<S: Simd, T: Real, R: Results<T>>(
    token: S,
    x: &[T],
    out: &mut [T],
    kept: Kept<'_, T>,
    row: Row<'_, T, R>,
    ahead: Ahead,
) {
    let (len, Row { temperature, results }) = (x.len(), row);
    let stream = &mut Stream::new(x, out, Store::Streaming);
    let results = std::slice::from_ref(results);
    token.call(WriteRows { stream, start: 0, len, kept, temperature, results, ahead });
}

/// The stream's next rows, one for each of the `results`, of at least `LANES` elements unless there is but one.
pub(crate) struct WriteRows<'r, 'a, T, R> {
    pub(crate) stream: &'r mut Stream<'a, T>,
    /// The place of the first row in the stream.
    pub(crate) start: usize,
    /// The elements of each.
    pub(crate) len: usize,
    /// What the fold kept of them, each row's in a [`room`] of its own, or nothing.
    pub(crate) kept: Kept<'r, T>,
    pub(crate) temperature: &'r Temperature<T>,
    pub(crate) results: &'r [R],
    /// What is asked for meanwhile, from the first element on.
    pub(crate) ahead: Ahead,
}

impl<T: Real, R: Results<T>> Kernel for WriteRows<'_, '_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { stream, start, len, kept, temperature, results, ahead } = self;
        for (index, results) in results.iter().enumerate() {
            let elements = start + index * len..start + (index + 1) * len;
            let kept = kept.from(index * room::<T>(len));
            let (row, ahead) = (Row { temperature, results }, ahead.from(index * len));
            WriteNext { stream: &mut *stream, elements, kept, row, ahead }.write(token);
        }
    }
}

/// The stream's next row.
pub(crate) struct WriteNext<'r, 'a, T, R> {
    pub(crate) stream: &'r mut Stream<'a, T>,
    /// The row's place in the stream.
    pub(crate) elements: Range<usize>,
    /// What the fold kept of the row, or nothing.
    pub(crate) kept: Kept<'r, T>,
    pub(crate) row: Row<'r, T, R>,
    /// What is asked for meanwhile, from the row's first element on.
    pub(crate) ahead: Ahead,
}

impl<T: Real, R: Results<T>> WriteNext<'_, '_, T, R> {
    #[inline(always)]
    fn write<S: Simd>(mut self, token: S) {
        let Row { temperature, results } = self.row;
        if results.is_undefined() {
            self.stream.flush(self.elements.start);
            self.stream.written = self.elements.end;
            self.stream.out[self.elements].fill(T::NAN);
        } else if S::COMPACT || self.stream.store == Store::Cached {
            // (The compact level has no stores past the cache.)
            self.stream.flush(self.elements.start);
            self.write_some(token, self.elements.clone());
        } else if results.mode(temperature).at::<S>() == Mode::General {
            self.write_past::<S, { Mode::General as u8 }>(token);
        } else {
            self.write_past::<S, { Mode::Clamped as u8 }>(token);
        }
    }

    /// Writes elements of the row that are no whole line.
    #[inline(always)]
    fn write_some<S: Simd>(&mut self, token: S, some: Range<usize>) {
        let kept = self.kept.from(some.start - self.elements.start);
        let (x, out) = self.stream.row(some.clone());
        let Row { temperature, results } = self.row;
        token.call(row::Write { inputs: Inputs { x, kept }, out, temperature, results });
        self.stream.written = some.end;
    }

    /// Writes up to where the row's first whole line begins, where no line waits for it.
    #[inline(always)]
    fn write_head<S: Simd>(&mut self, token: S) {
        let start = self.elements.start;
        let before = self.stream.before_line::<S>(start);
        if before > 0 {
            self.write_some(token, start..self.elements.end.min(start + before));
        }
    }

    /// Where the row's whole lines begin that are left, and how many elements they have.
    #[inline(always)]
    fn left(&self) -> (usize, usize) {
        let at = self.stream.written;
        (at, (self.elements.end - at) / T::LANES * T::LANES)
    }

    /// The row past the cache.
    #[inline(always)]
    fn write_past<S: Simd, const MODE: u8>(mut self, token: S) {
        let map = self.row.results.map(token, self.row.temperature);
        if row::has_p::<S, T, R>(&self.kept) {
            self.begin::<S, MODE, true, true>(token, &map);
            self.finish::<S, MODE, true, true>(token, &map);
        } else {
            self.begin::<S, MODE, false, true>(token, &map);
            self.finish::<S, MODE, false, true>(token, &map);
        }
    }

    /// Writes up to where the row's first whole line begins, with what is left of the row before.
    #[inline(always)]
    fn begin<S: Simd, const MODE: u8, const KEPT: bool, const PAST: bool>(&mut self, token: S, map: &R::Map<S>) {
        let (start, at) = (self.elements.start, self.stream.written);
        if at == start {
            self.write_head(token);
            return;
        }
        let x = T::Vector::<S>::load(token, &self.stream.x[at..]);
        let p = if KEPT { T::Vector::<S>::load(token, self.kept.p_before(start - at)) } else { x };
        self.stream.complete::<S, PAST>(token, start, row::apply::<_, _, MODE, KEPT>(map, x, p));
    }

    /// Writes the row's whole lines that are left, and its end if nothing follows that would complete the line.
    #[inline(always)]
    fn finish<S: Simd, const MODE: u8, const KEPT: bool, const PAST: bool>(&mut self, token: S, map: &R::Map<S>) {
        let (at, whole) = self.left();
        let (lanes, start) = (T::LANES, self.elements.start);
        let kept = self.kept.from(at - start);
        let ahead = self.ahead.from(at - start);
        let Stream { x, out, .. } = &mut *self.stream;
        let (head, lines, _) = T::Vector::<S>::lines(out);
        let lines = &mut lines[(at.max(head.len()) - head.len()) / lanes..];
        let first = lines.as_ptr().addr();
        let x_lines = &x[at..at + whole];
        let vectors = lines.iter_mut().zip((if KEPT { kept.p(whole) } else { x_lines }).chunks_exact(lanes));
        if PAST && MODE < Mode::General as u8 && overlap::trails(&x[at..], first) {
            // Each line's logits are loaded before the line ahead of it is stored.
            let last = x.len() - lanes;
            let mut ready = T::Vector::<S>::load(token, &x[at..]);
            for (index, (line, kept)) in vectors.enumerate() {
                token.prefetch_near(x_lines, ahead.index(index * lanes));
                let logits = ready;
                ready = T::Vector::<S>::load(token, &x[(at + (index + 1) * lanes).min(last)..]);
                let p = T::Vector::<S>::load(token, kept);
                put::<_, PAST>(row::apply::<_, _, MODE, KEPT>(map, logits, p), line);
            }
        } else {
            for (index, ((line, kept), x)) in vectors.zip(x_lines.chunks_exact(lanes)).enumerate() {
                token.prefetch_near(x_lines, ahead.index(index * lanes));
                let (x, p) = (T::Vector::<S>::load(token, x), T::Vector::<S>::load(token, kept));
                put::<_, PAST>(row::apply::<_, _, MODE, KEPT>(map, x, p), line);
            }
        }
        let at = at + whole;
        self.stream.written = at;
        if at < self.elements.end && self.stream.waits(at) {
            let x = T::Vector::<S>::load(token, &self.stream.x[at..]);
            let p = if KEPT { T::Vector::<S>::load(token, kept.from(whole).p_before(0)) } else { x };
            row::apply::<_, _, MODE, KEPT>(map, x, p).store(self.stream.line.numbers());
        } else if at < self.elements.end {
            self.write_some(token, at..self.elements.end);
        }
    }

    /// [`WriteNext::begin`] from terms that were kept.
    #[inline(always)]
    fn begin_kept<S: Simd, const PAST: bool>(&mut self, token: S, map: &KeptTerms<T::Vector<S>>) {
        let (start, at) = (self.elements.start, self.stream.written);
        if at == start {
            self.write_head(token);
            return;
        }
        let (_, share) = map.of(&self.kept);
        let (p, s) = self.kept.terms_before(start - at);
        let ours = share.of(T::Vector::<S>::load(token, p), T::Vector::<S>::load(token, s));
        self.stream.complete::<S, PAST>(token, start, ours);
    }

    /// [`WriteNext::finish`] from terms that were kept.
    #[inline(always)]
    fn finish_kept<S: Simd, const PAST: bool>(&mut self, token: S, map: &KeptTerms<T::Vector<S>>) {
        let (at, whole) = self.left();
        let lanes = T::LANES;
        let mut kept = self.kept.from(at - self.elements.start);
        let (head, lines, _) = T::Vector::<S>::lines(self.stream.out);
        let lines = &mut lines[(at.max(head.len()) - head.len()) / lanes..][..whole / lanes];
        let mut done = 0;
        while done < whole {
            let (count, share) = map.of(&kept);
            let count = count.min(whole - done) / lanes * lanes;
            let (p, s) = kept.terms(count);
            let lines = &mut lines[done / lanes..][..count / lanes];
            for ((p, s), line) in p.chunks_exact(lanes).zip(s.chunks_exact(lanes)).zip(lines) {
                let results = share.of(T::Vector::<S>::load(token, p), T::Vector::<S>::load(token, s));
                put::<_, PAST>(results, line);
            }
            kept = kept.from(count);
            done += count;
        }
        let at = at + whole;
        self.stream.written = at;
        if at < self.elements.end && self.stream.waits(at) {
            let (p, s) = kept.terms_before(0);
            let (_, share) = map.of(&kept);
            share.of(T::Vector::<S>::load(token, p), T::Vector::<S>::load(token, s)).store(self.stream.line.numbers());
        } else if at < self.elements.end {
            self.write_some(token, at..self.elements.end);
        }
    }
}

#[cfg(test)]
mod tests;
