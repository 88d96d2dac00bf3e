"""Which networks, which objective: python benchmarks/ablation.py [--iterations 30000] [--rows "3 unet" ...]

Two tables of the literature on the hearts of ACDC: three networks of one kind against the mix (Weak-Mamba-UNet, arXiv
2402.10887, its ablation), and the objectives that learn from the strokes, each with one network. Every row trains on
the strokes of the 68 training patients of acdc/splits.json and is scored on the 12 others, volume by volume, in mm,
with the last weights: nothing is chosen on them. The recipe is the paper's, but for what the options say.

A row leaves ROW.json in the output folder, and table.md is written anew after each; rows that have theirs are not
trained again, and one that was broken off goes on from its checkpoint. Data: SCRIBBLEMAMBA_DATA, by default
../shared/data.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from trainer.config import PRESETS, Config, NetworkName, ObjectiveName
from trainer.files import replacing
from trainer.metrics import Scores, scores, summarise
from trainer.model import ENSEMBLE, Model
from trainer.run import Run
from trainer.sample import IGNORE, Sample

DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", "../shared/data")) / "acdc"
CLASSES = ("background", "RV", "MYO", "LV")
COLUMNS = ("dice", "accuracy", "precision", "sensitivity", "specificity", "hd95", "asd")  # as the paper's
HEADS = ("Dice", "Acc", "Pre", "Sen", "Spe", "HD95 mm", "ASD mm")
MEANS = {"mean_foreground": "mean of RV, MYO and LV", "mean_all": "mean of all four classes, as the paper has it"}


@dataclass(frozen=True)
class Row:
    """What differs between two lines of the tables."""

    networks: tuple[NetworkName, ...]
    objective: ObjectiveName
    dense: bool = False  # trained on the full labels: what strokes could reach at most


ROWS: dict[str, Row] = {
    "3 unet": Row(("unet",) * 3, "cross_teaching"),
    "3 swinunet": Row(("swinunet",) * 3, "cross_teaching"),
    "3 mambaunet": Row(("mambaunet",) * 3, "cross_teaching"),
    "mix": Row(("unet", "swinunet", "mambaunet"), "cross_teaching"),
    "pce unet": Row(("unet",), "pce"),
    "entropy_min unet": Row(("unet",), "entropy_min"),
    "tv unet": Row(("unet",), "tv"),
    "inter_intra unet": Row(("unet",), "inter_intra"),
    "mumford_shah unet": Row(("unet",), "mumford_shah"),
    "gated_crf unet": Row(("unet",), "gated_crf"),
    "ustm unet": Row(("unet",), "ustm"),
    "scribblevs unet": Row(("unet",), "scribblevs"),
    "dmpls unet_cct": Row(("unet_cct",), "dmpls"),
    "dmsps unet_cct": Row(("unet_cct",), "dmsps"),
    "pce swinunet": Row(("swinunet",), "pce"),
    "mumford_shah swinunet": Row(("swinunet",), "mumford_shah"),
    "gated_crf swinunet": Row(("swinunet",), "gated_crf"),
    "ustm swinunet": Row(("swinunet",), "ustm"),
    "dense unet": Row(("unet",), "supervised", dense=True),
}


@dataclass(frozen=True)
class Options:
    """Train and score the rows of the ablation."""

    rows: tuple[str, ...] = ()
    """Names of rows; all of them where none is given."""
    out: Path = Path("runs/ablation")
    """Folder of the rows' results and of table.md."""
    iterations: int | None = None
    """Optimiser steps of each row; or give minutes. The paper's 30000 where neither is given."""
    minutes: float | None = None
    """Wall time of each row's training."""
    size: Literal["official", "small"] = "official"
    """Widths and depths: as published, or small enough for a laptop."""
    patch: int = 224
    """Pixels along each side that every slice is resized to; the published 224."""
    batch: int = 12
    """Slices a step."""
    seed: int = 2022
    """Of weights, batches and mixes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    patients: int | None = None
    """Only so many training and validation patients, for a trial."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    names = options.rows or tuple(ROWS)
    if unknown := sorted(set(names) - set(ROWS)):
        raise SystemExit(f"error: no row is called {', '.join(map(repr, unknown))}; known are {', '.join(ROWS)}")
    for name in names:
        if finished(name, options) is None:
            measure(name, options)
        write_tables(options)


def file_of(name: str, options: Options) -> Path:
    return options.out / f"{name.replace(' ', '-')}.json"


def finished(name: str, options: Options) -> dict | None:
    """What a row's file says, where it exists; ValueError where that was measured otherwise than now asked for."""
    file = file_of(name, options)
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    if result["options"] != settings(options):
        raise ValueError(f"{file} was measured with {result['options']}, not {settings(options)}; give another --out")
    return result


def settings(options: Options) -> dict:
    """What has to be equal for two rows to be comparable."""
    keys = ("iterations", "minutes", "size", "patch", "batch", "seed", "patients")
    return {key: getattr(options, key) for key in keys}


def config_of(row: Row, options: Options) -> Config:
    """The paper's recipe."""
    paper = PRESETS["paper"]
    iterations = paper.iterations if options.iterations is None and options.minutes is None else options.iterations
    return replace(
        paper,
        networks=row.networks,
        objective=row.objective,
        iterations=iterations,
        minutes=options.minutes,
        size=options.size,
        patch=(options.patch, options.patch),
        batch=options.batch,
        seed=options.seed,
        device=options.device,
    )


def measure(name: str, options: Options) -> None:
    """Train one row and write its file."""
    row, file = ROWS[name], file_of(name, options)
    run = Run(
        list(samples("train", options, strokes=not row.dense)),
        config_of(row, options),
        CLASSES,
        folder=file.with_suffix(""),
        resume=True,
    )
    for progress in run:
        if progress.iteration % 100 == 0:
            print(f"{name}: {progress.iteration}, {progress.fraction:.0%}, {progress.losses}", flush=True)
    result = {
        "row": name,
        "options": settings(options),
        "config": run.config.to_dict(),
        "iterations": run.iteration,
        "seconds": round(run.seconds, 1),
        "scores": scored(run.model, samples("val", options, strokes=False)),
    }
    write(file, result)


def write(file: Path, content: dict) -> None:
    """As JSON; the file is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def samples(part: Literal["train", "val"], options: Options, strokes: bool) -> Iterable[Sample]:
    """Volumes of the patients of one part of the split, with their strokes or their full labels."""
    for patient in json.loads((DATA / "splits.json").read_text())[part][: options.patients]:
        for file in sorted((DATA / "dev").glob(f"{patient}_frame*.npz")):
            content = np.load(file)
            target = content["scribble" if strokes else "label"].astype(np.uint8)
            target[target == len(CLASSES)] = IGNORE
            spacing = tuple(content["spacing_zyx_mm"].tolist())
            yield Sample(content["image"].astype(np.float32)[None], target, spacing, file.stem)


def scored(model: Model, volumes: Iterable[Sample]) -> dict[str, dict]:
    """Summary of each network's scores, and of the ensemble's where there are several."""
    cases: dict[str, list[Scores]] = {}
    for volume in volumes:
        for name, P in model.probabilities(volume.image, volume.spacing).items():
            case = scores(P.argmax(0), volume.target, volume.spacing, CLASSES)
            cases.setdefault(name, []).append(case)
    return {name: summarise(each) for name, each in cases.items() if name != ENSEMBLE or len(model.names) > 1}


# ---- the tables ----


def write_tables(options: Options) -> None:
    """table.md: every row there is, for the mean over the structures and the mean over all classes."""
    found = {name: result for name in ROWS if (result := finished(name, options)) is not None}
    tables = [f"## {title}\n\n{markdown(found, mean)}" for mean, title in MEANS.items()]
    with replacing(options.out / "table.md") as draft:
        draft.write_text(f"`{json.dumps(settings(options))}`\n\n" + "\n".join(tables))


def markdown(results: dict[str, dict], mean: str) -> str:
    """One line an answer: each network of a row, and the ensemble of several."""
    lines = ["| row | answer | iterations | " + " | ".join(HEADS) + " |", "|---|---|" + "---:|" * (len(HEADS) + 1)]
    for name, result in results.items():
        for answer, summary in result["scores"].items():
            cells = [cell(metric, summary[mean][metric]) for metric in COLUMNS]
            lines.append(f"| {name} | {answer} | {result['iterations']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if metric in ("hd95", "asd") else f"{value:.4f}"


if __name__ == "__main__":
    main()
