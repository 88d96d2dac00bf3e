"""The desktop app: what it opens, the first start with its samples and tour, help; and torch is not needed for any."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import qtpy
from napari import Viewer
from PIL import Image as Picture
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QTextDocument
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPushButton
from test_widget import docked

from napari_scribblemamba import _preferences
from napari_scribblemamba._help import Help, docs_folder
from napari_scribblemamba._project import Project
from napari_scribblemamba._tour import HINTS, SAMPLES, TourPanel
from napari_scribblemamba._widget import ScribbleMamba
from trainer.config import Config

pytestmark = pytest.mark.bindings

LOOK = """
import json, sys, time
from pathlib import Path
import napari
from qtpy.QtWidgets import QApplication, QDockWidget

def look():
    viewer = napari.current_viewer()
    [panel] = [w for w in QApplication.allWidgets() if type(w).__name__ == "ScribbleMamba"]
    until = time.monotonic() + (60 if {waits} else 1)
    while time.monotonic() < until and (not {waits} or panel.session.model is None):
        QApplication.processEvents()
        time.sleep(0.02)
    docked = isinstance(panel.parentWidget(), QDockWidget) or panel.window().windowTitle() == "ScribbleMamba"
    model = panel.session.model and list(panel.session.model.classes)
    said = {{"torch": "torch" in sys.modules, "docked": docked, "visible": panel.isVisible(), "model": model,
            "layers": [layer.name for layer in viewer.layers], "hint": panel.tour.value()}}
    viewer.close()
    print(json.dumps(said))

napari.run = look
sys.argv = ["scribblemamba", *{arguments}]
from napari_scribblemamba.__main__ import main
main()
"""


def opened(home: Path, *arguments: Path, waits: bool = False) -> dict:
    """What the app shows, started in a process of its own by somebody whose home is empty."""
    code = LOOK.format(arguments=[str(each) for each in arguments], waits=waits)
    names = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {**os.environ, **dict.fromkeys(names, str(home)), "PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0 and "leaked" not in result.stderr, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_binding_is_the_one_that_was_asked_for() -> None:
    """pytest-qt takes another variable than qtpy: with one of them alone, both passes ran on the same binding."""
    asked = os.environ.get("QT_API", qtpy.API)
    others = {"PyQt6", "PySide6"} - {qtpy.API_NAME}
    assert qtpy.API_NAME.lower() == asked and not others & set(sys.modules)


def test_the_window_opens_without_torch_and_begins_with_the_tour(tmp_path: Path) -> None:
    said = opened(tmp_path)
    assert said == {"torch": False, "docked": True, "visible": True, "model": None, "layers": [], "hint": 0}


def test_it_opens_images_projects_and_runs(tmp_path: Path) -> None:
    from trainer.model import Model

    Picture.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "flat.png")
    Picture.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "eye.png")
    project = Project.create(tmp_path / "project", [("background", "#7d8590"), ("line", "#e69f00")])
    project.add(tmp_path / "eye.png", "eye", (40, 40), np.uint8)
    project.close()
    config = Config(networks=("unet",), objective="supervised", iterations=1, device="cpu", dtype="float32")
    Model.new(config, ("background", "heart"), 1).save(tmp_path / "run")
    said = opened(tmp_path / "home", *(tmp_path / name for name in ("flat.png", "project", "run")), waits=True)
    assert said["layers"] == ["flat", "eye", "strokes · eye"]
    assert said["model"] == ["background", "heart"]


def test_the_module_runs_as_the_command(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "napari_scribblemamba", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: scribblemamba" in result.stdout and "run folder" in result.stdout


# the first start ----------------------------------------------------------------------------------------------------


@pytest.fixture
def first_start(preferences: Path) -> None:
    (preferences / "tour.json").unlink()


def click(button: QPushButton) -> None:
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def framed(widget: ScribbleMamba) -> list[str]:
    return [title for title, group in widget._groups.items() if group.styleSheet()]


def test_five_hints_walk_through_the_panel_and_are_not_shown_again(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, first_start: None
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1300, 900)
    widget = docked(viewer)
    seen = []
    while widget.tour.value() is not None:
        assert not widget.tour.isHidden()
        seen += framed(widget)
        [group] = [widget._groups[title] for title in framed(widget)]
        QTest.qWait(100)  # all heights are settled, and nothing is cut
        whole = min(group.height(), widget._column.viewport().height())
        assert group.visibleRegion().boundingRect().height() == whole
        click(widget.tour._next)
    assert seen == [hint.group for hint in HINTS] and len(seen) == 5
    assert widget.tour.isHidden() and framed(widget) == []
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    again = docked(viewer)
    assert again.tour.value() is None
    click(again._tour_button)
    assert again.tour.value() == 0 and framed(again) == ["Image and strokes"]


def test_a_closed_tour_stays_closed(qtbot: QtBot, first_start: None) -> None:
    tour = TourPanel()
    qtbot.addWidget(tour)
    tour.offer()
    assert tour.value() == 0 and not tour._back.isEnabled()
    tour.setValue(3)
    tour._back.click()
    assert tour.value() == 2
    with qtbot.waitSignal(tour.valueChanged):
        tour._close.click()
    assert tour.value() is None and _preferences.remembered("tour", None) == {"seen": True}
    tour.offer()
    assert tour.value() is None


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_tour_opens_a_sample(
    sample: str, make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, first_start: None
) -> None:
    widget = docked(make_napari_viewer(show=True))
    click(next(each for each in widget.tour._samples.findChildren(QPushButton) if each.text() == SAMPLES[sample]))
    image, strokes = widget.layers.value()
    assert image is not None and strokes.data.any() and len(widget.classes.value()) > 1
    assert widget.tour.value() == 0


# help ---------------------------------------------------------------------------------------------------------------


def test_help_shows_the_manual_once(make_napari_viewer: Callable[..., Viewer]) -> None:
    widget = docked(make_napari_viewer(show=True))
    click(widget._help_button)
    page = widget._help
    assert page.isVisible() and page.isWindow() and "First steps" in page.toPlainText()
    page.close()
    click(widget._help_button)
    assert widget._help is page and page.isVisible()
    page.setSource(QUrl("dataset.md"))
    assert page.source().fileName() == "dataset.md" and "nnU-Net" in page.toPlainText()
    page.close()


def test_pictures_fit_the_page_and_every_link_leads_somewhere(qtbot: QtBot) -> None:
    page = Help()
    qtbot.addWidget(page)
    text = (docs_folder() / "manual.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http", "#"))]
    assert links and all((docs_folder() / link).is_file() for link in links)
    kind = QTextDocument.ResourceType.ImageResource.value
    for link in (link for link in links if link.endswith(".png")):
        picture = page.loadResource(kind, QUrl(link))
        assert 100 < picture.width() <= page.width()
