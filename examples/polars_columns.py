"""Softmax of Polars columns: lists of any length, and arrays of one length.

Polars keeps its columns in Arrow's layout, so that ``Series.to_arrow`` copies nothing, and the functions of
``arrow_columns.py`` do the rest. ``map_batches`` puts them into an expression.

Run it (needs Polars and PyArrow)::

    python examples/polars_columns.py
"""

import polars as pl
import pyarrow as pa
from arrow_columns import softmax_fixed_size_column, softmax_list_column


def softmax_series(series: pl.Series) -> pl.Series:
    """Softmax within each row of a List or Array column of floats.

    >>> softmax_series(pl.Series("score", [[0.0, 0.0], [], None, [5.0]])).to_list()
    [[0.5, 0.5], [], None, [1.0]]
    >>> softmax_series(pl.Series("score", [[0, 0], None], dtype=pl.Array(pl.Float32, 2))).to_list()
    [[0.5, 0.5], None]
    """
    column = series.rechunk().to_arrow()
    fixed = pa.types.is_fixed_size_list(column.type)
    probs = softmax_fixed_size_column(column) if fixed else softmax_list_column(column)
    return pl.Series(series.name, probs)


def main() -> None:
    """Rank the answers to three questions; then the classes of two images."""
    questions = pl.DataFrame(
        {
            "question": ["capital of France", "2 + 2", "no answers yet"],
            "score": pl.Series([[7.1, 2.0, 0.5], [9.0, 8.0], []], dtype=pl.List(pl.Float32)),
        }
    )
    ranked = questions.with_columns(
        pl.col("score").map_batches(softmax_series, return_dtype=pl.List(pl.Float32)).alias("p")
    )
    for question, p in ranked.select("question", "p").iter_rows():
        print(f"{question:18}", "  ".join(f"{value:.3f}" for value in p) or "-")

    logits = pl.Series("logits", [[2.0, 1.0, 0.1], [0.0, 0.0, 0.0]], dtype=pl.Array(pl.Float64, 3))
    print("images:", [[round(value, 3) for value in row] for row in softmax_series(logits)])


if __name__ == "__main__":
    main()
