//! One row is folded while the one before it is written.
//!
//! Folding a row keeps the processor busy and memory half idle; writing it, the other way round. So a step here does
//! both: one vector of the next row is added up, one line of this row is written. This is for quotients, of rows of
//! more than one chunk. Of shorter ones, two at a time take more of the first cache than this gains.
//!
//! A processor compares the addresses of a load and of stores on their way by the low twelve bits first. A load that
//! has them in common with a store of a few lines ago waits until that has reached memory, which made rows of 4,096
//! logits half as slow again. So where the next row's logits would follow this row's results at such a distance, the
//! fold gets a [`LEAD`].

use std::ops::Range;

use super::{Stream, WriteNext};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::{Exp, Mode};
use crate::kernel::fold::{BLOCK, CHUNK, Fold, Partial, add_terms, fold_row, larger, largest};
use crate::kernel::real::Real;
use crate::kernel::row::{Map, Results};
use crate::kernel::sum::{Sum, center, halve, total};
use crate::simd::{Kernel, LINE, Simd, Vector};

/// A row is written, and the next of the stream is folded.
pub(crate) struct FoldAndWrite<'r, 'a, T: Real, R> {
    /// The row that is written, of which p was kept.
    pub(crate) write: WriteNext<'r, 'a, T, R>,
    /// The place of the next row in the stream.
    pub(crate) next: Range<usize>,
    /// Room for what its fold keeps.
    pub(crate) keep: &'r mut [T],
    /// Its temperature.
    pub(crate) temperature: &'r Temperature<T>,
}

/// The low bits of an address that loads and stores are compared by: so many bytes.
const PAGE: usize = 4096;

/// Loads that follow stores (modulo [`PAGE`]) by at most so many bytes wait for them, and so do those that share a line.
const TRAIL: usize = 512;

/// By so many bytes the fold is ahead of the results where its loads would wait.
const LEAD: usize = 1024;

/// Room between what two rows keep, so that what is read of the one is not where the other's is stored.
pub(crate) fn apart<T: Real>(len: usize) -> usize {
    (len * size_of::<T>() + PAGE / 2).next_multiple_of(PAGE) / size_of::<T>() - PAGE / 2 / size_of::<T>()
}

/// Whether the loads of `x`, one line after another, would each wait for the store of the line before, the first of which
/// is at an address: they overlap it, but for the page.
#[inline(always)]
pub(super) fn trails<T>(x: &[T], line: usize) -> bool {
    size_of_val(x) >= LINE && (PAGE - LINE..PAGE).contains(&(x.as_ptr().addr().wrapping_sub(line) % PAGE))
}

/// Rows that need more are written and folded one after the other.
const MODE: u8 = Mode::Clamped as u8;

impl<T: Real, R: Results<T>> Kernel for FoldAndWrite<'_, '_, T, R> {
    type Output = Fold<T>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Fold<T> {
        let x = &self.write.stream.x[self.next.clone()];
        let fits = self.temperature.is_one() && !self.write.row.results.is_undefined();
        let Stream { x: all, out, written } = &*self.write.stream;
        let trails = trails(&all[*written..], out[*written..].as_ptr().addr());
        if S::COMPACT || !fits || trails || self.write.mode() > Mode::Clamped {
            token.call(self.write);
            return fold_row::<S, T>(token, x, self.keep, self.temperature, Ahead::ONCE);
        }
        let map = self.write.row.map(token);
        self.write.begin::<S, true, MODE>(token, &map);
        // In the order of `fold_row`: chunks make blocks, and blocks make the row.
        let (mut row, mut block) = (Fold::empty(T::ZERO), Fold::empty(T::ZERO));
        let mut is_whole = true;
        let mut max = largest::<S, T>(token, &x[..x.len().min(CHUNK)]);
        for start in (0..x.len()).step_by(CHUNK) {
            let Some((chunk, found)) = self.chunk::<S>(token, &map, start..x.len().min(start + CHUNK), max) else {
                is_whole = false;
                break;
            };
            max = found;
            block = block.with(chunk);
            if (start + CHUNK).is_multiple_of(BLOCK) || start + CHUNK >= x.len() {
                row = row.with(block);
                block = Fold::empty(T::ZERO);
            }
        }
        self.write.finish::<S, true, MODE>(token, &map);
        if is_whole { row } else { fold_row::<S, T>(token, x, self.keep, self.temperature, Ahead::ONCE) }
    }
}

impl<T: Real, R: Results<T>> FoldAndWrite<'_, '_, T, R> {
    /// The logits of the next row that are folded before the first line of this one is written.
    fn lead(x: &[T], out: &[T]) -> usize {
        let after = x.as_ptr().addr().wrapping_sub(out.as_ptr().addr()) % PAGE;
        if (LINE..=PAGE - TRAIL).contains(&after) { 0 } else { LEAD / size_of::<T>() }
    }

    /// The fold of a chunk of the next row, of which the maximum is known, and the maximum of the chunk after it, beside as
    /// many lines of this row; `None` where it needs a base.
    #[inline(always)]
    fn chunk<S: Simd>(&mut self, token: S, map: &R::Map<S>, chunk: Range<usize>, max: T) -> Option<(Fold<T>, T)> {
        let Self { write, next, keep, temperature } = self;
        let Stream { x: all, out, written } = &mut *write.stream;
        let (at, size) = (*written, T::LANES);
        let begins = chunk.start == 0;
        let after = &all[next.clone()][chunk.end..];
        let after = &after[..after.len().min(chunk.len())];
        let (x, keep) = (&all[next.clone()][chunk.clone()], &mut keep[chunk]);
        // (What is no whole chunk is searched by itself, below.)
        let searched = if after.len() == x.len() { after } else { x };
        let shift = temperature.shift_within(max, None)?;
        let exp = Exp::<T::Vector<S>>::new(token, temperature, shift);
        let mut sum = Sum::new(token, center::<_, MODE>(token, &exp, max));

        let lead = if begins { Self::lead(x, &out[at..]).min(x.len()) } else { 0 };
        let (x_lead, x) = x.split_at(lead);
        let (keep_lead, keep) = keep.split_at_mut(lead);
        let ahead = Ahead::ONCE;
        add_terms::<S, T, true, MODE>(token, &mut sum, x_lead, keep_lead, &exp, ahead);

        let both = (x.len() / size).min((write.elements.end - at) / size) * size;
        let (head, lines, _) = T::Vector::<S>::lines(out);
        let lines = lines[(at.max(head.len()) - head.len()) / size..].iter_mut();
        let ready = all[at..at + both].chunks_exact(size);
        let kept = write.kept[at - write.elements.start..][..both].chunks_exact(size);
        let (x, x_rest) = x.split_at(both);
        let (keep, keep_rest) = keep.split_at_mut(both);
        let folded = x.chunks_exact(size).zip(keep.chunks_exact_mut(size));
        let (searched, searched_rest) = searched.split_at(both);
        let mut found = T::Vector::<S>::splat(token, T::NEG_INFINITY);
        let steps = folded.zip(lines).zip(ready).zip(kept).zip(searched.chunks_exact(size));
        for (((((x, keep), line), ready), kept), searched) in steps {
            token.prefetch(x, Ahead::ONCE.index(0));
            found = T::Vector::<S>::load(token, searched).max(found);
            let (p, s) = exp.term::<MODE>(T::Vector::<S>::load(token, x));
            sum.add(p, s);
            p.store(keep);
            let p = T::Vector::<S>::load(token, kept);
            map.apply::<MODE, true>(T::Vector::<S>::load(token, ready), p).stream(line);
        }
        *written += both;
        add_terms::<S, T, true, MODE>(token, &mut sum, x_rest, keep_rest, &exp, ahead);

        let sum = total::<S, T>(token, sum);
        let nan = T::double(sum).high.is_nan();
        let found = if after.len() == searched.len() + searched_rest.len() {
            larger(halve(found.to_array(), larger), largest::<S, T>(token, searched_rest))
        } else {
            largest::<S, T>(token, after)
        };
        Some((Fold { max, nan, partial: Partial { k: shift.k, sum }, ..Fold::empty(T::ZERO) }, found))
    }
}
