"""Softmax within each list of a Spark column, in Arrow batches.

``mapInArrow`` hands a Python worker the rows as Arrow record batches, whose list columns are one array of
values and one of lengths: what ``softmax_segments`` takes. No Python object is made for any value. Spark runs
one worker per core, so each call keeps to one thread.

Run it (needs PySpark, which needs Java 17 or later)::

    python examples/pyspark_map_in_arrow.py
"""

import os
import sys
from collections.abc import Iterator

import fastsoftmax as fs
import numpy as np
import pyarrow as pa


def rank(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Put the probabilities of each row's scores in the place of the scores; a null list stays null.

    >>> scores = pa.array([[0.0, 0.0], None, [5.0]], pa.list_(pa.float32()))
    >>> next(rank(iter([pa.record_batch({"id": [1, 2, 3], "score": scores})]))).to_pydict()
    {'id': [1, 2, 3], 'score': [[0.5, 0.5], None, [1.0]]}
    """
    for batch in batches:
        scores = batch.column("score")
        lengths = scores.value_lengths().fill_null(0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        probs = fs.softmax_segments(scores.flatten().to_numpy(), offsets, threads=1)
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(probs), mask=scores.is_null())
        yield batch.set_column(batch.schema.get_field_index("score"), "score", column)


def main() -> None:
    """Rank the candidates of four queries in two partitions."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers in this environment, too
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    schema = "id int, score array<float>"
    rows = [(0, [2.0, 1.0, 0.1]), (1, []), (2, [7.0]), (3, [0.0, 0.0])]
    ranked = spark.createDataFrame(rows, schema).repartition(2).mapInArrow(rank, schema)
    for row in sorted(ranked.collect()):
        print(row.id, "  ".join(f"{p:.3f}" for p in row.score) or "-")
    spark.stop()


if __name__ == "__main__":
    main()
