"""What files and Dask cost end to end, beside `cp`, beside SciPy, and under SIGKILL.

    python benches/pipeline.py files            4 GB through the command, `cp` and a loop over SciPy
    python benches/pipeline.py kills            the command killed at 200 random moments of the same
    python benches/pipeline.py dask             8 GiB on two workers of 1 GiB, beside dask with SciPy

Each writes its data into `--folder` (a temporary one by default), needs up to twice as much room again for
the outputs, and removes all of it. How to read the result: docs/files.md and docs/dask.md.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

CLASSES = 1000
BLOCK = 16_000  # rows that are made at once: 64 MB
CHUNK = 2 << 20  # bytes: the command's own default, and what the loop over SciPy takes

SCIPY = f"""
import os, sys
import numpy as np
from scipy.special import softmax
x = np.load(sys.argv[1], mmap_mode="r")
rows = {CHUNK} // x[:1].nbytes
with open(sys.argv[2], "wb") as out:
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(x))
    for start in range(0, len(x), rows):
        softmax(x[start : start + rows], axis=-1).tofile(out)
    out.flush()
    os.fsync(out.fileno())
"""


def make(path: Path, gigabytes: float) -> None:
    """Write the logits in a process of its own: a child's peak memory begins with that of its parent."""
    command = [sys.executable, __file__, "make", "--gb", str(gigabytes), "--folder", str(path)]
    subprocess.run(command, check=True)
    filecmp.cmp(path, path, shallow=False)  # it is in the page cache from here on
    os.sync()


def _make(path: Path, gigabytes: float) -> None:
    """Write normal logits of spread 3, float32, in rows of `CLASSES`."""
    rng = np.random.default_rng(0)
    rows = int(gigabytes * 1e9 / 4 / CLASSES)
    x = open_memmap(path, "w+", np.dtype(np.float32), (rows, CLASSES))
    for start in range(0, rows, BLOCK):
        block = x[start : start + BLOCK]
        block[:] = 3 * rng.standard_normal(block.shape, np.float32)
    x.flush()


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; give its seconds and its peak memory in MiB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    assert child.stderr is not None
    if status:
        sys.exit(f"{command[0]} ended with {status}: {child.stderr.read().decode()}")
    child.stderr.close()
    child.returncode = 0
    return seconds, usage.ru_maxrss / 1024


def softmax_command(source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "fastsoftmax", "softmax", str(source), "-o", str(target), "--quiet"]


def files(folder: Path, gigabytes: float, rounds: int) -> None:
    """Time the ways by turns; each writes a file that was not there."""
    source, target = folder / "logits.npy", folder / "out.npy"
    make(source, gigabytes)
    cp = shutil.which("cp") or "cp"
    ways = {
        "cp": [cp, str(source), str(target)],
        "cp, then sync": ["/bin/sh", "-c", 'cp "$0" "$1" && sync "$1"', str(source), str(target)],
        "fastsoftmax softmax": softmax_command(source, target),
        "SciPy by chunks of 2 MiB": [sys.executable, "-c", SCIPY, str(source), str(target)],
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, command in ways.items():
            if name.startswith("SciPy") and turn % 3:
                continue  # so far behind that every third round is enough
            took[name].append(run(command))
            target.unlink()
            os.sync()
    print(f"{gigabytes} GB, float32, rows of {CLASSES}, {rounds} rounds by turns, medians")
    base = median(seconds for seconds, _ in took["cp"])
    for name, figures in took.items():
        seconds = [second for second, _ in figures]
        print(
            f"{name:26} {median(seconds):7.2f} s  {median(seconds) / base:6.2f} x cp  "
            f"({min(seconds):.2f} to {max(seconds):.2f})  peak {max(peak for _, peak in figures):.0f} MiB"
        )


def kills(folder: Path, gigabytes: float, times: int) -> None:
    """Kill the command at random moments; the output must be the old file, absent, or whole."""
    source, target, whole = folder / "logits.npy", folder / "out.npy", folder / "whole.npy"
    make(source, gigabytes)
    takes = []
    for _ in range(3):
        whole.unlink(missing_ok=True)
        os.sync()
        takes.append(run(softmax_command(source, whole))[0])
    last = 1.05 * median(takes)
    seen = {"absent": 0, "old": 0, "complete": 0}
    for turn in range(times):
        target.unlink(missing_ok=True)
        command = softmax_command(source, target)
        if turn % 2:
            target.write_bytes(b"old")
            command.append("--force")
        child = subprocess.Popen(command)
        time.sleep(random.uniform(0, last))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not target.exists():
            state = "absent"
        elif target.stat().st_size == len(b"old"):
            state = "old" if target.read_bytes() == b"old" else "wrong"
        else:
            state = "complete" if filecmp.cmp(target, whole, shallow=False) else "wrong"
        left = {path.name for path in folder.iterdir()} - {source.name, target.name, whole.name}
        if state in {"wrong", "absent" if turn % 2 else "old"} or left:
            sys.exit(f"kill {turn}: the output is {state}, and beside it there is {sorted(left)}")
        seen[state] += 1
    print(f"{times} times SIGKILL within {last:.1f} s of the start, {gigabytes} GB: {seen}")


def dask(folder: Path, gigabytes: float, rounds: int) -> None:
    """Time the greatest probability of each row of a file that no worker could hold."""
    import fastsoftmax.dask as fsd
    import scipy.special
    from dask import array as da
    from distributed import Client, LocalCluster

    source = folder / "logits.npy"
    make(source, gigabytes)
    logits = np.load(source, mmap_mode="r")

    def array(cuts: int) -> Any:
        # By name, so that workers read the file: an array itself would be sent to them.
        chunks = (16_000, CLASSES // cuts)
        template = da.empty(logits.shape, dtype=logits.dtype, chunks=chunks)
        return template.map_blocks(_read, str(source), dtype=logits.dtype, meta=np.empty((0, 0), np.float32))

    ways = {
        "the source alone": lambda: array(1).max(axis=1),
        "fastsoftmax.dask, whole rows": lambda: fsd.softmax(array(1)).max(axis=1),
        "fastsoftmax.dask, rows cut in 4": lambda: fsd.softmax(array(4)).max(axis=1),
        "scipy.special.softmax in map_blocks": lambda: (
            array(1).map_blocks(scipy.special.softmax, axis=-1, dtype=np.float32).max(axis=1)
        ),
    }
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1GiB", dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way().compute()
                took[name].append(time.perf_counter() - start)
        if client.run(os.getpid) != pids:
            sys.exit("a worker died and was replaced")
    print(
        f"{gigabytes} GB, float32, rows of {CLASSES}, two workers of 1 GiB, one thread each, {rounds} rounds"
    )
    base = median(took["the source alone"])
    for name, seconds in took.items():
        print(f"{name:36} {median(seconds):6.2f} s   beyond the source {median(seconds) - base:6.2f} s")


def _read(block: Any, path: str, block_info: Any = None) -> Any:
    """Give the part of a file that belongs where the block is."""
    del block
    (first, last), (left, right) = block_info[0]["array-location"]
    return np.asarray(np.load(path, mmap_mode="r")[first:last, left:right])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["files", "kills", "dask", "make"], metavar="files | kills | dask")
    parser.add_argument("--gb", type=float, help="size of the matrix (4; dask: 8.6, which is 8 GiB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to work; it must exist")
    arguments = parser.parse_args()
    if arguments.gb is not None and not arguments.gb * 1e9 >= 4 * CLASSES:
        parser.error(f"--gb {arguments.gb} must be at least {4 * CLASSES / 1e9}, which is one row")
    if min(arguments.rounds, arguments.kills) < 1:
        parser.error("--rounds and --kills must be at least 1")
    if arguments.what == "make":
        _make(arguments.folder, arguments.gb)
        return
    if arguments.folder is not None and not arguments.folder.is_dir():
        parser.error(f"--folder {arguments.folder} is not a directory")
    gigabytes = arguments.gb or (8.6 if arguments.what == "dask" else 4)
    free = shutil.disk_usage(arguments.folder or tempfile.gettempdir()).free
    if free < 3e9 * gigabytes:
        parser.error(f"{3 * gigabytes:.0f} GB of disk are needed, {free / 1e9:.0f} are free; see --gb")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.what == "files":
            files(folder, gigabytes, arguments.rounds)
        elif arguments.what == "kills":
            kills(folder, gigabytes, arguments.kills)
        else:
            dask(folder, gigabytes, arguments.rounds)


if __name__ == "__main__":
    main()
