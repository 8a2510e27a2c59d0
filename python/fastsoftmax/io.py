"""Softmax of what does not fit into memory: from file to file, or between arrays that can be sliced.

`stream` reads one chunk, computes a second and writes a third at the same time, in memory that does not grow
with the input. An output file appears whole or not at all; a hostile input file is an `NpyError` and nothing
worse.

Examples
--------
>>> import tempfile, pathlib, numpy as np, fastsoftmax as fs, fastsoftmax.io
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> np.save(folder / "logits.npy", np.array([[2.0, 1.0, 0.1]], np.float32))
>>> summary = fs.io.stream(fs.softmax, folder / "logits.npy", folder / "probs.npy")
>>> np.load(folder / "probs.npy").round(3)
array([[0.659, 0.242, 0.099]], dtype=float32)
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._io.ends import open_source
from ._io.job import Job
from ._io.npy import NpyError
from ._io.operation import Axis, operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEFAULT_CHUNK_BYTES", "NpyError", "Summary", "stream"]

DEFAULT_CHUNK_BYTES: Final = 2 << 20  # still in the cache from reading to computing to writing


@dataclass(frozen=True)
class Summary:
    """What `stream` did.

    Attributes
    ----------
    shape : tuple of int
        Of the input.
    dtype, result_dtype : str
        Of the input and of the (first) output.
    rows, classes : int
        Number of distributions, and the length of each.
    bytes_read, bytes_written : int
        Bytes of data that went in (twice, where two passes were needed) and out.
    seconds : float
        From call to return.
    """

    shape: tuple[int, ...]
    dtype: str
    result_dtype: str
    rows: int
    classes: int
    bytes_read: int
    bytes_written: int
    seconds: float


def stream(
    func: Callable[..., Any] | str,
    src: Any,
    dst: Any,
    *,
    axis: Axis = -1,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    input_dtype: Any = None,
    overwrite: bool = False,
    progress: bool = False,
    **kwargs: Any,
) -> Summary:
    r"""Apply a function of the family to an array chunk by chunk, in bounded memory.

    .. math:: dst_i = func(src)_i, \quad \text{for instance} \quad \frac{e^{x_i/T}}{\sum_j e^{x_j/T}}

    Parameters
    ----------
    func : callable or str
        `softmax`, `log_softmax`, `logsumexp`, `log_prob`, `cross_entropy`, `entropy` or `top_k`, or one of
        these names.
    src : path-like, binary file object or array-like
        A .npy file; an object with ``read`` that yields a .npy file from front to back; or anything with
        ``shape``, ``dtype`` and slicing along its first axis (NumPy, zarr, h5py). Files are read by position,
        not mapped.
    dst : path-like, binary file object or array-like
        A .npy file to be made, an object with ``write``, or anything that takes slice assignment along its
        first axis. For `top_k` a pair of these, for values and indices. Where the result is a single number,
        an array of shape ``()`` or a .npy file that holds one.
    axis : int, tuple of int or None
        As in `func`. An axis other than the first is streamed in one pass. Along the first axis, columns are
        read in blocks if whole columns fit into a chunk; if not, `softmax`, `log_softmax` and `logsumexp`
        take two passes, and the other functions raise ValueError. A Fortran-ordered file is treated as the
        transposed C-ordered one, so there it is the last axis that is expensive; its output is
        Fortran-ordered too.
    chunk_bytes : int
        The size of a chunk; memory is at most about eight times this, whatever the size of the input. If one
        row (of the last axis before `axis`; for array-likes of the first axis) is larger, that row is the
        chunk.
    input_dtype : dtype, optional
        ``"bfloat16"`` if the input keeps bfloat16 as 2-byte void (as `numpy.save` does) or as uint16. A
        bfloat16 output file is kept in the same way.
    overwrite : bool
        Replace an existing output file. It keeps its contents until the new ones are complete.
    progress : bool
        Show a progress bar on standard error if tqdm is installed.
    **kwargs
        The keyword arguments of `func`, except `out`; ``index=``, ``labels=`` and ``k=`` too. Labels may be
        an array or a .npy path. `temperature` and `where` may be arrays that broadcast against the whole
        input, and are cut to match the chunks; `where` is not supported in chunks along the first axis.
        `cross_entropy` gives the mean or sum over all rows, accumulated in float64, unless
        ``reduction="none"``.

    Returns
    -------
    Summary

    Raises
    ------
    NpyError
        If a .npy file is malformed, truncated, too long, or holds elements of a type that is not supported.
    FileExistsError
        If the output file exists and `overwrite` is not given.
    OSError
        If a file cannot be read or written, or there is no space for the output: space is reserved before any
        work.
    ValueError
        If the output is the input; if `func` cannot be streamed along this axis; and where `func` raises it.
    TypeError, numpy.exceptions.AxisError, IndexError
        Where `func` raises them.

    Notes
    -----
    An output file is made under a temporary name in its own directory (or under none, on Linux), synced, and
    then renamed. After an error or Ctrl-C nothing is left of it. Results are bit for bit those of `func`, at
    most 2 ULP from the exact value; in two passes they are at most 2 ULP from it too, but the bits depend on
    `chunk_bytes`.

    Examples
    --------
    >>> import numpy as np, fastsoftmax as fs, fastsoftmax.io
    >>> logits = np.array([[1.5, 2.2, -0.3, 0.8], [0.0, 0.0, 0.0, 0.0]])
    >>> probs = np.empty_like(logits)
    >>> fs.io.stream(fs.softmax, logits, probs).rows
    2
    >>> probs.round(2)
    array([[0.27, 0.55, 0.04, 0.14],
           [0.25, 0.25, 0.25, 0.25]])
    """
    start = time.perf_counter()
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
    op = operation(func, kwargs)
    with contextlib.ExitStack() as stack:
        source = open_source(src, input_dtype, stack)
        job = Job(op, source, axis, int(chunk_bytes), stack)
        job.open(dst, overwrite=overwrite)
        with _progress(job.bytes_to_read, op.name, enabled=progress) as advance:
            job.run(advance)
        job.finish()
        return Summary(
            shape=source.shape,
            dtype=source.dtype.name,
            result_dtype=job.dtypes[0].name,
            rows=math.prod(n for i, n in enumerate(job.shape) if i not in job.axes),
            classes=math.prod(job.shape[i] for i in job.axes),
            bytes_read=job.bytes_to_read,
            bytes_written=job.bytes_to_write,
            seconds=time.perf_counter() - start,
        )


@contextlib.contextmanager
def _progress(total: int, name: str, *, enabled: bool) -> Iterator[Callable[[int], object]]:
    """Give a function that counts bytes, and a bar on standard error if that is wanted and tqdm is there."""
    if enabled:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            with tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False) as bar:
                yield bar.update
            return
    yield lambda _: None
