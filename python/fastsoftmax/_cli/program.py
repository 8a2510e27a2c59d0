"""The program: a table of subcommands, and how they end.

A subcommand raises what the library raises; `main` turns that into one line on standard error.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 128 + n ended by signal n (130: Ctrl-C).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import bench, calibration, info, streaming
from .command import PROGRAM, Command, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

WIDTH: Final = 79  # of descriptions, which argparse leaves as they are so that examples keep their lines

COMMANDS: tuple[Command, ...] = (*streaming.COMMANDS, *calibration.COMMANDS, *bench.COMMANDS, *info.COMMANDS)


class SignalError(BaseException):
    """A signal that ends the program, raised so that what is half written is removed."""


class _Parser(argparse.ArgumentParser):
    """Argparse, with errors in one line that starts as all errors of this program do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """``--version``, which asks the library only when it is used."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from fastsoftmax import build_info

        print(PROGRAM, build_info()["version"])
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="The softmax family for .npy files of any size.",
        epilog="example:\n  fastsoftmax softmax logits.npy -o probs.npy\n\n"
        "'fastsoftmax COMMAND --help' has more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=textwrap.fill(command.description, WIDTH),
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(sub)
        sub.set_defaults(run=command.run, parser=sub)
    return parser


# -- how it ends ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the program by an exception, so that temporary files are removed."""

    def handle(number: int, _: FrameType | None) -> NoReturn:
        raise SignalError(number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name)
        if signal.getsignal(number) is signal.SIG_DFL:  # not one that was switched off, by nohup for instance
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What messages of the library name, and what it is called here.
_SPELLINGS: Final = (
    ("chunk_bytes", "--chunk-bytes"),
    ('input_dtype="bfloat16"', "--input-dtype bfloat16"),
    ("overwrite=True", "--force"),
)


def _fail(message: str) -> int:
    for name, option in _SPELLINGS:
        message = message.replace(name, option)
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _explain(error: Exception, *, chunked: bool) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError):
        hint = "; a smaller --chunk-bytes needs less" if chunked else ""
        return f"not enough memory{hint} ({error})"
    if isinstance(error, OSError | ValueError | TypeError | IndexError | ImportError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; please report this"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; those of the process if not given.

    Returns
    -------
    int
        The exit code. Wrong usage, ``--help`` and ``--version`` raise SystemExit, as argparse does.
    """
    options = _parser().parse_args(argv)
    try:
        with _signals():
            code = int(options.run(options))
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except UsageError as error:
        parser: argparse.ArgumentParser = options.parser
        parser.error(str(error))
    except BrokenPipeError:
        # The reader has gone, as `head` does: nothing to say. What Python still holds for it goes nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except SignalError as error:
        number = int(error.args[0])
        print(f"{PROGRAM}: ended by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number
    except Exception as error:
        return _fail(_explain(error, chunked="chunk_bytes" in options))
