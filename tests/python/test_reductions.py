"""Reductions that never build the probability matrix, against naive references."""

from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import arrays, broadcasting, shapes, strided
from reference import (
    FLOATS,
    INTEGERS,
    Exact,
    assert_accurate,
    assert_same,
    bits,
    dtype_of,
    log_softmax,
)

INF, NAN = np.inf, np.nan

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
