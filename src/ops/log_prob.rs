//! `log_prob(x, i) = log(softmax(x)_i)`, the log-probability of one place of each row.

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::element::{Element, Float};
use crate::error::{Error, Result};
use crate::kernel::double::Double;
use crate::memory::{Compute, View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::{self, Labels, Reduction, Row, check_index};

/// The log-probability of one place of each row: the logits' log softmax along `axis`, at `index`.
///
/// `index` has integers, and broadcasts against the logits' shape without the axis, which is the result's. The logits are
/// read once, and nothing of their size is made; a result is within 2 units in the last place of the exact one, also
/// where the probability is nearly 1.
///
/// A row with NaN or +inf is NaN; so is a row of nothing but -inf. Places that the mask leaves out have probability 0.
///
/// # Errors
/// [`Error::Index`] for an index outside the axis, before anything is computed. [`Error::Type`] where `index` has no
/// integers. [`Error::Axis`] or [`Error::Value`] for an axis, a shape or options that the logits do not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, log_prob};
/// use ndarray::array;
///
/// let logits = array![[20.0f32, 0.0], [0.0, 0.0]];
/// let of_labels = log_prob(&logits, &array![0, 1], -1, &Options::new())?;
/// assert_eq!(of_labels, array![-2.061_153_6e-9, -2f32.ln()].into_dyn());
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn log_prob<T: Float + Default, I: Element, D: Dimension, E: Dimension>(
    x: &ArrayRef<T, D>,
    index: &ArrayRef<I, E>,
    axis: isize,
    options: &Options<'_>,
) -> Result<ArrayD<T>> {
    let axis = Axis::One(axis);
    let index = spread(&View::of(index), x.shape(), &axis.reduced(x.ndim())?)?;
    super::reduced(x, &axis, |out| run(&View::of(x), &index, out, &axis, options))
}

/// Indices that broadcast against the logits' shape `x` without the `axes`, as seen from the logits.
pub(crate) fn spread<'a>(index: &View<'a>, x: &[usize], axes: &[bool]) -> Result<View<'a>> {
    if !index.dtype.is_integer() {
        let given = index.dtype.name();
        return Err(Error::Type(format!("index must be an array of integers, not of {given}")));
    }
    super::spread(index, x, axes, "index")
}

/// Log-probabilities of arrays of any dtype and layout. `index` broadcasts against the logits with length 1 along the
/// axis; `out` has length 1 there.
pub(crate) fn run(
    x: &View<'_>,
    index: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    let labels = Labels { view: index.clone(), name: "index" };
    walk::reduce(x, Some(&labels), out, axis, options, &LogProb)
}

struct LogProb;

impl Reduction for LogProb {
    const EMPTY: f64 = f64::NAN;

    fn check_label(&self, row: usize, label: f64, len: usize) -> Result<()> {
        check_index("index", row, label, len).map(drop)
    }

    fn value<C: Compute>(&self, row: &Row<'_, C>, _: &mut Double) -> Result<f64> {
        let place = check_index("index", row.index, row.label, row.len())?;
        Ok(row.log_probability(place))
    }
}
