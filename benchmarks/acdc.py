"""The long run on ACDC, honestly: python -m benchmarks.acdc [--preset paper] [--seeds 2022 2023 2024] [--test FOLDER]

Trains on the strokes of many hearts and scores whole volumes, in mm, as docs/acdc.md explains. Two protocols:

    --protocol choosing   68 patients to train, 12 to validate (acdc/splits.json); answers of the last weights and of
                          those that did best on the 12. Of these the second is chosen on what it is scored on here
    --protocol fold1      WSL4MIS's first fold: all of 021-100 to train, the last weights, for --test

--test FOLDER holds patients 001-020, as ACDC comes (patient001/patient001_frame01.nii.gz with ..._gt.nii.gz) or as .npz
files like those of `dev`; nothing is ever chosen on them. Every flag of trainer.fit's config works here, too.

A seed leaves acdc-NAME-seedS.json in --out, and acdc-NAME.json and .md hold mean and spread of all that are there. A
seed that has its file is not trained again (a --test that comes later is scored with its weights), one that was broken
off goes on from its folder in --runs. Several processes share it: torchrun --nproc-per-node 2 -m benchmarks.acdc ...
Data: SCRIBBLEMAMBA_DATA, by default ../shared/data.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from benchmarks.ablation import CLASSES, COLUMNS, DATA, HEADS, MEANS, cell, scored, write
from trainer.config import PRESETS, Config, PresetName
from trainer.distributed import first, joined, run_class
from trainer.files import read_tensors, replacing
from trainer.fit import one_budget
from trainer.formats import read_image, read_labels
from trainer.model import CHECKPOINT, Model
from trainer.run import BEST, Run
from trainer.sample import IGNORE, Sample

LAST = "last"
CHOSEN = "best on the 12"
Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Options:
    """Train and score with several seeds."""

    preset: PresetName = "paper"
    """Where the config's flags start from; slices are resized linearly there, not to the nearest pixel."""
    protocol: Literal["choosing", "fold1"] = "choosing"
    """68 patients and 12 to validate; or all 80, for the test patients."""
    seeds: tuple[int, ...] = (2022, 2023, 2024)
    """One training each."""
    test: Path | None = None
    """Folder of patients 001-020."""
    name: str | None = None
    """Of this experiment in the files' names; the preset, its size and the protocol where it is not given."""
    out: Path = Path("benchmarks/results")
    """Folder of the results."""
    runs: Path = Path("runs/acdc")
    """Folder of the runs."""
    patients: int | None = None
    """Only so many patients of each part, for a trial."""
    dense: bool = False
    """Train on the full labels: what strokes could reach at most."""
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["paper"]

    @property
    def label(self) -> str:
        return self.name or f"{self.preset}-{self.config.size}-{self.protocol}"


def main() -> None:
    options = parse(sys.argv[1:])
    with joined():
        for seed in options.seeds:
            result = finished(seed, options)
            if result is None:
                measure(seed, options)
            elif options.test and "test" not in result["scores"] and first():
                score_again(seed, result, options)
        if first():
            summarise_seeds(options)


def parse(argv: list[str]) -> Options:
    """The flags; those of the config start from the preset."""
    preset = tyro.cli(Options, args=argv, description=__doc__).preset
    # to the nearest pixel and back costs up to .015 of Dice on the myocardium
    base = replace(PRESETS[preset], interpolation="linear", validate_every=500)
    options = tyro.cli(Options, args=argv, default=Options(preset=preset, config=base))
    if options.protocol == "fold1" and options.test is None:
        raise SystemExit("error: fold 1 leaves nobody of 021-100 to be scored; give --test FOLDER with 001-020")
    return replace(options, config=one_budget(options.config, base).checked())


# ---- one seed ----


def file_of(seed: int, options: Options) -> Path:
    return options.out / f"acdc-{options.label}-seed{seed}.json"


def folder_of(seed: int, options: Options) -> Path:
    return options.runs / f"{options.label}-seed{seed}"


def settings(options: Options) -> dict:
    """What has to be equal for two seeds to be comparable, and for one to go on: all but the machine."""
    machine = ("seed", "device", "dtype", "threads", "kernel", "speedup", "checkpoint_seconds")
    config = {key: value for key, value in options.config.to_dict().items() if key not in machine}
    found = {"protocol": options.protocol, "patients": options.patients, "dense": options.dense, **config}
    return json.loads(json.dumps(found))  # tuples as lists, as the file has them


def finished(seed: int, options: Options) -> dict | None:
    """What a seed's file says, where it exists; ValueError where that was measured otherwise than now asked for."""
    file = file_of(seed, options)
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    check_alike(file, result["settings"], options)
    return result


def check_alike(file: Path, then: dict, options: Options) -> None:
    defaults, now = settings(replace(options, config=Config(), dense=False)), settings(options)
    then = defaults | then  # what the file does not name could not be chosen then
    if other := {key: (then[key], value) for key, value in now.items() if then[key] != value}:
        raise ValueError(f"{file} is of other settings (then, now): {other}; give another --name")


def measure(seed: int, options: Options) -> None:
    """Train with one seed, or go on with that, and write its file."""
    folder = folder_of(seed, options)
    if first():
        note_settings(folder / "settings.json", options)
    run = new_run(seed, folder, options)
    for progress in run:
        if first() and (progress.iteration % 100 == 0 or progress.validation is not None):
            print(f"seed {seed}: {progress.iteration}, {progress.fraction:.0%}, {told(progress.losses)}", flush=True)
            if progress.validation is not None:
                print(f"  ensemble on the validation patients: {progress.validation:.4f}", flush=True)
    if first():
        result = {
            "seed": seed,
            "settings": settings(options),
            "machine": {key: getattr(run.config, key) for key in ("device", "dtype", "threads", "kernel")},
            "iterations": run.iteration,
            "seconds": round(run.seconds, 1),
            "scores": answers(run.model, folder, options),
        }
        write(file_of(seed, options), result)


def score_again(seed: int, result: dict, options: Options) -> None:
    """The weights that there are, on the test patients, too."""
    folder = folder_of(seed, options)
    model = Model.load(folder, options.config.device)
    write(file_of(seed, options), {**result, "scores": answers(model, folder, options)})


def note_settings(file: Path, options: Options) -> None:
    """Before the first step; ValueError where the folder's run was begun with others."""
    if file.is_file():
        check_alike(file, json.loads(file.read_text()), options)
        return
    write(file, settings(options))


def new_run(seed: int, folder: Path, options: Options) -> Run:
    return run_class()(
        list(samples("train", options)),
        replace(options.config, seed=seed),
        CLASSES,
        channels=("MRI",),
        folder=folder,
        validation=list(samples("val", options)) if options.protocol == "choosing" else (),
        resume=True,
    )


def told(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


def answers(model: Model, folder: Path, options: Options) -> dict[str, dict[str, dict]]:
    """Part -> weights -> network -> summary of the scores. Nothing has ever looked at the test patients before."""
    parts: list[Part] = ["val"] if options.protocol == "choosing" else []
    parts += ["test"] if options.test else []
    files = {LAST: folder / CHECKPOINT, CHOSEN: folder / BEST}
    return {
        part: {
            name: scored(loaded(model, file), samples(part, options)) for name, file in files.items() if file.is_file()
        }
        for part in parts
    }


def loaded(model: Model, file: Path) -> Model:
    model.load_state(read_tensors(file)[0], file)
    return model


# ---- hearts ----


def samples(part: Part, options: Options) -> Iterator[Sample]:
    """Volumes of one part of the patients; those to train on with their strokes, unless `dense`."""
    if part == "test":
        yield from unseen(options.test, options.patients)
        return
    split = json.loads((DATA / "splits.json").read_text())
    patients = split[part] + (split["val"] if options.protocol == "fold1" else [])
    strokes = part == "train" and not options.dense
    for patient in patients[: options.patients]:
        for file in sorted((DATA / "dev").glob(f"{patient}_frame*.npz")):
            yield from_npz(file, strokes)


def from_npz(file: Path, strokes: bool) -> Sample:
    content = np.load(file)
    target = content["scribble" if strokes else "label"].astype(np.uint8)
    target[target == len(CLASSES)] = IGNORE
    spacing = tuple(content["spacing_zyx_mm"].tolist())
    return Sample(content["image"].astype(np.float32)[None], target, spacing, file.stem)


def unseen(folder: Path, patients: int | None = None) -> Iterator[Sample]:
    """Volumes of patients 001-020, or of the first so many, with labels. FileNotFoundError where one is not there."""
    for patient in [f"patient{number:03}" for number in range(1, 21)][:patients]:
        labels = sorted(folder.rglob(f"{patient}_frame*_gt.nii*")) or sorted(folder.rglob(f"{patient}_frame*.npz"))
        if not labels:
            raise FileNotFoundError(
                f"{folder} has no labels of {patient}; expected {patient}_frameNN_gt.nii.gz or {patient}_frameNN.npz"
            )
        yield from (from_npz(file, strokes=False) if file.suffix == ".npz" else from_nifti(file) for file in labels)


def from_nifti(labels: Path) -> Sample:
    file = labels.with_name(labels.name.replace("_gt", ""))
    image, spacing = read_image([file])
    return Sample(image, read_labels(labels)[0].astype(np.uint8), spacing, file.name.split(".")[0])


# ---- the tables ----


def summarise_seeds(options: Options) -> None:
    """acdc-NAME.json and acdc-NAME.md: mean and standard deviation over the seeds that have their file."""
    names = options.out.glob(f"acdc-{options.label}-seed*.json")
    seeds = sorted(int(file.stem.rsplit("seed", 1)[1]) for file in names)
    results = [finished(seed, options) for seed in seeds]
    summary = {
        "seeds": seeds,
        "iterations": [result["iterations"] for result in results],
        "settings": settings(options),
        "rows": list(rows(results)),
    }
    text = tables(summary)
    for ending, content in (("json", json.dumps(summary, indent=1, allow_nan=False) + "\n"), ("md", text)):
        with replacing(options.out / f"acdc-{options.label}.{ending}") as draft:
            draft.write_text(content)
    print(text)


def tables(summary: dict) -> str:
    intro = f"Seeds {', '.join(map(str, summary['seeds']))}; iterations {', '.join(map(str, summary['iterations']))}.\n"
    return "\n".join([intro, *(f"## {title}\n\n{markdown(summary['rows'], mean)}" for mean, title in MEANS.items())])


def rows(results: list[dict]) -> Iterator[dict]:
    """Of each answer that all seeds have: for either mean {metric: (mean, deviation or None)} over the seeds."""
    for part in sorted(set.intersection(*(set(result["scores"]) for result in results)), reverse=True):  # val, test
        for weights, networks in results[0]["scores"][part].items():
            for network in networks:
                summaries = [result["scores"][part][weights][network] for result in results]
                spread = {
                    mean: {metric: over_seeds(s[mean][metric] for s in summaries) for metric in COLUMNS}
                    for mean in MEANS
                }
                yield {"part": part, "weights": weights, "network": network, **spread}


def over_seeds(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; one value alone has no deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def markdown(rows: list[dict], mean: str) -> str:
    lines = ["| patients | weights | answer | " + " | ".join(HEADS) + " |", "|---|---|---|" + "---:|" * len(HEADS)]
    for row in rows:
        cells = [with_spread(metric, *row[mean][metric]) for metric in COLUMNS]
        lines.append(f"| {row['part']} | {row['weights']} | {row['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_spread(metric: str, mean: float | None, deviation: float | None) -> str:
    return cell(metric, mean) + ("" if deviation is None else f" ± {cell(metric, deviation)}")


if __name__ == "__main__":
    main()
