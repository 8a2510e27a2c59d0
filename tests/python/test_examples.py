"""The examples do what they say: their files, their values, their doctests, and themselves as commands."""

import doctest
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import fastsoftmax as fs
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DIGITS = EXAMPLES / "digits"

# What a script needs beyond the extra `test`; without it, its tests are skipped and say so.
SCRIPTS: dict[str, str | None] = {
    "worked_examples.py": None,
    "train_softmax_regression.py": None,
    "arrow_columns.py": None,
    "polars_columns.py": None,
    "xarray_labelled.py": None,
    "joblib_batches.py": None,
    "torch_tensors.py": "torch",
    "torch_dataloader.py": "torch",
    "jax_arrays.py": "jax",
    "ray_map_batches.py": "ray",
    "huggingface_datasets.py": "datasets",
    "pyspark_map_in_arrow.py": "pyspark",
    "digits/make_logits.py": None,
}

# What the recipes print, besides other things.
RECIPES = {
    "arrow_columns.py": ["2 + 2              0.731  0.269", "values read where Arrow keeps them: True"],
    "polars_columns.py": [
        "2 + 2              0.731  0.269",
        "[[0.659, 0.242, 0.099], [0.333, 0.333, 0.333]]",
    ],
    "xarray_labelled.py": ["('class', 'y', 'x') dtype: float32", "sums to 1: True", "lazy: True same: True"],
    "joblib_batches.py": ["5 batches", "the same bits as in one call: True"],
    "torch_tensors.py": ["shared: True", "close to torch's: True", "in place: True", "sum to 1.00"],
    "torch_dataloader.py": ["2 forked workers", "the same bits as in one call: True"],
    "jax_arrays.py": ["shared: True", "close to JAX's: True", "stays: bfloat16", "gradient within jit: True"],
    "ray_map_batches.py": ["1000 rows", "classes are those of the greatest logits: True"],
    "huggingface_datasets.py": ["1000 rows with logits, probs", "the same bits as in one call: True"],
    "pyspark_map_in_arrow.py": ["0 0.659  0.242  0.099", "1 -", "2 1.000", "3 0.500  0.500"],
}


def require(script: str) -> None:
    """Skip the test, with the reason, where this script cannot run."""
    package = SCRIPTS[script]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{script} needs {package}, which is not installed")
    if package == "pyspark" and shutil.which("java") is None:
        pytest.skip(f"{script} needs Java, which is not installed")


def run(script: str, *args: str) -> str:
    """Run a script as a user would and return what it printed."""
    require(script)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *args],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(script: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script that is no part of a package, but may import its neighbours."""
    require(script)
    monkeypatch.syspath_prepend(EXAMPLES)
    path = EXAMPLES / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.load(DIGITS / "logits.npy")


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.load(DIGITS / "labels.npy")


def test_digits_are_what_the_readme_says(logits: np.ndarray, labels: np.ndarray) -> None:
    assert logits.shape == (899, 10)
    assert logits.dtype == np.float32
    assert labels.shape == (899,)
    assert labels.dtype == np.int64
    assert np.isfinite(logits).all()
    assert set(labels.tolist()) == set(range(10))
    assert 0.92 < np.mean(logits.argmax(axis=1) == labels) < 0.95


def test_softmax_of_the_digits(logits: np.ndarray) -> None:
    probs = fs.softmax(logits)
    assert probs.dtype == np.float32
    assert probs.shape == logits.shape
    np.testing.assert_allclose(probs.sum(axis=1, dtype=np.float64), 1, atol=5e-7)
    np.testing.assert_array_equal(probs.argmax(axis=1), logits.argmax(axis=1))

    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs, exact, rtol=2.5e-7)  # 2 ULP of float32


def test_three_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, best = load("worked_examples.py", monkeypatch).three_classes()
    np.testing.assert_array_equal(probs.round(3), [0.659, 0.242, 0.099])
    assert best == 0


def test_fruit(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = load("worked_examples.py", monkeypatch).fruit_shares()
    assert shares == {"apple": 27, "orange": 55, "banana": 4, "avocado": 14}


def test_worked_examples_side_by_side() -> None:
    lines = run("worked_examples.py").splitlines()
    scores = [line for line in lines if "class 0" in line]
    fruit = [line for line in lines if "orange 55%" in line]
    assert len(scores) == len(fruit) >= 2  # fastsoftmax and NumPy's formula at least
    for line in scores:
        assert re.search(r"0\.659 +0\.242 +0\.099", line), line
    for line in fruit:
        assert re.search(r"apple 27% +orange 55% +banana 4% +avocado 14%", line), line


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "digits/make_logits.py"])
def test_doctests(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, tried = doctest.testmod(load(script, monkeypatch))
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("loss", ["log", "brier"])
def test_training_learns(loss: str) -> None:
    printed = run("train_softmax_regression.py", "--loss", loss, "--steps", "150")
    accuracy = re.search(r"accuracy ([\d.]+)%", printed)
    assert accuracy is not None, printed
    assert float(accuracy[1]) > 91


@pytest.mark.parametrize("script", RECIPES)
def test_recipe(script: str) -> None:
    printed = run(script)
    for text in RECIPES[script]:
        assert text in printed


def test_every_script_is_tested() -> None:
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    assert there == set(SCRIPTS)


def test_arrow_columns_of_any_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("arrow_columns.py", monkeypatch)
    import pyarrow as pa

    ragged = [[0.0, 1.0], None, [], [3.0, 3.0, 3.0], [2.0]]
    matrix = [[0.0, 1.0], None, [2.0, 2.0], [3.0, -3.0], [2.0, 0.5]]
    for softmax, rows, kind in (
        (module.softmax_list_column, ragged, pa.list_(pa.float64())),
        (module.softmax_list_column, ragged, pa.large_list(pa.float32())),
        (module.softmax_fixed_size_column, matrix, pa.list_(pa.float64(), 2)),
        (module.softmax_fixed_size_column, matrix, pa.list_(pa.float32(), 2)),
    ):
        column = pa.array(rows, type=kind)
        for start in range(len(rows) + 1):
            for stop in range(start, len(rows) + 1):
                got = softmax(column[start:stop])
                got.validate(full=True)
                want = [None if row is None else fs.softmax(row).tolist() for row in rows[start:stop]]
                assert len(got) == len(want)
                for have, expected in zip(got.to_pylist(), want, strict=True):
                    assert (have is None) == (expected is None)
                    if expected is not None:
                        np.testing.assert_allclose(have, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="1 values of the column are null"):
        module.softmax_list_column(pa.array([[1.0, None]]))
    with pytest.raises(ValueError, match="1 values of the column are null"):
        module.softmax_fixed_size_column(pa.array([[1.0, None]], type=pa.list_(pa.float64(), 2)))


def test_make_logits_makes_them_again(tmp_path: Path, logits: np.ndarray, labels: np.ndarray) -> None:
    run("digits/make_logits.py", "--to", str(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels)
    with np.load(tmp_path / "images.npz") as new, np.load(DIGITS / "images.npz") as old:
        assert sorted(new) == sorted(old) == ["digits", "pixels"]
        for name in old:
            np.testing.assert_array_equal(new[name], old[name])
    # Solvers change from version to version: the same classes, and close scores, not the same bits.
    again = np.load(tmp_path / "logits.npy")
    assert np.mean(again.argmax(axis=1) == logits.argmax(axis=1)) > 0.99
    np.testing.assert_allclose(again, logits, atol=0.05)
