"""Three scribbled slices of a heart, three minutes: python benchmarks/three_slices.py [--minutes 3] [--out FILE.json]

For each of six ACDC volumes: the expert strokes of three evenly spread slices, through the command lines trainer.fit,
trainer.predict and trainer.evaluate as a user runs them. Reports Dice (mean of RV, MYO and LV over the whole volume) of
each network, the ensemble, the propagated strokes alone, and ensemble and propagated strokes together ("filled in",
what the plugin shows). Data: SCRIBBLEMAMBA_DATA, by default ../shared/data.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from trainer.dataset import save_dataset
from trainer.metrics import dice
from trainer.propagation import propagate
from trainer.sample import IGNORE, Sample

DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", "../shared/data"))
PATIENTS = ("030", "045", "050", "065", "070", "085")
CLASSES = ("background", "RV", "MYO", "LV")
FILLED = "filled in"
ANSWERS = ("unet", "swinunet", "mambaunet", "ensemble", FILLED)


@dataclass(frozen=True)
class Options:
    """Measure what three scribbled slices give."""

    minutes: float = 3.0
    """Budget of each fit."""
    out: Path | None = None
    """JSON file for the figures."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    rows = {}
    for patient in PATIENTS:
        with tempfile.TemporaryDirectory() as folder:
            rows[patient] = measured(patient, Path(folder), options.minutes)
        print(patient, rows[patient], flush=True)
    table(rows)
    if options.out:
        options.out.write_text(
            json.dumps({"minutes": options.minutes, "dice": rows, "median": medians(rows)}, indent=1)
        )


def measured(patient: str, folder: Path, minutes: float) -> dict[str, float]:
    """Mean foreground Dice of each answer, and the seconds of the fit."""
    sample, dense = three_slices(DATA / f"acdc/dev/patient{patient}_frame01.npz")
    data, run = folder / "data", folder / "run"
    save_dataset(data, [sample], CLASSES)
    save_dataset(folder / "truth", [dense], CLASSES, sparse=False)
    teacher = propagate(sample, len(CLASSES)).labels
    scores = {"propagation": float(np.mean([dice(teacher == c, dense.target == c) for c in (1, 2, 3)]))}
    started = time.monotonic()
    call("fit", data, "--out", run, "--minutes", minutes)
    scores["seconds"] = round(time.monotonic() - started, 1)
    for answer in ANSWERS:
        out = folder / answer
        what = ("--dataset", data) if answer == FILLED else ("--images", data / "imagesTr", "--network", answer)
        call("predict", "--run", run, "--out", out, *what)
        call("evaluate", "--predictions", out, "--references", folder / "truth/labelsTr", "--json", out / "scores.json")
        scores[answer] = json.loads((out / "scores.json").read_text())["mean_foreground"]["dice"]
    return {name: round(score, 3) for name, score in scores.items()}


def three_slices(file: Path) -> tuple[Sample, Sample]:
    """A volume with the strokes of three slices, evenly spread over those that have strokes of all kinds; and dense."""
    content = np.load(file)
    label, strokes = content["label"], content["scribble"].astype(np.uint8)
    strokes[strokes == len(CLASSES)] = IGNORE
    full = [z for z in range(len(label)) if label[z].any() and len(np.unique(strokes[z][strokes[z] != IGNORE])) > 1]
    keep = {full[round(i)] for i in np.linspace(0, len(full) - 1, 5)[1:-1]}
    strokes[[z for z in range(len(strokes)) if z not in keep]] = IGNORE
    image, spacing = content["image"].astype(np.float32)[None], tuple(content["spacing_zyx_mm"].tolist())
    return tuple(Sample(image, target, spacing, "heart") for target in (strokes, label.astype(np.uint8)))


def call(verb: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"trainer.{verb}", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def medians(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        name: round(float(np.median([row[name] for row in rows.values()])), 3) for name in next(iter(rows.values()))
    }


def table(rows: dict[str, dict[str, float]]) -> None:
    names = list(medians(rows))
    shown = Table("patient", *names)
    for patient, row in [*rows.items(), ("median", medians(rows))]:
        shown.add_row(patient, *(f"{row[name]:.3f}" if name != "seconds" else f"{row[name]:.0f}" for name in names))
    Console().print(shown)


if __name__ == "__main__":
    main()
