"""Scores as a table, one row per unit: Parquet for programs, CSV for spreadsheets.

Columns: ``group``, ``kind``, ``unit``, ``score``; ``rank`` among all units and
``rank_in_group``, 1 for the lowest score; and where scores are known by class
``most``, the class that the unit matters most to, and ``score_NAME`` for each.
"""

from pathlib import Path
from typing import Any, Final

from edgeprune.attribution.scores import Scores
from edgeprune.pipeline.unit_settings import Format

PLAIN: Final = ("group", "kind", "unit", "score", "rank", "rank_in_group")


def write_table(path: Path, form: Format, scores: Scores) -> None:
    """Write the table to a path in place; whoever needs it whole gives a temporary name."""
    import pyarrow as pa

    table = pa.table(columns(scores))
    match form:
        case "parquet":
            from pyarrow import parquet

            parquet.write_table(table, path)
        case "csv":
            from pyarrow import csv

            csv.write_csv(table, path)


def columns(scores: Scores) -> dict[str, list[Any]]:
    """Return the columns by name, units in the order of the graph; None for what is not known."""
    rows = list(scores.rows())
    table: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in PLAIN}
    if scores.per_class is None:
        return table
    count = len(rows[0].per_class) if rows else 0
    names = scores.classes or tuple(str(index) for index in range(count))
    table["most"] = [row.most for row in rows]
    for index, name in enumerate(names):
        table[f"score_{name}"] = [row.per_class[index] for row in rows]
    return table
