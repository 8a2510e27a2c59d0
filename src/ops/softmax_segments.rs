//! Softmax within each of many stretches of one array.

use ndarray::{Array1, ArrayRef1};

use super::softmax::Softmax;
use crate::element::{Element, Float};
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::options::Options;
use crate::walk::segments;

/// The probabilities within each segment of `values`, where segment i is `values[offsets[i]..offsets[i + 1]]`: the
/// lists of an Arrow column, the candidates of a query.
///
/// n segments have n + 1 offsets, of any integer type. Segments may be empty. Values before the first offset and
/// after the last lie in no segment: the result has the length of `values`, and 0 there. A temperature may be a
/// number, or an array with one for each segment ([`Options::temperatures`]).
///
/// Each segment's results are the bits that [`crate::softmax`] gives for it alone, with its accuracy and its rules
/// for NaN and infinity.
///
/// # Errors
/// [`crate::Error::Type`] for offsets that are not integers, [`crate::Error::Value`] for offsets that decrease or for
/// options that the arrays do not allow, [`crate::Error::Index`] for an offset outside `values`.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, softmax_segments};
/// use ndarray::array;
///
/// let scores = array![0.0f32, 0.0, 5.0, 1.0, 1.0, 1.0, 1.0];
/// let offsets = array![0, 2, 2, 3, 7];
/// let probs = softmax_segments(&scores, &offsets, &Options::new())?;
/// assert_eq!(probs, array![0.5, 0.5, 1.0, 0.25, 0.25, 0.25, 0.25]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn softmax_segments<T: Float, I: Element>(
    values: &ArrayRef1<T>,
    offsets: &ArrayRef1<I>,
    options: &Options<'_>,
) -> Result<Array1<T>> {
    let mut out = values.to_owned();
    run(&View::of(values), &View::of(offsets), &mut ViewMut::of(&mut out), options)?;
    Ok(out)
}

/// [`softmax_segments`] into an array of the same length, from and to any types.
///
/// # Errors
/// As [`softmax_segments`], and [`crate::Error::Value`] for an `out` of another length.
pub fn softmax_segments_into<T: Element, I: Element, U: Float>(
    values: &ArrayRef1<T>,
    offsets: &ArrayRef1<I>,
    out: &mut ArrayRef1<U>,
    options: &Options<'_>,
) -> Result<()> {
    run(&View::of(values), &View::of(offsets), &mut ViewMut::of(out), options)
}

/// [`softmax_segments`] in the place of the values.
///
/// # Errors
/// As [`softmax_segments`].
pub fn softmax_segments_in_place<T: Float, I: Element>(
    data: &mut ArrayRef1<T>,
    offsets: &ArrayRef1<I>,
    options: &Options<'_>,
) -> Result<()> {
    super::in_place(data, |values, out| run(values, &View::of(offsets), out, options))
}

/// [`softmax_segments`] of arrays of any dtype and layout.
pub(crate) fn run(values: &View<'_>, offsets: &View<'_>, out: &mut ViewMut<'_>, options: &Options<'_>) -> Result<()> {
    segments::map::<Softmax>(values, offsets, out, options)
}
