"""What is behind `fastsoftmax.dask`.

``call.py`` makes one call into a graph of tasks; ``pieces.py`` holds what the tasks do, in NumPy alone.
"""
