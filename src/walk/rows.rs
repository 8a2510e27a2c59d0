//! Rows one after another.

use std::marker::PhantomData;
use std::ops::Range;

use super::abreast::Abreast;
use super::reader::{Read, Reader};
use super::{Call, Function, Interrupt, for_each_part};
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::column::{Folds, LANES};
use crate::kernel::fold::{self, BLOCK, CHUNK, PIECES};
use crate::kernel::kept::{self, Keep, Kept, P};
use crate::kernel::pieces::FoldRows;
use crate::kernel::row::{self, Inputs, Results, Store};
use crate::kernel::stream::overlap::{self, FoldAndWrite};
use crate::kernel::stream::{self, Stream};
use crate::memory::{Compute, Cut, Part, Scratch, ViewMut, scratch, stores_hold_up};
use crate::simd::{Kernel, Simd, dispatch};

/// Elements of short rows that are folded before the first of them is written: what is done once for each row takes
/// longer than a short row itself, but several rows' overlap. All of it must stay in the first cache.
const GROUP: usize = 2200;

/// The rows that are folded together: more than one only where they are short.
fn group<C: Compute>(len: usize) -> usize {
    if len > GROUP / 3 { 1 } else { (GROUP / len).min(C::LANES) }
}

/// Whether rows that are copied are folded together. (Not as float64, whose rows are not folded by lanes.)
fn copies_together<C: Compute>() -> bool {
    size_of::<C>() == size_of::<f32>()
}

/// The longest row of which p is kept for the second read, where results go through the cache: with row and results it
/// is still in the second cache when it is read again. For longer ones, to compute it again is faster.
const KEPT: usize = 40 * 1024;
/// The same where results go past the cache, and rows do not overlap. Streaming stores wait while p is on its way to the
/// second cache; only what the first one holds is worth it.
const KEPT_OF_STREAMED: usize = 4096;
// So that what a row keeps need not be cut into blocks where the row is copied block by block.
const _: () = assert!(KEPT <= BLOCK);

/// Results that are converted to half precision at a time: what the first cache still has when it is copied past it. More
/// make longer bursts of writing.
const CONVERTED: usize = CHUNK / 2;

/// From so many elements on, rows are faster each by itself, while the one before is written, than together.
const ALONE: usize = 350;

/// Whether each row is folded while the one before is written: those from [`ALONE`] on, as long as threads keep the working
/// memory for two, or the second cache has it. Where stores that wait hold up the rest: past the cache only those of more than
/// one chunk; through it none if results are `far`. Functions that keep nothing of a row (log-probabilities) take so long for
/// what is done once for each that short ones are better off together.
fn overlaps<F: Function>(len: usize, store: Store, far: bool) -> bool {
    let least = if F::KEEPS { ALONE } else { GROUP / 3 + 1 };
    match store {
        Store::Streaming if stores_hold_up() => (CHUNK + 1..=if F::KEEPS { 128 } else { 64 } * 1024).contains(&len),
        Store::Streaming => (least..=64 * 1024).contains(&len),
        Store::Cached => (!far || !stores_hold_up()) && (least..=16 * 1024).contains(&len),
    }
}

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
    let may_overlap = Rows::<F, C>::OVERLAP && overlaps::<F>(call.plan.len, store, call.is_far(out.array().dtype));
    let cut = Cut::rows(call.rows_per_task());
    for_each_part(call, out, cut, interrupt, &|part| {
        let len = call.plan.len;
        let manner = match (part.lends::<C>(), mask.is_none(), source.lends::<C>()) {
            (true, true, _) if call.in_place => Manner::InPlace,
            (true, true, true) if source.is_dense::<C>() && part.is_dense::<C>() => Manner::Dense,
            // Short rows are copied, to be folded by lanes, rather than taken one by one.
            (true, true, true) if group::<C>(len) < PIECES || !copies_together::<C>() => Manner::Lent,
            (true, ..) if !call.in_place => Manner::CopiedIn,
            _ => Manner::Copied,
        };
        let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len };
        let copied = matches!(manner, Manner::CopiedIn | Manner::Copied);
        let together = match manner {
            Manner::Dense => true,
            Manner::Lent => false,
            Manner::InPlace => part.is_dense::<C>(),
            Manner::CopiedIn | Manner::Copied => copies_together::<C>(),
        };
        let together = together && temperatures.is_one_for_all();
        let group = if together { group::<C>(len) } else { 1 };
        // (With a temperature rows do not, and short ones are better off together.)
        let overlaps = may_overlap && manner == Manner::Dense && (group == 1 || reader.is_of_temperature_one());
        // (Results in half precision are half as many stores.)
        let kept_as = if manner == Manner::Copied && source.is_half() { Store::Cached } else { store };
        let keeps = match F::KEEPS {
            _ if overlaps => 2 * kept::room::<C>(overlap::keeps::<C, F::Row<C>>(len, store), len, 1),
            true if len <= most_kept(kept_as) => kept::room::<C>(P, len, group),
            _ => 0,
        };
        let copies = match (copied, group) {
            (false, _) => 0,
            (true, 1) => len.min(reader.piece(keeps > 0)),
            (true, _) => len * group,
        };
        let abreast = Abreast::new::<F>(call, &reader, &part, store)?;
        dispatch(
            call.level,
            Rows::<F, C> {
                reader,
                manner,
                abreast,
                store,
                part,
                scratch: scratch(copies)?,
                group,
                overlaps,
                kept: scratch(keeps)?,
                function: PhantomData,
            },
        );
        Ok(())
    })
}

/// Copies elements of a row from working memory to where they belong.
pub(super) struct WriteCopied<'r, 'a, C> {
    pub(super) part: &'r mut Part<'a>,
    pub(super) row: usize,
    pub(super) start: usize,
    pub(super) from: &'r [C],
    pub(super) store: Store,
}

impl<C: Compute> Kernel for WriteCopied<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let streams = self.store == Store::Streaming;
        if !self.part.write_halves(token, self.row, self.start, self.from, streams) {
            self.part.write(self.row, self.start, self.from);
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
    abreast: Abreast<C>,
    store: Store,
    part: Part<'a>,
    /// Room for a block, where rows are copied.
    scratch: Scratch<C>,
    /// The rows that are folded together: the most, where they lie one after another and share a temperature.
    group: usize,
    /// Whether each row is folded while the one before is written.
    overlaps: bool,
    /// Working memory for what the folds of a group, or of two rows that overlap, keep; or nothing.
    kept: Scratch<C>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Rows<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let rows = self.part.rows.clone();
        if Self::OVERLAP && !S::COMPACT && self.overlaps {
            self.overlapped(token, rows);
        } else if self.manner == Manner::Dense {
            let mut row = rows.start;
            while row < rows.end {
                row += self.abreast.write::<S, F>(token, &self.reader, &mut self.part, row);
                if row == rows.end {
                    break;
                }
                // All; or, of rows that go abreast, those among which some need more.
                let count = if self.abreast.is_nothing() { usize::MAX } else { C::LANES };
                let some = row..rows.end.min(row.saturating_add(count));
                row = some.end;
                self.lent(token, some);
            }
        } else if self.group > 1 {
            let mut room = (Folds::empty(), [[0.0; LANES]; LANES]);
            for first in rows.clone().step_by(self.group) {
                let some = first..rows.end.min(first + self.group);
                if self.manner == Manner::InPlace {
                    self.in_place_together(token, some, &mut room);
                } else if copies_together::<C>() {
                    self.copied_together(token, some, &mut room);
                }
            }
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

/// Room for the folds of rows that are folded together, and for their sums.
type RoomOfGroup<C> = (Folds<C>, [[f64; LANES]; LANES]);

/// Rows that have been folded together.
struct Group<C: Compute, R> {
    temperature: Temperature<C>,
    results: [R; LANES],
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
    const OVERLAP: bool = size_of::<C>() == size_of::<f32>();

    /// Rows that are read and written where they lie, one after another.
    #[inline(always)]
    fn lent<S: Simd>(&mut self, token: S, rows: Range<usize>) {
        let (reader, len) = (self.reader, self.reader.len);
        let x = reader.source.rows_dense::<C>(rows.start, rows.len());
        let out = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        let streaming = self.store == Store::Streaming;
        let stream = &mut Stream::new(x, out, self.store);
        // (To fill it for a single row would take as long as a short one.)
        let mut room_of_group = (self.group > 1).then(|| (Folds::empty(), [[0.0; LANES]; LANES]));
        let temperature = reader.temperatures.of(rows.start);
        let mut group = Group { temperature, results: [F::Row::NAN; LANES] };
        for first in rows.clone().step_by(self.group) {
            let start = (first - rows.start) * len;
            let count = self.group.min(rows.end - first);
            let elements = count * len;
            if !reader.temperatures.is_one_for_all() {
                group.temperature = reader.temperatures.of(first);
            }
            let (x, temperature) = (&x[start..start + elements], &group.temperature);
            let ahead = if streaming { Ahead::first(elements) } else { Ahead::SHORT };
            if let Some((folds, sums)) = &mut room_of_group {
                let keep = Keep::within(&mut self.kept, len, self.group);
                token.call(FoldRows { x, len, keep, temperature, ahead, folds, sums });
                group.results = reader.complete_each(token, first, count, folds);
            } else {
                let keep = Keep::within(&mut self.kept, len, self.group);
                let fold = fold::fold_row::<S, C>(token, x, keep, temperature, ahead);
                group.results[0] = reader.results(token, first, &fold, temperature);
            }
            let kept = Kept::within(&self.kept, len, self.group);
            let results = &group.results[..count];
            if streaming {
                let ahead = Ahead::second(elements);
                token.call(stream::WriteRows { stream: &mut *stream, start, len, kept, temperature, results, ahead });
                continue;
            }
            for (index, results) in results.iter().enumerate() {
                let (x, out) = stream.row(start + index * len..start + (index + 1) * len);
                let inputs = Inputs { x, kept: kept.from(index * fold::room::<C>(len)) };
                token.call(row::Write { inputs, out, temperature, results });
            }
        }
    }

    /// The same for long rows, each of which is folded while the one before is written.
    #[inline(always)]
    fn overlapped<S: Simd>(&mut self, token: S, rows: Range<usize>) {
        let (reader, len) = (self.reader, self.reader.len);
        let x = reader.source.rows_dense::<C>(rows.start, rows.len());
        let out = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        if rows.is_empty() {
            return;
        }
        let stream = &mut Stream::new(x, out, self.store);
        let keeps = overlap::keeps::<C, F::Row<C>>(len, self.store);
        let (mut kept, mut keep) = self.kept.split_at_mut(kept::room::<C>(keeps, len, 1));
        // The last row that was folded; none has been as yet.
        let mut last = Folded::<C, F> { temperature: reader.temperatures.of(rows.start), results: F::Row::NAN };
        let mut elements = 0..0;
        let (mut max, mut has_terms) = (overlap::largest_of_next::<S, C>(token, x, 0, len), false);
        for row in rows.clone() {
            let temperature = reader.temperatures.of(row);
            let next = elements.end..elements.end + len;
            let (kept_of_last, keep_of_next) = (Kept::of_row(keeps, kept, len), Keep::of_row(keeps, keep, len));
            let write = stream::WriteNext { stream, elements, kept: kept_of_last, row: last.row(), ahead: Ahead::NONE };
            let folded = token.call(FoldAndWrite {
                write,
                has_terms,
                next: next.clone(),
                max,
                keep: keep_of_next,
                temperature: &temperature,
            });
            (max, has_terms) = (folded.max, folded.has_terms);
            let results = reader.complete::<F::Row<C>, S>(token, row, &folded.fold, &temperature);
            (last, elements) = (Folded { temperature, results }, next);
            std::mem::swap(&mut kept, &mut keep);
        }
        let Folded { temperature, results } = &last;
        let kept = Kept::of_row(keeps, kept, len);
        let (start, results) = (elements.start, std::slice::from_ref(results));
        token.call(stream::WriteRows { stream, start, len, kept, temperature, results, ahead: Ahead::NONE });
    }

    /// A row that gives way to its own results.
    #[inline(always)]
    fn in_place<S: Simd>(&mut self, token: S, row: usize) {
        let temperature = self.reader.temperatures.of(row);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        let keep = Keep::within(&mut self.kept, self.reader.len, 1);
        // (Long ones are hardly slower than memory as it is.)
        let (first, ahead) = match data.len() {
            len if len <= CHUNK => (Ahead::first(len), Ahead::second(len)),
            _ => (Ahead::ONCE, Ahead::NONE),
        };
        let fold = fold::fold_row::<S, C>(token, data, keep, &temperature, first);
        let folded = self.reader.complete::<F::Row<C>, S>(token, row, &fold, &temperature);
        let data = self.part.row::<C>(row, 0..self.reader.len);
        let kept = Kept::within(&self.kept, self.reader.len, 1);
        token.call(row::WriteInPlace { data, kept, temperature: &temperature, results: &folded, ahead });
    }

    /// Short rows that give way to their own results, folded together.
    #[inline(always)]
    fn in_place_together<S: Simd>(&mut self, token: S, rows: Range<usize>, room: &mut RoomOfGroup<C>) {
        let (reader, len) = (self.reader, self.reader.len);
        let (temperature, (folds, sums)) = (&reader.temperatures.of(rows.start), room);
        let x = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        let keep = Keep::within(&mut self.kept, len, self.group);
        let (ahead, second) = (Ahead::first(x.len()), Ahead::second(x.len()));
        token.call(FoldRows { x, len, keep, temperature, ahead, folds, sums });
        // All of them before the first is written, as some may be read again for this.
        let results = reader.complete_each::<F::Row<C>, S>(token, rows.start, rows.len(), folds);
        let data = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
        let kept = Kept::within(&self.kept, len, self.group);
        for (index, (data, results)) in data.chunks_exact_mut(len).zip(&results).enumerate() {
            let kept = kept.from(index * fold::room::<C>(len));
            let ahead = second.from(index * len);
            token.call(row::WriteInPlace { data, kept, temperature, results, ahead });
        }
    }

    /// A row by way of working memory, block by block; twice, unless one block holds it all.
    #[inline(always)]
    fn copied<S: Simd>(&mut self, token: S, row: usize) {
        let reader = self.reader;
        let temperature = reader.temperatures.of(row);
        // (What is written through the cache asks for nothing.)
        let read = if self.store_of_copied() == Store::Streaming { Read::First } else { Read::Only };
        let keep = Keep::within(&mut self.kept, reader.len, 1);
        let fold = reader.fold::<S>(token, row, &temperature, &mut self.scratch, keep, read);
        let vacant = reader.is_vacant(row, &fold);
        let results = reader.complete::<F::Row<C>, S>(token, row, &fold, &temperature);
        let whole = reader.len <= self.scratch.len();
        // All blocks but the first and the last are whole lines.
        let halves = reader.source.is_half();
        let step = if halves { CONVERTED } else { BLOCK };
        let past = if reader.len > step { self.part.past_line(row) } else { 0 };
        let (mut start, mut next) = (0, step - past);
        while start < reader.len {
            let block = start..reader.len.min(next);
            (start, next) = (block.end, block.end + step);
            if !whole && !vacant {
                reader.copy_ahead(token, row, block.clone(), &mut self.scratch[..block.len()], reader.len);
            } else if halves {
                // The next row's, while memory would only be written.
                reader.source.ask(row, block.clone(), reader.len);
            }
            let (at, kept) = (if whole { block.start } else { 0 }, block.start);
            let copied = Copied { row, block, at, kept, vacant, temperature: &temperature };
            token.call(WriteBlock { rows: self, copied, results: &results });
        }
    }

    /// Short rows by way of working memory, folded together.
    #[inline(always)]
    fn copied_together<S: Simd>(&mut self, token: S, rows: Range<usize>, room: &mut RoomOfGroup<C>) {
        let (reader, len) = (self.reader, self.reader.len);
        let temperature = &reader.temperatures.of(rows.start);
        for (row, to) in rows.clone().zip(self.scratch.chunks_exact_mut(len)) {
            reader.copy(token, row, 0..len, to);
        }
        let (folds, sums) = room;
        let x = &self.scratch[..rows.len() * len];
        let streams = self.manner == Manner::CopiedIn && self.store == Store::Streaming && len >= C::LANES;
        let ahead = if streams { reader.ahead(rows.end - 1, &(0..len), x, Read::Only) } else { Ahead::NONE };
        token.call(FoldRows {
            x,
            len,
            keep: Keep::within(&mut self.kept, len, self.group),
            temperature,
            ahead,
            folds,
            sums,
        });
        let results = reader.complete_each::<F::Row<C>, S>(token, rows.start, rows.len(), folds);
        // (Undefined rows have results where the mask leaves places out.)
        if !S::COMPACT && streams && self.part.is_dense::<C>() && results.iter().all(|results| !results.is_undefined())
        {
            let out = self.part.rows_dense::<C>(rows.start, rows.len(), 0..len);
            let stream = &mut Stream::new(x, out, self.store);
            let (kept, results) = (Kept::within(&self.kept, len, self.group), &results[..rows.len()]);
            token.call(stream::WriteRows { stream, start: 0, len, kept, temperature, results, ahead });
            return;
        }
        for (index, row) in rows.enumerate() {
            let fold = folds.get(index);
            let kept = index * fold::room::<C>(len);
            let vacant = reader.is_vacant(row, &fold);
            let copied = Copied { row, block: 0..len, at: index * len, kept, vacant, temperature };
            token.call(WriteBlock { rows: self, copied, results: &results[index] });
        }
    }

    /// How results of rows that are copied one by one are stored. Rows share lines, and to write one in two parts takes as
    /// long as to write a short row.
    #[inline(always)]
    fn store_of_copied(&self) -> Store {
        if self.reader.len > KEPT_OF_STREAMED { self.store } else { Store::Cached }
    }

    /// The results of a block of a row whose logits are in working memory.
    #[inline(always)]
    fn write_copied<S: Simd>(&mut self, token: S, copied: Copied<'_, C>, results: &F::Row<C>) {
        let Copied { row, block, at, kept, vacant, temperature } = copied;
        let store = self.store_of_copied();
        let data = &mut self.scratch[at..at + block.len()];
        let kept = Kept::within(&self.kept, self.reader.len, self.group).from(kept);
        if vacant {
            data.fill(C::from_f64(F::EXCLUDED));
        } else if self.manner == Manner::CopiedIn && !results.is_undefined() {
            let out = self.part.row::<C>(row, block.clone());
            if store == Store::Streaming {
                let ahead = self.reader.ahead(row, &block, data, Read::Second);
                stream::write(token, data, out, Kept::NOTHING, stream::Row { temperature, results }, ahead);
            } else {
                token.call(row::Write { inputs: Inputs { x: data, kept }, out, temperature, results });
            }
            return;
        } else {
            token.call(row::WriteInPlace { data, kept, temperature, results, ahead: Ahead::NONE });
            self.reader.exclude_of_undefined::<F>(row, block.start, data, results.is_undefined());
        }
        let part = &mut self.part;
        token.call(WriteCopied { part, row, start: block.start, from: data, store });
    }
}

/// The arguments of [`Rows::write_copied`], which is a function of its own: it is large, and called from two places.
struct WriteBlock<'r, 'a, F: Function, C: Compute> {
    rows: &'r mut Rows<'a, F, C>,
    copied: Copied<'r, C>,
    results: &'r F::Row<C>,
}

impl<F: Function, C: Compute> Kernel for WriteBlock<'_, '_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        self.rows.write_copied(token, self.copied, self.results);
    }
}

/// A block of a row in working memory.
struct Copied<'r, C> {
    row: usize,
    /// Its elements of the row.
    block: Range<usize>,
    /// Where it begins in working memory.
    at: usize,
    /// Where what the fold kept of it begins, if it kept anything.
    kept: usize,
    /// Whether the mask keeps no place of the row.
    vacant: bool,
    temperature: &'r Temperature<C>,
}
