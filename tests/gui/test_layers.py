"""Between napari's layers and the engine's arrays: values, axes, sizes and colours, without a window."""

import json

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._layers import View, sample_from_layers
from napari_scribblemamba._notes import default_brushes
from trainer.sample import IGNORE

CLASSES = ("background", "RV", "LV")
BRUSHES = default_brushes(CLASSES)


def viewer_with(image: Image) -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_layer(image)
    return viewer


@pytest.mark.parametrize(
    ("shape", "rgb", "expected"),
    [
        ((6, 7), False, (1, 6, 7)),
        ((6, 7, 3), True, (3, 6, 7)),
        ((6, 7, 4), True, (3, 6, 7)),  # alpha goes
        ((5, 6, 7), False, (1, 5, 6, 7)),
        ((5, 6, 7, 3), True, (3, 5, 6, 7)),
        ((3, 6, 3), False, (1, 3, 6, 3)),  # three columns are no colours
    ],
)
def test_images_become_channels_first(shape: tuple, rgb: bool, expected: tuple) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    sample = sample_from_layers(Image(pixels, rgb=rgb, name="x"), None, CLASSES)
    assert (sample.image.shape, sample.image.dtype, sample.name) == (expected, np.float32, "x")
    assert sample.image[0].ravel()[0] == 0
    assert sample.image[-1].ravel()[0] == (2 if rgb else 0)  # the blue of the first pixel
    assert sample.target.shape == expected[1:]
    assert (sample.target == IGNORE).all()


def test_a_painted_value_is_one_above_its_class() -> None:
    strokes = Labels(np.array([[0, 1], [2, 3]]))
    sample = sample_from_layers(Image(np.eye(2)), strokes, CLASSES)
    assert sample.target.tolist() == [[IGNORE, 0], [1, 2]]
    assert sample.target.dtype == np.uint8


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [
        ((10, 1.5, 1.5), ("mm", "mm", "mm"), (10, 1.5, 1.5)),
        ((2, 0.5, 0.5), ("um", "um", "um"), (2e-3, 5e-4, 5e-4)),
        ((3, 1, 1), None, (3, 1, 1)),  # pixels: as they are
    ],
)
def test_spacing_is_in_mm(scale: tuple, units: tuple | None, expected: tuple) -> None:
    image = Image(np.zeros((2, 3, 4)), scale=scale, units=units)
    assert _layers.spacing_of(image) == pytest.approx(expected)


def test_strokes_that_do_not_fit_are_refused() -> None:
    image = Image(np.eye(4), name="heart")
    with pytest.raises(ValueError, match=r"\(3, 3\), the image 'heart' \(4, 4\)"):
        sample_from_layers(image, Labels(np.zeros((3, 3), int)), CLASSES)
    with pytest.raises(ValueError, match=r"label 4 .* no class, there are 3"):
        sample_from_layers(image, Labels(np.full((4, 4), 4)), CLASSES)
    with pytest.raises(ValueError, match="'film' has channels along one of its axes"):
        sample_from_layers(Image(np.zeros((2, 2, 4, 4)), name="film", axis_labels=("c", "z", "y", "x")), None, CLASSES)


def test_new_strokes_lie_on_the_image_and_carry_their_classes() -> None:
    image = Image(
        np.zeros((4, 30, 40, 3), np.uint8), rgb=True, scale=(5, 2, 2), translate=(1, 2, 3), units="mm", name="film"
    )
    viewer = viewer_with(image)
    strokes = _layers.new_scribble_layer(viewer, image, BRUSHES)
    assert strokes.data.shape == (4, 30, 40)
    assert (strokes.scale == image.scale).all()
    assert (strokes.translate == image.translate).all()
    assert strokes.units == image.units
    assert _notes.brushes_of(strokes) == BRUSHES
    assert (strokes.mode, strokes.selected_label) == ("paint", 2)
    assert viewer.layers.selection.active is strokes


def test_classes_named_by_a_sample_get_default_colours() -> None:
    strokes = Labels(np.zeros((2, 2), int), metadata={"scribblemamba": {"classes": list(CLASSES)}})
    assert _notes.brushes_of(strokes) == BRUSHES
    assert _notes.brushes_of(Labels(np.zeros((2, 2), int))) is None


def test_the_chosen_brush_size_stays() -> None:
    strokes = Labels(np.zeros((400, 400), int))
    _notes.set_brushes(strokes, BRUSHES)
    assert strokes.brush_size == 4
    strokes.brush_size = 7
    _notes.set_brushes(strokes, BRUSHES[:2])
    _layers.start_painting(strokes, 1)
    assert strokes.brush_size == 7


def test_background_is_grey_unpainted_transparent_and_strangers_white() -> None:
    strokes = Labels(np.zeros((2, 2), int))
    _notes.set_brushes(strokes, BRUSHES)
    assert strokes.colormap.map(0)[3] == 0
    assert np.allclose(strokes.colormap.map(1), [0x7D / 255, 0x85 / 255, 0x90 / 255, 1])
    assert np.allclose(strokes.colormap.map(2), [0xE6 / 255, 0x9F / 255, 0, 1])
    assert np.allclose(strokes.colormap.map(9), 1)


def test_predictions_wear_the_brushes_colours_over_a_clear_background() -> None:
    image = Image(np.zeros((3, 2, 2)), scale=(5, 2, 2), units="mm", name="heart")
    viewer = viewer_with(image)
    strokes = _layers.new_scribble_layer(viewer, image, BRUSHES)
    labels = {name: np.array([[0, 1], [2, 0]], np.uint8) for name in ("unet", "ensemble")}
    _layers.show_prediction(viewer, image, labels, 1, BRUSHES)
    ensemble = _layers.prediction_layers(viewer, image)["ensemble"]
    assert ensemble.data[1].tolist() == [[0, 2], [3, 0]]
    assert ensemble.data[[0, 2]].sum() == 0
    assert np.allclose(ensemble.colormap.map(2), strokes.colormap.map(2))
    assert (ensemble.name, tuple(ensemble.scale), ensemble.units) == ("ensemble · heart", (5, 2, 2), image.units)
    assert [(layer.name, layer.visible) for layer in viewer.layers] == [
        ("heart", True),
        ("ensemble · heart", True),
        ("unet · heart", False),
        ("strokes · heart", True),
    ]
    assert viewer.layers.selection.active is strokes  # the brush stays in hand
    assert bool(ensemble.locked)
    assert not ensemble.editable


def test_prediction_layers_are_used_again() -> None:
    image = Image(np.zeros((4, 4)), name="x")
    viewer = viewer_with(image)
    for value in (1, 2):
        _layers.show_prediction(viewer, image, {"unet": np.full((4, 4), value, np.uint8)}, None, BRUSHES)
        _layers.prediction_layers(viewer, image)["unet"].name = "my favourite"
    assert len(viewer.layers) == 2
    assert (viewer.layers["my favourite"].data == 3).all()
    _layers.clear_predictions(viewer, image)
    assert (viewer.layers["my favourite"].data == 0).all()


def predicted() -> tuple[ViewerModel, Image]:
    """A viewer with a stack of two slices, and predictions of two networks that differ in one pixel of the second."""
    image = Image(np.zeros((2, 2, 2)), scale=(5, 2, 2), name="heart")
    viewer = viewer_with(image)
    one, other = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    one[1, 0, 1] = 2
    _layers.show_prediction(viewer, image, {"unet": one, "ensemble": other}, None, BRUSHES)
    return viewer, image


def test_the_difference_of_two_networks_follows_their_predictions() -> None:
    viewer, image = predicted()
    difference = _layers.add_difference_layer(viewer, image, "unet", "ensemble")
    assert np.argwhere(difference.data).tolist() == [[1, 0, 1]]
    assert (difference.name, tuple(difference.scale)) == ("unet – ensemble · heart", (5, 2, 2))
    _layers.show_prediction(viewer, image, {"ensemble": np.array([[0, 0], [1, 0]])}, 0, BRUSHES)
    assert np.argwhere(difference.data).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert _layers.add_difference_layer(viewer, image, "unet", "ensemble") is difference
    assert not _layers.is_scribble_layer(difference)
    assert [layer.name for layer in viewer.layers][-1] == difference.name  # not hidden under the predictions
    with pytest.raises(ValueError, match="no prediction of vmunet for 'heart'"):
        _layers.add_difference_layer(viewer, image, "vmunet", "unet")
    _layers.clear_predictions(viewer, image)
    assert not difference.data.any()


def test_a_probability_is_an_image_that_is_no_source() -> None:
    viewer, image = predicted()
    layer = _layers.probability_layer(viewer, image, "unet", BRUSHES[1])
    assert layer.data.shape == (2, 2, 2) and layer.contrast_limits == [0, 1]
    assert layer.name == "P(RV) · unet · heart"
    assert np.allclose(layer.colormap.map(1.0), [0xE6 / 255, 0x9F / 255, 0, 1])
    assert _layers.probability_layer(viewer, image, "unet", BRUSHES[1]) is layer
    assert _layers.is_source_image(image) and not _layers.is_source_image(layer)


def test_a_pyramid_of_labels_is_no_scribble_layer() -> None:
    assert not _layers.is_scribble_layer(Labels([np.zeros((64, 64), np.uint8), np.zeros((32, 32), np.uint8)]))


def test_a_box_over_oblique_slices_is_refused() -> None:
    sheared = np.eye(4)
    sheared[2, 0] = 0.5  # columns move from slice to slice
    with pytest.raises(ValueError, match="lie oblique"):
        _layers.plane_affine(Image(np.zeros((3, 4, 5)), affine=sheared))
    image = Image(np.zeros((3, 4, 5)), scale=(9, 2, 3), translate=(1, 7, 8))
    assert np.allclose(_layers.plane_affine(image), [[2, 0, 7], [0, 3, 8], [0, 0, 1]])


def test_disagreement_is_written_where_it_is_shown() -> None:
    viewer, image = predicted()
    values = np.array([[0, 0.5], [1, 0]], np.float32)
    _layers.show_disagreement(viewer, image, values, 1)
    assert "disagreement · heart" not in viewer.layers
    layer = _layers.disagreement_layer(viewer, image)
    _layers.show_disagreement(viewer, image, values, 1)
    assert np.array_equal(layer.data, [np.zeros((2, 2)), values])
    assert _layers.disagreement_layer(viewer, image) is layer and not _layers.is_source_image(layer)
    _layers.clear_predictions(viewer, image)
    assert not layer.data.any()


def test_one_view_for_all_predictions() -> None:
    viewer, image = predicted()
    unet, ensemble = (_layers.prediction_layers(viewer, image)[name] for name in ("unet", "ensemble"))
    _layers.set_view(viewer, image, View(contour=True, opacity=0.8))
    assert [(layer.contour, layer.opacity) for layer in (unet, ensemble)] == [(1, 0.8)] * 2
    assert (unet.visible, ensemble.visible) == (False, True)
    for _ in range(2):  # asked twice: still knows what was visible
        _layers.set_view(viewer, image, View(hidden=True))
        assert (unet.visible, ensemble.visible, ensemble.contour) == (False, False, 0)
    _layers.set_view(viewer, image, View())
    assert (unet.visible, ensemble.visible) == (False, True)


def test_a_refresh_shows_what_was_written_in_place() -> None:
    image = Image(np.zeros((2, 4, 4)), name="x")
    viewer = viewer_with(image)
    viewer.dims.set_point(0, 1)
    for value in (0, 2):
        _layers.show_prediction(viewer, image, {"ensemble": np.full((4, 4), value, np.uint8)}, 1, BRUSHES)
    layer = _layers.prediction_layers(viewer, image)["ensemble"]
    layer.refresh()
    assert layer.get_value((1, 2, 2), world=True) == 3


def test_renumbered_classes_take_their_strokes_and_absences_along() -> None:
    strokes = Labels(np.array([[[0, 1, 2, 3, 4]], [[0, 0, 0, 0, 9]]]))
    strokes.mode = "paint"
    _notes.mark_absent(strokes, 1, 1)
    _notes.mark_absent(strokes, 3, 0)
    _layers.renumber(strokes, [0, -1, 2, 1])
    assert strokes.data.tolist() == [[[0, 1, 0, 3, 2]], [[0, 0, 0, 0, 9]]]  # 9 is no class and stays
    assert _notes.absences(strokes) == ((0, 1),)
    strokes.undo()  # would give a class the strokes of another
    assert strokes.data[0].tolist() == [[0, 1, 0, 3, 2]]
    assert strokes.mode == "paint"


def test_marks_of_absence_are_kept_in_the_metadata() -> None:
    strokes = Labels(np.zeros((4, 3, 3), np.uint8))
    for z in (3, 0):
        _notes.mark_absent(strokes, 2, z)
    _notes.mark_absent(strokes, 1, 0)
    _notes.set_brushes(strokes, BRUSHES)  # a new colour takes nothing away
    assert strokes.metadata["scribblemamba"]["absent"] == {2: [0, 3], 1: [0]}
    assert _notes.absences(strokes) == ((0, 1), (0, 2), (3, 2))
    assert sample_from_layers(Image(np.zeros((4, 3, 3))), strokes, CLASSES).absent == ((0, 1), (0, 2), (3, 2))
    strokes.metadata = json.loads(json.dumps(strokes.metadata))
    _notes.mark_absent(strokes, 2, 0, absent=False)
    _notes.mark_absent(strokes, 1, 0, absent=False)
    assert _notes.absences(strokes) == ((3, 2),)
    with pytest.raises(ValueError, match="background is never absent"):
        _notes.mark_absent(strokes, 0, 1)


def test_images_of_one_shape_are_channels() -> None:
    red, green = (Image(np.full((2, 3, 4), value), name=str(value)) for value in (1, 2))
    sample = sample_from_layers(red, None, CLASSES, [green])
    assert sample.image.shape == (2, 2, 3, 4)
    assert sample.image[:, 0, 0, 0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="channels are of one shape"):
        sample_from_layers(red, None, CLASSES, [Image(np.eye(4))])


def test_a_slice_is_brought_into_view() -> None:
    image = Image(np.zeros((5, 8, 8)), scale=(10, 1, 1), translate=(100, 0, 0))
    viewer = viewer_with(image)
    _layers.show_slice(viewer, image, 4)
    assert _layers.visible_slice(viewer, image) == 4


def test_the_visible_slice_is_counted_in_slices_of_the_image() -> None:
    image = Image(np.zeros((5, 8, 8)), scale=(10, 1, 1), translate=(100, 0, 0))
    viewer = viewer_with(image)
    viewer.dims.set_point(0, 130)
    assert _layers.visible_slice(viewer, image) == 3
    assert _layers.visible_slice(viewer, Image(np.zeros((8, 8)))) is None
