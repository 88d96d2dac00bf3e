"""Predictions over their images: which images and classes they are of, their layers, and how these are seen."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from napari.layers import Image
from napari.utils.notifications import show_error
from napari.viewer import Viewer
from psygnal import Signal
from qtpy.QtCore import QTimer
from superqt.utils import qthrottled

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._box import Box
from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._predictor import Prediction
from napari_scribblemamba._view_panel import ENSEMBLE, ViewPanel

REFRESH = 500  # ms between two refreshes of the layers
ARRIVAL = 100  # ms between two new layers: each makes the window wait


class Overlays:
    """Those of the last training or prediction."""

    missed = Signal()  # images were removed from the viewer, or are back

    def __init__(self, viewer: Viewer, classes: ClassesPanel, panel: ViewPanel) -> None:
        self._viewer, self._classes, self._panel = viewer, classes, panel
        self.names: tuple[str, ...] = ()  # of the classes
        self.boxes: dict[str, Box | None] = {}  # image's name -> what of it is predicted
        self.predicted: dict[tuple[str, int | None], Box | None] = {}  # (image's name, slice) -> what of it
        self.sources: dict[str, str] = {}  # image's name -> what was last shown of it, for people
        self.answered: set[str] = set()  # networks that have; the layers of others are empty
        self.complete: set[str] = set()  # images all of which is by the same networks
        self._images: dict[str, Image] = {}
        self._before: tuple | None = None  # what was watched before, until the first of the predictions is here
        self._coming: list[tuple[str, Image]] = []  # networks and images whose layers are to be made
        self._training = False
        self._sure_of = 0  # class whose probability is shown where it was asked for
        self._arrivals = QTimer()
        self._arrivals.setInterval(ARRIVAL)
        self._arrivals.timeout.connect(self._add_layer)
        self._missing: list[str] = []
        self._removal = QTimer()  # until napari, which may remove several layers, is through
        self._removal.setSingleShot(True)
        self._removal.timeout.connect(self._follow_images)
        viewer.layers.events.inserted.connect(self._on_layers)
        viewer.layers.events.removed.connect(self._on_layers)
        self._refresh = qthrottled(self._refresh_layers, timeout=REFRESH, leading=True)
        panel.valueChanged.connect(self.show_view)

    def end(self) -> None:
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.disconnect(self._on_layers)
        self._removal.stop()
        self._arrivals.stop()
        self._refresh.cancel()

    # of what --------------------------------------------------------------------------------------------------------

    def watch(self, images: Sequence[Image], names: tuple[str, ...]) -> None:
        """From now on predictions are of these images, as far as their boxes go, and of these classes."""
        self._before = self._before or (self._images, self.names, self.boxes)
        self._images, self.names = {image.name: image for image in images}, names
        self.boxes = {image.name: _notes.box_of(image) for image in images}
        self._sure_of = min(max(self._classes.current(), 0), len(names) - 1)

    def give_back(self) -> bool:
        """The work is over. Where no prediction came of it, those that are there are of what was watched before."""
        before, self._before = self._before, None
        if before is not None:
            self._images, self.names, self.boxes = before
        return before is not None

    def _begin(self) -> None:
        """The first is about to be shown."""
        self._before = None
        self.recolour()

    def image(self, name: str) -> Image | None:
        """Of that name, if it is still in the viewer, or is there again: opened anew, it is another layer."""
        image = self._images.get(name)
        if image is None or image in self._viewer.layers:
            return image
        home = _notes.home_of(image)
        return None if home is None else _layers.members(self._viewer, home)[0]

    def name_of(self, image: Image) -> str:
        """What it was called when predictions of it began: the layer may have another name by now."""
        return next((name for name in self._images if self.image(name) == image), image.name)

    def source(self, image: Image | None) -> str:
        """What the overlay of this image shows, for people; "" where it has none."""
        if image is None or not _layers.prediction_layers(self._viewer, image):
            return ""
        return self.sources.get(self.name_of(image), "")

    def images(self) -> list[Image]:
        return [image for image in map(self.image, self._images) if image is not None]

    def missing(self) -> list[str]:
        """Images that were removed from the viewer meanwhile."""
        return [name for name in self._images if self.image(name) is None]

    def _on_layers(self, event: object) -> None:
        self._removal.start()

    def _follow_images(self) -> None:
        """What was over a removed image goes with it."""
        _layers.remove_strays(self._viewer)
        before, self._missing = self._missing, self.missing()
        if self._missing != before:
            self.missed.emit()

    def brushes(self) -> tuple[_notes.Brush, ...]:
        """The colours of the predicted classes: those of the brushes, where there is one of that name."""
        colours = {brush.name: brush.colour for brush in self._classes.value()}
        return tuple(replace(b, colour=colours.get(b.name, b.colour)) for b in _notes.default_brushes(self.names))

    # their layers ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        self._begin()
        for image in self.images():
            _layers.clear_predictions(self._viewer, image)
        self.predicted.clear()
        self.sources.clear()
        self.answered.clear()
        self.complete.clear()

    def expect(self, networks: Sequence[str], names: Collection[str]) -> None:
        """Of a training on images of these names: their layers come one by one, before they are wanted and before one
        draws on."""
        images = [image for image in map(self.image, names) if image is not None]
        self._coming = [(name, image) for image in images for name in (ENSEMBLE, *networks)]
        self._arrivals.start()
        self._add_layer()

    def set_state(self, state: str) -> None:
        """Of the session."""
        self._training = state in ("training", "paused")

    def show(self, prediction: Prediction) -> bool:
        """In the layers of its image; whether that is still there and as large as it was."""
        image, box = self.image(prediction.image), self.boxes.get(prediction.image)
        if image is None or not _fits(prediction, _layers.image_space(image), box):
            return False
        if self._before is not None:
            self._begin()
        self.predicted[prediction.image, prediction.index] = _seen(prediction, _layers.image_space(image), box)
        self.sources[prediction.image] = prediction.source
        self.answered |= prediction.labels.keys()
        self._note_complete(prediction)
        before = set(_layers.overlays(self._viewer, image))
        _layers.show_prediction(self._viewer, image, prediction.labels, prediction.index, self.brushes(), box)
        if prediction.disagreement is not None:
            _layers.show_disagreement(self._viewer, image, prediction.disagreement, prediction.index, box)
        if prediction.probabilities is not None:
            self._show_probability(image, prediction)
        if set(_layers.overlays(self._viewer, image)) != before:
            self._on_new(image)
        self._refresh()
        return True

    def _note_complete(self, prediction: Prediction) -> None:
        """While networks learn, each look at a slice makes the others older."""
        if prediction.index is None:
            self.complete.add(prediction.image)
        elif self._training:
            self.complete.discard(prediction.image)
        elif prediction.fraction == 1:
            self.complete |= {name for name, _ in self.predicted}

    def _show_probability(self, image: Image, prediction: Prediction) -> None:
        brush = self.brushes()[self._sure_of]
        layer = _layers.probability_layer(self._viewer, image, prediction.network, brush)
        where = _layers.index_of(image, prediction.index, self.boxes.get(prediction.image))
        layer.data[where] = prediction.probabilities[self._sure_of]

    def _add_layer(self) -> None:
        if not (self._coming and self._training):
            self._arrivals.stop()
            return
        name, image = self._coming.pop(0)
        if image in self.images() and name not in _layers.prediction_layers(self._viewer, image):
            _layers.add_prediction_layer(self._viewer, image, name, self.brushes())
            self._on_new(image)

    def _on_new(self, image: Image) -> None:
        names = _layers.prediction_layers(self._viewer, image)
        self._panel.set_names(sorted(names, key=lambda name: (name == ENSEMBLE, name)))
        self.show_view()

    def _refresh_layers(self) -> None:
        for image in self.images():
            for layer in _layers.overlays(self._viewer, image):
                layer.refresh()

    # how they are seen ----------------------------------------------------------------------------------------------

    def show_view(self) -> None:
        for image in self.images():
            _layers.set_view(self._viewer, image, self._panel.value())

    def recolour(self) -> None:
        for image in self.images():
            _layers.recolour_predictions(self._viewer, image, self.brushes())

    def add_disagreement(self, image: Image) -> None:
        """A layer of where the networks disagree; it is empty until they predict again."""
        _layers.disagreement_layer(self._viewer, image).visible = True

    def show_difference(self, image: Image | None, one: str, other: str) -> None:
        try:
            if image is not None:
                _layers.add_difference_layer(self._viewer, image, one, other)
        except ValueError as e:
            show_error(str(e))
        self.show_view()


def _seen(prediction: Prediction, space: tuple[int, ...], box: Box | None) -> Box | None:
    """What of the image a prediction tells of; None: all."""
    if prediction.within is None:
        return box
    rows, columns = (box or Box(0, 0, *space[-2:])).within(*prediction.within)
    return Box(rows.start, columns.start, rows.stop, columns.stop)


def _fits(prediction: Prediction, space: tuple[int, ...], box: Box | None) -> bool:
    """Whether it is of an image of this size: else that was replaced meanwhile."""
    shape = next(iter(prediction.labels.values())).shape
    return (space if box is None else (*space[:-2], *box.shape))[-len(shape) :] == shape
