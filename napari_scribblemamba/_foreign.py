"""Strokes that were drawn in other programs: ilastik projects, Convpaint's and RootPainter's annotations.

They come as Labels in our convention: 0 is not painted, 1 the background, 2 and on the other classes.
https://www.ilastik.org · https://guiwitz.github.io/napari-convpaint · https://github.com/Abe404/root_painter
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from napari.layers import Image
from napari.types import LayerDataTuple
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from napari_scribblemamba._layers import image_space
from napari_scribblemamba._notes import KEY
from trainer.formats import optional, read_labels

if TYPE_CHECKING:
    import h5py

BACKGROUND = ("background", "bg")  # names under which people paint it


@dataclass(frozen=True, eq=False)
class Strokes:
    """The strokes on one image."""

    name: str
    labels: np.ndarray  # uint8 (*space): 0 not painted, c + 1 for class c
    classes: tuple[str, ...]  # class 0, the background, first


def import_strokes(image: Image, file: Path, program: Literal["ilastik", "Convpaint", "RootPainter"]) -> LayerDataTuple:
    """Lay strokes that were drawn in another program over an image. ValueError where none have the image's shape.

    Args:
        image: The image they were drawn on.
        file: ilastik: project.ilp; Convpaint: NAME_annotations.tif; RootPainter: annotations/train/NAME.png.
        program: Where they were drawn.
    """
    space = image_space(image)
    found = PROGRAMS[program](Path(file))
    fitting = [strokes for strokes in found if strokes.labels.shape == space]
    if not fitting:
        shapes = ", ".join(f"{strokes.name} {strokes.labels.shape}" for strokes in found)
        raise ValueError(f"{file} has strokes on {shapes}, but '{image.name}' is {space}; choose their own image")
    named = [strokes for strokes in fitting if Path(strokes.name).stem == Path(image.name).stem]
    data, settings, kind = stroke_layer((named or fitting)[0])
    geometry = ("scale", "translate", "rotate", "shear", "units", "axis_labels")
    settings |= {key: getattr(image, key) for key in geometry} | {"affine": image.affine.affine_matrix}
    return data, settings, kind


def stroke_layer(strokes: Strokes) -> LayerDataTuple:
    metadata = {KEY: {"classes": list(strokes.classes)}}
    return strokes.labels, {"name": f"strokes · {strokes.name}", "metadata": metadata}, "labels"


# ilastik ------------------------------------------------------------------------------------------------------------


def read_ilastik(file: Path) -> list[Strokes]:
    """The strokes of a pixel classification project (.ilp), of each image that has any. Needs h5py."""
    h5py = optional("h5py", "an ilastik project")
    try:
        with h5py.File(file, "r") as project:
            return _project_strokes(file, project)
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); open it in ilastik and save it again") from error


def _project_strokes(file: Path, project: "h5py.File") -> list[Strokes]:
    if "PixelClassification/LabelSets" not in project:
        raise ValueError(f"{file} has {sorted(project)}, no PixelClassification/LabelSets; save a pixel classification")
    names = tuple(_text(name) for name in project.get("PixelClassification/LabelNames", ()))
    lanes = [lane["Raw Data"] for _, lane in sorted(project["Input Data/infos"].items())]
    sets = [blocks for _, blocks in sorted(project["PixelClassification/LabelSets"].items())]
    found = [_lane_strokes(file, lane, blocks, names) for lane, blocks in zip(lanes, sets, strict=False) if len(blocks)]
    if not found:
        raise ValueError(f"{file} has {len(lanes)} images and no strokes on them; draw in ilastik and save the project")
    return found


def _lane_strokes(file: Path, lane: "h5py.Group", blocks: "h5py.Group", names: tuple[str, ...]) -> Strokes:
    """An image of the project, a "lane", and the blocks of its strokes, each with its place "[0:1,20:64,8:40,0:1]"."""
    shape, axes = tuple(int(n) for n in lane["shape"][()]), _axes(lane)
    if "c" not in axes:
        shape, axes = (*shape, 1), f"{axes}c"
    labels = np.zeros([1 if axis == "c" else n for n, axis in zip(shape, axes, strict=True)], np.uint8)
    for block in blocks.values():
        place, values = _placed(file, block, axes)
        if labels[place].shape != values.shape:
            raise ValueError(f"{file}: a block {block.shape} of strokes does not fit on {labels.shape}; save it again")
        labels[place] = values
    ordered = [axes.index(axis) for axis in "tzyxc" if axis in axes]
    labels = labels.transpose(ordered)[..., 0]
    while labels.ndim > 2 and labels.shape[0] == 1:  # ilastik keeps single planes and moments
        labels = labels[0]
    nickname = _text(lane["nickname"][()]) if "nickname" in lane else Path(_text(lane["filePath"][()])).stem
    return Strokes(nickname, *background_first(labels, names))


def _placed(file: Path, block: "h5py.Dataset", axes: str) -> tuple[tuple[slice, ...], np.ndarray]:
    """Where a block lies, and its labels, with the axes of the image; its own may be in another order."""
    own = _axes(block) if "axistags" in block.attrs else axes
    limits = [slice(int(a), int(b)) for a, b in re.findall(r"(\d+):(\d+)", _text(block.attrs["blockSlice"]))]
    if sorted(own) != sorted(axes) or not block.ndim == len(limits) == len(axes):
        raise ValueError(
            f"{file}: strokes with axes {own} {block.shape} on an image {axes}; save it in a newer ilastik"
        )
    order = [own.index(axis) for axis in axes]
    return tuple(limits[i] for i in order), block[()].transpose(order)


def _axes(node: "h5py.Group | h5py.Dataset") -> str:
    """ "zyxc" of vigra's axis tags, a JSON beside the image or in an attribute of a block."""
    tags = node.attrs["axistags"] if "axistags" in node.attrs else node["axistags"][()]
    return "".join(axis["key"] for axis in json.loads(_text(tags))["axes"])


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def background_first(labels: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The background becomes class 0; where no class is called so, an empty one is put before the others."""
    count = max(int(labels.max(initial=0)), len(names))
    names = tuple(names[i] if i < len(names) else f"class {i + 1}" for i in range(count))
    where = next((i for i, name in enumerate(names) if name.strip().lower() in BACKGROUND), None)
    others = [i for i in range(count) if i != where]
    table = np.zeros(count + 1, np.uint8)  # their label -> ours
    table[[i + 1 for i in others]] = np.arange(2, len(others) + 2)
    if where is not None:
        table[where + 1] = 1
    return table[labels], ("background", *(names[i] for i in others))


# Convpaint and RootPainter ------------------------------------------------------------------------------------------


def read_convpaint(file: Path) -> list[Strokes]:
    """An exported annotation, NAME_annotations.tif: 0 not painted, 1 the background, as Convpaint's classes begin."""
    labels, _ = read_labels(file)
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise ValueError(f"{file} has labels {labels.min()} to {labels.max()}; annotations of classes lie in 0..255")
    if not labels.any():
        raise ValueError(f"{file} has no strokes, every pixel is 0; export the annotations again")
    classes = ("background", *(f"class {i}" for i in range(2, max(int(labels.max()), 2) + 1)))
    return [Strokes(Path(file).stem.removesuffix("_annotations"), labels.astype(np.uint8), classes)]


def read_rootpainter(file: Path) -> list[Strokes]:
    """An annotation of a picture: a transparent PNG with the foreground in red and the background in green."""
    try:
        with Picture.open(file, formats=["PNG"]) as png:
            mode, rgba = png.mode, np.asarray(png.convert("RGBA")).astype(int)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read ({error}); it may be truncated or no PNG: copy it again") from error
    if mode != "RGBA":
        raise ValueError(
            f"{file} is a {mode} picture; RootPainter's annotations are RGBA, in annotations/train and val"
        )
    red, green, blue, alpha = np.moveaxis(rgba, -1, 0)
    painted = (alpha > 0) & (rgba[..., :3].any(-1))
    if (odd := painted & ((blue > 0) | ((red > 0) == (green > 0)))).any():
        colour = tuple(rgba[tuple(np.argwhere(odd)[0])].tolist())
        raise ValueError(f"{file} has {odd.sum()} pixels of other colours, as {colour}; only red and green can be read")
    if not painted.any():
        raise ValueError(f"{file} has no strokes; choose an annotation that was drawn on")
    labels = np.where(painted, np.where(red > 0, 2, 1), 0).astype(np.uint8)
    return [Strokes(Path(file).stem, labels, ("background", "foreground"))]


PROGRAMS: dict[str, Callable[[Path], list[Strokes]]] = {
    "ilastik": read_ilastik,
    "Convpaint": read_convpaint,
    "RootPainter": read_rootpainter,
}
