"""Nuclei told from each other: python -m benchmarks.instances [--minutes 10] [--out FILE.json]

Dense numbers of the nuclei of the tuning half of three looks (fluorescence, histology, bright field; colours averaged),
scored on the reporting half, through the command lines as a user runs them: one network at small width, preset
supervised, planned for the dataset, minutes of CPU. F1 of objects at an IoU of .5, mean over images, by look and over
all. A network that is in the file already is skipped. Data: SCRIBBLEMAMBA_DATA, by default ../shared/data.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import tyro

from benchmarks.bundle import LOOKS, numbered
from benchmarks.images import Half, files
from benchmarks.supervised import call, fill, fit, settings


@dataclass(frozen=True)
class Options:
    """Train each network for some minutes, and score it on images that it has not seen."""

    minutes: float = 10.0
    """Of processor time for each training, on one thread."""
    networks: tuple[str, ...] = ("unet", "umamba_bot")
    out: Path = Path("benchmarks/results/instances.json")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        train, test = (made(Path(folder) / half, half) for half in ("tuning", "reporting"))
        runs, minutes = Path(folder), options.minutes
        fill(options.out, options.networks, minutes, lambda name: scored(name, train, test, runs / name, minutes))


def made(folder: Path, half: Half) -> Path:
    """The dataset of that half, grey."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for look in LOOKS:
        for file in files(look, half):
            image, numbers = numbered(file)
            grey = image.mean(-1) if image.ndim == 3 else image
            tifffile.imwrite(folder / f"imagesTr/{look}-{file.stem}_0000.tif", grey.astype(np.float32))
            tifffile.imwrite(folder / f"labelsTr/{look}-{file.stem}.tif", numbers)
    count = len(list((folder / "labelsTr").iterdir()))
    header = {"task": "instances", "channel_names": {"0": "grey"}, "numTraining": count, "file_ending": ".tif"}
    (folder / "dataset.json").write_text(json.dumps(header))
    return folder


def scored(network: str, train: Path, test: Path, run: Path, minutes: float) -> dict:
    fit(network, train, run, minutes)
    images = ["--images", test / "imagesTr", "--out", run / "labels"]
    call("predict", "--run", run, *images, "--instances", "--device", "cpu")
    call("evaluate", "--predictions", run / "labels", "--references", test / "labelsTr", "--json", run / "scores.json")
    cases = json.loads((run / "scores.json").read_text())["cases"]
    each = {name: case["f1"] for name, case in cases.items()}
    looks = {look: [score for name, score in each.items() if name.startswith(look)] for look in LOOKS}
    f1 = {f"{look} ({len(scores)} images)": mean(scores) for look, scores in looks.items()}
    return {"f1": mean(list(each.values())), **f1, **settings(run, minutes, ("patch", "batch"))}


def mean(scores: Sequence[float]) -> float:
    return round(float(np.mean(scores)), 4)


if __name__ == "__main__":
    main()
