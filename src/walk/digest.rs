//! Rows that end in a few values each, gathered chunk by chunk: nothing of the size of the logits is written.
//!
//! Every layout is brought to the same kernel, one row's chunk of at most 1,024 logits that lie one after another:
//! where they lie, copied block by block, or, where the axis is not the last, out of a tile of a vector's width that
//! is copied lane by lane. A row's chunks come in order; those of a block are gathered before they join the row, so
//! that threads may share a row block by block. The bits are therefore the same every way.

use std::ops::Range;
use std::sync::Mutex;

use super::reader::Reader;
use super::{Arguments, Call, Interrupt, LABELS, OUT, Way, check_out, share};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::Shift;
use crate::kernel::fold::{BLOCK, CHUNK, Fold};
use crate::kernel::log_row::Logits;
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, Cut, Part, Scratch, Target, Tile, View, ViewMut, scratch, zeros};
use crate::options::Options;
use crate::shape::{Axis, OPERANDS, Plan, Shape, Strides, display};
use crate::simd::{Kernel, Simd, dispatch};

/// The outputs' numbers in the plan; there are no labels here.
const VALUES: usize = OUT;
const INDICES: usize = LABELS;

/// Elements from one lane of a tile to the next, once it lies row by row: not a power of two, of which a cache could
/// keep few.
const COLUMN: usize = CHUNK + 16;

/// Lines of a tile that are turned at a time.
const SQUARE: usize = 16;

/// The blocks of a row that threads gather before they are merged: bounded memory for a row of any length.
const WAVE: usize = 256;

/// A function that makes a few values of a row.
pub(crate) trait Digest: Sync {
    /// What is kept of some logits of a row.
    type State<C: Compute>: Send;

    /// Working memory for rows of this length.
    fn state<C: Compute>(&self, len: usize) -> Result<Self::State<C>>;
    /// Whether blocks may be gathered side by side: their states must be small.
    fn is_small(&self) -> bool;
    /// Forgets all logits; the next are summed up with this base.
    fn reset<C: Compute>(&self, state: &mut Self::State<C>, base: C);
    /// Adds logits that come next.
    fn add<S: Simd, C: Compute>(&self, token: S, state: &mut Self::State<C>, chunks: Chunks<'_, C>);
    /// Adds the block that comes next.
    fn merge<C: Compute>(&self, row: &mut Self::State<C>, block: &mut Self::State<C>, temperature: &Temperature<C>);
    /// The fold of the logits; its sum need not be there.
    fn fold<C: Compute>(&self, state: &Self::State<C>) -> Fold<C>;
    /// The values of a row that is complete.
    fn finish<S: Simd, C: Compute>(
        &self,
        token: S,
        state: &mut Self::State<C>,
        row: Complete<'_, C>,
        values: &mut [C],
        indices: &mut [i64],
    );
}

/// Some chunks of a row.
#[derive(Clone, Copy)]
pub(crate) struct Chunks<'a, C> {
    /// At most [`BLOCK`] logits; if these are not the row's last, a multiple of [`CHUNK`].
    pub(crate) x: &'a [C],
    /// The place of the first.
    pub(crate) first: usize,
    /// The row's temperature.
    pub(crate) temperature: &'a Temperature<C>,
    /// The shift of all chunks, if the row is read again.
    pub(crate) fixed: Option<Shift<C>>,
    /// Elements to ask for ahead.
    pub(crate) ahead: Ahead,
}

/// What else is known of a complete row.
pub(crate) struct Complete<'a, C: Real> {
    pub(crate) temperature: &'a Temperature<C>,
    /// Whether the mask keeps none of its places, or it has none.
    pub(crate) vacant: bool,
    pub(crate) logits: Logits<'a, C>,
    /// Whether the mask leaves out this place of the row.
    pub(crate) is_excluded: &'a dyn Fn(usize) -> bool,
}

/// Where the values go.
pub(crate) struct Outputs<'o, 'v, 'i> {
    /// The logits' shape with `width` in the place of the axis, or 1 in the place of every axis.
    pub(crate) values: &'o mut ViewMut<'v>,
    /// As `values`, of int64.
    pub(crate) indices: Option<&'o mut ViewMut<'i>>,
    /// The number of values of a row.
    pub(crate) width: usize,
}

/// The shape of the values.
pub(crate) fn shape(x: &[usize], reduced: &[bool], width: usize) -> Shape {
    x.iter().zip(reduced).map(|(len, is_axis)| if *is_axis { width } else { *len }).collect()
}

/// The strides of an output along the logits' outer dimensions, and along the axis.
fn strides(output: &View<'_>, reduced: &[bool]) -> (Strides, isize) {
    let dims = output.strides.iter().zip(reduced);
    let along = dims.clone().find(|(_, is_axis)| **is_axis).map_or(0, |(stride, _)| *stride);
    (dims.map(|(stride, is_axis)| if *is_axis { 0 } else { *stride }).collect(), along)
}

/// Computes `digest` of the rows of `x`.
pub(crate) fn run<D: Digest>(
    digest: &D,
    x: &View<'_>,
    outputs: Outputs<'_, '_, '_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    options.guarded(|options| run_guarded(digest, x, outputs, axis, options))
}

fn run_guarded<D: Digest>(
    digest: &D,
    x: &View<'_>,
    outputs: Outputs<'_, '_, '_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    let Outputs { values, indices, width } = outputs;
    let reduced = axis.reduced(x.shape.len())?;
    let expected = shape(&x.shape, &reduced, width);
    let empty = expected.contains(&0);
    if !empty || values.array().shape != expected {
        check_out(values, &expected)?;
    }
    let arguments = Arguments::new(x, &reduced, options)?;
    let copies = arguments.copies(values, false)?;
    let mut arguments = copies.replace(&arguments);
    let (value_strides, values_along) = strides(values.array(), &reduced);
    let (mut index_strides, mut indices_along) = (None, 0);
    let more_copies;
    if let Some(indices) = &indices {
        check_indices(indices, &expected, values)?;
        more_copies = arguments.copies(indices, false)?;
        arguments = more_copies.replace(&arguments);
        let (outer, along) = strides(indices.array(), &reduced);
        (index_strides, indices_along) = (Some(outer), along);
    }
    let call = arguments.call(&value_strides, &reduced, [index_strides.as_deref(), None], options, false)?;
    if empty || call.plan.rows == 0 {
        return Ok(());
    }
    let mut along = [0; OPERANDS];
    (along[VALUES], along[INDICES]) = (values_along, indices_along);
    let results = call.plan.with_axis(width, along);
    let in_f64 = call.computes_in_f64(values.array().dtype);
    let targets = Targets { values, indices, results: &results };
    if in_f64 {
        rows::<D, f64>(digest, &call, targets, options.interrupt)
    } else {
        rows::<D, f32>(digest, &call, targets, options.interrupt)
    }
}

/// Refuses an output that cannot take the indices.
fn check_indices(indices: &ViewMut<'_>, shape: &[usize], values: &ViewMut<'_>) -> Result<()> {
    let array = indices.array();
    if array.shape.as_slice() != shape || array.dtype != DType::I64 {
        return Err(Error::Value(format!(
            "indices have shape {} and dtype {}, but the result has shape {} and dtype int64",
            display(&array.shape),
            array.dtype.name(),
            display(shape)
        )));
    }
    if !shape.contains(&0) && (!indices.is_injective() || array.overlaps(values.array())) {
        return Err(Error::Value("indices overlap themselves or the values; pass an array of their own".into()));
    }
    Ok(())
}

/// The outputs and their plan.
struct Targets<'a, 'v, 'i> {
    values: &'a mut ViewMut<'v>,
    indices: Option<&'a mut ViewMut<'i>>,
    results: &'a Plan,
}

fn rows<D: Digest, C: Compute>(
    digest: &D,
    call: &Call<'_>,
    targets: Targets<'_, '_, '_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let len = call.plan.len;
    let width = targets.results.len;
    let way = if len == 0 { Way::Rows } else { call.way::<C>() };
    let across = len > 0 && call.is_across();
    let shared = way == Way::Blocks && digest.is_small();
    let rows = match way {
        _ if len == 0 => call.plan.rows,
        Way::Blocks => 1,
        _ if across => call.rows_per_task().next_multiple_of(C::LANES),
        _ => call.rows_per_task(),
    };
    let cut = Cut::rows(rows);
    let values = Target::new(targets.values, targets.results, VALUES, false, cut)?;
    let indices = targets.indices.map(|view| Target::new(view, targets.results, INDICES, false, cut)).transpose()?;
    let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len };
    let lent = mask.is_none() && source.lends::<C>();
    let lanes = if across { C::LANES } else { 1 };
    let task = |index: usize, inner: Option<Interrupt<'_>>| {
        let mut states = Vec::new();
        for _ in 0..lanes {
            states.push((digest.state::<C>(len)?, digest.state::<C>(len.min(BLOCK))?));
        }
        let room = if across { lanes * (CHUNK + COLUMN) } else { len.min(BLOCK) };
        let rows = Rows {
            digest,
            call,
            reader,
            lent,
            states,
            room: scratch(if lent && !across { 0 } else { room })?,
            values: values.part(index),
            indices: indices.as_ref().map(|indices| indices.part(index)),
            row_values: scratch(width)?,
            row_indices: zeros(width)?,
        };
        match inner {
            Some(interrupt) => rows.shared(interrupt),
            None if across => dispatch(call.level, Tiles(rows)),
            None => dispatch(call.level, rows),
        }
        .map(drop)
    };
    if shared {
        return (0..values.parts()).try_for_each(|index| task(index, Some(interrupt)));
    }
    share(call.threads, values.parts(), interrupt, &|index| task(index, None))
}

impl Call<'_> {
    /// Whether neighbouring rows lie closer together than the elements of one.
    fn is_across(&self) -> bool {
        let lanes = self.plan.outer.last().map(|dim| (dim.len, dim.strides[super::X].unsigned_abs()));
        match (self.plan.axis_stride(super::X), lanes) {
            (Some(stride), Some((lanes, lane))) => {
                lanes > 1 && lane < stride.unsigned_abs() && stride != self.x.dtype.size().cast_signed()
            }
            _ => false,
        }
    }
}

/// The rows of a task.
struct Rows<'a, D: Digest, C: Compute> {
    digest: &'a D,
    call: &'a Call<'a>,
    reader: Reader<'a, C>,
    /// Whether rows are read where they lie.
    lent: bool,
    /// For each lane, what is kept of a row and of one of its blocks.
    states: Vec<(D::State<C>, D::State<C>)>,
    /// Room for a block, or for a tile and its lanes.
    room: Scratch<C>,
    values: Part<'a>,
    indices: Option<Part<'a>>,
    row_values: Scratch<C>,
    row_indices: Vec<i64>,
}

impl<D: Digest, C: Compute> Kernel for Rows<'_, D, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<()> {
        for row in self.values.rows.clone() {
            let temperature = self.reader.temperatures.of(row);
            let mut fixed = None;
            loop {
                self.row(token, row, &temperature, fixed);
                match self.digest.fold(&self.states[0].0).retry(&temperature) {
                    Some(shift) if fixed.is_none() => fixed = Some(shift),
                    _ => break,
                }
            }
            self.finish(token, row, 0, &temperature);
        }
        Ok(())
    }
}

impl<D: Digest, C: Compute> Rows<'_, D, C> {
    /// Gathers a row.
    #[inline(always)]
    fn row<S: Simd>(&mut self, token: S, row: usize, temperature: &Temperature<C>, fixed: Option<Shift<C>>) {
        let base = fixed.map_or(C::ZERO, |shift| shift.base);
        let reader = self.reader;
        let (state, part) = &mut self.states[0];
        self.digest.reset(state, base);
        if reader.len <= BLOCK {
            let block = Block { row, elements: 0..reader.len, temperature, fixed };
            block.gather(token, self.digest, reader, self.lent, &mut self.room, state);
            return;
        }
        for elements in reader.blocks() {
            self.digest.reset(part, base);
            let block = Block { row, elements, temperature, fixed };
            block.gather(token, self.digest, reader, self.lent, &mut self.room, part);
            self.digest.merge(state, part, temperature);
        }
    }

    /// The values of a row whose state is that of a lane.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, token: S, row: usize, lane: usize, temperature: &Temperature<C>) {
        let reader = self.reader;
        let state = &mut self.states[lane].0;
        let vacant = reader.len == 0 || reader.is_vacant(row, &self.digest.fold(state));
        let copy = |start: usize, to: &mut [C]| reader.copy(token, row, start..start + to.len(), to);
        let logits = Logits { len: reader.len, copy: &copy };
        let is_excluded = |place: usize| {
            let mut kept = [C::from_f64(1.0)];
            reader.mask.inspect(|mask| mask.read(row, place, &mut kept));
            kept[0] == C::ZERO
        };
        let complete = Complete { temperature, vacant, logits, is_excluded: &is_excluded };
        self.digest.finish(token, state, complete, &mut self.row_values, &mut self.row_indices);
        self.values.write(row, 0, &self.row_values);
        if let Some(indices) = &mut self.indices {
            indices.write_indices(row, 0, &self.row_indices);
        }
    }

    /// The one row of a task, gathered by all threads.
    fn shared(mut self, interrupt: Interrupt<'_>) -> Result<()> {
        let row = self.values.rows.start;
        let temperature = self.reader.temperatures.of(row);
        let mut fixed = None;
        loop {
            self.gather_shared(row, &temperature, fixed, interrupt)?;
            match self.digest.fold(&self.states[0].0).retry(&temperature) {
                Some(shift) if fixed.is_none() => fixed = Some(shift),
                _ => break,
            }
        }
        dispatch(self.call.level, Finish { rows: self, row, temperature: &temperature });
        Ok(())
    }

    /// [`Rows::row`] on all threads.
    fn gather_shared(
        &mut self,
        row: usize,
        temperature: &Temperature<C>,
        fixed: Option<Shift<C>>,
        interrupt: Interrupt<'_>,
    ) -> Result<()> {
        let base = fixed.map_or(C::ZERO, |shift| shift.base);
        let (digest, call, reader, lent) = (self.digest, self.call, self.reader, self.lent);
        let state = &mut self.states[0].0;
        digest.reset(state, base);
        let blocks = reader.len.div_ceil(BLOCK);
        for first in (0..blocks).step_by(WAVE) {
            let count = WAVE.min(blocks - first);
            let parts: Vec<Mutex<Option<D::State<C>>>> = (0..count).map(|_| Mutex::new(None)).collect();
            share(call.threads, count, interrupt, &|index| {
                let start = (first + index) * BLOCK;
                let elements = start..(start + BLOCK).min(reader.len);
                let mut part = digest.state(BLOCK)?;
                digest.reset(&mut part, base);
                let room = scratch(if lent { 0 } else { elements.len() })?;
                let block = Block { row, elements, temperature, fixed };
                dispatch(call.level, Gather { block, digest, reader, lent, room, state: &mut part });
                if let Ok(mut slot) = parts[index].lock() {
                    *slot = Some(part);
                }
                Ok(())
            })?;
            for part in parts {
                match part.into_inner() {
                    Ok(Some(mut part)) => digest.merge(state, &mut part, temperature),
                    _ => return Err(Error::Internal("a block of a row was not gathered".into())),
                }
            }
        }
        Ok(())
    }
}

/// A block of a row.
struct Block<'a, C> {
    row: usize,
    elements: Range<usize>,
    temperature: &'a Temperature<C>,
    fixed: Option<Shift<C>>,
}

impl<C: Compute> Block<'_, C> {
    /// Adds its chunks to a state.
    #[inline(always)]
    fn gather<S: Simd, D: Digest>(
        self,
        token: S,
        digest: &D,
        reader: Reader<'_, C>,
        lent: bool,
        room: &mut [C],
        state: &mut D::State<C>,
    ) {
        let Self { row, elements, temperature, fixed } = self;
        let start = elements.start;
        let block = if lent {
            reader.source.row(row, elements)
        } else {
            let room = &mut room[..elements.len()];
            reader.copy(token, row, elements, room);
            room
        };
        let ahead = if lent { Ahead::ONCE } else { Ahead::NONE };
        digest.add(token, state, Chunks { x: block, first: start, temperature, fixed, ahead });
    }
}

/// [`Block::gather`] as a task of its own.
struct Gather<'a, D: Digest, C: Compute> {
    block: Block<'a, C>,
    digest: &'a D,
    reader: Reader<'a, C>,
    lent: bool,
    room: Scratch<C>,
    state: &'a mut D::State<C>,
}

impl<D: Digest, C: Compute> Kernel for Gather<'_, D, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        self.block.gather(token, self.digest, self.reader, self.lent, &mut self.room, self.state);
    }
}

/// [`Rows::finish`] as a task of its own.
struct Finish<'a, 'r, D: Digest, C: Compute> {
    rows: Rows<'r, D, C>,
    row: usize,
    temperature: &'a Temperature<C>,
}

impl<D: Digest, C: Compute> Kernel for Finish<'_, '_, D, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        self.rows.finish(token, self.row, 0, self.temperature);
    }
}

/// Rows that lie across each other: a vector's width of them at a time.
struct Tiles<'a, D: Digest, C: Compute>(Rows<'a, D, C>);

impl<D: Digest, C: Compute> Kernel for Tiles<'_, D, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Result<()> {
        let mut rows = self.0;
        let mut first = rows.values.rows.start;
        while first < rows.values.rows.end {
            let lanes = rows.call.plan.lanes_from(first, rows.values.rows.end, C::LANES);
            let mut temperatures = [Temperature::new(1.0); 16];
            for (lane, temperature) in temperatures.iter_mut().enumerate().take(lanes) {
                *temperature = rows.reader.temperatures.of(first + lane);
            }
            let mut fixed = [None; 16];
            let mut again = false;
            loop {
                rows.tile(token, first, lanes, &temperatures, &fixed);
                if again {
                    break;
                }
                for lane in 0..lanes {
                    fixed[lane] = rows.digest.fold(&rows.states[lane].0).retry(&temperatures[lane]);
                    again |= fixed[lane].is_some();
                }
                if !again {
                    break;
                }
            }
            for (lane, temperature) in temperatures.iter().enumerate().take(lanes) {
                rows.finish(token, first + lane, lane, temperature);
            }
            first += lanes;
        }
        Ok(())
    }
}

impl<D: Digest, C: Compute> Rows<'_, D, C> {
    /// Gathers the rows of a tile.
    #[inline(always)]
    fn tile<S: Simd>(
        &mut self,
        token: S,
        first: usize,
        lanes: usize,
        temperatures: &[Temperature<C>; 16],
        fixed: &[Option<Shift<C>>; 16],
    ) {
        let (digest, reader) = (self.digest, self.reader);
        let base = |lane: usize| fixed[lane].map_or(C::ZERO, |shift: Shift<C>| shift.base);
        let by_block = reader.len > BLOCK;
        for (lane, (state, part)) in self.states.iter_mut().enumerate().take(lanes) {
            digest.reset(state, base(lane));
            digest.reset(part, base(lane));
        }
        let (data, columns) = self.room.split_at_mut(C::LANES * CHUNK);
        for start in (0..reader.len).step_by(CHUNK) {
            let len = CHUNK.min(reader.len - start);
            let tile = Tile { first, lanes, start, len, pitch: C::LANES };
            reader.source.read_tile(tile, data);
            if let Some(mask) = reader.mask {
                mask.exclude_tile(tile, data, C::NEG_INFINITY);
            }
            // Square by square, so that both sides stay in the first cache.
            for (square, lines) in data[..len * C::LANES].chunks(SQUARE * C::LANES).enumerate() {
                let count = lines.len() / C::LANES;
                for lane in 0..C::LANES {
                    let column = &mut columns[lane * COLUMN + square * SQUARE..][..count];
                    for (to, line) in column.iter_mut().zip(lines.chunks_exact(C::LANES)) {
                        *to = line[lane];
                    }
                }
            }
            let ends_block = start + len == reader.len || (start + len) % BLOCK == 0;
            for (lane, (state, part)) in self.states.iter_mut().enumerate().take(lanes) {
                let chunk = Chunks {
                    x: &columns[lane * COLUMN..][..len],
                    first: start,
                    temperature: &temperatures[lane],
                    fixed: fixed[lane],
                    ahead: Ahead::NONE,
                };
                if !by_block {
                    digest.add(token, state, chunk);
                    continue;
                }
                digest.add(token, part, chunk);
                if ends_block {
                    digest.merge(state, part, &temperatures[lane]);
                    digest.reset(part, base(lane));
                }
            }
        }
    }
}
