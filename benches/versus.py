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
import re
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import fastsoftmax
from fastsoftmax._bench.cases import Case, table
from fastsoftmax._bench.peers import PEERS, installed
from fastsoftmax._bench.report import Row, Table, header, machine
from fastsoftmax._bench.run import Settings, check_size, read_peers, run

# From quartile to quartile of our own times, as a share of the median. Wider than that, a run says little.
NOISY = 0.15


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
    try:
        args.peers = read_peers(args.peers)
        check_size(args.size_mb)
    except ValueError as error:
        parser.error(str(error))
    if args.svg and not importlib.util.find_spec("matplotlib"):
        parser.error("--svg needs matplotlib, which is not installed")
    if args.level and args.level not in fastsoftmax.build_info()["levels"]:
        parser.error(f"--level {args.level}: this processor has none of it")
    usable = machine()["cpus"]
    args.threads = min(2, usable) if args.threads is None else args.threads
    if not 1 <= args.threads <= usable:
        parser.error(f"--threads {args.threads}: this machine gives {usable} CPUs")
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

    how = Settings(args.threads, args.rounds, args.size_mb, args.peers, args.level)
    try:
        for said in run(cases, how):
            if "about" in said and shown is None:
                about = said["about"]
                print(header(host, about, settings), flush=True)
                shown = Table(
                    [c.title for c in cases], [e.name for e in installed(args.peers)], verdicts=True
                )
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
    except ChildProcessError as error:
        sys.exit(str(error))

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
    count = {word: sum(v.startswith(word) for v in verdicts) for word in ("aim", "least", "MISSED")}
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
        from chart import draw

        draw(rows, args.svg, f"{host['cpu']}, {args.threads} threads")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
