"""Scores of a segmentation against its reference: overlap, surface distances in mm, and what the literature adds.

    P, R     the voxels of one class in prediction and reference        TP = |P and R|, FP = |P - R|, FN = |R - P|
    d(P, R)  the distances in mm from each surface voxel of P to the nearest surface voxel of R; a surface voxel has a
             neighbour across a face that is not of the class, or lies at the border of the volume (medpy's definition)
    dice     2 TP / (2 TP + FP + FN)                  iou          TP / (TP + FP + FN)
    hd95     the 95th percentile of d(P, R) and d(R, P), pooled (medpy; MONAI takes the larger of two percentiles)
    asd      symmetric: the mean of mean d(P, R) and mean d(R, P) (medpy's assd; its asd is one direction only)
    nsd      the share of both surfaces that lies within `tolerance` mm of the other; DeepMind, arXiv 1809.04430
    accuracy (TP + TN) / all   precision TP / (TP + FP)   sensitivity TP / (TP + FN)   specificity TN / (TN + FP)

    radial error        the distance in mm between a landmark and its reference
    success within t    the share of landmarks whose radial error is t mm or less
    accuracy, auc, f1   of whole images: the share that is right, and the means over classes of the area under the ROC
                        curve, one class against the rest, and of F1 (scikit-learn's)

One side empty: dice, iou, nsd, precision and sensitivity are 0, hd95 and asd the diagonal of the volume in mm. Both
empty: there is nothing to score, every value is None; `summarise` leaves these out and counts them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

METRICS = ("dice", "iou", "hd95", "asd", "nsd", "accuracy", "precision", "sensitivity", "specificity")
Scores = dict[str, dict[str, float | None]]  # class -> metric -> value


def scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    classes: Sequence[str],
    tolerance: float = 2.0,
) -> Scores:
    """Class -> metric -> value, or None where neither side has the class.

    `prediction` and `reference` hold class ids (*space); `spacing` is mm per voxel, one an axis; `tolerance` mm.
    """
    if prediction.shape != reference.shape or len(spacing) != reference.ndim:
        shapes = f"prediction {prediction.shape}, reference {reference.shape}, spacing {tuple(spacing)}"
        raise ValueError(f"{shapes} do not fit; give two arrays of one shape and a spacing for each axis")
    return {name: _class_scores(prediction == i, reference == i, spacing, tolerance) for i, name in enumerate(classes)}


def summarise(cases: Iterable[Scores]) -> dict[str, dict]:
    """Means over cases: {"mean_foreground": {metric: x}, "mean_all": ..., "classes": {class: ...}, "left_out": ...}.

    A class is averaged over the cases that have it, and left_out[class] counts the others. mean_foreground is the mean
    of the classes' means without class 0, mean_all with it; the literature reports either. None: no case has a value.
    """
    cases = list(cases)
    names = list(cases[0]) if cases else []
    classes = {name: _means([case[name] for case in cases]) for name in names}
    return {
        "mean_foreground": _means([classes[name] for name in names[1:]]),
        "mean_all": _means(list(classes.values())),
        "classes": classes,
        "left_out": {name: sum(case[name]["dice"] is None for case in cases) for name in names},
    }


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Of two masks; None where both are empty."""
    both = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / both if both else None


def mean_dice(prediction: np.ndarray, reference: np.ndarray, classes: Iterable[int]) -> float | None:
    """Of two label images over these classes; one that neither has is left out, None where none is left."""
    each = [dice(prediction == c, reference == c) for c in classes]
    found = [score for score in each if score is not None]
    return float(np.mean(found)) if found else None


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """d(P, R) and d(R, P) in mm, of two masks (*space) of which neither is empty.

    By scipy: MONAI's surfaces and distances are the same but want one-hot tensors, its hd95 does not pool the two
    directions, and its import takes five seconds.
    """
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]  # outside is no surface, and no time spent
    p, r = (mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (prediction, reference))
    there = ndimage.distance_transform_edt(~r, sampling=spacing)[p]
    back = ndimage.distance_transform_edt(~p, sampling=spacing)[r]
    return there, back


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """The longest distance in a volume of this shape, edge to edge, in mm."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))


def _class_scores(p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float | None]:
    tp, predicted, real = (int(np.count_nonzero(mask)) for mask in (p & r, p, r))
    if not predicted and not real:
        return dict.fromkeys(METRICS)
    negatives = p.size - real
    return {
        "dice": 2 * tp / (predicted + real),
        "iou": tp / (predicted + real - tp),
        **_surface_scores(p, r, spacing, tolerance, empty=not predicted or not real),
        "accuracy": 1 - (predicted + real - 2 * tp) / p.size,
        "precision": tp / predicted if predicted else 0.0,
        "sensitivity": tp / real if real else 0.0,
        "specificity": 1 - (predicted - tp) / negatives if negatives else None,  # the class is everywhere
    }


def _surface_scores(
    p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float, empty: bool
) -> dict[str, float]:
    if empty:
        far = diagonal(p.shape, spacing)
        return {"hd95": far, "asd": far, "nsd": 0.0}
    there, back = surface_distances(p, r, spacing)
    both = np.concatenate([there, back])
    return {
        "hd95": float(np.percentile(both, 95)),
        "asd": float((there.mean() + back.mean()) / 2),
        "nsd": float((both <= tolerance).mean()),
    }


def _means(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Metric -> mean over the rows that have a value."""
    means: dict[str, float | None] = {}
    for metric in METRICS:
        means[metric] = _mean([row[metric] for row in rows])
    return means


# Whole images


def classification_scores(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict:
    """Of N images: probabilities (N, K) and their classes (N,) -> {"accuracy", "auc", "f1", "classes": {class: ...}}.

    AUC and F1 are None for a class that no image has, AUC also for one that all have; the means leave these out.
    """
    from sklearn.metrics import f1_score, roc_auc_score  # here: it takes a second to import

    guesses, table = probabilities.argmax(1), {}
    for c, name in enumerate(classes):
        real = labels == c
        table[name] = {
            "auc": float(roc_auc_score(real, probabilities[:, c])) if 0 < real.sum() < len(real) else None,
            "f1": float(f1_score(real, guesses == c)) if real.any() else None,
            "images": int(real.sum()),
        }
    means = {metric: _mean([row[metric] for row in table.values()]) for metric in ("auc", "f1")}
    return {"accuracy": float((guesses == labels).mean()), **means, "classes": table}


def radial_errors(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(..., n, axes) both, in mm -> (..., n) mm; NaN where the reference is."""
    return np.linalg.norm(points - reference, axis=-1)


def landmark_scores(errors: np.ndarray, names: Sequence[str], within: Sequence[float] = (2.0, 3.0, 4.0)) -> dict:
    """Radial errors (N, n) mm of N images -> {"mre", "success": {mm: share}, "landmarks": {name: the same}}.

    NaN counts nowhere; None for a landmark that no image has.
    """
    return _of_errors(errors, within) | {
        "landmarks": {name: _of_errors(errors[:, i], within) for i, name in enumerate(names)}
    }


def _of_errors(errors: np.ndarray, within: Sequence[float]) -> dict:
    seen = errors[~np.isnan(errors)]
    success = {f"{t:g}": float((seen <= t).mean()) if seen.size else None for t in within}
    return {"mre": float(seen.mean()) if seen.size else None, "success": success, "points": int(seen.size)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
