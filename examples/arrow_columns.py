"""Softmax within each list of an Arrow column, without copying the values.

Search results, offers in an auction, answers to a question: every row has its own number of candidates, and
Arrow keeps them as one flat array of values and one of offsets. ``softmax_segments`` takes just those two, so
the column is read where it lies, and the result is again a column that shares its memory. A column whose
lists all have the same length (fixed_size_list) is a matrix, and ``softmax`` takes that.

Run it (needs PyArrow)::

    python examples/arrow_columns.py
"""

import fastsoftmax as fs
import numpy as np
import pyarrow as pa


def softmax_list_column(column: pa.ListArray) -> pa.ListArray:
    """Softmax within each list of a list<float> or large_list<float> column.

    >>> scores = pa.array([[0.0, 0.0], [], None, [5.0]], type=pa.list_(pa.float32()))
    >>> softmax_list_column(scores).to_pylist()
    [[0.5, 0.5], [], None, [1.0]]

    A slice of a column keeps its parent's memory; only the part in use is read:

    >>> softmax_list_column(scores[3:]).to_pylist()
    [[1.0]]

    Raises
    ------
    ValueError
        If a value is null: a softmax has no place for a number that is not there.
    """
    # `zero_copy_only` makes Arrow refuse, rather than copy in silence.
    offsets = column.offsets.to_numpy(zero_copy_only=True)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    used = column.values[first:last]
    if used.null_count:
        raise ValueError(f"{used.null_count} values of the column are null; fill or drop them first")
    values = used.to_numpy(zero_copy_only=True)

    # A slice's offsets still count from the parent's start.
    own_offsets = offsets if first == 0 else offsets - offsets.dtype.type(first)
    probs = fs.softmax_segments(values, own_offsets)

    # Back to Arrow, around the same memory. A null list stays null.
    whole = type(column).from_arrays
    nulls = column.is_null() if column.null_count else None
    return whole(pa.array(own_offsets), pa.array(probs), mask=nulls)


def softmax_fixed_size_column(column: pa.FixedSizeListArray) -> pa.FixedSizeListArray:
    """Softmax within each list of a fixed_size_list<float> column.

    >>> logits = pa.array([[0.0, 0.0], None, [5.0, 5.0]], type=pa.list_(pa.float32(), 2))
    >>> softmax_fixed_size_column(logits).to_pylist()
    [[0.5, 0.5], None, [0.5, 0.5]]
    >>> softmax_fixed_size_column(logits[2:]).to_pylist()
    [[0.5, 0.5]]

    Raises
    ------
    ValueError
        If a value is null.
    """
    rows, classes = len(column), column.type.list_size
    if nulls := column.flatten().null_count:  # flatten() leaves out null lists
        raise ValueError(f"{nulls} values of the column are null; fill or drop them first")
    # The buffer itself: what lies behind a null list counts as null, and to_numpy() would refuse that.
    dtype = column.type.value_type.to_pandas_dtype()
    flat = np.frombuffer(column.values.buffers()[1], dtype)
    start = column.values.offset + column.offset * classes
    probs = fs.softmax(flat[start : start + rows * classes].reshape(rows, classes))
    nulls = column.is_null() if column.null_count else None
    return pa.FixedSizeListArray.from_arrays(pa.array(probs.reshape(-1)), classes, mask=nulls)


def main() -> None:
    """Rank the answers to three questions."""
    table = pa.table(
        {
            "question": ["capital of France", "2 + 2", "no answers yet"],
            "score": pa.array([[7.1, 2.0, 0.5], [9.0, 8.0], []], type=pa.list_(pa.float32())),
        }
    )
    scores = table["score"].chunk(0)  # a column may have several chunks; each is a list array
    probs = softmax_list_column(scores)
    for question, row in zip(table["question"].to_pylist(), probs.to_pylist(), strict=True):
        print(f"{question:18}", "  ".join(f"{p:.3f}" for p in row) or "-")

    flat = scores.values.to_numpy(zero_copy_only=True)
    same = flat.__array_interface__["data"][0] == scores.values.buffers()[1].address
    print("values read where Arrow keeps them:", same)
    print("sums:", [float(np.float32(sum(row)).round(6)) for row in probs.to_pylist()])


if __name__ == "__main__":
    main()
