"""Softmax along an axis that is cut into pieces: the mathematics of ``io.stream`` along the first axis.

The pieces are tiles of rows; a column is one distribution, of which a tile holds a part.

Pass 1 folds the tiles, in order, into two numbers per column: the maximum m, exact, and
rest = the sum of exp((x - m)/T) over all elements but one that equals m.
Pass 2 writes, tile by tile, exp((x - m)/T) / (1 + rest), or (x - m)/T - log1p(rest).

Why not "x - logsumexp(x)": at m = 1e20 the logarithm of the sum is lost in m, and at m = 20 its rounding
alone is 8 ULP of a float64 result. Why the rest and not the sum: log_softmax near 0 is -log1p(rest), and 1 +
1e-9 has lost the digits of the 1e-9.

Results narrower than float64 come from the library's own kernels, computed in float64 and rounded once. A
float64 result has no wider type to be computed in, so there the sum, its logarithm and the arguments of exp
are pairs of numbers: the rounding errors of x - m, of the division by T and of the sums are kept (Knuth's
TwoSum, Dekker's product) and put back at the end, exp(t)*(1 + c) for exp(t + c). NumPy's exp, 0.7 ULP, and
one rounding remain: at most 2 ULP, as everywhere in the library. A float64 logsumexp where m and log1p(rest)
cancel keeps 2 ULP of the larger of the two.
"""

from __future__ import annotations

import decimal
import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = npt.NDArray[Any]
    F64 = npt.NDArray[np.float64]

BLOCK: Final = 1 << 15  # elements per step of the float64 way, so that its temporaries stay in the cache
QUIET: Final[dict[str, Any]] = {"all": "ignore"}


def _two_sum_error(a: F64, b: F64, s: F64) -> F64:
    """Give the exact error of s = fl(a + b)."""
    t = s - a
    return (a - (s - t)) + (b - t)


def _product_error(a: F64, b: F64, p: F64) -> F64:
    """Give the exact error of p = fl(a * b)."""
    c = 134217729.0 * a
    a_high = c - (c - a)
    c = 134217729.0 * b
    b_high = c - (c - b)
    a_low, b_low = a - a_high, b - b_high
    return ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def _division_error(a: F64, b: F64, q: F64) -> F64:
    """Give a/b - q for q = fl(a/b), to first order: (a - q*b)/b."""
    p = q * b
    error: F64 = ((a - p) - _product_error(q, b, p)) / b
    return error


@functools.cache
def _exp_pair(x: float) -> tuple[float, float]:
    """Give exp(x) as a float64 and what is missing from it."""
    with decimal.localcontext(prec=40):
        exact = decimal.Decimal(x).exp()
        high = float(exact)
        return high, float(exact - decimal.Decimal(high))


def _exp_pairs(x: F64) -> tuple[F64, F64]:
    """Give exp of multiples of 1/64, of which there are few, as pairs."""
    values, places = np.unique(x, return_inverse=True)
    high, low = np.array([_exp_pair(value) for value in values.tolist()]).T[:, places]
    return high, low


def _log1p_pair(rest: F64, low: F64) -> tuple[F64, F64]:
    """Give log(1 + rest + low) as g + f: g a multiple of 1/64, and f, below 2^-7, rounded by 2^-60."""
    total = 1.0 + rest
    g = np.where(np.isfinite(total) & (total > 0), np.rint(64 * np.log(total)) / 64, 0.0)
    high, missing = _exp_pairs(g)
    total_low = _two_sum_error(np.ones_like(rest), rest, total) + low
    ratio = ((total - high) + (total_low - missing)) / high  # total - high is exact: they are close
    return g, np.log1p(np.where(g == 0, rest + low, ratio))


def _scaled(total: F64, low: F64, d: F64, error: F64 | float) -> tuple[F64, F64]:
    """Give (total + low) * exp(d + error) as a pair, to about 2^-60; d <= 0."""
    near = (d > -64) & (d <= 0)  # further away, rounding weighs too little; above 0, an infinity is about
    g = np.where(near, np.rint(64 * d) / 64, 0.0)
    high, missing = _exp_pairs(g)
    p = total * high
    factor = np.expm1((d - g) + error)  # d - g is exact
    q = _product_error(total, high, p) + p * factor + (total * missing + low * high) * (1.0 + factor)
    s = p + q
    far = total * np.exp(d)
    return np.where(near, s, far + far * error), np.where(near, q - (s - p), 0.0)


class Columns:
    """The state of the columns of a matrix, and both passes over its tiles.

    Parameters
    ----------
    width : int
        The number of columns.
    result : numpy.dtype
        The float dtype of the result; float64 takes the compensated way.
    temperature : float or numpy.ndarray
        Number, or one for each column, shape ``(width,)``.
    threads : int or None
        Handed to the kernels.
    """

    def __init__(
        self, width: int, result: np.dtype[Any], temperature: float | F64, threads: int | None
    ) -> None:
        self.m: F64 = np.full(width, -np.inf)
        self.rest: F64 = np.full(width, -1.0)  # 1 + rest = 0: the empty sum
        self.rest_low: F64 = np.zeros(width)
        self.exact = result == np.float64
        self.result = result
        self.temperature = temperature
        self.threads = threads
        self.scratch: Array = np.empty(0)  # for float64 results of a tile; grows as it must

    # -- pass 1 ----------------------------------------------------------------------------------------------

    def fold(self, x: Array) -> None:
        """Take in the next tile, shape ``(rows, width)``."""
        if x.size == 0:
            return
        with np.errstate(**QUIET):
            if self.exact:
                for block in self._blocks(len(x)):
                    self._merge(*self._fold_exactly(np.asarray(x[block], np.float64)))
            else:
                self._merge(*self._fold_by_kernel(x))

    def _blocks(self, rows: int) -> Iterator[slice]:
        step = max(1, BLOCK // max(1, len(self.m)))
        for start in range(0, rows, step):
            yield slice(start, start + step)

    def _fold_by_kernel(self, x: Array) -> tuple[F64, F64, F64]:
        import fastsoftmax as fs

        wide = self._scratch(x)
        fs.log_softmax(
            x, 0, dtype=np.float64, temperature=self._row_temperature(), out=wide, threads=self.threads
        )
        m = x.max(axis=0).astype(np.float64)
        rest = np.expm1(-wide.max(axis=0))  # the largest is -log1p(rest)
        rest[np.isneginf(m)] = -1.0
        return m, rest, np.zeros_like(m)

    def _fold_exactly(self, x: F64) -> tuple[F64, F64, F64]:
        m = x.max(axis=0)
        q, correction = self._exp(x, m)
        q += q * correction
        q[x.argmax(axis=0), np.arange(q.shape[1])] = 0.0
        # By halves, then with the errors kept: what adding in order would lose grows with the number of rows.
        rows = len(q)
        while rows > 16:
            half = rows // 2
            q[:half] += q[rows - half : rows]
            rows -= half
        high, low = q[0].copy(), np.zeros_like(m)
        for row in q[1:rows]:
            s = high + row
            low += _two_sum_error(high, row, s)
            high = s
        empty = np.isneginf(m)
        high[empty] = -1.0
        low[empty] = 0.0
        return m, high, low

    def _merge(self, m: F64, rest: F64, low: F64) -> None:
        """Merge a part: the one with the smaller maximum contributes its whole sum, 1 + rest, scaled."""
        swap = m > self.m
        top = np.maximum(m, self.m)  # NaN stays
        small = np.where(swap, self.m, m)
        kept, kept_low = np.where(swap, [rest, low], [self.rest, self.rest_low])
        other, other_low = np.where(swap, [self.rest, self.rest_low], [rest, low])
        total = 1.0 + other
        other_low += _two_sum_error(np.ones_like(other), other, total)
        d, error = self._shift(small[None, :], top)
        grown, grown_low = _scaled(
            total, other_low, d[0], error[0] if isinstance(error, np.ndarray) else error
        )
        self.m, self.rest = top, kept + grown
        self.rest_low = _two_sum_error(kept, grown, self.rest) + (kept_low + grown_low)
        self.rest_low[~np.isfinite(self.rest_low)] = 0.0

    # -- what the passes share -------------------------------------------------------------------------------

    def _scratch(self, x: Array) -> Array:
        """Give memory for float64 results in the layout of `x`: to write across costs three times as much."""
        if self.scratch.size < x.size:
            self.scratch = np.empty(x.size)
        return self.scratch[: x.size].reshape(x.shape, order="F" if x.strides[0] < x.strides[1] else "C")

    def _row_temperature(self) -> Any:
        """Give the temperature as the functions want it: length 1 along the axis."""
        return self.temperature if np.ndim(self.temperature) == 0 else np.asarray(self.temperature)[None, :]

    def _shift(self, x: F64, m: F64) -> tuple[F64, F64 | float]:
        """Give d = fl((x - m)/T) and its error; x may be -inf, m may not be finite."""
        minus = np.where(np.isfinite(m), -m, 0.0)  # not inf - inf: those columns are settled at the end
        d = x + minus
        error: F64 | float = 0.0
        if self.exact:
            error = _two_sum_error(x, np.broadcast_to(minus, x.shape), d)
        if np.ndim(self.temperature) or self.temperature != 1.0:
            divisor = np.broadcast_to(self.temperature, d.shape)
            q = d / divisor
            if self.exact:
                error = (error / divisor) + _division_error(d, divisor, q)
            d = q
        if isinstance(error, np.ndarray):
            error[~np.isfinite(error)] = 0.0
        return d, error

    def _exp(self, x: F64, m: F64) -> tuple[F64, F64 | float]:
        """Give exp((x - m)/T) as q and the correction c: q*(1 + c)."""
        d, error = self._shift(x, m)
        return np.exp(d, out=d), error

    # -- after pass 1 and in pass 2 --------------------------------------------------------------------------

    @functools.cached_property
    def _log_total(self) -> tuple[F64, F64]:
        """The log of the sum, without m, as a pair; NaN where the whole column is NaN."""
        g, f = _log1p_pair(self.rest, self.rest_low)
        return g, np.where(np.isfinite(self.m), f, np.nan)

    def logsumexp(self) -> F64:
        """Give log sum exp of every column: m + log1p(rest)."""
        with np.errstate(**QUIET):
            g, f = self._log_total
            high = self.m + g
            return np.where(np.isfinite(self.m), high + (_two_sum_error(self.m, g, high) + f), self.m)

    def _log_probabilities(self, x: F64) -> tuple[F64, F64]:
        """Give (x - m)/T - log1p(rest) as a number and what is missing from it."""
        d, error = self._shift(x, self.m)
        g, f = self._log_total
        y = d - g
        missing = _two_sum_error(d, np.broadcast_to(-g, d.shape), y) + error
        missing[~np.isfinite(missing)] = 0.0  # a difference of infinities has no error to speak of
        missing -= f
        return y, missing

    def log_softmax(self, x: Array, out: Array) -> None:
        """Write the log-probabilities of a tile."""
        with np.errstate(**QUIET):
            for block in self._blocks(len(x)):
                y, missing = self._log_probabilities(np.asarray(x[block], np.float64))
                y += missing
                out[block] = y

    def softmax(self, x: Array, out: Array) -> None:
        """Write the probabilities of a tile."""
        with np.errstate(**QUIET):
            if not self.exact:
                self._softmax_by_kernel(x, out)
                return
            for block in self._blocks(len(x)):
                y, missing = self._log_probabilities(np.asarray(x[block], np.float64))
                t = y + missing
                missing = _two_sum_error(y, missing, t)
                missing[~np.isfinite(missing)] = 0.0
                q = np.exp(t, out=t)
                q += q * missing
                out[block] = q

    def _softmax_by_kernel(self, x: Array, out: Array) -> None:
        """Scale the tile's own softmax by the tile's share of the whole column."""
        import fastsoftmax as fs

        wide = self._scratch(x)
        fs.softmax(
            x, 0, dtype=np.float64, temperature=self._row_temperature(), out=wide, threads=self.threads
        )
        m = x.max(axis=0).astype(np.float64)
        q, _ = self._exp(m[None, :], self.m)
        share = q[0] / (wide.max(axis=0) * (1.0 + self.rest))  # the tile's sum is 1/(its largest probability)
        empty = np.isneginf(m)
        if empty.any():  # NaN by itself, 0 as a part of a column that has something elsewhere
            wide[:, empty] = 0.0
            share[empty] = 1.0
        share[~np.isfinite(self.m)] = np.nan
        np.multiply(wide, share, out=wide)
        out[...] = wide
