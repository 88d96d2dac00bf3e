"""A colonoscopy frame, ray-marched: a folded tube, a polyp on its wall and biopsy forceps, lit from the camera.

Hart, "Sphere tracing", The Visual Computer 1996, for the march; Phong 1975 for the gloss of wet mucosa.
The camera sits at the origin and looks along z; x to the right, y down; the tube's mean radius is 1.
Surfaces are functions of space that are positive in the free lumen, zero on the surface, about the distance to it.
"""

from typing import NamedTuple

import numpy as np
from noise import fractal, ramp, ridges, wave
from scipy import ndimage

HEIGHT, WIDTH, FINE = 320, 384, 2  # pixels; FINE rays along each side of one
CLASSES = ("background", "polyp", "instrument")
ROWS, COLUMNS, FAR = 1400, 1080, 14.0  # samples of the wall along the tube and around it; length of the tube
POLYP, LOBES = np.array([-0.56, 0.50, 1.36]), 0.030
SHAFT, TIP = np.array([0.44, 0.40, 0.25]), np.array([0.27, 0.25, 1.22])


class Wall(NamedTuple):
    """The tube unrolled: tables (ROWS, COLUMNS) over length and angle."""

    radius: np.ndarray
    mottle: np.ndarray  # unit field
    vessels: np.ndarray  # 0 .. 1
    grain: np.ndarray  # unit field, fine


def endoscopy(seed: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """image uint8 (H, W, 3) and truth uint8 (H, W): 0 background, 1 polyp, 2 instrument."""
    rng = np.random.default_rng(seed)
    wall = unrolled_wall(rng)
    rays = camera_rays()
    points, truth = march(rays, wall)
    light = shade(points, rays, truth, wall)  # (fH * fW, 3), linear
    frame = light.reshape(HEIGHT * FINE, WIDTH * FINE, 3)
    window = octagon()
    image = develop(frame, window, rng)
    return image, np.where(window > 0.5, truth.reshape(HEIGHT * FINE, -1)[::FINE, ::FINE], 0).astype(np.uint8)


# --- the scene


def unrolled_wall(rng: np.random.Generator) -> Wall:
    turn = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
    z, angle = np.meshgrid(np.linspace(0, FAR, ROWS), turn, indexing="ij")
    radius = 1.0 + 0.07 * np.cos(3 * angle + 0.4) + 0.05 * closed(fractal, (110, 130), rng)
    radius = radius - folds(z, angle, rng) + 0.0055 * closed(fractal, (18, 30), rng)
    fine = closed(ridges, (34, 52), rng) ** 2 * ramp(closed(fractal, 120, rng), -1.0, 1.0)
    large = closed(ridges, (80, 130), rng) ** 2 * ramp(closed(fractal, 150, rng), -0.8, 0.8)
    return Wall(radius, closed(fractal, 70, rng), np.clip(0.45 * fine + 0.7 * large, 0, 1), closed(fractal, 14, rng))


def closed(field, size: float | tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A random field (ROWS, COLUMNS) without a seam where the angle closes."""
    margin = COLUMNS // 6
    wide = field((ROWS, COLUMNS + margin), size, rng)
    share = np.linspace(0, 1, margin)
    table = wide[:, :COLUMNS].copy()
    table[:, :margin] = share * table[:, :margin] + (1 - share) * wide[:, COLUMNS:]
    return table


def folds(z: np.ndarray, angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Haustral folds: crescents that span part of the circumference, closer together in the distance's view."""
    height, at = np.zeros_like(z), 0.75
    while at < FAR:
        crest = at + 0.22 * wave(angle, rng, range(1, 4))
        span = 0.20 + 0.80 * ramp(np.cos(angle - rng.uniform(-np.pi, np.pi)), -0.9, 0.6)
        away = (z - crest) / np.where(z < crest, 0.26, 0.17)  # steeper on the far side
        height = np.maximum(height, rng.uniform(0.26, 0.40) * span * np.exp(-(away**2)))
        at += rng.uniform(0.55, 0.95)
    return height


def look_up(table: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`table` at `points` (N, 3)."""
    x, y = bend(points)
    row = np.clip(points[:, 2] / FAR, 0, 1) * (ROWS - 1)
    column = (np.arctan2(y, x) / (2 * np.pi) + 0.5) * COLUMNS
    padded = np.concatenate([table, table[:, :1]], axis=1)
    return ndimage.map_coordinates(padded, [row, column], order=1, mode="nearest")


def bend(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y from the tube's axis, which curves away to the upper right."""
    z = np.maximum(points[:, 2], 0)
    return points[:, 0] + 0.10 - 0.030 * z**2, points[:, 1] - 0.08 + 0.024 * z**2


def tube(points: np.ndarray, wall: Wall) -> np.ndarray:
    return look_up(wall.radius, points) - np.hypot(*bend(points))


def polyp(points: np.ndarray) -> np.ndarray:
    """A lobed dome."""
    q = (points - POLYP) / np.array([1.0, 0.85, 1.0])
    x, y, z = 8 * q.T
    lobes = np.sin(x + 1) * np.sin(1.1 * y + 2) + 0.6 * np.sin(1.9 * x + z) * np.sin(2.3 * y)
    lobes += 0.22 * np.sin(6 * x + y) * np.sin(5.5 * y - z)
    return 0.85 * (np.linalg.norm(q, axis=1) - 0.31 - LOBES * lobes)


def capsule(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    axis = end - start
    along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * axis, axis=1) - radius


def forceps(points: np.ndarray) -> np.ndarray:
    """A coiled shaft, a smooth ferrule and two open jaws."""
    way = (TIP - SHAFT) / np.linalg.norm(TIP - SHAFT)
    side = np.cross(way, TIP)  # the jaws open across the view
    side /= np.linalg.norm(side)
    along = (points - SHAFT) @ way
    shaft = capsule(points, SHAFT - 0.3 * way, TIP, 0.066) + 0.0018 * np.cos(2 * np.pi * along / 0.024)
    ferrule = capsule(points, TIP, TIP + 0.09 * way, 0.062)
    jaws = [jaw(points, TIP + 0.11 * way, 0.19 * way, s * side) for s in (-1, 1)]
    return np.minimum.reduce([shaft, ferrule, *jaws])


def jaw(points: np.ndarray, hinge: np.ndarray, length: np.ndarray, side: np.ndarray) -> np.ndarray:
    start = hinge + 0.03 * side
    return capsule(points, start, start + length + 0.13 * side, 0.040)


def tissue(points: np.ndarray, wall: Wall) -> np.ndarray:
    """Tube and polyp, merged smoothly at the polyp's foot."""
    a, b, soft = tube(points, wall), polyp(points), 0.10
    h = np.clip(0.5 + 0.5 * (b - a) / soft, 0, 1)
    return b + (a - b) * h - soft * h * (1 - h)


def scene(points: np.ndarray, wall: Wall) -> np.ndarray:
    return np.minimum(tissue(points, wall), forceps(points))


# --- light


def camera_rays() -> np.ndarray:
    """Unit vectors (fH * fW, 3); the lens is wide."""
    y, x = np.mgrid[: HEIGHT * FINE, : WIDTH * FINE].astype(float)
    x, y = (x / (HEIGHT * FINE) - 0.5 * WIDTH / HEIGHT) * 2, (y / (HEIGHT * FINE) - 0.5) * 2
    rays = np.stack([0.95 * x, 0.95 * y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def march(rays: np.ndarray, wall: Wall) -> tuple[np.ndarray, np.ndarray]:
    """Where each ray ends (N, 3), and on what (N,)."""
    far = np.full(len(rays), 0.05)
    active = np.arange(len(rays))
    for _ in range(110):
        gap = scene(rays[active] * far[active, None], wall)
        far[active] += 0.55 * gap  # folds make the tube's function steeper than a distance
        active = active[(gap > 0.002) & (far[active] < FAR)]
    points = rays * far[:, None]
    on_polyp = polyp(points) < 0.015  # where its colour begins, see `albedo`
    return points, np.where(forceps(points) < tissue(points, wall), 2, np.where(on_polyp, 1, 0)).astype(np.uint8)


def normals(points: np.ndarray, wall: Wall, step: float) -> np.ndarray:
    """Gradient of the scene by differences at the corners of a tetrahedron."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], float)
    gradient = sum(c * scene(points + step * c, wall)[:, None] for c in corners)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)


def shade(points: np.ndarray, rays: np.ndarray, truth: np.ndarray, wall: Wall) -> np.ndarray:
    """Diffuse light with falloff, gloss, and the dark of crevices; linear RGB (N, 3)."""
    soft, crisp = normals(points, wall, 0.02), normals(points, wall, 0.006)
    distance = np.linalg.norm(points, axis=1)
    diffuse, gloss = np.zeros(len(points)), np.zeros(len(points))
    for lamp in np.array([[-0.16, -0.03, 0.0], [0.16, -0.05, 0.0]]):
        ray = lamp - points
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        half = ray - rays
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        diffuse += np.maximum((soft * ray).sum(1) + 0.16, 0) / 1.16 / 2
        gloss += np.maximum((crisp * half).sum(1), 0) ** 300
    open_ = np.clip(scene(points + 0.16 * soft, wall) / 0.13, 0.40, 1)
    fall = 1 / (0.22 + distance**2)
    colour = albedo(points, distance, truth, wall)
    light = (colour * (diffuse * open_ * fall)[:, None]) * 3.6
    patches = look_up(wall.grain, points) + look_up(wall.mottle, points[:, [1, 0, 2]])
    film = np.where(truth == 1, 1.0, ramp(patches, -1.2, 1.2))  # mucus lies in patches on the wall
    light += (11.0 * gloss * film * fall * open_)[:, None] * np.array([1.0, 0.97, 0.92])
    return np.where(truth[:, None] == 2, metal(points, soft, rays, fall), light)


def albedo(points: np.ndarray, distance: np.ndarray, truth: np.ndarray, wall: Wall) -> np.ndarray:
    """Mucosa is pink-orange and redder the deeper the light has to go; the polyp redder still, with pits."""
    mottle, vessels, grain = (look_up(table, points)[:, None] for table in (wall.mottle, wall.vessels, wall.grain))
    mucosa = np.array([0.80, 0.30, 0.15]) * (1 + mottle * np.array([0.06, 0.16, 0.18]) + 0.05 * grain)
    mucosa = mucosa + ramp(mottle - 0.4 * grain, 1.0, 2.2) * np.array([0.02, 0.035, -0.02])  # films of bile
    mucosa = mucosa * (1 - 1.3 * vessels * np.array([0.22, 0.50, 0.42]))
    x, y, z = points.T
    pits = np.sin(70 * x + 6 * np.sin(31 * y)) * np.sin(66 * y + 6 * np.sin(35 * z))
    adenoma = np.array([0.74, 0.16, 0.11]) * (1 + pits[:, None] * np.array([0.04, 0.12, 0.10]) + 0.05 * grain)
    blend = ramp(polyp(points), 0.05, -0.02)[:, None]
    return (mucosa + blend * (adenoma - mucosa)) * np.exp(-distance[:, None] * np.array([0.05, 0.16, 0.20]))


def metal(points: np.ndarray, normal: np.ndarray, rays: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """Steel mirrors the lamp at the camera, the pink wall beside it and the dark lumen ahead."""
    mirror = rays - 2 * (rays * normal).sum(1, keepdims=True) * normal
    lamp = ramp(-mirror[:, 2], 0.60, 1.0) ** 3
    wall = ramp(np.abs(mirror[:, 2]), 0.9, 0.1)
    steel = np.array([0.34, 0.36, 0.40]) * (0.12 + 0.5 * ramp(-mirror[:, 1], -0.6, 0.9))[:, None]
    pink = np.array([0.50, 0.26, 0.18]) * (0.5 * wall)[:, None]
    return (steel + pink) * (1.3 * fall)[:, None] + 3.4 * (lamp * fall)[:, None]


# --- the video


def octagon() -> np.ndarray:
    """The endoscope's window, 0 .. 1 (H, W)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = np.abs(y - HEIGHT / 2 + 0.5), np.abs(x - WIDTH / 2 + 0.5)
    return ramp(np.minimum.reduce([HEIGHT / 2 - 8 - y, WIDTH / 2 - 30 - x, (255 - x - y) / np.sqrt(2)]), -0.8, 0.8)


def develop(light: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, vignette, gamma, the processor's edge enhancement, noise: uint8 (H, W, 3)."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1.2 : 1.2 : WIDTH * 1j]
    small = light.reshape(HEIGHT, FINE, WIDTH, FINE, 3).mean((1, 3)) * (1 - 0.22 * (x**2 + y**2))[..., None]
    small = blurred(small, 0.6) + 0.05 * blurred(np.minimum(small, 2), 9)  # the lens, and its glare
    video = (1 - np.exp(-2.1 * small)) ** (1 / 1.5)
    grain = blurred(rng.normal(size=video.shape), 0.55) * np.array([0.016, 0.012, 0.022]) * (1 - 0.5 * video)
    video = (video + 0.5 * (video - blurred(video, 1.2)) + grain) * window[..., None] + 0.02
    return np.round(255 * np.clip(video, 0, 1)).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Each channel of (H, W, 3) alone."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))
