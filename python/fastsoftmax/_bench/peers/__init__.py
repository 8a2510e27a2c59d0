"""The peers, each in its own file, each imported only when it takes part.

Asked for a case, a peer returns the reasonable ways to do it. The fastest of them, on this machine and this
shape, is the one that is timed. No way at all: the peer cannot do it.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Protocol

from ..cases import Case
from ..contender import Way
from ..data import Data


class Peer(Protocol):
    version: str

    def __init__(self, threads: int) -> None: ...

    def ways(self, case: Case, data: Data) -> list[Way]: ...


@dataclass(frozen=True)
class Entry:
    name: str  # as on the command line and in the JSON file
    title: str  # in tables and charts
    package: str  # what must be installed
    home: str  # the module of this folder


PEERS = [
    Entry("numpy", "NumPy", "numpy", "numpy_formula"),
    Entry("scipy", "SciPy", "scipy", "scipy_special"),
    Entry("onnxruntime", "ONNX RT", "onnxruntime", "onnx_runtime"),
    Entry("tensorflow", "TensorFlow", "tensorflow", "tensorflow_nn"),
    Entry("torch", "torch", "torch", "torch_nn"),
    Entry("jax", "JAX", "jax", "jax_nn"),
]


def installed(names: list[str]) -> list[Entry]:
    return [entry for entry in PEERS if entry.name in names and importlib.util.find_spec(entry.package)]


def load(entry: Entry, threads: int) -> Peer:
    """Import a peer and tell it how many threads it has."""
    peer: Peer = importlib.import_module(f"{__name__}.{entry.home}").Peer(threads)
    return peer
