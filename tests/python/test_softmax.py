"""softmax against the naive reference: every shape, dtype, layout and option, and special values."""

from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
import reference
import scipy.special
from hypothesis import given, note, settings
from hypothesis import strategies as st
from layouts import arrays, axes, broadcasting, overlapping, shapes, strided, values
from numpy.typing import NDArray
from reference import BFLOAT16, FLOATS, INTEGERS, assert_accurate, assert_same, bits

INF, NAN = np.inf, np.nan
MODERATE = [np.dtype(np.float32), np.dtype(np.float64)]


def reduced(axis: int | tuple[int, ...] | None, ndim: int) -> frozenset[int]:
    """Give the axes that are meant, counted from 0."""
    if axis is None:
        return frozenset(range(ndim))
    return frozenset(one % ndim for one in (axis if isinstance(axis, tuple) else (axis,)) if ndim)


# ---- Anything at all ----


@settings(max_examples=1000)
@given(st.data())
def test_anything(data: st.DataObject) -> None:
    shape = data.draw(shapes(), "shape")
    x: Any = data.draw(arrays(shape), "x")
    axis = data.draw(axes(len(shape)), "axis")
    options: dict[str, Any] = {}
    if data.draw(st.booleans()):
        options["where"] = data.draw(arrays(data.draw(broadcasting(shape)), [np.dtype(bool)]), "where")
    match data.draw(st.sampled_from(["one", "number", "rows"])):
        case "number":
            options["temperature"] = data.draw(st.sampled_from([0.01, 0.7, 1, 2.5, np.float32(3), 1e10]))
        case "rows":
            rows = data.draw(broadcasting(shape, reduced(axis, len(shape))))
            temperature = np.exp(np.random.default_rng(0).normal(0, 1, rows)).astype(
                data.draw(st.sampled_from(FLOATS))
            )
            options["temperature"] = temperature
    expected = reference.softmax(x, axis, **options)
    dtype = x.dtype.newbyteorder("=") if x.dtype.kind not in "biu" else np.dtype(np.float64)
    match data.draw(st.sampled_from(["new", "dtype", "out", "in place"])):
        case "dtype":
            dtype = options["dtype"] = data.draw(st.sampled_from(FLOATS))
        case "out":
            options["out"] = data.draw(strided(shape, data.draw(st.sampled_from(FLOATS))))
        case "in place":
            x = np.array(x, dtype)
            options["out"] = x
    threads = data.draw(st.sampled_from([None, 1, 2, 7]))
    note(f"{x.dtype} {x.strides} axis={axis} {options} threads={threads}")
    before = x.copy()

    result = fs.softmax(x, axis, threads=threads, **options)

    if "out" in options:
        assert result is options["out"]
    else:
        assert type(result) is np.ndarray
        assert result.dtype == dtype
        assert result.dtype.isnative
    if result is not x:
        assert_same(x, before)
    assert_accurate(result, expected)


@settings(max_examples=500)
@given(st.data())
def test_overlap_is_as_if_there_were_none(data: st.DataObject) -> None:
    shape = data.draw(shapes().filter(lambda shape: 0 not in shape), "shape")
    x, out = data.draw(overlapping(shape, data.draw(st.sampled_from(FLOATS))), "x, out")
    axis = data.draw(axes(len(shape)), "axis")
    expected = fs.softmax(x.copy(), axis)
    assert fs.softmax(x, axis, out=out) is out
    assert bits(out) == bits(expected)


def test_overlap_of_mask_and_temperature_with_out() -> None:
    memory = np.ones(64)
    out, temperature = memory[:32].reshape(4, 8), memory[28:32].reshape(4, 1)
    temperature[:, 0] = 0.5, 1, 2, 4
    where = memory.view(bool)[:32].reshape(4, 8)
    where[:, ::3] = True
    x = np.arange(32.0).reshape(4, 8)
    expected = fs.softmax(x, temperature=temperature.copy(), where=where.copy())
    fs.softmax(x, temperature=temperature, where=where, out=out)
    assert bits(out) == bits(expected)


@settings(max_examples=300)
@given(st.data())
def test_bits_do_not_depend_on_layout_threads_or_company(data: st.DataObject) -> None:
    rows, n = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 400))
    dtype = data.draw(st.sampled_from(FLOATS))
    plain = data.draw(values((rows, n), dtype), "plain")
    x = data.draw(strided((rows, n), dtype))
    x[...] = plain
    expected = [bits(fs.softmax(row, threads=1)) for row in plain]
    for threads in (1, 2, 7):
        assert [bits(row) for row in fs.softmax(x, threads=threads)] == expected
        assert [bits(row) for row in fs.softmax(x.T, 0, threads=threads).T] == expected
    assert [bits(row) for row in fs.softmax(x, out=x)] == expected


# ---- Accuracy where it is hard ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [10, 1000, 100_003, 1_000_000])
@pytest.mark.parametrize(("offset", "spread"), [(0, 4), (0, 8), (0, 30), (1000, 8), (-300, 8)])
def test_accuracy(dtype: np.dtype[Any], n: int, offset: float, spread: float) -> None:
    x = np.random.default_rng(n).normal(offset, spread, n).astype(dtype)
    assert_accurate(fs.softmax(x), reference.softmax(x))
    assert_accurate(fs.softmax(x, temperature=0.7), reference.softmax(x, temperature=0.7))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_subnormal_probabilities_are_kept(dtype: np.dtype[Any]) -> None:
    least = {"float16": 17, "bfloat16": 92, "float32": 103, "float64": 744}[dtype.name]
    x = np.concatenate([np.zeros(1), np.linspace(-least, -0.9 * least, 500)]).astype(dtype)
    result = fs.softmax(x)
    assert (result[1:] > 0).all()
    assert_accurate(result, reference.softmax(x))


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16], ids=str)
@pytest.mark.parametrize("log2", [8, 12, 16, 20])
def test_half_precision_does_not_overflow_inside(dtype: Any, log2: int) -> None:
    result = fs.softmax(np.full(2**log2, 11, dtype))
    assert (result == np.ldexp(1.0, -log2).astype(dtype)).all()


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_temperatures(factor: float) -> None:
    x = np.array([0.5, 1.0, -2.0, 3.25])
    assert_accurate(
        fs.softmax(x * factor, temperature=factor), reference.softmax(x * factor, temperature=factor)
    )
    assert_accurate(fs.softmax(x, temperature=factor), reference.softmax(x, temperature=factor))


# ---- Special values ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0, NAN, 0], [NAN, NAN, NAN]),
        ([0, INF, 0], [NAN, NAN, NAN]),
        ([INF, INF], [NAN, NAN]),
        ([INF, -INF], [NAN, NAN]),
        ([-INF, -INF], [NAN, NAN]),
        ([-INF, NAN], [NAN, NAN]),
        ([-INF], [NAN]),
        ([-INF, 5, 5], [0, 0.5, 0.5]),
        ([-INF, -5], [0, 1]),
        ([7], [1]),
        ([0.0, -0.0], [0.5, 0.5]),
        ([], []),
    ],
)
def test_special_values(dtype: np.dtype[Any], row: list[float], expected: list[float]) -> None:
    # In a batch, so that a special row is seen to leave the others alone; along the last axis and the first.
    n = len(row)
    batch = np.zeros((5, n), dtype)
    batch[2] = row
    others = np.full((5, n), 1 / max(n, 1)).astype(dtype)
    others[2] = expected
    assert_same(fs.softmax(batch), others)
    assert_same(fs.softmax(batch.T, 0), others.T)
    assert_same(fs.softmax(np.array(row, dtype)), np.array(expected, dtype))


@pytest.mark.parametrize("special", [NAN, INF])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_or_infinity_anywhere_is_seen(dtype: np.dtype[Any], special: float) -> None:
    for n in (1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67):
        rows = np.zeros((n, n), dtype)
        np.fill_diagonal(rows, special)
        assert np.isnan(fs.softmax(rows)).all()
        assert np.isnan(fs.softmax(rows.T, 0)).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_masked_places_harm_nothing(dtype: np.dtype[Any]) -> None:
    x = np.array([[NAN, 1, 1], [INF, 2, 2], [-INF, 3, 3], [4, NAN, NAN]], dtype)
    where = np.array([[False, True, True]] * 3 + [[False] * 3])
    expected = np.array([[0, 0.5, 0.5]] * 3 + [[0] * 3], dtype)
    assert_same(fs.softmax(x, where=where), expected)
    assert_same(fs.softmax(x.T, 0, where=where.T), expected.T)
    assert_same(fs.softmax(x[:3], where=[False, True, True]), expected[:3])


def test_mask_from_bytes_other_than_one() -> None:
    where = np.array([0, 1, 2, 255], np.uint8).view(bool)
    assert_same(fs.softmax(np.zeros(4), where=where), [0, 1 / 3, 1 / 3, 1 / 3])


def test_mask_of_one_value() -> None:
    x = np.arange(4.0)
    assert bits(fs.softmax(x, where=True)) == bits(fs.softmax(x))
    assert_same(fs.softmax(x, where=False), np.zeros(4))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("axis", [0, -1, None, ()])
def test_empty(shape: tuple[int, ...], axis: Any) -> None:
    assert fs.softmax(np.empty(shape, np.float32), axis).shape == shape
    out = np.empty(shape)
    assert fs.softmax(np.empty(shape, np.float32), axis, out=out) is out


@pytest.mark.parametrize("axis", [None, 0, -1, ()])
@pytest.mark.parametrize("x", [3.0, 3, True, np.float32(3), np.array(3, np.float16)])
def test_no_dimensions(x: Any, axis: Any) -> None:
    result = fs.softmax(x, axis)
    assert type(result) is np.ndarray
    assert result.shape == ()
    assert result == 1


# ---- dtypes and kinds of input ----


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_computed_in_float64(dtype: np.dtype[Any]) -> None:
    x = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    result = fs.softmax(x)
    assert result.dtype == np.float64
    assert bits(result) == bits(fs.softmax(x.astype(np.float64)))


def test_large_integers() -> None:
    for x in ([2**63 - 1, 2**63 - 1], [-(2**63), -(2**63)], [2**64 - 1, 2**64 - 1]):
        assert_same(fs.softmax(x), [0.5, 0.5])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtype_of_the_result(dtype: np.dtype[Any]) -> None:
    x = np.linspace(-3, 3, 20).astype(np.float32)
    result = fs.softmax(x, dtype=dtype)
    assert result.dtype == dtype
    assert_accurate(result, reference.softmax(x))
    # As NumPy has it, a byte order that is asked for is not kept.
    assert fs.softmax(x, dtype=dtype.newbyteorder("S")).dtype.isnative


@pytest.mark.parametrize("dtype", ["f4", "float32", np.float32, np.dtype("f4"), "=f4", ">f4"])
def test_names_of_dtypes(dtype: Any) -> None:
    assert fs.softmax([1, 2], dtype=dtype).dtype == np.float32


def test_dtype_float_is_float64() -> None:
    assert fs.softmax(np.zeros(2, np.float32), dtype=float).dtype == np.float64


class HasArray:
    """What `numpy.asarray` understands, as pandas' and torch's objects are."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """Give the values."""
        return np.array([1.0, 2.0, 3.0], dtype)


@pytest.mark.parametrize("x", [[1.0, 2.0, 3.0], (1, 2, 3), range(1, 4), HasArray(), memoryview(b"\1\2\3")])
def test_what_is_not_an_array(x: Any) -> None:
    result = fs.softmax(x)
    assert type(result) is np.ndarray
    assert bits(result) == bits(fs.softmax(np.array([1.0, 2.0, 3.0])))


def test_subclasses_of_ndarray_give_plain_arrays(tmp_path: Any) -> None:
    class Subclass(np.ndarray[Any, Any]):
        pass

    x = np.arange(6.0).reshape(2, 3)
    assert type(fs.softmax(x.view(Subclass))) is np.ndarray
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=(2, 3))
    mapped[...] = x
    assert type(fs.softmax(mapped)) is np.ndarray
    assert fs.softmax(x, out=mapped) is mapped
    assert bits(np.asarray(mapped)) == bits(fs.softmax(x))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_unaligned_swapped_and_read_only(dtype: np.dtype[Any]) -> None:
    plain = np.random.default_rng(1).normal(0, 5, (3, 37)).astype(dtype)
    memory = np.zeros(plain.nbytes + 1, np.uint8)
    x = memory[1:].view(dtype.newbyteorder("S")).reshape(plain.shape)
    x[...] = plain
    expected = bits(fs.softmax(plain))
    out = np.zeros(plain.nbytes + 3, np.uint8)[3:].view(dtype.newbyteorder("S")).reshape(plain.shape)
    memory.flags.writeable = x.flags.writeable = False
    assert bits(fs.softmax(x)) == expected
    assert fs.softmax(x, out=out) is out
    assert bits(out) == expected


# ---- Layout of results ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_of_new_results_is_numpys_k(dtype: Any) -> None:
    memory = np.zeros((4, 5, 6), np.float32)
    for x in (
        memory,
        memory.T,
        memory.transpose(1, 0, 2),
        memory.transpose(2, 0, 1),
        memory[::2, :, ::-1],
        memory[:, 1:3].transpose(1, 2, 0),
        np.asfortranarray(memory),
    ):
        result = fs.softmax(x, dtype=dtype)
        assert result.strides == np.exp(x, dtype=dtype).strides
        assert result.flags.owndata
        assert result.flags.writeable


# ---- Others' words for it ----


@pytest.mark.parametrize("dtype", MODERATE, ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 17), (2, 3, 4), (64, 10)])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_scipy(dtype: np.dtype[Any], shape: tuple[int, ...], axis: int | None) -> None:
    x = np.random.default_rng(5).normal(0, 3, shape).astype(dtype)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(fs.softmax(x, axis), scipy.special.softmax(x, axis), rtol=tolerance)


def test_axes_together_are_one_distribution() -> None:
    x = np.random.default_rng(6).normal(0, 3, (2, 3, 4))
    assert_same(fs.softmax(x, (0, 1, 2)), fs.softmax(x, None))
    assert_same(fs.softmax(x, (1, 2)), fs.softmax(x.reshape(2, 12)).reshape(x.shape))
    assert_same(fs.softmax(x, ()), np.ones_like(x))
    assert_accurate(fs.softmax(x, (2, 0)), reference.softmax(x, (2, 0)))
