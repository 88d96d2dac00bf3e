"""After the prediction: accept a slice, count objects, save their table, repeat it headless."""

import csv
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeModel
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QPushButton
from test_widget import CTRL, SCALE, disc_image, docked, draw, messages, press

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._box import Box
from napari_scribblemamba._command import fit_command
from napari_scribblemamba._findings import _measured
from napari_scribblemamba._overlays import _seen
from napari_scribblemamba._predictor import Prediction
from napari_scribblemamba._results_panel import ResultsPanel
from napari_scribblemamba._widget import ScribbleMamba
from trainer.config import PRESETS, Config
from trainer.fit import parse
from trainer.instances import CLASSES, to_boundary_classes

pytestmark = pytest.mark.bindings


def button(panel: ResultsPanel, text: str) -> QPushButton:
    return next(each for each in panel.findChildren(QPushButton) if each.text() == text)


def predicted(viewer: Viewer, qtbot: QtBot) -> ScribbleMamba:
    """A stack of three discs, a stroke in slice 1, and a prediction of everything by the fake model."""
    image = viewer.add_image(np.stack([disc_image()] * 3), scale=(5, *SCALE), units="mm", name="stack")
    widget = docked(viewer)
    widget.classes.setValue(_notes.default_brushes(FakeModel.classes))
    widget.layers._new.click()
    viewer.dims.set_point(0, 5)
    widget.classes.setCurrent(0)
    draw(viewer, (24, 16), (24, 32))  # through the disc: a correction of what comes
    widget.session._set_model(FakeModel())
    assert not button(widget.results, "Accept slice").isEnabled()
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    assert (_layers.prediction_layers(viewer, image)["ensemble"].data == 2).any()
    viewer.window._qt_window.activateWindow()
    viewer.window._qt_viewer.canvas.native.setFocus()
    return widget


def test_what_networks_said_while_they_learnt_is_not_measured(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    """Of a stack each slice would be of another moment; what is looked at whole is of one."""
    viewer = make_napari_viewer(show=True)
    widget = predicted(viewer, qtbot)
    plane, whole = np.ones((48, 48), np.uint8), np.ones((3, 48, 48), np.uint8)
    widget.overlays.set_state("training")
    widget.overlays.show(Prediction("stack", 1, {"ensemble": plane}, "x"))
    widget.overlays.set_state("idle")
    button(widget.results, "Objects").click()
    assert "older than the rest" in messages()[-1]
    widget.overlays.show(Prediction("stack", None, {"ensemble": whole}, "x"))
    assert widget.overlays.complete == {"stack"}


def test_an_accepted_slice_is_drawn_where_nothing_was(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = predicted(viewer, qtbot)
    image, strokes = widget.layers.value()
    before = strokes.data.copy()
    disc = image.data[1] > image.data.mean()
    button(widget.results, "Accept slice").click()
    assert np.array_equal(strokes.data[1], np.where(before[1] > 0, before[1], np.where(disc, 2, 1)))
    assert np.array_equal(strokes.data[[0, 2]], before[[0, 2]])
    assert "pixels accepted" in messages()[-1]
    qtbot.wait(50)
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(strokes.data, before)
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert not strokes.data.any()  # the stroke itself
    widget.overlays.predicted[("stack", 1)] = Box(10, 0, 40, 48)  # all that the networks looked at
    button(widget.results, "Accept slice").click()
    assert (strokes.data[1, 10:40] > 0).all() and not strokes.data[1, :10].any() and not strokes.data[1, 40:].any()
    image.name = "another name"
    assert widget.overlays.name_of(image) == "stack"
    widget.overlays.predicted[("stack", 1)] = Box(40, 0, 48, 48)
    button(widget.results, "Accept slice").click()
    assert (strokes.data[1, 40:] > 0).all()
    widget.overlays.predicted.clear()
    button(widget.results, "Accept slice").click()
    assert "not predicted yet" in messages()[-1] and not strokes.data[1, :10].any()


def test_of_a_part_of_a_large_stack_it_is_known_what_was_looked_at() -> None:
    prediction = Prediction("a", 3, {"ensemble": np.zeros((60, 50))}, "x", within=(slice(10, 30), slice(20, 40)))
    assert _seen(prediction, (9, 60, 50), None) == Box(10, 20, 30, 40)
    assert _seen(prediction, (9, 90, 90), Box(5, 6, 65, 56)) == Box(15, 26, 35, 46)
    assert _seen(replace(prediction, within=None), (9, 60, 50), None) is None


def test_objects_are_measured_and_saved(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = predicted(viewer, qtbot)
    image, strokes = widget.layers.value()
    button(widget.results, "Objects").click()
    qtbot.waitUntil(lambda: "1 object;" in widget.results.found(), timeout=30_000)
    layer = _layers.objects_layer(viewer, image)
    voxels = int((layer.data == 1).sum())
    assert 3 * 400 < voxels < 3 * 500  # three discs of radius 12, one upon the other
    assert layer.features["volume (mm³)"].tolist() == pytest.approx([voxels * 5 * 2 * 2])
    assert layer.features["class"].tolist() == ["disc"]
    assert widget.layers.value() == (image, strokes) and widget.layers._strokes.count() == 1
    button(widget.results, "Objects").click()  # again: in the same layer
    qtbot.waitUntil(lambda: "1 object;" in widget.results.found(), timeout=30_000)
    assert sum("objects" in each.name for each in viewer.layers) == 1
    widget.results.tableRequested.emit(tmp_path / "objects.csv")
    with (tmp_path / "objects.csv").open(encoding="utf-8-sig") as file:
        [row] = csv.DictReader(file)
    assert (row["class"], float(row["volume (mm³)"])) == ("disc", pytest.approx(voxels * 20))


def test_objects_learnt_as_interior_and_boundary_are_counted_whole() -> None:
    y, x = np.indices((40, 60))
    discs = (np.hypot(y - 20, x - 18) <= 10) + 2 * (np.hypot(y - 20, x - 39) <= 10)  # they touch in columns 28 and 29
    found, table = _measured(to_boundary_classes(discs), discs[None].astype(float), (1.0, 1.0), CLASSES, "pixel")
    assert np.array_equal(found, discs)
    assert table["area (pixel²)"].tolist() == [317, 317]
    assert "class" not in table


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        replace(PRESETS["interactive"], minutes=None, iterations=123, networks=("unet", "mambaunet"), threads=3),
    ],
)
def test_the_command_repeats_the_config(config: Config, tmp_path: Path) -> None:
    command = fit_command(config, tmp_path / "my data", tmp_path / "run")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "trainer.fit"]
    options = parse(words[3:])
    assert (options.config, options.dataset, options.out) == (config, tmp_path / "my data", tmp_path / "run")


def test_every_kind_of_flag_is_read_back(tmp_path: Path) -> None:
    changed = {field: not value for field, value in vars(PRESETS["interactive"]).items() if isinstance(value, bool)}
    config = replace(PRESETS["interactive"], **changed, seed=7, patch=(64, 96))
    assert parse(shlex.split(fit_command(config, tmp_path, tmp_path / "run"))[3:]).config == config
    begun = parse(shlex.split(fit_command(config, tmp_path, tmp_path / "run", tmp_path / "first"))[3:])
    assert begun.config == config and begun.start == tmp_path / "first"


def test_copy_as_command(make_napari_viewer: Callable[..., Viewer]) -> None:
    widget = docked(make_napari_viewer())
    button(widget.results, "Copy as command").click()
    assert QApplication.clipboard().text().startswith("python -m trainer.fit Dataset001_strokes --out run --preset")
    assert "Export strokes" in messages()[-1]
