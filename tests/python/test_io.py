"""fastsoftmax.io: the same bits as direct calls, in bounded memory; hostile input; whole output or none."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

import fastsoftmax as fs
import fastsoftmax.io
from fastsoftmax._io import job, npy, output

ULP = 2  # the bound of api.md, rule 14
ML = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ML.bfloat16)
KILLS = int(os.environ.get("FASTSOFTMAX_TEST_KILLS", "15"))


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


@pytest.fixture(params=["unnamed", "named"])
def temporary(request, monkeypatch):
    """Both kinds of temporary file; the second is that of other systems and of some file systems."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    return request.param


def save(path, array, order="C"):
    np.save(path, np.asarray(array, order=order))
    return path


def call(name, x, axis, **kwargs):
    """The direct call that `stream` must equal."""
    extra = [kwargs.pop(key) for key in ("index", "labels", "k") if key in kwargs]
    return getattr(fs, name)(x, *extra, axis=axis, **kwargs)


def ulps(got, exact):
    """The largest distance of `got` from `exact`, in units of the last place of `got`'s dtype."""
    with np.errstate(all="ignore"):
        unit = np.spacing(np.abs(exact.astype(got.dtype))).astype(np.longdouble)
        distance = np.abs(got.astype(np.longdouble) - exact) / unit
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    return float(np.where(same, 0, distance).max(initial=0))


def exact(name, x, temperature=1.0):
    """Softmax, log_softmax or logsumexp along axis 0 in long double."""
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        top = x.max(axis=0)
        d = (x - top) / np.longdouble(temperature)
        e = np.exp(d)
        np.put_along_axis(e, x.argmax(axis=0)[None], 0, 0)
        rest = e.sum(axis=0)
        if name == "logsumexp":
            return np.where(np.isfinite(top), top + np.log1p(rest), top)
        y = d - np.log1p(rest)
        y = np.where(np.isfinite(top), y, np.nan)
        return y if name == "log_softmax" else np.where(np.isnan(y), y, np.exp(d) / (1 + rest))


# -- the same as direct calls ------------------------------------------------------------------------------------


class Sliced:
    """The least that a source or a target may be."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, index):
        assert isinstance(index, slice)
        self.largest = max(self.largest, index.stop - index.start)
        return self._array[index].copy()

    def __setitem__(self, index, value):
        assert isinstance(index, slice)
        self._array[index] = value


@st.composite
def cases(draw):
    name = draw(st.sampled_from(["softmax", "log_softmax", "logsumexp", "entropy", "top_k", "log_prob", "cross_entropy"]))
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
        assert any(text in str(error) for text in ("whole columns", "read twice", "next to each other"))
        assert chunk < (1 << 20)
        return
    if ends == "streams":
        got = [np.load(io.BytesIO(d.getvalue())) for d in dst]
    elif ends in {"arrays", "to arrays"}:
        got = dst
    else:
        got = [np.load(path) for path in paths]
        if order == "F" and ends == "files" and np.ndim(got[0]) > 1 and got[0].size:
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
        fs.io.stream(name, save(tmp_path / "x.npy", x, order), tmp_path / "y.npy", axis=axis, chunk_bytes=1, overwrite=True)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), call(name, x, axis))


@pytest.mark.parametrize("stored", ["V2", "<u2", ">u2"])
@pytest.mark.parametrize("axis", [0, -1])
def test_bfloat16_in_disguise(tmp_path, rng, stored, axis):
    x = (rng.normal(size=(64, 30)) * 5).astype(BF16)
    kept = x.view("V2") if stored == "V2" else x.view(np.uint16).astype(stored)
    src = save(tmp_path / "x.npy", kept)
    for chunk in (500, 1 << 20):
        summary = fs.io.stream(
            fs.softmax, src, tmp_path / "y.npy", axis=axis, chunk_bytes=chunk, input_dtype="bfloat16", overwrite=True
        )
        assert summary.dtype == summary.result_dtype == "bfloat16"
        got = np.load(tmp_path / "y.npy")
        assert got.dtype == np.dtype("V2" if stored == "V2" else np.uint16)
        expected = fs.softmax(x, axis=axis)
        assert np.abs(got.view(BF16).astype(float) / expected.astype(float) - 1).max() <= 2**-8
        if axis == -1:
            np.testing.assert_array_equal(got.view(BF16), expected)


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
            if name == "logsumexp" and (temperature != 1 or offset == -2):  # the cancellation that is documented
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
    for temperature in (rng.uniform(0.5, 2, shape), rng.uniform(0.5, 2, [1, *shape[1:]]), rng.uniform(0.5, 2, shape[2:])):
        expected = fs.softmax(x, axis=axis, temperature=temperature)
        fs.io.stream(
            fs.softmax, src, tmp_path / "y.npy", axis=axis, temperature=temperature, chunk_bytes=chunk, overwrite=True
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    for where in (rng.random((6, 7, 8)) < 0.7, rng.random((7, 1)) < 0.7, rng.random(8) < 0.7):
        expected = fs.softmax(x, axis=axis, where=where)
        try:
            fs.io.stream(fs.softmax, src, tmp_path / "y.npy", axis=axis, where=where, chunk_bytes=chunk, overwrite=True)
        except ValueError as error:
            assert "where=" in str(error)
            assert axis == (0 if order == "C" else 2)
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
        got = np.zeros(np.shape(expected), np.float32)
        fs.io.stream(fs.cross_entropy, src, got, axis=axis, labels=given_as, chunk_bytes=chunk, **kwargs)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    if kind in {"array", "path"}:
        index = np.where(labels == -100, 0, labels)
        given_as = index if kind == "array" else save(tmp_path / "labels.npy", index)
        fs.io.stream(fs.log_prob, src, tmp_path / "y.npy", axis=axis, index=given_as, chunk_bytes=chunk, overwrite=True)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fs.log_prob(x, index, axis=axis))


class Lazy(Sliced):
    """Like zarr and h5py, which take tuples and the ellipsis too."""

    def __getitem__(self, index):
        return self._array[index].copy()


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


# -- arrays and streams ------------------------------------------------------------------------------------------


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


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data):
        self._data, self._at = data, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), 37, len(self._data) - self._at)
        buffer[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count


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
    assert os.listdir(tmp_path) == ["x.npy"]
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
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    x = rng.normal(size=(500, 8)).astype(np.float32)
    for axis in (0, 1):
        fs.io.stream(fs.softmax, x, tmp_path / "y.npy", axis=axis, chunk_bytes=1000, overwrite=True)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), fs.softmax(x, axis=axis), rtol=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------


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
    assert os.listdir(tmp_path) == ["x.npy"]


def test_the_chunk_size_of_the_message_is_enough(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(3000, 700)))
    with pytest.raises(ValueError, match="whole columns") as info:
        fs.io.stream(fs.entropy, src, tmp_path / "y.npy", axis=0, chunk_bytes=1000)
    needed = int(str(info.value).split()[-1].replace(",", ""))
    assert needed < 3000 * 700 * 8
    fs.io.stream(fs.entropy, src, tmp_path / "y.npy", axis=0, chunk_bytes=needed)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fs.entropy(np.load(src), axis=0))


@pytest.mark.parametrize("name", [None, "link", "hard"])
def test_output_is_the_input(tmp_path, rng, name):
    src = save(tmp_path / "x.npy", rng.normal(size=(5, 8)))
    dst = src
    if name == "link":
        dst = tmp_path / "link.npy"
        dst.symlink_to(src)
    elif name == "hard":
        dst = tmp_path / "hard.npy"
        dst.hardlink_to(src)
    before = src.read_bytes()
    with pytest.raises(ValueError, match="input file itself"):
        fs.io.stream(fs.softmax, src, dst, overwrite=True)
    assert src.read_bytes() == before


def test_existing_output(tmp_path, rng, temporary):
    x = rng.normal(size=(5, 8))
    dst = tmp_path / "y.npy"
    dst.write_bytes(b"old")
    dst.chmod(0o640)
    with pytest.raises(FileExistsError, match=r"y\.npy"):
        fs.io.stream(fs.softmax, x, dst)
    assert dst.read_bytes() == b"old"
    link = tmp_path / "link.npy"
    link.symlink_to(dst)
    fs.io.stream(fs.softmax, x, link, overwrite=True)
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(dst), fs.softmax(x))
    assert stat.S_IMODE(dst.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.npy", "y.npy"]


def test_new_output_has_usual_permissions(tmp_path, temporary):
    before = os.umask(0o027)
    try:
        fs.io.stream(fs.softmax, np.zeros((2, 2)), tmp_path / "y.npy")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "y.npy").stat().st_mode) == 0o640


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_that_appears_meanwhile(tmp_path, rng, temporary, overwrite):
    dst = tmp_path / "y.npy"

    class Racing(Sliced):
        def __getitem__(self, index):
            dst.write_bytes(b"somebody else's")
            return super().__getitem__(index)

    x = rng.normal(size=(50, 8))
    expectation = contextlib.nullcontext() if overwrite else pytest.raises(FileExistsError)
    with expectation:
        fs.io.stream(fs.softmax, Racing(x), dst, overwrite=overwrite)
    if overwrite:
        np.testing.assert_array_equal(np.load(dst), fs.softmax(x))
    else:
        assert dst.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["y.npy"]


def test_places_that_cannot_be_written(tmp_path):
    x = np.zeros((2, 2))
    with pytest.raises(FileNotFoundError, match="directory"):
        fs.io.stream(fs.softmax, x, tmp_path / "missing" / "y.npy")
    with pytest.raises(IsADirectoryError):
        fs.io.stream(fs.softmax, x, tmp_path)
    with pytest.raises(FileNotFoundError):
        fs.io.stream(fs.softmax, tmp_path / "missing.npy", tmp_path / "y.npy")
    with pytest.raises(IsADirectoryError):
        fs.io.stream(fs.softmax, tmp_path, tmp_path / "y.npy")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file"):
        fs.io.stream(fs.softmax, x, tmp_path / "fifo", overwrite=True)
    with pytest.raises(ValueError, match="not a regular file"):
        fs.io.stream(fs.softmax, tmp_path / "fifo", tmp_path / "y.npy")
    assert os.listdir(tmp_path) == ["fifo"]


# -- hostile headers ---------------------------------------------------------------------------------------------


def header_bytes(text, version=(1, 0), size=None):
    raw = text.encode("latin1") if isinstance(text, str) else text
    size = len(raw) if size is None else size
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little") + raw


def parse(data):
    return npy.parse_header(io.BytesIO(data).read, "f.npy")


DESCRS = [f"{o}{c}" for o in "<>" for c in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")] + ["|b1", "|i1", "|u1", "|V2"]


@settings(deadline=None)
@given(
    descr=st.sampled_from(DESCRS),
    order=st.booleans(),
    shape=st.lists(st.integers(0, 2**20), max_size=3).map(tuple),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_valid_headers_agree_with_numpy(descr, order, shape, version):
    buffer = io.BytesIO()
    contents = {"descr": descr, "fortran_order": order, "shape": shape}
    npy_format._write_array_header(buffer, contents, version)
    header = parse(buffer.getvalue())
    assert header == npy.Header(np.dtype(descr), order, shape, len(buffer.getvalue()))


@pytest.mark.parametrize(
    "text",
    [
        "{'shape': (3,), 'fortran_order': False, 'descr': '<f4'}",
        '{"descr":"<f4","fortran_order":True,"shape":()}\n',
        "  { 'descr' : '<f8' ,\n 'fortran_order' : False , 'shape' : ( 3 , 4 , ) , }   \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L), }\n",
    ],
)
def test_unusual_headers(text):
    assert parse(header_bytes(text)).dtype.kind == "f"


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04zip file", "not a .npy"),
        (b"\x93NUMPY", "truncated"),
        (b"\x93NUMPY\x01\x00\x10", "truncated"),
        (header_bytes(GOOD, (4, 0)), "version 4.0"),
        (header_bytes(GOOD, (1, 1)), "version 1.1"),
        (header_bytes(GOOD, size=200), "truncated"),
        (header_bytes(GOOD, (2, 0), size=2**31), "at most 65,536"),
        (header_bytes(GOOD.ljust(65537), (2, 0)), "at most 65,536"),
        (header_bytes(GOOD.replace("<f4", "|O")), "pickled"),
        (header_bytes(GOOD.replace("<f4", "<c8")), "complex"),
        (header_bytes(GOOD.replace("<f4", "<U5")), "strings"),
        (header_bytes(GOOD.replace("<f4", "|S5")), "byte strings"),
        (header_bytes(GOOD.replace("<f4", "<M8[ns]")), "dates"),
        (header_bytes(GOOD.replace("<f4", "<f16")), "floating-point"),
        (header_bytes(GOOD.replace("<f4", "|V8")), "void"),
        (header_bytes(GOOD.replace("<f4", "zz")), "unknown"),
        (header_bytes(GOOD.replace("'<f4'", "[('a', '<f4')]")), "structured"),
        (header_bytes(GOOD.replace("(3, 4)", "(3)")), "not a tuple"),
        (header_bytes(GOOD.replace("(3, 4)", "(-3, 4)")), "'shape'"),
        (header_bytes(GOOD.replace("(3, 4)", "[3, 4]")), "'shape'"),
        (header_bytes(GOOD.replace("(3, 4)", "(03, 4)")), "'shape'"),
        (header_bytes(GOOD.replace("(3, 4)", "(True, 4)")), "'shape'"),
        (header_bytes(GOOD.replace("(3, 4)", "(3, 4" + 60 * "0" + ")")), "'shape'"),
        (header_bytes(GOOD.replace("(3, 4)", "(4294967296, 4294967296)")), "more bytes"),
        (header_bytes(GOOD.replace("(3, 4)", "(0, 9223372036854775807, 4)")), "more bytes"),
        (header_bytes(GOOD.replace("(3, 4)", "(" + "1, " * 65 + ")")), "65 dimensions"),
        (header_bytes(GOOD.replace("False", "0")), "'fortran_order'"),
        (header_bytes(GOOD.replace("'shape'", "'descr'")), "follow the format"),
        (header_bytes(GOOD.replace("}", "'x': 1}")), "follow the format"),
        (header_bytes(GOOD + "; import os"), "follow the format"),
        (header_bytes("__import__('os').system('touch pwned')"), "follow the format"),
        (header_bytes(GOOD.replace("(3, 4)", "__import__('os').system('touch pwned')")), "'shape'"),
        (header_bytes("[" * 60000), "follow the format"),
        (header_bytes("{" * 60000), "follow the format"),
        (header_bytes("{'descr': '<f4', 'shape': (" + "1, " * 20000), "'shape'"),
        (header_bytes(GOOD.encode() + b"\xff"), "plain text"),
        (header_bytes(b""), "follow the format"),
    ],
)
def test_bad_headers(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.npy"
    path.write_bytes(data)
    for src in (path, io.BytesIO(data)):
        with pytest.raises(fs.io.NpyError, match=message) as info:
            fs.io.stream(fs.softmax, src, tmp_path / "y.npy")
        assert isinstance(info.value, ValueError)
    with pytest.raises(fs.io.NpyError, match=r"bad\.npy"):
        fs.io.stream(fs.softmax, path, tmp_path / "y.npy")
    assert os.listdir(tmp_path) == ["bad.npy"]


@settings(deadline=None, max_examples=600)
@given(data=st.data())
def test_mutated_headers_never_do_anything_else(data):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4), np.float32))
    raw = bytearray(buffer.getvalue()[: buffer.getvalue().index(b"\n") + 1])
    alphabet = st.one_of(st.sampled_from(list(b"()[]{},:'\"0123456789LTFrue<>|=fiuV \n\0")), st.integers(0, 255))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["replace", "insert", "delete"])):
            case "replace":
                raw[at] = data.draw(alphabet)
            case "insert":
                raw.insert(at, data.draw(alphabet))
            case _:
                del raw[at]
    raw = bytes(raw) + bytes(200)
    try:
        header = parse(raw)
    except fs.io.NpyError:
        return
    # What is accepted means what NumPy says it means.
    file = io.BytesIO(raw)
    version = npy_format.read_magic(file)
    shape, order, dtype = npy_format._read_array_header(file, version, 1 << 20)
    assert (header.shape, header.fortran_order, header.dtype, header.offset) == (shape, order, dtype, file.tell())


def test_written_headers_are_numpys(tmp_path):
    for dtype in ("<f4", "<f8", "<f2", "<i8"):
        for shape in [(), (3,), (3, 4), (0, 2)]:
            for order in "CF":
                x = np.zeros(shape, dtype, order)
                fortran = not x.flags.c_contiguous
                raw = save(tmp_path / "x.npy", x, order).read_bytes()
                assert npy.format_header(x.dtype, shape, fortran_order=fortran) == raw[: len(raw) - x.nbytes]


@pytest.mark.parametrize("size", [-1, 1, -200, 4096])
def test_file_size_must_match(tmp_path, size):
    src = save(tmp_path / "x.npy", np.zeros((100, 10), np.float32))
    data = src.read_bytes()
    src.write_bytes(data[:size] if size < 0 else data + bytes(size))
    with pytest.raises(fs.io.NpyError, match="truncated" if size < 0 else "too many") as info:
        fs.io.stream(fs.softmax, src, tmp_path / "y.npy")
    assert f"{abs(size):,}" in str(info.value)
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("size", [200, 100_000, 3_999_999])
def test_truncation_while_reading(tmp_path, rng, size, temporary):
    x = rng.normal(size=(1000, 1000)).astype(np.float32)
    src = save(tmp_path / "x.npy", x)

    class Truncating(Sliced):
        def __setitem__(self, index, value):
            os.truncate(src, size)
            super().__setitem__(index, value)

    with pytest.raises(fs.io.NpyError, match=r"x\.npy: (was|is) truncated"):
        fs.io.stream(fs.softmax, src, Truncating(np.empty_like(x)), chunk_bytes=40_000)
    save(src, x)

    def fold(self, values, original=job.Columns.fold):
        os.truncate(src, size)
        original(self, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Columns, "fold", fold)
        with pytest.raises(fs.io.NpyError, match=r"x\.npy: (was|is) truncated"):
            fs.io.stream(fs.softmax, src, tmp_path / "y.npy", axis=0, chunk_bytes=40_000)
    assert os.listdir(tmp_path) == ["x.npy"]


# -- failure in the middle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError, OSError])
@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_nothing_is_left_after_an_error(tmp_path, rng, error, where, temporary, monkeypatch):
    x = rng.normal(size=(500, 8)).astype(np.float32)
    src = save(tmp_path / "x.npy", x)
    (tmp_path / "y.npy").write_bytes(b"old")
    calls = {"read": (npy.InputFile, "read_into"), "compute": (job.Job, "_compute"), "write": (output.OutputFile, "write")}
    owner, method = calls[where]
    count = 0

    def fail(self, *args, original=getattr(owner, method)):
        nonlocal count
        count += 1
        if count == 4:
            raise error("in the middle")
        return original(self, *args)

    monkeypatch.setattr(owner, method, fail)
    threads = threading.active_count()
    descriptors = len(os.listdir("/dev/fd"))
    for dst, overwrite in (tmp_path / "y.npy", True), (tmp_path / "z.npy", False):
        count = 0
        with pytest.raises(error, match="in the middle"):
            fs.io.stream(fs.softmax, src, dst, chunk_bytes=1000, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    assert threading.active_count() == threads
    assert len(os.listdir("/dev/fd")) == descriptors


WORKER = """
    import sys, os, time
    import numpy as np, fastsoftmax as fs, fastsoftmax.io
    if sys.argv[3] == "named":
        del os.O_TMPFILE
    print("ready", flush=True)
    fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2], chunk_bytes=1 << 16, overwrite=True)
    print("done", flush=True)
"""


def start_worker(script, *args, **kwargs):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize("before", ["old", "absent"])
def test_sigkill_leaves_old_absent_or_complete(tmp_path, rng, before, temporary):
    src = save(tmp_path / "x.npy", rng.normal(size=(20_000, 100)).astype(np.float32))
    folder = tmp_path / "out"
    folder.mkdir()
    dst = folder / "y.npy"
    fs.io.stream(fs.softmax, src, dst)
    complete = dst.read_bytes()
    seen = set()
    longest = 0.0
    for attempt in range(KILLS + 1):
        dst.unlink(missing_ok=True)
        if before == "old":
            dst.write_bytes(b"old")
        worker = start_worker(WORKER, src, dst, temporary)
        assert worker.stdout.readline() == "ready\n"
        start = time.monotonic()
        if attempt == 0:  # how long it takes when nobody kills it
            worker.communicate()
            longest = time.monotonic() - start
        else:
            time.sleep(random.uniform(0, longest))  # noqa: S311
            worker.kill()
            worker.communicate()
        data = dst.read_bytes() if dst.exists() else None
        assert data in ((b"old", complete) if before == "old" else (None, complete))
        seen.add(data)
        left = [name for name in os.listdir(folder) if name != "y.npy"]
        if temporary == "named":
            assert all(name.startswith(".fastsoftmax-") and str(worker.pid) in name for name in left)
        elif before == "absent":
            assert left == []  # a file without a name dies with its process
        for name in left:
            (folder / name).unlink()
    assert complete in seen


def test_file_size_limit(tmp_path, rng):
    """EFBIG stands for every refusal of space that the system can make."""
    src = save(tmp_path / "x.npy", rng.normal(size=(1000, 100)).astype(np.float32))
    script = """
        import errno, os, resource, signal, sys
        import numpy as np, fastsoftmax as fs, fastsoftmax.io
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if sys.argv[3] == "later":  # a file system on which space cannot be reserved
            from fastsoftmax._io import output
            output.OutputFile._reserve = lambda self, size: None
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2], chunk_bytes=10_000)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
            assert error.filename == sys.argv[2]
            print(error.strerror)
    """
    for moment in ("now", "later"):
        worker = start_worker(script, src, tmp_path / "y.npy", moment)
        out, err = worker.communicate()
        assert "File too large" in out, err
        assert moment == "later" or "400,128 bytes" in out
    assert os.listdir(tmp_path) == ["x.npy"]


def test_full_disk(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(1000, 1000)).astype(np.float32))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = """
        import errno, os, sys
        import fastsoftmax as fs, fastsoftmax.io
        from fastsoftmax._io import job, output
        calls = []
        job.Job._compute = lambda *args: calls.append(1)
        if sys.argv[3] == "statvfs":
            output._libc = lambda *args: None
        try:
            fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2])
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            print(error, calls, os.listdir(os.path.dirname(sys.argv[2])))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for how in ("fallocate", "statvfs"):
        mount = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$4" "$1/y.npy" "$5"'
        arguments = ["sh", "-c", mount, "sh", disk, sys.executable, textwrap.dedent(script), src, how]
        for prefix in (["unshare", "-m"], ["unshare", "-rm"]):
            try:
                result = subprocess.run(
                    [*prefix, *arguments], capture_output=True, text=True, env=environment, check=False
                )
            except FileNotFoundError:
                pytest.skip("no unshare(1) here to mount a small disk with")
            if "Traceback" in result.stderr or result.returncode == 0:
                break
        else:
            pytest.skip(f"no small disk can be mounted here: {result.stderr.strip()}")
        assert "4,000,128 bytes" in result.stdout, result.stderr
        assert "[] []" in result.stdout


def test_second_output_of_top_k_exists(tmp_path, rng):
    x = rng.normal(size=(5, 8))
    (tmp_path / "indices.npy").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        fs.io.stream(fs.top_k, x, (tmp_path / "values.npy", tmp_path / "indices.npy"), k=2)
    assert os.listdir(tmp_path) == ["indices.npy"]


# -- cost --------------------------------------------------------------------------------------------------------


MEMORY = """
    import resource, sys
    import numpy as np, fastsoftmax as fs, fastsoftmax.io
    np.save(sys.argv[2] + "small.npy", np.zeros((64, 64), np.float32))
    for axis in (0, 1):
        fs.io.stream(sys.argv[3], sys.argv[2] + "small.npy", sys.argv[2] + "y.npy", axis=axis, chunk_bytes=4000, overwrite=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fs.io.stream(sys.argv[3], sys.argv[1], sys.argv[2] + "y.npy", axis=int(sys.argv[4]), chunk_bytes=1 << 20, overwrite=True)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("shape", "fortran", "axis", "name"),
    [
        ((64_000, 1000), False, -1, "softmax"),
        ((64_000_000,), False, 0, "logsumexp"),
        ((8_000_000,), False, 0, "softmax"),
        ((4000, 4000), False, 0, "softmax"),
        ((10, 6_400_000), False, 0, "softmax"),
        ((6_400_000, 10), True, -1, "softmax"),
        ((1, 64_000, 1000), False, -1, "logsumexp"),
        ((4, 4_000_000, 2), False, 1, "logsumexp"),
    ],
)
def test_memory_is_bounded(tmp_path, shape, fortran, axis, name):
    if (shape, axis) == ((4, 4_000_000, 2), 1):
        pytest.xfail("a row larger than a chunk is the chunk")
    header = npy.format_header(np.dtype(np.float32), shape, fortran_order=fortran)
    src = tmp_path / "x.npy"
    src.write_bytes(header)
    os.truncate(src, len(header) + 4 * int(np.prod(shape)))  # a hole: zeros that take no space
    worker = start_worker(MEMORY, src, f"{tmp_path}/", name, axis)
    out, err = worker.communicate()
    assert worker.returncode == 0, err
    assert int(out) < 40, f"{out} MB"


def test_progress(tmp_path, rng, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    x = rng.normal(size=(500, 8))
    fs.io.stream(fs.softmax, x, tmp_path / "y.npy", progress=True, chunk_bytes=1000)
    captured = capsys.readouterr()
    assert "softmax" in captured.err
    assert captured.out == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    fs.io.stream(fs.softmax, x, tmp_path / "y.npy", progress=True, overwrite=True)
    assert capsys.readouterr().err == ""


def test_import_is_lazy():
    script = """
        import sys, numpy
        before = set(sys.modules)
        import fastsoftmax
        new = set(sys.modules) - before
        print(sorted(m for m in new if m.split(".")[0] in ("argparse", "tqdm", "ml_dtypes", "scipy")
                     or m.startswith(("fastsoftmax.io", "fastsoftmax._io", "fastsoftmax._cli"))))
    """
    assert start_worker(script).communicate()[0] == "[]\n"


def test_error_is_picklable():
    import pickle

    error = pickle.loads(pickle.dumps(fs.io.NpyError("x.npy: is truncated")))  # noqa: S301
    assert str(error) == "x.npy: is truncated"


