"""Images: those of the project in hand. Opens one, shows it and puts the others aside; adds and removes.

No part of the window; the layers are asked each time, never mirrored.
"""

from dataclasses import dataclass
from pathlib import Path

from napari.layers import Image, Labels, Layer
from napari.viewer import Viewer

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._project import Project, Whereabouts
from napari_scribblemamba._readers import project_layers, project_strokes, read_project
from napari_scribblemamba._recorder import Recorder


@dataclass(frozen=True)
class Row:
    """An image of the project, for people."""

    key: str
    name: str
    drawn: str  # "4 slices", "7 strokes", "" where nothing is
    where: Whereabouts


class Images:
    """Of the project that the recorder has in hand; without one there are none."""

    def __init__(self, viewer: Viewer, recorder: Recorder) -> None:
        self._viewer, self._recorder = viewer, recorder
        self._seen: dict[Path, Whereabouts] = {}  # by the file: to look at many takes a while
        self._slices: dict[tuple[str, str], int] = {}  # that were in view when an image was left

    def rows(self) -> list[Row]:
        project = self._recorder.opened
        if project is None:
            return []
        return [
            Row(key, image.name, _drawn(project, key), self._whereabouts(project, key))
            for key, image in project.images.items()
        ]

    def key(self) -> str:
        """Of the one in hand."""
        return self._recorder.key

    def to_add(self) -> list[Image]:
        """Those in the viewer that no project has."""
        layers = [layer for layer in self._viewer.layers if _layers.is_source_image(layer)]
        return [layer for layer in layers if _notes.home_of(layer) is None]

    def add(self, image: Image) -> None:
        """Put aside: another is in hand. ValueError where it cannot be drawn on, OSError where it cannot be kept."""
        self._recorder.add(image)
        _layers.set_aside(self._viewer, image, None, True)

    def remove(self, key: str, forget: bool) -> None:
        """Out of the project and the viewer; another one is in hand. Its strokes are deleted if told to `forget`."""
        image, strokes = _layers.members(self._viewer, self._home(key))
        if image is not None:
            _layers.take_away(self._viewer, image, strokes)
        self._recorder.remove(key, forget)

    def relink(self, key: str, path: Path, changed: bool) -> None:
        """Project.relink, and look again."""
        self._project().relink(key, path, changed)
        self._seen.clear()

    def neighbour(self, key: str, step: int) -> str:
        """The key of the image so many places on in the list, from its end on to its beginning."""
        keys = list(self._project().images)
        return keys[(keys.index(key) + step) % len(keys)]

    def open_project(self, folder: Path) -> tuple[Image, Labels] | None:
        """The first image of a project that is there, and its strokes; the others come when they are wanted. None where
        none is there. OSError, ValueError where it cannot be opened."""
        layers = [Layer.create(*each) for each in read_project(str(folder), most=1)]
        if not layers:
            return None
        image, _ = _layers.members(self._viewer, _notes.home_of(layers[0]))  # perhaps only its strokes were deleted
        added = [self._viewer.add_layer(each) for each in layers if image is None or isinstance(each, Labels)]
        return added[0] if image is None else image, added[-1]

    # layers ---------------------------------------------------------------------------------------------------------

    def open(self, key: str) -> tuple[Image, Labels]:
        """Its layers, from the project as far as they are not loaded; then they are hidden. OSError, ValueError where
        that cannot be read."""
        project, home = self._project(), self._home(key)
        image, strokes = _layers.members(self._viewer, home)
        if image is None and not project.images[key].path.exists():
            raise FileNotFoundError(f"'{project.images[key].name}' is no longer at {project.images[key].path}")
        if image is None:
            *pixels, _ = project_layers(project, key)
            image = self._load(*pixels[0])
            if strokes is not None:
                _layers.put_below(self._viewer, image, strokes)
        if strokes is None:
            where = {**_layers.geometry_of(image), "metadata": image.metadata}
            strokes = self._load(*project_strokes(project, key, where))
        self._recorder.follow(image, strokes)
        return image, strokes

    def show(self, key: str) -> tuple[Image, Labels]:
        """Its layers in view, the other images of the project aside."""
        image, strokes = self.open(key)
        shown = [(k, *_layers.members(self._viewer, self._home(k))) for k in self._project().images if k != key]
        for other, layer, drawn in shown:
            if layer is not None and layer.visible:
                self._slices[self._home(other)] = _layers.visible_slice(self._viewer, layer) or 0
            if layer is not None:
                _layers.set_aside(self._viewer, layer, drawn, True)
            elif drawn is not None:  # its image was removed from the viewer
                drawn.visible = False
        _layers.set_aside(self._viewer, image, strokes, False)
        _layers.frame(self._viewer, image)
        if image.ndim > 2:
            journal = self._project().journal(key)
            drawn = [_layers.number_of(place, journal.shape) for place in journal.places]
            _layers.show_slice(self._viewer, image, self._slices.get(self._home(key), [*drawn, 0][0]))
        return image, strokes

    def drawn(self) -> tuple[list[tuple[Image, Labels]], list[str]]:
        """Of all images with strokes the layers, the one in hand first; and the names of those that are missing."""
        project, pairs, missing = self._project(), [], []
        for key in sorted(project.images, key=lambda each: each != self.key()):
            if project.journal(key).places:
                try:
                    pairs.append(self.open(key))
                except FileNotFoundError:
                    missing.append(project.images[key].name)
        return pairs, missing

    def loaded(self) -> list[tuple[Image, Labels | None]]:
        """Of the project, those in the viewer and their strokes."""
        project = self._recorder.opened
        found = [_layers.members(self._viewer, self._home(key)) for key in (project.images if project else ())]
        return [(image, strokes) for image, strokes in found if image is not None]

    # helpers --------------------------------------------------------------------------------------------------------

    def _project(self) -> Project:
        if (project := self._recorder.opened) is None:
            raise ValueError("there is no project yet; it begins with your first stroke")
        return project

    def _home(self, key: str) -> tuple[str, str]:
        return str(self._project().folder), key

    def _whereabouts(self, project: Project, key: str) -> Whereabouts:
        path = project.images[key].path
        if path not in self._seen:
            self._seen[path] = project.whereabouts(key)
        return self._seen[path]

    def _load(self, data: object, settings: dict[str, object], kind: str) -> Layer:
        """Into the viewer, hidden as if put aside, and without taking the brush out of the person's hand."""
        layer = Layer.create(data, {**settings, "visible": False}, kind)
        _notes.note(layer, aside=True)
        selected = set(self._viewer.layers.selection)
        self._viewer.layers.append(layer)
        self._viewer.layers.selection = selected
        return layer


def _drawn(project: Project, key: str) -> str:
    journal = project.journal(key)
    if not journal.places:
        return ""
    count, what = (journal.strokes, "stroke") if len(journal.shape) == 2 else (len(journal.places), "slice")
    return f"{count:,} {what}{'s' * (count != 1)}"
