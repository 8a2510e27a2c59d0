"""Softmax as a step of a Ray Data pipeline.

``map_batches`` hands over a block of rows as NumPy arrays, a column of tensors as one array, which
fastsoftmax takes as it is: Ray's arrays are read-only views of its object store. Ray sets OMP_NUM_THREADS to
the CPUs that a task asked for, and fastsoftmax keeps to it.

Run it (needs Ray: ``pip install 'ray[data]'``)::

    python examples/ray_map_batches.py
"""

import fastsoftmax as fs
import numpy as np


def add_probabilities(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the most probable class of each row, and how probable it is.

    >>> add_probabilities({"logits": np.array([[0.0, 0.0], [0.0, np.log(3)]])})["p"].round(3)
    array([0.5 , 0.75])
    """
    best = fs.top_k(batch["logits"], 1)
    return {**batch, "class": best.indices[:, 0], "p": best.values[:, 0]}


def main() -> None:
    """Classify rows in two tasks."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logits = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    dataset = ray.data.from_numpy(logits).rename_columns({"data": "logits"})
    dataset = dataset.map_batches(add_probabilities, batch_size=250)
    rows = dataset.take_all()
    found = np.array([row["class"] for row in rows])
    print(len(rows), "rows")
    same = sorted(found.tolist()) == sorted(logits.argmax(axis=1).tolist())
    print("classes are those of the greatest logits:", same)
    ray.shutdown()


if __name__ == "__main__":
    main()
