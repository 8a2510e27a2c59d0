"""Running the command as a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}


def popen(*args, **kwargs):
    return subprocess.Popen([sys.executable, "-m", "fastsoftmax", *map(str, args)], env=ENVIRONMENT, **kwargs)


def run(*args, code=0, data=None, **kwargs):
    """Run the command; give what it wrote on standard output (bytes) and standard error (text)."""
    process = popen(*args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    out, err = process.communicate(data, timeout=60)
    err = err.decode()
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def fail(*args, code=1, **kwargs):
    """Run the command, which fails with one line, and give that line."""
    out, err = run(*args, code=code, **kwargs)
    assert out == b""
    assert err.startswith("fastsoftmax: error: ")
    assert err.count("\n") == 1
    return err
