"""Starting the processes that measure, one for each number of threads and each instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import fastsoftmax

from .cases import MIB, Case
from .peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST: Final = 4  # MiB of the large inputs: one image of 64 classes is as large
LIMIT: Final = 24 << 30  # bytes of memory that a run must never need
COPIES: Final = (
    24  # the most arrays of the largest size that live at once, peers' temporaries too (20 were seen)
)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    threads : int
        Of every contender, where a case does not say otherwise.
    rounds, size_mb : int
        Of each case; and MiB of the large inputs.
    peers : sequence of str
        Their names, of which those that are installed take part.
    level : str or None
        An instruction set to force.
    """

    threads: int
    rounds: int
    size_mb: int
    peers: Sequence[str]
    level: str | None = None


def read_peers(text: str) -> list[str]:
    """Read names of peers between commas, or ``none``.

    >>> read_peers("torch,jax"), read_peers("none")
    (['torch', 'jax'], [])
    """
    names = [] if text == "none" else text.split(",")
    if unknown := set(names) - {entry.name for entry in PEERS}:
        raise ValueError(f"no such peer: {', '.join(sorted(unknown))}")
    return names


def check_size(size_mb: int) -> None:
    """Refuse sizes that some cases do not fit into, or for which this machine has too little memory."""
    if size_mb < LEAST:
        raise ValueError(f"--size-mb {size_mb} must be at least {LEAST}")
    known = sys.platform == "linux"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else LIMIT
    need = COPIES * size_mb * MIB
    if need > min(LIMIT, free):
        raise ValueError(
            f"--size-mb {size_mb} may need {need / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free"
        )


def run(cases: Sequence[Case], settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure cases, and give what the measuring processes say, as they say it.

    Yields
    ------
    dict
        With the key ``about``: what takes part; ``absent``: a peer that does not import, and ``why``;
        ``key``: a case, and its ``figures``.

    Raises
    ------
    ChildProcessError
        A process ended before it measured anything.
    """
    batches: dict[tuple[int, str | None], list[Case]] = {}
    for case in cases:
        at = (case.threads or settings.threads, case.level or settings.level)
        batches.setdefault(at, []).append(case)
    for (threads, level), batch in batches.items():
        if level is None or level in fastsoftmax.build_info()["levels"]:
            yield from _run_batch(batch, settings, threads, level)
            continue
        why = {"status": "cannot", "why": f"this processor has no {level}"}
        yield from ({"key": case.key, "figures": {"fastsoftmax": why}} for case in batch)


def _run_batch(
    cases: list[Case], settings: Settings, threads: int, level: str | None
) -> Iterator[dict[str, Any]]:
    """Measure cases in a process of their own.

    Should a library take the process down, the case that it was at is lost and the rest is done by another.
    """
    keys = [case.key for case in cases]
    # A forced level is compared with our own other level, so no peer takes part.
    peers = [] if cases[0].level else list(settings.peers)
    spec = {"size_mb": settings.size_mb, "rounds": settings.rounds, "threads": threads, "peers": peers}
    while keys:
        at = None
        with tempfile.TemporaryFile("w+") as noise:
            worker, lines = _start({**spec, "keys": keys}, _environment(threads, level), noise)
            try:
                for line in lines:
                    said = json.loads(line)
                    at = said.get("begin", at)
                    if "key" in said:
                        keys.remove(said["key"])
                        at = None
                    yield said
                worker.wait()
            finally:
                lines.close()
                worker.kill()
                worker.wait()
            if not keys:
                return  # a library that fails while it is taken down has done no harm
            noise.seek(0)
            print("".join(noise.readlines()[-15:]), file=sys.stderr)
        ended = f"the measuring process ended with {worker.returncode}"
        if at is None:
            raise ChildProcessError(f"{ended} before it measured anything")
        print(f"{ended} in {at}; another goes on", file=sys.stderr)
        keys.remove(at)
        yield {"key": at, "figures": {"fastsoftmax": {"status": "crashed"}}}


def _start(spec: dict[str, Any], env: dict[str, str], noise: Any) -> tuple[subprocess.Popen[bytes], Any]:
    """Start a process; what it says comes from a pipe, what libraries print goes to a file."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "fastsoftmax._bench.worker", json.dumps(spec), str(write)]
    try:
        worker = subprocess.Popen(  # noqa: S603  (this Python and this package)
            command, env=env, pass_fds=(write,), stdin=subprocess.DEVNULL, stdout=noise, stderr=noise
        )
    finally:
        os.close(write)
    return worker, os.fdopen(read)


def _environment(threads: int, level: str | None) -> dict[str, str]:
    """Give what libraries read when they are imported: how many threads, and that idle ones do not spin."""
    env = os.environ | {
        "FASTSOFTMAX_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if level:
        env["FASTSOFTMAX_SIMD"] = level
    return env
