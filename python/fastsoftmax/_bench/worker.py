"""Measures a list of cases in one process, with one number of threads and one level.

`run.py` starts it with the environment already set, because libraries read theirs when they are imported,
and takes the results from a pipe, one JSON object a line, because libraries write what they like to stdout.
"""

import gc
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from . import peers as peer_registry
from .cases import Case, table
from .contender import Ours, Way, yardsticks
from .data import Check, Data, Pool
from .timing import fastest, race

Figures = dict[str, Any]


def restrict_cpus(threads: int) -> None:
    """Run on as many CPUs as there are threads: the only thing that every library's pool heeds."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[:threads])


def message(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def choose(ways: list[Way], check: Check, data: Data) -> tuple[Way | None, Figures]:
    """Give the fastest way whose result is right; else none, and why."""
    right: list[Way] = []
    why: Figures = {"status": "cannot"}
    for way in ways:
        try:
            data.out.fill(0)  # or the last contender's result would pass for this one's
            if check(way.result()):
                right.append(way)
            else:
                why = {"status": "wrong", "way": way.expression}
        except Exception as error:
            why = {"status": "error", "why": message(error)}
    return (fastest(right), {}) if right else (None, why)


def measure(case: Case, data: Data, ours: Ours, peers: dict[str, Any], threads: int, rounds: int) -> Figures:
    """One case: check every contender, then race those that are right."""
    check = Check(case, data)
    field: dict[str, Way] = {}
    figures: Figures = {}
    own, why = choose(ours.ways(case, data), check, data)
    if own is None:
        return {"fastsoftmax": why}
    field["fastsoftmax"] = own
    for name, peer in peers.items():
        try:
            way, why = choose(peer.ways(case, data), check, data)
        except Exception as error:
            way, why = None, {"status": "error", "why": message(error)}
        if way is None:
            figures[name] = why
        else:
            field[name] = way
    field |= yardsticks(case, data, threads)
    return figures | race(field, set(peers), rounds)


def about(ours: Ours, peers: dict[str, Any]) -> Figures:
    """Say what took part."""
    info = dict(getattr(ours.module, "build_info", dict)())
    try:
        own_version = version("fastsoftmax")
    except PackageNotFoundError:
        own_version = str(info.get("version", "not installed as a package"))
    return {
        "build_info": info,
        "versions": {"fastsoftmax": own_version, **{name: peer.version for name, peer in peers.items()}},
    }


def main(spec: Figures, report: TextIO) -> None:
    def say(**what: Any) -> None:
        report.write(json.dumps(what, default=str) + "\n")
        report.flush()

    threads, rounds = spec["threads"], spec["rounds"]
    restrict_cpus(threads)
    ours = Ours()
    peers: dict[str, Any] = {}
    for entry in peer_registry.installed(spec["peers"]):
        try:
            peers[entry.name] = peer_registry.load(entry, threads)
        except Exception as error:
            say(absent=entry.name, why=message(error))
    say(about=about(ours, peers))

    wanted = [case for case in table(spec["size_mb"]) if case.key in set(spec["keys"])]
    # float32 first of all: the buffers of other dtypes are made when they are needed, and then freed.
    pool = Pool(spec["size_mb"])
    gc.disable()
    for case in wanted:
        say(begin=case.key)
        try:
            data = pool.data(case)
        except ImportError as error:
            say(key=case.key, figures={"fastsoftmax": {"status": "cannot", "why": message(error)}})
            continue
        say(key=case.key, figures=measure(case, data, ours, peers, threads, rounds))
        del data
        gc.collect()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as pipe:
        main(json.loads(sys.argv[1]), pipe)
