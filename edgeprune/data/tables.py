"""Reading CSV files: path,label or path,finding,finding…; split and patient optional.

A path is relative to the CSV's folder, or absolute. The user wrote the table, so a
path may also lead out of that folder; such an image is known by its row and name,
because its path would tell about the machine.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.data.files import ListedFile, Listing
from edgeprune.data.splits import SPLITS
from edgeprune.errors import DataError

_OPTIONAL: Final = ("split", "patient")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table, by column name."""

    line: int
    cells: dict[str, str]


def list_table(path: Path) -> Listing:
    """List the images of a CSV file with their labels and splits. Raises DataError."""
    columns, rows = _read(path)
    findings = tuple(name for name in columns if name not in ("path", "label", *_OPTIONAL))
    if problem := _column_problem(columns, findings) or _row_problem(columns, rows):
        raise DataError(f"'{path}': {problem}")
    classes = findings or _label_names([row.cells["label"] for row in rows])
    if "label" in columns and len(classes) == 1:
        raise DataError(f"'{path}': every label is '{classes[0]}'; a classifier needs two classes")
    files = tuple(_file(path, row, classes, bool(findings)) for row in rows)
    if missing := [file for file in files if not file.path.is_file()]:
        raise DataError(
            f"'{path}': {len(missing)} of {len(files)} files do not exist, such as "
            f"'{missing[0].path}'; paths are relative to the folder of the table"
        )
    if repeated := _repeated(files, rows):
        raise DataError(f"'{path}': {repeated}")
    return Listing(name=path.name, classes=classes, multi_label=bool(findings), files=files)


def _read(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    try:
        # The byte order mark that spreadsheets write would stick to the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header: list[str] = next(reader, [])
            columns = tuple(cell.strip() for cell in header)
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise DataError(
                        f"'{path}', line {reader.line_num}: {len(cells)} values for "
                        f"{len(columns)} columns"
                    )
                values = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
                rows.append(Row(line=reader.line_num, cells=values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' cannot be read as a CSV file in UTF-8: {error}") from error
    if not rows:
        raise DataError(f"'{path}' is empty: it needs a line of column names and a line per image")
    return columns, rows


def _column_problem(columns: Sequence[str], findings: Sequence[str]) -> str | None:
    seen = f"the columns are {', '.join(columns)}"
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        return f"column '{repeated[0]}' is there more than once"
    if "path" not in columns:
        return f"no column is named 'path'; {seen}"
    if "label" in columns and findings:
        return (
            f"it has both 'label' and the columns {', '.join(findings)}: keep 'label' alone, "
            "or one column of 0 and 1 per finding"
        )
    if "label" not in columns and not findings:
        return f"it has neither 'label' nor columns of findings; {seen}"
    return None


def _row_problem(columns: Sequence[str], rows: Sequence[Row]) -> str | None:
    splits: dict[str, str] = {}
    for row in rows:
        for column in columns:
            if problem := _cell_problem(column, row.cells[column], "label" in columns):
                return f"line {row.line}: {problem}"
        if "patient" in columns and "split" in columns:
            patient, split = row.cells["patient"], row.cells["split"]
            other = splits.setdefault(patient, split)
            if other != split:
                return f"patient '{patient}' is in both {other} and {split}: keep it in one split"
    return None


def _repeated(files: Sequence[ListedFile], rows: Sequence[Row]) -> str | None:
    """Say which image is listed twice: it could be trained on and tested on."""
    lines: dict[Path, int] = {}
    for file, row in zip(files, rows, strict=True):
        first = lines.setdefault(file.path, row.line)
        if first != row.line:
            return f"lines {first} and {row.line} both list '{row.cells['path']}'"
    return None


def _cell_problem(column: str, value: str, single: bool) -> str | None:
    match column:
        case "split" if value not in SPLITS:
            return f"split is '{value}', not one of {', '.join(SPLITS)}"
        case "path" | "label" | "patient" if not value:
            return f"{column} is empty"
        case "path" | "label" | "patient" | "split":
            return None
        case _ if not single and value not in ("0", "1", "0.0", "1.0"):
            return f"'{column}' is '{value}'; a finding is 0 or 1 (remove columns that are none)"
        case _:
            return None


def _label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Order the classes by number where all are numbers, else by name."""
    names = sorted(set(labels))
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def _file(table: Path, row: Row, classes: tuple[str, ...], multi_label: bool) -> ListedFile:
    path = Path(os.path.normpath(table.parent / row.cells["path"]))
    return ListedFile(
        path=path,
        id=_id(table, path, row.line),
        label=(
            tuple(int(float(row.cells[name])) for name in classes)
            if multi_label
            else classes.index(row.cells["label"])
        ),
        split=row.cells.get("split"),
        group=row.cells.get("patient"),
    )


def _id(table: Path, path: Path, line: int) -> str:
    home = Path(os.path.normpath(table.parent))
    if path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    return f"outside/{line:06d}/{path.name}"
