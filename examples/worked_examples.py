"""The two examples from which many people learn softmax, beside the other ways to compute them.

A classifier gives three classes the scores 2.0, 1.0 and 0.1; the probabilities are 0.659, 0.242 and 0.099,
so the answer is class 0. Four fruits score 1.5, 2.2, -0.3 and 0.8; that makes 27, 55, 4 and 14 per cent.

Run it::

    python examples/worked_examples.py

SciPy and PyTorch take part where they are installed.
"""

import importlib.util
from collections.abc import Callable, Iterator

import fastsoftmax as fs
import numpy as np
from numpy.typing import NDArray

LOGITS = np.array([2.0, 1.0, 0.1])
FRUIT = {"apple": 1.5, "orange": 2.2, "banana": -0.3, "avocado": 0.8}


def three_classes() -> tuple[NDArray[np.float64], int]:
    """Probabilities of three classes, and the class to choose.

    >>> probs, best = three_classes()
    >>> probs.round(3).tolist()
    [0.659, 0.242, 0.099]
    >>> best
    0
    """
    probs = fs.softmax(LOGITS)
    return probs, int(probs.argmax())


def fruit_shares() -> dict[str, int]:
    """Whole per cent for each fruit.

    >>> fruit_shares()
    {'apple': 27, 'orange': 55, 'banana': 4, 'avocado': 14}
    """
    probs = fs.softmax(list(FRUIT.values()))  # lists and Python numbers are computed in float64
    return {name: round(100 * float(p)) for name, p in zip(FRUIT, probs, strict=True)}


def numpy_formula(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax as it is usually written by hand.

    >>> numpy_formula(LOGITS).round(3).tolist()
    [0.659, 0.242, 0.099]
    """
    e = np.exp(x - x.max())
    e /= e.sum()
    return e


def ways() -> Iterator[tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]]:
    """Every way to compute a softmax that this Python has, by name."""
    yield "fastsoftmax", fs.softmax
    yield "NumPy's formula", numpy_formula
    if importlib.util.find_spec("scipy"):
        yield "SciPy", importlib.import_module("scipy.special").softmax
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        yield "torch.softmax", lambda x: torch.softmax(torch.from_numpy(x), dim=-1).numpy()


def main() -> None:
    """Print both examples, one line for each way."""
    fruit = np.array(list(FRUIT.values()))
    print("Three classes with logits", ", ".join(map(str, LOGITS)))
    for name, softmax in ways():
        probs = softmax(LOGITS)
        print(f"  {name:16}", "  ".join(f"{p:.3f}" for p in probs), f"  class {probs.argmax()}")
    print("Fruit:", ", ".join(f"{name} {score}" for name, score in FRUIT.items()))
    for name, softmax in ways():
        shares = zip(FRUIT, softmax(fruit), strict=True)
        print(f"  {name:16}", "  ".join(f"{fruit_name} {p:.0%}" for fruit_name, p in shares))


if __name__ == "__main__":
    main()
