"""The reliability diagram has axes, labels and legend, and goes where it is told."""

import sys
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
from conftest import Python
from numpy.typing import NDArray

matplotlib = pytest.importorskip("matplotlib", reason="Matplotlib is not installed")

from fastsoftmax.plot import reliability_diagram  # noqa: E402  (after the check that there is something to draw with)
from matplotlib.figure import Figure  # noqa: E402

Array = NDArray[Any]


@pytest.fixture(scope="module")
def data() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(scale=4, size=(5000, 10))
    return x, (x + rng.gumbel(scale=2, size=x.shape)).argmax(axis=1)


def test_what_is_drawn(data: tuple[Array, Array]) -> None:
    figure = reliability_diagram(*data, title="Twice too sure")
    upper, lower = figure.axes
    assert upper.get_title() == "Twice too sure"
    assert upper.get_ylabel().startswith("accuracy")
    assert "confidence" in lower.get_xlabel()
    assert "5,000 rows" in lower.get_xlabel()
    assert lower.get_ylabel() == "share of rows"
    legend = [text.get_text() for text in upper.get_legend().get_texts()]
    error = fs.calibration_error(*data, from_logits=True)
    assert any(f"before: T = 1, ECE {100 * error:.2f} %" in text for text in legend)
    temperature = fs.fit_temperature(*data)
    assert any(f"after: T = {temperature:.3g}, ECE" in text for text in legend)
    # The points are the bins.
    bins = fs.calibration_error(*data, from_logits=True, return_bins=True)
    points = upper.get_lines()[1].get_xydata()
    full = bins.counts > 0
    np.testing.assert_allclose(points, np.stack([bins.confidence, bins.accuracy], axis=1)[full])


def test_temperature_and_bins_can_be_given(data: tuple[Array, Array]) -> None:
    upper, _ = reliability_diagram(*data, temperature=2.5, n_bins=5).axes
    assert any("T = 2.5" in text.get_text() for text in upper.get_legend().get_texts())
    assert len(upper.get_lines()[1].get_xydata()) <= 5


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_to_a_file(data: tuple[Array, Array], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"reliability.{ending}"
    reliability_diagram(*data, to=path if ending == "png" else str(path))
    assert path.stat().st_size > 5000
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_into_a_figure_and_into_axes(data: tuple[Array, Array]) -> None:
    figure = Figure(figsize=(12, 6), layout="constrained")
    left, right = figure.subfigures(1, 2)
    assert reliability_diagram(*data, to=left) is left
    axes = right.subplots()
    assert reliability_diagram(*data, to=axes) is right
    assert len(figure.axes) == 4
    assert axes not in figure.axes
    figure.canvas.draw()
    with pytest.raises(ValueError, match="subplots"):
        reliability_diagram(*data, to=Figure().add_axes((0, 0, 1, 1)))


def test_few_rows() -> None:
    with pytest.warns(RuntimeWarning, match="bound"):
        figure = reliability_diagram([[1.0, 0.0]], [0])
    figure.canvas.draw()


def test_without_matplotlib(data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'fastsoftmax\[plot\]'"):
        reliability_diagram(*data)


def test_matplotlib_is_imported_late_and_pyplot_never(python: Python) -> None:
    python(
        "import sys, fastsoftmax.plot as p; assert 'matplotlib' not in sys.modules;"
        "p.reliability_diagram([[1.0, 0], [1, 0], [1, 0]], [0, 1, 0]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    python("import sys, fastsoftmax; assert 'fastsoftmax.plot' not in sys.modules")
