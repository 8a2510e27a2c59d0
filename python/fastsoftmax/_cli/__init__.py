"""The command ``fastsoftmax``.

- ``program``: the parser, signals, and how the program ends
- ``command``: what a subcommand is, and what several of them need
- ``values``: what users write after options
- ``streaming``: the subcommands that read a file of any size once: ``softmax`` to ``cross-entropy``
- ``calibration``: ``fit-temperature`` and ``calibrate``
- ``bench``, ``info``: themselves
"""

from .program import COMMANDS, main

__all__ = ["COMMANDS", "main"]
