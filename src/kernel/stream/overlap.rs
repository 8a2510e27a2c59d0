//! One row is folded while the one before it is written.
//!
//! Folding a row keeps the processor busy and memory half idle; writing it, the other way round. So a step here does
//! both, and more that does not depend on each other: one vector of the next row is added up, one line of this row is
//! written, and one vector of what follows is searched for the maximum that will be needed then.
//!
//! ```text
//! row i - 1   written from the p and s that were kept
//! row i       added up, p and s kept           its maximum was found one row, or one chunk, earlier
//! row i + 1   searched for its maximum         (or the next chunk of row i)
//! ```
//!
//! A processor compares the addresses of a load and of stores on their way by the low twelve bits first. A load that
//! is a line or two behind a store by these waits until that has reached memory. So where the next row's logits would
//! follow this row's results at such a distance, the fold gets a [`LEAD`].

use std::ops::Range;

use super::{Row, Stream, WriteNext, WriteRows, put};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::{Exp, Mode};
use crate::kernel::fold::{BLOCK, CHUNK, Fold, Partial, add_terms, fold_row, larger, largest};
use crate::kernel::kept::{Keep, NOTHING, P, PAGE, TERMS};
use crate::kernel::real::Real;
use crate::kernel::row::{KeptTerms, Map, Origin, Results, Store};
use crate::kernel::sum::{Sum, center, halve, total};
use crate::simd::{Kernel, LINE, Line, Simd, Vector};

/// A row is written, and the next of the stream is folded.
pub(crate) struct FoldAndWrite<'r, 'a, T: Real, R> {
    /// The row that is written; none, if it has no elements.
    pub(crate) write: WriteNext<'r, 'a, T, R>,
    /// Whether s was kept of it, or p alone.
    pub(crate) has_terms: bool,
    /// The place of the next row in the stream.
    pub(crate) next: Range<usize>,
    /// The maximum of its first chunk.
    pub(crate) max: T,
    /// Room for what its fold keeps: [`keeps`].
    pub(crate) keep: Keep<'r, T>,
    /// Its temperature.
    pub(crate) temperature: &'r Temperature<T>,
}

/// What comes of it.
pub(crate) struct Folded<T: Real> {
    /// Of the next row.
    pub(crate) fold: Fold<T>,
    /// Whether s was kept of it, or p alone.
    pub(crate) has_terms: bool,
    /// The maximum of the first chunk after it, or of as many logits as it has.
    pub(crate) max: T,
}

/// Of longer rows past the cache only p is kept: two of them take so much of the second cache, and the way to it. With
/// the logits, which are there anyway, s is known again by few operations.
const LONG: usize = 16 * 1024;

/// What is kept of rows that overlap.
pub(crate) fn keeps<T: Real, R: Results<T>>(len: usize, store: Store) -> u8 {
    match store {
        _ if !R::KEEPS => NOTHING,
        Store::Streaming if len > LONG => P,
        _ => TERMS,
    }
}

/// By how many bytes loads are behind stores (modulo [`PAGE`]) that wait for them: less than this.
const TRAIL: usize = 3 * LINE;

/// By so many bytes the fold is ahead of the results where its loads would wait.
const LEAD: usize = 4 * LINE;

/// By how many lines results that go through the cache are asked for before they are written: each write waits for those
/// before it, and what they are written to may be far away.
const AHEAD_OF_RESULTS: usize = 32;

/// Whether the loads of `x`, one line after another, would each wait for the store of the line before, the first of which
/// is at an address: they overlap it, but for the page.
#[inline(always)]
pub(super) fn trails<T>(x: &[T], line: usize) -> bool {
    size_of_val(x) >= LINE && (PAGE - LINE..PAGE).contains(&(x.as_ptr().addr().wrapping_sub(line) % PAGE))
}

/// The maximum of the first chunk of the row of `len` logits that begins with an element, if there is such a row.
#[inline(always)]
pub(crate) fn largest_of_next<S: Simd, T: Real>(token: S, x: &[T], start: usize, len: usize) -> T {
    largest::<S, T>(token, first_chunk(x, start, len))
}

#[inline(always)]
fn first_chunk<T>(x: &[T], start: usize, len: usize) -> &[T] {
    &x[start..x.len().min(start + len.min(CHUNK))]
}

/// Rows that need more are written and folded one after the other.
const MODE: u8 = Mode::Clamped as u8;

impl<T: Real, R: Results<T>> Kernel for FoldAndWrite<'_, '_, T, R> {
    type Output = Folded<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Folded<T> {
        let store = self.write.stream.store;
        // (Whether anything is kept is known to the compiler, so that there is no code for what cannot be.)
        match (store, keeps::<T, R>(self.next.len(), store)) {
            _ if S::COMPACT => self.one_by_one(token),
            (Store::Cached, _) if !R::KEEPS => self.fold::<S, false, NOTHING>(token),
            (Store::Streaming, _) if !R::KEEPS => self.fold::<S, true, NOTHING>(token),
            (Store::Cached, _) => self.fold::<S, false, TERMS>(token),
            (Store::Streaming, TERMS) => self.fold::<S, true, TERMS>(token),
            (Store::Streaming, _) => self.fold::<S, true, P>(token),
        }
    }
}

impl<T: Real, R: Results<T>> FoldAndWrite<'_, '_, T, R> {
    #[inline(always)]
    fn fold<S: Simd, const PAST: bool, const KEEP: u8>(mut self, token: S) -> Folded<T> {
        let len = self.next.len();
        if !self.temperature.is_one() {
            return self.one_by_one(token);
        }
        if !self.overlaps::<KEEP>() {
            self.write_alone(token);
        }
        let Row { temperature, results } = self.write.row;
        let origin = if KEEP == TERMS {
            Origin::Terms(results.kept::<S>(token))
        } else {
            Origin::Logits(results.map(token, temperature))
        };
        let writes = !self.write.elements.is_empty();
        match &origin {
            _ if !writes => {}
            Origin::Terms(terms) => self.write.begin_kept::<S, PAST>(token, terms),
            Origin::Logits(map) if KEEP == P => self.write.begin::<S, MODE, true, PAST>(token, map),
            Origin::Logits(map) => self.write.begin::<S, MODE, false, PAST>(token, map),
        }
        // In the order of `fold_row`: chunks make blocks, and blocks make the row.
        let (mut fold, mut block) = (Fold::empty(T::ZERO), Fold::empty(T::ZERO));
        let mut is_whole = true;
        for start in (0..len).step_by(CHUNK) {
            let chunk = start..len.min(start + CHUNK);
            let Some((chunk, found)) = self.chunk::<S, PAST, KEEP>(token, &origin, chunk) else {
                is_whole = false;
                break;
            };
            self.max = found;
            block = block.with(chunk);
            if (start + CHUNK).is_multiple_of(BLOCK) || start + CHUNK >= len {
                fold = fold.with(block);
                block = Fold::empty(T::ZERO);
            }
        }
        match &origin {
            _ if !writes => {}
            Origin::Terms(terms) => self.write.finish_kept::<S, PAST>(token, terms),
            Origin::Logits(map) if KEEP == P => self.write.finish::<S, MODE, true, PAST>(token, map),
            Origin::Logits(map) => self.write.finish::<S, MODE, false, PAST>(token, map),
        }
        if is_whole { Folded { fold, has_terms: KEEP == TERMS, max: self.max } } else { self.fold_alone(token) }
    }

    /// For rows that need more, and for the compact level.
    #[inline(always)]
    fn one_by_one<S: Simd>(mut self, token: S) -> Folded<T> {
        self.write_alone(token);
        self.fold_alone(token)
    }

    /// Whether the row that is written can be, beside a fold.
    #[inline(always)]
    fn overlaps<const KEEP: u8>(&self) -> bool {
        let (WriteNext { stream, row, .. }, at) = (&self.write, self.write.stream.written);
        let kept = if KEEP == TERMS {
            self.has_terms
        } else {
            // (These are written from their logits, too.)
            row.results.mode(row.temperature) == Mode::Clamped
                && !trails(&stream.x[at..], stream.out[at..].as_ptr().addr())
        };
        kept && !row.results.is_undefined()
    }

    /// Writes the row, so that none is left to be written.
    #[inline(always)]
    fn write_alone<S: Simd>(&mut self, token: S) {
        let WriteNext { stream, elements, kept, row: Row { temperature, results }, ahead } = &mut self.write;
        let (stream, start, len) = (&mut **stream, elements.start, elements.len());
        if len > 0 {
            let (kept, ahead, results) = (*kept, *ahead, std::slice::from_ref(*results));
            token.call(WriteRows { stream, start, len, kept, temperature, results, ahead });
        }
        self.write.elements.start = self.write.elements.end;
    }

    /// Folds the next row by itself.
    #[inline(always)]
    fn fold_alone<S: Simd>(mut self, token: S) -> Folded<T> {
        let x = &self.write.stream.x[self.next.clone()];
        // (With p alone.)
        let keep = self.keep.p_alone();
        let fold = fold_row::<S, T>(token, x, keep, self.temperature, Ahead::ONCE);
        let max = largest_of_next::<S, T>(token, self.write.stream.x, self.next.end, self.next.len());
        Folded { fold, has_terms: false, max }
    }

    /// The logits of the next row that are folded before the first line of this one is written.
    fn lead(x: &[T], out: &[T]) -> usize {
        let after = x.as_ptr().addr().wrapping_sub(out.as_ptr().addr()) % PAGE;
        if after > PAGE - TRAIL { LEAD / size_of::<T>() } else { 0 }
    }

    /// The fold of a chunk of the next row, of which the maximum is known, and the maximum of the chunk after it, beside as
    /// many lines of this row; `None` where it needs a base.
    #[inline(always)]
    fn chunk<S: Simd, const PAST: bool, const KEEP: u8>(
        &mut self,
        token: S,
        origin: &Origin<KeptTerms<T::Vector<S>>, R::Map<S>>,
        chunk: Range<usize>,
    ) -> Option<(Fold<T>, T)> {
        let Self { write, next, max, keep, temperature, .. } = self;
        let (at, size, max) = (write.stream.written, T::LANES, *max);
        let Stream { x: all, out, .. } = &mut *write.stream;
        let row = &all[next.clone()];
        let after = match chunk.end {
            end if end < row.len() => &row[end..row.len().min(end + CHUNK)],
            _ => first_chunk(all, next.end, row.len()),
        };
        let begins = chunk.start == 0;
        let (x, mut keep) = (&row[chunk.clone()], keep.some(chunk));
        let shift = temperature.shift_within(max, None)?;
        keep.shift(0, shift.k);
        let exp = Exp::<T::Vector<S>>::new(token, temperature, shift);
        let mut sum = Sum::new(token, center::<_, MODE>(token, &exp, max));

        let lead = if begins { Self::lead(x, &out[at..]).min(x.len()) } else { 0 };
        let ahead = if PAST { Ahead::ONCE } else { Ahead::SHORT };
        add_terms::<S, T, KEEP, MODE>(token, &mut sum, &x[..lead], keep.some(0..lead), &exp, ahead);

        let both = ((x.len() - lead) / size).min((write.elements.end - at) / size) * size;
        let rest = lead + both..x.len();
        // (What has fewer elements is searched by itself, below.)
        let in_step = after.len() >= both;
        let searched = &(if in_step { after } else { x })[..both];
        let (head, lines, _) = T::Vector::<S>::lines(out);
        let lines = &mut lines[(at.max(head.len()) - head.len()) / size..][..both / size];
        let x_both = &x[lead..rest.start];
        let mut kept = write.kept.from(at.saturating_sub(write.elements.start));
        let mut step = Step { exp: &exp, sum: &mut sum, found: T::Vector::<S>::splat(token, T::NEG_INFINITY), ahead };
        match origin {
            Origin::Terms(terms) => {
                let mut done = 0;
                while done < both {
                    let (count, share) = terms.of(&kept);
                    let some = done..done + count.min(both - done) / size * size;
                    let (p, s) = kept.terms(some.len());
                    let kept_terms = p.chunks_exact(size).zip(s.chunks_exact(size));
                    let places = some.start + lead..some.end + lead;
                    let (p, s) = (&mut keep.p[places.clone()], &mut keep.s[places]);
                    let keeps = p.chunks_exact_mut(size).zip(s.chunks_exact_mut(size));
                    let loads = x_both[some.clone()].chunks_exact(size).zip(searched[some.clone()].chunks_exact(size));
                    let lines = &mut lines[some.start / size..some.end / size];
                    for ((loads, (keep_p, keep_s)), ((kept_p, kept_s), line)) in
                        loads.zip(keeps).zip(kept_terms.zip(lines))
                    {
                        let (p, s) = step.take::<PAST>(token, loads, line);
                        p.store(keep_p);
                        s.store(keep_s);
                        let (p, s) = (T::Vector::<S>::load(token, kept_p), T::Vector::<S>::load(token, kept_s));
                        put::<_, PAST>(share.of(p, s), line);
                    }
                    kept = kept.from(some.len());
                    done = some.end;
                }
            }
            Origin::Logits(map) if KEEP == P => {
                let loads = x_both.chunks_exact(size).zip(searched.chunks_exact(size));
                let written = all[at..at + both].chunks_exact(size).zip(kept.p(both).chunks_exact(size));
                let keeps = keep.p[lead..rest.start].chunks_exact_mut(size);
                for ((loads, keep), ((x, kept), line)) in loads.zip(keeps).zip(written.zip(lines)) {
                    step.take::<PAST>(token, loads, line).0.store(keep);
                    let (x, p) = (T::Vector::<S>::load(token, x), T::Vector::<S>::load(token, kept));
                    put::<_, PAST>(map.with_p::<MODE>(x, p), line);
                }
            }
            Origin::Logits(map) => {
                let loads = x_both.chunks_exact(size).zip(searched.chunks_exact(size));
                for (loads, (x, line)) in loads.zip(all[at..at + both].chunks_exact(size).zip(lines)) {
                    step.take::<PAST>(token, loads, line);
                    put::<_, PAST>(map.apply::<MODE>(T::Vector::<S>::load(token, x)), line);
                }
            }
        }
        let found = step.found;
        write.stream.written += both;
        add_terms::<S, T, KEEP, MODE>(token, &mut sum, &x[rest.clone()], keep.some(rest), &exp, ahead);

        let sum = total::<S, T>(token, sum);
        let nan = T::double(sum).high.is_nan();
        let left = largest::<S, T>(token, &after[if in_step { both } else { 0 }..]);
        let found = if in_step { larger(halve(found.to_array(), larger), left) } else { left };
        Some((Fold { max, nan, partial: Partial { k: shift.k, sum }, ..Fold::empty(T::ZERO) }, found))
    }
}

/// What a step does with the rows that are folded and searched.
struct Step<'a, V: Vector> {
    exp: &'a Exp<V>,
    sum: &'a mut Sum<V>,
    found: V,
    ahead: Ahead,
}

impl<V: Vector> Step<'_, V> {
    /// Adds up the first of two vectors of logits and searches the second; `line` is written next. Returns p and s.
    #[inline(always)]
    fn take<const PAST: bool>(
        &mut self,
        token: V::Token,
        (x, searched): (&[V::Scalar], &[V::Scalar]),
        line: &Line<V::Array>,
    ) -> (V, V) {
        if PAST {
            token.prefetch(x, self.ahead.index(0));
        } else {
            token.prefetch_near(x, self.ahead.index(0));
            token.prefetch_near(std::slice::from_ref(line), AHEAD_OF_RESULTS);
        }
        self.found = V::load(token, searched).max(self.found);
        let (about, p, s) = self.exp.term_about::<MODE>(V::load(token, x), self.sum.minus_center());
        self.sum.add(about, s);
        (*self.sum, self.found) = (self.sum.carried(), self.found.carried());
        (p, s)
    }
}
