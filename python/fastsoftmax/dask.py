"""The softmax family over dask arrays: lazy, block by block, in the memory of a block.

>>> import dask.array as da, fastsoftmax.dask as fsd
>>> logits = da.zeros((8, 4), chunks=(2, 4))
>>> fsd.softmax(logits).sum(axis=-1).compute()
array([1., 1., 1., 1., 1., 1., 1., 1.])

Where the axis of the classes is in one chunk, each block is one call of the function of the same name. Where
it is cut into several, each block is read twice: a tree reduction finds the sum of each row, and then every
block is finished. Both ways keep the accuracy of the library.

All functions take anything that `dask.array.asarray` takes, and raise at once what can be known without the
data: a wrong dtype, axis, temperature or shape, and chunks of unknown size. Labels are checked, row by row,
when they are computed. Inside a block the library uses one thread, as Dask runs several blocks at a time;
``threads=`` changes that.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

import fastsoftmax

try:
    import dask.array as da
except ImportError:
    raise ImportError("fastsoftmax.dask needs Dask: pip install 'fastsoftmax[dask]'") from None

from ._dask import pieces
from ._dask.call import Call, ratio, row_weights

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    Axis = int | tuple[int, ...] | None

__all__ = ["cross_entropy", "entropy", "log_prob", "log_softmax", "logsumexp", "softmax", "top_k"]


def softmax(
    x: Any,
    /,
    axis: Axis = -1,
    *,
    temperature: Any = 1.0,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> da.Array:
    """Return ``exp(x / temperature)`` divided by its sum along the axis, lazily.

    Parameters
    ----------
    x : dask.array.Array or array_like
        Logits.
    axis : int, tuple of int or None, default -1
        The axis along which the result sums to 1, in one chunk or several.
    temperature : float or array, default 1.0
        What the logits are divided by. An array, of NumPy or Dask, broadcasts with length 1 along `axis`.
    where : array of bool, optional
        Which elements take part, an array of NumPy or Dask that broadcasts against `x`.
    dtype : dtype, optional
        The float dtype of the result.
    threads : int, optional
        Threads inside a block, 1 by default.

    Returns
    -------
    dask.array.Array
        Probabilities, in the shape and chunks of `x`.

    Raises
    ------
    ValueError
        The chunks of `x` or of another array have unknown sizes; or as `fastsoftmax.softmax`.
    TypeError, numpy.exceptions.AxisError
        As `fastsoftmax.softmax`.

    See Also
    --------
    fastsoftmax.softmax : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> x = da.from_array([[1.0, 3.0], [2.0, 2.0]], chunks=(1, 1))
    >>> fsd.softmax(x).compute().round(3)
    array([[0.119, 0.881],
           [0.5  , 0.5  ]])
    """
    call = Call("softmax", x, axis, temperature=temperature, where=where, dtype=dtype, threads=threads)
    return call.whole() if call.uncut else call.finish(log=False)


def log_softmax(
    x: Any,
    /,
    axis: Axis = -1,
    *,
    temperature: Any = 1.0,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> da.Array:
    """Return the logarithm of `softmax`, right also where that is 0 or 1, lazily.

    The parameters and errors are those of `softmax` in this module.

    Returns
    -------
    dask.array.Array
        Log-probabilities (in nats), in the shape and chunks of `x`.

    See Also
    --------
    fastsoftmax.log_softmax : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> fsd.log_softmax(da.from_array([1000.0, 1.0], chunks=1)).compute()
    array([   0., -999.])
    """
    call = Call("log_softmax", x, axis, temperature=temperature, where=where, dtype=dtype, threads=threads)
    return call.whole() if call.uncut else call.finish(log=True)


def logsumexp(
    x: Any,
    /,
    axis: Axis = -1,
    *,
    keepdims: bool = False,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> da.Array:
    """Return ``log(sum(exp(x)))`` along the axis, lazily.

    The parameters and errors are those of `softmax` in this module, and:

    Parameters
    ----------
    keepdims : bool, default False
        Leave the reduced axes in the result, with length 1.

    Returns
    -------
    dask.array.Array
        In the shape of `x` without the axis.

    See Also
    --------
    fastsoftmax.logsumexp : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> fsd.logsumexp(da.zeros((2, 8), chunks=(1, 2))).compute().round(6)
    array([2.079442, 2.079442])
    """
    call = Call("logsumexp", x, axis, where=where, dtype=dtype, threads=threads)
    result = call.whole(length=1) if call.uncut else call.logsumexp()
    return result if keepdims else result.squeeze(call.axes)


def log_prob(
    logits: Any,
    index: Any,
    /,
    axis: int = -1,
    *,
    temperature: Any = 1.0,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> da.Array:
    """Return the log-probability of one class per row, lazily.

    The parameters and errors are those of `softmax` in this module, and:

    Parameters
    ----------
    index : array of int
        The classes, an array of NumPy or Dask in the shape of `logits` without the axis.

    Returns
    -------
    dask.array.Array
        Log-probabilities (in nats), in the shape of `index`. One that is out of range is an IndexError when
        it is computed; the message names the row.

    See Also
    --------
    fastsoftmax.log_prob : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> fsd.log_prob(da.zeros((2, 8), chunks=(1, 4)), [3, 7]).compute().round(6)
    array([-2.079442, -2.079442])
    """
    call = Call("log_prob", logits, axis, temperature=temperature, where=where, dtype=dtype, threads=threads)
    labels = call.labels(index, "index")
    if call.uncut:
        return call.whole(labels, length=1).squeeze(call.axes)
    return call.row_sum(pieces.picked_part, call.x, labels, call.starts(), call.state(), call.where)


def cross_entropy(
    logits: Any,
    labels: Any,
    /,
    axis: int = -1,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    temperature: Any = 1.0,
    threads: int | None = None,
) -> da.Array:
    """Return the cross entropy between labels and the softmax of logits, lazily.

    Parameters
    ----------
    logits : dask.array.Array or array_like
        Logits.
    labels : array of int or float
        Classes, in the shape of `logits` without the axis, or the probabilities of classes, in the shape of
        `logits`; an array of NumPy or Dask.
    axis : int, default -1
        The axis of the classes, in one chunk or several.
    weight : array_like, optional
        One weight per class.
    ignore_index : int, default -100
        The label of rows that do not count.
    label_smoothing : float, default 0.0
        The share of the target that is spread over all classes.
    reduction : {'mean', 'sum', 'none'}, default 'mean'
        The sum over rows is taken in float64.
    temperature, threads
        As in `softmax` of this module.

    Returns
    -------
    dask.array.Array
        The loss (in nats): one per row if `reduction` is 'none', else a single one. A label that is out of
        range is an IndexError when it is computed; the message names the row.

    Raises
    ------
    ValueError, TypeError, numpy.exceptions.AxisError
        As `softmax` in this module, and `fastsoftmax.cross_entropy`.

    See Also
    --------
    fastsoftmax.cross_entropy : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> fsd.cross_entropy(da.zeros((2, 8), chunks=(1, 4)), [3, 7]).compute().round(6)
    np.float64(2.079442)
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    call = Call("cross_entropy", logits, axis, temperature=temperature, threads=threads, **options)
    weight = None if weight is None else call.class_weights(weight)
    labels = da.asarray(labels)
    dense = labels.dtype.kind not in "iu"
    target = call.dense_labels(labels) if dense else call.labels(labels, "labels", ignore_index)
    if call.uncut:
        # Half precision would round every loss before they are added up.
        wide = reduction != "none" and call.result.itemsize < 4
        loss = call.whole(target, length=1, widen=wide, weight=weight, reduction="none", **options)
        loss = loss.squeeze(call.axes)
    else:
        shares = None if weight is None else call.along_classes(weight, call.x.chunks[call.axes[0]])
        operands = (call.x, target, shares, call.starts(), call.state())
        result = call.result if reduction == "none" else np.dtype(np.float64)
        loss = call.row_sum(pieces.loss_part, *operands, dtype=result, classes=call.classes, **options)
    if reduction == "none":
        return loss
    total = loss.sum(dtype=np.float64)
    if reduction == "sum":
        return total.astype(call.result)
    count = loss.size if dense else row_weights(target, weight, ignore_index).sum()
    return ratio(total, count, call.result)


def entropy(
    logits: Any,
    /,
    axis: int = -1,
    *,
    temperature: Any = 1.0,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> da.Array:
    """Return the entropy of the softmax of logits (in nats), lazily.

    The parameters and errors are those of `softmax` in this module.

    Returns
    -------
    dask.array.Array
        In the shape of `logits` without the axis.

    See Also
    --------
    fastsoftmax.entropy : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> fsd.entropy(da.zeros((2, 8), chunks=(1, 4))).compute().round(6)
    array([2.079442, 2.079442])
    """
    call = Call("entropy", logits, axis, temperature=temperature, where=where, dtype=dtype, threads=threads)
    if call.uncut:
        return call.whole(length=1).squeeze(call.axes)
    return call.row_sum(pieces.entropy_part, call.x, call.state(), call.where)


def top_k(
    logits: Any,
    k: int,
    /,
    axis: int = -1,
    *,
    log: bool = False,
    temperature: Any = 1.0,
    where: Any = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
) -> fastsoftmax.TopK:
    """Return the k greatest probabilities of each row and their classes, lazily.

    The parameters and errors are those of `softmax` in this module, and:

    Parameters
    ----------
    k : int
        How many, at most the length of the axis.
    log : bool, default False
        Give log-probabilities.

    Returns
    -------
    TopK
        A named tuple of two dask arrays, ``values`` and ``indices``, with length k along the axis, in
        descending order.

    See Also
    --------
    fastsoftmax.top_k : What it computes, with formula, special values and accuracy.

    Examples
    --------
    >>> import dask.array as da, fastsoftmax.dask as fsd
    >>> found = fsd.top_k(da.from_array([1.0, 3.0, 2.0, 0.0], chunks=2), 2)
    >>> found.values.compute().round(3), found.indices.compute()
    (array([0.644, 0.237]), array([1, 2]))
    """
    call = Call("top_k", logits, axis, temperature=temperature, where=where, dtype=dtype, threads=threads)
    k = operator.index(k)
    if not 0 <= k <= call.classes:
        raise ValueError(f"k must be between 0 and the length of the axis, {call.classes}, not {k}")
    if k == 0:
        none = call.x[(slice(None),) * call.axes[0] + (slice(0, 0),)]
        return fastsoftmax.TopK(none.astype(call.result), none.astype(np.intp))
    if call.uncut:
        both = call.top_k(k, log=log)
        return fastsoftmax.TopK(both["values"], both["indices"])
    found = call.candidates(k)
    values = call.block(pieces.probabilities_of, found, call.state(), length=k, log=log)
    return fastsoftmax.TopK(values, found["index"].astype(np.intp))
