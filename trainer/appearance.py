"""What pixels look like: a random forest on multiscale features of the strokes, and whether to believe it.

Where a few of many alike objects are drawn on, as nuclei, what a pixel looks like tells more than where it is; where
one object is drawn on, as a heart, it is the other way round. Strokes that are held out decide.
C channels · K classes · D H W space · F features · P probabilities (K, D, H, W) · IGNORE where nobody drew
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage as ndi

from trainer.dataset import IGNORE

TREES, LEAF, COARSEST = 60, 3, 8  # trees, pixels in a leaf, pixels of the coarsest scale
FOLDS = 3
BETTER = 0.25  # by so much more of the held-out strokes the forest must have right than the walk
SURE = 0.9  # or, on a single image, this share of every class: then the looks are plain


def features(image: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W, F): intensity, edges and texture of each channel at scales of 1, 2, 4 and 8 pixels."""
    from skimage.feature import multiscale_basic_features

    return np.concatenate([multiscale_basic_features(c, sigma_min=1, sigma_max=COARSEST) for c in image], -1)


class Forest:
    """Learns how each class looks from the strokes on a stack."""

    def __init__(self, looks: np.ndarray, target: np.ndarray, classes: int, trees: int = TREES) -> None:
        """looks (n, F) of the drawn pixels and their classes (n,)."""
        from sklearn.ensemble import ExtraTreesClassifier

        self.classes = classes
        self.trees = ExtraTreesClassifier(trees, min_samples_leaf=LEAF, class_weight="balanced", random_state=0)
        self.trees.fit(looks, target)

    @classmethod
    def of_slices(
        cls, looks: Sequence[np.ndarray], strokes: Sequence[np.ndarray], classes: int, trees: int = TREES
    ) -> "Forest":
        """From what was drawn (H, W) on some slices (H, W, F)."""
        drawn = [plane != IGNORE for plane in strokes]
        known = (np.concatenate([x[at] for x, at in zip(xs, drawn, strict=True)]) for xs in (looks, strokes))
        return cls(*known, classes, trees)

    def __call__(self, looks: np.ndarray) -> np.ndarray:
        """(H, W, F) -> P (K, H, W) float32."""
        P = np.zeros((self.classes, looks.shape[0] * looks.shape[1]), np.float32)
        P[self.trees.classes_] = self.trees.predict_proba(looks.reshape(-1, looks.shape[-1])).T
        return P.reshape(-1, *looks.shape[:2])


def held_out(strokes: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Strokes (H, W) -> the fold (H, W) in which each drawn pixel is held out, -1 where nobody drew.

    Whole strokes go into one fold; the only stroke of a class is cut across into as many pieces as there are folds.
    """
    fold = np.full(strokes.shape, -1)
    for c in np.unique(strokes[strokes != IGNORE]):
        pieces, count = ndi.label(strokes == c, np.ones((3, 3)))
        if count == 1:
            places = np.argwhere(pieces)
            fold[tuple(places.T)] = np.argsort(np.argsort(along(places))) * folds // len(places)
        for rank, piece in enumerate(np.argsort(-np.bincount(pieces.ravel())[1:]) if count > 1 else ()):
            fold[pieces == piece + 1] = rank % folds
    return fold


def along(places: np.ndarray) -> np.ndarray:
    """(n, 2) -> (n,) how far each lies along the longest extent of them all."""
    away = places - places.mean(0)
    return away @ np.linalg.svd(away, full_matrices=False)[2][0]


def share_right(P: np.ndarray, target: np.ndarray, held: np.ndarray) -> dict[int, float]:
    """For each class that is held out, the share of its pixels (H, W) where it is the most likely."""
    labels = P.argmax(0)
    return {int(c): float((labels[held & (target == c)] == c).mean()) for c in np.unique(target[held])}
