"""The parts of ``fastsoftmax.io``, from the bytes up.

- ``npy``: the .npy format, and reading files and pipes without trust in them
- ``output``: files that appear whole or not at all
- ``ends``: what a stream comes from and goes to: files, pipes, arrays, behind one face
- ``pipeline``: cutting an array into tiles, and reading, computing and writing at the same time
- ``operation``: the functions of the family, their arguments, and how these are cut
- ``two_pass``: the mathematics of a distribution that is cut into pieces
- ``job``: one call of ``stream``: it chooses the plan and carries it out
"""
