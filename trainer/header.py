"""dataset.json: what a dataset says of itself, in nnU-Net v2's words and a few of ours (dataset.py has them)."""

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Task
from trainer.formats import FORMATS, read_json
from trainer.sample import Sample, check_names

INSTANCES = "instances"  # in dataset.json; they are trained as classes, and so their task is segmentation
NAMES = {"segmentation": "labels", "classification": "classes", "landmarks": "landmarks"}  # task -> key of dataset.json


@dataclass(frozen=True)
class Header:
    """What dataset.json says."""

    classes: tuple[str, ...]  # or the names of landmarks
    channels: tuple[str, ...]
    ignore: int | None  # the id of "ignore", always len(classes)
    ending: str
    cases: int | None  # numTraining
    task: Task = "segmentation"
    instances: bool = False  # the label files hold objects; the classes are what they are trained as


def read_header(folder: Path) -> Header:
    """dataset.json of a dataset, checked."""
    file = folder / "dataset.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that holds dataset.json")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; a dataset is a folder with dataset.json, imagesTr and labelsTr")
    content = read_json(file)
    task = content.get("task", "segmentation")
    if task not in (*NAMES, INSTANCES):
        raise ValueError(f"{file}: task is {task!r}; it must be one of {', '.join((*NAMES, INSTANCES))}")
    names = [] if task == INSTANCES else [NAMES[task]]
    missing = [key for key in ("channel_names", *names, "file_ending") if key not in content]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}; it has {sorted(content)}; write it as nnU-Net v2 has it")
    classes, ignore = _parse_classes(content, task, file)
    ending = content["file_ending"]
    if ending not in FORMATS:
        raise ValueError(f"{file}: file_ending {ending!r} is not supported; use {', '.join(FORMATS)}")
    channels = _parse_channels(content["channel_names"], file)
    instances = task == INSTANCES
    task = "segmentation" if instances else task
    return Header(classes, channels, ignore, ending, content.get("numTraining"), task, instances)


# ------------------------------------------------------------------------------------------------------------------- in


def _parse_classes(content: dict, task: str, file: Path) -> tuple[tuple[str, ...], int | None]:
    """The names that dataset.json has for its task, and the id of "ignore"."""
    if task == INSTANCES:
        from trainer.instances import CLASSES  # here: it imports scikit-image, which few datasets need

        return CLASSES, None
    names = content[NAMES[task]]
    return _parse_labels(names, file) if task == "segmentation" else (_parse_names(names, task, file), None)


def _parse_labels(labels: dict[str, int], file: Path) -> tuple[tuple[str, ...], int | None]:
    """{"background": 0, "RV": 1, "ignore": 2} -> (("background", "RV"), 2); in the order of the ids."""
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f'{file}: labels is {labels!r}; write {{"background": 0, "name": 1, ...}}')
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise ValueError(f"{file}: label {regions[0]!r} is a list; region-based labels are not supported; give one id")
    try:
        ids = {name: int(value) for name, value in labels.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{file}: labels maps name to id in nnU-Net v2, got {labels}; swap names and ids") from None
    names = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{file}: label ids must be 0, 1, 2, ... without gaps, got {ids}; renumber them")
    if "ignore" in ids and names[-1] != "ignore":
        raise ValueError(f"{file}: 'ignore' must have the highest id, got {ids}; renumber the labels")
    classes = tuple(name for name in names if name != "ignore")
    if not 2 <= len(classes) <= 255:
        raise ValueError(f"{file} has only one class or more than 255: {classes}; 2 to 255 are needed")
    return classes, ids.get("ignore")


def _parse_names(names: list[str], task: Task, file: Path) -> tuple[str, ...]:
    """["healthy", "ill"] -> the same, checked."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{file}: {NAMES[task]} is {names!r}; write ["name", "name", ...]')
    try:
        check_names(names, task)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return tuple(names)


def _parse_channels(names: dict[str, str], file: Path) -> tuple[str, ...]:
    expected = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not expected or set(names) != set(expected):
        raise ValueError(f'{file}: channel_names is {names!r}; write {{"0": "name", "1": "name", ...}}')
    return tuple(names[i] for i in expected)


# ------------------------------------------------------------------------------------------------------------------ out


def labels_of(task: Task, classes: tuple[str, ...], sparse: bool) -> dict[str, object]:
    """What dataset.json says of the task."""
    if task != "segmentation":
        return {"task": task, NAMES[task]: list(classes)}
    return {"labels": {name: i for i, name in enumerate((*classes, "ignore") if sparse else classes)}}


def write_header(
    root: Path, labels: dict[str, object], channels: tuple[str, ...], ending: str, samples: list[Sample]
) -> None:
    content: dict[str, object] = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        **labels,
        "numTraining": len(samples),
        "file_ending": ending,
    }
    if ending == ".tif":  # nnU-Net would find out by trying, and print the failures
        volume = samples[0].target.ndim == 3
        content["overwrite_image_reader_writer"] = "Tiff3DIO" if volume else "NaturalImage2DIO"
    (root / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
