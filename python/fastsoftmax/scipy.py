"""SciPy's names and signatures: change one import line, and the softmax family of SciPy is this library's.

>>> from fastsoftmax.scipy import log_softmax, logsumexp, softmax  # was: from scipy.special import ...
>>> softmax([[2.0, 1.0], [0.0, 0.0]]).round(3)  # the default is SciPy's: the whole array
array([[0.61 , 0.224],
       [0.083, 0.083]])

Signatures, defaults, shapes, dtypes and special values are those of SciPy 1.17, except for these:

- integers and bool give float64; SciPy's softmax makes float16 of int8, and refuses bool;
- an axis of length 0 is not an error: the result is empty, or -inf for logsumexp, with sign 0;
- logsumexp takes no notice at all of a place whose weight is 0; SciPy 1.17 does so unless the result is
  infinite, when a NaN there comes through;
- weights of any size are safe: ``logsumexp([0, -800], b=[1e-300, 1e300])`` is -109.2, in SciPy -690.8;
- there are no RuntimeWarnings, and masked and object arrays are a TypeError.

Complex numbers and long doubles, which this library does not compute, are handed to SciPy where it is
installed; without it they are a TypeError. SciPy itself is needed for nothing else.
"""

from __future__ import annotations

import decimal
import functools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import fastsoftmax

from ._blocks import blocks
from ._flags import guarded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    F64 = NDArray[np.float64]
    Axis = int | tuple[int, ...] | None

__all__ = ["log_softmax", "logsumexp", "softmax"]

BLOCK: Final = 1 << 15  # elements of a block: about a dozen float64 temporaries of it stay in the L2 cache
QUIET: Final[dict[str, Any]] = {"all": "ignore"}
LN2: Final = (float.fromhex("0x1.62e42fefa0000p-1"), float.fromhex("0x1.cf79abc9e3b3ap-40"))
"""log(2) in two parts; the first has so few bits that its product with any exponent is exact."""


@guarded
def softmax(x: ArrayLike, axis: Axis = None) -> Any:
    """Return ``exp(x) / sum(exp(x))``, as `scipy.special.softmax` does.

    Parameters
    ----------
    x : array_like
        Logits, of any shape.
    axis : int, tuple of int or None, default None
        Where the sum runs; None: over the whole array.

    Returns
    -------
    numpy.ndarray or scalar
        Probabilities, in the shape of `x`, which sum to 1 along `axis`. A scalar gives a NumPy scalar.

    Raises
    ------
    TypeError
        `x` is masked, or of a dtype that neither this library nor, where installed, SciPy computes.

    See Also
    --------
    fastsoftmax.softmax : With temperature, mask, dtype and output array; its default axis is -1.

    Notes
    -----
    At most 2 ULP from the exact result in float32 and float64, and 0.51 ULP in half precision.

    Examples
    --------
    >>> from fastsoftmax.scipy import softmax
    >>> softmax([[1.0, 3.0], [2.0, 2.0]], axis=1).round(3)
    array([[0.119, 0.881],
           [0.5  , 0.5  ]])
    """
    array = _array(x, "x")
    if _foreign(array.dtype):
        return _scipy("softmax", array.dtype)(array, axis=axis)
    return fastsoftmax.softmax(array, axis=axis)[()]


@guarded
def log_softmax(x: ArrayLike, axis: Axis = None) -> Any:
    """Return ``log(softmax(x))``, right where softmax itself is 0 or 1, as `scipy.special.log_softmax` does.

    Parameters
    ----------
    x : array_like
        Logits, of any shape.
    axis : int, tuple of int or None, default None
        Where the sum runs; None: over the whole array.

    Returns
    -------
    numpy.ndarray or scalar
        Log-probabilities (in nats), in the shape of `x`. A scalar gives a NumPy scalar.

    Raises
    ------
    TypeError
        `x` is masked, or of a dtype that neither this library nor, where installed, SciPy computes.

    See Also
    --------
    fastsoftmax.log_softmax : With temperature, mask, dtype and output array; its default axis is -1.

    Notes
    -----
    At most 2 ULP from the exact result in float32 and float64, also near 0 where SciPy gives 0, and 0.51 ULP
    in half precision. Beside +inf the finite logits give -inf, as in SciPy; `fastsoftmax.log_softmax` gives
    NaN.

    Examples
    --------
    >>> from fastsoftmax.scipy import log_softmax
    >>> log_softmax([1000.0, 1.0])
    array([   0., -999.])
    >>> log_softmax([20.0, 0.0]).tolist()
    [-2.0611536181902033e-09, -20.000000002061153]
    """
    array = _array(x, "x")
    if _foreign(array.dtype):
        return _scipy("log_softmax", array.dtype)(array, axis=axis)
    result = fastsoftmax.log_softmax(array, axis=axis)
    # A row that holds +inf or NaN is NaN throughout, so that its first element tells.
    axes = _axes(axis, array.ndim)
    first = tuple(slice(0, 1) if i in axes else slice(None) for i in range(array.ndim))
    if result.size and np.isnan(result[first]).any():
        certain = np.asarray(array.max(axis=axes, keepdims=True) == np.inf)
        np.copyto(result, -np.inf, where=certain & (array < np.inf))
    return result[()]


@guarded
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    r"""Return ``log(sum(b * exp(a)))``, as `scipy.special.logsumexp` does.

    .. math:: \log \sum_i b_i e^{a_i}

    Parameters
    ----------
    a : array_like
        Logits, of any shape.
    axis : int, tuple of int or None, default None
        Where the sum runs; None: over the whole array.
    b : array_like, optional
        Weights; `a` and `b` broadcast against each other. They may be negative. Where one is 0, that place
        takes no part, whatever `a` holds there.
    keepdims : bool, default False
        Leave the reduced axes in the result, with length 1.
    return_sign : bool, default False
        Return the sign of the sum too. Without it, the logarithm of a negative sum is NaN.

    Returns
    -------
    res : numpy.ndarray or scalar
        The logarithm of the absolute value of the sum (in nats); -inf for an empty sum.
    sgn : numpy.ndarray or scalar
        If `return_sign`: +1, 0 or -1, or NaN where `res` is NaN, in the dtype of `res`.

    Raises
    ------
    TypeError
        `a` or `b` is masked, or of a dtype that neither this library nor, where installed, SciPy computes.
    ValueError
        `a` and `b` do not broadcast.

    See Also
    --------
    fastsoftmax.logsumexp : With mask, dtype and output array; its default axis is -1.

    Notes
    -----
    Without weights, and with weights that are all 0 or 1, at most 2 ULP from the exact result, and 0.51 ULP
    in half precision. With other weights the sum is taken in float64, relative to its greatest term, and
    rounded once, to the result's dtype. The error is at most 1 ULP of the result plus

    .. math:: 2^{-51} \, \frac{\sum_i |b_i| e^{a_i}}{|\sum_i b_i e^{a_i}|} .

    The quotient is 1 if no weight is negative; otherwise it tells how much of the sum cancels. The memory
    needed beside the result does not depend on the size of the input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax.scipy import logsumexp
    >>> logsumexp([1000.0, 1000.0])
    np.float64(1000.6931471805599)
    >>> logsumexp([1, 2], b=[1, -1], return_sign=True)
    (np.float64(1.541324854612918), np.float64(-1.0))

    Weights of 0 leave out what is masked:

    >>> a = np.ma.array([0.0, 2.0, np.log(3)], mask=[False, True, False])
    >>> logsumexp(a.data, b=~a.mask).round(6)
    np.float64(1.386294)
    """
    array = _array(a, "a")
    weights = None if b is None else _array(b, "b")
    if weights is None:
        dtype = array.dtype
    else:
        # As they were given: a Python number has no dtype of its own to raise the result's.
        given = ((a, array), (b, weights))
        dtype = np.result_type(*(v if type(v) in (int, float, complex) else w for v, w in given))
    if _foreign(dtype):
        return _scipy("logsumexp", dtype)(
            array, axis=axis, b=weights, keepdims=keepdims, return_sign=return_sign
        )
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    array = np.atleast_1d(array)
    if weights is None:
        value = np.asarray(fastsoftmax.logsumexp(array, axis=axis, keepdims=keepdims))
        sign = _sign(value)
    else:
        array, spread = np.broadcast_arrays(array, weights)
        axes = _axes(axis, array.ndim)
        if _is_mask(weights):
            mask = weights != 0
            value = np.asarray(fastsoftmax.logsumexp(array, axes, keepdims=True, where=mask, dtype=dtype))
            sign = _sign(value)
        else:
            shape = [1 if i in axes else n for i, n in enumerate(array.shape)]
            exact = dtype == np.float64
            wide, sign = (part.reshape(shape) for part in _weighted(array, spread, axes, exact=exact))
            if not return_sign:
                wide[sign < 0] = np.nan
            with np.errstate(**QUIET):
                value, sign = wide.astype(dtype), sign.astype(dtype)
        if not keepdims:
            value, sign = value.squeeze(axes), sign.squeeze(axes)
    return (value[()], sign[()]) if return_sign else value[()]


# -- what SciPy does and this library does not ---------------------------------------------------------------


def _array(x: ArrayLike, name: str) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and its mask would be lost: pass where=~{name}.mask to the function "
            f"of the same name in fastsoftmax, or, to logsumexp, b=~{name}.mask"
        )
    array = np.asarray(x)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {array.dtype}, which is no number")
    return array


def _foreign(dtype: np.dtype[Any]) -> bool:
    """Tell whether SciPy computes this dtype and the library does not."""
    return dtype.kind == "c" or (dtype.kind == "f" and dtype.itemsize > 8)


def _scipy(name: str, dtype: np.dtype[Any]) -> Any:
    try:
        import scipy.special
    except ImportError:
        raise TypeError(
            f"dtype {dtype} is left to SciPy, which is not installed (pip install scipy); "
            "float16, bfloat16, float32, float64, integers and bool do not need it"
        ) from None
    return getattr(scipy.special, name)


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None or (ndim == 0 and axis in (0, -1)):
        return tuple(range(ndim))
    axes: tuple[int, ...] = normalize_axis_tuple(axis, ndim)
    return axes


def _sign(value: Array) -> Array:
    """Give the sign of a sum of positive numbers by its logarithm: 0 for -inf, NaN for NaN, else 1."""
    sign = np.where(np.isneginf(value), 0.0, np.where(np.isnan(value), np.nan, 1.0))
    return sign.astype(value.dtype)


# -- weights -------------------------------------------------------------------------------------------------
#
# One term is the greatest, r = b_r*exp(a_r). The sum is r*(1 + rest), with
#
#     rest = sum of b_i/b_r * exp(a_i - a_r) over the others,
#
# its sign that of b_r*(1 + rest), and its logarithm
#
#     a_r + log|b_r| + log|1 + rest|.
#
# "Greatest" counts the weight in, otherwise a large weight could make rest overflow; but within a factor of 2
# is great enough, and of b = m * 2^e the exponent will do. For the same reason b_i/b_r is not computed: it is
# m_i/m_r * 2^(e_i - e_r), and the power goes into the argument of exp. Of that argument and of the three
# logarithms the rounding errors are kept, so that what remains is the error of exp.


def _is_mask(weights: Array) -> bool:
    parts = (weights[place] for place in blocks(weights.shape, BLOCK))
    return all(((part == 0) | (part == 1)).all() for part in parts)


def _weighted(a: Array, b: Array, axes: tuple[int, ...], *, exact: bool) -> tuple[F64, F64]:
    """Give the logarithm of the absolute weighted sums, and their signs, without the reduced axes.

    A result narrower than float64 does not need the rounding errors of the terms: `exact` is False for it.
    """
    kept = tuple(i for i in range(a.ndim) if i not in axes)
    a, b = a.transpose(*kept, *axes), b.transpose(*kept, *axes)
    rows, columns = a.shape[: len(kept)], a.shape[len(kept) :]
    value, sign = np.empty(rows), np.empty(rows)
    with np.errstate(**QUIET):
        for place in blocks(rows, max(1, BLOCK // max(1, math.prod(columns)))):
            value[place], sign[place] = _Rows(a[place], b[place], len(columns), exact=exact).result()
    return value, sign


class _Rows:
    """A block of rows; a row that is longer than a block is cut too, and then read twice."""

    def __init__(self, a: Array, b: Array, reduced: int, *, exact: bool) -> None:
        self.a, self.b, self.exact = a, b, exact
        self.shape = a.shape[: a.ndim - reduced]
        self.rows = math.prod(self.shape)
        self.parts = list(blocks(a.shape[a.ndim - reduced :], BLOCK))
        self._last: tuple[int, tuple[F64, F64, F64]] | None = None
        # The sum of the terms that are not finite, and the greatest of the others: its a, m, e, and place.
        self.infinite = np.zeros(self.rows)
        self.size = np.full(self.rows, -np.inf)
        self.a_r = np.zeros(self.rows)
        self.m_r = np.ones(self.rows)
        self.e_r = np.zeros(self.rows)
        self.part_r = np.full(self.rows, -1)
        self.index_r = np.zeros(self.rows, np.intp)

    def _load(self, number: int) -> tuple[F64, F64, F64]:
        """Give a, m and e of a part as (rows, elements); a is -inf where b is 0 or the term is infinite."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        place: Any = (..., *self.parts[number])
        a = np.array(self.a[place], np.float64, order="C").reshape(self.rows, -1)
        b = np.array(self.b[place], np.float64, order="C").reshape(self.rows, -1)
        gone = b == 0
        a[gone] = -np.inf
        b[gone] = 1
        odd = ~(np.isfinite(b) & (a < np.inf))
        if odd.any():
            power = np.where(np.isfinite(a), 1.0, np.where(np.isneginf(a), 0.0, a))
            self.infinite += np.where(odd, b * power, 0).sum(axis=1)  # twice is no different from once
            a[odd] = -np.inf
            b[odd] = 1
        m, e = np.frexp(b)
        self._last = number, (a, m, e.astype(np.float64))
        return self._last[1]

    def _find(self, number: int) -> None:
        """Take in the greatest terms of a part."""
        a, m, e = self._load(number)
        size = a + e * LN2[0]
        index = size.argmax(axis=1)
        rows = np.arange(self.rows)
        better = size[rows, index] > self.size
        for mine, new in (
            (self.size, size[rows, index]),
            (self.a_r, a[rows, index]),
            (self.m_r, m[rows, index]),
            (self.e_r, e[rows, index]),
            (self.part_r, np.full(self.rows, number)),
            (self.index_r, index),
        ):
            np.copyto(mine, new, where=better)

    def _terms(self, number: int) -> F64:
        """Give the terms relative to the greatest, which itself is 0."""
        a, m, e = self._load(number)
        t = a - self.a_r[:, None]
        n = e - self.e_r[:, None]
        power = n * (LN2[0] if self.exact else math.log(2))
        h = t + power
        q: F64 = np.exp(h)
        q *= m / self.m_r[:, None]
        if self.exact:
            missing = _two_sum_error(a, -self.a_r[:, None], t)
            missing += _two_sum_error(t, power, h)
            missing += n * LN2[1]
            missing[~np.isfinite(missing)] = 0  # -inf has no error to speak of
            missing *= q
            q += missing
        mine = np.flatnonzero(self.part_r == number)
        q[mine, self.index_r[mine]] = 0
        return q

    def result(self) -> tuple[F64, F64]:
        """Give the logarithm of the absolute sum of every row, and its sign."""
        for number in range(len(self.parts)):
            self._find(number)
        rest, low = np.zeros(self.rows), np.zeros(self.rows)
        for number in range(len(self.parts)):
            part = self._terms(number).sum(axis=1)
            s = rest + part
            low += _two_sum_error(rest, part, s)
            rest = s
        one = np.ones(self.rows)
        total = one + rest
        low += _two_sum_error(one, rest, total)
        sign = np.sign(total) * np.sign(self.m_r)
        log_b = _log_pair(np.abs(self.m_r), exponent=self.e_r)
        value = _sum3(self.a_r, log_b, _log_pair(np.abs(total), low * np.sign(total)))
        value[total == 0] = -np.inf
        empty = np.isneginf(self.size)
        value[empty], sign[empty] = -np.inf, 0
        odd = self.infinite != 0
        value[odd], sign[odd] = np.abs(self.infinite[odd]), np.sign(self.infinite[odd])
        return value.reshape(self.shape), sign.reshape(self.shape)


def _two_sum_error(a: F64, b: F64, s: F64) -> F64:
    """Give the exact error of s = fl(a + b)."""
    t = s - a
    return (a - (s - t)) + (b - t)


def _sum3(a: F64, b: tuple[F64, F64], c: tuple[F64, F64]) -> F64:
    """Add a number and two pairs, with one rounding."""
    s = a + b[0]
    t = s + c[0]
    result: F64 = t + (_two_sum_error(a, b[0], s) + _two_sum_error(s, c[0], t) + b[1] + c[1])
    return result


@functools.cache
def _logarithms() -> F64:
    """Give log(c/64), as pairs, for c from 0 to 91; those below 45 are not used."""
    with decimal.localcontext(prec=40):
        exact = [(decimal.Decimal(max(c, 1)) / 64).ln() for c in range(92)]
        pairs = [(float(x), float(x - decimal.Decimal(float(x)))) for x in exact]
    return np.array(pairs).T


def _log_pair(y: F64, low: F64 | float = 0.0, exponent: F64 | float = 0.0) -> tuple[F64, F64]:
    """Give log((y + low) * 2^exponent) as a pair, off by at most 2^-58 or so; y > 0, and low much smaller.

    y = f * 2^e with f between the roots of 1/2 and 2, and f = c * (1 + r) with c a multiple of 1/64: then the
    logarithms of 2 and c come from tables, and that of 1 + r is small. Where y is 1, e and log(c) are 0, so
    that the logarithm of 1 + tiny is tiny with all its digits.
    """
    f, e = np.frexp(y)
    half = f < math.sqrt(0.5)
    f, e = np.where(half, 2 * f, f), e - half
    rounded = np.rint(64 * f)
    c = rounded / 64
    table = _logarithms()[:, np.where(np.isfinite(rounded), rounded, 64).astype(np.intp)]
    small = np.log1p(((f - c) + np.ldexp(low, -e)) / c)
    e = e + exponent
    power = e * LN2[0]
    high = power + table[0]
    error = _two_sum_error(power, table[0], high)
    s = high + small
    return s, _two_sum_error(high, small, s) + (error + e * LN2[1] + table[1])
