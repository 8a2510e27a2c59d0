"""Over dask arrays on worker processes of their own, also where the data do not fit into them."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import fastsoftmax as fs
import fastsoftmax.dask as fsd
import numpy as np
import pytest
from dask import array as da
from dask_helpers import assert_close
from distributed import Client, LocalCluster
from numpy.typing import NDArray

Array = NDArray[Any]

WORKERS = 2
# Of the matrix, and of each worker (an empty one takes 0.15 GiB). FASTSOFTMAX_TEST_DASK_GIB=8: the long test.
GIB = float(os.environ.get("FASTSOFTMAX_TEST_DASK_GIB", "1"))
LIMIT = int(max(0.35, GIB / 8) * 2**30)
CLASSES = 1024


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes of one thread each, restarted by nobody: one that is killed fails the test."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        assert len(set(client.run(os.getpid).values())) == WORKERS
        yield client


@pytest.mark.parametrize("chunks", [(500, 300), (500, 80)])
@pytest.mark.usefixtures("client")
def test_as_in_memory(chunks: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 300)).astype(np.float32) * 5
    labels = rng.integers(0, 300, 2000)
    d = da.from_array(x, chunks=chunks)
    assert_close(fsd.softmax(d), fs.softmax(x))
    assert_close(fsd.log_softmax(d, temperature=0.5), fs.log_softmax(x, temperature=0.5))
    assert_close(fsd.logsumexp(d, where=d > 0), fs.logsumexp(x, where=x > 0))
    assert_close(fsd.entropy(d), fs.entropy(x))
    assert_close(fsd.log_prob(d, labels), fs.log_prob(x, labels))
    assert_close(fsd.cross_entropy(d, labels), fs.cross_entropy(x, labels))
    values, indices = fsd.top_k(d, 3)
    assert_close(values, fs.top_k(x, 3).values)
    assert_close(indices, fs.top_k(x, 3).indices)
    labels[1234] = 300
    with pytest.raises(IndexError, match="labels: 300 of row 1234"):
        fsd.cross_entropy(d, labels).compute()


@pytest.mark.parametrize("cuts", [1, 4])
def test_more_than_a_worker_can_hold(client: Client, cuts: int) -> None:
    rows = int(GIB * 2**30 / 4 / CLASSES)
    assert 4 * rows * CLASSES > 2 * LIMIT
    chunks = (LIMIT // 16 // (4 * CLASSES), CLASSES // cuts)
    x = da.random.default_rng(1).random((rows, CLASSES), np.float32, chunks=chunks) * 20
    before = client.run(os.getpid)
    probs = fsd.softmax(x)
    # Each row's sum, and how often its greatest probability is that of its greatest logit.
    sums, tops = dask.compute(probs.sum(axis=1, dtype=np.float64), fsd.top_k(x, 1).indices[:, 0])
    assert sums.shape == tops.shape == (rows,)
    np.testing.assert_allclose(sums, 1, atol=2e-6)
    assert client.run(os.getpid) == before  # nobody died and was replaced
    if sys.platform == "linux":
        assert 1024 * max(client.run(_peak_memory).values()) < LIMIT


def _peak_memory() -> int:
    """In KiB. Not ru_maxrss, which a process inherits from the one that started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
