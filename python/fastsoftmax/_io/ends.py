"""What a stream comes from and goes to, behind one face: files, pipes, and arrays that can be sliced."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from .npy import InputFile, InputStream, NpyError
from .operation import named_dtype
from .pipeline import Region

if TYPE_CHECKING:
    from .output import OutputFile, OutputStream

    Array = npt.NDArray[Any]
    Shape = tuple[int, ...]

FLOATS: Final = ("float16", "bfloat16", "float32", "float64")


# -- where from ----------------------------------------------------------------------------------------------


class FileSource:
    """A .npy file or stream; its axes appear in reverse order if it is Fortran-ordered."""

    buffered = True
    is_array = False

    def __init__(self, file: InputFile | InputStream, input_dtype: Any) -> None:
        self._file = file
        self.identity = file.identity
        self.sequential = self.may_hang = file.sequential
        header = file.header
        self.stored = header.dtype
        self.dtype = _element_type(header.dtype, input_dtype, file.name)
        self.reverse = header.fortran_order and len(header.shape) > 1
        self.shape = header.shape
        self.finish = file.finish

    def read(self, region: Region, buffer: Array | None) -> Array:
        size = self.stored.itemsize
        assert buffer is not None  # noqa: S101  (for the type checker)
        raw = buffer[: region.size * size]
        view, run = raw.data, region.run * size
        for i in range(region.runs):
            self._file.read_into(view[i * run : (i + 1) * run], (region.start + i * region.stride) * size)
        return _undisguised(raw.view(self.stored), self.dtype)


class ArraySource:
    """Anything with shape, dtype, and slicing along its first axis."""

    buffered = may_hang = sequential = reverse = False
    is_array = True

    def __init__(self, array: Any, input_dtype: Any) -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError("masked arrays are not supported; pass where=~mask")
        self.array = array
        self.shape: Shape = tuple(array.shape)
        self.stored = np.dtype(array.dtype)
        self.dtype = _element_type(self.stored, input_dtype, "src")
        self.identity: tuple[int, int] | None = None
        with contextlib.suppress(OSError, AttributeError, TypeError):  # numpy.memmap knows its file
            status = os.stat(array.filename)  # noqa: PTH116
            self.identity = (status.st_dev, status.st_ino)

    def read(self, region: Region, buffer: Array | None) -> Array:  # noqa: ARG002
        a, b = region.rows
        values = np.asarray(self.array[a:b] if self.shape else self.array[()])
        return _undisguised(values, self.dtype)

    def finish(self) -> None:
        pass


def _undisguised(values: Array, dtype: np.dtype[Any]) -> Array:
    """View bfloat16 that is kept as something else as what it is."""
    if dtype.kind != "V" or values.dtype == dtype:
        return values
    return values.astype(values.dtype.newbyteorder("="), copy=False).view(dtype)


def _element_type(stored: np.dtype[Any], input_dtype: Any, name: str) -> np.dtype[Any]:
    wanted = None if input_dtype is None else named_dtype(input_dtype)
    bfloat16 = stored.kind == "V" and stored.itemsize == 2 and stored.name == "bfloat16"
    if wanted is None or wanted == stored:
        if stored.kind == "V" and not bfloat16:
            raise NpyError(
                f'{name}: holds 2-byte void elements; if they are bfloat16, say input_dtype="bfloat16"'
            )
        return stored
    if wanted.name != "bfloat16" or not (
        stored == np.dtype("V2") or (stored.kind == "u" and stored.itemsize == 2)
    ):
        raise TypeError(
            f"{name}: holds {stored}, which cannot be read as {wanted}; only bfloat16 is kept in disguise"
        )
    return wanted


def open_source(src: Any, input_dtype: Any, stack: contextlib.ExitStack) -> FileSource | ArraySource:
    if isinstance(src, str | bytes | os.PathLike):
        return FileSource(stack.enter_context(InputFile(os.fsdecode(src))), input_dtype)
    if hasattr(src, "shape") and hasattr(src, "dtype") and hasattr(src, "__getitem__"):
        return ArraySource(src, input_dtype)
    if hasattr(src, "read"):
        return FileSource(stack.enter_context(InputStream(src)), input_dtype)
    raise TypeError(f"src must be a path, a binary file object or an array, not {type(src).__name__}")


def load(src: Any, input_dtype: Any = None) -> Array:
    """Read all of a .npy file or stream, for what needs it more than once, as carefully as `stream` does."""
    with contextlib.ExitStack() as stack:
        source = open_source(src, input_dtype, stack)
        shape = source.shape[::-1] if source.reverse else source.shape
        size = math.prod(shape)
        buffer = np.empty(size * source.stored.itemsize, np.uint8)
        values = source.read(Region(0, size), buffer).reshape(shape)
        source.finish()
        return values.T if source.reverse else values


# -- where to ------------------------------------------------------------------------------------------------


class FileTarget:
    """A .npy file or stream."""

    is_array = False

    def __init__(self, file: OutputFile | OutputStream, dtype: np.dtype[Any], *, buffered: bool) -> None:
        self.file = file
        self.dtype = dtype
        self.buffered = buffered
        self.may_hang = file.sequential

    def write(self, region: Region, values: Array) -> None:
        raw = values.reshape(-1).view(np.uint8)
        view, size = raw.data, self.dtype.itemsize
        run = region.run * size
        for i in range(region.runs):
            self.file.write(view[i * run : (i + 1) * run], (region.start + i * region.stride) * size)


class ArrayTarget:
    """Anything that takes slice assignment along its first axis; the last, if the source is reversed."""

    may_hang = False
    is_array = True

    def __init__(
        self,
        array: Any,
        shape: Shape,
        dtype: np.dtype[Any],
        source: FileSource | ArraySource,
        *,
        buffered: bool,
    ) -> None:
        user = shape[::-1] if source.reverse else shape
        if tuple(getattr(array, "shape", user)) != user:
            raise ValueError(f"dst has shape {tuple(array.shape)}; the result has shape {user}")
        self._disguise: np.dtype[Any] | None = None
        kept = np.dtype(getattr(array, "dtype", dtype))
        if kept != dtype and "V" in kept.kind + dtype.kind:  # NumPy has no rules for casts of bfloat16
            if dtype.kind == "V" and kept in {np.dtype("V2"), np.dtype(np.uint16)}:
                self._disguise = kept
            # In disguise only if the input was: else nobody could tell numbers from bits.
            fits = kept == source.stored if self._disguise else kept.name in FLOATS
        else:
            fits = np.can_cast(dtype, kept, "same_kind")
        if not fits:
            raise TypeError(f"dst has dtype {kept}, which cannot hold a result of dtype {dtype}")
        self._array = array
        self._shape = shape
        self._reverse = source.reverse
        self.dtype = dtype
        self.buffered = buffered

    def write(self, region: Region, values: Array) -> None:
        a, b = region.rows
        values = values.reshape(b - a, *self._shape[1:]) if self._shape else values.reshape(())
        if self._disguise is not None:
            values = values.view(self._disguise)
        if not self._shape:
            self._array[()] = values
        elif self._reverse:
            self._array[..., a:b] = values.T
        else:
            self._array[a:b] = values


def kind_of(dst: Any) -> str:
    if isinstance(dst, str | bytes | os.PathLike):
        return "file"
    if hasattr(dst, "__setitem__"):
        return "array"
    if hasattr(dst, "write"):
        return "stream"
    raise TypeError(f"dst must be a path, a binary file object or an array, not {type(dst).__name__}")


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share memory without being the same array."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or not np.may_share_memory(a, b):
        return False
    if (a.shape, a.strides, a.dtype, a.ctypes.data) == (b.shape, b.strides, b.dtype, b.ctypes.data):
        return False
    return np.shares_memory(a, b)
