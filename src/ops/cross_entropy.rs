//! `cross_entropy(x, y) = -log(softmax(x)_y)`, with torch's weights, ignored labels, smoothing and soft targets.

use std::sync::Mutex;

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::element::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::kernel::double::Double;
use crate::memory::{Compute, View, ViewMut};
use crate::options::Options;
use crate::shape::{Axis, display};
use crate::walk::{self, Labels, Reduction, Row, check_index};

/// What a call asks for beside the logits.
pub(crate) struct Targets<'a> {
    /// Class indices, with length 1 along the axis, or probabilities in the shape of the logits.
    pub(crate) labels: View<'a>,
    /// Whether the labels are probabilities.
    pub(crate) soft: bool,
    /// A weight for each class.
    pub(crate) weight: Option<View<'a>>,
    /// The class index that does not count.
    pub(crate) ignore_index: i64,
    /// The part of the target that is spread over all classes.
    pub(crate) label_smoothing: f64,
}

impl<'a> Targets<'a> {
    /// Of labels that are class indices, or probabilities, for logits of the shape `x`.
    pub(crate) fn new(labels: &View<'a>, x: &[usize], axes: &[bool]) -> Result<Self> {
        let kept = super::kept(x, axes);
        let (given, classes, all) = (display(&labels.shape), display(&kept), display(x));
        let name = labels.dtype.name();
        let (labels, soft) = match labels.dtype {
            DType::Bool => {
                return Err(Error::Type(
                    "labels must be integers, or floats as probabilities, not bool; pass labels.astype(int) for class \
                     indices"
                        .to_owned(),
                ));
            }
            dtype if dtype.is_float() && labels.shape.as_slice() == x => (labels.clone(), true),
            dtype if dtype.is_float() && labels.shape == kept => {
                return Err(Error::Type(format!(
                    "labels of dtype {name} and shape {given} can be neither class indices, which are integers, nor \
                     probabilities, which have the logits' shape {all}"
                )));
            }
            dtype if dtype.is_float() => {
                return Err(Error::Value(format!(
                    "labels has shape {given}, but as probabilities ({name}) it must have the logits' shape {all}"
                )));
            }
            _ if labels.shape == kept => (super::spread(labels, x, axes, "labels")?, false),
            _ => {
                return Err(Error::Value(format!(
                    "labels has shape {given}, but as class indices ({name}) it must have the logits' shape without \
                     the axis, {classes}; probabilities must be floats of shape {all}"
                )));
            }
        };
        Ok(Self { labels, soft, weight: None, ignore_index: IGNORE_INDEX, label_smoothing: 0.0 })
    }
}

/// torch's.
const IGNORE_INDEX: i64 = -100;

/// What [`cross_entropy`] is asked for beside the labels, with torch's meanings.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy<'a> {
    weight: Option<&'a [f64]>,
    ignore_index: i64,
    label_smoothing: f64,
}

impl Default for CrossEntropy<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> CrossEntropy<'a> {
    /// No weights, no smoothing; the class index -100 is ignored.
    #[must_use]
    pub fn new() -> Self {
        Self { weight: None, ignore_index: IGNORE_INDEX, label_smoothing: 0.0 }
    }

    /// A weight for each class, by which losses are multiplied.
    #[must_use]
    pub fn weight(self, weight: &'a [f64]) -> Self {
        Self { weight: Some(weight), ..self }
    }

    /// The class index whose loss is 0.
    #[must_use]
    pub fn ignore_index(self, ignore_index: i64) -> Self {
        Self { ignore_index, ..self }
    }

    /// The part of the target, from 0 to 1, that is spread over all classes.
    #[must_use]
    pub fn label_smoothing(self, label_smoothing: f64) -> Self {
        Self { label_smoothing, ..self }
    }
}

/// The cross-entropy, in nats, of the distributions whose logits are `x` along `axis`, relative to `labels`: one loss a
/// row.
///
/// Labels that are integers are class indices, in the logits' shape without the axis; labels that are floats are
/// probabilities, in the logits' shape. The result has the logits' shape without the axis. The logits are read once (and
/// again where there are probabilities, or smoothing), and nothing of their size is made.
///
/// A row with NaN or +inf is NaN; so is a row of nothing but -inf. The loss of a class of logit -inf is infinite.
///
/// # Errors
/// [`Error::Index`] for a label outside the axis that is not ignored, before anything is computed. [`Error::Type`] for
/// labels that are neither. [`Error::Axis`] or [`Error::Value`] for an axis, a shape, weights or options that the
/// logits do not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{CrossEntropy, Options, cross_entropy};
/// use ndarray::array;
///
/// let logits = array![[0.0f32, 0.0], [20.0, 0.0], [1.0, 2.0]];
/// let losses = cross_entropy(&logits, &array![0, 0, -100], -1, &CrossEntropy::new(), &Options::new())?;
/// assert_eq!(losses, array![2f32.ln(), 2.061_153_6e-9, 0.0].into_dyn());
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn cross_entropy<T: Float + Default, L: Element, D: Dimension, E: Dimension>(
    x: &ArrayRef<T, D>,
    labels: &ArrayRef<L, E>,
    axis: isize,
    loss: &CrossEntropy<'_>,
    options: &Options<'_>,
) -> Result<ArrayD<T>> {
    let axis = Axis::One(axis);
    let weight = loss.weight.map(ndarray::ArrayView1::from);
    let targets = Targets {
        weight: weight.as_ref().map(|weight| View::of(weight)),
        ignore_index: loss.ignore_index,
        label_smoothing: loss.label_smoothing,
        ..Targets::new(&View::of(labels), x.shape(), &axis.reduced(x.ndim())?)?
    };
    super::reduced(x, &axis, |out| run(&View::of(x), &targets, out, &axis, options).map(drop))
}

/// Losses of arrays of any dtype and layout into `out`, which has length 1 along the axis; returns the weight by which
/// a mean divides their sum.
pub(crate) fn run(
    x: &View<'_>,
    targets: &Targets<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<f64> {
    if !(0.0..=1.0).contains(&targets.label_smoothing) {
        let given = targets.label_smoothing;
        return Err(Error::Value(format!("label_smoothing must be between 0 and 1, not {given}")));
    }
    let reduced = axis.reduced(x.shape.len())?;
    let classes: usize = x.shape.iter().zip(&reduced).filter(|(_, is_axis)| **is_axis).map(|(len, _)| *len).product();
    let weight = match &targets.weight {
        None => None,
        Some(weight) if weight.shape.as_slice() == [classes] => {
            let plan = crate::shape::Plan::new(&weight.shape, &[true], crate::shape::only(&weight.strides));
            let mut values = crate::memory::zeros(classes)?;
            crate::memory::Source::new(weight.clone(), &plan, 0, false)?.read(0, 0, &mut values);
            Some(values)
        }
        Some(weight) => {
            return Err(Error::Value(format!(
                "weight has shape {}, but there are {classes} classes; pass one weight for each class",
                display(&weight.shape)
            )));
        }
    };
    let labels = Labels { view: targets.labels.clone(), name: "labels" };
    let loss = Loss { targets, weight, total: Mutex::new(Double::default()) };
    walk::reduce(x, Some(&labels), out, axis, options, &loss)?;
    Ok(loss.total.into_inner().unwrap_or_default().high)
}

struct Loss<'a> {
    targets: &'a Targets<'a>,
    weight: Option<Vec<f64>>,
    /// What a mean divides by. (A sum of 106 bits: the order in which threads add to it does not show.)
    total: Mutex<Double>,
}

impl Loss<'_> {
    #[allow(
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "an index, compared with what was read as float64"
    )]
    fn is_ignored(&self, label: f64) -> bool {
        label == self.targets.ignore_index as f64
    }

    fn weight(&self, class: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |weight| weight[class])
    }
}

/// -sum of q log p, where `target` gives q of a class; a q of 0 contributes nothing, whatever p is.
fn expected<C: Compute>(row: &Row<'_, C>, target: impl Fn(usize) -> f64) -> f64 {
    let mut chunk = [C::ZERO; 256];
    let mut sum = Double::default();
    // Where the sum is infinite, that of 106 bits is NaN.
    let mut plain = 0.0;
    let len = row.len();
    for start in (0..len).step_by(chunk.len()) {
        let x = &mut chunk[..256.min(len - start)];
        row.read(start, x);
        for (offset, x) in x.iter().enumerate() {
            let q = target(start + offset);
            if q != 0.0 {
                let distance = row.distance(*x);
                plain += distance.high * q;
                sum = sum.plus(distance.plus(row.sum.log).times(q));
            }
        }
    }
    match row.sum.log.high {
        log if log.is_nan() => f64::NAN,
        _ if plain.is_finite() => sum.high,
        _ => plain,
    }
}

impl Reduction for Loss<'_> {
    const EMPTY: f64 = f64::NAN;

    fn check_label(&self, row: usize, label: f64, len: usize) -> Result<()> {
        if self.targets.soft || self.is_ignored(label) {
            return Ok(());
        }
        check_index("label", row, label, len).map(drop)
    }

    fn value<C: Compute>(&self, row: &Row<'_, C>, weights: &mut Double) -> Result<f64> {
        let len = row.len();
        let smoothing = self.targets.label_smoothing;
        #[allow(clippy::cast_precision_loss, reason = "a number of classes")]
        let spread = smoothing / len as f64;
        if self.targets.soft {
            *weights = weights.plus(Double::new(1.0));
            let target = |class| row.target(class) * (1.0 - smoothing) + spread;
            return Ok(expected(row, |class| self.weight(class) * target(class)));
        }
        let label = row.label;
        if self.is_ignored(label) {
            return Ok(0.0);
        }
        let class = check_index("label", row.index, label, len)?;
        let weight = self.weight(class);
        *weights = weights.plus(Double::new(weight));
        let hard = -row.log_probability(class) * weight;
        if smoothing == 0.0 {
            return Ok(if weight == 0.0 && !row.sum.log.high.is_nan() { 0.0 } else { hard });
        }
        let soft = expected(row, |class| self.weight(class) * spread);
        Ok((if smoothing < 1.0 { hard * (1.0 - smoothing) } else { 0.0 }) + soft)
    }

    fn count(&self, weights: Double) {
        if let Ok(mut total) = self.total.lock() {
            *total = total.plus(weights);
        }
    }
}
