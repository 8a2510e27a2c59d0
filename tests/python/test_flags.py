"""Floating-point flags that others have set: results keep their bits, and the flags stay as they are."""

import contextlib
import ctypes
import faulthandler
import functools
import gc
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastsoftmax as fs
import fastsoftmax.scipy
import numpy as np
import pytest
from fastsoftmax import _core
from reference import BFLOAT16

MACHINE = platform.machine().lower()
X86, ARM = MACHINE in ("x86_64", "amd64"), MACHINE in ("aarch64", "arm64")
LINUX = sys.platform == "linux"

if sys.platform == "win32" or not (X86 or ARM):
    pytest.skip("how to set the flags of this platform is not known here", allow_module_level=True)

# ---- The registers ----

# Whole registers are reached on Linux, where glibc and musl lay fenv_t out alike; elsewhere only the rounding
# mode is.
C = ctypes.CDLL(None)
Environment = ctypes.c_uint32 * 16  # fenv_t, and more than it takes
CONTROL = 7 if X86 else 0  # MXCSR, or FPCR: the word of it
STICKY = 7 if X86 else 1  # MXCSR again, or FPSR
FLUSH = {"ftz": 1 << 15, "daz": 1 << 6} if X86 else {"flush": 1 << 24}
RAISED = 0x3F if X86 else 0x9F  # invalid, divided by zero, overflow, underflow, inexact, subnormal operand
TRAPS = 0x1F80 if X86 else 0  # of which a bit that is not set is a trap; most AArch64 have none
UP, DOWN, TO_ZERO = (0x800, 0x400, 0xC00) if X86 else (0x400000, 0x800000, 0xC00000)


class State(NamedTuple):
    """What somebody else has set."""

    rounding: int = 0
    control: int = 0
    sticky: int = 0
    traps: bool = False

    def set(self) -> None:
        """Set it for this thread."""
        assert C.fesetround(self.rounding) == 0
        if LINUX:
            new = environment()
            new[STICKY] &= ~RAISED
            new[STICKY] |= self.sticky
            new[CONTROL] |= self.control
            if self.traps:
                new[CONTROL] &= ~TRAPS
            C.fesetenv(new)


STATES = {"toward zero": State(TO_ZERO), "down": State(DOWN), "up": State(UP)}
EVERYTHING = State(UP)
if LINUX:
    STATES |= {name: State(control=bit) for name, bit in FLUSH.items()}
    EVERYTHING = State(UP, sum(FLUSH.values()))
    STATES["everything"] = EVERYTHING


class Registers(NamedTuple):
    control: int
    sticky: int = 0
    x87: int = 0

    @classmethod
    def read(cls) -> "Registers":
        if not LINUX:
            return cls(C.fegetround())
        words = environment()
        x87 = words[0] & 0xFFFF | (words[1] & 0xFFFF) << 16 if X86 else 0
        return cls(words[CONTROL] & ~(RAISED if X86 else 0), words[STICKY] & RAISED, x87)


def environment() -> "ctypes.Array[ctypes.c_uint32]":
    words = Environment()
    C.fegetenv(words)
    return words


class Outcome(NamedTuple):
    result: Any
    before: Registers
    after: Registers


def under(state: State, call: Callable[[], Any]) -> Outcome:
    """Make a call, and nothing else that computes, under foreign flags."""
    saved = environment()
    try:
        state.set()
        before = Registers.read()
        try:
            result = call()
        except Exception as error:
            result = error
        after = Registers.read()
    finally:
        C.fesetenv(saved)
    return Outcome(result, before, after)


def bits(result: Any) -> Any:
    """Give what of a result can be compared: bits; of an exception, what it says."""
    if isinstance(result, Exception):
        return type(result), str(result)
    if isinstance(result, tuple):
        return tuple(bits(part) for part in result)
    array = np.asarray(result)
    return array.dtype, array.shape, array.tobytes()


def changes(state: State, call: Callable[[], Any], expected: Any, *, sticky: bool = False) -> list[str]:
    """Tell what foreign flags change in a call, and what it changes in them."""
    # Hypothesis times every collection, which is floating point arithmetic in the middle of the call.
    gc.disable()
    try:
        result, before, after = under(state, call)
    finally:
        gc.enable()
    changed = []
    if bits(result) != expected:
        changed.append(f"raised {result!r}" if isinstance(result, Exception) else "other bits")
    if before._replace(sticky=0) != after._replace(sticky=0):
        changed.append(f"control flags {before.control:#x} became {after.control:#x}")
    if sticky and before.sticky != after.sticky:
        changed.append(f"sticky flags {before.sticky:#x} became {after.sticky:#x}")
    return changed


# ---- The calls ----

SHAPES = {"small": (12, 40), "large": (3000, 120), "long rows": (4, 70_000)}
DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
# The kernels for long rows are those of the dtypes that are computed in.
KINDS = [(size, dtype) for size in SHAPES for dtype in DTYPES if size != "long rows" or dtype in DTYPES[2:]]
# What exp(-this) is subnormal of; and a subnormal number.
FAR = dict(zip(DTYPES, [13.0, 90.0, 95.0, 725.0], strict=True))
TINY = dict(zip(DTYPES, [1e-6, 1e-39, 1e-39, 1e-309], strict=True))

# What is done by NumPy, and so on the caller's thread alone.
ALONE = ["calibration_error", "fit_temperature", "scipy.logsumexp weights"]

Calls = dict[str, Callable[[], Any]]


@functools.cache
def good(size: str, dtype: np.dtype[Any]) -> Calls:
    """Give calls whose operands, and results, are normal and subnormal."""
    shape = rows, classes = SHAPES[size]
    rng = np.random.default_rng(classes)
    wide = rng.normal(0, 1, shape)
    labels = np.where(rng.random(rows) < 0.7, wide.argmax(axis=1), rng.integers(0, classes, rows))
    grad, weight = rng.normal(0, 1, shape).astype(dtype), rng.random(classes)
    # Most of these rows' probabilities are subnormal.
    wide[1::4, classes // 4 :] -= FAR[dtype] - np.log(1.65 * classes / 4)
    wide[2::4] *= TINY[dtype]
    # These are all but certain: their losses and entropies are subnormal.
    wide[3::4, 0] = FAR[dtype] + np.log(1.65 * classes)
    labels[3::4] = 0
    x = wide.astype(dtype)
    tiny = (np.abs(wide) * TINY[dtype]).astype(dtype)
    grad[::4] = tiny[::4]
    integers = rng.integers(2**60, 2**60 + 4096, shape)
    p, log_p = fs.softmax(x), fs.log_softmax(x)
    flat, offsets = x.reshape(-1), np.arange(0, x.size + 1, classes)
    warm = np.full((rows, 1), 0.7)
    small_temperatures, small_weight = np.full((rows, 1), 1e-310), weight * 1e-310
    out, in_place, mask = np.empty_like(x), x.copy(), rng.random(shape) < 0.8
    copy = in_place.ctypes.data, x.ctypes.data, x.nbytes
    swapped = x.astype(x.dtype.newbyteorder()) if dtype != BFLOAT16 else x[:, ::-1]
    own = fastsoftmax.scipy
    t: dict[str, Any] = {"threads": 3}

    def again() -> Any:
        ctypes.memmove(*copy)  # NumPy's way to copy clears sticky flags
        return fs.softmax(in_place, out=in_place, **t)

    return {
        "softmax": lambda: fs.softmax(x, **t),
        "softmax axis=0": lambda: fs.softmax(x, 0, **t),
        "softmax axis=None": lambda: fs.softmax(x, None, **t),
        "softmax out": lambda: fs.softmax(x, out=out, **t),
        "softmax in place": again,
        "softmax where": lambda: fs.softmax(x, where=mask, **t),
        "softmax to float64": lambda: fs.softmax(x, dtype=np.float64, **t),
        "softmax to float16": lambda: fs.softmax(x, dtype=np.float16, **t),
        "softmax swapped": lambda: fs.softmax(swapped, **t),
        "softmax of int64": lambda: fs.softmax(integers, **t),
        "softmax temperature": lambda: fs.softmax(x, temperature=0.7, **t),
        "softmax temperatures": lambda: fs.softmax(x, temperature=warm, **t),
        "softmax small temperature": lambda: fs.softmax(tiny, temperature=1e-40, **t),
        "softmax subnormal temperature": lambda: fs.softmax(tiny, temperature=1e-310, **t),
        "softmax subnormal temperatures": lambda: fs.softmax(tiny, temperature=small_temperatures, **t),
        "log_softmax": lambda: fs.log_softmax(x, **t),
        "log_softmax axis=0": lambda: fs.log_softmax(x, 0, **t),
        "log_softmax axis=None": lambda: fs.log_softmax(x, None, **t),
        "logsumexp": lambda: fs.logsumexp(x, **t),
        "logsumexp axis=None": lambda: fs.logsumexp(x, None, **t),
        "log_prob": lambda: fs.log_prob(x, labels, **t),
        "cross_entropy": lambda: fs.cross_entropy(x, labels, **t),
        "cross_entropy sum": lambda: fs.cross_entropy(x, labels, reduction="sum", **t),
        "cross_entropy none": lambda: fs.cross_entropy(x, labels, reduction="none", **t),
        "cross_entropy smoothed": lambda: fs.cross_entropy(
            x, labels, weight=weight, label_smoothing=0.1, reduction="none", **t
        ),
        "cross_entropy weighted": lambda: fs.cross_entropy(x, labels, weight=weight, **t),
        "cross_entropy subnormal weights": lambda: fs.cross_entropy(
            x, labels, weight=small_weight, reduction="none", **t
        ),
        "cross_entropy soft": lambda: fs.cross_entropy(x, p, reduction="none", **t),
        "entropy": lambda: fs.entropy(x, **t),
        "top_k": lambda: fs.top_k(x, 30, **t),
        "top_k log": lambda: fs.top_k(x, 3, log=True, **t),
        "softmax_vjp": lambda: fs.softmax_vjp(p, grad, **t),
        "softmax_vjp axis=None": lambda: fs.softmax_vjp(p, grad, None, **t),
        "log_softmax_vjp": lambda: fs.log_softmax_vjp(log_p, grad, **t),
        "log_softmax_vjp axis=None": lambda: fs.log_softmax_vjp(log_p, grad, None, **t),
        "softmax_segments": lambda: fs.softmax_segments(flat, offsets, **t),
        # These take the library's number of threads.
        "calibration_error": lambda: fs.calibration_error(p, labels),
        "calibration_error of logits": lambda: fs.calibration_error(
            x, labels, from_logits=True, return_bins=True
        ),
        "fit_temperature": lambda: fs.fit_temperature(x, labels, **t),
        "scipy.softmax": lambda: own.softmax(x, 1),
        "scipy.log_softmax": lambda: own.log_softmax(x, 1),
        "scipy.logsumexp": lambda: own.logsumexp(x, 1, return_sign=True),
        "scipy.logsumexp mask": lambda: own.logsumexp(x, 1, b=mask),
        "scipy.logsumexp weights": lambda: own.logsumexp(x, 1, b=weight),
    }


@functools.cache
def bad(size: str, dtype: np.dtype[Any]) -> Calls:
    """Give calls that raise: for what an argument is, and for what workers find in it."""
    rows, classes = SHAPES[size]
    x = np.ones((rows, classes), dtype)
    labels, grad, mask = np.zeros(rows, int), np.ones((rows, classes + 1), dtype), np.ones((rows, classes))
    beyond = labels.copy()
    beyond[-1] = classes
    hole, zeros, double = x.copy(), np.zeros((rows, 1)), 2 * x
    hole[-1, -1] = np.nan
    flat, offsets = x.reshape(-1), np.arange(0, x.size + 1, classes)[::-1].copy()
    masked = np.ma.array(x, mask=x > 0)
    own = fastsoftmax.scipy
    t: dict[str, Any] = {"threads": 3}
    return {
        "softmax": lambda: fs.softmax(x, 2, **t),
        "softmax temperature": lambda: fs.softmax(x, temperature=0.0, **t),
        "softmax temperatures": lambda: fs.softmax(x, temperature=zeros, **t),
        "log_softmax": lambda: fs.log_softmax(x, where=mask, **t),
        "logsumexp": lambda: fs.logsumexp(x, out=labels, **t),
        "log_prob": lambda: fs.log_prob(x, beyond, **t),
        "cross_entropy": lambda: fs.cross_entropy(x, beyond, **t),
        "cross_entropy smoothing": lambda: fs.cross_entropy(x, labels, label_smoothing=1.5, **t),
        "entropy": lambda: fs.entropy(x, threads=0),
        "top_k": lambda: fs.top_k(x, classes + 1, **t),
        "softmax_vjp": lambda: fs.softmax_vjp(x, grad, **t),
        "log_softmax_vjp": lambda: fs.log_softmax_vjp(x, grad, **t),
        "softmax_segments": lambda: fs.softmax_segments(flat, offsets, **t),
        "calibration_error": lambda: fs.calibration_error(double, labels),
        "calibration_error of logits": lambda: fs.calibration_error(hole, labels, from_logits=True),
        "fit_temperature": lambda: fs.fit_temperature(hole, labels, **t),
        "scipy.softmax": lambda: own.softmax(masked, 1),
        "scipy.log_softmax": lambda: own.log_softmax(x, 2),
        "scipy.logsumexp": lambda: own.logsumexp(x, 1, b=grad),
        "a panic": lambda: _core._panic(x.size),
    }


@functools.cache
def expected(calls: Callable[[str, np.dtype[Any]], Calls], size: str, name: str, dtype: np.dtype[Any]) -> Any:
    """Give what a call results in without foreign flags."""
    return bits(under(State(), calls(size, dtype)[name]).result)


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    fs.set_num_threads(3)
    yield
    fs.set_num_threads(None)


each_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES)
each_good = pytest.mark.parametrize("name", good("small", DTYPES[2]))
each_bad = pytest.mark.parametrize("name", bad("small", DTYPES[2]))
linux = pytest.mark.skipif(not LINUX, reason="where the flags are in fenv_t is not known here")

# ---- The tests ----


@each_state
def test_the_flags_are_set(state: State) -> None:
    """Otherwise the tests below would prove nothing."""
    one, three, least, subnormal = 1.0, 3.0, 2.0**-1022, 2.0**-1074

    def look() -> tuple[float, float, float, bool]:
        return one / three, -one / three, least * 0.5, subnormal > 0

    up, down, half, kept = under(state, look).result
    nearest = one / three  # which is below 1/3
    above = float(np.nextafter(nearest, 1))
    assert up == (above if state.rounding == UP else nearest)
    assert down == -(above if state.rounding == DOWN else nearest)
    assert half == (0 if state.control & ~FLUSH.get("daz", 0) else 2.0**-1023)
    assert kept == (not state.control & ~FLUSH.get("ftz", 0))


@linux
def test_a_raised_flag_is_seen() -> None:
    one, three = 1.0, 3.0
    _, before, after = under(State(), lambda: one / three)
    assert before.sticky == 0 < after.sticky


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SHAPES)
def test_subnormal_numbers_are_among_the_results(size: str, dtype: np.dtype[Any]) -> None:
    least = {DTYPES[0]: 2.0**-14, DTYPES[3]: 2.0**-1022}.get(dtype, 2.0**-126)
    calls = good(size, dtype)
    names = ["softmax", "softmax_vjp", "softmax_segments"]
    # In float64 the log-probability nearest to 0 is 0 where it should be subnormal; in bfloat16 the entropy
    # of such a row is no longer subnormal.
    names += [] if dtype == np.float64 else ["log_softmax", "cross_entropy none"]
    names += [] if dtype == BFLOAT16 else ["entropy"]
    for name in names:
        result = np.abs(np.asarray(calls[name]()).astype(np.float64))
        found = ((result > 0) & (result < least)).any()
        assert found, name


@each_state
@each_good
def test_same_bits_and_the_flags_stay(name: str, state: State) -> None:
    wrong = [
        f"{size}, {dtype}: {change}"
        for size, dtype in KINDS
        for change in changes(state, good(size, dtype)[name], expected(good, size, name, dtype))
    ]
    assert not wrong, "\n".join(wrong)


@linux
@pytest.mark.parametrize("sticky", [0, RAISED], ids=["none", "all"])
@each_good
def test_no_sticky_flag_is_raised_or_cleared(name: str, sticky: int) -> None:
    wrong = [
        f"{size}, {dtype}: {change}"
        for size, dtype in KINDS
        for change in changes(
            State(sticky=sticky), good(size, dtype)[name], expected(good, size, name, dtype), sticky=True
        )
    ]
    assert not wrong, "\n".join(wrong)


@each_state
@each_bad
def test_same_exception_and_the_flags_stay(name: str, state: State) -> None:
    for size in SHAPES:
        call, same = bad(size, DTYPES[2])[name], expected(bad, size, name, DTYPES[2])
        assert issubclass(same[0], Exception), "it did not raise"
        assert changes(state, call, same) == [], size


@linux
@pytest.mark.parametrize("sticky", [0, RAISED], ids=["none", "all"])
@each_bad
def test_an_exception_leaves_sticky_flags(name: str, sticky: int) -> None:
    for size in SHAPES:
        call, same = bad(size, DTYPES[2])[name], expected(bad, size, name, DTYPES[2])
        assert changes(State(sticky=sticky), call, same, sticky=True) == [], size


@each_state
def test_in_another_thread(state: State) -> None:
    """The flags are a thread's own: those of one do not reach another that computes at the same time."""
    names = ["softmax", "log_softmax", "entropy", "top_k", "softmax_vjp"]
    wrong: list[str] = []
    stop = threading.Event()

    def other() -> None:
        try:
            for name in names * 3:
                for size in SHAPES:
                    call, same = good(size, DTYPES[2])[name], expected(good, size, name, DTYPES[2])
                    wrong.extend(f"{name}, {size}: {change}" for change in changes(state, call, same))
        finally:
            stop.set()

    for name in names:
        for size in SHAPES:
            expected(good, size, name, DTYPES[2])  # computed here, before the other one computes
    thread = threading.Thread(target=other)
    thread.start()
    try:
        while not stop.is_set():
            for name in names:
                call, same = good("large", DTYPES[2])[name], expected(good, "large", name, DTYPES[2])
                wrong.extend(f"{name}, main thread: {change}" for change in changes(State(), call, same))
    finally:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("raises", [False, True])
def test_a_signal_handler_sees_the_flags_of_the_caller(raises: bool, threads: int) -> None:
    """It runs in the middle of a call, but is no part of it; what it raises leaves the flags as they were."""
    seen: list[int] = []
    x = np.broadcast_to(np.float32(1), (2**8, 2**18))

    def handle(*_: object) -> None:
        seen.append(C.fegetround())
        if raises:
            raise InterruptedError

    def calls() -> Any:
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            fs.logsumexp(x, threads=threads)

    saved = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        result, before, after = under(EVERYTHING, calls)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, saved)
    assert seen == [UP]
    assert isinstance(result, InterruptedError) == raises
    # Sticky flags apart: the loop computes with the time.
    assert before._replace(sticky=0) == after._replace(sticky=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@each_good
def test_workers_that_begin_with_foreign_flags(name: str) -> None:
    """A thread begins with the flags of the one that made it, and a new process has no worker yet.

    Where traps can be set, any operation that would raise a flag ends the process by a signal.
    """
    state = EVERYTHING._replace(traps=True)
    call, same = good("large", DTYPES[2])[name], expected(good, "large", name, DTYPES[2])
    if "scipy" in name:
        good("small", DTYPES[2])[name]()  # imports what it needs
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            faulthandler.disable()  # or it would say at length what is reported below
            wrong = changes(state, call, same)
            if LINUX and name not in ALONE and len(list(Path("/proc/self/task").iterdir())) < 2:
                wrong.append("no worker began")
            os.write(writer, "; ".join(wrong).encode() or b"right")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (said, status) == ("right", 0)
