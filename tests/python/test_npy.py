"""Hostile .npy files are NpyError and nothing else; valid ones mean what NumPy says."""

from __future__ import annotations

import errno
import io
import os
import warnings

import fastsoftmax as fs
import fastsoftmax.io
import numpy as np
import pytest
from fastsoftmax._io import job, npy
from hypothesis import given, settings
from hypothesis import strategies as st
from io_helpers import Sliced, names, save
from numpy.lib import format as npy_format


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def header_bytes(text, version=(1, 0), size=None):
    raw = text.encode("latin1") if isinstance(text, str) else text
    size = len(raw) if size is None else size
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little") + raw


def parse(data):
    return npy.parse_header(io.BytesIO(data).read, "f.npy")


DESCRS = [f"{o}{c}" for o in "<>" for c in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")] + [
    "|b1",
    "|i1",
    "|u1",
    "|V2",
]


@settings(deadline=None)
@given(
    descr=st.sampled_from(DESCRS),
    order=st.booleans(),
    shape=st.lists(st.integers(0, 2**19), max_size=3).map(tuple),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_valid_headers_agree_with_numpy(descr, order, shape, version):
    buffer = io.BytesIO()
    contents = {"descr": descr, "fortran_order": order, "shape": shape}
    write = npy_format.write_array_header_1_0 if version == (1, 0) else npy_format.write_array_header_2_0
    write(buffer, contents)
    if version == (3, 0):  # as 2.0, for names that are not Latin-1
        buffer.getbuffer()[6] = 3
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
        (header_bytes(GOOD.rstrip() + "\r  "), "follow the format"),  # an IndentationError in NumPy
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
    assert names(tmp_path) == ["bad.npy"]


@settings(deadline=None, max_examples=600)
@given(data=st.data())
def test_mutated_headers_never_do_anything_else(data):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4), np.float32))
    raw = bytearray(buffer.getvalue()[: buffer.getvalue().index(b"\n") + 1])
    alphabet = st.one_of(
        st.sampled_from(list(b"()[]{},:'\"0123456789LTFrue<>|=fiuV \n\0")), st.integers(0, 255)
    )
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
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the L of Python 2
        shape, order, dtype = read(file, max_header_size=1 << 20)
    assert (header.shape, header.fortran_order, header.dtype, header.offset) == (
        shape,
        order,
        dtype,
        file.tell(),
    )


@pytest.mark.parametrize("shape", [(2**60, 0), (0, 2**60), (2**40, 0, 2**20)])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("axis", [0, -1])
def test_empty_arrays_of_enormous_shapes(tmp_path, shape, fortran, axis):
    (tmp_path / "x.npy").write_bytes(npy.format_header(np.dtype("f4"), shape, fortran_order=fortran))
    for name in ("softmax", "logsumexp"):
        try:
            fs.io.stream(name, tmp_path / "x.npy", tmp_path / "y.npy", axis=axis, overwrite=True)
        except OSError as error:
            if name == "softmax" or error.errno not in {errno.EFBIG, errno.ENOSPC}:
                raise
        else:
            assert (tmp_path / "y.npy").stat().st_size < 1000


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
    assert names(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("size", [200, 100_000, 3_999_999])
def test_truncation_while_reading(tmp_path, rng, size):
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
    assert names(tmp_path) == ["x.npy"]
