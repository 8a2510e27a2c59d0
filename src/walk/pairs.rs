//! Two inputs of one shape: the forward function's result and the gradient that arrives.
//!
//! The ways are those of one input. Each operand is lent where it lies if it can be, and copied to working memory if
//! not, whatever the others are; an operand that the output replaces is always copied, a block at a time.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

use super::tiles::{Origin, Tiles as LogitTiles, WIDEST};
use super::{Arguments, Call, Interrupt, LABELS as GRAD, OUT, Way, X, check_out, for_each_part, share};
use crate::error::{Error, Result};
use crate::kernel::column::{LANES, Strip};
use crate::kernel::fold::{BLOCK, CHUNK};
use crate::kernel::gradient::{self, Folds, Gradient, Vjp};
use crate::kernel::row::Store;
use crate::memory::{Compute, Cut, Owned, Part, Scratch, Source, Target, Tile, View, ViewMut, scratch};
use crate::options::{self, Options};
use crate::shape::Axis;
use crate::simd::{Kernel, Simd, dispatch};

/// The blocks whose sums are kept until they can be added up in order.
const WAVE: usize = 4096;

/// Computes `F` of the rows of `first` and `grad` into `out`.
pub(crate) fn map<F: Vjp>(
    first: &View<'_>,
    grad: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    options.guarded(|options| map_guarded::<F>(first, grad, out, axis, options))
}

fn map_guarded<F: Vjp>(
    first: &View<'_>,
    grad: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    check_out(out, &first.shape)?;
    let reduced = axis.reduced(first.shape.len())?;
    if options.mask.is_some() || !matches!(options.temperature, options::Temperature::One) {
        return Err(Error::Value(format!(
            "a gradient takes neither a mask nor a temperature: both are in {} already",
            F::FIRST
        )));
    }

    let (first_copy, first_in_place) = apart(first, first, out)?;
    let wide = grad.broadcast(&first.shape, "grad")?;
    let (grad_copy, grad_in_place) = apart(grad, &wide, out)?;
    let arguments = Arguments {
        x: first_copy.as_ref().map_or_else(|| first.clone(), Owned::view),
        mask: None,
        temperature: options::Temperature::One,
    };
    let grad = match &grad_copy {
        Some(copy) => copy.view().broadcast(&first.shape, "grad")?,
        None => wide,
    };
    let (in_place, more) = (first_in_place || grad_in_place, [Some(grad.strides.as_slice()), None]);
    let call = arguments.call(&out.array().strides, &reduced, more, options, in_place)?;
    if call.plan.rows == 0 || call.plan.len == 0 {
        return Ok(());
    }
    let pair = Pair {
        first: Source::new(call.x.clone(), &call.plan, X, !first_in_place)?,
        grad: Source::new(grad, &call.plan, GRAD, !grad_in_place)?,
        call: &call,
    };
    let dtype = out.array().dtype;
    if call.x.dtype.promoted(pair.grad.dtype()).computes_in_f64(dtype) {
        pair.run::<F, f64>(out, options.interrupt)
    } else {
        pair.run::<F, f32>(out, options.interrupt)
    }
}

/// A copy of an operand that must not be overwritten while it is read, and whether the output is its very elements,
/// seen in the result's shape.
fn apart(operand: &View<'_>, wide: &View<'_>, out: &ViewMut<'_>) -> Result<(Option<Owned>, bool)> {
    let in_place = wide.is_same(out.array());
    let copies = !in_place && operand.overlaps(out.array());
    Ok((copies.then(|| operand.to_owned()).transpose()?, in_place))
}

/// A call with two inputs.
struct Pair<'a> {
    call: &'a Call<'a>,
    first: Source<'a>,
    grad: Source<'a>,
}

impl Pair<'_> {
    fn run<F: Vjp, C: Compute + Gradient>(&self, out: &mut ViewMut<'_>, interrupt: Interrupt<'_>) -> Result<()> {
        match self.call.way::<C>() {
            Way::Rows => self.rows::<F, C>(out, interrupt),
            Way::Tiles => self.tiles::<F, C>(out, interrupt),
            Way::Blocks => self.blocks::<F, C>(out, interrupt),
        }
    }

    /// Rows one after another.
    fn rows<F: Vjp, C: Compute + Gradient>(&self, out: &mut ViewMut<'_>, interrupt: Interrupt<'_>) -> Result<()> {
        let store = self.call.store(out.array().dtype);
        let cut = Cut::rows(self.call.rows_per_task());
        for_each_part(self.call, out, cut, interrupt, &|part| {
            let room = Room::new(self, self.call.plan.len, part.lends::<C>())?;
            dispatch(self.call.level, Rows::<F, C> { pair: self, room, part, store, function: PhantomData });
            Ok(())
        })
    }

    /// One row after another, all threads on the blocks of one.
    fn blocks<F: Vjp, C: Compute + Gradient>(&self, out: &mut ViewMut<'_>, interrupt: Interrupt<'_>) -> Result<()> {
        let Call { plan, threads, level, .. } = self.call;
        let store = self.call.store(out.array().dtype);
        let target = Target::new(out, plan, OUT, false, Cut::elements(BLOCK))?;
        let count = plan.len.div_ceil(BLOCK);
        for row in 0..plan.rows {
            let mut sum = C::Wide::default();
            for wave in (0..count).step_by(WAVE) {
                let sums: Vec<_> = (wave..(wave + WAVE).min(count)).map(|_| OnceLock::new()).collect();
                share(*threads, sums.len(), interrupt, &|index| {
                    let start = (wave + index) * BLOCK;
                    let elements = start..(start + BLOCK).min(plan.len);
                    let room = Room::new(self, elements.len(), true)?;
                    let fold = FoldBlock::<F, C> { pair: self, room, row, elements, function: PhantomData };
                    let _taken_once = sums[index].set(dispatch(*level, fold));
                    Ok(())
                })?;
                for part in sums.iter().filter_map(OnceLock::get) {
                    sum = C::join(sum, *part);
                }
            }
            share(*threads, count, interrupt, &|block| {
                let part = target.part(row * count + block);
                let room = Room::new(self, part.elements.len(), part.lends::<C>())?;
                dispatch(*level, WriteBlock::<F, C> { pair: self, room, part, sum, store, function: PhantomData });
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Tiles in which every lane is a row.
    fn tiles<F: Vjp, C: Compute + Gradient>(&self, out: &mut ViewMut<'_>, interrupt: Interrupt<'_>) -> Result<()> {
        let plan = &self.call.plan;
        // Two operands share the caches.
        let (width, whole) = LogitTiles::<C>::shape(self.call, 2 * plan.len, Origin::Elsewhere);
        let cut = Cut::rows(self.call.rows_per_task().next_multiple_of(width));
        for_each_part(self.call, out, cut, interrupt, &|part| {
            let room = width * if whole { plan.len } else { CHUNK };
            let tiles = Tiles::<F, C> {
                pair: self,
                width,
                step: if whole { plan.len } else { CHUNK },
                first: scratch(room)?,
                grad: scratch(room)?,
                part,
                function: PhantomData,
            };
            dispatch(self.call.level, tiles);
            Ok(())
        })
    }
}

/// Working memory for a block of whatever is not lent.
struct Room<C: Compute> {
    first: Scratch<C>,
    grad: Scratch<C>,
    out: Scratch<C>,
}

impl<C: Compute> Room<C> {
    fn new(pair: &Pair<'_>, len: usize, lends_out: bool) -> Result<Self> {
        let room = |lends| scratch(if lends { 0 } else { len.min(BLOCK) });
        Ok(Self { first: room(pair.first.lends::<C>())?, grad: room(pair.grad.lends::<C>())?, out: room(lends_out)? })
    }
}

/// Elements of a row: lent, or copied to `room`. Where they are there already, `fresh` says no.
#[inline(always)]
fn fetch<'s, C: Compute>(
    source: &'s Source<'_>,
    row: usize,
    elements: Range<usize>,
    room: &'s mut [C],
    fresh: bool,
) -> &'s [C] {
    if source.lends::<C>() {
        return source.row(row, elements);
    }
    let to = &mut room[..elements.len()];
    if fresh {
        source.read(row, elements.start, to);
    }
    to
}

/// The rows of a task.
struct Rows<'a, F, C: Compute> {
    pair: &'a Pair<'a>,
    room: Room<C>,
    part: Part<'a>,
    store: Store,
    function: PhantomData<F>,
}

impl<F: Vjp, C: Compute + Gradient> Kernel for Rows<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let len = self.pair.call.plan.len;
        let count = len.div_ceil(BLOCK);
        for row in self.part.rows.clone() {
            let mut sum = C::Wide::default();
            for block in 0..count {
                let elements = block * BLOCK..((block + 1) * BLOCK).min(len);
                sum = C::join(sum, fold_block::<F, S, C>(token, self.pair, &mut self.room, row, elements));
            }
            let sums = [sum; LANES];
            for block in 0..count {
                let elements = block * BLOCK..((block + 1) * BLOCK).min(len);
                let operands = Operands { pair: self.pair, room: &mut self.room, fresh: count > 1, store: self.store };
                write_block::<F, S, C>(token, operands, &mut self.part, (row, elements), &sums);
            }
        }
        token.fence();
    }
}

/// The sum over a block.
#[inline(always)]
fn fold_block<F: Vjp, S: Simd, C: Compute + Gradient>(
    token: S,
    pair: &Pair<'_>,
    room: &mut Room<C>,
    row: usize,
    elements: Range<usize>,
) -> C::Wide {
    let first = fetch(&pair.first, row, elements.clone(), &mut room.first, true);
    let grad = fetch(&pair.grad, row, elements, &mut room.grad, true);
    gradient::fold::<F, S, C>(token, first, grad)
}

/// What [`write_block`] reads from, and how it writes.
struct Operands<'a, C: Compute> {
    pair: &'a Pair<'a>,
    room: &'a mut Room<C>,
    /// Whether the working memory holds something else by now.
    fresh: bool,
    store: Store,
}

/// The results of a block.
#[inline(always)]
fn write_block<F: Vjp, S: Simd, C: Compute + Gradient>(
    token: S,
    operands: Operands<'_, C>,
    part: &mut Part<'_>,
    (row, elements): (usize, Range<usize>),
    sums: &[C::Wide; LANES],
) {
    let Operands { pair, room, fresh, store } = operands;
    let first = fetch(&pair.first, row, elements.clone(), &mut room.first, fresh);
    let grad = fetch(&pair.grad, row, elements.clone(), &mut room.grad, fresh);
    if part.lends::<C>() {
        let out = part.row(row, elements);
        gradient::write::<F, S, C>(token, (first, grad), out, sums, store);
    } else {
        let out = &mut room.out[..elements.len()];
        gradient::write::<F, S, C>(token, (first, grad), out, sums, Store::Cached);
        part.write(row, elements.start, out);
    }
}

/// The sum over a block that is a task.
struct FoldBlock<'a, F, C: Compute> {
    pair: &'a Pair<'a>,
    room: Room<C>,
    row: usize,
    elements: Range<usize>,
    function: PhantomData<F>,
}

impl<F: Vjp, C: Compute + Gradient> Kernel for FoldBlock<'_, F, C> {
    type Output = C::Wide;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> C::Wide {
        fold_block::<F, S, C>(token, self.pair, &mut self.room, self.row, self.elements)
    }
}

/// The results of a block that is a task.
struct WriteBlock<'a, F, C: Gradient + Compute> {
    pair: &'a Pair<'a>,
    room: Room<C>,
    part: Part<'a>,
    sum: C::Wide,
    store: Store,
    function: PhantomData<F>,
}

impl<F: Vjp, C: Compute + Gradient> Kernel for WriteBlock<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let place = (self.part.rows.start, self.part.elements.clone());
        let operands = Operands { pair: self.pair, room: &mut self.room, fresh: true, store: self.store };
        let sums = [self.sum; LANES];
        write_block::<F, S, C>(token, operands, &mut self.part, place, &sums);
        token.fence();
    }
}

/// The rows of a task, as tiles.
struct Tiles<'a, F, C: Compute> {
    pair: &'a Pair<'a>,
    width: usize,
    /// The elements of a row that a tile holds.
    step: usize,
    first: Scratch<C>,
    grad: Scratch<C>,
    part: Part<'a>,
    function: PhantomData<F>,
}

impl<F: Vjp, C: Compute + Gradient> Kernel for Tiles<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let lanes = self.pair.call.plan.lanes_from(first, self.part.rows.end, self.width);
            self.tile(token, first, lanes);
            first += lanes;
        }
    }
}

impl<F: Vjp, C: Compute + Gradient> Tiles<'_, F, C> {
    /// The results of `lanes` rows from `first` on.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, token: S, first: usize, lanes: usize) {
        let len = self.pair.call.plan.len;
        let strips = lanes.div_ceil(C::LANES);
        let mut folds = [Folds::<C>::empty(); WIDEST / 8];
        for start in (0..len).step_by(self.step) {
            let tile = self.read(first, lanes, start);
            for chunk in (0..tile.len).step_by(CHUNK) {
                for (index, folds) in folds.iter_mut().enumerate().take(strips) {
                    let strip = self.strip(index, chunk, CHUNK.min(tile.len - chunk));
                    folds.add::<F, S>(token, &self.first, &self.grad, strip);
                }
            }
        }
        for start in (0..len).step_by(self.step) {
            let tile = if self.step < len { self.read(first, lanes, start) } else { self.at(first, lanes, start) };
            for (index, folds) in folds.iter().enumerate().take(strips) {
                let strip = self.strip(index, 0, tile.len);
                let sums = folds.sums();
                gradient::write_strip::<F, S, C>(token, &mut self.first, &self.grad, strip, &sums);
            }
            self.part.write_tile(tile, &self.first);
        }
    }

    /// A tile's place in the arrays.
    fn at(&self, first: usize, lanes: usize, start: usize) -> Tile {
        let len = self.step.min(self.pair.call.plan.len - start);
        Tile { first, lanes, start, len, pitch: self.width }
    }

    /// Copies a tile of both operands.
    fn read(&mut self, first: usize, lanes: usize, start: usize) -> Tile {
        let tile = self.at(first, lanes, start);
        self.pair.first.read_tile(tile, &mut self.first);
        self.pair.grad.read_tile(tile, &mut self.grad);
        tile
    }

    /// The columns of one vector, from a line of the tile on.
    #[inline(always)]
    fn strip(&self, index: usize, line: usize, rows: usize) -> Strip {
        Strip { first: line * self.width + index * C::LANES, rows, pitch: self.width }
    }
}
