"""Judges the figures and prints them: one row a case, one column a contender."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case
from .peers import PEERS

Figures = dict[str, Any]
YARDSTICKS = {
    "copy": ("memcpy", "stream"),
    "read": ("read", "read_prefetch"),
    "np.add": ("np.add",),
    "none": (),
}


@dataclass
class Row:
    """A case with its figures, and what they say."""

    case: Case
    figures: Figures
    native_share: float | None = None  # of the same case at the machine's own level, where a level is forced
    ours: float | None = field(init=False)
    yardstick: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.ours = self.ms("fastsoftmax")
        times = [self.ms(name) for name in YARDSTICKS[self.case.yardstick]]
        self.yardstick = min((t for t in times if t is not None), default=None)

    def ms(self, name: str) -> float | None:
        found = self.figures.get(name, {}).get("ms")
        return None if found is None else float(found)

    @property
    def share(self) -> float | None:
        return self.yardstick / self.ours if self.ours and self.yardstick else None

    def peers(self) -> Iterator[tuple[str, float]]:
        for entry in PEERS:
            ms = self.ms(entry.name)
            if ms is not None:
                yield entry.name, ms

    @property
    def spread(self) -> float | None:
        """How far our own quartiles are apart, as a share of the median: the noise of the run."""
        if not self.ours:
            return None
        low, high = self.figures["fastsoftmax"]["quartiles"]
        return float(high - low) / self.ours

    @property
    def best_peer(self) -> tuple[str, float] | None:
        return min(self.peers(), key=lambda peer: peer[1], default=None)

    @property
    def lead(self) -> float | None:
        """How many times as fast as the best peer."""
        return self.best_peer[1] / self.ours if self.ours and self.best_peer else None

    def verdict(self) -> str:
        """'aim', 'least', or what is missed; with a word where something could not be judged."""
        if self.ours is None:
            own = self.figures.get("fastsoftmax", {})
            return str(own.get("status", "crashed"))
        goal = self.case.goal
        share, lead = self.share, self.lead
        if self.case.level:
            share = share / self.native_share if share and self.native_share else None
        missed, aimed, unknown = [], True, []
        if self.case.level and share:
            unknown.append(f"{share:.2f} of the machine's own level")
        if goal.share:
            if share is None:
                unknown.append("no figure to compare with")
            else:
                missed += [f"share {share:.2f} < {goal.share[0]:.2f}"] * (share < goal.share[0])
                aimed &= share >= goal.share[1]
        if goal.lead:
            if lead is None:
                unknown.append("no peer")
            else:
                missed += [f"best peer x{lead:.2f}"] * (lead <= 1)
                over = self._lead_over()
                if over is None:
                    unknown.append(f"no {goal.lead_over}")
                else:
                    missed += [f"x{over:.2f} < x{goal.lead:g}"] * (lead > 1 and over < goal.lead)
                    aimed &= over >= (goal.lead_aim or goal.lead)
        word = "MISSED: " + ", ".join(missed) if missed else "aim" if aimed else "least"
        return word + "".join(f" ({u})" for u in unknown)

    def _lead_over(self) -> float | None:
        over = self.case.goal.lead_over
        if over == "the best peer":
            return self.lead
        ms = self.ms(over)
        return ms / self.ours if ms and self.ours else None

    def as_json(self) -> Figures:
        best = self.best_peer
        return {
            "key": self.case.key,
            "title": self.case.title,
            "group": self.case.group,
            "op": self.case.op,
            "shape": self.case.shape,
            "axis": self.case.axis,
            "dtype": self.case.dtype,
            "memory": self.case.memory,
            "yardstick": self.case.yardstick,
            "ours_ms": self.ours,
            "yardstick_ms": self.yardstick,
            "share": self.share,
            "best_peer": best[0] if best else None,
            "best_peer_ms": best[1] if best else None,
            "lead": self.lead,
            "spread": self.spread,
            "goal": vars(self.case.goal),
            "verdict": self.verdict(),
            "figures": self.figures,
        }


def time_text(ms: float | None) -> str:
    if ms is None:
        return "-"
    if ms < 0.1:
        return f"{1e3 * ms:.2f} us"
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 1_000 else f"{ms:,.0f}"


class Table:
    """Prints rows as they come, with what they say of our goals if that is wanted."""

    def __init__(self, titles: list[str], peers: list[str], *, verdicts: bool) -> None:
        self.verdicts = verdicts
        self.columns = [entry for entry in PEERS if entry.name in peers]
        self.width = max([len(t) for t in titles] + [4])
        self.group = ""
        heads = ["ours", "yardstick", "share", *(entry.title for entry in self.columns), "lead"]
        print(f"{'case':{self.width}}" + "".join(f"{h:>11}" for h in heads) + "  verdict" * verdicts)

    def show(self, row: Row) -> None:
        if row.case.group != self.group:
            self.group = row.case.group
            print(f"-- {self.group}")
        share = "-" if row.share is None else f"{row.share:.2f}"
        lead = "-" if row.lead is None else f"x{row.lead:.2f}"
        cells = [time_text(row.ours), time_text(row.yardstick), share]
        for entry in self.columns:
            ms = row.ms(entry.name)
            cells.append(
                time_text(ms) if ms is not None else str(row.figures.get(entry.name, {}).get("status", "-"))
            )
        line = f"{row.case.title:{self.width}}" + "".join(f"{c:>11}" for c in [*cells, lead])
        print(f"{line}  {row.verdict()}" if self.verdicts else line, flush=True)


def machine() -> Figures:
    """Say what the figures belong to."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            caches[f"L{(index / 'level').read_text().strip()}"] = (index / "size").read_text().strip()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": cpu,
        "cpus": usable,
        "caches": caches,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }


def header(machine: Figures, about: Figures, settings: Figures) -> str:
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    lines = [
        f"machine   {machine['cpu']}, {machine['cpus']} CPUs, {caches}, {machine['memory_gib']} GiB",
        f"system    {machine['system']}, Python {machine['python']}",
        "versions  " + ", ".join(f"{name} {v}" for name, v in about["versions"].items()),
        "build     " + ", ".join(f"{name}: {v}" for name, v in about["build_info"].items()),
        f"run       {settings['threads']} threads, {settings['rounds']} rounds interleaved, medians in ms, "
        f"large inputs {settings['size_mb']} MiB, {settings['date']}",
        "          yardstick: a copy (the faster of memcpy and streaming stores), for reductions a read;",
        "          share: its time over ours. lead: the best peer's time over ours. Threads do not spin.",
    ]
    if machine["load"] > 0.5:
        lines.append(f"WARNING   load {machine['load']:.1f}: others use this machine; trust no figure")
    return "\n".join(lines)
