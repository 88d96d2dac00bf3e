"""GUI tests find their fakes in this folder, keep strokes in a folder of their own, and leave no thread behind."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    from napari_scribblemamba._worker import wait_for_background

    assert wait_for_background(seconds=60)


@pytest.fixture(autouse=True)
def recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where strokes go that nobody saves."""
    from napari_scribblemamba import _recovery

    folder = tmp_path / "recovered"
    monkeypatch.setattr(_recovery, "home", lambda: folder)
    return folder


@pytest.fixture(autouse=True)
def preferences(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the window remembers, in a folder of its own; the tour has been seen."""
    from napari_scribblemamba import _preferences

    folder = tmp_path_factory.mktemp("preferences")
    monkeypatch.setattr(_preferences, "home", lambda: folder)
    _preferences.remember("tour", {"seen": True})
    return folder
