"""Scribble here next, in the session and in the window: doubt makes places, N goes there, strokes answer them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from fakes import CLASSES, CONFIG, FakeModel, FakeProgress, FakeRun, disc_sample, on_the_spot
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from test_widget import draw, press, stack_in_a_window

from napari_scribblemamba._guide import Guide, held_out
from napari_scribblemamba._predictor import SlicePredictor
from napari_scribblemamba._session import Session
from trainer import IGNORE

SPOT = (slice(22, 30), slice(4, 12))  # where the networks disagree, in slice 2


def opinions(z: int) -> dict[str, np.ndarray]:
    """Both networks call all of it background, one of them the spot an object."""
    one = np.zeros((2, 32, 32), np.float32)
    one[0] = 1
    other = one.copy()
    if z == 2:
        other[(slice(None), *SPOT)] = np.array([0, 1])[:, None, None]
    return {"unet": one, "swinunet": other, "ensemble": (one + other) / 2}


def test_the_place_of_doubt_goes_once_it_is_drawn_on() -> None:
    guide, sample = Guide(), disc_sample(depth=4)
    for z in range(4):
        guide.see(sample, z, opinions(z), opinions(z)["ensemble"])
    [place] = guide.guidance([sample]).places
    assert place.image == "disc" and place.slice == 2
    assert 22 <= place.row < 30 and 4 <= place.column < 12
    sample.target[2, place.row, place.column] = 0
    assert guide.guidance([sample]).places == ()


def test_places_are_of_the_doubt_and_the_classes_on_the_screen() -> None:
    """What the networks still divide on, propagated strokes may have settled, and the reverse."""
    guide, sample = Guide(), disc_sample(depth=4)
    settled = np.zeros((2, 32, 32), np.float32)
    settled[0] = 1
    guide.see(sample, 2, opinions(2), settled)
    assert guide.guidance([sample]).places == ()
    shown = settled.copy()
    shown[:, 4:12, 22:30] = np.array([0.4, 0.6])[:, None, None]
    guide.see(sample, 2, opinions(2), shown)
    [place] = guide.guidance([sample]).places
    assert 4 <= place.row < 12 and 22 <= place.column < 30 and place.classes == 2


def test_held_out_strokes_judge() -> None:
    whole = disc_sample(depth=6)
    [sample], held = held_out([whole])
    kept, judges = sample.target != IGNORE, held["disc"] != IGNORE
    assert judges.any() and not (kept & judges).any() and np.array_equal(kept | judges, whole.target != IGNORE)
    guide = Guide(held)
    for z in range(6):
        right = np.stack([whole.target[z] != 1, whole.target[z] == 1]).astype(np.float32)
        wrong = right[::-1]
        guide.see(sample, z, {"unet": wrong, "swinunet": right, "ensemble": right}, right)
    verdict = guide.guidance([sample]).verdict
    assert verdict.mean["swinunet"].f1 == 1 and verdict.mean["unet"].f1 == 0 and verdict.best == "swinunet"
    assert Guide().guidance([sample]).verdict is None


def test_strokes_that_judge_another_part_of_a_stack_wait() -> None:
    sample = disc_sample(depth=4)
    guide = Guide({"disc": np.zeros((6, 32, 32), np.uint8)})  # more slices were drawn on while the networks looked
    guide.see(sample, 2, opinions(2), opinions(2)["ensemble"])
    [place] = guide.guidance([sample]).places
    assert place.slice == 2 and guide.guidance([sample]).verdict is None


class Divided(FakeModel):
    def item_probabilities(self, prepared: np.ndarray, z: int) -> dict[str, np.ndarray]:
        return opinions(z)


def test_the_session_tells_while_it_trains_and_after() -> None:
    class Run(FakeRun):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.model = self.start = Divided()  # which has learnt before: nobody asks what looks like the strokes

        def __iter__(self) -> Iterator[FakeProgress]:
            for progress in super().__iter__():
                self.teachers.clear()  # so that the networks alone are shown
                yield progress

    session, said = Session(on_the_spot, Run), []
    session.guided.connect(said.append)
    session.train([disc_sample(depth=4)], CLASSES, CONFIG)
    assert [place.slice for place in said[-1].places] == [2]


def test_a_prediction_says_where_the_networks_disagree() -> None:
    class Alone(Divided):
        names = ("unet",)

        def item_probabilities(self, prepared: np.ndarray, z: int) -> dict[str, np.ndarray]:
            return {name: opinions(z)[name] for name in ("unet", "ensemble")}

    predict = SlicePredictor(Divided(), {}, {})
    apart = [predict(disc_sample(depth=4), z).disagreement for z in (1, 2)]
    expected = np.zeros((32, 32))
    expected[SPOT] = 1  # two networks, sure of different things
    assert not apart[0].any() and np.allclose(apart[1], expected)
    assert SlicePredictor(Alone(), {}, {})(disc_sample(depth=4), 2).disagreement is None


def test_strokes_of_one_image_are_not_taken_for_those_of_another_of_its_name() -> None:
    """Two images that napari calls "image": the second has its disc elsewhere."""
    first = disc_sample(name="image")
    other = replace(first, image=np.roll(first.image, 8, -1), target=np.full_like(first.target, IGNORE))
    teachers = {"image": np.stack([first.image[0] < 100, first.image[0] > 100]).astype(np.float16)}
    same = replace(other, image=first.image.copy())  # made anew from the same layer
    predict = SlicePredictor(FakeModel(), teachers, {"image": None}, [first])
    assert "propagated strokes" in predict(same, None).source
    predict = SlicePredictor(FakeModel(), teachers, {"image": None}, [first])
    prediction = predict(other, None)
    assert prediction.source == "ensemble of 2 networks"
    assert np.array_equal(prediction.labels["ensemble"], other.image[0] > 100)


def test_a_layer_shows_where_the_networks_disagree(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    assert not widget.view._disagreement.isEnabled()
    widget.session._set_model(Spotted())
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    assert "disagreement · stack" not in viewer.layers  # only who asks has it
    widget.view._disagreement.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    layer = viewer.layers["disagreement · stack"]
    assert layer.visible and [z for z in range(6) if layer.data[z].any()] == [2]
    assert np.allclose(layer.data[(2, *SPOT)], 1)
    assert widget.layers._image.count() == 1  # nor is it offered as an image to draw on
    widget.view._disagreement.click()
    assert [each.name for each in viewer.layers].count("disagreement · stack") == 1
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)


class Spotted(Divided):
    """Of images as large as those in the window."""

    def item_probabilities(self, prepared: np.ndarray, z: int) -> dict[str, np.ndarray]:
        return {name: np.pad(P, ((0, 0), (0, 16), (0, 16)), mode="edge") for name, P in opinions(z).items()}


def test_a_start_is_handed_to_the_run() -> None:
    got, model = [], FakeModel()

    def make_run(samples: object, config: object, classes: object, start: object) -> FakeRun:
        got.append(start)
        return FakeRun(samples, config, classes)

    Session(on_the_spot, make_run).train([disc_sample()], CLASSES, CONFIG, start=model)
    assert got == [model]


def test_n_goes_to_the_next_place_and_the_coach_speaks(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    from trainer.disagreement import Place

    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    qtbot.waitUntil(lambda: widget.guide._coach.count() == 1, timeout=20_000)
    assert "every class" in widget.guide._coach.item(0).text()
    assert "1 hint" in widget._guide_line._line.text()
    viewer.dims.set_point(0, 20)
    draw(viewer, (10, 8), (10, 40))
    qtbot.waitUntil(lambda: widget.guide._coach.count() == 2, timeout=20_000)
    assert "stroke of background" in widget.guide._coach.item(0).text()
    assert "stroke of LV" in widget.guide._coach.item(1).text()

    widget.guide.setPlaces([Place("stack", 4, 30, 20, 9.0), Place("stack", 1, 5, 6, 3.0)])
    viewer.window._qt_viewer.canvas.native.setFocus()
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    for z, center in ((4, (60, 40)), (1, (10, 12)), (4, (60, 40))):
        press(viewer, Qt.Key.Key_N)
        assert round(viewer.dims.point[0] / 10) == z
        assert np.allclose(camera.center[-2:], center)
    viewer.reset_view()
    draw(viewer, (30, 10), (30, 30))
    qtbot.waitUntil(lambda: widget.guide._list.count() == 1, timeout=5000)  # that place is answered
    qtbot.waitUntil(lambda: not widget.advisor.thinking, timeout=20_000)


def test_places_of_an_image_that_was_renamed_are_gone_to_and_answered(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    from trainer.disagreement import Place

    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    image, strokes = widget.layers.value()
    widget._watch([image], ("background", "LV", "RV"))
    widget.guide.setPlaces([Place("stack", 4, 30, 20, 9.0), Place("stack", 1, 5, 6, 3.0)])
    image.name = "heart"
    widget.guide.next()
    assert round(viewer.dims.point[0] / 10) == 4
    strokes.data_setitem((np.full(20, 4), np.full(20, 30), np.arange(10, 30)), 1)
    qtbot.waitUntil(lambda: widget.guide._list.count() == 1, timeout=20_000)
    qtbot.waitUntil(lambda: not widget.advisor.thinking, timeout=20_000)


def test_the_panel_holds_out_and_starts_as_ticked(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    strokes, asked = widget.layers.value()[1], []
    for z in range(6):
        strokes.data[z, 5, 5:20], strokes.data[z, 20, 5:20], strokes.data[z, 40, 5:20] = 1, 2, 3
    widget.session.train = lambda *args: asked.append(args)
    widget.button.click()
    widget.session._set_model(FakeModel())
    assert not widget.models._start.isHidden()
    widget.models._start.click()
    widget.guide._judge.click()
    widget.button.click()
    widget.guide.allRequested.emit()
    (plain, _, _, nothing, fresh, _), (fewer, _, _, held, start, _), _ = asked
    assert (nothing, fresh) == (None, None)
    assert start is widget.session.model
    assert np.array_equal(np.minimum(fewer[0].target, held["stack"]), plain[0].target)
    assert (held["stack"] != IGNORE).any()
