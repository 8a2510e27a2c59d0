//! The gradient of softmax: p (g - sum(g p)).

use ndarray::{Array, ArrayRef, Dimension};

use crate::element::{Element, Float};
use crate::error::Result;
use crate::kernel::gradient::Softmax;
use crate::memory::{View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::pairs;

/// The largest error of a result in float32 or float64, in units in the last place of p max(|g|, |S|), where
/// S = sum(g p) is exact. (Where g - S cancels, no bound in units of the result itself can hold for any method that
/// has S in finitely many digits.)
pub const ULP: f64 = 1.01;

/// The gradient of a loss with respect to logits, from the probabilities that [`crate::softmax`] made of them and the
/// gradient with respect to those: `probs * (grad - sum(grad * probs))` along `axis`.
///
/// Formally, the product of a vector with softmax's Jacobian. For logits divided by a temperature T, divide the
/// result by T.
///
/// The results are within [`ULP`] units in the last place of `probs * max(|grad|, |sum|)`, and the same bits at every
/// level, for every number of threads and every layout. NaN in either array makes its row NaN, and only that row.
/// Infinity goes where the formula takes it: an infinite gradient at a probability of 0 makes the row NaN, elsewhere
/// the sum is infinite, the results are of the other sign, and NaN where the formula says 0 * inf or inf - inf.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the arrays do not allow, or a `grad`
/// that does not broadcast to the shape of `probs`.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, softmax, softmax_vjp};
/// use ndarray::array;
///
/// let probs = softmax(&array![0.0f64, 0.0, 0.0, 0.0], -1, &Options::new())?;
/// let grad = softmax_vjp(&probs, &array![1.0, 0.0, 0.0, -1.0], -1, &Options::new())?;
/// assert_eq!(grad, array![0.25, 0.0, 0.0, -0.25]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn softmax_vjp<T: Float, D: Dimension, E: Dimension>(
    probs: &ArrayRef<T, D>,
    grad: &ArrayRef<T, E>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<Array<T, D>> {
    let mut out = probs.to_owned();
    run(&View::of(probs), &View::of(grad), &mut ViewMut::of(&mut out), &axis.into(), options)?;
    Ok(out)
}

/// [`softmax_vjp`] into an array of the same shape, from and to any types.
///
/// # Errors
/// As [`softmax_vjp`], and [`crate::Error::Value`] for an `out` of another shape.
pub fn softmax_vjp_into<P: Element, G: Element, U: Float, D: Dimension, E: Dimension>(
    probs: &ArrayRef<P, D>,
    grad: &ArrayRef<G, E>,
    out: &mut ArrayRef<U, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    run(&View::of(probs), &View::of(grad), &mut ViewMut::of(out), &axis.into(), options)
}

/// [`softmax_vjp`] in the place of the gradient, which must have the shape of `probs`.
///
/// # Errors
/// As [`softmax_vjp`].
pub fn softmax_vjp_in_place<P: Element, T: Float, D: Dimension>(
    probs: &ArrayRef<P, D>,
    grad: &mut ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    super::in_place(grad, |grad, out| run(&View::of(probs), grad, out, &axis.into(), options))
}

/// [`softmax_vjp`] of arrays of any dtype and layout.
pub(crate) fn run(
    probs: &View<'_>,
    grad: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    pairs::map::<Softmax>(probs, grad, out, axis, options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    /// Where the output is one of the operands, shares part of its memory, or all of both.
    #[test]
    fn overlap() {
        for len in [5usize, 100, 1500, 70_000] {
            let mut memory: Vec<f32> = (0..u16::MAX).cycle().take(2 * len).map(|i| f32::from(i % 97) / 97.0).collect();
            let mut run_in = |at: [usize; 3]| {
                let before = memory.clone();
                let part = |start: usize| ndarray::aview1(&before[start..start + len]).to_owned();
                let expected = softmax_vjp(&part(at[0]), &part(at[1]), -1, &Options::new()).unwrap();
                {
                    let mut array = ndarray::aview_mut1(&mut memory);
                    let mut whole = ViewMut::of(&mut array);
                    let view = whole.array().clone();
                    let [p, g] = [at[0], at[1]].map(|start| view.slice(start..start + len));
                    let mut out = whole.slice(at[2]..at[2] + len);
                    run(&p, &g, &mut out, &Axis::All, &Options::new()).unwrap();
                }
                assert_eq!(memory[at[2]..at[2] + len], *expected.as_slice().unwrap(), "{at:?}");
                memory = before;
            };
            for at in [[0, len, 0], [0, len, len], [0, 0, 0], [0, len, 1], [1, 0, 2], [len / 2, 0, 0], [3, 3, 1]] {
                run_in(at);
            }
        }
    }
}
