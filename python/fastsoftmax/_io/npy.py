"""The .npy format for hostile input and careful output.

Reading: the header is matched against a closed grammar (no ``eval``, no ``ast``, no pickle), is at most 64
KiB, its shape is multiplied with a check, and the size of the file must be what the header says. The data are
read by position, never mapped: a mapped file that somebody truncates kills the process with SIGBUS.

Writing: what appears under the final name is whole, or nothing appears. The bytes go to a temporary file of
the same directory, whose space is reserved first; it is synced, gets its name in one step, and the directory
is synced. On Linux the temporary file has no name at all where the file system can do that (O_TMPFILE), so
that even SIGKILL leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Header", "InputFile", "InputStream", "NpyError", "OutputFile", "OutputStream", "format_header"]

MAGIC: Final = b"\x93NUMPY"
MAX_HEADER: Final = 64 * 1024
MAX_DIMENSIONS: Final = 64  # NumPy's own limit
WRITEBACK_STEP: Final = 8 << 20  # how much is handed to the disk at a time; see OutputFile.write

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
_CLOSE = re.compile(rf"{_SPACE}\}}{_SPACE}")

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


def _libc(name: str, *argtypes: Any) -> Callable[..., int] | None:
    """Find a Linux system call that `os` does not offer; None where there is none."""
    if sys.platform != "linux" or sys.maxsize < 2**32:  # off_t must be 64 bits wide
        return None
    import ctypes  # NumPy has it loaded already

    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = [getattr(ctypes, argtype) for argtype in argtypes]

    def call(*args: int) -> int:
        """Return 0, or the error's number."""
        return ctypes.get_errno() if function(*args) != 0 else 0

    return call


class OutputFile:
    """A new file that appears under its name whole or not at all.

    Parameters
    ----------
    path : path-like
        The final name. A symbolic link is followed: what it points to is replaced.
    header, nbytes : bytes, int
        The header, written at once, and the bytes of data that will follow it, whose space is reserved at
        once.
    overwrite : bool
        Replace an existing file (its permissions are kept).
    inputs : iterable of (int, int)
        Device and inode of the files that the output must not be.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced; also when it appears while the work is under way.
    ValueError
        If it is one of the inputs, or not a regular file.
    OSError
        If the directory is missing or not writable, or there is no space.
    """

    sequential: Final = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: bytes,
        nbytes: int,
        *,
        overwrite: bool,
        inputs: Iterable[tuple[int, int] | None] = (),
    ) -> None:
        self.name = os.fspath(path)
        self._path = os.path.realpath(path)
        self._directory = str(Path(self._path).parent)
        self._overwrite = overwrite
        self._temporary: str | None = None
        self._mode: int | None = None
        self._offset = len(header)
        self._check_target(inputs)
        try:
            self._fd = self._open_temporary()
        except FileNotFoundError:
            message = f"the directory {self._directory!r} does not exist"
            raise FileNotFoundError(errno.ENOENT, message, self.name) from None
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, self.name
            ) from None  # the user's name, not the temporary's
        self._open = True
        try:
            self._reserve(self._offset + nbytes)
            self._sync_range = _libc("sync_file_range", "c_int", "c_int64", "c_int64", "c_uint")
            self._synced = self._written = 0
            self._write_all(memoryview(header), 0)
        except BaseException:
            self.abort()
            raise

    def _check_target(self, inputs: Iterable[tuple[int, int] | None]) -> None:
        try:
            status = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{self.name}: is not a regular file; open it and pass the file object instead")
        if (status.st_dev, status.st_ino) in set(inputs):
            raise ValueError(f"{self.name}: the output is the input file itself; write to another file")
        if not self._overwrite:
            raise self._exists()
        self._mode = stat.S_IMODE(status.st_mode)

    def _exists(self) -> FileExistsError:
        return FileExistsError(
            errno.EEXIST, "the output exists already; overwrite=True (--force) replaces it", self.name
        )

    def _open_temporary(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE"):
            # Not every file system can; then the named file below says what is wrong, if something else is.
            with contextlib.suppress(OSError):
                fd = os.open(self._directory, flags | os.O_TMPFILE, 0o666)
                if Path(f"/proc/self/fd/{fd}").exists():  # it gets its name by way of /proc
                    return fd
                os.close(fd)
        temporary = self._temporary_name()
        fd = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o666)
        self._temporary = temporary
        return fd

    def _temporary_name(self) -> str:
        return str(Path(self._directory, f".fastsoftmax-{os.getpid()}-{secrets.token_hex(4)}.tmp"))

    def _reserve(self, size: int) -> None:
        """Have the whole file's space at hand before any work is done."""
        # Not os.posix_fallocate: where the file system lacks it, glibc writes a byte into every 4 KiB
        # instead, which takes minutes over a network.
        fallocate = _libc("fallocate", "c_int", "c_int", "c_int64", "c_int64")
        code = errno.ENOSYS if fallocate is None else errno.EINTR
        while fallocate is not None and code == errno.EINTR:
            code = fallocate(self._fd, 0, 0, size)
        if code in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV}:
            space = os.statvfs(self._directory)
            code = errno.ENOSPC if space.f_bavail * space.f_frsize < size else 0
        if code:
            raise OSError(code, f"{os.strerror(code)} for the {size:,} bytes of the result", self.name)

    def _write_all(self, view: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

    def write(self, view: memoryview, offset: int) -> None:
        """Write `view` at `offset`, counted from the first byte of the data."""
        start = self._offset + offset
        self._write_all(view, start)
        # The disk begins with what is there instead of waiting for the final fsync: a third less time in all.
        if start == self._written or self._written == 0:
            self._written = start + len(view)
            if self._sync_range is not None and self._written - self._synced >= WRITEBACK_STEP:
                self._sync_range(
                    self._fd, self._synced, self._written - self._synced, 2
                )  # SYNC_FILE_RANGE_WRITE
                self._synced = self._written

    def flush(self) -> None:
        """Wait until the data are on the disk; `commit` needs this before."""
        os.fsync(self._fd)

    def commit(self) -> None:
        """Give the file its name."""
        if self._mode is not None:
            os.fchmod(self._fd, self._mode)
        unnamed = self._temporary is None
        source = f"/proc/self/fd/{self._fd}" if unnamed else str(self._temporary)
        try:
            if self._overwrite and Path(self._path).exists():
                if unnamed:  # link cannot replace, rename can
                    temporary = self._temporary_name()
                    self._link(source, temporary)
                    self._temporary = temporary
                os.replace(str(self._temporary), self._path)  # noqa: PTH105
                self._temporary = None
            else:
                self._link(source, self._path)
                self._unlink_temporary()
        except FileExistsError:
            raise self._exists() from None
        finally:
            self.abort()
        with contextlib.suppress(
            OSError
        ):  # a directory that may be written but not read, or cannot be synced
            directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _link(self, source: str, target: str) -> None:
        """Link where the target's existence is an error: no race can make this overwrite a file."""
        try:
            # A src_dir_fd, though the path is absolute: os.link follows the link in /proc only then.
            os.link(source, target, src_dir_fd=self._fd, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError:
            if self._temporary is None or Path(target).exists():
                raise
            os.replace(source, target)  # noqa: PTH105  (a file system without hard links)

    def _unlink_temporary(self) -> None:
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108

    def abort(self) -> None:
        """Remove the temporary file, if it is still there. May be called twice."""
        self._unlink_temporary()
        if self._open:
            self._open = False
            os.close(self._fd)


class OutputStream:
    """A .npy stream written once from front to back. The object stays open."""

    sequential: Final = True

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        self._file = file
        self._position = 0
        self._write_all(memoryview(header))

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._file.write(view[done:]) or 0

    def write(self, view: memoryview, offset: int) -> None:
        """Write `view`; `offset` must be where the last write ended."""
        if offset != self._position:
            raise ValueError("a stream can only be written from front to back")
        self._write_all(view)
        self._position += len(view)

    def flush(self) -> None:
        """Flush the object's own buffer, if it has one."""
        flush = getattr(self._file, "flush", None)
        if flush is not None:
            flush()

    def commit(self) -> None:
        """Do nothing: what is written is written."""

    def abort(self) -> None:
        """Do nothing: what is written is written."""
