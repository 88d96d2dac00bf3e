"""Generated images of nothing in particular: random shapes, textures, noise and blur, with strokes on them.

What a network can learn before it has seen a real one. S side of an image in pixels, K classes; class 0 is the ground.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from trainer.annotator import painted, scribble
from trainer.sample import IGNORE

Rng = np.random.Generator
THIN, FEW = 1.5, 12  # pixels: an object that is thinner or smaller is not drawn by anybody
MOST = 5  # classes beside the ground
ALONE = 3  # pieces of a class; with more they are a crowd


@dataclass(frozen=True, eq=False)
class Drawn:
    """A generated image, its truth and some strokes."""

    image: np.ndarray  # (S, S) float32 in 0..1
    label: np.ndarray  # (S, S) uint8, 0..K-1, every class is there
    strokes: np.ndarray  # (S, S) uint8, class or IGNORE; every class has some


def generate(rng: Rng, side: int = 112) -> Drawn:
    """The same generator state gives the same image."""
    label = scene(rng, side)
    while label.max() == 0:
        label = scene(rng, side)
    return Drawn(photograph(label, rng), label, strokes_on(label, rng))


# ---- labels ----


def scene(rng: Rng, side: int) -> np.ndarray:
    """A ground with objects: things of a few parts, crowds of small ones, tissues of cells, winding bands, patches."""
    label = np.zeros((side, side), np.uint8)
    makers, share = (nested, crowd, cells, tubes, islands), (0.36, 0.4, 0.13, 0.05, 0.06)
    for _ in range(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1])):
        label = makers[rng.choice(len(makers), p=share)](label, rng)
    return consecutive(label)


def nested(label: np.ndarray, rng: Rng) -> np.ndarray:
    """A thing of one to three parts, one inside the other, from small to half of the image; others may lean on it."""
    side, grid, label = len(label), np.indices(label.shape), label.copy()
    centre = side * rng.uniform(0.3, 0.7, 2)
    radius = side * np.exp(rng.uniform(np.log(0.06), np.log(0.4)))
    inside = radius - polar(grid, centre, radius, rng)  # pixels
    walls = rng.uniform(2, max(3.0, 0.5 * radius), 2)  # thickness of the outer parts
    for depth in np.r_[0, walls.cumsum()][: rng.integers(1, 4)]:
        label[inside > depth + 0.15 * depth * smooth_noise(side, 10, rng)] = label.max() + 1
    for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15])):
        angle, size = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.3, 1.0)
        beside = centre + (radius + size * rng.uniform(-0.1, 0.9)) * np.array([np.sin(angle), np.cos(angle)])
        label[(polar(grid, beside, size, rng) < size) & (label == 0)] = label.max() + 1
    return label


def crowd(label: np.ndarray, rng: Rng) -> np.ndarray:
    """Many small things of one class, apart or in clumps; some kinds have a core of another class."""
    side, grid, label = len(label), np.indices(label.shape), label.copy()
    c, size, core = label.max() + 1, np.exp(rng.uniform(np.log(3), np.log(12))), rng.uniform() < 0.25
    count = rng.integers(4, 8 + int(0.4 * side**2 / size**2 / np.pi))
    density = smooth_noise(side, side / 8, rng) * rng.choice([0, 1]) if rng.uniform() < 0.5 else np.zeros((side, side))
    for place in rng.uniform(0, side, (min(count, 120), 2)):
        if density[tuple(place.astype(int))] < 0:
            continue
        radius = size * np.exp(rng.normal(0, 0.25))
        rows, columns = (slice(int(max(0, p - 2 * radius - 3)), int(p + 2 * radius + 3)) for p in place)
        there, away = label[rows, columns], polar(grid[:, rows, columns], place, radius, rng)
        there[away < radius + 1.5] = 0  # so that neighbours do not melt into one
        there[away < radius] = c
        if core:
            there[away < 0.5 * radius] = c + 1
    return label


def cells(label: np.ndarray, rng: Rng) -> np.ndarray:
    """A tissue: the cells of scattered points in one class, with walls of ground between them."""
    side, label = len(label), label.copy()
    spacing, wall = rng.uniform(9, 30), rng.uniform(1.2, 4)
    points = rng.uniform(-spacing, side + spacing, (int((side / spacing + 2) ** 2), 2))
    bent = np.indices((side, side)) + [0.2 * spacing * smooth_noise(side, 0.3 * spacing, rng) for _ in "yx"]
    nearest, second = np.moveaxis(cKDTree(points).query(np.moveaxis(bent, 0, -1), k=2)[0], -1, 0)
    inside = second - nearest > wall
    if rng.uniform() < 0.4:
        inside &= smooth_noise(side, side / 6, rng) > rng.uniform(-1, 0.3)
    label[inside] = label.max() + 1
    return label


def islands(label: np.ndarray, rng: Rng) -> np.ndarray:
    """Land above the sea of a smooth random field."""
    field = smooth_noise(len(label), rng.uniform(5, 20), rng)
    return np.where(field > rng.uniform(0.5, 1.6), label.max() + 1, label).astype(np.uint8)


def tubes(label: np.ndarray, rng: Rng) -> np.ndarray:
    """The shores of such a field: winding bands of one width."""
    field = smooth_noise(len(label), rng.uniform(8, 20), rng)
    slope = np.hypot(*np.gradient(field)).clip(1e-3)
    return np.where(abs(field) / slope < rng.uniform(1.5, 6), label.max() + 1, label).astype(np.uint8)


def polar(grid: np.ndarray, centre: np.ndarray, radius: float, rng: Rng) -> np.ndarray:
    """Distance (H, W) from a centre, stretched so that the circle of that radius becomes a wobbly ellipse.

    grid (2, H, W): row and column of each pixel.
    """
    y, x = grid - np.reshape(centre, (2, 1, 1))
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.2))
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    away, angle = np.hypot(along / stretch, across * stretch), np.arctan2(across, along)
    waves = sum(rng.normal(0, 0.15 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    return away / (1 + waves).clip(0.5)


def smooth_noise(side: int, sigma: float, rng: Rng) -> np.ndarray:
    """(S, S) of mean 0 and deviation 1."""
    field = ndi.gaussian_filter(rng.normal(size=(side, side)), sigma, mode="wrap", truncate=3)
    return (field - field.mean()) / field.std()


def consecutive(label: np.ndarray) -> np.ndarray:
    """Classes 0, 1, 2, ... without those that nobody would draw; what is too thin, or one too many, is ground."""
    new = np.zeros_like(label)
    for c in np.unique(label[label > 0])[:MOST]:
        mask = label == c
        if mask.sum() >= FEW and ndi.distance_transform_edt(np.pad(mask, 1)).max() > THIN:
            new[mask] = new.max() + 1
    return new if (new == 0).sum() >= FEW else np.zeros_like(label)


# ---- photographs ----


def photograph(label: np.ndarray, rng: Rng) -> np.ndarray:
    """Grey values (S, S) of a label: what its classes are made of, what lies about, and what the camera adds."""
    means = greys(label.max() + 1, rng)
    image = np.where(label == 0, patchwork(label, means, rng), means[label])
    image = spoiled(textured(image, label, rng), label, means, rng)
    return exposed(image, rng)


def greys(classes: int, rng: Rng) -> np.ndarray:
    """(K,) their mean grey; often two look nearly alike, and only place or texture tells them apart."""
    means = rng.uniform(0.05, 0.95, classes)
    if rng.uniform() < 0.4:
        a, b = rng.choice(classes, 2, replace=False)
        means[a] = means[b] + rng.normal(0, 0.05)
    return means


def patchwork(label: np.ndarray, means: np.ndarray, rng: Rng) -> np.ndarray:
    """(S, S) a ground with patches, half of them as bright as an object that stands alone.

    What looks like one of a crowd does belong to it; what looks like a single thing seldom does.
    """
    ground = np.full(label.shape, means[0])
    alone = [c for c in range(len(means)) if ndi.label(label == c)[1] <= ALONE]
    for _ in range(rng.choice([0, 0, 1, 2, 3, 4])):
        patch = smooth_noise(len(label), rng.uniform(3, 14), rng) > rng.uniform(0.3, 1.6)
        alike = alone and rng.uniform() < 0.5
        ground[patch] = means[rng.choice(alone)] + rng.normal(0, 0.05) if alike else rng.uniform(0, 1)
    return ground


def textured(image: np.ndarray, label: np.ndarray, rng: Rng) -> np.ndarray:
    """Each class as smooth, grainy or cloudy as it is; of some, every piece is of its own brightness."""
    image = image.copy()
    for c in range(label.max() + 1):
        mask = label == c
        texture = smooth_noise(len(label), np.exp(rng.uniform(np.log(0.6), np.log(6))), rng)
        image[mask] += rng.choice([0, 0.03, 0.07, 0.12]) * texture[mask]
        if c and rng.uniform() < 0.4:
            pieces, count = ndi.label(mask)
            image += np.r_[0, rng.normal(0, rng.uniform(0, 0.15), count)][pieces]
    return image


def spoiled(image: np.ndarray, label: np.ndarray, means: np.ndarray, rng: Rng) -> np.ndarray:
    """Holes and specks in the objects, bright or dark rims, hairs and highlights across everything."""
    side, image = len(label), image.copy()
    if rng.uniform() < 0.45:
        specks = smooth_noise(side, rng.uniform(0.8, 2.5), rng) > rng.uniform(1.0, 2.2)
        image[specks & (label == rng.integers(1, len(means)))] = rng.choice(means)
    if rng.uniform() < 0.3:
        rim = (label > 0) != ndi.grey_erosion(label > 0, 3)
        image[rim & (smooth_noise(side, 10, rng) > rng.uniform(-1, 0.5))] = rng.uniform(0, 1)
    if rng.uniform() < 0.15:
        field = smooth_noise(side, rng.uniform(10, 25), rng)
        image[abs(field) / np.hypot(*np.gradient(field)).clip(1e-3) < rng.uniform(0.4, 1)] = rng.uniform(0, 1)
    if rng.uniform() < 0.15:
        image[smooth_noise(side, rng.uniform(1, 3), rng) > rng.uniform(2.2, 3)] = rng.choice([0, 1])
    return image


def exposed(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Blur, uneven light, noise, and a range of 0..1."""
    side = len(image)
    image = ndi.gaussian_filter(image, rng.uniform(0.4, 1.6))
    image = image * np.exp(rng.uniform(0, 0.25) * smooth_noise(side, side / 3, rng))
    grain = ndi.gaussian_filter(rng.normal(size=image.shape), rng.choice([0, 0.7]))
    image = image + rng.uniform(0, 0.08) * grain / grain.std()
    low, high = np.percentile(image, (0.5, 99.5))
    return (((image - low) / (high - low)).clip(0, 1) ** np.exp(rng.normal(0, 0.3))).astype(np.float32)


# ---- strokes ----


def strokes_on(label: np.ndarray, rng: Rng) -> np.ndarray:
    """One to four strokes a class (S, S), of a crowd on a few of many; at times the ground is drawn around all."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.6, 0.2, 0.12, 0.08]))
    strokes = painted(scribble(label, count, rng), label.shape)
    if rng.uniform() < 0.35:
        away = ndi.distance_transform_edt(label == 0) + rng.uniform(0, 3) * smooth_noise(len(label), 14, rng)
        ring = (abs(away - rng.uniform(4, 14)) < 0.8) & (label == 0)
        ring &= smooth_noise(len(label), 10, rng) > rng.uniform(-3, 0.3)
        strokes = np.where(ring & (strokes == IGNORE), 0, strokes).astype(np.uint8)
    return strokes
