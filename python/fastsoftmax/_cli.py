"""The command ``fastsoftmax``: a table of subcommands, what they share, and how they fail.

A subcommand is a `Command` in `COMMANDS`: its options and a function that does the work and returns an exit
code. It raises what the library raises; `main` turns that into one line on standard error.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 128 + n ended by signal n (130: Ctrl-C).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import stat
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from .io import Summary

__all__ = ["COMMANDS", "Command", "main"]

PROGRAM: Final = "fastsoftmax"
DTYPES: Final = ("float16", "bfloat16", "float32", "float64")


class UsageError(Exception):
    """Options that do not go together: exit code 2."""


class SignalError(BaseException):
    """A signal that ends the program, raised so that what is half written is removed."""


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
        Does the work with the parsed options and returns the exit code.
    """

    name: str
    summary: str
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# -- values of options ---------------------------------------------------------------------------------------


def _axis(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def _integer_axis(text: str) -> int:
    axis = _axis(text)
    if axis is None:
        raise argparse.ArgumentTypeError("this command needs one axis")
    return axis


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < math.inf:
        hint = "; its limit is the argmax: see top-k" if value == 0 else ""
        raise argparse.ArgumentTypeError(f"must be greater than 0 and finite, not {text}{hint}")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _size(text: str) -> int:
    units = {"k": 10, "m": 20, "g": 30}
    digits = text.lower().removesuffix("b").removesuffix("i")
    shift = units.get(digits[-1:], 0)
    digits = digits[:-1] if shift else digits
    if not digits.isascii() or not digits.isdigit() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 65536, 512K, 16M or 1G")
    return int(digits) << shift


# -- what the streaming subcommands share --------------------------------------------------------------------


def _add_stream_options(
    parser: argparse.ArgumentParser,
    *,
    temperature: bool = True,
    dtype: bool = True,
    one_axis: bool = False,
    output_required: bool = True,
) -> None:
    parser.add_argument("input", metavar="IN.npy", help="logits, a .npy file; '-' is standard input")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.npy",
        required=output_required,
        help="the result; '-' is standard output",
    )
    parser.add_argument(
        "--axis",
        type=_integer_axis if one_axis else _axis,
        default=-1,
        metavar="N" if one_axis else "N|none",
        help="axis of the classes (default -1, the last)" + ("" if one_axis else "; none: all axes together"),
    )
    if temperature:
        parser.add_argument(
            "--temperature", type=_temperature, default=1.0, metavar="T", help="divides the logits"
        )
    if dtype:
        parser.add_argument(
            "--dtype", choices=DTYPES, help="of the result (default: that of the input; integers: float64)"
        )
    parser.add_argument(
        "--input-dtype", choices=("bfloat16",), help="the input keeps bfloat16 as 2-byte void or as uint16"
    )
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="of the computation (default: what this process may use)"
    )
    parser.add_argument(
        "--chunk-bytes",
        type=_size,
        metavar="SIZE",
        help="of one piece of the work, for instance 16M (default 2M)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no closing line")
    parser.add_argument(
        "--json", action="store_true", help="a summary as JSON on standard output (standard error with -o -)"
    )


def _open_input(path: str, stack: contextlib.ExitStack) -> Any:
    """Give what `stream` reads: the path of a file, or an open pipe."""
    if path == "-":
        return io.FileIO(0, "rb", closefd=False)
    with contextlib.suppress(OSError):
        kind = os.stat(path).st_mode  # noqa: PTH116
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a FIFO, or the shell's <(...)
            return stack.enter_context(io.FileIO(path, "rb"))
    return path


def _open_output(path: str, stack: contextlib.ExitStack) -> Any:
    """Give what `stream` writes: the path of a file, or an open pipe."""
    if path in {"-", "/dev/stdout"}:
        if os.isatty(1):
            raise UsageError("standard output is a terminal; redirect it, or name a file with -o")
        # Not sys.stdout.buffer: a thread that hangs in it would hold its lock while the interpreter ends.
        return io.FileIO(1, "wb", closefd=False)
    with contextlib.suppress(OSError):
        kind = os.stat(path).st_mode  # noqa: PTH116
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return stack.enter_context(io.FileIO(path, "wb"))
    return path


def _stream(options: argparse.Namespace, function: str, *outputs: Any, **extra: Any) -> Summary:
    """Run `stream` from the input to paths, of which some may be pipes, or arrays."""
    from .io import DEFAULT_CHUNK_BYTES, stream

    keywords: dict[str, Any] = {"threads": options.threads, **extra}
    if getattr(options, "dtype", None):
        keywords["dtype"] = options.dtype
    if "temperature" in options:
        keywords["temperature"] = options.temperature
    with contextlib.ExitStack() as stack:
        src = _open_input(options.input, stack)  # first: a FIFO may have its writer before its reader
        places = [_open_output(place, stack) if isinstance(place, str) else place for place in outputs]
        return stream(
            function,
            src,
            places[0] if len(places) == 1 else places,
            axis=options.axis,
            chunk_bytes=options.chunk_bytes or DEFAULT_CHUNK_BYTES,
            input_dtype=options.input_dtype,
            overwrite=options.force,
            progress=not options.quiet and sys.stderr is not None and sys.stderr.isatty(),
            **keywords,
        )


def _report(options: argparse.Namespace, summary: Summary, **extra: Any) -> None:
    """Write the closing line, and the JSON summary if it is wanted."""
    from . import build_info, get_num_threads

    level = build_info()["level"]
    speed = (summary.bytes_read + summary.bytes_written) / max(summary.seconds, 1e-9) / 1e9
    to_stderr = options.output in {"-", "/dev/stdout"}
    if not options.quiet and not (options.json and to_stderr):
        print(
            f"{options.command}: {summary.rows:,} rows of {summary.classes:,} classes "
            f"in {summary.seconds:.3g} s, {speed:.3g} GB/s (read + written), {level}",
            file=sys.stderr,
        )
    if options.json:
        contents = {
            "command": options.command,
            "input": options.input,
            "output": options.output,
            **asdict(summary),
            "gb_per_second": speed,
            "level": level,
            "threads": options.threads or get_num_threads(),
            **extra,
        }
        print(json.dumps(contents), file=sys.stderr if to_stderr else sys.stdout)


def _run_stream(options: argparse.Namespace) -> int:
    _report(options, _stream(options, options.command.replace("-", "_"), options.output))
    return 0


# -- top-k, cross-entropy, info ------------------------------------------------------------------------------


def _add_top_k_options(parser: argparse.ArgumentParser) -> None:
    _add_stream_options(parser, one_axis=True)
    parser.add_argument("-k", type=_count, required=True, metavar="N", help="how many of each row")
    parser.add_argument("--indices", metavar="INDICES.npy", required=True, help="where the class numbers go")
    parser.add_argument("--log", action="store_true", help="log-probabilities instead of probabilities")


def _run_top_k(options: argparse.Namespace) -> int:
    places = options.output, options.indices
    summary = _stream(options, "top_k", *places, k=options.k, log=options.log)
    _report(options, summary, indices=options.indices, k=options.k)
    return 0


def _add_cross_entropy_options(parser: argparse.ArgumentParser) -> None:
    _add_stream_options(parser, dtype=False, one_axis=True, output_required=False)
    parser.add_argument(
        "labels", metavar="LABELS.npy", help="class numbers, or probabilities of the logits' shape"
    )
    parser.add_argument("--reduction", choices=("mean", "sum", "none"), help="default: mean; with -o: none")
    parser.add_argument(
        "--ignore-index",
        type=int,
        default=-100,
        metavar="N",
        help="label of rows to leave out (default -100)",
    )
    parser.add_argument(
        "--label-smoothing", type=float, default=0.0, metavar="S", help="between 0 and 1 (default 0)"
    )


def _run_cross_entropy(options: argparse.Namespace) -> int:
    import numpy as np

    reduction = options.reduction or ("none" if options.output else "mean")
    if (reduction == "none") != bool(options.output):
        raise UsageError("-o takes the loss of every row (--reduction none); mean and sum are printed")
    keywords = {
        "labels": options.labels,
        "reduction": reduction,
        "ignore_index": options.ignore_index,
        "label_smoothing": options.label_smoothing,
    }
    number = np.empty(())
    summary = _stream(options, "cross_entropy", options.output or number, **keywords)
    if options.output:
        _report(options, summary, labels=options.labels)
        return 0
    value = float(number)
    if not options.json:
        print(value)
    # JSON has no NaN, which is the mean where every row was left out.
    shown = value if math.isfinite(value) else None
    _report(options, summary, labels=options.labels, reduction=reduction, value=shown)
    return 0


def _add_info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _run_info(options: argparse.Namespace) -> int:
    import platform

    import numpy as np

    from . import build_info, get_num_threads

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


# -- the table -----------------------------------------------------------------------------------------------

_SAFETY = "The input may be larger than memory. The output appears whole or not at all."

COMMANDS: tuple[Command, ...] = (
    Command(
        "softmax",
        "probabilities of logits",
        f"exp(x/T) / sum(exp(x/T)) of every row. {_SAFETY}",
        """\
  fastsoftmax softmax logits.npy -o probs.npy
  fastsoftmax softmax logits.npy -o probs.npy --temperature 0.7 --force
  zcat logits.npy.gz | fastsoftmax softmax - -o - | gzip > probs.npy.gz""",
        _add_stream_options,
        _run_stream,
    ),
    Command(
        "log-softmax",
        "log-probabilities of logits",
        f"x/T - log(sum(exp(x/T))) of every row, accurate near 0 too. {_SAFETY}",
        "  fastsoftmax log-softmax logits.npy -o logprobs.npy --dtype float64",
        _add_stream_options,
        _run_stream,
    ),
    Command(
        "logsumexp",
        "log of the sum of exponentials",
        f"log(sum(exp(x))) of every row: one number each. {_SAFETY}",
        "  fastsoftmax logsumexp logits.npy -o lse.npy --axis 0",
        lambda parser: _add_stream_options(parser, temperature=False),
        _run_stream,
    ),
    Command(
        "entropy",
        "entropy of every row, in nats",
        f"-sum(p log p) of p = softmax(x/T), in nats: one number for each row. {_SAFETY}",
        "  fastsoftmax entropy logits.npy -o entropy.npy",
        lambda parser: _add_stream_options(parser, one_axis=True),
        _run_stream,
    ),
    Command(
        "top-k",
        "the k most probable classes of every row",
        f"The k largest probabilities of every row and their class numbers, in descending order. {_SAFETY}",
        """\
  fastsoftmax top-k logits.npy -k 5 -o values.npy --indices classes.npy
  fastsoftmax top-k logits.npy -k 64 --log -o logprobs.npy --indices tokens.npy""",
        _add_top_k_options,
        _run_top_k,
    ),
    Command(
        "cross-entropy",
        "loss of logits against labels",
        "-log softmax(x/T)[label]: the mean over the rows, or with -o the loss of every row. "
        "The input may be larger than memory.",
        """\
  fastsoftmax cross-entropy logits.npy labels.npy
  fastsoftmax cross-entropy logits.npy labels.npy --ignore-index -1 --json
  fastsoftmax cross-entropy logits.npy labels.npy -o losses.npy""",
        _add_cross_entropy_options,
        _run_cross_entropy,
    ),
    Command(
        "info",
        "version, instruction set and threads",
        "What was built, which instruction sets this machine has, which one is used, and how many threads.",
        """\
  fastsoftmax info
  FASTSOFTMAX_SIMD=portable fastsoftmax info --json""",
        _add_info_options,
        _run_info,
    ),
)


class _Parser(argparse.ArgumentParser):
    """Argparse, with errors in one line that starts as all errors of this program do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """``--version``, which asks the library only when it is used."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from . import build_info

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
            description=command.description,
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


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory; a smaller --chunk-bytes needs less ({error})"
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
        return _fail(_explain(error))
