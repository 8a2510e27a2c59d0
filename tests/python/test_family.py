"""log_softmax and logsumexp, and what the whole family shares, against naive references."""

from typing import Any

import fastsoftmax as fs
import mpmath
import numpy as np
import pytest
import scipy.special
from conftest import Python
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import arrays, axes, broadcasting, shapes, strided
from reference import (
    BFLOAT16,
    FLOATS,
    assert_accurate,
    assert_same,
    bits,
    dtype_of,
    log_softmax,
    logsumexp,
)

INF, NAN = np.inf, np.nan

# ---- log_softmax ----


@settings(max_examples=400)
@given(st.data())
def test_log_softmax_anything(data: st.DataObject) -> None:
    shape = data.draw(shapes(), "shape")
    x: Any = data.draw(arrays(shape), "x")
    axis = data.draw(axes(len(shape)), "axis")
    options: dict[str, Any] = {"temperature": data.draw(st.sampled_from([1.0, 0.7, 2.5]))}
    if data.draw(st.booleans()):
        options["where"] = data.draw(arrays(data.draw(broadcasting(shape)), [np.dtype(bool)]), "where")
    expected = log_softmax(x, axis, **options)
    dtype = dtype_of(x)
    match data.draw(st.sampled_from(["new", "out", "in place"])):
        case "out":
            options["out"] = data.draw(strided(shape, data.draw(st.sampled_from(FLOATS))))
        case "in place":
            x = np.array(x, dtype)
            options["out"] = x
    result = fs.log_softmax(x, axis, threads=data.draw(st.sampled_from([None, 1, 3])), **options)
    assert type(result) is np.ndarray
    assert result is options["out"] if "out" in options else result.dtype == dtype
    assert_accurate(result, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [10, 1000, 100_003])
@pytest.mark.parametrize(("offset", "spread"), [(0, 4), (0, 30), (1000, 8), (-300, 8)])
def test_log_softmax_accuracy(dtype: np.dtype[Any], n: int, offset: float, spread: float) -> None:
    x = np.random.default_rng(n).normal(offset, spread, n).astype(dtype)
    assert_accurate(fs.log_softmax(x), log_softmax(x))
    assert_accurate(fs.log_softmax(x, temperature=0.7), log_softmax(x, temperature=0.7))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("gap", [3, 8, 14, 20, 60])
def test_near_zero(dtype: np.dtype[Any], gap: float) -> None:
    x = np.array([gap, 0], dtype)
    assert_accurate(fs.log_softmax(x), log_softmax(x))
    assert_accurate(fs.log_prob(x, 0), log_softmax(x)[0])
    assert_accurate(fs.cross_entropy(x[None], [0], reduction="none"), -log_softmax(x)[:1])


def test_log_softmax_of_20_and_0() -> None:
    x = np.array([20, 0], np.float32)
    expected = -np.log1p(np.exp(-20.0))
    assert fs.log_softmax(x)[0] == np.float32(expected)
    assert fs.log_prob(x, 0) == np.float32(expected)
    assert fs.log_softmax([20, 0])[0] == expected
    assert fs.cross_entropy(x[None], [0]) == np.float32(-expected)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("axis", [0, -1, None])
def test_parity_with_scipy(shape: tuple[int, ...], axis: Any) -> None:
    x = np.random.default_rng(0).normal(0, 3, shape)
    # SciPy loses digits near 0.
    theirs = scipy.special.log_softmax(x, axis)
    np.testing.assert_allclose(fs.log_softmax(x, axis), theirs, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(fs.logsumexp(x, axis), scipy.special.logsumexp(x, axis), rtol=1e-14)
    kept = fs.logsumexp(x, axis, keepdims=True)
    np.testing.assert_allclose(kept, scipy.special.logsumexp(x, axis, keepdims=True), rtol=1e-14)


# ---- logsumexp ----


@settings(max_examples=400)
@given(st.data())
def test_logsumexp_anything(data: st.DataObject) -> None:
    shape = data.draw(shapes(), "shape")
    x = data.draw(arrays(shape), "x")
    axis = data.draw(axes(len(shape)), "axis")
    options: dict[str, Any] = {"keepdims": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["where"] = data.draw(arrays(data.draw(broadcasting(shape)), [np.dtype(bool)]), "where")
    expected = logsumexp(x, axis, **options)
    if data.draw(st.booleans()):
        options["out"] = data.draw(strided(expected.shape, data.draw(st.sampled_from(FLOATS))))
    result = fs.logsumexp(x, axis, threads=data.draw(st.sampled_from([None, 1, 3])), **options)
    if "out" in options:
        assert result is options["out"]
    else:
        assert result.dtype == dtype_of(x)
        assert isinstance(result, np.ndarray if expected.ndim else dtype_of(x).type)
    assert_accurate(np.asarray(result), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [10, 1000, 100_003])
@pytest.mark.parametrize(("offset", "spread"), [(0, 4), (0, 30), (1000, 8), (-300, 8)])
def test_logsumexp_accuracy(dtype: np.dtype[Any], n: int, offset: float, spread: float) -> None:
    x = np.random.default_rng(n).normal(offset, spread, n).astype(dtype)
    assert_accurate(np.asarray(fs.logsumexp(x)), logsumexp(x))
    assert_accurate(np.asarray(fs.logsumexp(x.reshape(-1, 1), 0)), logsumexp(x.reshape(-1, 1), 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 7, 1000])
def test_logsumexp_of_log_probabilities(dtype: Any, n: int) -> None:
    # All digits cancel but the rounding of the inputs.
    x = fs.log_softmax(np.random.default_rng(n).normal(0, 2, n)).astype(dtype)
    with mpmath.workdps(60):
        expected = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(value))) for value in x))
        error = abs(mpmath.mpf(float(fs.logsumexp(x))) - expected)
        # Below some 2^-50 the 106 bits of the sum are fewer than 2 ULP need.
        unit = float(np.spacing(np.abs(dtype(float(expected)))))
        assert error <= max(2 * unit, 2.0**-103)


def test_logsumexp_of_half_precision_does_not_overflow() -> None:
    assert fs.logsumexp(np.zeros(70_000, np.float16)) == np.float16(np.log(70_000))
    assert fs.logsumexp(np.full(4, 60_000, np.float16)) == np.float16(60_000)


def test_logsumexp_result_like_numpys_sum() -> None:
    x = np.zeros((2, 3), np.float32)
    for axis in (None, 0, 1, (0, 1), ()):
        for keepdims in (False, True):
            ours, theirs = fs.logsumexp(x, axis, keepdims=keepdims), np.sum(x, axis, keepdims=keepdims)
            assert type(ours) is type(theirs)
            assert ours.shape == theirs.shape
    out = np.empty((), np.float32)
    assert fs.logsumexp(x, None, out=out) is out
    assert out == np.float32(np.log(6))
    assert isinstance(fs.logsumexp(3), np.float64)
    assert isinstance(fs.logsumexp(np.zeros(3, BFLOAT16)), BFLOAT16.type)
    wide = fs.logsumexp(x, dtype=np.float64)
    assert_same(wide, np.log([3.0, 3.0]))


def test_logsumexp_out_overlapping_its_input() -> None:
    memory = np.random.default_rng(0).normal(0, 1, (6, 6))
    expected = fs.logsumexp(memory.copy())
    assert bits(fs.logsumexp(memory, out=memory[:, 2])) == bits(expected)


# ---- Special values ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("row", "logs", "total"),
    [
        ([0, NAN, 0], [NAN] * 3, NAN),
        ([0, INF, 0], [NAN] * 3, INF),
        ([INF, INF], [NAN] * 2, INF),
        ([INF, -INF], [NAN] * 2, INF),
        ([INF, NAN], [NAN] * 2, NAN),
        ([-INF, -INF], [NAN] * 2, -INF),
        ([-INF, NAN], [NAN] * 2, NAN),
        ([-INF], [NAN], -INF),
        ([-INF, -5], [-INF, 0], -5),
        ([7], [0], 7),
        ([], [], -INF),
    ],
)
@pytest.mark.parametrize("batch", [1, 40])
def test_special_values(
    dtype: np.dtype[Any], row: list[float], logs: list[float], total: float, batch: int
) -> None:
    x = np.tile(np.array(row, dtype), (batch, 1))
    with np.errstate(all="raise"):
        for turned, axis in ((x, 1), (np.asfortranarray(x), 1), (x.T, 0), (x.T.copy(), 0)):
            logged = fs.log_softmax(turned, axis)
            assert_same(logged if axis else logged.T, np.tile(np.array(logs, dtype), (batch, 1)))
            assert_same(fs.logsumexp(turned, axis), np.full(batch, total))
            for place, expected in enumerate(logs):
                assert_same(fs.log_prob(turned, place, axis), np.full(batch, expected))
                losses = fs.cross_entropy(turned, np.full(batch, place), axis, reduction="none")
                assert_same(losses, np.full(batch, -expected))


def test_special_values_stay_in_their_row() -> None:
    x = np.zeros((5, 4), np.float32)
    x[1, 2], x[2, 0], x[3] = NAN, INF, -INF
    rest, log4 = [0, 4], np.float32(np.log(4))
    assert (fs.log_softmax(x)[rest] == -log4).all()
    assert_same(fs.logsumexp(x), [log4, NAN, INF, -INF, log4])
    assert_same(fs.log_prob(x, 1), [-log4, NAN, NAN, NAN, -log4])


def test_masked_rows() -> None:
    x = np.array([[NAN, 1, 1], [INF, 2, 2], [4, NAN, NAN]])
    where = np.array([[False, True, True]] * 2 + [[False] * 3])
    half = -np.log(2)
    assert_same(fs.log_softmax(x, where=where), [[-INF, half, half]] * 2 + [[-INF] * 3])
    np.testing.assert_allclose(fs.logsumexp(x, where=where), [1 - half, 2 - half, -INF], rtol=1e-15)
    assert_same(fs.log_prob(x, [1, 0, 0], where=where), [half, -INF, -INF])


def test_empty() -> None:
    assert fs.log_softmax(np.empty((2, 0))).shape == (2, 0)
    assert_same(fs.logsumexp(np.empty((2, 0))), [-INF, -INF])
    assert fs.logsumexp(np.empty(0)) == -INF
    assert fs.logsumexp(np.empty((0, 3))).shape == (0,)
    assert fs.log_prob(np.empty((0, 3)), np.empty(0, int)).shape == (0,)
    assert np.isnan(fs.cross_entropy(np.empty((0, 3)), np.empty(0, int)))
    assert fs.cross_entropy(np.empty((0, 3)), np.empty(0, int), reduction="sum") == 0


# ---- The same bits ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bits_do_not_depend_on_threads_or_layout(dtype: np.dtype[Any]) -> None:
    x = np.random.default_rng(0).normal(0, 5, (300, 211)).astype(dtype)
    labels = np.random.default_rng(1).integers(0, 211, 300)
    calls: list[Any] = [
        fs.log_softmax,
        fs.logsumexp,
        lambda x, axis, threads: fs.log_prob(x, labels, axis, threads=threads),
        lambda x, axis, threads: fs.cross_entropy(x, labels, axis, threads=threads),
        lambda x, axis, threads: fs.cross_entropy(x, labels, axis, threads=threads, label_smoothing=0.1),
    ]
    for function in calls:
        expected = bits(function(x, axis=-1, threads=1))
        for threads in (2, 7):
            assert bits(function(x, axis=-1, threads=threads)) == expected
            assert bits(function(x.T, axis=0, threads=threads).T) == expected
            assert bits(function(x.T.copy(), axis=0, threads=threads).T) == expected


def test_yardstick() -> None:
    from fastsoftmax import _core

    src, dst = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    for kind in ("memcpy", "stream"):
        dst[:] = 0
        _core._yardstick(kind, src, dst, 2)
        assert_same(dst, src)
    for kind in ("read", "read_prefetch"):
        _core._yardstick(kind, src, None, 2)
    with pytest.raises(ValueError, match="no yardstick"):
        _core._yardstick("guess", src, None, 1)
    with pytest.raises(ValueError, match="contiguous float32"):
        _core._yardstick("memcpy", src, src, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_softmax_of_long_columns_in_place(dtype: Any) -> None:
    """The dominated rest of a column is read before its first results take its place."""
    x = np.full((20_000, 3), -130, dtype)
    x[5000] = -100
    expected = fs.log_softmax(np.ascontiguousarray(x.T)).T
    assert expected[5000, 0] > -1e-8
    np.testing.assert_array_equal(fs.log_softmax(x, axis=0, out=x), expected)


@pytest.mark.parametrize("temperature", [8.9e307, 9e307, float(np.finfo(np.float64).max)])
def test_the_highest_temperatures(temperature: float) -> None:
    x = np.linspace(-1, 1, 12).reshape(3, 4) * 1e308
    expected = np.exp(x / temperature - np.max(x / temperature, axis=-1, keepdims=True))
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(fs.softmax(x, temperature=temperature), expected, rtol=1e-14)
    columns = fs.softmax(np.ascontiguousarray(x.T), axis=0, temperature=temperature)
    np.testing.assert_array_equal(columns.T, fs.softmax(x, temperature=temperature))


@pytest.mark.parametrize("level", fs.build_info()["levels"])
def test_lanes_that_are_not_alike(level: str, python: Python) -> None:
    """Columns in place, and infinite maxima at a temperature that no maximum is far for, at every level."""
    python(
        """
import numpy as np, fastsoftmax as fs
for dtype in (np.float32, np.float64):
    x = np.full((9_000, 3), -130, dtype)
    x[5000] = -100
    x[7, 2] = np.nan
    expected = fs.log_softmax(np.ascontiguousarray(x.T)).T
    assert np.array_equal(fs.log_softmax(x, axis=0, out=x), expected, equal_nan=True)
    x = np.zeros((20, 40), dtype)
    x[0, 0], x[1, 1], x[:, 2] = np.nan, np.inf, -np.inf
    where = np.ones(x.shape, bool)
    where[:, 3], where[0, 0] = False, False
    for temperature in (1.0, 1e305):
        columns = fs.softmax(x, axis=0, where=where, temperature=temperature)
        across, there = np.ascontiguousarray(x.T), np.ascontiguousarray(where.T)
        rows = fs.softmax(across, where=there, temperature=temperature)
        assert np.array_equal(columns, rows.T, equal_nan=True)
        assert not columns[:, 3].any()
        assert np.isnan(columns[:, 1:3]).all()
        assert not np.isnan(columns[:, 0]).any()
""",
        env={"FASTSOFTMAX_SIMD": level},
    )
