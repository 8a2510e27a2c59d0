"""Timing fastsoftmax beside a memory copy and beside the other libraries.

``fastsoftmax bench`` and ``benches/versus.py`` are two faces of it.

- ``cases``: what is measured, and the figure to reach
- ``data``, ``contender``, ``peers``: on what, and who takes part
- ``timing``, ``worker``: how, in a process of its own
- ``run``: starting these processes
- ``report``: what the figures say, as a table
"""
