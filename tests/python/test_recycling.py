"""The memory of large results: recycled, bounded, given back, and no concern of whoever holds the array."""

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import fastsoftmax as fs
import numpy as np
import pytest
from conftest import Python
from numpy._core.multiarray import get_handler_name

# A result of 20 MB, and what it must be.
X = np.random.default_rng(0).normal(0, 5, (5000, 1000)).astype(np.float32)
EXPECTED = fs.softmax(X, out=np.empty_like(X))


@pytest.fixture(autouse=True)
def _bytes_as_they_were() -> Iterator[None]:
    fs.set_cache_bytes(1 << 30)
    yield
    fs.set_cache_bytes(None)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_the_memory_of_a_freed_result_is_the_next_ones() -> None:
    first = fs.softmax(X)
    held = fs.softmax(X)
    where = address(first)
    assert where != address(held)
    del first
    second = fs.softmax(X[:4500])
    assert address(second) == where
    np.testing.assert_array_equal(held, EXPECTED)
    np.testing.assert_array_equal(second, EXPECTED[:4500])
    del second
    assert address(fs.log_softmax(X)) == where


@pytest.mark.parametrize("order", ["C", "F"])
def test_results_are_ordinary_arrays(order: Any) -> None:
    x = np.asarray(X, order=order)
    result = fs.softmax(x)
    assert get_handler_name(result) == "fastsoftmax"
    assert get_handler_name(np.empty(10**7)) == "default_allocator"
    assert type(result) is np.ndarray
    assert result.base is None
    flags = result.flags
    assert flags.owndata
    assert flags.writeable
    assert flags.aligned
    result[0, 0] = 7
    grown = np.ravel(result, order="K").copy()
    del x
    result = fs.softmax(X)
    result.resize((6000, 1000), refcheck=False)
    np.testing.assert_array_equal(result[:5000], EXPECTED)
    assert not result[5000:].any()
    result.resize((3, 1000), refcheck=False)
    np.testing.assert_array_equal(result, EXPECTED[:3])
    assert grown[0] == 7


def test_small_results_have_the_memory_of_numpy() -> None:
    assert get_handler_name(fs.softmax(X[:1000])) == "default_allocator"


def test_it_can_be_switched_off(python: Python) -> None:
    fs.set_cache_bytes(0)
    assert fs.get_cache_bytes() == 0
    assert get_handler_name(fs.softmax(X)) == "default_allocator"
    code = "import fastsoftmax as fs; print(fs.get_cache_bytes())"
    for text, bytes_ in (("0", 0), ("12345", 12345), (" 5 ", 5)):
        assert int(python(code, env={"FASTSOFTMAX_CACHE_BYTES": text}).stdout) == bytes_
    assert 0 < int(python(code, env={"FASTSOFTMAX_CACHE_BYTES": ""}).stdout) <= 1 << 30
    for text in ("1GB", "-1", "1.5"):
        done = python(code, env={"FASTSOFTMAX_CACHE_BYTES": text}, check=False)
        assert "ImportError: FASTSOFTMAX_CACHE_BYTES=" in done.stderr
        assert "0 keeps no memory" in done.stderr


def test_bad_limits() -> None:
    for bad, error in ((-1, ValueError), (1 << 70, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="n must be"):
            fs.set_cache_bytes(bad)
    fs.set_cache_bytes(np.int64(5))
    assert fs.get_cache_bytes() == 5


def test_no_more_than_the_limit_is_kept() -> None:
    fs.set_cache_bytes(30_000_000)
    first, second = fs.softmax(X), fs.softmax(X)
    addresses = {address(first), address(second)}
    del first, second
    third, fourth = fs.softmax(X), fs.softmax(X)
    assert address(third) in addresses
    np.testing.assert_array_equal(fourth, EXPECTED)


LOOP = """
import re, time
import numpy as np, fastsoftmax as fs

def now(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

fs.set_cache_bytes(None if {recycles} else 0)
x = np.ones((10000, 1000), np.float32)
for rows in {rows}:
    p = fs.softmax(x[:rows])
print(now("VmHWM"))
before = now("VmRSS")
del p
time.sleep({sleep})
print(before - now("VmRSS"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rows", [[10000] * 20, [9000, 10000, 8000] * 5])
def test_a_loop_needs_no_more_memory_than_without(python: Python, rows: list[int]) -> None:
    on, off = (
        int(python(LOOP.format(recycles=recycles, rows=rows, sleep=0)).stdout.split()[0])
        for recycles in (True, False)
    )
    # The largest result has 40 MB; blocks are rounded up to large pages.
    assert on < off + 5e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_idle_is_given_back(python: Python) -> None:
    # (With one thread, for which tests before this one may have asked, that waits for the next call.)
    env = {"FASTSOFTMAX_NUM_THREADS": "2"}
    given_back = int(python(LOOP.format(recycles=True, rows=[10000], sleep=5), env=env).stdout.split()[1])
    assert given_back > 38e6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own() -> None:
    held = fs.softmax(X)
    fs.softmax(X)
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(fs.softmax(X), EXPECTED) for _ in range(3)) and np.array_equal(
            held, EXPECTED
        )
        held[:] = 0
        del held
        os._exit(0 if same and np.array_equal(fs.softmax(X), EXPECTED) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(held, EXPECTED)


def test_threads_share_it() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(10):
            result = fs.softmax(X, threads=1)
            other = fs.softmax(X[seed:], threads=1)
            if not (np.array_equal(result, EXPECTED) and np.array_equal(other, EXPECTED[seed:])):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_that_cannot_be_had_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        fs.softmax(np.broadcast_to(np.float32(0), (1 << 30, 1 << 20)))
    # The handler is out of force again.
    assert get_handler_name(np.empty(10**7)) == "default_allocator"
