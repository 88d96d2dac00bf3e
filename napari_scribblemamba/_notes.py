"""What our layers carry with them: classes and colours, marks of absence, a box, the project that they are kept in.

It stands in each layer's metadata under one key, so that it is saved and copied with the layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap

from napari_scribblemamba._box import Box

KEY = "scribblemamba"  # of our entry in a layer's metadata
BACKGROUND = "#7d8590"
# Okabe and Ito, Color universal design (2008), the dark blue last: it is hard to see on dark images
OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


def note(layer: Layer, **values: object) -> None:
    """Write into our entry of the layer's metadata, which is saved with the layer."""
    layer.metadata = {**layer.metadata, KEY: {**layer.metadata.get(KEY, {}), **values}}


# classes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Brush:
    """A class as the person sees it: its name and its colour ("#rrggbb")."""

    name: str
    colour: str


def default_colour(index: int) -> str:
    return BACKGROUND if index == 0 else OKABE_ITO[(index - 1) % len(OKABE_ITO)]


def default_brushes(names: Sequence[str]) -> tuple[Brush, ...]:
    return tuple(Brush(name, default_colour(i)) for i, name in enumerate(names))


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
    if not strokes.metadata.get(KEY, {}).get("sized"):  # new to us: a brush that suits its size
        strokes.brush_size = max(2, round(min(strokes.data.shape[-2:]) / 100))
        note(strokes, sized=True)
    note(strokes, classes=[b.name for b in brushes], colours=[b.colour for b in brushes])
    strokes.colormap = colormap(brushes)


def colour(layer: Labels, brushes: Sequence[Brush]) -> None:
    layer.colormap = colormap(brushes)


def colormap(brushes: Sequence[Brush]) -> DirectLabelColormap:
    """Value c + 1 in the colour of class c; labels that belong to no class in white, so that they are found."""
    colours = {label: brush.colour for label, brush in enumerate(brushes, start=1)}
    return DirectLabelColormap(color_dict={None: "white", 0: "transparent", **colours})


# absent --------------------------------------------------------------------------------------------------------------


def absent_of(strokes: Labels) -> dict[int, list[int]]:
    """class -> the slices that it is marked as absent from, in order."""
    absent = strokes.metadata.get(KEY, {}).get("absent", {})
    return {int(c): sorted(slices) for c, slices in absent.items()}  # JSON has made strings of the classes


def mark_absent(strokes: Labels, index: int, z: int, absent: bool = True) -> None:
    """Say that class `index` is nowhere in slice z, or take that back. ValueError for the background."""
    if index == 0:
        raise ValueError("the background is never absent; mark what is missing on this slice")
    marks = absent_of(strokes)
    slices = (set(marks.get(index, ())) | {z}) - (set() if absent else {z})
    rest = {c: each for c, each in marks.items() if c != index}
    note(strokes, absent={**rest, index: sorted(slices)} if slices else rest)


def set_absent(strokes: Labels, marks: Sequence[tuple[int, int]]) -> None:
    """Exactly these (slice, class) are marked as absent."""
    note(strokes, absent={c: sorted(z for z, other in marks if other == c) for c in sorted({c for _, c in marks})})


def absences(strokes: Labels) -> tuple[tuple[int, int], ...]:
    """(slice, class) for every mark of absence, in order."""
    return tuple(sorted((z, c) for c, slices in absent_of(strokes).items() for z in slices))


# a part, a project ---------------------------------------------------------------------------------------------------


def box_of(image: Image) -> Box | None:
    """The part of an image that is trained and predicted; None: all of it."""
    sides = image.metadata.get(KEY, {}).get("box")
    return None if sides is None else Box(*sides)


def set_box(image: Image, box: Box | None) -> None:
    note(image, box=None if box is None else [box.top, box.left, box.bottom, box.right])


def home_of(layer: Layer) -> tuple[str, str] | None:
    """(project's folder, key of the image in it) of an image or of strokes that are kept there."""
    entry = layer.metadata.get(KEY, {})
    return (entry["project"], entry["key"]) if "project" in entry else None


def is_aside(layer: Layer) -> bool:
    """Hidden because another image of the project is looked at."""
    return bool(layer.metadata.get(KEY, {}).get("aside"))
