//! From a call to kernels: which way the rows are walked, in what parts, on how many threads.
//!
//! | rows | way |
//! |---|---|
//! | whose elements lie one after another | [`rows`]: lent to the kernel where they lie, several short ones together |
//! | any other layout or dtype, or a mask | [`rows`]: copied to working memory first, some rows or a block at a time |
//! | an axis that is not the last; few classes | [`tiles`]: a lane is a row; columns line by line, [`lines`] |
//! | float32 rows of up to 64 elements, one after another | [`mod@abreast`]: within either of these, sixteen at a time |
//! | a few elements, one after another | [`small`]: no plan is made |
//! | that end in a few values each | [`digest`]: chunk by chunk, by the same ways |
//! | few rows, too long for one thread | [`blocks`]: all threads on one row |
//!
//! [`reader`] is what all of them read rows from. [`mod@reduce`] gives one value a row, and [`pairs`] walks two inputs, in
//! the same ways; [`segments`] walks rows of different lengths in one array.
//!
//! Every way computes the same bits, so the choice is free: it depends on shapes, strides and sizes alone.

mod abreast;
mod blocks;
pub(crate) mod digest;
mod lines;
pub(crate) mod pairs;
mod reader;
mod reduce;
mod rows;
pub(crate) mod segments;
mod small;
mod tiles;

pub(crate) use reduce::{Labels, Reduction, Row, check_index, reduce};

use std::sync::OnceLock;

use crate::element::DType;
use crate::error::{Error, Result};
use crate::kernel::exp::is_extreme;
use crate::kernel::fold::BLOCK;
use crate::kernel::row::{Results, Store};
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, Cut, Owned, Part, Source, Target, View, ViewMut, exceeds_last_cache};
use crate::options::{self, Options, check_temperature, check_threads};
use crate::parallel;
use crate::shape::{self, Axis, Plan, Strides, display};
use crate::simd::Level;

/// The operands' numbers in a [`Plan`].
const X: usize = 0;
const OUT: usize = 1;
const MASK: usize = 2;
const TEMPERATURE: usize = 3;
/// Labels, or target probabilities.
const LABELS: usize = 4;

/// A function whose result has the shape of its logits: what it makes of a row that has been folded.
pub(crate) trait Function: Copy + Send + Sync {
    /// What the results of a row have in common.
    type Row<T: Real>: Results<T>;
    /// The result for places that the mask leaves out.
    const EXCLUDED: f64;
    /// Whether the results use the p of [`crate::kernel::exp`], so that it is worth keeping.
    const KEEPS: bool;
}

/// Work on fewer elements than this is done before another thread has woken,
const WORTH_A_THREAD: usize = 32 * 1024;
/// and on fewer than this before one that is awake has come.
const WORTH_IN_SERIES: usize = 8 * 1024;

/// The elements of one task: enough to be worth a dispatch, few enough to share out evenly.
const TASK: std::ops::RangeInclusive<usize> = 16 * 1024..=256 * 1024;

/// The arguments of a call, checked against each other.
struct Call<'a> {
    x: View<'a>,
    mask: Option<View<'a>>,
    temperature: options::Temperature<'a>,
    plan: Plan,
    /// Whether the output is the logits' own memory.
    in_place: bool,
    threads: usize,
    level: Level,
}

/// What asks, on the caller's thread alone, whether to stop.
type Interrupt<'a> = Option<&'a dyn Fn() -> bool>;

/// Computes `F` of the rows of `x` into `out`.
pub(crate) fn map<F: Function>(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    options.guarded(|options| map_guarded::<F>(x, out, axis, options))
}

fn map_guarded<F: Function>(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    check_out(out, &x.shape)?;
    if small::map::<F>(x, out, axis, options)? {
        return Ok(());
    }
    let reduced = axis.reduced(x.shape.len())?;
    let arguments = Arguments::new(x, &reduced, options)?;
    let copies = arguments.copies(out, true)?;
    let arguments = copies.replace(&arguments);
    let in_place = arguments.x.is_same(out.array());
    let call = arguments.call(&out.array().strides, &reduced, [None, None], options, in_place)?;
    if call.plan.rows == 0 || call.plan.len == 0 {
        return Ok(());
    }
    if call.computes_in_f64(out.array().dtype) {
        call.run::<F, f64>(out, options.interrupt)
    } else {
        call.run::<F, f32>(out, options.interrupt)
    }
}

/// Refuses an output that cannot take a result of this shape.
fn check_out(out: &ViewMut<'_>, shape: &[usize]) -> Result<()> {
    if out.array().shape.as_slice() != shape {
        return Err(Error::Value(format!(
            "out has shape {}, but the result has shape {}",
            display(&out.array().shape),
            display(shape)
        )));
    }
    if !out.array().dtype.is_float() {
        return Err(Error::Type(format!(
            "out has dtype {}, which cannot hold the result; use float16, bfloat16, float32 or float64",
            out.array().dtype.name()
        )));
    }
    if !out.is_injective() {
        return Err(Error::Value(
            "out overlaps itself; pass an array in which every element has memory of its own".into(),
        ));
    }
    Ok(())
}

/// The arrays that are read, brought into the logits' shape.
struct Arguments<'a> {
    x: View<'a>,
    mask: Option<View<'a>>,
    temperature: options::Temperature<'a>,
}

impl<'a> Arguments<'a> {
    fn new(x: &View<'a>, reduced: &[bool], options: &Options<'a>) -> Result<Self> {
        let mask = options.mask.as_ref().map(|mask| mask.broadcast(&x.shape, "where")).transpose()?;
        let temperature = rows_temperature(&options.temperature, &x.shape, reduced)?;
        Ok(Self { x: x.clone(), mask, temperature })
    }

    /// Private copies of what shares memory with the output: NumPy's rule is that overlap changes nothing. Only the
    /// very same elements may give way to their own results, where the function allows it.
    fn copies(&self, out: &ViewMut<'_>, in_place: bool) -> Result<Copies> {
        let copy_if = |view: &View<'_>| view.overlaps(out.array()).then(|| view.to_owned()).transpose();
        Ok(Copies {
            x: if in_place && self.x.is_same(out.array()) { None } else { copy_if(&self.x)? },
            mask: self.mask.as_ref().map(copy_if).transpose()?.flatten(),
            temperature: match &self.temperature {
                options::Temperature::Rows(view) => copy_if(view)?,
                _ => None,
            },
        })
    }

    /// The call; `more` are the strides of operands beyond the common ones.
    fn call(
        self,
        out: &Strides,
        reduced: &[bool],
        more: [Option<&[isize]>; 2],
        options: &Options<'_>,
        in_place: bool,
    ) -> Result<Call<'a>> {
        let threads = options.threads.map(check_threads).transpose()?;
        let strides = [
            Some(self.x.strides.as_slice()),
            Some(out.as_slice()),
            self.mask.as_ref().map(|mask| mask.strides.as_slice()),
            match &self.temperature {
                options::Temperature::Rows(view) => Some(view.strides.as_slice()),
                _ => None,
            },
            more[0],
            more[1],
        ];
        let plan = Plan::new(&self.x.shape, reduced, strides);
        let elements = plan.rows.saturating_mul(plan.len);
        let worth =
            if elements >= 2 * WORTH_IN_SERIES && parallel::is_in_series() { WORTH_IN_SERIES } else { WORTH_A_THREAD };
        let enough = (elements / worth).max(1);
        let threads = if enough == 1 { 1 } else { threads.unwrap_or_else(parallel::num_threads).min(enough) };
        let level = options.level.unwrap_or_else(Level::active);
        Ok(Call { x: self.x, mask: self.mask, temperature: self.temperature, plan, in_place, threads, level })
    }
}

/// See [`Arguments::copies`].
struct Copies {
    x: Option<Owned>,
    mask: Option<Owned>,
    temperature: Option<Owned>,
}

impl Copies {
    /// The arguments, with copies in the place of what was copied.
    fn replace<'a>(&'a self, arguments: &Arguments<'a>) -> Arguments<'a> {
        let temperature = self.temperature.as_ref().map(|copy| options::Temperature::Rows(copy.view()));
        Arguments {
            x: self.x.as_ref().map_or_else(|| arguments.x.clone(), Owned::view),
            mask: self.mask.as_ref().map(Owned::view).or_else(|| arguments.mask.clone()),
            temperature: temperature.unwrap_or_else(|| arguments.temperature.clone()),
        }
    }
}

/// Checks temperatures, and brings those for each row into the logits' shape.
fn rows_temperature<'a>(
    temperature: &options::Temperature<'a>,
    shape: &[usize],
    reduced: &[bool],
) -> Result<options::Temperature<'a>> {
    match temperature {
        options::Temperature::One => Ok(options::Temperature::One),
        options::Temperature::Number(value) => check_temperature(*value).map(options::Temperature::Number),
        options::Temperature::Rows(view) => {
            let every = vec![true; view.shape.len()];
            let plan = Plan::new(&view.shape, &every, shape::only(&view.strides));
            let source = Source::new(view.clone(), &plan, 0, false)?;
            let mut values = [0.0f64; 64];
            for start in (0..plan.len).step_by(values.len()) {
                let values = &mut values[..(plan.len - start).min(64)];
                source.read(0, start, values);
                values.iter().try_for_each(|value| check_temperature(*value).map(drop))?;
            }
            let broadcast = view.broadcast(shape, "temperature")?;
            let along = |index: usize| reduced[index] && broadcast.strides[index] != 0 && shape[index] > 1;
            if (0..shape.len()).any(along) {
                return Err(Error::Value(format!(
                    "temperature has shape {}; it must have length 1 along the axis, one temperature for each row",
                    display(&view.shape)
                )));
            }
            Ok(options::Temperature::Rows(broadcast))
        }
    }
}

impl Call<'_> {
    fn run<F: Function, C: Compute>(&self, out: &mut ViewMut<'_>, interrupt: Interrupt<'_>) -> Result<()> {
        match self.way::<C>() {
            Way::Rows => rows::run::<F, C>(self, out, interrupt),
            Way::Tiles => tiles::run::<F, C>(self, out, interrupt),
            Way::Blocks => blocks::run::<F, C>(self, out, interrupt),
        }
    }

    /// Whether the arithmetic is done in float64: for dtypes that need it, and for temperatures that float32 cannot
    /// hold.
    fn computes_in_f64(&self, out: DType) -> bool {
        let extreme = matches!(self.temperature, options::Temperature::Number(value) if is_extreme(value));
        extreme || self.x.dtype.computes_in_f64(out)
    }

    fn way<C: Compute>(&self) -> Way {
        let plan = &self.plan;
        let size = self.x.dtype.size().cast_signed();
        let stride = plan.axis_stride(X);
        let lane_stride = plan.outer.last().map(|dim| dim.strides[X].unsigned_abs());
        let lanes = plan.lanes();
        if let (Some(stride), Some(lane_stride)) = (stride, lane_stride) {
            let across = stride != size && lane_stride < stride.unsigned_abs();
            let few = plan.len <= tiles::few::<C>(self.x.dtype, self.mask.is_some()) && lanes >= tiles::MANY;
            if (across || few) && lanes > 1 {
                return Way::Tiles;
            }
        }
        // One thread takes a very long row in blocks as well: it is between tasks that an interrupt is heard.
        if plan.len > blocks::INTERRUPTIBLE {
            return Way::Blocks;
        }
        if self.threads > 1
            && plan.len > 2 * BLOCK
            && (plan.rows < 4 * self.threads || plan.len * size_of::<C>() > blocks::LONG)
        {
            return Way::Blocks;
        }
        Way::Rows
    }

    /// The number of rows of a task.
    fn rows_per_task(&self) -> usize {
        let elements = self.plan.rows * self.plan.len / (self.threads * 16).max(1);
        elements.clamp(*TASK.start(), *TASK.end()).div_ceil(self.plan.len).min(self.plan.rows.div_ceil(self.threads))
    }

    fn source(&self) -> Result<Source<'_>> {
        Source::new(self.x.clone(), &self.plan, X, !self.in_place)
    }

    fn mask_source(&self) -> Result<Option<Source<'_>>> {
        self.mask.as_ref().map(|mask| Source::new(mask.clone(), &self.plan, MASK, true)).transpose()
    }

    fn temperatures<C: Real>(&self) -> Result<Temperatures<'_, C>> {
        Ok(match &self.temperature {
            options::Temperature::One => Temperatures::All(Temperature::new(1.0)),
            options::Temperature::Number(value) => Temperatures::All(Temperature::new(*value)),
            options::Temperature::Rows(view) => {
                Temperatures::Rows(Source::new(view.clone(), &self.plan, TEMPERATURE, false)?)
            }
        })
    }

    /// How results are best stored.
    fn store(&self, out: DType) -> Store {
        if !self.in_place && exceeds_last_cache(self.results(out)) { Store::Streaming } else { Store::Cached }
    }

    /// Whether results that go through the cache are not sure to be there when the next call writes them again: with the
    /// logits they take more than half of the last one.
    fn is_far(&self, out: DType) -> bool {
        exceeds_last_cache(3 * self.results(out))
    }

    /// The bytes of the results.
    fn results(&self, out: DType) -> usize {
        self.plan.rows * self.plan.len * out.size()
    }
}

/// See the table at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Rows,
    Tiles,
    Blocks,
}

/// The temperature of each row.
enum Temperatures<'a, C> {
    All(Temperature<C>),
    Rows(Source<'a>),
}

impl<C: Compute> Temperatures<'_, C> {
    fn is_one_for_all(&self) -> bool {
        matches!(self, Self::All(_))
    }

    fn of(&self, row: usize) -> Temperature<C> {
        match self {
            Self::All(temperature) => *temperature,
            Self::Rows(source) => of_row(source, row),
        }
    }
}

/// The temperature of a row. (Not inlined into each kernel at each level.)
#[inline(never)]
fn of_row<C: Compute>(source: &Source<'_>, row: usize) -> Temperature<C> {
    let mut value = [0.0f64];
    source.read(row, 0, &mut value);
    Temperature::new(value[0])
}

/// Whether a mask keeps no place of a row.
#[inline(never)]
fn keeps_none(mask: Option<&Source<'_>>, row: usize, len: usize) -> bool {
    let Some(mask) = mask else { return false };
    let mut places = [0.0f32; 256];
    (0..len).step_by(places.len()).all(|start| {
        let places = &mut places[..(len - start).min(256)];
        mask.read(row, start, places);
        places.iter().all(|kept| *kept == 0.0)
    })
}

/// Cuts `out` into parts and gives each to `body`, on the call's threads. The first error stops the rest.
fn for_each_part(
    call: &Call<'_>,
    out: &mut ViewMut<'_>,
    cut: Cut,
    interrupt: Interrupt<'_>,
    body: &(dyn Fn(Part<'_>) -> Result<()> + Sync),
) -> Result<()> {
    let target = Target::new(out, &call.plan, OUT, false, cut)?;
    share(call.threads, target.parts(), interrupt, &|index| body(target.part(index)))
}

/// Calls `body` for each task, on so many threads. The first error stops the rest.
fn share(
    threads: usize,
    tasks: usize,
    interrupt: Interrupt<'_>,
    body: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<()> {
    let failure = OnceLock::new();
    parallel::run(threads, tasks, interrupt, &|index| {
        if failure.get().is_none()
            && let Err(error) = body(index)
        {
            let _first_wins = failure.set(error);
        }
    })?;
    failure.into_inner().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
