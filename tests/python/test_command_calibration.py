"""fit-temperature and calibrate: the library's numbers, on standard output, as JSON and as a picture."""

from __future__ import annotations

import json

import fastsoftmax as fs
import numpy as np
import pytest
from command_helpers import fail, run
from io_helpers import names, save


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Logits twice too sure, saved as x.npy in the working directory; their labels as l.npy."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1000, 7)).astype(np.float32) * 4
    labels = (x + rng.gumbel(scale=2, size=x.shape)).argmax(axis=1)
    save("x.npy", x)
    save("l.npy", labels)
    return x, labels


# -- fit-temperature -----------------------------------------------------------------------------------------


def test_fit_temperature(data):
    x, labels = data
    out, err = run("fit-temperature", "x.npy", "l.npy")
    temperature = fs.fit_temperature(x, labels)
    assert float(out) == temperature
    wide = x.astype(np.float64)
    before, after = (float(fs.cross_entropy(wide, labels, temperature=t)) for t in (1, temperature))
    assert err.startswith("fit-temperature: 1,000 rows of 7 classes in ")
    assert f"cross entropy {before:.4f} before, {after:.4f} after (nats)\n" in err
    out, err = run("fit-temperature", "x.npy", "l.npy", "--json", "--quiet")
    contents = json.loads(out)
    assert err == ""
    assert contents["temperature"] == temperature
    assert contents["at_bound"] is False
    assert (contents["rows"], contents["classes"]) == (1000, 7)


def test_fit_temperature_of_other_layouts(data):
    x, labels = data
    expected = fs.fit_temperature(x, labels)
    save("t.npy", x.T)
    assert float(run("fit-temperature", "t.npy", "l.npy", "--axis", 0)[0]) == expected
    save("f.npy", x, order="F")
    assert float(run("fit-temperature", "f.npy", "l.npy")[0]) == expected
    save("b.npy", x.astype(">f4"))
    assert float(run("fit-temperature", "b.npy", "l.npy")[0]) == expected
    with open("x.npy", "rb") as file:  # noqa: PTH123
        assert float(run("fit-temperature", "-", "l.npy", data=file.read())[0]) == expected
    with open("l.npy", "rb") as file:  # noqa: PTH123
        assert float(run("fit-temperature", "x.npy", "-", data=file.read())[0]) == expected
    weights = np.random.default_rng(0).random(1000)
    save("w.npy", weights)
    out, err = run("fit-temperature", "x.npy", "l.npy", "--weights", "w.npy")
    assert float(out) == fs.fit_temperature(x, labels, sample_weight=weights)
    assert "cross entropy" not in err


def test_fit_temperature_of_bfloat16(data):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, labels = data
    save("b.npy", x.astype(ml_dtypes.bfloat16))
    out, _ = run("fit-temperature", "b.npy", "l.npy", "--input-dtype", "bfloat16")
    assert float(out) == fs.fit_temperature(x.astype(ml_dtypes.bfloat16), labels)
    assert "say --input-dtype bfloat16" in fail("fit-temperature", "b.npy", "l.npy")


def test_a_bound_is_no_temperature_to_be_silent_about(data):
    x, _ = data
    save("l.npy", x.argmax(axis=1))
    out, err = run("fit-temperature", "x.npy", "l.npy", "--bounds", 0.5, 2, "--quiet", "--json")
    assert err.startswith("fastsoftmax: warning: fit_temperature returns a bound, 0.5: ")
    assert err.count("\n") == 1
    assert json.loads(out)["temperature"] == 0.5
    assert json.loads(out)["at_bound"] is True


# -- calibrate -----------------------------------------------------------------------------------------------


def test_calibrate(data):
    x, labels = data
    temperature = fs.fit_temperature(x, labels)
    out, err = run("calibrate", "x.npy", "l.npy")
    accuracy = np.mean(x.argmax(axis=1) == labels)
    assert err.startswith("calibrate: 1,000 rows of 7 classes in ")
    assert err.endswith(f"{100 * accuracy:.2f} % right\n")
    ece = [fs.calibration_error(x / np.float32(t), labels, from_logits=True) for t in (1, temperature)]
    lines = [line.split() for line in out.decode().splitlines()]
    assert lines[0] == ["before", "after"]
    assert lines[1] == ["temperature", "1", f"{temperature:.4g}"]
    assert lines[2] == ["ECE", f"{100 * ece[0]:.2f}", "%", f"{100 * ece[1]:.2f}", "%"]
    assert ece[1] < ece[0] / 2


def test_calibrate_as_json_with_a_temperature_from_elsewhere(data):
    x, labels = data
    out, err = run(
        "calibrate", "x.npy", "l.npy", "--temperature", 1.5, "--bins", 5, "--json", "--quiet", "--threads", 1
    )
    assert err == ""
    contents = json.loads(out)
    assert contents["fitted"] is False
    assert (contents["rows"], contents["classes"], contents["bins"], contents["threads"]) == (1000, 7, 5, 1)
    assert contents["accuracy"] == np.mean(x.argmax(axis=1) == labels)
    wide = x.astype(np.float64)
    for name, t in (("before", 1.0), ("after", 1.5)):
        got = contents[name]
        assert got["temperature"] == t
        for key, norm in (("ece", "l1"), ("mce", "max")):
            expected = fs.calibration_error(wide / t, labels, n_bins=5, norm=norm, from_logits=True)
            assert got[key] == pytest.approx(expected, rel=1e-12)
        assert got["cross_entropy"] == pytest.approx(fs.cross_entropy(wide, labels, temperature=t), rel=1e-12)


@pytest.mark.usefixtures("data")
def test_what_json_has_no_number_for():
    save("x.npy", np.zeros((0, 7), np.float32))
    save("l.npy", np.zeros(0, np.int64))
    assert "no rows" in fail("calibrate", "x.npy", "l.npy")
    out, _ = run("calibrate", "x.npy", "l.npy", "--json", "--temperature", 2)
    assert json.loads(out)["accuracy"] is json.loads(out)["after"]["ece"] is None
    save("x.npy", np.array([[0, -np.inf]]))
    save("l.npy", np.array([1]))
    out, _ = run("calibrate", "x.npy", "l.npy", "--json", "--temperature", 2)
    assert json.loads(out)["before"]["cross_entropy"] is None
    assert json.loads(out)["before"]["ece"] == 1


@pytest.mark.parametrize("ending", ["png", "SVG", "pdf"])
@pytest.mark.usefixtures("data")
def test_picture(tmp_path, ending):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    picture = tmp_path / f"reliability.{ending}"
    arguments = ("calibrate", "x.npy", "l.npy", "--plot", picture.name, "--title", "Twice too sure")
    out, _ = run(*arguments)
    assert b"ECE" in out
    first = {"png": b"\x89PNG", "SVG": b"<?xml", "pdf": b"%PDF-"}[ending]
    assert picture.read_bytes().startswith(first)
    assert names(tmp_path) == ["l.npy", picture.name, "x.npy"]
    picture.write_bytes(b"mine")
    assert "--force replaces it" in fail(*arguments)
    assert picture.read_bytes() == b"mine"
    run(*arguments, "--force")
    assert picture.read_bytes().startswith(first)


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit-temperature", "x.npy"], "LABELS.npy"),
        (["fit-temperature", "x.npy", "l.npy", "--bounds", "2", "1"], "2 is not below 1"),
        (["fit-temperature", "x.npy", "l.npy", "--bounds", "0", "1"], "greater than 0"),
        (["fit-temperature", "-", "-"], "only one of the inputs"),
        (["calibrate", "x.npy", "l.npy", "--bins", "0"], "at least 1"),
        (["calibrate", "x.npy", "l.npy", "--temperature", "0"], "greater than 0"),
    ],
)
@pytest.mark.usefixtures("data")
def test_wrong_usage(arguments, message):
    assert message in fail(*arguments, code=2)


@pytest.mark.usefixtures("data")
def test_pictures_that_cannot_be_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    assert "one of " in fail("calibrate", "x.npy", "l.npy", "--plot", "picture.docx", code=2)
    assert "one of " in fail("calibrate", "x.npy", "l.npy", "--plot", "-", code=2)
    assert "does not exist" in fail("calibrate", "x.npy", "l.npy", "--plot", "nowhere/picture.png")
    assert names(tmp_path) == ["l.npy", "x.npy"]


@pytest.mark.usefixtures("data")
def test_without_matplotlib(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError")  # found first: `python -m` looks here
    message = fail("calibrate", "x.npy", "l.npy", "--plot", "picture.png")
    assert "pip install 'fastsoftmax[plot]'" in message
    run("calibrate", "x.npy", "l.npy")


def test_inputs_that_do_not_fit(data):
    x, labels = data
    save("few.npy", labels[:-1])
    save("one.npy", x[:, 0])
    save("bad.npy", np.where(np.arange(1000) == 17, 7, labels))
    save("float.npy", labels.astype(np.float32))
    save("nan.npy", np.where(np.arange(1000) == 17, np.nan, x.T).T)
    for command in ("fit-temperature", "calibrate"):
        assert "missing.npy: No such file" in fail(command, "missing.npy", "l.npy")
        assert "missing.npy: No such file" in fail(command, "x.npy", "missing.npy")
        assert "labels has shape (999,)" in fail(command, "x.npy", "few.npy")
        assert "label 7 of row 17" in fail(command, "x.npy", "bad.npy")
        assert "labels must be integers" in fail(command, "x.npy", "float.npy")
        assert "row 17 hold NaN" in fail(command, "nan.npy", "l.npy")
    assert "needs 2, rows and classes" in fail("calibrate", "one.npy", "l.npy")
    assert "out of bounds" in fail("fit-temperature", "x.npy", "l.npy", "--axis", 2)
    with open("x.npy", "rb") as file:  # noqa: PTH123
        short = file.read()[:-1]
    assert "<stdin>: is truncated" in fail("calibrate", "-", "l.npy", data=short)
