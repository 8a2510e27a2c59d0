"""What is measured: the table of cases, each with the figure to reach.

A goal is told in two ways. `share` is the yardstick's time over ours: 0.92 means 92 % of the speed of a copy.
`lead` is the peer's time over ours: 1.2 means 1.2 times as fast as that peer. The first number of a pair is
the least, the second the aim.
"""

from dataclasses import dataclass, replace

MIB = 1 << 20


@dataclass(frozen=True)
class Goal:
    share: tuple[float, float] | None
    lead: float = 1.0  # faster than every peer, in every row, whatever else is asked
    lead_aim: float | None = None
    lead_over: str = "the best peer"  # or the name of one peer


@dataclass(frozen=True)
class Case:
    group: str
    op: str  # the function's name in fastsoftmax
    shape: tuple[int, ...]
    goal: Goal
    axis: int = -1
    dtype: str = "float32"
    memory: str = "reused"  # where the result goes: "reused" (out=), "fresh", or "in place" (out=x)
    given: str = ""  # "where" or "temperature"
    k: int = 0
    yardstick: str = "copy"  # or "read", "np.add", "none"
    quick: bool = False
    chart: str = ""  # its title in the chart; cases without one are not drawn
    threads: int | None = None  # None: what the command line says
    level: str | None = None  # None: what the machine gives

    @property
    def key(self) -> str:
        """Short and unique: what `--only` is matched against, and the row's name in the JSON file."""
        shape = "x".join(map(str, self.shape))
        parts = [f"{self.op}{self.k or ''}", shape]
        parts += [f"axis{self.axis}"] * (self.axis != -1)
        parts += [self.dtype] * (self.dtype != "float32")
        parts += [self.given] * bool(self.given)
        parts += [self.memory.replace(" ", "-")] * (self.memory != "reused")
        parts += [f"threads{self.threads}"] * (self.threads is not None)
        parts += [str(self.level)] * (self.level is not None)
        return "/".join(parts)

    @property
    def title(self) -> str:
        shape = " x ".join(f"{n:,}" for n in self.shape)
        words = [f"{self.op}({self.k})" if self.k else self.op, shape]
        words += [f"axis {self.axis}"] * (self.axis != -1)
        words += [self.dtype] * (self.dtype != "float32")
        words += [f"{self.given}="] * bool(self.given)
        words += [self.memory] * (self.memory != "reused")
        words += [f"{self.threads} thread"] * (self.threads is not None)
        words += [f"{self.level} forced"] * (self.level is not None)
        return " ".join(words)


# The goals of issue 6, by the row they stand in.
LONG_ROWS = Goal((0.70, 0.92), 1.2)
ROWS_OF_100 = Goal((0.60, 0.85))
FRESH = Goal((0.60, 0.85))
IN_PLACE = Goal((0.60, 0.75))
FEW_CLASSES = Goal((0.25, 0.6), 4)
SIXTY_FOUR_CLASSES = Goal((0.25, 0.6), 1.5)
OTHER_AXIS = Goal((0.45, 0.75), 3.5)
SMALL_OTHER_AXIS = Goal(None, 2, 5)
VERY_LONG_ROWS = Goal((0.48, 0.65), 1.3)
LOGSUMEXP = Goal((0.55, 0.85), 1.8)
REDUCTION = Goal((0.55, 0.85), 4)
TOP_K = Goal((0.50, 0.8), 3)
MASK_OR_TEMPERATURE = Goal((0.45, 0.75), 4)
GRADIENT = Goal((0.50, 0.65), 3, lead_over="torch")
DOUBLE = Goal((0.50, 0.8), 1.3)
HALF = Goal((0.40, 0.6), 2)
CALL_COST = Goal((1 / 1.1, 1 / 0.75), 3, lead_over="torch")  # the yardstick is np.add of the same floats
ONE_ROW_IN_CACHE = Goal(None, 2.5, 4)
ROWS_IN_CACHE = Goal(None, 1.4, 2.5)
LAST_CACHE = Goal((0.30, 0.6), 1.3)
ONE_THREAD = Goal((0.50, 0.7))
FORCED_AVX2 = Goal((0.75, 0.75), 0)  # here the yardstick is the machine's own level, see report.py


def softmax_cases(op: str, size: int) -> list[Case]:
    """Give the rows that softmax and log_softmax share. `size`: float32 elements of the large ones."""

    def rows_of(n: int) -> tuple[int, int]:
        return max(1, size // n), n

    def case(group: str, shape: tuple[int, ...], goal: Goal, **more: object) -> Case:
        return replace(Case(group, op, shape, goal), **more)  # type: ignore[arg-type]

    is_softmax = op == "softmax"
    rows = [
        case("out= reused", rows_of(1_000), LONG_ROWS, quick=True, chart="rows of 1,000"),
        case("out= reused", rows_of(32_000), LONG_ROWS, quick=is_softmax, chart="rows of 32,000"),
        case("out= reused", rows_of(128_256), LONG_ROWS, quick=is_softmax, chart="rows of 128,256"),
        case("out= reused", rows_of(100), ROWS_OF_100, quick=is_softmax, chart="rows of 100"),
    ]
    rows += [
        replace(c, group="fresh result", memory="fresh", goal=FRESH, chart="", quick=False) for c in rows[:4]
    ]
    rows[4] = replace(rows[4], quick=is_softmax, chart="rows of 1,000, fresh result")
    rows += [
        replace(c, group="in place", memory="in place", goal=IN_PLACE, chart="", quick=False)
        for c in rows[:4]
    ]
    # The fixed shapes fit 256 MiB; a smaller --size-mb makes them smaller too.
    rows += [
        case(
            "few classes", (min(100_000, size // 10), 10), FEW_CLASSES, quick=is_softmax, chart="100,000 x 10"
        ),
        case("few classes", (min(1_000_000, size // 3), 3), FEW_CLASSES),
        case("few classes", (min(4_000_000, size // 2), 2), FEW_CLASSES),
        case("few classes", (min(200_000, size // 64), 64), SIXTY_FOUR_CLASSES),
        case(
            "other axis",
            (8_192, size // 8_192),
            OTHER_AXIS,
            axis=0,
            quick=is_softmax,
            chart="8,192 x 8,192, axis 0",
        ),
        case("other axis", (max(1, size // (64 << 14)), 64, 128, 128), OTHER_AXIS, axis=1),
        case("other axis", (50_000, min(1_000, max(1, size // 50_000))), OTHER_AXIS, axis=0),
        case("other axis", (1_000, 7), SMALL_OTHER_AXIS, axis=0, yardstick="none"),
        case("very long rows", (min(16, max(1, size // 4_000_000)), min(4_000_000, size)), VERY_LONG_ROWS),
        case("very long rows", (min(50_000_000, size),), VERY_LONG_ROWS),
    ]
    if is_softmax:
        return rows
    return [replace(c, group=f"log_softmax, {c.group}", chart="") for c in rows]


def table(size_mb: int) -> list[Case]:
    """Every case, in the order of issue 6. `size_mb`: MiB of the input of the large ones."""
    size = size_mb * MIB // 4
    square = (max(1, size // 8_192), 8_192)
    thousand = (max(1, size // 1_000), 1_000)
    softmax = softmax_cases("softmax", size)

    cases = softmax + softmax_cases("log_softmax", size)
    group, read = "reductions", "read"
    cases += [
        Case(group, "logsumexp", square, LOGSUMEXP, quick=True, chart="logsumexp", yardstick=read),
        Case(group, "logsumexp", (8_192, size // 8_192), LOGSUMEXP, axis=0, yardstick=read),
        Case(group, "logsumexp", thousand, LOGSUMEXP, yardstick=read),
        Case(group, "log_prob", square, REDUCTION, yardstick=read),
        Case(group, "cross_entropy", square, REDUCTION, quick=True, chart="cross_entropy", yardstick=read),
        Case(group, "entropy", square, REDUCTION, yardstick=read),
        Case(group, "top_k", square, TOP_K, k=1, yardstick=read),
        Case(group, "top_k", square, TOP_K, k=5, quick=True, chart="top_k(5)", yardstick=read),
        Case(group, "top_k", square, TOP_K, k=50, yardstick=read),
    ]
    group = "masks, temperature, gradient"
    cases += [
        Case(group, "softmax", square, MASK_OR_TEMPERATURE, given="where", quick=True, chart="where="),
        Case(group, "softmax", square, MASK_OR_TEMPERATURE, given="temperature"),
        Case(group, "softmax_vjp", square, GRADIENT),
    ]
    # Doubles fill as many bytes as floats do elsewhere; halves are as many elements, in half the bytes.
    cases += [
        Case("float64", "softmax", (max(1, size // 2 // n), n), DOUBLE, dtype="float64")
        for n in (1_000, 32_000)
    ]
    cases += [
        Case("half precision", "softmax", (max(1, size // n), n), HALF, dtype=dtype)
        for dtype in ("float16", "bfloat16")
        for n in (1_000, 32_000)
    ]
    cases[-1] = replace(cases[-1], quick=True, chart="rows of 32,000, bfloat16")
    group = "small"
    cases += [
        Case(group, "softmax", (10,), CALL_COST, memory="fresh", yardstick="np.add", quick=True),
        Case(group, "softmax", (1, 1_000), ONE_ROW_IN_CACHE, yardstick="none"),
        Case(group, "softmax", (64, 1_000), ROWS_IN_CACHE, yardstick="none", quick=True),
        Case(group, "softmax", (min(1_000, size // 1_000), 1_000), LAST_CACHE, quick=True),
        Case(group, "softmax", (min(4_096, size // 1_000), 1_000), LAST_CACHE),
    ]
    cases += [
        replace(c, group="one thread", threads=1, goal=ONE_THREAD, quick=False, chart="") for c in softmax[:2]
    ]
    cases += [
        replace(c, group="AVX2 forced", level="avx2", goal=FORCED_AVX2, quick=False, chart="")
        for c in softmax[:4]
    ]
    return list({c.key: c for c in cases}.values())  # at a very small size two cases can become the same
