//! Results on their way past the cache, in whole lines.
//!
//! Rows that follow each other in memory are one stream of lines. A line that two rows share is computed for both,
//! blended, and written once: in two parts it would be read from memory first, and all later stores would wait for
//! that.

pub(crate) mod overlap;

use std::ops::Range;

use super::Temperature;
use super::ahead::Ahead;
use super::exp::Mode;
use super::real::Real;
use super::row::{self, Inputs, Map, Results};
use crate::simd::{Kernel, Simd, Vector};

/// Rows that follow each other in memory, as they are read and as they are written.
pub(crate) struct Stream<'a, T> {
    x: &'a [T],
    out: &'a mut [T],
    /// The elements that are written: up to where the next row begins, or to its line's beginning.
    written: usize,
}

impl<'a, T: Real> Stream<'a, T> {
    /// Nothing written yet.
    pub(crate) fn new(x: &'a [T], out: &'a mut [T]) -> Self {
        assert!(x.len() == out.len());
        Self { x, out, written: 0 }
    }

    /// A row's logits, and the place of its results.
    pub(crate) fn row(&mut self, elements: Range<usize>) -> (&[T], &mut [T]) {
        (&self.x[elements.clone()], &mut self.out[elements])
    }
}

/// What the results of a row are computed from.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a, T, R> {
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) results: &'a R,
}

impl<T: Real, R: Results<T>> Row<'_, T, R> {
    #[inline(always)]
    fn map<S: Simd>(&self, token: S) -> R::Map<S> {
        self.results.map(token, self.temperature)
    }

    /// Writes elements that are no whole line.
    #[inline(always)]
    fn write_some<S: Simd>(&self, token: S, inputs: Inputs<'_, T>, out: &mut [T]) {
        let (temperature, results) = (self.temperature, self.results);
        token.call(row::Write { inputs, out, temperature, results });
    }
}

/// Writes one row that is a stream of its own. For `kept` see [`WriteNext`].
#[inline(always)]
pub(crate) fn write<S: Simd, T: Real, R: Results<T>>(
    token: S,
    x: &[T],
    out: &mut [T],
    kept: &[T],
    row: Row<'_, T, R>,
    ahead: Ahead,
) {
    let elements = 0..x.len();
    let stream = &mut Stream::new(x, out);
    token.call(WriteNext { stream, elements, kept, row, before: None, ahead });
}

/// The stream's next row, of at least `LANES` elements unless it is the only one.
pub(crate) struct WriteNext<'r, 'a, T, R> {
    pub(crate) stream: &'r mut Stream<'a, T>,
    /// The row's place in the stream.
    pub(crate) elements: Range<usize>,
    /// What the fold kept of the row, or nothing.
    pub(crate) kept: &'r [T],
    pub(crate) row: Row<'r, T, R>,
    /// The row before, where there is one.
    pub(crate) before: Option<Row<'r, T, R>>,
    /// What is asked for meanwhile, from the row's first element on.
    pub(crate) ahead: Ahead,
}

impl<T: Real, R: Results<T>> Kernel for WriteNext<'_, '_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        if S::COMPACT {
            // This level has no stores past the cache.
            let (x, out) = self.stream.row(self.elements);
            self.row.write_some(token, Inputs { x, kept: &[] }, out);
        } else if self.kept.is_empty() {
            self.write::<S, false>(token);
        } else {
            self.write::<S, true>(token);
        }
    }
}

impl<T: Real, R: Results<T>> WriteNext<'_, '_, T, R> {
    #[inline(always)]
    fn write<S: Simd, const KEPT: bool>(mut self, token: S) {
        let mode = self.mode();
        if self.row.results.is_undefined() || mode.at::<S>() == Mode::General {
            self.write_in_mode::<S, KEPT, { Mode::General as u8 }>(token);
        } else {
            self.write_in_mode::<S, KEPT, { Mode::Clamped as u8 }>(token);
        }
    }

    /// What the row needs, and the row before if its end is still to be written. (Only then does it matter.)
    #[inline(always)]
    fn mode(&mut self) -> Mode {
        let begun = self.stream.written < self.elements.start;
        self.before = self.before.filter(|_| begun);
        self.before.map_or(Mode::Clamped, |row| row.results.mode()).max(self.row.results.mode())
    }

    #[inline(always)]
    fn write_in_mode<S: Simd, const KEPT: bool, const MODE: u8>(mut self, token: S) {
        if self.row.results.is_undefined() {
            let Stream { x, out, written } = self.stream;
            if let Some(before) = self.before {
                let some = *written..self.elements.start;
                before.write_some(token, Inputs { x: &x[some.clone()], kept: &[] }, &mut out[some]);
            }
            *written = self.elements.end;
            out[self.elements].fill(T::NAN);
            return;
        }
        let map = self.row.map(token);
        self.begin::<S, KEPT, MODE>(token, &map);
        self.finish::<S, KEPT, MODE>(token, &map);
    }

    /// Writes up to where the row's first whole line begins, with what is left of the row before.
    #[inline(always)]
    fn begin<S: Simd, const KEPT: bool, const MODE: u8>(&mut self, token: S, map: &R::Map<S>) {
        let (start, end, lanes) = (self.elements.start, self.elements.end, T::LANES);
        let head = T::Vector::<S>::lines(self.stream.out).0.len();
        let past = (start + lanes - head) % lanes;
        if let Some(before) = self.before {
            let at = self.stream.written;
            // What was kept of the row before is gone; p is the same when it is computed again.
            let vector = T::Vector::<S>::load(token, &self.stream.x[at..]);
            let theirs = before.map(token).apply::<MODE, false>(vector, vector);
            let ours = map.apply::<MODE, false>(vector, vector);
            let line = T::Vector::<S>::select(T::Vector::<S>::first_lanes(token, start - at), theirs, ours);
            line.stream(&mut T::Vector::<S>::lines(self.stream.out).1[(at - head) / lanes]);
            self.stream.written += lanes;
        } else if past != 0 {
            let some = start..end.min(start + lanes - past);
            let x = self.stream.x;
            let kept = if KEPT { &self.kept[..some.len()] } else { &[] };
            let inputs = Inputs { x: &x[some.clone()], kept };
            self.row.write_some(token, inputs, &mut self.stream.out[some.clone()]);
            self.stream.written = some.end;
        }
    }

    /// Writes the row's whole lines that are left, and its end if nothing follows that would complete the line.
    #[inline(always)]
    fn finish<S: Simd, const KEPT: bool, const MODE: u8>(self, token: S, map: &R::Map<S>) {
        let (start, end, lanes) = (self.elements.start, self.elements.end, T::LANES);
        let Stream { x, out, written } = self.stream;
        let kept_from = |at: usize| if KEPT { &self.kept[at - start..] } else { &x[at..] };
        let at = *written;
        let whole = (end - at) / lanes * lanes;
        let head = T::Vector::<S>::lines(out).0.len();
        let lines = &mut T::Vector::<S>::lines(out).1[(at.max(head) - head) / lanes..];
        let first = lines.as_ptr().addr();
        let (x_lines, kept_lines) = (&x[at..at + whole], &kept_from(at)[..whole]);
        let ahead = self.ahead.from(at - start);
        let vectors = lines.iter_mut().zip(kept_lines.chunks_exact(lanes));
        if MODE < Mode::General as u8 && overlap::trails(&x[at..], first) {
            // Each line's logits are loaded before the line ahead of it is stored.
            let last = x.len() - lanes;
            let mut ready = T::Vector::<S>::load(token, &x[at..]);
            for (index, (line, kept)) in vectors.enumerate() {
                token.prefetch_near(x_lines, ahead.index(index * lanes));
                let logits = ready;
                ready = T::Vector::<S>::load(token, &x[(at + (index + 1) * lanes).min(last)..]);
                map.apply::<MODE, KEPT>(logits, T::Vector::<S>::load(token, kept)).stream(line);
            }
        } else {
            for (index, ((line, kept), x)) in vectors.zip(x_lines.chunks_exact(lanes)).enumerate() {
                token.prefetch_near(x_lines, ahead.index(index * lanes));
                let p = T::Vector::<S>::load(token, kept);
                map.apply::<MODE, KEPT>(T::Vector::<S>::load(token, x), p).stream(line);
            }
        }
        let at = at + whole;
        *written = at;
        // The next row completes the line, if it reaches as far.
        if at < end && at + lanes > x.len() {
            let kept = if KEPT { kept_from(at) } else { &[] };
            self.row.write_some(token, Inputs { x: &x[at..end], kept }, &mut out[at..end]);
            *written = end;
        }
    }
}

#[cfg(test)]
mod tests;
