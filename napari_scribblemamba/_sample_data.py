"""The entries of napari's File > Open Sample: an image of each kind, with strokes to train from.

The files are those of sample_data/, nnU-Net v2 raw datasets, which `sample_data/generate.py` draws.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

    from trainer.sample import Sample


def cardiac() -> "list[LayerDataTuple]":
    return sample_layers("cardiac", "cardiac MRI")


def microscopy() -> "list[LayerDataTuple]":
    return sample_layers("microscopy", "fluorescent nuclei")


def endoscopy() -> "list[LayerDataTuple]":
    return sample_layers("endoscopy", "endoscopy")


def sample_layers(folder: str, title: str) -> "list[LayerDataTuple]":
    """The image of a sample dataset and its strokes: 0 not painted, c + 1 for class c."""
    from trainer.dataset import load_dataset  # here, so that napari can list the samples without the engine

    dataset = load_dataset(sample_folder(folder))
    [sample] = dataset.samples
    where = {"scale": sample.spacing, "units": "pixel" if dataset.ending == ".png" else "mm"}  # a PNG has no size
    pixels, colours = image_pixels(sample)
    classes = {"scribblemamba": {"classes": list(dataset.classes)}}
    return [
        (pixels, {"name": title, "rgb": colours, **where}, "image"),
        (stroke_labels(sample), {"name": "scribbles", "metadata": classes, **where}, "labels"),
    ]


def sample_folder(name: str) -> Path:
    """Where the dataset `name` lies: beside this file in an installed wheel, beside the package in a checkout."""
    package = Path(__file__).parent
    places = [package / "sample_data" / name, package.parent / "sample_data" / name]
    for place in places:
        if (place / "dataset.json").is_file():
            return place
    raise FileNotFoundError(
        f"no sample dataset {name!r} in {' or '.join(str(p.parent) for p in places)}; "
        "reinstall napari-scribblemamba, or run `python sample_data/generate.py` in a checkout"
    )


def image_pixels(sample: "Sample") -> tuple[np.ndarray, bool]:
    """(*space) grey or (*space, 3) colours in the 8 bits of our files, and whether it is colours."""
    image = sample.image.astype(np.uint8)  # (C, *space)
    return (np.moveaxis(image, 0, -1), True) if len(image) == 3 else (image[0], False)


def stroke_labels(sample: "Sample") -> np.ndarray:
    from trainer.sample import IGNORE

    return np.where(sample.target == IGNORE, 0, sample.target + 1).astype(np.uint8)
