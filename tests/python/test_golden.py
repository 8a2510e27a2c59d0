"""The same bits everywhere: golden.json at every level, and a row that is moved about.

Needs no wide long double, and so runs on every machine: `pytest --noconftest tests/python/test_golden.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import fastsoftmax.io
import golden
import numpy as np
import pytest
from golden import DTYPES, logits
from numpy.typing import NDArray

Array = NDArray[Any]
LEVELS = fs.build_info()["levels"]
EVERY_DTYPE = pytest.mark.parametrize("name", DTYPES)
EITHER = pytest.mark.parametrize("function", [fs.softmax, fs.log_softmax], ids=["softmax", "log_softmax"])


# ---- The same bits as on all other machines ----


@cache
def computed(level: str) -> dict[str, Any]:
    """Give what `golden.compute` gives in a process that is held to a level."""
    done = subprocess.run(
        [sys.executable, "-W", "error", golden.__file__, "--print"],
        env={**os.environ, "FASTSOFTMAX_SIMD": level},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["level"] == level
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_and_number_of_threads_gives_the_golden_bits(level: str) -> None:
    expected = json.loads(golden.PATH.read_text())
    if "bfloat16" not in DTYPES:
        expected = {name: value for name, value in expected.items() if " bfloat16" not in name}
    hashes = computed(level)["hashes"]
    assert hashes.keys() == expected.keys()
    # Not the hashes, in which nobody can read anything, but with how many threads they are right.
    right = {name: found.get(expected[name], []) for name, found in hashes.items()}
    wrong = {name: threads for name, threads in right.items() if threads != list(golden.THREADS)}
    assert not wrong, f"{level}: {len(wrong)} of {len(hashes)} cases differ; right for threads: {wrong}"


@pytest.mark.parametrize("level", LEVELS)
def test_nan_is_one_pattern_of_bits(level: str) -> None:
    # One that the processor makes (inf - inf, 0 / 0) is negative on x86 and positive on Arm.
    nans = computed(level)["nans"]
    assert not nans, f"{level}: {nans}"


def test_the_levels_that_this_machine_must_have_were_tested() -> None:
    must = os.environ.get("FASTSOFTMAX_TEST_LEVELS", "")
    assert {level for level in must.split(",") if level} <= set(LEVELS)


# ---- The same bits wherever a row lies ----


def bits(array: Array) -> bytes:
    return golden.little(array).tobytes()


def alone(function: Callable[..., Any], rows: Array) -> list[bytes]:
    """Give the bits of each row's result, computed by itself."""
    return [bits(function(row.copy(), threads=1)) for row in rows]


@EVERY_DTYPE
@EITHER
@pytest.mark.parametrize("n", [1, 3, 17, 64, 65, 1025, 4097])
def test_place_in_the_batch(function: Callable[..., Any], n: int, name: str) -> None:
    # So many rows that each is in every lane of a vector, in the middle and in what is left over at the end.
    base = golden.numbers("places", (41, n), name, -30, 30)
    base[7, n // 2], base[8, n // 2] = -np.inf, np.nan
    expected = alone(function, base)
    for shift in (0, 1, 2, 3, 5, 16, 40):
        x = np.roll(base, shift, axis=0)
        for rows in (41, 32, 9, 2):
            wanted = [expected[(row - shift) % 41] for row in range(rows)]
            assert [bits(row) for row in function(x[:rows])] == wanted
            assert [bits(row) for row in function(x[:rows].T.copy(), 0).T] == wanted
            middle = np.stack([x[:rows].T, x[:rows].T])
            assert [bits(row) for row in function(middle, 1)[1].T] == wanted


@EVERY_DTYPE
@EITHER
@pytest.mark.parametrize("n", [5, 100, 1025, 5000])
def test_alignment(function: Callable[..., Any], n: int, name: str) -> None:
    row = golden.numbers("alignment", n, name, -30, 30)
    expected = bits(function(row))
    memory, results = np.zeros(n + 16, row.dtype), np.zeros(n + 16, row.dtype)
    for offset in range(16):
        x = memory[offset : offset + n]
        x[:] = row
        assert bits(function(x)) == expected
        for other in (0, 1, 15 - offset):
            out = results[other : other + n]
            results[:] = 9
            assert bits(function(x, out=out)) == expected
            # What lies before and after is not written to.
            assert np.count_nonzero(results == 9) >= 16
            assert (results[:other] == 9).all()
            assert (results[other + n :] == 9).all()
        assert bits(function(x, out=x)) == expected


@EVERY_DTYPE
@EITHER
@pytest.mark.parametrize("n", [100, 1025, 5000])
def test_strides_of_logits_and_out(function: Callable[..., Any], n: int, name: str) -> None:
    rows = logits(n, name)[:17]
    expected = alone(function, rows)
    for step in (1, 2, -1, -3):
        x = np.zeros((len(rows), n * abs(step)), rows.dtype)[:, ::step]
        for out_step in (1, -1, 5):
            x[:] = rows
            out = np.zeros((len(rows), n * abs(out_step)), rows.dtype)[:, ::out_step]
            assert [bits(row) for row in function(x, out=out)] == expected
        function(x, out=x)
        assert [bits(row) for row in x] == expected


@EVERY_DTYPE
@EITHER
def test_from_a_file_or_from_the_array(function: Callable[..., Any], name: str, tmp_path: Path) -> None:
    for n in (17, 1025, 70_000):
        x = logits(n, name)
        expected = [bits(row) for row in function(x)]
        np.save(tmp_path / "x.npy", x)
        # Chunks of single rows, of some rows, and one of all.
        for chunk in (1, 100_000, 1 << 24):
            for source, axis in ((tmp_path / "x.npy", -1), (x, -1), (x[None].transpose(0, 2, 1), 1)):
                out = tmp_path / "out.npy"
                # NumPy's files keep bfloat16 as bytes without a meaning.
                dtype = "bfloat16" if name == "bfloat16" and isinstance(source, Path) else None
                fs.io.stream(
                    function, source, out, axis=axis, chunk_bytes=chunk, overwrite=True, input_dtype=dtype
                )
                got = np.load(out).view(x.dtype)
                rows = got if axis == -1 else got[0].T
                assert [bits(row) for row in rows] == expected
