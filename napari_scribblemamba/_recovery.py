"""Where strokes are kept that nobody has saved as a project yet: a private project each, in the user's data folder."""

import json
import re
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_path


def home() -> Path:
    return user_data_path("scribblemamba") / "recovered"


def new_folder(name: str) -> Path:
    """A name for a new private project, of the moment and the image."""
    words = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "image"
    return home() / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}-{words}"


def is_private(folder: Path) -> bool:
    return folder.parent == home()


def unsaved() -> list[Path]:
    """The private projects that no program has open, the newest first."""
    found = [file.parent for file in home().glob("*/project.json")]
    return [folder for folder in sorted(found, reverse=True) if not _open_elsewhere(folder)]


def title(folder: Path) -> str:
    """The images of a project, for people. ValueError where project.json cannot be read."""
    try:
        content = json.loads((folder / "project.json").read_text(encoding="utf-8"))
        return ", ".join(image["name"] for image in content["images"]) or folder.name
    except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise ValueError(f"{folder / 'project.json'} cannot be read: {e}") from e


def forget(folder: Path) -> None:
    """Delete a private project, because the person said so. ValueError for any other folder."""
    if not is_private(folder):
        raise ValueError(f"{folder} is no private project in {home()}; delete it yourself")
    shutil.rmtree(folder)


def _open_elsewhere(folder: Path) -> bool:
    lock = FileLock(folder / "project.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
