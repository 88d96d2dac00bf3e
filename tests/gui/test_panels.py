"""Each panel edits one value: what is set can be read, and a change is told."""

import weakref
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeModel, FakeProgress
from napari.components import ViewerModel
from napari.utils.progress import progress as napari_progress
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_scribblemamba._activity import Activity
from napari_scribblemamba._class_table import read_classes, write_classes
from napari_scribblemamba._classes_panel import ClassesPanel, _drawn_text
from napari_scribblemamba._config_form import ConfigForm
from napari_scribblemamba._layers import View
from napari_scribblemamba._layers_panel import LayersPanel
from napari_scribblemamba._models_panel import ModelsPanel
from napari_scribblemamba._notes import Brush, default_brushes
from napari_scribblemamba._progress_panel import POINTS, Curve, ProgressPanel
from napari_scribblemamba._settings_panel import SettingsPanel, preset_of
from napari_scribblemamba._slices_panel import SlicesPanel
from napari_scribblemamba._training_panel import TrainingPanel
from napari_scribblemamba._view_panel import ViewPanel
from trainer import PRESETS, Config

pytestmark = pytest.mark.bindings


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


@pytest.mark.parametrize("name", PRESETS)
def test_the_form_holds_every_field_that_can_be_chosen(qtbot: QtBot, name: str) -> None:
    form = ConfigForm(Config())
    qtbot.addWidget(form)
    form.setValue(PRESETS[name])
    assert form.value() == PRESETS[name]
    assert preset_of(PRESETS[name]) == name
    hidden = {"intensities", "strides", "kernels", "shares"}
    assert {field.name for field in fields(Config)} - set(form._widgets) == hidden


def test_what_is_typed_into_the_form(qtbot: QtBot) -> None:
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    assert panel._advanced._line.text() == "▸ Advanced"
    rate, patch = (panel._form._widgets[name].native for name in ("learning_rate", "patch"))
    rate.setText("2e-4")
    patch.setText("(96, 64)")
    assert (panel.value().learning_rate, panel.value().patch) == (2e-4, (96, 64))
    assert panel._advanced._line.text() == "▸ Advanced · 2 changed"
    patch.setText("(96, 64")
    assert not panel.shows(Config())
    with pytest.raises(ValueError, match=r"Patch must be whole numbers in brackets.*got '\(96, 64'"):
        panel.value()
    panel.setValue(Config(minutes=3.0))
    assert panel.value() == Config(minutes=3.0)


def test_the_wheel_turns_no_value_in_passing(qtbot: QtBot) -> None:
    form = ConfigForm(Config())
    qtbot.addWidget(form)
    form.show()
    seed = form._widgets["seed"].native
    wheel = QWheelEvent(
        QPointF(5, 5),
        QPointF(5, 5),
        QPoint(),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(seed, wheel)
    assert form.value().seed == 0


def test_buttons_of_a_training(qtbot: QtBot) -> None:
    panel = TrainingPanel()
    qtbot.addWidget(panel)
    panel.setValue(False)
    assert panel.value() is False
    steps = [  # state, main button, pause button, what a click on each asks for
        ("idle", "Train", None, panel.trainRequested, None),
        ("training", "Stop", "Pause", panel.stopRequested, panel.pauseRequested),
        ("paused", "Stop", "Resume", panel.stopRequested, panel.resumeRequested),
    ]
    for state, main, pause, asked, paused in steps:
        panel.set_state(state)
        assert (panel.button.text(), panel.pause.isHidden()) == (main, pause is None)
        with qtbot.waitSignal(asked):
            panel.button.click()
        if pause:
            assert panel.pause.text() == pause
            with qtbot.waitSignal(paused):
                panel.pause.click()


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
    with qtbot.waitSignal(panel.renumbered) as renumbered:
        panel.remove()
    assert renumbered.args == [[0, -1, 1]]
    assert [brush.name for brush in panel.value()] == ["background", "vessel"]
    panel.remove()  # two stay
    assert len(panel.value()) == 2


def test_the_person_is_asked_what_becomes_of_the_strokes(qtbot: QtBot) -> None:
    panel = ClassesPanel()
    qtbot.addWidget(panel)
    panel.setValue(default_brushes(["background", "RV", "LV"]))
    panel.set_drawn([50, 1234, 0])
    panel.setCurrent(1)
    erase, *heirs = panel._removal_menu().actions()
    assert erase.text() == "Erase its 1,234 pixels"
    assert [action.text() for action in heirs] == ["Give them to background", "Give them to LV"]
    with qtbot.waitSignal(panel.renumbered) as renumbered:
        heirs[1].trigger()
    assert renumbered.args == [[0, 1, 1]]
    assert [brush.name for brush in panel.value()] == ["background", "LV"]


def test_classes_move_but_the_background_stays_first(qtbot: QtBot) -> None:
    panel = ClassesPanel()
    qtbot.addWidget(panel)
    panel.setValue(default_brushes(["background", "RV", "MYO", "LV"]))
    panel.setCurrent(3)
    assert not panel._down.isEnabled()
    with qtbot.waitSignal(panel.renumbered) as renumbered:
        panel._up.click()
    assert renumbered.args == [[0, 1, 3, 2]]
    assert [brush.name for brush in panel.value()] == ["background", "RV", "LV", "MYO"]
    assert panel.current() == 2
    panel._up.click()
    panel._up.click()
    assert [brush.name for brush in panel.value()] == ["background", "LV", "RV", "MYO"]


def test_rows_show_keys_pixels_and_absence(qtbot: QtBot) -> None:
    panel = ClassesPanel()
    qtbot.addWidget(panel)
    panel.setValue(default_brushes([str(i) for i in range(11)]))
    panel.set_drawn([0, 1200, 3, *[0] * 8], absent={2})
    texts = [_drawn_text(panel._list.model().index(row, 0)) for row in range(11)]
    assert texts[:3] == ["Ctrl+1", "1,200 px   Ctrl+2", "absent here   Ctrl+3"]
    assert texts[8:] == ["Ctrl+9", "", ""]
    assert panel._list.item(1).text() == "1"


def test_a_table_of_classes(tmp_path: Path) -> None:
    brushes = (*default_brushes(["background", "RV, right"]), Brush("LV", "#123456"))
    write_classes(tmp_path / "classes.csv", brushes)
    assert read_classes(tmp_path / "classes.csv") == brushes
    (tmp_path / "names.csv").write_text("name\nground\nnerve\n")
    assert read_classes(tmp_path / "names.csv") == default_brushes(["ground", "nerve"])
    wrong = {
        "title\na\nb\n": "needs a first line with name,colour",
        "name\na\na\n": "each with a name of its own",
        "name,colour\na,#000000\nb,red\n": "line 3: .* such as #e69f00, got 'b', 'red'",
    }
    for text, message in wrong.items():
        (tmp_path / "wrong.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_classes(tmp_path / "wrong.csv")


def test_slices_with_strokes(qtbot: QtBot) -> None:
    panel = SlicesPanel()
    qtbot.addWidget(panel)
    assert panel._list.placeholderText() == "no strokes yet"
    panel.setSlices({2: 10, 5: 1500, 9: 4})
    panel.setValue(3)
    assert (panel._list.currentText(), panel._list.placeholderText()) == ("", "3 slices with strokes")
    with qtbot.waitSignal(panel.valueChanged):
        panel._on.click()
    assert (panel.value(), panel._list.currentText()) == (5, "slice 5 · 1,500 px")
    panel._back.click()
    assert panel.value() == 2 and not panel._back.isEnabled()
    panel._list.activated.emit(2)
    assert panel.value() == 9


def test_images_are_joined_as_channels(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    panel = LayersPanel(viewer.layers)
    qtbot.addWidget(panel)
    red, green, blue = (viewer.add_image(np.eye(4), name=name) for name in ("red", "green", "blue"))
    panel.setValue((red, None))
    viewer.layers.selection = {red}
    with qtbot.waitSignal(panel.refused):
        panel._join.click()
    viewer.layers.selection = {blue, green}
    panel._join.click()
    assert panel.channels() == (green, blue)
    assert panel._joined.text() == "3 channels: red, green, blue"
    panel._join.click()
    assert panel.channels() == ()
    panel._join.click()
    viewer.layers.remove(blue)
    assert panel.channels() == ()


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
    assert panel.value() is None
    panel.setValue(history[0])
    for progress in history[1:]:
        panel.show_progress(progress)
    assert panel.value() == history[-1]
    panel.setValue(history[0])
    assert panel.value() == history[0] and not panel._curves
    for progress in history[1:]:
        panel.show_progress(progress)
    qtbot.waitUntil(lambda: panel._numbers.text() == "iteration 2 · 2.0 it/s · 1:05 gone")
    panel.set_state("training")
    qtbot.waitUntil(lambda: panel._numbers.text() == "iteration 2 · 2.0 it/s · 1:05 gone · 1:00 left")
    assert panel._lines["unet"].getData()[0].tolist() == [1, 2]
    assert panel._legend.text().count("■") == 1 and "unet" in panel._legend.text()
    panel.resize(340, 400)
    panel.show()
    panel.show_progress(FakeProgress(3, {"unet": 0.5, "swinunet": 1.0}))
    qtbot.waitUntil(lambda: "swinunet" in panel._legend.text())
    qtbot.wait(50)
    assert not panel._legend.geometry().intersects(panel._plot.geometry())  # nor does it cover the curves
    panel.setValue(None)
    assert panel._legend.isHidden() and not panel._legend.text()


@pytest.mark.parametrize("steps", [1, POINTS, POINTS + 1, POINTS + 2, 100_000])
def test_a_curve_spans_all_of_a_long_training_with_few_points(steps: int) -> None:
    curve = Curve()
    for i in range(1, steps + 1):
        curve.append(i, 1 / i)
    iterations = np.array([iteration for iteration, _ in curve.points])
    assert min(steps, POINTS // 2) <= len(iterations) <= POINTS
    assert (iterations[0], iterations[-1]) == (1, steps)
    apart = np.diff(iterations[:-1])
    assert (apart == apart[:1]).all()  # evenly, but for the last
    assert steps < POINTS or 0 < curve.points[-1][1] < 2 / steps  # every step is in the average


def test_the_step_that_ends_after_pause_does_not_say_that_it_trains(qtbot: QtBot) -> None:
    panel = ProgressPanel()
    qtbot.addWidget(panel)
    for state, said in (("training", "Training"), ("paused", "Paused"), ("training", "Training")):
        panel.set_state(state)
        panel.show_progress(FakeProgress(1, {"unet": 1.0}))
        assert panel._headline.text() == said


def test_only_the_last_progress_is_kept(qtbot: QtBot) -> None:
    panel = ProgressPanel()
    qtbot.addWidget(panel)
    gone = weakref.ref(first := FakeProgress(1, {"unet": 1.0}))
    panel.show_progress(first)
    del first
    panel.show_progress(FakeProgress(2, {"unet": 0.5}))
    assert gone() is None and panel.value().iteration == 2


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


def test_view(qtbot: QtBot) -> None:
    panel = ViewPanel()
    qtbot.addWidget(panel)
    assert panel.value() == View()
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue(View(contour=True, opacity=0.8, hidden=True))
    assert panel.value() == View(contour=True, opacity=0.8, hidden=True)
    panel.blink()
    assert not panel.value().hidden


def test_what_can_be_compared(qtbot: QtBot) -> None:
    panel = ViewPanel()
    qtbot.addWidget(panel)
    assert not panel._difference.isEnabled() and not panel._probability.isEnabled()
    panel.set_names(("unet", "vmunet", "ensemble"))
    panel.set_model(True)
    with qtbot.waitSignal(panel.differenceRequested) as asked:
        panel._difference.click()
    assert asked.args == ["unet", "vmunet"]
    panel._other.setCurrentText("unet")  # with itself
    assert not panel._difference.isEnabled()
    with qtbot.waitSignal(panel.probabilityRequested) as asked:
        panel._probability.click()
    assert asked.args == ["ensemble"]
    panel.set_state("training")
    assert not panel._probability.isEnabled()


def test_the_activity_waits_and_can_be_cancelled(qtbot: QtBot) -> None:
    cancelled: list[bool] = []
    activity = Activity(lambda: cancelled.append(True))
    activity.set_state("predicting")
    activity.set_state("idle")  # done at once: nothing is shown
    assert not activity._timer.isActive()
    activity.set_state("training")
    activity.set_fraction(0.25)
    qtbot.waitUntil(lambda: activity._bar is not None and activity._bar.n == 25)
    assert (activity._bar.total, activity._bar.desc) == (100, "Training on strokes")
    activity.set_fraction(0.5)
    activity.set_state("paused")
    qtbot.waitUntil(lambda: activity._bar.n == 50)
    assert activity._bar.desc == "Training, paused: "
    activity._bar.cancel()
    assert cancelled == [True]
    bar = activity._bar
    activity.set_state("idle")
    assert bar not in napari_progress._all_instances
