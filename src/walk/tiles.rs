//! Tiles in which every lane is a row.

use std::marker::PhantomData;

use super::abreast::Abreast;
use super::lines::{self, GROUP, MapLines, ReadLines, WriteLines};
use super::reader::Reader;
use super::{Call, Function, Interrupt, OUT, for_each_part};
use crate::element::DType;
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::column::{self, FoldStrip, Folds, LANES, Next, ReadRows, Room, Strip, Strips, WriteRows};
use crate::kernel::exp::Shift;
use crate::kernel::fold::{BLOCK, CHUNK, Fold};
use crate::kernel::narrow::{self, FoldNarrow, Places};
use crate::kernel::row::{Results, Store, copy_streaming};
use crate::memory::{Compute, Cut, Lines, Part, Scratch, Tile, ViewMut, scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Up to so many classes, rows are lanes even where their elements lie one after another: where their own way takes
/// longer. That of float64 does not fold rows by lanes, and half precision is converted element by element in tiles.
pub(super) fn few<C: Compute>(dtype: DType, is_masked: bool) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 16,
        _ if is_masked || size_of::<C>() == size_of::<f64>() => 40,
        _ => 28,
    }
}
/// From so many rows on.
pub(super) const MANY: usize = 8;

/// Elements of a tile of few classes: it stays in the first cache.
const SMALL: usize = 4 * 1024;

/// Bytes of a tile of columns that stays in the second cache, and of one that stays in the last.
const SECOND: usize = 256 * 1024;
const LAST: usize = 2 << 20;

/// Of a column that is written, so many lines at a time: they stay in the first cache.
const WRITTEN: usize = 64;

/// Columns of a narrow matrix are folded where they lie if they have so many elements.
const NARROW: usize = 128;

/// The most lanes of a tile, where its lines are not [`Origin::TornLines`].
pub(super) const WIDEST: usize = 256;

/// The lanes of one whose lines are, or more: of each of its lines the first and the last part share lines of memory with
/// other tiles' results, and take as long as many whole ones.
const MAPPED: usize = 512;

pub(super) fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len: call.plan.len };
    let store = call.store(out.array().dtype);
    let are_torn = store == Store::Streaming
        && lines::aligns::<C>(call.plan.len, call.plan.lanes())
        && !call.plan.lines_are_alike(OUT);
    let origin = match Origin::of(&reader) {
        Origin::Lines if are_torn => Origin::TornLines,
        origin => origin,
    };
    let shape = Tiles::<C>::shape(call, call.plan.len, origin);
    // Tiles begin where lines of the output do, which only then can be written past the cache.
    let (address, size) = (out.array().address(), out.array().dtype.size());
    let early = if store == Store::Streaming { call.plan.past_line(OUT, address, size) } else { 0 };
    let cut = Cut { early, ..Cut::rows(call.rows_per_task().next_multiple_of(unit(call, shape, early))) };
    for_each_part(call, out, cut, interrupt, &|part| {
        let tiles = Tiles::new(call, reader, shape)?;
        let past = store == Store::Streaming && tiles.dense && part.is_dense::<C>();
        // Vectors reach over the end of the last row.
        let past = scratch(if past { (shape.0 + 1) * call.plan.len + C::LANES } else { 0 })?;
        let maps = lines::maps(&reader) && !tiles.dense;
        let parts = scratch(if maps { lines::room::<C>(shape.0) } else { 0 })?;
        let places = scratch(if tiles.places.is_some() { lines::room_of_narrow::<C>() } else { 0 })?;
        let abreast = Abreast::new::<F>(call, &reader, &part, store)?;
        let function = PhantomData;
        dispatch(call.level, MapTiles::<F, C> { tiles, early, past, parts, places, abreast, part, store, function });
        Ok(())
    })
}

/// The rows that a task has a multiple of, where the first tile of it begins `early`.
pub(super) fn unit(call: &Call<'_>, (width, _): (usize, bool), early: usize) -> usize {
    // (No narrow matrix is taken apart.)
    if early == 0 { width.min(call.plan.lanes()) } else { width }
}

/// Whether each matrix of columns is narrow, so that it is folded as it lies if its lines are adjacent ([`FoldNarrow`]).
fn is_narrow<C: Compute>(call: &Call<'_>, reader: &Reader<'_, C>) -> bool {
    narrow::is_narrow::<C>(call.plan.lanes())
        && reader.len >= NARROW
        && reader.mask.is_none()
        && lines::maps(reader)
        && !reader.source.is_dense::<C>()
}

/// Where tiles are read from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// Rows that lie one after another.
    Rows,
    /// An array that lends the lines of a tile, whose results are then computed from there ([`MapLines`]).
    Lines,
    /// The same, where results go past the cache, and their lines begin anywhere in those of memory.
    TornLines,
    /// Any other array, or one with a mask or a temperature.
    Elsewhere,
}

impl Origin {
    pub(super) fn of<C: Compute>(reader: &Reader<'_, C>) -> Self {
        if reader.source.is_dense::<C>() {
            Self::Rows
        } else if lines::maps(reader) && reader.mask.is_none() && reader.source.lends_lines::<C>() {
            Self::Lines
        } else {
            Self::Elsewhere
        }
    }
}

/// Working memory for tiles, and how to fill it.
pub(super) struct Tiles<'a, C: Compute> {
    reader: Reader<'a, C>,
    width: usize,
    /// Of its columns, how many are in working memory at a time.
    columns: usize,
    /// Whether a tile has whole rows.
    whole: bool,
    /// Whether the rows lie one after another.
    dense: bool,
    data: Scratch<C>,
    /// Whether the present tile's rows are in working memory, as they are in the end where a tile has whole rows; or, of a
    /// narrow matrix ([`FoldNarrow`]), where they lie.
    holds: bool,
    /// Room for the folds of narrow matrices, if there are such ([`is_narrow`]).
    places: Option<Box<Places<C>>>,
    chain: Chain<C>,
    /// Room for what a fold is made of.
    room: Room<C>,
    /// The largest of each lane of the present chunk, where it is copied line by line.
    maxima: Vec<[C; LANES]>,
    /// Their temperatures: one for each, or one for all.
    temperatures: Vec<Temperature<C>>,
}

impl<'a, C: Compute> Tiles<'a, C> {
    /// The width of tiles, and whether they have whole rows, where a tile takes `len` elements for each row.
    ///
    /// Memory gives pieces of 256 bytes of a line, and takes them, twice as fast as pieces of one vector; so tiles of
    /// columns are no narrower, and wider while they stay in the second cache. A column too long for that is read chunk by
    /// chunk, and once more for its results: from the array, where that lends its lines (from the last cache, if those
    /// columns are not too long for that one, too); else a tile may fill the last cache before it comes to this.
    pub(super) fn shape(call: &Call<'_>, len: usize, from: Origin) -> (usize, bool) {
        let lanes = call.plan.lanes();
        let elements = |bytes: usize| bytes / size_of::<C>() / len;
        let (least, widest) = (GROUP * C::LANES, WIDEST * size_of::<f32>() / size_of::<C>());
        let (width, whole) = match from {
            Origin::Rows => ((SMALL / len).min(widest), true),
            Origin::TornLines => (elements(SECOND).clamp(MAPPED, 4 * MAPPED), false),
            _ if elements(SECOND) >= least => (elements(SECOND).min(widest) / least * least, true),
            Origin::Elsewhere if elements(LAST) >= least => (least, true),
            _ => (2 * least, false),
        };
        // No wider than the rows, and all threads have some.
        let most = lanes.div_ceil(if call.plan.rows > lanes { 1 } else { call.threads });
        let width = width.min(most).next_multiple_of(C::LANES);
        (width, whole)
    }

    pub(super) fn new(call: &Call<'_>, reader: Reader<'a, C>, (width, whole): (usize, bool)) -> Result<Self> {
        let lanes = call.plan.lanes();
        let dense = reader.source.is_dense::<C>();
        let columns = if whole { width } else { width.min(GROUP * C::LANES) };
        let mut data = scratch(columns * if whole { reader.len } else { CHUNK })?;
        let places = is_narrow(call, &reader).then(|| Box::new(Places::new()));
        // Lanes past the rows are computed too, and nobody reads what comes of it. (Of a narrow matrix: when it comes to this.)
        if !lanes.is_multiple_of(C::LANES) && places.is_none() {
            data.fill(C::ZERO);
        }
        let distinct = if matches!(reader.temperatures, super::Temperatures::All(_)) { 1 } else { width };
        let temperatures = vec![reader.temperatures.of(0); distinct];
        Ok(Self {
            reader,
            width,
            columns,
            whole,
            dense,
            data,
            holds: whole,
            places,
            chain: Chain::new(width / C::LANES, reader.len),
            room: Room::new(),
            maxima: vec![[C::ZERO; LANES]; if dense { 0 } else { columns / C::LANES }],
            temperatures,
        })
    }

    /// The fold of a row of the present tile.
    #[inline(always)]
    pub(super) fn get(&self, lane: usize) -> Fold<C> {
        self.chain.rows[lane / C::LANES].get(lane % C::LANES)
    }

    /// The folds of a strip of the present tile.
    #[inline(always)]
    pub(super) fn folds(&self, strip: usize) -> &Folds<C> {
        &self.chain.rows[strip]
    }

    /// The rows of the tile that begins with `first`, of rows that end at `end`.
    pub(super) fn lanes_from(&self, first: usize, end: usize) -> usize {
        self.reader.source.lanes_from(first, end, self.width)
    }

    /// The folds of `lanes` rows from `first` on. The logits are in working memory afterwards, if a tile has whole rows.
    #[inline(always)]
    pub(super) fn fold<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        token.call(FoldTile::<C> { tiles: self, first, lanes });
    }

    #[inline(always)]
    fn fold_inlined<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.reader.len;
        let count = lanes.div_ceil(C::LANES);
        self.holds = self.whole;
        if self.places.is_some() {
            if self.fold_narrow(token, first, lanes) {
                self.holds = false;
                return;
            }
            self.data.fill(C::ZERO);
        }
        if self.temperatures.len() > 1 {
            for lane in 0..lanes {
                self.temperatures[lane] = self.reader.temperatures.of(first + lane);
            }
        }
        let mut fixed: Option<Vec<[_; LANES]>> = None;
        loop {
            for at in (0..len).step_by(CHUNK) {
                for column in (0..lanes).step_by(self.columns) {
                    self.fold_chunk(token, (first, lanes), at, column, fixed.as_deref());
                }
            }
            if fixed.is_some() {
                return;
            }
            for index in 0..count {
                let within = C::LANES.min(lanes - index * C::LANES);
                if !self.chain.rows[index].alike
                    && let Some(retry) = self.chain.rows[index].retry(of_strip(&self.temperatures, index), within)
                {
                    fixed.get_or_insert_with(|| vec![[None; LANES]; count])[index] = retry;
                }
            }
            if fixed.is_none() {
                return;
            }
        }
    }

    /// The folds of one chunk of some columns of a tile, as many as are in working memory at a time.
    #[inline(always)]
    fn fold_chunk<S: Simd>(
        &mut self,
        token: S,
        (first, lanes): (usize, usize),
        at: usize,
        column: usize,
        fixed: Option<&[[Option<Shift<C>>; LANES]]>,
    ) {
        let len = self.reader.len;
        let some = self.columns.min(lanes - column);
        let tile = self.at(first + column, some, at, CHUNK.min(len - at));
        let searched = self.read(token, tile);
        let (next_at, next_column) = if column + some < lanes { (at, column + some) } else { (at + tile.len, 0) };
        let next_lanes = self.columns.min(lanes - next_column);
        let next = self.at(first + next_column, next_lanes, next_at, CHUNK.min(len - next_at));
        let source = self.reader.source;
        let lines = if next.len > 0 { source.lines::<C>(next) } else { None };
        let strips = some.div_ceil(C::LANES);
        for within in 0..strips {
            let index = column / C::LANES + within;
            let strip = self.strip(within, tile.start, tile.len);
            let next = lines.as_ref().map_or(Next::NONE, |lines| {
                let line = tile.len / strips * within;
                Next { line: lines.get(0), pitch: lines.pitch(), width: next.lanes, at: (line, 0) }
            });
            let fixed = fixed.map(|fixed| &fixed[index]);
            let folds = self.chain.of_chunk(index, at);
            let temperatures = of_strip(&self.temperatures, index);
            let (tile, room) = (&self.data[..], &mut self.room);
            let max = searched.then(|| &self.maxima[within]);
            token.call(FoldStrip { tile, strip, temperatures, fixed, max, folds, room, next });
            self.chain.join(index, at);
        }
    }

    /// The folds of `lanes` rows from `first` on that are the columns of a narrow matrix, from where they lie. False where they
    /// are none, or some row needs more.
    #[inline(always)]
    fn fold_narrow<S: Simd>(&mut self, token: S, first: usize, lanes: usize) -> bool {
        let lines = self.reader.source.lines::<C>(self.at(first, lanes, 0, self.reader.len));
        let Self { places: Some(places), chain, temperatures, .. } = self else { return false };
        let Some(x) = lines.as_ref().and_then(Lines::together) else { return false };
        for (index, x) in x.chunks(CHUNK * lanes).enumerate() {
            let (at, temperature, places) = (index * CHUNK, &temperatures[0], &mut **places);
            let folds = chain.of_chunk(0, at);
            if !token.call(FoldNarrow { x, width: lanes, temperature, places, folds }) {
                return false;
            }
            chain.join(0, at);
        }
        true
    }

    /// The tile's place in the array.
    fn at(&self, first: usize, lanes: usize, start: usize, len: usize) -> Tile {
        Tile { first, lanes, start, len, pitch: self.columns }
    }

    /// Where the line of a row's element is in working memory.
    #[inline(always)]
    fn offset(&self, start: usize) -> usize {
        if self.whole { start * self.columns } else { 0 }
    }

    /// The columns of one vector of those in working memory, from the line of an element on.
    #[inline(always)]
    fn strip(&self, index: usize, start: usize, rows: usize) -> Strip {
        Strip { first: self.offset(start) + index * C::LANES, rows, pitch: self.columns }
    }

    /// Copies a tile into working memory; places that the mask leaves out become minus infinity. Returns whether `maxima`
    /// has the largest of each lane.
    #[inline(always)]
    fn read<S: Simd>(&mut self, token: S, tile: Tile) -> bool {
        let source = self.reader.source;
        let offset = self.offset(tile.start);
        let data = &mut self.data[offset..];
        let (mut done, mut searched) = (0, false);
        if S::COMPACT {
            // The way below is as fast.
        } else if self.dense && tile.len == self.reader.len {
            let x = source.rows_dense_from::<C>(tile.first);
            done = token.call(ReadRows { x, rows: tile.lanes, len: tile.len, tile: data, pitch: tile.pitch });
        } else if let Some(lines) = source.lines::<C>(tile) {
            token.call(ReadLines { lines, tile, data, maxima: &mut self.maxima[..tile.lanes.div_ceil(C::LANES)] });
            (done, searched) = (tile.lanes, true);
        }
        if done < tile.lanes {
            source.read_tile(tile.after(done), &mut data[done..]);
        }
        if let Some(mask) = self.reader.mask {
            mask.exclude_tile(tile, data, C::NEG_INFINITY);
            return false;
        }
        searched
    }
}

/// The folds of a tile's rows, strip by strip, made as [`fold::fold_row`](crate::kernel::fold) makes one: chunks make blocks,
/// and blocks make the row.
struct Chain<C: Compute> {
    len: usize,
    rows: Vec<Folds<C>>,
    /// Their present blocks.
    blocks: Vec<Folds<C>>,
    /// A chunk.
    chunk: Folds<C>,
}

impl<C: Compute> Chain<C> {
    fn new(strips: usize, len: usize) -> Self {
        let rows = vec![Folds::empty(); strips];
        Self { len, blocks: rows.clone(), rows, chunk: Folds::empty() }
    }

    /// Where the folds of a strip's chunk belong that begins with element `at`.
    #[inline(always)]
    fn of_chunk(&mut self, strip: usize, at: usize) -> &mut Folds<C> {
        match at.is_multiple_of(BLOCK) {
            true if self.len <= CHUNK => &mut self.rows[strip],
            true => &mut self.blocks[strip],
            false => &mut self.chunk,
        }
    }

    /// Adds that chunk to those before it.
    #[inline(always)]
    fn join(&mut self, strip: usize, at: usize) {
        if !at.is_multiple_of(BLOCK) {
            self.blocks[strip].add(&self.chunk);
        }
        let next = at + CHUNK;
        if self.len <= CHUNK || (next < self.len && !next.is_multiple_of(BLOCK)) {
            return;
        }
        if at < BLOCK {
            self.rows[strip] = self.blocks[strip];
        } else {
            let block = self.blocks[strip];
            self.rows[strip].add(&block);
        }
    }
}

/// The temperatures of a strip: one for all, or one for each lane.
#[inline(always)]
fn of_strip<C: Compute>(temperatures: &[Temperature<C>], strip: usize) -> &[Temperature<C>] {
    if temperatures.len() == 1 { temperatures } else { &temperatures[strip * C::LANES..] }
}

/// The arguments of [`Tiles::fold`].
struct FoldTile<'t, 'a, C: Compute> {
    tiles: &'t mut Tiles<'a, C>,
    first: usize,
    lanes: usize,
}

impl<C: Compute> Kernel for FoldTile<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        self.tiles.fold_inlined::<S>(token, self.first, self.lanes);
    }
}

/// The rows of a task.
struct MapTiles<'a, F, C: Compute> {
    tiles: Tiles<'a, C>,
    /// Rows by which tiles begin earlier than at a multiple of their width.
    early: usize,
    /// Room for the results of a tile on their way past the cache, or nothing.
    past: Scratch<C>,
    /// Room for what differs between the columns of [`MapLines`], or nothing.
    parts: Scratch<C>,
    /// The same between the places of a narrow matrix, or nothing.
    places: Scratch<C>,
    abreast: Abreast<C>,
    part: Part<'a>,
    store: Store,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for MapTiles<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            first += self.abreast.write::<S, F>(token, &self.tiles.reader, &mut self.part, first);
            if first == self.part.rows.end {
                break;
            }
            let width = self.tiles.width;
            let end =
                if self.early == 0 { usize::MAX } else { (first + self.early) / width * width + width - self.early };
            let lanes = self.tiles.lanes_from(first, self.part.rows.end.min(end));
            self.tiles.fold::<S>(token, first, lanes);
            self.write(token, first, lanes);
            first += lanes;
        }
        token.fence();
    }
}

impl<F: Function, C: Compute> MapTiles<'_, F, C> {
    #[inline(always)]
    fn write<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.tiles.reader.len;
        let count = lanes.div_ceil(C::LANES);
        let alike = F::Row::<C>::BY_LANES && self.tiles.chain.rows[..count].iter().all(|folds| folds.alike);
        let step = match (alike, self.tiles.whole) {
            (true, _) if len > CHUNK / 2 => WRITTEN,
            (_, true) => len,
            _ => CHUNK,
        };
        // Before anything is written: in place, logits that are to be read for this give way to results.
        let mut results = Vec::new();
        if !alike {
            for index in 0..count {
                let (lane, folds) = (index * C::LANES, self.tiles.folds(index));
                let count = C::LANES.min(lanes - lane);
                results.push(self.tiles.reader.complete_each::<F::Row<C>, S>(token, first + lane, count, folds));
            }
        }
        if self.map_lines::<S>(token, self.tiles.at(first, lanes, 0, len), &results) {
            return;
        }
        for start in (0..len).step_by(step) {
            for column in (0..lanes).step_by(self.tiles.columns) {
                let some = self.tiles.columns.min(lanes - column);
                let tile = self.tiles.at(first + column, some, start, step.min(len - start));
                self.write_tile(token, tile, column / C::LANES, &results);
            }
        }
    }

    /// The results of some columns, whose first strip has this number, by way of working memory.
    #[inline(always)]
    fn write_tile<S: Simd>(&mut self, token: S, tile: Tile, first: usize, results: &[[F::Row<C>; LANES]]) {
        if !self.tiles.holds {
            self.tiles.read(token, tile);
        }
        for within in 0..tile.lanes.div_ceil(C::LANES) {
            let (index, strip) = (first + within, self.tiles.strip(within, tile.start, tile.len));
            let Tiles { data, temperatures, chain, .. } = &mut self.tiles;
            let from = results.get(index).map_or(Strips::Alike(&chain.rows[index]), Strips::Each);
            let temperatures = of_strip(temperatures, index);
            token.call(column::Write { tile: data, strip, temperatures, from });
        }
        self.exclude(tile, first);
        self.store(token, tile);
    }

    /// The results of a tile of whole columns, straight to where they belong, if they are alike, have no temperature, and
    /// lie in lines.
    #[inline(always)]
    fn map_lines<S: Simd>(&mut self, token: S, tile: Tile, results: &[[F::Row<C>; LANES]]) -> bool {
        let Tiles { reader, holds, dense, data, chain, temperatures, .. } = &self.tiles;
        let strips = &chain.rows[..tile.lanes.div_ceil(C::LANES)];
        if S::COMPACT || !lines::maps(reader) || *dense || !strips.iter().all(|folds| folds.alike) {
            return false;
        }
        let Some(out) = self.part.lines::<C>(tile) else { return false };
        let (temperature, streams) = (&temperatures[0], self.store == Store::Streaming);
        let (parts, places, function) = (&mut self.parts[..], &mut self.places[..], PhantomData::<F>);
        let logits = match (holds, reader.mask) {
            (true, _) => Some(Lines::of(data, tile.pitch, tile.len, tile.lanes.next_multiple_of(C::LANES))),
            (false, None) => reader.source.lines::<C>(tile),
            (false, Some(_)) => None,
        };
        let Some(logits) = logits else { return false };
        token.call(MapLines { logits, out, tile, temperature, strips, results, parts, places, streams, function });
        true
    }

    /// Copies a tile of results to where they belong.
    #[inline(always)]
    fn store<S: Simd>(&mut self, token: S, tile: Tile) {
        let (Tile { first, lanes: rows, len, pitch, .. }, streams) = (tile, self.store == Store::Streaming);
        let data = &self.tiles.data[self.tiles.offset(tile.start)..];
        let mut done = 0;
        if S::COMPACT {
            // The way below is as fast.
        } else if !self.past.is_empty() {
            token.call(WriteRows { tile: data, pitch, out: &mut self.past, rows, len });
            copy_streaming(token, &self.past[..rows * len], self.part.rows_dense::<C>(first, rows, 0..len));
            return;
        } else if len == self.tiles.reader.len && self.part.is_dense::<C>() {
            // In place, later rows are logits still.
            let later = if self.tiles.dense { self.part.rows.end - first } else { rows };
            let out = self.part.rows_dense::<C>(first, later, 0..len);
            done = token.call(WriteRows { tile: data, pitch, out, rows, len });
        } else if let Some(lines) = self.part.lines::<C>(tile) {
            token.call(WriteLines { lines, tile, data, streams });
            return;
        }
        if done < rows {
            self.part.write_tile(tile.after(done), &data[done..]);
        }
    }

    /// Puts the result for excluded places into lanes of which the mask keeps none, and into lanes that are
    /// otherwise NaN, of a tile whose first strip has this number. (Elsewhere they have it already, as the result of minus
    /// infinity.)
    fn exclude(&mut self, tile: Tile, first: usize) {
        let Some(mask) = self.tiles.reader.mask else { return };
        let (excluded, offset) = (C::from_f64(F::EXCLUDED), self.tiles.offset(tile.start));
        let mut undefined = false;
        for lane in 0..tile.lanes {
            let fold = self.tiles.get(first * C::LANES + lane);
            if self.tiles.reader.is_vacant(tile.first + lane, &fold) {
                let data = &mut self.tiles.data[offset + lane..];
                data.iter_mut().step_by(tile.pitch).take(tile.len).for_each(|x| *x = excluded);
            }
            undefined |= fold.nan || fold.max == C::INFINITY || fold.max == C::NEG_INFINITY;
        }
        if undefined {
            mask.exclude_tile(tile, &mut self.tiles.data[offset..], excluded);
        }
    }
}
