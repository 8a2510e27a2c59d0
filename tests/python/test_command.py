"""The command, as a subprocess: results, messages, exit codes, signals, pipes."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import stat
import subprocess
import termios
import time

import fastsoftmax as fs
import numpy as np
import pytest
from command_helpers import fail, popen, run
from io_helpers import names, save

STREAMING = ("softmax", "log-softmax", "logsumexp", "entropy", "top-k", "cross-entropy")
COMMANDS = (*STREAMING, "fit-temperature", "calibrate", "bench", "info")


@pytest.fixture
def logits(tmp_path, monkeypatch):
    """Logits, saved as x.npy in the working directory; l.npy has labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(200, 10)) * 4).astype(np.float32)
    save("x.npy", x)
    save("l.npy", rng.integers(0, 10, 200))
    return x


# -- results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["softmax", "log-softmax", "logsumexp", "entropy"])
def test_streaming_commands(logits, command):
    out, err = run(command, "x.npy", "-o", "y.npy")
    expected = getattr(fs, command.replace("-", "_"))(logits)
    np.testing.assert_array_equal(np.load("y.npy"), expected)
    assert out == b""
    assert err.startswith(f"{command}: 200 rows of 10 classes in ")
    assert err.endswith(f"GB/s (read + written), {fs.build_info()['level']}\n")


def test_options(logits):
    options = [
        "--axis",
        "0",
        "--temperature",
        "0.5",
        "--dtype",
        "float64",
        "--threads",
        "2",
        "--chunk-bytes",
        "1K",
    ]
    _, err = run("softmax", "x.npy", "-o", "y.npy", *options)
    assert "10 rows of 200 classes" in err
    expected = fs.softmax(logits, axis=0, temperature=0.5, dtype=np.float64)
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=1e-15)
    run("logsumexp", "x.npy", "-o", "y.npy", "--axis", "none", "--force", "--quiet")
    np.testing.assert_allclose(np.load("y.npy"), fs.logsumexp(logits, axis=None), rtol=3e-7)


def test_bfloat16(logits):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    save("b.npy", logits.astype(ml_dtypes.bfloat16))
    run("softmax", "b.npy", "-o", "y.npy", "--input-dtype", "bfloat16")
    got = np.load("y.npy").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got, fs.softmax(logits.astype(ml_dtypes.bfloat16)))
    assert "say --input-dtype bfloat16" in fail("softmax", "b.npy", "-o", "z.npy")


def test_top_k(logits):
    run("top-k", "x.npy", "-k", 3, "-o", "v.npy", "--indices", "i.npy", "--log")
    values, indices = fs.top_k(logits, 3, log=True)
    np.testing.assert_array_equal(np.load("v.npy"), values)
    np.testing.assert_array_equal(np.load("i.npy"), indices)


def test_cross_entropy(logits):
    labels = np.load("l.npy")
    mean = float(fs.cross_entropy(logits.astype(np.float64), labels))
    out, err = run("cross-entropy", "x.npy", "l.npy")
    assert float(out) == pytest.approx(mean, rel=1e-6)
    assert err.startswith("cross-entropy: 200 rows")
    out, err = run("cross-entropy", "x.npy", "l.npy", "--json", "--quiet", "--reduction", "sum")
    assert json.loads(out)["value"] == pytest.approx(200 * mean, rel=1e-6)
    assert err == ""
    run("cross-entropy", "x.npy", "l.npy", "-o", "y.npy", "--label-smoothing", "0.1", "--ignore-index", "3")
    expected = fs.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1, ignore_index=3)
    np.testing.assert_array_equal(np.load("y.npy"), expected)
    assert "--reduction none" in fail("cross-entropy", "x.npy", "l.npy", "--reduction", "none", code=2)
    labels[150] = 10
    save("l.npy", labels)
    assert "150" in fail("cross-entropy", "x.npy", "l.npy")


def test_info():
    out, _ = run("info")
    assert fs.build_info()["level"] in out.decode()
    contents = json.loads(run("info", "--json")[0])
    assert contents["version"] == fs.build_info()["version"]
    assert contents["threads"] >= 1


def test_version_and_help():
    out, _ = run("--version")
    assert out.decode() == f"fastsoftmax {fs.build_info()['version']}\n"
    out, _ = run("--help")
    for command in COMMANDS:
        assert f"    {command}" in out.decode()
        sub = run(command, "--help")[0].decode()
        assert f"\nexamples:\n  fastsoftmax {command}" in sub or "fastsoftmax info" in sub
    for argument in (
        "-o OUT.npy",
        "--axis",
        "--temperature",
        "--dtype",
        "--threads",
        "--force",
        "--quiet",
        "--json",
    ):
        assert argument in run("softmax", "--help")[0].decode()


# -- reports -------------------------------------------------------------------------------------------------


def test_json_and_quiet(logits):
    out, err = run("softmax", "x.npy", "-o", "y.npy", "--json", "--quiet")
    assert err == ""
    contents = json.loads(out)
    assert contents["command"] == "softmax"
    assert (contents["input"], contents["output"]) == ("x.npy", "y.npy")
    assert (contents["rows"], contents["classes"], contents["shape"]) == (200, 10, [200, 10])
    assert contents["bytes_read"] == contents["bytes_written"] == logits.nbytes
    assert contents["dtype"] == contents["result_dtype"] == "float32"
    assert contents["level"] == fs.build_info()["level"]
    assert contents["seconds"] > 0
    _, err = run("softmax", "x.npy", "-o", "-", "--json")
    assert json.loads(err)["output"] == "-"


@pytest.mark.usefixtures("logits")
def test_progress_bar_on_a_terminal():
    pytest.importorskip("tqdm")
    for quiet in (False, True):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (25, 100))
        process = popen(
            "softmax", "x.npy", "-o", "y.npy", "--force", *(["--quiet"] if quiet else []), stderr=theirs
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed: Linux says EIO
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.wait() == 0
        assert (b"softmax:   0%" in shown and b"B/s" in shown) != quiet
        assert shown == b"" or not quiet
    _, err = run("softmax", "x.npy", "-o", "y.npy", "--force")
    assert "%" not in err


# -- pipes ---------------------------------------------------------------------------------------------------


def test_standard_input_and_output(logits, tmp_path):
    data = (tmp_path / "x.npy").read_bytes()
    out, err = run("softmax", "-", "-o", "-", data=data)
    np.testing.assert_array_equal(np.load(io.BytesIO(out)), fs.softmax(logits))
    assert "200 rows" in err
    run("softmax", "-", "-o", "y.npy", data=data)
    np.testing.assert_array_equal(np.load("y.npy"), fs.softmax(logits))
    with open("x.npy", "rb") as file, open("z.npy", "wb") as result:  # noqa: PTH123
        popen("softmax", "-", "-o", "/dev/stdout", "--quiet", stdin=file, stdout=result).wait()
    np.testing.assert_array_equal(np.load("z.npy"), fs.softmax(logits))
    assert "<stdin>" in fail("softmax", "-", "-o", "w.npy", data=data[:-1])
    assert "<stdin>" in fail("softmax", "-", "-o", "w.npy", data=data + b"x")
    assert "<stdin>" in fail("softmax", "-", "-o", "w.npy", data=b"")
    assert "read twice" in fail("softmax", "-", "-o", "w.npy", "--axis", 0, "--chunk-bytes", "1k", data=data)
    assert names(tmp_path) == ["l.npy", "x.npy", "y.npy", "z.npy"]


def test_fifos_stay_what_they_are(logits, tmp_path):
    os.mkfifo("in")
    os.mkfifo("out")
    process = popen("softmax", "in", "-o", "out", "--force", "--quiet")
    with open("in", "wb") as file:  # noqa: PTH123
        file.write((tmp_path / "x.npy").read_bytes())
    with open("out", "rb") as file:  # noqa: PTH123
        np.testing.assert_array_equal(np.load(io.BytesIO(file.read())), fs.softmax(logits))
    assert process.wait() == 0
    for name in ("in", "out"):
        assert stat.S_ISFIFO((tmp_path / name).stat().st_mode)


def test_reader_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("x.npy", np.zeros((20_000, 100), np.float32))
    with popen("softmax", "x.npy", "-o", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.usefixtures("logits")
def test_terminal_as_output():
    ours, theirs = pty.openpty()
    process = popen("softmax", "x.npy", "-o", "-", stdout=theirs, stderr=subprocess.PIPE)
    _, err = process.communicate()
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 2
    assert b"terminal" in err


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["softmin"], "invalid choice: 'softmin'"),
        (["softmax", "x.npy"], "-o/--output"),
        (["softmax", "-o", "y.npy"], "IN.npy"),
        (["softmax", "x.npy", "-o", "y.npy", "--frobnicate"], "--frobnicate"),
        (["softmax", "x.npy", "-o", "y.npy", "--axis", "x"], "neither a number nor 'none'"),
        (["entropy", "x.npy", "-o", "y.npy", "--axis", "none"], "needs one axis"),
        (["softmax", "x.npy", "-o", "y.npy", "--temperature", "0"], "argmax"),
        (["softmax", "x.npy", "-o", "y.npy", "--temperature", "-1"], "greater than 0"),
        (["softmax", "x.npy", "-o", "y.npy", "--temperature", "nan"], "finite"),
        (["softmax", "x.npy", "-o", "y.npy", "--temperature", "warm"], "not a number"),
        (["softmax", "x.npy", "-o", "y.npy", "--threads", "0"], "at least 1"),
        (["softmax", "x.npy", "-o", "y.npy", "--chunk-bytes", "4X"], "not a size"),
        (["softmax", "x.npy", "-o", "y.npy", "--chunk-bytes", "0"], "not a size"),
        (["softmax", "x.npy", "-o", "y.npy", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["logsumexp", "x.npy", "-o", "y.npy", "--temperature", "2"], "--temperature"),
        (["top-k", "x.npy", "-o", "y.npy", "-k", "2"], "--indices"),
        (["cross-entropy", "x.npy"], "LABELS.npy"),
    ],
)
@pytest.mark.usefixtures("logits")
def test_wrong_usage(tmp_path, args, message):
    assert message in fail(*args, code=2)
    assert names(tmp_path) == ["l.npy", "x.npy"]


@pytest.mark.parametrize("size", ["65536", "64k", "64K", "64KiB", "64kb", "1M", "1g"])
def test_sizes(logits, size):
    run("softmax", "x.npy", "-o", "y.npy", "--chunk-bytes", size)
    np.testing.assert_array_equal(np.load("y.npy"), fs.softmax(logits))


@pytest.mark.usefixtures("logits")
def test_failures(tmp_path):
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(data[:-4])
    (tmp_path / "long.npy").write_bytes(data + b"\n")
    (tmp_path / "text.npy").write_bytes(b"1.0 2.0\n")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "old.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to("x.npy")
    save("complex.npy", np.zeros(3, complex))
    save("strings.npy", np.array(["a"]))
    np.save("objects.npy", np.array([print]), allow_pickle=True)
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    for args, message in [
        (["missing.npy", "-o", "y.npy"], "missing.npy: No such file or directory"),
        (["folder", "-o", "y.npy"], "folder: Is a directory"),
        (["short.npy", "-o", "y.npy"], "short.npy: is truncated: 4 of its 8,128 bytes are missing"),
        (["long.npy", "-o", "y.npy"], "long.npy: has 1 bytes too many"),
        (["text.npy", "-o", "y.npy"], "text.npy: is not a .npy file"),
        (["empty.npy", "-o", "y.npy"], "empty.npy: is empty"),
        (["complex.npy", "-o", "y.npy"], "complex.npy: holds complex numbers"),
        (["strings.npy", "-o", "y.npy"], "strings.npy: holds strings"),
        (["objects.npy", "-o", "y.npy"], "objects.npy: holds Python objects"),
        (["x.npy", "-o", "old.npy"], "old.npy: the output exists already; --force replaces it"),
        (["x.npy", "-o", "x.npy", "--force"], "x.npy: the output is the input file itself"),
        (["x.npy", "-o", "link.npy", "--force"], "link.npy: the output is the input file itself"),
        (["x.npy", "-o", "nowhere/y.npy"], "nowhere/y.npy: the directory "),
        (["x.npy", "-o", "folder", "--force"], "folder: Is a directory"),
        (["x.npy", "-o", "x.npy/y.npy"], "Not a directory"),
        (["x.npy", "-o", "y.npy", "--axis", "2"], "axis 2 is out of bounds"),
        (["x.npy", "-o", "y.npy", "--input-dtype", "bfloat16"], "cannot be read as bfloat16"),
    ]:
        assert message in fail("softmax", *args)
    assert "k = 11" in fail("top-k", "x.npy", "-k", 11, "-o", "y.npy", "--indices", "z.npy")
    assert "--chunk-bytes of at least" in fail(
        "entropy", "x.npy", "-o", "y.npy", "--axis", 0, "--chunk-bytes", "1k"
    )
    assert names(tmp_path) == before
    assert (tmp_path / "old.npy").read_bytes() == b"old"
    assert (tmp_path / "x.npy").read_bytes() == data


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.usefixtures("logits")
def test_permissions(tmp_path):
    (tmp_path / "x.npy").chmod(0)
    assert "x.npy: Permission denied" in fail("softmax", "x.npy", "-o", "y.npy")
    (tmp_path / "x.npy").chmod(0o600)
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "closed/y.npy: Permission denied" in fail("softmax", "x.npy", "-o", "closed/y.npy")


@pytest.mark.usefixtures("logits")
def test_no_space(tmp_path):
    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    message = fail("softmax", "x.npy", "-o", "y.npy", preexec_fn=limit)
    assert "y.npy: File too large for the 8,128 bytes of the result" in message
    assert names(tmp_path) == ["l.npy", "x.npy"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGINT, "fastsoftmax: interrupted\n"),
        (signal.SIGTERM, "fastsoftmax: ended by SIGTERM\n"),
        (signal.SIGHUP, "fastsoftmax: ended by SIGHUP\n"),
    ],
)
def test_signals(tmp_path, number, message):
    save(tmp_path / "x.npy", np.zeros((10_000, 100), np.float32))
    data = (tmp_path / "x.npy").read_bytes()
    dst = tmp_path / "out" / "y.npy"
    dst.parent.mkdir()
    dst.write_bytes(b"old")
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}

    def heed():  # also where the tests were started with nohup
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    with popen("softmax", "-", "-o", dst, "--force", preexec_fn=heed, **pipes) as process:
        process.stdin.write(data[:2_000_000])
        process.stdin.flush()  # it has read all but what a pipe holds, and waits for the rest
        start = time.monotonic()
        process.send_signal(number)
        assert process.stderr.read().decode() == message
        assert process.wait() == 128 + number
        assert time.monotonic() - start < 5
    assert names(dst.parent) == ["y.npy"]
    assert dst.read_bytes() == b"old"


@pytest.mark.usefixtures("logits")
def test_nohup_is_respected():
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = popen(
        "softmax", "-", "-o", "y.npy", stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=ignore
    )
    data = io.BytesIO()
    np.save(data, np.zeros((10_000, 100), np.float32))
    process.stdin.write(data.getvalue()[:2_000_000])
    process.stdin.flush()
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(data.getvalue()[2_000_000:])
    assert process.returncode == 0, err
    assert np.load("y.npy").shape == (10_000, 100)
