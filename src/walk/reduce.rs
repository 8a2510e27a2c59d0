//! Functions that give one value for each row, from its sum and perhaps a few of its logits.

use super::blocks::Blocks;
use super::digest;
use super::reader::{Read, Reader};
use super::tiles::{self, Origin, Tiles};
use super::{Arguments, Call, Interrupt, LABELS, OUT, Way, check_out, share};
use crate::error::{Error, Result};
use crate::kernel::ahead::Ahead;
use crate::kernel::column::{Folds, LANES};
use crate::kernel::double::Double;
use crate::kernel::fold::{self, BLOCK, Fold};
use crate::kernel::kept::Keep;
use crate::kernel::log::ln_1p_double;
use crate::kernel::log_row::LogSum;
use crate::kernel::pieces::FoldRows;
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, Cut, Part, Scratch, Source, Target, Tile, View, ViewMut, scratch};
use crate::options::Options;
use crate::shape::Axis;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// What a function makes of a row.
pub(crate) trait Reduction: Sync {
    /// The value of a row of no elements.
    const EMPTY: f64;

    /// The value of a row; its weight joins the `weights` of the rows before.
    fn value<C: Compute>(&self, row: &Row<'_, C>, weights: &mut Double) -> Result<f64>;

    /// Takes the weights of some rows.
    fn count(&self, _weights: Double) {}

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
    /// The row's label, if the function has labels. (It was read once, so that nothing can change between its check and
    /// its use.)
    pub(crate) label: f64,
    pub(crate) sum: &'a LogSum<C>,
    pub(crate) temperature: &'a Temperature<C>,
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

    /// log sum exp, rounded well also where the maximum and the logarithm all but cancel.
    ///
    /// Logits that are log-probabilities already do so, and no logarithm of a rounded sum can tell by how much. The sum
    /// is then made again in float64, and if that is not enough, with numbers of 106 bits.
    pub(crate) fn log_sum(&self) -> Result<f64> {
        if self.sum.log.high.is_nan() {
            // The maximum is the sum: +inf, or -inf where there is nothing else, or NaN.
            return Ok(self.sum.max.to_f64());
        }
        let value = self.sum.value(self.temperature);
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
        let x = self.reader.one(self.index, place);
        if x == C::NEG_INFINITY {
            // Of a row without probabilities, a place that is left out keeps its value all the same.
            let mut kept = [C::ZERO];
            if let Some(mask) = self.reader.mask {
                mask.exclude(self.index, place, &mut kept, C::NEG_INFINITY);
            }
            let is_nan = self.sum.log.high.is_nan() && kept[0] == C::ZERO;
            return if is_nan { f64::NAN } else { f64::NEG_INFINITY };
        }
        let distance = self.distance(x);
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
    check_out(out, &digest::shape(&x.shape, &reduced, 1))?;
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
        let (mut first, mut some) = (0, [0.0; LABELS_AT_A_TIME]);
        while first < call.plan.rows {
            let lanes = call.plan.lanes_from(first, call.plan.rows, LABELS_AT_A_TIME);
            // Of no classes, any label is outside, and there is none to be read.
            if call.plan.len > 0 {
                read_labels(labels, first, &mut some[..lanes]);
            }
            for (lane, label) in some[..lanes].iter().enumerate() {
                reduction.check_label(first + lane, *label, call.plan.len)?;
            }
            first += lanes;
        }
    }
    let values = Values { level: call.level, reader, labels: labels.as_ref(), reduction };
    let finish = Finish { call, reader, values: &values };
    if call.plan.len == 0 {
        let target = Target::new(out, &call.plan, OUT, true, Cut::rows(usize::MAX))?;
        let mut part = target.part(0);
        part.rows.clone().for_each(|row| part.write_one(row, C::from_f64(R::EMPTY)));
        return Ok(());
    }
    let way = call.way::<C>();
    let mut weights = Double::default();
    if way == Way::Blocks {
        let blocks = Blocks { call, reader, lent: mask.is_none() && source.lends::<C>() };
        let target = Target::new(out, &call.plan, OUT, true, Cut::rows(1))?;
        for row in 0..call.plan.rows {
            let temperature = temperatures.of(row);
            let fold = blocks.fold_row(row, &temperature, interrupt)?;
            let (part, weights) = (&mut target.part(row), &mut weights);
            dispatch(call.level, One { finish, row, fold, part, weights })?;
        }
        reduction.count(weights);
        return Ok(());
    }
    let rows = call.rows_per_task().next_multiple_of(C::LANES).min(call.plan.rows);
    let tiles = (way == Way::Tiles).then(|| Tiles::<C>::shape(call, call.plan.len, Origin::of(&reader)));
    let rows = tiles.map_or(rows, |shape| call.rows_per_task().next_multiple_of(tiles::unit(call, shape, 0)));
    let target = Target::new(out, &call.plan, OUT, true, Cut::rows(rows))?;
    share(call.threads, target.parts(), interrupt, &|index| {
        let (part, weights) = (target.part(index), Double::default());
        let weights = if let Some(shape) = tiles {
            let tiles = Tiles::new(call, reader, shape)?;
            dispatch(call.level, ByTile { finish, tiles, part, weights })?
        } else {
            let lent = mask.is_none() && source.lends::<C>();
            let together = temperatures.is_one_for_all() && (!lent || source.is_dense::<C>());
            let group = if together { (GROUP / call.plan.len).min(C::LANES).min(call.plan.rows).max(1) } else { 1 };
            let scratch = scratch(if lent { 0 } else { (group * call.plan.len).min(BLOCK) })?;
            dispatch(call.level, ByRow { finish, lent, group, scratch, part, weights })?
        };
        reduction.count(weights);
        Ok(())
    })
}

/// The labels that are checked at a time.
const LABELS_AT_A_TIME: usize = 64;

/// Elements of short rows that are folded together: as many as stay in the first cache between their maximum and their
/// sum.
const GROUP: usize = 4096;

/// The labels of rows that are one step of the plan's innermost outer loop apart.
fn read_labels(labels: &Source<'_>, first: usize, to: &mut [f64]) {
    match to {
        [label] => labels.read(first, 0, std::slice::from_mut(label)),
        _ => labels.read_tile(Tile { first, lanes: to.len(), start: 0, len: 1, pitch: to.len() }, to),
    }
}

/// From the sums of rows to their values.
struct Values<'a, R, C> {
    level: Level,
    reader: Reader<'a, C>,
    labels: Option<&'a Source<'a>>,
    reduction: &'a R,
}

/// [`Values`] of some reduction, of which the code around does not depend: else there would be as much of it for each.
trait Write<C: Compute>: Sync {
    /// Writes the values of some rows from `first` on, from their sums.
    fn write(&self, first: usize, sums: &[LogSum<C>], part: &mut Part<'_>, weights: &mut Double) -> Result<()>;
}

impl<R: Reduction, C: Compute> Write<C> for Values<'_, R, C> {
    fn write(&self, first: usize, sums: &[LogSum<C>], part: &mut Part<'_>, weights: &mut Double) -> Result<()> {
        let (mut labels, mut values) = ([0.0; LANES], [C::ZERO; LANES]);
        let lanes = sums.len();
        if let Some(source) = self.labels {
            read_labels(source, first, &mut labels[..lanes]);
        }
        let temperature = self.reader.temperatures.of(first);
        let one_for_all = self.reader.temperatures.is_one_for_all();
        for (lane, value) in values.iter_mut().enumerate().take(lanes) {
            let index = first + lane;
            let own = if one_for_all { temperature } else { self.reader.temperatures.of(index) };
            let (label, sum, temperature) = (labels[lane], &sums[lane], &own);
            let (reader, level, labels) = (self.reader, self.level, self.labels);
            let row = Row { index, label, sum, temperature, reader, level, labels };
            *value = C::from_f64(self.reduction.value(&row, weights)?);
        }
        part.write_each(first, &mut values[..lanes]);
        Ok(())
    }
}

/// From the folds of rows to their values.
#[derive(Clone, Copy)]
struct Finish<'a, C> {
    call: &'a Call<'a>,
    reader: Reader<'a, C>,
    values: &'a dyn Write<C>,
}

impl<C: Compute> Finish<'_, C> {
    /// The value of a row.
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        token: S,
        row: usize,
        fold: &Fold<C>,
        part: &mut Part<'_>,
        weights: &mut Double,
    ) -> Result<()> {
        let sum = self.reader.complete(token, row, fold, &self.reader.temperatures.of(row));
        self.values.write(row, &[sum], part, weights)
    }

    /// The values of some rows from `first` on, whose folds are the first `lanes`.
    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        token: S,
        first: usize,
        lanes: usize,
        folds: &Folds<C>,
        part: &mut Part<'_>,
        weights: &mut Double,
    ) -> Result<()> {
        let sums = self.reader.complete_each(token, first, lanes, folds);
        self.values.write(first, &sums[..lanes], part, weights)
    }
}

/// One row, folded by all threads.
struct One<'a, 'p, C: Compute> {
    finish: Finish<'a, C>,
    row: usize,
    fold: Fold<C>,
    part: &'a mut Part<'p>,
    weights: &'a mut Double,
}

impl<C: Compute> Kernel for One<'_, '_, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> Result<()> {
        self.finish.row(token, self.row, &self.fold, self.part, self.weights)
    }
}

/// Fewer rows than this are completed faster one by one than together.
const FEW: usize = 4;

/// Rows one after another.
struct ByRow<'a, C: Compute> {
    finish: Finish<'a, C>,
    lent: bool,
    /// The rows that are folded together: the most, where they share a temperature, and lie one after another or are
    /// copied.
    group: usize,
    scratch: Scratch<C>,
    part: Part<'a>,
    weights: Double,
}

impl<C: Compute> Kernel for ByRow<'_, C> {
    type Output = Result<Double>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<Double> {
        if self.group > 1 {
            self.together(token)?;
        } else if self.part.rows.len() < FEW {
            for row in self.part.rows.clone() {
                let fold = self.fold(token, row);
                self.finish.row(token, row, &fold, &mut self.part, &mut self.weights)?;
            }
        } else {
            self.one_by_one(token)?;
        }
        Ok(self.weights)
    }
}

impl<C: Compute> ByRow<'_, C> {
    /// The fold of a row.
    #[inline(always)]
    fn fold<S: Simd>(&mut self, token: S, row: usize) -> Fold<C> {
        let reader = self.finish.reader;
        let temperature = reader.temperatures.of(row);
        if self.lent {
            let x = reader.source.row(row, 0..reader.len);
            fold::fold_row::<S, C>(token, x, Keep::nothing(), &temperature, Ahead::ONCE)
        } else {
            reader.fold::<S>(token, row, &temperature, &mut self.scratch, Keep::nothing(), Read::Only)
        }
    }

    /// Rows that are folded one by one, and completed several at a time.
    #[inline(always)]
    fn one_by_one<S: Simd>(&mut self, token: S) -> Result<()> {
        let (reader, end) = (self.finish.reader, self.part.rows.end);
        let (mut folds, mut first) = (Folds::empty(), self.part.rows.start);
        while first < end {
            let lanes = self.finish.call.plan.lanes_from(first, end, C::LANES);
            for (lane, row) in (first..first + lanes).enumerate() {
                let fold = self.fold(token, row);
                folds.set(lane, fold);
            }
            folds.compare(lanes, reader.temperatures.is_one_for_all());
            self.finish.rows(token, first, lanes, &folds, &mut self.part, &mut self.weights)?;
            first += lanes;
        }
        Ok(())
    }

    /// Short rows, some at a time.
    #[inline(always)]
    fn together<S: Simd>(&mut self, token: S) -> Result<()> {
        let (reader, len, end) = (self.finish.reader, self.finish.reader.len, self.part.rows.end);
        let (mut folds, mut sums) = (Folds::empty(), [[0.0; LANES]; LANES]);
        let temperature = &reader.temperatures.of(self.part.rows.start);
        let mut first = self.part.rows.start;
        while first < end {
            let lanes = self.finish.call.plan.lanes_from(first, end, self.group);
            let x = if self.lent {
                reader.source.rows_dense(first, lanes)
            } else {
                for (row, to) in (first..first + lanes).zip(self.scratch.chunks_exact_mut(len)) {
                    reader.copy(token, row, 0..len, to);
                }
                &self.scratch[..lanes * len]
            };
            let (folds, sums) = (&mut folds, &mut sums);
            let (keep, ahead) = (Keep::nothing(), Ahead::ONCE);
            token.call(FoldRows { x, len, keep, temperature, ahead, folds, sums });
            self.finish.rows(token, first, lanes, folds, &mut self.part, &mut self.weights)?;
            first += lanes;
        }
        Ok(())
    }
}

/// Rows that are lanes of tiles.
struct ByTile<'a, C: Compute> {
    finish: Finish<'a, C>,
    tiles: Tiles<'a, C>,
    part: Part<'a>,
    weights: Double,
}

impl<C: Compute> Kernel for ByTile<'_, C> {
    type Output = Result<Double>;

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) -> Result<Double> {
        let mut first = self.part.rows.start;
        while first < self.part.rows.end {
            let lanes = self.tiles.lanes_from(first, self.part.rows.end);
            self.tiles.fold::<S>(token, first, lanes);
            for (index, start) in (0..lanes).step_by(C::LANES).enumerate() {
                let (folds, count) = (self.tiles.folds(index), C::LANES.min(lanes - start));
                self.finish.rows(token, first + start, count, folds, &mut self.part, &mut self.weights)?;
            }
            first += lanes;
        }
        Ok(self.weights)
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
        let fold = self.reader.fold::<S>(token, self.row, &temperature, self.scratch, Keep::nothing(), Read::Only);
        self.reader.results(token, self.row, &fold, &temperature)
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
