"""Post-processing of label images: small pieces away, the largest piece alone, holes filled.

Pieces touch across faces, edges or corners and are of one class; class 0 is background and is never a piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label


@dataclass(frozen=True)
class Cleaning:
    """What `clean` does, in this order; nothing by default."""

    minimum: float = 0.0
    """Smaller pieces become background: mm² or mm³ where a spacing is given, else pixels."""
    largest: bool = False
    """Of each class only the largest piece stays, the others become background."""
    holes: bool = False
    """Background that foreground encloses gets the class nearest to it. Last, as what went may have left holes."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum < float("inf"):
            raise ValueError(f"Cleaning: minimum must be 0 or more, got {self.minimum}")


NOTHING = Cleaning()


def clean(labels: np.ndarray, cleaning: Cleaning, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Class ids (*space) -> a new array of the same shape and type.

    spacing: mm per voxel, one an axis; None: all sizes are in voxels. ValueError for a spacing of other axes.
    """
    if spacing is not None and len(spacing) != labels.ndim:
        raise ValueError(f"a spacing of {len(spacing)} axes {tuple(spacing)} for labels of shape {labels.shape}")
    if cleaning.minimum > 0 or cleaning.largest:
        labels = without_pieces(labels, cleaning, 1.0 if spacing is None else float(np.prod(spacing)))
    return with_filled_holes(labels, spacing) if cleaning.holes else labels.copy()


def without_pieces(labels: np.ndarray, cleaning: Cleaning, voxel: float) -> np.ndarray:
    """The labels without pieces that are too small or not the largest; of equal ones the first stays.

    voxel: its size, in the unit of `cleaning.minimum`.
    """
    pieces = label(labels, background=0)  # 1..n, each of one class
    ids, first, sizes = np.unique(pieces, return_index=True, return_counts=True)
    classes = labels.ravel()[first]
    keep = (sizes * voxel >= cleaning.minimum) & (ids > 0)
    if cleaning.largest:
        order = np.lexsort((-sizes, classes))  # each class's largest in front of its others
        keep[np.delete(order, np.unique(classes[order], return_index=True)[1])] = False
    kept = np.zeros(ids[-1] + 1, bool)
    kept[ids] = keep
    return np.where(kept[pieces], labels, 0).astype(labels.dtype)


def with_filled_holes(labels: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """A hole is enclosed along all axes: in a volume, a tunnel through all slices is none."""
    holes = ndimage.binary_fill_holes(labels > 0) & (labels == 0)
    if not holes.any():
        return labels.copy()
    nearest = ndimage.distance_transform_edt(labels == 0, spacing, return_distances=False, return_indices=True)
    return np.where(holes, labels[tuple(nearest)], labels)
