//! Rows one after another.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Call, Function, Interrupt, Temperatures, for_each_part, keeps_none};
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::exp::Shift;
use crate::kernel::fold::{self, BLOCK, Fold};
use crate::kernel::row::{self, Inputs, Results, Store};
use crate::memory::{Compute, Cut, Part, Source, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Elements of short rows that are folded before the first of them is written: the sums at the end of a row take
/// longer than a short row itself, and those of several rows overlap.
const GROUP: usize = 4096;
/// The most rows of a group.
const GROUP_ROWS: usize = 32;

/// The longest row whose results are gathered with its neighbours' before they are streamed.
const STAGED: usize = 1024;

/// The longest row of which p is kept for the second read: it must stay in the second cache, with the row itself.
/// Longer ones compute it again.
pub(super) const KEPT: usize = 40_000;

/// Elements that are asked for ahead of the sum, in the same row.
pub(super) const AHEAD: usize = 2048;

pub(super) fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let store = call.store(out.array().dtype);
    let cut = Cut { rows: call.rows_per_task(), elements: usize::MAX };
    for_each_part(call, out, cut, interrupt, &|part| {
        let len = call.plan.len;
        let lent = mask.is_none() && part.lends::<C>() && (call.in_place || source.lends::<C>());
        // Lines that two short rows share would be written twice, once past the cache and once through it.
        let staged = lent && store == Store::Streaming && len <= STAGED && part.is_dense::<C>();
        let room = if lent { 0 } else { len.min(BLOCK) };
        dispatch(
            call.level,
            Rows::<F, C> {
                reader: Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len },
                in_place: call.in_place,
                lent,
                store,
                part,
                scratch: scratch(room)?,
                staging: scratch(if staged { GROUP } else { 0 })?,
                kept: scratch(if F::KEEPS && len <= KEPT { len.max(GROUP) } else { 0 })?,
                function: PhantomData,
            },
        );
        Ok(())
    })
}

/// What rows are read from.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a, C> {
    pub(super) source: &'a Source<'a>,
    pub(super) mask: Option<&'a Source<'a>>,
    pub(super) temperatures: &'a Temperatures<'a, C>,
    pub(super) len: usize,
}

impl<C: Compute> Reader<'_, C> {
    /// Copies elements of a row into working memory; places that the mask leaves out become minus infinity.
    pub(super) fn read(&self, row: usize, elements: Range<usize>, to: &mut [C]) {
        self.source.read(row, elements.start, to);
        if let Some(mask) = self.mask {
            mask.exclude(row, elements.start, to, C::NEG_INFINITY);
        }
    }

    /// Whether the row has no results because the mask keeps none of its places.
    pub(super) fn is_vacant(&self, row: usize, fold: &Fold<C>) -> bool {
        fold.extent.max == C::NEG_INFINITY && !fold.nan && keeps_none(self.mask, row, self.len)
    }

    /// Puts the result for excluded places into a row that is otherwise NaN. (Elsewhere they have it already, as the
    /// result of minus infinity.)
    pub(super) fn exclude_of_undefined<F: Function>(&self, row: usize, start: usize, data: &mut [C], undefined: bool) {
        if let Some(mask) = self.mask.filter(|_| undefined) {
            mask.exclude(row, start, data, C::from_f64(F::EXCLUDED));
        }
    }

    /// The fold of a row by way of `scratch`, which has room for a block. For `kept` see [`fold::fold`].
    #[inline(always)]
    pub(super) fn fold<S: Simd>(
        &self,
        token: S,
        row: usize,
        temperature: &Temperature<C>,
        scratch: &mut [C],
        kept: &mut [C],
    ) -> Fold<C> {
        let mut fixed = None;
        loop {
            let mut fold = Fold::empty(fixed.map_or(C::ZERO, |shift: Shift<C>| shift.base));
            for block in self.blocks() {
                let data = &mut scratch[..block.len()];
                let kept = if kept.is_empty() { &mut [] } else { &mut kept[block.clone()] };
                self.read(row, block, data);
                fold = fold.with(fold::fold(token, data, kept, temperature, fixed, 0));
            }
            if fixed.is_some() {
                return fold;
            }
            match fold.retry(temperature) {
                None => return fold,
                retry => fixed = retry,
            }
        }
    }

    /// The fold of a row without the logits that equal `max`.
    pub(super) fn rest<S: Simd>(&self, token: S, row: usize, temperature: &Temperature<C>, max: C) -> Fold<C> {
        fold::fold_without(token, self.len, temperature, max, &mut |start, to| {
            self.read(row, start..start + to.len(), to);
        })
    }

    /// The blocks of a row.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let len = self.len;
        (0..len).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(len))
    }
}

/// The rows of a task.
struct Rows<'a, F, C> {
    reader: Reader<'a, C>,
    in_place: bool,
    /// Whether rows are used where they lie, both those that are read and those that are written.
    lent: bool,
    store: Store,
    part: Part<'a>,
    /// Room for a block, where rows are not lent.
    scratch: Vec<C>,
    /// Room for the results of a group that are to be streamed together, or nothing.
    staging: Vec<C>,
    /// Room for what the folds of a group keep, or nothing.
    kept: Vec<C>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Rows<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let group = (GROUP / self.reader.len).clamp(1, GROUP_ROWS);
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let rows = first..(first + group).min(self.part.rows.end);
            first = rows.end;
            if self.lent && !self.in_place {
                self.lent(token, rows);
                continue;
            }
            // A loop, not a closure: closures are not sure to be inlined, and only what is has the level's features.
            for row in rows {
                if self.lent {
                    self.in_place(token, row);
                } else {
                    self.copied(token, row);
                }
            }
        }
        token.fence();
    }
}

impl<F: Function, C: Compute> Rows<'_, F, C> {
    /// A group of rows that are read and written where they lie.
    #[inline(always)]
    fn lent<S: Simd>(&mut self, token: S, rows: Range<usize>) {
        let reader = self.reader;
        let whole = 0..reader.len;
        let keeps = if self.kept.is_empty() { 0 } else { reader.len };
        let mut folded = [None; GROUP_ROWS];
        for (index, row) in rows.clone().enumerate() {
            let temperature = reader.temperatures.of(row);
            let x = reader.source.row::<C>(row, whole.clone());
            let kept = &mut self.kept[index * keeps..][..keeps];
            let fold = fold::fold_row(token, x, kept, &temperature, AHEAD);
            let rest = |max| reader.rest(token, row, &temperature, max);
            folded[index] = Some((temperature, F::row(token, &fold, &temperature, &rest)));
        }
        let (end, dense) = (rows.end, rows.clone());
        for (index, row) in rows.enumerate() {
            let Some((temperature, folded)) = &folded[index] else {
                break;
            };
            let next = if end < self.part.rows.end { end + index } else { row };
            let inputs = Inputs {
                x: reader.source.row(row, whole.clone()),
                kept: &self.kept[index * keeps..][..keeps],
                next: reader.source.row(next.min(self.part.rows.end - 1), whole.clone()),
            };
            if self.staging.is_empty() {
                let out = self.part.row(row, whole.clone());
                token.call(row::Write { inputs, out, temperature, results: folded, store: self.store });
            } else {
                let staged = &mut self.staging[index * reader.len..][..reader.len];
                token.call(row::Write { inputs, out: staged, temperature, results: folded, store: Store::Cached });
            }
        }
        if !self.staging.is_empty() {
            let out = self.part.rows_dense(dense.start, dense.len(), whole);
            row::copy_streaming(token, &self.staging[..out.len()], out);
        }
    }

    /// A row that gives way to its own results.
    #[inline(always)]
    fn in_place<S: Simd>(&mut self, token: S, row: usize) {
        let temperature = self.reader.temperatures.of(row);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        let keeps = if self.kept.is_empty() { 0 } else { self.reader.len };
        let kept = &mut self.kept[..keeps];
        let fold = fold::fold_row(token, data, kept, &temperature, AHEAD);
        let rest = |max| self.reader.rest(token, row, &temperature, max);
        let folded = F::row(token, &fold, &temperature, &rest);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        token.call(row::WriteInPlace { data, kept, temperature: &temperature, results: &folded });
    }

    /// A row by way of working memory, block by block; twice, unless one block holds it all.
    #[inline(always)]
    fn copied<S: Simd>(&mut self, token: S, row: usize) {
        let reader = self.reader;
        let temperature = reader.temperatures.of(row);
        let keeps = if self.kept.is_empty() { 0 } else { reader.len };
        let fold = reader.fold(token, row, &temperature, &mut self.scratch, &mut self.kept[..keeps]);
        let vacant = reader.is_vacant(row, &fold);
        let rest = |max| reader.rest(token, row, &temperature, max);
        let folded = F::row(token, &fold, &temperature, &rest);
        for block in reader.blocks() {
            let data = &mut self.scratch[..block.len()];
            if reader.len > BLOCK {
                reader.read(row, block.clone(), data);
            }
            if vacant {
                data.fill(C::from_f64(F::EXCLUDED));
            } else {
                let kept = &self.kept[..keeps];
                token.call(row::WriteInPlace { data, kept, temperature: &temperature, results: &folded });
                reader.exclude_of_undefined::<F>(row, block.start, data, folded.is_undefined());
            }
            self.part.write(row, block.start, data);
        }
    }
}
