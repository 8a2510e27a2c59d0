//! Functions that give one value for each row, from its sum and perhaps a few of its logits.

use super::blocks::Blocks;
use super::rows::Reader;
use super::tiles::Tiles;
use super::{Arguments, Call, Interrupt, LABELS, OUT, Way, check_out, share};
use crate::error::{Error, Result};
use crate::kernel::ahead::Ahead;
use crate::kernel::double::Double;
use crate::kernel::fold::{self, BLOCK, Exact, Fold};
use crate::kernel::log::ln_1p_double;
use crate::kernel::log_row::LogSum;
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, Cut, Part, Scratch, Source, Target, View, ViewMut, scratch};
use crate::options::Options;
use crate::shape::{Axis, Shape};
use crate::simd::{Kernel, Level, Simd, dispatch};

/// What a function makes of a row.
pub(crate) trait Reduction: Sync {
    /// The value of a row of no elements.
    const EMPTY: f64;

    /// The value of a row.
    fn value<C: Compute>(&self, row: &Row<'_, C>) -> Result<f64>;

    /// Refuses a label, before anything is written. [`Reduction::value`] checks it again: another thread may have
    /// changed it.
    fn check_label(&self, _row: usize, _label: f64, _len: usize) -> Result<()> {
        Ok(())
    }
}

/// A row whose logits have been summed up.
pub(crate) struct Row<'a, C: Real> {
    /// The row's number.
    pub(crate) index: usize,
    pub(crate) sum: LogSum<C>,
    pub(crate) temperature: Temperature<C>,
    reader: Reader<'a, C>,
    level: Level,
    /// The labels or target probabilities, where the function has some.
    labels: Option<&'a Source<'a>>,
}

impl<C: Compute> Row<'_, C> {
    /// The number of classes.
    pub(crate) fn len(&self) -> usize {
        self.reader.len
    }

    /// The target probability of a class.
    pub(crate) fn target(&self, class: usize) -> f64 {
        let mut target = [0.0f64];
        if let Some(labels) = self.labels {
            labels.read(self.index, class, &mut target);
        }
        target[0]
    }

    /// Some logits of the row.
    pub(crate) fn read(&self, start: usize, to: &mut [C]) {
        self.reader.read(self.index, start..start + to.len(), to);
    }

    /// The row's label; it is read once, so that nothing can change between its check and its use.
    pub(crate) fn label(&self) -> f64 {
        let mut label = [0.0f64];
        if let Some(labels) = self.labels {
            labels.read(self.index, 0, &mut label);
        }
        label[0]
    }

    /// log sum exp, rounded well also where the maximum and the logarithm all but cancel.
    ///
    /// Logits that are log-probabilities already do so, and no logarithm of a rounded sum can tell by how much. The sum
    /// is then made again in float64, and if that is not enough, with numbers of 106 bits.
    pub(crate) fn log_sum(&self) -> Result<f64> {
        if self.sum.log.high.is_nan() {
            // The maximum is the sum: +inf, or -inf where there is nothing else, or NaN.
            return Ok(self.sum.max.to_f64());
        }
        let value = self.sum.value(&self.temperature);
        if !value.high.is_finite() || value.high.abs() >= 0.5 * self.sum.log.high {
            return Ok(value.high);
        }
        let temperatures = super::Temperatures::All(Temperature::new(1.0));
        let source = self.reader.source;
        let reader = Reader { source, mask: self.reader.mask, temperatures: &temperatures, len: self.reader.len };
        let mut scratch = scratch(self.reader.len.min(BLOCK))?;
        if C::DTYPE != crate::DType::F64 {
            let again = dispatch(self.level, LogSumAgain { reader, row: self.index, scratch: &mut scratch });
            let value = again.value(&Temperature::new(1.0));
            // The float64 sum is good for 2^-51 of the logarithm; 2^-26 of the result must be left.
            if value.high.abs() >= again.log.high.max(1.0) * 2f64.powi(-25) {
                return Ok(value.high);
            }
        }
        // sum - 1, which is what counts, and of which nothing may be lost: of the maximum, exp - 1 from the start. (The
        // maximum is below 0: with one above, nothing cancels.)
        let max = self.sum.max.to_f64();
        let mut y = Double::new(max).exp_m1();
        let mut of_max = true;
        for block in reader.blocks() {
            let x = &mut scratch[..block.len()];
            reader.read(self.index, block, x);
            for x in x.iter() {
                let is_first = *x >= max && std::mem::replace(&mut of_max, false);
                if !is_first {
                    y = y.plus(Double::new(*x).exp());
                }
            }
        }
        Ok(ln_1p_signed(y))
    }

    /// The log-probability of a place of the row.
    pub(crate) fn log_probability(&self, place: usize) -> f64 {
        let mut x = [C::ZERO];
        self.read(place, &mut x);
        if x[0] == C::NEG_INFINITY {
            // Of a row without probabilities, a place that is left out keeps its value all the same.
            let mut kept = [C::ZERO];
            if let Some(mask) = self.reader.mask {
                mask.exclude(self.index, place, &mut kept, C::NEG_INFINITY);
            }
            let is_nan = self.sum.log.high.is_nan() && kept[0] == C::ZERO;
            return if is_nan { f64::NAN } else { f64::NEG_INFINITY };
        }
        let distance = self.distance(x[0]);
        if distance.high == f64::INFINITY && !self.sum.log.high.is_nan() {
            return f64::NEG_INFINITY;
        }
        distance.plus(self.sum.log).negated().high
    }

    /// (max - x) / T, at least 0.
    pub(crate) fn distance(&self, x: C) -> Double {
        if x == C::NEG_INFINITY {
            return Double::new(f64::INFINITY);
        }
        let (max, x) = (self.sum.max.to_f64(), x.to_f64());
        let of_temperature = |distance: Double| {
            if self.temperature.is_one() { distance } else { distance.times_double(self.temperature.inverse()) }
        };
        let distance = Double::sum(max, -x);
        if distance.high == f64::INFINITY && max < f64::INFINITY {
            // The difference is beyond float64, but may not be when it is divided by T.
            let quarter = of_temperature(Double::sum(max * 0.25, x * -0.25));
            let distance = Double { high: quarter.high * 4.0, low: quarter.low * 4.0 };
            return if distance.high == f64::INFINITY { Double::new(f64::INFINITY) } else { distance };
        }
        of_temperature(distance)
    }
}

/// Labels in the shape of the logits: class indices (length 1 along the axis) or target probabilities.
pub(crate) struct Labels<'a> {
    pub(crate) view: View<'a>,
    /// What errors call them.
    pub(crate) name: &'static str,
}

/// Computes a value for each row of `x` into `out`, whose shape is that of `x` with length 1 along the axes.
pub(crate) fn reduce<R: Reduction>(
    x: &View<'_>,
    labels: Option<&Labels<'_>>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
    reduction: &R,
) -> Result<()> {
    options.guarded(|options| reduce_guarded(x, labels, out, axis, options, reduction))
}

fn reduce_guarded<R: Reduction>(
    x: &View<'_>,
    labels: Option<&Labels<'_>>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
    reduction: &R,
) -> Result<()> {
    let reduced = axis.reduced(x.shape.len())?;
    let kept = |len: usize, is_axis: bool| if is_axis { 1 } else { len };
    let shape: Shape = x.shape.iter().zip(&reduced).map(|(len, is_axis)| kept(*len, *is_axis)).collect();
    check_out(out, &shape)?;
    let labels = labels.map(|labels| labels.view.broadcast(&x.shape, labels.name)).transpose()?;
    let labels_copy = match &labels {
        Some(labels) if labels.overlaps(out.array()) => Some(labels.to_owned()?),
        _ => None,
    };
    let labels = labels_copy.as_ref().map(crate::memory::Owned::view).or(labels);
    let arguments = Arguments::new(x, &reduced, options)?;
    let copies = arguments.copies(out, false)?;
    let arguments = copies.replace(&arguments);
    let strides = out.array().strides.iter().zip(&reduced).map(|(stride, is_axis)| if *is_axis { 0 } else { *stride });
    let more = [labels.as_ref().map(|labels| labels.strides.as_slice()), None];
    let call = arguments.call(&strides.collect(), &reduced, more, options, false)?;
    if call.plan.rows == 0 {
        return Ok(());
    }
    if call.computes_in_f64(out.array().dtype) {
        run::<R, f64>(&call, labels.as_ref(), out, options.interrupt, reduction)
    } else {
        run::<R, f32>(&call, labels.as_ref(), out, options.interrupt, reduction)
    }
}

fn run<R: Reduction, C: Compute>(
    call: &Call<'_>,
    labels: Option<&View<'_>>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
    reduction: &R,
) -> Result<()> {
    let source = call.source()?;
    let mask = call.mask_source()?;
    let temperatures = call.temperatures::<C>()?;
    let labels = labels.map(|labels| Source::new(labels.clone(), &call.plan, LABELS, false)).transpose()?;
    let reader = Reader { source: &source, mask: mask.as_ref(), temperatures: &temperatures, len: call.plan.len };
    if let Some(labels) = &labels {
        let mut label = [0.0f64];
        for row in 0..call.plan.rows {
            labels.read(row, 0, &mut label[..call.plan.len.min(1)]);
            reduction.check_label(row, label[0], call.plan.len)?;
        }
    }
    let finish = Finish { reader, labels: labels.as_ref(), level: call.level, reduction };
    if call.plan.len == 0 {
        let target = Target::new(out, &call.plan, OUT, true, Cut { rows: usize::MAX, elements: 1 })?;
        let mut part = target.part(0);
        part.rows.clone().for_each(|row| part.write_one(row, C::from_f64(R::EMPTY)));
        return Ok(());
    }
    let way = call.way::<C>();
    if way == Way::Blocks {
        let blocks = Blocks { call, reader, lent: mask.is_none() && source.lends::<C>() };
        let target = Target::new(out, &call.plan, OUT, true, Cut { rows: 1, elements: 1 })?;
        for row in 0..call.plan.rows {
            let temperature = temperatures.of(row);
            let fold = blocks.fold_row::<Exact>(row, &temperature, interrupt)?;
            let mut part = target.part(row);
            dispatch(call.level, One { finish: &finish, row, fold, temperature, part: &mut part })?;
        }
        return Ok(());
    }
    let rows = call.rows_per_task().max(64).min(call.plan.rows);
    let tiles = (way == Way::Tiles).then(|| Tiles::<C>::shape(call, call.plan.len, source.is_dense::<C>()));
    let rows = tiles.map_or(rows, |(width, _)| rows.next_multiple_of(width));
    let target = Target::new(out, &call.plan, OUT, true, Cut { rows, elements: 1 })?;
    share(call.threads, target.parts(), interrupt, &|index| {
        let part = target.part(index);
        if let Some(shape) = tiles {
            let tiles = Tiles::new(call, reader, shape)?;
            dispatch(call.level, ByTile { finish: &finish, tiles, part })
        } else {
            let lent = mask.is_none() && source.lends::<C>();
            let scratch = scratch(if lent { 0 } else { call.plan.len.min(BLOCK) })?;
            dispatch(call.level, ByRow { finish: &finish, lent, scratch, part })
        }
    })
}

/// From the fold of a row to its value.
struct Finish<'a, R, C> {
    reader: Reader<'a, C>,
    labels: Option<&'a Source<'a>>,
    level: Level,
    reduction: &'a R,
}

impl<R: Reduction, C: Compute> Finish<'_, R, C> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        token: S,
        index: usize,
        fold: &Fold<C>,
        temperature: Temperature<C>,
        part: &mut Part<'_>,
    ) -> Result<()> {
        let rest = |max| self.reader.rest(token, index, &temperature, max);
        let sum = LogSum::new(token, fold, &temperature, &rest);
        let row = Row { index, sum, temperature, reader: self.reader, level: self.level, labels: self.labels };
        part.write_one(index, C::from_f64(self.reduction.value(&row)?));
        Ok(())
    }
}

/// One row, folded by all threads.
struct One<'a, 'p, R, C: Real> {
    finish: &'a Finish<'a, R, C>,
    row: usize,
    fold: Fold<C>,
    temperature: Temperature<C>,
    part: &'a mut Part<'p>,
}

impl<R: Reduction, C: Compute> Kernel for One<'_, '_, R, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Result<()> {
        self.finish.row(token, self.row, &self.fold, self.temperature, self.part)
    }
}

/// Rows one after another.
struct ByRow<'a, R, C: Compute> {
    finish: &'a Finish<'a, R, C>,
    lent: bool,
    scratch: Scratch<C>,
    part: Part<'a>,
}

impl<R: Reduction, C: Compute> Kernel for ByRow<'_, R, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<()> {
        let reader = self.finish.reader;
        for row in self.part.rows.clone() {
            let temperature = reader.temperatures.of(row);
            let fold = if self.lent {
                fold::fold_row::<S, C, Exact>(
                    token,
                    reader.source.row(row, 0..reader.len),
                    &mut [],
                    &temperature,
                    Ahead::ONCE,
                )
            } else {
                reader.fold::<S, Exact>(token, row, &temperature, &mut self.scratch, &mut [])
            };
            self.finish.row(token, row, &fold, temperature, &mut self.part)?;
        }
        Ok(())
    }
}

/// Rows that are lanes of tiles.
struct ByTile<'a, R, C: Compute> {
    finish: &'a Finish<'a, R, C>,
    tiles: Tiles<'a, C>,
    part: Part<'a>,
}

impl<R: Reduction, C: Compute> Kernel for ByTile<'_, R, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<()> {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let lanes = self.tiles.lanes_from(first, self.part.rows.end);
            self.tiles.fold::<S, Exact>(token, first, lanes);
            for lane in 0..lanes {
                let fold = self.tiles.get(lane);
                let temperature = self.finish.reader.temperatures.of(first + lane);
                self.finish.row(token, first + lane, &fold, temperature, &mut self.part)?;
            }
            first += lanes;
        }
        Ok(())
    }
}

/// A row's sum, made again in float64.
struct LogSumAgain<'a> {
    reader: Reader<'a, f64>,
    row: usize,
    scratch: &'a mut [f64],
}

impl Kernel for LogSumAgain<'_> {
    type Output = LogSum<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> LogSum<f64> {
        let temperature = Temperature::new(1.0);
        let fold = self.reader.fold::<S, Exact>(token, self.row, &temperature, self.scratch, &mut []);
        LogSum::new(token, &fold, &temperature, &|max| self.reader.rest(token, self.row, &temperature, max))
    }
}

/// log(1 + y) for |y| up to about 1, where y has more bits than a float64.
fn ln_1p_signed(y: Double) -> f64 {
    if y.high >= 0.0 {
        return ln_1p_double(y).high;
    }
    // log(1 + y) = -log(1 / (1 + y)) = -log(1 + (-y) / (1 + y))
    -ln_1p_double(y.negated().times_double(Double::new(1.0).plus(y).reciprocal())).high
}

/// Refuses an index outside its axis, naming row and value.
pub(crate) fn check_index(name: &str, row: usize, value: f64, len: usize) -> Result<usize> {
    #[allow(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
    if value >= 0.0 && value < len as f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just now")]
        return Ok(value as usize);
    }
    Err(Error::Index(format!("{name} {value} of row {row} is out of range for {len} classes")))
}
