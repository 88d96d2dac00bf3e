"""The only file that speaks both napari layers and engine arrays.

Strokes in napari: 0 is not painted, value c + 1 is class c; class 0 is the background and painted like any other.
Predictions in napari: value c + 1 for class c > 0 and 0 for the background, so that the brushes' colours fit both.
In the engine: classes 0..K-1, IGNORE where nobody drew, channels first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from trainer.dataset import IGNORE, Sample

KEY = "scribblemamba"  # of our entry in a layer's metadata
BACKGROUND = "#7d8590"
# Okabe and Ito, Color universal design (2008), the dark blue last: it is hard to see on dark images
OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


@dataclass(frozen=True)
class Brush:
    """A class as the person sees it: its name and its colour ("#rrggbb")."""

    name: str
    colour: str


def default_colour(index: int) -> str:
    return BACKGROUND if index == 0 else OKABE_ITO[(index - 1) % len(OKABE_ITO)]


def default_brushes(names: Sequence[str]) -> tuple[Brush, ...]:
    return tuple(Brush(name, default_colour(i)) for i, name in enumerate(names))


# strokes ------------------------------------------------------------------------------------------------------------


def new_scribble_layer(viewer: ViewerModel, image: Image, brushes: Sequence[Brush]) -> Labels:
    """An empty layer to draw on, over the image, with a brush for the first class after the background."""
    space = image_space(image)
    strokes = Labels(np.zeros(space, np.uint8), name=f"strokes · {image.name}", opacity=0.9, **_geometry(image))
    set_brushes(strokes, brushes)
    viewer.layers.append(strokes)
    viewer.layers.selection.active = strokes
    start_painting(strokes, label=2)
    return strokes


def start_painting(strokes: Labels, label: int) -> None:
    strokes.selected_label = label
    strokes.mode = "paint"


def is_scribble_layer(layer: object) -> bool:
    return isinstance(layer, Labels) and "network" not in layer.metadata.get(KEY, {})


def brushes_of(strokes: Labels) -> tuple[Brush, ...] | None:
    """The classes that the layer's metadata name, None where it is not one of ours."""
    entry = strokes.metadata.get(KEY, {})
    if "classes" not in entry:
        return None
    brushes = default_brushes(entry["classes"])
    return tuple(
        Brush(b.name, c) for b, c in zip(brushes, entry.get("colours", [b.colour for b in brushes]), strict=True)
    )


def set_brushes(strokes: Labels, brushes: Sequence[Brush]) -> None:
    """Name and colour the classes of a scribble layer; the layer carries them in its metadata."""
    if "colours" not in strokes.metadata.get(KEY, {}):  # new to us: a brush that suits its size
        strokes.brush_size = max(2, round(min(strokes.data.shape[-2:]) / 100))
    entry = {"classes": [b.name for b in brushes], "colours": [b.colour for b in brushes]}
    strokes.metadata = {**strokes.metadata, KEY: entry}
    strokes.colormap = _colormap(brushes)


def erase_class(strokes: Labels, index: int) -> None:
    """Remove the strokes of a class and move the later classes down by one; Ctrl+Z brings the strokes back."""
    values = np.asarray(strokes.data)
    where = np.nonzero(values > index)
    label = values[where].astype(int)
    strokes.data_setitem(where, np.where(label == index + 1, 0, label - 1).astype(values.dtype))


# napari -> engine ---------------------------------------------------------------------------------------------------


def sample_from_layers(image: Image, strokes: Labels | None, classes: Sequence[str]) -> Sample:
    """The engine's sample of an image and its strokes; without strokes nothing is labelled.

    ValueError where their shapes differ or a painted label has no class.
    """
    pixels = image_array(image).astype(np.float32)
    target = np.full(pixels.shape[1:], IGNORE, np.uint8)
    if strokes is not None:
        target = _target(strokes, image, classes)
    return Sample(pixels, target, spacing_of(image), image.name)


def image_array(image: Image) -> np.ndarray:
    """(C, *space) of an image layer in its own dtype; the alpha of RGBA is dropped."""
    space = image_space(image)
    pixels = np.asarray(image.data[0] if image.multiscale else image.data)
    if image.rgb:
        return np.moveaxis(pixels[..., :3], -1, 0)  # (3, *space)
    return pixels.reshape(1, *space)


def image_space(image: Image) -> tuple[int, ...]:
    """(H, W) or (D, H, W); ValueError for anything else."""
    pixels = image.data[0] if image.multiscale else image.data
    space = tuple(pixels.shape[:-1] if image.rgb else pixels.shape)
    if len(space) not in (2, 3):
        raise ValueError(
            f"'{image.name}' has {len(space)} axes, {space}; ScribbleMamba takes 2-D images and stacks (D, H, W), "
            "so split it into stacks first"
        )
    return space


def spacing_of(image: Image) -> tuple[float, ...]:
    """mm per voxel, one per axis; a layer without a unit of length is taken to be in mm."""
    sizes = [unit_size(unit) for unit in image.units]
    return tuple(float(abs(scale) * size) for scale, size in zip(image.scale, sizes, strict=True))


def unit_size(unit: object) -> float:
    """mm in one unit (a pint.Unit); 1 where it is no length, such as pixels."""
    return float((1 * unit).to("mm").magnitude) if unit.is_compatible_with("mm") else 1.0


def visible_slice(viewer: ViewerModel, image: Image) -> int | None:
    """The slice of a stack that the viewer shows, None for a 2-D image."""
    if image.ndim < 3:
        return None
    index = round(float(image.world_to_data(viewer.dims.point)[0]))
    return min(max(index, 0), image_space(image)[0] - 1)


def _target(strokes: Labels, image: Image, classes: Sequence[str]) -> np.ndarray:
    values = np.asarray(strokes.data)
    if values.shape != image_space(image):
        raise ValueError(
            f"the strokes '{strokes.name}' have shape {values.shape}, the image '{image.name}' {image_space(image)}; "
            "choose the strokes of this image, or press New"
        )
    if values.max(initial=0) > len(classes):
        raise ValueError(
            f"label {values.max()} in '{strokes.name}' belongs to no class, there are {len(classes)}; "
            "add a class or erase it"
        )
    return np.where(values == 0, IGNORE, values.astype(np.int64) - 1).astype(np.uint8)


# engine -> napari ---------------------------------------------------------------------------------------------------


def prediction_layers(viewer: ViewerModel, image: Image) -> dict[str, Labels]:
    """network -> its layer for this image; found by metadata, so that they may be renamed."""
    entries = [(layer, layer.metadata.get(KEY, {})) for layer in viewer.layers]
    return {e["network"]: layer for layer, e in entries if "network" in e and e["image"] == image.unique_id}


def add_prediction_layer(viewer: ViewerModel, image: Image, network: str, brushes: Sequence[Brush]) -> Labels:
    """An empty, locked layer just above the image; of all networks only the ensemble is visible at first."""
    layer = Labels(
        np.zeros(image_space(image), np.uint8),
        name=f"{network} · {image.name}",
        metadata={KEY: {"network": network, "image": image.unique_id}},
        opacity=0.45,
        visible=network == "ensemble",
        colormap=_colormap(brushes),
        **_geometry(image),
    )
    selected = set(viewer.layers.selection)
    viewer.layers.insert(viewer.layers.index(image) + 1, layer)
    viewer.layers.selection = selected  # napari selects what it adds: the brush would be gone in mid-stroke
    layer.editable = False
    if hasattr(layer, "locked"):  # napari >= 0.7.1
        layer.locked = True
    return layer


def show_prediction(
    viewer: ViewerModel, image: Image, labels: dict[str, np.ndarray], index: int | None, brushes: Sequence[Brush]
) -> None:
    """Write classes (H, W) into slice `index` of each network's layer, or (*space) into all of it.

    The pixels change on screen with the layers' next refresh(), which costs more and is left to the caller.
    """
    layers = prediction_layers(viewer, image)
    for network, classes in labels.items():
        layer = layers.get(network) or add_prediction_layer(viewer, image, network, brushes)
        if layer.data.shape != image_space(image):  # the image was replaced
            layer.data = np.zeros(image_space(image), np.uint8)
        layer.data[... if index is None else index] = np.where(classes == 0, 0, classes + 1)


def clear_predictions(viewer: ViewerModel, image: Image) -> None:
    """Blank the image's predictions, so that old ones are not taken for those of a new training."""
    for layer in prediction_layers(viewer, image).values():
        layer.data[...] = 0
        layer.refresh()


def recolour_predictions(viewer: ViewerModel, image: Image, brushes: Sequence[Brush]) -> None:
    for layer in prediction_layers(viewer, image).values():
        layer.colormap = _colormap(brushes)


def _colormap(brushes: Sequence[Brush]) -> DirectLabelColormap:
    """Value c + 1 in the colour of class c; labels that belong to no class in white, so that they are found."""
    colours = {label: brush.colour for label, brush in enumerate(brushes, start=1)}
    return DirectLabelColormap(color_dict={None: "white", 0: "transparent", **colours})


def _geometry(image: Image) -> dict[str, object]:
    """Where the image is in the world, as arguments of another layer."""
    return {
        "scale": image.scale,
        "translate": image.translate,
        "rotate": image.rotate,
        "shear": image.shear,
        "affine": image.affine.affine_matrix,
        "units": image.units,
        "axis_labels": image.axis_labels,
    }
