"""How ``io.stream`` cuts an array into tiles, and the loop that reads, computes and writes at the same time.

     reader thread            the caller's thread            writer thread
    tile 3 -> slot C    |    compute in slot B    |    slot A -> where tile 1 belongs
         ^                                                        |
         +------------------- slot A, free again -----------------+

A slot is the memory for one tile. There are four, used again and again: their pages are touched once and stay
in the cache, and nothing grows with the file. Reading and writing release the interpreter, and so do the
kernels. The caller's thread computes, so Ctrl-C reaches the kernels and ends the loop.
"""

from __future__ import annotations

import itertools
import math
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Array = npt.NDArray[Any]
    Compute = Callable[["Tile", Array, list[Array | None]], Sequence[Array]]

SLOTS: Final = 4  # one in each hand, and one more so that no hand waits for another's hiccup
ALIGNMENT: Final = 64  # bytes: no vector of a kernel crosses a cache line
PATIENCE: Final = 0.5  # seconds to wait for a thread that hangs in a pipe, after an error


class Region(NamedTuple):
    """A part of an array in C order: `runs` pieces of `run` elements, `stride` elements apart.

    `rows` is the same part as a range of the first axis, for arrays that can only be sliced there.
    """

    start: int
    run: int
    runs: int = 1
    stride: int = 0
    rows: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.run * self.runs


class Tile(NamedTuple):
    """One step of the work: where it is read, where its result goes, and how to cut operands to match it."""

    place: tuple[int | slice, ...]
    shape: tuple[int, ...]
    source: Region
    targets: tuple[Region, ...] = ()


# -- cutting -------------------------------------------------------------------------------------------------


def row_tiles(
    shape: tuple[int, ...],
    results: tuple[tuple[int, ...], ...],
    itemsizes: tuple[int, ...],
    last_split: int,
    chunk_bytes: int,
) -> Iterator[Tile]:
    """Cut along an axis before those that are reduced, in the order of the file.

    The first axis is cut if one of its rows fits into a chunk, else the second, and so on up to `last_split`:
    a row of that axis is the smallest tile there is.

    Parameters
    ----------
    shape : tuple of int
        Of the input.
    results : tuple of tuple of int
        Shapes of the outputs; equal to `shape` up to `last_split`.
    itemsizes : tuple of int
        Of the input and of every output.
    last_split, chunk_bytes : int
        See above.
    """
    for split in range(last_split + 1):
        sizes = [math.prod(s[split + 1 :]) for s in (shape, *results)]
        row_bytes = max(size * itemsize for size, itemsize in zip(sizes, itemsizes, strict=True))
        if row_bytes <= chunk_bytes:
            break
    step = max(1, chunk_bytes // max(1, row_bytes))
    length = shape[split]
    for number, prefix in enumerate(np.ndindex(shape[:split])):
        for a in range(0, length, step):
            b = min(length, a + step)
            first = number * length + a
            regions = [Region(first * size, (b - a) * size, rows=(a, b)) for size in sizes]
            yield Tile((*prefix, slice(a, b)), (b - a, *shape[split + 1 :]), regions[0], tuple(regions[1:]))


def whole_tile(shape: tuple[int, ...], results: tuple[tuple[int, ...], ...]) -> Tile:
    """Make one tile of everything."""
    regions = [Region(0, math.prod(s), rows=(0, s[0] if s else 1)) for s in (shape, *results)]
    return Tile((), shape, regions[0], tuple(regions[1:]))


def column_tiles(length: int, inner: int, results: tuple[int, ...], width: int) -> Iterator[Tile]:
    """Cut a matrix (`length`, `inner`) into blocks of whole columns; `results` are the outputs' lengths."""
    for a in range(0, inner, width):
        b = min(inner, a + width)
        regions = [Region(a, b - a, n, inner, rows=(a, b)) for n in (length, *results)]
        yield Tile((slice(a, b),), (length, b - a), regions[0], tuple(regions[1:]))


def matrix_tiles(
    length: int, inner: int, columns: slice, step: int, unit: int, targets: int
) -> Iterator[Tile]:
    """Cut some columns of a matrix into tiles of `step` rows, each with so many targets of the same shape.

    `unit` rows of the matrix are one of the array's first axis; `step` is a multiple of it.
    """
    width = columns.stop - columns.start
    for a in range(0, length, step):
        b = min(length, a + step)
        rows = (a // unit, b // unit)
        if width == inner:
            region = Region(a * inner, (b - a) * inner, rows=rows)
        else:
            region = Region(a * inner + columns.start, width, b - a, inner, rows)
        yield Tile((columns,), (b - a, width), region, (region,) * targets)


# -- the loop ------------------------------------------------------------------------------------------------


class Source(Protocol):
    """What tiles are read from."""

    buffered: bool
    may_hang: bool
    dtype: np.dtype[Any]

    def read(self, region: Region, buffer: Array | None) -> Array:
        """Give the elements of a region, in `buffer` or elsewhere."""


class Target(Protocol):
    """What results are written to."""

    buffered: bool
    may_hang: bool
    dtype: np.dtype[Any]

    def write(self, region: Region, values: Array) -> None:
        """Put a result where it belongs."""


class Slot(NamedTuple):
    """Memory for one tile and for each of its results; None where the other side has its own."""

    input: Array | None
    outputs: list[Array | None]


class Loop:
    """Read, compute and write tile by tile, overlapped.

    Parameters
    ----------
    source, targets
        Where from and where to; a buffered one wants the memory of a slot.
    advance : callable
        Called with the number of bytes read, after each tile.
    in_place : bool
        The output's memory is the input's: half as much of it, and of the cache.
    """

    def __init__(
        self,
        source: Source,
        targets: Sequence[Target],
        advance: Callable[[int], object],
        *,
        in_place: bool = False,
    ) -> None:
        self._source = source
        self.targets = targets
        self._advance = advance
        self._in_place = in_place
        self._slots: list[Slot] = []

    def run(self, tiles: Iterable[Tile], compute: Compute) -> None:
        """Do all tiles; afterwards no thread touches source or targets, except one that hangs in a pipe.

        Parameters
        ----------
        tiles : iterable of Tile
            None larger than the first; in a second run, than those of the first run.
        compute : callable
            ``compute(tile, values, outputs)`` gives one array for each target, or none; where ``outputs[i]``
            is not None, it is flat memory of the right size and dtype, and the result may be put there.
        """
        iterator = iter(tiles)
        first = list(itertools.islice(iterator, SLOTS))
        if not first:
            return
        while len(self._slots) < len(first):
            self._slots.append(self._slot(first[0]))
        tiles = itertools.chain(first, iterator)
        if len(first) == 1 or not self._run_overlapped(tiles, compute):
            for tile in tiles:
                values = self._source.read(tile.source, self._slots[0].input)
                self._put(tile, self._step(compute, self._slots[0], tile, values))

    def _run_overlapped(self, tiles: Iterable[Tile], compute: Compute) -> bool:
        """Give False, with nothing done, if the system has no threads to give."""
        self._free: SimpleQueue[Slot | None] = SimpleQueue()
        self._ready: SimpleQueue[tuple[Slot, Tile, Array] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Slot, Tile, Sequence[Array]] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._stop = False
        threads = [
            threading.Thread(target=self._write, name="fastsoftmax-write", daemon=True),
            threading.Thread(target=self._read, args=(tiles,), name="fastsoftmax-read", daemon=True),
        ]
        for slot in self._slots:
            self._free.put(slot)
        try:
            for thread in threads:
                try:
                    thread.start()
                except RuntimeError:
                    return False
            while (item := self._ready.get()) is not None:
                slot, tile, values = item
                results = self._step(compute, slot, tile, values)
                self._done.put((slot, tile, results))
            self._done.put(None)
            threads[0].join()
        finally:
            self._stop = True
            self._free.put(None)
            self._done.put(None)
            self._join(threads)
        if self._error is not None:
            raise self._error
        return True

    def _join(self, threads: list[threading.Thread]) -> None:
        """Wait for the threads even if Ctrl-C is pressed again: what they use is closed next."""
        interrupt: KeyboardInterrupt | None = None
        timeouts = [PATIENCE if any(t.may_hang for t in self.targets) else None,
                    PATIENCE if self._source.may_hang else None]  # fmt: skip
        for thread, timeout in zip(threads, timeouts, strict=True):
            while thread.is_alive():
                try:
                    thread.join(timeout)
                except KeyboardInterrupt as error:
                    interrupt = error
                if timeout is not None:
                    break
        if interrupt is not None:
            raise interrupt

    def _slot(self, tile: Tile) -> Slot:
        def memory(region: Region, dtype: np.dtype[Any]) -> Array:
            size = region.size * dtype.itemsize
            raw = np.empty(size + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            return raw[start : start + size]

        buffer = memory(tile.source, self._source.dtype) if self._source.buffered else None
        outputs = [
            None if not target.buffered else buffer if self._in_place else memory(region, target.dtype)
            for target, region in zip(self.targets, tile.targets, strict=True)
        ]
        return Slot(buffer, outputs)

    def _step(self, compute: Compute, slot: Slot, tile: Tile, values: Array) -> Sequence[Array]:
        outputs = [
            None if memory is None else memory[: region.size * target.dtype.itemsize].view(target.dtype)
            for memory, region, target in zip(slot.outputs, tile.targets, self.targets, strict=True)
        ]
        nbytes = values.nbytes
        results = compute(tile, values, outputs)
        self._advance(nbytes)
        return results

    def _put(self, tile: Tile, results: Sequence[Array]) -> None:
        for target, region, result in zip(self.targets, tile.targets, results, strict=False):
            target.write(region, result)

    def _read(self, tiles: Iterable[Tile]) -> None:
        try:
            for tile in tiles:
                slot = self._free.get()
                if slot is None or self._stop:
                    return
                self._ready.put((slot, tile, self._source.read(tile.source, slot.input)))
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._ready.put(None)

    def _write(self) -> None:
        try:
            while (item := self._done.get()) is not None and not self._stop:
                slot, tile, results = item
                self._put(tile, results)
                self._free.put(slot)
        except BaseException as error:
            self._error = self._error or error
            self._free.put(None)  # ends the reader
            self._ready.put(None)  # ends the caller's loop
