"""The softmax family naively, in the longest floats that NumPy has, and how far a result is from it."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(code) for code in "bhilqBHILQ?"]

# The accuracy that api.md promises, in units in the last place of the result's dtype.
BOUNDS = {FLOATS[0]: 0.51, FLOATS[1]: 0.51, FLOATS[2]: 2.0, FLOATS[3]: 2.0}

# Bits after the point of a significand, and the exponent of the least normal number.
_FORMATS = {FLOATS[0]: (10, -14), FLOATS[1]: (7, -126), FLOATS[2]: (23, -126), FLOATS[3]: (52, -1022)}

Exact = NDArray[np.longdouble]


def exact(x: ArrayLike) -> Exact:
    """Give the numbers that a function works on: integers become float64 first."""
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    if x.dtype.type is ml_dtypes.bfloat16:
        x = x.astype(np.float32)
    return x.astype(np.longdouble)


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Exact:
    """Compute exp((x - max) / T) / sum, with the special values of api.md."""
    x = exact(x)
    if x.ndim == 0 and axis in (0, -1):
        axis = ()
    kept = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    with np.errstate(all="ignore"):
        x = np.where(kept, x, -np.inf)
        top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
        powers = np.where(kept, np.exp((x - top) / exact(temperature)), 0)
        result = powers / powers.sum(axis=axis, keepdims=True)
        return np.where(kept, result, 0)


def unit(expected: Exact, dtype: np.dtype[Any]) -> Exact:
    """Give the unit in the last place at exact numbers; at least the step of the subnormal ones."""
    bits, least = _FORMATS[dtype.newbyteorder("=")]
    _, exponent = np.frexp(expected)
    step: Exact = np.ldexp(np.longdouble(1), np.maximum(exponent - 1, least) - bits)
    return step


def ulps(result: NDArray[Any], expected: Exact) -> NDArray[np.float64]:
    """Tell by how many units in the last place each result is off; inf where one is NaN or infinite alone."""
    got = exact(result)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - expected) / unit(expected, result.dtype)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(same, 0, np.where(np.isnan(off), np.inf, off)).astype(np.float64)


def assert_accurate(result: NDArray[Any], expected: Exact) -> None:
    """Hold a result against the bound that its dtype has."""
    assert result.shape == expected.shape
    bound = BOUNDS[result.dtype.newbyteorder("=")]
    worst = ulps(result, expected).max(initial=0)
    assert worst <= bound, f"{worst} ULP off, more than {bound}:\n{result!r}\n{expected!r}"


def assert_same(result: NDArray[Any], expected: ArrayLike) -> None:
    """Hold a result against the very numbers that are expected, NaN among them."""
    np.testing.assert_array_equal(exact(result), exact(expected))


def bits(result: NDArray[Any]) -> bytes:
    """Give the bits of the elements in C order and native byte order, to compare results exactly."""
    return result.astype(result.dtype.newbyteorder("=")).tobytes()


Axis = int | tuple[int, ...] | None


def parts(x: Any, axis: Axis, temperature: Any = 1.0, where: Any = None) -> tuple[Exact, Exact, Exact]:
    """Give logits / T, their maximum, and log(sum exp(x / T - max)), right where a single one counts."""
    x = exact(x)
    if x.ndim == 0 and axis in (0, -1):
        axis = ()
    kept = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    temperature = exact(temperature)
    with np.errstate(all="ignore"):
        x = np.where(kept, x, -np.inf)
        top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
        distance = (x - top) / temperature
        distance = np.where((x == -np.inf) & np.isfinite(top), -np.inf, distance)
        # All but the maxima, whose number is added without being rounded.
        rest = np.where(x == top, 0, np.exp(distance)).sum(axis=axis, keepdims=True)
        count = np.where(x == top, 1, 0).sum(axis=axis, keepdims=True)
        log = np.where(np.isfinite(top), np.log1p(rest + (count - 1)), np.nan)
    return distance, top, log


def log_softmax(x: Any, axis: Axis = -1, *, temperature: Any = 1.0, where: Any = None) -> Exact:
    distance, _, log = parts(x, axis, temperature, where)
    kept = np.broadcast_to(True if where is None else np.asarray(where), np.shape(x))
    with np.errstate(invalid="ignore"):
        return np.where(kept, distance - log, -np.inf)


def logsumexp(x: Any, axis: Axis = -1, *, where: Any = None, keepdims: bool = False) -> Exact:
    _, top, log = parts(x, axis, 1.0, where)
    with np.errstate(invalid="ignore"):
        result = np.where(np.isfinite(top), top + log, top)
    if np.ndim(x) == 0:
        axis = ()
    return result if keepdims else np.squeeze(result, tuple(range(np.ndim(x))) if axis is None else axis)


def dtype_of(x: NDArray[Any]) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=") if x.dtype.kind not in "biu" else np.dtype(np.float64)


def reduced(axis: Axis, ndim: int) -> frozenset[int]:
    if axis is None:
        return frozenset(range(ndim))
    return frozenset(one % ndim for one in (axis if isinstance(axis, tuple) else (axis,)) if ndim)
