//! `softmax(x)_i = exp(x_i / T) / sum_j exp(x_j / T)`

use ndarray::{Array, ArrayRef, Dimension};

use crate::element::Float;
use crate::error::Result;
use crate::kernel::Real;
use crate::kernel::row::Quotient;
use crate::memory::{View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::{self, Function};

/// The largest error of a result in float32 or float64, in units in the last place.
pub const ULP: f64 = 2.0;

/// The probabilities of the logits `x` along `axis`.
///
/// The results are within [`ULP`] units in the last place of the exact ones, and the same bits at every level, for
/// every number of threads and every layout. A row with NaN or +inf is NaN; so is a row of nothing but -inf.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the array does not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, softmax};
/// use ndarray::array;
///
/// let probabilities = softmax(&array![2.0f32, 1.0, 0.1], -1, &Options::new())?;
/// assert_eq!(probabilities, array![0.659_001_1, 0.242_432_97, 0.098_565_89]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn softmax<T: Float, D: Dimension>(
    x: &ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<Array<T, D>> {
    let mut out = x.to_owned();
    run(&View::of(x), &mut ViewMut::of(&mut out), &axis.into(), options)?;
    Ok(out)
}

/// [`softmax`] into an array of the same shape, of any float type.
///
/// # Errors
/// As [`softmax`], and [`crate::Error::Value`] for an `out` of another shape.
pub fn softmax_into<T: crate::Element, U: Float, D: Dimension>(
    x: &ArrayRef<T, D>,
    out: &mut ArrayRef<U, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    run(&View::of(x), &mut ViewMut::of(out), &axis.into(), options)
}

/// [`softmax`] in the place of the logits.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_in_place<T: Float, D: Dimension>(
    data: &mut ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<()> {
    super::in_place(data, |x, out| run(x, out, &axis.into(), options))
}

/// [`softmax`] of arrays of any dtype and layout.
pub(crate) fn run(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    walk::map::<Softmax>(x, out, axis, options)
}

#[derive(Clone, Copy)]
pub(super) struct Softmax;

impl Function for Softmax {
    type Row<T: Real> = Quotient<T>;
    const EXCLUDED: f64 = 0.0;
    const KEEPS: bool = true;
}
