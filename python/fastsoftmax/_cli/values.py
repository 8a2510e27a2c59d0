"""What users write after options: texts into numbers, or an error that says what was expected."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


def axis(text: str) -> int | None:
    """Read an axis, or ``none`` for all of them together."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def one_axis(text: str) -> int:
    """Read an axis, where all together make no sense."""
    number = axis(text)
    if number is None:
        raise ArgumentTypeError("this command needs one axis")
    return number


def temperature(text: str) -> float:
    """Read a number above 0 and below infinity."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < math.inf:
        hint = "; its limit is the argmax: see top-k" if value == 0 else ""
        raise ArgumentTypeError(f"must be greater than 0 and finite, not {text}{hint}")
    return value


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def size(text: str) -> int:
    """Read a number of bytes, with or without a unit.

    >>> size("16M") == size("16MiB") == 1 << 24
    True
    """
    units = {"k": 10, "m": 20, "g": 30}
    digits = text.lower().removesuffix("b").removesuffix("i")
    shift = units.get(digits[-1:], 0)
    digits = digits[:-1] if shift else digits
    if not digits.isascii() or not digits.isdigit() or int(digits) < 1:
        raise ArgumentTypeError(f"{text!r} is not a size such as 65536, 512K, 16M or 1G")
    return int(digits) << shift
