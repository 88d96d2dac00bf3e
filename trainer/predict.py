"""Label images with a run: python -m trainer.predict --run RUN --images FOLDER --out FOLDER [--network ensemble]

RUN is a folder that trainer.fit wrote, or bundled:NAME (docs/models.md). FOLDER holds CASE_0000.nii.gz (or .png, .tif;
_0001 and so on for further channels), or images of any other names that have all their channels in one file; out come
CASE.nii.gz and so on: uint8 class ids as in the training dataset, with the geometry of the image. With --dataset
DATASET instead of --images it is the images of a dataset that are labelled, and the strokes on them help. --minimum,
--largest and --holes clean the labels. Of a run that has learnt interiors and boundaries, --instances writes the number
of each object, uint16.

Of a run for whole images comes a table: labels.csv (case, class, the probability of each), or landmarks.csv (case,
landmark, z, y, x in mm from the centre of the first voxel).
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from trainer.cleaning import NOTHING, Cleaning, clean

if TYPE_CHECKING:
    from trainer import Model

console = Console(stderr=True)


@dataclass(frozen=True)
class Predict:
    """Label every image of a folder with the networks of a run."""

    run: Path
    """Folder that trainer.fit wrote, or bundled:NAME."""
    out: Path
    """Folder for the labels."""
    images: Path | None = None
    """Folder of images, named as in a dataset's imagesTr or, with all channels in one file, in any way."""
    dataset: Path | None = None
    """Folder of a dataset whose images were drawn on, in the place of --images."""
    network: str = "ensemble"
    """One of the run's networks, as unet, swinunet, mambaunet; or the ensemble of all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    instances: bool = False
    """Write the number of each object instead of classes; --minimum is then of an object."""
    cleaning: Annotated[Cleaning, tyro.conf.arg(name="")] = NOTHING


def main() -> None:
    try:
        predict(tyro.cli(Predict, description=__doc__))
    except (ValueError, OSError) as e:
        sys.exit(f"trainer.predict: {e}")
    except KeyboardInterrupt:
        sys.exit("trainer.predict: interrupted")


def predict(options: Predict) -> None:
    from trainer.dataset import find_cases
    from trainer.formats import strip_ending, write_labels
    from trainer.model import Model

    if (options.images is None) == (options.dataset is None):
        raise ValueError("give either --images or --dataset")
    cases = find_cases(options.images or options.dataset / "imagesTr", plain=options.images is not None)
    if options.images is not None and options.out.resolve() == options.images.resolve():
        raise ValueError(f"{options.out} holds the images, which labels could replace; name another folder for --out")
    model = Model.load(options.run, options.device)
    model.check_name(options.network)
    check(options, model)
    if model.config.task != "segmentation":
        return write_table(model, cases, options)
    found = filled_in(model, options) if options.images is None else labelled(model, cases, options)
    kind = np.uint16 if options.instances else np.uint8
    options.out.mkdir(parents=True, exist_ok=True)
    for name, labels in track(found, "predicting", console=console, total=len(cases)):
        file = cases[name][0]
        write_labels(options.out / f"{name}{strip_ending(file)[1]}", labels, like=file, dtype=kind)
    console.print(f"{len(cases)} label images in {options.out}")


def check(options: Predict, model: "Model") -> None:
    """ValueError for flags that have no meaning for this run."""
    from trainer.instances import CLASSES

    cleaning = options.cleaning
    if model.config.task != "segmentation" and (options.instances or cleaning != NOTHING):
        raise ValueError(f"a run for {model.config.task} labels no voxels; leave --instances and the cleaning out")
    if options.instances and model.classes != CLASSES:
        raise ValueError(f"--instances needs a run for the classes {CLASSES}, this one has {model.classes}")
    if options.instances and (cleaning.largest or cleaning.holes):
        raise ValueError("of objects, --largest and --holes have no meaning; --minimum leaves out the small ones")


def write_table(model: "Model", cases: dict[str, list[Path]], options: Predict) -> None:
    """labels.csv or landmarks.csv, of all images."""
    from trainer.formats import read_image
    from trainer.model import ENSEMBLE
    from trainer.tables import FILES, write_label_table, write_landmark_table

    if options.network != ENSEMBLE:
        raise ValueError(f"{model.config.task} is by all networks together; leave --network out")
    ask = model.classify if model.config.task == "classification" else model.locate
    found = {}
    for name, files in track(cases.items(), "predicting", console=console):
        image, spacing = read_image(files)
        found[name] = ask(image, spacing, name=str(files[0]))
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / FILES[model.config.task]
    if model.config.task == "classification":
        labels = {name: int(P.argmax()) for name, P in found.items()}
        write_label_table(file, labels, model.classes, found)
    else:
        write_landmark_table(file, found, model.classes)
    console.print(f"{len(found)} images in {file}")


def labelled(model: "Model", cases: dict[str, list[Path]], options: Predict) -> Iterator[tuple[str, np.ndarray]]:
    from trainer.formats import read_image

    for name, files in cases.items():
        image, spacing = read_image(files)
        if options.instances:  # by probabilities: the ridge between two objects is finer than their labels
            found = model.probabilities(image, spacing, name=str(files[0]))[options.network]
        else:
            found = model.predict(image, spacing, options.network, name=str(files[0]))
        yield name, finished(found, spacing, options)


def filled_in(model: "Model", options: Predict) -> Iterator[tuple[str, np.ndarray]]:
    from trainer.dataset import load_dataset

    dataset = load_dataset(options.dataset)
    if dataset.classes != model.classes:
        raise ValueError(f"{options.dataset} has the classes {dataset.classes}, the run {model.classes}")
    for sample in dataset.samples:
        yield sample.name, finished(model.fill_in(sample, options.network), sample.spacing, options)


def finished(found: np.ndarray, spacing: tuple[float, ...], options: Predict) -> np.ndarray:
    """Class ids (*space), or for instances also probabilities (K, *space) -> what is written, (*space)."""
    from trainer.instances import objects, to_instances

    if not options.instances:
        return clean(found, options.cleaning, spacing)
    numbered = objects if np.issubdtype(found.dtype, np.floating) else to_instances
    return numbered(found, smallest=math.ceil(options.cleaning.minimum / math.prod(spacing)))


if __name__ == "__main__":
    main()
