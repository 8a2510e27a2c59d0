"""The softmax family for NumPy arrays: fast, exact to two ULP, the same bits on every machine.

The default axis is -1, the last, as in JAX, Keras, TensorFlow and ONNX. SciPy's is None, the whole array:
``scipy.special.softmax(x)`` is ``fastsoftmax.softmax(x, axis=None)``.

Every function takes arrays of any shape, strides and byte order, of dtype float16, bfloat16 (of
ml_dtypes), float32 and float64, whose dtype the result keeps; integers, bool and lists give float64.

Examples
--------
>>> from fastsoftmax import softmax
>>> softmax([1.5, 2.2, -0.3, 0.8]).round(2)
array([0.27, 0.55, 0.04, 0.14])
"""

from fastsoftmax._calibration import calibration_error, fit_temperature
from fastsoftmax._core import (
    InternalError,
    __version__,
    build_info,
    cross_entropy,
    entropy,
    get_cache_bytes,
    get_num_threads,
    log_prob,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    set_cache_bytes,
    set_num_threads,
    softmax,
    softmax_segments,
    softmax_vjp,
    top_k,
)
from fastsoftmax._functions import TopK

__all__ = [
    "InternalError",
    "TopK",
    "__version__",
    "build_info",
    "calibration_error",
    "cross_entropy",
    "entropy",
    "fit_temperature",
    "get_cache_bytes",
    "get_num_threads",
    "log_prob",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "set_cache_bytes",
    "set_num_threads",
    "softmax",
    "softmax_segments",
    "softmax_vjp",
    "top_k",
]
