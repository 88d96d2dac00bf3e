"""Supervised training in the window, on a dense Labels layer, with any network, without code."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from napari import Viewer
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from test_widget import disc_image, docked, messages

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._settings_panel import SettingsPanel
from napari_scribblemamba._widget import ScribbleMamba
from trainer.config import NETWORK_NAMES, PRESETS, Config

QUICK = {"iterations": 4, "minutes": None, "batch": 1, "device": "cpu", "dtype": "float32", "threads": 1}


def disc() -> np.ndarray:
    y, x = np.indices((48, 48))
    return np.hypot(y - 24, x - 24) < 12


def take(widget: ScribbleMamba, words: str) -> None:
    """Press From… and choose the entry of the menu."""
    QTest.mouseClick(widget.layers._dense, Qt.MouseButton.LeftButton)
    next(each for each in widget.layers._menu.actions() if words in each.text()).trigger()
    widget.layers._menu.close()


def labelled(viewer: Viewer) -> tuple[Image, ScribbleMamba]:
    """The disc with its dense labels, taken as strokes."""
    image = viewer.add_image(disc_image(), name="disc")
    viewer.add_labels(disc().astype(int), name="truth")
    widget = docked(viewer)
    take(widget, "truth: values are classes")
    return image, widget


def trained(widget: ScribbleMamba, qtbot: QtBot) -> None:
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.model is not None and widget.session.state == "idle", timeout=240_000)


def test_dense_labels_become_strokes_with_the_background_drawn(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), scale=(2, 2), units="mm", name="disc")
    widget = docked(viewer)
    assert widget.layers._dense.isHidden()  # there is nothing to take
    labels = viewer.add_labels(85 * disc().astype(np.uint16), name="truth")
    take(widget, "truth: values are classes")
    chosen, strokes = widget.layers.value()
    assert chosen is image and strokes is not labels and not labels.visible
    assert np.array_equal(strokes.data, 1 + disc())
    assert [brush.name for brush in widget.classes.value()] == ["background", "label 85"]
    assert (strokes.scale == image.scale).all() and strokes.units == image.units


def test_objects_become_interior_and_boundary() -> None:
    from napari.components import ViewerModel

    viewer, image = ViewerModel(), Image(disc_image())
    ids = np.zeros((48, 48), int)
    ids[4:12, 4:12], ids[20:30, 20:30] = 1, 300
    strokes = _layers.strokes_from_labels(viewer, image, Labels(ids), objects=True)
    assert strokes.data[4, 4] == 3 and strokes.data[7, 7] == 2 and strokes.data[0, 0] == 1
    assert [brush.name for brush in _notes.brushes_of(strokes)] == ["background", "interior", "boundary"]
    with pytest.raises(ValueError, match="has 100 values, too many for classes"):
        _layers.strokes_from_labels(viewer, image, Labels(np.arange(48 * 48).reshape(48, 48) % 100))
    with pytest.raises(ValueError, match=r"has shape \(9, 9\), the image"):
        _layers.strokes_from_labels(viewer, image, Labels(np.ones((9, 9), int)))


@pytest.mark.parametrize("preset", ["supervised", "vmunet", "swin_umamba", "umamba"])
def test_a_preset_for_dense_labels_trains_and_predicts(
    preset: str, make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    image, widget = labelled(viewer)
    widget.settings._preset.setCurrentText(preset)
    widget.settings._on_preset()
    chosen = widget.settings.value()
    assert chosen == PRESETS[preset]
    widget.settings.setValue(replace(chosen, **QUICK, size="small", patch=(32, 32)))
    trained(widget, qtbot)
    assert set(_layers.predicted_classes(viewer, image)) == set(PRESETS[preset].networks)
    losses = [loss for curve in widget.progress._curves.values() for _, loss in curve.points]
    assert losses and np.isfinite(losses).all()


def test_the_plan_of_a_supervised_training_learns_the_disc(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    image, widget = labelled(viewer)
    planned = replace(PRESETS["supervised"], **{**QUICK, "iterations": 40, "batch": 0}, size="small")
    assert planned.patch == ()  # found for the image, when it trains
    widget.settings.setValue(planned)
    trained(widget, qtbot)
    assert len(widget.session.model.config.patch) == 2
    found = _layers.predicted_classes(viewer, image)["unet"]
    assert 2 * (found & disc()).sum() / (found.sum() + disc().sum()) > 0.9


def test_the_coach_does_not_hear_networks_that_have_not_learnt(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    """All that the second would say is background: its layer, made when the training began, is empty."""
    viewer = make_napari_viewer(show=True)
    image, widget = labelled(viewer)
    alone = replace(PRESETS["supervised"], **QUICK, networks=("unet", "swinunet"), lead=0.9, patch=(32, 32))
    widget.settings.setValue(replace(alone, normalisation="zscore", deep_supervision=False))
    trained(widget, qtbot)
    assert widget.session.model.shares == {"unet": 1.0}
    if "swinunet" not in _layers.prediction_layers(viewer, image):  # so short a training may end before it is due
        _layers.add_prediction_layer(viewer, image, "swinunet", widget.overlays.brushes())
    assert not _layers.predicted_classes(viewer, image)["swinunet"].any()
    assert list(widget.advisor._seen(image, None, widget.overlays.names)["disc"]) == ["unet"]


def test_a_network_of_volumes_trains_on_a_stack(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.stack([disc_image()] * 16), name="stack")
    viewer.add_labels(np.stack([disc()] * 16).astype(int), name="truth")
    widget = docked(viewer)
    take(widget, "truth: values are classes")
    widget.settings.setValue(replace(PRESETS["nnmamba"], **QUICK, size="small", patch=(16, 32, 32)))
    trained(widget, qtbot)
    assert widget.session.model.volumetric
    assert _layers.predicted_classes(viewer, image)["nnmamba"].shape == (16, 48, 48)
    assert not [message for message in messages() if "engine failed" in message]


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_each_network_can_be_chosen(qtbot: QtBot, network: str) -> None:
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    panel.setValue(PRESETS["supervised"])
    panel._networks[network].click() if network != "unet" else None
    if network != "unet":
        panel._networks["unet"].click()
    assert panel.value() == replace(PRESETS["supervised"], networks=(network,))
    assert isinstance(panel.value(), Config)
