"""Temperatures are SciPy's minimisers, calibration errors those of the formula, and odd data are named."""

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import hypothesis
import ml_dtypes
import numpy as np
import pytest
from fastsoftmax import _temperature
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

Array = NDArray[Any]
INF, NAN = np.inf, np.nan
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


def nll(x: Array, y: Array, temperature: float, weights: Array | None = None) -> float:
    z = x.astype(np.float64) / temperature
    return float(np.average(logsumexp(z, axis=1) - z[np.arange(len(y)), y], weights=weights))


def scipys(x: Array, y: Array, weights: Array | None = None) -> float:
    """Minimise the exact NLL by SciPy's general method."""
    ends = (np.log(1e-3), np.log(1e3))
    options = {"xatol": 1e-12, "maxiter": 1000}
    found = minimize_scalar(
        lambda u: nll(x, y, np.exp(u), weights), bounds=ends, method="bounded", options=options
    )
    return float(np.exp(found.x))


def sampled(
    rng: np.random.Generator, rows: int, classes: int, spread: float, temperature: float
) -> tuple[Array, Array]:
    """Draw logits, and labels as if their temperature were the given one."""
    x = rng.normal(size=(rows, classes)) * spread
    return x.astype(np.float32), (x / temperature + rng.gumbel(size=x.shape)).argmax(axis=1)


# -- fit_temperature -----------------------------------------------------------------------------------------


SIZES = [(50, 3), (1000, 10), (1000, 200)]


@pytest.mark.parametrize(
    ("rows", "classes", "spread"),
    [*((*size, spread) for size in SIZES for spread in (0.2, 1, 5)), (300_000, 4, 1)],
)
@pytest.mark.parametrize("temperature", [0.3, 1, 4])
def test_minimises(rows: int, classes: int, spread: float, temperature: float) -> None:
    x, y = sampled(np.random.default_rng(rows), rows, classes, spread, temperature)
    got, want = fs.fit_temperature(x, y), scipys(x, y)
    assert got == pytest.approx(want, rel=1e-6) or nll(x, y, got) <= nll(x, y, want)
    assert nll(x, y, got) <= nll(x, y, want) + 1e-13


def test_digits() -> None:
    x, y = np.load(DIGITS / "logits.npy"), np.load(DIGITS / "labels.npy")
    got = fs.fit_temperature(x, y)
    assert isinstance(got, float)
    assert got == pytest.approx(scipys(x, y), rel=1e-6)
    before, after = (fs.calibration_error(fs.softmax(x, temperature=t), y) for t in (1.0, got))
    assert after < before / 3


def test_equal_shares_are_reached() -> None:
    # Right three times out of four: the probability is 3/4 at margin/T = log(3).
    x = np.array([[3.0, 0.0]] * 4)
    assert fs.fit_temperature(x, [0, 0, 1, 0]) == pytest.approx(3 / np.log(3), rel=1e-9)


@hypothesis.given(st.integers(0, 2**32), st.integers(2, 30), st.integers(2, 6), st.floats(0.01, 100))
def test_slope_is_zero_or_end(seed: int, rows: int, classes: int, spread: float) -> None:
    x, y = sampled(np.random.default_rng(seed), rows, classes, spread, spread)
    x = x.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        t = fs.fit_temperature(x, y)
    assert 1e-3 <= t <= 1e3
    # No temperature nearby is better, beyond what float64 can tell.
    here = nll(x, y, t)
    for other in (t * 0.999, t * 1.001, t * 0.5, t * 2):
        if 1e-3 <= other <= 1e3:
            assert here <= nll(x, y, other) + 1e-14 * (1 + here)


def test_weights() -> None:
    rng = np.random.default_rng(3)
    x, y = sampled(rng, 500, 5, 2, 1.5)
    weights = rng.integers(0, 4, 500)
    repeated = fs.fit_temperature(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    assert fs.fit_temperature(x, y, sample_weight=weights) == pytest.approx(repeated, rel=1e-8)
    assert fs.fit_temperature(x, y, sample_weight=weights * 1e300) == pytest.approx(repeated, rel=1e-8)
    assert fs.fit_temperature(x, y, sample_weight=np.full(500, 1e-300)) == pytest.approx(
        fs.fit_temperature(x, y), rel=1e-8
    )
    # Rows of weight 0 take no part, whatever they hold.
    x[weights == 0] = rng.choice([NAN, INF, -INF], (int((weights == 0).sum()), 5))
    assert fs.fit_temperature(x, y, sample_weight=weights) == pytest.approx(repeated, rel=1e-8)


def test_many_rows_of_which_the_sample_is_bad() -> None:
    rows = 300_000
    x, y = sampled(np.random.default_rng(4), rows, 3, 2, 2)
    want = fs.fit_temperature(x, y)
    weights = np.ones(rows)
    weights[2::4] = 0  # all that the sample would take
    assert 1.8 < fs.fit_temperature(x, y, sample_weight=weights) < 2.2
    x[2::4] = NAN
    assert 1.8 < fs.fit_temperature(x, y, sample_weight=weights) < 2.2
    with pytest.raises(ValueError, match="row 2 hold NaN"):
        fs.fit_temperature(x, y)
    x[2::4] = 0
    y[2::4] = 0
    assert fs.fit_temperature(x, y) == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8, ">f4"])
def test_dtypes_axes_and_layouts(dtype: Any) -> None:
    x, y = sampled(np.random.default_rng(5), 600, 7, 4, 2)
    x = x.astype(dtype)
    want = scipys(x.astype(np.float64), y)
    for label in (np.int8, np.uint64, ">i4"):
        assert fs.fit_temperature(x, y.astype(label)) == pytest.approx(want, rel=1e-6)
    cube, labels = x.reshape(20, 30, 7), y.reshape(20, 30)
    assert fs.fit_temperature(np.moveaxis(cube, 2, 1), labels, axis=1) == pytest.approx(want, rel=1e-6)
    assert fs.fit_temperature(np.moveaxis(cube, 2, 0), labels, 0, threads=1) == pytest.approx(want, rel=1e-6)
    assert fs.fit_temperature(np.asfortranarray(x)[::-1], y[::-1]) == pytest.approx(want, rel=1e-6)


def test_same_with_any_number_of_threads() -> None:
    x, y = sampled(np.random.default_rng(6), 5000, 50, 2, 2)
    assert fs.fit_temperature(x, y, threads=1) == fs.fit_temperature(x, y, threads=3)


def test_impossible_classes() -> None:
    x, y = sampled(np.random.default_rng(7), 400, 4, 3, 2)
    wide = np.concatenate([x, np.full((400, 2), -INF, np.float32)], axis=1)
    assert fs.fit_temperature(wide, y) == pytest.approx(fs.fit_temperature(x, y), rel=1e-9)


@pytest.mark.parametrize("classes", [50, 150, 3000])
@pytest.mark.parametrize("rows", [1, 40, 100_000])
def test_few_and_many_classes_are_one(classes: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = min(rows, 10_000_000 // classes)
    x, y = sampled(np.random.default_rng(classes), rows, classes, 3, 2)
    y[0] = x[0].argmin()  # so that no single row is separable
    weights = np.random.default_rng(0).random(rows)
    temperatures = []
    for few in (0, 10_000):
        monkeypatch.setattr(_temperature, "FEW", few)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            temperatures.append(fs.fit_temperature(x, y, sample_weight=weights))
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-7)


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize(
    ("x", "y", "end", "why"),
    [
        ([[1.0, 0], [0, 1]], [0, 1], 1e-3, "separable"),
        ([[1.0, 0], [0, 1], [0, 0]], [0, 1, 0], 1e-3, "separable"),
        ([[1.0, 0], [0, 1], [0, 0]] * 200, [0, 1, 0] * 200, 1e-3, "separable"),
        ([[1e300, 0], [0, 1e300]], [0, 1], 1e-3, "separable"),
        ([[1e-9, 0], [0, 1e-9]], [0, 1], 1e-3, "separable"),
        ([[1.0, 0], [0, 1]], [1, 0], 1e3, "no better than equal"),
        ([[1.0, 0], [0, 1]], [0, 0], 1e3, "no better than equal"),
        ([[1e306, 0], [0, 1]], [1, 0], 1e3, "no better than equal"),
        ([[1.0, 1], [2, 2]], [1, 0], 1e3, "same at any temperature"),
    ],
)
def test_ends_at_a_bound(
    x: Any, y: Any, end: float, why: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_temperature, "FEW", few)
    with pytest.warns(RuntimeWarning, match=why) as caught:
        assert fs.fit_temperature(x, y) == end
    assert caught[0].filename == __file__
    inner = (0.5, 2.0)
    with pytest.warns(RuntimeWarning, match=why):
        assert fs.fit_temperature(x, y, bounds=inner) == inner[0 if end < 1 else 1]


def test_bounds() -> None:
    x, y = sampled(np.random.default_rng(8), 1000, 4, 3, 2)
    t = fs.fit_temperature(x, y)
    assert fs.fit_temperature(x, y, bounds=(t / 2, t * 1.01)) == pytest.approx(t, rel=1e-8)
    assert fs.fit_temperature(x, y, bounds=(1e-30, 1e30)) == pytest.approx(t, rel=1e-8)
    for low, high in ((t * 1.01, 5.0), (0.01, t * 0.99)):
        with pytest.warns(RuntimeWarning, match="returns a bound"):
            assert fs.fit_temperature(x, y, bounds=(low, high)) in (low, high)
    for wrong in ((0, 1), (2, 1), (1, 1), (-1, 1), (NAN, 1), (1, INF)):
        with pytest.raises(ValueError, match="0 < low < high < inf"):
            fs.fit_temperature(x, y, bounds=wrong)


@pytest.mark.parametrize(
    ("x", "y", "kwargs", "error", "match"),
    [
        ([[1, NAN], [0, 1]], [0, 1], {}, ValueError, "row 0 hold NaN"),
        ([[1, 0], [0, INF]], [0, 1], {}, ValueError, "row 1 hold inf"),
        ([[1, 0], [0, -INF]], [0, 1], {}, ValueError, "row 1 has the logit -inf at its label 1"),
        ([[-INF, -INF]], [0], {}, ValueError, "row 0 has the logit -inf"),
        ([[1, 2]], [2], {}, IndexError, "label 2 of row 0 is out of range for 2 classes"),
        ([[1, 2], [3, 4]], [0, -1], {}, IndexError, "label -1 of row 1"),
        (np.ones((2, 3, 4)), np.full((2, 4), 7), {"axis": 1}, IndexError, r"label 7 of row \(0, 0\)"),
        ([[1, 2]], [0.0], {}, TypeError, "integers, not float64"),
        ([[1, 2]], [True], {}, TypeError, "integers, not bool"),
        ([[1, 2]], [0, 1], {}, ValueError, r"shape \(2,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), {}, ValueError, "no rows"),
        (np.zeros((3, 0)), np.zeros(3, int), {}, IndexError, "0 classes"),
        (np.ma.ones((2, 2)), [0, 1], {}, TypeError, "masked"),
        (np.ones((2, 2), complex), [0, 1], {}, TypeError, "complex128"),
        (np.ones(2), 0, {"axis": 1}, np.exceptions.AxisError, "1"),
        ([[1, 2]], [0], {"sample_weight": [0]}, ValueError, "0 for every row"),
        ([[1, 2]], [0], {"sample_weight": [-1]}, ValueError, "negative"),
        ([[1, 2]], [0], {"sample_weight": [NAN]}, ValueError, "NaN"),
        ([[1, 2]], [0], {"sample_weight": [INF]}, ValueError, "infinite"),
        ([[1, 2]], [0], {"sample_weight": 1.0}, ValueError, "shape"),
        ([[1, 2]], [0], {"sample_weight": ["a"]}, TypeError, "real"),
    ],
)
def test_refused(x: Any, y: Any, kwargs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fs.fit_temperature(x, y, **kwargs)


def peak_of(call: Any) -> int:
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow() -> None:
    rng = np.random.default_rng(9)
    x, y = sampled(rng, 400_000, 4, 2, 2)
    assert peak_of(lambda: fs.fit_temperature(x, y)) < 6e6
    assert peak_of(lambda: fs.calibration_error(x, y, from_logits=True)) < 6e6
    probs = fs.softmax(x)
    assert peak_of(lambda: fs.calibration_error(probs, y)) < 6e6


# -- calibration_error ---------------------------------------------------------------------------------------


def naive(probs: Array, labels: Array, n_bins: int, norm: str) -> float:
    """Follow the paper, bin by bin."""
    confidence, right = probs.max(axis=1).astype(np.float64), probs.argmax(axis=1) == labels
    gaps, shares = [], []
    for m in range(n_bins):
        inside = (confidence > m / n_bins) & (confidence <= (m + 1) / n_bins)
        if inside.any():
            gaps.append(abs(right[inside].mean() - confidence[inside].mean()))
            shares.append(inside.mean())
    gap, share = np.array(gaps), np.array(shares)
    return {"l1": share @ gap, "l2": np.sqrt(share @ gap**2), "max": gap.max()}[norm]


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@hypothesis.given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 5), st.integers(1, 20))
def test_is_the_formula(norm: Any, seed: int, rows: int, classes: int, n_bins: int) -> None:
    x, y = sampled(np.random.default_rng(seed), rows, classes, 2, 3)
    probs = fs.softmax(x, dtype=np.float64)
    want = naive(probs, y, n_bins, norm)
    assert fs.calibration_error(probs, y, n_bins=n_bins, norm=norm) == pytest.approx(want, abs=1e-12)
    from_logits = fs.calibration_error(x, y, n_bins=n_bins, norm=norm, from_logits=True)
    assert from_logits == pytest.approx(want, abs=1e-9)


def test_bins_are_closed_on_the_right() -> None:
    probs = [[0.5, 0.5], [0.75, 0.25], [0.7500001, 0.2499999], [1, 0], [0.25, 0.2]]
    bins = fs.calibration_error(probs, [0, 0, 1, 0, 1], n_bins=4, return_bins=True)
    assert bins.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert bins.counts.tolist() == [1, 1, 1, 2]
    assert bins.accuracy.tolist() == [0, 1, 1, 0.5]
    np.testing.assert_allclose(bins.confidence, [0.25, 0.5, 0.75, 0.87500005])
    assert bins.error == pytest.approx((0.25 + 0.5 + 0.25 + 2 * 0.37500005) / 5)
    assert bins.counts.sum() == 5


def test_ties_count_for_the_first_class() -> None:
    assert fs.calibration_error([[0.5, 0.5]], [0]) == 0.5
    assert fs.calibration_error([[0.0, 0.0]], [0], from_logits=True) == 0.5
    assert fs.calibration_error([[0.0, 0.0]], [1], from_logits=True) == 0.5
    assert fs.calibration_error([[1, 0], [0, 1]], [0, 1]) == 0


def test_no_rows() -> None:
    for from_logits in (False, True):
        bins = fs.calibration_error(
            np.zeros((0, 3)), np.zeros(0, int), n_bins=2, from_logits=from_logits, return_bins=True
        )
        assert np.isnan(bins.error)
        assert bins.counts.tolist() == [0, 0]
        assert np.isnan(bins.accuracy).all()
        assert np.isnan(bins.confidence).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ">f8"])
def test_dtypes_of_probabilities(dtype: Any) -> None:
    x, y = sampled(np.random.default_rng(10), 3000, 4, 2, 1)
    probs = fs.softmax(x).astype(dtype)
    assert fs.calibration_error(probs, y) == pytest.approx(
        naive(probs.astype(np.float64), y, 15, "l1"), abs=1e-12
    )
    # A probability that was rounded up to more than 1 is 1.
    assert fs.calibration_error(np.array([[1.004, 0]], dtype), [0]) == 0


@pytest.mark.parametrize(
    ("p", "y", "kwargs", "error", "match"),
    [
        ([0.3, 0.6], [0, 1], {}, ValueError, r"np.stack\(\[1 - p, p\], axis=1\)"),
        (np.ones((2, 2, 2)), [0, 1], {}, ValueError, "3 dimensions"),
        (
            [[2.0, -1], [0, 1]],
            [0, 1],
            {},
            ValueError,
            "row 0 holds 2, which is no probability .*from_logits=True",
        ),
        ([[0.5, 0.5], [1, -0.1]], [0, 1], {}, ValueError, "row 1 holds -0.1"),
        ([[0.5, 0.5], [NAN, 0.1]], [0, 1], {}, ValueError, "row 1 holds nan"),
        ([[0.5, 0.5], [NAN, 0.1]], [0, 1], {"from_logits": True}, ValueError, "row 1 hold NaN"),
        ([[0.5, INF]], [0], {"from_logits": True}, ValueError, "row 0 hold inf"),
        ([[0.5, 0.5]], [2], {}, IndexError, "label 2 of row 0"),
        ([[0.5, 0.5]], [0.0], {}, TypeError, "integers"),
        ([[0.5, 0.5]], [0, 1], {}, ValueError, "labels has shape"),
        ([[0.5, 0.5]], [0], {"n_bins": 0}, ValueError, "at least 1"),
        ([[0.5, 0.5]], [0], {"n_bins": 2.5}, TypeError, "float"),
        ([[0.5, 0.5]], [0], {"norm": "l3"}, ValueError, "l3"),
        ([[1j, 0.5]], [0], {}, TypeError, "complex128"),
        ([[1j, 0.5]], [0], {"from_logits": True}, TypeError, "complex128"),
        (np.ma.ones((1, 2)), [0], {}, TypeError, "masked"),
    ],
)
def test_error_refused(p: Any, y: Any, kwargs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fs.calibration_error(p, y, **kwargs)


def test_row_is_named_across_blocks() -> None:
    x = np.zeros((200_000, 3), np.float32)
    x[150_000, 1] = NAN
    with pytest.raises(ValueError, match="row 150000 "):
        fs.fit_temperature(x, np.zeros(200_000, int))
    with pytest.raises(ValueError, match="row 150000 "):
        fs.calibration_error(x, np.zeros(200_000, int), from_logits=True)
    with pytest.raises(ValueError, match="row 150000 "):
        fs.calibration_error(x, np.zeros(200_000, int))
