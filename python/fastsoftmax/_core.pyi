from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax._functions import TopK

_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Mask: TypeAlias = ArrayLike | None
_Float = TypeVar("_Float", np.float16, np.float32, np.float64)
_Out = TypeVar("_Out", bound=NDArray[Any])
# What is not a float becomes float64.
_Whole: TypeAlias = np.bool | np.integer[Any]

class _BuildInfo(TypedDict):
    version: str
    level: str
    levels: list[str]
    threads: int
    debug: bool

class InternalError(RuntimeError): ...

__version__: str

@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: NDArray[_Whole],
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: NDArray[_Whole],
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    where: _Mask = None,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float] | _Float: ...
@overload
def logsumexp(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float] | _Float: ...
@overload
def logsumexp(
    x: NDArray[_Whole],
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64] | np.float64: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def log_prob(
    logits: ArrayLike,
    index: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def log_prob(
    logits: ArrayLike,
    index: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def log_prob(
    logits: NDArray[_Float],
    index: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def log_prob(
    logits: NDArray[_Whole],
    index: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def log_prob(
    logits: ArrayLike,
    index: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    temperature: ArrayLike = 1.0,
    threads: SupportsIndex | None = None,
) -> Any: ...
@overload
def entropy(
    logits: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: type[_Float] | np.dtype[_Float],
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def entropy(
    logits: NDArray[_Float],
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def entropy(
    logits: NDArray[_Whole],
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def entropy(
    logits: ArrayLike,
    /,
    axis: SupportsIndex = -1,
    *,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
def top_k(
    logits: ArrayLike,
    k: SupportsIndex,
    /,
    axis: SupportsIndex = -1,
    *,
    log: bool = False,
    temperature: ArrayLike = 1.0,
    where: _Mask = None,
    dtype: DTypeLike | None = None,
    threads: SupportsIndex | None = None,
) -> TopK: ...
@overload
def softmax_vjp(
    probs: ArrayLike,
    grad: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def softmax_vjp(
    probs: NDArray[_Float],
    grad: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax_vjp(
    probs: ArrayLike,
    grad: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax_vjp(
    log_probs: ArrayLike,
    grad: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def log_softmax_vjp(
    log_probs: NDArray[_Float],
    grad: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax_vjp(
    log_probs: ArrayLike,
    grad: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
@overload
def softmax_segments(
    values: ArrayLike,
    offsets: ArrayLike,
    /,
    *,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: _Out,
    threads: SupportsIndex | None = None,
) -> _Out: ...
@overload
def softmax_segments(
    values: ArrayLike,
    offsets: ArrayLike,
    /,
    *,
    temperature: ArrayLike = 1.0,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax_segments(
    values: NDArray[_Float],
    offsets: ArrayLike,
    /,
    *,
    temperature: ArrayLike = 1.0,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax_segments(
    values: NDArray[_Whole],
    offsets: ArrayLike,
    /,
    *,
    temperature: ArrayLike = 1.0,
    dtype: None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[np.float64]: ...
@overload
def softmax_segments(
    values: ArrayLike,
    offsets: ArrayLike,
    /,
    *,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: None = None,
    threads: SupportsIndex | None = None,
) -> NDArray[Any]: ...
def get_cache_bytes() -> int: ...
def get_num_threads() -> int: ...
def set_cache_bytes(n: SupportsIndex | None, /) -> None: ...
def set_num_threads(n: SupportsIndex | None, /) -> None: ...
def build_info() -> _BuildInfo: ...
def _panic(elements: SupportsIndex, /) -> None: ...
def _with_default_flags(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /
) -> Any: ...
def _yardstick(
    kind: str, src: NDArray[np.float32], dst: NDArray[np.float32] | None, threads: SupportsIndex, /
) -> None: ...
