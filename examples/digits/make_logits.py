"""Make the real input of the examples: logits of a digit recogniser.

Scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels: logistic regression learns the first half
and scores the second. Writes three small files, which are committed so that nobody needs scikit-learn to
use them::

    python examples/digits/make_logits.py            # beside this script
    python examples/digits/make_logits.py --to DIR
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).resolve().parent


def make(to: Path) -> float:
    """Write the three files and return the classifier's accuracy on the second half."""
    pixels, digits = load_digits(return_X_y=True)
    half = len(digits) // 2

    # No shuffle and no random start: lbfgs from zero is deterministic.
    # Pixels go to 0..1 from 0..16, so that the solver converges.
    classifier = LogisticRegression(max_iter=1_000)
    classifier.fit(pixels[:half] / 16.0, digits[:half])
    logits = classifier.decision_function(pixels[half:] / 16.0)

    to.mkdir(parents=True, exist_ok=True)
    np.save(to / "logits.npy", logits.astype(np.float32))
    np.save(to / "labels.npy", digits[half:].astype(np.int64))
    # The images themselves, for train_softmax_regression.py. Every pixel is a whole number from 0 to 16.
    np.savez_compressed(to / "images.npz", pixels=pixels.astype(np.uint8), digits=digits.astype(np.uint8))
    return float(np.mean(logits.argmax(axis=1) == digits[half:]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=HERE, help="folder to write to (default: this one)")
    folder = parser.parse_args().to
    print(f"right for {make(folder):.1%} of the second half; logits.npy, labels.npy, images.npz in {folder}")


if __name__ == "__main__":
    main()
