"""Generated images with their truth that bundled models learn from, beside real ones: nuclei, and lesions of the skin.

Lengths in pixels, S side of an image, values 0..1. The same generator state gives the same image.
"""

import numpy as np
from scipy import ndimage as ndi

from trainer.shapes import Rng, polar, smooth_noise

FINEST = 4.0  # radius of the smallest nuclei
HIDDEN = 0.3  # share of a nucleus that may lie under another


def nuclei(rng: Rng, side: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Grey image (S, S) float32 and the ids of its nuclei (S, S) uint16."""
    ids, depth = field(rng, side)
    look = fluorescent if rng.uniform() < 0.5 else stained
    return with_range(look(ids, depth, rng)), ids


# ---- where nuclei lie


def field(rng: Rng, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (S, S), and how deep inside its nucleus each pixel lies (S, S), in pixels. Sparse or crowded, of one size."""
    ids, depth, grid = np.zeros((side, side), np.uint16), np.zeros((side, side)), np.indices((side, side))
    size, places = FINEST * np.exp(rng.uniform(0, np.log(7))), []  # 4 to 28 of radius
    wanted = int(rng.uniform(0.05, 0.6) * side**2 / (np.pi * size**2)) + 1
    for number in range(1, min(wanted, 250) + 1):
        place = rng.uniform(0, side, 2)
        if places and rng.uniform() < 0.5:  # beside another one
            way = rng.uniform(0, 2 * np.pi)
            place = places[rng.integers(len(places))] + size * rng.uniform(1.6, 2.2) * np.array(
                [np.sin(way), np.cos(way)]
            )
        if (place < 0).any() or (place >= side).any():
            continue
        radius = size * np.exp(rng.normal(0, 0.18))
        box = tuple(slice(int(max(0, p - 2.2 * radius)), int(p + 2.2 * radius + 1)) for p in place)
        inside = radius - polar(grid[:, *box], place, radius, rng)
        body = inside > 0
        if (ids[box][body] > 0).mean() < HIDDEN * rng.uniform():
            ids[box][body & (ids[box] == 0)] = number
            depth[box] = np.maximum(depth[box], inside)
            places.append(place)
    return ids, depth


def of_each(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(S, S): the value of the nucleus that a pixel is of, 0 outside; the first value is that of id 1."""
    return np.r_[0.0, values][ids]


# ---- what nuclei look like


def fluorescent(ids: np.ndarray, depth: np.ndarray, rng: Rng) -> np.ndarray:
    """Bright domes on a dark ground with haze, dust and the noise of few photons."""
    side, count = len(ids), int(ids.max())
    bright = of_each(ids, rng.lognormal(0, rng.uniform(0.1, 0.6), count))
    dome = 1 - np.exp(-depth.clip(0) / rng.uniform(0.5, 4))
    mottle = 1 + rng.uniform(0, 0.35) * smooth_noise(side, rng.uniform(0.8, 3), rng)
    light = bright * dome * mottle.clip(0.2)
    if rng.uniform() < 0.3:  # nucleoli
        light *= 1 - 0.5 * (smooth_noise(side, rng.uniform(1.5, 3), rng) > 1.5)
    light = ndi.gaussian_filter(light, rng.uniform(0.4, 2))
    light += rng.uniform(0, 0.25) * ndi.gaussian_filter(light, 9) + rng.uniform(0, 0.3) + specks(side, rng)
    light *= np.exp(rng.uniform(0, 0.2) * smooth_noise(side, side / 3, rng))
    photons = np.exp(rng.uniform(np.log(8), np.log(400)))
    return rng.poisson(photons * light.clip(0)) / photons + rng.normal(0, 0.01, light.shape)


def stained(ids: np.ndarray, depth: np.ndarray, rng: Rng) -> np.ndarray:
    """Dark nuclei, mottled or pale inside, on a lighter ground with cytoplasm, fibres and stain that is none."""
    side, count = len(ids), int(ids.max())
    ground = rng.uniform(0.7, 0.95) + rng.uniform(0, 0.05) * smooth_noise(side, rng.uniform(2, 8), rng)
    image = ground - cytoplasm(ids, rng)
    dark = rng.uniform(0.1, 0.45) + rng.uniform(0, 0.1) * rng.normal(size=count)
    mottle = rng.uniform(0, 0.12) * smooth_noise(side, rng.uniform(0.8, 2.5), rng)
    pale = rng.uniform(0, 0.2) * (1 - np.exp(-depth.clip(0) / 3))  # the rim is darker than the inside
    image = np.where(ids > 0, np.minimum(of_each(ids, dark) + mottle + pale, image - 0.08), image)
    if rng.uniform() < 0.4:  # faint bodies that are no nuclei
        faint = smooth_noise(side, rng.uniform(3, 7), rng) > rng.uniform(1.5, 2.2)
        image[faint & (ids == 0)] -= rng.uniform(0.05, 0.2)
    image = ndi.gaussian_filter(image - specks(side, rng), rng.uniform(0.5, 1.8))
    return image + rng.uniform(0.003, 0.03) * rng.normal(size=image.shape)


def cytoplasm(ids: np.ndarray, rng: Rng) -> np.ndarray:
    """(S, S) how much darker than the ground: patches anywhere, or a body about each nucleus."""
    side, grain = len(ids), smooth_noise(len(ids), rng.uniform(1, 3), rng)
    if rng.uniform() < 0.5:
        patch = smooth_noise(side, rng.uniform(6, 25), rng) > rng.uniform(-1, 1)
    else:
        away = ndi.distance_transform_edt(ids == 0) + 3 * smooth_noise(side, 6, rng)
        patch = away < rng.uniform(5, 40)
    return rng.uniform(0.02, 0.3) * patch * (1 + rng.uniform(0, 0.3) * grain)


def specks(side: int, rng: Rng) -> np.ndarray:
    """(S, S) grains of dust, on some images."""
    dots = (rng.uniform(size=(side, side)) < 2e-3 * rng.uniform()) * rng.uniform(0.5, 4)
    return rng.choice([0, 1]) * ndi.gaussian_filter(dots * 1.0, rng.uniform(0.4, 1.2))


def with_range(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.1, 99.9))
    return ((image - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)


# ---- lesions of the skin


def lesion(rng: Rng, side: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Colour image (3, S, S) float32 of skin with one lesion, seen through a dermatoscope, and its mask (S, S) bool."""
    image = skin(rng, side)
    image, mask = with_lesion(image, rng)
    for spoil, often in ((with_spots, 0.5), (with_ink, 0.25), (with_hair, 0.5), (with_glare, 0.3), (with_ruler, 0.5)):
        if rng.uniform() < often:
            image = spoil(image, mask, rng)
    if rng.uniform() < 0.5:
        image = with_rim(image, rng)
    image = ndi.gaussian_filter(image, (0, *[rng.uniform(0.3, 1.2)] * 2))
    image = image * np.exp(rng.normal(0, 0.05, (3, 1, 1))) + rng.normal(0, rng.uniform(0.003, 0.02), image.shape)
    return image.clip(0, 1).astype(np.float32), mask


def skin(rng: Rng, side: int) -> np.ndarray:
    """(3, S, S): pale to brown, with redness in clouds, pores, and light that falls off to a side."""
    tone = np.array([[0.85, 0.68, 0.58]]).T[..., None] * rng.uniform(0.6, 1.15) * np.exp(rng.normal(0, 0.04, (3, 1, 1)))
    red = rng.uniform(0, 0.08) * smooth_noise(side, rng.uniform(5, 25), rng)
    pores = rng.uniform(0, 0.03) * smooth_noise(side, rng.uniform(0.7, 2), rng)
    fall = rng.uniform(0, 0.12) * smooth_noise(side, side / 3, rng)
    return tone * (1 + pores + fall) - red * np.array([0.2, 1, 1])[:, None, None]


def with_lesion(image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A body of some colour with a soft, ragged border; inside, clouds, dots, a net, or a darker part."""
    side = image.shape[-1]
    radius = side * np.exp(rng.uniform(np.log(0.09), np.log(0.45)))
    centre = side * (0.5 + rng.normal(0, 0.09, 2)).clip(0.25, 0.75)
    ragged = rng.uniform(0, 0.2) * radius * smooth_noise(side, max(2.0, rng.uniform(0.1, 0.4) * radius), rng)
    inside = radius - polar(np.indices((side, side)), centre, radius, rng) + ragged
    soft = np.exp(rng.uniform(np.log(0.8), np.log(0.25 * radius + 1)))
    share = 1 / (1 + np.exp(-inside / soft))
    kinds = ([0.40, 0.24, 0.15], [0.25, 0.17, 0.14], [0.75, 0.42, 0.40], [0.62, 0.42, 0.28], [0.85, 0.72, 0.68])
    colour = np.array(kinds[rng.choice(5, p=[0.35, 0.2, 0.15, 0.22, 0.08])]) * np.exp(rng.normal(0, 0.1, 3))
    body = np.broadcast_to(colour[:, None, None], image.shape) * (1 + pattern(side, inside, rng))
    strength = share * rng.uniform(0.4, 1.0)
    return image * (1 - strength) + body * strength, inside > 0


def pattern(side: int, inside: np.ndarray, rng: Rng) -> np.ndarray:
    """(S, S) brighter and darker parts of a lesion."""
    clouds = rng.uniform(0.05, 0.35) * smooth_noise(side, rng.uniform(2, 12), rng)
    dots = -0.4 * (smooth_noise(side, rng.uniform(0.8, 2), rng) > rng.uniform(1.5, 2.5))
    net = rng.uniform(0, 0.3) * (abs(smooth_noise(side, rng.uniform(1.5, 3), rng)) < 0.3)
    core = rng.choice([-0.4, 0, 0.3]) * (inside + 4 * smooth_noise(side, 5, rng) > 0.5 * inside.max())
    return clouds + dots * rng.choice([0, 1]) - net * rng.choice([0, 1]) + core


def with_spots(image: np.ndarray, mask: np.ndarray, rng: Rng) -> np.ndarray:
    """Freckles and redness that are no lesion."""
    side = image.shape[-1]
    spots = (smooth_noise(side, rng.uniform(1.5, 5), rng) > rng.uniform(1.6, 2.4)) & ~mask
    faint = ndi.gaussian_filter(spots * rng.uniform(0.1, 0.4), rng.uniform(0.8, 2.5))
    return image * (1 - faint * np.array([0.4, 0.9, 1])[:, None, None])


def with_ink(image: np.ndarray, mask: np.ndarray, rng: Rng) -> np.ndarray:
    """A stroke of a surgical pen."""
    stroke = line(mask, rng, rng.uniform(0.01, 0.04), bend=0.5) * rng.uniform(0.4, 0.9) * (~mask)
    stroke = stroke * (smooth_noise(len(mask), 1.0, rng) > -0.8)
    colour = np.array([0.35, 0.25, 0.6])[:, None, None] * np.exp(rng.normal(0, 0.2, (3, 1, 1)))
    return image * (1 - stroke) + colour * stroke


def with_hair(image: np.ndarray, mask: np.ndarray, rng: Rng) -> np.ndarray:
    colour = np.array([0.35, 0.22, 0.12])[:, None, None] * rng.uniform(0.3, 1.8)
    for _ in range(rng.integers(2, 30)):
        hair = line(mask, rng, rng.uniform(0.002, 0.006), bend=0.4) * rng.uniform(0.3, 0.9)
        image = image * (1 - hair) + colour * hair
    return image


def line(mask: np.ndarray, rng: Rng, width: float, bend: float) -> np.ndarray:
    """(S, S) 0..1: an arc across the image; width as a share of its side."""
    side = len(mask)
    y, x = np.indices(mask.shape) / side - rng.uniform(0, 1, (2, 1, 1))
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    away = abs(across - bend * rng.normal() * along**2)
    return np.exp(-((away / width) ** 2)) * (abs(along) < rng.uniform(0.2, 1))


def with_glare(image: np.ndarray, mask: np.ndarray, rng: Rng) -> np.ndarray:
    """Reflections and scales, white."""
    white = ndi.gaussian_filter(smooth_noise(len(mask), 1.5, rng) > rng.uniform(2.2, 3), 0.6, output=float)
    return image + (0.95 - image) * white * rng.uniform(0.3, 1)


def with_ruler(image: np.ndarray, mask: np.ndarray, rng: Rng) -> np.ndarray:
    """A scale of ticks near a border."""
    side, image = len(mask), image.copy()
    row, start, step = int(rng.uniform(0.75, 0.95) * side), int(rng.uniform(0, 0.5) * side), int(rng.integers(4, 9))
    image[:, row, start : start + 8 * step] *= 0.5
    for column in range(start, min(start + 8 * step, side), step):
        image[:, row - 4 : row, column] *= 0.5
    return image


def with_rim(image: np.ndarray, rng: Rng) -> np.ndarray:
    """The dark round edge of the field of view."""
    side = image.shape[-1]
    y, x = np.indices((side, side)) / (side - 1) * 2 - 1
    away = np.hypot(y + rng.normal(0, 0.04), x + rng.normal(0, 0.04)) - rng.uniform(1.0, 1.35)
    return image * (1 - (0.5 + 0.5 * np.tanh(away / rng.uniform(0.005, 0.1))) * rng.uniform(0.6, 1))
