//! Tiles in which every lane is a row.

use std::marker::PhantomData;

use super::rows::Reader;
use super::{Call, Function, Interrupt, for_each_part};
use crate::error::Result;
use crate::kernel::column::{self, Folds, LANES, Strip};
use crate::kernel::fold::CHUNK;
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, Cut, Part, Tile, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Up to so many classes, rows are lanes even where their elements lie one after another.
pub(super) const FEW: usize = 64;
/// From so many rows on.
pub(super) const MANY: usize = 8;

/// Elements of a tile that stays in the first cache, and of one that stays in the second.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 128 * 1024;

/// The most lanes of a tile.
const WIDEST: usize = 256;

pub(super) fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let len = call.plan.len;
    // As wide as the first cache allows, or the second where that is hardly a vector; a row too long for either is
    // read twice, chunk by chunk.
    let lanes = C::LANES;
    let width = match (SMALL / len, LARGE / len) {
        (small, _) if small >= 4 * lanes => small,
        (_, large) if large >= lanes => large.min(4 * lanes),
        _ => LARGE / CHUNK,
    };
    let width = (width / lanes * lanes).clamp(lanes, WIDEST);
    let whole = len <= CHUNK || len * width <= LARGE;
    let cut = Cut { rows: call.rows_per_task().next_multiple_of(width), elements: usize::MAX };
    for_each_part(call, out, cut, interrupt, &|part| {
        let tiles = Tiles::<F, C> {
            reader: Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len },
            lanes: call.plan.outer.last().map_or(1, |dim| dim.len),
            width,
            whole,
            data: scratch(width * if whole { len } else { CHUNK })?,
            part,
            function: PhantomData,
        };
        dispatch(call.level, tiles);
        Ok(())
    })
}

/// The rows of a task.
struct Tiles<'a, F, C> {
    reader: Reader<'a, C>,
    /// The rows of the innermost loop: a tile does not reach over their end.
    lanes: usize,
    width: usize,
    /// Whether a tile has whole rows.
    whole: bool,
    data: Vec<C>,
    part: Part<'a>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Tiles<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let lanes = self.width.min(self.part.rows.end - first).min(self.lanes - first % self.lanes);
            self.tile(token, first, lanes);
            first += lanes;
        }
    }
}

impl<F: Function, C: Compute> Tiles<'_, F, C> {
    /// The results of `lanes` rows from `first` on.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.reader.len;
        let step = if self.whole { len } else { CHUNK };
        let strips = lanes.div_ceil(C::LANES);
        let mut temperatures = [Temperature::new(1.0); WIDEST];
        let shared = matches!(self.reader.temperatures, super::Temperatures::All(_));
        let distinct = if shared { 1 } else { lanes };
        for (lane, temperature) in temperatures.iter_mut().enumerate().take(distinct) {
            *temperature = self.reader.temperatures.of(first + lane);
        }
        let of_strip = |strip: usize| {
            if shared { &temperatures[..1] } else { &temperatures[strip * C::LANES..] }
        };
        let mut folds = [Folds::empty(); WIDEST / 8];
        let mut fixed = None;
        loop {
            folds[..strips].fill(Folds::empty());
            for start in (0..len).step_by(step) {
                let tile = self.read(self.at(first, lanes, start, step.min(len - start)));
                for chunk in (0..tile.len).step_by(CHUNK) {
                    for (index, folds) in folds.iter_mut().enumerate().take(strips) {
                        let strip = self.strip::<S>(index, chunk, CHUNK.min(tile.len - chunk));
                        let shifts = fixed.as_ref().map(|fixed: &[_; WIDEST / 8]| &fixed[index]);
                        folds.add(&column::fold(token, &self.data, strip, of_strip(index), shifts));
                    }
                }
            }
            if fixed.is_some() {
                break;
            }
            let mut shifts = [[None; LANES]; WIDEST / 8];
            let mut again = false;
            for (index, shifts) in shifts.iter_mut().enumerate().take(strips) {
                if let Some(retry) = folds[index].retry(of_strip(index), C::LANES.min(lanes - index * C::LANES)) {
                    *shifts = retry;
                    again = true;
                }
            }
            if !again {
                break;
            }
            fixed = Some(shifts);
        }
        let mut results = [None; WIDEST / 8];
        for (index, results) in results.iter_mut().enumerate().take(strips) {
            let lanes_of_strip = C::LANES.min(lanes - index * C::LANES);
            let temperatures = of_strip(index);
            let first = first + index * C::LANES;
            let mut rows = [self.row(token, first, temperatures, &folds[index], 0); LANES];
            for (lane, row) in rows.iter_mut().enumerate().take(lanes_of_strip).skip(1) {
                *row = self.row(token, first, temperatures, &folds[index], lane);
            }
            *results = Some(rows);
        }
        for start in (0..len).step_by(step) {
            let tile = if self.whole {
                self.at(first, lanes, start, len)
            } else {
                self.read(self.at(first, lanes, start, step.min(len - start)))
            };
            for index in 0..strips {
                let strip = self.strip::<S>(index, 0, tile.len);
                if let Some(rows) = &results[index] {
                    let (tile, temperatures) = (self.data.as_mut_slice(), of_strip(index));
                    token.call(column::Write { tile, strip, temperatures, results: rows });
                }
            }
            self.exclude(tile, &folds);
            self.part.write_tile(tile, &self.data);
        }
    }

    /// What the results of a lane have in common.
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        token: S,
        first: usize,
        temperatures: &[Temperature<C>],
        folds: &Folds<C>,
        lane: usize,
    ) -> F::Row<C> {
        let temperature = column::of_lane(temperatures, lane);
        let rest = |max| self.reader.rest(token, first + lane, temperature, max);
        F::row(token, &folds.get(lane), temperature, &rest)
    }

    /// The tile's place in the array.
    fn at(&self, first: usize, lanes: usize, start: usize, len: usize) -> Tile {
        Tile { first, lanes, start, len, pitch: self.width }
    }

    /// The columns of one vector, from a line of the tile on.
    #[inline(always)]
    fn strip<S: Simd>(&self, index: usize, line: usize, rows: usize) -> Strip {
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

    /// Puts the result for excluded places into lanes of which the mask keeps none, and into lanes that are
    /// otherwise NaN. (Elsewhere they have it already, as the result of minus infinity.)
    fn exclude(&mut self, tile: Tile, folds: &[Folds<C>]) {
        let Some(mask) = self.reader.mask else { return };
        let excluded = C::from_f64(F::EXCLUDED);
        let mut undefined = false;
        for lane in 0..tile.lanes {
            let fold = folds[lane / C::LANES].get(lane % C::LANES);
            if self.reader.is_vacant(tile.first + lane, &fold) {
                self.data[lane..].iter_mut().step_by(tile.pitch).take(tile.len).for_each(|x| *x = excluded);
            }
            undefined |= fold.nan || fold.extent.max == C::INFINITY;
        }
        if undefined {
            mask.exclude_tile(tile, &mut self.data, excluded);
        }
    }
}
