"""The subcommands that read a .npy file of any size, or a pipe: one call of `fastsoftmax.io.stream` each."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from . import values
from .command import Command, UsageError, add_common_options, add_input, as_json, is_special, open_input

if TYPE_CHECKING:
    import argparse

    from fastsoftmax.io import Summary

DTYPES: Final = ("float16", "bfloat16", "float32", "float64")


# -- what they share -----------------------------------------------------------------------------------------


def _add_stream_options(
    parser: argparse.ArgumentParser,
    *,
    temperature: bool = True,
    dtype: bool = True,
    one_axis: bool = False,
    output_required: bool = True,
) -> None:
    add_input(parser, "IN.npy")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.npy",
        required=output_required,
        help="the result; '-' is standard output",
    )
    parser.add_argument(
        "--axis",
        type=values.one_axis if one_axis else values.axis,
        default=-1,
        metavar="N" if one_axis else "N|none",
        help="axis of the classes (default -1, the last)" + ("" if one_axis else "; none: all axes together"),
    )
    if temperature:
        parser.add_argument(
            "--temperature", type=values.temperature, default=1.0, metavar="T", help="divides the logits"
        )
    if dtype:
        parser.add_argument(
            "--dtype", choices=DTYPES, help="of the result (default: that of the input; integers: float64)"
        )
    parser.add_argument(
        "--chunk-bytes",
        type=values.size,
        metavar="SIZE",
        help="of one piece of the work, for instance 16M (default 2M)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    add_common_options(
        parser, quiet="no progress bar and no closing line", where=" (standard error with -o -)"
    )


def _open_output(path: str, stack: contextlib.ExitStack) -> Any:
    """Give what `stream` writes: the path of a file, or an open pipe."""
    if path in {"-", "/dev/stdout"}:
        if os.isatty(1):
            raise UsageError("standard output is a terminal; redirect it, or name a file with -o")
        # Not sys.stdout.buffer: a thread that hangs in it would hold its lock while the interpreter ends.
        return io.FileIO(1, "wb", closefd=False)
    if is_special(path):
        return stack.enter_context(io.FileIO(path, "wb"))
    return path


def _stream(options: argparse.Namespace, function: str, *outputs: Any, **extra: Any) -> Summary:
    """Run `stream` from the input to paths, of which some may be pipes, or arrays."""
    from fastsoftmax.io import DEFAULT_CHUNK_BYTES, stream

    keywords: dict[str, Any] = {"threads": options.threads, **extra}
    if getattr(options, "dtype", None):
        keywords["dtype"] = options.dtype
    if "temperature" in options:
        keywords["temperature"] = options.temperature
    with contextlib.ExitStack() as stack:
        src = open_input(options.input, stack)  # first: a FIFO may have its writer before its reader
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
    from fastsoftmax import build_info

    speed = (summary.bytes_read + summary.bytes_written) / max(summary.seconds, 1e-9) / 1e9
    to_stderr = options.output in {"-", "/dev/stdout"}
    if not options.quiet and not (options.json and to_stderr):
        print(
            f"{options.command}: {summary.rows:,} rows of {summary.classes:,} classes "
            f"in {summary.seconds:.3g} s, {speed:.3g} GB/s (read + written), {build_info()['level']}",
            file=sys.stderr,
        )
    if options.json:
        places = {"input": options.input, "output": options.output}
        line = as_json(options, {**places, **asdict(summary), "gb_per_second": speed, **extra})
        print(line, file=sys.stderr if to_stderr else sys.stdout)


def _run_stream(options: argparse.Namespace) -> int:
    _report(options, _stream(options, options.command.replace("-", "_"), options.output))
    return 0


# -- top-k and cross-entropy ---------------------------------------------------------------------------------


def _add_top_k_options(parser: argparse.ArgumentParser) -> None:
    _add_stream_options(parser, one_axis=True)
    parser.add_argument("-k", type=values.count, required=True, metavar="N", help="how many of each row")
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
    _report(options, summary, labels=options.labels, reduction=reduction, value=value)
    return 0


# -- the table -----------------------------------------------------------------------------------------------

_SAFETY = "The input may be larger than memory. The output appears whole or not at all."

COMMANDS = (
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
)
