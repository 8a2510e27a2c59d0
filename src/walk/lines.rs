//! Tiles of columns, line by line: copied to working memory on the way to their folds, and computed from there, or from
//! the array once more, straight to where the results belong.

use std::marker::PhantomData;

use super::Function;
use super::reader::Reader;
use crate::kernel::Temperature;
use crate::kernel::column::{Folds, LANES};
use crate::kernel::exp::Mode;
use crate::kernel::narrow::{is_narrow, repeat};
use crate::kernel::row::{Map, PARTS, Results, copy_some, copy_streaming};
use crate::memory::{Compute, Lines, LinesMut, Tile};
use crate::simd::{Kernel, LINE, Simd, Vector};

/// Vectors of a line that are taken together: memory gives pieces of 256 bytes of a line, and takes them, twice as fast as
/// pieces of one vector.
pub(super) const GROUP: usize = 4;

/// How many lines ahead memory is asked, where nobody did before.
const AHEAD: usize = 16;

/// Copies the lines of a tile into working memory, and finds the largest of each lane on the way.
pub(super) struct ReadLines<'t, 'a, C: Compute> {
    pub(super) lines: Lines<'a, C>,
    pub(super) tile: Tile,
    pub(super) data: &'t mut [C],
    pub(super) maxima: &'t mut [[C; LANES]],
}

impl<C: Compute> Kernel for ReadLines<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { lines, tile, data, maxima } = self;
        let width = GROUP * C::LANES;
        let mut start = 0;
        for maxima in maxima.chunks_mut(GROUP) {
            if start + width <= tile.lanes {
                read::<S, C, GROUP>(token, &lines, tile, (start, width), data, maxima);
            } else {
                for (index, max) in maxima.iter_mut().enumerate() {
                    let start = start + index * C::LANES;
                    let count = C::LANES.min(tile.lanes - start);
                    read::<S, C, 1>(token, &lines, tile, (start, count), data, std::slice::from_mut(max));
                }
            }
            start += width;
        }
    }
}

/// So many vectors of each line from a column on, the last of them perhaps only in part.
#[inline(always)]
fn read<S: Simd, C: Compute, const N: usize>(
    token: S,
    lines: &Lines<'_, C>,
    tile: Tile,
    (start, count): (usize, usize),
    data: &mut [C],
    maxima: &mut [[C; LANES]],
) {
    let ahead = AHEAD * lines.pitch();
    let mut max = [C::Vector::<S>::splat(token, C::NEG_INFINITY); N];
    for (index, to) in data.chunks_mut(tile.pitch).enumerate().take(tile.len) {
        let from = &lines.get(index)[start..start + count];
        let to = &mut to[start..start + N * C::LANES];
        for (j, max) in max.iter_mut().enumerate() {
            token.prefetch(from, ahead + j * C::LANES);
            let x = if count >= N * C::LANES {
                C::Vector::<S>::load(token, &from[j * C::LANES..])
            } else {
                C::Vector::<S>::load_partial(token, &from[j * C::LANES..], C::ZERO)
            };
            x.store(&mut to[j * C::LANES..]);
            *max = x.max(*max);
        }
    }
    for (max, to) in max.iter().zip(maxima) {
        max.store(to);
    }
}

/// Copies the lines of a tile from working memory to where they belong.
pub(super) struct WriteLines<'t, 'a, C> {
    pub(super) lines: LinesMut<'a, C>,
    pub(super) tile: Tile,
    pub(super) data: &'t [C],
    /// Whether past the cache, where lines of the tile are whole lines of memory.
    pub(super) streams: bool,
}

impl<C: Compute> Kernel for WriteLines<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { mut lines, tile, data, streams } = self;
        for (index, from) in data.chunks(tile.pitch).enumerate().take(tile.len) {
            let to = lines.get(index);
            let from = &from[..to.len()];
            if streams {
                copy_streaming(token, from, to);
            } else {
                copy_some(token, from, to);
            }
        }
    }
}

/// The results of columns that are alike, of temperature 1, from their logits to where they belong.
pub(super) struct MapLines<'t, 'a, F: Function, C: Compute> {
    /// In the array, or in working memory.
    pub(super) logits: Lines<'t, C>,
    pub(super) out: LinesMut<'a, C>,
    pub(super) tile: Tile,
    pub(super) temperature: &'t Temperature<C>,
    pub(super) strips: &'t [Folds<C>],
    /// Of functions that are not [`Results::BY_LANES`].
    pub(super) results: &'t [[F::Row<C>; LANES]],
    /// [`room`].
    pub(super) parts: &'t mut [C],
    /// [`room_of_narrow`], or nothing where no tile is a narrow matrix.
    pub(super) places: &'t mut [C],
    pub(super) streams: bool,
    pub(super) function: PhantomData<F>,
}

/// Whether there is code for [`MapLines`] of these rows: of float64, which is a tenth faster so, and of temperatures it
/// would add 30 KB to the wheel.
#[inline(always)]
pub(super) fn maps<C: Compute>(reader: &Reader<'_, C>) -> bool {
    size_of::<C>() == size_of::<f32>() && reader.is_of_temperature_one()
}

/// The one mode of the reduction that this takes.
const MODE: u8 = Mode::Clamped as u8;

/// Lines for which a group's constants stay in registers.
const TOGETHER: usize = 64;

/// Whether whole lines of memory are written past the cache, wherever in them the lines of a tile begin.
pub(super) const fn aligns<C: Compute>(lines: usize, columns: usize) -> bool {
    lines >= 24 && columns >= GROUP * C::LANES
}

/// Elements of room for what differs between so many columns: each of the [`PARTS`], from column to column, and a vector
/// after the last.
pub(super) const fn room<C: Compute>(columns: usize) -> usize {
    PARTS * (columns + C::LANES)
}

/// Elements of room for what differs between the places of a narrow matrix.
pub(super) const fn room_of_narrow<C: Compute>() -> usize {
    PARTS * (C::LANES + 1) * C::LANES
}

impl<F: Function, C: Compute> Kernel for MapLines<'_, '_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { logits, mut out, tile, temperature, strips, results, parts, places, streams, .. } = self;
        let apart = parts.len() / PARTS;
        let mut shared = None;
        for strip in 0..strips.len() {
            let map = if F::Row::<C>::BY_LANES {
                F::Row::<C>::alike(token, temperature, &strips[strip])
            } else {
                F::Row::<C>::lanes(token, std::slice::from_ref(temperature), &results[strip])
            };
            for (part, to) in map.parts().iter().zip(parts.chunks_exact_mut(apart)) {
                part.store(&mut to[strip * C::LANES..]);
            }
            shared = Some(map);
        }
        let Some(shared) = shared else { return };
        let (lanes, width) = (tile.lanes, GROUP * C::LANES);
        if !places.is_empty()
            && is_narrow::<C>(lanes)
            && let (Some(x), Some(out)) = (logits.together(), out.together())
            && x.len() == out.len()
        {
            return map_narrow::<S, C, _>(token, (x, out), lanes, shared, (parts, places), streams);
        }
        let aligns = streams && aligns::<C>(tile.len, lanes);
        let period = if aligns { out.period() } else { 1 };
        for first in (0..tile.len).step_by(TOGETHER) {
            let end = tile.len.min(first + TOGETHER);
            // Lines that begin alike in memory, so that whole lines of it are written past the cache.
            for line in first..end.min(first + period) {
                let lines = (line..end).step_by(period);
                let head = if aligns { C::Vector::<S>::lines(out.get(line)).0.len() } else { 0 };
                let rest = head + (lanes - head) / width * width;
                for start in (head..rest).step_by(width) {
                    let maps = [
                        with_parts::<S, C, _>(token, shared, parts, start),
                        with_parts::<S, C, _>(token, shared, parts, start + C::LANES),
                        with_parts::<S, C, _>(token, shared, parts, start + 2 * C::LANES),
                        with_parts::<S, C, _>(token, shared, parts, start + 3 * C::LANES),
                    ];
                    for line in lines.clone() {
                        let (x, to) = (&logits.get(line)[start..][..width], &mut out.get(line)[start..][..width]);
                        for strip in 0..GROUP {
                            token.prefetch(x, AHEAD * logits.pitch() + strip * C::LANES);
                        }
                        let past = streams && to.as_ptr().addr().is_multiple_of(LINE);
                        // (Not by an array of results, which would be one in memory.)
                        put::<S, C>(apply::<S, C, _>(token, &maps[0], x, 0), to, 0, past);
                        put::<S, C>(apply::<S, C, _>(token, &maps[1], x, 1), to, 1, past);
                        put::<S, C>(apply::<S, C, _>(token, &maps[2], x, 2), to, 2, past);
                        put::<S, C>(apply::<S, C, _>(token, &maps[3], x, 3), to, 3, past);
                    }
                }
                let mut start = if head > 0 { 0 } else { rest };
                while start < lanes {
                    let columns = start..if start < head { head } else { lanes.min(start + C::LANES) };
                    let map = with_parts::<S, C, _>(token, shared, parts, columns.start);
                    for line in lines.clone() {
                        let (x, to) = (&logits.get(line)[columns.clone()], &mut out.get(line)[columns.clone()]);
                        let results = map.apply::<MODE>(C::Vector::<S>::load_some(token, x, C::ZERO));
                        if streams && let (_, [line], _) = C::Vector::<S>::lines(to) {
                            results.stream(line);
                        } else {
                            results.store_some(to);
                        }
                    }
                    start = if columns.end == head { rest } else { columns.end };
                }
            }
        }
    }
}

/// The results of a matrix of a few columns, line after line, as [`narrow`](crate::kernel::narrow) folds it.
#[inline(always)]
fn map_narrow<S: Simd, C: Compute, M: Map<C::Vector<S>>>(
    token: S,
    (x, out): (&[C], &mut [C]),
    width: usize,
    shared: M,
    (parts, places): (&[C], &mut [C]),
    streams: bool,
) {
    let size = width * C::LANES;
    // What each place has, and once more what those of two vectors have.
    let of_parts = parts.chunks_exact(parts.len() / PARTS);
    for (places, part) in places.chunks_exact_mut(places.len() / PARTS).zip(of_parts) {
        repeat(C::Vector::<S>::load(token, part), width, size, places);
    }
    let (mut start, mut place) = (0, 0);
    let mut end = C::Vector::<S>::lines(out).0.len();
    while start < out.len() {
        let (x, to) = (&x[start..end], &mut out[start..end]);
        let map = with_parts::<S, C, _>(token, shared, places, place);
        let results = map.apply::<MODE>(C::Vector::<S>::load_some(token, x, C::ZERO));
        if streams && let (_, [line], _) = C::Vector::<S>::lines(to) {
            results.stream(line);
        } else {
            results.store_some(to);
        }
        place += end - start;
        place -= if place >= size { size } else { 0 };
        (start, end) = (end, out.len().min(end + C::LANES));
    }
}

/// Writes a vector of a group's results, past the cache if lines of memory begin with them.
#[inline(always)]
fn put<S: Simd, C: Compute>(results: C::Vector<S>, to: &mut [C], strip: usize, past: bool) {
    let to = &mut to[strip * C::LANES..][..C::LANES];
    if past && let (_, [line], _) = C::Vector::<S>::lines(to) {
        results.stream(line);
    } else {
        results.store(to);
    }
}

/// The results of a vector of a group's logits.
#[inline(always)]
fn apply<S: Simd, C: Compute, M: Map<C::Vector<S>>>(token: S, map: &M, x: &[C], strip: usize) -> C::Vector<S> {
    map.apply::<MODE>(C::Vector::<S>::load(token, &x[strip * C::LANES..]))
}

/// The function of a vector of columns from one on, from its parts and what all have in common.
#[inline(always)]
fn with_parts<S: Simd, C: Compute, M: Map<C::Vector<S>>>(token: S, shared: M, parts: &[C], column: usize) -> M {
    let (apart, parts) = (parts.len() / PARTS, &parts[column..]);
    shared.with_parts([
        C::Vector::<S>::load(token, parts),
        C::Vector::<S>::load(token, &parts[apart..]),
        C::Vector::<S>::load(token, &parts[2 * apart..]),
        C::Vector::<S>::load(token, &parts[3 * apart..]),
    ])
}
