"""Tables of what is said about whole images: labels.csv and landmarks.csv, beside a dataset's images or predicted.

labels.csv      case,class            one row a case; a prediction has the probability of each class behind it
landmarks.csv   case,landmark,z,y,x   one row a point that is to be seen, in mm from the centre of the first voxel
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer.files import replacing

LABELS, LANDMARKS = "labels.csv", "landmarks.csv"
FILES = {"classification": LABELS, "landmarks": LANDMARKS}  # task -> its table
AXES = ("z", "y", "x")
Rows = list[dict[str, str]]


def read_label_table(file: Path, classes: Sequence[str]) -> dict[str, int]:
    """CASE -> class id. ValueError for a class that is not among these, or a case with two rows."""
    found: dict[str, int] = {}
    for row in read_rows(file, ("case", "class")):
        if row["class"] not in classes:
            raise ValueError(f"{file}: {row['case']} is of class {row['class']!r}; known are {', '.join(classes)}")
        if row["case"] in found:
            raise ValueError(f"{file} has two rows of {row['case']}; keep one")
        found[row["case"]] = list(classes).index(row["class"])
    return found


def read_probabilities(file: Path, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """CASE -> float (K,), of a prediction."""
    rows = read_rows(file, ("case", *classes))
    return {row["case"]: np.array([number(file, row, name) for name in classes]) for row in rows}


def write_label_table(
    file: Path,
    labels: Mapping[str, int],
    classes: Sequence[str],
    probabilities: Mapping[str, np.ndarray] | None = None,
) -> None:
    """With the probabilities (K,) of each case, where they are given."""
    rows = [[case, classes[c], *(probabilities[case] if probabilities else ())] for case, c in labels.items()]
    write_rows(file, ["case", "class", *(classes if probabilities else ())], rows)


def read_landmark_table(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """CASE -> (n, 3) mm, NaN for a point that has no row. ValueError for an unknown name, or a point with two rows."""
    found: dict[str, np.ndarray] = {}
    for row in read_rows(file, ("case", "landmark", *AXES)):
        case, name = row["case"], row["landmark"]
        if name not in names:
            raise ValueError(f"{file}: {case} has the landmark {name!r}; known are {', '.join(names)}")
        points = found.setdefault(case, unseen(names))
        if not np.isnan(points[names.index(name)]).all():
            raise ValueError(f"{file} has two rows of {name} in {case}; keep one")
        points[names.index(name)] = [number(file, row, axis) for axis in AXES]
    return found


def write_landmark_table(file: Path, points: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """CASE -> (n, 3) mm; a point that is NaN gets no row."""
    seen = ((case, name, point) for case, each in points.items() for name, point in zip(names, each, strict=True))
    write_rows(file, ["case", "landmark", *AXES], [[c, n, *p.tolist()] for c, n, p in seen if not np.isnan(p).any()])


def unseen(names: Sequence[str]) -> np.ndarray:
    """(n, 3): the landmarks of an image in which none is to be seen."""
    return np.full((len(names), len(AXES)), np.nan)


def read_rows(file: Path, columns: Sequence[str]) -> Rows:
    """The rows of a table that has these columns, among others. Errors name the file and what it lacks."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; write a table with the columns {','.join(columns)}")
    with file.open(newline="", encoding="utf-8-sig") as lines:  # spreadsheets begin with a mark
        table = csv.DictReader(lines, skipinitialspace=True)
        rows = list(table)
    if missing := [name for name in columns if name not in (table.fieldnames or ())]:
        raise ValueError(f"{file} has no column {', '.join(missing)}; its first line is {table.fieldnames}")
    for line, row in enumerate(rows, 2):
        if empty := [name for name in columns if not row[name]]:
            raise ValueError(f"{file}, row {line}: {', '.join(empty)} is empty; fill it in or remove the row")
    return rows


def number(file: Path, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{file}: {column} of {row['case']} is {row[column]!r}; write a number, or leave the row out")
    return value


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(file) as draft, draft.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(columns)
        table.writerows(rows)
