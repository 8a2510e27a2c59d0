"""Interleaved rounds: in each, every contender runs once, and the order turns by one from round to round.

So a slow second of the machine, or a neighbour's, falls on all of them, and no one always follows the same
other. What is reported is the median.
"""

import gc
import time
import timeit
from statistics import median, quantiles
from typing import Any

from .contender import Way

BATCH = 0.004  # seconds: calls shorter than this are repeated, so that the clock does not matter
SETTLE = 0.002  # seconds of rest after each turn, in which a thread pool's last spinning worker goes to sleep
FAR_BEHIND = 4  # a peer that needs so many times as long as the fastest one plays in every third round only
SLOW = 1.0  # seconds: a peer that needs longer plays in the first round only, or a run would last an hour
MOST_CALLS = 100_000


class Stopwatch:
    """One way, and the times that it took."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.timer = timeit.Timer(way.expression, globals=way.names)  # it switches the collector off
        self.calls = 1
        self.seconds: list[float] = []

    def once(self, calls: int) -> float:
        if self.way.prepare:
            self.way.prepare()
        return self.timer.timeit(calls) / calls

    def calibrate(self) -> float:
        """Settle how many calls make a batch; return about how long one takes."""
        took = self.once(1)
        if took > SLOW:
            return took
        if self.way.prepare is None:  # a call that needs preparing is large anyway
            while took * self.calls < BATCH and self.calls < MOST_CALLS:
                self.calls = min(MOST_CALLS, max(self.calls * 2, int(1.1 * BATCH / max(took, 1e-9)) + 1))
                took = self.once(self.calls)
        return min(took, self.once(self.calls))

    def turn(self) -> None:
        self.seconds.append(self.once(self.calls))
        time.sleep(SETTLE)

    def figures(self) -> dict[str, Any]:
        ms = sorted(1e3 * s for s in self.seconds)
        low, _, high = quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else (ms[0],) * 3
        return {
            "ms": median(ms),
            "min": ms[0],
            "quartiles": [low, high],
            "rounds": len(ms),
            "calls": self.calls,
            "way": self.way.expression,
        }


def race(field: dict[str, Way], peers: set[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Time every way of the field and return each one's figures."""
    watches = {name: Stopwatch(way) for name, way in field.items()}
    gc.collect()
    about = {name: watch.calibrate() for name, watch in watches.items()}
    best_peer = min((about[name] for name in peers & about.keys()), default=float("inf"))
    every = dict.fromkeys(watches, 1)
    for name in peers & about.keys():
        if about[name] > SLOW:
            every[name] = rounds
        elif about[name] > FAR_BEHIND * best_peer:
            every[name] = 3

    names = list(watches)
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            if turn % every[name] == 0:
                watches[name].turn()
    return {name: watch.figures() for name, watch in watches.items()}


def fastest(ways: list[Way]) -> Way:
    """Give the best of several ways to do the same, by three quick calls of each."""
    if len(ways) == 1:
        return ways[0]

    def try_out(way: Way) -> float:
        watch = Stopwatch(way)
        return min(watch.calibrate(), watch.once(watch.calls))

    return min(ways, key=try_out)
