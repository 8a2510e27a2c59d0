"""The best temperature: where the slope of the mean negative log-likelihood (NLL) of labels is 0.

The NLL is convex in beta = 1/T. Its slope along u = log(beta) is

    beta * d NLL / d beta  =  mean of  t = beta * (E_p[x] - x_label)  =  mean of (NLL_row - H_row),

for the entropy of a row is H = logsumexp(beta*x) - beta * E_p[x]. At the best temperature, then, the labels
are on average exactly as surprising as the model says they will be.

Rows of many classes: `log_prob` and `entropy` give both sides in one read each, for logits of any layout and
with all threads, and the root is found by the secant method. Rows of few classes: what a kernel does once per
row costs more than its logits, so there NumPy takes many rows at a time, classes first, and also gives the
rate d slope / du = mean of (t + Var_p[beta * x]) for Newton's method. Both ways start where a sample of the
rows has its root, and need two or three evaluations on all rows.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

import fastsoftmax

from ._blocks import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    F64 = NDArray[np.float64]

FEW: Final = 128  # classes; with more, the kernels are faster
ELEMENTS: Final = 1 << 16  # of a block with few classes: three float64 temporaries of it stay in the L2 cache
ROWS: Final = 1 << 16  # of a block with many classes: its results take 0.5 MB for every number per row
SAMPLE: Final = 1 << 14  # rows of the sample, where there are at least four times as many
TOLERANCE: Final = 1e-8  # of u
EPSILON: Final = 2.0**-52


class Slope(NamedTuple):
    """The slope of the mean NLL along u, what of it may be rounding errors, and its own slope if known."""

    value: float
    noise: float
    rate: float | None


@dataclass(frozen=True)
class LabelledLogits:
    """Checked logits, labels and weights, the classes last; and the greatest weight."""

    logits: Array
    labels: Array
    weights: Array | None
    scale: float
    threads: int | None

    @classmethod
    def checked(
        cls, logits: ArrayLike, labels: ArrayLike, axis: int, weights: ArrayLike | None, threads: int | None
    ) -> LabelledLogits:
        """Hold the arguments against each other."""
        x, y = plain(logits, "logits"), plain(labels, "labels")
        x = np.moveaxis(x, normalize_axis_index(operator.index(axis), x.ndim), -1)
        check_labels(y, x.shape)
        if y.size == 0:
            raise ValueError("there are no rows to fit a temperature to")
        # The library itself says which dtypes it takes, and what is wrong with the number of threads.
        fastsoftmax.logsumexp(np.zeros(1, x.dtype), threads=threads)
        if weights is None:
            return cls(x, y, None, 1.0, threads)
        w = plain(weights, "sample_weight")
        return cls(x, y, w, _greatest_weight(w, y.shape), threads)

    def sample(self) -> LabelledLogits | None:
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
        return sample if math.isfinite(sample.slope(0.0, explain=False).value) else None

    def slope(self, u: float, *, explain: bool = True) -> Slope:
        """Give the slope at u = log(beta) and all about it.

        Where a row has no finite slope, raise what is wrong with it; or give NaN if not `explain`.
        """
        few = self.logits.shape[-1] <= FEW
        size = max(1, ELEMENTS // self.logits.shape[-1]) if few else ROWS
        sums: list[tuple[float, ...]] = []
        for place in blocks(self.labels.shape, size):
            parts = self._few_classes(place, math.exp(u)) if few else self._many_classes(place, math.exp(-u))
            weight: Any = 1.0
            if self.weights is not None:
                weight = np.asarray(self.weights[place], np.float64).reshape(-1) / self.scale
                for part in parts:
                    part[weight == 0] = 0
            if not (np.isfinite(parts[0]).all() and np.isfinite(parts[1]).all()):
                if not explain:
                    return Slope(math.nan, 0.0, None)
                self._explain(place, ~(np.isfinite(parts[0]) & np.isfinite(parts[1])))
            total = float(np.sum(np.broadcast_to(weight, parts[0].shape)))
            sums.append((total, *(float((weight * part).sum()) for part in parts)))
        total, value, loss, *rates = (math.fsum(column) for column in zip(*sums, strict=True))
        rate = (value + rates[0]) / total if rates else math.nan
        # Near the root the slope is the difference of two numbers as great as the loss.
        noise = 16 * EPSILON * loss / total
        return Slope(
            value / total,
            noise if math.isfinite(noise) else 0.0,
            rate if 0 < rate < math.inf else None,
        )

    def _many_classes(self, place: tuple[slice, ...], temperature: float) -> tuple[F64, ...]:
        """Give t and the NLL of each row of a block."""
        options: dict[str, Any] = {"temperature": temperature, "dtype": np.float64, "threads": self.threads}
        x = self.logits[place]
        loss = -fastsoftmax.log_prob(x, self.labels[place], **options).reshape(-1)
        return loss - fastsoftmax.entropy(x, **options).reshape(-1), loss

    def _few_classes(self, place: tuple[slice, ...], beta: float) -> tuple[F64, ...]:
        """Give t, the NLL, and the variance of each row of a block."""
        x, y = self.logits[place], self.labels[place].reshape(-1)
        with np.errstate(all="ignore"):
            t = x.reshape(y.size, -1).T.astype(np.float64, order="C")
            t -= t[y, np.arange(y.size)]
            t *= beta
            top = t.max(axis=0)
            p = np.exp(t - top)
            total = p.sum(axis=0)
            np.maximum(t, -1e150, out=t)  # of which p is 0, and so is p*t then, as for -inf it must be
            p *= t
            mean = p.sum(axis=0) / total
            p *= t
            variance = p.sum(axis=0) / total - mean * mean
            # Where x/T overflows the label is infinitely unlikely.
            mean[top == np.inf] = np.inf
            return mean, top + np.log(total), variance

    def _explain(self, place: tuple[slice, ...], bad: Any) -> None:
        """Raise what is wrong with the first bad row of a block, unless it is only an overflow of x/T."""
        for index in np.argwhere(bad.reshape(self.labels[place].shape)):
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


def root(
    slope: Callable[[float], Slope], low: float, high: float, u: float, rate: float | None
) -> tuple[float, float | None, Literal["low", "high", "flat"] | None]:
    """Find where an increasing function is 0 between two ends, by Newton's or the secant method.

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
        h, noise, newton = slope(u)
        if abs(h) <= noise:
            return _at_zero(slope, low, high, u, rate)
        if h > 0:
            b = u
        else:
            a = u
        if a == high or b == low:
            return u, None, "high" if a == high else "low"
        if newton is not None:
            rate = newton
        elif last is not None:
            secant = (h - last[1]) / (u - last[0])
            rate = secant if 0 < secant < math.inf else None
        last = u, h
        # At most 2 far, a factor of 7 in the temperature; without a rate, 1.
        step = min(max(-h / rate, -2.0), 2.0) if rate else math.copysign(1.0, -h)
        if trial > 5 and abs(step) > 0.5 * abs(last_step) and not asked:
            # The root, if there is one, does not come nearer: ask at that end.
            asked = True
            at_end, noise, _ = slope(low if h > 0 else high)
            if at_end >= -noise if h > 0 else at_end <= noise:
                return (low, None, "low") if h > 0 else (high, None, "high")
        target = min(max(u + step, low), high)
        if trial < 40 and (a < target < b or target == a == low or target == b == high):
            # After this step the error is about its square, or, of the secant method, its product with the
            # last one.
            factor = abs(step) if newton is not None else min(1.0, 10 * abs(last_step))
            if factor * abs(target - u) <= TOLERANCE:
                return target, rate, None
        else:
            target = (a + b) / 2
            if b - a <= TOLERANCE:
                return target, rate, None
        last_step = target - u
        u = target
    return u, rate, None


def _at_zero(
    slope: Callable[[float], Slope], low: float, high: float, u: float, rate: float | None
) -> tuple[float, float | None, Literal["low", "high", "flat"] | None]:
    """Tell a root from a slope that dies away towards an end, or is 0 everywhere."""
    h, noise, _ = slope(high)
    if h > noise:
        return u, rate, None
    h, noise, _ = slope(low)
    # Without noise both sides are 0: all labels are certain, however near the ends.
    return (high, None, "high") if h < -noise or noise == 0 else (low, None, "flat")


# -- checks --------------------------------------------------------------------------------------------------


def plain(x: ArrayLike, name: str) -> Array:
    """Give an array, without losing a mask on the way."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be lost: leave out those rows")
    return np.asarray(x)


def check_labels(labels: Array, shape: tuple[int, ...]) -> None:
    """Hold class indices against the shape of the logits, classes last."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {labels.dtype}")
    if labels.shape != shape[:-1]:
        raise ValueError(f"labels has shape {labels.shape}; for these logits it must be {shape[:-1]}")
    classes = shape[-1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        at = np.unravel_index(int(((labels < 0) | (labels >= classes)).argmax()), labels.shape)
        raise IndexError(f"label {labels[at]} of {_name(at)} is out of range for {classes} classes")


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


def _name(row: tuple[Any, ...]) -> str:
    index = tuple(int(i) for i in row)
    return f"row {index[0] if len(index) == 1 else index}" if index else "the row"
