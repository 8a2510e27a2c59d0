"""What the tests of fastsoftmax.io share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap

import numpy as np

ULP = 2  # the bound of api.md, rule 14


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def save(path, array, order="C"):
    np.save(path, np.asarray(array, order=order))
    return path


def ulps(got, exact):
    """The largest distance of `got` from `exact`, in units of the last place of `got`'s dtype."""
    with np.errstate(all="ignore"):
        unit = np.spacing(np.abs(exact.astype(got.dtype))).astype(np.longdouble)
        distance = np.abs(got.astype(np.longdouble) - exact) / unit
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    return float(np.where(same, 0, distance).max(initial=0))


def exact(name, x, temperature=1.0):
    """Softmax, log_softmax or logsumexp along axis 0 in long double."""
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        top = x.max(axis=0)
        d = (x - top) / np.longdouble(temperature)
        e = np.exp(d)
        np.put_along_axis(e, x.argmax(axis=0)[None], 0, 0)
        rest = e.sum(axis=0)
        if name == "logsumexp":
            return np.where(np.isfinite(top), top + np.log1p(rest), top)
        y = d - np.log1p(rest)
        y = np.where(np.isfinite(top), y, np.nan)
        return y if name == "log_softmax" else np.where(np.isnan(y), y, np.exp(d) / (1 + rest))


def start_worker(script, *args, **kwargs):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        **kwargs,
    )


class Sliced:
    """The least that a source or a target may be."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, index):
        assert isinstance(index, slice)
        self.largest = max(self.largest, index.stop - index.start)
        return self._array[index].copy()

    def __setitem__(self, index, value):
        assert isinstance(index, slice)
        self._array[index] = value


class Lazy(Sliced):
    """Like zarr and h5py, which take tuples and the ellipsis too."""

    def __getitem__(self, index):
        return self._array[index].copy()


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data):
        self._data, self._at = data, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), 37, len(self._data) - self._at)
        buffer[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count
