"""How far to trust probabilities: the temperature that makes them honest, and the error that remains.

The mean negative log-likelihood (NLL) of the labels is convex in beta = 1/T. Its slope along log(beta) is

    beta * d NLL / d beta  =  mean of  beta * (E_p[x] - x_label)  =  mean of (NLL_row - H_row),

for the entropy of a row is H = logsumexp(beta*x) - beta * E_p[x]. At the best temperature, then, the labels
are on average exactly as surprising as the model says they will be. `log_prob` and `entropy` give both sides
in one read of the logits each, without a matrix of probabilities, for logits of any layout. The root of the
difference is found by the secant method inside a bracket, from a start and a rate that a sample of the rows
gives; three evaluations on all rows are the rule.
"""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

import fastsoftmax

from ._blocks import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    F64 = NDArray[np.float64]

ROWS: Final = 1 << 16  # of a block: its results take 0.5 MB for every number per row
ELEMENTS: Final = 1 << 18  # of a block of probabilities
SAMPLE: Final = 1 << 14  # rows of the sample, where there are at least four times as many
TOLERANCE: Final = 1e-8  # of the logarithm of the temperature
ABOVE_ONE: Final = 0.01  # by what a probability may exceed 1: bfloat16 rounds by 0.004


# -- temperature ---------------------------------------------------------------------------------------------


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
        The axis of the classes.
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
    float64 cannot tell. The NLL is convex in 1/T, so there is only one. The root of its slope is found with
    `log_prob` and `entropy`, at most about five reads each after a sample has given the start. The memory
    needed does not grow with the number of logits: less than 4 MB.

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
    rows = _Rows.checked(logits, labels, axis, sample_weight, threads)
    # Along u = log(beta), beta = 1/T; the start is T = 1.
    ends = (-math.log(high), -math.log(low))
    start, rate = min(max(0.0, ends[0]), ends[1]), None
    sample = rows.sample()
    if sample is not None:
        start, rate, _ = _root(sample.slope, *ends, start, None)
    u, _, end = _root(rows.slope, *ends, start, rate)
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
    warnings.warn(message, RuntimeWarning, stacklevel=2)
    return result


@dataclass(frozen=True)
class _Rows:
    """Checked logits, labels and weights, the classes last; and the greatest weight."""

    logits: Array
    labels: Array
    weights: Array | None
    scale: float
    threads: int | None

    @classmethod
    def checked(
        cls, logits: ArrayLike, labels: ArrayLike, axis: int, weights: ArrayLike | None, threads: int | None
    ) -> _Rows:
        """Hold the arguments against each other."""
        x, y = _plain(logits, "logits"), _plain(labels, "labels")
        x = np.moveaxis(x, normalize_axis_index(operator.index(axis), x.ndim), -1)
        _check_labels(y, x.shape)
        if y.size == 0:
            raise ValueError("there are no rows to fit a temperature to")
        if weights is None:
            return cls(x, y, None, 1.0, threads)
        w = _plain(weights, "sample_weight")
        return cls(x, y, w, _greatest_weight(w, y.shape), threads)

    def sample(self) -> _Rows | None:
        """Give every n-th row, as a view, if there are so many rows that it pays."""
        shape = self.labels.shape
        along = int(np.argmax(shape)) if shape else 0
        step = min(self.labels.size // SAMPLE, shape[along]) if shape else 0
        if step < 4:
            return None
        every = (slice(None),) * along + (slice(step // 2, None, step),)
        weights = None if self.weights is None else self.weights[every]
        if weights is not None and not weights.any():
            return None
        sample = replace(self, logits=self.logits[every], labels=self.labels[every], weights=weights)
        return sample if math.isfinite(sample.slope(0.0, explain=False)[0]) else None

    def slope(self, u: float, *, explain: bool = True) -> tuple[float, float]:
        """Give the slope of the mean NLL along u = log(beta), and what of it may be rounding errors.

        Where a row has no finite slope, raise what is wrong with it; or give NaN if not `explain`.
        """
        options: dict[str, Any] = {"temperature": math.exp(-u), "dtype": np.float64, "threads": self.threads}
        losses, entropies, weights = [], [], []
        for place in blocks(self.labels.shape, ROWS):
            x = self.logits[place]
            loss = -fastsoftmax.log_prob(x, self.labels[place], **options)
            entropy = fastsoftmax.entropy(x, **options)
            weight: Any = 1.0
            if self.weights is not None:
                weight = np.asarray(self.weights[place], np.float64) / self.scale
                loss[weight == 0] = entropy[weight == 0] = 0
            if not (np.isfinite(loss).all() and np.isfinite(entropy).all()):
                if not explain:
                    return math.nan, 0.0
                self._explain(place, ~(np.isfinite(loss) & np.isfinite(entropy)))
            losses.append(float((weight * loss).sum()))
            entropies.append(float((weight * entropy).sum()))
            weights.append(float(np.sum(np.broadcast_to(weight, loss.shape))))
        loss_mean, entropy_mean = (math.fsum(part) / math.fsum(weights) for part in (losses, entropies))
        noise = 8 * 2.0**-52 * (loss_mean + entropy_mean)
        return loss_mean - entropy_mean, noise if math.isfinite(noise) else 0.0

    def _explain(self, place: tuple[slice, ...], bad: Any) -> None:
        """Raise what is wrong with the first bad row of a block, unless it is only an overflow of x/T."""
        for index in np.argwhere(bad):
            row = self.logits[place][tuple(index)].astype(np.float64)
            where = tuple(int(i) + (s.start or 0) for i, s in zip(index, place, strict=True))
            name = _name(where)
            if np.isnan(row).any():
                raise ValueError(f"the logits of {name} hold NaN")
            if (row == np.inf).any():
                raise ValueError(f"the logits of {name} hold inf, which has no softmax")
            if row[self.labels[where]] == -np.inf:
                raise ValueError(
                    f"{name} has the logit -inf at its label {self.labels[where]}, so that the likelihood is "
                    "0 at any temperature"
                )


def _greatest_weight(weights: Array, shape: tuple[int, ...]) -> float:
    """Check weights, and give the greatest, by which they are divided so that no sum overflows."""
    if weights.shape != shape:
        raise ValueError(f"sample_weight has shape {weights.shape}; it must be that of labels, {shape}")
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight must be real numbers, not {weights.dtype}")
    greatest = 0.0
    for place in blocks(shape, ROWS):
        part = weights[place]
        if not ((part >= 0) & (part < np.inf)).all():
            raise ValueError("sample_weight must not be negative, NaN or infinite")
        greatest = max(greatest, float(part.max(initial=0)))
    if greatest == 0:
        raise ValueError("sample_weight is 0 for every row")
    return greatest


def _root(
    slope: Callable[[float], tuple[float, float]], low: float, high: float, u: float, rate: float | None
) -> tuple[float, float | None, Literal["low", "high", "flat"] | None]:
    """Find where an increasing function is 0 between two ends.

    Returns
    -------
    u, rate
        The place, and the derivative there if it is known.
    end : str or None
        If the function is not 0 in between: at which end it is nearest to it, or that it is 0 all along.
    """
    a, b = low, high
    last: tuple[float, float] | None = None
    last_step = math.inf
    asked = False
    for trial in range(200):
        h, noise = slope(u)
        if abs(h) <= noise:
            return _at_zero(slope, low, high, u, rate)
        if h > 0:
            b = u
        else:
            a = u
        if a == high or b == low:
            return u, None, "high" if a == high else "low"
        if last is not None:
            secant = (h - last[1]) / (u - last[0])
            rate = secant if 0 < secant < math.inf else None
        last = u, h
        # At most 2 far, a factor of 7 in the temperature; without a rate, 1.
        step = min(max(-h / rate, -2.0), 2.0) if rate else math.copysign(1.0, -h)
        if trial > 5 and abs(step) > 0.5 * abs(last_step) and not asked:
            # The root, if there is one, does not come nearer: ask at that end.
            asked = True
            at_end, noise = slope(low if h > 0 else high)
            if at_end >= -noise if h > 0 else at_end <= noise:
                return (low, None, "low") if h > 0 else (high, None, "high")
        target = min(max(u + step, low), high)
        if trial < 40 and (a < target < b or target == a == low or target == b == high):
            # The error of the secant method after this step is about this step times the last one.
            if min(1.0, 10 * abs(last_step)) * abs(target - u) <= TOLERANCE:
                return target, rate, None
        else:
            target = (a + b) / 2
            if b - a <= TOLERANCE:
                return target, rate, None
        last_step = target - u
        u = target
    return u, rate, None


def _at_zero(
    slope: Callable[[float], tuple[float, float]], low: float, high: float, u: float, rate: float | None
) -> tuple[float, float | None, Literal["low", "high", "flat"] | None]:
    """Tell a root from a slope that dies away towards an end, or is 0 everywhere."""
    h, noise = slope(high)
    if h > noise:
        return u, rate, None
    h, noise = slope(low)
    # Without noise both sides are 0: all labels are certain, however near the ends.
    return (high, None, "high") if h < -noise or noise == 0 else (low, None, "flat")


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
    x, y = _plain(probs_or_logits, "logits" if from_logits else "probs"), _plain(labels, "labels")
    n_bins = operator.index(n_bins)
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, not {n_bins}")
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f"norm must be 'l1', 'l2' or 'max', not {norm!r}")
    if x.ndim != 2:
        hint = "; for binary probabilities p pass np.stack([1 - p, p], axis=1)" if x.ndim == 1 else ""
        raise ValueError(f"{x.ndim} dimensions; calibration_error needs 2, rows and classes{hint}")
    _check_labels(y, x.shape)
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
    with np.errstate(invalid="ignore"):
        accuracy, confidence = right / count, sums / count
    gap, share = np.abs(accuracy - confidence)[count > 0], (count / max(1, len(x)))[count > 0]
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


# -- what both check -----------------------------------------------------------------------------------------


def _plain(x: ArrayLike, name: str) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be lost: leave out those rows")
    return np.asarray(x)


def _check_labels(labels: Array, shape: tuple[int, ...]) -> None:
    """Hold class indices against the shape of the logits, classes last."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {labels.dtype}")
    if labels.shape != shape[:-1]:
        raise ValueError(f"labels has shape {labels.shape}; for these logits it must be {shape[:-1]}")
    classes = shape[-1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        at = np.unravel_index(int(((labels < 0) | (labels >= classes)).argmax()), labels.shape)
        raise IndexError(f"label {labels[at]} of {_name(at)} is out of range for {classes} classes")


def _name(row: tuple[Any, ...]) -> str:
    index = tuple(int(i) for i in row)
    return f"row {index[0] if len(index) == 1 else index}" if index else "the row"
