"""Each panel edits one value: what is set can be read, and a change is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeModel, FakeProgress
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog

from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._layers import Brush, default_brushes
from napari_scribblemamba._layers_panel import LayersPanel
from napari_scribblemamba._models_panel import ModelsPanel
from napari_scribblemamba._progress_panel import ProgressPanel
from napari_scribblemamba._settings_panel import SettingsPanel
from trainer import PRESETS, Config


@pytest.mark.parametrize(
    "config", [*PRESETS.values(), Config(iterations=7, networks=("unet", "unet"), seed=5, batch=3)]
)
def test_settings(qtbot: QtBot, config: Config) -> None:
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    panel.setValue(config)
    assert panel.value() == config


def test_settings_change_only_what_was_clicked(qtbot: QtBot) -> None:
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    panel.setValue(replace(PRESETS["paper"], seed=7))
    with qtbot.waitSignal(panel.valueChanged):
        panel._networks["swinunet"].click()
    assert panel.value() == replace(PRESETS["paper"], seed=7, networks=("unet", "mambaunet"))


def test_a_preset_fills_the_form(qtbot: QtBot) -> None:
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    panel._preset.setCurrentText("supervised")
    with qtbot.waitSignal(panel.valueChanged):
        panel._preset.activated.emit(panel._preset.currentIndex())
    assert panel.value() == PRESETS["supervised"]


def test_classes(qtbot: QtBot) -> None:
    panel = ClassesPanel()
    qtbot.addWidget(panel)
    brushes = (*default_brushes(["background", "RV"]), Brush("LV", "#123456"))
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue(brushes)
    assert panel.value() == brushes


def test_classes_can_be_added_renamed_recoloured_and_removed(qtbot: QtBot) -> None:
    panel = ClassesPanel()
    qtbot.addWidget(panel)
    panel.add()
    panel._list.item(2).setText("vessel")
    panel.recolour("#abcdef")
    assert panel.value()[2] == Brush("vessel", "#abcdef")
    panel._list.item(2).setText("object")  # taken
    assert panel.value()[2].name == panel._list.item(2).text() == "vessel"
    panel.setCurrent(1)
    with qtbot.waitSignal(panel.removed) as removed:
        panel.remove()
    assert removed.args == [1]
    assert [brush.name for brush in panel.value()] == ["background", "vessel"]
    panel.remove()  # two stay
    assert len(panel.value()) == 2


def test_layers_follow_the_viewer(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    panel = LayersPanel(viewer.layers)
    qtbot.addWidget(panel)
    assert panel.value() == (None, None)
    small, large = viewer.add_image(np.eye(4), name="small"), viewer.add_image(np.eye(8), name="large")
    strokes = viewer.add_labels(np.zeros((8, 8), int))
    viewer.add_labels(np.zeros((8, 8), int), metadata={"scribblemamba": {"network": "unet", "image": "?"}})
    assert panel.value() == (small, strokes)  # a chosen image stays chosen; predictions are not offered
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue((large, strokes))
    assert panel.value() == (large, strokes)
    large.name = "big"
    assert panel._image.currentText() == "big"
    viewer.layers.remove(large)
    assert panel.value() == (small, strokes)


def test_progress(qtbot: QtBot) -> None:
    panel = ProgressPanel()
    qtbot.addWidget(panel)
    history = [FakeProgress(0), FakeProgress(1, {"unet": 1.0}), FakeProgress(2, {"unet": 0.5}, 65.0, 0.5, 2.0, 60.0)]
    panel.setValue(history[:1])
    for progress in history[1:]:
        panel.show_progress(progress)
    assert panel.value() == history
    panel.setValue(history)
    assert panel.value() == history
    assert panel._numbers.text() == "iteration 2 · 2.0 it/s · 1:05 gone"
    panel.set_state("training")
    qtbot.waitUntil(lambda: panel._numbers.text() == "iteration 2 · 2.0 it/s · 1:05 gone · 1:00 left")
    assert panel._curves["unet"].getData()[0].tolist() == [1, 2]


def test_models_allow_what_can_be_done_now(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = ModelsPanel()
    qtbot.addWidget(panel)
    assert not panel._predict.isEnabled()
    assert not panel._save.isEnabled()
    panel.set_model(FakeModel())
    assert panel._predict.isEnabled()
    panel.set_state("predicting")
    with qtbot.waitSignal(panel.stopRequested):
        panel._predict.click()
    panel.set_state("idle")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("/somewhere/run", ""))
    with qtbot.waitSignal(panel.saveRequested) as saved:
        panel._save.click()
    assert saved.args == [Path("/somewhere/run")]
