"""Softmax along a named dimension of an xarray, in memory or lazily over Dask.

``apply_ufunc`` moves the named dimension to the end, where softmax expects it, without copying, and
fastsoftmax walks any strides. With ``dask="parallelized"`` each block is one call; the class dimension must
be in one chunk then (``fastsoftmax.dask`` also takes one that is cut).

Run it (needs xarray; Dask for the second half)::

    python examples/xarray_labelled.py
"""

import fastsoftmax as fs
import numpy as np
import xarray as xr


def softmax(logits: xr.DataArray, dim: str, **options: object) -> xr.DataArray:
    """Softmax along a dimension, whichever place it has; coordinates and the order of dimensions stay.

    >>> scores = xr.DataArray([[0.0, 5.0], [0.0, 5.0]], dims=("class", "pixel"))
    >>> softmax(scores, "class").values
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    probs = xr.apply_ufunc(
        fs.softmax,
        logits,
        input_core_dims=[[dim]],
        output_core_dims=[[dim]],
        kwargs=options,
        dask="parallelized",
        output_dtypes=[logits.dtype],
        keep_attrs=True,
    )
    return probs.transpose(*logits.dims)


def main() -> None:
    """Classify the pixels of a small map: class first, as segmentation networks have it."""
    rng = np.random.default_rng(0)
    logits = xr.DataArray(
        rng.normal(size=(3, 4, 5)).astype(np.float32),
        dims=("class", "y", "x"),
        coords={"class": ["water", "wood", "town"]},
        name="score",
    )
    probs = softmax(logits, "class", temperature=0.5)
    print("dims:", probs.dims, "dtype:", probs.dtype)
    print("sums to 1:", bool(np.allclose(probs.sum("class"), 1)))
    print("wood at (0, 0):", f"{float(probs.sel({'class': 'wood'})[0, 0]):.3f}")

    lazy = softmax(logits.chunk({"y": 2}), "class", temperature=0.5)
    print("lazy:", lazy.chunks is not None, "same:", bool((lazy.compute() == probs).all()))


if __name__ == "__main__":
    main()
