"""Calls from outside: cost, threads, fork, signals, memory, import, documentation."""

import doctest
import gc
import inspect
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
from conftest import Python
from reference import bits

PUBLIC = [getattr(fs, name) for name in fs.__all__ if callable(getattr(fs, name))]
Array = np.ndarray[Any, Any]
# More than a small call's elements: threads are used, and the interpreter is let go.
LARGE = np.random.default_rng(0).normal(0, 5, (300, 1000)).astype(np.float32)
EXPECTED = bits(fs.softmax(LARGE, threads=1))


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    yield
    fs.set_num_threads(None)


# ---- Memory ----


def test_no_hidden_copy() -> None:
    x = np.zeros((1000, 1000), np.float32)
    for operand, axis in ((x, -1), (x, 0), (x[:, ::-1], -1), (x.T, 0), (x[::2], -1)):
        out = np.empty(operand.shape, np.float32)
        fs.softmax(operand, axis, out=out)
        tracemalloc.start()
        try:
            fs.softmax(operand, axis, out=out)
            assert tracemalloc.get_traced_memory()[1] < 10_000
        finally:
            tracemalloc.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_stays_small(python: Python) -> None:
    python(
        """
import re, numpy as np, fastsoftmax as fs
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
x = np.random.default_rng(0).random((32, 2**20), np.float32)
out = np.empty_like(x); out[...] = 0
turned = np.empty_like(x.T); turned[...] = 0
fs.softmax(x[:, :100000])
before = status("VmRSS")
fs.softmax(x, out=out)
fs.softmax(x, 0, out=out)
fs.softmax(x, out=turned.T)
fs.softmax(x[:, ::-1], out=out)
fs.softmax(x, out=x)
assert status("VmHWM") - before < 16 * 1024, (before, status("VmHWM"))
"""
    )


# ---- References ----


def test_no_reference_leaks() -> None:
    x, out = np.zeros((4, 4)), np.zeros((4, 4))
    where, temperature = np.ones((4, 4), bool), np.ones((4, 1))
    held = [x, out, where, temperature, x.dtype, np.dtype(np.float16)]

    def use() -> None:
        fs.softmax(x)
        fs.softmax(x, (1,), out=out, where=where, temperature=temperature)
        fs.softmax(x.T[::2], dtype=np.float16)
        fs.softmax([1.0, 2.0], temperature=np.float32(2))
        bad: dict[str, Any]
        for bad in ({"axis": 9}, {"temperature": [0.0]}, {"where": x}, {"dtype": int}, {"out": x[0]}):
            with pytest.raises((ValueError, TypeError)):
                fs.softmax(x, **bad)

    for _ in range(10):
        use()
    gc.collect()
    before = [sys.getrefcount(one) for one in held]
    tracemalloc.start()
    try:
        use()
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            use()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(one) for one in held] == before
    assert grown < 20_000


def test_reference_to_the_result() -> None:
    x = np.zeros(3)
    assert sys.getrefcount(fs.softmax(x)) == sys.getrefcount(np.exp(x))
    out = np.zeros(3)
    before = sys.getrefcount(out)
    result = fs.softmax(x, out=out)
    assert sys.getrefcount(out) == before + 1
    del result


# ---- Threads ----


@pytest.mark.parametrize("threads", [1, 2, 7, 1000, 10**6])
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_same_bits_with_any_number_of_threads(threads: int, axis: int | None) -> None:
    expected = bits(fs.softmax(LARGE, axis, threads=1))
    assert bits(fs.softmax(LARGE, axis, threads=threads)) == expected
    fs.set_num_threads(threads)
    assert bits(fs.softmax(LARGE, axis)) == expected


def test_number_of_threads() -> None:
    default = fs.get_num_threads()
    assert 1 <= default <= (os.cpu_count() or 1)
    fs.set_num_threads(5)
    assert fs.get_num_threads() == fs.build_info()["threads"] == 5
    fs.set_num_threads(np.int8(3))
    assert fs.get_num_threads() == 3
    fs.set_num_threads(None)
    assert fs.get_num_threads() == default


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"FASTSOFTMAX_NUM_THREADS": "1", "RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}, 1),
        ({"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"FASTSOFTMAX_NUM_THREADS": "100000"}, None),
        ({"FASTSOFTMAX_NUM_THREADS": "many"}, None),
    ],
)
def test_number_of_threads_from_the_environment(
    env: dict[str, str], expected: int | None, python: Python
) -> None:
    unset = dict.fromkeys(("FASTSOFTMAX_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"), "")
    code = "import fastsoftmax as fs; print(fs.get_num_threads())"
    default = int(python(code, env=unset).stdout)
    assert int(python(code, env=unset | env).stdout) == (expected or default)


def test_calls_from_many_threads() -> None:
    def use(seed: int) -> bool:
        x = np.random.default_rng(seed).normal(0, 5, (100, 1000)).astype(np.float32)
        expected = bits(fs.softmax(x, threads=1))
        return all(bits(fs.softmax(x, threads=1 + i % 4)) == expected for i in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(16)))


def test_workers_sleep_between_calls() -> None:
    for _ in range(100):
        fs.softmax(LARGE, threads=2)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1


def test_other_threads_run_during_a_long_call() -> None:
    x = np.zeros((50, 2**20), np.float32)
    ticks, stop = 0, threading.Event()

    def count() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.001)

    other = threading.Thread(target=count)
    other.start()
    try:
        time.sleep(0.02)
        start, before = time.perf_counter(), ticks
        while time.perf_counter() - start < 0.2:
            fs.softmax(x, out=x, threads=1)
        assert ticks - before > 20
    finally:
        stop.set()
        other.join()


def test_an_array_that_changes_meanwhile_spoils_numbers_at_most() -> None:
    x, stop = LARGE.copy(), threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            x[:] = np.nan
            x[:] = 1

    other = threading.Thread(target=spoil)
    other.start()
    try:
        for _ in range(50):
            fs.softmax(x, out=x, threads=2)
    finally:
        stop.set()
        other.join()


class ChangesWhenAsked:
    """Gives the array another shape and dtype while the arguments are read."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __index__(self) -> int:
        self.array.resize((1, 2), refcheck=False)
        return -1


def test_an_array_that_an_argument_changes() -> None:
    x = np.zeros((1000, 1000))
    np.testing.assert_array_equal(fs.softmax(x, ChangesWhenAsked(x)), [[0.5, 0.5]])


# ---- Processes ----


def child(index: int) -> bytes:
    """Compute what the parent computed."""
    return bits(fs.softmax(LARGE, threads=index % 3 + 1))


def wait_for(pid: int, seconds: float = 30) -> int:
    """Wait for a child, but not for ever."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("a forked child hung")


def forked(work: Callable[[], bool]) -> int:
    """Run `work` in a forked child and give its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return wait_for(pid)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
# CPython warns of fork where there are threads; that this is harmless here is what these tests show.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@needs_fork
@forks
def test_fork_after_use() -> None:
    fs.softmax(LARGE, threads=2)
    for _ in range(20):
        assert forked(lambda: child(1) == EXPECTED) == 0
    assert child(1) == EXPECTED


@needs_fork
@forks
def test_fork_of_a_fork() -> None:
    fs.softmax(LARGE, threads=2)
    assert forked(lambda: child(1) == EXPECTED and forked(lambda: child(1) == EXPECTED) == 0) == 0


@needs_fork
@forks
def test_fork_during_a_call_in_another_thread() -> None:
    stop = threading.Event()

    def use() -> None:
        x = np.zeros((64, 2**16), np.float32)
        while not stop.is_set():
            fs.softmax(x, out=x, threads=2)

    other = threading.Thread(target=use)
    other.start()
    try:
        for _ in range(20):
            assert forked(lambda: child(1) == EXPECTED) == 0
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize("method", [pytest.param("fork", marks=[needs_fork, forks]), "spawn"])
def test_multiprocessing(method: str) -> None:
    fs.softmax(LARGE, threads=2)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(child, range(6)).get(timeout=60) == [EXPECTED] * 6


def test_exit_with_a_daemon_thread_in_a_call(python: Python) -> None:
    for threads in (1, 2):
        python(
            f"""
import threading, time, numpy as np, fastsoftmax as fs
x = np.zeros((64, 2**18), np.float32)
def use():
    while True:
        fs.softmax(x, out=x, threads={threads})
threading.Thread(target=use, daemon=True).start()
time.sleep(0.2)
"""
        )


# ---- Signals ----

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here")


class Stop(Exception):
    """What the signal handler raises."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """Have a function called by the signal handler after some seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(seconds: float, act: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda _number, _frame: act())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_place() -> tuple[Array, Array]:
    """Give an operand that the kernels use where it lies."""
    x = np.ones((2**9, 2**17))
    return x, x


def converted() -> tuple[Array, Array]:
    """Give one that they read into working memory: 2**28 elements, a call of about a second."""
    shape = (2**9, 2**19)
    return np.broadcast_to(np.float64(1), shape), np.empty(shape, np.float16)


@needs_timer
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("operands", [in_place, converted])
def test_a_long_call_hears_a_signal(
    operands: Callable[[], tuple[Array, Array]],
    axis: int | None,
    threads: int,
    alarm: Callable[[float, Callable[[], None]], None],
) -> None:
    x, out = operands()
    heard = 0.0

    def act() -> None:
        nonlocal heard
        heard = time.perf_counter()
        raise Stop

    def many_calls() -> None:
        while True:
            fs.softmax(x, axis, out=out, threads=threads)

    def delay() -> float:
        start = time.perf_counter()
        alarm(0.05, act)
        with pytest.raises(Stop):
            many_calls()
        # From the signal to its handler, or from there to the exception, whichever took longer.
        return max(heard - start - 0.05, time.perf_counter() - heard)

    # A machine with other things to do may be late once, but a call that does not listen is late each time.
    delays: list[float] = []
    while not delays or (min(delays) > 0.1 and len(delays) < 5):
        delays.append(delay())
    assert min(delays) <= 0.1, delays
    # The library works afterwards.
    assert child(1) == EXPECTED


@needs_timer
def test_a_handler_that_does_not_raise_changes_nothing(
    alarm: Callable[[float, Callable[[], None]], None],
) -> None:
    called: list[bytes] = []
    # The handler may even call the library itself.
    alarm(0.05, lambda: called.append(child(1)))
    x = np.ones((2**9, 2**17))
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        fs.softmax(x, out=x, threads=2)
    assert called == [EXPECTED]
    assert bits(fs.softmax(LARGE)) == EXPECTED


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c() -> None:
    # A shell without job control has what it runs in the background ignore the signal.
    code = """
import signal
import numpy as np, fastsoftmax as fs
signal.signal(signal.SIGINT, signal.default_int_handler)
x = np.ones((2**10, 2**17))
print("ready", flush=True)
while True:
    fs.softmax(x, out=x)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()  # or one that does not hear would run for ever
    assert process.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in stderr


# ---- Import ----


def test_import_imports_and_starts_nothing(python: Python) -> None:
    python(
        """
import os, sys, threading, numpy
def threads():
    return os.listdir("/proc/self/task") if sys.platform == "linux" else threading.enumerate()
modules, before = set(sys.modules), threads()
import fastsoftmax
known = {"fastsoftmax", *sys.stdlib_module_names}
new = {name for name in set(sys.modules) - modules if name.partition(".")[0] not in known}
assert not new, new
assert threads() == before
"""
    )


@pytest.mark.parametrize("level", fs.build_info()["levels"])
def test_every_level_can_be_forced_and_gives_the_same_bits(level: str, python: Python) -> None:
    code = """
import numpy as np, fastsoftmax as fs
assert fs.build_info()["level"] == {level!r}
from hashlib import sha256
for dtype in ("f2", "f4", "f8"):
    x = np.random.default_rng(0).normal(0, 8, (50, 1003)).astype(dtype)
    print(*(sha256(fs.softmax(x, axis).tobytes()).hexdigest() for axis in (-1, 0, None)))
"""
    forced = python(code.format(level=level), env={"FASTSOFTMAX_SIMD": level.upper()}).stdout
    default = python(code.format(level=fs.build_info()["level"]), env={"FASTSOFTMAX_SIMD": ""}).stdout
    assert forced == default


@pytest.mark.parametrize("level", ["sse9", "avx1024"])
def test_a_level_that_is_not_there_is_an_import_error(level: str, python: Python) -> None:
    done = python("import fastsoftmax", env={"FASTSOFTMAX_SIMD": level}, check=False)
    assert done.returncode == 1
    assert re.search(rf"ImportError: FASTSOFTMAX_SIMD={level} .*portable", done.stderr)


def test_a_level_that_the_processor_lacks_is_an_import_error(python: Python) -> None:
    lacking = {"portable", "neon", "avx2", "avx512"} - set(fs.build_info()["levels"])
    for level in lacking:
        done = python("import fastsoftmax", env={"FASTSOFTMAX_SIMD": level}, check=False)
        assert "ImportError" in done.stderr
        assert "lacks" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 12), reason="without means to ask for a strict second interpreter")
def test_a_second_interpreter_is_refused(python: Python) -> None:
    python(
        """
import fastsoftmax
try:
    from _interpreters import create, exec as run
except ImportError:
    from _xxsubinterpreters import create, run_string as run
try:
    failure = run(create(), "import fastsoftmax")  # reports it from Python 3.13 on, raises it before
except RuntimeError as error:
    failure = error
assert "ImportError" in str(failure), failure
"""
    )


# ---- Documentation ----


@pytest.mark.parametrize("thing", [fs, *PUBLIC], ids=lambda thing: thing.__name__)
def test_examples_in_docstrings(thing: Any) -> None:
    doc = inspect.getdoc(thing)
    assert doc
    examples = doctest.DocTestParser().get_doctest(doc, {}, thing.__name__, None, None)
    assert examples.examples or isinstance(thing, type)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(examples).failed == 0


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_docstrings_name_every_parameter(function: Any) -> None:
    if isinstance(function, type):
        return
    doc = inspect.getdoc(function) or ""
    for name, parameter in inspect.signature(function).parameters.items():
        assert re.search(rf"^{name} : ", doc, re.MULTILINE), name
        if name == "axis":
            assert "SciPy" in doc or "scipy" in doc
            assert parameter.default == -1
    for section in ("Returns\n-------", "Examples\n--------"):
        assert section in doc or function in (fs.set_num_threads, fs.set_cache_bytes)


def test_the_docstring_states_the_bound_of_the_tests() -> None:
    from reference import BOUNDS

    doc = " ".join((fs.softmax.__doc__ or "").split())
    assert f"at most {BOUNDS[np.dtype(np.float32)]:.0f} ULP" in doc
    assert f"at most {BOUNDS[np.dtype(np.float16)]} ULP" in doc


def test_signature_can_be_read() -> None:
    assert str(inspect.signature(fs.softmax)) == (
        "(x, /, axis=-1, *, temperature=1.0, where=None, dtype=None, out=None, threads=None)"
    )


def test_stubs_agree_with_the_module() -> None:
    from fastsoftmax import _core

    stubs = Path(fs.__file__).with_name("_core.pyi").read_text()
    declared = set(re.findall(r"^(?:def|class) (\w+)|^(__version__)", stubs, re.MULTILINE))
    names = {one or other for one, other in declared if not one.startswith("_B")}
    assert names == {name for name in dir(_core) if not re.fullmatch(r"__(?!version)\w+__", name)}
    assert Path(fs.__file__).with_name("py.typed").exists()


def test_version_is_one() -> None:
    from importlib.metadata import version

    assert fs.__version__ == fs.build_info()["version"] == version("fastsoftmax")


def test_functions_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(fs.softmax)) is fs.softmax


def test_release_build() -> None:
    assert fs.build_info()["debug"] is False
