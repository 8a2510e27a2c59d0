"""Hypothesis strategies for arrays: any shape, dtype, and way to lie in memory."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import FLOATS, INTEGERS

Shape = tuple[int, ...]
Array = NDArray[Any]

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Give up to four short axes, or up to two with one that is longer than a vector or two."""
    if draw(st.integers(0, 2)):
        return tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    shape = [draw(st.integers(1, 150)), *draw(st.lists(st.integers(1, 5), max_size=1))]
    return tuple(draw(st.permutations(shape)))


def axes(ndim: int) -> st.SearchStrategy[int | Shape | None]:
    """Give an axis that an array of so many dimensions has."""
    if ndim == 0:
        return st.sampled_from([None, 0, -1, ()])
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(one, unique_by=lambda axis: axis % ndim, max_size=ndim).map(tuple)
    return st.none() | one | several


def part(array: Array, slices: list[slice]) -> Array:
    """Give a view; never a scalar, even of an array without dimensions."""
    index: Any = (..., *slices)
    return np.asarray(array[index])


@st.composite
def strided(draw: st.DrawFn, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Give an uninitialised array that may lie in memory in any way, but is writable and no element twice."""
    dtype = dtype.newbyteorder(draw(st.sampled_from("=S")))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, -1, 2, -3])) for _ in shape]
    lengths = [max(1, shape[axis]) * abs(steps[axis]) for axis in order]
    offset = draw(st.sampled_from([0, 0, dtype.itemsize, 1]))
    # Bytes that are not written stay what they are, and numbers that are not read may be anything.
    memory = np.full(offset + int(np.prod(lengths)) * dtype.itemsize, 0x7F, np.uint8)
    array = memory[offset:].view(dtype).reshape(lengths).transpose(np.argsort(order))
    return part(part(array, [slice(None, None, step) for step in steps]), [slice(n) for n in shape])


@st.composite
def values(draw: st.DrawFn, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Give values of one spread, now and then with special ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind in "biu":
        low, high = (0, 2) if dtype.kind == "b" else (max(-100, np.iinfo(dtype).min), 100)
        return np.asarray(rng.integers(low, high, shape)).astype(dtype)
    spread = draw(st.sampled_from([0.0, 1.0, 8.0, 30.0, 300.0]))
    array = np.asarray(rng.normal(draw(st.sampled_from([0.0, -300.0, 1000.0])), spread, shape))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 5])) if array.size else 0):
        array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(SPECIAL))
    with np.errstate(over="ignore"):
        return array.astype(dtype)


@st.composite
def arrays(draw: st.DrawFn, shape: Shape, dtypes: list[np.dtype[Any]] | None = None) -> Array:
    """Give an array of this shape: any dtype, layout and byte order, now and then read-only or repeated."""
    dtype = draw(st.sampled_from(dtypes or [*FLOATS, *FLOATS, *INTEGERS]))
    array = draw(strided(shape, dtype))
    repeated = draw(st.integers(-4, len(shape) - 1))
    if repeated >= 0:
        array = array[(*(slice(None),) * repeated, slice(1))]
    array[...] = draw(values(array.shape, dtype))
    if repeated >= 0:
        return np.broadcast_to(array, shape) if shape[repeated] else array
    array.flags.writeable = draw(st.booleans())
    return array


@st.composite
def overlapping(draw: st.DrawFn, shape: Shape, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Give two arrays of this shape in one piece of memory: the same, shifted, reversed, or interleaved."""
    lengths = tuple(2 * length + draw(st.integers(0, 3)) for length in shape)
    memory = draw(values(lengths, dtype))

    def draw_part() -> Array:
        slices = []
        for length, room in zip(shape, lengths, strict=True):
            step = draw(st.sampled_from([1, 2]))
            first = draw(st.integers(0, room - length * step))
            slices.append(slice(first, first + length * step, step))
        turns = [slice(None, None, draw(st.sampled_from([1, -1]))) for _ in shape]
        return part(part(memory, slices), turns)

    return draw_part(), draw_part()


@st.composite
def broadcasting(draw: st.DrawFn, shape: Shape, ones: frozenset[int] = frozenset()) -> Shape:
    """Give a shape that broadcasts against `shape`, with length 1 along the axes `ones`."""
    lengths = [1 if axis in ones or draw(st.booleans()) else length for axis, length in enumerate(shape)]
    leading = draw(st.integers(0, len(shape)))
    return tuple(lengths[leading if all(length == 1 for length in lengths[:leading]) else 0 :])
