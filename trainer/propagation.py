"""Strokes -> first dense labels: a random walk inside each annotated slice, optical flow from slice to slice; or, where
held-out strokes say that looks tell more than places, a forest.

Random walker with priors: Grady, CVPR 2005, eq. 5-8. Optical flow: iterative Lucas-Kanade (scikit-image).
K classes · C channels · D H W space · P probabilities (K, H, W) · IGNORE where nobody drew
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import ndimage as ndi
from scipy.sparse.linalg import splu
from skimage.exposure import equalize_hist
from skimage.registration import optical_flow_ilk
from skimage.transform import resize

from trainer.appearance import BETTER, FOLDS, SURE, Forest, features, held_out, share_right
from trainer.dataset import IGNORE, Sample

BETA = 1500.0  # how strongly a step in intensity (0..1) stops the walk
NOISE = 3.0  # at least this over the squared median step, so that noise does not stop it
FLOOR = 3e-3  # the least conductance between neighbours, so that no region is cut off
PRIOR = 0.05  # how strongly a walk without strokes is pulled to what its neighbour slice says
NETWORK = 0.6  # share of the network that sharpens what a walk found
LOOKS = 0.03  # and to what the forest says, where looks decide
ASKED = 3  # annotated slices, at most, whose strokes are held out to find out whether they do
ASKED_PIXELS = 45_000  # of these slices together, at most: they are walked again and again
SYMMETRIC = {"SymmetricMode": True}  # of SuperLU: the Laplacian's diagonal is dominant, no pivot need be looked for
MARGIN = 12  # pixels around the box of all strokes that the walk may use
PIXELS = 45_000  # of a slice that the direct solver takes at once; larger ones are walked at a lower resolution


@dataclass(frozen=True)
class Teacher:
    """Dense labels made of strokes: probabilities (K, *space) float16 and confidence (*space) float16 in 0..1."""

    probabilities: np.ndarray
    confidence: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """uint8 (*space)."""
        return self.probabilities.argmax(0).astype(np.uint8)


def propagate(sample: Sample, classes: int, stopped: Callable[[], bool] = lambda: False) -> Teacher:
    """The teacher that a sample's strokes give; without usable strokes its confidence is 0 everywhere.

    Slices with strokes of all classes are where it begins (`sources`). `stopped` is asked between slices, so that long
    work can end: what is not reached then has confidence 0.
    """
    *_, teacher = propagating(sample, classes, stopped)
    return teacher


def propagating(sample: Sample, classes: int, stopped: Callable[[], bool] = lambda: False) -> Iterator[Teacher]:
    """The same, and before it, where more is to come, what is known of one, then of all slices that were drawn on."""
    image, target = as_stack(sample)
    box = stroke_box(target)
    runs = [range(len(target))] if sample.part is None else sample.part.runs
    for P, weight in spread(image, target, box, classes, stopped, runs):
        space = sample.target.shape
        yield Teacher(P.reshape(classes, *space).astype(np.float16), weight.reshape(space).astype(np.float16))


def spread(
    image: np.ndarray,
    target: np.ndarray,
    box: tuple[slice, slice] | None,
    classes: int,
    stopped: Callable[[], bool],
    runs: Sequence[range],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """image (C, D, H, W), target (D, H, W) and the box of its strokes -> P (K, D, H, W), confidence (D, H, W).

    runs: which slices are neighbours
    """
    if box is None:
        yield np.full((classes, *target.shape), 1 / classes, np.float32), np.zeros(target.shape, np.float32)
    elif looks_decide(image, target, box, classes):
        P = by_looks(image, target, classes, stopped)
        yield P, confidence(P)
    else:
        shown, space = contrast(image[:, :, *box]), target.shape[1:]
        for P, reach in propagate_stack(shown, target[:, *box], classes, stopped, runs):
            yield grown(P, box, space), grown(confidence(P) * reach[:, None, None], box, space, fade=True)


def looks_decide(image: np.ndarray, target: np.ndarray, box: tuple[slice, slice], classes: int) -> bool:
    """Whether a forest finds many more of the held-out strokes than a random walk; on a single image also, whether it
    finds nearly all of every class: of alike objects far from all strokes none can tell.
    """
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)  # class -> shares that walk and forest have right
    inside = np.s_[:, :, *box]
    asked = sources(target)[:ASKED]
    shown = [contrast(image[inside][:, [z]])[:, 0] for z in asked]
    planes = [
        shrunken(plane, target[inside[1:]][z], ASKED_PIXELS // len(asked))
        for plane, z in zip(shown, asked, strict=True)
    ]
    looks = [features(plane) for plane, _ in planes]
    folds = [held_out(strokes) for _, strokes in planes]
    for fold in range(FOLDS):
        left = [np.where(held == fold, IGNORE, strokes) for held, (_, strokes) in zip(folds, planes, strict=True)]
        forest = Forest.of_slices(looks, left, classes, trees=20)
        for (plane, strokes), kept, look in zip(planes, left, looks, strict=True):
            held = kept != strokes
            walked = share_right(random_walk(plane, kept, classes), strokes, held)
            for c, share in share_right(forest(look), strokes, held).items():
                found[c].append((walked[c], share))
    by_walk, by_forest = np.transpose([np.mean(shares, 0) for shares in found.values()])  # (classes drawn,) each
    plain = len(target) == 1 and by_forest.min() >= SURE
    return bool(plain or by_forest.mean() > by_walk.mean() + BETTER)


def shrunken(plane: np.ndarray, strokes: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice (C, H, W) and its strokes (H, W), of so many pixels at most."""
    if strokes.size <= pixels:
        return plane, strokes
    shape = coarse_shape(strokes.shape, pixels)
    return np.stack([resize(c, shape, anti_aliasing=True) for c in plane]), shrunken_strokes(strokes, shape)


def by_looks(image: np.ndarray, target: np.ndarray, classes: int, stopped: Callable[[], bool]) -> np.ndarray:
    """P (K, D, H, W) of a forest that learned from all strokes, as prior of a walk that may end anywhere."""
    shown = contrast(image)
    annotated = [z for z in range(len(target)) if (target[z] != IGNORE).any()]
    looks = {z: features(shown[:, z]) for z in annotated}
    forest = Forest.of_slices(list(looks.values()), target[annotated], classes)
    P = np.full((classes, *target.shape), 1 / classes, np.float32)
    for z in range(len(target)):
        if stopped():
            break
        P[:, z] = forest(looks[z] if z in looks else features(shown[:, z]))
        if target[z].size <= PIXELS:
            P[:, z] = random_walk(shown[:, z], target[z], classes, prior=P[:, z], pull=LOOKS)
        else:  # the walk would be on a grid too coarse for small objects
            P[:, z] = with_strokes(P[:, z], target[z])
    return P


def with_strokes(P: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """P (K, H, W), certain where somebody drew."""
    P, drawn = P.copy(), strokes != IGNORE
    P[:, drawn] = np.eye(len(P))[strokes[drawn]].T
    return P


def as_stack(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """image (C, D, H, W) and target (D, H, W); a 2-D image is a stack of one slice."""
    if sample.target.ndim == 3:
        return sample.image, sample.target
    return sample.image[:, None], sample.target[None]


def stroke_box(target: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the box of all strokes, with a margin; None where no slice has two classes."""
    drawn = target[sources(target)] != IGNORE
    if not len(drawn):
        return None
    rows, columns = (np.flatnonzero(drawn.any(axes)) for axes in ((0, 2), (0, 1)))
    return tuple(slice(max(0, line[0] - MARGIN), line[-1] + 1 + MARGIN) for line in (rows, columns))


def sources(target: np.ndarray) -> list[int]:
    """Slices of (D, H, W) on which as many classes are drawn as on any, and two at least.

    Where fewer are drawn, as to correct something, the strokes count on their slice, but it is not carried to others.
    """
    drawn = [len(np.unique(plane[plane != IGNORE])) for plane in target]
    return [z for z, count in enumerate(drawn) if count > 1 and count == max(drawn)]


def contrast(image: np.ndarray) -> np.ndarray:
    """Intensities (C, D, H, W) -> 0..1, per channel the mean of the logarithm and the equalised histogram.

    Both spread the dark tones, where tissues differ by little: worth .03 of Dice over plain intensities.
    """
    return np.stack([(logarithm(channel) + equalize_hist(channel)) / 2 for channel in image]).astype(np.float32)


def logarithm(channel: np.ndarray) -> np.ndarray:
    low, high = np.percentile(channel, [0.5, 99.5])
    unit = ((channel - low) / max(high - low, 1e-12)).clip(0, 1)
    return np.log(unit / 0.05 + 1) / np.log(1 / 0.05 + 1)


def propagate_stack(
    image: np.ndarray, target: np.ndarray, classes: int, stopped: Callable[[], bool], runs: Sequence[range]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """image (C, D, H, W) in 0..1, target (D, H, W) -> P (K, D, H, W) and how far to trust each slice, (D,) in 0..1.

    First of one slice where it begins, then of all these, then of the others too. runs: which slices are neighbours
    """
    annotated = sources(target)
    total = np.zeros((classes, *target.shape), np.float32)
    trust = np.zeros(len(target), np.float32)
    middle = len(annotated) // 2  # comes first: it may well be in view
    for z in (order := annotated[middle:] + annotated[:middle]):
        if stopped():
            break
        total[:, z] = sharpened(image[:, z], target[z], random_walk(image[:, z], target[z], classes))
        trust[z] = 1.0
        if z == order[0] != order[-1]:
            yield mixed(total), trust.copy()
    yield mixed(total), trust.copy()
    if len(annotated) == len(target):
        return
    for start in annotated:
        run = next(run for run in runs if start in run)
        for step in (1, -1):
            walk_outward(image, target, total, trust, start, step, stopped, run)
    yield mixed(total), trust


def mixed(total: np.ndarray) -> np.ndarray:
    """Sums (K, D, H, W) of what came from several sides -> P; even where nothing came."""
    mass = total.sum(0)
    return np.where(mass > 0, total / mass.clip(1e-6), 1 / len(total)).astype(np.float32)


def sharpened(image: np.ndarray, strokes: np.ndarray, P: np.ndarray) -> np.ndarray:
    """P (K, H, W) of a walk, improved by a network that has learnt on generated images what strokes mean."""
    from trainer.strokenet import refine  # here: it imports torch

    return with_strokes((1 - NETWORK) * P + NETWORK * refine(image, strokes, P), strokes)


def walk_outward(
    image: np.ndarray,
    target: np.ndarray,
    total: np.ndarray,
    trust: np.ndarray,
    start: int,
    step: int,
    stopped: Callable[[], bool],
    run: range,
) -> None:
    """Carry the labels of slice `start` along its run until the next annotated slice; adds to total and trust."""
    annotated, flowing = sources(target), image.mean(0)
    P, z, distance = total[:, start], start + step, 1
    while z in run and z not in annotated and not stopped():
        P = warp(P, flow(flowing[z], flowing[z - step]))
        pull = PRIOR * (0.2 + P.max(0) ** 2)
        P = random_walk(image[:, z], target[z], len(P), prior=P, pull=pull)
        total[:, z] += P / distance
        trust[z] = max(trust[z], 0.5 / distance)
        z, distance = z + step, distance + 1


def flow(reference: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(2, H, W) displacement in pixels such that reference(x) = moving(x + flow)."""
    smooth = [ndi.gaussian_filter(plane, 1.0) for plane in (reference, moving)]
    return optical_flow_ilk(*smooth, radius=5, gaussian=True, prefilter=False, num_warp=8)


def warp(P: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    grid = np.indices(P.shape[1:]) + displacement
    moved = np.stack([ndi.map_coordinates(p, grid, order=1, mode="nearest") for p in P])
    return moved / moved.sum(0).clip(1e-6)


def random_walk(
    image: np.ndarray,
    strokes: np.ndarray,
    classes: int,
    prior: np.ndarray | None = None,
    pull: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Probability (K, H, W) that a walk from each pixel first meets a stroke of each class.

    image (C, H, W) in 0..1, strokes (H, W). With a prior (K, H, W), each pixel may also end there, with rate `pull`.
    """
    if strokes.size > PIXELS:
        return coarse_random_walk(image, strokes, classes, prior, pull)
    L = laplacian(image)
    labels = strokes.ravel()
    free, fixed = np.flatnonzero(labels == IGNORE), np.flatnonzero(labels != IGNORE)
    P = np.zeros((labels.size, classes))
    P[fixed, labels[fixed]] = 1
    if len(free):
        A, b = L[free][:, free], -(L[free][:, fixed] @ P[fixed])
        if prior is not None:
            rate = np.broadcast_to(pull, strokes.shape).ravel()[free]
            A, b = A + sp.diags_array(rate), b + rate[:, None] * prior.reshape(classes, -1).T[free]
        P[free] = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options=SYMMETRIC).solve(b)
    return P.T.reshape(classes, *strokes.shape).clip(0, 1)


def laplacian(image: np.ndarray) -> sp.csr_array:
    """Of the 8-neighbour graph of (C, H, W), with conductance exp(-beta |difference|^2) + FLOOR."""
    index = np.arange(image[0].size).reshape(image.shape[1:])
    pairs = [  # (one end, other end, 1 / distance)
        (index[:-1], index[1:], 1.0),
        (index[:, :-1], index[:, 1:], 1.0),
        (index[:-1, :-1], index[1:, 1:], 0.5**0.5),
        (index[1:, :-1], index[:-1, 1:], 0.5**0.5),
    ]
    i, j = (np.concatenate([pair[end].ravel() for pair in pairs]) for end in (0, 1))
    scale = np.concatenate([np.full(a.size, s) for a, _, s in pairs])
    colours = image.reshape(len(image), -1).astype(np.float64)
    difference = ((colours[:, i] - colours[:, j]) ** 2).sum(0)
    beta = min(BETA, NOISE / max(np.median(difference), 1e-12))
    w = scale * (np.exp(-beta * difference) + FLOOR)
    W = sp.coo_array((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=(index.size, index.size)).tocsr()
    return (sp.diags_array(W.sum(1)) - W).tocsr()


def coarse_random_walk(
    image: np.ndarray, strokes: np.ndarray, classes: int, prior: np.ndarray | None, pull: np.ndarray | float
) -> np.ndarray:
    """The same on a coarser grid; strokes keep their exact place in the result."""
    small, drawn = shrunken(image, strokes, PIXELS)
    if prior is not None:
        prior = np.stack([resize(p, drawn.shape, anti_aliasing=True) for p in prior])
        pull = resize(np.broadcast_to(pull, strokes.shape), drawn.shape)
    P = random_walk(small, drawn, classes, prior, pull)
    P = np.stack([resize(p, strokes.shape, order=1) for p in P])
    return with_strokes(P / P.sum(0).clip(1e-6), strokes)


def coarse_shape(shape: tuple[int, int], pixels: int) -> tuple[int, int]:
    factor = (pixels / (shape[0] * shape[1])) ** 0.5
    return tuple(max(8, int(n * factor)) for n in shape)


def shrunken_strokes(strokes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Strokes on a coarser grid; each drawn pixel marks the cell it falls in, so that a thin line survives."""
    small = np.full(shape, IGNORE, np.uint8)
    y, x = np.nonzero(strokes != IGNORE)
    small[y * shape[0] // strokes.shape[0], x * shape[1] // strokes.shape[1]] = strokes[y, x]
    return small


def confidence(P: np.ndarray) -> np.ndarray:
    """0 where all classes are equally likely, 1 where one is certain; over axis 0."""
    even = 1 / len(P)
    return ((P.max(0) - even) / (1 - even)).clip(0, 1)


def grown(values: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int], fade: bool = False) -> np.ndarray:
    """(..., h, w) of the box -> (..., H, W): the nearest value of the box, fading with distance where asked."""
    rows, columns = (np.arange(n).clip(part.start, min(part.stop, n) - 1) for part, n in zip(box, shape, strict=True))
    full = values[..., rows - box[0].start, :][..., columns - box[1].start]
    if fade:
        away = np.hypot(*np.meshgrid(rows - np.arange(shape[0]), columns - np.arange(shape[1]), indexing="ij"))
        full = full * np.exp(-away / (4 * MARGIN))
    return full
