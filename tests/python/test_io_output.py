"""Output files are old, absent or complete, whatever happens; and what streaming costs."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import fastsoftmax as fs
import fastsoftmax.io
import numpy as np
import pytest
from fastsoftmax._io import job, npy, output
from io_helpers import Sliced, names, save, start_worker

KILLS = int(os.environ.get("FASTSOFTMAX_TEST_KILLS", "5"))  # for each of four ways


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(params=["unnamed", "named"])
def temporary(request, monkeypatch):
    """Both kinds of temporary file; the second is that of other systems and of some file systems."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    return request.param


@pytest.mark.parametrize("name", [None, "link", "hard"])
def test_output_is_the_input(tmp_path, rng, name):
    src = save(tmp_path / "x.npy", rng.normal(size=(5, 8)))
    dst = src
    if name == "link":
        dst = tmp_path / "link.npy"
        dst.symlink_to(src)
    elif name == "hard":
        dst = tmp_path / "hard.npy"
        dst.hardlink_to(src)
    before = src.read_bytes()
    with pytest.raises(ValueError, match="input file itself"):
        fs.io.stream(fs.softmax, src, dst, overwrite=True)
    assert src.read_bytes() == before


@pytest.mark.usefixtures("temporary")
def test_existing_output(tmp_path, rng):
    x = rng.normal(size=(5, 8))
    dst = tmp_path / "y.npy"
    dst.write_bytes(b"old")
    dst.chmod(0o640)
    with pytest.raises(FileExistsError, match=r"y\.npy"):
        fs.io.stream(fs.softmax, x, dst)
    assert dst.read_bytes() == b"old"
    link = tmp_path / "link.npy"
    link.symlink_to(dst)
    fs.io.stream(fs.softmax, x, link, overwrite=True)
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(dst), fs.softmax(x))
    assert stat.S_IMODE(dst.stat().st_mode) == 0o640
    assert names(tmp_path) == ["link.npy", "y.npy"]


@pytest.mark.usefixtures("temporary")
def test_new_output_has_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        fs.io.stream(fs.softmax, np.zeros((2, 2)), tmp_path / "y.npy")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "y.npy").stat().st_mode) == 0o640


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.usefixtures("temporary")
def test_output_that_appears_meanwhile(tmp_path, rng, overwrite):
    dst = tmp_path / "y.npy"

    class Racing(Sliced):
        def __getitem__(self, index):
            dst.write_bytes(b"somebody else's")
            return super().__getitem__(index)

    x = rng.normal(size=(50, 8))
    expectation = contextlib.nullcontext() if overwrite else pytest.raises(FileExistsError)
    with expectation:
        fs.io.stream(fs.softmax, Racing(x), dst, overwrite=overwrite)
    if overwrite:
        np.testing.assert_array_equal(np.load(dst), fs.softmax(x))
    else:
        assert dst.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["y.npy"]


def test_places_that_cannot_be_written(tmp_path):
    x = np.zeros((2, 2))
    with pytest.raises(FileNotFoundError, match="directory"):
        fs.io.stream(fs.softmax, x, tmp_path / "missing" / "y.npy")
    with pytest.raises(IsADirectoryError):
        fs.io.stream(fs.softmax, x, tmp_path)
    with pytest.raises(FileNotFoundError):
        fs.io.stream(fs.softmax, tmp_path / "missing.npy", tmp_path / "y.npy")
    with pytest.raises(IsADirectoryError):
        fs.io.stream(fs.softmax, tmp_path, tmp_path / "y.npy")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file"):
        fs.io.stream(fs.softmax, x, tmp_path / "fifo", overwrite=True)
    with pytest.raises(ValueError, match="not a regular file"):
        fs.io.stream(fs.softmax, tmp_path / "fifo", tmp_path / "y.npy")
    assert names(tmp_path) == ["fifo"]


# -- failure in the middle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError, OSError])
@pytest.mark.parametrize("where", ["read", "compute", "write"])
@pytest.mark.usefixtures("temporary")
def test_nothing_is_left_after_an_error(tmp_path, rng, error, where, monkeypatch):
    x = rng.normal(size=(500, 8)).astype(np.float32)
    src = save(tmp_path / "x.npy", x)
    (tmp_path / "y.npy").write_bytes(b"old")
    calls = {
        "read": (npy.InputFile, "read_into"),
        "compute": (job.Job, "_compute"),
        "write": (output.OutputFile, "write"),
    }
    owner, method = calls[where]
    original = getattr(owner, method)
    count = 0

    def fail(self, *args, original=original):
        nonlocal count
        count += 1
        if count == 4:
            raise error("in the middle")
        return original(self, *args)

    monkeypatch.setattr(owner, method, fail)
    threads = threading.active_count()
    descriptors = len(names(Path("/dev/fd")))
    for dst, overwrite in (tmp_path / "y.npy", True), (tmp_path / "z.npy", False):
        count = 0
        with pytest.raises(error, match="in the middle"):
            fs.io.stream(fs.softmax, src, dst, chunk_bytes=1000, overwrite=overwrite)
    assert names(tmp_path) == ["x.npy", "y.npy"]
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    assert threading.active_count() == threads
    assert len(names(Path("/dev/fd"))) == descriptors


WORKER = """
    import sys, os, time
    import numpy as np, fastsoftmax as fs, fastsoftmax.io
    if sys.argv[3] == "named":
        del os.O_TMPFILE
    print("ready", flush=True)
    fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2], chunk_bytes=1 << 16, overwrite=True)
    print("done", flush=True)
"""


@pytest.mark.parametrize("before", ["old", "absent"])
def test_sigkill_leaves_old_absent_or_complete(tmp_path, rng, before, temporary):
    src = save(tmp_path / "x.npy", rng.normal(size=(20_000, 100)).astype(np.float32))
    folder = tmp_path / "out"
    folder.mkdir()
    dst = folder / "y.npy"
    fs.io.stream(fs.softmax, src, dst)
    complete = dst.read_bytes()
    seen = set()
    longest = 0.0
    for attempt in range(KILLS + 1):
        dst.unlink(missing_ok=True)
        if before == "old":
            dst.write_bytes(b"old")
        worker = start_worker(WORKER, src, dst, temporary)
        assert worker.stdout.readline() == "ready\n"
        start = time.monotonic()
        if attempt == 0:  # how long it takes when nobody kills it
            worker.communicate()
            longest = time.monotonic() - start
        else:
            time.sleep(random.uniform(0, longest))
            worker.kill()
            worker.communicate()
        data = dst.read_bytes() if dst.exists() else None
        assert data in ((b"old", complete) if before == "old" else (None, complete))
        seen.add(data)
        left = [name for name in names(folder) if name != "y.npy"]
        if temporary == "named":
            assert all(name.startswith(".fastsoftmax-") and str(worker.pid) in name for name in left)
        elif before == "absent":
            assert left == []  # a file without a name dies with its process
        for name in left:
            (folder / name).unlink()
    assert complete in seen


def test_file_size_limit(tmp_path, rng):
    """EFBIG stands for every refusal of space that the system can make."""
    src = save(tmp_path / "x.npy", rng.normal(size=(1000, 100)).astype(np.float32))
    script = """
        import errno, os, resource, signal, sys
        import numpy as np, fastsoftmax as fs, fastsoftmax.io
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if sys.argv[3] == "later":  # a file system on which space cannot be reserved
            from fastsoftmax._io import output
            output.OutputFile._reserve = lambda self, size: None
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2], chunk_bytes=10_000)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
            assert error.filename == sys.argv[2]
            print(error.strerror)
    """
    for moment in ("now", "later"):
        worker = start_worker(script, src, tmp_path / "y.npy", moment)
        out, err = worker.communicate()
        assert "File too large" in out, err
        assert moment == "later" or "400,128 bytes" in out
    assert names(tmp_path) == ["x.npy"]


def test_full_disk(tmp_path, rng):
    src = save(tmp_path / "x.npy", rng.normal(size=(1000, 1000)).astype(np.float32))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = """
        import errno, os, sys
        import fastsoftmax as fs, fastsoftmax.io
        from fastsoftmax._io import job, output
        calls = []
        job.Job._compute = lambda *args: calls.append(1)
        if sys.argv[3] == "statvfs":
            output._libc = lambda *args: None
        try:
            fs.io.stream(fs.softmax, sys.argv[1], sys.argv[2])
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            print(error, calls, os.listdir(os.path.dirname(sys.argv[2])))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for how in ("fallocate", "statvfs"):
        mount = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$4" "$1/y.npy" "$5"'
        arguments = ["sh", "-c", mount, "sh", disk, sys.executable, textwrap.dedent(script), src, how]
        for prefix in (["unshare", "-m"], ["unshare", "-rm"]):
            try:
                result = subprocess.run(
                    [*prefix, *arguments], capture_output=True, text=True, env=environment, check=False
                )
            except FileNotFoundError:
                pytest.skip("no unshare(1) here to mount a small disk with")
            if "Traceback" in result.stderr or result.returncode == 0:
                break
        else:
            pytest.skip(f"no small disk can be mounted here: {result.stderr.strip()}")
        assert "4,000,128 bytes" in result.stdout, result.stderr
        assert "[] []" in result.stdout


def test_second_output_of_top_k_exists(tmp_path, rng):
    x = rng.normal(size=(5, 8))
    (tmp_path / "indices.npy").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        fs.io.stream(fs.top_k, x, (tmp_path / "values.npy", tmp_path / "indices.npy"), k=2)
    assert names(tmp_path) == ["indices.npy"]


# -- cost ----------------------------------------------------------------------------------------------------


MEMORY = """
    import resource, sys
    import numpy as np, fastsoftmax as fs, fastsoftmax.io

    src, folder, name, axis = sys.argv[1:]
    def run(src, axis, chunk_bytes):
        fs.io.stream(name, src, folder + "y.npy", axis=axis, chunk_bytes=chunk_bytes, overwrite=True)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    np.save(folder + "small.npy", np.zeros((64, 64), np.float32))
    run(folder + "small.npy", 0, 4000)
    print(-run(folder + "small.npy", 1, 4000) + run(src, int(axis), 1 << 20))
"""


@pytest.mark.parametrize(
    ("shape", "fortran", "axis", "name"),
    [
        ((25_000, 1000), False, -1, "softmax"),
        ((25_000_000,), False, 0, "logsumexp"),
        ((16_000_000,), False, 0, "softmax"),
        ((4000, 4000), False, 0, "softmax"),
        ((10, 2_500_000), False, 0, "softmax"),
        ((2_500_000, 10), True, -1, "softmax"),
        ((1, 25_000, 1000), False, -1, "logsumexp"),
    ],
)
def test_memory_is_bounded(tmp_path, shape, fortran, axis, name):
    header = npy.format_header(np.dtype(np.float32), shape, fortran_order=fortran)
    src = tmp_path / "x.npy"
    src.write_bytes(header)
    os.truncate(src, len(header) + 4 * int(np.prod(shape)))  # a hole: zeros that take no space
    worker = start_worker(MEMORY, src, f"{tmp_path}/", name, axis)
    out, err = worker.communicate()
    assert worker.returncode == 0, err
    assert int(out) < 32, f"{out} MB"


def test_progress(tmp_path, rng, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    x = rng.normal(size=(500, 8))
    fs.io.stream(fs.softmax, x, tmp_path / "y.npy", progress=True, chunk_bytes=1000)
    captured = capsys.readouterr()
    assert "softmax" in captured.err
    assert captured.out == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    fs.io.stream(fs.softmax, x, tmp_path / "y.npy", progress=True, overwrite=True)
    assert capsys.readouterr().err == ""


def test_import_is_lazy():
    script = """
        import sys, numpy
        before = set(sys.modules)
        import fastsoftmax
        new = set(sys.modules) - before
        print(sorted(m for m in new if m.split(".")[0] in ("argparse", "tqdm", "ml_dtypes", "scipy")
                     or m.startswith(("fastsoftmax.io", "fastsoftmax._io", "fastsoftmax._cli"))))
    """
    assert start_worker(script).communicate()[0] == "[]\n"


def test_error_is_picklable():

    error = pickle.loads(pickle.dumps(fs.io.NpyError("x.npy: is truncated")))
    assert str(error) == "x.npy: is truncated"
