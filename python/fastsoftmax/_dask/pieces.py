"""Distributions that are cut into pieces, each one an array: what `fastsoftmax.dask` does with a block.

The mathematics is that of ``fastsoftmax._io.two_pass``: a piece is folded into a state per distribution,
states are merged in any order, and the merged state then turns each piece into its part of the result. Here
the pieces are blocks of any number of dimensions, and nothing is kept between calls: each can be a task.

Every function takes and gives blocks in which the axes of the classes are still there; in states and in
parts of a sum these have length 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import fastsoftmax

from .._blocks import blocks
from .._io.two_pass import Columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]
    F64 = NDArray[np.float64]
    Place = tuple[Any, ...]  # slices

ROW_RESULTS: Final = ("log_prob", "cross_entropy", "entropy")  # they have no keepdims

STATE: Final = np.dtype([("m", "f8"), ("rest", "f8"), ("low", "f8"), ("temperature", "f8")])
"""Of a row: the greatest logit, the sum over the others relative to it as a pair (see ``Columns``), and T."""

CANDIDATE: Final = np.dtype([("value", "f8"), ("index", "i8")])
"""A logit, which float64 holds exactly, and where it is along the whole axis."""

TILE: Final = 1 << 17  # elements of a tile, so that its float64 temporaries take 1 MB each


def whole(
    x: Array,
    temperature: Any,
    where: Array | None,
    operand: Array | None,
    *,
    name: str,
    axes: tuple[int, ...],
    result: np.dtype[Any],
    **options: Any,
) -> Array:
    """Call a function of the library for a block that holds its distributions whole."""
    if np.ndim(temperature) or temperature != 1:
        options["temperature"] = temperature
    if where is not None:
        options["where"] = where
    if name != "cross_entropy":
        options["dtype"] = result
    axis: Any = axes[0] if name in ROW_RESULTS else axes
    if operand is not None and operand.dtype.kind in "iu":
        operand = operand.squeeze(axes)
    if name == "logsumexp":
        options["keepdims"] = True
    answer = getattr(fastsoftmax, name)(x, *(() if operand is None else (operand,)), axis=axis, **options)
    return np.expand_dims(answer, axes) if name in ROW_RESULTS else np.asarray(answer)


def whole_top_k(
    x: Array,
    temperature: Any,
    where: Array | None,
    *,
    k: int,
    axes: tuple[int, ...],
    result: np.dtype[Any],
    **options: Any,
) -> Array:
    """Call `top_k`; values and indices come as the fields of one array."""
    (axis,) = axes
    found = fastsoftmax.top_k(x, k, axis=axis, temperature=temperature, where=where, dtype=result, **options)
    both = np.empty(found.indices.shape, top_k_dtype(result))
    both["values"], both["indices"] = found
    return both


def top_k_dtype(result: np.dtype[Any]) -> np.dtype[Any]:
    """Give the dtype of what `whole_top_k` returns."""
    return np.dtype([("values", result), ("indices", np.intp)])


@dataclass
class Piece:
    """A block of logits with what belongs to it.

    Attributes
    ----------
    x : numpy.ndarray
        The logits.
    axes : tuple of int
        The axes of the classes, not negative.
    result : numpy.dtype
        The float dtype of the result: float64 takes the compensated way.
    where : numpy.ndarray or None
        The mask, which broadcasts against `x`.
    threads : int or None
        Handed to the kernels.
    """

    x: Array
    axes: tuple[int, ...]
    result: np.dtype[Any]
    where: Array | None
    threads: int | None

    def __post_init__(self) -> None:
        """Look at everything with the axes of the classes in front."""
        x = self.x
        if x.dtype.kind in "biu":  # as in the library, and so that there is a place for -inf
            x = x.astype(np.float64)
        self._x = self.turn(x)
        self._where = None if self.where is None else self.turn(np.broadcast_to(self.where, x.shape))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of what there is one of per row."""
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.x.shape))

    @property
    def first_class(self) -> Any:
        """The index of rows among (classes, rows), where arrays have length 1 along the classes."""
        return (*(0,) * len(self.axes), ...)

    def turn(self, array: Array) -> Array:
        """Put the axes of the classes in front."""
        return np.moveaxis(array, self.axes, range(len(self.axes)))

    def groups(self, state: Array) -> Iterator[tuple[Columns, Place, list[Place]]]:
        """Give, for groups of rows, their columns, where these belong, and the places of their tiles."""
        depth = len(self.axes)
        classes, rows = self._x.shape[:depth], self._x.shape[depth:]
        state = self.turn(state).reshape(rows)
        # One for all groups: Dask's workers give freed memory back at once, and to have it again costs more
        # than what is computed in it.
        scratch = np.empty(TILE)
        for group in blocks(rows, max(1, TILE // max(1, math.prod(classes)))):
            rows_of_group: Place = (*group, ...)
            columns = columns_of(state[rows_of_group].reshape(-1), self.result, self.threads)
            columns.scratch = scratch
            yield columns, group, [(*place, *group) for place in blocks(classes, TILE)]

    def tile(self, place: Place) -> tuple[Array, Array | None]:
        """Give a tile as (classes, rows), -inf where it is masked, and its mask."""
        x = _matrix(self._x[place], len(self.axes))
        if self._where is None:
            return x, None
        mask = _matrix(self._where[place], len(self.axes))
        return np.where(mask, x, x.dtype.type(-np.inf)), mask

    def log_probabilities(self, columns: Columns, place: Place) -> tuple[F64, Array | None]:
        """Give the log-probabilities of a tile in float64, and its mask."""
        x, mask = self.tile(place)
        out = np.empty_like(x, np.float64)  # in the layout of x
        columns.log_softmax(x, out)
        return out, mask


def _matrix(array: Array, depth: int) -> Array:
    """Give an array whose first axes are those of the classes as (classes, rows)."""
    return array.reshape(math.prod(array.shape[:depth]), math.prod(array.shape[depth:]))


def columns_of(state: Array, result: np.dtype[Any], threads: int | None = None) -> Columns:
    """Give the columns that are in this state."""
    temperature: Any = state["temperature"].copy()
    if state.size and (temperature == temperature[0]).all():
        temperature = float(temperature[0])
    columns = Columns(state.size, result, temperature, threads)
    columns.m, columns.rest, columns.rest_low = state["m"].copy(), state["rest"].copy(), state["low"].copy()
    return columns


def _empty_state(shape: tuple[int, ...], temperature: Any) -> Array:
    state = np.empty(shape, STATE)
    state["m"], state["rest"], state["low"], state["temperature"] = -np.inf, -1, 0, temperature
    return state


def fold(x: Array, temperature: Any, where: Array | None, **options: Any) -> Array:
    """Give the state of the rows of a block."""
    piece = Piece(x, where=where, **options)
    result = _empty_state(piece.row_shape, temperature)
    turned = piece.turn(result)[piece.first_class]
    for columns, group, tiles in piece.groups(result):
        for place in tiles:
            columns.fold(piece.tile(place)[0])
        target = turned[(*group, ...)]
        for name, values in (("m", columns.m), ("rest", columns.rest), ("low", columns.rest_low)):
            target[name] = values.reshape(target.shape)
    return result


def merge(states: Array, axis: tuple[int, ...], keepdims: bool, *, result: np.dtype[Any]) -> Array:
    """Merge states along axes; the axes stay, with length 1."""
    del keepdims
    turned = np.moveaxis(states, axis, range(len(axis)))
    turned = _matrix(turned, len(axis))
    if turned.size == 0:
        return np.empty([1 if i in axis else n for i, n in enumerate(states.shape)], STATE)
    columns = columns_of(turned[0], result)
    with np.errstate(all="ignore"):
        for part in turned[1:]:
            columns._merge(part["m"].copy(), part["rest"].copy(), part["low"].copy())
    merged: Array = turned[0].copy()
    merged["m"], merged["rest"], merged["low"] = columns.m, columns.rest, columns.rest_low
    return merged.reshape(tuple(1 if i in axis else n for i, n in enumerate(states.shape)))


def finish(x: Array, state: Array, where: Array | None, *, log: bool, **options: Any) -> Array:
    """Give the probabilities of a block, or their logarithms."""
    piece = Piece(x, where=where, **options)
    result = np.empty(x.shape, piece.result)
    turned = piece.turn(result)
    for columns, _, tiles in piece.groups(state):
        for place in tiles:
            part, mask = piece.tile(place)
            target = turned[place]
            direct = target.shape == part.shape
            out = target if direct else np.empty(part.shape, piece.result)
            (columns.log_softmax if log else columns.softmax)(part, out)
            if mask is not None:
                out[~mask] = -np.inf if log else 0
            if not direct:
                target[...] = out.reshape(target.shape)
    return result


def logsumexp(state: Array, *, result: np.dtype[Any], **_: Any) -> Array:
    """Give the logarithms of the sums, at temperature 1."""
    if state.size == 0:
        return np.empty(state.shape, result)
    with np.errstate(all="ignore"):
        values: Array = columns_of(state.reshape(-1), result).logsumexp().reshape(state.shape).astype(result)
    return values


# -- sums over classes, to which every piece contributes a part in float64 -----------------------------------


def _first(start: Array) -> int:
    """Give the number of the first class of a block."""
    return int(start.reshape(-1)[0])


def _row_sums(terms: F64) -> F64:
    """Add up (classes, rows) along the classes, pairwise, for which NumPy wants the classes contiguous."""
    sums: F64 = np.ascontiguousarray(terms.T).sum(axis=1)
    return sums


def _parts(piece: Piece, state: Array, part_of: Any) -> F64:
    """Add up what `part_of` makes of the log-probabilities of each tile."""
    result = np.zeros(piece.row_shape)
    turned = piece.turn(result)
    for columns, group, tiles in piece.groups(state):
        target = turned[piece.first_class][(*group, ...)]
        for place in tiles:
            with np.errstate(all="ignore"):
                target += part_of(columns, place, group).reshape(target.shape)
    return result


def entropy_part(x: Array, state: Array, where: Array | None, **options: Any) -> F64:
    """Give the part of -sum(p * log(p)) that a block contributes."""
    piece = Piece(x, where=where, **options)

    def part_of(columns: Columns, place: Place, _: Place) -> F64:
        tile, mask = piece.tile(place)
        log_p, p = np.empty(tile.shape), np.empty(tile.shape)
        columns.log_softmax(tile, log_p)
        columns.softmax(tile, p)
        gone = p == 0 if mask is None else (p == 0) | ~mask
        return _row_sums(np.where(gone, 0, -p * log_p))

    return _parts(piece, state, part_of)


def picked_part(
    x: Array, index: Array, start: Array, state: Array, where: Array | None, **options: Any
) -> F64:
    """Give the log-probability of each row's class if the block holds it, else 0; there is one axis."""
    piece = Piece(x, where=where, **options)
    (axis,) = piece.axes
    labels = np.squeeze(index, axis).astype(np.int64) - _first(start)

    def part_of(columns: Columns, place: Place, group: Place) -> F64:
        here, at = _here(labels[group].reshape(-1), place[0], x.shape[axis])
        tile, mask = piece.tile(place)
        out = np.empty((1, columns.m.size))
        columns.log_softmax(np.take_along_axis(tile, at, 0), out)
        if mask is not None:
            out[~np.take_along_axis(mask, at, 0)] = -np.inf
        return np.where(here, out[0], 0)

    return _parts(piece, state, part_of)


def _here(labels: Array, classes: slice, length: int) -> tuple[Array, Array]:
    """Tell which labels are in a range of classes, and give their places in it, 0 for the others."""
    span = range(length)[classes]
    here = (labels >= span.start) & (labels < span.stop)
    return here, np.where(here, labels - span.start, 0)[None, :].astype(np.intp)


def loss_part(
    x: Array,
    labels: Array,
    weight: Array | None,
    start: Array,
    state: Array,
    *,
    classes: int,
    label_smoothing: float,
    ignore_index: int,
    **options: Any,
) -> F64:
    """Give the part of the cross entropy that a block contributes; there is one axis.

    The target of a row is q = (1 - s)*t + s/C for the probabilities t of the labels, 1 at an index; the loss
    is -sum(weight * q * log(p)), and 0 for an ignored row.
    """
    piece = Piece(x, where=None, **options)
    (axis,) = piece.axes
    dense = labels.dtype.kind not in "iu"
    turned = np.moveaxis(labels, axis, 0)
    first = _first(start)

    def part_of(columns: Columns, place: Place, group: Place) -> F64:
        log_p, _ = piece.log_probabilities(columns, place)
        q = np.full(log_p.shape, label_smoothing / classes)
        if dense:
            q += (1 - label_smoothing) * turned[place].reshape(log_p.shape).astype(np.float64)
        else:
            flat = turned[0][group].reshape(-1)
            here, at = _here(flat.astype(np.int64) - first, place[0], x.shape[axis])
            q[at[0][here], np.flatnonzero(here)] += 1 - label_smoothing
            q[:, flat == ignore_index] = 0
        if weight is not None:
            q *= weight.reshape(-1)[place[0]].astype(np.float64)[:, None]
        return _row_sums(np.where(q == 0, 0, -q * log_p))

    return _parts(piece, state, part_of)


# -- the greatest classes ------------------------------------------------------------------------------------


def candidates(
    x: Array,
    start: Array,
    where: Array | None,
    *,
    k: int,
    axes: tuple[int, ...],
    threads: int | None,
    **_: Any,
) -> Array:
    """Give the k greatest logits of a block and their indices, in the order of `top_k`."""
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    if where is not None:
        x = np.where(where, x, x.dtype.type(-np.inf))
    (axis,) = axes
    n = x.shape[axis]
    shape = [k if i == axis else length for i, length in enumerate(x.shape)]
    result = np.empty(shape, CANDIDATE)
    result["value"], result["index"] = -np.inf, np.iinfo(np.int64).max  # behind every class
    found = fastsoftmax.top_k(x, min(k, n), axis=axis, threads=threads).indices
    place = (slice(None),) * axis + (slice(0, min(k, n)),)
    result["value"][place] = np.take_along_axis(x, found, axis).astype(np.float64)
    result["index"][place] = found + _first(start)
    return result


def best(found: Array, axis: tuple[int, ...], keepdims: bool, *, k: int) -> Array:
    """Give the k best of candidates: NaN, then the greatest, and of equal ones the lowest index."""
    del keepdims
    (along,) = axis
    value = np.where(np.isnan(found["value"]), -np.inf, -found["value"])
    order = np.lexsort((found["index"], value, ~np.isnan(found["value"])), axis=along)
    return np.take_along_axis(found, order.take(range(k), axis=along), along)


def probabilities_of(found: Array, state: Array, *, log: bool, **options: Any) -> Array:
    """Give the probabilities of candidates, or their logarithms."""
    return finish(found["value"], state, None, log=log, **options)
