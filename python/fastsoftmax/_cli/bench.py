"""``fastsoftmax bench``: how fast it is here, beside a copy and beside the other libraries."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from . import values
from .command import Command, UsageError, warn

if TYPE_CHECKING:
    import argparse

    from fastsoftmax._bench.cases import Case
    from fastsoftmax._bench.report import Row
    from fastsoftmax._bench.run import Settings


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="cases whose key, as --list prints it, matches this regular expression",
    )
    parser.add_argument("--all", action="store_true", help="every case, not only the main ones: many minutes")
    parser.add_argument("--list", action="store_true", help="print the keys of the cases and stop")
    parser.add_argument(
        "--peers",
        metavar="A,B",
        help="of numpy, scipy, onnxruntime, tensorflow, torch, jax; or none (default: all)",
    )
    parser.add_argument(
        "--size-mb", type=values.count, default=64, metavar="N", help="MiB of the large inputs (default 64)"
    )
    parser.add_argument(
        "--rounds", type=values.count, default=5, metavar="N", help="of each case (default 5)"
    )
    parser.add_argument(
        "--threads",
        type=values.count,
        metavar="N",
        help="of every library (default: what this process may use)",
    )
    parser.add_argument(
        "--json", action="store_true", help="as JSON on standard output, instead of the table"
    )


def _run(options: argparse.Namespace) -> int:
    from fastsoftmax import get_num_threads
    from fastsoftmax._bench.peers import PEERS
    from fastsoftmax._bench.run import Settings, check_size, read_peers

    cases = _choose(options)
    if options.list:
        print("\n".join(case.key for case in cases))
        return 0
    try:
        peers = read_peers(options.peers) if options.peers else [entry.name for entry in PEERS]
    except ValueError as error:
        raise UsageError(f"--peers: {error}") from None
    check_size(options.size_mb)
    threads = options.threads or get_num_threads()
    started = time.monotonic()
    about, rows = _measure(
        cases, Settings(threads, options.rounds, options.size_mb, peers), quiet=options.json
    )
    if options.json:
        ours = ("goal", "verdict")  # of no interest to others
        measured = [{name: part for name, part in row.as_json().items() if name not in ours} for row in rows]
        print(json.dumps({**about, "cases": measured}))
    else:
        print(f"{len(rows)} cases in {time.monotonic() - started:.0f} s")
    wrong = [row.case.key for row in rows if row.ours is None]
    for key in wrong:
        warn(f"{key} could not be measured")
    return 1 if wrong else 0


def _choose(options: argparse.Namespace) -> list[Case]:
    from fastsoftmax._bench.cases import table

    try:
        pattern = re.compile(options.only or "")
    except re.error as error:
        raise UsageError(f"--only: not a regular expression: {error}") from None
    # Forced instruction sets and other numbers of threads are questions of ours, not of users.
    every = [case for case in table(options.size_mb) if case.level is None and case.threads is None]
    # Whoever names cases means all of them.
    some = [
        case for case in every if (case.quick or options.all or options.only) and pattern.search(case.key)
    ]
    if not some:
        raise UsageError(f"--only {options.only}: no case matches; --list prints them")
    return some


def _measure(cases: list[Case], how: Settings, *, quiet: bool) -> tuple[dict[str, Any], list[Row]]:
    """Measure, and print the table row by row unless `quiet`; what took part, and the rows."""
    from fastsoftmax._bench.peers import installed
    from fastsoftmax._bench.report import Row, Table, header, machine
    from fastsoftmax._bench.run import run

    settings = {"threads": how.threads, "rounds": how.rounds, "size_mb": how.size_mb}
    about: dict[str, Any] = {
        "machine": machine(),
        "settings": settings | {"date": time.strftime("%Y-%m-%d %H:%M")},
    }
    by_key = {case.key: case for case in cases}
    rows: list[Row] = []
    shown: Table | None = None
    for said in run(cases, how):
        if "absent" in said:
            warn(f"{said['absent']} is installed but does not import: {said['why']}")
        if "about" in said and "versions" not in about:
            about |= said["about"]
            if not quiet:
                print(header(about["machine"], about, about["settings"]), flush=True)
                names = [entry.name for entry in installed(list(how.peers))]
                shown = Table([case.title for case in cases], names, verdicts=False)
        if "key" in said:
            rows.append(Row(by_key[said["key"]], said["figures"]))
            if shown:
                shown.show(rows[-1])
    return about, rows


COMMANDS = (
    Command(
        "bench",
        "how fast it is here, beside the other libraries",
        "Times the main functions on this machine, in under two minutes, beside a copy of as many bytes (for "
        "reductions: a read) and beside NumPy, SciPy, ONNX Runtime, TensorFlow, torch and JAX, those of them "
        "that are installed. share: the copy's time over ours. lead: the fastest other library's time over "
        "ours. Use a machine that does nothing else.",
        """\
  fastsoftmax bench
  fastsoftmax bench --peers torch,jax --only bfloat16
  fastsoftmax bench --size-mb 32 --json""",
        _add_options,
        _run,
    ),
)
