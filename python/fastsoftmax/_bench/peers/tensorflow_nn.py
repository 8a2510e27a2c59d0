"""TensorFlow: its own operations eagerly, and the same compiled by XLA.

It has no `out=`. Eager calls on a CPU return when they are done, so nothing needs waiting for.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ..cases import Case
from ..contender import Way
from ..data import Array, Data


def array(t: Any) -> Array:
    result: Array = t.numpy()
    return result


def formulas(case: Case) -> list[Callable[..., Any]]:
    """Give what to call: a function of the logits and of what else the case gives."""
    axis, k = case.axis, case.k
    softmax, log_softmax, lse = tf.nn.softmax, tf.nn.log_softmax, tf.reduce_logsumexp
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits  # (labels, logits), one value a row

    if case.given == "where":
        return [lambda x, mask: softmax(tf.where(mask, x, tf.constant(float("-inf"), x.dtype)), axis)]
    if case.given == "temperature":
        return [lambda x, t: softmax(x / t, axis)]

    def entropy(x: Any) -> Any:
        logs = log_softmax(x, axis)
        return -tf.reduce_sum(tf.exp(logs) * logs, axis)

    def top_k(x: Any) -> Any:
        return tf.exp(tf.math.top_k(x, k).values - lse(x, axis, keepdims=True))

    found: dict[str, list[Callable[..., Any]]] = {
        "softmax": [lambda x: softmax(x, axis)],
        "log_softmax": [lambda x: log_softmax(x, axis)],
        "logsumexp": [lambda x: lse(x, axis)],
        "log_prob": [lambda x, labels: -loss(labels, x)],
        "cross_entropy": [lambda x, labels: tf.reduce_mean(loss(labels, x))],
        "entropy": [entropy, lambda x: lse(x, axis) - tf.reduce_sum(softmax(x, axis) * x, axis)],
        "top_k": [top_k, lambda x: tf.math.top_k(softmax(x, axis), k).values],
        "softmax_vjp": [lambda p, g: p * (g - tf.reduce_sum(p * g, axis, keepdims=True))],
    }
    return found[case.op]


class Peer:
    version = tf.__version__

    def __init__(self, threads: int) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def ways(self, case: Case, data: Data) -> list[Way]:
        names: dict[str, Any] = dict(zip("xy", map(tf.convert_to_tensor, data.given), strict=False))
        call = ", ".join(names)
        ways = []
        for i, f in enumerate(formulas(case)):  # its number goes into the name, for the JSON file
            compiled = tf.function(f, jit_compile=True)
            ways.append(Way(f"eager{i}({call})", {f"eager{i}": f, **names}, array))
            ways.append(Way(f"xla{i}({call})", {f"xla{i}": compiled, **names}, array))
        if case.op == "softmax" and not case.given:
            # without a Python function around it, for the smallest inputs
            ways[0] = Way(f"softmax(x, {case.axis})", {"softmax": tf.nn.softmax, **names}, array)
        return ways
