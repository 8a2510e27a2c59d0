"""How far to trust probabilities: the temperature that makes them honest, and the error that remains."""

from __future__ import annotations

import math
import operator
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import numpy as np

import fastsoftmax

from ._flags import guarded
from ._temperature import LabelledLogits, check_labels, plain, root

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    F64 = NDArray[np.float64]

ROWS: Final = 1 << 16  # of a block: its results take 0.5 MB for every number per row
ELEMENTS: Final = 1 << 18  # of a block of probabilities
ABOVE_ONE: Final = 0.01  # by what a probability may exceed 1: bfloat16 rounds by 0.004


# -- temperature ---------------------------------------------------------------------------------------------


@guarded
def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    /,
    axis: int = -1,
    *,
    sample_weight: ArrayLike | None = None,
    bounds: tuple[float, float] = (1e-3, 1e3),
    threads: int | None = None,
) -> float:
    r"""Find the temperature at which the labels are likeliest: temperature scaling.

    .. math:: \hat T = \arg\min_T \; -\frac{\sum_i w_i \log p_i(T)}{\sum_i w_i}, \qquad
       p_i(T) = \frac{e^{x_{i, y_i} / T}}{\sum_j e^{x_{i, j} / T}}

    Dividing the logits of a trained classifier by this one number often makes its probabilities match its
    accuracy, and never changes which class is the most probable [1]_. Fit it on data that the classifier was
    not trained on; then use ``softmax(logits, temperature=T)``.

    Parameters
    ----------
    logits : array_like
        One row of logits per label along `axis`, of any dtype, shape and layout that `softmax` takes.
        A logit of -inf is a class that is impossible.
    labels : array_like of int
        The true classes, 0 to C - 1 for C classes, in the shape of `logits` without `axis`.
    axis : int, default -1
        The axis of the classes: one, by default the last. (SciPy's functions take the whole array.)
    sample_weight : array_like, optional
        What each row counts: not negative, finite, not all 0, in the shape of `labels`. Rows of weight 0 take
        no part, whatever their logits.
    bounds : tuple of float, default (1e-3, 1e3)
        The least and the greatest temperature to return.
    threads : int, optional
        The largest number of threads to use. By default `get_num_threads()`. The result is the same with any
        number.

    Returns
    -------
    float
        The temperature. Above 1 the classifier was too sure of itself, below 1 not sure enough.

    Warns
    -----
    RuntimeWarning
        The result is one of `bounds` because there is no best temperature between them. The NLL falls
        without end as the temperature falls if each row's label has its greatest logit (separable data), and
        as it rises if the logits are no better than none; it does not depend on the temperature if the logits
        of every row are equal (the result is the upper bound then).

    Raises
    ------
    IndexError
        A label is not one of the classes. The message names its row.
    TypeError
        `labels` are not integers; `logits` are of a dtype that is not supported.
    ValueError
        There are no rows; a row of logits holds NaN or +inf, or is -inf at its label, where the likelihood is
        0 at any temperature; shapes do not match; weights or bounds are not as above.
    numpy.exceptions.AxisError
        `logits` has no such axis.

    See Also
    --------
    calibration_error : What remains to be scaled.
    fastsoftmax.plot.reliability_diagram : A picture of before and after.

    Notes
    -----
    The logarithm of the result is within about 1e-8 of the minimiser's, unless the minimum is so flat that
    float64 cannot tell. The NLL is convex in 1/T, so there is only one. The root of its slope is found by
    Newton's or the secant method, usually in two or three evaluations on all rows. The memory needed does
    not grow with the number of logits: less than 4 MB.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
       Proceedings of the 34th International Conference on Machine Learning (2017), 1321-1330.

    Examples
    --------
    A classifier that is right three times out of four, and claims 0.95:

    >>> import numpy as np
    >>> from fastsoftmax import fit_temperature, softmax
    >>> logits = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [3.0, 0.0]])
    >>> labels = np.array([0, 1, 0, 1])
    >>> temperature = fit_temperature(logits, labels)
    >>> round(temperature, 4)
    2.7307
    >>> softmax(logits, temperature=temperature).max(axis=1).round(6)
    array([0.75, 0.75, 0.75, 0.75])
    """
    low, high = (float(bound) for bound in bounds)
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds must be two numbers with 0 < low < high < inf, not ({low}, {high})")
    rows = LabelledLogits.checked(logits, labels, axis, sample_weight, threads)
    # Along u = log(beta), beta = 1/T; the start is T = 1.
    ends = (-math.log(high), -math.log(low))
    start, rate = min(max(0.0, ends[0]), ends[1]), None
    sample = rows.sample()
    if sample is not None:
        start, rate, _ = root(sample.slope, *ends, start, None)
    u, _, end = root(rows.slope, *ends, start, rate)
    if end is None:
        return min(max(math.exp(-u), low), high)
    result = {"low": high, "high": low, "flat": high}[end]
    reasons = {
        "high": "the mean NLL is least at the lower bound, and would fall further below it (without end "
        "if the data are separable: every row's label has its greatest logit)",
        "low": "the mean NLL is least at the upper bound, and would fall further above it (without end if "
        "the logits are no better than equal ones)",
        "flat": "the mean NLL is the same at any temperature (the logits of every row are equal)",
    }
    message = f"fit_temperature returns a bound, {result:g}: {reasons[end]}"
    # Three: the guard's frame is between this function and its caller.
    warnings.warn(message, RuntimeWarning, stacklevel=3)
    return result


# -- error ---------------------------------------------------------------------------------------------------


class CalibrationBins(NamedTuple):
    """The calibration error and the bins that it was computed from.

    Attributes
    ----------
    error : float
        As `calibration_error` returns it.
    edges : numpy.ndarray
        The edges of the bins, shape ``(n_bins + 1,)``; bin m holds what is above ``edges[m]`` and at most
        ``edges[m + 1]``.
    counts : numpy.ndarray
        The number of rows in each bin, shape ``(n_bins,)``.
    confidence : numpy.ndarray
        The mean of the greatest probability over the rows of each bin; NaN for an empty one.
    accuracy : numpy.ndarray
        The share of rows in each bin whose most probable class is the label; NaN for an empty one.
    """

    error: float
    edges: NDArray[np.float64]
    counts: NDArray[np.intp]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


_Norm = Literal["l1", "l2", "max"]


@overload
def calibration_error(
    probs_or_logits: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    n_bins: int = 15,
    norm: _Norm = "l1",
    from_logits: bool = False,
    return_bins: Literal[False] = False,
) -> float: ...
@overload
def calibration_error(
    probs_or_logits: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    n_bins: int = 15,
    norm: _Norm = "l1",
    from_logits: bool = False,
    return_bins: Literal[True],
) -> CalibrationBins: ...
@guarded
def calibration_error(
    probs_or_logits: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    n_bins: int = 15,
    norm: _Norm = "l1",
    from_logits: bool = False,
    return_bins: bool = False,
) -> float | CalibrationBins:
    r"""Measure how far the confidence of a classifier is from its accuracy: top-label ECE.

    The confidence of a row is its greatest probability. Rows are put in bins by their confidence; where
    calibration is perfect, the share of rows of a bin that are right (accuracy) is their mean confidence.

    .. math:: \mathrm{ECE} = \sum_{m=1}^{M} \frac{n_m}{n} \, |\mathrm{acc}_m - \mathrm{conf}_m|

    Parameters
    ----------
    probs_or_logits : array_like
        Probabilities, shape ``(n, C)``, as `softmax` gives them; or logits, if `from_logits`.
    labels : array_like of int
        The true classes, 0 to C - 1, shape ``(n,)``.
    n_bins : int, default 15
        M, the number of bins of equal width between 0 and 1. They are closed on the right, as in [1]_: bin m
        holds confidences above (m - 1)/M and at most m/M (0 is in the first).
    norm : {'l1', 'l2', 'max'}, default 'l1'
        How the gaps of the bins are combined: 'l1' as above (expected calibration error); 'l2', the root of
        the mean square; 'max', the greatest gap of a bin that is not empty (maximum calibration error).
    from_logits : bool, default False
        Compute the greatest probability from logits, without a matrix of probabilities.
    return_bins : bool, default False
        Return the bins too.

    Returns
    -------
    float or CalibrationBins
        The error, 0 to 1; NaN if there are no rows. With `return_bins`, a named tuple: error, edges, counts,
        confidence, accuracy.

    Raises
    ------
    IndexError
        A label is not one of the classes. The message names its row.
    TypeError
        `labels` are not integers; the dtype of the probabilities is not supported.
    ValueError
        The probabilities are not two-dimensional (one column of binary probabilities p is
        ``np.stack([1 - p, p], axis=1)``), or not between 0 and 1, or NaN; logits hold NaN or +inf; shapes do
        not match; `n_bins` or `norm` is not as above.

    See Also
    --------
    fit_temperature : Makes it small.
    fastsoftmax.plot.reliability_diagram : The bins as a picture.

    Notes
    -----
    Where several classes are the most probable, the first one counts. The estimate depends on the bins, and
    is biased upwards where bins hold few rows: compare only what was measured with the same `n_bins` and
    number of rows. The memory needed does not grow with the input: less than 4 MB.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
       Proceedings of the 34th International Conference on Machine Learning (2017), 1321-1330.

    Examples
    --------
    Four rows with a confidence of 0.9, three of them right:

    >>> from fastsoftmax import calibration_error
    >>> probs = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]]
    >>> round(calibration_error(probs, [0, 1, 0, 1]), 6)
    0.15
    >>> bins = calibration_error(probs, [0, 1, 0, 1], n_bins=5, return_bins=True)
    >>> bins.counts.tolist(), bins.accuracy.tolist()
    ([0, 0, 0, 0, 4], [nan, nan, nan, nan, 0.75])
    """
    bins = reliability(probs_or_logits, labels, n_bins, norm, from_logits=from_logits)
    return bins if return_bins else bins.error


def reliability(
    probs_or_logits: ArrayLike,
    labels: ArrayLike,
    n_bins: int,
    norm: _Norm = "l1",
    *,
    from_logits: bool,
    temperature: float = 1.0,
) -> CalibrationBins:
    """Compute what `calibration_error` returns; logits can be scaled by a temperature."""
    x, y = plain(probs_or_logits, "logits" if from_logits else "probs"), plain(labels, "labels")
    n_bins = operator.index(n_bins)
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, not {n_bins}")
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f"norm must be 'l1', 'l2' or 'max', not {norm!r}")
    if x.ndim != 2:
        hint = "; for binary probabilities p pass np.stack([1 - p, p], axis=1)" if x.ndim == 1 else ""
        raise ValueError(f"{x.ndim} dimensions; calibration_error needs 2, rows and classes{hint}")
    check_labels(y, x.shape)
    edges = np.arange(n_bins + 1) / n_bins
    count, right, sums = np.zeros(n_bins, np.intp), np.zeros(n_bins), np.zeros(n_bins)
    top = _top_of_logits if from_logits else _top_of_probabilities
    step = max(1, min(ROWS, ELEMENTS // max(1, x.shape[1])))
    for start in range(0, len(x), step):
        confidence, winner = top(x[start : start + step], start, temperature)
        place = np.maximum(edges.searchsorted(confidence) - 1, 0)
        hit = winner == y[start : start + step]
        count += np.bincount(place, minlength=n_bins)
        right += np.bincount(place, hit, n_bins)
        sums += np.bincount(place, confidence, n_bins)
    # Of empty bins np.nan, not the NaN of 0/0, whose sign differs from processor to processor.
    some, empty = count > 0, np.full(n_bins, np.nan)
    accuracy = np.divide(right, count, out=empty.copy(), where=some)
    confidence = np.divide(sums, count, out=empty, where=some)
    gap, share = np.abs(accuracy - confidence)[some], (count / max(1, len(x)))[some]
    if len(x) == 0:
        error = math.nan
    elif norm == "max":
        error = float(gap.max())
    else:
        error = float((share * gap).sum() if norm == "l1" else math.sqrt((share * gap**2).sum()))
    return CalibrationBins(error, edges, count, confidence, accuracy)


def _top_of_logits(x: Array, start: int, temperature: float) -> tuple[F64, Array]:
    values, winner = fastsoftmax.top_k(x, 1, temperature=temperature, dtype=np.float64)
    confidence = values[:, 0]
    if np.isnan(confidence).any():
        row = int(np.isnan(confidence).argmax())
        what = "NaN" if np.isnan(x[row].astype(np.float64)).any() else "inf, or -inf throughout"
        raise ValueError(f"the logits of row {start + row} hold {what}")
    return confidence, winner[:, 0]


def _top_of_probabilities(p: Array, start: int, _: float) -> tuple[F64, Array]:
    if p.dtype.kind not in "biuf" and p.dtype.name != "bfloat16":
        raise TypeError(f"probabilities must be real numbers, not {p.dtype}")
    p = np.asarray(p, np.float32 if p.dtype.itemsize < 4 else p.dtype)
    winner = p.argmax(axis=1)  # that of a NaN, if there is one
    confidence = np.take_along_axis(p, winner[:, None], 1)[:, 0].astype(np.float64)
    good = (confidence <= 1 + ABOVE_ONE) & (p.min(axis=1) >= 0)
    if not good.all():
        row = int(good.argmin())
        bad = p[row][~((p[row] >= 0) & (p[row] <= 1 + ABOVE_ONE))][0]
        raise ValueError(
            f"row {start + row} holds {bad:g}, which is no probability (for logits, pass from_logits=True)"
        )
    return np.minimum(confidence, 1.0), winner
