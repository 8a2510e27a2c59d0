"""Softmax of JAX arrays on the CPU: outside of jit without a copy, inside of jit by a callback; bfloat16 too.

``np.asarray(x)`` of a JAX array on the CPU is a read-only view of it, bfloat16 included, as JAX and
fastsoftmax both mean that of ml_dtypes. ``jnp.asarray`` brings the result back.

Run it (needs JAX)::

    python examples/jax_arrays.py
"""

from typing import Any

import fastsoftmax as fs
import jax
import jax.numpy as jnp
import numpy as np


def softmax(logits: jax.Array, **options: Any) -> jax.Array:
    """Softmax of an array that has been computed.

    >>> np.asarray(softmax(jnp.array([2.0, 1.0, 0.1]))).round(3)
    array([0.659, 0.242, 0.099], dtype=float32)
    >>> softmax(jnp.zeros((1, 4), jnp.bfloat16)).dtype
    dtype(bfloat16)
    """
    return jnp.asarray(fs.softmax(np.asarray(logits), **options))


@jax.custom_vjp
def traced_softmax(logits: jax.Array) -> jax.Array:
    """Softmax along the last axis within jit, vmap and grad: XLA calls back, with the array in memory.

    >>> x = jnp.array([2.0, 1.0, 0.1])
    >>> bool(jnp.allclose(jax.jit(traced_softmax)(x), jax.nn.softmax(x), rtol=1e-6))
    True
    """
    shape = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    return jax.pure_callback(_on_host, shape, logits, vmap_method="broadcast_all")


def _on_host(logits: Any) -> np.ndarray:
    return fs.softmax(np.asarray(logits))


def _forward(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    probs = traced_softmax(logits)
    return probs, probs


def _backward(probs: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    # Left to XLA, which fuses it with what comes next; fs.softmax_vjp would be a second callback.
    return (probs * (grad - (grad * probs).sum(-1, keepdims=True)),)


traced_softmax.defvjp(_forward, _backward)


def main() -> None:
    """Compare with JAX's own, as it is, in bfloat16, within jit, and the gradient."""
    logits = jax.random.normal(jax.random.key(0), (100, 512)) * 4
    view = np.asarray(logits)
    print("shared:", view.ctypes.data == logits.unsafe_buffer_pointer())
    print("close to JAX's:", bool(jnp.allclose(softmax(logits), jax.nn.softmax(logits), rtol=1e-4)))
    print("bfloat16 stays:", softmax(logits.astype(jnp.bfloat16)).dtype)

    def loss(function: Any) -> Any:
        return jax.jit(jax.grad(lambda x: (function(x) ** 2).sum()))(logits)

    same = jnp.allclose(loss(traced_softmax), loss(jax.nn.softmax), rtol=1e-3, atol=1e-6)
    print("gradient within jit:", bool(same))


if __name__ == "__main__":
    main()
