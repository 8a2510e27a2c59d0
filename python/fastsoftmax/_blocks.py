"""Cutting arrays into blocks, so that temporaries are of a block's size and not of the input's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


def blocks(shape: tuple[int, ...], limit: int) -> Iterator[tuple[slice, ...]]:
    """Give the places of blocks of 1 to `limit` elements that make up an array, in C order.

    Examples
    --------
    >>> from fastsoftmax._blocks import blocks
    >>> [place[0] for place in blocks((5, 100), 250)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    if not shape:
        yield ()
        return
    if 0 in shape:
        return
    cut = 0
    while cut < len(shape) - 1 and math.prod(shape[cut + 1 :]) > limit:
        cut += 1
    step = max(1, limit // math.prod(shape[cut + 1 :]))
    whole = (slice(None),) * (len(shape) - cut - 1)
    for outer in np.ndindex(shape[:cut]):
        prefix = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[cut], step):
            yield (*prefix, slice(start, start + step), *whole)
