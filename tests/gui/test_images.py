"""Several images in one project: jumped among, learnt from together, added, found again, removed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from test_recorder import close, kept, reopened
from test_widget import CTRL, SCALE, TINY, Endless, disc_image, docked, draw, is_past, messages, press

from napari_scribblemamba import _images_panel
from napari_scribblemamba._box import Box
from napari_scribblemamba._guide import Guidance
from napari_scribblemamba._images import Row
from napari_scribblemamba._images_panel import ImagesPanel
from napari_scribblemamba._predictor import Prediction
from napari_scribblemamba._widget import ScribbleMamba
from trainer import IGNORE, load_dataset
from trainer.disagreement import Place


def two_drawn(viewer: Viewer, folder: Path, make_run: Callable | None = None, second: bool = True) -> ScribbleMamba:
    """A project in `folder` of the images one and two, files beside it, a stroke of each class on each, on two only if
    told so; two in hand."""
    widget = docked(viewer, make_run)
    for name in ("one", "two"):
        file = folder.parent / f"{name}.tif"
        tifffile.imwrite(file, disc_image() + 10 * (name == "two"))
        [image] = viewer.open(file, plugin="napari")
        image.scale = SCALE
        if name == "one":
            assert widget._list_line.isHidden()  # one image is as simple as ever
            widget.layers._new.click()
            strokes_of_both(viewer, widget)
            widget.project.saveRequested.emit(folder)
    widget.gallery.list()
    assert not widget._list_line.isHidden() and widget.list._add.text() == "Add opened"
    widget.list._add.click()
    jump(viewer, widget, 1)
    if second:
        strokes_of_both(viewer, widget)
    QTest.qWait(50)  # what was drawn is recorded
    widget.gallery.list()
    return widget


def strokes_of_both(viewer: Viewer, widget: ScribbleMamba) -> None:
    widget.classes.setCurrent(1)
    draw(viewer, (24, 16), (24, 32))
    widget.classes.setCurrent(0)
    draw(viewer, (4, 4), (4, 44))


def jump(viewer: Viewer, widget: ScribbleMamba, row: int) -> None:
    """A click on that row of the list."""
    listed = widget.list._list
    spot = listed.visualItemRect(listed.topLevelItem(row)).center()
    QTest.mouseClick(listed.viewport(), Qt.MouseButton.LeftButton, pos=spot)


def in_view(viewer: Viewer) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.visible]


def texts(widget: ScribbleMamba) -> list[tuple[str, str]]:
    items = [widget.list._list.topLevelItem(i) for i in range(widget.list._list.topLevelItemCount())]
    return [(item.text(0), item.text(1)) for item in items]


def test_images_are_jumped_among_and_come_back_with_their_strokes(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    assert [(name, text.split()[-1]) for name, text in texts(widget)] == [("one", "strokes"), ("two", "strokes")]
    assert widget._list_line._line.text() == "▾ 2 images, 2 with strokes"
    assert in_view(viewer) == ["two", "strokes · two"]
    jump(viewer, widget, 0)
    assert in_view(viewer) == ["one", "strokes · one"]
    one = viewer.layers["strokes · one"]
    assert widget.layers.value() == (viewer.layers["one"], one)
    assert one.brush_size == viewer.layers["strokes · two"].brush_size == 2  # as suits their size
    draw(viewer, (40, 4), (40, 44))  # the brush is at hand
    assert (one.data[40] == 1).sum() > 30 and not viewer.layers["strokes · two"].data[40].any()
    viewer.window._qt_viewer.canvas.native.setFocus()
    press(viewer, Qt.Key.Key_PageDown)
    assert in_view(viewer) == ["two", "strokes · two"] and widget.list.value() == "0001"
    press(viewer, Qt.Key.Key_PageDown)
    assert widget.list.value() == "0000"
    values = [viewer.layers[f"strokes · {name}"].data.copy() for name in ("one", "two")]
    close(viewer, widget)

    viewer, widget = reopened(make_napari_viewer, tmp_path / "both")
    assert [layer.name for layer in viewer.layers] == ["one", "strokes · one"]  # the rest comes when it is wanted
    widget.gallery.list()
    jump(viewer, widget, 1)
    assert in_view(viewer) == ["two", "strokes · two"]
    assert all((viewer.layers[f"strokes · {n}"].data == v).all() for n, v in zip(("one", "two"), values, strict=True))
    close(viewer, widget)


def test_a_stack_and_a_picture_are_jumped_among(make_napari_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    stack = viewer.add_image(np.stack([disc_image()] * 6), name="stack", scale=(5, 20, 20))
    widget.gallery.list()
    widget.list._add.click()
    jump(viewer, widget, 2)
    assert in_view(viewer) == ["stack", "strokes · stack"]
    near = viewer.camera.zoom
    jump(viewer, widget, 0)
    assert in_view(viewer) == ["one", "strokes · one"]
    one = viewer.layers["one"]
    assert widget.layers.value()[0] is one
    extent = one.extent.world
    assert np.allclose(viewer.camera.center[-2:], extent.mean(0)) and viewer.camera.zoom > near
    room = np.array(viewer.window._qt_viewer.canvas.size) / viewer.camera.zoom / np.ptp(extent, 0)
    assert 1 < room.min() < 1.1  # all of it in the picture, and as large as that allows
    viewer.window._qt_viewer.canvas.native.setFocus()
    press(viewer, Qt.Key.Key_PageUp)
    assert in_view(viewer) == ["stack", "strokes · stack"] and widget.layers.value()[0] is stack
    close(viewer, widget)


def test_a_project_opens_with_the_images_that_are_there_and_says_where_they_were(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    close(viewer, two_drawn(viewer, tmp_path / "both"))
    one, two = tmp_path / "one.tif", tmp_path / "two.tif"
    tifffile.imwrite(one, disc_image()[:20])  # was cropped meanwhile
    viewer, widget = reopened(make_napari_viewer, tmp_path / "both")
    assert [layer.name for layer in viewer.layers] == ["two", "strokes · two"]
    close(viewer, widget)
    two.unlink()
    viewer, widget = reopened(make_napari_viewer, tmp_path / "both")
    assert not viewer.layers and "one.tif has become (20, 48)" in messages()[-1]
    one.unlink()
    widget.project.openRequested.emit(tmp_path / "both")
    assert "no image of" in messages()[-1] and str(one) in messages()[-1] and str(two) in messages()[-1]
    close(viewer, widget)


def test_a_project_that_napari_reads_begins_with_the_brush_in_hand(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    close(viewer, two_drawn(viewer, tmp_path / "both"))
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    viewer.open(tmp_path / "both", plugin="napari-scribblemamba")
    QTest.qWait(50)
    image, strokes = widget.layers.value()
    assert (image.name, strokes.name) == ("one", "strokes · one") and in_view(viewer) == ["one", "strokes · one"]
    assert viewer.layers.selection.active == strokes and strokes.mode == "paint"
    viewer.window._qt_viewer.canvas.native.setFocus()
    press(viewer, Qt.Key.Key_2, CTRL)
    draw(viewer, (40, 4), (40, 44))
    assert (strokes.data[40] == 2).sum() > 30
    close(viewer, widget)


def test_an_image_that_is_opened_can_be_added_at_once(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    qtbot.waitUntil(lambda: not widget.gallery._listing.isActive())
    assert widget.list._add.isHidden()
    third = viewer.add_image(disc_image(), name="three")
    qtbot.waitUntil(lambda: not widget.list._add.isHidden(), timeout=2000)
    viewer.layers.remove(third)
    qtbot.waitUntil(widget.list._add.isHidden, timeout=2000)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()


def test_strokes_lie_where_a_rotated_image_lies(make_napari_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    affine = np.array([[0, -1, 100], [1, 0, 40], [0, 0, 1.0]])
    turned = viewer.add_image(disc_image(), name="turned", affine=affine)
    widget.gallery.list()
    widget.list._add.click()
    jump(viewer, widget, 2)
    image, strokes = widget.layers.value()
    assert image is turned and np.allclose(strokes.data_to_world((10, 20)), turned.data_to_world((10, 20)))
    widget.box_layer.setValue(Box(4, 6, 40, 44))
    box = viewer.layers["box · turned"]
    assert np.allclose(box.data_to_world((4, 6)), turned.data_to_world((4, 6)))
    close(viewer, widget)


def test_all_images_with_strokes_are_learnt_from_and_predicted(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    Endless.made = []
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both", Endless)
    close(viewer, widget)
    widget = docked(viewer, Endless)
    widget.project.openRequested.emit(tmp_path / "both")
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: is_past(TINY.iterations, widget), timeout=30_000)
    [run] = Endless.made
    assert [sample.name for sample in run.samples] == ["one", "two"]  # two was not loaded
    assert all((sample.target[24, 20:28] == 1).all() for sample in run.samples)
    assert in_view(viewer)[0] == "one" and "two" not in in_view(viewer)
    first = run.samples[0].image
    widget.gallery.list()
    jump(viewer, widget, 1)
    draw(viewer, (40, 4), (40, 44))
    qtbot.waitUntil(lambda: (run.samples[1].target[40] != IGNORE).any(), timeout=10_000)
    assert run.samples[0].image is first
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    widget.models._all.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    for name in ("one", "two"):
        ensemble = viewer.layers[f"ensemble · {name}"]
        assert ensemble.data.any() and ensemble.visible == (name == "two")
    widget.guide.setPlaces([Place("one", 0, 10, 12, 5.0)])
    widget.guide.next()
    assert "ensemble · one" in in_view(viewer) and "ensemble · two" not in in_view(viewer)
    widget.models.exportRequested.emit(tmp_path / "data")
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    assert [sample.name for sample in load_dataset(tmp_path / "data").samples] == ["one", "two"]
    close(viewer, widget)


def test_strokes_drawn_just_before_another_image_is_shown_are_learnt_from(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    Endless.made = []
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both", Endless)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "training" and bool(Endless.made), timeout=30_000)
    [run] = Endless.made
    assert [sample.name for sample in run.samples] == ["two", "one"]
    viewer.layers["strokes · two"].data_setitem((np.full(20, 40), np.arange(20)), 1)
    widget.gallery.show("0000")
    qtbot.waitUntil(lambda: (run.samples[0].target[40, :20] == 0).all(), timeout=10_000)
    assert (run.samples[1].target[40] == IGNORE).all()
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    close(viewer, widget)


def test_a_file_that_went_is_marked_and_found_again(make_napari_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    close(viewer, two_drawn(viewer, tmp_path / "both"))
    (tmp_path / "two.tif").rename(tmp_path / "moved.tif")
    (tmp_path / "one.tif").write_bytes((tmp_path / "one.tif").read_bytes() + b" ")
    viewer, widget = reopened(make_napari_viewer, tmp_path / "both")
    widget.gallery.list()
    assert [text.split(" · ")[0] for _, text in texts(widget)] == ["⚠ changed", "⚠ missing"]
    jump(viewer, widget, 1)
    assert "'two' is no longer at" in messages()[-1] and not widget.list._find.isHidden()
    assert in_view(viewer) == ["one", "strokes · one"]
    widget.list.foundRequested.emit("0001", tmp_path / "moved.tif")
    assert in_view(viewer) == ["two", "strokes · two"] and "missing" not in texts(widget)[1][1]
    close(viewer, widget)


@pytest.mark.parametrize("answer", [_images_panel.KEEP, _images_panel.FORGET, _images_panel.CANCEL])
def test_who_removes_an_image_is_asked_about_its_strokes(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(_images_panel, "asked_about_strokes", lambda parent, row: answer)
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    found = Guidance((Place("two", 0, 40, 4, 5.0), Place("one", 0, 40, 4, 3.0)), None)
    widget.session.guided.emit(found)
    widget.list._remove.click()
    stays = answer == _images_panel.CANCEL
    for _ in range(2):  # while it trains, they come again and again
        assert [place.image for place in widget.guide.places()] == ["two", "one"][1 - stays :]
        assert widget.guide._list.item(0).text().startswith("row 40, column 4 · ")  # no slice of a 2-D image
        widget.session.guided.emit(found)
    assert in_view(viewer)[0] == ("two" if stays else "one")
    assert len(texts(widget)) == 1 + stays
    assert ("two" in viewer.layers) == stays
    assert (tmp_path / "both/strokes/0001.journal").exists() == (answer != _images_panel.FORGET)
    close(viewer, widget)
    assert kept(tmp_path / "both").any()


def test_strokes_of_another_image_of_the_same_shape_are_not_taken(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    one, two = viewer.add_image(disc_image(), name="one"), viewer.add_image(disc_image(), name="two")
    widget = docked(viewer)
    widget.layers.setValue((one, None))
    widget.layers._new.click()
    strokes = widget.layers.value()[1]
    widget.layers._image.setValue(two)
    assert widget.layers.value() == (two, None)
    widget.layers._image.setValue(one)
    assert widget.layers.value() == (one, strokes)


def test_of_images_opened_together_the_chosen_one_comes_into_view(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    for name, size in (("one", 48), ("two", 40), ("three", 60)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.resize(disc_image(), (size, 48)))
        viewer.open(tmp_path / f"{name}.tif", plugin="napari")
    one, _, three = viewer.layers
    light = viewer.add_image(disc_image(), name="light", blending="additive")  # hides nothing
    widget.layers._new.click()
    assert widget.layers.value()[0] is one and in_view(viewer) == ["one", "light", "strokes · one"]
    widget.layers._image.setCurrentIndex(2)
    widget.layers._image.activated.emit(2)  # as a click does
    assert widget.layers.value() == (three, None) and three.visible
    widget.layers._new.click()
    assert np.allclose(viewer.camera.center[-2:], three.extent.world.mean(0))
    near = viewer.camera.zoom = 1.5 * viewer.camera.zoom
    light.blending = "translucent"
    widget.layers.set_channels([light])
    widget.layers._new.click()
    assert light.visible and viewer.camera.zoom == near  # it was in view
    close(viewer, widget)


def test_an_image_that_its_eye_hides_shows_when_it_is_wanted_and_its_prediction_not_before(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    third = viewer.add_image(disc_image(), name="three")
    third.visible = False
    widget.list._add.click()
    widget._watch([viewer.layers["two"], third], ("background", "object"))
    widget.session.predicted.emit(Prediction("three", None, {"ensemble": np.ones((48, 48), np.uint8)}, "x"))
    assert in_view(viewer) == ["two", "strokes · two"]
    jump(viewer, widget, 2)
    assert in_view(viewer) == ["three", "ensemble · three", "strokes · three"]
    viewer.layers["strokes · two"].visible = False
    jump(viewer, widget, 1)
    assert in_view(viewer) == ["two", "strokes · two"]
    viewer.layers["two"].visible = False
    widget.gallery.bring_forward(viewer.layers["two"])
    assert in_view(viewer) == ["two", "strokes · two"]
    viewer.layers["one"].visible = True  # by its eye, but what is in hand is two
    widget.gallery.bring_forward(viewer.layers["one"])
    assert in_view(viewer) == ["one", "strokes · one"] and widget.layers.value()[0] == viewer.layers["one"]
    close(viewer, widget)


def test_an_image_that_is_removed_and_opened_again_has_its_strokes_and_its_training(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    Endless.made = []
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both", Endless)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: is_past(TINY.iterations, widget) and "ensemble · two" in viewer.layers, timeout=30_000)
    strokes, [run] = viewer.layers["strokes · two"], Endless.made
    viewer.layers.selection = {viewer.layers["two"], viewer.layers["ensemble · two"]}
    viewer.layers["ensemble · two"].locked = False
    viewer.layers.remove_selected()
    qtbot.waitUntil(lambda: [each.name for each in viewer.layers if "two" in each.name] == ["strokes · two"])
    qtbot.waitUntil(lambda: "two removed from the viewer" in widget.progress.note())
    assert widget.session.state == "training"
    qtbot.waitUntil(lambda: in_view(viewer) == ["one", "ensemble · one", "strokes · one"])
    assert widget.layers.value() == (viewer.layers["one"], viewer.layers.selection.active)
    [again] = viewer.open(tmp_path / "two.tif", plugin="napari")
    again.scale = SCALE
    qtbot.waitUntil(lambda: not widget.progress.note())
    jump(viewer, widget, 1)
    assert widget.layers.value() == (again, strokes) and len(widget.gallery.images.rows()) == 2
    draw(viewer, (40, 4), (40, 44))
    qtbot.waitUntil(lambda: (run.samples[0].target[40] != IGNORE).any(), timeout=10_000)
    assert not widget.progress.note()
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    widget.models._all.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle" and "ensemble · two" in viewer.layers, timeout=30_000)
    assert [each.name for each in viewer.layers if "ensemble" in each.name] == ["ensemble · one", "ensemble · two"]
    widget.view.blink()
    assert not viewer.layers["ensemble · two"].visible
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()


def test_an_image_that_was_removed_comes_back_under_its_strokes(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    viewer.layers.remove("one")
    jump(viewer, widget, 0)
    assert in_view(viewer) == ["one", "strokes · one"]
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()


def test_the_only_image_opened_again_takes_up_its_strokes(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "one.tif", disc_image())
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    [image] = viewer.open(tmp_path / "one.tif", plugin="napari")
    image.scale = SCALE
    widget.layers._new.click()
    strokes_of_both(viewer, widget)
    strokes = widget.layers.value()[1]
    widget.box_layer.setValue(Box(4, 6, 40, 44))
    widget.recorder.keep_settings(image)
    viewer.layers.remove(image)
    tifffile.imwrite(tmp_path / "other.tif", disc_image() + 1)
    [other] = viewer.open(tmp_path / "other.tif", plugin="napari")
    assert widget.layers.value() == (other, None)
    viewer.layers.remove(other)
    [again] = viewer.open(tmp_path / "one.tif", plugin="napari")
    assert widget.layers.value() == (again, strokes) and widget.box.value() == Box(4, 6, 40, 44)
    assert widget.recorder.layers == (again, strokes)
    QTest.qWait(50)
    assert [each for each in viewer.layers if each in (again, strokes)] == [again, strokes]  # drawn on, not under
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()


def learning_from_one_of_two(viewer: Viewer, folder: Path, qtbot: QtBot) -> ScribbleMamba:
    """It trains, and nobody has drawn on the second image."""
    Endless.made = []
    widget = two_drawn(viewer, folder, Endless, second=False)
    jump(viewer, widget, 0)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: is_past(TINY.iterations, widget), timeout=30_000)
    return widget


def test_an_image_without_strokes_is_seen_while_networks_learn_and_joins_when_it_is_drawn_on(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = learning_from_one_of_two(viewer, tmp_path / "both", qtbot)
    [run] = Endless.made
    assert [sample.name for sample in run.samples] == ["one"]
    assert "ensemble · one" in viewer.layers and "ensemble · two" not in viewer.layers  # it was never in view
    jump(viewer, widget, 1)
    qtbot.waitUntil(lambda: "what looks like the strokes" in widget.progress.shown(), timeout=30_000)
    found = viewer.layers["ensemble · two"]
    assert found.visible and ((found.data == 2) == (disc_image() > 100)).mean() > 0.95
    strokes_of_both(viewer, widget)
    qtbot.waitUntil(lambda: len(run.samples) == 2, timeout=10_000)
    drawn = viewer.layers["strokes · two"].data == 2
    qtbot.waitUntil(lambda: np.array_equal(run.samples[1].target == 1, drawn), timeout=10_000)  # to its last point
    assert [sample.name for sample in run.samples] == ["one", "two"] and drawn.sum() > 10
    assert not widget.progress.note()
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    close(viewer, widget)


def test_an_image_without_strokes_that_is_closed_while_it_trains_is_not_missed(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = learning_from_one_of_two(viewer, tmp_path / "both", qtbot)
    viewer.layers.remove("two")
    QTest.qWait(500)
    assert not widget.progress.note() and widget.session.state == "training"
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    close(viewer, widget)


def test_an_image_beside_that_is_too_large_or_cannot_be_read_leaves_the_others(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_scribblemamba._widget.ROOM", 2000)  # bytes: too few for two, which comes first
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both", second=False)
    viewer.add_image(disc_image()[:16, :16], name="three")
    widget.gallery.list()
    widget.list._add.click()
    jump(viewer, widget, 0)
    _, samples, _ = widget._drawn_samples()
    assert [sample.name for sample in widget._beside(samples).values()] == ["three"]

    def gone(*_: object, **__: object) -> None:
        raise OSError("the drive is gone")

    monkeypatch.setattr("napari_scribblemamba._layers.sample_from_layers", gone)
    assert not widget._beside(samples)
    close(viewer, widget)


def test_a_prediction_of_an_image_put_aside_shows_with_it(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    widget._watch([viewer.layers["one"], viewer.layers["two"]], ("background", "object"))
    ones = {"unet": np.ones((48, 48), np.uint8), "ensemble": np.ones((48, 48), np.uint8)}
    widget.session.predicted.emit(Prediction("one", None, ones, "x"))
    assert not viewer.layers["ensemble · one"].visible
    widget.view.blink()  # off
    jump(viewer, widget, 0)
    assert not viewer.layers["ensemble · one"].visible
    widget.view.blink()
    assert viewer.layers["ensemble · one"].visible and not viewer.layers["unet · one"].visible
    close(viewer, widget)


def test_what_is_said_of_an_overlay_and_of_objects_is_of_the_image_in_hand(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    widget._watch([viewer.layers["one"], viewer.layers["two"]], ("background", "object"))
    for name, source in (("two", "ensemble of 3 networks"), ("one", "propagated strokes")):
        labels = {"ensemble": (disc_image() > 100).astype(np.uint8)}
        widget.session.predicted.emit(Prediction(name, None, labels, source))
    widget.overlays.complete |= {"one", "two"}
    widget.results.objectsRequested.emit()
    qtbot.waitUntil(lambda: "1 object;" in widget.results.found(), timeout=30_000)
    assert widget.progress.shown() == "Overlay: <b>ensemble of 3 networks</b>"
    jump(viewer, widget, 0)
    assert widget.progress.shown() == "Overlay: <b>propagated strokes</b>"
    assert not widget.results.found() and not widget.results._table.isEnabled()
    jump(viewer, widget, 1)
    assert "1 object;" in widget.results.found() and widget.results._table.isEnabled()
    viewer.add_image(np.eye(9), name="a third")
    widget.layers._image.setValue(viewer.layers["a third"])
    assert not widget.progress.shown() and not widget.results._needing[0].isEnabled()
    close(viewer, widget)


def test_the_list_tells_and_edits_which_image_is_in_hand(qtbot: QtBot) -> None:
    panel = ImagesPanel()
    qtbot.addWidget(panel)
    panel.setImages([Row("a", "heart", "3 slices", "there"), Row("b", "liver", "", "missing")])
    panel.setValue("b")
    assert panel.value() == "b" and not panel._find.isHidden() and panel._remove.isEnabled()
    assert panel._list.topLevelItem(1).text(1) == "⚠ missing · nothing drawn"
    with qtbot.waitSignal(panel.valueChanged):
        panel.step(1)  # from the last to the first
    assert panel.value() == "a" and panel._find.isHidden()
    assert panel.title() == "2 images, 1 with strokes"
    panel.set_to_add(["spleen", "kidney"])
    assert panel._add.text() == "Add 2 opened"


def test_a_class_drawn_on_another_image_is_not_called_missing(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = two_drawn(viewer, tmp_path / "both")
    strokes = viewer.layers["strokes · two"]
    strokes.data_setitem(np.nonzero(strokes.data == 2), 0)
    qtbot.waitUntil(lambda: not widget.advisor.thinking and not widget.drawing._tell._timer.isActive(), timeout=20_000)
    said = [widget.guide._coach.item(i).text() for i in range(widget.guide._coach.count())]
    assert not any("object, or remove the class" in text for text in said)
    beside = widget.advisor.strokes_beside(viewer.layers["two"], ("background", "object"))
    assert [sample.name for sample in beside] == ["one"]
    close(viewer, widget)
