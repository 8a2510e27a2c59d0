"""The other functions of the family against naive references: accuracy, special values, options, errors."""

from typing import Any

import fastsoftmax as fs
import mpmath
import numpy as np
import pytest
import reference
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import arrays, axes, broadcasting, shapes, strided
from numpy.typing import NDArray
from reference import BFLOAT16, FLOATS, INTEGERS, Exact, assert_accurate, assert_same, bits, exact

INF, NAN = np.inf, np.nan
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


# ---- log_prob ----


@settings(max_examples=300)
@given(st.data())
def test_log_prob_anything(data: st.DataObject) -> None:
    shape = data.draw(shapes().filter(lambda shape: shape and 0 not in shape), "shape")
    x = data.draw(arrays(shape), "x")
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), "axis")
    rest = list(shape)
    classes = rest.pop(axis)
    dtype = data.draw(st.sampled_from([one for one in INTEGERS if one.kind in "iu"]))
    rng = np.random.default_rng(0)
    index = rng.integers(0, min(classes, 100), data.draw(broadcasting(tuple(rest)))).astype(dtype)
    index = index.astype(dtype.newbyteorder(data.draw(st.sampled_from("=S"))))
    options: dict[str, Any] = {"temperature": data.draw(st.sampled_from([1.0, 0.7]))}
    if data.draw(st.booleans()):
        options["where"] = data.draw(arrays(data.draw(broadcasting(shape)), [np.dtype(bool)]), "where")
    places = np.expand_dims(np.broadcast_to(index, rest), axis).astype(np.intp)
    expected = np.take_along_axis(log_softmax(x, axis, **options), places, axis).squeeze(axis)
    if data.draw(st.booleans()):
        options["out"] = data.draw(strided(tuple(rest), data.draw(st.sampled_from(FLOATS))))
    result = fs.log_prob(x, index, axis, **options)
    assert type(result) is np.ndarray
    assert result is options["out"] if "out" in options else result.dtype == dtype_of(x)
    assert_accurate(result, expected)


def test_log_prob_broadcasts_its_index() -> None:
    x = np.random.default_rng(0).normal(0, 1, (2, 5, 3, 4))
    logs = fs.log_softmax(x, 1)
    assert_same(fs.log_prob(x, 2, 1), logs[:, 2])
    assert_same(fs.log_prob(x, [0, 1, 2, 3], 1)[..., 3], logs[:, 3, :, 3])
    assert_same(fs.log_prob(x, [[[0]], [[4]]], 1), np.stack([logs[0, 0], logs[1, 4]]))
    assert fs.log_prob(3.0, 0) == 0


@pytest.mark.parametrize(
    ("index", "options", "error", "message"),
    [
        ([0, 4, 0], {}, IndexError, "index 4 of row 1 is out of range for 4 classes"),
        ([0, 0, -1], {}, IndexError, "index -1 of row 2"),
        ([0.0, 1.0, 2.0], {}, TypeError, "index must be an array of integers, not of float64"),
        ([True, False, True], {}, TypeError, "integers, not of bool"),
        ([0, 1], {}, ValueError, r"index has shape \(2,\), which does not broadcast against \(3,\)"),
        ([[0, 1, 2]], {}, ValueError, r"index has shape \(1, 3\)"),
        (0, {"axis": (1,)}, TypeError, "axis must be an integer, not tuple"),
        (0, {"axis": None}, TypeError, "axis must be an integer, not NoneType"),
        (0, {"axis": 2}, np.exceptions.AxisError, "axis 2 is out of bounds"),
        (
            0,
            {"out": np.empty((3, 1))},
            ValueError,
            r"out has shape \(3, 1\), but the result has shape \(3,\)",
        ),
        (0, {"out": np.empty(3, int)}, TypeError, "out has dtype int64"),
        (0, {"out": np.broadcast_to(np.empty(1), 3)}, ValueError, "read-only"),
        (0, {"temperature": 0}, ValueError, "argmax"),
        (0, {"temperature": np.ones(4)}, ValueError, "length 1 along the axis"),
        (0, {"where": [1, 0, 1, 1]}, TypeError, "where must be an array of bool"),
        (0, {"dtype": int}, TypeError, "not supported for results"),
        (0, {"threads": 0}, ValueError, "at least 1"),
    ],
)
def test_log_prob_refuses(index: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.log_prob(np.zeros((3, 4)), index, **options)


def test_logsumexp_refuses() -> None:
    x = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"out has shape \(3, 1\), but the result has shape \(3,\)"):
        fs.logsumexp(x, out=np.empty((3, 1)))
    with pytest.raises(ValueError, match=r"out has shape \(3,\), but the result has shape \(3, 1\)"):
        fs.logsumexp(x, keepdims=True, out=np.empty(3))
    with pytest.raises(ValueError, match="out overlaps itself"):
        fs.logsumexp(x, out=np.lib.stride_tricks.as_strided(np.zeros(1), (3,), (0,)))
    with pytest.raises(TypeError, match="complex128"):
        fs.logsumexp([1j])
    with pytest.raises(TypeError, match="temperature"):
        fs.logsumexp(x, temperature=2)  # type: ignore[call-overload]


# ---- cross_entropy ----


def loss_of(
    logits: Any,
    labels: Any,
    axis: int = -1,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    temperature: Any = 1.0,
) -> Any:
    """Compute it in float64 as torch's documentation has it, with the classes moved to the end."""
    logs = np.moveaxis(log_softmax(logits, axis, temperature=temperature).astype(float), axis, -1)
    labels = np.asarray(labels)
    n = logs.shape[-1]
    w = np.ones(n) if weight is None else np.asarray(weight, float)
    if labels.dtype.kind in "iu":
        kept = labels != ignore_index
        q = np.eye(n)[np.where(kept, labels, 0)] * kept[..., None]
        counts = (q * w).sum(-1)
        q = (1 - label_smoothing) * q + label_smoothing / n * kept[..., None]
    else:
        q = (1 - label_smoothing) * np.moveaxis(labels.astype(float), axis, -1) + label_smoothing / n
        counts = np.ones(q.shape[:-1])
    with np.errstate(invalid="ignore"):
        losses = -np.where(q * w == 0, 0, q * w * logs).sum(-1)
        if reduction == "none":
            return losses
        return losses.sum() if reduction == "sum" else np.float64(losses.sum()) / counts.sum()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5), -1), ((6, 5), 0), ((4, 5, 3, 2), 1), ((5,), 0), ((3, 900), 1)]
)
def test_cross_entropy(
    dtype: np.dtype[Any],
    reduction: Any,
    label_smoothing: float,
    weighted: bool,
    soft: bool,
    shape: tuple[int, ...],
    axis: int,
) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, shape).astype(dtype)
    classes = shape[axis]
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": reduction}
    if weighted:
        options["weight"] = rng.uniform(0, 2, classes)
    labels: Any
    if soft:
        labels = fs.softmax(rng.normal(0, 1, shape), axis)
    else:
        labels = rng.integers(0, classes, np.delete(shape, axis))
        if labels.size > 3:
            labels.flat[2] = 1
            options["ignore_index"] = 1
    result = fs.cross_entropy(logits, labels, axis, **options)
    expected = loss_of(logits, labels, axis, **options)
    assert result.dtype == dtype
    assert np.shape(result) == np.shape(expected)
    assert isinstance(result, np.ndarray if reduction == "none" else dtype.type)
    unit = {2: 2.0**-9 if dtype.name == "bfloat16" else 2.0**-12, 4: 2.0**-24, 8: 2.0**-52}[dtype.itemsize]
    got = np.asarray(result).astype(float)
    np.testing.assert_allclose(got, expected, rtol=4.1 * unit, atol=1e-30)


def test_cross_entropy_of_any_integers() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (4, 3))
    expected = fs.cross_entropy(logits, [0, 2, 1, 1])
    for dtype in INTEGERS:
        if dtype.kind in "iu":
            labels = np.array([0, 2, 1, 1], dtype)
            assert fs.cross_entropy(logits, labels) == expected
            assert fs.cross_entropy(logits, labels.astype(dtype.newbyteorder("S"))[::-1][::-1]) == expected
    assert fs.cross_entropy(np.asfortranarray(logits), np.array([0, 2, 1, 1])) == expected
    assert isinstance(fs.cross_entropy(np.zeros((2, 3), int), [0, 1]), np.float64)


def test_cross_entropy_temperature() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 3))
    np.testing.assert_allclose(
        fs.cross_entropy(logits, [0, 2, 1, 1], temperature=2.5),
        loss_of(logits, [0, 2, 1, 1], temperature=2.5),
        rtol=1e-15,
    )
    rows = np.array([[0.5], [1.0], [2.0], [4.0]])
    np.testing.assert_allclose(
        fs.cross_entropy(logits, [0, 2, 1, 1], temperature=rows, reduction="none"),
        loss_of(logits, [0, 2, 1, 1], temperature=rows, reduction="none"),
        rtol=1e-15,
    )


def test_cross_entropy_ignores() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [NAN, 0.0, 0.0], [0.0, 0.0, 0.0]])
    log3 = np.log(3)
    labels = np.array([-100, -100, 1])
    with np.errstate(all="raise"):
        assert fs.cross_entropy(logits, labels) == log3
        assert_same(fs.cross_entropy(logits, labels, reduction="none"), [0, 0, log3])
        everything = np.full(3, -100)
        assert np.isnan(fs.cross_entropy(logits, everything))
        assert np.isnan(fs.cross_entropy(logits.astype(np.float16), everything))
        assert fs.cross_entropy(logits, everything, reduction="sum") == 0
        assert_same(fs.cross_entropy(logits, everything, reduction="none"), [0, 0, 0])
        # 255 is what segmentation masks in uint8 ignore.
        masks = np.array([255, 255, 1], np.uint8)
        assert fs.cross_entropy(logits, masks, ignore_index=255) == log3
        assert fs.cross_entropy(logits, [2, 2, 1], ignore_index=2) == log3


def test_cross_entropy_of_impossible_classes() -> None:
    logits = np.array([[-INF, 0.0, 0.0]])
    with np.errstate(all="raise"):
        assert fs.cross_entropy(logits, [[0.0, 0.5, 0.5]]) == np.log(2)
        assert fs.cross_entropy(logits, [[0.5, 0.5, 0.0]]) == INF
        assert fs.cross_entropy(logits, [0]) == INF
        assert fs.cross_entropy(logits, [1]) == np.log(2)
        assert fs.cross_entropy(logits, [1], label_smoothing=0.1) == INF
        assert np.isnan(fs.cross_entropy([[NAN, 0.0]], [[0.0, 1.0]]))


def test_cross_entropy_overflows_without_a_warning() -> None:
    with np.errstate(all="raise"):
        logits = np.tile(np.array([[0, 60_000]], np.float16), (4, 1))
        assert fs.cross_entropy(logits, [0] * 4, reduction="sum") == INF
        assert fs.cross_entropy(logits, [0] * 4) == 60_000


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([0, 4, 0], {}, IndexError, "label 4 of row 1 is out of range for 4 classes"),
        ([0, -1, 0], {}, IndexError, "label -1 of row 1"),
        ([0.0, 1.0, 2.0], {}, TypeError, "class indices, which are integers"),
        ([True, False, True], {}, TypeError, r"not bool.*astype\(int\)"),
        ([0, 1], {}, ValueError, r"labels has shape \(2,\).*without the axis, \(3,\)"),
        (0, {}, ValueError, r"labels has shape \(\)"),
        (np.zeros((3, 4), int), {}, ValueError, "probabilities must be floats"),
        (np.zeros((3, 1)), {}, ValueError, r"must have the logits' shape \(3, 4\)"),
        ([0, 1, 2], {"weight": [1.0, 2.0]}, ValueError, "one weight for each class"),
        ([0, 1, 2], {"weight": [1j] * 4}, TypeError, "weight has dtype complex128"),
        ([0, 1, 2], {"label_smoothing": 1.5}, ValueError, "between 0 and 1, not 1.5"),
        ([0, 1, 2], {"label_smoothing": NAN}, ValueError, "between 0 and 1"),
        ([0, 1, 2], {"reduction": "median"}, ValueError, "'mean', 'sum' or 'none'"),
        ([0, 1, 2], {"reduction": None}, TypeError, "reduction must be a string, not NoneType"),
        ([0, 1, 2], {"ignore_index": 1.5}, TypeError, "ignore_index"),
        ([0, 1, 2], {"axis": None}, TypeError, "axis must be an integer"),
        ([0, 1, 2], {"axis": 2}, np.exceptions.AxisError, "out of bounds"),
        ([0, 1, 2], {"temperature": -1}, ValueError, "greater than 0"),
        ([0, 1, 2], {"threads": 0}, ValueError, "at least 1"),
        (np.ma.zeros(3, int), {}, TypeError, "MaskedArray"),
    ],
)
def test_cross_entropy_refuses(
    labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fs.cross_entropy(np.zeros((3, 4)), labels, **options)


# ---- entropy ----


def entropy(x: Any, axis: int = -1, *, temperature: Any = 1.0, where: Any = None) -> Exact:
    """Compute -sum p log p, with the special values of api.md."""
    logs = log_softmax(x, axis, temperature=temperature, where=where)
    with np.errstate(invalid="ignore"):
        terms = np.where(logs == -np.inf, 0, -logs * np.exp(logs))
    return terms.sum(axis)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_entropy(dtype: np.dtype[Any], axis: int, spread: float) -> None:
    x = np.random.default_rng(0).normal(0, spread, (7, 130, 5)).astype(dtype)
    where = np.random.default_rng(1).random(x.shape) < 0.7
    for options in ({}, {"temperature": 2.5}, {"where": where}):
        result = fs.entropy(x, axis, **options)
        assert result.dtype == dtype
        expected = entropy(x, axis, **options)
        assert result.shape == expected.shape
        unit = reference.ulps(result, expected)
        assert unit.max() <= (0.52 if dtype.itemsize == 2 else 2.5)


def test_entropy_special_values() -> None:
    x = np.array([[0, 0, -INF], [NAN, 0, 0], [INF, 0, 0], [-INF] * 3, [-INF, 5, -INF]])
    with np.errstate(all="raise"):
        assert_same(fs.entropy(x), [np.log(2), NAN, NAN, NAN, 0])
        assert_same(fs.entropy(x, where=False), np.zeros(5))
    assert_same(fs.entropy(np.empty((2, 0))), [0, 0])
    assert fs.entropy(np.zeros(4, np.float32), dtype=np.float64) == np.log(4)
    assert fs.entropy([0.0, 0.0]).shape == ()


# ---- top_k ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("k", [0, 1, 4, 5])
@pytest.mark.parametrize("log", [False, True])
def test_top_k(dtype: np.dtype[Any], axis: int, k: int, log: bool) -> None:
    x = np.random.default_rng(0).normal(0, 3, (6, 130, 5)).astype(dtype)
    where = np.random.default_rng(1).random(x.shape) < 0.7
    for options in ({}, {"temperature": 2.5}, {"where": where}):
        top = fs.top_k(x, k, axis, log=log, **options)
        assert isinstance(top, fs.TopK)
        assert top.values.dtype == dtype
        assert top.indices.dtype == np.intp
        kept: Any = np.where(options.get("where", True), x.astype(float), -INF)
        order = np.argsort(-kept, axis, kind="stable")
        places = np.take(order, np.arange(k), axis)
        probs = (fs.log_softmax if log else fs.softmax)(x, axis, **options)
        assert_same(top.indices, places)
        assert bits(top.values) == bits(np.take_along_axis(probs, places, axis))


def test_top_k_ties_and_special_values() -> None:
    assert_same(fs.top_k([1.0, 3.0, 3.0, 1.0], 3).indices, [1, 2, 0])
    assert_same(fs.top_k([3, 1, 2], 2).indices, [0, 2])
    top = fs.top_k([[0.0, NAN, 5.0], [0.0, INF, 5.0], [-INF] * 3], 2)
    assert_same(top.values, np.full((3, 2), NAN))
    assert_same(top.indices, [[1, 2], [1, 2], [0, 1]])
    assert_same(fs.top_k([1.0, 2.0], 2, where=False).values, [0, 0])
    assert_same(fs.top_k([1.0, 2.0], 2, where=False, log=True).values, [-INF, -INF])
    values, indices = fs.top_k(np.zeros((2, 3), np.float32), 1, dtype=np.float64)
    assert_same(values, np.full((2, 1), 1 / 3))
    assert_same(indices, np.zeros((2, 1)))
    assert fs.top_k(2.0, 1).values.shape == ()


@pytest.mark.parametrize(
    ("k", "options", "error", "message"),
    [
        (5, {}, ValueError, "k is 5, but the axis has length 4"),
        (-1, {}, ValueError, "k must be at least 0, not -1"),
        (2.0, {}, TypeError, "k must be an integer, not float"),
        (True, {}, TypeError, "k must be an integer, not bool"),
        (2**70, {}, ValueError, "k is"),
        (2, {"axis": None}, TypeError, "axis must be an integer"),
        (2, {"temperature": 0}, ValueError, "argmax"),
    ],
)
def test_top_k_refuses(k: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.top_k(np.zeros((3, 4)), k, **options)


# ---- Gradients ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2)])
def test_vector_jacobian_products(dtype: np.dtype[Any], axis: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (3, 70, 5)).astype(dtype)
    grad = rng.normal(0, 1, x.shape).astype(dtype)
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name, float(np.finfo(np.float64).eps))
    unit = 2.0**-23 if dtype == np.float32 else unit
    p, g = fs.softmax(x, axis), exact(grad)
    total = (g * exact(p)).sum(axis, keepdims=True)
    result = fs.softmax_vjp(p, grad, axis)
    assert result.dtype == dtype
    scale = exact(p) * np.maximum(abs(g), abs(total))
    # Subnormal float16 have fewer bits.
    least = 2.0**-24 if dtype == np.float16 else 0
    assert (np.abs(exact(result) - exact(p) * (g - total)) <= 2 * unit * scale + least).all()
    logs = fs.log_softmax(x, axis)
    total = g.sum(axis, keepdims=True)
    result = fs.log_softmax_vjp(logs, grad, axis)
    assert result.dtype == dtype
    scale = np.maximum(abs(g), np.exp(exact(logs)) * abs(total))
    assert (np.abs(exact(result) - (g - np.exp(exact(logs)) * total)) <= 2 * unit * scale + least).all()


def test_vector_jacobian_products_against_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x, grad, step = rng.normal(0, 1, 6), rng.normal(0, 1, 6), 1e-6
    for function, vjp in ((fs.softmax, fs.softmax_vjp), (fs.log_softmax, fs.log_softmax_vjp)):
        sides = [function(x + sign * step * np.eye(6)) for sign in (1, -1)]
        expected = (sides[0] - sides[1]) @ grad / (2 * step)
        np.testing.assert_allclose(vjp(function(x), grad), expected, atol=1e-9)


def test_vector_jacobian_products_options() -> None:
    p = fs.softmax(np.random.default_rng(0).normal(0, 1, (4, 5)))
    grad = np.arange(5.0)
    expected = fs.softmax_vjp(p, np.tile(grad, (4, 1)))
    assert bits(fs.softmax_vjp(p, grad)) == bits(expected)
    assert fs.softmax_vjp(np.asfortranarray(p), grad).flags.f_contiguous
    for other, dtype in (("f4", "f8"), ("f8", "f8"), ("i8", "f8")):
        assert fs.softmax_vjp(p, grad.astype(other)).dtype == dtype
    assert fs.softmax_vjp(p.astype("f2"), grad.astype(BFLOAT16)).dtype == np.float32
    own = p.copy()
    assert fs.softmax_vjp(own, grad, out=own) is own
    assert bits(own) == bits(expected)
    with pytest.raises(ValueError, match="grad"):
        fs.softmax_vjp(p, np.zeros(4))
    with pytest.raises(ValueError, match="out has shape"):
        fs.log_softmax_vjp(p, grad, out=np.empty(5))
    with pytest.raises(TypeError, match="log_probs has dtype complex"):
        fs.log_softmax_vjp([1j], [1.0])
    with pytest.raises(np.exceptions.AxisError):
        fs.softmax_vjp(p, grad, 2)


# ---- Segments ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_segments(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 1000).astype(dtype)
    offsets = np.concatenate([[3], np.sort(rng.integers(3, 990, 50)), [990]])
    temperature = rng.uniform(0.5, 2, len(offsets) - 1)
    for kind in "iIlL":
        result = fs.softmax_segments(x, offsets.astype(kind), temperature=temperature)
        assert result.dtype == dtype
        assert (result[:3] == 0).all()
        assert (result[990:] == 0).all()
        for start, end, one in zip(offsets[:-1], offsets[1:], temperature, strict=True):
            assert bits(result[start:end]) == bits(fs.softmax(x[start:end], temperature=one))
    own = x.copy()
    assert fs.softmax_segments(own, offsets, out=own) is own
    assert bits(own) == bits(fs.softmax_segments(x[::-1].copy()[::-1], offsets))
    assert fs.softmax_segments(x, [0, 1000], dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    ("offsets", "error", "message"),
    [
        ([0, 3, 2, 5], ValueError, "offsets"),
        ([0, 6], IndexError, "6"),
        ([-1, 5], IndexError, "-1"),
        ([0.0, 5.0], TypeError, "offsets"),
        ([], (ValueError, TypeError), "offsets"),
        ([[0, 5]], ValueError, "offsets"),
    ],
)
def test_segments_refuses(offsets: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fs.softmax_segments(np.zeros(5), offsets)


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
