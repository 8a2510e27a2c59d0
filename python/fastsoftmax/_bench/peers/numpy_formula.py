"""What one writes by hand, with every temporary reused that NumPy lets one reuse. One thread, always."""

from typing import Any

import numpy as np

from ..cases import Case
from ..contender import Way
from ..data import Array, Data


def softmax_into(x: Array, axis: int, out: Array) -> Array:
    np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis=axis, keepdims=True), out=out)


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    e /= e.sum(axis=axis, keepdims=True)
    return e


def softmax_half(x: Array, axis: int) -> Array:
    """Half precision through float32: NumPy's own is slower, and its sums overflow."""
    e = x.astype(np.float32)
    return softmax_into(e, axis, e).astype(x.dtype)


def log_softmax_into(x: Array, axis: int, out: Array) -> Array:
    np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    return np.subtract(out, np.log(np.exp(out).sum(axis=axis, keepdims=True)), out=out)


def log_softmax(x: Array, axis: int) -> Array:
    y = x - x.max(axis=axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


def logsumexp(x: Array, axis: int, scratch: Array) -> Array:
    top = x.max(axis=axis, keepdims=True)
    np.subtract(x, top, out=scratch)
    np.exp(scratch, out=scratch)
    total = np.log(scratch.sum(axis=axis, keepdims=True))
    return (total + top).squeeze(axis)


def log_prob(x: Array, labels: Array, scratch: Array) -> Array:
    return np.take_along_axis(x, labels[:, None], axis=1)[:, 0] - logsumexp(x, 1, scratch)


def entropy(x: Array, axis: int, scratch: Array) -> Array:
    """Logsumexp less the mean of the logits."""
    p = softmax_into(x, axis, scratch)
    top = x.max(axis=axis)
    # p of the largest logit is 1 / sum(exp(x - top)), so nothing needs adding up again
    lse = top - np.log(p.max(axis=axis))
    return lse - np.einsum("ij,ij->i", p, x)


def top_k(x: Array, k: int, scratch: Array) -> Array:
    n = x.shape[-1]
    rows = np.take_along_axis(x, np.argpartition(x, n - k, axis=-1)[:, n - k :], axis=-1)
    return np.exp(-np.sort(-rows, axis=-1) - logsumexp(x, -1, scratch)[:, None])


def masked_into(x: Array, mask: Array, axis: int, out: Array) -> Array:
    out.fill(-np.inf)
    np.copyto(out, x, where=mask)
    return softmax_into(out, axis, out)


def tempered_into(x: Array, t: Array, axis: int, out: Array) -> Array:
    return softmax_into(np.divide(x, t, out=out), axis, out)


def vjp_into(p: Array, g: Array, axis: int, out: Array) -> Array:
    np.multiply(p, g, out=out)
    np.subtract(g, out.sum(axis=axis, keepdims=True), out=out)
    return np.multiply(p, out, out=out)


class Peer:
    version = np.__version__

    def __init__(self, threads: int) -> None:
        del threads  # NumPy's loops have one

    def ways(self, case: Case, data: Data) -> list[Way]:
        axis = case.axis
        names: dict[str, Any] = globals() | {
            "x": data.x,
            "out": data.out,
            "labels": data.labels,
            "mask": data.mask,
            "t": data.temperature,
            "p": data.probs,
            "g": data.grad,
        }
        if case.op in {"softmax", "log_softmax"}:
            if case.dtype in {"float16", "bfloat16"}:
                return [Way(f"softmax_half(x, {axis})", names)]
            if case.given == "where":
                return [Way(f"masked_into(x, mask, {axis}, out)", names)]
            if case.given == "temperature":
                return [Way(f"tempered_into(x, t, {axis}, out)", names)]
            if case.memory == "in place":
                return [Way(f"{case.op}_into(out, {axis}, out)", names, prepare=data.restore)]
            if case.memory == "reused":
                return [Way(f"{case.op}_into(x, {axis}, out)", names)]
            return [Way(f"{case.op}(x, {axis})", names)]
        return {
            "logsumexp": [Way(f"logsumexp(x, {axis}, out)", names)],
            "log_prob": [Way("log_prob(x, labels, out)", names)],
            "cross_entropy": [Way("-log_prob(x, labels, out).mean()", names)],
            "entropy": [Way(f"entropy(x, {axis}, out)", names)],
            "top_k": [Way(f"top_k(x, {case.k}, out)", names)],
            "softmax_vjp": [Way(f"vjp_into(p, g, {axis}, out)", names)],
        }[case.op]
