"""Datasets on disk: the nnU-Net v2 raw format, whose own `ignore` label holds every pixel that nobody drew on.

    FOLDER/dataset.json               {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "RV": 1, "ignore": 2},
                                       "numTraining": 1, "file_ending": ".nii.gz"}
    FOLDER/imagesTr/CASE_0000.nii.gz  one file a channel (an RGB picture is one file with three channels)
    FOLDER/labelsTr/CASE.nii.gz       class ids; the highest one, if it is called "ignore", means "nobody drew here"
    FOLDER/labelsTr/CASE.json         {"absent": [[slice, class], ...]}, where classes are known to be absent

What is asked about whole images has a table in the place of labelsTr, and in dataset.json no "labels" but

    "task": "classification", "classes": ["healthy", "ill"]      FOLDER/labels.csv, as in tables.py
    "task": "landmarks", "landmarks": ["apex", "base"]           FOLDER/landmarks.csv

Objects of one kind that touch have "task": "instances" and no "labels": labelsTr then holds the number of each object,
0 for none, and what is loaded are their interiors and boundaries, as in instances.py.

Arrays are (z, y, x); how one file is read and written stands in formats.py.
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np

from trainer.config import Task
from trainer.formats import (
    FORMATS,
    case_of,
    check_same_grid,
    compare_affines,
    is_image,
    read_image,
    read_json,
    read_labels,
    split_channel,
    strip_ending,
    write_array,
)
from trainer.stack import Part, Stack
from trainer.tables import (
    FILES,
    read_label_table,
    read_landmark_table,
    unseen,
    write_label_table,
    write_landmark_table,
)

IGNORE = 255
INSTANCES = "instances"  # in dataset.json; they are trained as classes, and so their task is segmentation
NAMES = {"segmentation": "labels", "classification": "classes", "landmarks": "landmarks"}  # task -> key of dataset.json
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated image. Its label and landmarks are for tasks that ask about it as a whole; then nobody need draw,
    and the target is `undrawn`."""

    image: np.ndarray | Stack  # float32 (C, *space), raw intensities; space is (H, W) or (D, H, W)
    target: np.ndarray  # uint8 (*space): class 0..K-1, or IGNORE where nobody drew
    spacing: tuple[float, ...]  # mm per voxel, one per spatial axis
    name: str = ""
    label: int | None = None  # class of the whole image
    landmarks: np.ndarray | None = None  # (n, axes) mm from the centre of the first voxel, NaN where not to be seen
    absent: tuple[tuple[int, int], ...] = ()  # (slice, class): that class is known to be absent from that slice
    part: Part | None = None  # of a larger stack, or of several volumes; None: it is whole, and one
    like: np.ndarray | None = None  # (C, m) intensities of the whole that it is a part of; None: its own


@dataclass(frozen=True, eq=False)
class Dataset:
    samples: list[Sample]
    classes: tuple[str, ...]  # names, class 0 first (background)
    channels: tuple[str, ...]
    sparse: bool  # True where dataset.json has the label "ignore"
    ending: str  # ".nii.gz", ".png" or ".tif"
    task: Task = "segmentation"  # of another one, the classes are those of whole images, or the names of landmarks


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


def loaded(sample: Sample) -> Sample:
    """The sample with its image in memory. ValueError for one that is not fit to learn from."""
    if not isinstance(sample.image, Stack):
        return sample
    image = np.asarray(sample.image)
    check_image(image, f"the part of '{sample.name}' around the strokes")
    return replace(sample, image=image, like=sample.image.values())


def volumes(sample: Sample) -> list[Sample]:
    """The volumes that a sample is made of, each with a name of its own; one that is whole is its only one."""
    if sample.part is None:
        return [sample]
    read, runs = loaded(sample), sample.part.runs
    return [
        replace(
            read,
            image=read.image[:, run.start : run.stop],
            target=read.target[run.start : run.stop],
            name=f"{sample.name}_{sample.part.slices[run.start]:05d}",
            absent=tuple((z - run.start, c) for z, c in sample.absent if z in run),
            part=None,
            like=None,
        )
        for run in runs
    ]


def plane_of(sample: Sample, values: np.ndarray, number: int | None) -> np.ndarray:
    """Of values (*space) of the sample, slice `number` of its stack in the sample's box: uint8 (h, w), IGNORE where
    they do not reach; all of them where the number is None."""
    if number is None or sample.part is None:
        return values if number is None else values[number]
    position = sample.part.position(number)
    return undrawn(values.shape[1:]) if position is None else values[position]


def undrawn(space: tuple[int, ...]) -> np.ndarray:
    """uint8 (*space), read-only: the target of an image that nobody drew on. It takes no memory."""
    return np.broadcast_to(np.uint8(IGNORE), space)


# ---------------------------------------------------------------------------------------------------------- a dataset


def load_dataset(folder: Path | str) -> Dataset:
    """All training cases of a raw nnU-Net v2 dataset, checked: what it returns can be trained on.

    Raises ValueError or FileNotFoundError, which name the file, what was found and what to do.
    """
    folder = Path(folder)
    header = read_header(folder)
    cases = find_cases(folder / "imagesTr", header.ending)
    if header.task != "segmentation":
        samples = _load_wholes(folder, cases, header)
        return Dataset(samples, header.classes, header.channels, False, header.ending, header.task)
    _check_files(folder, cases, header)
    samples = [_load_sample(folder, name, files, header) for name, files in cases.items()]
    _check_alike(samples, folder)
    check_absent(samples, header.classes)
    if header.ignore is not None:
        check_strokes(samples, header.classes)
    return Dataset(samples, header.classes, header.channels, header.ignore is not None, header.ending)


def save_dataset(
    folder: Path | str,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    channels: Sequence[str] | None = None,
    ending: str | None = None,
    sparse: bool = True,
    task: Task = "segmentation",
) -> None:
    """Writes a dataset that `load_dataset` and nnU-Net itself read; IGNORE becomes nnU-Net's `ignore` label. For
    another task it writes the table of the samples' labels or landmarks, and no targets.

    `ending` is chosen so that nothing is lost: .nii.gz for volumes, .png for pictures of integers in 0..65535 with
    spacing 1, .tif (float32) for all others. Pictures with the channels R, G, B and values up to 255 become one colour
    file a case, others one file a channel. Characters of a sample's name that are unsafe in file names become "_".
    FOLDER must be new or empty; it appears whole or, after an error, not at all.
    """
    samples, classes = list(samples), tuple(classes)
    if task == "segmentation":
        _check_classes(classes)
        check_absent(samples, classes)
    else:
        check_wholes(samples, classes, task)
    _check_samples(samples, len(classes), sparse or task != "segmentation")
    count = len(samples[0].image)
    channels = tuple(channels) if channels is not None else _default_channels(count)
    if len(channels) != count:
        raise ValueError(f"{len(channels)} channel names {channels} for images of {count} channels; name each once")
    ending = ending or _lossless_ending(samples)
    _check_ending(samples, ending)
    with _new_folder(Path(folder)) as root:
        _write_header(root, _labels_of(task, classes, sparse), channels, ending, samples)
        named = dict(zip(_case_names(samples), samples, strict=True))
        for name, sample in named.items():
            _save_image(root, name, sample, channels, ending)
        if task == "segmentation":
            for name, sample in named.items():
                _save_target(root, name, sample, ending, len(classes))
        else:
            _save_table(root, named, classes, task)


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


def find_cases(folder: Path, ending: str | None = None, plain: bool = False) -> dict[str, list[Path]]:
    """CASE -> its channel files CASE_0000, CASE_0001, ... in this order; only files that end so, if `ending` is given.

    plain: where no file has such a number, each is a case by itself, as pictures from elsewhere are. Files of other
    kinds (spacing JSONs, hidden files) are passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; put the images there, as CASE_0000{ending or '.png'}")
    files = [f for f in sorted(folder.iterdir()) if is_image(f) and f.name.endswith(ending or "")]
    endings = {strip_ending(file)[1] for file in files}
    if not files:
        raise FileNotFoundError(f"no images in {folder}; expected files like CASE_0000{ending or '.nii.gz'}")
    if len(endings) > 1:
        raise ValueError(f"{folder} mixes {' and '.join(sorted(endings))} files; keep images of one kind")
    if plain and all(case_of(file) == strip_ending(file)[0] for file in files):
        return {case_of(file): [file] for file in files}
    cases: dict[str, list[Path]] = {}
    for file in files:
        cases.setdefault(split_channel(file)[0], []).append(file)
    for name, parts in cases.items():
        _check_numbering(name, parts)
    return cases


# ------------------------------------------------------------------------------------------------------------- checks


def check_strokes(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raises ValueError unless there are two classes and each has a stroke somewhere; a case without any is fine."""
    if len(classes) < 2:
        raise ValueError(f"only one class ({', '.join(classes)}); at least two are needed: add one and paint both")
    check_absent(samples, classes)
    drawn: set[int] = set()
    for sample in samples:
        ids = set(np.unique(sample.target).tolist()) - {IGNORE}
        if unknown := sorted(i for i in ids if i >= len(classes)):
            raise ValueError(f"'{sample.name}' has strokes of class {unknown}, but there are {len(classes)} classes")
        drawn |= ids
    if not drawn:
        raise ValueError(f"no scribbles in any of {len(samples)} image(s); paint a stroke of each class")
    absent = [f"{i} ({name})" for i, name in enumerate(classes) if i not in drawn]
    if absent:
        raise ValueError(f"no scribbles for class {', '.join(absent)} in any image; paint a stroke or remove the class")


def check_absent(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raises ValueError for a mark of absence that names no slice or class, or contradicts what is drawn."""
    for sample in samples:
        planes = sample.target if sample.target.ndim == 3 else sample.target[None]
        for z, c in sample.absent:
            if not (0 <= z < len(planes) and 0 < c < len(classes)):
                raise ValueError(
                    f"'{sample.name}' has class {c} marked as absent from slice {z}, but there are slices 0 to "
                    f"{len(planes) - 1} and classes 1 to {len(classes) - 1} (the background is never absent)"
                )
            if (planes[z] == c).any():
                number = z if sample.part is None else sample.part.slices[z]
                raise ValueError(
                    f"class {c} ({classes[c]}) is marked as absent from slice {number} of '{sample.name}', but painted "
                    "there; remove the mark or the paint"
                )


def check_wholes(samples: Sequence[Sample], names: Sequence[str], task: Task) -> None:
    """Raises ValueError unless each sample has its class, or its landmarks, and every name is there at least once."""
    _check_names(names, task)
    if flat := [sample.name for sample in samples if sample.image.ndim != 4]:
        raise ValueError(f"{task} is for volumes, but '{flat[0]}' is 2-D; save it as a stack")
    if task == "classification":
        for sample in samples:
            if sample.label is None or not 0 <= sample.label < len(names):
                raise ValueError(f"'{sample.name}' has the class {sample.label}; give one of 0 to {len(names) - 1}")
        found = {sample.label for sample in samples}
    else:
        for sample in samples:
            _check_points(sample, names)
        found = {int(i) for sample in samples for i in np.flatnonzero(~np.isnan(sample.landmarks).any(1))}
    if missing := [name for i, name in enumerate(names) if i not in found]:
        raise ValueError(f"no image of {len(samples)} has {', '.join(missing)}; add one that has, or remove the name")


def _check_points(sample: Sample, names: Sequence[str]) -> None:
    shape = (len(names), 3)
    if sample.landmarks is None or sample.landmarks.shape != shape:
        found = None if sample.landmarks is None else sample.landmarks.shape
        raise ValueError(f"'{sample.name}' has landmarks of shape {found}; expected {shape}, one row a name, in mm")
    if np.isinf(sample.landmarks).any():
        raise ValueError(f"'{sample.name}' has a landmark at infinity; give mm, or NaN where it is not to be seen")


def _check_names(names: Sequence[str], task: str) -> None:
    least = 2 if task == "classification" else 1
    if len(names) < least:
        raise ValueError(f"{task} needs {least} names or more, got {list(names)}; add one")
    if len(set(names)) < len(names) or not all(names) or {"case", "class"} & set(names):
        raise ValueError(f"names must differ, and 'case' and 'class' are reserved, got {list(names)}; rename")


def check_image(image: np.ndarray, name: str) -> None:
    """Raises ValueError for an image (C, *space) that is empty, constant, or holds NaN or infinity."""
    if image.size == 0:
        raise ValueError(f"{name} is empty, its shape is {image.shape}; remove it or export it again")
    bad = image.size - np.count_nonzero(np.isfinite(image))
    if bad:
        raise ValueError(f"{name} has NaN or infinity in {bad} of {image.size} values; replace them by numbers")
    if all(channel.min() == channel.max() for channel in image):
        value = ", ".join(f"{channel.flat[0]:g}" for channel in image)
        raise ValueError(f"{name} is constant, every pixel is {value}; remove it or export it again")


def _check_files(folder: Path, cases: dict[str, list[Path]], header: Header) -> None:
    labels = {name: folder / "labelsTr" / f"{name}{header.ending}" for name in cases}
    if missing := [str(file) for file in labels.values() if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} in all): label the image or remove it")
    for file in sorted((folder / "labelsTr").glob(f"*{header.ending}")):
        if strip_ending(file)[0] not in cases and not file.name.startswith("."):
            raise FileNotFoundError(f"{file} has no image in {folder / 'imagesTr'}; add the image or remove the label")
    if header.cases is not None and header.cases != len(cases):
        log.warning("%s: numTraining is %s, but imagesTr has %d cases", folder, header.cases, len(cases))


def _check_alike(samples: list[Sample], folder: Path) -> None:
    first = samples[0]
    for sample in samples:
        if sample.image.ndim != first.image.ndim:
            a, b = first.image.ndim - 1, sample.image.ndim - 1
            raise ValueError(f"{folder} mixes {a}-D ('{first.name}') and {b}-D ('{sample.name}') images; split it")
        if len(sample.image) != len(first.image):
            a, b = len(first.image), len(sample.image)
            raise ValueError(f"{folder} mixes {a} channels ('{first.name}') and {b} ('{sample.name}'); split it")


def _check_numbering(name: str, files: list[Path]) -> None:
    for i, file in enumerate(files):
        if split_channel(file)[1] != i:
            missing = file.with_name(f"{name}_{i:04d}{strip_ending(file)[1]}")
            raise FileNotFoundError(f"{missing} is missing, but there is {file.name}; number channels from 0000 on")


def _check_classes(classes: tuple[str, ...]) -> None:
    if len(classes) < 2 or len(classes) > 255:
        raise ValueError(f"a dataset needs 2 to 255 classes, got {len(classes)}: {classes}")
    if classes[0] != "background":
        raise ValueError(f"class 0 must be called 'background', as nnU-Net demands, got {classes[0]!r}; rename it")
    if len(set(classes)) < len(classes) or "ignore" in classes:
        raise ValueError(f"class names must differ, and 'ignore' is reserved, got {classes}; rename")


def _check_samples(samples: list[Sample], classes: int, sparse: bool) -> None:
    if not samples:
        raise ValueError("no samples to save; add an image with strokes")
    _check_alike(samples, Path("a dataset"))
    for sample in samples:
        space = sample.image.shape[1:]
        if len(space) not in (2, 3) or sample.target.shape != space or len(sample.spacing) != len(space):
            shapes = f"image {sample.image.shape}, target {sample.target.shape}, spacing {sample.spacing}"
            raise ValueError(f"'{sample.name}': {shapes} do not fit; expected (C, *space), (*space), one an axis")
        check_image(sample.image, f"'{sample.name}'")
        ids = set(np.unique(sample.target).tolist())
        if unknown := sorted(ids - set(range(classes)) - {IGNORE}):
            raise ValueError(f"'{sample.name}': the target has ids {unknown}, but there are {classes} classes")
        if IGNORE in ids and not sparse:
            raise ValueError(f"'{sample.name}' has pixels that nobody drew on; save it with sparse=True")


def _check_ending(samples: list[Sample], ending: str) -> None:
    if ending not in (".nii.gz", ".png", ".tif"):
        raise ValueError(f"cannot write {ending!r} files; use .nii.gz, .png or .tif")
    if ending != ".png":
        return
    for sample in samples:
        if not _fits_png(sample):
            low, high = sample.image.min(), sample.image.max()
            found = f"{sample.image.ndim - 1}-D, values {low:g} to {high:g}"
            raise ValueError(f"a PNG cannot hold '{sample.name}' ({found}): it is 2-D, integers 0..65535; use .tif")
        if set(sample.spacing) != {1.0}:
            log.warning("PNG has no spacing: %s of '%s' is not saved; .tif keeps it", sample.spacing, sample.name)


# ------------------------------------------------------------------------------------------------ one case, in and out


def _load_sample(folder: Path, name: str, files: list[Path], header: Header) -> Sample:
    image, spacing = read_image(files)
    _check_channels(files, len(image), header.channels, folder)
    check_image(image, str(files[0]))
    label_file = folder / "labelsTr" / f"{name}{header.ending}"
    labels, label_spacing = read_labels(label_file)
    check_same_grid(label_file, (labels.shape, label_spacing), files[0], (image.shape[1:], spacing))
    compare_affines(label_file, files[0])
    absent = _read_absent(folder / "labelsTr" / f"{name}.json")
    target = _objects(labels, label_file) if header.instances else _target(labels, header, label_file)
    return Sample(image, target, spacing, name, absent=absent)


def _load_wholes(folder: Path, cases: dict[str, list[Path]], header: Header) -> list[Sample]:
    """The images of a dataset for another task than segmentation, each with what the table says of it."""
    file = folder / FILES[header.task]
    classification = header.task == "classification"
    said = read_label_table(file, header.classes) if classification else read_landmark_table(file, header.classes)
    if unknown := sorted(set(said) - set(cases)):
        raise FileNotFoundError(f"{file} has {unknown[0]} ({len(unknown)} in all), which has no image; correct either")
    if classification and (missing := sorted(set(cases) - set(said))):
        raise ValueError(f"{file} has no row of {missing[0]} ({len(missing)} in all); add it or remove the image")
    samples = []
    for name, files in cases.items():
        image, spacing = read_image(files)
        _check_channels(files, len(image), header.channels, folder)
        check_image(image, str(files[0]))
        label, points = (said[name], None) if classification else (None, said.get(name, unseen(header.classes)))
        samples.append(Sample(image, undrawn(image.shape[1:]), spacing, name, label, points))
    _check_alike(samples, folder)
    check_wholes(samples, header.classes, header.task)
    return samples


def _read_absent(file: Path) -> tuple[tuple[int, int], ...]:
    """The marks in CASE.json beside the labels; none where there is no such file."""
    marks = read_json(file).get("absent", []) if file.is_file() else []
    pairs = isinstance(marks, list) and all(isinstance(m, list) and [type(i) for i in m] == [int, int] for m in marks)
    if not pairs:
        raise ValueError(f'{file} has "absent" {marks!r}; write [[slice, class], ...]')
    return tuple((z, c) for z, c in marks)


def _check_channels(files: list[Path], found: int, channels: tuple[str, ...], folder: Path) -> None:
    if len(files) == found < len(channels):
        name, ending = split_channel(files[0])[0], strip_ending(files[0])[1]
        missing = files[0].with_name(f"{name}_{found:04d}{ending}")
        raise FileNotFoundError(f"{missing} is missing: dataset.json names {len(channels)} channels {channels}")
    if found != len(channels):
        raise ValueError(
            f"{files[0]} and its channel files have {found} channels, but channel_names in {folder / 'dataset.json'} "
            f"has {len(channels)}: {channels}; name each channel, or convert the images"
        )


def _objects(labels: np.ndarray, file: Path) -> np.ndarray:
    """The numbers of objects -> what a network learns of them."""
    from trainer.instances import to_boundary_classes

    if labels.min(initial=0) < 0:
        raise ValueError(f"{file} has the number {labels.min()}; objects have 1 and more, and 0 is where there is none")
    return to_boundary_classes(labels)


def _target(labels: np.ndarray, header: Header, file: Path) -> np.ndarray:
    """Ids of the file -> the engine's: classes as they are, `ignore` as IGNORE."""
    highest = len(header.classes) - (header.ignore is None)  # `ignore` comes right after the classes
    unknown = [i for i in np.unique(labels).tolist() if not 0 <= i <= highest]
    if unknown:
        table = ", ".join(f"{i} {name}" for i, name in enumerate((*header.classes, "ignore")[: highest + 1]))
        raise ValueError(f"{file} has label values {unknown[:8]}, but dataset.json has only {table}; correct either")
    target = labels.astype(np.uint8)
    if header.ignore is not None:
        target[labels == header.ignore] = IGNORE
    return target


def _save_image(root: Path, name: str, sample: Sample, channels: tuple[str, ...], ending: str) -> None:
    image, spacing = sample.image.astype(np.float32), tuple(float(s) for s in sample.spacing)
    if ending == ".png":
        image = image.astype(np.uint8 if image.max() <= 255 else np.uint16)
    colour = channels == ("R", "G", "B") and image.dtype == np.uint8
    parts = [np.moveaxis(image, 0, -1)] if colour else list(image)  # (H, W, 3), or one (*space) a channel
    for i, part in enumerate(parts):
        write_array(root / "imagesTr" / f"{name}_{i:04d}{ending}", part, spacing)


def _save_target(root: Path, name: str, sample: Sample, ending: str, classes: int) -> None:
    labels = np.where(sample.target == IGNORE, classes, sample.target).astype(np.uint8)
    (root / "labelsTr").mkdir(exist_ok=True)
    write_array(root / "labelsTr" / f"{name}{ending}", labels, tuple(map(float, sample.spacing)), labels=True)
    if sample.absent:  # a TIFF's spacing may stand there already
        file = root / "labelsTr" / f"{name}.json"
        before = read_json(file) if file.is_file() else {}
        file.write_text(json.dumps(before | {"absent": sample.absent}), encoding="utf-8")


def _save_table(root: Path, samples: dict[str, Sample], names: tuple[str, ...], task: Task) -> None:
    file = root / FILES[task]
    if task == "classification":
        write_label_table(file, {name: sample.label for name, sample in samples.items()}, names)
    else:
        write_landmark_table(file, {name: sample.landmarks for name, sample in samples.items()}, names)


# ---------------------------------------------------------------------------------------------- names and dataset.json


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
        _check_names(names, task)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return tuple(names)


def _parse_channels(names: dict[str, str], file: Path) -> tuple[str, ...]:
    expected = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not expected or set(names) != set(expected):
        raise ValueError(f'{file}: channel_names is {names!r}; write {{"0": "name", "1": "name", ...}}')
    return tuple(names[i] for i in expected)


def _labels_of(task: Task, classes: tuple[str, ...], sparse: bool) -> dict[str, object]:
    """What dataset.json says of the task."""
    if task != "segmentation":
        return {"task": task, NAMES[task]: list(classes)}
    return {"labels": {name: i for i, name in enumerate((*classes, "ignore") if sparse else classes)}}


def _write_header(
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


def _default_channels(count: int) -> tuple[str, ...]:
    return {1: ("image",), 3: ("R", "G", "B")}.get(count, tuple(f"channel {i}" for i in range(count)))


def _lossless_ending(samples: list[Sample]) -> str:
    if samples[0].target.ndim == 3:
        return ".nii.gz"
    return ".png" if all(_fits_png(s) and set(s.spacing) == {1.0} for s in samples) else ".tif"


def _fits_png(sample: Sample) -> bool:
    image = sample.image
    return image.ndim == 3 and bool(((image >= 0) & (image <= 65535) & (image == np.round(image))).all())


def _case_names(samples: list[Sample]) -> list[str]:
    names = [re.sub(r"[^\w.\-]", "_", s.name).lstrip(".") or f"case{i:03d}" for i, s in enumerate(samples)]
    folded = [name.casefold() for name in names]  # some file systems take "A" and "a" for one
    if twice := sorted({name for name in names if folded.count(name.casefold()) > 1}):
        raise ValueError(f"several samples would be called {', '.join(twice)}; rename them")
    return names


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, renamed to it at the end: after an error or a full disk nothing half is left."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; choose a new folder, nothing is overwritten")
    hidden = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
    try:
        (hidden / "imagesTr").mkdir(parents=True)
        yield hidden
        if folder.exists():
            folder.rmdir()
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
