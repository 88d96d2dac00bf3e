"""Project: a folder with images by their path, the classes, the settings, and a journal of strokes for each image.

project.json      format, images, classes, settings; always whole
strokes/KEY.journal
project.lock, project.owner.json      while a program has it open, and which one
"""

import hashlib
import json
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from napari_scribblemamba._journal import Journal
from napari_scribblemamba._log import PATIENCE, Writer, remove_drafts, write_whole
from napari_scribblemamba._strokes import Change, Classes, LabelClass, class_list, classes_of

PROJECT = "project.json"
FORMAT = 1  # of project.json; raised when an older version could not read it
SAMPLED = 2**16  # bytes of a file's beginning, middle and end that its fingerprint reads
Whereabouts = Literal["there", "changed", "missing"]


@dataclass(frozen=True)
class ProjectImage:
    """An image of a project, by reference: the project holds its strokes, not its pixels."""

    key: str  # of its journal, never used again
    path: Path  # absolute: a file, or the folder of a zarr or DICOM series
    name: str  # for people
    shape: tuple[int, ...]  # of the strokes
    fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)  # of its layers; JSON values


class Project:
    """An open project; nobody else can open it meanwhile. All calls from one thread, `failed` comes from another.

    project = Project.create(folder, [("background", "#7d8590"), ("nerve", "#e69f00")])     # or Project(folder)
    image = project.add(path, "patient 1", shape, np.uint8)
    journal = project.journal(image.key)
    """

    def __init__(self, folder: Path, failed: Callable[[OSError], None] | None = None) -> None:
        """Open it. FileNotFoundError where there is none, BlockingIOError where it is open elsewhere (it says by whom),
        ValueError where project.json is damaged or newer.

        failed: told once, from another thread, when the disk begins to refuse
        """
        self.folder = Path(folder).absolute()
        if not self._file.is_file():
            raise FileNotFoundError(f"no project in {self.folder}: project.json is missing")
        self._failed = failed
        self._journals: dict[str, Journal] = {}
        self._lock = _locked(self.folder)
        remove_drafts(self._file)
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise
        self._writer = Writer(self._write, self._failed, PROJECT)
        self._end = weakref.finalize(self, self._writer.close)  # also at the end of a program that forgot to close

    @classmethod
    def create(
        cls, folder: Path, classes: Sequence[tuple[str, str]], failed: Callable[[OSError], None] | None = None
    ) -> "Project":
        """A new project with these classes (name, colour). FileExistsError where the folder holds one."""
        folder = Path(folder)
        if (folder / PROJECT).exists():
            raise FileExistsError(f"{folder} holds a project; open it, or choose an empty folder")
        (folder / "strokes").mkdir(parents=True, exist_ok=True)
        first = tuple(LabelClass(key, *each) for key, each in enumerate(classes))
        write_whole(folder / PROJECT, _content({}, first, len(first), 0, {}, folder))
        return cls(folder, failed)

    # images ---------------------------------------------------------------------------------------------------------

    def add(
        self, path: Path, name: str, shape: Sequence[int], dtype: Any, settings: dict[str, Any] | None = None
    ) -> ProjectImage:
        """Take an image in and begin its journal. ValueError where it is in already, or is no file."""
        path = Path(path).absolute()
        if known := [image.name for image in self.images.values() if image.path == path]:
            raise ValueError(f"{path} is in the project already, as '{known[0]}'")
        while self._journal_file(key := f"{self._next_image:04d}").exists():
            self._next_image += 1  # begun just before a crash
        image = ProjectImage(key, path, name, tuple(int(n) for n in shape), fingerprint(path), dict(settings or {}))
        self._next_image += 1
        self._journals[key] = Journal.create(self._journal_file(key), shape, dtype, self.classes, failed=self._failed)
        self._put(image)
        return image

    def remove(self, key: str) -> Path:
        """Take an image out; where its journal is: nothing that was drawn is deleted."""
        if key in self._journals:
            self._journals.pop(key).close()
        self.images = {other: image for other, image in self.images.items() if other != key}
        self._writer.wake()
        return self._journal_file(key)

    def whereabouts(self, key: str) -> Whereabouts:
        """Whether the image is where it was, and what it was."""
        image = self.images[key]
        if not image.path.exists():
            return "missing"
        return "there" if fingerprint(image.path) == image.fingerprint else "changed"

    def relink(self, key: str, path: Path, changed: bool = False) -> ProjectImage:
        """The image is elsewhere now. ValueError where another file is there, unless `changed` says that it may be."""
        path, image = Path(path).absolute(), self.images[key]
        found = fingerprint(path)
        if found != image.fingerprint and not changed:
            raise ValueError(f"{path} is not the file that '{image.name}' was drawn on; choose that, or say it changed")
        return self._put(replace(image, path=path, fingerprint=found))

    def set_image(self, key: str, name: str | None = None, settings: dict[str, Any] | None = None) -> ProjectImage:
        """Another name, or other settings of the layers."""
        image = self.images[key]
        return self._put(
            replace(
                image,
                name=image.name if name is None else name,
                settings=image.settings if settings is None else dict(settings),
            )
        )

    # strokes --------------------------------------------------------------------------------------------------------

    def journal(self, key: str) -> Journal:
        """The journal of an image, opened once. It takes the project's classes over if they changed meanwhile."""
        if key not in self._journals:
            self._journals[key] = Journal(self._journal_file(key), self._failed)
            self._journals[key].set_classes(self.classes)
        return self._journals[key]

    def undo(self, key: str) -> dict[str, Change]:
        """Journal.undo; where that gives other classes back, all images get them, and the strokes that went with them.
        What changed in each open image, by its key."""
        return self._step(key, "undo")

    def redo(self, key: str) -> dict[str, Change]:
        return self._step(key, "redo")

    @property
    def minutes(self) -> float:
        """Time spent drawing, on all images."""
        return sum(self.journal(key).minutes() for key in self.images)

    # classes and settings -------------------------------------------------------------------------------------------

    def set_classes(self, rows: Sequence[tuple[str, str, int | None]]) -> dict[str, Change]:
        """The classes as a list (name, colour, index in the list before; None for a new one): renamed, reordered,
        added, gone. What changed in each open image, by its key; the others follow when they are opened."""
        classes = []
        for name, colour, index in rows:
            key = self._next_class if index is None else self.classes[index].key
            self._next_class += index is None
            classes.append(LabelClass(key, name, colour))
        return self._take_classes(tuple(classes))

    def set_settings(self, **settings: Any) -> None:
        """Keep JSON values such as config=Config.to_dict()."""
        self.settings = {**self.settings, **settings}
        self._writer.wake()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until all is on disk; whether it is."""
        return all([self._writer.flush(seconds), *(journal.flush(seconds) for journal in self._journals.values())])

    def close(self) -> None:
        """Once all is on disk. OSError, and the project stays open, where the disk refuses."""
        for key in list(self._journals):
            self._journals[key].close()
            del self._journals[key]
        if not self._writer.flush(PATIENCE):
            raise OSError(f"{self._file} is not written yet ({self._writer.error}); make room and close again")
        self._end()
        (self.folder / "project.owner.json").unlink(missing_ok=True)
        self._lock.release()

    # helpers --------------------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.folder / PROJECT

    def _journal_file(self, key: str) -> Path:
        return self.folder / "strokes" / f"{key}.journal"

    def _put(self, image: ProjectImage) -> ProjectImage:
        self.images = {**self.images, image.key: image}
        self._writer.wake()
        return image

    def _step(self, key: str, verb: Literal["undo", "redo"]) -> dict[str, Change]:
        journal = self.journal(key)
        change = getattr(journal, verb)()
        if change is None or not change.classes:
            return {} if change is None else {key: change}
        changes = {key: change}
        for other, each in self._journals.items():
            step = each.next_undo if verb == "undo" else each.next_redo
            if each is not journal and step is not None and step.classes == change.classes:  # the same edit
                changes[other] = getattr(each, verb)()
        return changes | self._take_classes(journal.classes)

    def _take_classes(self, classes: Classes) -> dict[str, Change]:
        self.classes = classes
        self._writer.wake()  # before the journals: what project.json says holds at the next opening
        changes = {key: journal.set_classes(classes) for key, journal in self._journals.items()}
        return {key: change for key, change in changes.items() if change is not None}

    def _read(self) -> None:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["format"] > FORMAT:
                raise ValueError(f"format {content['format']} is newer than this version reads ({FORMAT}); update")
            self.images = {each["key"]: _image(each, self.folder) for each in content["images"]}
            self.classes, self.settings = classes_of(content["classes"]), content["settings"]
            self._next_class, self._next_image = content["next_class"], content["next_image"]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f"{self._file} cannot be read: {e}; take it from a backup, the journals beside it hold all strokes"
            ) from e

    def _write(self) -> None:
        """In the writer's thread; all of these are replaced, never changed."""
        content = (self.images, self.classes, self._next_class, self._next_image, self.settings, self.folder)
        write_whole(self._file, _content(*content))


def fingerprint(path: Path) -> str:
    """Tells a file from others quickly: size and SHA-256 of its beginning, middle and end; of a folder, the names and
    sizes of what is directly in it. FileNotFoundError where there is neither."""
    if not path.exists():
        raise FileNotFoundError(f"there is no image at {path}")
    digest = hashlib.sha256()
    if path.is_dir():
        entries = sorted(path.iterdir())
        for each in entries:
            digest.update(f"{each.name}:{each.stat().st_size if each.is_file() else 0}\n".encode())
        return f"{len(entries)} entries {digest.hexdigest()[:32]}"
    size = path.stat().st_size
    with path.open("rb") as stream:
        for at in (0, max(0, size // 2), max(0, size - SAMPLED)):
            stream.seek(at)
            digest.update(stream.read(SAMPLED))
    return f"{size} bytes {digest.hexdigest()[:32]}"


def _content(
    images: dict[str, ProjectImage],
    classes: Classes,
    next_class: int,
    next_image: int,
    settings: dict[str, Any],
    folder: Path,
) -> bytes:
    content = {
        "format": FORMAT,
        "images": [_image_entry(image, folder) for image in images.values()],
        "classes": class_list(classes),
        "next_class": next_class,
        "next_image": next_image,
        "settings": settings,
    }
    return (json.dumps(content, indent=1) + "\n").encode()  # in ASCII: names of files need not be UTF-8


def _image_entry(image: ProjectImage, folder: Path) -> dict[str, Any]:
    """With its path as seen from the project too, so that both may move together."""
    entry = {**asdict(image), "path": str(image.path)}
    try:
        entry["relative"] = Path(os.path.relpath(image.path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        entry["relative"] = None
    return entry


def _image(entry: dict[str, Any], folder: Path) -> ProjectImage:
    entry = dict(entry)
    path, relative = Path(entry.pop("path")), entry.pop("relative")
    if relative and (beside := Path(os.path.normpath(folder / relative))) != path and beside.exists():
        if not path.exists() or fingerprint(beside) == entry["fingerprint"]:  # not any file that has the same name
            path = beside
    return ProjectImage(**{**entry, "path": path, "shape": tuple(entry["shape"])})


def _locked(folder: Path) -> FileLock:
    """The lock ends with the process, however that ends. BlockingIOError says who holds it."""
    lock, owner = FileLock(folder / "project.lock", thread_local=False), folder / "project.owner.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{folder} is open elsewhere: {_owner(owner)}; close it there") from None
    write_whole(owner, json.dumps({"process": os.getpid(), "computer": socket.gethostname()}).encode())
    return lock


def _owner(file: Path) -> str:
    try:
        owner = json.loads(file.read_text())
        return f"process {owner['process']} on {owner['computer']}"
    except (OSError, ValueError, KeyError):  # it began this very moment, or ends
        return "in a process that has not said which it is"
