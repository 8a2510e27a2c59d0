"""bench, and benches/versus.py, which measures with the same parts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import fastsoftmax as fs
import pytest
from command_helpers import ENVIRONMENT, fail, run
from fastsoftmax._bench import run as runner
from fastsoftmax._bench.cases import table
from fastsoftmax._bench.run import Settings

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--size-mb", 4, "--rounds", 2)


def versus(*args: object) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benches" / "versus.py"), *map(str, args)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_table() -> None:
    out, err = run("bench", *SMALL, "--only", "^(softmax|logsumexp)", "--peers", "numpy,scipy")
    assert err == ""
    lines = out.decode().splitlines()
    assert lines[0].startswith("machine")
    heads = next(line for line in lines if line.startswith("case")).split()
    assert heads == ["case", "ours", "yardstick", "share", "NumPy", "SciPy", "lead"]
    (row,) = (line.split() for line in lines if line.startswith("softmax 10 fresh"))
    assert row[-1].startswith("x")
    assert "error" not in out.decode()
    assert "crashed" not in out.decode()
    assert lines[-1].endswith(" s")


def test_json() -> None:
    out, err = run("bench", *SMALL, "--only", "^entropy|top_k5", "--peers", "numpy", "--threads", 1, "--json")
    assert err == ""
    contents = json.loads(out)
    assert contents["versions"]["fastsoftmax"]
    assert contents["build_info"]["level"] == fs.build_info()["level"]
    assert contents["settings"]["threads"] == 1
    assert not any("goal" in case for case in contents["cases"])
    assert [case["op"] for case in contents["cases"]] == ["entropy", "top_k", "top_k"]
    for case in contents["cases"]:
        assert case["ours_ms"] > 0
        assert case["yardstick_ms"] > 0
        assert case["best_peer"] == "numpy"
        assert case["lead"] == pytest.approx(case["best_peer_ms"] / case["ours_ms"])


def test_every_case_is_right_in_every_contender() -> None:
    """The race starts with a check of each result; what is wrong or fails says so instead of a time."""
    cases = [case for case in table(4) if case.level is None and case.threads is None]
    settings = Settings(threads=1, rounds=1, size_mb=4, peers=("numpy", "scipy"))
    found = {said["key"]: said["figures"] for said in runner.run(cases, settings) if "key" in said}
    assert set(found) == {case.key for case in cases}
    for key, figures in found.items():
        assert figures["fastsoftmax"].get("ms", 0) > 0, (key, figures)
        assert figures["numpy"].get("ms", 0) > 0, (key, figures)
        assert figures["scipy"].get("status", "cannot") == "cannot", (key, figures)


def test_a_level_that_is_not_there() -> None:
    cases = [case for case in table(4) if case.level == "avx2"]
    settings = Settings(threads=1, rounds=1, size_mb=4, peers=(), level="vax")
    said = list(runner.run([*cases, table(4)[0]], settings))
    assert said[-1]["figures"]["fastsoftmax"] == {"status": "cannot", "why": "this processor has no vax"}


def test_a_case_that_takes_the_process_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only that case is lost: another process does the rest."""
    first, second = table(4)[:2]
    script = """
import json, os, sys
keys = json.loads(sys.argv[1])["keys"]
print("at the end of its noise", flush=True)
with os.fdopen(int(sys.argv[2]), "w") as pipe:
    for key in keys:
        print(json.dumps({"begin": key}), file=pipe, flush=True)
        if len(keys) == 2:
            os.abort()
        print(json.dumps({"key": key, "figures": {}}), file=pipe, flush=True)
"""

    def start(spec: dict[str, object], env: dict[str, str], noise: IO[str]) -> tuple[object, object]:
        read, write = os.pipe()
        command = [sys.executable, "-c", script, json.dumps(spec), str(write)]
        worker = subprocess.Popen(command, env=env, pass_fds=(write,), stdout=noise, stderr=noise)
        os.close(write)
        return worker, os.fdopen(read)

    monkeypatch.setattr(runner, "_start", start)
    settings = Settings(threads=1, rounds=1, size_mb=4, peers=())
    said = [said for said in runner.run([first, second], settings) if "key" in said]
    assert [s["key"] for s in said] == [first.key, second.key]
    assert said[0]["figures"] == {"fastsoftmax": {"status": "crashed"}}
    assert said[1]["figures"] == {}
    assert f"ended with -6 in {first.key}; another goes on" in capsys.readouterr().err


def test_list() -> None:
    listed = run("bench", "--list")[0].decode().split()
    assert "softmax/10/fresh" in listed
    every = run("bench", "--list", "--all")[0].decode().split()
    assert set(listed) < set(every)
    assert not any("avx2" in key or "threads" in key for key in every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "abacus"], "no such peer: abacus"),
        (["--only", "nothing"], "no case matches"),
        (["--only", "("], "not a regular expression"),
        (["--size-mb", "0"], "at least 1"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    assert message in fail("bench", *arguments, code=2)


def test_sizes_that_cannot_be() -> None:
    assert "GiB are free" in fail("bench", "--size-mb", 1 << 30)
    assert "at least 4" in fail("bench", "--size-mb", 3)


def test_versus_measures_with_the_same_parts() -> None:
    out = versus(*SMALL, "--only", "^softmax/10/fresh", "--peers", "numpy")
    assert "verdict" in out
    assert "softmax 10 fresh" in out
    assert "of 1 cases" in out
    assert "softmax/10/fresh" in versus("--list", "--quick").split()
