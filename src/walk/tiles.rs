//! Tiles in which every lane is a row.

use std::marker::PhantomData;

use super::rows::Reader;
use super::{Call, Function, Interrupt, for_each_part};
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::column::{self, Folds, LANES, Strip};
use crate::kernel::fold::{BLOCK, CHUNK, Fold, Precision};
use crate::memory::{Compute, Cut, Part, Scratch, Tile, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Up to so many classes, rows are lanes even where their elements lie one after another.
pub(super) const FEW: usize = 64;
/// From so many rows on.
pub(super) const MANY: usize = 8;

/// Elements of a tile that stays in the first cache, and of one that stays in the last.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 256 * 1024;

/// The most lanes of a tile.
pub(super) const WIDEST: usize = 256;

pub(super) fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len: call.plan.len };
    let shape = Tiles::<C>::shape(call.plan.len, C::LANES);
    let cut = Cut { rows: call.rows_per_task().next_multiple_of(shape.0), elements: usize::MAX };
    for_each_part(call, out, cut, interrupt, &|part| {
        let tiles = Tiles::new(call, reader, shape)?;
        dispatch(call.level, MapTiles::<F, C> { tiles, part, function: PhantomData });
        Ok(())
    })
}

/// Working memory for tiles, and how to fill it.
pub(super) struct Tiles<'a, C: Compute> {
    reader: Reader<'a, C>,
    /// The rows of the innermost loop: a tile does not reach over their end.
    lanes: usize,
    width: usize,
    /// Whether a tile has whole rows.
    whole: bool,
    data: Scratch<C>,
    /// The folds of the present tile's rows.
    strips: Vec<Folds<C>>,
    /// The folds of their present blocks.
    blocks: Vec<Folds<C>>,
    /// Their temperatures: one for each, or one for all.
    temperatures: Vec<Temperature<C>>,
}

impl<'a, C: Compute> Tiles<'a, C> {
    /// The width of tiles for rows of this length, and whether they have whole rows: as wide as the first cache allows,
    /// or the second where that is hardly a vector. A row too long for either is read twice, chunk by chunk.
    pub(super) fn shape(len: usize, lanes: usize) -> (usize, bool) {
        let width = match (SMALL / len, LARGE / len) {
            (small, _) if small >= 4 * lanes => small,
            (_, large) if large >= lanes => large.min(4 * lanes),
            _ => LARGE / CHUNK,
        };
        let width = (width / lanes * lanes).clamp(lanes, WIDEST);
        (width, len <= CHUNK || len * width <= LARGE)
    }

    pub(super) fn new(call: &Call<'_>, reader: Reader<'a, C>, (width, whole): (usize, bool)) -> Result<Self> {
        let lanes = call.plan.outer.last().map_or(1, |dim| dim.len);
        let mut data = scratch(width * if whole { reader.len } else { CHUNK })?;
        if !lanes.is_multiple_of(C::LANES) {
            // Lanes past the rows are computed too, and nobody reads what comes of it.
            data.fill(C::ZERO);
        }
        let strips = vec![Folds::empty(); width / C::LANES];
        let blocks = strips.clone();
        let distinct = if matches!(reader.temperatures, super::Temperatures::All(_)) { 1 } else { width };
        let temperatures = vec![reader.temperatures.of(0); distinct];
        Ok(Self { reader, lanes, width, whole, data, strips, blocks, temperatures })
    }

    /// The temperatures of a strip.
    #[inline(always)]
    fn temperatures(&self, strip: usize) -> &[Temperature<C>] {
        if self.temperatures.len() == 1 { &self.temperatures } else { &self.temperatures[strip * C::LANES..] }
    }

    /// The fold of a row of the present tile.
    #[inline(always)]
    pub(super) fn get(&self, lane: usize) -> Fold<C> {
        self.strips[lane / C::LANES].get(lane % C::LANES)
    }

    /// The rows of the tile that begins with `first`, of rows that end at `end`.
    pub(super) fn lanes_from(&self, first: usize, end: usize) -> usize {
        self.width.min(end - first).min(self.lanes - first % self.lanes)
    }

    /// The folds of `lanes` rows from `first` on. The logits are in working memory afterwards, if a tile has whole rows.
    #[inline(always)]
    pub(super) fn fold<S: Simd, P: Precision>(&mut self, token: S, first: usize, lanes: usize) {
        token.call(FoldTile::<C, C::Sum<P>> { tiles: self, first, lanes, precision: PhantomData });
    }

    #[inline(always)]
    fn fold_inlined<S: Simd, P: Precision>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.reader.len;
        let step = if self.whole { len } else { CHUNK };
        let count = lanes.div_ceil(C::LANES);
        if self.temperatures.len() > 1 {
            for lane in 0..lanes {
                self.temperatures[lane] = self.reader.temperatures.of(first + lane);
            }
        }
        let mut fixed: Option<Vec<[_; LANES]>> = None;
        loop {
            for start in (0..len).step_by(step) {
                let tile = self.read(self.at(first, lanes, start, step.min(len - start)));
                for chunk in (0..tile.len).step_by(CHUNK) {
                    let at = start + chunk;
                    for index in 0..count {
                        let strip = self.strip(index, chunk, CHUNK.min(tile.len - chunk));
                        let shifts = fixed.as_ref().map(|fixed| &fixed[index]);
                        let folds = column::fold::<S, C, P>(token, &self.data, strip, self.temperatures(index), shifts);
                        // As `fold::fold_row`: chunks make blocks, and blocks make the row.
                        if at.is_multiple_of(BLOCK) {
                            self.blocks[index] = folds;
                        } else {
                            self.blocks[index].add(&folds);
                        }
                        if at + CHUNK < len && !(at + CHUNK).is_multiple_of(BLOCK) {
                            continue;
                        }
                        if at < BLOCK {
                            self.strips[index] = self.blocks[index];
                        } else {
                            let block = self.blocks[index];
                            self.strips[index].add(&block);
                        }
                    }
                }
            }
            if fixed.is_some() {
                return;
            }
            for index in 0..count {
                let within = C::LANES.min(lanes - index * C::LANES);
                if let Some(retry) = self.strips[index].retry(self.temperatures(index), within) {
                    fixed.get_or_insert_with(|| vec![[None; LANES]; count])[index] = retry;
                }
            }
            if fixed.is_none() {
                return;
            }
        }
    }

    /// The tile's place in the array.
    fn at(&self, first: usize, lanes: usize, start: usize, len: usize) -> Tile {
        Tile { first, lanes, start, len, pitch: self.width }
    }

    /// The columns of one vector, from a line of the tile on.
    #[inline(always)]
    fn strip(&self, index: usize, line: usize, rows: usize) -> Strip {
        Strip { first: line * self.width + index * C::LANES, rows, pitch: self.width }
    }

    /// Copies a tile into working memory; places that the mask leaves out become minus infinity.
    fn read(&mut self, tile: Tile) -> Tile {
        self.reader.source.read_tile(tile, &mut self.data);
        if let Some(mask) = self.reader.mask {
            mask.exclude_tile(tile, &mut self.data, C::NEG_INFINITY);
        }
        tile
    }
}

/// The arguments of [`Tiles::fold`].
struct FoldTile<'t, 'a, C: Compute, P> {
    tiles: &'t mut Tiles<'a, C>,
    first: usize,
    lanes: usize,
    precision: PhantomData<P>,
}

impl<C: Compute, P: Precision> Kernel for FoldTile<'_, '_, C, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        self.tiles.fold_inlined::<S, P>(token, self.first, self.lanes);
    }
}

/// The rows of a task.
struct MapTiles<'a, F, C: Compute> {
    tiles: Tiles<'a, C>,
    part: Part<'a>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for MapTiles<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let lanes = self.tiles.lanes_from(first, self.part.rows.end);
            self.tiles.fold::<S, F::Sum>(token, first, lanes);
            self.write(token, first, lanes);
            first += lanes;
        }
    }
}

impl<F: Function, C: Compute> MapTiles<'_, F, C> {
    #[inline(always)]
    fn write<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.tiles.reader.len;
        let step = if self.tiles.whole { len } else { CHUNK };
        for start in (0..len).step_by(step) {
            let mut tile = self.tiles.at(first, lanes, start, step.min(len - start));
            if !self.tiles.whole {
                tile = self.tiles.read(tile);
            }
            for index in 0..lanes.div_ceil(C::LANES) {
                let strip = self.tiles.strip(index, 0, tile.len);
                let within = C::LANES.min(lanes - index * C::LANES);
                let results = self.results(token, first, index, within);
                let Tiles { data, temperatures, .. } = &mut self.tiles;
                let first = if temperatures.len() == 1 { 0 } else { index * C::LANES };
                let temperatures = &temperatures[first..];
                token.call(column::Write { tile: data, strip, temperatures, results: &results });
            }
            self.exclude(tile);
            self.part.write_tile(tile, &self.tiles.data);
        }
    }

    /// What the results of the lanes of a strip have in common.
    #[inline(always)]
    fn results<S: Simd>(&self, token: S, first: usize, strip: usize, within: usize) -> [F::Row<C>; LANES] {
        let mut results = [self.row(token, first, strip, 0); LANES];
        for (lane, results) in results.iter_mut().enumerate().take(within).skip(1) {
            *results = self.row(token, first, strip, lane);
        }
        results
    }

    #[inline(always)]
    fn row<S: Simd>(&self, token: S, first: usize, strip: usize, lane: usize) -> F::Row<C> {
        let temperature = column::of_lane(self.tiles.temperatures(strip), lane);
        let row = first + strip * C::LANES + lane;
        let rest = |max| self.tiles.reader.rest(token, row, temperature, max);
        F::row(token, &self.tiles.strips[strip].get(lane), temperature, &rest)
    }

    /// Puts the result for excluded places into lanes of which the mask keeps none, and into lanes that are
    /// otherwise NaN. (Elsewhere they have it already, as the result of minus infinity.)
    fn exclude(&mut self, tile: Tile) {
        let Some(mask) = self.tiles.reader.mask else { return };
        let excluded = C::from_f64(F::EXCLUDED);
        let mut undefined = false;
        for lane in 0..tile.lanes {
            let fold = self.tiles.get(lane);
            if self.tiles.reader.is_vacant(tile.first + lane, &fold) {
                self.tiles.data[lane..].iter_mut().step_by(tile.pitch).take(tile.len).for_each(|x| *x = excluded);
            }
            undefined |= fold.nan || fold.extent.max == C::INFINITY || fold.extent.max == C::NEG_INFINITY;
        }
        if undefined {
            mask.exclude_tile(tile, &mut self.tiles.data, excluded);
        }
    }
}
