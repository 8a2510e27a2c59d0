"""The documented bound (docs/accuracy.md) for every function and dtype, where it is hard to keep.

Against mpmath, because longdouble has only 11 bits more than float64, and fewer where digits cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastsoftmax as fs
import mpmath
import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from reference import BFLOAT16, BOUNDS, FLOATS, Exact, exact, ulps, unit

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# What softmax keeps, but for the one case at the end of this file that is known to be beyond it.
TIGHTER = BOUNDS | {FLOAT32: 1.0}
MEAN = 0.35

# What `ops` promises of the vector-Jacobian products, in units of the scale that their docstrings name.
# A result may be twice that scale, so that one rounding can take a whole unit of it.
VJP_BOUNDS = {"softmax_vjp": 1.01, "log_softmax_vjp": 1.5}

LARGEST = {
    FLOATS[0]: 65504.0,
    BFLOAT16: (2 - 2.0**-7) * 2.0**127,
    FLOAT32: (2 - 2.0**-23) * 2.0**127,
    FLOAT64: (2 - 2.0**-52) * 2.0**1023,
}
# Logarithms of the least normal number and of the least subnormal one.
LEAST = {
    FLOATS[0]: (-9.7, -16.6),
    BFLOAT16: (-87.3, -92.1),
    FLOAT32: (-87.3, -103.2),
    FLOAT64: (-708.3, -744.4),
}

# ---- Distributions ----

Rng = np.random.Generator
Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A distribution: `logits` gives it in float64, for a dtype, to be rounded to that."""

    name: str
    logits: Callable[[Rng, np.dtype[Any]], Array]
    temperature: float | None = 1.0  # None: a twentieth of the largest logit
    masked: bool = False

    def x(self, dtype: np.dtype[Any]) -> Array:
        return self.logits(np.random.default_rng(11), dtype).astype(dtype)

    def options(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.temperature != 1:
            options["temperature"] = self.temperature or LARGEST[dtype] / 20
        if self.masked:
            options["where"] = np.random.default_rng(2).random(self.x(dtype).size) < 0.7
        return options


def normal(spread: float, offset: float = 0.0, n: int = 500) -> Callable[[Rng, np.dtype[Any]], Array]:
    # float16 has no million.
    return lambda rng, dtype: rng.normal(min(offset, LARGEST[dtype] / 2), spread, n)


def below_one(start: int, end: int | None) -> Callable[[Rng, np.dtype[Any]], Array]:
    """Give probabilities from one limit of the dtype to the next, beside one that is nearly 1."""
    return lambda _, dtype: np.append(
        np.linspace(LEAST[dtype][start], LEAST[dtype][end] if end is not None else LEAST[dtype][0] / 2, 400),
        0,
    )


def dominant(gap: float, n: int) -> Callable[[Rng, np.dtype[Any]], Array]:
    return lambda *_: np.where(np.arange(n) == n // 2, gap, 0.0)


def up_to_the_largest(rng: Rng, dtype: np.dtype[Any]) -> Array:
    return np.append(rng.uniform(-1, 1, 300), [1, -1]) * LARGEST[dtype]


ROWS = [
    Row("spread 1", normal(1)),
    Row("spread 100", normal(100)),
    Row("offset -300", normal(8, -300)),
    Row("offset 1e6", normal(8, 1e6)),
    Row("two", normal(3, n=2)),
    Row("one", normal(3, n=1)),
    Row("equal", lambda *_: np.full(777, -3.3)),
    Row("near 0", below_one(0, None)),
    Row("subnormal", below_one(1, 0)),
    Row("subnormal, masked", below_one(1, 0), masked=True),
    Row("dominant 5", dominant(5, 30_000)),
    Row("dominant 10", dominant(10, 30_000)),
    Row("dominant 14", dominant(14, 30_000)),
    Row("nearly certain", lambda rng, _: np.append(rng.normal(-18, 1, 50), 0)),
    Row("certain", lambda _, dtype: np.array([0, LEAST[dtype][1] * 0.97])),
    *(Row(f"temperature {t:g}", normal(8 * t), t) for t in (1e-3, 0.1, 7.3, 1e3)),
    Row("cold", normal(8), 1e-3),
    Row("hot", normal(8), 1e3),
    Row("masked", normal(8), masked=True),
    Row("masked, temperature 7.3", normal(50), 7.3, masked=True),
    Row("largest", up_to_the_largest),
    Row("largest, hot", up_to_the_largest, None),
    Row("largest, hot, masked", up_to_the_largest, None, masked=True),
    Row("impossible ones", lambda rng, _: np.where(np.arange(100) % 7 == 0, -np.inf, rng.normal(0, 5, 100))),
]

# ---- The truth ----


@dataclass(frozen=True)
class Truth:
    """The numbers of a row, each rounded once, from 80 digits to a longdouble."""

    probs: Exact
    logs: Exact
    total: Exact  # logsumexp of x / T
    entropy: Exact


def rounded(value: Any) -> np.longdouble:
    """Give an mpmath number as a longdouble, which has more exponents than a float."""
    if not mpmath.isfinite(value):
        return np.longdouble(float(value))
    part, exponent = mpmath.frexp(value)
    high = float(part)
    result: np.longdouble = np.ldexp(np.longdouble(high) + np.longdouble(float(part - high)), int(exponent))
    return result


def numbers(x: Array) -> list[Any]:
    return [mpmath.mpf(float(value)) for value in x]


def truth_of(x: Array, temperature: float = 1.0, where: Array | None = None) -> Truth:
    kept = (np.ones(x.size, bool) if where is None else where) & (exact(x) != -np.inf)
    # Equal logits once: a million of them are few then.
    values, place, counts = np.unique(exact(x[kept]).astype(float), return_inverse=True, return_counts=True)
    with mpmath.workdps(80):
        distances = [(v - numbers(values[-1:])[0]) / mpmath.mpf(temperature) for v in numbers(values)]
        # What is below e^-20000 is 0 in every dtype.
        powers = [mpmath.exp(d) if d > -20_000 else mpmath.mpf(0) for d in distances]
        others = mpmath.fsum(int(n) * q for n, q in zip(counts[:-1], powers, strict=False))
        others += int(counts[-1]) - 1  # by itself: a small sum would be lost beside a 1
        log = mpmath.log1p(others)
        entropy = mpmath.fsum(
            int(n) * q * (log - d) for n, q, d in zip(counts, powers, distances, strict=True)
        ) / (1 + others)
        total = numbers(values[-1:])[0] / mpmath.mpf(temperature) + log
        probs, logs = np.zeros(x.size, np.longdouble), np.full(x.size, -np.inf, np.longdouble)
        probs[kept] = np.array([rounded(q / (1 + others)) for q in powers])[place]
        logs[kept] = np.array([rounded(d - log) for d in distances])[place]
        return Truth(probs, logs, np.array(rounded(total)), np.array(rounded(entropy)))


@cache
def truth(row: Row, dtype: np.dtype[Any]) -> Truth:
    return truth_of(row.x(dtype), **row.options(dtype))


def hold(result: Any, expected: Exact, bounds: dict[np.dtype[Any], float] = BOUNDS) -> None:
    result = np.asarray(result)
    bound = bounds[result.dtype]
    # What is beyond the dtype's range is infinite there.
    largest = exact(np.array(LARGEST[result.dtype]))
    beyond = abs(expected) >= largest + unit(largest, result.dtype) / 2
    expected = np.where(beyond, np.copysign(np.longdouble(np.inf), expected), expected)
    off = ulps(result, expected)
    worst = off.max(initial=0)
    at = int(off.argmax())
    assert worst <= bound, f"{worst} ULP at {at}: {result.flat[at]!r}, not {expected.flat[at]!r}"


def places(x: Array) -> Array:
    """Name the largest, the smallest, and some others."""
    return np.array([int(exact(x).argmax()), int(exact(x).argmin()), *range(0, x.size, max(x.size // 7, 1))])


parametrize_dtypes = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def every(*, masked: bool = True, temperature: bool = True) -> pytest.MarkDecorator:
    """Run a test on all rows that its function takes, in all dtypes."""
    rows = [row for row in ROWS if (masked or not row.masked) and (temperature or row.temperature == 1)]
    cases = [pytest.param(row, dtype, id=f"{row.name}-{dtype}") for row in rows for dtype in FLOATS]
    return pytest.mark.parametrize(("row", "dtype"), cases)


# ---- Every function ----


@every()
def test_softmax(row: Row, dtype: np.dtype[Any]) -> None:
    hold(fs.softmax(row.x(dtype), **row.options(dtype)), truth(row, dtype).probs, TIGHTER)


@every()
def test_log_softmax(row: Row, dtype: np.dtype[Any]) -> None:
    hold(fs.log_softmax(row.x(dtype), **row.options(dtype)), truth(row, dtype).logs)


@every(temperature=False)
def test_logsumexp(row: Row, dtype: np.dtype[Any]) -> None:
    hold(fs.logsumexp(row.x(dtype), **row.options(dtype)), truth(row, dtype).total)


@every()
def test_log_prob(row: Row, dtype: np.dtype[Any]) -> None:
    x = row.x(dtype)
    index = places(x)
    rows = np.broadcast_to(x, (index.size, x.size))
    hold(fs.log_prob(rows, index, **row.options(dtype)), truth(row, dtype).logs[index])


@every()
def test_top_k(row: Row, dtype: np.dtype[Any]) -> None:
    x = row.x(dtype)
    for log, expected in ((False, truth(row, dtype).probs), (True, truth(row, dtype).logs)):
        top = fs.top_k(x, min(x.size, 50), log=log, **row.options(dtype))
        hold(top.values, expected[top.indices])


@every()
def test_entropy(row: Row, dtype: np.dtype[Any]) -> None:
    hold(fs.entropy(row.x(dtype), **row.options(dtype)), truth(row, dtype).entropy)


@every(masked=False)
def test_softmax_segments(row: Row, dtype: np.dtype[Any]) -> None:
    x = row.x(dtype)
    result = fs.softmax_segments(
        np.concatenate([x[:1], x, x]), [1, 1 + x.size, 1 + 2 * x.size], **row.options(dtype)
    )
    hold(result[1:], np.tile(truth(row, dtype).probs, 2), TIGHTER)


@every(masked=False)
def test_cross_entropy_of_classes(row: Row, dtype: np.dtype[Any]) -> None:
    x = row.x(dtype)
    labels = places(x)
    rows = np.broadcast_to(x, (labels.size, x.size))
    losses = fs.cross_entropy(rows, labels, reduction="none", **row.options(dtype))
    hold(losses, -truth(row, dtype).logs[labels])


@every(masked=False)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_probabilities(row: Row, dtype: np.dtype[Any], smoothing: float) -> None:
    x = row.x(dtype)
    targets = np.random.default_rng(3).dirichlet(np.ones(x.size)).astype(dtype)
    targets[exact(x) == -np.inf] = 0
    loss = fs.cross_entropy(x, targets, reduction="none", label_smoothing=smoothing, **row.options(dtype))
    shares = (1 - np.longdouble(smoothing)) * exact(targets) + np.longdouble(smoothing) / x.size
    logs = truth(row, dtype).logs
    expected = np.array(-(shares * np.where(shares == 0, 0, logs)).sum())
    hold(loss, expected)


@every(masked=False)
@pytest.mark.parametrize("name", VJP_BOUNDS)
def test_vector_jacobian_products(row: Row, dtype: np.dtype[Any], name: str) -> None:
    x = row.x(dtype)
    grad = np.random.default_rng(4).normal(0, 1, x.size).astype(dtype)
    g = exact(grad)
    if name == "softmax_vjp":
        probs = fs.softmax(x, **row.options(dtype))
        p = exact(probs)
        total = (g * p).sum()
        result, expected = fs.softmax_vjp(probs, grad), p * (g - total)
        scale = p * np.maximum(abs(g), abs(total))
    else:
        logs = fs.log_softmax(x, **row.options(dtype))
        p, total = np.exp(exact(logs)), g.sum()
        result, expected = fs.log_softmax_vjp(logs, grad), g - p * total
        scale = np.maximum(abs(g), p * abs(total))
    off = abs(exact(result) - expected) / unit(scale, dtype)
    assert off.max() <= VJP_BOUNDS[name]


# ---- Many elements ----


@pytest.mark.parametrize("gap", [10, 14, 18])
@parametrize_dtypes
def test_one_dominant_among_a_million_equal(dtype: np.dtype[Any], gap: float) -> None:
    x = dominant(gap, 1_000_000)(np.random.default_rng(), dtype).astype(dtype)
    expected = truth_of(x)
    hold(fs.softmax(x), expected.probs, TIGHTER)
    hold(fs.log_softmax(x), expected.logs)
    hold(fs.logsumexp(x), expected.total)
    hold(fs.entropy(x), expected.entropy)


def test_ten_million() -> None:
    x = np.random.default_rng(0).normal(0, 4, 10_000_000).astype(np.float32)
    off = ulps(fs.softmax(x), reference.softmax(x))
    assert off.max() <= TIGHTER[FLOAT32]
    assert off.mean() < MEAN


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("spread", [1, 4, 8, 30])
@pytest.mark.parametrize("shape", [(100_000, 2), (20_000, 10), (200, 1000), (2, 100_000)])
def test_mean(dtype: np.dtype[Any], spread: float, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(5).normal(0, spread, shape).astype(dtype)
    for temperature in (1.0, 0.7):
        off = ulps(fs.softmax(x, temperature=temperature), reference.softmax(x, temperature=temperature))
        assert off.mean() < MEAN
        assert off.max() <= TIGHTER[dtype]


# ---- Densely ----


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_two_classes_at_every_distance(dtype: np.dtype[Any]) -> None:
    # exp by itself, nearly: e^-d / (1 + e^-d), down to the least subnormal number.
    gaps = np.linspace(0, -LEAST[dtype][1], 4001).astype(dtype)
    x = np.stack([np.zeros_like(gaps), -gaps], 1)
    with mpmath.workdps(60):
        powers = [mpmath.exp(-d) for d in numbers(gaps)]
        probs = np.array([[rounded(1 / (1 + q)), rounded(q / (1 + q))] for q in powers])
        first = [-mpmath.log1p(q) for q in powers]
        logs = np.array([[rounded(v), rounded(v - d)] for v, d in zip(first, numbers(gaps), strict=True)])
    hold(fs.softmax(x), probs, TIGHTER)
    normal = gaps < 708 if dtype == FLOAT64 else np.full(gaps.size, True)
    hold(fs.log_softmax(x[normal]), logs[normal])


@parametrize_dtypes
def test_logsumexp_near_zero(dtype: np.dtype[Any]) -> None:
    # Log-probabilities, which add up to nearly 1: all digits cancel but the rounding of the inputs.
    rng = np.random.default_rng(6)
    for n in (2, 3, 10, 60):
        x = fs.log_softmax(rng.normal(0, 2, (60, n)).astype(dtype))
        expected = np.array([truth_of(one).total for one in x])
        result = fs.logsumexp(x)
        if dtype == FLOAT64:
            # As the docstring has it: the sum of 106 bits cannot tell what is below 2^-103.
            away = abs(exact(result) - expected)
            assert (away[ulps(result, expected) > BOUNDS[dtype]] <= 2.0**-103).all()
        else:
            hold(result, expected)


# ---- Known to be beyond the bound ----


def test_softmax_of_one_dominant_among_a_thousand_equal() -> None:
    x = np.full(1008, -24.849167, np.float32)
    x[0] = -10.785304
    hold(fs.softmax(x), truth_of(x).probs)


@pytest.mark.parametrize("n", [3, 10, 100, 300, 1000, 5000])
def test_log_softmax_of_one_dominant_among_equal(n: int) -> None:
    # The others' terms are among what rounding takes from a sum, and each addition may round the same way.
    rng = np.random.default_rng(n)
    labels = np.full(200, n // 2)
    for level in rng.uniform(-2, 2, 12).astype(np.float32):
        x = np.full((200, n), level)
        x[:, n // 2] += np.log(n) + rng.uniform(-1, 16, 200)
        distance = x[:, n // 2].astype(np.longdouble) - level
        expected = -np.log1p((n - 1) * np.exp(-distance))
        for result in (
            fs.log_softmax(x)[:, n // 2],
            fs.log_prob(x, labels),
            -fs.cross_entropy(x, labels, reduction="none"),
        ):
            assert ulps(result, expected).max() <= BOUNDS[FLOAT32]


def test_softmax_of_sixteen_float64() -> None:
    # 2.12 ULP where what rounding takes from p R is left out.
    x = np.array([
        40.41969711562417, -101.03844920829536, 37.81611324487978, -71.88924880852291,
        33.63368816009232, 20.59080100162402, -56.70100275123797, 41.396882692033316,
        -39.23872275694255, 24.887010425909462, -104.35492722763476, 53.761196220006326,
        -50.60534308278265, -8.783361617584719, -58.463288777211574, -130.24539869410464,
    ])  # fmt: skip
    hold(fs.softmax(x), truth_of(x).probs)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_entropy_of_few(dtype: np.dtype[Any]) -> None:
    rows = {
        FLOAT32: [62.49625778198242, 29.0598087310791, -28.41633415222168],
        FLOAT64: [45.21600777722538, 119.59823008478641],
    }
    x = np.array(rows[dtype], dtype)
    hold(fs.entropy(x), truth_of(x).entropy, dict.fromkeys(FLOATS, 2.0))


def test_logsumexp_of_float32_near_1e30() -> None:
    # More bits of a sum that begins with 1 cancel than two float64 have.
    x = np.array([-43.490047454833984, -1.303684854503647e-19, -48.5822868347168], np.float32)
    hold(fs.logsumexp(x), truth_of(x).total)
