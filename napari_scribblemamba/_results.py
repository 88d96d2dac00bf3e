"""Results: the objects of a segmentation, measured: size, place and intensity, one row each; as features and as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from skimage.measure import label, regionprops_table

Table = dict[str, np.ndarray]  # column -> one value per object
SIZES = {2: "area", 3: "volume"}


def label_objects(classes: np.ndarray, minimum: int = 1) -> np.ndarray:
    """Class ids (*space), 0 the background -> ids 1, 2, ... of the objects, int32.

    An object is what hangs together by edges (in 3-D by faces) and is of one class; those of fewer than `minimum`
    pixels are left out.
    """
    objects = label(np.asarray(classes).astype(np.int32), background=0, connectivity=1)
    if minimum <= 1:
        return objects.astype(np.int32)
    counts = np.bincount(objects.ravel())
    kept = np.flatnonzero(counts >= minimum)
    table = np.zeros(len(counts), np.int32)  # id -> its new id
    table[kept[kept > 0]] = np.arange(1, np.count_nonzero(kept) + 1)
    return table[objects]


def object_table(
    objects: np.ndarray,
    spacing: Sequence[float],
    image: np.ndarray | None = None,
    channels: Sequence[str] = (),
    classes: np.ndarray | None = None,
    names: Sequence[str] = (),
    unit: Literal["mm", "pixel"] = "mm",
) -> Table:
    """A row for each object: its id, class, size, centroid, and the mean, least and greatest intensity of each channel.

    Args:
        objects: Ids (*space), 0 where there is none.
        spacing: mm per pixel, one per axis.
        image: (C, *space).
        channels: A name for each channel.
        classes: Class ids (*space); the class of an object is that of most of its pixels.
        names: A name for each class id.
        unit: What spacing is given in.
    """
    objects = np.asarray(objects)
    _check_shapes(objects, spacing, image, classes)
    row = regionprops_table(objects, properties=("label", "area", "centroid"), spacing=tuple(spacing))
    power = {2: "²", 3: "³"}[objects.ndim]
    table: Table = {"index": row["label"]}
    if classes is not None:
        table["class"] = _classes_of(objects, classes, row["label"], names)
    table[f"{SIZES[objects.ndim]} ({unit}{power})"] = row["area"].astype(float)
    for i, axis in enumerate("zyx"[-objects.ndim :]):
        table[f"centroid {axis} ({unit})"] = row[f"centroid-{i}"]
    return table | ({} if image is None else _intensities(objects, image, channels))


def write_table(file: Path, table: Mapping[str, np.ndarray]) -> None:
    """CSV with a header, for spreadsheets: UTF-8 with its mark, a row an object."""
    with Path(file).open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def _intensities(objects: np.ndarray, image: np.ndarray, channels: Sequence[str]) -> Table:
    names = list(channels) or ([""] if len(image) == 1 else [f"channel {i}" for i in range(len(image))])
    if len(names) != len(image):
        raise ValueError(f"{len(names)} channel names {names} for {len(image)} channels; name each once")
    kinds = {"mean": "intensity_mean", "min": "intensity_min", "max": "intensity_max"}
    values = regionprops_table(objects, np.moveaxis(image, 0, -1), properties=tuple(kinds.values()))
    return {
        f"{kind} {name}".strip(): values[f"{column}-{i}"]
        for i, name in enumerate(names)
        for kind, column in kinds.items()
    }


def _classes_of(objects: np.ndarray, classes: np.ndarray, ids: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Of each object, the class of most of its pixels, by name where there is one."""
    count = int(classes.max(initial=0)) + 1
    pairs = objects.ravel().astype(np.int64) * count + classes.ravel()
    pixels = np.bincount(pairs, minlength=(int(objects.max(initial=0)) + 1) * count).reshape(-1, count)
    found = pixels[ids].argmax(axis=1)
    return np.array([names[i] if i < len(names) else f"class {i}" for i in found], dtype=object)


def _check_shapes(
    objects: np.ndarray, spacing: Sequence[float], image: np.ndarray | None, classes: np.ndarray | None
) -> None:
    if objects.ndim not in SIZES or len(spacing) != objects.ndim:
        raise ValueError(f"objects of shape {objects.shape} with spacing {spacing}; expected 2 or 3 axes, one for each")
    for what, space in (("image", image.shape[1:] if image is not None else None), ("classes", np.shape(classes))):
        if space and space != objects.shape:
            raise ValueError(f"the {what} has shape {space}, the objects {objects.shape}; give those of the same image")
