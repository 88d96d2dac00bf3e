"""Which image to segment and which strokes to learn from: two choices among the viewer's layers."""

from collections.abc import Callable, Sequence
from functools import partial

from napari.components import LayerList
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker, QSize, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QMenu, QPushButton, QWidget

from napari_scribblemamba._layers import belong, is_scribble_layer, is_source_image
from napari_scribblemamba._notes import KEY, home_of

SHORTEST = 90  # pixels of a name
HINT = "color: #9aa4b0; font-size: 8pt;"


class LayerCombo(QComboBox):
    """One of some layers, or none; keeps its choice where the layers change around it."""

    valueChanged = Signal()

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self._layers: list[Layer] = []
        self._emitted: Layer | None = None
        self.setPlaceholderText(placeholder)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.currentIndexChanged.connect(self._emit)

    def minimumSizeHint(self) -> QSize:
        """Qt's leaves room for the whole placeholder."""
        return QSize(SHORTEST, super().minimumSizeHint().height())

    def value(self) -> Layer | None:
        return self._layers[self.currentIndex()] if self.currentIndex() >= 0 else None

    def setValue(self, layer: Layer | None) -> None:
        self.setCurrentIndex(self._layers.index(layer) if layer in self._layers else -1)

    def setLayers(self, layers: Sequence[Layer], newest: Layer | None) -> None:
        """Offer these; the chosen one stays chosen, else `newest` is."""
        chosen = self.value()
        self._layers = list(layers)
        if chosen not in self._layers:
            chosen = newest
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._layers])
            self.setValue(chosen)
        self._emit()

    def _emit(self) -> None:
        if self.value() != self._emitted:
            self._emitted = self.value()
            self.valueChanged.emit()


class LayersPanel(QWidget):
    """Edits (image layer, scribble layer); offers what the viewer has."""

    valueChanged = Signal()
    imageChosen = Signal()  # by the person
    newRequested = Signal()
    denseRequested = Signal(object, bool)  # a Labels layer, whether its values are objects
    refused = Signal(str)

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

        self._dense = QPushButton("From…")
        self._dense.setToolTip(
            "Take a layer of dense labels, in which every pixel is labelled and 0 is the background, as strokes:\n"
            "what the presets for densely painted labels learn from"
        )
        self._menu = QMenu(self)
        self._dense.clicked.connect(self._offer_dense)

        self._join = QPushButton("Join")
        self._join.setToolTip(
            "Take the image layers that are selected in napari's layer list together, as channels of one image.\n"
            "A stack of channels becomes such layers by a right click on it > Split stack."
        )
        self._join.clicked.connect(self._on_join)
        self._channels: tuple[Image, ...] = ()
        self._joined = QLabel()
        self._joined.setWordWrap(True)
        self._joined.setStyleSheet(HINT)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", _row(self._image, self._join))
        form.addRow(self._joined)
        form.addRow("Strokes", _row(self._strokes, self._new, self._dense))

        self._image.valueChanged.connect(self._on_image_changed)
        self._image.activated.connect(self.imageChosen)
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

    def channels(self) -> tuple[Image, ...]:
        """The images that are further channels of the chosen one."""
        return self._channels

    def set_channels(self, channels: Sequence[Image]) -> None:
        self._channels = tuple(channels)
        image = self._image.value()
        names = [layer.name for layer in (image, *channels)] if channels else []
        self._joined.setText(f"{len(names)} channels: {', '.join(names)}")
        self._joined.setVisible(bool(names))
        self._join.setText("Part" if names else "Join")

    def _offer_dense(self) -> None:
        """A menu of the layers that could be dense labels of the chosen image."""
        self._menu.clear()
        for layer in self._where(lambda layer: is_scribble_layer(layer) and belong(layer, self._image.value())):
            for objects, words in ((False, "values are classes"), (True, "values are objects")):
                self._menu.addAction(f"{layer.name}: {words}", partial(self.denseRequested.emit, layer, objects))
        if self._menu.isEmpty():
            self.refused.emit("no layer of labels has the shape of the image; open its labels first")
        else:
            self._menu.popup(self._dense.mapToGlobal(self._dense.rect().bottomLeft()))

    def _on_join(self) -> None:
        """Join the selected images to the chosen one; or part what was joined."""
        if self._channels:
            self.set_channels(())
            return
        if selected := self._where(lambda layer: is_source_image(layer) and layer in self._layers.selection):
            self.set_channels([layer for layer in selected if layer != self._image.value()])
        if not self._channels:
            self.refused.emit("select the image layers to join in napari's layer list (Ctrl+click), then press Join")

    def unfollow(self) -> None:
        """Stop listening to the viewer; its layers outlive this panel."""
        for event in (self._layers.events.inserted, self._layers.events.removed, self._layers.events.reordered):
            event.disconnect(self._on_layers_changed)
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layers_changed)

    def _on_layers_changed(self, event: object = None) -> None:
        for layer in self._layers:
            layer.events.name.connect(self._on_layers_changed)  # napari connects a callback once
        images, strokes = self._where(is_source_image), self._where(is_scribble_layer)
        self._image.setLayers(images, images[-1] if images else None)
        self._strokes.setLayers(strokes, self._newest_strokes())
        self._new.setEnabled(self._image.value() is not None)
        self._dense.setVisible(self._image.value() is not None and self._strokes.count() > 0)
        self._join.setVisible(self._image.count() > 1)
        if not all(channel in self._layers for channel in self._channels):
            self.set_channels(())

    def _on_image_changed(self) -> None:
        """Take the strokes that fit the image, where there are any."""
        image, strokes = self.value()
        self.set_channels(())
        if image is not None and (strokes is None or not belong(strokes, image)):
            self._strokes.setValue(self._newest_strokes())
        self.valueChanged.emit()

    def _newest_strokes(self) -> Labels | None:
        """Those of the image; else some that are not known to be of another, perhaps nobody has said yet of which."""
        image, all_strokes = self._image.value(), self._where(is_scribble_layer)
        own = [layer for layer in all_strokes if image is not None and belong(layer, image)]
        free = [layer for layer in all_strokes if home_of(layer) is None and "of" not in layer.metadata.get(KEY, {})]
        return (own or free or [None])[-1]

    def _where(self, accept: Callable[[Layer], bool]) -> list[Layer]:
        return [layer for layer in self._layers if accept(layer)]


def _row(wide: QWidget, *narrow: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.addWidget(wide, 1)
    for widget in narrow:
        row.addWidget(widget)
    return row
