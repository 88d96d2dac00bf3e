"""Instances: objects of one kind that touch, learned as interior and boundary, told apart again, and scored.

Reference: Ma, Li and Wang, "U-Mamba", arXiv 2401.04722 (cells: interior and boundary classes); Caicedo et al., "Nucleus
segmentation across imaging experiments: the 2018 Data Science Bowl", Nature Methods 2019 (F1 at a threshold of IoU).

Instances are ids (*space), 0 where there is none; space is (H, W) or (D, H, W).
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from skimage.measure import label
from skimage.segmentation import find_boundaries, watershed

BACKGROUND, INTERIOR, BOUNDARY = 0, 1, 2
CLASSES = ("background", "interior", "boundary")
CERTAIN, LEAST, SHARE = 0.6, 12, 0.1  # found on nuclei of the tuning half of benchmarks/images.py: `objects`


def to_boundary_classes(instances: np.ndarray) -> np.ndarray:
    """Ids (*space) -> uint8 (*space): 0 background, 1 interior, 2 boundary, the target of a network.

    Boundary is what has a neighbour across a face that is background or of another object; the border of the image is
    none. An object that is too thin for an interior is interior as a whole, so that none is lost.
    """
    boundary = find_boundaries(instances, connectivity=1, mode="inner")
    thick = np.unique(instances[~boundary])  # objects that have an interior
    boundary &= np.isin(instances, thick)
    return np.where(instances == 0, BACKGROUND, np.where(boundary, BOUNDARY, INTERIOR)).astype(np.uint8)


def to_instances(prediction: np.ndarray, smallest: int = 0) -> np.ndarray:
    """Class ids (*space), or probabilities, floats (3, *space) -> uint16 ids (*space), 1..n.

    Each piece of interior is an object and grows back over the boundary around it, through labels to where it is
    nearer than the others, through probabilities up to the ridge between them. Boundary without interior is nothing.

    smallest: objects of fewer voxels are left out. ValueError for other than three classes, or more than 65535 objects.
    """
    probable = np.issubdtype(prediction.dtype, np.floating)
    if probable and len(prediction) != len(CLASSES):
        raise ValueError(f"probabilities of the classes {CLASSES} must come as (3, *space), got {prediction.shape}")
    classes = prediction.argmax(0) if probable else prediction
    if not probable and prediction.max(initial=0) >= len(CLASSES):
        raise ValueError(f"labels must be 0, 1 or 2, {CLASSES}, got {prediction.max()}")
    # across edges, not corners: two interiors of touching objects never meet there, even in 3-D
    seeds = label(classes == INTERIOR, connectivity=2)
    landscape = prediction[BOUNDARY] if probable else np.zeros(classes.shape, np.uint8)
    return renumbered(watershed(landscape, seeds, mask=classes != BACKGROUND), smallest)


def objects(P: np.ndarray, smallest: int = 0) -> np.ndarray:
    """Probabilities, floats (3, *space) -> uint16 ids (*space), of images where all objects are about as large.

    As `to_instances`, but an object needs an interior that is CERTAIN, so that weak bridges join none, and LEAST voxels
    and SHARE of the typical size, which is that of the object of the middle voxel: less is noise or haze.

    smallest: objects of fewer voxels are left out too.
    """
    seeds = label(P[INTERIOR] >= CERTAIN, connectivity=2)
    ids = watershed(P[BOUNDARY], seeds, mask=P[BACKGROUND] < 0.5)
    return renumbered(ids, max(LEAST, smallest, int(SHARE * typical_size(ids))))


def typical_size(ids: np.ndarray) -> int:
    """Voxels of the object that the middle one of all objects' voxels belongs to, in order of size; 0 without any."""
    sizes = np.sort(np.unique(ids[ids > 0], return_counts=True)[1])
    return int(sizes[np.searchsorted(sizes.cumsum(), sizes.sum() / 2)]) if len(sizes) else 0


def renumbered(instances: np.ndarray, smallest: int) -> np.ndarray:
    """uint16 ids 1..n of the objects of `smallest` voxels or more."""
    ids, inverse, sizes = np.unique(instances, return_inverse=True, return_counts=True)
    keep = (sizes >= smallest) & (ids > 0)
    if keep.sum() > np.iinfo(np.uint16).max:
        raise ValueError(f"{keep.sum()} objects are more than 65535; crop the image or leave out small ones")
    new = np.where(keep, keep.cumsum(), 0).astype(np.uint16)
    return new[inverse].reshape(instances.shape)


def f1(predicted: np.ndarray, true: np.ndarray, iou: float = 0.5) -> float | None:
    """2 TP / (2 TP + FP + FN) of two images of ids (*space); None where neither has an object.

    A predicted and a true object may be a pair if their intersection over union is `iou` or more; TP is the largest
    number of pairs in which no object is twice. From 0.5 on there is hardly a choice; below, the best is taken.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} are not of one shape")
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be more than 0 and at most 1, got {iou}")
    overlap = overlaps(predicted, true)
    objects = overlap.shape[0] + overlap.shape[1]
    return 2 * pairs(overlap >= iou) / objects if objects else None


def overlaps(predicted: np.ndarray, true: np.ndarray) -> csr_array:
    """(P, T): intersection over union of each predicted and each true object; most are zero and are not stored."""
    (p_ids, p, p_sizes), (t_ids, t, t_sizes) = (
        np.unique(ids, return_inverse=True, return_counts=True) for ids in (predicted, true)
    )
    code, both = np.unique(p.ravel().astype(np.int64) * len(t_ids) + t.ravel(), return_counts=True)
    p, t = np.divmod(code, len(t_ids))
    values = both / (p_sizes[p] + t_sizes[t] - both)
    table = csr_array((values, (p, t)), (len(p_ids), len(t_ids)))
    return table[np.flatnonzero(p_ids)][:, np.flatnonzero(t_ids)]  # without background


def pairs(possible: csr_array) -> int:
    """How many rows can be given a column of their own."""
    if 0 in possible.shape or possible.nnz == 0:
        return 0
    return int((maximum_bipartite_matching(csr_array(possible), perm_type="column") >= 0).sum())
