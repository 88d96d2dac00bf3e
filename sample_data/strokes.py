"""Strokes as a hurried expert draws them: a few crooked lines for each class, well inside it. Points are (y, x)."""

import numpy as np
from noise import smooth
from scipy import ndimage
from skimage.graph import route_through_array

Path = np.ndarray  # (N, 2)


def draw(canvas: np.ndarray, path: Path, value: int, rng: np.random.Generator, width: float = 2.6) -> None:
    """Paint `path` onto `canvas` (H, W) with a round brush and a trembling hand."""
    points = tremble(path, rng)
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    low, high = np.floor(points.min(0) - width).astype(int), np.ceil(points.max(0) + width).astype(int) + 1
    box = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True))
    pixels = np.stack([y[box], x[box]], axis=-1)  # (h, w, 2)
    near = np.zeros(pixels.shape[:2], bool)
    for point in points:
        near |= ((pixels - point) ** 2).sum(-1) <= (width / 2) ** 2
    canvas[box][near] = value


def tremble(path: Path, rng: np.random.Generator, size: float = 0.7) -> Path:
    """`path` at steps of half a pixel, off by about `size` pixels."""
    steps = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
    at = np.linspace(0, steps[-1], max(int(2 * steps[-1]), 2))
    points = np.stack([np.interp(at, steps, path[:, k]) for k in (0, 1)], axis=1)
    return points + np.clip(size * smooth(points.shape, (24, 1), rng), -1.4, 1.4)


def route(region: np.ndarray, start: tuple[int, ...], end: tuple[int, ...], rng: np.random.Generator) -> Path:
    """A winding way from `start` to `end` inside `region` (H, W) bool that keeps clear of its border."""
    depth = ndimage.distance_transform_edt(region)
    whim = np.exp(0.7 * smooth(region.shape, 20, rng))  # without it the way is straight lines and corners
    cost = np.where(region, whim + 30 / (1 + depth) ** 2, 1e4)
    path = np.array(route_through_array(cost, start, end, geometric=True)[0], float)
    return ndimage.gaussian_filter1d(path, min(5.0, len(path) / 8), axis=0, mode="nearest")


def wander(
    canvas: np.ndarray, region: np.ndarray, value: int, count: int, rng: np.random.Generator, reach: float
) -> None:
    """`count` strokes of about `reach` pixels at places in `region`, far from its border and from each other."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    spots = np.argwhere(depth > min(4.0, 0.7 * depth.max()))
    parts = ndimage.label(region)[0]
    starts = [spots[rng.integers(len(spots))]]
    while len(starts) < count:
        tries = spots[rng.integers(len(spots), size=40)]
        away = np.min([np.linalg.norm(tries - s, axis=1) for s in starts], axis=0)
        starts.append(tries[np.argmax(away)])
    for start in starts:
        same = spots[parts[tuple(spots.T)] == parts[tuple(start)]]
        far = np.abs(np.linalg.norm(same - start, axis=1) - reach)
        ends = same[np.argsort(far)[: max(len(same) // 40, 1)]]
        draw(canvas, route(region, tuple(start), tuple(ends[rng.integers(len(ends))]), rng), value, rng)


def about(centre: np.ndarray, angles: np.ndarray, radii: np.ndarray) -> Path:
    """Polar to pixels."""
    return centre + np.stack([radii * np.sin(angles), radii * np.cos(angles)], axis=1)


# --- one function for each kind of image


def cardiac_strokes(truth: np.ndarray, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """truth (Z, H, W) of background, RV, MYO, LV -> strokes, 4 = ignore, on `count` slices spread over the heart."""
    strokes = np.full_like(truth, 4)
    whole = [z for z in range(len(truth)) if len(np.unique(truth[z])) > 1]
    for i in np.linspace(0, len(whole) - 1, count + 2)[1:-1]:
        heart_strokes(strokes[whole[round(i)]], truth[whole[round(i)]], rng)
    return strokes


def heart_strokes(canvas: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> None:
    """Rays from the LV's centre tell where each class lies; the strokes run along the middles."""
    centre = np.argwhere(truth == 3).mean(0)
    angles = np.linspace(-np.pi, np.pi, 181)
    inner, outer, right, edge = (smoothed(r) for r in walls(truth, centre, angles))
    turn, start = np.roll(np.arange(180), -rng.integers(180)), rng.integers(20, 40)
    ring = turn[: 180 - start]  # the hand stops before the ring is closed
    draw(canvas, about(centre, angles[:-1], edge[:-1] + 7), 0, rng, 2.2)
    wander(canvas, ndimage.distance_transform_edt(truth == 0) > 14, 0, 3, rng, 60)
    draw(canvas, about(centre, angles[ring], (inner[ring] + outer[ring]) / 2), 2, rng, 2.0)
    draw(canvas, about(centre, angles[turn[:150]], inner[turn[:150]] * np.linspace(0.62, 0.15, 150)), 3, rng, 2.4)
    wide = np.flatnonzero(right > outer + 5)
    wide = wide[np.argsort(angles[wide] % (2 * np.pi))][3:-3]
    draw(canvas, about(centre, angles[wide], 0.5 * (outer + right)[wide]), 1, rng, 2.4)


def walls(truth: np.ndarray, centre: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, ...]:
    """Along each ray: the end of the LV, of the MYO, of the RV, and of the whole heart, pixels."""
    steps = np.arange(0, 80, 0.25)
    y, x = centre[:, None, None] + steps * np.stack([np.sin(angles), np.cos(angles)])[..., None]
    seen = ndimage.map_coordinates(truth, [y, x], order=0)  # (angles, steps)
    ends = [np.where(seen == c, steps, 0).max(1) for c in (3, 2, 1)]
    return (*ends, np.where(seen > 0, steps, 0).max(1))


def smoothed(values: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter1d(values, 2, mode="wrap")


def microscopy_strokes(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """numbers (H, W): nuclei 1, 2, ... -> strokes, 2 = ignore: through a dozen nuclei and between them."""
    strokes = np.full(numbers.shape, 2, np.uint8)
    sizes = np.bincount(numbers.ravel())
    large = 1 + np.flatnonzero(sizes[1:] > 250)
    small = 1 + np.flatnonzero((sizes[1:] > 60) & (sizes[1:] < 160))
    for number in [*rng.choice(large, 13, replace=False), *small[:2]]:
        wander(strokes, numbers == number, 1, 1, rng, 0.9 * np.sqrt(sizes[number]))
    wander(strokes, numbers == 0, 0, 7, rng, 70)
    return strokes


def endoscopy_strokes(truth: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """truth (H, W), window (H, W) bool -> strokes, 3 = ignore; one background stroke lies on the black border."""
    strokes = np.full(truth.shape, 3, np.uint8)
    wander(strokes, (truth == 0) & window, 0, 6, rng, 75)
    wander(strokes, ~window, 0, 1, rng, 60)
    wander(strokes, truth == 1, 1, 2, rng, 38)
    wander(strokes, truth == 2, 2, 1, rng, 85)
    return strokes
