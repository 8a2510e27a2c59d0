"""``fastsoftmax fit-temperature`` and ``fastsoftmax calibrate``: how far to trust probabilities.

Both read the logits more than once, and so into memory.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import values
from .command import Command, UsageError, add_common_options, add_input, as_json, open_input, warn

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

    Array = NDArray[Any]


# -- what they share -----------------------------------------------------------------------------------------


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add_input(parser, "LOGITS.npy")
    parser.add_argument("labels", metavar="LABELS.npy", help="the true class of each row, integers")


def _read(options: argparse.Namespace, *paths: str) -> list[Array]:
    """Read the logits, and then what belongs to them; from here on, use as many threads as the user wants."""
    from fastsoftmax import set_num_threads
    from fastsoftmax._io.ends import load

    if options.threads:
        set_num_threads(options.threads)

    if [options.input, *paths].count("-") > 1:
        raise UsageError("only one of the inputs can be '-', standard input")
    with contextlib.ExitStack() as stack:
        files = [open_input(path, stack) for path in (options.input, *paths)]
        return [load(files[0], options.input_dtype), *map(load, files[1:])]


def _fit(logits: Array, labels: Array, **keywords: Any) -> float:
    """Fit the temperature, and say on standard error if it is no more than a bound."""
    from fastsoftmax import fit_temperature

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        temperature = fit_temperature(logits, labels, **keywords)
    for warning in caught:
        warn(str(warning.message))
    return temperature


def _loss(logits: Array, labels: Array, temperature: float, axis: int = -1) -> float:
    """Compute the mean of -log p[label] in float64, whatever the logits' dtype."""
    import numpy as np

    from fastsoftmax import log_prob

    if not labels.size:
        return math.nan
    return -float(np.mean(log_prob(logits, labels, axis, temperature=temperature, dtype=np.float64)))


# -- fit-temperature -----------------------------------------------------------------------------------------


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument(
        "--axis", type=values.one_axis, default=-1, metavar="N", help="axis of the classes (default -1)"
    )
    parser.add_argument(
        "--weights", metavar="WEIGHTS.npy", help="what each row counts (default: all the same)"
    )
    parser.add_argument(
        "--bounds",
        type=values.temperature,
        nargs=2,
        default=(1e-3, 1e3),
        metavar=("LOW", "HIGH"),
        help="the least and the greatest temperature to give (default 0.001 1000)",
    )
    add_common_options(parser, quiet="no closing line")


def _run_fit(options: argparse.Namespace) -> int:
    low, high = options.bounds
    if low >= high:
        raise UsageError(f"--bounds: {low:g} is not below {high:g}")
    start = time.perf_counter()
    logits, labels, *weights = _read(options, options.labels, *filter(None, [options.weights]))
    keywords = {"axis": options.axis, "bounds": (low, high)}
    temperature = _fit(logits, labels, sample_weight=weights[0] if weights else None, **keywords)
    seconds = time.perf_counter() - start
    classes = logits.shape[options.axis]
    if not options.quiet:
        line = f"fit-temperature: {labels.size:,} rows of {classes:,} classes in {seconds:.3g} s"
        if not weights:  # those of all rows say nothing about the weighted ones
            before, after = (_loss(logits, labels, t, options.axis) for t in (1, temperature))
            line += f", cross entropy {before:.4f} before, {after:.4f} after (nats)"
        print(line, file=sys.stderr)
    if not options.json:
        print(temperature)
        return 0
    contents = {
        "input": options.input,
        "labels": options.labels,
        "weights": options.weights,
        "rows": labels.size,
        "classes": classes,
        "temperature": temperature,
        "at_bound": temperature in (low, high),
        "seconds": seconds,
    }
    print(as_json(options, contents))
    return 0


# -- calibrate -----------------------------------------------------------------------------------------------


def _add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument(
        "--temperature",
        type=values.temperature,
        metavar="T",
        help="that of 'after' (default: fitted to these rows, which flatters it: better from other rows)",
    )
    parser.add_argument(
        "--bins", type=values.count, default=15, metavar="N", help="of equal width, 0 to 1 (default 15)"
    )
    parser.add_argument(
        "--plot",
        metavar="PICTURE",
        help="draw the reliability diagram: a .png, .svg or .pdf (needs Matplotlib)",
    )
    parser.add_argument("--title", metavar="TEXT", help="above the picture")
    parser.add_argument("--force", action="store_true", help="replace the picture if it exists")
    add_common_options(parser, quiet="no closing line")


@dataclass(frozen=True)
class _Calibration:
    """What is measured at one temperature: the errors are shares, the cross entropy is in nats."""

    temperature: float
    ece: float
    mce: float
    cross_entropy: float

    @classmethod
    def of(cls, options: argparse.Namespace, logits: Array, labels: Array, temperature: float) -> Self:
        from fastsoftmax._calibration import reliability

        error = {
            norm: reliability(
                logits, labels, options.bins, norm, from_logits=True, temperature=temperature
            ).error
            for norm in ("l1", "max")
        }
        return cls(temperature, error["l1"], error["max"], _loss(logits, labels, temperature))

    def column(self) -> tuple[str, ...]:
        return (
            f"{self.temperature:.4g}",
            f"{100 * self.ece:.2f} %",
            f"{100 * self.mce:.2f} %",
            f"{self.cross_entropy:.4f}",
        )


def _run_calibrate(options: argparse.Namespace) -> int:
    if options.plot:
        _check_picture(options.plot)
    start = time.perf_counter()
    logits, labels = _read(options, options.labels)
    fitted = options.temperature is None
    before = _Calibration.of(options, logits, labels, 1.0)
    temperature = _fit(logits, labels) if fitted else options.temperature
    after = _Calibration.of(options, logits, labels, temperature)
    accuracy = _accuracy(logits, labels)
    if options.plot:
        _draw(options, logits, labels, temperature)
    seconds = time.perf_counter() - start
    rows, classes = logits.shape
    if not options.quiet:
        line = f"{rows:,} rows of {classes:,} classes in {seconds:.3g} s, {100 * accuracy:.2f} % right"
        print(f"calibrate: {line}", file=sys.stderr)
    if options.json:
        contents = {
            "input": options.input,
            "labels": options.labels,
            "plot": options.plot,
            "rows": rows,
            "classes": classes,
            "bins": options.bins,
            "accuracy": accuracy,
            "fitted": fitted,
            "before": vars(before),
            "after": vars(after),
            "seconds": seconds,
        }
        print(as_json(options, contents))
        return 0
    names = ("temperature", "ECE", "MCE", "cross entropy")
    print(f"{'':<13} {'before':>9} {'after':>9}")
    for name, *cells in zip(names, before.column(), after.column(), strict=True):
        print(f"{name:<13} {cells[0]:>9} {cells[1]:>9}")
    return 0


def _accuracy(logits: Array, labels: Array) -> float:
    import numpy as np

    from fastsoftmax import top_k

    winners = top_k(logits, 1).indices[:, 0]
    return float(np.mean(winners == labels)) if labels.size else math.nan


def _check_picture(path: str) -> None:
    """Refuse before the work what could not be drawn after it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ImportError("--plot needs Matplotlib: pip install 'fastsoftmax[plot]'") from None
    endings = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in endings:
        raise UsageError(f"--plot {path}: the ending says the format, one of {', '.join(sorted(endings))}")


def _draw(options: argparse.Namespace, logits: Array, labels: Array, temperature: float) -> None:
    """Draw into memory first, so that the picture, too, appears whole or not at all."""
    from matplotlib.figure import Figure

    from fastsoftmax._io.output import OutputFile
    from fastsoftmax.plot import FIGURE, reliability_diagram

    figure = Figure(**FIGURE)
    keywords = {"temperature": temperature, "n_bins": options.bins, "title": options.title}
    reliability_diagram(logits, labels, to=figure, **keywords)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(options.plot).suffix[1:].lower(), dpi=150)
    file = OutputFile(options.plot, b"", len(picture.getbuffer()), overwrite=options.force)
    try:
        file.write(picture.getbuffer(), 0)
        file.flush()
        file.commit()
    finally:
        file.abort()


COMMANDS = (
    Command(
        "fit-temperature",
        "the temperature that makes probabilities honest",
        "The number to divide logits by so that the labels become likeliest (temperature scaling), on "
        "standard output. Fit it to rows that the classifier was not trained on. The logits are read into "
        "memory.",
        """\
  fastsoftmax fit-temperature val_logits.npy val_labels.npy
  T=$(fastsoftmax fit-temperature val_logits.npy val_labels.npy --quiet)
  fastsoftmax softmax test_logits.npy -o probs.npy --temperature "$T\"""",
        _add_fit_options,
        _run_fit,
    ),
    Command(
        "calibrate",
        "calibration error before and after temperature scaling",
        "Expected and maximum calibration error (ECE, MCE: the mean and the greatest gap between confidence "
        "and accuracy, over bins) and cross entropy in nats, before and after temperature scaling; with "
        "--plot the reliability diagram and the histogram of confidence. The logits, rows by classes, are "
        "read into memory.",
        """\
  fastsoftmax calibrate logits.npy labels.npy
  fastsoftmax calibrate logits.npy labels.npy --plot reliability.png
  fastsoftmax calibrate test_logits.npy test_labels.npy --temperature "$T" --json""",
        _add_calibrate_options,
        _run_calibrate,
    ),
)
