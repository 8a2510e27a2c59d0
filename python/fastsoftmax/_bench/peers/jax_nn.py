"""JAX, jitted, on arrays that share NumPy's memory, each call waited for.

JAX has no `out=`, but a donated argument of the result's shape gives XLA its memory, which is the same: that
is how it runs where the result is reused. In place, the logits themselves are donated.
The number of threads is that of the CPUs which the process may use: `worker.py` sets those.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..cases import Case
from ..contender import Way
from ..data import Array, Data


class Reusing:
    """A jitted function that writes each result over the last one."""

    def __init__(self, f: Callable[..., Any], *args: Any) -> None:
        self.jitted = jax.jit(lambda out, *args: (out, f(*args))[1], donate_argnums=0, keep_unused=True)
        self.args = args
        self.last = jax.jit(f)(*args).block_until_ready()

    def __call__(self) -> Any:
        self.last = self.jitted(self.last, *self.args).block_until_ready()
        return self.last


class InPlace:
    """A jitted function that writes its result over its input."""

    def __init__(self, f: Callable[..., Any], x: Array) -> None:
        self.jitted = jax.jit(f, donate_argnums=0)
        self.x = x
        self.buffer = None

    def restore(self) -> None:
        self.buffer = None  # freed before the next is made
        self.buffer = jnp.array(self.x, copy=True).block_until_ready()

    def __call__(self) -> Any:
        self.buffer = self.jitted(self.buffer).block_until_ready()
        return self.buffer


def formulas(case: Case) -> list[Callable[..., Any]]:
    """Give what to jit: a function of the logits and of what else the case gives."""
    axis, k = case.axis, case.k
    softmax, log_softmax, lse = jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp

    def picked(rows: Any, labels: Any) -> Any:
        return jnp.take_along_axis(rows, labels[:, None], axis=1)[:, 0]

    if case.given == "where":
        return [
            lambda x, mask: softmax(x, axis, where=mask),
            lambda x, mask: softmax(jnp.where(mask, x, -jnp.inf), axis),
        ]
    if case.given == "temperature":
        return [lambda x, t: softmax(x / t, axis)]

    def entropy(x: Any) -> Any:
        logs = log_softmax(x, axis)
        return -(jnp.exp(logs) * logs).sum(axis)

    found: dict[str, list[Callable[..., Any]]] = {
        "softmax": [lambda x: softmax(x, axis)],
        "log_softmax": [lambda x: log_softmax(x, axis)],
        "logsumexp": [lambda x: lse(x, axis)],
        "log_prob": [
            lambda x, labels: picked(x, labels) - lse(x, 1),
            lambda x, labels: picked(log_softmax(x, 1), labels),
        ],
        "cross_entropy": [
            lambda x, labels: (lse(x, 1) - picked(x, labels)).mean(),
            lambda x, labels: -picked(log_softmax(x, 1), labels).mean(),
        ],
        "entropy": [lambda x: lse(x, axis) - (softmax(x, axis) * x).sum(axis), entropy],
        "top_k": [
            lambda x: jnp.exp(jax.lax.top_k(x, k)[0] - lse(x, axis, keepdims=True)),
            lambda x: jax.lax.top_k(softmax(x, axis), k)[0],
        ],
        "softmax_vjp": [lambda p, g: p * (g - (p * g).sum(axis, keepdims=True))],
    }
    return found[case.op]


class Peer:
    version = jax.__version__

    def __init__(self, threads: int) -> None:
        del threads
        jax.config.update("jax_enable_x64", True)  # or float64 would be float32 in silence

    def ways(self, case: Case, data: Data) -> list[Way]:
        args = [jax.device_put(a, may_alias=True) for a in data.given]
        names: dict[str, Any] = dict(zip("xy", args, strict=False))
        call = ", ".join(names)
        ways = []
        for i, f in enumerate(formulas(case)):  # its number goes into the name, for the JSON file
            ways.append(Way(f"f{i}({call}).block_until_ready()", {f"f{i}": jax.jit(f), **names}, np.asarray))
            if case.memory == "in place":
                in_place = InPlace(f, data.x)
                ways[-1] = Way("donating_x()", {"donating_x": in_place}, np.asarray, in_place.restore)
            elif case.memory == "reused" and case.op in {"softmax", "log_softmax", "softmax_vjp"}:
                step = Reusing(f, *args)
                ways.append(Way("donating_out()", {"donating_out": step}, np.array))
        return ways
