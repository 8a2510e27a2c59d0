"""A contender's way to do a case, and those who are always there: fastsoftmax and the yardsticks."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Case
from .data import Array, Data


class Way:
    """One expression, and the names in it. The expression itself is timed, with no wrapper around it.

    `fetch` makes a NumPy array of its value, to check it; `prepare` runs before each timed call, untimed.
    """

    def __init__(
        self,
        expression: str,
        names: dict[str, Any],
        fetch: Callable[[Any], Array] = np.asarray,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.expression = expression
        self.names = names
        self.fetch = fetch
        self.prepare = prepare
        self.code = compile(expression, "<way>", "eval")

    def result(self) -> Array:
        """Run once and hand back the value as NumPy's."""
        if self.prepare:
            self.prepare()
        return self.fetch(eval(self.code, self.names))  # noqa: S307  (the expressions stand in this package)


class Ours:
    """fastsoftmax as a user calls it."""

    name = "fastsoftmax"

    def __init__(self) -> None:
        self.module = importlib.import_module("fastsoftmax")

    def ways(self, case: Case, data: Data) -> list[Way]:
        names: dict[str, Any] = {case.op: getattr(self.module, case.op), "x": data.x, "out": data.out}
        axis = "" if case.axis == -1 else f", {case.axis}"
        if case.op in {"softmax", "log_softmax"}:
            more = ""
            if case.given == "where":
                more, names["mask"] = ", where=mask", data.mask
            elif case.given == "temperature":
                more, names["t"] = ", temperature=t", data.temperature
            if case.memory == "in place":
                return [Way(f"{case.op}(out{axis}{more}, out=out)", names, prepare=data.restore)]
            into = ", out=out" if case.memory == "reused" else ""
            return [Way(f"{case.op}(x{axis}{more}{into})", names)]
        if case.op == "softmax_vjp":
            names |= {"p": data.probs, "g": data.grad}
            return [Way(f"softmax_vjp(p, g{axis}, out=out)", names)]
        if case.op == "top_k":
            return [Way(f"top_k(x, {case.k}{axis})", names, fetch=lambda found: found.values)]
        if data.labels is not None:
            names["labels"] = data.labels
            return [Way(f"{case.op}(x, labels{axis})", names)]
        return [Way(f"{case.op}(x{axis})", names)]


def yardsticks(case: Case, data: Data, threads: int) -> dict[str, Way]:
    """Give what the machine can do at best, by the ways to do it; the fastest one counts."""
    if case.yardstick == "none":
        return {}
    if case.yardstick == "np.add":
        return {"np.add": Way("add(x, x)", {"add": np.add, "x": data.x})}
    yardstick = getattr(importlib.import_module("fastsoftmax._core"), "_yardstick", None)
    if yardstick is None:
        return {}
    # Always as bytes in a row of floats: a copy does not ask what they mean.
    names = {
        "yardstick": yardstick,
        "src": data.x.reshape(-1).view(np.float32),
        "dst": data.out.reshape(-1).view(np.float32),
    }
    if case.yardstick == "copy":
        return {
            kind: Way(f"yardstick({kind!r}, src, dst, {threads})", names) for kind in ("memcpy", "stream")
        }
    return {
        kind: Way(f"yardstick({kind!r}, src, None, {threads})", names) for kind in ("read", "read_prefetch")
    }
