"""Where strokes are kept that nobody has saved as a project yet: a private project each, in the user's data folder.

A private project goes when it is saved under a name, when nothing was ever drawn in it, and after 30 days if there is a
newer one of each of its images; the newest of an image stays until the person says otherwise.
"""

import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from napari_scribblemamba._journal import was_drawn_in
from napari_scribblemamba._project import PROJECT

log = logging.getLogger(__name__)
DAYS = 30  # that strokes are kept which newer ones of the same image follow


def home() -> Path:
    return user_data_path("scribblemamba") / "recovered"


def new_folder(name: str) -> Path:
    """A name for a new private project, of the moment and the image."""
    words = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "image"
    microseconds = time.time_ns() // 1000
    moment = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(microseconds // 10**6))}-{microseconds % 10**6:06d}"
    return home() / f"{moment}-{words}"


def is_private(folder: Path) -> bool:
    return folder.parent == home()


def unsaved() -> list[Path]:
    """The private projects that no program has open, the newest first."""
    found = [file.parent for file in home().glob(f"*/{PROJECT}")]
    return [folder for folder in sorted(found, reverse=True) if not _open_elsewhere(folder)]


def prune() -> list[Path]:
    """Delete the private projects that nobody will miss (above); which. What cannot be read stays."""
    gone, seen = [], set()
    for folder in unsaved():  # the newest first
        try:
            journals = {file.stem: was_drawn_in(file) for file in (folder / "strokes").glob("*.journal")}
            images = {image["key"]: image for image in _images(folder)}
        except (OSError, ValueError) as e:
            log.warning("%s stays: %s", folder, e)
            continue
        drawn = {key for key, was in journals.items() if was}
        origins = {_origin(images[key], folder) for key in drawn & images.keys()}
        followed = drawn <= images.keys() and origins <= seen  # strokes of an image that was taken out are nowhere else
        if not drawn or (followed and _days_since(folder) > DAYS):
            forget(folder)
            gone.append(folder)
        seen |= origins
    return gone


def _days_since(folder: Path) -> float:
    """The last change of any strokes."""
    return (time.time() - max(file.stat().st_mtime for file in (folder / "strokes").glob("*.journal"))) / 86_400


def title(folder: Path) -> str:
    """The images of a project, for people. ValueError where project.json cannot be read."""
    return ", ".join(image["name"] for image in _images(folder)) or folder.name


def paths(folder: Path) -> list[str]:
    """Where the images of a project are, or were. ValueError where project.json cannot be read."""
    return [image["path"] for image in _images(folder)]


def forget(folder: Path) -> None:
    """Delete a private project, because the person said so. ValueError for any other folder."""
    if not is_private(folder):
        raise ValueError(f"{folder} is no private project in {home()}; delete it yourself")
    shutil.rmtree(folder)


def _images(folder: Path) -> list[dict[str, Any]]:
    """As project.json has them."""
    try:
        images = json.loads((folder / PROJECT).read_text(encoding="utf-8"))["images"]
        return [{what: image[what] for what in ("key", "name", "path")} for image in images]
    except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise ValueError(f"{folder / PROJECT} cannot be read: {e}") from e


def _origin(image: dict[str, Any], folder: Path) -> str:
    """What tells an image from others: its file, or its name where the project holds a copy of the pixels."""
    return image["name"] if Path(image["path"]).is_relative_to(folder) else image["path"]


def _open_elsewhere(folder: Path) -> bool:
    lock = FileLock(folder / "project.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
