"""Default floating point flags for functions that do their arithmetic with NumPy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from . import _core

if TYPE_CHECKING:
    from collections.abc import Callable

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def guarded(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make a function run with rounding to nearest and subnormal numbers kept.

    Other libraries switch flush-to-zero on for a whole thread, or change its rounding mode. The extension
    module guards its own arithmetic against that; this is for NumPy's. The caller's flags are as before
    afterwards.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        result: _Result = _core._with_default_flags(function, args, kwargs)
        return result

    return call
