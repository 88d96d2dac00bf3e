"""Images that are not to be loaded whole, and volumes through time, in the real viewer."""

from collections.abc import Callable

import numpy as np
import pytest
from fakes import FakeRun, on_the_spot
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils import resize_dask_cache
from pytestqt.qtbot import QtBot

from benchmarks import huge
from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._layers import sample_from_layers
from napari_scribblemamba._notes import default_brushes
from napari_scribblemamba._session import Session
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import run_in_background
from trainer import IGNORE, Config
from trainer.stack import Stack

CLASSES = ("background", "disc")
TINY = Config(
    iterations=2, networks=("unet",), objective="supervised", patch=(32, 32), batch=2, device="cpu", dtype="float32"
)


class Lazy:
    """Slices with a disc that are made when they are asked for; who asks for all of them at once fails."""

    shape, dtype, ndim, size = (40, 256, 256), np.dtype(np.uint8), 3, 40 * 256 * 256

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, index: object) -> np.ndarray:
        z, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(z, slice):  # napari looks at one so, to see whether it is in colour
            numbers = range(40)[z]
            if len(numbers) > 1:
                raise AssertionError(f"slices {z} were read at once")
            return self[(numbers[0], *rest)][None]
        self.read.append(int(z))
        y, x = np.ogrid[:256, :256]
        return (40 + 150 * (np.hypot(y - 100, x - 120) < 30) + (x + y) % 7).astype(np.uint8)[tuple(rest)]

    def __array__(self, *_: object) -> np.ndarray:
        raise AssertionError("all of the volume was read")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a million voxels counts as large."""
    monkeypatch.setattr(_layers, "LARGE", 2**20)


def docked(viewer: Viewer, session: Session) -> ScribbleMamba:
    widget = ScribbleMamba(viewer, session)
    viewer.window.add_dock_widget(widget, name="ScribbleMamba")
    return widget


def draw(strokes: Labels, place: tuple[int, ...], row: int, columns: range, label: int) -> None:
    """As a brush that paints a row of a slice."""
    here = tuple(np.full(len(columns), i) for i in (*place, row))
    strokes.data_setitem((*here, np.array(columns)), label)


def test_a_large_volume_is_never_read_whole(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, large: None
) -> None:
    viewer, pixels = make_napari_viewer(), Lazy()
    image = viewer.add_image(pixels, name="huge", contrast_limits=(0, 255))
    widget = docked(viewer, Session(run_in_background))
    widget.layers._new.click()
    strokes = widget.layers.value()[1]
    draw(strokes, (10,), 100, range(105, 135), 2)
    draw(strokes, (10,), 60, range(100, 140), 1)
    widget.drawing.recount()
    _layers.show_slice(viewer, image, 25)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.model is not None and widget.session.state == "idle", timeout=120_000)
    own, spread = set(range(7, 14)), {4, 9, 13, 17, 22, 26, 30, 35}
    assert set(pixels.read) <= {*own, *spread, 0, 19, 20, 25, 39}  # napari's own: what it opens with
    predicted = {z for name, z in widget.overlays.predicted}
    assert predicted == {*own, 25}  # around the strokes, and the slice in view

    _layers.show_slice(viewer, image, 30)
    qtbot.waitUntil(
        lambda: ("huge", 30) in widget.overlays.predicted and widget.session.state == "idle", timeout=60_000
    )
    assert 31 not in {z for _, z in widget.overlays.predicted}  # not before anybody asks for all

    widget.session.visible = ("huge", 30)
    widget.models._predict.click()
    qtbot.waitUntil(lambda: ("huge", 33) in widget.overlays.predicted, timeout=60_000)
    widget.session.stop()
    assert widget.session.state == "idle"
    assert ("huge", 0) not in widget.overlays.predicted  # the nearest come first

    widget.session.state = "saving"  # as if something else were under way
    _layers.show_slice(viewer, image, 2)
    qtbot.wait(400)
    assert ("huge", 2) not in widget.overlays.predicted
    widget.session._set_state("idle")
    qtbot.waitUntil(lambda: ("huge", 2) in widget.overlays.predicted, timeout=60_000)

    ensemble = _layers.prediction_layers(viewer, image)["ensemble"].data
    assert ensemble.shape == (40, 256, 256)


def test_the_part_of_a_large_volume_is_around_its_strokes(large: None) -> None:
    image, strokes = Image(Lazy(), name="huge", contrast_limits=(0, 255)), Labels(np.zeros((40, 256, 256), np.uint8))
    draw(strokes, (10,), 60, range(100, 140), 1)
    _notes.mark_absent(strokes, 1, 30)
    sample = sample_from_layers(image, strokes, CLASSES)
    assert isinstance(sample.image, Stack)
    assert sample.part.slices == (*range(7, 14), *range(27, 34))
    assert sample.absent == ((10, 1),)  # slice 30 is the eleventh of the part
    assert (sample.target != IGNORE).sum() == 40
    assert (sample.target[3, 60, 100:140] == 0).all()


def test_napari_keeps_few_slices_of_a_large_volume(monkeypatch: pytest.MonkeyPatch, large: None) -> None:
    cache = resize_dask_cache().cache
    monkeypatch.setattr(cache, "available_bytes", 2**33)  # and back at the end
    _layers.keep_few_slices(Image(np.zeros((4, 8, 8))))
    assert cache.available_bytes == 2**33
    _layers.keep_few_slices(Image(Lazy(), contrast_limits=(0, 255)))
    assert cache.available_bytes == _layers.KEPT
    cache.available_bytes = 2**20  # who wants still fewer gets that
    _layers.keep_few_slices(Image(Lazy(), contrast_limits=(0, 255)))
    assert cache.available_bytes == 2**20


def test_dense_labels_of_a_large_volume_are_not_read(large: None) -> None:
    image = Image(Lazy(), name="huge", contrast_limits=(0, 255))
    labels = Labels(np.zeros((40, 256, 256), np.uint8), name="dense")
    with pytest.raises(ValueError, match="'dense' is too large to be taken at once"):
        _layers.strokes_from_labels(ViewerModel(), image, labels)


def test_a_multiscale_volume_is_read_at_its_finest_level(large: None) -> None:
    image = Image([Lazy(), np.zeros((40, 128, 128), np.uint8)], multiscale=True, contrast_limits=(0, 255))
    sample = sample_from_layers(image, None, CLASSES)
    assert sample.image.shape == (1, 40, 256, 256)
    assert sample.image.plane(3).max() > 180


def film() -> np.ndarray:
    """Three volumes of four slices of 32 x 32, a disc in each; (T, Z, Y, X)."""
    y, x = np.indices((32, 32))
    return np.tile(np.where(np.hypot(y - 16, x - 16) < 8, 200, 30).astype(np.float32), (3, 4, 1, 1))


def test_volumes_through_time_are_drawn_on_trained_and_predicted(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    image = viewer.add_image(film(), name="film", axis_labels=("t", "z", "y", "x"))
    widget = docked(viewer, Session(on_the_spot, FakeRun))
    widget.layers._new.click()
    strokes = widget.layers.value()[1]
    assert strokes.data.shape == (3, 4, 32, 32)
    for place in ((1, 2), (2, 0)):
        draw(strokes, place, 16, range(12, 20), 2)
        draw(strokes, place, 2, range(4, 28), 1)
    widget.drawing.recount()
    widget.drawing.tally.settle()
    widget.paintbox.show_tally()
    assert [widget.slices._list.itemText(i) for i in range(2)] == ["t 1 · z 2 · 32 px", "t 2 · z 0 · 32 px"]

    _layers.show_slice(viewer, strokes, 0)
    widget.slices.on()
    assert viewer.dims.current_step[:2] == (1, 2)
    widget.slices.on()
    assert viewer.dims.current_step[:2] == (2, 0)

    widget.classes.setCurrent(1)
    _layers.show_slice(viewer, strokes, 5)
    widget.paintbox.toggle_absent()
    assert _notes.absences(strokes) == ((5, 1),)
    assert widget.recorder._held.journal.absent == {((1, 1), 1)}

    widget.settings.setValue(Config(iterations=2, networks=("unet", "swinunet")))
    widget.button.click()
    [sample] = widget.session.samples
    assert sample.target.shape == (12, 32, 32)
    assert [list(run) for run in sample.part.runs] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    seen = _layers.prediction_layers(viewer, image)["unet"].data
    assert seen.shape == (3, 4, 32, 32)
    assert ((seen == 2) == (film() > 100)).all()


def test_spacing_is_that_of_the_last_three_axes() -> None:
    image = Image(film(), scale=(60, 5, 0.5, 0.5), units=("s", "mm", "mm", "mm"))
    assert sample_from_layers(image, None, CLASSES).spacing == (5, 0.5, 0.5)


def test_colour_through_a_stack() -> None:
    pixels = np.zeros((4, 16, 20, 3), np.uint8)
    pixels[2, ..., 1] = 7
    sample = sample_from_layers(Image(pixels, rgb=True), Labels(np.zeros((4, 16, 20), np.uint8)), CLASSES)
    assert sample.image.shape == (3, 4, 16, 20)
    assert sample.image[1, 2].min() == 7


def test_colour_through_a_large_stack(large: None) -> None:
    pixels = np.zeros((8, 256, 256, 3), np.uint8)
    pixels[2, ..., 1] = 7
    stack = sample_from_layers(Image(pixels, rgb=True), None, CLASSES).image
    assert stack.shape == (3, 8, 256, 256)
    assert stack.plane(2).max((1, 2)).tolist() == [0, 7, 0]


def test_classes_of_a_series_can_be_reordered() -> None:
    strokes = Labels(np.zeros((3, 4, 32, 32), np.uint8))
    _notes.set_brushes(strokes, default_brushes(CLASSES))
    draw(strokes, (2, 1), 5, range(3), 2)
    draw(strokes, (0, 3), 5, range(3), 1)
    _layers.renumber(strokes, [1, 0])
    assert strokes.data[2, 1, 5, :3].tolist() == [1, 1, 1]
    assert strokes.data[0, 3, 5, :3].tolist() == [2, 2, 2]
    assert strokes.data.sum() == 9


def test_accepting_a_prediction_of_a_time_point() -> None:
    strokes, prediction = (Labels(np.zeros((3, 4, 8, 8), np.uint8)) for _ in range(2))
    prediction.data[1, 2, 3, 3] = 2
    assert _layers.accept(strokes, prediction, 6) == 64
    assert strokes.data[1, 2, 3, 3] == 2
    assert (strokes.data > 0).sum() == 64


def test_the_benchmark_judges_what_a_large_volume_takes_beyond_a_small_one(capsys: pytest.CaptureFixture) -> None:
    def visit(grown: int, late: float) -> dict:
        phases = ("engine imported", huge.DRAWING, huge.TRAINING, huge.MOVING, huge.ALL)
        late_ms = dict.fromkeys(("p50", "p99", "max"), late)
        rows = [{"phase": p, "growth_mib": grown, "peak_mib": grown, "seconds": 1, "late_ms": late_ms} for p in phases]
        return {"volume": [200, 2000, 2000], "phases": rows}

    found = huge.summary(visit(grown=50, late=10), visit(grown=20, late=90))
    assert found["growth_mib"] == 3 * 50 - 3 * 20  # neither the engine nor what is predicted when asked for
    assert found["drawing_p99_ms"] == 10
    assert not huge.report(found)
    assert huge.report(huge.summary(visit(grown=999, late=10), visit(grown=20, late=10)))
    assert "beyond the bars: growth_mib" in capsys.readouterr().out
