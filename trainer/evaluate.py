"""The command line that scores predictions: Dice, HD95 and others (see trainer/metrics.py) of two folders.

    python -m trainer.evaluate --predictions FOLDER --references FOLDER [--json FILE] [--tolerance 2.0]

Files are matched by case name (CASE.nii.gz, CASE.png, CASE.tif), distances are in mm by the files' spacing, and class
names come from the dataset.json in one of the folders or above it. The JSON file has, with null for "nothing to score":

    mean_foreground  {metric: mean of the classes' means, background left out}
    mean_all         {metric: the same with the background}
    classes          {class: {metric: mean over the cases that have the class}}
    left_out         {class: number of cases in which neither side has it}
    cases            {case: {class: {metric: value}}}
    tolerance        mm, of nsd
    unscored         predictions without a reference

Where the references are a folder with labels.csv or landmarks.csv (trainer/tables.py), as a dataset for whole images
has it, and the predictions one with the same table, as trainer.predict writes it, the JSON file has

    accuracy, auc, f1   means over the classes; classes: {class: {auc, f1, images}}; cases: {case: {class, predicted}}
    mre, success        mm, and {mm: share of points within}; landmarks: {name: the same}; cases: {case: {name: mm}}

Where the references hold the numbers of objects, as their dataset.json or --instances says (trainer/instances.py), the
JSON file has

    f1, iou             mean over the images that have objects; an object is found if it overlaps that much
    cases               {case: {f1, predicted, real}}, the last two are counts of objects
"""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer.files import replacing
from trainer.formats import FORMATS, check_same_grid, is_image, read_labels, strip_ending
from trainer.header import Header, read_header
from trainer.instances import f1
from trainer.metrics import (
    METRICS,
    Scores,
    classification_scores,
    landmark_scores,
    radial_errors,
    scores,
    summarise,
)
from trainer.sample import IGNORE
from trainer.tables import LABELS, LANDMARKS, read_label_table, read_landmark_table, read_probabilities

IOU = 0.5  # from which on a predicted and a real object are a pair
SHORT = {"accuracy": "acc", "precision": "prec", "sensitivity": "sens", "specificity": "spec"}


def evaluate(predictions: Path, references: Path, tolerance: float = 2.0, instances: bool = False) -> dict:
    """Scores of all cases of `references`, as in the JSON file. ValueError or FileNotFoundError for input that is not
    complete or does not fit."""
    if instances or _are_instances(references):
        return evaluate_instances(predictions, references)
    if (references / LABELS).is_file():
        return evaluate_labels(predictions, references)
    if (references / LANDMARKS).is_file():
        return evaluate_landmarks(predictions, references)
    predicted, real = _label_files(predictions), _label_files(references)
    _check_complete(predictions, predicted, references, real)
    classes, ignore = _table(predictions, references, [*real.values(), *(predicted[case] for case in real)])
    cases = {case: _score(predicted[case], file, classes, ignore, tolerance) for case, file in real.items()}
    unscored = sorted(set(predicted) - set(real))
    return {**summarise(cases.values()), "cases": cases, "tolerance": tolerance, "unscored": unscored}


def evaluate_instances(predictions: Path, references: Path) -> dict:
    """F1 of the objects of each image, and its mean."""
    predicted, real = _label_files(predictions), _label_files(references)
    _check_complete(predictions, predicted, references, real)
    cases = {case: _objects_found(predicted[case], file) for case, file in real.items()}
    known = [case["f1"] for case in cases.values() if case["f1"] is not None]
    unscored = sorted(set(predicted) - set(real))
    return {"f1": float(np.mean(known)) if known else None, "iou": IOU, "cases": cases, "unscored": unscored}


def _objects_found(predicted: Path, real: Path) -> dict[str, float | int | None]:
    found, reference, _ = _on_one_grid(predicted, real)
    counts = (len(np.unique(ids[ids > 0])) for ids in (found, reference))
    return {"f1": f1(found, reference, IOU), **dict(zip(("predicted", "real"), counts, strict=True))}


def _are_instances(references: Path) -> bool:
    header = _nearest_header(references)
    return header is not None and header.instances


def evaluate_labels(predictions: Path, references: Path) -> dict:
    """Accuracy, AUC and F1 of the classes of whole images."""
    classes = read_header(references).classes
    real = read_label_table(references / LABELS, classes)
    probabilities = read_probabilities(predictions / LABELS, classes)
    _check_complete(predictions, probabilities, references, real)
    P = np.stack([probabilities[case] for case in real])
    guesses = {case: classes[probabilities[case].argmax()] for case in real}
    cases = {case: {"class": classes[c], "predicted": guesses[case]} for case, c in real.items()}
    unscored = sorted(set(probabilities) - set(real))
    return {**classification_scores(P, np.array(list(real.values())), classes), "cases": cases, "unscored": unscored}


def evaluate_landmarks(predictions: Path, references: Path) -> dict:
    """Mean radial error and shares of success of landmarks."""
    names = read_header(references).classes
    real, predicted = (read_landmark_table(folder / LANDMARKS, names) for folder in (references, predictions))
    _check_complete(predictions, predicted, references, real)
    errors = {case: radial_errors(predicted[case], points) for case, points in real.items()}
    for case, points in real.items():
        if missing := [names[i] for i in np.flatnonzero(np.isnan(errors[case]) & ~np.isnan(points).any(1))]:
            raise ValueError(f"{predictions / LANDMARKS} has no {_some(missing)} of {case}; predict each that is seen")
    cases = {
        case: {name: None if np.isnan(mm) else float(mm) for name, mm in zip(names, each, strict=True)}
        for case, each in errors.items()
    }
    unscored = sorted(set(predicted) - set(real))
    return {**landmark_scores(np.stack(list(errors.values())), names), "cases": cases, "unscored": unscored}


def _check_complete(predictions: Path, predicted: dict, references: Path, real: dict) -> None:
    if not real:
        raise ValueError(f"{references} has no rows to score against")
    if missing := sorted(set(real) - set(predicted)):
        raise FileNotFoundError(
            f"{predictions} has no prediction of {_some(missing)}; predict all cases of {references}"
        )


def _score(predicted: Path, real: Path, classes: tuple[str, ...], ignore: int | None, tolerance: float) -> Scores:
    prediction, reference, spacing = _on_one_grid(predicted, real)
    if ignore is not None and (reference == ignore).any():
        raise ValueError(f"{real} has unlabelled pixels ('ignore', {ignore}); scores need dense references")
    for file, labels in ((predicted, prediction), (real, reference)):
        if unknown := [i for i in np.unique(labels).tolist() if not 0 <= i < len(classes)]:
            raise ValueError(
                f"{file} has label values {unknown[:8]}, but the classes are 0..{len(classes) - 1} {classes}"
            )
    return scores(prediction, reference, spacing, classes, tolerance)


def _on_one_grid(predicted: Path, real: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Ids (*space) of both files, and their spacing in mm."""
    prediction, spacing_p = read_labels(predicted)
    reference, spacing = read_labels(real)
    check_same_grid(predicted, (prediction.shape, spacing_p), real, (reference.shape, spacing))
    return prediction, reference, spacing


def _label_files(folder: Path) -> dict[str, Path]:
    """CASE -> file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a folder of label files")
    files: dict[str, Path] = {}
    for file in filter(is_image, sorted(folder.iterdir())):
        case = strip_ending(file)[0]
        if case in files:
            raise ValueError(f"{folder} has {files[case].name} and {file.name}; keep one label file a case")
        files[case] = file
    if not files:
        raise FileNotFoundError(f"no label files in {folder}; expected CASE{', CASE'.join(FORMATS)}")
    return files


def _table(predictions: Path, references: Path, files: list[Path]) -> tuple[tuple[str, ...], int | None]:
    """Class names and the id of `ignore`, from the nearest dataset.json; else "background", "class 1", ... as found.
    ValueError where these are no numbers of classes, as in a mask of 0 and 255."""
    if header := _nearest_header(references, predictions):
        return header.classes, header.ignore
    highest = 0
    for file in files:
        highest = max(highest, int(read_labels(file)[0].max(initial=0)))
        if highest >= IGNORE:
            raise ValueError(
                f"{file} has the label value {highest}, but without a dataset.json classes are numbered 0, 1, 2, ...; "
                "write 1 in place of 255, or for numbered objects use --instances"
            )
    return ("background", *(f"class {i}" for i in range(1, highest + 1))), None


def _nearest_header(*folders: Path) -> Header | None:
    """Of the first of these folders, or of the one above it, that has a dataset.json."""
    near = [place for folder in folders for place in (folder, folder.resolve().parent)]
    return next((read_header(place) for place in near if (place / "dataset.json").is_file()), None)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _show(result: dict, console: Console) -> None:
    title = f"{len(result['cases'])} case(s), distances in mm, NSD at {result['tolerance']:g} mm"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # narrow: fits a terminal of 80 columns
    table.add_column("class", overflow="fold", min_width=15)
    for metric in METRICS:
        table.add_column(SHORT.get(metric, metric), justify="right", no_wrap=True)
    for name, row in result["classes"].items():
        table.add_row(name, *_cells(row))
    table.add_section()
    for name in ("mean_foreground", "mean_all"):
        table.add_row(name, *_cells(result[name]))
    console.print(table)
    for name, count in result["left_out"].items():
        if count:
            console.print(f"{name}: left out in {count} case(s), where neither side has it")
    if result["unscored"]:
        console.print(f"not scored, no reference: {_some(result['unscored'])}")


def _show_wholes(result: dict, console: Console) -> None:
    """A table of classes with their AUC and F1, or of landmarks with radial errors and shares of success."""
    landmarks = "landmarks" in result
    title = "distances in mm" if landmarks else f"accuracy {result['accuracy']:.3f}"
    table = Table(title=f"{len(result['cases'])} case(s), {title}", box=SIMPLE_HEAD)
    success = [f"within {mm} mm" for mm in result["success"]] if landmarks else []
    for column in ("landmark", "points", "MRE", *success) if landmarks else ("class", "images", "AUC", "F1"):
        table.add_column(column, justify="right")
    rows = result["landmarks"] if landmarks else result["classes"]
    for name, row in {**rows, "all": {"images": len(result["cases"]), **result}}.items():
        values = (row["mre"], *row["success"].values()) if landmarks else (row["auc"], row["f1"])
        count = row["points"] if landmarks else row["images"]
        table.add_row(name, str(count), *map(_number, values))
    console.print(table)
    if result["unscored"]:
        console.print(f"not scored, no reference: {_some(result['unscored'])}")


def _show_instances(result: dict, console: Console) -> None:
    table = Table(title=f"{len(result['cases'])} image(s), F1 at IoU {result['iou']:g}", box=SIMPLE_HEAD)
    for column in ("image", "predicted", "real", "F1"):
        table.add_column(column, justify="left" if column == "image" else "right")
    for name, row in result["cases"].items():
        table.add_row(name, str(row["predicted"]), str(row["real"]), _number(row["f1"]))
    table.add_section()
    table.add_row("mean", "", "", _number(result["f1"]))
    console.print(table)
    if result["unscored"]:
        console.print(f"not scored, no reference: {_some(result['unscored'])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cells(row: dict[str, float | None]) -> list[str]:
    digits = {"hd95": 2, "asd": 2}
    return ["-" if row[metric] is None else f"{row[metric]:.{digits.get(metric, 3)}f}" for metric in METRICS]


def main(
    predictions: Path,
    references: Path,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    tolerance: float = 2.0,
    instances: bool = False,
) -> None:
    """Scores label files against references: Dice, IoU, HD95, ASD, NSD and more, per class and averaged; or tables of
    whole images' classes or landmarks; or objects, by F1 at IoU 0.5.

    Args:
        predictions: folder of predicted label files, CASE.nii.gz, CASE.png or CASE.tif; or with labels.csv or
            landmarks.csv.
        references: folder of dense reference labels with the same names; or a dataset with such a table.
        json: write all scores to this file.
        tolerance: of NSD, in mm.
        instances: the files hold the numbers of objects; not needed where the references' dataset.json says so.
    """
    try:
        result = evaluate(predictions, references, tolerance, instances)
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
            with replacing(json) as draft:
                draft.write_text(json_format.dumps(result, indent=1, allow_nan=False), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    show = _show if "tolerance" in result else _show_instances if "iou" in result else _show_wholes
    show(result, Console())


if __name__ == "__main__":
    tyro.cli(main, prog="python -m trainer.evaluate")
