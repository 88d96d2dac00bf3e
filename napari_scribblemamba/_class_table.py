"""Classes as a table on disk: a CSV file with a line of headings, and the name and colour of one class in each line."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from napari_scribblemamba._notes import Brush, default_colour

HEADINGS = ("name", "colour")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


def write_classes(file: Path, brushes: Sequence[Brush]) -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines)
        rows.writerow(HEADINGS)
        rows.writerows((brush.name, brush.colour) for brush in brushes)


def read_classes(file: Path) -> tuple[Brush, ...]:
    """The classes of a table, the background first; without a colour they get ours. ValueError names file and line."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        if rows.fieldnames is None or "name" not in rows.fieldnames:
            raise ValueError(
                f"{file} has the columns {rows.fieldnames}; it needs a first line with {','.join(HEADINGS)}"
            )
        brushes = tuple(_brush(row, i, file) for i, row in enumerate(rows))
    names = [brush.name for brush in brushes]
    if len(set(names)) < len(names) or not 2 <= len(names) <= 255:
        raise ValueError(f"{file} has the classes {names}; 2 to 255 are needed, each with a name of its own")
    return brushes


def _brush(row: dict[str, str | None], index: int, file: Path) -> Brush:
    name = (row["name"] or "").strip()
    colour = (row.get("colour") or "").strip() or default_colour(index)
    if not name or not COLOUR.fullmatch(colour):
        raise ValueError(
            f"{file}, line {index + 2}: needs a name and a colour such as #e69f00, got {name!r}, {colour!r}"
        )
    return Brush(name, colour.lower())
