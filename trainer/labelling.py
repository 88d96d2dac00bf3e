"""Labels for a folder of images, one after the other; what goes wrong with one of them leaves the others alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.cleaning import NOTHING, Cleaning, clean
from trainer.formats import read_image, strip_ending, write_labels
from trainer.instances import CLASSES, objects, to_instances
from trainer.model import ENSEMBLE, Model
from trainer.sample import Sample

Cases = Mapping[str, Sequence[Path]]  # name -> the files of its channels, as `find_cases` gives them
WRITING = 0.01  # of the work on an image, after the prediction


@dataclass(frozen=True)
class Step:
    """How far it is. The last step of an image has the file that was written, or the error in its place."""

    case: str
    fraction: float  # of all images, 0..1
    file: Path | None = None
    error: str = ""


def label_images(
    model: Model,
    cases: Cases,
    out: Path,
    network: str = ENSEMBLE,
    drawn_on: Mapping[str, Sample] | None = None,
    cleaning: Cleaning = NOTHING,
    instances: bool = False,
) -> Iterator[Step]:
    """Writes OUT/CASE with the image's ending: uint8 class ids, or uint16 numbers of objects, with the geometry of the
    image.

    A step for every slice, so that whoever iterates can end it soon. drawn_on: the images with their strokes, which
    then help. instances: number the objects; `cleaning.minimum` is then the size of the smallest. ValueError where
    labels would be written over images, or the run is not one for this.
    """
    check(model, network, cleaning, instances)
    targets = targets_of(cases, out)
    out.mkdir(parents=True, exist_ok=True)
    for index, (case, files) in enumerate(cases.items()):
        try:
            if drawn_on is None:
                parts = predicted(model, files, network, instances)
            else:
                parts = filled_in(model, drawn_on[case], network)
            for done, found, spacing in parts:
                yield Step(case, (index + done * (1 - WRITING)) / len(cases))
                if done == 1:
                    labels = finished(found, spacing, cleaning, instances)
                    write_labels(targets[case], labels, files[0], labels.dtype.type)
        except (ValueError, OSError, MemoryError, RuntimeError) as e:  # RuntimeError: torch's, for memory too
            yield Step(case, (index + 1) / len(cases), error=str(e) or type(e).__name__)
        else:
            yield Step(case, (index + 1) / len(cases), targets[case])


def check(model: Model, network: str, cleaning: Cleaning, instances: bool) -> None:
    model.check_task("segmentation")
    model.check_name(network)
    if instances and model.classes != CLASSES:
        raise ValueError(f"objects are told apart by a run with the classes {CLASSES}, got {model.classes}")
    if instances and (cleaning.largest or cleaning.holes):
        raise ValueError("of objects, only the minimum of the cleaning has a meaning; leave --largest and --holes out")


def targets_of(cases: Cases, out: Path) -> dict[str, Path]:
    """Case -> its file of labels. ValueError where they would lie among the images, which they could replace."""
    targets = {case: out / f"{case}{strip_ending(files[0])[1]}" for case, files in cases.items()}
    if any(file.parent.resolve() == out.resolve() for files in cases.values() for file in files):
        raise ValueError(f"{out} holds the images, which labels could replace; name another folder for the labels")
    return targets


def predicted(
    model: Model, files: Sequence[Path], network: str, instances: bool
) -> Iterator[tuple[float, np.ndarray, tuple[float, ...]]]:
    """After every slice what is done of the image, 0..1, its labels (*space) so far, and the spacing.

    Of instances the last are probabilities (K, *space): the ridge between two objects is finer than their labels.
    """
    image, spacing = read_image(files)
    labels = np.zeros(image.shape[1:], np.uint8)
    whole = labels.ndim == len(model.config.patch)  # a slice, or a volume for networks that see it as one
    slices, seen = labels[None] if whole else labels, []
    for z, P in enumerate(model.stream(image, network, str(files[0]), spacing)):
        slices[z] = P[network].argmax(0)
        seen += [P[network]] if instances else []
        if z + 1 < len(slices):
            yield (z + 1) / len(slices), labels, spacing
    yield 1.0, np.stack(seen, 1).reshape(-1, *labels.shape) if instances else labels, spacing


def filled_in(model: Model, sample: Sample, network: str) -> Iterator[tuple[float, np.ndarray, tuple[float, ...]]]:
    yield 1.0, model.fill_in(sample, network), sample.spacing


def finished(found: np.ndarray, spacing: Sequence[float], cleaning: Cleaning, instances: bool) -> np.ndarray:
    """Class ids (*space), or for instances also probabilities (K, *space) -> what is written, (*space)."""
    if not instances:
        return clean(found, cleaning, spacing)
    numbered = objects if np.issubdtype(found.dtype, np.floating) else to_instances
    return numbered(found, smallest=math.ceil(cleaning.minimum / math.prod(spacing)))
