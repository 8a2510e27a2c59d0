//! `logsumexp(x) = log(sum_j exp(x_j))`

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::element::Float;
use crate::error::{Error, Result};
use crate::kernel::double::Double;
use crate::memory::{Compute, View, ViewMut};
use crate::options::{Options, Temperature};
use crate::shape::Axis;
use crate::walk::{self, Reduction, Row};

/// log(sum(exp(x))) of the logits `x` along `axis`, without overflow.
///
/// The result has the logits' shape without the axis, or axes. The logits are read once, and nothing of their size is
/// made. A result is within 2 units in the last place of the exact one, also where the largest logit and the logarithm
/// all but cancel, and has the same bits at every level, for every number of threads and every layout.
///
/// A row with NaN is NaN; else one with +inf is +inf; one of nothing but -inf, or of nothing, is -inf. Places that the
/// mask leaves out count as -inf.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the array does not allow, a temperature
/// among them.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, logsumexp};
/// use ndarray::array;
///
/// let logits = array![[1000.0f32, 1000.0], [0.0, f32::NEG_INFINITY]];
/// assert_eq!(logsumexp(&logits, -1, &Options::new())?, array![1000.0 + 2f32.ln(), 0.0].into_dyn());
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn logsumexp<T: Float + Default, D: Dimension>(
    x: &ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<ArrayD<T>> {
    let axis = axis.into();
    if !matches!(options.temperature, Temperature::One | Temperature::Number(1.0)) {
        return Err(Error::Value("logsumexp has no temperature; divide the logits by it".to_owned()));
    }
    super::reduced(x, &axis, |out| run(&View::of(x), out, &axis, options))
}

/// [`logsumexp`] of arrays of any dtype and layout; `out` has length 1 along the axes.
pub(crate) fn run(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    walk::reduce(x, None, out, axis, options, &LogSumExp)
}

struct LogSumExp;

impl Reduction for LogSumExp {
    const EMPTY: f64 = f64::NEG_INFINITY;

    fn value<C: Compute>(&self, row: &Row<'_, C>, _: &mut Double) -> Result<f64> {
        row.log_sum()
    }
}
