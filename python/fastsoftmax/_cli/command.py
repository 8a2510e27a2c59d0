"""What a subcommand is, and what several of them need: options, inputs, reports."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from . import values

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

PROGRAM: Final = "fastsoftmax"


class UsageError(Exception):
    """Options that do not go together: exit code 2."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes
    ----------
    name, summary : str
        As the user types it, and one line for the list.
    description, examples : str
        For ``--help``.
    add_options : callable
        Adds its options to a parser.
    run : callable
        Does the work with the parsed options and returns the exit code. It raises what the library raises.
    """

    name: str
    summary: str
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# -- options -------------------------------------------------------------------------------------------------


def add_input(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Add the logits: a file, or a pipe."""
    parser.add_argument("input", metavar=metavar, help="logits, a .npy file; '-' is standard input")


def add_common_options(parser: argparse.ArgumentParser, *, quiet: str, where: str = "") -> None:
    """Add what every subcommand that computes has; `quiet` says what it leaves out."""
    parser.add_argument(
        "--input-dtype", choices=("bfloat16",), help="the input keeps bfloat16 as 2-byte void or as uint16"
    )
    parser.add_argument(
        "--threads",
        type=values.count,
        metavar="N",
        help="of the computation (default: what this process may use)",
    )
    parser.add_argument("--quiet", action="store_true", help=quiet)
    parser.add_argument("--json", action="store_true", help=f"a summary as JSON on standard output{where}")


# -- files ---------------------------------------------------------------------------------------------------


def open_input(path: str, stack: contextlib.ExitStack) -> Any:
    """Give what `fastsoftmax.io` reads: the path of a file, or an open pipe."""
    if path == "-":
        return io.FileIO(0, "rb", closefd=False)
    if is_special(path):  # a FIFO, or the shell's <(...)
        return stack.enter_context(io.FileIO(path, "rb"))
    return path


def is_special(path: str) -> bool:
    """Whether a path leads to something that is neither a file nor a folder, and so is only opened once."""
    with contextlib.suppress(OSError):
        kind = os.stat(path).st_mode  # noqa: PTH116
        return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))
    return False


# -- reports -------------------------------------------------------------------------------------------------


def warn(message: str) -> None:
    """Say on standard error what the user should know."""
    print(f"{PROGRAM}: warning: {' '.join(message.split())}", file=sys.stderr)


def as_json(options: argparse.Namespace, contents: dict[str, Any]) -> str:
    """Give a summary as one line of JSON, with what belongs to every computation."""
    from fastsoftmax import build_info, get_num_threads

    ran = {"level": build_info()["level"], "threads": options.threads or get_num_threads()}
    return json.dumps(_finite({"command": options.command, **contents, **ran}), allow_nan=False)


def _finite(value: Any) -> Any:
    """Give None for what JSON has no number for: the mean of no rows, for instance."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
