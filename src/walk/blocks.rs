//! One row after another, all threads on the blocks of one.

use std::marker::PhantomData;
use std::sync::OnceLock;

use super::reader::{Complete, Reader};
use super::rows::WriteCopied;
use super::{Call, Function, Interrupt, OUT, share};
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::Shift;
use crate::kernel::fold::{self, BLOCK, Fold};
use crate::kernel::kept::{Keep, Kept};
use crate::kernel::row::{self, Inputs, Results, Store};
use crate::kernel::stream;
use crate::memory::{Compute, Cut, Part, Target, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Bytes of a row from which all threads share it, however many rows there are: they then share a cache as well.
pub(super) const LONG: usize = 4 << 20;

/// Elements of a row from which even one thread takes it in blocks: some milliseconds.
pub(super) const INTERRUPTIBLE: usize = 1 << 22;

/// The blocks whose folds are kept until they can be added up in order: bounded memory for a row of any length.
const WAVE: usize = 4096;

pub(super) fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len: call.plan.len };
    let blocks = Blocks { call, reader, lent: mask.is_none() && source.lends::<C>() };
    let store = call.store(out.array().dtype);
    let target = Target::new(out, &call.plan, OUT, false, Cut::elements(BLOCK))?;
    for row in 0..call.plan.rows {
        let temperature = temperatures.of(row);
        let fold = blocks.fold_row(row, &temperature, interrupt)?;
        let vacant = reader.is_vacant(row, &fold);
        let folded = dispatch(
            call.level,
            Complete::<F::Row<C>, C> { fold: &fold, temperature: &temperature, reader, row, results: PhantomData },
        );
        let first = row * blocks.count();
        share(call.threads, blocks.count(), interrupt, &|block| {
            let part = target.part(first + block);
            let write =
                Write::<F, C> { blocks: &blocks, temperature: &temperature, folded: &folded, vacant, store, part };
            dispatch(call.level, write)
        })?;
    }
    Ok(())
}

/// Rows by blocks.
pub(super) struct Blocks<'a, C> {
    pub(super) call: &'a Call<'a>,
    pub(super) reader: Reader<'a, C>,
    pub(super) lent: bool,
}

impl<C: Compute> Blocks<'_, C> {
    fn count(&self) -> usize {
        self.reader.len.div_ceil(BLOCK)
    }

    /// The fold of a row, its blocks added up in order.
    pub(super) fn fold_row(
        &self,
        row: usize,
        temperature: &Temperature<C>,
        interrupt: Interrupt<'_>,
    ) -> Result<Fold<C>> {
        let first = self.fold(row, temperature, None, interrupt)?;
        match first.retry(temperature) {
            None => Ok(first),
            retry => self.fold(row, temperature, retry, interrupt),
        }
    }

    fn fold(
        &self,
        row: usize,
        temperature: &Temperature<C>,
        fixed: Option<Shift<C>>,
        interrupt: Interrupt<'_>,
    ) -> Result<Fold<C>> {
        let mut fold = Fold::empty(fixed.map_or(C::ZERO, |shift| shift.base));
        for wave in (0..self.count()).step_by(WAVE) {
            let wave = wave..(wave + WAVE).min(self.count());
            let folds: Vec<_> = wave.clone().map(|_| OnceLock::new()).collect();
            share(self.call.threads, wave.len(), interrupt, &|index| {
                let block = wave.start + index;
                let part = self.fold_block(row, block, temperature, fixed)?;
                let _taken_once = folds[index].set(part);
                Ok(())
            })?;
            for part in folds.iter().filter_map(OnceLock::get) {
                fold = fold.with(*part);
            }
        }
        Ok(fold)
    }

    fn fold_block(
        &self,
        row: usize,
        block: usize,
        temperature: &Temperature<C>,
        fixed: Option<Shift<C>>,
    ) -> Result<Fold<C>> {
        let fold = FoldBlock::<C> { blocks: self, row, block, temperature, fixed };
        dispatch(self.call.level, fold)
    }

    fn elements(&self, block: usize) -> std::ops::Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.reader.len)
    }
}

/// The fold of a block.
struct FoldBlock<'a, C> {
    blocks: &'a Blocks<'a, C>,
    row: usize,
    block: usize,
    temperature: &'a Temperature<C>,
    fixed: Option<Shift<C>>,
}

impl<C: Compute> Kernel for FoldBlock<'_, C> {
    type Output = Result<Fold<C>>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Result<Fold<C>> {
        let reader = self.blocks.reader;
        let elements = self.blocks.elements(self.block);
        if self.blocks.lent {
            let x = reader.source.row(self.row, elements);
            return Ok(fold::fold::<S, C>(token, x, Keep::nothing(), self.temperature, self.fixed, Ahead::ONCE));
        }
        let mut data = scratch(elements.len())?;
        reader.copy(token, self.row, elements, &mut data);
        Ok(fold::fold::<S, C>(token, &data, Keep::nothing(), self.temperature, self.fixed, Ahead::NONE))
    }
}

/// The results of a block.
struct Write<'a, F: Function, C: Compute> {
    blocks: &'a Blocks<'a, C>,
    temperature: &'a Temperature<C>,
    folded: &'a F::Row<C>,
    vacant: bool,
    store: Store,
    part: Part<'a>,
}

impl<F: Function, C: Compute> Kernel for Write<'_, F, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<()> {
        let reader = self.blocks.reader;
        let (row, elements) = (self.part.rows.start, self.part.elements.clone());
        if self.blocks.lent && self.part.lends::<C>() {
            let x = reader.source.row(row, elements.clone());
            let out = self.part.row(row, elements);
            let (temperature, results) = (self.temperature, self.folded);
            if self.store == Store::Streaming {
                stream::write(token, x, out, Kept::NOTHING, stream::Row { temperature, results }, Ahead::ONCE);
                token.fence();
            } else {
                let inputs = Inputs { x, kept: Kept::NOTHING };
                token.call(row::Write { inputs, out, temperature, results });
            }
            return Ok(());
        }
        let mut data = scratch(elements.len())?;
        if self.vacant {
            data.fill(C::from_f64(F::EXCLUDED));
        } else {
            reader.copy(token, row, elements.clone(), &mut data);
            let (temperature, results) = (self.temperature, self.folded);
            token.call(row::WriteInPlace {
                data: &mut data,
                kept: Kept::NOTHING,
                temperature,
                results,
                ahead: Ahead::NONE,
            });
            reader.exclude_of_undefined::<F>(row, elements.start, &mut data, results.is_undefined());
        }
        let (part, store) = (&mut self.part, self.store);
        token.call(WriteCopied { part, row, start: elements.start, from: &data, store });
        token.fence();
        Ok(())
    }
}
