"""Comparing dask arrays with what the library gives for the same data in memory."""

from typing import Any

import numpy as np
from dask import array as da
from reference import FLOATS, exact, ulps

# Between the two ways, each of which is at most 2 ULP off; a float64 sum of many terms may be off by more.
APART = {np.dtype(dtype): 2.0 for dtype in FLOATS}
APART_SUMS = {**APART, np.dtype(np.float64): 5.0}


def assert_close(lazy: Any, expected: Any, apart: dict[Any, float] = APART) -> None:
    assert isinstance(lazy, da.Array)
    expected = np.asarray(expected)
    assert lazy.shape == expected.shape
    assert lazy.dtype == expected.dtype
    got = np.asarray(lazy.compute())
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if expected.dtype.kind in "iu":
        np.testing.assert_array_equal(got, expected)
    else:
        assert ulps(got, exact(expected)).max(initial=0) <= apart[expected.dtype], (got, expected)
