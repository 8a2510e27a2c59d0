"""What is refused, with which exception and in which words; a refusal leaves everything as it was."""

import pickle
from typing import Any

import fastsoftmax as fs
import ml_dtypes
import numpy as np
import pytest

X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Unwilling:
    """Raises whatever it is asked to turn into."""

    def __index__(self) -> int:
        raise ZeroDivisionError("in __index__")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ZeroDivisionError("in __array__")


def read_only() -> np.ndarray[Any, Any]:
    out = np.empty_like(X)
    out.flags.writeable = False
    return out


REFUSED: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    # The input.
    (
        "complex",
        X.astype(complex),
        {},
        TypeError,
        r"x has dtype complex128, .* not supported; bool, integers, fl",
    ),
    ("longdouble", X.astype(np.longdouble), {}, TypeError, r"dtype (longdouble|float128)"),
    ("object", np.array([1, None]), {}, TypeError, "dtype object"),
    ("strings", ["a", "b"], {}, TypeError, "dtype <U1"),
    ("bytes", np.array([b"a"]), {}, TypeError, r"dtype \|S1"),
    ("datetime", np.array(["2026-01-01"], "M8[D]"), {}, TypeError, r"dtype datetime64\[D\]"),
    ("timedelta", np.array([1], "m8[s]"), {}, TypeError, r"dtype timedelta64\[s\]"),
    ("structured", np.zeros(2, [("a", "f4")]), {}, TypeError, r"dtype \[\('a', '<f4'\)\]"),
    ("void", np.zeros(2, "V4"), {}, TypeError, r"dtype \|V4"),
    ("float8", np.zeros(2, ml_dtypes.float8_e5m2), {}, TypeError, "dtype float8_e5m2"),
    ("int4", np.zeros(2, ml_dtypes.int4), {}, TypeError, "dtype int4"),
    ("None", None, {}, TypeError, "dtype object"),
    ("an integer too large", [2**64], {}, TypeError, "dtype object"),
    (
        "masked",
        np.ma.masked_array([1.0, 2.0], [True, False]),
        {},
        TypeError,
        r"MaskedArray.*where=~numpy\.ma\.",
    ),
    ("masked constant", np.ma.masked, {}, TypeError, r"MaskedArray.*where="),
    ("ragged", [[1], [2, 3]], {}, ValueError, "inhomogeneous"),
    ("its own error", Unwilling(), {}, ZeroDivisionError, "in __array__"),
    # axis
    (
        "axis too large",
        X,
        {"axis": 2},
        np.exceptions.AxisError,
        "axis 2 is out of bounds for array of dimension 2",
    ),
    ("axis too small", X, {"axis": -3}, np.exceptions.AxisError, "axis -3 is out of bounds"),
    ("axis in a tuple", X, {"axis": (0, 5)}, np.exceptions.AxisError, "axis 5 is out of bounds"),
    ("axis beyond 32 bits", X, {"axis": 2**40}, np.exceptions.AxisError, "out of bounds"),
    ("axis beyond 64 bits", X, {"axis": 2**70}, np.exceptions.AxisError, "out of bounds"),
    ("axis without end", X, {"axis": (-(10**5000),)}, np.exceptions.AxisError, "out of bounds"),
    ("axis of none", 1.0, {"axis": 1}, np.exceptions.AxisError, "array of dimension 0"),
    ("axis twice", X, {"axis": (0, 0)}, ValueError, "axis 0 is named twice"),
    ("axis twice by two names", X, {"axis": (1, -1)}, ValueError, "axis -1 is named twice"),
    ("axis a bool", X, {"axis": True}, TypeError, "axis must be an integer.*not bool"),
    (
        "axis a float",
        X,
        {"axis": 1.0},
        TypeError,
        "axis must be an integer, a tuple of integers or None, not float",
    ),
    ("axis a list", X, {"axis": [0]}, TypeError, "not list"),
    ("axis a tuple of floats", X, {"axis": (0.0,)}, TypeError, "not float"),
    ("axis a string", X, {"axis": "0"}, TypeError, "not str"),
    ("axis's own error", X, {"axis": Unwilling()}, ZeroDivisionError, "in __index__"),
    # temperature
    ("temperature 0", X, {"temperature": 0}, ValueError, r"greater than 0, not 0 .*argmax"),
    ("temperature -0.0", X, {"temperature": -0.0}, ValueError, "greater than 0.*argmax"),
    ("temperature below 0", X, {"temperature": -1.5}, ValueError, r"greater than 0, not -1\.5"),
    ("temperature NaN", X, {"temperature": np.nan}, ValueError, "finite number"),
    ("temperature inf", X, {"temperature": np.inf}, ValueError, "finite number"),
    ("temperature too large", X, {"temperature": 10**400}, ValueError, "finite number"),
    ("temperature NumPy's 0", X, {"temperature": np.float32(0)}, ValueError, "argmax"),
    ("temperature of 0 dimensions", X, {"temperature": np.array(-1)}, ValueError, "greater than 0, not -1"),
    ("temperature 0 in a row", X, {"temperature": [[1], [0], [2]]}, ValueError, "argmax"),
    ("temperature NaN in a row", X, {"temperature": [[1], [2], [np.nan]]}, ValueError, "finite number"),
    (
        "temperature along the axis",
        X,
        {"temperature": np.ones((3, 4))},
        ValueError,
        "length 1 along the axis",
    ),
    ("temperature for the axis", X, {"temperature": np.ones(4)}, ValueError, "length 1 along the axis"),
    (
        "temperature of a wrong length",
        X,
        {"temperature": np.ones((2, 1))},
        ValueError,
        r"temperature .*\(2, 1\)",
    ),
    ("temperature of more axes", X, {"temperature": np.ones((1, 3, 1))}, ValueError, "does not broadcast"),
    ("temperature None", X, {"temperature": None}, TypeError, "temperature must be a real number.*NoneType"),
    ("temperature a bool", X, {"temperature": True}, TypeError, "temperature must be a real number.*bool"),
    ("temperature complex", X, {"temperature": 1j}, TypeError, "temperature must be a real number.*complex"),
    ("temperature a string", X, {"temperature": "1"}, TypeError, "temperature must be a real number.*str"),
    ("temperature bools", X, {"temperature": np.ones((3, 1), bool)}, TypeError, "temperature must be .*bool"),
    ("temperature strings", X, {"temperature": ["a"]}, TypeError, "temperature must be .*<U1"),
    ("temperature masked", X, {"temperature": np.ma.ones((3, 1))}, TypeError, "MaskedArray"),
    # where
    (
        "where of integers",
        X,
        {"where": np.ones((3, 4), int)},
        TypeError,
        r"where must be .*bool, not of int64.*!= 0",
    ),
    ("where of floats", X, {"where": [1.0, 0.0, 1.0, 1.0]}, TypeError, "not of float64"),
    ("where a string", X, {"where": "yes"}, TypeError, "where must be an array of bool"),
    ("where of a wrong length", X, {"where": [True, False]}, ValueError, r"where has shape \(2,\).*\(3, 4\)"),
    ("where of more axes", X, {"where": np.ones((1, 3, 4), bool)}, ValueError, "where .*does not broadcast"),
    ("where masked", X, {"where": np.ma.ones((3, 4), bool)}, TypeError, "MaskedArray"),
    # dtype
    (
        "dtype of integers",
        X,
        {"dtype": int},
        TypeError,
        "dtype int64 is not supported for results; float16, bf",
    ),
    ("dtype bool", X, {"dtype": bool}, TypeError, "dtype bool is not supported"),
    ("dtype complex", X, {"dtype": "c8"}, TypeError, "dtype complex64 is not supported"),
    ("dtype longdouble", X, {"dtype": np.longdouble}, TypeError, "is not supported for results"),
    (
        "dtype float8",
        X,
        {"dtype": ml_dtypes.float8_e4m3fn},
        TypeError,
        "dtype float8_e4m3fn is not supported",
    ),
    ("dtype unknown", X, {"dtype": "flaot32"}, TypeError, "flaot32"),
    # out
    ("out a list", X, {"out": [0.0] * 4}, TypeError, r"out must be a numpy\.ndarray, not list"),
    ("out a tuple", X, {"out": (np.empty_like(X),)}, TypeError, "not tuple"),
    (
        "out of integers",
        X,
        {"out": np.empty((3, 4), int)},
        TypeError,
        "out has dtype int64.*float16, bfloat16, fl",
    ),
    ("out of complex", X, {"out": np.empty((3, 4), complex)}, TypeError, "out has dtype complex128"),
    ("out of longdouble", X, {"out": np.empty((3, 4), np.longdouble)}, TypeError, "out has dtype"),
    ("out of objects", X, {"out": np.empty((3, 4), object)}, TypeError, "out has dtype object"),
    ("out masked", X, {"out": np.ma.empty((3, 4), np.float32)}, TypeError, "MaskedArray"),
    ("out of another shape", X, {"out": np.empty((4, 3))}, ValueError, r"out has shape \(4, 3\).*\(3, 4\)"),
    (
        "out that would broadcast",
        X[:1],
        {"out": np.empty((3, 4))},
        ValueError,
        r"out has shape \(3, 4\).*\(1, 4\)",
    ),
    ("out of fewer axes", X[0], {"out": np.empty((1, 4))}, ValueError, r"out has shape \(1, 4\).*\(4,\)"),
    ("out read-only", X, {"out": read_only()}, ValueError, "out is read-only"),
    (
        "out and dtype",
        X,
        {"out": np.empty_like(X), "dtype": "f8"},
        TypeError,
        "dtype is float64 but out has dtype fl",
    ),
    # threads
    ("threads 0", X, {"threads": 0}, ValueError, "threads must be at least 1"),
    ("threads below 0", X, {"threads": -1}, ValueError, "threads must be at least 1"),
    ("threads too many", X, {"threads": 2**70}, ValueError, "threads"),
    ("threads a float", X, {"threads": 2.0}, TypeError, "threads must be an integer or None, not float"),
    ("threads a bool", X, {"threads": True}, TypeError, "threads must be an integer or None, not bool"),
]


@pytest.mark.parametrize(
    ("x", "options", "error", "message"), [pytest.param(*case, id=name) for name, *case in REFUSED]
)
def test_refused(x: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    out: Any = options.get("out")
    before = bytes(out) if isinstance(out, np.ndarray) and out.dtype.kind == "f" else None
    with pytest.raises(error, match=message) as caught:
        fs.softmax(x, **options)
    assert caught.type is error
    if before is not None:
        assert bytes(out) == before


@pytest.mark.parametrize("strides", [(0, 8), (8, 0), (0, 0), (8, 8), (-8, 8), (16, 8), (3, 8)])
def test_out_that_overlaps_itself(strides: tuple[int, int]) -> None:
    out = np.lib.stride_tricks.as_strided(np.zeros(20)[8:], (3, 4), strides)
    with pytest.raises(ValueError, match="out overlaps itself"):
        fs.softmax(np.zeros((3, 4)), out=out)


def test_axis_error_has_numpys_attributes() -> None:
    with pytest.raises(np.exceptions.AxisError) as caught:
        fs.softmax(X, 7)
    assert (caught.value.axis, caught.value.ndim) == (7, 2)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "required positional argument"),
        ((X, -1, 2.0), {}, "positional arguments"),
        ((), {"x": X}, "'x'"),
        ((X,), {"temprature": 2}, "temprature"),
        ((X, 0), {"axis": 0}, "axis"),
    ],
)
def test_signature(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fs.softmax(*arguments, **options)


def test_no_warnings() -> None:
    # pytest is told to turn warnings into errors, and NumPy's own are switched on here.
    with np.errstate(all="raise"):
        fs.softmax([np.nan, np.inf, -np.inf, 1e308, -1e308])
        fs.softmax(np.array([1e308, -1e308]), dtype=np.float16)
        fs.softmax(np.array([-np.inf], np.float16))


def test_no_memory_is_a_memory_error() -> None:
    # The input needs no memory; its result would need more than there are addresses for.
    x = np.broadcast_to(np.float32(0), (2**30, 2**29))
    with pytest.raises(MemoryError):
        fs.softmax(x)
    assert fs.softmax([0.0]) == 1


@pytest.mark.parametrize("elements", [0, 10**6])
def test_a_panic_is_an_internal_error(elements: int, capfd: pytest.CaptureFixture[str]) -> None:
    from fastsoftmax import _core

    with pytest.raises(fs.InternalError, match=r"please report.*a test asked for this panic") as caught:
        _core._panic(elements)
    assert isinstance(caught.value, RuntimeError)
    assert "a test asked for this panic" in capfd.readouterr().err
    assert fs.softmax([0.0]) == 1


def test_internal_error_can_be_pickled() -> None:
    assert fs.InternalError.__module__ == "fastsoftmax"
    assert pickle.loads(pickle.dumps(fs.InternalError("message"))).args == ("message",)


@pytest.mark.parametrize("n", [0, -3])
def test_set_num_threads_refuses(n: int) -> None:
    before = fs.get_num_threads()
    with pytest.raises(ValueError, match="at least 1"):
        fs.set_num_threads(n)
    with pytest.raises(TypeError, match="threads must be an integer or None"):
        fs.set_num_threads(1.5)  # type: ignore[arg-type]
    assert fs.get_num_threads() == before
