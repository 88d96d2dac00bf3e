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
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from trainer.config import Task
from trainer.formats import (
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
from trainer.header import Header, labels_of, read_header, write_header
from trainer.sample import IGNORE, Sample, check_absent, check_image, check_strokes, check_wholes, undrawn
from trainer.tables import (
    FILES,
    read_label_table,
    read_landmark_table,
    unseen,
    write_label_table,
    write_landmark_table,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Dataset:
    samples: list[Sample]
    classes: tuple[str, ...]  # names, class 0 first (background)
    channels: tuple[str, ...]
    sparse: bool  # True where dataset.json has the label "ignore"
    ending: str  # ".nii.gz", ".png" or ".tif"
    task: Task = "segmentation"  # of another one, the classes are those of whole images, or the names of landmarks


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
        write_header(root, labels_of(task, classes, sparse), channels, ending, samples)
        named = dict(zip(_case_names(samples), samples, strict=True))
        for name, sample in named.items():
            _save_image(root, name, sample, channels, ending)
        if task == "segmentation":
            for name, sample in named.items():
                _save_target(root, name, sample, ending, len(classes))
        else:
            _save_table(root, named, classes, task)


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


# ---------------------------------------------------------------------------------------------------------------- names


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
