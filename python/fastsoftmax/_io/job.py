"""One call of ``io.stream``: which way the array is cut, what is opened, what is run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import normalize_axis_tuple

from .ends import ArrayTarget, FileSource, FileTarget, kind_of, overlap
from .npy import format_header
from .output import OutputFile, OutputStream
from .pipeline import Loop, Region, Tile, column_tiles, matrix_tiles, row_tiles, whole_tile
from .two_pass import Columns

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Sequence

    from .ends import ArraySource
    from .operation import Axis, Operation

    Array = npt.NDArray[Any]
    Shape = tuple[int, ...]

MIN_RUN: Final = (
    2048  # bytes: below this, reading columns of a file piece by piece costs more than reading it twice
)
STATE: Final = 64  # bytes per column that two passes may take, temporaries included


@dataclass
class Loss:
    """The mean or the sum of cross-entropies, over all chunks."""

    reduction: str
    ignore_index: int
    weight: Array | None
    sums: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, losses: Array, labels: Array) -> None:
        """Take in the losses of a chunk."""
        self.sums.append(float(np.sum(losses, dtype=np.float64)))
        if labels.dtype.kind not in "iu":  # probabilities: every row counts
            self.weights.append(float(losses.size))
            return
        kept = labels[labels != self.ignore_index]
        self.weights.append(
            float(kept.size if self.weight is None else np.sum(self.weight[kept], dtype=np.float64))
        )

    def value(self) -> float:
        """Give the sum, or the weighted mean: NaN if every row was ignored."""
        total, weight = math.fsum(self.sums), math.fsum(self.weights)
        if self.reduction == "sum":
            return total
        return total / weight if weight else math.nan


def _rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # infinity is float16's answer to 70,000
        return values.astype(dtype)


class Job:
    """One call of ``io.stream``.

    The plan is one of

    - ``whole``: everything fits into one chunk;
    - ``rows``: `axis` is not the first: chunks of whole distributions, in the order of the file;
    - ``columns``: `axis` is the first, and a block of whole columns fits into a chunk;
    - ``two passes``: `axis` is the first, and chunks hold parts of distributions.
    """

    def __init__(
        self,
        op: Operation,
        source: FileSource | ArraySource,
        axis: Axis,
        chunk_bytes: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self.op, self.source, self.chunk, self.stack = op, source, chunk_bytes, stack
        if not op.kind.tuple_axis and not hasattr(axis, "__index__"):
            raise TypeError(f"axis of {op.name} must be an integer, not {axis!r}")
        ndim = len(source.shape)
        if axis is None:
            chosen: Shape = tuple(range(ndim))
        else:
            chosen = () if ndim == 0 and axis in {0, -1} else normalize_axis_tuple(axis, ndim)
        # From here on shapes and axes are those of the tiles: C order.
        self.shape = self._turn(source.shape)
        self.axes = tuple(sorted(ndim - 1 - i if source.reverse else i for i in chosen))
        negative = tuple(i - ndim for i in self.axes)  # tiles lose leading axes
        self.axis: Axis = axis if ndim == 0 else negative[0] if len(negative) == 1 else negative
        self.dtypes = op.result_dtypes(source.dtype)
        self.results = op.result_shapes(self.shape, self.axes)
        self.targets: list[FileTarget | ArrayTarget] = []
        self.loss: Loss | None = None
        if op.scalar:
            weight = op.keywords.get("weight")
            ignored = op.keywords.get("ignore_index", -100)
            self.loss = Loss(op.reduction, ignored, None if weight is None else np.asarray(weight))

    def _turn(self, shape: Shape) -> Shape:
        """Go from the user's order of the axes to that of the tiles, or back."""
        return shape[::-1] if self.source.reverse else shape

    # -- the plan --------------------------------------------------------------------------------------------

    def open(self, dst: Any, *, overwrite: bool) -> None:
        """Choose the plan first: what cannot be done is refused before anything is made. Then open `dst`."""
        op = self.op
        if len(self.dtypes) == 1:
            places = [dst]
        elif isinstance(dst, tuple | list) and len(dst) == len(self.dtypes):
            places = list(dst)
        else:
            raise TypeError(f"dst of {op.name} must be a pair: where the values go, and where the indices go")
        kinds = [kind_of(place) for place in places]
        paths = [
            os.path.realpath(os.fsdecode(p)) for p, kind in zip(places, kinds, strict=True) if kind == "file"
        ]
        if len(set(paths)) < len(paths):
            raise ValueError(f"{paths[0]}: values and indices need two files")
        # Positions can be read and written in any order.
        self.random = isinstance(self.source, FileSource) and not self.source.sequential
        self.random_out = all(kind == "file" for kind in kinds)
        self.plan = self._choose(kinds)
        self.passes = 2 if self.plan == "two passes" and op.kind.elementwise else 1
        by_columns = self.plan in {"columns", "two passes"}
        self.cut = op.bind(
            self.shape, self.axes, reverse=self.source.reverse, by_columns=by_columns, stack=self.stack
        )
        for place, kind, dtype, shape in zip(places, kinds, self.dtypes, self.results, strict=True):
            if kind == "array":
                self._refuse_overlap(place)
                self.targets.append(ArrayTarget(place, shape, dtype, self.source, buffered=op.kind.out))
            else:
                file = self._open_file(place, kind, dtype, shape, overwrite=overwrite)
                self.targets.append(FileTarget(file, dtype, buffered=op.kind.out))
        same = op.kind.elementwise and self.dtypes[0] == self.source.dtype
        self.in_place = same and self.source.buffered and self.targets[0].buffered

    def _choose(self, kinds: Sequence[str]) -> str:
        op, depth = self.op, len(self.axes)
        first = min(self.axes, default=len(self.shape))
        self.length, self.inner = math.prod(self.shape[:depth]), math.prod(self.shape[depth:])
        if not self.shape or (first == 0 and self._largest() <= self.chunk):
            return "whole"
        if first > 0:
            return "rows"
        if self.axes != tuple(range(depth)):
            raise ValueError(
                "axes in chunks must be next to each other where the first of the file is among them"
            )
        across = f"{op.name} here goes across the file"
        if self.source.reverse:
            across += " (it is Fortran-ordered, so that its last axis is the slow one)"
        # A column of an output has as many elements as one of the input, or k, or 1; a mean has no columns.
        lengths = () if op.scalar else tuple(n // max(1, self.inner) for n in map(math.prod, self.results))
        sizes = [
            n * t.itemsize
            for n, t in zip((self.length, *lengths), (self.source.dtype, *self.dtypes), strict=False)
        ]
        self.lengths, self.width = lengths, min(self.inner, self.chunk // max(1, *sizes))
        flat = len(self.shape) == depth + 1
        pieces = all(
            kind == "file" or (n == 1 and (kind == "stream" or flat))
            for kind, n in zip(kinds, lengths, strict=False)
        )
        if self.random and pieces and self.width * self.source.dtype.itemsize >= MIN_RUN:
            return "columns"
        if not op.kind.two_pass:
            enough = (
                max(sizes) * -(-MIN_RUN // self.source.dtype.itemsize)
                if self.random and pieces
                else self._largest()
            )
            raise ValueError(
                f"{across} and needs whole columns: chunk_bytes of at least {min(enough, self._largest()):,}"
            )
        if isinstance(self.source, FileSource) and self.source.sequential and op.kind.elementwise:
            raise ValueError(
                f"{across}, in two passes, and a stream cannot be read twice: "
                f"use a file, or chunk_bytes of at least {self._largest():,}"
            )
        return "two passes"

    def _largest(self) -> int:
        sizes = [math.prod(shape) for shape in (self.shape, *self.results)]
        return max(n * t.itemsize for n, t in zip(sizes, (self.source.dtype, *self.dtypes), strict=True))

    # -- the outputs -----------------------------------------------------------------------------------------

    def _refuse_overlap(self, array: Any) -> None:
        if isinstance(self.source, FileSource):
            return
        same = self.source.array is array
        if overlap(self.source.array, array) or (same and not self.op.kind.elementwise):
            raise ValueError(
                "dst shares memory with src; only the very same array, for an elementwise function, may"
            )

    def _open_file(
        self, place: Any, kind: str, dtype: np.dtype[Any], shape: Shape, *, overwrite: bool
    ) -> OutputFile | OutputStream:
        stored = dtype
        if dtype.kind == "V" and self.source.stored.kind == "u":
            stored = np.dtype(np.uint16)  # bfloat16 in the same disguise as the input
        header = format_header(
            stored, self._turn(shape), fortran_order=self.source.reverse and len(shape) > 1
        )
        file: OutputFile | OutputStream
        inputs = [self.source.identity, *self.op.identities]
        if kind == "file":
            nbytes = math.prod(shape) * dtype.itemsize
            file = OutputFile(os.fsdecode(place), header, nbytes, overwrite=overwrite, inputs=inputs)
        else:
            file = OutputStream(place, header, inputs=inputs)
        self.stack.callback(file.abort)
        return file

    # -- the work --------------------------------------------------------------------------------------------

    @property
    def bytes_to_read(self) -> int:
        """Bytes of data that will be read."""
        return math.prod(self.shape) * self.source.dtype.itemsize * self.passes

    @property
    def bytes_to_write(self) -> int:
        """Bytes of data that will be written."""
        return sum(math.prod(shape) * t.itemsize for shape, t in zip(self.results, self.dtypes, strict=True))

    def run(self, advance: Callable[[int], object]) -> None:
        """Do the work; output files are not visible yet."""
        targets = [] if self.loss else self.targets
        results = () if self.loss else self.results
        tiles: Any
        if self.bytes_to_read == self.bytes_to_write == 0:
            return  # and not 2^62 empty rows, which 128 bytes of header can ask for
        if self.plan == "two passes":
            self._run_two_passes(advance)
            return
        if self.plan == "whole":
            tiles = [whole_tile(self.shape, results)]
        elif self.plan == "columns":
            tiles = column_tiles(self.length, self.inner, self.lengths, self.width)
        else:
            anywhere = isinstance(self.source, FileSource) and not any(
                isinstance(t, ArrayTarget) for t in targets
            )
            last = min(self.axes, default=len(self.shape)) - 1 if anywhere else 0
            sizes = (self.source.dtype.itemsize, *(t.dtype.itemsize for t in targets))
            tiles = row_tiles(self.shape, results, sizes, last, self.chunk)
        Loop(self.source, targets, advance, in_place=self.in_place).run(tiles, self._compute)
        if self.loss:
            self.targets[0].write(Region(0, 1), _rounded(np.array(self.loss.value()), self.dtypes[0]))

    def _compute(self, tile: Tile, values: Array, outputs: list[Array | None]) -> Sequence[Array]:
        x, cut = values.reshape(tile.shape), self.cut(tile)
        axis = 0 if self.plan == "columns" else self.axis
        # Several axes of a Fortran-ordered file: the order of the elements of a distribution decides its last
        # bits, so the function must see them in the user's order.
        turned = self.source.reverse and len(self.axes) > 1
        if turned:
            depth = len(self.axes)
            if self.plan == "columns":
                x, axis = x.reshape(*self.shape[:depth], -1).T, tuple(range(1, depth + 1))
                cut = {name: value.reshape(-1, *depth * (1,)) for name, value in cut.items()}
            else:
                x, axis = x.T, tuple(sorted(len(self.shape) - 1 - i for i in self.axes))
                cut = {name: value.T for name, value in cut.items()}
        shaped: list[Array | None] = []
        if not self.loss:
            axes = () if axis is None or not x.ndim else normalize_axis_tuple(axis, x.ndim)
            shapes = self.op.result_shapes(x.shape, axes)
            for out, shape in zip(outputs, shapes, strict=True):
                if out is not None:
                    out = out.reshape(shape[::-1]).T if turned else out.reshape(shape)
                shaped.append(out)
        try:
            results = self.op(x, axis, cut, shaped)
        except IndexError as error:
            if tile.source.start == 0:
                raise
            place = ", ".join(str(i.start if isinstance(i, slice) else i) for i in tile.place)
            raise IndexError(f"{error} (counted from row {place} of the input)") from None
        if self.loss is None:
            return [np.ascontiguousarray(result.T if turned else result) for result in results]
        self.loss.add(results[0], np.asarray(cut["operand"]))
        return ()

    def _run_two_passes(self, advance: Callable[[int], object]) -> None:
        op, elementwise = self.op, self.op.kind.elementwise
        loop = Loop(self.source, self.targets if elementwise else [], advance, in_place=self.in_place)
        # Files may be cut into blocks of columns, so that the state stays small; arrays only along the first
        # axis.
        pieces = self.random and self.random_out
        width = min(self.inner, max(self.chunk // STATE, MIN_RUN)) if pieces else self.inner
        unit = 1 if pieces else max(1, math.prod(self.shape[1 : len(self.axes)]))
        itemsize = max(self.source.dtype.itemsize, self.dtypes[0].itemsize)
        step = max(1, self.chunk // (width * itemsize * unit)) * unit
        for start in range(0, self.inner, width):
            columns = slice(start, min(self.inner, start + width))
            state = self._state(columns)

            def fold(tile: Tile, values: Array, _: Any, state: Columns = state) -> Sequence[Array]:
                state.fold(values.reshape(tile.shape))
                return ()

            def write(
                tile: Tile, values: Array, outputs: Sequence[Any], state: Columns = state
            ) -> Sequence[Array]:
                function = state.softmax if op.name == "softmax" else state.log_softmax
                function(values.reshape(tile.shape), outputs[0].reshape(tile.shape))
                return (outputs[0],)

            for compute in (fold, write) if elementwise else (fold,):
                loop.run(
                    matrix_tiles(self.length, self.inner, columns, step, unit, len(loop.targets)), compute
                )
            if not elementwise:
                result = self.results[0]
                everything = (0, result[0] if result else 1)  # arrays are not cut into blocks of columns
                region = Region(start, columns.stop - columns.start, rows=everything)
                self.targets[0].write(region, _rounded(state.logsumexp(), self.dtypes[0]))

    def _state(self, columns: slice) -> Columns:
        temperature = self.op.keywords.get("temperature", 1.0)
        temperature = self.cut(Tile((columns,), (), Region(0, 0))).get("temperature", temperature)
        if np.ndim(temperature):
            temperature = np.asarray(temperature, np.float64).reshape(-1)
        width = columns.stop - columns.start
        return Columns(width, self.dtypes[0], temperature, self.op.keywords.get("threads"))

    def finish(self) -> None:
        """Let the outputs appear, when everything has been read, computed and written."""
        self.source.finish()
        files = [target.file for target in self.targets if isinstance(target, FileTarget)]
        for file in files:
            file.flush()
        for file in files:
            file.commit()
