"""What the functions return beside arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TopK"]


class TopK(NamedTuple):
    """The `k` largest values of each row, in descending order, and where they are along the axis.

    Attributes
    ----------
    values : numpy.ndarray
        Probabilities or log-probabilities.
    indices : numpy.ndarray
        Indices along the axis, of dtype `numpy.intp`.
    """

    values: NDArray[Any]
    indices: NDArray[Any]


TopK.__module__ = "fastsoftmax"
