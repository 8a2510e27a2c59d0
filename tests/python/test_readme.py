"""README.md: its example does what it says, and the commands that it names exist."""

import doctest
import re
from pathlib import Path

import fastsoftmax as fs
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def test_example() -> None:
    # Between the fences only: the closing one would be read as output.
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for number, example in enumerate(examples):
        test = doctest.DocTestParser().get_doctest(example, {}, f"README.md example {number}", str(README), 0)
        assert test.examples
        failed, _ = doctest.DocTestRunner().run(test)
        assert failed == 0


def test_files_and_names() -> None:
    text = README.read_text(encoding="utf-8")
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    for path in ("tests/run", "examples/digits/logits.npy", "benches/versus.py"):
        assert path in text
        assert (ROOT / path).exists(), path


def test_first_command_from_python() -> None:
    logits = np.load(ROOT / "examples/digits/logits.npy")
    probs = fs.softmax(logits)
    np.testing.assert_allclose(probs.sum(axis=1, dtype=np.float64), 1, atol=5e-7)
    np.testing.assert_array_equal(probs.argmax(axis=1), logits.argmax(axis=1))
