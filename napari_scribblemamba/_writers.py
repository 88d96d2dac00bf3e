"""Writers for napari: a Labels layer as NIfTI, TIFF or OME-Zarr, where the image lies.

A prediction is written as class ids, 0 the background, as `python -m trainer.predict` does; other labels as they are.
"""

import logging
from pathlib import Path

import numpy as np
from napari.layers import Labels

from napari_scribblemamba._layers import unit_size
from napari_scribblemamba._notes import KEY
from napari_scribblemamba._readers import AFFINE

log = logging.getLogger(__name__)


def write_nifti_layer(path: str, data: np.ndarray, settings: dict) -> list[str]:
    """With the affine of the file that the image came from, else with what the layer's scale and transforms say."""
    from trainer.formats import write_nifti

    layer = Labels(np.asarray(data), **_geometry_settings(settings))
    write_nifti(Path(path), file_labels(data, settings), _spacing(layer), nifti_affine_of(layer))
    return [path]


def write_tiff_layer(path: str, data: np.ndarray, settings: dict) -> list[str]:
    """With its spacing in ImageJ's tags, or in OME's for .ome.tif; a TIFF does not say where it begins."""
    from trainer.formats import write_tiff

    layer = Labels(np.asarray(data), **_geometry_settings(settings))
    if not np.allclose(world_matrix(layer), np.diag([*_spacing(layer), 1.0])):
        log.warning("%s keeps the spacing of '%s', not its place and rotation; NIfTI does", path, layer.name)
    write_tiff(Path(path), file_labels(data, settings), _spacing(layer))
    return [path]


def write_ome_zarr_layer(path: str, data: np.ndarray, settings: dict) -> list[str]:
    """As OME-Zarr 0.5, with scale and translation; ValueError where the layer is rotated, which 0.5 cannot say."""
    from trainer.omezarr import write_ome_zarr

    layer = Labels(np.asarray(data), **_geometry_settings(settings))
    world, spacing = world_matrix(layer), _spacing(layer)
    if not np.allclose(world[:-1, :-1], np.diag(spacing)):
        raise ValueError(f"'{layer.name}' is rotated, flipped or sheared, which OME-Zarr 0.5 cannot say; write NIfTI")
    write_ome_zarr(Path(path), file_labels(data, settings), spacing, tuple(world[:-1, -1].tolist()))
    return [path]


def file_labels(data: np.ndarray, settings: dict) -> np.ndarray:
    """The smallest unsigned integers that hold the labels; of a prediction, value c + 1, the class ids c."""
    labels = np.asarray(data)
    if labels.ndim not in (2, 3, 4):
        raise ValueError(f"'{settings.get('name')}' has {labels.ndim} axes; labels of 2 to 4 axes can be written")
    if labels.min(initial=0) < 0:
        raise ValueError(f"'{settings.get('name')}' has the label {labels.min()}; labels to write begin at 0")
    if "network" in settings.get("metadata", {}).get(KEY, {}):
        labels = np.where(labels > 0, labels - 1, 0)
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def nifti_affine_of(layer: Labels) -> np.ndarray:
    """(4, 4): (x, y, z) -> mm in RAS+, of the file the image came from if its voxels have the layer's size."""
    spacing = _spacing(layer)[-3:]
    kept = layer.metadata.get(AFFINE)
    if kept is not None:
        sizes = np.linalg.norm(np.asarray(kept)[:3, :3], axis=0)[: len(spacing)]
        if np.allclose(sizes, spacing[::-1], rtol=1e-3):
            return np.asarray(kept)
        log.warning("'%s' has other voxels than the file it came from; its scale and place are written", layer.name)
    world = world_matrix(layer)
    axes = list(range(layer.ndim))[-3:][::-1]  # x, y, z of the layer's axes
    affine = np.eye(4)
    affine[: len(axes), : len(axes)] = world[np.ix_(axes, axes)]
    affine[: len(axes), 3] = world[axes, -1]
    return affine


def world_matrix(layer: Labels) -> np.ndarray:
    """(n + 1, n + 1): the layer's pixels -> mm, with its scale, translate, rotate, shear and affine."""
    n = layer.ndim
    units = np.array([unit_size(unit) for unit in layer.units])
    origin = np.asarray(layer.data_to_world(np.zeros(n)))
    matrix = np.eye(n + 1)
    matrix[:n, :n] = np.stack([np.asarray(layer.data_to_world(row)) - origin for row in np.eye(n)], axis=1)
    matrix[:n, n] = origin
    matrix[:n] *= units[:, None]
    return matrix


def _spacing(layer: Labels) -> tuple[float, ...]:
    """mm, or s, from pixel to pixel along each axis."""
    return tuple(np.linalg.norm(world_matrix(layer)[:-1, :-1], axis=0).tolist())


def _geometry_settings(settings: dict) -> dict:
    keys = ("name", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "metadata")
    return {key: settings[key] for key in keys if key in settings}
