"""Softmax inside the worker processes of a PyTorch DataLoader, which Linux forks.

A forked child has its parent's memory and none of its threads: a library whose thread pool was used before
the fork then waits for ever. fastsoftmax makes a pool of its own in the child. Here it is used in the parent
first, on purpose.

Workers share the CPUs; each tells fastsoftmax how many of them are its own.

Run it (needs PyTorch)::

    python examples/torch_dataloader.py
"""

import fastsoftmax as fs
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

ROWS, CLASSES = 64, 20_000  # large enough for several threads


class TeacherLogits(Dataset):
    """Soft labels for distillation: each item the probabilities of a teacher at a high temperature.

    >>> TeacherLogits(np.zeros((3, 2), np.float32), temperature=4.0)[1]
    tensor([0.5000, 0.5000])
    """

    def __init__(self, logits: np.ndarray, temperature: float) -> None:
        self.logits = logits
        self.temperature = temperature

    def __len__(self) -> int:
        """Count the items."""
        return len(self.logits)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Compute one item, in whichever process asks."""
        return torch.from_numpy(fs.softmax(self.logits[index], temperature=self.temperature))


def one_thread(_: int) -> None:
    """Each worker keeps to one CPU."""
    fs.set_num_threads(1)


def main() -> None:
    """Load all items in two forked workers, and compare them with one call here."""
    logits = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
    expected = fs.softmax(logits, temperature=4.0)  # starts the parent's thread pool, before the fork
    loader = DataLoader(
        TeacherLogits(logits, 4.0),
        batch_size=16,
        num_workers=2,
        multiprocessing_context="fork",
        worker_init_fn=one_thread,
    )
    batches = torch.cat(list(loader))
    print(f"{len(loader)} batches from 2 forked workers")
    print("the same bits as in one call:", bool((batches.numpy() == expected).all()))


if __name__ == "__main__":
    main()
