//! `cross_entropy(x, y) = -log(softmax(x)_y)`, with torch's weights, ignored labels, smoothing and soft targets.

use std::sync::Mutex;

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
