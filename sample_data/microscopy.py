"""A fluorescence field of cultured cells, nuclei stained with DAPI. After SIMCEP, Lehmussola et al., IEEE TMI 2007.

Lengths in pixels. Each nucleus is drawn in a window of its own and added to the field, as light adds in a wide-field
microscope.
"""

from typing import NamedTuple

import numpy as np
from noise import blur, fractal, ramp, smooth, wave
from scipy import ndimage

SIZE, NUCLEI, WINDOW = 480, 128, 80  # pixels, count, pixels
CLASSES = ("background", "nucleus")


class Nucleus(NamedTuple):
    y: float
    x: float
    angle: float  # radians
    length: float  # half axes
    width: float
    bend: float  # 0 straight, 1 a bean
    kind: str  # "interphase", "metaphase", "anaphase", "apoptotic"


def microscopy(seed: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image uint8 (H, W), truth uint8 (H, W) of 0 background, 1 nucleus, and the nuclei's numbers uint16 (H, W)."""
    rng = np.random.default_rng(seed)
    light, numbers = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), np.uint16)
    for number, nucleus in enumerate(culture(rng), start=1):
        glow, body = draw(nucleus, rng)
        here, there = overlap(nucleus)
        light[here] += glow[there]
        numbers[here][body[there]] = number
    return camera(light, rng), (numbers > 0).astype(np.uint8), numbers


# --- where the nuclei lie


def culture(rng: np.random.Generator) -> list[Nucleus]:
    """Nuclei in loose clusters; neighbours touch, a few overlap, none lies on top of another."""
    density = smooth((SIZE, SIZE), 130, rng)
    nuclei: list[Nucleus] = []
    for _ in range(6000):
        candidate = random_nucleus(rng, nuclei)
        y, x = int(candidate.y), int(candidate.x)
        inside = 0 <= y < SIZE and 0 <= x < SIZE
        if inside and density[y, x] + 0.5 * rng.normal() > -0.8 and all(apart(candidate, n, rng) for n in nuclei):
            nuclei.append(candidate)
        if len(nuclei) == NUCLEI:
            break
    return nuclei


def random_nucleus(rng: np.random.Generator, others: list[Nucleus]) -> Nucleus:
    kind = str(rng.choice(["interphase", "metaphase", "anaphase", "apoptotic"], p=[0.945, 0.02, 0.015, 0.02]))
    length = 18 * np.clip(rng.lognormal(0, 0.16), 0.75, 1.5)
    width = length * rng.uniform(0.55, 0.88)
    y, x = rng.uniform(0, SIZE, 2)
    if others and rng.random() < 0.6:  # a sister cell lies close by
        sister, way = others[rng.integers(len(others))], rng.uniform(0, 2 * np.pi)
        reach = 0.9 * (width + sister.width)
        y, x = sister.y + reach * np.sin(way), sister.x + reach * np.cos(way)
    bend = rng.uniform(0.8, 1.4) if rng.random() < 0.2 else rng.uniform(0, 0.4)
    return Nucleus(y, x, rng.uniform(0, np.pi), length, width, bend, kind)


def apart(a: Nucleus, b: Nucleus, rng: np.random.Generator) -> bool:
    """Whether two nuclei at most touch; now and then a slight overlap passes."""
    away = np.arctan2(b.y - a.y, b.x - a.x)
    gap = np.hypot(a.y - b.y, a.x - b.x) - radius(a, away) - radius(b, away)
    return bool(gap > (-5 if rng.random() < 0.10 else -0.8))


def radius(n: Nucleus, way: float) -> float:
    """Of the ellipse about `n`, in the direction `way`."""
    return n.length * n.width / np.hypot(n.width * np.cos(way - n.angle), n.length * np.sin(way - n.angle))


def overlap(n: Nucleus) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the field under a nucleus's window, and the part of the window over the field."""
    here, there = [], []
    for centre in (int(n.y), int(n.x)):
        start = centre - WINDOW // 2
        low, high = max(start, 0), min(start + WINDOW, SIZE)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return tuple(here), tuple(there)


# --- what a nucleus looks like


def draw(n: Nucleus, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Light (WINDOW, WINDOW) and the pixels that belong to the nucleus."""
    dy, dx = np.mgrid[:WINDOW, :WINDOW] - WINDOW / 2.0
    dy, dx = dy - n.y % 1, dx - n.x % 1
    u = dx * np.cos(n.angle) + dy * np.sin(n.angle)
    v = dy * np.cos(n.angle) - dx * np.sin(n.angle)
    brightness = rng.lognormal(-0.05, 0.30)
    glow, body = DRAWINGS[n.kind](n, u, v, rng)
    focus = rng.choice([0.8, 1.1, 1.6, 2.6], p=[0.45, 0.3, 0.17, 0.08])
    return brightness * blur(glow, focus), body


def interphase(n: Nucleus, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A flat dome with mottled chromatin, dark nucleoli and a slightly brighter rim."""
    v = v + n.bend * (0.26 * u**2 / n.length - 0.10 * n.length)
    angle = np.arctan2(v / n.width, u / n.length)
    rim = 1 + 0.035 * wave(angle, rng, range(2, 7), decay=0.8)
    inside = 1 - np.hypot(u / n.length, v / n.width) / rim
    depth = np.maximum(inside, 0) * n.width  # pixels under the rim, roughly
    dome = ramp(depth, 0, 4.5) * (0.80 + 0.20 * np.sqrt(np.maximum(inside, 0)))
    mottle = 0.15 * fractal(u.shape, 7, rng, 3, 0.8) + 0.10 * np.exp(-(((depth - 2.5) / 1.6) ** 2))
    return dome * np.clip(1 + mottle - nucleoli(n, u, v, rng) + chromocentres(u.shape, rng), 0.15, None), inside > 0.045


def nucleoli(n: Nucleus, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    holes = np.zeros_like(u)
    for _ in range(rng.integers(1, 5)):
        way, far, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.6), rng.uniform(1.6, 3.4)
        distance = np.hypot(u - far * n.length * np.cos(way), (v - far * n.width * np.sin(way)) * rng.uniform(0.8, 1.3))
        holes = np.maximum(holes, rng.uniform(0.3, 0.6) * np.exp(-((distance / size) ** 4)))
    return holes


def chromocentres(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.05, 0.3) * ramp(fractal(shape, 4, rng, 2), 1.2, 2.4)


def metaphase(n: Nucleus, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Chromosomes condensed to a bright ragged plate."""
    return plate(u, v, 0.72 * n.length, 0.36 * n.width, rng)


def anaphase(n: Nucleus, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two plates that have just parted, bent away from each other."""
    gap, curl = 0.62 * n.width, 0.35 * u**2 / n.length
    upper, lower = (plate(u, v + s * (gap - curl), 0.60 * n.length, 0.30 * n.width, rng) for s in (1, -1))
    return upper[0] + lower[0], upper[1] | lower[1]


def plate(
    u: np.ndarray, v: np.ndarray, long: float, thick: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    ragged = 1 + 0.13 * fractal(u.shape, 9, rng, 3, 0.6)
    inside = ragged - np.hypot(u / long, v / thick)
    return 1.75 * ramp(inside, 0, 0.6) * (1 + 0.14 * fractal(u.shape, 4, rng)), inside > 0.1


def apoptotic(n: Nucleus, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A shrunken nucleus in bright fragments."""
    glow = np.zeros_like(u)
    for _ in range(rng.integers(3, 6)):
        a, b, size = rng.normal(0, 0.25 * n.length), rng.normal(0, 0.25 * n.width), rng.uniform(2.5, 5.5)
        glow = np.maximum(glow, rng.uniform(1.0, 1.9) * ramp(np.hypot(u - a, v - b), size, 0.45 * size))
    return glow, glow > 0.25


DRAWINGS = {"interphase": interphase, "metaphase": metaphase, "anaphase": anaphase, "apoptotic": apoptotic}


# --- the microscope


def camera(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Haze, uneven illumination, photon and read noise, 8 bits."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    haze = 0.10 * blur(light, 9) + 0.16 * blur(light, 38) + ghosts(rng)
    medium = 0.11 + 0.02 * smooth((SIZE, SIZE), 160, rng) + 0.03 * x - 0.02 * y
    lamp = 1.04 - 0.22 * ((x - 0.15) ** 2 + (y + 0.1) ** 2)
    cytoplasm = 0.012 * ramp(fractal((SIZE, SIZE), 24, rng), 0.0, 2.0)
    photons = 170 * np.maximum((light + haze + medium + cytoplasm) * lamp, 0)
    electrons = rng.poisson(photons) + rng.normal(0, 2.6, photons.shape) + 6
    return np.clip(np.round(electrons / 170 * 100), 0, 255).astype(np.uint8)


def ghosts(rng: np.random.Generator) -> np.ndarray:
    """Cells far above the focal plane, and grains of dust that shine."""
    field = np.zeros((SIZE, SIZE))
    for y, x in rng.integers(0, SIZE, (9, 2)):
        field[y, x] += rng.uniform(20, 60)
    field = blur(field, 15)
    for y, x in rng.integers(3, SIZE - 3, (14, 2)):
        field[y, x] += rng.uniform(0.5, 2.5)
    return ndimage.gaussian_filter(field, 0.8)
