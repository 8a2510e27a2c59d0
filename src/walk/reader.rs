//! What rows are read from, and what is known of a row once it is folded.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Function, Temperatures, keeps_none};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::column::{Folds, LANES};
use crate::kernel::exp::Shift;
use crate::kernel::fold::{self, BLOCK, CHUNK, Fold};
use crate::kernel::kept::Keep;
use crate::kernel::log_row::Logits;
use crate::kernel::row::Results;
use crate::memory::{Compute, Source};
use crate::simd::{Kernel, Simd};

/// What rows are read from.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a, C> {
    pub(super) source: &'a Source<'a>,
    pub(super) mask: Option<&'a Source<'a>>,
    pub(super) temperatures: &'a Temperatures<'a, C>,
    pub(super) len: usize,
}

/// Which of the reads of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Of one, or of two of which the other is too short to ask for anything.
    Only,
    First,
    Second,
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
    pub(super) fn copy_ahead<S: Simd>(&self, token: S, row: usize, elements: Range<usize>, to: &mut [C], ahead: usize) {
        token.call(Copy { reader: self, row, start: elements.start, to, ahead });
    }

    /// The elements that are copied at a time. Half precision is converted in the first cache, twice, rather than written
    /// to the second as float32; but not where p is written there, too.
    pub(super) fn piece(&self, keeps: bool) -> usize {
        if !keeps && self.mask.is_none() && self.source.is_half() { CHUNK } else { BLOCK }
    }

    /// Whether all rows have temperature 1.
    pub(super) fn is_of_temperature_one(&self) -> bool {
        matches!(self.temperatures, Temperatures::All(temperature) if temperature.is_one())
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

    /// The fold of a row by way of `scratch`, which has room for a block. For `keep` see [`fold::fold`]. What comes next is
    /// asked for, as of this `read`.
    #[inline(always)]
    pub(super) fn fold<S: Simd>(
        self,
        token: S,
        row: usize,
        temperature: &Temperature<C>,
        scratch: &mut [C],
        keep: Keep<'_, C>,
        read: Read,
    ) -> Fold<C> {
        token.call(FoldCopied::<C> { reader: self, row, temperature, scratch, keep, read })
    }

    /// Of the logits that come after some elements of a row, of which a copy lies `here`: in each read of a whole row that is
    /// read twice, a half of the next one. (The next block of a longer row is needed right after this read.)
    #[inline(never)]
    pub(super) fn ahead(&self, row: usize, elements: &Range<usize>, here: &[C], read: Read) -> Ahead {
        let halved = read != Read::Only && elements.len() == self.len;
        let (row, start) = self.after(row, elements);
        if !self.source.lends::<C>() || !self.source.has(row) {
            return Ahead::NONE;
        }
        let start = if halved && read == Read::Second { self.len / 2 } else { start };
        Ahead::elsewhere(self.source.row::<C>(row, start..self.len), here, halved)
    }

    /// Asks for the mask of as many elements as these, which they come after.
    #[inline(never)]
    fn ask_for_mask_after(&self, row: usize, elements: &Range<usize>) {
        let (row, start) = self.after(row, elements);
        if let Some(mask) = self.mask.filter(|mask| mask.has(row)) {
            mask.ask(row, start..self.len.min(start + elements.len()), 0);
        }
    }

    /// What comes after some elements of a row: the row's, or the next row's.
    fn after(&self, row: usize, elements: &Range<usize>) -> (usize, usize) {
        if elements.end < self.len { (row, elements.end) } else { (row + 1, 0) }
    }

    /// What the results of a row have in common. (Not inlined, for all but short rows that are lent.)
    #[inline(always)]
    pub(super) fn complete<R: Results<C>, S: Simd>(
        self,
        token: S,
        row: usize,
        fold: &Fold<C>,
        temperature: &Temperature<C>,
    ) -> R {
        token.call(Complete::<R, C> { reader: self, row, fold, temperature, results: PhantomData })
    }

    #[inline(always)]
    pub(super) fn results<R: Results<C>, S: Simd>(
        &self,
        token: S,
        row: usize,
        fold: &Fold<C>,
        temperature: &Temperature<C>,
    ) -> R {
        let copy = |start: usize, to: &mut [C]| self.copy(token, row, start..start + to.len(), to);
        R::of(token, fold, temperature, &Logits { len: self.len, copy: &copy })
    }

    /// [`Reader::complete`] for each of `count` rows from `first` on, whose folds are lanes.
    #[inline(always)]
    pub(super) fn complete_each<R: Results<C>, S: Simd>(
        self,
        token: S,
        first: usize,
        count: usize,
        folds: &Folds<C>,
    ) -> [R; LANES] {
        token.call(CompleteEach::<R, C> { reader: self, first, count, folds, results: PhantomData })
    }

    /// The blocks of a row.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let len = self.len;
        (0..len).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(len))
    }
}

/// The arguments of [`Reader::complete`].
pub(super) struct Complete<'r, 'a, R, C: Compute> {
    pub(super) reader: Reader<'a, C>,
    pub(super) row: usize,
    pub(super) fold: &'r Fold<C>,
    pub(super) temperature: &'r Temperature<C>,
    pub(super) results: PhantomData<R>,
}

impl<R: Results<C>, C: Compute> Kernel for Complete<'_, '_, R, C> {
    type Output = R;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> R {
        self.reader.results(token, self.row, self.fold, self.temperature)
    }
}

/// The arguments of [`Reader::complete_each`].
struct CompleteEach<'r, 'a, R, C: Compute> {
    reader: Reader<'a, C>,
    first: usize,
    count: usize,
    folds: &'r Folds<C>,
    results: PhantomData<R>,
}

impl<R: Results<C>, C: Compute> Kernel for CompleteEach<'_, '_, R, C> {
    type Output = [R; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> [R; LANES] {
        let Self { reader, first, count, folds, .. } = self;
        let mut results = [R::NAN; LANES];
        let each = folds.alike && R::each(token, &reader.temperatures.of(first), folds, reader.len, &mut results);
        for (lane, results) in results.iter_mut().enumerate().take(count) {
            if !each || results.is_undefined() {
                let row = first + lane;
                *results = reader.complete(token, row, &folds.get(lane), &reader.temperatures.of(row));
            }
        }
        // Lanes past the last row are like the first, not special.
        let like_first = results[0];
        results[count..].fill(like_first);
        results
    }
}

/// The arguments of [`Reader::copy`].
struct Copy<'r, 'a, C> {
    reader: &'r Reader<'a, C>,
    row: usize,
    start: usize,
    to: &'r mut [C],
    ahead: usize,
}

impl<C: Compute> Kernel for Copy<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { reader, row, start, to, ahead } = self;
        let elements = start..start + to.len();
        if !S::COMPACT
            && reader.source.lends::<C>()
            && let Some(kept) = reader.mask.and_then(|mask| mask.bools(row, elements.clone()))
        {
            for ((to, x), kept) in to.iter_mut().zip(reader.source.row::<C>(row, elements)).zip(kept) {
                *to = x.or(C::NEG_INFINITY, *kept != 0);
            }
            return;
        }
        if !reader.source.read_halves(token, row, start, to, ahead) {
            reader.source.read(row, start, to);
        }
        reader.exclude(row, start, to);
    }
}

/// The arguments of [`Reader::fold`].
struct FoldCopied<'r, 'a, C: Compute> {
    reader: Reader<'a, C>,
    row: usize,
    temperature: &'r Temperature<C>,
    scratch: &'r mut [C],
    keep: Keep<'r, C>,
    read: Read,
}

impl<C: Compute> Kernel for FoldCopied<'_, '_, C> {
    type Output = Fold<C>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Fold<C> {
        let Self { reader, row, temperature, scratch, mut keep, read } = self;
        let mut fixed = None;
        loop {
            let mut fold = Fold::empty(fixed.map_or(C::ZERO, |shift: Shift<C>| shift.base));
            for block in reader.blocks() {
                // In the order of `fold_row`: chunks make blocks, and blocks make the row.
                let mut part = Fold::empty(fold.base);
                let step = reader.piece(!keep.is_nothing());
                for start in block.clone().step_by(step) {
                    let piece = start..block.end.min(start + step);
                    let data = &mut scratch[..piece.len()];
                    let keep = keep.some(piece.clone());
                    let ahead = reader.ahead(row, &piece, data, read);
                    reader.copy(token, row, piece.clone(), data);
                    reader.ask_for_mask_after(row, &piece);
                    part = part.with(fold::fold::<S, C>(token, data, keep, temperature, fixed, ahead));
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
