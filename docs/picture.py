"""Draw a run beside its strokes: python docs/picture.py RUN DATASET OUT.png

RUN holds the folders unet, swinunet, mambaunet and ensemble of predictions of the dataset's first case.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from trainer.dataset import load_dataset
from trainer.formats import read_labels
from trainer.sample import IGNORE, Sample

COLOURS = np.array([[150, 150, 150], [230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167]], np.uint8)
SIZE, MARGIN, CAPTION = 300, 8, 26  # pixels
NETWORKS = {"unet": "UNet", "swinunet": "SwinUNet", "mambaunet": "MambaUNet", "ensemble": "ensemble"}


def main(run: Path, dataset: Path, out: Path) -> None:
    sample = load_dataset(dataset).samples[0]
    z = annotated_slice(sample.target)
    box = around_strokes(sample.target[z])
    panels = {"image and strokes": strokes_on(grey(sample, z), sample.target[z])}
    for network, caption in NETWORKS.items():
        file = next((run / network).glob(f"{sample.name}.*"))
        panels[caption] = labels_on(grey(sample, z), read_labels(file)[0][z])
    joined({caption: panel[box] for caption, panel in panels.items()}).save(out)


def annotated_slice(target: np.ndarray) -> int:
    """The slice with the most strokes."""
    return int((target != IGNORE).sum((1, 2)).argmax())


def around_strokes(target: np.ndarray) -> tuple[slice, slice]:
    """A square around the strokes of all classes but the background."""
    points = np.argwhere((target != IGNORE) & (target > 0))
    centre, half = points.mean(0).astype(int), int(np.ptp(points, axis=0).max() * 0.9)
    return tuple(slice(max(0, c - half), c + half) for c in centre)


def grey(sample: Sample, z: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    plane = sample.image[0, z]
    unit = ((plane - plane.min()) / np.percentile(plane - plane.min(), 99.5)).clip(0, 1)
    return np.repeat((255 * unit).astype(np.uint8)[..., None], 3, -1)


def strokes_on(picture: np.ndarray, target: np.ndarray) -> np.ndarray:
    drawn = target != IGNORE
    picture[drawn] = COLOURS[target[drawn]]
    return picture


def labels_on(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    tint = np.where(labels == 0, 0.0, 0.4)[..., None]
    blended = (picture * (1 - tint) + COLOURS[labels] * tint).astype(np.uint8)
    edge = find_boundaries(labels, mode="inner") & (labels > 0)
    blended[edge] = COLOURS[labels[edge]]
    return blended


def joined(panels: dict[str, np.ndarray]) -> Image.Image:
    width = len(panels) * (SIZE + MARGIN) + MARGIN
    page = Image.new("RGB", (width, SIZE + CAPTION + 2 * MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for i, (caption, panel) in enumerate(panels.items()):
        left = MARGIN + i * (SIZE + MARGIN)
        page.paste(Image.fromarray(panel).resize((SIZE, SIZE), Image.Resampling.BICUBIC), (left, MARGIN))
        draw.text((left + SIZE / 2, SIZE + MARGIN + CAPTION / 2), caption, "black", font, anchor="mm")
    return page


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
