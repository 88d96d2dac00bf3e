"""What pixels look like: a forest on multiscale features, learnt from the strokes alone.

Where a few of many alike objects are drawn on, as nuclei, what a pixel looks like tells more than where it is; where
one object is drawn on, as a heart, it is the other way round.

Extremely randomised trees: Geurts, Ernst and Wehenkel, Machine Learning 63 (2006).
C channels · K classes · D H W space · F features · P probabilities (K, D, H, W) · IGNORE where nobody drew
"""

from collections.abc import Iterable

import numpy as np

from trainer.sample import IGNORE

TREES, LEAF, COARSEST = 60, 3, 8  # trees, pixels in a leaf, pixels of the coarsest scale
MOST = 20_000  # pixels of each class that it learns from, so that it takes seconds even where all of an image is drawn


Drawn = tuple[np.ndarray, np.ndarray]  # of n pixels that were drawn on: features (n, F) and classes (n,)


def features(image: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W, F): intensity, edges and texture of each channel at scales of 1, 2, 4 and 8 pixels."""
    from skimage.feature import multiscale_basic_features

    return np.concatenate([multiscale_basic_features(c, sigma_min=1, sigma_max=COARSEST) for c in image], -1)


def drawn_pixels(image: np.ndarray, strokes: np.ndarray) -> Drawn:
    """Of an image (C, H, W) and its strokes (H, W)."""
    labels = strokes.ravel()
    drawn = np.flatnonzero(labels != IGNORE)
    drawn = drawn[some_of_each(labels[drawn])]
    return features(image).reshape(labels.size, -1)[drawn], labels[drawn]


def some_of_each(labels: np.ndarray) -> np.ndarray:
    """Which of n pixels are kept: of each class at most MOST, from all over."""
    kept = np.ones(len(labels), bool)
    for c, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count > MOST:
            of_class = np.flatnonzero(labels == c)
            kept[of_class] = False
            kept[of_class[np.linspace(0, count - 1, MOST).astype(int)]] = True
    return np.flatnonzero(kept)


class Forest:
    """Learns how each class looks from the strokes on some slices."""

    def __init__(self, drawn: Iterable[Drawn], classes: int) -> None:
        """drawn: of each slice its `drawn_pixels`."""
        from sklearn.ensemble import ExtraTreesClassifier

        self.classes = classes
        self.trees = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, class_weight="balanced", random_state=0)
        looks, labels = map(np.concatenate, zip(*drawn, strict=True))
        kept = some_of_each(labels)
        self.trees.fit(looks[kept], labels[kept])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) -> P (K, H, W) float32."""
        looks = features(image)
        P = np.zeros((self.classes, looks.shape[0] * looks.shape[1]), np.float32)
        P[self.trees.classes_] = self.trees.predict_proba(looks.reshape(-1, looks.shape[-1])).T
        return P.reshape(-1, *looks.shape[:2])
