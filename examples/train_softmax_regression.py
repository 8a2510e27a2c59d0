"""Train a digit recogniser with NumPy and the two gradients of fastsoftmax.

A softmax regression is one matrix product and one softmax. What makes it trainable is the gradient of the
loss with respect to the logits, and that is what the vector-Jacobian products give::

    logits  = pixels @ weights + bias
    log p   = log_softmax(logits)                       loss = -mean(log p[label])
    d logits = log_softmax_vjp(log p, d log p)          d log p = -1/rows at the labels, 0 elsewhere

``--loss brier`` trains on the squared error of the probabilities instead, through ``softmax_vjp``.
Run it; the digits are in ``examples/digits/images.npz``, so nothing else is needed::

    python examples/train_softmax_regression.py [--loss log|brier] [--steps 300]
"""

import argparse
from pathlib import Path

import fastsoftmax as fs
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.intp]

IMAGES = Path(__file__).resolve().parent / "digits" / "images.npz"
CLASSES = 10


def load() -> tuple[Floats, Labels]:
    """Pixels from 0 to 1, one row an image, and the digit that each shows."""
    with np.load(IMAGES) as file:
        return file["pixels"].astype(np.float32) / 16, file["digits"].astype(np.intp)


def log_loss(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Mean of -log p[label], and its gradient with respect to the logits.

    Equal logits say nothing, so the loss is log(2), and the gradient pulls the right class up:

    >>> loss, grad = log_loss(np.zeros((1, 2), np.float32), np.array([1]))
    >>> round(loss, 4), grad.round(4).tolist()
    (0.6931, [[0.5, -0.5]])
    """
    log_probs = fs.log_softmax(logits)
    rows = np.arange(len(labels))
    upstream = np.zeros_like(log_probs)
    upstream[rows, labels] = -1 / len(labels)
    return -float(log_probs[rows, labels].mean()), fs.log_softmax_vjp(log_probs, upstream)


def brier_loss(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Mean squared distance of the probabilities from the truth, and its gradient.

    >>> loss, grad = brier_loss(np.zeros((1, 2), np.float32), np.array([1]))
    >>> round(loss, 4), grad.round(4).tolist()
    (0.5, [[0.5, -0.5]])
    """
    probs = fs.softmax(logits)
    error = probs.copy()
    error[np.arange(len(labels)), labels] -= 1
    loss = float(np.square(error).sum(axis=1).mean())
    return loss, fs.softmax_vjp(probs, error * np.float32(2 / len(labels)))


LOSSES = {"log": log_loss, "brier": brier_loss}


def train(pixels: Floats, labels: Labels, loss: str = "log", steps: int = 300) -> tuple[Floats, Floats]:
    """Gradient descent with momentum over the whole set, from zero, so every run is the same."""
    weights = np.zeros((pixels.shape[1], CLASSES), np.float32)
    bias = np.zeros(CLASSES, np.float32)
    speed_w, speed_b = np.zeros_like(weights), np.zeros_like(bias)
    for step in range(steps):
        value, d_logits = LOSSES[loss](pixels @ weights + bias, labels)
        # 0.9 and 0.5: the usual momentum, and a step that is stable for pixels between 0 and 1.
        speed_w *= 0.9
        speed_w -= 0.5 * (pixels.T @ d_logits)
        speed_b *= 0.9
        speed_b -= 0.5 * d_logits.sum(axis=0)
        weights += speed_w
        bias += speed_b
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {value:.4f}")
    return weights, bias


def main() -> None:
    """Train on the first half of the digits, then ask about the second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, default="log")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    pixels, labels = load()
    half = len(labels) // 2
    weights, bias = train(pixels[:half], labels[:half], args.loss, args.steps)

    logits = pixels[half:] @ weights + bias
    right = float(np.mean(logits.argmax(axis=1) == labels[half:]))
    print(f"accuracy {right:.1%} on {len(logits)} digits never seen")
    print(f"cross entropy there {fs.cross_entropy(logits, labels[half:]):.4f} nats")


if __name__ == "__main__":
    main()
