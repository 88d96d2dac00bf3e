"""Is a class a single thing, or many alike? What the places of its strokes say of that.

Who draws several strokes of a thing of which there are many seldom draws all of them in one: n strokes thrown at random
with probability p^(n - 1), where p is that piece's share of the class. If they do all lie in one, the other pieces are
so much less likely: the liver that looks like the spleen with three strokes in it. But in a crowd two dabs in one
nucleus are no accident; so with (q + (1 - q) p)^(n - 1), where q is the share, among the others, of pieces about as
large as the one that was drawn on. A single stroke, or strokes in two pieces, say nothing.

K classes · H W pixels · P probabilities (K, H, W) · n strokes
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage as ndi

from trainer.referee import strokes_of

AS_LARGE = 4  # times larger or smaller


def stroke_counts(strokes: np.ndarray, classes: Sequence[int]) -> list[int]:
    """n of each class; strokes (H, W)."""
    labels = [stroke.label for stroke in strokes_of(strokes)]
    return [labels.count(c) for c in classes]


def without_others(P: np.ndarray, strokes: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """P in which a class whose strokes, more than one, all lie in one of its pieces is less likely near the others.

    strokes (H, W): 0 to K - 1 of the classes of P, anything else where nobody drew; counts: of each class, n. Pieces
    are those of the likeliest class at each pixel; a bridge of two pixels does not join them.
    """
    best, doubt = P.argmax(0), np.ones_like(P)
    for c in [c for c, n in enumerate(counts) if n > 1]:
        drawn = strokes == c
        pieces, _ = ndi.label(ndi.binary_erosion(best == c) | drawn)
        touched = np.unique(pieces[drawn])
        if len(touched) == 1:
            nearest = ndi.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
            others = pieces[tuple(nearest)] != touched
            doubt[c][others] = accident(np.bincount(pieces.ravel())[1:], touched[0] - 1) ** (counts[c] - 1)
    P = doubt * P
    return P / P.sum(0).clip(1e-6)


def accident(sizes: np.ndarray, touched: int) -> float:
    """How likely it is, were all pieces meant, that a further stroke falls into the same one. sizes: pixels of each."""
    mine, others = sizes[touched], np.delete(sizes, touched)
    alike = (others * AS_LARGE >= mine) & (others <= mine * AS_LARGE)
    p, q = mine / sizes.sum(), others[alike].sum() / max(1, others.sum())
    return q + (1 - q) * p
