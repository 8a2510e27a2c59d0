"""Fixtures, and how the tests run."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import hypothesis
import numpy as np
import pytest

# Random cases anew each time; in CI the same ones each time, so that a failure is of the change.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_sessionstart() -> None:
    """Refuse to measure accuracy with a reference that is no better than what is measured."""
    if np.finfo(np.longdouble).nmant < 63:
        pytest.exit("these tests need a long double of more than 53 bits", returncode=1)


@pytest.fixture
def python() -> Python:
    """Run code in an interpreter of its own; a time limit is the test for not hanging."""

    def run(
        code: str, *, env: Mapping[str, str] | None = None, timeout: float = 60, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run
