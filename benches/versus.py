"""How fast fastsoftmax is beside a memory copy and beside the other libraries, on this machine.

    python benches/versus.py                    the whole table, a quarter of an hour with every peer
    python benches/versus.py --quick            the main cases, under two minutes
    python benches/versus.py --only 'axis0'     the cases whose key matches a regular expression
    python benches/versus.py --list             the keys

Peers are whichever of NumPy, SciPy, ONNX Runtime, TensorFlow, torch and JAX are installed; `--peers` chooses.
How to read the result: benches/README.md.
"""

import argparse
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from suite.cases import MIB, Case, table
from suite.peers import PEERS, installed
from suite.report import Row, Table, header, machine

HERE = Path(__file__).resolve().parent
LIMIT = 24 << 30  # bytes of memory that a run must never need
COPIES = 24  # the most arrays of the largest size that live at once, peers' temporaries too (20 were seen)
# From quartile to quartile of our own times, as a share of the median. Wider than that, a run says little.
NOISY = 0.15


def environment(threads: int, level: str | None) -> dict[str, str]:
    """What libraries read when they are imported: how many threads, and that idle ones do not spin."""
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
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    if level:
        env["FASTSOFTMAX_SIMD"] = level
    return env


def run_worker(
    cases: list[Case], args: argparse.Namespace, threads: int, level: str | None
) -> Iterator[dict[str, Any]]:
    """Measure cases in a process of their own; what it says, as it says it.

    Should a library take the process down, the case that it was at is lost and the rest is done by another.
    """
    keys = [case.key for case in cases]
    while keys:
        # A forced level is compared with our own other level, so no peer takes part.
        spec = {
            "keys": keys,
            "size_mb": args.size_mb,
            "rounds": args.rounds,
            "threads": threads,
            "peers": [] if cases[0].level else args.peers,
        }
        read, write = os.pipe()
        at = None
        with tempfile.TemporaryFile("w+") as noise, os.fdopen(read) as lines:
            worker = subprocess.Popen(
                [sys.executable, "-m", "suite.worker", json.dumps(spec), str(write)],
                env=environment(threads, level),
                pass_fds=(write,),
                stdin=subprocess.DEVNULL,
                stdout=noise,
                stderr=subprocess.STDOUT,
            )
            os.close(write)
            try:
                for line in lines:
                    said = json.loads(line)
                    if "fatal" in said and level == args.level:
                        sys.exit(f"fastsoftmax cannot be measured: {said['fatal']}")
                    if "fatal" in said:
                        figures = {"fastsoftmax": {"status": "cannot", "why": said["fatal"]}}
                        yield from ({"key": key, "figures": figures} for key in keys)
                        return
                    at = said.get("begin", at)
                    if "key" in said:
                        keys.remove(said["key"])
                        at = None
                    yield said
                worker.wait()
            finally:
                worker.kill()
                worker.wait()
            if not keys:
                return  # a library that fails while it is taken down has done no harm
            noise.seek(0)
            print("".join(noise.readlines()[-15:]), file=sys.stderr)
        ended = f"the measuring process ended with {worker.returncode}"
        if at is None:
            sys.exit(f"{ended} before it measured anything")
        print(f"{ended} in {at}; another goes on", file=sys.stderr)
        keys.remove(at)
        yield {"key": at, "figures": {"fastsoftmax": {"status": "crashed"}}}


def choose(args: argparse.Namespace) -> list[Case]:
    every = table(args.size_mb)
    chosen = {case.key for case in every if (case.quick or not args.quick)}
    if args.only:
        chosen = {key for key in chosen if re.search(args.only, key)}
    # A forced level is judged by the same case at the machine's own level, which must then be there too.
    chosen |= {replace(case, level=None).key for case in every if case.key in chosen}
    cases = [case for case in every if case.key in chosen]
    if args.threads == 1:  # then every case runs on one thread, and the special rows would be there twice
        cases = [case for case in cases if case.threads is None]
    if args.level:
        cases = [case for case in cases if case.level is None]
    return cases


def parse() -> argparse.Namespace:
    names = [entry.name for entry in PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the main cases only, in fewer rounds")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose key matches this regular expression")
    parser.add_argument("--list", action="store_true", help="print the keys and stop")
    parser.add_argument("--size-mb", type=int, default=256, metavar="N", help="MiB of the large inputs (256)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each case (11; --quick: 5)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="for every contender (2, if there are 2 CPUs)"
    )
    parser.add_argument("--level", help="force an instruction set, as FASTSOFTMAX_SIMD does")
    parser.add_argument(
        "--peers", default=",".join(names), metavar="A,B", help=f"of {', '.join(names)}; or none"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the main cases (needs matplotlib)")
    args = parser.parse_args()
    args.rounds = args.rounds or (5 if args.quick else 11)
    args.peers = [] if args.peers == "none" else args.peers.split(",")
    if unknown := set(args.peers) - set(names):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if args.svg and not importlib.util.find_spec("matplotlib"):
        parser.error("--svg needs matplotlib, which is not installed")
    usable = machine()["cpus"]
    args.threads = min(2, usable) if args.threads is None else args.threads
    if not 1 <= args.threads <= usable:
        parser.error(f"--threads {args.threads}: this machine gives {usable} CPUs")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else LIMIT
    need = COPIES * args.size_mb * MIB
    if args.size_mb < 1 or need > min(LIMIT, free):
        parser.error(
            f"--size-mb {args.size_mb} may need {need / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free"
        )
    return args


def main() -> int:
    args = parse()
    cases = choose(args)
    if args.list:
        print("\n".join(case.key for case in cases))
        return 0
    if not cases:
        sys.exit("no case matches")

    host = machine()
    settings = {"threads": args.threads, "rounds": args.rounds, "size_mb": args.size_mb}
    settings |= {"level": args.level, "date": time.strftime("%Y-%m-%d %H:%M"), "command": " ".join(sys.argv)}
    about: dict[str, Any] = {}
    rows: dict[str, Row] = {}
    by_key = {case.key: case for case in cases}
    shown: Table | None = None
    started = time.monotonic()

    # One process for each number of threads and each level, in the order of the table.
    batches: dict[tuple[int, str | None], list[Case]] = {}
    for case in cases:
        batches.setdefault((case.threads or args.threads, case.level or args.level), []).append(case)
    try:
        for said in (said for at, batch in batches.items() for said in run_worker(batch, args, *at)):
            if "about" in said and shown is None:
                about = said["about"]
                print(header(host, about, settings), flush=True)
                shown = Table([c.title for c in cases], [e.name for e in installed(args.peers)])
            if "absent" in said:
                print(f"{said['absent']} is installed but does not import: {said['why']}", file=sys.stderr)
            if "key" in said:
                case = by_key[said["key"]]
                native = rows.get(replace(case, level=None).key)
                rows[case.key] = Row(case, said["figures"], native.share if native else None)
                if shown:
                    shown.show(rows[case.key])
    except KeyboardInterrupt:
        print("stopped; what follows is of the cases so far", file=sys.stderr)

    return finish(args, list(rows.values()), host, about, settings, time.monotonic() - started)


def finish(
    args: argparse.Namespace,
    rows: list[Row],
    host: dict[str, Any],
    about: dict[str, Any],
    settings: dict[str, Any],
    seconds: float,
) -> int:
    verdicts = [row.verdict() for row in rows]
    count = {
        word: sum(v.startswith(word) for v in verdicts)
        for word in ("aim", "least", "MISSED", "not there yet")
    }
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )
    print(", ".join(f"{word}: {n}" for word, n in count.items()), end=" ")
    print(f"of {len(rows)} cases; {seconds:.0f} s, at most {peak:.1f} GiB")
    spreads = [row.spread for row in rows if row.spread is not None]
    if spreads and median(spreads) > NOISY:
        print(
            f"WARNING: noisy; our own quartiles lie {median(spreads):.0%} of the median apart. Run it again."
        )
    bad = [
        row for row, verdict in zip(rows, verdicts, strict=True) if verdict in {"wrong", "error", "crashed"}
    ]
    for row in bad:
        print(f"{row.case.title}: {row.figures['fastsoftmax']}", file=sys.stderr)
    if args.json:
        everything = {
            "machine": host,
            **about,
            "settings": settings,
            "cases": [row.as_json() for row in rows],
        }
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    if args.svg:
        from suite.chart import draw

        draw(rows, args.svg, f"{host['cpu']}, {args.threads} threads")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
