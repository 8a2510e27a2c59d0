"""Golden hashes: the bits that every level, number of threads, processor and operating system must give.

The inputs are made from integers by operations that IEEE 754 defines, so that no library of mathematics, and
no random generator of NumPy's, can make them differ between machines. `test_golden.py` holds the hashes of
the results against golden.json.

    python tests/python/golden.py            # writes golden.json anew
    python tests/python/golden.py --print    # prints what the level in force gives, per number of threads

golden.json may be written anew in two cases only: a change of the arithmetic was meant, and CHANGELOG.md
says whose bits changed; or cases came or went, and all other hashes stayed. A hash that differs on one level
or machine alone is a bug there.
"""

import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import fastsoftmax as fs
import numpy as np
from numpy.typing import NDArray

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

Array = NDArray[Any]
Case = Callable[[], Iterable[Any]]

PATH = Path(__file__).with_name("golden.json")
THREADS = (1, 2, 3, 7, 16)

DTYPES: dict[str, Any] = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
if bfloat16 is not None:
    DTYPES["bfloat16"] = bfloat16

# Around the vectors, chunks and blocks of the kernels. On 200,000 elements several threads work on one row.
SHORT = (1, 2, 3, 10, 17)
MIDDLE = (100, 1000, 1024, 1025, 4096, 4097)
LONG = (5000, 70_000, 200_000)
GROUPS = {"short": SHORT, "middle": MIDDLE, "long": LONG}
OPTIONS = (3, 17, 100, 1025, 5000)  # lengths with temperatures, masks, axes and layouts

SPREADS = (1, 8, 30, 100)
OFFSETS = (0, 1000, 1_000_000)
# From here below the greatest logit, probabilities are subnormal, but not yet 0.
LEAST = {"float16": 17, "bfloat16": 92, "float32": 103, "float64": 744}
REGULAR = len(SPREADS) * len(OFFSETS)  # kinds of rows; after them the special ones
KINDS = REGULAR + 5


# ---- Inputs ----


def integers(seed: str, shape: int | tuple[int, ...]) -> NDArray[np.uint64]:
    """Give the numbers of SplitMix64 (Steele, Lea and Flood, 2014), started from the checksum of `seed`."""
    count = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    z = count * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(seed.encode()))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).reshape(shape)


def numbers(
    seed: str, shape: int | tuple[int, ...], name: str, low: Any, high: Any, doublings: int = 0
) -> Array:
    """Give numbers from `low` to below `high` (integers, of any shape that broadcasts), evenly spread.

    They are integers times a power of two, with all the bits that float64 or float32 holds; `doublings` is
    one more power of two. The one rounding is from float32 to half precision.
    """
    low, high = np.asarray(low, np.int64), np.asarray(high, np.int64)
    _, exponent = np.frexp(np.maximum(np.abs(low), np.abs(high)))
    places = (53 if name == "float64" else 24) - exponent
    one = np.left_shift(np.int64(1), places)
    whole = (integers(seed, shape) >> np.uint64(1)).astype(np.int64) % ((high - low) * one) + low * one
    exact = np.ldexp(whole.astype(np.float64), doublings - places)
    return np.asarray(exact if name == "float64" else exact.astype(np.float32), DTYPES[name])


def kinds(n: int) -> NDArray[np.intp]:
    """Give the kind of each row of a batch: a spread and an offset, or what is special in it.

    Without SIMD an element takes 0.1 us, so there are few where rows are long. The rows of 100 are enough for
    two threads.
    """
    match n:
        case 200_000:
            return np.array([2])
        case 70_000:
            return np.array([REGULAR + 3])
        case 4096 | 4097 | 5000:
            return np.arange(0, KINDS, 3)  # subnormal results and -inf among them
        case 100:
            return np.arange(40 * KINDS) % KINDS
    return np.arange(max(KINDS, 4096 // n)) % KINDS


@cache
def logits(n: int, name: str) -> Array:
    """Give a batch of rows of `n` logits. It is everybody's, and cannot be written to."""
    kind = kinds(n)
    # 10^6 is more than float16 can hold.
    offset = np.minimum(OFFSETS, 60_000 if name == "float16" else OFFSETS[-1]).repeat(len(SPREADS))
    spread = np.tile(SPREADS, len(OFFSETS))
    low = np.append(offset - spread, [-LEAST[name], -8, -8, -8, -8])[kind, None]
    high = np.append(offset + spread, [0, 8, 8, 8, 8])[kind, None]
    x = numbers(f"logits {n} {name}", (len(kind), n), name, low, high)
    # At any place in the row: the logit that makes all others' probabilities small, a NaN, an infinity.
    place = (integers(f"places {n}", len(kind)) % np.uint64(n)).astype(np.intp)
    for special, value in enumerate([0.0, np.nan, np.inf]):
        rows = np.flatnonzero(kind == REGULAR + special)
        x[rows, place[rows]] = value
    holes = integers(f"holes {n}", x.shape) % np.uint64(3) == 0
    x[(kind == REGULAR + 3)[:, None] & holes] = -np.inf
    x[kind == REGULAR + 4] = -np.inf
    x.flags.writeable = False
    return x


@cache
def finite(n: int, name: str) -> Array:
    """Give the rows of finite logits, for a mean over the rows that is not NaN."""
    return logits(n, name)[kinds(n) <= REGULAR]


@cache
def shares(n: int, rows: int, name: str) -> Array:
    """Give target probabilities: not negative, of a sum near 1."""
    return numbers(f"shares {n}", (rows, n), name, 0, 2, -n.bit_length())


def choices(n: int, rows: int) -> NDArray[np.intp]:
    """Give a class for each row."""
    return (integers(f"labels {n}", rows) % np.uint64(n)).astype(np.intp)


def quarters(what: str, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Give numbers from 1/4 to 16 for each row or class: temperatures, weights."""
    return ((integers(what, shape) % np.uint64(64)).astype(np.float64) + 1) / 4


def mask(n: int, rows: int) -> NDArray[np.bool]:
    """Give a mask that keeps three places in four, and in some rows none."""
    kept: NDArray[np.bool] = integers(f"mask {n}", (rows, n)) % np.uint64(4) != 0
    kept[5::19] = False
    return kept


# ---- Calls ----


def inputs(name: str) -> Iterator[Any]:
    for n in SHORT + MIDDLE + LONG:
        yield from (logits(n, name), shares(n, len(logits(n, name)), name), quarters("inputs", n))


def with_arguments(function: str, x: Array, **options: Any) -> Iterator[Any]:
    """Call a function on rows, with the other arguments that it needs."""
    rows, n = x.shape
    match function:
        case "log_prob":
            yield fs.log_prob(x, choices(n, rows), **options)
        case "cross_entropy":
            yield fs.cross_entropy(x, choices(n, rows), reduction="none", **options)
        case "top_k" | "top_k_log":
            k = min(n, 300 if n == 1025 else 5)  # many are kept in another way than few
            yield from fs.top_k(x, k, log=function == "top_k_log", **options)
        # The logits serve as gradients: with NaN, infinities and large numbers.
        case "softmax_vjp":
            yield fs.softmax_vjp(shares(n, rows, x.dtype.name), x, **options)
        case "log_softmax_vjp":
            log_probs = numbers(f"log_probs {n}", x.shape, x.dtype.name, -50, 0)
            yield fs.log_softmax_vjp(log_probs, x, **options)
        case _:
            yield getattr(fs, function)(x, **options)


def with_temperatures(function: str, name: str) -> Iterator[Any]:
    for n in OPTIONS:
        x = logits(n, name)
        each = quarters(f"temperature {n}", (len(x), 1))
        for temperature in (0.1, 7.3, each):
            yield from with_arguments(function, x, temperature=temperature)


def with_masks(function: str, name: str) -> Iterator[Any]:
    for n in OPTIONS:
        x = logits(n, name)
        yield from with_arguments(function, x, where=mask(n, len(x)))
        yield from with_arguments(function, x, where=mask(n, 1))
        if function != "logsumexp":
            each = quarters(f"temperature {n}", (len(x), 1))
            yield from with_arguments(function, x, where=mask(n, len(x)), temperature=each)


def along_axes(function: str, name: str) -> Iterator[Any]:
    """Call along the first axis and a middle one."""
    call = getattr(fs, function)
    for n in OPTIONS:
        x = logits(n, name)
        yield call(np.ascontiguousarray(x.T), 0)
        rows = x[: len(x) // 6 * 6].reshape(3, -1, 2, n)
        yield call(np.ascontiguousarray(np.moveaxis(rows, -1, 1)), 1)
        yield call(x[:6].reshape(2, 3, n), (0, 2))


def in_layouts(function: str, name: str) -> Iterator[Any]:
    """Call on Fortran, strided, reversed, byte-swapped and broadcast logits."""
    call = getattr(fs, function)
    for n in OPTIONS:
        x = logits(n, name)
        rows = len(x)
        wide = np.zeros((2 * rows, 3 * n), x.dtype)
        wide[::2, ::3] = x
        yield call(np.asfortranarray(x))
        yield call(wide[::2, ::3])
        yield call(np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1])
        if name != "bfloat16":
            yield call(x.astype(x.dtype.newbyteorder("S")))
        yield call(np.broadcast_to(x[:6], (2, 6, n)))


def out_of(function: str, name: str) -> Iterator[Any]:
    """Call with out= of several layouts, and in place."""
    call = getattr(fs, function)
    for n in OPTIONS:
        x = logits(n, name)
        yield call(x, out=np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape))
        yield call(x, out=np.empty_like(x, order="F"))
        yield call(x, out=np.empty((len(x), 2 * n), x.dtype)[:, ::-2])
        own = x.copy()
        yield call(own, out=own)


def casts(function: str, name: str) -> Iterator[Any]:
    """Call with dtype=."""
    for n in (17, 1025):
        for dtype in (np.float16, np.float32, np.float64):
            yield from with_arguments(function, logits(n, name), dtype=dtype)


def of_integers(function: str) -> Iterator[Any]:
    for n in (17, 1025):
        whole = (integers(f"integers {n}", (40, n)) % np.uint64(200)).astype(np.int64)
        for dtype in (np.int8, np.int32, np.uint64, np.bool):
            yield from with_arguments(function, whole.astype(dtype))


def cross_entropy_rows(name: str) -> Iterator[Any]:
    """Compute losses row by row, with each option."""
    for n in OPTIONS:
        x = logits(n, name)
        labels = choices(n, len(x))
        some = np.where(integers(f"ignored {n}", len(x)) % np.uint64(5) == 0, -100, labels)
        weight = quarters(f"weight {n}", n)
        target = shares(n, len(x), name)
        temperature = quarters(f"temperature {n}", (len(x), 1))
        for options in (
            {"weight": weight},
            {"label_smoothing": 0.1},
            {"weight": weight, "label_smoothing": 0.1, "temperature": 7.3},
            {"temperature": temperature},
        ):
            yield fs.cross_entropy(x, some, reduction="none", **options)
        yield fs.cross_entropy(x, target, reduction="none")
        yield fs.cross_entropy(x, target, reduction="none", weight=weight, label_smoothing=0.1)
        yield fs.cross_entropy(np.ascontiguousarray(x.T), labels, 0, reduction="none")


def cross_entropy_whole(name: str) -> Iterator[Any]:
    """Compute means and sums over the rows."""
    for n in OPTIONS:
        x = finite(n, name)
        labels = choices(n, len(x))
        some = np.where(integers(f"ignored {n}", len(x)) % np.uint64(5) == 0, -100, labels)
        weight = quarters(f"weight {n}", n)
        target = shares(n, len(x), name)
        yield fs.cross_entropy(x, labels)
        yield fs.cross_entropy(x, labels, reduction="sum")
        yield fs.cross_entropy(x, some, weight=weight, label_smoothing=0.1)
        yield fs.cross_entropy(x, target)
        yield fs.cross_entropy(x, np.full(len(x), -100))


def segments(name: str) -> Iterator[Any]:
    """Compute rows of different lengths; the longest is shared by several threads."""
    some = (0, *SHORT, *MIDDLE, 0)
    for lengths in ((*some, 300_000, 5000), some * 4, (3,) * 10_000):
        offsets = np.append(0, np.cumsum(lengths))
        values = numbers(f"segments {len(lengths)}", int(offsets[-1]), name, -30, 30)
        values[::4099] = -np.inf
        values[123] = np.nan
        yield fs.softmax_segments(values, offsets, temperature=quarters("segments", len(lengths)))


def many(name: str) -> Iterator[Any]:
    """Compute enough rows for sixteen threads."""
    x = numbers("many", (5300, 100), name, -30, 30)
    yield fs.softmax(x)
    yield fs.cross_entropy(x, choices(100, len(x)))


def calibration(name: str) -> Iterator[Any]:
    """Compute errors and bins from probabilities and from logits."""
    for n in (2, 10, 1000):
        x = finite(n, name)
        labels = choices(n, len(x))
        for norm in ("l1", "l2", "max"):
            yield fs.calibration_error(x, labels, norm=norm, from_logits=True)
        yield from fs.calibration_error(x, labels, n_bins=7, from_logits=True, return_bins=True)
        yield from fs.calibration_error(fs.softmax(x), labels, return_bins=True)


def cases() -> dict[str, Case]:
    """Give all cases by name. What a case gives is one hash.

    Not among them: `fit_temperature`. It is the same with any number of threads (test_calibration.py), but
    exp and log of Python and NumPy are part of its arithmetic, and differ between machines.
    """
    found: dict[str, Case] = {}

    def add(title: str, case: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        found[title] = lambda: case(*arguments)

    def lengths(function: str, name: str, group: tuple[int, ...]) -> Iterator[Any]:
        for n in group:
            yield from with_arguments(function, logits(n, name))

    for name in DTYPES:
        # Where these differ, it is not the library that does.
        add(f"inputs {name}", inputs, name)
        for function in ("softmax", "log_softmax", "logsumexp"):
            for n in SHORT + MIDDLE + LONG:
                add(f"{function} {name} {n}", lengths, function, name, (n,))
            add(f"{function} {name} axes", along_axes, function, name)
            add(f"{function} {name} layouts", in_layouts, function, name)
        for function in ("softmax", "log_softmax"):
            add(f"{function} {name} out", out_of, function, name)
            add(f"{function} {name} dtype", casts, function, name)
        for function in ("log_prob", "entropy", "top_k", "top_k_log", "softmax_vjp", "log_softmax_vjp"):
            for title, group in GROUPS.items():
                add(f"{function} {name} {title}", lengths, function, name, group)
        for function in ("softmax", "log_softmax", "log_prob", "entropy", "top_k", "top_k_log"):
            add(f"{function} {name} temperature", with_temperatures, function, name)
            add(f"{function} {name} where", with_masks, function, name)
        add(f"logsumexp {name} where", with_masks, "logsumexp", name)
        for title, group in GROUPS.items():
            add(f"cross_entropy {name} {title}", lengths, "cross_entropy", name, group)
        add(f"cross_entropy {name} options", cross_entropy_rows, name)
        add(f"cross_entropy {name} mean", cross_entropy_whole, name)
        add(f"softmax_segments {name}", segments, name)
        add(f"calibration_error {name}", calibration, name)
        add(f"many {name}", many, name)
    for function in ("softmax", "log_softmax", "logsumexp", "entropy", "top_k"):
        add(f"{function} integers", of_integers, function)
    return found


# ---- Hashes ----


def little(result: Any) -> Array:
    """Give the bits of a result's elements as little-endian integers, in C order."""
    array = np.ascontiguousarray(result)
    if array.dtype.kind in "iu":
        return array.astype("<i8")  # indices are of the size of a pointer
    return array.view(f"u{array.dtype.itemsize}").astype(f"<u{array.dtype.itemsize}", copy=False)


def fingerprint(results: Iterable[Any]) -> tuple[str, bool]:
    """Hash the bytes of results, one after another; and tell whether every NaN in them is NumPy's.

    In the hash it is, so that golden.json holds what should be: a NaN that the processor makes is negative on
    x86 and positive on Arm.
    """
    digest, canonical = sha256(), True
    for result in results:
        bits, values = little(result), np.ascontiguousarray(result)
        if values.dtype.kind not in "iu":
            nans = np.isnan(values)
            nan = little(np.array(np.nan, values.dtype))
            canonical &= bool((bits[nans] == nan).all())
            bits = np.where(nans, nan, bits).astype(bits.dtype, copy=False)
        digest.update(bits.tobytes())
    return digest.hexdigest(), canonical


def compute(threads: Iterable[int] = THREADS) -> dict[str, Any]:
    """Compute all cases.

    Returns `hashes`: for each case, its hashes and which numbers of threads gave them (one for all, if all is
    well); and `nans`: the names of cases with a NaN that is not NumPy's.
    """
    hashes: dict[str, dict[str, list[int]]] = {name: {} for name in cases()}
    nans: set[str] = set()
    for number in threads:
        fs.set_num_threads(number)
        for name, case in cases().items():
            digest, canonical = fingerprint(case())
            hashes[name].setdefault(digest, []).append(number)
            if not canonical:
                nans.add(name)
    fs.set_num_threads(None)
    return {"level": fs.build_info()["level"], "hashes": hashes, "nans": sorted(nans)}


def main() -> None:
    if sys.argv[1:] == ["--print"]:
        print(json.dumps(compute()))
        return
    if "bfloat16" not in DTYPES:
        sys.exit("golden.json has bfloat16 cases: install ml_dtypes first")
    hashes = {name: next(iter(found)) for name, found in compute([1])["hashes"].items()}
    PATH.write_text(json.dumps(hashes, indent=0) + "\n")
    print(f"{len(hashes)} hashes written; is the change of bits in CHANGELOG.md?")


if __name__ == "__main__":
    main()
