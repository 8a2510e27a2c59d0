//! `log_softmax(x)_i = x_i / T - log(sum_j exp(x_j / T))`

use ndarray::{Array, ArrayRef, Dimension};

use crate::element::{Element, Float};
use crate::error::Result;
use crate::kernel::Real;
use crate::kernel::log_row::LogSum;
use crate::memory::{View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::{self, Function};

/// The largest error of a result in float32 or float64, in units in the last place, also where it is near 0.
pub const ULP: f64 = 2.0;

/// The log-probabilities of the logits `x` along `axis`.
///
/// The bits are the same at every level, for every number of threads and every layout. A row with NaN or +inf is NaN;
/// so is a row of nothing but -inf.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the array does not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, log_softmax};
/// use ndarray::array;
///
/// let log_probabilities = log_softmax(&array![20.0f32, 0.0], -1, &Options::new())?;
/// assert_eq!(log_probabilities, array![-2.061_153_6e-9, -20.0]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn log_softmax<T: Float, D: Dimension>(
    x: &ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<Array<T, D>> {
    let mut out = x.to_owned();
    run(&View::of(x), &mut ViewMut::of(&mut out), &axis.into(), options)?;
    Ok(out)
}

/// [`log_softmax`] into an array of the same shape, of any float type.
///
/// # Errors
/// As [`log_softmax`], and [`crate::Error::Value`] for an `out` of another shape.
pub fn log_softmax_into<T: Element, U: Float, D: Dimension>(
    x: &ArrayRef<T, D>,
    out: &mut ArrayRef<U, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    run(&View::of(x), &mut ViewMut::of(out), &axis.into(), options)
}

/// [`log_softmax`] in the place of the logits.
///
/// # Errors
/// As [`log_softmax`].
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, log_softmax_in_place};
/// use ndarray::array;
///
/// let mut x = array![20.0f32, 0.0];
/// log_softmax_in_place(&mut x, -1, &Options::new())?;
/// assert_eq!(x, array![-2.061_153_6e-9, -20.0]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn log_softmax_in_place<T: Float, D: Dimension>(
    data: &mut ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    super::in_place(data, |x, out| run(x, out, &axis.into(), options))
}

/// [`log_softmax`] of arrays of any dtype and layout.
pub(crate) fn run(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    walk::map::<LogSoftmax>(x, out, axis, options)
}

#[derive(Clone, Copy)]
struct LogSoftmax;

impl Function for LogSoftmax {
    type Row<T: Real> = LogSum<T>;
    const EXCLUDED: f64 = f64::NEG_INFINITY;
    const KEEPS: bool = false;
}
