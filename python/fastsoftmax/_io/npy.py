"""The .npy format: headers, and reading files and pipes without trust in them.

A header is matched against a closed grammar (no ``eval``, no ``ast``, no pickle), is at most 64
KiB, its shape is multiplied with a check, and the size of the file must be what the header says. The data are
read by position, never mapped: a mapped file that somebody truncates kills the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Header", "InputFile", "InputStream", "NpyError", "format_header", "parse_header"]

MAGIC: Final = b"\x93NUMPY"
MAX_HEADER: Final = 64 * 1024
MAX_DIMENSIONS: Final = 64  # NumPy's own limit

_INT = r"(?:0|[1-9][0-9]{0,18})L?"  # the L of Python 2's numpy.save
_SPACE = r"[ \t\r\n]*"
_KEY = re.compile(rf"(['\"])(descr|fortran_order|shape)\1{_SPACE}:{_SPACE}")
_VALUES = {
    "descr": re.compile(r"(['\"])([^'\"\\\r\n]{1,64})\1"),
    "fortran_order": re.compile(r"True|False"),
    "shape": re.compile(rf"\({_SPACE}(?:{_INT}{_SPACE},{_SPACE})*(?:{_INT}{_SPACE})?\)"),
}
_COMMA = re.compile(rf"{_SPACE},{_SPACE}")
_OPEN = re.compile(rf"[ \t]*\{{{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}\}}[ \t]*[\r\n]*")  # NumPy refuses a last line of blanks

# The closed set of element types. Two-byte void is how numpy.save keeps bfloat16: '<V2' as ml_dtypes names
# it, and '|V2' after a round trip through NumPy alone.
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    **{f"{order}{code}": np.dtype(f"{order}{code}") for order in "<>" for code in
       ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")},
    **{f"{order}{code}": np.dtype(code) for order in "|<>" for code in ("b1", "i1", "u1")},
    **{f"{order}V2": np.dtype("V2") for order in "|<"},
}  # fmt: skip
_REFUSED: Final = {
    "c": "complex numbers",
    "O": "Python objects (pickled: never read here)",
    "S": "byte strings",
    "a": "byte strings",
    "U": "strings",
    "M": "dates",
    "m": "time differences",
    "V": "void or structured elements",
    "f": "floating-point numbers of a size that is not supported",
}
SUPPORTED: Final = "float16, float32, float64, integers, bool, and bfloat16 kept as 2-byte void or uint16"


class NpyError(ValueError):
    """A .npy file that cannot be used; the message names the file and what is wrong with it."""


NpyError.__module__ = "fastsoftmax.io"  # the name that users catch it by


@dataclass(frozen=True)
class Header:
    """What a .npy header says.

    Attributes
    ----------
    dtype : numpy.dtype
        Element type, byte order included; ``V2`` for two-byte void.
    fortran_order : bool
        True: the first index runs fastest.
    shape : tuple of int
        As NumPy will show it.
    offset : int
        Where the data begin, in bytes.
    """

    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of data that follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_header(read: Callable[[int], bytes], name: str) -> Header:
    """Read and check a header.

    Parameters
    ----------
    read : callable
        ``read(n)`` gives the next n bytes, fewer only at the end of the file.
    name : str
        The file's name, for messages.

    Returns
    -------
    Header

    Raises
    ------
    NpyError
        If anything is not as the grammar wants it.

    Examples
    --------
    >>> import io, numpy as np
    >>> file = io.BytesIO(); np.save(file, np.zeros((2, 3), np.float32)); _ = file.seek(0)
    >>> parse_header(file.read, "probs.npy").shape
    (2, 3)
    """
    start = read(8)
    if start[:6] != MAGIC:
        what = (
            "is empty, so it is not a .npy file"
            if not start
            else "is not a .npy file (its first bytes say so)"
        )
        raise NpyError(f"{name}: {what}")
    if len(start) < 8:
        raise NpyError(f"{name}: is truncated inside its header")
    version = (start[6], start[7])
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise NpyError(
            f"{name}: has .npy format version {version[0]}.{version[1]}; 1.0, 2.0 and 3.0 are supported"
        )
    width = 2 if version == (1, 0) else 4
    size_field = read(width)
    size = int.from_bytes(size_field, "little")
    if len(size_field) == width and size > MAX_HEADER:
        raise NpyError(f"{name}: has a header of {size:,} bytes; at most {MAX_HEADER:,} are read")
    raw = read(size) if len(size_field) == width else b""
    if len(size_field) < width or len(raw) < size:
        raise NpyError(f"{name}: is truncated inside its header")
    try:
        text = raw.decode("ascii")  # only field names of structured types go beyond ASCII
    except UnicodeDecodeError:
        raise NpyError(f"{name}: has a header that is not plain text") from None
    descr, fortran_order, shape = _parse_dict(text, name)
    header = Header(_dtype_of(descr, name), fortran_order, shape, 8 + width + size)
    if len(shape) > MAX_DIMENSIONS:
        raise NpyError(f"{name}: says {len(shape)} dimensions; NumPy has at most {MAX_DIMENSIONS}")
    # Zero-length axes do not hide the others: NumPy could not make that array either.
    if math.prod(n or 1 for n in shape) * header.dtype.itemsize > 2**63 - 1 - header.offset:
        raise NpyError(f"{name}: says shape {shape}, which is more bytes than a file can have")
    return header


def _parse_dict(text: str, name: str) -> tuple[str, bool, tuple[int, ...]]:
    """Match ``{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`` with its keys in any order."""
    found: dict[str, str] = {}
    opening = _OPEN.match(text)
    position = opening.end() if opening else -1
    while position >= 0 and len(found) < 3:
        key = _KEY.match(text, position)
        if not key or key[2] in found:
            break
        value = _VALUES[key[2]].match(text, key.end())
        if not value:
            if key[2] == "descr" and text[key.end() : key.end() + 1] == "[":
                raise NpyError(f"{name}: holds structured elements; supported: {SUPPORTED}")
            raise NpyError(f"{name}: has a header whose {key[2]!r} is not valid: {text[key.end() :][:40]!r}")
        found[key[2]] = value[2] if key[2] == "descr" else value[0]
        comma = _COMMA.match(text, value.end())
        position = comma.end() if comma else value.end()
        if not comma:
            break
    closing = _CLOSE.match(text, position) if position >= 0 else None
    if len(found) < 3 or not closing or closing.end() != len(text):
        raise NpyError(f"{name}: has a header that does not follow the format: {text[:80]!r}")
    shape = tuple(int(number.rstrip("L")) for number in re.findall(_INT, found["shape"]))
    if len(shape) == 1 and "," not in found["shape"]:
        raise NpyError(f"{name}: has a header whose 'shape' is not a tuple: {found['shape']!r}")
    return found["descr"], found["fortran_order"] == "True", shape


def _dtype_of(descr: str, name: str) -> np.dtype[Any]:
    dtype = _DTYPES.get(descr)
    if dtype is None:
        kind = _REFUSED.get(descr.lstrip("<>|=")[:1], "elements of an unknown type")
        raise NpyError(f"{name}: holds {kind} (descr {descr!r}); supported: {SUPPORTED}")
    return dtype


def format_header(dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran_order: bool = False) -> bytes:
    """Give the header that ``numpy.save`` would write; bfloat16 becomes ``'<V2'``, as there."""
    buffer = io.BytesIO()
    descr = "<V2" if dtype.kind == "V" else dtype.str
    contents = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, contents)
    return buffer.getvalue()


class InputFile:
    """A .npy file read by position: ``header`` and `read_into`.

    Raises
    ------
    NpyError
        If it is not a usable .npy file, or its size is not what its header says.
    OSError
        If it cannot be opened.
    """

    sequential: Final = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        # Looked at before it is opened: opening a FIFO would wait for a writer.
        kind = os.stat(path).st_mode  # noqa: PTH116  (a path may be a str)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name)
        if not stat.S_ISREG(kind):
            raise NpyError(f"{self.name}: is not a regular file; open it and pass the file object instead")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            with os.fdopen(self._fd, "rb", closefd=False) as file:
                self.header = parse_header(file.read, self.name)
            status = os.fstat(self._fd)
            self.identity = (status.st_dev, status.st_ino)
            self._check_size(status.st_size)
        except BaseException:
            os.close(self._fd)
            raise

    def _check_size(self, size: int) -> None:
        expected = self.header.offset + self.header.nbytes
        if size == expected:
            return
        what = (
            f"is truncated: {expected - size:,} of its {expected:,} bytes are missing"
            if size < expected
            else f"has {size - expected:,} bytes too many after its data"
        )
        raise NpyError(f"{self.name}: {what} (shape {self.header.shape}, dtype {self.header.dtype})")

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on, counted from the first byte of the data."""
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], self.header.offset + offset + done)
            if count == 0:
                raise NpyError(f"{self.name}: was truncated while it was read")
            done += count

    def finish(self) -> None:
        """Check that the file has still the size that it had; nothing is left to read."""
        self._check_size(os.fstat(self._fd).st_size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InputStream:
    """A .npy stream read once from front to back: a pipe, a socket, standard input. The object stays open."""

    sequential: Final = True

    def __init__(self, file: BinaryIO) -> None:
        name = getattr(file, "name", None)
        self.name = "<stdin>" if name == 0 else name if isinstance(name, str) else "<stream>"
        self._file = file
        self._position = 0
        self.identity: tuple[int, int] | None = None
        with contextlib.suppress(OSError, AttributeError, TypeError):
            status = os.fstat(file.fileno())
            self.identity = (status.st_dev, status.st_ino)
        self.header = parse_header(self._read_exactly, self.name)

    def _read_exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self._file.read(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view`; `offset` must be where the last read ended."""
        if offset != self._position:
            raise NpyError(f"{self.name}: a stream can only be read from front to back")
        readinto = getattr(self._file, "readinto", None)
        done = 0
        while done < len(view):
            if readinto is not None:
                count = readinto(view[done:])
            else:
                part = self._file.read(len(view) - done)
                count = len(part)
                view[done : done + count] = part
            if not count:
                missing = self.header.nbytes - offset - done
                raise NpyError(
                    f"{self.name}: is truncated: {missing:,} of its {self.header.nbytes:,} bytes are missing"
                )
            done += count
        self._position += done

    def finish(self) -> None:
        """Check that the stream ends where its header says."""
        if self._file.read(1):
            raise NpyError(f"{self.name}: has bytes after its data (shape {self.header.shape})")

    def close(self) -> None:
        """Leave the object open: it is the caller's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
