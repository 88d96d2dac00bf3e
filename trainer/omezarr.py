"""OME-Zarr 0.5: labels as a pyramid that a browser can show. Needs zarr 3.

https://ngff.openmicroscopy.org/0.5/
"""

import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np

from trainer.formats import optional


def write_ome_zarr(
    folder: Path, labels: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...] | None = None
) -> None:
    """Labels (y, x), (z, y, x) or (t, z, y, x) as an OME-Zarr 0.5 image, halved along y and x until they fit a screen.

    `spacing` and `origin` in mm (and s). The folder must not exist; it appears whole or not at all. Needs zarr 3.
    https://ngff.openmicroscopy.org/0.5/
    """
    zarr = optional("zarr", "OME-Zarr", at_least="3")
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; choose another name, nothing is overwritten")
    levels = _pyramid(labels)
    draft = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
    try:
        group = zarr.open_group(draft, mode="w", zarr_format=3)
        for i, level in enumerate(levels):
            chunks = (*(1,) * (level.ndim - 2), *(min(n, 512) for n in level.shape[-2:]))
            names = _axis_names(level.ndim)
            array = group.create_array(
                str(i), shape=level.shape, dtype=level.dtype, chunks=chunks, dimension_names=names
            )
            array[...] = level
        group.attrs["ome"] = _ngff(folder.name, len(levels), labels.ndim, spacing, origin or (0.0,) * labels.ndim)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _pyramid(labels: np.ndarray, screen: int = 1024) -> list[np.ndarray]:
    """Every second pixel of the level before: a mean of labels would be another label."""
    levels = [labels]
    while max(levels[-1].shape[-2:]) > screen:
        levels.append(levels[-1][..., ::2, ::2])
    return levels


def _ngff(name: str, levels: int, ndim: int, spacing: tuple[float, ...], origin: tuple[float, ...]) -> dict:
    time = {"type": "time", "unit": "second"}
    space = {"type": "space", "unit": "millimeter"}
    axes = [{"name": axis, **(time if axis == "t" else space)} for axis in _axis_names(ndim)]
    datasets = []
    for level in range(levels):
        scale = [float(s) * (2**level if i >= ndim - 2 else 1) for i, s in enumerate(spacing)]
        transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [*map(float, origin)]}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    image = {"name": name.removesuffix(".zarr").removesuffix(".ome"), "axes": axes, "datasets": datasets}
    return {"version": "0.5", "multiscales": [image], "image-label": {}}


def _axis_names(ndim: int) -> list[str]:
    return list("tzyx"[-ndim:])
