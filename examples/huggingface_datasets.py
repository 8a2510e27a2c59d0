"""Softmax over a Hugging Face dataset, in batches and in several forked processes.

``with_format("numpy")`` hands over a column of equal rows as one matrix; the result becomes a column of the
new dataset, on disk, so that nothing needs to fit into memory. ``num_proc`` forks; fastsoftmax works in the
children also where the parent has used it before.

Run it (needs datasets)::

    python examples/huggingface_datasets.py
"""

import fastsoftmax as fs
import numpy as np
from datasets import Dataset, disable_progress_bars


def add_probabilities(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the probabilities of a batch of logits, and their entropy in nats.

    >>> add_probabilities({"logits": np.zeros((1, 2))})["probs"].tolist()
    [[0.5, 0.5]]
    """
    return {"probs": fs.softmax(batch["logits"]), "entropy": fs.entropy(batch["logits"])}


def main() -> None:
    """Add two columns in two processes."""
    disable_progress_bars()
    logits = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    dataset = Dataset.from_dict({"logits": list(logits)}).with_format("numpy")
    done = dataset.map(add_probabilities, batched=True, batch_size=250, num_proc=2)
    print(done.num_rows, "rows with", ", ".join(done.column_names))
    print("the same bits as in one call:", np.array_equal(done["probs"][:], fs.softmax(logits)))


if __name__ == "__main__":
    main()
