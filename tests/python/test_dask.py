"""Over dask arrays: lazy, cut as the input is, and equal to the library's own results."""

import sys
from typing import Any

import fastsoftmax as fs
import hypothesis
import ml_dtypes
import numpy as np
import pytest
from dask_helpers import APART_SUMS, assert_close
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import FLOATS, assert_accurate, exact, softmax, ulps

da = pytest.importorskip("dask.array", reason="Dask is not installed")

import dask  # noqa: E402  (after the check that it is there)
import fastsoftmax.dask as fsd  # noqa: E402

Array = NDArray[Any]
INF, NAN = np.inf, np.nan
ELEMENTWISE = ["softmax", "log_softmax"]

FEW = hypothesis.settings(max_examples=40)  # a graph takes Dask longer than its numbers take the library


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with dask.config.set(scheduler="sync"):
        yield


@st.composite
def cut(draw: st.DrawFn, special: bool = True) -> tuple[Array, Any, int]:
    """Give logits, the same as a dask array of any chunks, and an axis."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from([*FLOATS, np.dtype(np.int16)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(draw(st.sampled_from([0, 300])), draw(st.sampled_from([1, 10, 100])), shape)
    if special and dtype.kind != "i":
        for _ in range(draw(st.sampled_from([0, 0, 1, 5]))):
            x.flat[draw(st.integers(0, x.size - 1))] = draw(st.sampled_from([INF, -INF, NAN]))
        if draw(st.booleans()) and x.ndim > 1:
            x[0] = -INF
    x = x.astype(dtype)
    chunks = []
    for n in shape:
        ends = draw(st.lists(st.integers(0, n), max_size=3).map(sorted))
        chunks.append(tuple(int(c) for c in np.diff([0, *ends, n])))
    return x, da.from_array(x, chunks=tuple(chunks)), draw(st.integers(-x.ndim, x.ndim - 1))


@st.composite
def options(draw: st.DrawFn, x: Array, axis: int) -> dict[str, Any]:
    """Give temperature, mask and dtype, of NumPy or Dask."""
    chosen: dict[str, Any] = {}
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row_shape = tuple(1 if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    kind = draw(st.sampled_from(["", "number", "array"]))
    if kind:
        chosen["temperature"] = 0.7 if kind == "number" else rng.uniform(0.3, 3, row_shape)
    if draw(st.booleans()):
        mask = rng.random(x.shape[draw(st.integers(0, x.ndim - 1)) :]) < 0.7
        chosen["where"] = mask
    if draw(st.sampled_from([False, False, True])):
        chosen["dtype"] = draw(st.sampled_from(FLOATS))
    return chosen


def lazily(chosen: dict[str, Any], lazy: bool) -> dict[str, Any]:
    return {k: da.from_array(v, chunks=1) if lazy and np.ndim(v) else v for k, v in chosen.items()}


def row_shape(x: Array, axis: int) -> tuple[int, ...]:
    axis %= x.ndim
    return x.shape[:axis] + x.shape[axis + 1 :]


# -- the same as without Dask --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTWISE)
@FEW
@hypothesis.given(cut(), st.data(), st.booleans())
def test_elementwise(name: str, case: tuple[Array, Any, int], data: Any, lazy: bool) -> None:
    x, d, axis = case
    chosen = data.draw(options(x, axis))
    result = getattr(fsd, name)(d, axis, **lazily(chosen, lazy))
    assert result.chunks == tuple(tuple(n for n in c if n) for c in d.chunks)  # without the empty ones
    assert_close(result, getattr(fs, name)(x, axis, **chosen))
    if name == "softmax" and "dtype" not in chosen and x.dtype.kind != "i":
        assert_accurate(
            result.compute(), softmax(x, axis, **{k: v for k, v in chosen.items() if k != "dtype"})
        )


@FEW
@hypothesis.given(cut(), st.data(), st.booleans())
def test_several_axes(case: tuple[Array, Any, int], data: Any, keepdims: bool) -> None:
    x, d, axis = case
    axes = data.draw(st.none() | st.lists(st.integers(0, x.ndim - 1), unique=True).map(tuple))
    where = data.draw(options(x, axis)).get("where")
    for name in ELEMENTWISE:
        assert_close(getattr(fsd, name)(d, axes, where=where), getattr(fs, name)(x, axes, where=where))
    chosen = {"keepdims": keepdims, "where": where}
    # Where the greatest logit and the logarithm of the sum cancel, 2 ULP of the greater one.
    result, expected = fsd.logsumexp(d, axes, **chosen), np.asarray(fs.logsumexp(x, axes, **chosen))
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(
        exact(np.asarray(result.compute())),
        exact(expected),
        rtol=4 * float(ml_dtypes.finfo(expected.dtype).eps),
        atol=2e-15,
    )


@FEW
@hypothesis.given(cut(), st.data(), st.sampled_from("bhlBQ"))
def test_log_prob(case: tuple[Array, Any, int], data: Any, code: str) -> None:
    x, d, axis = case
    rng = np.random.default_rng(1)
    index = rng.integers(0, x.shape[axis], row_shape(x, axis)).astype(code)
    chosen = data.draw(options(x, axis))
    given = da.from_array(index, chunks=2) if data.draw(st.booleans()) and index.ndim else index
    assert_close(fsd.log_prob(d, given, axis, **chosen), fs.log_prob(x, index, axis, **chosen))


@FEW
@hypothesis.given(cut(), st.data())
def test_entropy(case: tuple[Array, Any, int], data: Any) -> None:
    x, d, axis = case
    chosen = data.draw(options(x, axis))
    assert_close(fsd.entropy(d, axis, **chosen), fs.entropy(x, axis, **chosen), APART_SUMS)


@FEW
@hypothesis.given(cut(), st.data(), st.booleans())
def test_top_k(case: tuple[Array, Any, int], data: Any, log: bool) -> None:
    x, d, axis = case
    k = data.draw(st.integers(0, x.shape[axis]))
    chosen = {"log": log, **data.draw(options(x, axis))}
    chosen.pop("where", None)  # which of the left-out places come first is not promised
    result, expected = fsd.top_k(d, k, axis, **chosen), fs.top_k(x, k, axis, **chosen)
    assert type(result) is type(expected)
    assert_close(result.indices, expected.indices)
    assert_close(result.values, expected.values)


def test_top_k_with_a_mask() -> None:
    x = np.array([[1.0, NAN, 3, 2, 5, INF]])
    for chunks in (6, 2, (1, (1, 4, 1))):
        found = fsd.top_k(da.from_array(x, chunks=chunks), 2, where=[[True, False, True, True, True, False]])
        assert found.indices.compute().tolist() == [[4, 2]]
        np.testing.assert_allclose(found.values.compute(), [fs.softmax([1.0, 3, 2, 5])[[3, 1]]])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@FEW
@hypothesis.given(cut(), st.data())
def test_cross_entropy_of_classes(reduction: str, case: tuple[Array, Any, int], data: Any) -> None:
    x, d, axis = case
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    labels = rng.integers(0, x.shape[axis], row_shape(x, axis))
    ignored = data.draw(st.sampled_from([-100, 0, 255]))
    labels = np.where(rng.random(labels.shape) < 0.2, ignored, labels)
    chosen = {"reduction": reduction, "ignore_index": ignored, **loss_options(data, x, axis)}
    given = da.from_array(labels, chunks=2) if data.draw(st.booleans()) and labels.ndim else labels
    assert_close(
        fsd.cross_entropy(d, given, axis, **chosen), fs.cross_entropy(x, labels, axis, **chosen), APART_SUMS
    )


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@FEW
@hypothesis.given(cut(), st.data())
def test_cross_entropy_of_probabilities(reduction: str, case: tuple[Array, Any, int], data: Any) -> None:
    x, d, axis = case
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    labels = np.moveaxis(rng.dirichlet(np.ones(x.shape[axis]), row_shape(x, axis)), -1, axis)
    labels = np.where(labels < 0.1, 0, labels).astype(data.draw(st.sampled_from([np.float32, np.float64])))
    chosen = {"reduction": reduction, **loss_options(data, x, axis)}
    given = da.from_array(labels, chunks=2) if data.draw(st.booleans()) else labels
    assert_close(
        fsd.cross_entropy(d, given, axis, **chosen), fs.cross_entropy(x, labels, axis, **chosen), APART_SUMS
    )


def loss_options(data: Any, x: Array, axis: int) -> dict[str, Any]:
    chosen = data.draw(options(x, axis))
    chosen.pop("where", None)
    chosen.pop("dtype", None)
    if data.draw(st.booleans()):
        chosen["weight"] = np.random.default_rng(0).random(x.shape[axis])
    chosen["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.0, 0.1]))
    return chosen


def test_long_rows_cut_into_many_blocks() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 300_000)) * 8
    for dtype in (np.float32, np.float64):
        y = x.astype(dtype)
        d = da.from_array(y, chunks=(2, 40_000))
        assert_accurate(fsd.softmax(d).compute(), softmax(y))
        assert_accurate(fsd.softmax(d, axis=None).compute(), softmax(y, None))
        shifted = exact(y) - exact(y).max(axis=1, keepdims=True)
        total = np.log1p(np.sort(np.exp(shifted), axis=1)[:, :-1].sum(axis=1, keepdims=True))
        assert ulps(fsd.logsumexp(d).compute(), exact(y).max(axis=1) + total[:, 0]).max() <= 2
        assert ulps(fsd.log_softmax(d).compute(), shifted - total).max() <= 2
    near_zero = fsd.log_softmax(da.from_array(np.array([20, 0], np.float32), chunks=1)).compute()
    assert near_zero[0] == np.float32(-2.0611536e-09)


def test_more_rows_than_a_tile() -> None:
    x = np.random.default_rng(3).normal(size=(200_000, 3)).astype(np.float32)
    d = da.from_array(x, chunks=(150_000, 2))
    assert_close(fsd.softmax(d), fs.softmax(x))
    assert_close(fsd.entropy(d), fs.entropy(x))
    assert_close(fsd.cross_entropy(d, np.zeros(200_000, int)), fs.cross_entropy(x, np.zeros(200_000, int)))


# -- lazy, and cut as it should be ---------------------------------------------------------------------------


def explosive(shape: tuple[int, ...], chunks: Any) -> Any:
    """Give an array that must not be computed."""

    def bang(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed")

    return da.map_blocks(
        bang,
        dtype=np.float32,
        chunks=da.core.normalize_chunks(chunks, shape),
        meta=np.empty((0, 0), np.float32),
    )


@pytest.mark.parametrize("chunks", [(2, 5), (2, 2)])
def test_nothing_is_computed_before_it_is_asked_for(chunks: Any) -> None:
    d = explosive((4, 5), chunks)
    rows = ((2, 2),)
    results = [
        fsd.softmax(d, where=d > 0),
        fsd.log_softmax(d, temperature=d[:, :1]),
        fsd.logsumexp(d),
        fsd.log_prob(d, d[:, 0].astype(int)),
        fsd.entropy(d),
        *fsd.top_k(d, 3),
        fsd.cross_entropy(d, d[:, 0].astype(int), reduction="none"),
    ]
    assert [r.chunks for r in results[:2]] == [d.chunks] * 2
    assert [r.chunks for r in results[2:5]] == [rows] * 3
    assert [r.chunks for r in results[5:7]] == [((2, 2), (3,))] * 2
    assert results[7].chunks == rows
    assert fsd.cross_entropy(d, d[:, 0].astype(int)).shape == ()
    assert fsd.logsumexp(d, keepdims=True).chunks == ((2, 2), (1,))
    for result in results:
        assert isinstance(result._meta, np.ndarray)
        assert result._meta.dtype == result.dtype
        with pytest.raises(AssertionError, match="computed"):
            result.compute()


def test_one_pass_per_block_where_the_axis_is_whole() -> None:
    d = da.zeros((64, 10), chunks=(8, 10), dtype=np.float32)
    # A task for each block of the input, and one for each block of the result.
    assert len(dict(fsd.softmax(d).__dask_graph__())) <= 2 * 8
    assert len(fsd.softmax(d).__dask_graph__().layers) == 2


def test_threads_are_left_to_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = fs.softmax

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["threads"])
        return whole(*args, **kwargs)

    monkeypatch.setattr(fs, "softmax", watched)
    fsd.softmax(da.zeros((2, 4), chunks=(1, 4))).compute()
    assert set(seen) == {1}
    seen.clear()
    fsd.softmax(da.zeros((2, 4), chunks=(1, 4)), threads=2).compute()
    assert set(seen) == {2}


def test_numpy_input_becomes_dask() -> None:
    result = fsd.softmax([[1.0, 1.0]])
    assert isinstance(result, da.Array)
    np.testing.assert_array_equal(result.compute(), [[0.5, 0.5]])
    assert fsd.softmax(3.0, axis=None).compute() == 1
    assert fsd.logsumexp(da.zeros((0, 3), chunks=1)).compute().shape == (0,)
    np.testing.assert_array_equal(fsd.logsumexp(da.zeros((2, 0), chunks=1)).compute(), [-INF, -INF])
    assert np.isnan(fsd.cross_entropy(da.zeros((0, 3), chunks=1), np.zeros(0, int)).compute())


# -- errors --------------------------------------------------------------------------------------------------


def test_unknown_chunks_are_refused() -> None:
    d = da.zeros((4, 5), chunks=2)
    unknown = d[d[:, 0] > 0]
    for call in (
        lambda: fsd.softmax(unknown),
        lambda: fsd.logsumexp(unknown, axis=0),
        lambda: fsd.softmax(d, where=unknown > 0),
        lambda: fsd.cross_entropy(d, d[:, 0][d[:, 0] > 0].astype(int)),
    ):
        with pytest.raises(ValueError, match=r"unknown size.*compute_chunk_sizes"):
            call()
    assert fsd.softmax(unknown.compute_chunk_sizes()).shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d: fsd.softmax(d, axis=2), np.exceptions.AxisError, "2"),
        (lambda d: fsd.softmax(d, axis=(0, 0)), ValueError, "repeated|twice|duplicate"),
        (lambda d: fsd.softmax(d.astype(complex)), TypeError, "complex128"),
        (lambda d: fsd.softmax(d.map_blocks(np.ma.masked_invalid)), TypeError, "MaskedArray.*where="),
        (lambda d: fsd.softmax(d, temperature=0), ValueError, "temperature"),
        (lambda d: fsd.softmax(d, temperature=np.ones((1, 4))), ValueError, "length 1 along the axis"),
        (lambda d: fsd.softmax(d, temperature=np.ones((2, 1))), ValueError, "does not broadcast"),
        (lambda d: fsd.softmax(d, where=np.ones((3, 3, 4), bool)), ValueError, "does not broadcast"),
        (lambda d: fsd.softmax(d, where=np.ones(4)), TypeError, "bool"),
        (lambda d: fsd.softmax(d, dtype=int), TypeError, "int"),
        (lambda d: fsd.softmax(d, threads=0), ValueError, "threads"),
        (lambda d: fsd.top_k(d, 5), ValueError, "between 0 and the length of the axis, 4"),
        (lambda d: fsd.top_k(d, -1), ValueError, "between"),
        (lambda d: fsd.top_k(d, 1.5), TypeError, "float"),
        (lambda d: fsd.log_prob(d, [0.0, 1, 2]), TypeError, "integers"),
        (lambda d: fsd.log_prob(d, [0, 1]), ValueError, r"must be \(3,\)"),
        (lambda d: fsd.cross_entropy(d, [0, 1]), ValueError, r"must be \(3,\)"),
        (lambda d: fsd.cross_entropy(d, np.zeros((3, 3))), ValueError, "those? of|that of the logits"),
        (lambda d: fsd.cross_entropy(d, [True, False, True]), TypeError, "bool"),
        (lambda d: fsd.cross_entropy(d, [0, 1, 2], weight=[1, 2]), ValueError, r"must be \(4,\)"),
        (lambda d: fsd.cross_entropy(d, [0, 1, 2], reduction="avg"), ValueError, "avg"),
        (lambda d: fsd.cross_entropy(d, [0, 1, 2], label_smoothing=2), ValueError, "label_smoothing"),
    ],
)
def test_errors_come_at_once(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(explosive((3, 4), 2))


@pytest.mark.parametrize("chunks", [(2, 3), (2, 2)])
def test_labels_out_of_range_are_named(chunks: Any) -> None:
    d = da.zeros((5, 3), chunks=chunks)
    for labels in (np.array([0, 1, 2, 3, 0]), da.from_array(np.array([0, 1, 2, 3, 0]), chunks=5)):
        with pytest.raises(IndexError, match="index: 3 of row 3 is out of range for 3 classes"):
            fsd.log_prob(d, labels).compute()
        with pytest.raises(IndexError, match="labels: 3 of row 3"):
            fsd.cross_entropy(d, labels).compute()
        assert np.isfinite(fsd.cross_entropy(d, labels, ignore_index=3).compute())
    with pytest.raises(IndexError, match="labels: -100 of row 4"):
        fsd.cross_entropy(d, np.array([0, 1, 2, 0, -100]), ignore_index=3).compute()


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == "dask" or m.startswith("fastsoftmax.dask")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fastsoftmax.dask")
    with pytest.raises(ImportError, match=r"pip install 'fastsoftmax\[dask\]'"):
        import fastsoftmax.dask  # noqa: F401
