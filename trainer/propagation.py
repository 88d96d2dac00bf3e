"""Strokes -> first dense labels. On each annotated slice a random walk says where the strokes reach, a forest what
looks like them, and a network that has seen many generated images which of the two to believe where. Other slices
follow by optical flow; or by the forest, where the network agrees with it.

Random walker with priors: Grady, CVPR 2005, eq. 5-8. Optical flow: iterative Lucas-Kanade (scikit-image).
K classes · C channels · D H W space · P probabilities (K, H, W) · IGNORE where nobody drew
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from scipy import ndimage as ndi
from scipy.sparse.linalg import splu
from skimage.exposure import cumulative_distribution
from skimage.registration import optical_flow_ilk
from skimage.transform import resize

from trainer.appearance import Drawn, Forest, drawn_pixels
from trainer.metrics import mean_dice
from trainer.sample import IGNORE, Sample, undrawn

BETA = 1500.0  # how strongly a step in intensity (0..1) stops the walk
NOISE = 3.0  # at least this over the squared median step, so that noise does not stop it
FLOOR = 3e-3  # the least conductance between neighbours, so that no region is cut off
PRIOR = 0.05  # how strongly a walk without strokes is pulled to what its neighbour slice says
SAY = 0.6  # at least, of the network on annotated slices; the rest is the walk's
ALIKE = 0.7, 0.9  # Dice of network and forest, from where on it may be a crowd, and where it is if the walk disagrees
CROWD = 0.75  # where network and forest agree so well (Dice), and walk less, looks tell the other slices too
LOOKS = 0.03  # how strongly a walk is pulled to what the forest says, where looks decide
SYMMETRIC = {"SymmetricMode": True}  # of SuperLU: the Laplacian's diagonal is dominant, no pivot need be looked for
MARGIN = 12  # pixels around the box of all strokes that the walk may use
PIXELS = 45_000  # of a slice that the direct solver takes at once; larger ones are walked at a lower resolution
KEPT = 2**25  # bytes of optical flow that are kept, since it is needed twice
LOOKED_AT = 400_000  # of a slice that the forest sees; larger ones it sees at a lower resolution

Tone = Callable[[np.ndarray], np.ndarray]  # what intensities become


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
    runs = [range(len(target))] if sample.part is None else sample.part.runs
    for P, weight in spread(image, target, classes, stopped, runs):
        space = sample.target.shape
        yield Teacher(P.reshape(classes, *space).astype(np.float16), weight.reshape(space).astype(np.float16))


def spread(
    image: np.ndarray, target: np.ndarray, classes: int, stopped: Callable[[], bool], runs: Sequence[range]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """image (C, D, H, W), target (D, H, W) -> P (K, D, H, W) and confidence (D, H, W) of one slice on which it begins,
    then of all these, then of the others too.

    runs: which slices are neighbours
    """
    P = np.full((classes, *target.shape), 1 / classes, np.float32)
    weight = np.zeros(target.shape, np.float32)
    if not (annotated := sources(target)) or stopped():
        yield P, weight
        return
    places, looks = Places(image, target, classes), Looks(image, target, classes)
    middle, agreed = len(annotated) // 2, []  # the middle one comes first: it may well be in view
    order = annotated[middle:] + annotated[:middle]
    for known, z in enumerate(order, 1):
        if stopped():
            break
        P[:, z], agreements = judged(looks.image(z), target[z], places(z), looks(z))
        weight[z] = confidence(P[:, z])
        agreed.append(agreements)
        if known in (1, len(order)):
            yield lent(P, order[:known], runs), weight.copy()
    if not agreed:
        yield P, weight
    elif len(target) > 1:
        with_looks, with_walk = np.mean(agreed, 0)
        teller = looks if with_looks > max(CROWD, with_walk) else places
        yield teller.others(P, weight, stopped, runs)


def lent(P: np.ndarray, known: Sequence[int], runs: Sequence[range]) -> np.ndarray:
    """P (K, D, H, W) in which a slice that is not known yet has what the nearest known one of its run has: to be seen
    in the second until it is reached, not to be learnt from."""
    P = P.copy()
    for run in runs:
        near = [z for z in known if z in run]
        for z in run if near else ():
            if z not in known:
                P[:, z] = P[:, min(near, key=lambda k: abs(k - z))]
    return P


def judged(
    image: np.ndarray, strokes: np.ndarray, walked: np.ndarray, alike: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]]:
    """P (K, H, W) of an annotated slice, of what its walk and its looks say, and how well the network agrees with the
    looks, and with the walk (`agreement`). The better with the looks, the less say the walk has; in a crowd it has
    none, and the looks half."""
    from trainer.strokenet import refine  # here: it imports torch

    P = refine(image, strokes, walked, alike)
    with_looks, with_walk = agreement(P, alike), agreement(P, walked)
    crowd = crowding(with_looks, with_walk)
    say = (1 - max(SAY, with_looks)) * (1 - crowd)  # of the walk
    P = (1 - say) * P + say * walked
    return with_strokes((1 - crowd / 2) * P + crowd / 2 * alike, strokes), (with_looks, with_walk)


def crowding(with_looks: float, with_walk: float) -> float:
    """0..1, how much this is a crowd of which a few were drawn on: network and forest agree well, and the walk, which
    ends at the few, does not."""
    alike = np.clip((with_looks - ALIKE[0]) / (ALIKE[1] - ALIKE[0]), 0, 1)
    return float(alike) * max(1 - with_walk / max(with_looks, 1e-6), 0)


def agreement(P: np.ndarray, Q: np.ndarray) -> float:
    """Of two P (K, H, W): mean Dice of the classes but the background that either finds somewhere; 0 where none is."""
    return mean_dice(P.argmax(0), Q.argmax(0), range(1, len(P))) or 0.0


def first_looks(image: np.ndarray, target: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """P (K, D, H, W) of the walks and of the forest on slices that all are annotated."""
    each = Places(image, target, classes), Looks(image, target, classes)
    return tuple(np.stack([say(z) for z in range(len(target))], 1) for say in each)


class Looks:
    """What pixels look like: a forest that has learnt from all strokes, for any slice."""

    def __init__(self, image: np.ndarray, target: np.ndarray, classes: int) -> None:
        drawn = [z for z, plane in enumerate(target) if (plane != IGNORE).any()]
        self.raw, self.target = image, target
        self.tones = [tone_of(channel) for channel in image[:, drawn]]
        self.forest = Forest((pixels_of(self.image(z), target[z]) for z in drawn), classes)

    def image(self, z: int) -> np.ndarray:
        """(C, H, W) in 0..1."""
        return contrast(self.raw[:, z], self.tones)

    def __call__(self, z: int) -> np.ndarray:
        """(K, H, W)"""
        return looks_of(self.forest, self.image(z))

    def others(
        self, P: np.ndarray, weight: np.ndarray, stopped: Callable[[], bool], runs: Sequence[range]
    ) -> tuple[np.ndarray, np.ndarray]:
        """P and confidence of the other slices, too: the forest's, smoothed by a walk that may end anywhere."""
        annotated = sources(self.target)
        for z, strokes in enumerate(self.target):
            if z in annotated or stopped():
                continue
            P[:, z] = self(z)
            if strokes.size <= PIXELS:
                P[:, z] = random_walk(self.image(z), strokes, len(P), prior=P[:, z], pull=LOOKS)
            else:  # the walk would be on a grid too coarse for small objects
                P[:, z] = with_strokes(P[:, z], strokes)
            weight[z] = confidence(P[:, z])
        return P, weight


def pixels_of(plane: np.ndarray, strokes: np.ndarray) -> Drawn:
    """What was drawn on, of a slice (C, H, W) as the forest sees it."""
    return drawn_pixels(*shrunken(plane, strokes, LOOKED_AT))


def looks_of(forest: Forest, plane: np.ndarray) -> np.ndarray:
    """P (K, H, W) of a slice (C, H, W), a large one seen at a lower resolution."""
    space = plane.shape[1:]
    P = forest(shrunken(plane, undrawn(space), LOOKED_AT)[0])
    return P if P.shape[1:] == space else np.stack([resize(p, space, order=1) for p in P])


class Places:
    """Where strokes reach: random walks inside the box of all strokes, carried by optical flow to other slices."""

    def __init__(self, image: np.ndarray, target: np.ndarray, classes: int) -> None:
        self.box, self.space, self.classes = stroke_box(target), target.shape[1:], classes
        self.image, self.target = contrast(image[:, :, *self.box]), target[:, *self.box]
        flowing = self.image.mean(0)  # (D, H, W)
        kept = lru_cache(max(1, KEPT // (8 * flowing[0].size)))
        self.flow = kept(lambda onto, z: flow(flowing[onto], flowing[z]).astype(np.float32))

    def __call__(self, z: int) -> np.ndarray:
        """(K, H, W)"""
        return grown(random_walk(self.image[:, z], self.target[z], self.classes), self.box, self.space)

    def others(
        self, P: np.ndarray, weight: np.ndarray, stopped: Callable[[], bool], runs: Sequence[range]
    ) -> tuple[np.ndarray, np.ndarray]:
        """P and confidence of the other slices, too: from every annotated one outward to the next, once these have
        heard each other. Outside of the box it is half what the edge of the box says, less with distance, and else
        what the nearest annotated one has there."""
        annotated, inside = sources(self.target), P[:, :, *self.box]
        for z, Q in self.heard(inside, annotated, stopped, runs).items():
            inside[:, z] = with_strokes(Q, self.target[z])
            weight[z] = confidence(P[:, z])
        total = np.zeros_like(inside)
        trust = np.zeros(len(total[0]), np.float32)
        for start in annotated:
            self.walk_outward(inside[:, start], total, trust, start, annotated, stopped, runs)
        outside, fading = lent(P, annotated, runs), faded(self.box, self.space)
        for z in np.flatnonzero(trust):
            here = total[:, z] / total[:, z].sum(0).clip(1e-6)
            P[:, z] = outside[:, z] + fading / 2 * (grown(here, self.box, self.space) - outside[:, z])
            P[:, z, *self.box] = here
            weight[z] = confidence(P[:, z]) * trust[z] * fading
        return P, weight

    def walk_outward(
        self,
        P: np.ndarray,
        total: np.ndarray,
        trust: np.ndarray,
        start: int,
        ends: Sequence[int],
        stopped: Callable[[], bool],
        runs: Sequence[range],
    ) -> None:
        """Carry the P of slice `start` along its run, both ways, until one of the ends; adds to total and trust."""
        for step in (1, -1):
            carried = P
            for distance, z in enumerate(way(start, step, ends, runs), 1):
                if z in ends or stopped():
                    break
                carried = self.carried(carried, z - step, z, self.target[z])
                total[:, z] += carried / distance
                trust[z] = max(trust[z], 0.5 / distance)

    def heard(
        self, P: np.ndarray, annotated: Sequence[int], stopped: Callable[[], bool], runs: Sequence[range]
    ) -> dict[int, np.ndarray]:
        """Annotated slice -> P (K, H, W) of its own and what the annotated ones next to it bring there by flow alone,
        the nearer the more; P (K, D, H, W). Strokes on one slice often are too short to tell what those on another do.
        """
        total = {z: P[:, z].copy() for z in annotated}
        for start in annotated:
            for step in (1, -1):
                route, carried = list(way(start, step, annotated, runs)), P[:, start]
                if not route or route[-1] not in total or stopped():
                    continue
                for z in route:
                    carried = warp(carried, self.flow(z, z - step))
                total[route[-1]] += carried / len(route)
        return {z: Q / Q.sum(0).clip(1e-6) for z, Q in total.items()}

    def carried(self, P: np.ndarray, z: int, onto: int, strokes: np.ndarray) -> np.ndarray:
        """P (K, H, W) of slice z as that of another, by optical flow and a walk from its strokes (H, W)."""
        P = warp(P, self.flow(onto, z))
        pull = PRIOR * (0.2 + P.max(0) ** 2)
        return random_walk(self.image[:, onto], strokes, self.classes, prior=P, pull=pull)


def way(start: int, step: int, ends: Collection[int], runs: Sequence[range]) -> Iterator[int]:
    """Slices from the next one on, to the end of their run or to one of the ends, which comes last."""
    run, z = next(run for run in runs if start in run), start + step
    while z in run:
        yield z
        if z in ends:
            return
        z += step


def shrunken(plane: np.ndarray, strokes: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice (C, H, W) and its strokes (H, W), of so many pixels at most."""
    if strokes.size <= pixels:
        return plane, strokes
    shape = coarse_shape(strokes.shape, pixels)
    return np.stack([resize(c, shape, anti_aliasing=True) for c in plane]), shrunken_strokes(strokes, shape)


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
    if not sources(target):
        return None
    drawn = target != IGNORE
    rows, columns = (np.flatnonzero(drawn.any(axes)) for axes in ((0, 2), (0, 1)))
    return tuple(slice(max(0, line[0] - MARGIN), line[-1] + 1 + MARGIN) for line in (rows, columns))


def sources(target: np.ndarray) -> list[int]:
    """Slices of (D, H, W) on which as many classes are drawn as on any, and two at least.

    Where fewer are drawn, as to correct something, the strokes count on their slice, but it is not carried to others.
    """
    drawn = [len(np.unique(plane[plane != IGNORE])) for plane in target]
    return [z for z, count in enumerate(drawn) if count > 1 and count == max(drawn)]


def contrast(image: np.ndarray, tones: Sequence[Tone] | None = None) -> np.ndarray:
    """Intensities (C, ...) -> 0..1, by a tone for each channel: the image's own, or those of others."""
    pairs = zip(image, tones or map(tone_of, image), strict=True)
    return np.stack([tone(channel) for channel, tone in pairs]).astype(np.float32)


def tone_of(channel: np.ndarray) -> Tone:
    """The mean of logarithm and equalised histogram. Both spread the dark tones, where tissues differ by little: worth
    .03 of Dice over plain intensities."""
    low, high = np.percentile(channel, [0.5, 99.5])
    shares, intensities = cumulative_distribution(channel)

    def tone(values: np.ndarray) -> np.ndarray:
        unit = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
        logarithm = np.log(unit / 0.05 + 1) / np.log(1 / 0.05 + 1)
        return (logarithm + np.interp(values, intensities, shares)) / 2

    return tone


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
    """Strokes on a coarser grid; each drawn pixel marks the cell it falls in, so that a thin line survives. Where
    several classes fall into one, that of the fewest pixels has it: a dot in the middle of a ring stays."""
    small = np.full(shape, IGNORE, np.uint8)
    drawn, counts = np.unique(strokes[strokes != IGNORE], return_counts=True)
    for c in drawn[np.argsort(-counts)]:
        y, x = np.nonzero(strokes == c)
        small[y * shape[0] // strokes.shape[0], x * shape[1] // strokes.shape[1]] = c
    return small


def confidence(P: np.ndarray) -> np.ndarray:
    """0 where all classes are equally likely, 1 where one is certain; over axis 0."""
    even = 1 / len(P)
    return ((P.max(0) - even) / (1 - even)).clip(0, 1)


def grown(values: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    """(..., h, w) of the box -> (..., H, W): the nearest value of the box."""
    rows, columns = nearest(box, shape)
    return values[..., rows - box[0].start, :][..., columns - box[1].start]


def faded(box: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    """(H, W): 1 in the box, less with distance from it."""
    rows, columns = nearest(box, shape)
    away = np.hypot(*np.meshgrid(rows - np.arange(shape[0]), columns - np.arange(shape[1]), indexing="ij"))
    return np.exp(-away / (4 * MARGIN))


def nearest(box: tuple[slice, slice], shape: tuple[int, int]) -> list[np.ndarray]:
    """Of each row and of each column, the nearest one of the box."""
    return [np.arange(n).clip(part.start, min(part.stop, n) - 1) for part, n in zip(box, shape, strict=True)]
