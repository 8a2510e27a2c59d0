"""``fastsoftmax info``."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING

from .command import Command

if TYPE_CHECKING:
    import argparse


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from fastsoftmax import build_info, get_num_threads

    contents = {**build_info(), "threads": get_num_threads()}
    contents |= {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    if options.json:
        print(json.dumps(contents, default=str))
        return 0
    width = max(map(len, contents))
    for name, value in contents.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:<{width}}  {text}")
    return 0


COMMANDS = (
    Command(
        "info",
        "version, instruction set and threads",
        "What was built, which instruction sets this machine has, which one is used, and how many threads.",
        """\
  fastsoftmax info
  FASTSOFTMAX_SIMD=portable fastsoftmax info --json""",
        _add_options,
        _run,
    ),
)
