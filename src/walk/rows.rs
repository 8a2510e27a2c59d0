//! Rows one after another.

use std::marker::PhantomData;
use std::ops::{Range, RangeInclusive};

use super::{Call, Function, Interrupt, Temperatures, for_each_part, keeps_none};
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::column::{Folds, LANES};
use crate::kernel::exp::Shift;
use crate::kernel::fold::room;
use crate::kernel::fold::{self, BLOCK, CHUNK, Fold, Precision};
use crate::kernel::log_row::{self, LogSum};
use crate::kernel::pieces::FoldRows;
use crate::kernel::row::{self, Inputs, Results, Store};
use crate::kernel::stream::overlap::{FoldAndWrite, apart};
use crate::kernel::stream::{self, Stream};
use crate::memory::{Compute, Cut, Part, Scratch, Source, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Elements of short rows that are folded before the first of them is written: what is done once for each row takes
/// longer than a short row itself, but several rows' overlap. All of it must stay in the first cache.
const GROUP: usize = 2200;

/// The rows that are folded together: more than one only where they are short.
fn group<C: Compute>(len: usize) -> usize {
    if len > GROUP / 3 { 1 } else { (GROUP / len).min(C::LANES) }
}

/// The longest row of which p is kept for the second read, where results go through the cache: with row and results it
/// is still in the second cache when it is read again. For longer ones, to compute it again is faster.
const KEPT: usize = 40 * 1024;
/// The same where results go past the cache, and rows do not overlap. Streaming stores wait while p is on its way to the
/// second cache; only what the first one holds is worth it.
const KEPT_OF_STREAMED: usize = 4096;
// So that what a row keeps need not be cut into blocks where the row is copied block by block.
const _: () = assert!(KEPT <= BLOCK);

/// The rows that are folded while the one before is written: those of more than one chunk, as long as threads keep the
/// working memory for two.
const OVERLAPPED: RangeInclusive<usize> = CHUNK + 1..=128 * 1024;

/// The longest row of which p is kept.
#[inline(always)]
pub(super) fn most_kept(store: Store) -> usize {
    if store == Store::Streaming { KEPT_OF_STREAMED } else { KEPT }
}

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
        let manner = match (part.lends::<C>(), mask.is_none(), source.lends::<C>()) {
            (true, true, _) if call.in_place => Manner::InPlace,
            (true, true, true) if source.is_dense::<C>() && part.is_dense::<C>() => Manner::Dense,
            (true, true, true) => Manner::Lent,
            (true, ..) if !call.in_place => Manner::CopiedIn,
            _ => Manner::Copied,
        };
        let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len };
        let group = if manner == Manner::Dense && temperatures.is_one_for_all() { group::<C>(len) } else { 1 };
        let overlaps =
            Rows::<F, C>::OVERLAP && manner == Manner::Dense && store == Store::Streaming && OVERLAPPED.contains(&len);
        let keeps = match F::KEEPS {
            true if overlaps => apart::<C>(len) + len,
            true if len <= most_kept(store) => room::<C>(len) * group,
            _ => 0,
        };
        let copied = matches!(manner, Manner::CopiedIn | Manner::Copied);
        let copied = if copied { len.min(reader.piece(keeps > 0)) } else { 0 };
        dispatch(
            call.level,
            Rows::<F, C> {
                reader,
                manner,
                store,
                part,
                scratch: scratch(copied)?,
                group,
                overlaps,
                kept: scratch(keeps)?,
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
        self.exclude(row, elements.start, to);
    }

    /// [`Reader::read`] for many elements.
    #[inline(always)]
    pub(super) fn copy<S: Simd>(&self, token: S, row: usize, elements: Range<usize>, to: &mut [C]) {
        self.copy_ahead(token, row, elements, to, 2 * CHUNK);
    }

    /// [`Reader::copy`]; what lies so many elements `ahead` is asked for.
    #[inline(always)]
    fn copy_ahead<S: Simd>(&self, token: S, row: usize, elements: Range<usize>, to: &mut [C], ahead: usize) {
        token.call(Copy { source: self.source, row, start: elements.start, to, ahead });
        self.exclude(row, elements.start, to);
    }

    /// The elements that are copied at a time. Half precision is converted in the first cache, twice, rather than written
    /// to the second as float32; but not where p is written there, too.
    fn piece(&self, keeps: bool) -> usize {
        if !keeps && self.mask.is_none() && self.source.is_half() { CHUNK } else { BLOCK }
    }

    /// One element of a row; minus infinity where the mask leaves it out.
    pub(super) fn one(&self, row: usize, place: usize) -> C {
        if self.mask.is_none() && self.source.lends::<C>() {
            return self.source.row(row, place..place + 1)[0];
        }
        let mut x = [C::ZERO];
        self.read(row, place..place + 1, &mut x);
        x[0]
    }

    fn exclude(&self, row: usize, start: usize, to: &mut [C]) {
        if let Some(mask) = self.mask {
            mask.exclude(row, start, to, C::NEG_INFINITY);
        }
    }

    /// Whether the row has no results because the mask keeps none of its places.
    pub(super) fn is_vacant(&self, row: usize, fold: &Fold<C>) -> bool {
        fold.max == C::NEG_INFINITY && !fold.nan && keeps_none(self.mask, row, self.len)
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
    pub(super) fn fold<S: Simd, P: Precision>(
        self,
        token: S,
        row: usize,
        temperature: &Temperature<C>,
        scratch: &mut [C],
        kept: &mut [C],
    ) -> Fold<C> {
        token.call(FoldCopied::<C, C::Sum<P>> { reader: self, row, temperature, scratch, kept, precision: PhantomData })
    }

    /// The fold of a row without the logits that equal `max`.
    pub(super) fn rest<S: Simd>(&self, token: S, row: usize, temperature: &Temperature<C>, max: C) -> Fold<C> {
        log_row::fold_without(token, self.len, temperature, max, &mut |start, to| {
            self.copy(token, row, start..start + to.len(), to);
        })
    }

    /// What the results of a row have in common. (Not inlined, for all but short rows that are lent.)
    #[inline(always)]
    pub(super) fn complete<F: Function, S: Simd>(
        self,
        token: S,
        row: usize,
        fold: &Fold<C>,
        temperature: &Temperature<C>,
    ) -> F::Row<C> {
        token.call(Complete::<F, C> { reader: self, row, fold, temperature, function: PhantomData })
    }

    #[inline(always)]
    fn results<F: Function, S: Simd>(
        &self,
        token: S,
        row: usize,
        fold: &Fold<C>,
        temperature: &Temperature<C>,
    ) -> F::Row<C> {
        F::row(token, fold, temperature, &|max| self.rest(token, row, temperature, max))
    }

    /// The sums of some rows from `first` on, whose folds these are. (Not inlined: one for all functions.)
    #[inline(always)]
    pub(super) fn log_sums<S: Simd>(
        self,
        token: S,
        first: usize,
        folds: &Folds<C>,
        sums: &mut [LogSum<C>; LANES],
        lanes: usize,
    ) {
        token.call(LogSums { reader: self, first, folds, sums, lanes });
    }

    /// The blocks of a row.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let len = self.len;
        (0..len).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(len))
    }
}

/// The arguments of [`Reader::complete`].
pub(super) struct Complete<'r, 'a, F, C: Compute> {
    pub(super) reader: Reader<'a, C>,
    pub(super) row: usize,
    pub(super) fold: &'r Fold<C>,
    pub(super) temperature: &'r Temperature<C>,
    pub(super) function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Complete<'_, '_, F, C> {
    type Output = F::Row<C>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> F::Row<C> {
        self.reader.results::<F, S>(token, self.row, self.fold, self.temperature)
    }
}

/// The arguments of [`Reader::log_sums`].
struct LogSums<'r, 'a, C: Compute> {
    reader: Reader<'a, C>,
    first: usize,
    folds: &'r Folds<C>,
    sums: &'r mut [LogSum<C>; LANES],
    lanes: usize,
}

impl<C: Compute> Kernel for LogSums<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { reader, first, folds, sums, lanes } = self;
        if folds.alike && LogSum::each(token, &reader.temperatures.of(first), folds, sums) {
            return;
        }
        for (lane, sum) in sums.iter_mut().enumerate().take(lanes) {
            let (row, temperature) = (first + lane, reader.temperatures.of(first + lane));
            let rest = |max| reader.rest(token, row, &temperature, max);
            *sum = LogSum::new(token, &folds.get(lane), &temperature, &rest);
        }
    }
}

/// The arguments of [`Reader::copy`].
struct Copy<'r, 'a, C> {
    source: &'r Source<'a>,
    row: usize,
    start: usize,
    to: &'r mut [C],
    ahead: usize,
}

impl<C: Compute> Kernel for Copy<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        if !self.source.read_halves(token, self.row, self.start, self.to, self.ahead) {
            self.source.read(self.row, self.start, self.to);
        }
    }
}

/// Copies elements of a row from working memory to where they belong.
pub(super) struct WriteCopied<'r, 'a, C> {
    pub(super) part: &'r mut Part<'a>,
    pub(super) row: usize,
    pub(super) start: usize,
    pub(super) from: &'r [C],
}

impl<C: Compute> Kernel for WriteCopied<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        if !self.part.write_halves(token, self.row, self.start, self.from) {
            self.part.write(self.row, self.start, self.from);
        }
    }
}

/// The arguments of [`Reader::fold`].
struct FoldCopied<'r, 'a, C: Compute, P> {
    reader: Reader<'a, C>,
    row: usize,
    temperature: &'r Temperature<C>,
    scratch: &'r mut [C],
    kept: &'r mut [C],
    precision: PhantomData<P>,
}

impl<C: Compute, P: Precision> Kernel for FoldCopied<'_, '_, C, P> {
    type Output = Fold<C>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<C> {
        let Self { reader, row, temperature, scratch, kept, .. } = self;
        let mut fixed = None;
        loop {
            let mut fold = Fold::empty(fixed.map_or(C::ZERO, |shift: Shift<C>| shift.base));
            for block in reader.blocks() {
                // In the order of `fold_row`: chunks make blocks, and blocks make the row.
                let mut part = Fold::empty(fold.base);
                let step = reader.piece(!kept.is_empty());
                for start in block.clone().step_by(step) {
                    let piece = start..block.end.min(start + step);
                    let data = &mut scratch[..piece.len()];
                    let kept = if kept.is_empty() { &mut [] } else { &mut kept[piece.clone()] };
                    reader.copy(token, row, piece, data);
                    part = part.with(fold::fold::<S, C, P>(token, data, kept, temperature, fixed, Ahead::NONE));
                }
                fold = fold.with(part);
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
}

/// How the rows of a task are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Where they lie, which is one after another.
    Dense,
    /// Where they lie.
    Lent,
    /// Where they lie, results in the place of logits.
    InPlace,
    /// Logits by way of working memory, results where they lie.
    CopiedIn,
    /// Both by way of working memory.
    Copied,
}

/// The rows of a task.
struct Rows<'a, F, C: Compute> {
    reader: Reader<'a, C>,
    manner: Manner,
    store: Store,
    part: Part<'a>,
    /// Room for a block, where rows are copied.
    scratch: Scratch<C>,
    /// The rows that are folded together: the most, where they lie one after another and share a temperature.
    group: usize,
    /// Whether each row is folded while the one before is written.
    overlaps: bool,
    /// Room for what the folds of a group, or of two rows that overlap, keep; or nothing.
    kept: Scratch<C>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Rows<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let rows = self.part.rows.clone();
        if Self::OVERLAP && self.overlaps {
            self.overlapped(token, rows);
        } else if self.manner == Manner::Dense {
            self.lent(token, rows);
        } else {
            // A loop, not a closure: closures are not sure to be inlined, and only what is has the level's features.
            for row in rows {
                match self.manner {
                    Manner::Dense | Manner::Lent => self.lent(token, row..row + 1),
                    Manner::InPlace => self.in_place(token, row),
                    Manner::CopiedIn | Manner::Copied => self.copied(token, row),
                }
            }
        }
        token.fence();
    }
}

/// Rows that have been folded together.
#[derive(Clone, Copy)]
struct Group<C: Compute, R> {
    temperature: Temperature<C>,
    results: [R; LANES],
    /// Of the first so many.
    count: usize,
}

impl<C: Compute, R: Results<C>> Group<C, R> {
    #[inline(always)]
    fn row(&self, index: usize) -> stream::Row<'_, C, R> {
        stream::Row { temperature: &self.temperature, results: &self.results[index] }
    }

    /// The last row, if there is any.
    #[inline(always)]
    fn last(&self) -> Option<stream::Row<'_, C, R>> {
        self.count.checked_sub(1).map(|last| self.row(last))
    }
}

/// A row that has been folded.
struct Folded<C: Compute, F: Function> {
    temperature: Temperature<C>,
    results: F::Row<C>,
}

impl<C: Compute, F: Function> Folded<C, F> {
    #[inline(always)]
    fn row(&self) -> stream::Row<'_, C, F::Row<C>> {
        stream::Row { temperature: &self.temperature, results: &self.results }
    }
}

impl<F: Function, C: Compute> Rows<'_, F, C> {
    /// Whether there is code for rows that overlap. (Not for float64, where it would be 9 KB of the wheel.)
    const OVERLAP: bool = F::KEEPS && size_of::<C>() == size_of::<f32>();

    /// Rows that are read and written where they lie, one after another.
    #[inline(always)]
    fn lent<S: Simd>(&mut self, token: S, rows: Range<usize>) {
        let (reader, len) = (self.reader, self.reader.len);
        let x = reader.source.rows_dense::<C>(rows.start, rows.len());
        let out = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        let streaming = self.store == Store::Streaming;
        let mut stream = Stream::new(x, out);
        let mut folds = Folds::empty();
        let mut sums = [[0.0; LANES]; LANES];
        let temperature = reader.temperatures.of(rows.start);
        let nothing = [reader.complete::<F, S>(token, rows.start, &Fold::empty(C::ZERO), &temperature); LANES];
        let [group, before] = &mut [Group { temperature, results: nothing, count: 0 }; 2];
        let (mut group, mut before) = (group, before);
        for first in rows.clone().step_by(self.group) {
            let start = (first - rows.start) * len;
            group.count = self.group.min(rows.end - first);
            let elements = group.count * len;
            if !reader.temperatures.is_one_for_all() {
                group.temperature = reader.temperatures.of(first);
            }
            let (x, temperature) = (&x[start..start + elements], &group.temperature);
            let ahead = if streaming { Ahead::first(elements) } else { Ahead::ONCE };
            if group.count == 1 {
                let kept = if self.kept.is_empty() { &mut [] } else { &mut self.kept[..len] };
                let fold = fold::fold_row::<S, C, F::Sum>(token, x, kept, temperature, ahead);
                group.results[0] = reader.results::<F, S>(token, first, &fold, temperature);
            } else {
                let (kept, folds, sums) = (&mut *self.kept, &mut folds, &mut sums);
                let precision = PhantomData::<C::Sum<F::Sum>>;
                token.call(FoldRows { x, len, kept, temperature, ahead, folds, sums, precision });
                if !folds.alike || !F::Row::each(token, temperature, folds, &mut group.results) {
                    for index in 0..group.count {
                        let fold = folds.get(index);
                        group.results[index] = reader.results::<F, S>(token, first + index, &fold, temperature);
                    }
                }
            }
            for index in 0..group.count {
                let elements = start + index * len..start + (index + 1) * len;
                let kept = if self.kept.is_empty() { &[] } else { &self.kept[index * room::<C>(len)..][..len] };
                let row = group.row(index);
                if streaming {
                    let before = if index > 0 { Some(group.row(index - 1)) } else { before.last() };
                    let ahead = Ahead::second(group.count * len).from(index * len);
                    token.call(stream::WriteNext { stream: &mut stream, elements, kept, row, before, ahead });
                } else {
                    let (x, out) = stream.row(elements);
                    let inputs = Inputs { x, kept };
                    let stream::Row { temperature, results } = row;
                    token.call(row::Write { inputs, out, temperature, results });
                }
            }
            std::mem::swap(&mut group, &mut before);
        }
    }

    /// The same for long rows, each of which is folded while the one before is written.
    #[inline(always)]
    fn overlapped<S: Simd>(&mut self, token: S, rows: Range<usize>) {
        let (reader, len) = (self.reader, self.reader.len);
        let x = reader.source.rows_dense::<C>(rows.start, rows.len());
        let out = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        let stream = &mut Stream::new(x, out);
        let (kept, keep) = self.kept.split_at_mut(apart::<C>(len));
        let (mut kept, mut keep) = (&mut kept[..len], &mut keep[..len]);
        // The last two rows that were folded.
        let (mut before, mut last) = (None::<Folded<C, F>>, None::<Folded<C, F>>);
        for (index, row) in rows.clone().enumerate() {
            let temperature = reader.temperatures.of(row);
            let next = index * len..(index + 1) * len;
            let fold = if let Some(last) = &last {
                let (row, before) = (last.row(), before.as_ref().map(Folded::row));
                let elements = next.start - len..next.start;
                let write = stream::WriteNext { stream, elements, kept, row, before, ahead: Ahead::NONE };
                token.call(FoldAndWrite { write, next, keep, temperature: &temperature })
            } else {
                fold::fold_row::<S, C, F::Sum>(token, &x[next], keep, &temperature, Ahead::ONCE)
            };
            let results = reader.complete::<F, S>(token, row, &fold, &temperature);
            before = last.replace(Folded { temperature, results });
            std::mem::swap(&mut kept, &mut keep);
        }
        if let Some(last) = &last {
            let (row, before) = (last.row(), before.as_ref().map(Folded::row));
            let elements = x.len() - len..x.len();
            token.call(stream::WriteNext { stream, elements, kept, row, before, ahead: Ahead::NONE });
        }
    }

    /// A row that gives way to its own results.
    #[inline(always)]
    fn in_place<S: Simd>(&mut self, token: S, row: usize) {
        let temperature = self.reader.temperatures.of(row);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        let keeps = if self.kept.is_empty() { 0 } else { self.reader.len };
        let kept = &mut self.kept[..keeps];
        let fold = fold::fold_row::<S, C, F::Sum>(token, data, kept, &temperature, Ahead::ONCE);
        let folded = self.reader.complete::<F, S>(token, row, &fold, &temperature);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        token.call(row::WriteInPlace { data, kept, temperature: &temperature, results: &folded });
    }

    /// A row by way of working memory, block by block; twice, unless one block holds it all.
    #[inline(always)]
    fn copied<S: Simd>(&mut self, token: S, row: usize) {
        let reader = self.reader;
        let temperature = reader.temperatures.of(row);
        let keeps = if self.kept.is_empty() { 0 } else { reader.len };
        let fold = reader.fold::<S, F::Sum>(token, row, &temperature, &mut self.scratch, &mut self.kept[..keeps]);
        let vacant = reader.is_vacant(row, &fold);
        let folded = reader.complete::<F, S>(token, row, &fold, &temperature);
        let step = reader.piece(keeps > 0);
        for start in (0..reader.len).step_by(step) {
            let block = start..reader.len.min(start + step);
            let data = &mut self.scratch[..block.len()];
            if reader.len > step {
                reader.copy_ahead(token, row, block.clone(), data, reader.len);
            }
            if vacant {
                data.fill(C::from_f64(F::EXCLUDED));
            } else {
                let kept = if keeps == 0 { &[] } else { &self.kept[block.clone()] };
                if self.manner == Manner::CopiedIn && !folded.is_undefined() {
                    let out = self.part.row::<C>(row, block.clone());
                    let (temperature, results) = (&temperature, &folded);
                    // Rows share lines, and to write one in two parts takes as long as to write a short row.
                    if self.store == Store::Streaming && reader.len > KEPT_OF_STREAMED {
                        stream::write(token, data, out, &[], stream::Row { temperature, results }, Ahead::NONE);
                    } else {
                        token.call(row::Write { inputs: Inputs { x: data, kept }, out, temperature, results });
                    }
                    continue;
                }
                token.call(row::WriteInPlace { data, kept, temperature: &temperature, results: &folded });
                reader.exclude_of_undefined::<F>(row, block.start, data, folded.is_undefined());
            }
            token.call(WriteCopied { part: &mut self.part, row, start: block.start, from: data });
        }
    }
}
