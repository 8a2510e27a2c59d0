"""Vector-Jacobian products, and softmax of segments."""

from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
from reference import (
    BFLOAT16,
    FLOATS,
    bits,
    exact,
)

INF, NAN = np.inf, np.nan

# ---- Gradients ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2)])
def test_vector_jacobian_products(dtype: np.dtype[Any], axis: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (3, 70, 5)).astype(dtype)
    grad = rng.normal(0, 1, x.shape).astype(dtype)
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name, float(np.finfo(np.float64).eps))
    unit = 2.0**-23 if dtype == np.float32 else unit
    p, g = fs.softmax(x, axis), exact(grad)
    total = (g * exact(p)).sum(axis, keepdims=True)
    result = fs.softmax_vjp(p, grad, axis)
    assert result.dtype == dtype
    scale = exact(p) * np.maximum(abs(g), abs(total))
    # Subnormal float16 have fewer bits.
    least = 2.0**-24 if dtype == np.float16 else 0
    assert (np.abs(exact(result) - exact(p) * (g - total)) <= 2 * unit * scale + least).all()
    logs = fs.log_softmax(x, axis)
    total = g.sum(axis, keepdims=True)
    result = fs.log_softmax_vjp(logs, grad, axis)
    assert result.dtype == dtype
    scale = np.maximum(abs(g), np.exp(exact(logs)) * abs(total))
    assert (np.abs(exact(result) - (g - np.exp(exact(logs)) * total)) <= 2 * unit * scale + least).all()


def test_vector_jacobian_products_against_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x, grad, step = rng.normal(0, 1, 6), rng.normal(0, 1, 6), 1e-6
    for function, vjp in ((fs.softmax, fs.softmax_vjp), (fs.log_softmax, fs.log_softmax_vjp)):
        sides = [function(x + sign * step * np.eye(6)) for sign in (1, -1)]
        expected = (sides[0] - sides[1]) @ grad / (2 * step)
        np.testing.assert_allclose(vjp(function(x), grad), expected, atol=1e-9)


def test_vector_jacobian_products_options() -> None:
    p = fs.softmax(np.random.default_rng(0).normal(0, 1, (4, 5)))
    grad = np.arange(5.0)
    expected = fs.softmax_vjp(p, np.tile(grad, (4, 1)))
    assert bits(fs.softmax_vjp(p, grad)) == bits(expected)
    assert fs.softmax_vjp(np.asfortranarray(p), grad).flags.f_contiguous
    for other, dtype in (("f4", "f8"), ("f8", "f8"), ("i8", "f8")):
        assert fs.softmax_vjp(p, grad.astype(other)).dtype == dtype
    assert fs.softmax_vjp(p.astype("f2"), grad.astype(BFLOAT16)).dtype == np.float32
    own = p.copy()
    assert fs.softmax_vjp(own, grad, out=own) is own
    assert bits(own) == bits(expected)
    with pytest.raises(ValueError, match="grad"):
        fs.softmax_vjp(p, np.zeros(4))
    with pytest.raises(ValueError, match="out has shape"):
        fs.log_softmax_vjp(p, grad, out=np.empty(5))
    with pytest.raises(TypeError, match="log_probs has dtype complex"):
        fs.log_softmax_vjp([1j], [1.0])
    with pytest.raises(np.exceptions.AxisError):
        fs.softmax_vjp(p, grad, 2)


# ---- Segments ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_segments(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 1000).astype(dtype)
    offsets = np.concatenate([[3], np.sort(rng.integers(3, 990, 50)), [990]])
    temperature = rng.uniform(0.5, 2, len(offsets) - 1)
    for kind in "iIlL":
        result = fs.softmax_segments(x, offsets.astype(kind), temperature=temperature)
        assert result.dtype == dtype
        assert (result[:3] == 0).all()
        assert (result[990:] == 0).all()
        for start, end, one in zip(offsets[:-1], offsets[1:], temperature, strict=True):
            assert bits(result[start:end]) == bits(fs.softmax(x[start:end], temperature=one))
    own = x.copy()
    assert fs.softmax_segments(own, offsets, out=own) is own
    assert bits(own) == bits(fs.softmax_segments(x[::-1].copy()[::-1], offsets))
    assert fs.softmax_segments(x, [0, 1000], dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    ("offsets", "error", "message"),
    [
        ([0, 3, 2, 5], ValueError, "offsets"),
        ([0, 6], IndexError, "6"),
        ([-1, 5], IndexError, "-1"),
        ([0.0, 5.0], TypeError, "offsets"),
        ([], (ValueError, TypeError), "offsets"),
        ([[0, 5]], ValueError, "offsets"),
    ],
)
def test_segments_refuses(offsets: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fs.softmax_segments(np.zeros(5), offsets)
