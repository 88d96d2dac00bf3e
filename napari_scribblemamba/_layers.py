"""The only file that speaks both napari layers and engine arrays.

Strokes in napari: 0 is not painted, value c + 1 is class c; class 0 is the background and painted like any other.
Predictions in napari: value c + 1 for class c > 0 and 0 for the background, so that the brushes' colours fit both.
In the engine: classes 0..K-1, IGNORE where nobody drew, channels first; all axes before the last two are one stack,
whose slices have numbers: that of slice z at time t is t * Z + z.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils import resize_dask_cache
from napari.utils.colormaps import Colormap, DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_scribblemamba._box import Box
from napari_scribblemamba._notes import (
    KEY,
    Brush,
    absences,
    absent_of,
    colormap,
    default_brushes,
    home_of,
    is_aside,
    note,
    set_brushes,
)
from napari_scribblemamba._readers import AFFINE
from napari_scribblemamba._tally import Tally
from trainer.sample import Sample, undrawn
from trainer.stack import LARGE, Part, Stack, part_around

CHANNEL_AXES = {"c", "ch", "channel", "channels"}
DISAGREEMENT = "#ff4fd8"  # pink: no class has it
BOX = "#ffd500"  # of its rectangle
MOST_CLASSES = 64  # that dense labels are read as; more are numbered objects
KEPT = 2**28  # bytes of slices that were shown, 64 of 2000 x 2000: chunks that hold several are read once
OUTLINE = 1  # pixels of a contour


@dataclass(frozen=True)
class View:
    """How all predictions are shown."""

    contour: bool = False  # borders only
    opacity: float = 0.45
    hidden: bool = False


# strokes ------------------------------------------------------------------------------------------------------------


def new_scribble_layer(viewer: ViewerModel, image: Image, brushes: Sequence[Brush]) -> Labels:
    """An empty layer to draw on, over the image, with a brush for the first class after the background."""
    space = image_space(image)
    own = {"metadata": {**_orientation(image), KEY: {"of": image.unique_id}}}
    name, where = f"strokes · {image.name}", {**own, **geometry_of(image)}
    strokes = Labels(np.zeros(space, np.uint8), name=name, opacity=0.9, **where)
    set_brushes(strokes, brushes)
    viewer.layers.append(strokes)
    viewer.layers.selection.active = strokes
    start_painting(strokes, label=2)
    return strokes


def strokes_from_labels(viewer: ViewerModel, image: Image, labels: Labels, objects: bool = False) -> Labels:
    """Dense labels as a layer of strokes in which every pixel is drawn: each value is a class, the lowest (mostly 0)
    the background; or, with `objects`, each value but 0 is an object, and the classes are interior and boundary.

    ValueError where they are of another shape, or of more classes than there can be.
    """
    if tuple(labels.data.shape) != image_space(image):
        shapes = f"{labels.data.shape}, the image '{image.name}' {image_space(image)}"
        raise ValueError(f"'{labels.name}' has shape {shapes}; choose the labels of this image")
    if is_large(image):
        raise ValueError(f"'{labels.name}' is too large to be taken at once; cut out a part of it and of the image")
    values = np.asarray(labels.data)
    if objects:
        from trainer.instances import CLASSES, to_boundary_classes  # with scipy and skimage

        names, classes = CLASSES, to_boundary_classes(values)
    else:
        found, classes = np.unique(values, return_inverse=True)
        if len(found) > MOST_CLASSES:
            raise ValueError(f"'{labels.name}' has {len(found)} values, too many for classes; take them as objects")
        names = ("background", *(f"label {value}" for value in found[1:]))
    dense = Labels(
        (classes.reshape(values.shape) + 1).astype(np.uint8),
        name=f"{labels.name} as {'objects' if objects else 'classes'}",
        metadata={**_orientation(image), KEY: {"of": image.unique_id}},
        **geometry_of(image),
    )
    set_brushes(dense, default_brushes(names))
    viewer.layers.append(dense)
    return dense


def start_painting(strokes: Labels, label: int) -> None:
    strokes.selected_label = label
    strokes.mode = "paint"


def is_scribble_layer(layer: object) -> bool:
    return (
        isinstance(layer, Labels)
        and not layer.multiscale  # what is drawn on one level is not on the others
        and not _is_shown_by_us(layer)
        and not {"objects", "past"} & layer.metadata.get(KEY, {}).keys()
    )


def is_source_image(layer: object) -> bool:
    return isinstance(layer, Image) and not _is_shown_by_us(layer)


def _is_shown_by_us(layer: Image | Labels) -> bool:
    """A prediction, or something made of predictions."""
    return "image" in layer.metadata.get(KEY, {})


def past_layer(viewer: ViewerModel, image: Image, strokes: Labels) -> Labels:
    """An empty, locked layer above the strokes, for what they were."""
    empty = np.zeros(strokes.data.shape, strokes.data.dtype)
    entry = {KEY: {"past": image.unique_id}}
    layer = Labels(empty, name=f"past {strokes.name}", metadata=entry, opacity=strokes.opacity, **geometry_of(image))
    _insert(viewer, layer, below=[strokes])
    return layer


def unlock(layer: Layer) -> None:
    if hasattr(layer, "locked"):  # napari >= 0.7.1
        layer.locked = False


def renumber(strokes: Labels, numbers: Sequence[int]) -> None:
    """Class c becomes numbers[c], or nothing where that is -1; so do the marks of absence.

    What was drawn before can then not be undone by napari, which would bring it back under its old number.
    """
    for number in Tally(strokes.data).settle().boxes:
        place = place_of(strokes, number)
        plane = np.asarray(strokes.data[place])
        where = np.nonzero((plane > 0) & (plane <= len(numbers)))
        after = (np.asarray(numbers) + 1)[plane[where] - 1].astype(plane.dtype)
        strokes.data_setitem((*(np.full(len(after), i) for i in place), *where), after)
    absent = {numbers[c]: slices for c, slices in absent_of(strokes).items() if c < len(numbers) and numbers[c] > 0}
    note(strokes, absent=absent)
    mode = strokes.mode
    strokes.editable = False  # forgets its history
    strokes.editable = True
    strokes.mode = mode


# a box --------------------------------------------------------------------------------------------------------------


def box_layer(viewer: ViewerModel, image: Image, corners: np.ndarray) -> Shapes:
    """A rectangle over the image, in all its slices; corners (2, 2) in its pixels. ValueError as `plane_affine`."""
    plane = {name: geometry_of(image)[name][-2:] for name in ("units", "axis_labels")}
    plane["affine"] = plane_affine(image)
    look = {"edge_color": BOX, "face_color": "transparent", "edge_width": max(1, min(image_space(image)[-2:]) / 150)}
    entry = {KEY: {"box of": image.unique_id}}
    layer = Shapes([corners], shape_type="rectangle", name=f"box · {image.name}", metadata=entry, **look, **plane)
    _insert(viewer, layer, below=[image, *overlays(viewer, image)], locked=False)
    return layer


def found_box_layer(viewer: ViewerModel, image: Image) -> Shapes | None:
    """The rectangle that was drawn over the image before."""
    found = [each for each in viewer.layers if each.metadata.get(KEY, {}).get("box of") == image.unique_id]
    return found[-1] if found else None


def plane_affine(image: Image) -> np.ndarray:
    """(3, 3): rows and columns of any slice -> where they are along the last two axes of the world. ValueError where
    that depends on the slice."""
    origin = np.asarray(image.data_to_world(np.zeros(image.ndim)))
    linear = np.stack([np.asarray(image.data_to_world(axis)) - origin for axis in np.eye(image.ndim)], 1)
    across = np.abs([*linear[:-2, -2:].ravel(), *linear[-2:, :-2].ravel(), 0])
    if across.max() > 1e-6 * np.abs(linear).max():
        raise ValueError(f"the slices of '{image.name}' lie oblique, no box can be drawn over them; resample it first")
    return np.block([[linear[-2:, -2:], origin[-2:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


# several images -----------------------------------------------------------------------------------------------------


def members(viewer: ViewerModel, home: tuple[str, str]) -> tuple[Image | None, Labels | None]:
    """The image and the strokes of that home, as far as they are loaded."""
    found = [layer for layer in viewer.layers if home_of(layer) == home]
    images, strokes = ([each for each in found if isinstance(each, kind)] for kind in (Image, Labels))
    return images[0] if images else None, strokes[-1] if strokes else None


def belong(strokes: Labels, image: Image) -> bool:
    """Whether these strokes are of this image: by what is known of them, else by their shape."""
    home, of = home_of(strokes), strokes.metadata.get(KEY, {}).get("of")
    if home is not None and home_of(image) is not None:
        return home == home_of(image)
    if of is not None:
        return of == image.unique_id
    try:
        return home is None and tuple(strokes.data.shape) == image_space(image)
    except ValueError:  # an image that cannot be segmented; Train says why
        return False


def set_aside(viewer: ViewerModel, image: Image, strokes: Labels | None, aside: bool) -> None:
    """Hide an image with all that is of it; or show it and its strokes, whoever hid them, and what was hidden so."""
    ours = [image, strokes, *_all_of(viewer, image)]
    for layer in (each for each in ours if each is not None):
        if aside and (layer.visible or layer == image):
            note(layer, aside=True)
            layer.visible = False
        elif not aside and (layer in (image, strokes) or is_aside(layer)):
            note(layer, aside=False)
            layer.visible = True


def bring_into_view(viewer: ViewerModel, image: Image, strokes: Labels | None, channels: Sequence[Image] = ()) -> None:
    """What one sees is what one draws on: images that lie over this one, unless they are channels of it, go aside."""
    above = [each for each in viewer.layers[viewer.layers.index(image) + 1 :] if _covers(each) and each not in channels]
    if image.visible and not above:
        return
    for other in above:
        home = home_of(other)
        set_aside(viewer, other, members(viewer, home)[1] if home else None, True)
    set_aside(viewer, image, strokes, False)
    frame(viewer, image)


def _covers(layer: Layer) -> bool:
    """Whether nothing can be seen through it."""
    mixed = layer.blending in ("additive", "minimum", "multiplicative")
    return is_source_image(layer) and layer.visible and layer.opacity == 1 and not mixed


def put_below(viewer: ViewerModel, image: Image, strokes: Labels) -> None:
    """An image that lies over its strokes."""
    if image in viewer.layers and strokes in viewer.layers:
        here, there = viewer.layers.index(image), viewer.layers.index(strokes)
        if there < here:
            viewer.layers.move(here, there)


def take_away(viewer: ViewerModel, image: Image, strokes: Labels | None) -> None:
    """Remove an image from the viewer with all that is of it."""
    for layer in [*_all_of(viewer, image), strokes, image]:
        if layer is not None:
            unlock(layer)
            viewer.layers.remove(layer)


def frame(viewer: ViewerModel, image: Image) -> None:
    """All of this image in the picture."""
    if not hasattr(viewer, "scene"):  # napari < 0.9: all of all layers
        viewer.reset_view()
    elif image.ndim == viewer.dims.ndim:
        viewer.reset_view(layers=[image])
    else:  # beside a stack, napari looks for the third axis of a 2-D image, which has none
        corner, opposite = image.extent.world[:, -2:]
        viewer.scene.camera.center = tuple(map(float, (corner + opposite) / 2))
        viewer.scene.camera.zoom = 0.95 * float(np.min(viewer.canvas.size / np.maximum(opposite - corner, 1e-9)))


def _all_of(viewer: ViewerModel, image: Image) -> list[Layer]:
    """What was made of an image: predictions, objects, its box."""
    entries = [(layer, layer.metadata.get(KEY, {})) for layer in viewer.layers]
    whose = ("image", "objects", "past", "box of")
    return [layer for layer, entry in entries if image.unique_id in [entry.get(what) for what in whose]]


# napari -> engine ---------------------------------------------------------------------------------------------------


def sample_from_layers(
    image: Image,
    strokes: Labels | None,
    classes: Sequence[str],
    channels: Sequence[Image] = (),
    tally: Tally | None = None,
    box: Box | None = None,
) -> Sample:
    """The engine's sample of an image and its strokes; without strokes nothing is labelled. Of an image that is too
    large to be held in memory it is the part around the strokes, read when it is needed, or without strokes all slices.
    With a box it is of what is inside, as if the image were no more than that.

    channels: images of the same shape that are further channels of this one; tally: of the strokes, where there is one
    ValueError where their shapes differ or a painted label has no class.
    """
    if others := [c.name for c in channels if image_space(c) != image_space(image)]:
        raise ValueError(f"{', '.join(others)} and '{image.name}' have other shapes; channels are of one shape")
    if is_large(image, channels, box):
        pixels, part = stack_of(image, channels, box), None
    else:
        pixels = np.concatenate([image_array(each, box).astype(np.float32) for each in (image, *channels)])
        if (part := _whole_series(image, box)) is not None:
            pixels = pixels.reshape(len(pixels), -1, *part.size)
    empty = Sample(pixels, undrawn(pixels.shape[1:]), spacing_of(image), image.name, part=part)
    return empty if strokes is None else redrawn(empty, strokes, image, classes, tally, box)


def redrawn(
    sample: Sample,
    strokes: Labels,
    image: Image,
    classes: Sequence[str],
    tally: Tally | None = None,
    box: Box | None = None,
) -> Sample:
    """The same image, or the same box of it, with these strokes. ValueError as above."""
    check_fit(strokes, image)
    marks = absences(strokes)
    if isinstance(sample.image, Stack):
        drawn = (tally or Tally(strokes.data)).settle().boxes
        part = part_around(drawn if box is None else box.clipped(drawn), [z for z, _ in marks], sample.image)
        sample = replace(sample, image=sample.image.cut(part), part=part)
        marks = tuple((part.position(z), c) for z, c in marks)
    return replace(sample, target=target_of(strokes, image, classes, sample.part, box), absent=marks)


def strokes_alone(strokes: Labels, image: Image, classes: Sequence[str], tally: Tally | None = None) -> Sample:
    """A sample with these strokes, for those who do not look at the image: its pixels are all 0."""
    *lead, height, width = image_space(image)
    part = None if is_large(image) else _whole_series(image)
    shape = (1, *([math.prod(lead)] if lead else []), height, width)
    pixels = stack_of(image) if is_large(image) else np.broadcast_to(np.float32(0), shape)
    sample = Sample(pixels, undrawn(shape[1:]), spacing_of(image), image.name, part=part)
    return redrawn(sample, strokes, image, classes, tally)


def is_large(image: Image, channels: Sequence[Image] = (), box: Box | None = None) -> bool:
    """Whether the image, or this box of it, stays where it is: of a stack only what is needed is read."""
    space, colours = _space(image, box), 3 if image.rgb else 1
    return len(space) > 2 and math.prod(space) * (colours + len(channels)) > LARGE


def keep_few_slices(image: Image) -> None:
    """napari keeps the slices of dask arrays that it has shown, up to a quarter of all memory; from a large image on,
    fewer."""
    if math.prod(_pixels(image).shape) > LARGE and resize_dask_cache().cache.available_bytes > KEPT:
        resize_dask_cache(KEPT)


def stack_of(image: Image, channels: Sequence[Image] = (), box: Box | None = None) -> Stack:
    """The image and its further channels, or a box of them, to be read slice by slice."""
    *lead, height, width = _space(image, box)
    layers = (image, *channels)

    def read(number: int, rows: slice, columns: slice) -> np.ndarray:
        place = _place(number, lead)
        if box is not None:
            rows, columns = box.within(rows, columns)
        planes = [np.asarray(_pixels(each)[(*place, rows, columns)]) for each in layers]
        parts = [np.moveaxis(p[..., :3], -1, 0) if e.rgb else p[None] for p, e in zip(planes, layers, strict=True)]
        return np.concatenate(parts)

    count = sum(3 if each.rgb else 1 for each in layers)
    return Stack(read, (count, math.prod(lead), height, width), lead[-1])


def _whole_series(image: Image, box: Box | None = None) -> Part | None:
    """Of what has more than three axes: all of its volumes, one after the other."""
    space = _space(image, box)
    if len(space) < 4:
        return None
    return Part(tuple(range(math.prod(space[:-2]))), tuple((0, n) for n in space[-2:]), space[-3], space[-2:])


def image_array(image: Image, box: Box | None = None) -> np.ndarray:
    """(C, *space) of an image layer, or of a box of it, in its own dtype; the alpha of RGBA is dropped."""
    pixels, colours = _pixels(image), (slice(None),) if image.rgb else ()
    pixels = np.asarray(pixels if box is None else pixels[(*box.index, *colours)])
    if image.rgb:
        return np.moveaxis(pixels[..., :3], -1, 0)  # (3, *space)
    return pixels.reshape(1, *_space(image, box))


def image_space(image: Image) -> tuple[int, ...]:
    """(H, W), (D, H, W), or with further axes before those, such as time. ValueError where they cannot be slices."""
    pixels = _pixels(image)
    space = tuple(pixels.shape[:-1] if image.rgb else pixels.shape)
    if len(space) < 2:
        raise ValueError(f"'{image.name}' has one axis, {space}; an image has two or more")
    if CHANNEL_AXES & {str(label).lower() for label in image.axis_labels[:-2]}:
        raise ValueError(
            f"'{image.name}' has channels along one of its axes, {tuple(image.axis_labels)}; "
            "split it first: right click on the layer > Split Stack, then tick them as channels"
        )
    return space


def _space(image: Image, box: Box | None) -> tuple[int, ...]:
    """As `image_space`, of what is inside a box."""
    space = image_space(image)
    return space if box is None else (*space[:-2], *box.shape)


def _pixels(image: Image) -> object:
    """The array of a layer, of a multiscale one its finest level: numpy, dask or zarr."""
    return image.data[0] if image.multiscale else image.data


# slices -------------------------------------------------------------------------------------------------------------


def place_of(layer: Image | Labels, number: int) -> tuple[int, ...]:
    """Where slice `number` is along the axes before the last two, an index: (z,), (t, z), or () of a 2-D image."""
    return _place(number, (image_space(layer) if isinstance(layer, Image) else layer.data.shape)[:-2])


def index_of(image: Image, number: int | None, box: Box | None) -> tuple[object, ...]:
    """As an index of an array (*space): a slice of the image or all of them, and the box."""
    planes = (...,) if number is None else place_of(image, number)
    return planes if box is None else (*planes, *box.index[1:])


def _place(number: int, lead: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(number, tuple(lead))) if lead else ()


def number_of(place: Sequence[int], shape: Sequence[int]) -> int:
    """Of the slice at this place in strokes of this shape; 0 of a 2-D image."""
    return int(np.ravel_multi_index(tuple(place), tuple(shape[:-2]))) if place else 0


def name_of_slice(layer: Labels, number: int) -> str:
    """For people: "slice 3", or with more axes "t 1 · z 3"."""
    place = place_of(layer, number)
    if len(place) < 2:
        return f"slice {number}"
    labels = ("time", "slice") if len(place) == 2 else [f"axis {axis}" for axis in range(len(place))]
    named = [str(label) if str(label).isalpha() else own for label, own in zip(layer.axis_labels, labels, strict=False)]
    return " · ".join(f"{name} {index}" for name, index in zip(named, place, strict=True))


def spacing_of(image: Image) -> tuple[float, ...]:
    """mm per voxel along the last three axes, or two; a layer without a unit of length is taken to be in mm."""
    sizes = [unit_size(unit) for unit in image.units]
    return tuple(float(abs(scale) * size) for scale, size in zip(image.scale, sizes, strict=True))[-3:]


def unit_size(unit: object) -> float:
    """mm in one unit (a pint.Unit); 1 where it is no length, such as pixels."""
    return float((1 * unit).to("mm").magnitude) if unit.is_compatible_with("mm") else 1.0


def show_slice(viewer: ViewerModel, layer: Image | Labels, index: int) -> None:
    """Bring this slice of a stack into view."""
    place, along = place_of(layer, index), viewer.dims.ndim - layer.ndim  # the layer's first axis among the viewer's
    world = layer.data_to_world((*place, 0, 0))
    for axis in range(len(place)):
        viewer.dims.set_point(along + axis, float(world[axis]))


def go_to(viewer: ViewerModel, layer: Image | Labels, index: int, row: int, column: int) -> None:
    """Bring this pixel into the middle of the picture."""
    if layer.ndim > 2:
        show_slice(viewer, layer, index)
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari < 0.9
    where = (*place_of(layer, index), row, column)
    camera.center = tuple(float(x) for x in layer.data_to_world(where)[-2:])


def write_on_slice(viewer: ViewerModel, text: str) -> None:
    """A word in the corner of the picture; "" takes it away."""
    overlay = viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay  # napari < 0.9
    if overlay.text != text:
        overlay.text, overlay.visible = text, bool(text)
        overlay.position, overlay.font_size = "top_left", 12  # napari's own messages come up at the bottom


def visible_slice(viewer: ViewerModel, layer: Image | Labels) -> int | None:
    """The number of the slice that the viewer shows, None for a 2-D image."""
    if layer.ndim < 3:
        return None
    sizes = (image_space(layer) if isinstance(layer, Image) else layer.data.shape)[:-2]
    point = layer.world_to_data(viewer.dims.point)
    place = [min(max(round(float(at)), 0), size - 1) for at, size in zip(point, sizes, strict=False)]
    return number_of(place, (*sizes, 0, 0))


def target_of(
    strokes: Labels, image: Image, classes: Sequence[str], part: Part | None = None, box: Box | None = None
) -> np.ndarray:
    """The engine's target of some strokes, uint8 (*space), or of a part of them, or of a box. ValueError where they are
    not of this image and classes."""
    check_fit(strokes, image)
    values = (
        np.asarray(strokes.data[... if box is None else box.index]) if part is None else read_part(strokes, part, box)
    )
    if values.max(initial=0) > len(classes):
        raise ValueError(
            f"label {values.max()} in '{strokes.name}' belongs to no class, there are {len(classes)}; "
            "add a class or erase it"
        )
    return values.astype(np.uint8) - np.uint8(1)  # 0 becomes 255, which is IGNORE


def read_part(layer: Labels, part: Part, box: Box | None = None) -> np.ndarray:
    """The labels of a part of a stack, or of a box of it, (n, h, w)."""
    lines = part.index if box is None else box.within(*part.index)
    return np.stack([np.asarray(layer.data[(*place_of(layer, z), *lines)]) for z in part.slices])


def check_fit(strokes: Labels, image: Image) -> None:
    """ValueError where strokes are not of the image's shape."""
    if strokes.data.shape != image_space(image):
        raise ValueError(
            f"the strokes '{strokes.name}' have shape {strokes.data.shape}, the image '{image.name}' "
            f"{image_space(image)}; choose the strokes of this image, or press New"
        )


# engine -> napari ---------------------------------------------------------------------------------------------------


def prediction_layers(viewer: ViewerModel, image: Image) -> dict[str, Labels]:
    """network -> its layer for this image; found by metadata, so that they may be renamed."""
    entries = [(layer, layer.metadata.get(KEY, {})) for layer in viewer.layers]
    return {e["network"]: layer for layer, e in entries if "network" in e and e["image"] == image.unique_id}


def predicted_classes(viewer: ViewerModel, image: Image, part: Part | None = None) -> dict[str, np.ndarray]:
    """network -> uint8 (*space) classes that it predicted, without the ensemble; of a part where one is given."""
    layers = {n: layer for n, layer in prediction_layers(viewer, image).items() if n != "ensemble"}
    read = {n: np.asarray(each.data) if part is None else read_part(each, part) for n, each in layers.items()}
    return {n: np.maximum(values, 1) - np.uint8(1) for n, values in read.items()}


def add_prediction_layer(viewer: ViewerModel, image: Image, network: str, brushes: Sequence[Brush]) -> Labels:
    """An empty, locked layer just above the image; of all networks only the ensemble is visible at first."""
    first, aside = network == "ensemble", is_aside(image)
    layer = Labels(
        np.zeros(image_space(image), np.uint8),
        name=f"{network} · {image.name}",
        metadata={
            **_orientation(image),
            KEY: {"network": network, "image": image.unique_id, "aside": first and aside},
        },
        visible=first and not aside,
        colormap=colormap(brushes),
        **geometry_of(image),
    )
    _insert(viewer, layer, below=[image])
    return layer


def add_difference_layer(viewer: ViewerModel, image: Image, one: str, other: str) -> Labels:
    """Where two networks disagree; kept up to date by `show_prediction`. ValueError where one has predicted nothing."""
    layers = prediction_layers(viewer, image)
    if missing := [name for name in (one, other) if name not in layers]:
        raise ValueError(f"there is no prediction of {', '.join(missing)} for '{image.name}'; predict first")
    for layer in difference_layers(viewer, image):
        if layer.metadata[KEY]["difference"] == [one, other]:
            layer.visible = True
            return layer
    layer = Labels(
        (layers[one].data != layers[other].data).astype(np.uint8),
        name=f"{one} – {other} · {image.name}",
        metadata={KEY: {"difference": [one, other], "image": image.unique_id}},
        colormap=DirectLabelColormap(color_dict={None: "transparent", 1: DISAGREEMENT}),
        **geometry_of(image),
    )
    _insert(viewer, layer, below=[image, *overlays(viewer, image)])
    return layer


def difference_layers(viewer: ViewerModel, image: Image) -> list[Labels]:
    return [layer for layer in overlays(viewer, image) if "difference" in layer.metadata[KEY]]


def probability_layer(viewer: ViewerModel, image: Image, network: str, brush: Brush) -> Image:
    """How sure a network is of a class, float32 0..1 over the image; made where there is none yet."""
    entry = {"probability": [network, brush.name]}
    look = {"colormap": _ramp((0, 0, 0, 1), brush.colour), "blending": "additive", "contrast_limits": (0, 1)}
    return _made_layer(viewer, image, entry, f"P({brush.name}) · {network}", look)


def disagreement_layer(viewer: ViewerModel, image: Image) -> Image:
    """How far the networks' answers are apart, float32 0..1 over the image; made where there is none yet, and kept up
    to date by `show_disagreement`. Its light is not added to the predictions', or they would look like other classes.
    """
    colours = _ramp((0, 0, 0, 0), DISAGREEMENT)
    look = {"colormap": colours, "blending": "translucent", "contrast_limits": (0, 0.5)}  # more is rare
    return _made_layer(viewer, image, {"disagreement": True}, "disagreement", look)


def show_disagreement(
    viewer: ViewerModel, image: Image, values: np.ndarray, index: int | None, box: Box | None = None
) -> None:
    """Write values (H, W) into slice `index` of the layer, or (*space) into all of it, where there is that layer."""
    if (layer := _found(viewer, image, {"disagreement": True})) is not None:
        layer.data[index_of(image, index, box)] = values


def _ramp(start: tuple[float, ...], colour: str) -> Colormap:
    """From RGBA at 0 to a colour at 1."""
    return Colormap([start, transform_color(colour)[0]], name=f"{start} to {colour}")


def _made_layer(
    viewer: ViewerModel, image: Image, entry: dict[str, object], name: str, look: dict[str, object]
) -> Image:
    """Values 0..1 over the image: the layer with this entry, made where there is none yet."""
    if (layer := _found(viewer, image, entry)) is not None:
        return layer
    layer = Image(
        np.zeros(image_space(image), np.float32),
        name=f"{name} · {image.name}",
        metadata={KEY: {**entry, "image": image.unique_id}},
        **look,
        **geometry_of(image),
    )
    _insert(viewer, layer, below=[image, *overlays(viewer, image)])
    return layer


def _found(viewer: ViewerModel, image: Image, entry: dict[str, object]) -> Image | Labels | None:
    """Of the overlays that are as large as the image, the one whose metadata say this."""
    ours = [layer for layer in overlays(viewer, image) if entry.items() <= layer.metadata[KEY].items()]
    return next((layer for layer in ours if layer.data.shape == image_space(image)), None)


def overlays(viewer: ViewerModel, image: Image) -> list[Image | Labels]:
    """Every layer of ours that shows predictions for this image, or something made of them."""
    ours = [layer for layer in viewer.layers if isinstance(layer, (Image, Labels)) and _is_shown_by_us(layer)]
    return [layer for layer in ours if layer.metadata[KEY]["image"] == image.unique_id]


def remove_strays(viewer: ViewerModel) -> None:
    """Take away what shows predictions of images that are no longer in the viewer."""
    there = {layer.unique_id for layer in viewer.layers}
    ours = [layer for layer in viewer.layers if isinstance(layer, (Image, Labels)) and _is_shown_by_us(layer)]
    for layer in [each for each in ours if each.metadata[KEY]["image"] not in there]:
        unlock(layer)
        viewer.layers.remove(layer)


def set_view(viewer: ViewerModel, image: Image, view: View) -> None:
    """Show all overlays so. What `hidden` has hidden comes back, and nothing else."""
    for layer in overlays(viewer, image):
        entry = layer.metadata[KEY]
        if isinstance(layer, Labels):
            layer.contour, layer.opacity = OUTLINE if view.contour else 0, view.opacity
        if view.hidden and layer.visible:
            layer.metadata[KEY] = {**entry, "blinked": True}
            layer.visible = False
        elif not view.hidden and entry.get("blinked"):
            layer.metadata[KEY] = {name: value for name, value in entry.items() if name != "blinked"}
            layer.visible = not is_aside(image)
            note(layer, aside=not layer.visible)


def show_prediction(
    viewer: ViewerModel,
    image: Image,
    labels: dict[str, np.ndarray],
    index: int | None,
    brushes: Sequence[Brush],
    box: Box | None = None,
) -> None:
    """Write classes (H, W) into slice `index` of each network's layer, or (*space) into all of it; of a box, if any.

    The pixels change on screen with the layers' next refresh(), which costs more and is left to the caller.
    """
    layers, where = prediction_layers(viewer, image), index_of(image, index, box)
    for network, classes in labels.items():
        layer = layers.get(network) or add_prediction_layer(viewer, image, network, brushes)
        if layer.data.shape != image_space(image):  # the image was replaced
            layer.data = np.zeros(image_space(image), np.uint8)
        layer.data[where] = np.where(classes == 0, 0, classes + 1)
    for difference in difference_layers(viewer, image):
        one, other = (layers.get(name) for name in difference.metadata[KEY]["difference"])
        if one is not None and other is not None and one.data.shape == difference.data.shape:
            difference.data[where] = one.data[where] != other.data[where]


def clear_predictions(viewer: ViewerModel, image: Image) -> None:
    """Blank the image's predictions, so that old ones are not taken for those of a new training."""
    for layer in overlays(viewer, image):
        layer.data = np.zeros_like(layer.data)  # writing zeros into a large one would take all of its memory
        layer.editable = not isinstance(layer, Labels)


def _insert(viewer: ViewerModel, layer: Image | Labels | Shapes, below: Sequence[Layer], locked: bool = True) -> None:
    """Above the layers `below`, locked unless told otherwise, and without taking the brush out of the person's hand."""
    selected = set(viewer.layers.selection)
    viewer.layers.insert(max(map(viewer.layers.index, below)) + 1, layer)
    viewer.layers.selection = selected  # napari selects what it adds: the brush would be gone in mid-stroke
    if isinstance(layer, Labels) and locked:
        layer.editable = False
    if hasattr(layer, "locked"):  # napari >= 0.7.1
        layer.locked = locked


def accept(strokes: Labels, prediction: Labels, index: int | None, box: Box | None = None) -> int:
    """Draw what is predicted in slice `index` of a stack (None: a 2-D image) wherever nothing is drawn; how many
    pixels. The background too: in predictions it is 0, in strokes 1. Of a box, if that was predicted only."""
    where = ... if index is None else place_of(strokes, index)
    open_ = np.asarray(strokes.data[where]) == 0
    empty = np.nonzero(open_ if box is None else box.masked(open_, False))
    values = np.maximum(np.asarray(prediction.data[where])[empty], 1).astype(strokes.data.dtype)
    if len(values):
        place = () if index is None else where
        strokes.data_setitem((*(np.full(len(values), i) for i in place), *empty), values)
    return len(values)


def add_objects_layer(
    viewer: ViewerModel, image: Image, objects: np.ndarray, table: Mapping[str, np.ndarray]
) -> Labels:
    """Numbered objects (*space) with their measures as features; those of before are replaced."""
    if (layer := objects_layer(viewer, image)) is not None:
        layer.data, layer.features = objects, dict(table)
        return layer
    layer = Labels(
        objects,
        name=f"objects · {image.name}",
        metadata={**_orientation(image), KEY: {"objects": image.unique_id}},
        features=dict(table),
        **geometry_of(image),
    )
    _insert(viewer, layer, below=[image, *overlays(viewer, image)], locked=False)
    return layer


def objects_layer(viewer: ViewerModel, image: Image) -> Labels | None:
    found = [each for each in viewer.layers if each.metadata.get(KEY, {}).get("objects") == image.unique_id]
    return found[-1] if found else None


def recolour_predictions(viewer: ViewerModel, image: Image, brushes: Sequence[Brush]) -> None:
    for layer in prediction_layers(viewer, image).values():
        layer.colormap = colormap(brushes)


def _orientation(image: Image) -> dict[str, object]:
    """Which way a patient lay, for the layer's metadata, where the image's reader knew."""
    return {AFFINE: image.metadata[AFFINE]} if AFFINE in image.metadata else {}


def geometry_of(image: Image) -> dict[str, object]:
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
