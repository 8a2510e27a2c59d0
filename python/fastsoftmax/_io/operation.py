"""What ``io.stream`` must know about the functions of the family: their arguments, and how to cut these."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from .npy import InputFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .pipeline import Tile

    Array = npt.NDArray[Any]
    Shape = tuple[int, ...]

Axis = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Kind:
    """One function of the family.

    Attributes
    ----------
    keywords : str
        Its keyword arguments, `out` aside.
    operand : str or None
        The argument after the first one; `stream` takes it by keyword.
    elementwise : bool
        The result has the input's shape.
    tuple_axis : bool
        `axis` may be a tuple or None.
    out : bool
        It has an `out` argument.
    two_pass : bool
        It can be had from pieces of a distribution; see ``two_pass.py``.
    """

    keywords: str
    operand: str | None = None
    elementwise: bool = False
    tuple_axis: bool = False
    out: bool = False
    two_pass: bool = False


FAMILY: Final = {
    "softmax": Kind("temperature where dtype threads", None, True, True, True, True),
    "log_softmax": Kind("temperature where dtype threads", None, True, True, True, True),
    "logsumexp": Kind("keepdims where dtype threads", None, False, True, True, True),
    "log_prob": Kind("temperature where dtype threads", "index", out=True),
    "cross_entropy": Kind("weight ignore_index label_smoothing reduction temperature threads", "labels"),
    "entropy": Kind("temperature where dtype threads"),
    "top_k": Kind("log temperature where dtype threads", "k"),
}


def operation(func: Any, kwargs: dict[str, Any]) -> Operation:
    """Look up a function of the family, by itself or by name, and check the names of its arguments."""
    import fastsoftmax as fs

    name = func if isinstance(func, str) else getattr(func, "__name__", "")
    kind = FAMILY.get(name)
    function = getattr(fs, name, None) if kind else None
    if kind is None or function is None or not (isinstance(func, str) or func is function):
        raise ValueError(
            f"func must be a function of fastsoftmax or its name: {', '.join(FAMILY)}; got {func!r}"
        )
    if "out" in kwargs:
        raise TypeError("stream() has dst in the place of out")
    allowed = {*kind.keywords.split(), *([kind.operand] if kind.operand else [])}
    for keyword in kwargs:
        if keyword not in allowed:
            raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}")
    if kind.operand and kind.operand not in kwargs:
        raise TypeError(f"{name}() needs the argument {kind.operand}=")
    return Operation(name, kind, function, dict(kwargs))


@dataclass
class Operation:
    """A function with its arguments, ready to be called on chunk after chunk."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    keywords: dict[str, Any]
    operand: Any = None
    arrays: dict[str, Array] = field(default_factory=dict)
    identities: list[tuple[int, int]] = field(default_factory=list)  # of the files opened for arguments
    reduction: str = "none"
    k: int = 0

    def __post_init__(self) -> None:
        """Take the arguments apart: what is the same for every chunk, and what must be cut."""
        if self.kind.operand:
            self.operand = self.keywords.pop(self.kind.operand)
        if self.name == "top_k":
            self.k = operator.index(self.operand)
        if self.name == "cross_entropy":
            self.reduction = self.keywords.pop("reduction", "mean")
            if self.reduction not in {"mean", "sum", "none"}:
                raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {self.reduction!r}")
        if self.keywords.get("dtype") is not None:
            self.keywords["dtype"] = named_dtype(self.keywords["dtype"])
        for name in ("where", "temperature"):
            value = self.keywords.get(name)
            if value is not None and np.ndim(value):
                self.arrays[name] = np.asanyarray(self.keywords.pop(name))
        temperature = self.arrays.get("temperature", np.ones(1))
        if not np.all((temperature > 0) & np.isfinite(temperature)):
            raise ValueError("temperature must be greater than 0 and finite")

    @property
    def scalar(self) -> bool:
        """Whether all of the input becomes one number."""
        return self.name == "cross_entropy" and self.reduction != "none"

    def result_dtypes(self, dtype: np.dtype[Any]) -> tuple[np.dtype[Any], ...]:
        """Ask the function itself, with one element, what it makes of `dtype`; errors come early so."""
        keywords = {name: value for name, value in self.keywords.items() if name not in {"weight", "threads"}}
        extra: list[Any] = []
        if self.name == "top_k":
            extra = [1]
        elif self.kind.operand:
            extra = [np.zeros(1, np.int64)]
        if self.name == "cross_entropy":
            keywords["reduction"] = "none"
        if "threads" in self.keywords:
            keywords["threads"] = self.keywords["threads"]
        result = self.function(np.zeros((1, 1), dtype), *extra, **keywords)
        return tuple(np.asarray(part).dtype for part in (result if self.name == "top_k" else (result,)))

    def result_shapes(self, shape: Shape, axes: Shape) -> tuple[Shape, ...]:
        """Give the shapes of the outputs for an input of `shape`; `axes` may be negative."""
        if self.kind.elementwise:
            return (shape,)
        if self.scalar:
            return ((),)
        chosen = {axis % len(shape) for axis in axes} if shape else set()
        if self.name == "top_k":
            length = math.prod(shape[axis] for axis in chosen)
            if not 0 <= self.k <= length:
                raise ValueError(f"k = {self.k} is not between 0 and the length of the axis, {length}")
            return (tuple(self.k if i in chosen else n for i, n in enumerate(shape)),) * 2
        if self.keywords.get("keepdims", False):
            return (tuple(1 if i in chosen else n for i, n in enumerate(shape)),)
        return (tuple(n for i, n in enumerate(shape) if i not in chosen),)

    def __call__(
        self, x: Array, axis: Axis, cut: dict[str, Any], outputs: Sequence[Array | None]
    ) -> Sequence[Array]:
        """Compute one chunk, into `outputs` where these are given."""
        extra = [cut["operand"]] if "operand" in cut else []
        keywords = {**self.keywords, **{name: value for name, value in cut.items() if name != "operand"}}
        if self.name == "cross_entropy":
            keywords["reduction"] = "none"
        if self.kind.out and outputs and outputs[0] is not None:
            keywords["out"] = outputs[0]
        result = self.function(x, *extra, axis=axis, **keywords)
        return [np.asarray(part) for part in (result if self.name == "top_k" else (result,))]

    # -- arguments that belong to rows -----------------------------------------------------------------------

    def bind(
        self, shape: Shape, axes: Shape, *, reverse: bool, by_columns: bool, stack: Any
    ) -> Callable[[Tile], Any]:
        """Check the array arguments against the input, and give the function that cuts them to a tile.

        Parameters
        ----------
        shape, axes
            Of the input as the tiles see it, axes not negative.
        reverse : bool
            The tiles see the axes in reverse order (a Fortran-ordered file).
        by_columns : bool
            The tiles are blocks of columns; `axes` come first.
        stack : contextlib.ExitStack
            Closes what is opened.
        """
        rest = tuple(n for i, n in enumerate(shape) if i not in axes)
        wanted = {"where": shape, "temperature": tuple(1 if i in axes else n for i, n in enumerate(shape))}
        arrays: dict[str, Any] = {}
        for name, value in self.arrays.items():
            if name == "where" and by_columns:
                raise ValueError(
                    "where= is not supported in chunks along the first axis; with chunk_bytes of the size "
                    "of the file there is one chunk"
                )
            try:
                full = np.broadcast_to(value, wanted[name][::-1] if reverse else wanted[name])
            except ValueError:
                user = wanted[name][::-1] if reverse else wanted[name]
                raise ValueError(
                    f"{name} has shape {value.shape}, which does not broadcast to {user}"
                ) from None
            arrays[name] = full.T if reverse else full
        if self.name == "top_k":
            arrays["operand"] = self.k
        elif self.kind.operand:
            arrays["operand"] = self._labels(shape, rest, reverse=reverse, by_columns=by_columns, stack=stack)

        def cut(tile: Tile) -> dict[str, Any]:
            return {name: value if name == "operand" and self.name == "top_k" else value[tile.place]
                    for name, value in arrays.items()}  # fmt: skip

        def cut_columns(tile: Tile) -> dict[str, Any]:
            (columns,) = tile.place
            parts = dict(arrays)
            if "temperature" in parts:
                parts["temperature"] = parts["temperature"].reshape(1, -1)[:, columns]
            if "operand" in parts and self.name != "top_k":
                labels = parts["operand"]
                rows = () if labels.ndim == len(rest) else tile.shape[:1]  # class numbers, or probabilities
                parts["operand"] = labels.reshape(*rows, -1)[..., columns]
            return parts

        return cut_columns if by_columns else cut

    def _labels(
        self, shape: Shape, rest: Shape, *, reverse: bool, by_columns: bool, stack: contextlib.ExitStack
    ) -> Any:
        name, labels = self.kind.operand, self.operand
        if isinstance(labels, str | os.PathLike):
            file = stack.enter_context(InputFile(labels))
            self.identities.append(file.identity)
            labels = FileRows(file)
            if reverse or by_columns or (file.header.fortran_order and len(labels.shape) > 1):
                labels = labels.load()
        elif isinstance(labels, np.ndarray) or not hasattr(labels, "shape"):
            labels = np.asanyarray(labels)
        elif reverse or by_columns:
            labels = np.asarray(labels[...])
        else:
            labels = SlicedRows(labels)
        probabilities = self.name == "cross_entropy" and np.dtype(labels.dtype).kind not in "iu"
        user = tuple(shape if probabilities else rest)[:: -1 if reverse else 1]
        if not probabilities and np.dtype(labels.dtype).kind not in "iu":
            raise TypeError(f"{name} must be integers, not {labels.dtype}")
        if tuple(labels.shape) != user:
            raise ValueError(
                f"{name} has shape {tuple(labels.shape)}; for this input and axis it must be {user}"
            )
        return labels.T if reverse else labels


class FileRows:
    """A .npy file in C order that is cut like an array: ``rows[i, j, a:b]``."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.shape = file.header.shape
        self.dtype = file.header.dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> Array:
        if not index:
            return self.load()
        prefix: Any = index[:-1]
        last: Any = index[-1]
        depth = len(index)
        row = math.prod(self.shape[depth:])
        first = 0
        for number, length in zip([*prefix, last.start], self.shape, strict=False):
            first = first * length + number
        return self._read(first * row, (last.stop - last.start, *self.shape[depth:]))

    def _read(self, start: int, shape: Shape) -> Array:
        values = np.empty(math.prod(shape), self.dtype)
        if values.size:
            self._file.read_into(values.view(np.uint8).data, start * self.dtype.itemsize)
        return values.reshape(shape)

    def load(self) -> Array:
        """Give all of it."""
        if self._file.header.fortran_order:
            return self._read(0, self.shape[::-1]).T
        return self._read(0, self.shape)


class SlicedRows:
    """Any array that can be cut along its first axis."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, index: tuple[int | slice, ...]) -> Array:
        if not index:
            return np.asarray(self._array[...])
        return np.asarray(self._array[index[0] if len(index) == 1 else index])


def named_dtype(name: Any) -> np.dtype[Any]:
    """Give a dtype; ml_dtypes is imported if the name needs it."""
    if isinstance(name, str) and name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
