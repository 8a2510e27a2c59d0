"""fastsoftmax.io.stream: the same bits as direct calls, whatever the files, axes, orders and chunks."""

from __future__ import annotations

import io
import re
import threading

import fastsoftmax as fs
import fastsoftmax.io
import numpy as np
import pytest
from fastsoftmax._io import job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from io_helpers import ULP, Dribble, Lazy, Sliced, exact, names, save, ulps

ML = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ML.bfloat16)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def plans(monkeypatch):
    """The plans that `stream` chose, in order."""
    chosen = []
    original = job.Job._choose

    def choose(self, kinds):
        chosen.append(original(self, kinds))
        return chosen[-1]

    monkeypatch.setattr(job.Job, "_choose", choose)
    return chosen


def call(name, x, axis, **kwargs):
    """The direct call that `stream` must equal."""
    extra = [kwargs.pop(key) for key in ("index", "labels", "k") if key in kwargs]
    return getattr(fs, name)(x, *extra, axis=axis, **kwargs)


# -- the same as direct calls --------------------------------------------------------------------------------


@st.composite
def cases(draw):
    name = draw(
        st.sampled_from(
            ["softmax", "log_softmax", "logsumexp", "entropy", "top_k", "log_prob", "cross_entropy"]
        )
    )
    shape = tuple(draw(st.lists(st.integers(0, 7), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    if name in {"softmax", "log_softmax", "logsumexp"}:
        axis = draw(st.one_of(st.just(axis), st.none(), st.sets(st.integers(0, len(shape) - 1)).map(tuple)))
    elif shape[axis] == 0:
        shape = tuple(n or 1 for n in shape)  # nothing to choose a label from
    dtype = draw(st.sampled_from(["<f2", "<f4", "<f8", ">f4", ">f8", "|b1", "|i1", "<u2", ">i4", "<i8"]))
    kwargs = {}
    if name not in {"logsumexp", "cross_entropy"} and draw(st.booleans()):
        kwargs["dtype"] = draw(st.sampled_from(["float16", "float32", "float64"]))
    if name != "logsumexp" and draw(st.booleans()):
        kwargs["temperature"] = draw(st.floats(0.1, 10))
    if name == "logsumexp":
        kwargs["keepdims"] = draw(st.booleans())
    return name, shape, axis, dtype, kwargs


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=cases(),
    order=st.sampled_from("CF"),
    chunk=st.sampled_from([1, 8, 50, 200, 1000, 1 << 20]),
    run=st.sampled_from([1, 16, 2048]),
    ends=st.sampled_from(["files", "streams", "arrays", "to arrays", "sliced"]),
    seed=st.integers(0, 2**32),
)
def test_parity_with_direct_calls(case, order, chunk, run, ends, seed, tmp_path, plans, monkeypatch):
    name, shape, axis, dtype, kwargs = case
    monkeypatch.setattr(job, "MIN_RUN", run)
    rng = np.random.default_rng(seed)
    x = np.asarray((rng.normal(size=shape) * 5).astype(dtype), order=order)
    if name in {"log_prob", "cross_entropy"}:
        reduced = tuple(np.delete(shape, axis))
        kwargs["index" if name == "log_prob" else "labels"] = rng.integers(0, shape[axis], reduced)
    if name == "top_k":
        kwargs["k"] = int(rng.integers(0, shape[axis] + 1))
    if name == "cross_entropy":
        kwargs["reduction"] = str(rng.choice(["none", "mean", "sum"]))
        kwargs["label_smoothing"] = float(rng.choice([0.0, 0.1]))
    expected = call(name, x, axis, **kwargs)
    expected = list(expected) if name == "top_k" else [expected]
    paths = [tmp_path / f"out{i}.npy" for i in range(len(expected))]
    src = save(tmp_path / "x.npy", x, order)
    dst = paths
    if ends == "streams":
        src, dst = io.BytesIO(src.read_bytes()), [io.BytesIO() for _ in expected]
    elif ends == "arrays":
        src, dst = x, [np.full_like(e, 9, order=order) for e in expected]
    elif ends == "to arrays":
        dst = [np.full_like(e, 9) for e in expected]
    elif ends == "sliced":
        src = Sliced(x)
    plans.clear()
    try:
        summary = fs.io.stream(
            name, src, dst if len(dst) > 1 else dst[0], axis=axis, chunk_bytes=chunk, overwrite=True, **kwargs
        )
    except ValueError as error:
        # Only what the documentation says: parts of a distribution, along the slow axis, in chunks.
        if chunk == 1 << 20 or not re.search("whole columns|read twice|next to each other", str(error)):
            raise
        return
    if ends == "streams":
        got = [np.load(io.BytesIO(d.getvalue())) for d in dst]
    elif ends in {"arrays", "to arrays"}:
        got = dst
    else:
        got = [np.load(path) for path in paths]
        if x.flags.fnc and ends == "files" and np.ndim(got[0]) > 1:  # what is both, NumPy saves as C
            assert got[0].flags.f_contiguous
    for g, e in zip(got, expected, strict=True):
        e = np.asarray(e)
        assert g.shape == e.shape
        assert g.dtype == e.dtype
        if plans == ["two passes"] or kwargs.get("reduction") in {"mean", "sum"}:
            eps = np.finfo(e.dtype).eps
            np.testing.assert_allclose(g, e, rtol=8 * eps, atol=8 * eps * np.abs(e).max(initial=0))
        else:
            np.testing.assert_array_equal(g, e)  # the same bits
    assert summary.rows * summary.classes == x.size
    assert summary.shape == x.shape
    assert summary.bytes_written == sum(np.asarray(e).nbytes for e in expected)
    assert summary.bytes_read == x.nbytes * (2 if plans == ["two passes"] and name != "logsumexp" else 1)


def test_every_plan_occurs(tmp_path, plans, rng):
    x = rng.normal(size=(300, 40)).astype(np.float32)
    src = save(tmp_path / "x.npy", x)
    for axis, chunk in [(0, 1 << 20), (-1, 4000), (0, 4000)]:
        fs.io.stream(fs.softmax, src, tmp_path / "y.npy", axis=axis, chunk_bytes=chunk, overwrite=True)
    y = save(tmp_path / "wide.npy", rng.normal(size=(4, 5000)).astype(np.float32))
    fs.io.stream(fs.entropy, y, tmp_path / "y.npy", axis=0, chunk_bytes=20000, overwrite=True)
    assert plans == ["whole", "rows", "two passes", "columns"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fs.entropy(np.load(y), axis=0))


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 5), (5, 0), (3, 0, 2), (1, 1, 1)])
@pytest.mark.parametrize("axis", [None, -1, 0, ()])
def test_small_and_empty(tmp_path, shape, axis, order):
    x = np.ones(shape, np.float32, order=order)
    for name in ("softmax", "log_softmax", "logsumexp"):
        fs.io.stream(
            name,
            save(tmp_path / "x.npy", x, order),
            tmp_path / "y.npy",
            axis=axis,
            chunk_bytes=1,
            overwrite=True,
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), call(name, x, axis))


@pytest.mark.parametrize("stored", ["V2", "<u2", ">u2"])
@pytest.mark.parametrize("axis", [0, -1])
def test_bfloat16_in_disguise(tmp_path, rng, stored, axis):
    x = (rng.normal(size=(64, 30)) * 5).astype(BF16)
    kept = x.view("V2") if stored == "V2" else x.view(np.uint16).astype(stored)
    src = save(tmp_path / "x.npy", kept)
    for chunk in (500, 1 << 20):
        summary = fs.io.stream(
            fs.softmax,
            src,
            tmp_path / "y.npy",
            axis=axis,
            chunk_bytes=chunk,
            input_dtype="bfloat16",
            overwrite=True,
        )
        assert summary.dtype == summary.result_dtype == "bfloat16"
        got = np.load(tmp_path / "y.npy")
        assert got.dtype == np.dtype("V2" if stored == "V2" else np.uint16)
        expected = fs.softmax(x, axis=axis)
        assert np.abs(got.view(BF16).astype(float) / expected.astype(float) - 1).max() <= 2**-8
        if axis == -1:
            np.testing.assert_array_equal(got.view(BF16), expected)


@pytest.mark.parametrize("stored", ["V2", "<u2", ">u2", "bfloat16"])
def test_bfloat16_in_arrays(rng, stored):
    x = (rng.normal(size=(64, 30)) * 5).astype(BF16)
    expected = fs.softmax(x)
    kept = {"V2": x.view("V2"), "bfloat16": x}.get(stored, x.view(np.uint16).astype(stored, copy=False))
    for dst in (
        np.empty(x.shape, BF16),
        np.empty(x.shape, np.float32),
        np.empty(x.shape, "V2"),
        np.empty(x.shape, "u2"),
    ):
        if dst.dtype.name not in {"bfloat16", "float32"} and dst.dtype != kept.dtype:
            with pytest.raises(TypeError, match="cannot hold"):
                fs.io.stream(fs.softmax, kept, dst, input_dtype="bfloat16")
            continue
        fs.io.stream(fs.softmax, kept, dst, input_dtype="bfloat16", chunk_bytes=500)
        got = dst.view(BF16) if dst.dtype.itemsize == 2 else dst
        np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    with pytest.raises(TypeError, match="cannot hold"):
        fs.io.stream(fs.softmax, x, np.empty(x.shape, np.int32))


def test_bfloat16_must_be_named_and_possible(tmp_path):
    src = save(tmp_path / "x.npy", np.zeros((2, 3), "V2"))
    with pytest.raises(fs.io.NpyError, match="bfloat16"):
        fs.io.stream(fs.softmax, src, tmp_path / "y.npy")
    src = save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="bfloat16"):
        fs.io.stream(fs.softmax, src, tmp_path / "y.npy", input_dtype="bfloat16")
    summary = fs.io.stream(fs.softmax, src, tmp_path / "y.npy", dtype="bfloat16", input_dtype="float32")
    assert summary.result_dtype == "bfloat16"
    assert np.load(tmp_path / "y.npy").dtype == np.dtype("V2")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("spread", "offset"), [(4, 0), (8, 0), (30, 0), (1, 1000), (1, -300), (0.01, -2), (20, 1e5), (1, 1e20)]
)
def test_two_passes_accuracy(tmp_path, plans, rng, dtype, temperature, spread, offset):
    for shape in [(10, 50), (1000, 20), (100_000, 2), (50_000,)]:
        x = (rng.normal(size=shape) * spread + offset).astype(dtype)
        src = save(tmp_path / "x.npy", x)
        for name in ("softmax", "log_softmax", "logsumexp"):
            if name == "logsumexp" and (
                temperature != 1 or offset == -2
            ):  # the cancellation that is documented
                continue
            kwargs = {} if name == "logsumexp" else {"temperature": temperature}
            chunk = max(300, x.nbytes // 7)
            fs.io.stream(name, src, tmp_path / "y.npy", axis=0, chunk_bytes=chunk, overwrite=True, **kwargs)
            got = np.load(tmp_path / "y.npy")
            bound = ULP if dtype == np.float64 else 0.51  # computed in float64 and rounded once
            assert ulps(got, exact(name, x, temperature)) <= bound, (name, shape)
    assert set(plans) == {"two passes"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1, 40, 60])
def test_two_passes_special_values(tmp_path, dtype, chunk):
    inf, nan = np.inf, np.nan
    x = np.array(
        [[20, -inf, nan, inf, -inf, 5, -inf], [0, -inf, 1, 1, 3, 5, 1], [-5, -inf, 2, inf, -inf, 5, 1]], dtype
    )
    src = save(tmp_path / "x.npy", x)
    for name in ("softmax", "log_softmax", "logsumexp"):
        fs.io.stream(name, src, tmp_path / "y.npy", axis=0, chunk_bytes=chunk, overwrite=True)
        assert ulps(np.load(tmp_path / "y.npy"), exact(name, x)) <= ULP
        np.testing.assert_array_equal(np.isnan(np.load(tmp_path / "y.npy")), np.isnan(call(name, x, 0)))


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("chunk", [100, 600, 1 << 20])
def test_array_arguments_are_cut(tmp_path, rng, order, axis, chunk, monkeypatch):
    monkeypatch.setattr(job, "MIN_RUN", 1)
    x = rng.normal(size=(6, 7, 8))
    src = save(tmp_path / "x.npy", x, order)
    shape = [6, 7, 8]
    shape[axis] = 1
    for temperature in (
        rng.uniform(0.5, 2, shape),
        rng.uniform(0.5, 2, [1, *shape[1:]]),
        rng.uniform(0.5, 2, shape[2:]),
    ):
        expected = fs.softmax(x, axis=axis, temperature=temperature)
        fs.io.stream(
            fs.softmax,
            src,
            tmp_path / "y.npy",
            axis=axis,
            temperature=temperature,
            chunk_bytes=chunk,
            overwrite=True,
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    for where in (rng.random((6, 7, 8)) < 0.7, rng.random((7, 1)) < 0.7, rng.random(8) < 0.7):
        expected = fs.softmax(x, axis=axis, where=where)
        try:
            fs.io.stream(
                fs.softmax, src, tmp_path / "y.npy", axis=axis, where=where, chunk_bytes=chunk, overwrite=True
            )
        except ValueError as error:
            if "where=" not in str(error) or axis != (0 if order == "C" else 2):
                raise
            continue
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    with pytest.raises(ValueError, match="broadcast"):
        fs.io.stream(fs.softmax, src, tmp_path / "z.npy", axis=axis, temperature=np.ones((5, 1, 1)))


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", ["array", "list", "path", "fortran path", "sliced", "probabilities"])
@pytest.mark.parametrize("chunk", [100, 700, 1 << 20])
def test_labels(tmp_path, rng, order, axis, kind, chunk, monkeypatch):
    monkeypatch.setattr(job, "MIN_RUN", 1)
    x = rng.normal(size=(20, 5, 6)).astype(np.float32)
    src = save(tmp_path / "x.npy", x, order)
    reduced = tuple(np.delete(x.shape, axis))
    labels = rng.integers(0, x.shape[axis], reduced)
    labels.flat[::7] = -100
    weight = rng.uniform(0.5, 2, x.shape[axis])
    if kind == "probabilities":
        labels = rng.dirichlet(np.ones(x.size)).reshape(x.shape)
    given_as = {
        "list": labels.tolist,
        "path": lambda: save(tmp_path / "labels.npy", labels),
        "fortran path": lambda: str(save(tmp_path / "labels.npy", labels, "F")),
        "sliced": lambda: Lazy(labels),
    }.get(kind, lambda: labels)()
    for reduction in ("none", "mean", "sum"):
        kwargs = {"reduction": reduction, "weight": weight, "label_smoothing": 0.1}
        expected = fs.cross_entropy(x, labels, axis=axis, **kwargs)
        dst = tmp_path / "y.npy"
        fs.io.stream(
            fs.cross_entropy,
            src,
            dst,
            axis=axis,
            labels=given_as,
            chunk_bytes=chunk,
            overwrite=True,
            **kwargs,
        )
        np.testing.assert_allclose(np.load(dst), expected, rtol=1e-6)
    if kind in {"array", "path"}:
        index = np.where(labels == -100, 0, labels)
        given_as = index if kind == "array" else save(tmp_path / "labels.npy", index)
        fs.io.stream(
            fs.log_prob, src, tmp_path / "y.npy", axis=axis, index=given_as, chunk_bytes=chunk, overwrite=True
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fs.log_prob(x, index, axis=axis))


def test_all_labels_ignored(tmp_path, rng):
    x = rng.normal(size=(50, 3)).astype(np.float32)
    labels = np.full(50, -100)
    got = np.zeros(())
    fs.io.stream(fs.cross_entropy, x, got, labels=labels, chunk_bytes=100)
    assert np.isnan(got)
    fs.io.stream(fs.cross_entropy, x, tmp_path / "sum.npy", labels=labels, chunk_bytes=100, reduction="sum")
    assert np.load(tmp_path / "sum.npy") == 0


def test_wrong_labels(tmp_path, rng):
    x = rng.normal(size=(100, 3)).astype(np.float32)
    labels = np.zeros(100, int)
    labels[70] = 3
    with pytest.raises(IndexError, match="counted from row 64"):
        fs.io.stream(fs.log_prob, x, np.empty(100, np.float32), index=labels, chunk_bytes=16 * 12)
    with pytest.raises(ValueError, match=r"shape \(99,\)"):
        fs.io.stream(fs.log_prob, x, np.empty(100, np.float32), index=labels[:99])
    with pytest.raises(TypeError, match="integers"):
        fs.io.stream(fs.log_prob, x, np.empty(100, np.float32), index=labels / 2)
    src = save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match="input file itself"):
        fs.io.stream(fs.log_prob, x, src, index=src, overwrite=True)


# -- arrays and streams --------------------------------------------------------------------------------------


def test_array_ends(tmp_path, rng):
    x = rng.normal(size=(1000, 8)).astype(np.float32)
    expected = fs.softmax(x)
    mapped = np.lib.format.open_memmap(tmp_path / "map.npy", "w+", np.float32, x.shape)
    source = Sliced(x)
    fs.io.stream(fs.softmax, source, mapped, chunk_bytes=3200)
    np.testing.assert_array_equal(mapped, expected)
    assert source.largest == 100
    wide = np.empty(x.shape)
    fs.io.stream(fs.softmax, np.load(tmp_path / "map.npy", mmap_mode="r"), wide)
    np.testing.assert_array_equal(wide, fs.softmax(expected))
    inside = x.copy()
    fs.io.stream(fs.softmax, inside, inside, chunk_bytes=320)
    np.testing.assert_array_equal(inside, expected)


def test_array_ends_refused(rng, tmp_path):
    x = rng.normal(size=(100, 8)).astype(np.float32)
    with pytest.raises(ValueError, match="shares memory"):
        fs.io.stream(fs.softmax, x[1:], x[:-1])
    with pytest.raises(ValueError, match="shares memory"):
        fs.io.stream(fs.logsumexp, x, x[:, 0])
    with pytest.raises(ValueError, match=r"shape \(99, 8\)"):
        fs.io.stream(fs.softmax, x, np.empty((99, 8), np.float32))
    with pytest.raises(TypeError, match="int32"):
        fs.io.stream(fs.softmax, x, np.empty((100, 8), np.int32))
    with pytest.raises(TypeError, match="mask"):
        fs.io.stream(fs.softmax, np.ma.masked_array(x), np.empty_like(x))
    for src, dst in ([1.0, 2.0], x), (x, None), (None, x):
        with pytest.raises(TypeError, match="must be a path, a binary file object or an array"):
            fs.io.stream(fs.softmax, src, dst)
    for dtype in (complex, object, "S3", "M8[s]", np.longdouble):
        with pytest.raises(TypeError):
            fs.io.stream(fs.softmax, np.zeros((2, 2), dtype), tmp_path / "y.npy")
    mapped = np.lib.format.open_memmap(tmp_path / "map.npy", "w+", np.float32, x.shape)
    with pytest.raises(ValueError, match="input file itself"):
        fs.io.stream(fs.softmax, mapped, tmp_path / "map.npy", overwrite=True)


def test_streams_with_short_reads_and_writes(tmp_path, rng):
    x = rng.normal(size=(500, 8)).astype(np.float32)
    data = save(tmp_path / "x.npy", x).read_bytes()

    class Slow(io.BytesIO):
        def write(self, view):
            return super().write(view[:41])

    dst = Slow()
    fs.io.stream(fs.softmax, Dribble(data), dst, chunk_bytes=1000)
    np.testing.assert_array_equal(np.load(io.BytesIO(dst.getvalue())), fs.softmax(x))
    for damaged in (data[:-1], data + b"\0", data[:60]):
        with pytest.raises(fs.io.NpyError, match=r"truncated|after its data"):
            fs.io.stream(fs.softmax, Dribble(damaged), tmp_path / "y.npy", chunk_bytes=1000)
    assert names(tmp_path) == ["x.npy"]
    with pytest.raises(ValueError, match="read twice"):
        fs.io.stream(fs.softmax, Dribble(data), tmp_path / "y.npy", axis=0, chunk_bytes=1000)
    fs.io.stream(fs.logsumexp, Dribble(data), tmp_path / "y.npy", axis=0, chunk_bytes=1000)
    assert ulps(np.load(tmp_path / "y.npy"), exact("logsumexp", x)) <= ULP


def test_output_stream_that_is_the_input(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(5, 8)))
    before = src.read_bytes()
    with src.open("ab") as file, pytest.raises(ValueError, match="input file itself"):
        fs.io.stream(fs.softmax, src, file)
    assert src.read_bytes() == before


def test_without_threads(tmp_path, rng, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    x = rng.normal(size=(500, 8)).astype(np.float32)
    for axis in (0, 1):
        fs.io.stream(fs.softmax, x, tmp_path / "y.npy", axis=axis, chunk_bytes=1000, overwrite=True)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), fs.softmax(x, axis=axis), rtol=1e-6)


# -- what is refused -----------------------------------------------------------------------------------------


def test_arguments_refused(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(100, 100)))
    dst = tmp_path / "y.npy"

    def stream(func, **kwargs):
        fs.io.stream(func, src, dst, **kwargs)

    for func in ("softmin", np.exp, None, fs.get_num_threads, "build_info"):
        with pytest.raises(ValueError, match="func must be"):
            stream(func)
    with pytest.raises(TypeError, match="dst in the place of out"):
        stream("softmax", out=np.empty(3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'keepdims'"):
        stream("softmax", keepdims=True)
    with pytest.raises(TypeError, match="needs the argument labels="):
        stream("cross_entropy")
    with pytest.raises(ValueError, match="reduction"):
        stream("cross_entropy", labels=np.zeros(100, int), reduction="max")
    with pytest.raises(ValueError, match="chunk_bytes"):
        stream("softmax", chunk_bytes=0)
    with pytest.raises(ValueError, match="temperature"):
        stream("softmax", temperature=0.0)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature"):
            stream("softmax", temperature=np.array([bad] + [1.0] * 99), axis=0, chunk_bytes=1000)
    with pytest.raises(ValueError, match="two files"):
        fs.io.stream("top_k", src, (dst, tmp_path / "." / "y.npy"), k=1)
    with pytest.raises(TypeError):
        stream("softmax", dtype=complex)
    for axis in (2, -3):
        with pytest.raises(np.exceptions.AxisError):
            stream("softmax", axis=axis)
    with pytest.raises(ValueError, match="repeated"):
        stream("softmax", axis=(0, -2))
    with pytest.raises(TypeError, match="axis of entropy must be an integer"):
        stream("entropy", axis=None)
    with pytest.raises(ValueError, match="whole columns"):
        stream("entropy", axis=0, chunk_bytes=1000)
    with pytest.raises(TypeError, match="pair"):
        stream("top_k", k=2)
    with pytest.raises(ValueError, match="k = 101"):
        fs.io.stream("top_k", src, (dst, tmp_path / "z.npy"), k=101)
    save(src, rng.normal(size=(10, 10, 10)))
    with pytest.raises(ValueError, match="next to each other"):
        stream("softmax", axis=(0, 2), chunk_bytes=1000)
    assert names(tmp_path) == ["x.npy"]


def test_the_chunk_size_of_the_message_is_enough(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(3000, 700)))
    with pytest.raises(ValueError, match="whole columns") as info:
        fs.io.stream(fs.entropy, src, tmp_path / "y.npy", axis=0, chunk_bytes=1000)
    needed = int(str(info.value).split()[-1].replace(",", ""))
    assert needed < 3000 * 700 * 8
    fs.io.stream(fs.entropy, src, tmp_path / "y.npy", axis=0, chunk_bytes=needed)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fs.entropy(np.load(src), axis=0))
