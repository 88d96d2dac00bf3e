"""Which image to segment and which strokes to learn from: two choices among the viewer's layers."""

from collections.abc import Callable, Sequence

from napari.components import LayerList
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QPushButton, QWidget

from napari_scribblemamba._layers import image_space, is_scribble_layer


class LayerCombo(QComboBox):
    """One of some layers, or none; keeps its choice where the layers change around it."""

    valueChanged = Signal()

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self._layers: list[Layer] = []
        self._emitted: Layer | None = None
        self.setPlaceholderText(placeholder)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.currentIndexChanged.connect(self._emit)

    def value(self) -> Layer | None:
        return self._layers[self.currentIndex()] if self.currentIndex() >= 0 else None

    def setValue(self, layer: Layer | None) -> None:
        self.setCurrentIndex(self._layers.index(layer) if layer in self._layers else -1)

    def setLayers(self, layers: Sequence[Layer]) -> None:
        """Offer these; the chosen one stays chosen, else the newest is."""
        chosen = self.value()
        self._layers = list(layers)
        if chosen not in self._layers:
            chosen = self._layers[-1] if self._layers else None
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._layers])
            self.setValue(chosen)
        self._emit()

    def _emit(self) -> None:
        if self.value() is not self._emitted:
            self._emitted = self.value()
            self.valueChanged.emit()


class LayersPanel(QWidget):
    """Edits (image layer, scribble layer); offers what the viewer has."""

    valueChanged = Signal()
    newRequested = Signal()

    def __init__(self, layers: LayerList) -> None:
        super().__init__()
        self._layers = layers
        self._image = LayerCombo("open an image")
        self._image.setToolTip("The image to segment: 2-D, RGB, or a stack (slice by slice)")
        self._strokes = LayerCombo("none yet, press New")
        self._strokes.setToolTip(
            "The labels layer that holds your strokes.\nP paint   E erase   [ ] brush size   Ctrl+Z undo"
        )
        self._new = QPushButton("New")
        self._new.setToolTip("A new, empty layer to draw strokes on, over the chosen image")
        self._new.clicked.connect(self.newRequested)

        row = QHBoxLayout()
        row.addWidget(self._strokes, 1)
        row.addWidget(self._new)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", self._image)
        form.addRow("Strokes", row)

        self._image.valueChanged.connect(self._on_image_changed)
        self._strokes.valueChanged.connect(self.valueChanged)
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            event.connect(self._on_layers_changed)
        self._on_layers_changed()

    def value(self) -> tuple[Image | None, Labels | None]:
        return self._image.value(), self._strokes.value()

    def setValue(self, value: tuple[Image | None, Labels | None]) -> None:
        image, strokes = value
        self._image.setValue(image)
        self._strokes.setValue(strokes)

    def unfollow(self) -> None:
        """Stop listening to the viewer; its layers outlive this panel."""
        for event in (self._layers.events.inserted, self._layers.events.removed, self._layers.events.reordered):
            event.disconnect(self._on_layers_changed)
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layers_changed)

    def _on_layers_changed(self, event: object = None) -> None:
        for layer in self._layers:
            layer.events.name.connect(self._on_layers_changed)  # napari connects a callback once
        self._image.setLayers(self._where(lambda layer: isinstance(layer, Image)))
        self._strokes.setLayers(self._where(is_scribble_layer))
        self._new.setEnabled(self._image.value() is not None)

    def _on_image_changed(self) -> None:
        """Take the strokes that fit the image, where there are any."""
        image, strokes = self.value()
        if image is not None and (strokes is None or not _fits(strokes, image)):
            fitting = self._where(lambda layer: is_scribble_layer(layer) and _fits(layer, image))
            self._strokes.setValue(fitting[-1] if fitting else strokes)
        self.valueChanged.emit()

    def _where(self, accept: Callable[[Layer], bool]) -> list[Layer]:
        return [layer for layer in self._layers if accept(layer)]


def _fits(strokes: Labels, image: Image) -> bool:
    try:
        return tuple(strokes.data.shape) == image_space(image)
    except ValueError:  # an image that cannot be segmented; Train says why
        return False
