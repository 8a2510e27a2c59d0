"""Output files that are whole or absent, and output streams.

The bytes go to a temporary file of the same directory, whose space is reserved first; it is synced, gets its
name in one step, and the directory is synced. On Linux the temporary file has no name at all where the file
system can do that (O_TMPFILE), so that even SIGKILL leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["OutputFile", "OutputStream"]

# For one write: larger ones make the kernel look for larger runs of free pages, which took three times as
# long once memory was fragmented; smaller ones cost calls.
PIECE: Final = 256 << 10
WRITEBACK_STEP: Final = 8 << 20  # how much is handed to the disk at a time; see OutputFile.write


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


def _same_file(name: object) -> ValueError:
    return ValueError(f"{name}: the output is the input file itself; write to another file")


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
            raise _same_file(self.name)
        if not self._overwrite:
            raise self._exists()
        self._mode = stat.S_IMODE(status.st_mode)

    def _exists(self) -> FileExistsError:
        return FileExistsError(
            errno.EEXIST, "the output exists already; overwrite=True replaces it", self.name
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
                done += os.pwrite(self._fd, view[done : done + PIECE], offset + done)
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
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

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
    """A .npy stream written once from front to back. The object stays open.

    Raises
    ------
    ValueError
        If it is one of the `inputs`: standard output appended to the input file, for instance.
    """

    sequential: Final = True

    def __init__(
        self, file: BinaryIO, header: bytes, *, inputs: Iterable[tuple[int, int] | None] = ()
    ) -> None:
        with contextlib.suppress(OSError, AttributeError, TypeError):  # not all have a file behind them
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) in set(inputs):
                raise _same_file(getattr(file, "name", "<stream>"))
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
