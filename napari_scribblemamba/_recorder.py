"""Recorder: every stroke, undo, class and mark of the layers that were in hand goes into a project's journals.

Who has saved no project gets a private one with the first stroke (_recovery.py). No part of the window.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_scribblemamba import _layers, _notes, _recovery
from napari_scribblemamba._journal import Journal
from napari_scribblemamba._project import PROJECT, Project, ProjectImage
from napari_scribblemamba._readers import plugin_for
from napari_scribblemamba._strokes import Change, Region, State

log = logging.getLogger(__name__)
SMALL = 2**26  # voxels of strokes that are compared whole at every pause
LOOK_AGAIN = 300  # ms until the disk is asked again whether all is written
BUSY = ("project.lock", "project.owner.json", ".*.tmp")  # of an open project: no part of a copy


@dataclass(eq=False)
class Entry:
    """Strokes that were in hand, and where they are kept."""

    image: Image
    strokes: Labels
    before: State  # what was drawn when they were first seen: nothing to undo
    project: Project | None = None
    key: str = ""  # of the image in the project
    due: list[Region] = field(default_factory=list)  # changed, and not recorded yet
    refused: bool = False  # they cannot be kept; that was told

    @property
    def journal(self) -> Journal:
        return self.project.journal(self.key)


class Recorder(QObject):
    """Follows all strokes that it was once told to hold; undo and redo are of those in hand."""

    told = Signal()  # there is news for `line`
    reclassed = Signal(object)  # these strokes (a layer) have other classes or marks now, by an undo perhaps
    closed = Signal(object)  # the folder of a project none of whose strokes are in the viewer any more
    failed = Signal(object)  # Exception, on the window's thread
    _refused = Signal(object)  # the same, on the writer's

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._entries: dict[object, Entry] = {}  # by the layer's id: plugins get layers in wrappings
        self._projects: dict[Path, Project] = {}
        self._held: Entry | None = None
        self._numbers: list[int] | None = None  # of the classes, in an edit under way
        self._quiet = False
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(LOOK_AGAIN)
        self._again.timeout.connect(self._tell)
        self._refused.connect(self.failed, Qt.ConnectionType.QueuedConnection)
        # first: we say whose an image is before a panel looks for its strokes
        viewer.layers.events.inserted.connect(self._on_inserted, position="first")
        viewer.layers.events.removed.connect(self._on_removed)

    # what is followed -----------------------------------------------------------------------------------------------

    def hold(self, image: Image | None, strokes: Labels | None) -> None:
        """These are in hand now; they are followed from now on."""
        self.settle()
        if image is None or strokes is None or tuple(strokes.data.shape) != _space(image):
            self._held = None
        else:
            if strokes.unique_id not in self._entries:
                self._follow(image, strokes)
            self._held = self._entries[strokes.unique_id]
            self._held.image = image  # it may have been opened anew
        self._tell()

    def follow(self, image: Image, strokes: Labels) -> None:
        """These are not in hand, and recorded all the same from now on."""
        if strokes.unique_id not in self._entries:
            self._follow(image, strokes)

    def project(self) -> Path | None:
        """Of the strokes in hand."""
        return self.opened.folder if self.opened else None

    @property
    def opened(self) -> Project | None:
        """The project of the strokes in hand."""
        return self._held.project if self._held else None

    @property
    def journal(self) -> Journal | None:
        """Of the strokes in hand."""
        return self._held.journal if self.opened else None

    @property
    def layers(self) -> tuple[Image, Labels]:
        """The image and the strokes in hand, where there is a journal."""
        return self._held.image, self._held.strokes

    @property
    def key(self) -> str:
        """Of the image in hand in that project; "" where there is none."""
        return self._held.key if self._held else ""

    def line(self) -> str:
        """Where the strokes in hand are kept, for people: "heart · saved · 3 min drawn"."""
        entry = self._held
        if entry is None or entry.project is None:
            return ""
        name = "kept for recovery" if _recovery.is_private(entry.project.folder) else entry.project.folder.name
        state = "saved" if entry.project.flush(0) else "saving…"
        minutes = entry.journal.minutes()
        return f"{name} · {state}" + (f" · {minutes:.0f} min drawn" if minutes >= 1 else "")

    def end(self) -> None:
        """Record what is left, close all, follow nothing any more."""
        if not self._entries and not self._projects:
            return
        self.settle()
        for entry in list(self._entries.values()):
            self._record(entry, ())
            entry.strokes.events.paint.disconnect(self._on_paint)
        self._entries, self._held = {}, None
        self._again.stop()
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for folder in list(self._projects):
            self._close(folder)

    # several images -------------------------------------------------------------------------------------------------

    def add(self, image: Image) -> None:
        """Take an image into the project in hand before anything is drawn on it. ValueError where there is none, or
        the image is in it already; OSError where its pixels cannot be written."""
        if self.opened is None:
            raise ValueError("there is no project yet; it begins with your first stroke")
        self._register(self.opened, image, _layers.image_space(image), np.uint8)
        self._tell()

    def remove(self, key: str, forget: bool) -> None:
        """Take an image that is not in hand out of the project, and delete its strokes if told to `forget` them."""
        journal = self.opened.remove(key)
        if forget:
            journal.unlink()
        self._tell()

    def keep_settings(self, image: Image) -> None:
        """What the layer knows is other than it was: the box, perhaps."""
        home = _notes.home_of(image)
        if home is not None and (project := self._projects.get(Path(home[0]))) is not None:
            kept = project.images[home[1]].settings
            project.set_image(home[1], settings={**kept, **_settings(image)})
            self._tell()

    # changes --------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Record what is due."""
        for entry in list(self._entries.values()):
            regions, entry.due = entry.due, []
            if regions and entry.project is None and not entry.refused:
                self._begin(entry)
            for region in regions:
                self._record(entry, region)
            if regions:
                self._tell()

    def catch_up(self) -> None:
        """Record what other code has done to the strokes in hand; of very large ones, to the slice in view."""
        self.settle()
        if self._held is not None and self._held.project is not None:
            entry = self._held
            self._record(entry, () if entry.strokes.data.size <= SMALL else self._region(entry.strokes))
            self._tell()

    def mark_absent(self, index: int, z: int, absent: bool) -> None:
        """Class `index` was marked as absent from slice z, or is no longer."""
        self.settle()
        entry = self._held
        if entry is None or entry.refused:
            return
        if entry.project is None:
            self._begin(entry)  # takes all marks in
        if entry.project is not None:
            place = _layers.place_of(entry.strokes, z)
            entry.journal.mark_absent(place, entry.project.classes[index].key, absent)
        self._tell()

    def renumber(self, strokes: Labels, numbers: Sequence[int], chosen: int) -> None:
        """Class c of the strokes in hand becomes numbers[c], -1 goes; where two become one, `chosen` is the one that
        goes. To be followed by `take_classes`."""
        self.settle()
        entry, self._numbers = self._held, list(numbers)
        self._quiet = True
        try:
            if entry is not None and entry.project is not None and 0 <= chosen < len(numbers) and numbers[chosen] >= 0:
                for heir, number in enumerate(numbers):
                    if heir != chosen and number == numbers[chosen]:
                        self._bequeath(entry.project, chosen + 1, heir + 1)
            _layers.renumber(strokes, numbers)
        finally:
            self._quiet = False

    def take_classes(self, brushes: Sequence[_notes.Brush]) -> None:
        """The classes of the strokes in hand are these; all images of their project get them."""
        entry, numbers, self._numbers = self._held, self._numbers, None
        if entry is None or entry.project is None:
            return
        before = entry.project.classes
        if [(c.name, c.colour) for c in before] == [(b.name, b.colour) for b in brushes]:
            return
        if numbers is None:
            self.settle()
            numbers = list(range(len(before)))
        names = [each.name for each in before]
        rows = [(b.name, b.colour, _origin(i, b.name, names, numbers)) for i, b in enumerate(brushes)]
        self._show(entry.project, entry.project.set_classes(rows))
        self._tell()

    def undo(self) -> None:
        self._step("undo")

    def redo(self) -> None:
        self._step("redo")

    # projects -------------------------------------------------------------------------------------------------------

    def save_as(self, folder: Path) -> None:
        """Keep the strokes in hand, and all of their project, in this folder from now on. ValueError where there are
        none, OSError where the folder cannot be written."""
        self.settle()
        entry = self._held
        if entry is None:
            raise ValueError("there are no strokes to save; open an image and press New")
        if (folder / PROJECT).exists():
            raise FileExistsError(f"{folder} holds a project; open it, or choose another folder")
        if entry.project is None:
            self._found(folder, entry)
        else:
            self._move(entry.project, folder)
        entry.refused = False
        self._tell()

    def _move(self, project: Project, folder: Path) -> None:
        """Copy a project, go on with the copy; a private one goes then."""
        old = project.folder
        entries = self._of(project)
        if not project.flush():
            raise OSError(f"{old} is not written yet; make room on the disk and try again")
        try:
            shutil.copytree(old, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*BUSY, PROJECT))
            shutil.copy2(old / PROJECT, folder)  # last: what is half copied is no project, and can be tried again
        except shutil.Error as e:
            raise OSError(f"could not copy the project to {folder}: {e.args[0][0][2]}") from e
        self._close(old)
        copy = self._open(folder)
        copy.set_settings()  # writes the paths as they are from there
        for entry in entries:
            entry.project = copy
        for layer in self._viewer.layers:
            if (home := _notes.home_of(layer)) is not None and home[0] == str(old):
                _notes.note(layer, project=str(copy.folder))
        if _recovery.is_private(old) and old not in self._projects:
            _recovery.forget(old)

    def _begin(self, entry: Entry) -> None:
        """Take strokes into the open project that has their classes, or into a new private one."""
        names = [brush.name for brush in _notes.brushes_of(entry.strokes) or ()]
        path = _path_of(entry.image, self._viewer)
        fitting = [
            project
            for project in self._projects.values()
            if [each.name for each in project.classes] == names
            and (self._vacant(project, entry) or not self._has(project, entry.image, path))
        ]
        try:
            if fitting:
                self._take_in(entry, fitting[-1])
            else:
                self._found(_recovery.new_folder(entry.image.name), entry)
        except (OSError, ValueError) as e:
            entry.refused = True
            self.failed.emit(ValueError(f"strokes on '{entry.image.name}' are not kept as you draw: {e}"))

    def _found(self, folder: Path, entry: Entry) -> None:
        """A new project that begins with these strokes; nothing of it stays where they cannot be taken in."""
        classes = [(brush.name, brush.colour) for brush in _notes.brushes_of(entry.strokes) or ()]
        folder, empty = folder.absolute(), not folder.exists() or not any(folder.iterdir())
        project = self._projects[folder] = Project.create(folder, classes, self._refused.emit)
        try:
            self._take_in(entry, project)
        except (OSError, ValueError):
            self._close(folder)
            if empty:
                shutil.rmtree(folder)
            else:  # what else is in there is not ours
                (folder / PROJECT).unlink()
            raise

    def _open(self, folder: Path) -> Project:
        folder = folder.absolute()
        if folder not in self._projects:
            self._projects[folder] = Project(folder, self._refused.emit)
        return self._projects[folder]

    def _close(self, folder: Path) -> None:
        try:
            self._projects[folder].close()
            del self._projects[folder]
        except OSError as e:  # of a full disk: it stays open, and can be written when there is room
            log.error("%s", e)
            self.failed.emit(e)

    def _take_in(self, entry: Entry, project: Project) -> None:
        """An image and what was drawn on it before; that is where undo ends."""
        strokes, shape = entry.strokes, tuple(entry.strokes.data.shape)
        image = self._vacant(project, entry) or self._register(project, entry.image, shape, strokes.data.dtype)
        journal, earlier = project.journal(image.key), np.zeros(shape, strokes.data.dtype)
        for place in sorted({tile[:-2] for tile in entry.before.tiles}):
            earlier[place] = entry.before.read(place)[(0,) * len(place)]
            journal.record(earlier, place)
        for z, c in _notes.absences(strokes):
            journal.mark_absent(_layers.place_of(strokes, z), project.classes[c].key)
        begun = journal.times[-1] if journal.times else 0.0
        project.set_image(image.key, settings={**image.settings, "begun": begun})
        entry.project, entry.key, entry.before = project, image.key, State(shape, strokes.data.dtype)
        self._note(entry)

    def _register(self, project: Project, image: Image, shape: tuple[int, ...], dtype: np.dtype) -> ProjectImage:
        """Take an image in; from now on the layer says where it is. ValueError where it is in already."""
        path = _path_of(image, self._viewer)
        if self._has(project, image, path):
            raise ValueError(f"'{image.name}' is in the project already")
        path = path or _store(image, project.folder / "images")
        known = project.add(path, image.name, shape, dtype, _settings(image))
        _notes.note(image, project=str(project.folder), key=known.key)
        return known

    def _has(self, project: Project, image: Image, path: Path | None) -> bool:
        """Whether the project has an image, which is in this file or in none."""
        home = _notes.home_of(image)
        return path in [each.path for each in project.images.values()] or (
            home is not None and home[0] == str(project.folder) and home[1] in project.images
        )

    def _vacant(self, project: Project, entry: Entry) -> ProjectImage | None:
        """The project's own of this image, where nothing is drawn on it yet."""
        home = _notes.home_of(entry.image)
        if home is None or home[0] != str(project.folder) or home[1] not in project.images:
            return None
        if home[1] in [other.key for other in self._of(project)]:
            return None
        journal, data = project.journal(home[1]), entry.strokes.data
        fits = (journal.shape, journal.dtype) == (tuple(data.shape), data.dtype)
        return project.images[home[1]] if fits and not journal.places else None

    # helpers --------------------------------------------------------------------------------------------------------

    def _follow(self, image: Image, strokes: Labels) -> None:
        """Strokes that were not seen before; those of a project are kept there."""
        before = State(tuple(strokes.data.shape), strokes.data.dtype)
        entry = Entry(image, strokes, before)
        note = strokes.metadata.get(_notes.KEY, {})
        twins = [(str(other.project.folder), other.key) for other in self._entries.values() if other.project]
        if "project" in note and (note["project"], note["key"]) not in twins:
            self._rejoin(entry, Path(note["project"]), note["key"])
        if entry.project is None:
            before.toggle(Change("stroke", 0.0, *before.difference(strokes.data, ())))
        self._entries[strokes.unique_id] = entry
        strokes.events.paint.connect(self._on_paint)

    def _rejoin(self, entry: Entry, folder: Path, key: str) -> None:
        try:
            project = self._open(folder)
            if key not in project.images or project.journal(key).shape != tuple(entry.strokes.data.shape):
                raise ValueError(f"{folder} has no strokes like '{entry.strokes.name}'; they are kept anew")
        except (OSError, ValueError) as e:
            self.failed.emit(e)
            return
        entry.project, entry.key = project, key
        self._record(entry, ())

    def _record(self, entry: Entry, region: Region) -> None:
        if entry.project is None or entry.refused:
            return
        try:
            entry.journal.record(entry.strokes.data, region)
        except ValueError as e:  # another array has taken their place
            entry.refused = True
            self.failed.emit(e)

    def _step(self, verb: Literal["undo", "redo"]) -> None:
        self.settle()
        entry = self._held
        if entry is None:
            return
        if entry.project is None or entry.refused:
            getattr(entry.strokes, verb)()  # napari's own
            return
        change = entry.journal.next_undo
        if verb == "undo" and (change is None or change.seconds <= self._begun(entry)):
            return
        self._show(entry.project, getattr(entry.project, verb)(entry.key))
        self._tell()

    def _begun(self, entry: Entry) -> float:
        """When these strokes came into the project, seconds since 1970."""
        return entry.project.images[entry.key].settings.get("begun", 0.0)

    def _show(self, project: Project, changes: Mapping[str, Change]) -> None:
        """Bring the layers up to what the journals say."""
        for entry in self._of(project):
            if (change := changes.get(entry.key)) is None:
                continue
            entry.journal.restore(entry.strokes.data, change.regions)
            if change.classes or change.marks:
                self._write_classes(entry)
                self.reclassed.emit(entry.strokes)
            entry.strokes.refresh()

    def _write_classes(self, entry: Entry) -> None:
        """Names, colours and marks of the journal onto the layer."""
        journal = entry.journal
        numbers = {each.key: c for c, each in enumerate(journal.classes)}
        _notes.set_brushes(entry.strokes, [_notes.Brush(each.name, each.colour) for each in journal.classes])
        marks = [(_layers.number_of(place, journal.shape), numbers[key]) for place, key in journal.absent]
        _notes.set_absent(entry.strokes, marks)

    def _bequeath(self, project: Project, label: int, heir: int) -> None:
        """Strokes of one label become another's, in all images."""
        layers = {entry.key: entry.strokes.data for entry in self._of(project)}
        for key in project.images:
            journal = project.journal(key)
            data = layers.get(key)
            if data is None:
                data = np.zeros(journal.shape, journal.dtype)
                journal.restore(data)
            for place in journal.places:
                plane = data[place]
                data[place] = np.where(plane == label, heir, plane)
                journal.record(data, place)

    def _of(self, project: Project) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.project is project]

    def _note(self, entry: Entry) -> None:
        _notes.note(entry.strokes, project=str(entry.project.folder), key=entry.key)
        if _notes.home_of(entry.image) is None:
            _notes.note(entry.image, project=str(entry.project.folder), key=entry.key)

    def _region(self, strokes: Labels) -> Region:
        """What a stroke can have changed: the slice in view, or everything where a brush crosses slices."""
        if strokes.n_edit_dimensions == strokes.ndim:
            return ()
        dims = self._viewer.dims
        point, along = strokes.world_to_data(dims.point), dims.ndim - strokes.ndim
        sizes = strokes.data.shape
        return tuple(
            slice(None) if axis + along in dims.displayed else min(max(round(point[axis]), 0), sizes[axis] - 1)
            for axis in range(strokes.ndim)
        )

    def _on_paint(self, event: object) -> None:
        entry = self._entries.get(event.source.unique_id)
        if entry is None or self._quiet:
            return
        entry.due.append(self._region(entry.strokes))
        QTimer.singleShot(0, self.settle)  # for a fill, napari tells before the pixels change

    def _on_inserted(self, event: object) -> None:
        """An image that was removed and is opened again is the project's, and has its strokes."""
        image = event.value
        if not _layers.is_source_image(image) or _notes.home_of(image) is not None:
            return
        path, space = _path_of(image, self._viewer), _space(image)
        for folder, project in self._projects.items():
            for key, known in project.images.items():
                there, strokes = _layers.members(self._viewer, (str(folder), key))
                if there is None and (known.path, known.shape) == (path, space):
                    _notes.note(image, project=str(folder), key=key, box=known.settings.get("box"))
                    if strokes is not None:  # once napari is through with the new layer
                        QTimer.singleShot(0, partial(_layers.put_below, self._viewer, image, strokes))

    def _on_removed(self, event: object) -> None:
        """A project none of whose strokes are left is closed."""
        self.settle()
        entry = self._entries.pop(getattr(event.value, "unique_id", None), None)
        if entry is None:
            return
        entry.strokes.events.paint.disconnect(self._on_paint)
        self._held = None if self._held is entry else self._held
        if entry.project is not None and not self._of(entry.project):
            self._close(entry.project.folder)
            self.closed.emit(entry.project.folder)

    def _tell(self) -> None:
        self.told.emit()
        if self._held is not None and self._held.project is not None and not self._held.project.flush(0):
            self._again.start()


# images -------------------------------------------------------------------------------------------------------------


def _space(image: Image) -> tuple[int, ...] | None:
    try:
        return _layers.image_space(image)
    except ValueError:  # an image that cannot be segmented; Train says why
        return None


def _path_of(image: Image, viewer: Viewer) -> Path | None:
    """The file that gives this image again; None where there is none, or it gives others as well."""
    source = image.source
    if source.path is None:
        return _zarr_folder(image)
    path = Path(source.path)
    if source.parent is not None or (image.multiscale and not path.is_dir()):
        return None
    siblings = [layer for layer in viewer.layers if isinstance(layer, Image) and layer.source.path == source.path]
    known = source.reader_plugin in ("napari", "builtins", plugin_for(path)) if path.exists() else False
    whole = path.is_file() or path.suffix == ".zarr"  # what else is in a folder nobody knows
    return path.absolute() if known and len(siblings) == 1 and whole else None


def _zarr_folder(image: Image) -> Path | None:
    """Of a zarr array that was given to napari as such."""
    data = image.data[0] if image.multiscale else image.data
    root = getattr(getattr(data, "store", None), "root", None)
    folder = Path(root) / getattr(data, "path", "") if root is not None else None
    return folder.absolute() if folder is not None and folder.is_dir() and not image.multiscale else None


def _store(image: Image, folder: Path) -> Path:
    """Write the pixels of an image that has no file of its own. ValueError where that would take too long."""
    if _layers.is_large(image):
        raise ValueError("it is large and has no file of its own; save it as zarr and open that")
    folder.mkdir(parents=True, exist_ok=True)
    file = next(file for i in range(10_000) if not (file := folder / f"{i:04d}.npy").exists())
    pixels = image.data[0] if image.multiscale else image.data
    kept = np.lib.format.open_memmap(file, "w+", np.dtype(pixels.dtype), tuple(pixels.shape))
    for i in range(len(pixels)):  # a slice at a time: a lazy volume is never in memory whole
        kept[i] = np.asarray(pixels[i])
    kept.flush()
    return file


def _settings(image: Image) -> dict[str, object]:
    """What the layer knows and a file perhaps does not, as JSON values."""
    return {
        "rgb": bool(image.rgb),
        "scale": [float(s) for s in image.scale],
        "translate": [float(t) for t in image.translate],
        "units": [str(unit) for unit in image.units],
        "axis_labels": list(image.axis_labels),
        "box": image.metadata.get(_notes.KEY, {}).get("box"),
    }


def _origin(index: int, name: str, names: Sequence[str], numbers: Sequence[int]) -> int | None:
    """Which of the classes before has become this one; of several the one with its name."""
    found = [old for old, number in enumerate(numbers) if number == index]
    return next((old for old in found if names[old] == name), found[0] if found else None)
