"""One call of a function of the family over dask arrays: its arguments, checked and cut alike, and its tasks.

All arrays of a call have their blocks where those of the logits are. In results per row the axes of the
classes stay, with length 1, until the end, so that blocks of logits, states and results match by position.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

import fastsoftmax

from . import pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike, NDArray

    Array = NDArray[Any]

# What a function takes between the logits and its keywords; enough to ask it about everything else.
_PROBES = {"log_prob": (0,), "cross_entropy": (0,), "top_k": (1,)}


class Call:
    """The arguments of a call.

    Attributes
    ----------
    x : dask.array.Array
        The logits.
    axes : tuple of int
        The axes of the classes, not negative.
    classes : int
        How many there are.
    uncut : bool
        Each block holds its distributions whole.
    result : numpy.dtype
        The float dtype of the result.
    temperature : float or dask.array.Array
    where : dask.array.Array or None
    """

    def __init__(
        self,
        name: str,
        x: Any,
        axis: Any,
        *,
        temperature: Any = 1.0,
        where: Any = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.x = _without_empty_blocks(_known(da.asarray(x), "the logits"))
        self.threads = 1 if threads is None else threads
        if not np.ndim(temperature):
            options["temperature"] = temperature
        if dtype is not None:
            options["dtype"] = dtype
        self.result = self._ask(axis, options)
        self.axes: tuple[int, ...] = _axes(axis, self.x.ndim)
        self.classes = math.prod(self.x.shape[a] for a in self.axes)
        self.uncut = all(len(self.x.chunks[a]) == 1 for a in self.axes)
        self.temperature = self._temperature(temperature)
        self.where = None
        if where is not None:
            self.where = self._like_x(where, "where")
            if self.where.dtype != np.bool_:
                raise TypeError(f"where must be bool, not {self.where.dtype}")

    def _ask(self, axis: Any, options: dict[str, Any]) -> np.dtype[Any]:
        """Let the function itself check what does not depend on the data, and say the dtype of its result."""
        if not isinstance(self.x._meta, np.ndarray) or isinstance(self.x._meta, np.ma.MaskedArray):
            kind = type(self.x._meta).__name__
            raise TypeError(f"the blocks of the logits must be ndarray, not {kind}; for masks pass where=")
        if self.name == "logsumexp":
            options.pop("temperature")
        if self.name == "cross_entropy":
            options["reduction"] = "none"
        operand: tuple[Any, ...] = _PROBES.get(self.name, ())
        if operand == (0,):
            operand = (np.zeros((1,) * (self.x.ndim - 1), np.intp),)
        one = np.zeros((1,) * self.x.ndim, self.x.dtype)
        answer = getattr(fastsoftmax, self.name)(one, *operand, axis=axis, threads=self.threads, **options)
        return np.asarray(answer[0] if self.name == "top_k" else answer).dtype

    # -- the other arrays ------------------------------------------------------------------------------------

    def _like_x(self, array: Any, name: str) -> da.Array:
        """Cut an array that broadcasts against the logits as they are cut."""
        array = _known(da.asarray(array), name)
        lengths = self.x.shape[max(0, self.x.ndim - array.ndim) :]
        pairs = zip(array.shape, lengths, strict=False)
        if array.ndim > self.x.ndim or any(n not in (1, m) for n, m in pairs):
            raise ValueError(f"{name} has shape {array.shape}, which does not broadcast to {self.x.shape}")
        chunks = self.x.chunks[self.x.ndim - array.ndim :]
        return array.rechunk(tuple((1,) if n == 1 else c for n, c in zip(array.shape, chunks, strict=True)))

    def _temperature(self, temperature: Any) -> Any:
        if not np.ndim(temperature):
            return temperature
        array = self._like_x(temperature, "temperature")
        if any(n != 1 for i, n in enumerate(array.shape, self.x.ndim - array.ndim) if i in self.axes):
            raise ValueError(f"temperature has shape {array.shape}; it must have length 1 along the axis")
        return array

    def labels(self, labels: Any, name: str, ignore_index: int | None = None) -> da.Array:
        """Give one label per row, checked when computed, with the axis of the classes."""
        (axis,) = self.axes
        labels = _known(da.asarray(labels), name)
        shape = self.x.shape[:axis] + self.x.shape[axis + 1 :]
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {labels.dtype}")
        if labels.shape != shape:
            raise ValueError(f"{name} has shape {labels.shape}; for these logits and axis it must be {shape}")
        labels = labels.rechunk(self.x.chunks[:axis] + self.x.chunks[axis + 1 :])
        check = partial(_checked, name=name, classes=self.classes, ignore_index=ignore_index)
        return da.expand_dims(labels.map_blocks(check, dtype=labels.dtype, meta=labels._meta), axis)

    def dense_labels(self, labels: da.Array) -> da.Array:
        """Give the probabilities of classes, cut like the logits."""
        if labels.dtype.kind != "f" and labels.dtype.name != "bfloat16":
            raise TypeError(f"labels must be integers, or floats for probabilities, not {labels.dtype}")
        if labels.shape != self.x.shape:
            raise ValueError(
                f"labels has shape {labels.shape}; probabilities must have that of the logits, {self.x.shape}"
            )
        return self._like_x(labels, "labels")

    def class_weights(self, weight: Any) -> Array:
        """Give one weight per class."""
        array = np.asarray(weight)
        if array.shape != (self.classes,):
            raise ValueError(f"weight has shape {array.shape}; for these logits it must be ({self.classes},)")
        return array

    def along_classes(self, values: Array, chunks: tuple[int, ...]) -> da.Array:
        """Give a vector along the axis of the classes, with length 1 along the others."""
        shape: list[int] = [1] * self.x.ndim
        cut: list[tuple[int, ...]] = [(1,)] * self.x.ndim
        shape[self.axes[0]], cut[self.axes[0]] = len(values), chunks
        return da.from_array(values.reshape(shape), chunks=tuple(cut))

    def starts(self) -> da.Array:
        """Give each block the number of its first class."""
        lengths = self.x.chunks[self.axes[0]]
        return self.along_classes(np.cumsum((0, *lengths[:-1])), (1,) * len(lengths))

    # -- tasks -----------------------------------------------------------------------------------------------

    def block(
        self,
        func: Callable[..., Array],
        first: da.Array,
        *others: Any,
        length: int | None = None,
        dtype: DTypeLike | None = None,
        **options: Any,
    ) -> da.Array:
        """Call a function for each block.

        Parameters
        ----------
        func : callable
            What it gets by name, beside `options`: axes, result, threads.
        first : dask.array.Array
            Tells how the result is cut.
        *others
            Arrays whose trailing axes match, and anything else as it is.
        length : int, optional
            Of the axes of the classes in each block of the result.
        dtype : dtype, optional
            Of the result, where it is not that of the call.
        **options
            Handed to `func`.
        """
        arguments: list[Any] = []
        for array in (first, *others):
            at = tuple(range(first.ndim))[first.ndim - array.ndim :] if isinstance(array, da.Array) else None
            arguments += [array, at]
        dtype = np.dtype(self.result if dtype is None else dtype)
        options = {"axes": self.axes, "result": self.result, "threads": self.threads, **options}
        return da.blockwise(
            partial(func, **options),
            tuple(range(first.ndim)),
            *arguments,
            dtype=dtype,
            meta=np.empty((0,) * first.ndim, dtype),
            adjust_chunks=None if length is None else dict.fromkeys(self.axes, partial(_length, length)),
            align_arrays=False,
            token=f"fastsoftmax-{self.name}",
        )

    def whole(
        self,
        operand: da.Array | None = None,
        *,
        length: int | None = None,
        widen: bool = False,
        **options: Any,
    ) -> da.Array:
        """Call the function of this name for each block; widened to float32 if need be."""
        result = np.dtype(np.float32) if widen else self.result
        x = self.x.astype(result) if widen else self.x
        return self.block(
            pieces.whole, x, self.temperature, self.where, operand,
            length=length, dtype=result, result=result, name=self.name, **options,
        )  # fmt: skip

    def top_k(self, k: int, *, log: bool) -> da.Array:
        """Give values and indices of blocks that hold their distributions whole, as fields."""
        dtype = pieces.top_k_dtype(self.result)
        return self.block(
            pieces.whole_top_k, self.x, self.temperature, self.where, length=k, dtype=dtype, k=k, log=log
        )

    def _tree(self, parts: da.Array, merge: Callable[..., Array], length: int = 1) -> da.Array:
        """Merge blocks along the axes of the classes, a few at a time."""
        return da.reduction(
            parts, merge, merge, combine=merge, axis=self.axes, keepdims=True, concatenate=True,
            output_size=length, dtype=parts.dtype, meta=parts._meta,
        )  # fmt: skip

    def state(self) -> da.Array:
        """Give the state of every row."""
        folded = self.block(pieces.fold, self.x, self.temperature, self.where, length=1, dtype=pieces.STATE)
        return self._tree(folded, partial(pieces.merge, result=self.result))

    def logsumexp(self) -> da.Array:
        """Give the logarithms of the sums of rows that are cut."""
        return self.block(pieces.logsumexp, self.state())

    def finish(self, *, log: bool) -> da.Array:
        """Give the probabilities of rows that are cut."""
        return self.block(pieces.finish, self.x, self.state(), self.where, log=log)

    def row_sum(
        self, func: Callable[..., Array], *arrays: Any, dtype: np.dtype[Any] | None = None, **options: Any
    ) -> da.Array:
        """Add up what the blocks of each row contribute, in float64, without the axes of the classes."""
        first, *others = arrays
        parts = self.block(func, first, *others, length=1, dtype=np.float64, **options)
        total = parts.sum(axis=self.axes, dtype=np.float64)
        return total.map_blocks(_narrow, dtype or self.result, dtype=dtype or self.result)

    def candidates(self, k: int) -> da.Array:
        """Give the k greatest logits of rows that are cut."""
        found = self.block(
            pieces.candidates, self.x, self.starts(), self.where, length=k, dtype=pieces.CANDIDATE, k=k
        )
        return self._tree(found, partial(pieces.best, k=k), k)


# -- what needs no call --------------------------------------------------------------------------------------


def row_weights(labels: da.Array, weight: Array | None, ignore_index: int) -> da.Array:
    """Give what each row counts in the mean."""
    func = partial(_row_weights, weight=weight, ignore_index=ignore_index)
    return labels.map_blocks(func, dtype=np.float64, meta=np.empty((0,) * labels.ndim))


def ratio(total: da.Array, count: Any, dtype: np.dtype[Any]) -> da.Array:
    """Give total / count, NaN for 0 / 0."""
    return da.map_blocks(_ratio, total, count, dtype, dtype=dtype, meta=np.empty((), dtype))


def _known(array: da.Array, name: str) -> da.Array:
    if any(math.isnan(n) for n in array.shape):
        raise ValueError(
            f"{name} has chunks of unknown size, shape {array.shape}: call compute_chunk_sizes() on it first"
        )
    return array


def _without_empty_blocks(array: da.Array) -> da.Array:
    """Leave out the blocks of length 0, which some of Dask's own functions cannot handle."""
    return array.rechunk(tuple(tuple(n for n in chunks if n) or (0,) for chunks in array.chunks))


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None or ndim == 0:
        return tuple(range(ndim))
    axes: Sequence[int] = normalize_axis_tuple(axis, ndim)
    return tuple(axes)


def _length(length: int, _: int) -> int:
    return length


def _narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype)


def _ratio(total: Array, count: Any, dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(total / np.float64(count), dtype)


def _row_weights(labels: Array, weight: Array | None, ignore_index: int) -> Array:
    counts: Array = labels != ignore_index
    if weight is None:
        return counts.astype(np.float64)
    weights: Array = np.where(
        counts, weight[np.where(counts, labels, 0).astype(np.intp)].astype(np.float64), 0
    )
    return weights


def _checked(
    labels: Array, *, name: str, classes: int, ignore_index: int | None, block_info: Any = None
) -> Array:
    """Raise an IndexError for a label that is no class; the block knows where in the whole array it is."""
    bad = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        bad &= labels != ignore_index
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), labels.shape)
        first = [start for start, _ in block_info[0]["array-location"]]
        row = tuple(int(i) + start for i, start in zip(at, first, strict=True))
        place = f"row {row[0] if len(row) == 1 else row}" if row else "the row"
        raise IndexError(f"{name}: {labels[at]} of {place} is out of range for {classes} classes")
    return labels
