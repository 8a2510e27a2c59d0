"""Softmax of a file in joblib workers, which share the files and not copies of them.

joblib gives each worker its share of the CPUs in OMP_NUM_THREADS, and fastsoftmax keeps to it: two workers
on four CPUs run two threads each. Each worker reads its rows of one .npy file and writes its rows of another,
in place. (One process does the same with ``fastsoftmax.io.stream``, on all CPUs and with less to go wrong;
workers are for where the softmax is one step of a longer function.)

Run it (needs joblib)::

    python examples/joblib_batches.py
"""

import tempfile
from pathlib import Path

import fastsoftmax as fs
import numpy as np
from joblib import Parallel, delayed

DIGITS = Path(__file__).resolve().parent / "digits" / "logits.npy"


def softmax_rows(src: Path, dst: Path, rows: slice) -> int:
    """Softmax of some rows, file to file; the threads that it may use.

    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "x.npy", np.zeros((3, 2))); np.save(folder / "y.npy", np.ones((3, 2)))
    >>> _ = softmax_rows(folder / "x.npy", folder / "y.npy", slice(1, 3))
    >>> np.load(folder / "y.npy").tolist()
    [[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]]
    """
    logits = np.load(src, mmap_mode="r")
    probs = np.load(dst, mmap_mode="r+")
    fs.softmax(logits[rows], out=probs[rows])
    probs.flush()
    return fs.get_num_threads()


def main() -> None:
    """Softmax of the digits in two workers."""
    logits = np.load(DIGITS, mmap_mode="r")
    with tempfile.TemporaryDirectory() as folder:
        dst = Path(folder, "probs.npy")
        np.lib.format.open_memmap(dst, "w+", logits.dtype, logits.shape).flush()
        parts = [slice(start, start + 200) for start in range(0, len(logits), 200)]
        threads = Parallel(n_jobs=2)(delayed(softmax_rows)(DIGITS, dst, rows) for rows in parts)
        same = np.array_equal(np.load(dst), fs.softmax(logits))
    print(f"{len(parts)} batches, threads of each worker: {max(threads)}")
    print("the same bits as in one call:", same)


if __name__ == "__main__":
    main()
