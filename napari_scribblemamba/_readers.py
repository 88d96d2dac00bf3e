"""Readers for napari: NIfTI, DICOM series, ACDC's h5, nnU-Net datasets, our projects, strokes of other programs.

A layer has its scale in mm and its axes named, and is never turned: strokes are drawn on the slices as they were taken.
Where the file says how they lie in the patient, the layer's metadata keep it, and the writers put it into their files.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

    from napari_scribblemamba._project import Project
    from trainer.header import Header

Reader = Callable[[str], "list[LayerDataTuple]"]
AFFINE = "affine of x, y, z to mm in RAS+"  # in a layer's metadata
LABEL_NAMES = re.compile(r"(^|[_\-. ])(gt|seg|segmentation|labels?|mask)([_\-. ]|$)", re.IGNORECASE)
LOOKS = ("rgb", "scale", "translate", "units", "axis_labels")  # of a layer; those of strokes too but the first
AT_ONCE = 16  # cases of a dataset
SNIFFED = 200  # files of a folder that are looked into, whether they are DICOM
log = logging.getLogger(__name__)


def file_reader(path: str | Sequence[str]) -> Reader | None:
    """What napari asks of a file that a pattern in napari.yaml fits."""
    if not isinstance(path, str):  # a stack of files
        return None
    name = Path(path).name.lower()
    for ending, read in FILES.items():
        if name.endswith(ending):
            return read
    return None


def folder_reader(path: str | Sequence[str]) -> Reader | None:
    """What napari asks of every folder; None, for another reader, where it is none of ours."""
    if not isinstance(path, str) or not Path(path).is_dir():
        return None
    from trainer.dicom import is_dicom

    folder = Path(path)
    if (folder / "project.json").is_file():
        return read_project
    if (folder / "dataset.json").is_file():
        return read_dataset
    files = islice((file for file in folder.rglob("*") if file.is_file()), SNIFFED)
    return read_dicom_series if any(is_dicom(file) for file in files) else None


def plugin_for(path: Path) -> str:
    """Which plugin should open a path: ours where we know better than napari what is in it."""
    ours = folder_reader(str(path)) if path.is_dir() else file_reader(str(path))
    return "napari" if ours is None else "napari-scribblemamba"


# images -------------------------------------------------------------------------------------------------------------


def read_nifti_file(path: str) -> "list[LayerDataTuple]":
    """An image, or labels where the name of the file or folder says so (labelsTr, patient001_gt) and it holds ids."""
    from trainer.formats import read_nifti

    file = Path(path)
    array, spacing, affine = read_nifti(file)
    name = file.name[: -len(".nii.gz")] if file.name.lower().endswith(".gz") else file.stem
    if array.ndim < 2 or array.ndim > 4 or array.dtype.kind not in "buif":
        raise ValueError(f"{file} is {array.dtype} {array.shape}; images of 2 to 4 axes of numbers can be shown")
    settings = {"name": name, "metadata": {AFFINE: affine}, **geometry(spacing)}
    if _holds_ids(array) and (file.parent.name.startswith("labels") or LABEL_NAMES.search(name)):
        return [(array.astype(np.int32), settings, "labels")]
    return [(array.astype(np.float32) if array.dtype == np.float64 else array, settings, "image")]


def read_dicom_series(path: str) -> "list[LayerDataTuple]":
    """Each series of a folder, or the one that a file belongs to."""
    from trainer.dicom import read_dicom

    layers = []
    for series in read_dicom(Path(path)):
        image, axes = series.image, "tzyx"[-(series.image.ndim - series.colours) :]
        if image.shape[axes.index("z")] == 1:  # one slice is a picture, and its film a stack of them
            image, axes = image.squeeze(axes.index("z")), axes.replace("z", "")
        sizes = dict(zip("zyx", series.spacing, strict=True)) | {"t": 1.0}  # its seconds are not in every header
        settings = {"name": series.name, "rgb": series.colours, "metadata": {AFFINE: series.affine}}
        layers.append((image, {**settings, **geometry([sizes[axis] for axis in axes], axes=axes)}, "image"))
    return layers


def read_acdc_file(path: str) -> "list[LayerDataTuple]":
    """The image and its strokes; the dense labels, too, hidden, painted in the same way."""
    from trainer.formats import ACDC_CLASSES, read_acdc

    image, targets = read_acdc(Path(path))
    where = geometry((1.0,) * image.ndim, unit="pixel")  # the files do not say
    name = Path(path).stem
    layers: list[LayerDataTuple] = [(image, {"name": name, **where}, "image")]
    for key, target in targets.items():
        layers.append(strokes_of(target, ACDC_CLASSES, f"{key} · {name}", visible=key == "scribble", **where))
    return layers


def read_dataset(path: str) -> "list[LayerDataTuple]":
    """The cases of a raw nnU-Net dataset with their labels as strokes; `ignore` is not painted. The first is shown."""
    from trainer.dataset import find_cases
    from trainer.header import read_header

    folder = Path(path)
    header = read_header(folder)
    cases = find_cases(folder / "imagesTr", header.ending)
    if len(cases) > AT_ONCE:
        what = f"{folder} has {len(cases)} cases, more than the {AT_ONCE} that fit in a viewer"
        raise ValueError(f"{what}; open images of {folder / 'imagesTr'} instead")
    layers = []
    for i, (name, files) in enumerate(cases.items()):
        layers += _case_layers(folder, name, files, header, visible=i == 0)
    return layers


def _case_layers(folder: Path, name: str, files: list[Path], header: "Header", visible: bool) -> "list[LayerDataTuple]":
    from trainer.formats import check_same_grid, nifti_affine, read_image, read_labels
    from trainer.sample import IGNORE

    image, spacing = read_image(files)
    where = {"visible": visible, **geometry(spacing, unit="pixel" if header.ending == ".png" else "mm")}
    if header.ending.startswith(".nii"):
        where["metadata"] = {AFFINE: nifti_affine(files[0])}
    layers = _channel_layers(image, name, header.channels, where)
    label_file = folder / "labelsTr" / f"{name}{header.ending}"
    if not label_file.is_file():
        log.warning("%s does not exist, '%s' has no strokes", label_file, name)
        return layers
    ids, label_spacing = read_labels(label_file)
    check_same_grid(label_file, (ids.shape, label_spacing), files[0], (image.shape[1:], spacing))
    if header.instances:
        return [*layers, (ids, {"name": f"objects · {name}", **where}, "labels")]
    highest = len(header.classes) - (header.ignore is None)
    if ids.min() < 0 or ids.max() > highest:
        raise ValueError(
            f"{label_file} has ids {ids.min()} to {ids.max()}, dataset.json 0 to {highest}; correct either"
        )
    target = np.where(ids == header.ignore, IGNORE, ids) if header.ignore is not None else ids
    return [*layers, strokes_of(target, header.classes, f"strokes · {name}", **where)]


def _channel_layers(image: np.ndarray, name: str, channels: Sequence[str], where: dict) -> "list[LayerDataTuple]":
    """One layer in colour for R, G, B in 8 bits, else one a channel; (C, *space)."""
    if tuple(channels) == ("R", "G", "B") and image.ndim == 3 and image.min() >= 0 and image.max() <= 255:
        return [(np.moveaxis(image, 0, -1).astype(np.uint8), {"name": name, "rgb": True, **where}, "image")]
    if len(image) == 1:
        return [(image[0], {"name": name, **where}, "image")]
    titles = [f"{name} · {channel}" for channel in channels] if len(channels) == len(image) else [name] * len(image)
    return [(part, {"name": title, **where}, "image") for part, title in zip(image, titles, strict=True)]


# strokes ------------------------------------------------------------------------------------------------------------


def read_foreign(path: str) -> "list[LayerDataTuple]":
    """Strokes of ilastik (.ilp) or Convpaint (_annotations.tif), where they begin at the origin; one pixel is one."""
    from napari_scribblemamba._foreign import PROGRAMS, stroke_layer

    program = "ilastik" if path.lower().endswith(".ilp") else "Convpaint"
    return [stroke_layer(strokes) for strokes in PROGRAMS[program](Path(path))]


def read_project(path: str, most: int | None = None) -> "list[LayerDataTuple]":
    """The images of a project and their strokes as they stand; the layers' metadata say of which project they are.

    Of several images the first is visible; with `most`, the others are left where they are.
    """
    from napari_scribblemamba._project import Project

    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    project = Project(folder)
    try:
        layers, refused = [], []
        for key, image in project.images.items():
            if project.whereabouts(key) == "missing":
                log.warning(
                    "'%s' is no longer at %s; put it back, or choose it anew in the project", image.name, image.path
                )
                continue
            try:
                layers += project_layers(project, key, aside=bool(layers))
            except (ValueError, OSError, ImportError) as e:  # the others can be drawn on all the same
                refused.append(e)
                log.warning("%s", e)
            if most is not None and sum(kind == "labels" for *_, kind in layers) == most:
                break
        if refused and not layers:
            raise refused[0]
        return layers
    finally:
        project.close()


def project_layers(project: "Project", key: str, aside: bool = False) -> "list[LayerDataTuple]":
    """An image of an open project, and its strokes; hidden if put `aside`. ValueError where the file has become one of
    another shape."""
    from napari_scribblemamba._notes import KEY

    image = project.images[key]
    known = {name: tuple(v) if isinstance(v, list) else v for name, v in image.settings.items() if name in LOOKS}
    entry = {"project": str(project.folder), "key": key, "box": image.settings.get("box")}
    pixels = []
    for data, settings, kind in _open(image.path):
        metadata = {**settings.get("metadata", {}), KEY: entry}
        pixels.append((data, {**settings, "name": image.name, **known, "metadata": metadata}, kind))
    found = _shape(pixels[0][0]) if pixels else "no image"
    if found[: len(image.shape)] != image.shape:
        raise ValueError(f"{image.path} has become {found}; the strokes of '{image.name}' are of {image.shape}")
    layers = [*pixels, project_strokes(project, key, pixels[0][1])]
    for _, settings, _ in layers if aside else ():
        settings["visible"] = False
        settings["metadata"][KEY] = {**settings["metadata"][KEY], "aside": True}
    return layers


def project_strokes(project: "Project", key: str, like: Mapping[str, Any]) -> "LayerDataTuple":
    """The strokes of an image as they stand, where that layer is (its settings)."""
    from napari_scribblemamba._layers import number_of
    from napari_scribblemamba._notes import KEY

    image, journal = project.images[key], project.journal(key)
    labels = np.zeros(journal.shape, journal.dtype)
    journal.restore(labels)
    entry = {"project": str(project.folder), "key": key}
    entry |= {"classes": [each.name for each in journal.classes], "colours": [each.colour for each in journal.classes]}
    numbers = {each.key: c for c, each in enumerate(journal.classes)}
    for place, mark in sorted(journal.absent):
        entry.setdefault("absent", {}).setdefault(numbers[mark], []).append(number_of(place, journal.shape))
    where = {name: like[name] for name in (*LOOKS[1:], "rotate", "shear", "affine") if name in like}
    kept = {name: value for name, value in like.get("metadata", {}).items() if name == AFFINE}
    return labels, {"name": f"strokes · {image.name}", "metadata": {**kept, KEY: entry}, **where}, "labels"


def _open(path: Path) -> "list[LayerDataTuple]":
    """The image of a file by our own reader, or by napari's where it is TIFF, PNG, ..."""
    reader = folder_reader(str(path)) if path.is_dir() else file_reader(str(path))
    if reader is not None:
        return [layer for layer in reader(str(path)) if layer[2] == "image"]
    import npe2

    layers = npe2.read([str(path)], stack=False, plugin_name="napari")
    return [(layer[0], layer[1] if len(layer) > 1 else {}, "image") for layer in layers]


def strokes_of(target: np.ndarray, classes: Sequence[str], name: str, **settings: object) -> "LayerDataTuple":
    """Class ids (*space), 255 where nobody drew -> a layer: 0 not painted, c + 1 for class c."""
    from napari_scribblemamba._notes import KEY
    from trainer.sample import IGNORE

    metadata = {**settings.pop("metadata", {}), KEY: {"classes": list(classes)}}
    labels = np.where(target == IGNORE, 0, target.astype(np.int16) + 1).astype(np.uint8)
    return labels, {"name": name, "metadata": metadata, **settings}, "labels"


# geometry -----------------------------------------------------------------------------------------------------------


def _shape(data: Any) -> tuple[int, ...]:
    """Of an array, or of the finest one of a multiscale image."""
    return tuple((data if hasattr(data, "shape") else data[0]).shape)


def geometry(spacing: Sequence[float], unit: str = "mm", axes: str = "") -> dict[str, object]:
    """Scale, units and names of the axes: (y, x), (z, y, x) or (t, z, y, x) unless they are given."""
    names = tuple(axes or "tzyx"[-len(spacing) :])
    return {"scale": tuple(spacing), "axis_labels": names, "units": tuple("s" if n == "t" else unit for n in names)}


def _holds_ids(array: np.ndarray) -> bool:
    return array.dtype.kind in "bui" or bool((array == np.round(array)).all())


FILES: dict[str, Reader] = {
    ".nii": read_nifti_file,
    ".nii.gz": read_nifti_file,
    ".dcm": read_dicom_series,
    ".h5": read_acdc_file,
    ".hdf5": read_acdc_file,
    ".ilp": read_foreign,
    "_annotations.tif": read_foreign,
    "project.json": read_project,
}
