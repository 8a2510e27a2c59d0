"""The inputs of a case, cut from buffers that are made once, so that every case finds touched memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import MIB, Case

Array = Any  # an ndarray, of whichever dtype the case says
PAGE = 4096  # every buffer starts on a page, so no contender is luckier than another with alignment
SPREAD = 4.0  # standard deviation of the logits; a trained classifier's are 2 to 8


@dataclass
class Data:
    x: Array
    out: Array  # x's shape, for what fills it
    axis: int
    mask: Array = None
    temperature: Array = None  # length 1 along the axis
    labels: Array = None  # int64, without the axis
    probs: Array = None
    grad: Array = None

    @property
    def given(self) -> list[Array]:
        """What a function of this case takes: one or two arrays."""
        if self.probs is not None:
            return [self.probs, self.grad]
        return [a for a in (self.x, self.labels, self.mask, self.temperature) if a is not None]

    def restore(self) -> None:
        """Put the logits into `out`, before each in-place call: a softmax of a softmax is another task."""
        np.copyto(self.out, self.x)


def aligned(nbytes: int) -> Array:
    """Bytes from a page's start, already touched."""
    buffer = np.empty(nbytes + PAGE, np.uint8)
    start = -buffer.ctypes.data % PAGE
    buffer.fill(0)
    return buffer[start : start + nbytes]


def named_dtype(name: str) -> Any:
    """Give a dtype of NumPy, or bfloat16 of ml_dtypes (ImportError where that is not installed)."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Pool:
    """Two buffers of the largest size; `x` of every float32 case is a view of the first."""

    def __init__(self, size_mb: int) -> None:
        self.logits = aligned(size_mb * MIB).view(np.float32)
        self.result = aligned(size_mb * MIB)
        rng = np.random.default_rng(20_240_607)
        for part in np.array_split(self.logits, size_mb):
            rng.standard_normal(out=part, dtype=np.float32)
        self.logits *= np.float32(SPREAD)
        self.rng = rng
        self.cast: tuple[str, Array] = ("float32", self.logits)

    def logits_as(self, name: str, count: int) -> Array:
        """`count` logits in another dtype; the last conversion is kept, for its next case."""
        if name == "float32":
            self.cast = ("float32", self.logits)
        elif self.cast[0] != name or len(self.cast[1]) < count:
            dtype = named_dtype(name)
            self.cast = ("", self.logits)  # free the last one before the next is made
            target = aligned(count * dtype.itemsize).view(dtype)
            target[:] = self.logits[:count]
            self.cast = (name, target)
        return self.cast[1][:count]

    def data(self, case: Case) -> Data:
        count = int(np.prod(case.shape))
        x = self.logits_as(case.dtype, count).reshape(case.shape)
        out = self.result[: x.nbytes].view(x.dtype).reshape(case.shape)
        data = Data(x, out, case.axis)
        distributions = list(case.shape)
        classes = distributions.pop(case.axis)
        if case.given == "where":
            data.mask = aligned(count).view(np.bool_).reshape(case.shape)
            bits = self.rng.integers(0, 256, (count + 7) // 8, np.uint8)
            data.mask.reshape(-1)[:] = np.unpackbits(bits, count=count)
            data.mask[..., 0] = True  # no row without any
        if case.given == "temperature":
            shape = list(case.shape)
            shape[case.axis] = 1
            data.temperature = self.rng.uniform(0.5, 2.0, shape).astype(x.dtype)
        if case.op in {"log_prob", "cross_entropy"}:
            data.labels = self.rng.integers(0, classes, distributions)
        if case.op == "softmax_vjp":
            data.probs = aligned(x.nbytes).view(x.dtype).reshape(case.shape)
            data.probs[:] = _formula(x, case.axis)
            data.grad = x  # normal numbers do for a gradient
        return data


def _formula(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    e /= e.sum(axis=axis, keepdims=True)
    return e


class Check:
    """Says whether a contender's result is the case's: loosely, to catch a wrong set-up, not an ULP."""

    def __init__(self, case: Case, data: Data) -> None:
        self.case = case
        self.scalar = case.op == "cross_entropy"
        # A few distributions are enough, first and last among them. The mean over all needs all.
        self.other = next((d for d in range(data.x.ndim) if d != case.axis % data.x.ndim), None)
        self.some: list[int] = []
        if self.other is not None:
            n = data.x.shape[self.other]
            self.some = sorted({0, n // 3, n - 1})
        if self.scalar:
            self.expected = self._mean_loss(data)
        else:
            self.expected = self._expected(data)

    def _cut(self, a: Array) -> Array:
        """Give the chosen distributions of an array of x's number of dimensions, in float64."""
        if a is None:
            raise TypeError("the case lacks an input")
        if self.other is None:
            return a if a.dtype == bool else a.astype(np.float64)
        part = np.take(a, self.some, axis=self.other)
        return part if a.dtype == bool else part.astype(np.float64)

    def _expected(self, data: Data) -> Array:
        case, axis = self.case, self.case.axis
        x = self._cut(data.x)
        if case.op == "softmax_vjp":
            p, g = self._cut(data.probs), self._cut(data.grad)
            return p * (g - (p * g).sum(axis=axis, keepdims=True))
        if case.given == "where":
            x = np.where(self._cut(data.mask), x, -np.inf)
        if case.given == "temperature":
            x = x / self._cut(data.temperature)
        top = x.max(axis=axis, keepdims=True)
        lse = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
        if case.op == "softmax":
            return np.exp(x - lse)
        if case.op == "log_softmax":
            return x - lse
        if case.op == "logsumexp":
            return lse.squeeze(axis)
        if case.op == "log_prob":
            labels = np.take(data.labels, self.some, axis=0)
            return np.take_along_axis(x - lse, labels[:, None], axis=1)[:, 0]
        if case.op == "entropy":
            return -(np.exp(x - lse) * (x - lse)).sum(axis=axis)
        if case.op == "top_k":
            return np.exp(-np.sort(-x, axis=axis)[..., : case.k] - lse)
        raise ValueError(case.op)

    def _mean_loss(self, data: Data) -> Array:
        total = 0.0
        for start in range(0, len(data.x), 256):  # in pieces: the whole in float64 would be 512 MiB
            x = data.x[start : start + 256]
            labels = data.labels[start : start + 256]
            e = np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1, dtype=np.float64)
            total += float(np.sum(np.log(e) + x.max(axis=1) - x[np.arange(len(x)), labels]))
        return np.asarray(total / len(data.x))

    def __call__(self, result: Array) -> bool:
        got = np.asarray(result)
        if not self.scalar and self.some:
            # Reductions have lost their axis, so what lies before `other` may have moved by one.
            other = self.other or 0
            lost = got.ndim < len(self.case.shape) and self.case.axis % len(self.case.shape) < other
            got = np.take(got, self.some, axis=other - lost)
        if got.shape != self.expected.shape:
            return False
        half = self.case.dtype in {"float16", "bfloat16"}
        small = float(np.abs(self.expected).max())
        return np.allclose(
            got.astype(np.float64),
            self.expected,
            rtol=2e-2 if half else 2e-3,
            atol=(1e-3 if half else 1e-4) * small,
        )
