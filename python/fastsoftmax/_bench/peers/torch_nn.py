"""PyTorch, eager, with `out=` wherever it has one, on tensors that share NumPy's memory."""

from typing import Any

import numpy as np
import torch

from ..cases import Case
from ..contender import Way
from ..data import Array, Data


def tensor(a: Array) -> Any:
    """Give the same memory as a tensor; torch does not know bfloat16 as ml_dtypes gives it to NumPy."""
    if a is None:
        return None
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def array(t: Any) -> Array:
    if t.dtype == torch.bfloat16:
        t = t.float()
    return np.asarray(t.numpy())


class Peer:
    version = torch.__version__

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def ways(self, case: Case, data: Data) -> list[Way]:
        x, out = tensor(data.x), tensor(data.out)
        names: dict[str, Any] = {
            "torch": torch,
            "F": torch.nn.functional,
            "aten": torch.ops.aten,
            "softmax": torch.softmax,
            "log_softmax": torch.log_softmax,
            "x": x,
            "out": out,
        }
        make = getattr(self, f"given_{case.given}" if case.given else case.op)
        expressions = make(case, data, names)
        prepare = data.restore if case.memory == "in place" else None
        return [Way(expression, names, array, prepare) for expression in expressions]

    def softmax(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        del data, names
        f, axis = case.op, case.axis
        return {
            "reused": [f"{f}(x, {axis}, out=out)"],
            "fresh": [f"{f}(x, {axis})"],
            "in place": [f"{f}(out, {axis}, out=out)"],
        }[case.memory]

    log_softmax = softmax

    def given_where(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        mask = tensor(data.mask)
        low = torch.tensor(-torch.inf, dtype=names["x"].dtype)
        names |= {"mask": mask, "dropped": ~mask, "low": low}
        axis = case.axis
        return [
            f"softmax(torch.where(mask, x, low, out=out), {axis}, out=out)",
            f"softmax(x.masked_fill(dropped, float('-inf')), {axis}, out=out)",
        ]

    def given_temperature(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        names["t"] = tensor(data.temperature)
        return [f"softmax(torch.div(x, t, out=out), {case.axis}, out=out)"]

    def logsumexp(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        del data
        small = list(case.shape)
        small.pop(case.axis)
        names["small"] = torch.empty(small, dtype=names["x"].dtype)
        return [f"torch.logsumexp(x, {case.axis}, out=small)"]

    def log_prob(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        del case
        labels = tensor(data.labels)
        names |= {"labels": labels, "column": labels[:, None]}
        return [
            "x.gather(1, column)[:, 0] - torch.logsumexp(x, 1)",
            "log_softmax(x, 1, out=out).gather(1, column)[:, 0]",
            "F.cross_entropy(x, labels, reduction='none').neg_()",
        ]

    def cross_entropy(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        self.log_prob(case, data, names)
        return [
            "F.cross_entropy(x, labels)",
            "(torch.logsumexp(x, 1) - x.gather(1, column)[:, 0]).mean()",
            "F.nll_loss(log_softmax(x, 1, out=out), labels)",
        ]

    def entropy(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        del data, names
        axis = case.axis
        return [
            f"torch.logsumexp(x, {axis}) - torch.linalg.vecdot(softmax(x, {axis}, out=out), x, dim={axis})",
            f"torch.special.entr(softmax(x, {axis}, out=out)).sum({axis})",
            "torch.distributions.Categorical(logits=x, validate_args=False).entropy()",
        ]

    def top_k(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        del data, names
        axis = case.axis
        return [
            f"torch.topk(softmax(x, {axis}, out=out), {case.k}, {axis}).values",
            f"(torch.topk(x, {case.k}, {axis}).values - torch.logsumexp(x, {axis}, keepdim=True)).exp_()",
        ]

    def softmax_vjp(self, case: Case, data: Data, names: dict[str, Any]) -> list[str]:
        p, g = tensor(data.probs), tensor(data.grad)
        names |= {"p": p, "g": g, "dtype": p.dtype}
        return [f"aten._softmax_backward_data.out(g, p, {case.axis}, dtype, grad_input=out)"]
