//! The gradient of `log_softmax`: g - exp(lp) sum(g).

use ndarray::{Array, ArrayRef, Dimension};

use crate::element::{Element, Float};
use crate::error::Result;
use crate::kernel::gradient::LogSoftmax;
use crate::memory::{View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::pairs;

/// The largest error of a result in float32 or float64, in units in the last place of max(|g|, exp(lp) |S|), where
/// S = sum(g) is exact.
pub const ULP: f64 = 1.5;

/// The gradient of a loss with respect to logits, from the logarithms that `log_softmax` made of them and the
/// gradient with respect to those: `grad - exp(log_probs) * sum(grad)` along `axis`.
///
/// Formally, the product of a vector with the Jacobian of log-softmax. For logits divided by a temperature T, divide
/// the result by T.
///
/// The results are within [`ULP`] units in the last place of `max(|grad|, exp(log_probs) * |sum|)`, and the same bits
/// at every level, for every number of threads and every layout. (Logarithms above 40, float64: 340, are of no
/// probability; there the bound is 4 units.) NaN in either array makes its row NaN, and only that row. Infinity goes
/// where the formula takes it: an infinite gradient makes the sum infinite, and NaN of the results at a logarithm of
/// -inf, which say 0 * inf.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the arrays do not allow, or a `grad`
/// that does not broadcast to the shape of `log_probs`.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, log_softmax_vjp};
/// use ndarray::array;
///
/// // The gradient of the cross-entropy of label 1: the probabilities, less 1 at the label.
/// let log_probs = array![f64::NEG_INFINITY, 0.0];
/// let grad = log_softmax_vjp(&log_probs, &array![0.0, -1.0], -1, &Options::new())?;
/// assert_eq!(grad, array![0.0, 0.0]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn log_softmax_vjp<T: Float, D: Dimension, E: Dimension>(
    log_probs: &ArrayRef<T, D>,
    grad: &ArrayRef<T, E>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<Array<T, D>> {
    let mut out = log_probs.to_owned();
    run(&View::of(log_probs), &View::of(grad), &mut ViewMut::of(&mut out), &axis.into(), options)?;
    Ok(out)
}

/// [`log_softmax_vjp`] into an array of the same shape, from and to any types.
///
/// # Errors
/// As [`log_softmax_vjp`], and [`crate::Error::Value`] for an `out` of another shape.
pub fn log_softmax_vjp_into<P: Element, G: Element, U: Float, D: Dimension, E: Dimension>(
    log_probs: &ArrayRef<P, D>,
    grad: &ArrayRef<G, E>,
    out: &mut ArrayRef<U, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    run(&View::of(log_probs), &View::of(grad), &mut ViewMut::of(out), &axis.into(), options)
}

/// [`log_softmax_vjp`] in the place of the gradient, which must have the shape of `log_probs`.
///
/// # Errors
/// As [`log_softmax_vjp`].
pub fn log_softmax_vjp_in_place<P: Element, T: Float, D: Dimension>(
    log_probs: &ArrayRef<P, D>,
    grad: &mut ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    super::in_place(grad, |grad, out| run(&View::of(log_probs), grad, out, &axis.into(), options))
}

/// [`log_softmax_vjp`] of arrays of any dtype and layout.
pub(crate) fn run(
    log_probs: &View<'_>,
    grad: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    pairs::map::<LogSoftmax>(log_probs, grad, out, axis, options)
}
