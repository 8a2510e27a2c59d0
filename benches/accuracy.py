"""How exact fastsoftmax and the other libraries are: errors in ULP, against longer floats.

    python benches/accuracy.py                  the whole table, less than three minutes on one core
    python benches/accuracy.py --only offset    the cases whose name matches a regular expression
    python benches/accuracy.py --list           the names

Peers are whichever of SciPy, torch, JAX, TensorFlow and ONNX Runtime are installed; `--peers` chooses.
The exact results are computed in NumPy's longdouble: 64 bits on x86-64, where float32 has 24 and float64 53.
What the rounding of x - max loses there is put back, so that the reference itself is less than 0.02 ULP of
float64 off, and less than 1e-9 ULP of float32. docs/accuracy.md has a table and says what it means.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import numpy as np
from fastsoftmax._bench.report import machine
from numpy.typing import NDArray

Array = NDArray[Any]
Exact = NDArray[np.longdouble]

LONGEST = np.finfo(np.float32).max
ROWS, CLASSES = 256, 4096
PIECE = 2**20  # elements whose errors are computed at a time
# Bits after the point of a significand, and the exponent of the least normal number.
FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}


# ---- Inputs ----


@dataclass(frozen=True)
class Case:
    """A function of logits that are hard to get right, one row a distribution."""

    name: str
    logits: Callable[[], Array]  # in float64; then rounded to the dtype
    dtype: str = "float32"
    function: str = "softmax"
    temperature: float = 1.0
    masked: bool = False

    @property
    def title(self) -> str:
        kind = (
            "" if (self.function, self.dtype) == ("softmax", "float32") else f"{self.function} {self.dtype}: "
        )
        return kind + self.name

    def x(self) -> Array:
        x: Array = self.logits()
        if self.dtype == "bfloat16":
            import ml_dtypes

            return x.astype(ml_dtypes.bfloat16)
        return x.astype(self.dtype)

    def where(self) -> Array | None:
        return np.random.default_rng(1).random((ROWS, CLASSES)) < 0.7 if self.masked else None


def normal(
    spread: float, offset: float = 0.0, shape: tuple[int, ...] = (ROWS, CLASSES)
) -> Callable[[], Array]:
    return lambda: np.random.default_rng(0).normal(offset, spread, shape)


def below_one(start: float, end: float) -> Callable[[], Array]:
    """Give a row whose one logit of 0 has nearly all of the probability."""
    return lambda: np.append(np.linspace(start, end, 100_000), 0)[None]


def dominant(count: int, gaps: Array) -> Callable[[], Array]:
    """Give rows of equal logits, but for the first."""

    def rows() -> Array:
        x = np.zeros((len(gaps), count))
        x[:, 0] = gaps
        return x

    return rows


def largest() -> Array:
    return np.random.default_rng(0).uniform(-LONGEST, LONGEST, (ROWS, CLASSES))


def log_probabilities() -> Array:
    x: Array = np.random.default_rng(0).normal(0, 2, (2_000, 100))
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


def pairs() -> Array:
    gaps = np.linspace(3, 86, 100_000)
    return np.stack([gaps, np.zeros_like(gaps)], 1)


CASES = [
    *(Case(f"spread {spread}", normal(spread)) for spread in (1, 4, 8, 30, 100)),
    *(Case(f"spread 8, offset {offset:,}", normal(8, offset)) for offset in (-300, 1000, 1_000_000)),
    Case("one dominant among 10^6 equal", dominant(1_000_000, np.array([10, 14, 18]))),
    Case("one dominant among 1,000 equal", dominant(1_000, np.linspace(0, 25, 1_000))),
    Case("one row of 10^7, spread 4", normal(4, shape=(1, 10_000_000))),
    Case("probabilities 1e-38 to 1e-17", below_one(-87, -40)),
    Case("subnormal probabilities", below_one(-103, -87.5)),
    *(Case(f"temperature {t:,g}, spread 8 T", normal(8 * t), temperature=t) for t in (1e-3, 0.1, 7.3, 1e3)),
    Case("mask of 70 %, spread 8", normal(8), masked=True),
    Case("up to 3.4e38, temperature 2e37", largest, temperature=2e37),
    Case("3.4e38 three times, and its negative", lambda: np.array([[LONGEST] * 3 + [-LONGEST] * 5])),
    Case("spread 8", normal(8), "float64"),
    Case("spread 30", normal(30), "float64"),
    Case("spread 8, offset 1,000", normal(8, 1000), "float64"),
    Case("spread 8", normal(8), "float32", "log_softmax"),
    Case("[20, 0]", lambda: np.array([[20.0, 0.0]]), "float32", "log_softmax"),
    Case("[3, 0] to [86, 0]", pairs, "float32", "log_softmax"),
    Case("spread 8", normal(8), "float32", "logsumexp"),
    Case("near 0: of log-probabilities", log_probabilities, "float32", "logsumexp"),
    Case("spread 8", normal(8), "float16"),
    Case("70,000 equal", lambda: np.zeros((1, 70_000)), "float16"),
    Case("spread 8", normal(8), "bfloat16"),
]


# ---- The exact results, and how far from them ----


def exact(case: Case, x: Array, where: Array | None) -> Exact:
    """Compute the function in longdouble, with what is lost in x - max put back."""
    wide = (x.astype(np.float32) if x.dtype.itemsize == 2 else x).astype(np.longdouble)
    if where is not None:
        wide[~where] = -np.inf
    top = wide.max(-1, keepdims=True)
    distance = wide - top
    with np.errstate(invalid="ignore"):
        seen = distance - wide
        lost = (wide - (distance - seen)) - (top + seen)  # Knuth's two-sum
    lost[~np.isfinite(lost)] = 0
    temperature = np.longdouble(case.temperature)
    distance /= temperature
    powers = np.exp(distance) * (1 + lost / temperature)
    # Without the maxima, so that a single one leaves the digits of the rest.
    count = (wide == top).sum(-1, keepdims=True)
    others = np.where(wide == top, 0, powers).sum(-1, keepdims=True) + (count - 1)
    result: Exact
    if case.function == "softmax":
        result = powers / (1 + others)
    elif case.function == "log_softmax":
        result = distance - np.log1p(others) + lost / temperature
    else:
        result = (top + np.log1p(others))[..., 0]
    return result


def errors(result: Array, expected: Exact) -> tuple[float, float]:
    """Give the largest and the mean error in ULP; NaN where the result is not finite and should be.

    Below the least normal number the unit is the step of the subnormal ones. What is below half of that, and
    so rounded to 0, counts for the largest, but not for the mean, which such places would flatter.
    """
    bits, least = FORMATS[result.dtype.name]
    largest, total, count = 0.0, 0.0, 0
    result, expected = result.reshape(-1), expected.reshape(-1)
    for start in range(0, expected.size, PIECE):
        got, right = result[start : start + PIECE], expected[start : start + PIECE]
        if got.dtype.itemsize == 2:
            got = got.astype(np.float32)
        unit = np.ldexp(np.longdouble(1), np.maximum(np.frexp(right)[1] - 1, least) - bits)
        off = (np.abs(got.astype(np.longdouble) - right) / unit).astype(np.float64)
        if not np.isfinite(off).all():
            return np.nan, np.nan
        counted = np.abs(right) > unit / 2
        largest = max(largest, float(off.max()))
        total += float(off[counted].sum())
        count += int(counted.sum())
    return largest, total / max(count, 1)


# ---- The libraries ----

Compute = Callable[[str, Array, Array | None], Array | None]


def ours(function: str, x: Array, where: Array | None, temperature: float) -> Array:
    options: dict[str, Any] = {} if function == "logsumexp" else {"temperature": temperature}
    result: Array = getattr(fs, function)(x, where=where, **options)
    return result


def load_scipy() -> Compute:
    import scipy.special

    def compute(function: str, x: Array, where: Array | None) -> Array | None:
        if where is not None:
            return None
        return np.asarray(getattr(scipy.special, function)(x, axis=-1))

    return compute


def load_torch() -> Compute:
    import torch

    def compute(function: str, x: Array, where: Array | None) -> Array | None:
        if where is not None:
            return None
        half = x.dtype.name == "bfloat16"
        tensor = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if half else torch.from_numpy(x)
        result = getattr(torch, function)(tensor, -1)
        return np.asarray(result.view(torch.int16).numpy().view(x.dtype) if half else result.numpy())

    return compute


def load_jax() -> Compute:
    import jax

    jax.config.update("jax_enable_x64", True)

    def compute(function: str, x: Array, where: Array | None) -> Array | None:
        return np.asarray(getattr(jax.nn, function)(jax.numpy.asarray(x), axis=-1, where=where))

    return compute


def load_tensorflow() -> Compute:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    functions = {"softmax": tf.nn.softmax, "log_softmax": tf.nn.log_softmax, "logsumexp": tf.reduce_logsumexp}

    def compute(function: str, x: Array, where: Array | None) -> Array | None:
        if where is not None:
            return None
        return np.asarray(functions[function](tf.convert_to_tensor(x), axis=-1).numpy())

    return compute


def load_onnxruntime() -> Compute:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    types = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    ort.set_default_logger_severity(4)

    @cache
    def session(function: str, dtype: str) -> Any:
        if function == "logsumexp":
            nodes = [
                helper.make_node("Constant", [], ["axes"], value_ints=[1]),
                helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=0),
            ]
        else:
            operator = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[function]
            nodes = [helper.make_node(operator, ["x"], ["y"], axis=-1)]
        ins = [helper.make_tensor_value_info("x", types[dtype], [None, None])]
        outs = [helper.make_tensor_value_info("y", types[dtype], None)]
        graph = helper.make_graph(nodes, function, ins, outs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def compute(function: str, x: Array, where: Array | None) -> Array | None:
        if where is not None or x.dtype.name not in types:  # it takes no bfloat16 from NumPy
            return None
        return np.asarray(session(function, x.dtype.name).run(None, {"x": x})[0])

    return compute


@dataclass(frozen=True)
class Library:
    name: str  # on the command line, and the package's
    title: str
    load: Callable[[], Compute]


PEERS = [
    Library("scipy", "SciPy", load_scipy),
    Library("torch", "torch", load_torch),
    Library("jax", "JAX", load_jax),
    Library("tensorflow", "TensorFlow", load_tensorflow),
    Library("onnxruntime", "ONNX Runtime", load_onnxruntime),
]
TITLES = {"fastsoftmax": "fastsoftmax"} | {peer.name: peer.title for peer in PEERS}

Figures = dict[str, tuple[float, float] | None]  # of each library, the largest error and the mean


def measure(case: Case, peers: dict[str, Compute]) -> Figures:
    x, where = case.x(), case.where()
    expected = exact(case, x, where)
    result = ours(case.function, x, where, case.temperature)
    figures: Figures = {"fastsoftmax": errors(result, expected)}
    # As their users do it: logits over temperature, in the logits' dtype.
    cooled = x if case.temperature == 1 else x / case.temperature
    for name, compute in peers.items():
        theirs = compute(case.function, cooled, where)
        figures[name] = None if theirs is None else errors(theirs, expected)
        if theirs is not None and theirs.dtype != x.dtype:
            raise TypeError(f"{name} gives {theirs.dtype} for {x.dtype}")
    return figures


# ---- What is shown ----


def number(error: float) -> str:
    if np.isnan(error):
        return "NaN"
    if error >= 1e5:
        return f"{error:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{error:,.0f}" if error >= 100 else f"{error:.1f}" if error >= 10 else f"{error:.2f}"


def line(case: Case, figures: Figures) -> str:
    cells = ["-" if pair is None else " / ".join(map(number, pair)) for pair in figures.values()]
    cells[0] = f"**{cells[0]}**"
    return f"| {case.title} | " + " | ".join(cells) + " |"


STYLES = {  # colours that the colour-blind tell apart, and a shape for each
    "fastsoftmax": ("#1b5faa", "D"),
    "scipy": ("#e69f00", "o"),
    "torch": ("#d55e00", "^"),
    "jax": ("#009e73", "s"),
    "tensorflow": ("#cc79a7", "v"),
    "onnxruntime": ("#6b7785", "X"),
}
INK, FAINT = "#1c2530", "#6b7785"


def draw(table: list[tuple[Case, Figures]], to: Path, below: str) -> None:
    """Write the SVG: a group of points for each case, the largest error along a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({
        "svg.hashsalt": "fastsoftmax",  # the same figures make the same file
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    })  # fmt: skip
    least = 0.1  # what is nearer to the exact result is drawn here
    names = list(table[0][1])
    worst = max(pair[0] for _, figures in table for pair in figures.values() if pair and pair[0] > 0)
    beyond = 10.0 ** np.ceil(np.log10(max(worst, 100)))
    figure, axes = plt.subplots(figsize=(10.2, 0.34 * len(table) + 1.5), layout="constrained")
    for row in range(0, len(table), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f0f3f6", linewidth=0, zorder=0)
    for place, name in enumerate(names):
        shift = 0.66 * (place / max(len(names) - 1, 1) - 0.5)
        points = [
            (beyond if np.isnan(pair[0]) else max(pair[0], least), row + shift)
            for row, (_, figures) in enumerate(table)
            if (pair := figures[name])
        ]
        colour, marker = STYLES[name]
        axes.scatter(
            *zip(*points, strict=True), s=26 if name == "fastsoftmax" else 20, c=colour, marker=marker,
            linewidths=0, label=TITLES[name], zorder=3,
        )  # fmt: skip
    axes.axvline(2, color=STYLES["fastsoftmax"][0], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.text(2.1, -0.62, "promised: 2", color=STYLES["fastsoftmax"][0], fontsize=8, va="bottom")
    axes.set_xscale("log")
    axes.set_xlim(least / 1.4, beyond * 1.6)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_yticks(range(len(table)), [case.title for case, _ in table])
    axes.set_xlabel("largest error, ULP (logarithmic; at the left edge: 0.1 or less; at the right one: NaN)")
    axes.set_ylabel("softmax float32 unless said")
    axes.grid(axis="x", color="#d5dbe1", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    figure.supxlabel(below, fontsize=7, color=FAINT)
    figure.savefig(to, format="svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)


# ---- The program ----


def parse() -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="PATTERN", help="cases whose name matches this regular expression")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument(
        "--peers", default=",".join(names), metavar="A,B", help=f"of {', '.join(names)}; or none"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    args = parser.parse_args()
    args.peers = [] if args.peers == "none" else args.peers.split(",")
    if unknown := set(args.peers) - set(names):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if args.svg and not importlib.util.find_spec("matplotlib"):
        parser.error("--svg needs matplotlib, which is not installed")
    if np.finfo(np.longdouble).nmant < 63:
        parser.error("longdouble is float64 on this machine: no reference to measure against")
    return args


def main() -> int:
    args = parse()
    cases = [case for case in CASES if re.search(args.only or "", case.title)]
    if not importlib.util.find_spec("ml_dtypes"):
        cases = [case for case in cases if case.dtype != "bfloat16"]
    if args.list:
        print("\n".join(case.title for case in cases))
        return 0
    if not cases:
        sys.exit("no case matches")

    started = time.monotonic()
    chosen = [peer for peer in PEERS if peer.name in args.peers and importlib.util.find_spec(peer.name)]
    peers = {}
    for peer in chosen:
        try:
            peers[peer.name] = peer.load()
        except ImportError as error:
            print(f"{peer.name} is installed but does not import: {error}", file=sys.stderr)
    names = ["fastsoftmax", *peers]
    versions = {"fastsoftmax": fs.build_info()["version"]}
    # tensorflow-cpu has another name as a package.
    versions |= {name: str(getattr(sys.modules[name], "__version__", "")) or version(name) for name in peers}

    print("Largest / mean error in ULP, of float32 softmax unless said:\n")
    print("| case | " + " | ".join(TITLES[name] for name in names) + " |")
    print("| --- " * (len(names) + 1) + "|")
    table: list[tuple[Case, Figures]] = []
    for case in cases:
        with np.errstate(all="ignore"):  # what the others overflow is seen in their results
            table.append((case, measure(case, peers)))
        print(line(*table[-1]), flush=True)

    host, level = machine()["cpu"], fs.build_info()["level"]
    below = f"{host}, {level}; " + ", ".join(f"{TITLES[name]} {versions[name]}" for name in names)
    print(f"\n{below}; {time.monotonic() - started:.0f} s")
    if args.json:
        shown = [
            {"case": case.title, "function": case.function, "dtype": case.dtype, "ulp": {
                name: pair and {"largest": None if np.isnan(pair[0]) else pair[0],
                                "mean": None if np.isnan(pair[1]) else pair[1]}
                for name, pair in figures.items()
            }}
            for case, figures in table
        ]  # fmt: skip
        everything = {"cpu": host, "level": level, "versions": versions, "cases": shown}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    if args.svg:
        draw(table, args.svg, below)
    return 0


if __name__ == "__main__":
    sys.exit(main())
