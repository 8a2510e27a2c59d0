"""ONNX Runtime: a graph of standard operators, its inputs and outputs bound to NumPy's memory."""

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from ..cases import Case
from ..contender import Way
from ..data import Array, Data

OPSET, IR = 18, 9  # old enough for every runtime of the last years
TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
Node = tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]  # operator, inputs, outputs, attributes


def graphs(case: Case) -> list[list[Node]]:
    """Give the operators for a case, from `x` (and what else is given) to `y`."""
    axis = {"axis": case.axis}
    lse: Node = ("ReduceLogSumExp", "x axes", "lse", {"keepdims": 0})
    lse_kept: Node = ("ReduceLogSumExp", "x axes", "lse", {"keepdims": 1})
    softmax: Node = ("Softmax", "x", "p", axis)
    loss = "SoftmaxCrossEntropyLoss"
    if case.given == "where":
        return [[("Where", "mask x low", "kept"), ("Softmax", "kept", "y", axis)]]
    if case.given == "temperature":
        return [[("Div", "x t", "cool"), ("Softmax", "cool", "y", axis)]]
    own: Node = ("GatherElements", "x column", "own_column", {"axis": 1})
    own_row: Node = ("Squeeze", "own_column axes", "own")
    dot: list[Node] = [("Mul", "p x", "px"), ("ReduceSum", "px axes", "mean", {"keepdims": 0})]
    found: dict[str, list[list[Node]]] = {
        "softmax": [[("Softmax", "x", "y", axis)]],
        "log_softmax": [[("LogSoftmax", "x", "y", axis)]],
        "logsumexp": [[("ReduceLogSumExp", "x axes", "y", {"keepdims": 0})]],
        "log_prob": [
            [lse, own, own_row, ("Sub", "own lse", "y")],
            [(loss, "x labels", "loss", {"reduction": "none"}), ("Neg", "loss", "y")],
        ],
        "cross_entropy": [
            [(loss, "x labels", "y", {"reduction": "mean"})],
            [lse, own, own_row, ("Sub", "lse own", "loss"), ("ReduceMean", "loss", "y", {"keepdims": 0})],
        ],
        "entropy": [[lse, softmax, *dot, ("Sub", "lse mean", "y")]],
        "top_k": [
            [softmax, ("TopK", "p k", "y at", {"axis": case.axis})],
            [lse_kept, ("TopK", "x k", "top at", axis), ("Sub", "top lse", "log"), ("Exp", "log", "y")],
        ],
        "softmax_vjp": [
            [
                ("Mul", "p g", "pg"),
                ("ReduceSum", "pg axes", "sum", {"keepdims": 1}),
                ("Sub", "g sum", "centred"),
                ("Mul", "p centred", "y"),
            ]
        ],
    }
    return found[case.op]


def result_shape(case: Case) -> list[int]:
    shape = list(case.shape)
    if case.op == "cross_entropy":
        return []
    if case.op in {"logsumexp", "log_prob", "entropy"}:
        shape.pop(case.axis)
    if case.op == "top_k":
        shape[case.axis] = case.k
    return shape


class Peer:
    version = ort.__version__

    def __init__(self, threads: int) -> None:
        ort.set_default_logger_severity(4)
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        # Its threads would otherwise spin into the next contender's turn.
        self.options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def ways(self, case: Case, data: Data) -> list[Way]:
        if case.dtype not in TYPES:
            return []  # its Python package takes no bfloat16 from NumPy
        inputs: dict[str, Array] = {
            "x": data.x,
            "labels": data.labels,
            "mask": data.mask,
            "t": data.temperature,
        }
        if case.op == "softmax_vjp":
            inputs = {"p": data.probs, "g": data.grad}
        if data.labels is not None:
            inputs["column"] = data.labels[:, None]
        given = {name: a for name, a in inputs.items() if a is not None}
        ways = []
        for nodes in graphs(case):
            ways += self._ways(case, data, nodes, given)
        return ways

    def _session(self, nodes: list[Node], inputs: dict[str, Array], case: Case) -> Any:
        constants = {
            "axes": np.array([case.axis], np.int64),
            "k": np.array([case.k], np.int64),
            "low": np.array(-np.inf, case.dtype),
        }
        read = {name for node in nodes for name in node[1].split()}
        made = [
            helper.make_node(node[0], node[1].split(), node[2].split(), **(node[3] if len(node) == 4 else {}))
            for node in nodes
        ]
        graph = helper.make_graph(
            made,
            case.op,
            [
                helper.make_tensor_value_info(n, TYPES[a.dtype.name], a.shape)
                for n, a in inputs.items()
                if n in read
            ],
            [helper.make_tensor_value_info("y", TYPES[case.dtype], result_shape(case))],
            [numpy_helper.from_array(a, n) for n, a in constants.items() if n in read],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        session = ort.InferenceSession(model.SerializeToString(), self.options, ["CPUExecutionProvider"])
        return session, {name: a for name, a in inputs.items() if name in read}

    def _ways(self, case: Case, data: Data, nodes: list[Node], given: dict[str, Array]) -> list[Way]:
        session, inputs = self._session(nodes, given, case)
        in_place = case.memory == "in place"
        if in_place:
            inputs["x"] = data.out
        full = case.op in {"softmax", "log_softmax", "softmax_vjp"}
        result = data.out if full else np.empty(result_shape(case), case.dtype)

        def bound(to_result: bool) -> Any:
            binding = session.io_binding()
            for name, a in inputs.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(a))
            if to_result:
                binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(result))
            else:
                binding.bind_output("y", "cpu")
            return binding

        # The operators name the binding, so that the JSON file says which graph it was.
        bound_name = "_".join(node[0] for node in nodes)
        names: dict[str, Any] = {"run": session.run_with_iobinding}
        if case.memory == "fresh":
            feeds = {"run": session.run, "inputs": inputs}
            fresh = bound(to_result=False)
            return [
                Way("run(None, inputs)", feeds, lambda outputs: outputs[0]),
                Way(
                    f"run({bound_name})",
                    names | {bound_name: fresh},
                    lambda _: fresh.get_outputs()[0].numpy(),
                ),
            ]
        prepare = data.restore if in_place else None
        names[bound_name] = bound(to_result=True)
        return [Way(f"run({bound_name})", names, lambda _: result, prepare)]
