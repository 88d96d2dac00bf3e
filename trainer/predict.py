"""Label images with a run: python -m trainer.predict --run RUN --images FOLDER --out FOLDER [--network ensemble]

FOLDER holds CASE_0000.nii.gz (or .png, .tif; _0001 and so on for further channels); out come CASE.nii.gz and so on:
uint8 class ids as in the training dataset, with the geometry of the image.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track

console = Console(stderr=True)


@dataclass(frozen=True)
class Predict:
    """Label every image of a folder with the networks of a run."""

    run: Path
    """Folder that trainer.fit wrote."""
    images: Path
    """Folder of images, named as in a dataset's imagesTr."""
    out: Path
    """Folder for the labels."""
    network: str = "ensemble"
    """One of the run's networks, as unet, swinunet, mambaunet; or the ensemble of all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


def main() -> None:
    try:
        predict(tyro.cli(Predict, description=__doc__))
    except (ValueError, OSError) as e:
        sys.exit(f"trainer.predict: {e}")
    except KeyboardInterrupt:
        sys.exit("trainer.predict: interrupted")


def predict(options: Predict) -> None:
    from trainer.dataset import find_cases
    from trainer.formats import read_image, strip_ending, write_labels
    from trainer.model import Model

    cases = find_cases(options.images)
    model = Model.load(options.run, options.device)
    model.check_name(options.network)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, files in track(cases.items(), "predicting", console=console):
        image, spacing = read_image(files)
        labels = model.predict(image, spacing, options.network, name=str(files[0]))
        write_labels(options.out / f"{name}{strip_ending(files[0])[1]}", labels, like=files[0])
    console.print(f"{len(cases)} label images in {options.out}")


if __name__ == "__main__":
    main()
