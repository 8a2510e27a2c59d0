"""``fastsoftmax.scipy`` is what it replaces, and where it is not, it is as its docstring says."""

import inspect
import sys
import tracemalloc
from typing import Any

import fastsoftmax.scipy as fss
import hypothesis
import hypothesis.extra.numpy as hnp
import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
from conftest import Python
from hypothesis import strategies as st
from reference import exact, ulps

INF, NAN = np.inf, np.nan
SCIPY = tuple(int(part) for part in scipy.__version__.split(".")[:2])
FUNCTIONS = ["softmax", "log_softmax", "logsumexp"]


def theirs(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call SciPy, which warns where this library does not."""
    with np.errstate(all="ignore"):
        return getattr(scipy.special, name)(*args, **kwargs)


def assert_like(mine: Any, expected: Any, rtol: float) -> None:
    assert type(mine) is type(expected)
    assert mine.dtype == expected.dtype
    assert mine.shape == expected.shape
    np.testing.assert_allclose(mine, expected, rtol=rtol, atol=rtol)


# -- the same as SciPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name: str) -> None:
    mine = inspect.signature(getattr(fss, name)).parameters.values()
    expected = inspect.signature(getattr(scipy.special, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in mine] == [(p.name, p.kind, p.default) for p in expected]


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, Any]:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=8))
    wide = draw(st.sampled_from([1.0, 30.0, 1000.0]))
    elements = st.floats(-wide, wide, width=32)
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.just(0)
    several = st.lists(axes, unique_by=lambda a: a % max(1, len(shape)), max_size=len(shape)).map(tuple)
    return array, draw(st.none() | axes | several if shape else st.none() | axes)


@pytest.mark.parametrize("name", FUNCTIONS)
@hypothesis.given(calls())
def test_parity(name: str, call: tuple[Any, Any]) -> None:
    array, axis = call
    # SciPy is off by 60 ULP and more where the spread is wide.
    rtol = 1e-3 if array.dtype == np.float32 else 1e-11
    assert_like(getattr(fss, name)(array, axis=axis), theirs(name, array, axis=axis), rtol)


@hypothesis.given(calls(), st.data(), st.booleans(), st.booleans())
def test_parity_with_weights(call: tuple[Any, Any], data: Any, keepdims: bool, return_sign: bool) -> None:
    array, axis = call
    array, axis = np.atleast_1d(array), axis if array.ndim else None
    lengths = [
        data.draw(st.sampled_from([n, 1])) for n in array.shape[data.draw(st.integers(0, array.ndim)) :]
    ]
    small = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, -2.25])
    b = data.draw(hnp.arrays(array.dtype, tuple(lengths), elements=small))
    kwargs = {"axis": axis, "keepdims": keepdims, "return_sign": return_sign}
    value, sign = fss.logsumexp(array, b=b, axis=axis, keepdims=True, return_sign=True)
    top = array.max(axis=axis, keepdims=True).astype(np.float64)
    mass = (np.abs(b) * np.exp(array - top)).sum(axis=axis, keepdims=True, dtype=np.float64)
    # A sum that cancels is anybody's guess, and so is SciPy's where the greatest logit weighs 0.
    hypothesis.assume((value - top > np.log(mass + 1e-300) - 3).all() & (mass > 1e-3).all())
    mine, expected = fss.logsumexp(array, b=b, **kwargs), theirs("logsumexp", array, b=b, **kwargs)
    rtol = 1e-3 if array.dtype == np.float32 else 1e-10
    if SCIPY < (1, 16) and not return_sign and (sign < 0).any():
        return  # scipy#22903
    if not return_sign and ((sign < 0) & (value < -60)).any():
        return  # SciPy says -inf for the logarithm of a negative sum that underflows
    for one, other in zip(*((x if return_sign else (x,)) for x in (mine, expected)), strict=True):
        assert_like(one, other, rtol)


@pytest.mark.parametrize("return_sign", [False, True])
@pytest.mark.parametrize(
    ("a", "b", "value", "sign"),
    [
        ([], None, -INF, 0),
        ([INF], None, INF, 1),
        ([-INF], None, -INF, 0),
        ([NAN], None, NAN, NAN),
        ([-INF, -INF], None, -INF, 0),
        ([INF, 2], None, INF, 1),
        ([INF, -INF], None, INF, 1),
        ([INF, NAN], None, NAN, NAN),
        ([1e10, 1e-10], None, 1e10, 1),
        ([0, -40], None, 4.248354255291589e-18, 1),  # scipy#18295
        ([1, 1], [1, -1], -INF, 0),
        ([1, 1, 1], [1, -1, -1], 1, -1),
        ([1000, 1000], [1.2, 1.2], 1000.8754687373539, 1),
        ([3.06409428, 0.37251854, 3.87471931], [1.88190708, 2.84174795, -0.85016884], 1.2452165157907389, 1),
        ([3.06409428, 0.37251854, 3.87471931], [1.88190708, 2.84174795, -3.85016884], 4.948999865385332, -1),
        ([1, 10000], [1, 0], 1, 1),
        ([INF, 1], [0, 1], 1, 1),
        ([NAN, 1], [0, 1], 1, 1),
        ([NAN, 1], [0, 2], 1.6931471805599453, 1),
        ([INF, NAN], [1, 0], INF, 1),
        ([INF, NAN], [0, 0], -INF, 0),
        ([1, 2], [0, 0], -INF, 0),
        ([INF], [-1], INF, -1),  # scipy#23548
        ([INF, INF], [1, -1], NAN, NAN),
        ([INF, 1], [-1, 1], INF, -1),
        ([INF, 1], [2, 1], INF, 1),
        ([-INF, 1], [2, 1], 1, 1),
        ([1, 2], [INF, 1], INF, 1),
        ([1, 2], [-INF, 1], INF, -1),
        ([1, 2], [INF, -INF], NAN, NAN),
        ([-INF, 2], [INF, 1], NAN, NAN),
        ([1, 2], [NAN, 1], NAN, NAN),
        ([NAN, 2], [2, 1], NAN, NAN),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_special_values(
    a: Any, b: Any, value: float, sign: float, return_sign: bool, dtype: type[np.floating[Any]]
) -> None:
    a, b = np.array(a, dtype), None if b is None else np.array(b, dtype)
    mine = fss.logsumexp(a, b=b, return_sign=return_sign)
    expected = (value, sign) if return_sign else (NAN if sign < 0 else value,)
    rtol = 1e-6 if dtype is np.float32 else 1e-8
    for got, want in zip(mine if return_sign else (mine,), expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=rtol)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([0, -800], [1e-300, 1e300], -109.22447210178629),
        ([-1e308, 1e308], [-2, 1], 1e308),
        ([5e-324], [3], 1.0986122886681098),
        ([0, 0], [5e-324, 5e-324], -743.7469247408213),
        ([-1e308, -1.5e308], [1e300, -1e-300], -1e308),
    ],
)
def test_extremes(a: Any, b: Any, value: float) -> None:
    np.testing.assert_allclose(fss.logsumexp(a, b=b), value, rtol=1e-15)


def test_log_softmax_beside_infinity() -> None:
    x = np.array([[INF, 0, -INF], [1, 2, 3], [NAN, INF, 0], [INF, INF, 5]])
    for axis in (1, 0):
        np.testing.assert_array_equal(
            np.isnan(fss.log_softmax(x, axis=axis)), np.isnan(theirs("log_softmax", x, axis=axis))
        )
        np.testing.assert_allclose(
            fss.log_softmax(x, axis=axis), theirs("log_softmax", x, axis=axis), rtol=1e-14
        )
    assert fss.log_softmax(x.astype(ml_dtypes.bfloat16), axis=1).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("dtype_a", ["?", "b", "i", "q", "e", "f", "d"])
@pytest.mark.parametrize("dtype_b", ["?", "b", "i", "q", "e", "f", "d", "number"])
def test_dtypes(dtype_a: str, dtype_b: str) -> None:
    a = np.array([1, 0], dtype_a)
    b: Any = 2 if dtype_b == "number" else np.array([1, 0 if dtype_b == "?" else 2], dtype_b)
    dtype = np.result_type(a, b)
    assert fss.logsumexp(a, b=b).dtype == (dtype if dtype.kind == "f" else np.float64)
    assert fss.logsumexp(a, b=b, return_sign=True)[1].dtype == fss.logsumexp(a, b=b).dtype
    if SCIPY >= (1, 16):
        assert fss.logsumexp(a, b=b).dtype == theirs("logsumexp", a, b=b).dtype


def test_scalars_and_shapes() -> None:
    assert repr(fss.softmax(3.0)) == "np.float64(1.0)"
    assert repr(fss.log_softmax(np.float32(3))) == "np.float32(0.0)"
    assert repr(fss.logsumexp(3)) == "np.float64(3.0)"
    assert repr(fss.logsumexp(2.0, b=-1, return_sign=True)) == "(np.float64(2.0), np.float64(-1.0))"
    assert isinstance(fss.logsumexp([1, 2]), np.float64)
    assert fss.logsumexp(np.ones((1, 2, 3, 4)), axis=2, b=np.ones((3, 1))).shape == (1, 2, 4)
    assert fss.logsumexp(np.ones((1, 2, 3, 4)), (1, 3), np.full(4, 2), True).shape == (1, 1, 3, 1)
    assert fss.logsumexp(np.zeros((4, 1, 2, 1)), b=np.full((3, 1, 5), 2.0), axis=()).shape == (4, 3, 2, 5)
    assert fss.logsumexp(np.zeros((0, 3)), axis=1).shape == (0,)
    np.testing.assert_array_equal(fss.logsumexp(np.zeros((0, 3)), axis=0, b=2), [-INF] * 3)
    np.testing.assert_array_equal(
        fss.logsumexp(np.zeros((3, 0)), axis=1, return_sign=True), [[-INF] * 3, [0] * 3]
    )
    assert fss.softmax([]).shape == (0,)
    with pytest.raises(ValueError, match="broadcast"):
        fss.logsumexp(np.ones(3), b=np.ones(2))
    for name in FUNCTIONS:
        with pytest.raises(np.exceptions.AxisError):
            getattr(fss, name)(np.ones((2, 3)), axis=2)
    with pytest.raises(np.exceptions.AxisError):
        fss.logsumexp(np.ones((2, 3)), axis=2, b=np.full(3, 2))


def test_arguments_are_not_written_to() -> None:
    a, b = np.array([5.0, INF, NAN]), np.array([3.0, 0.0, 0.0])
    fss.logsumexp(a, b=b)
    np.testing.assert_array_equal(a, [5, INF, NAN])
    np.testing.assert_array_equal(b, [3, 0, 0])


# -- better than SciPy ---------------------------------------------------------------------------------------


def bound(a: Any, b: Any) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Give the exact logarithm, and what the docstring allows beside 1 ULP."""
    with mpmath.workprec(200):
        terms = [mpmath.mpf(float(y)) * mpmath.exp(mpmath.mpf(float(x))) for x, y in zip(a, b, strict=True)]
        total, mass = mpmath.fsum(terms), mpmath.fsum(terms, absolute=True)
        return mpmath.log(abs(total)), mpmath.mpf(2) ** -51 * mass / abs(total)


@pytest.mark.parametrize("kind", ["positive", "mixed", "huge range", "signs", "one weight"])
def test_accuracy_with_weights(kind: str) -> None:
    rng = np.random.default_rng(5)
    for trial in range(60):
        n = int(rng.choice([1, 2, 3, 10, 200]))
        a = rng.normal(rng.choice([0, 700, -50]), rng.choice([0, 1, 10, 300, 1e-5]), n)
        b = {
            "positive": rng.random(n) + 1e-3,
            "mixed": rng.normal(size=n),
            "huge range": np.exp(rng.normal(0, 200, n)),
            "signs": rng.choice([-1.0, 1, 2, 0.5], n),
            "one weight": np.full(n, rng.normal()),
        }[kind]
        dtype = np.float32 if trial % 3 == 0 and kind != "huge range" else np.float64
        a, b = a.astype(dtype), b.astype(dtype)
        want, allowed = bound(a, b)
        got = fss.logsumexp(a, b=b, return_sign=True)[0]
        assert got.dtype == dtype
        with mpmath.workprec(200):
            assert abs(mpmath.mpf(float(got)) - want) <= float(np.spacing(np.abs(got))) + allowed, (
                a,
                b,
                got,
                want,
            )


def test_rows_of_any_length_and_layout() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(3, 70_000)) * 5, rng.normal(size=(3, 70_000)) + 0.5
    want = np.log(np.abs((exact(b) * np.exp(exact(a))).sum(axis=1)))
    a[1, 69_000] = 300
    b[1, 69_000] = 0
    a[2, 100] = -INF
    for x, y, axis in ((a, b, 1), (a.T, b.T, 0), (a[:, ::-1], b[:, ::-1], 1)):
        value, sign = fss.logsumexp(x, b=y, axis=axis, return_sign=True)
        np.testing.assert_allclose(value, want.astype(float), rtol=1e-5)
        np.testing.assert_array_equal(sign, np.sign((b * np.exp(np.minimum(a, 50))).sum(axis=1)))
    whole = fss.logsumexp(np.stack([a, a]), b=b)
    np.testing.assert_allclose(whole, fss.logsumexp(np.stack([a, a]), b=np.stack([b, b])))


def test_memory_does_not_grow() -> None:
    a = np.zeros((400, 10_000), np.float32)
    b = np.broadcast_to(np.float32(2), a.shape)
    fss.logsumexp(a, b=b, axis=1)
    tracemalloc.start()
    fss.logsumexp(a, b=b, axis=1)
    fss.logsumexp(a, b=b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_masks_are_exact() -> None:
    rng = np.random.default_rng(7)
    a = rng.normal(size=(50, 33)).astype(np.float32) * 20
    keep = rng.random(a.shape) < 0.5
    a[~keep] = rng.choice([NAN, INF, 1000], (~keep).sum())
    with np.errstate(invalid="ignore"):
        want = np.log(np.where(keep, np.exp(exact(a)), 0).sum(axis=1))
    for mask in (keep, keep.astype(np.int8), keep.astype(np.float32)):
        assert ulps(fss.logsumexp(a, axis=1, b=mask), want).max() <= 2


def test_equal_half_precision_logits() -> None:
    # SciPy gives zeros.
    assert (fss.softmax(np.full(70_000, 5, np.float16)) == np.float16(1 / 70_000)).all()


# -- what is left to SciPy, and what is refused --------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.longdouble])
def test_other_numbers_are_left_to_scipy(name: str, dtype: type[np.generic]) -> None:
    x = np.array([[1, 2], [3, 5]], dtype)
    if np.dtype(dtype).kind == "c":
        x = x + np.array(1j, dtype)
    assert_like(getattr(fss, name)(x, axis=0), theirs(name, x, axis=0), 1e-6)


def test_complex_weights_are_left_to_scipy() -> None:
    mine, expected = (f([1.0, 2.0], b=[1j, 2]) for f in (fss.logsumexp, scipy.special.logsumexp))
    assert mine == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_scipy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert getattr(fss, name)([1.0, 1.0], axis=0).dtype == np.float64
    with pytest.raises(TypeError, match=r"complex128 is left to SciPy, which is not installed"):
        getattr(fss, name)(np.array([1j]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_refused(name: str) -> None:
    function = getattr(fss, name)
    with pytest.raises(TypeError, match="masked array"):
        function(np.ma.array([1.0, 2.0], mask=[True, False]))
    for wrong in (np.array([1, 2], object), "a", np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "f4,f4")):
        with pytest.raises(TypeError, match="no number"):
            function(wrong)


def test_refused_weights() -> None:
    with pytest.raises(TypeError, match="b is a masked array"):
        fss.logsumexp([1.0], b=np.ma.ones(1))
    with pytest.raises(TypeError, match="b has dtype object"):
        fss.logsumexp([1.0], b=[None])


def test_imports_scipy_only_when_needed(python: Python) -> None:
    python(
        "import sys, fastsoftmax, fastsoftmax.scipy as s; s.logsumexp([1.0, 2], b=[1, 2]);"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'scipy']"
    )
    python("import sys, fastsoftmax; assert 'fastsoftmax.scipy' not in sys.modules")
