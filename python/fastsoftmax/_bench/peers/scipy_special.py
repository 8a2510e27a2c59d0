"""SciPy's three functions, and what one builds from them. One thread, no `out=`."""

from typing import Any

import numpy as np
import scipy
from scipy.special import entr, log_softmax, logsumexp, softmax

from ..cases import Case
from ..contender import Way
from ..data import Data


class Peer:
    version = scipy.__version__

    def __init__(self, threads: int) -> None:
        del threads  # SciPy's have one

    def ways(self, case: Case, data: Data) -> list[Way]:
        axis = case.axis
        names: dict[str, Any] = {
            "np": np,
            "entr": entr,
            "softmax": softmax,
            "log_softmax": log_softmax,
            "logsumexp": logsumexp,
            "x": data.x,
            "labels": data.labels,
            "mask": data.mask,
            "t": data.temperature,
        }
        if case.dtype in {"float16", "bfloat16"}:  # through float32; by itself it is slower and wrong
            return [Way(f"softmax(x.astype(np.float32), {axis}).astype(x.dtype)", names)]
        if case.given == "where":
            return [Way(f"softmax(np.where(mask, x, np.float32(-np.inf)), {axis})", names)]
        if case.given == "temperature":
            return [Way(f"softmax(x / t, {axis})", names)]
        own = "np.take_along_axis(x, labels[:, None], axis=1)[:, 0]"
        expressions = {
            "softmax": f"softmax(x, {axis})",
            "log_softmax": f"log_softmax(x, {axis})",
            "logsumexp": f"logsumexp(x, {axis})",
            "log_prob": f"{own} - logsumexp(x, 1)",
            "cross_entropy": f"(logsumexp(x, 1) - {own}).mean()",
            "entropy": f"entr(softmax(x, {axis})).sum(axis={axis})",
        }
        return [Way(expressions[case.op], names)] if case.op in expressions else []
