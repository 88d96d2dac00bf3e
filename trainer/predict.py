"""Label images with a run: python -m trainer.predict --run RUN --images FOLDER --out FOLDER [--network ensemble]

RUN is a folder that trainer.fit wrote, or bundled:NAME (docs/models.md). FOLDER holds CASE_0000.nii.gz (or .png, .tif;
_0001 and so on for further channels), or images of any other names that have all their channels in one file; out come
CASE.nii.gz and so on: uint8 class ids as in the training dataset, with the geometry of a NIfTI image. With --dataset
DATASET instead of --images it is the images of a dataset that are labelled, which must be fit to train on, and the
strokes on them help. --minimum, --largest and --holes clean the labels. Of a run that has learnt interiors and
boundaries, --instances writes the number of each object, uint16. Images that cannot be labelled are named at the end.

Of a run for whole images comes a table: labels.csv (case, class, the probability of each), or landmarks.csv (case,
landmark, z, y, x in mm from the centre of the first voxel).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, track

from trainer.cleaning import NOTHING, Cleaning

if TYPE_CHECKING:
    from trainer import Model, Sample
    from trainer.labelling import Step

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
    from trainer.labelling import label_images
    from trainer.model import Model

    if (options.images is None) == (options.dataset is None):
        raise ValueError("give either --images or --dataset")
    cases = find_cases(options.images or options.dataset / "imagesTr", plain=options.images is not None)
    model = Model.load(options.run, options.device)
    model.check_name(options.network)
    if model.config.task != "segmentation":
        return write_table(model, cases, options)
    drawn_on = None if options.images else samples_of(model, options.dataset)
    steps = label_images(
        model, cases, options.out, options.network, drawn_on, cleaning=options.cleaning, instances=options.instances
    )
    report(steps, options.out)


def samples_of(model: "Model", folder: Path) -> "dict[str, Sample]":
    from trainer.dataset import load_dataset

    dataset = load_dataset(folder)
    if dataset.classes != model.classes:
        raise ValueError(f"{folder} has the classes {dataset.classes}, the run {model.classes}")
    return {sample.name: sample for sample in dataset.samples}


def report(steps: "Iterator[Step]", out: Path) -> None:
    """ValueError at the end where some images could not be labelled."""
    written, errors = 0, []
    with Progress(console=console) as bar:
        task = bar.add_task("predicting", total=1)
        for step in steps:
            bar.update(task, completed=step.fraction, description=f"predicting {step.case}")
            written += step.file is not None
            errors += [f"{step.case}: {step.error}"] if step.error else []
    console.print(f"{written} label images in {out}")
    if errors:
        raise ValueError("\n".join([f"{len(errors)} could not be labelled", *errors]))


def write_table(model: "Model", cases: dict[str, list[Path]], options: Predict) -> None:
    """labels.csv or landmarks.csv, of all images."""
    from trainer.formats import read_image
    from trainer.model import ENSEMBLE
    from trainer.tables import FILES, write_label_table, write_landmark_table

    if options.network != ENSEMBLE:
        raise ValueError(f"{model.config.task} is by all networks together; leave --network out")
    if options.instances or options.cleaning != NOTHING:
        raise ValueError(f"a run for {model.config.task} labels no voxels; leave --instances and the cleaning out")
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


if __name__ == "__main__":
    main()
