"""Softmax of PyTorch tensors on the CPU, without copying them; bfloat16 too.

A CPU tensor of float16, float32 or float64 is an array for NumPy: ``np.asarray(tensor)`` shares its memory,
and ``torch.from_numpy`` shares the result's. NumPy has no bfloat16 of its own, so those two bytes travel as
int16 and are named bfloat16 (of ml_dtypes) on the other side.

Gradients do not pass through NumPy: detach, or write an autograd.Function around ``softmax_vjp``, as below.

Run it (needs PyTorch and ml_dtypes)::

    python examples/torch_tensors.py
"""

from typing import Any

import fastsoftmax as fs
import ml_dtypes
import numpy as np
import torch


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """View a CPU tensor as an array: no copy.

    >>> as_array(torch.zeros(2, dtype=torch.bfloat16)).dtype
    dtype(bfloat16)
    """
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return np.from_dlpack(tensor)  # as np.asarray, but it refuses where it would have to copy


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """View an array as a tensor: no copy."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def softmax(logits: torch.Tensor, dim: int = -1, **options: Any) -> torch.Tensor:
    """Softmax of a tensor, as a tensor.

    >>> softmax(torch.tensor([2.0, 1.0, 0.1])).numpy().round(3)
    array([0.659, 0.242, 0.099], dtype=float32)
    >>> softmax(torch.zeros(1, 4, dtype=torch.bfloat16))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]], dtype=torch.bfloat16)
    """
    return as_tensor(fs.softmax(as_array(logits), dim, **options))


class Softmax(torch.autograd.Function):
    """Softmax along the last dimension that gradients pass through.

    >>> x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    >>> torch.autograd.gradcheck(Softmax.apply, (x,))
    True
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        """Compute, and keep the probabilities: the gradient needs no logits."""
        probs = softmax(logits)
        ctx.save_for_backward(probs)
        return probs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """Compute p * (g - sum(g * p))."""
        (probs,) = ctx.saved_tensors
        return as_tensor(fs.softmax_vjp(as_array(probs), as_array(grad)))


def main() -> None:
    """Show that memory is shared, in both directions, and that bfloat16 arrives."""
    logits = torch.randn(1000, 512, generator=torch.Generator().manual_seed(0))
    view = as_array(logits)
    print("shared:", view.__array_interface__["data"][0] == logits.data_ptr())
    probs = softmax(logits)
    print("close to torch's:", bool(torch.allclose(probs, torch.softmax(logits, -1), rtol=1e-5)))
    fs.softmax(view, out=view)  # in place: the tensor now holds probabilities
    print("in place:", bool((logits == probs).all()))
    half = softmax(torch.randn(8, 128_256).to(torch.bfloat16))
    print("bfloat16 rows sum to", f"{half.double().sum(-1).mean():.2f}")


if __name__ == "__main__":
    main()
