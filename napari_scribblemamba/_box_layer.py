"""BoxLayer: the box of the image in hand as a rectangle in the viewer, moved and sized with napari's own tools."""

import numpy as np
from napari.layers import Image, Shapes
from napari.utils.notifications import show_error
from napari.viewer import Viewer
from psygnal import Signal

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._box import Box, box_around

HALF = 0.5  # napari's pixels reach half a pixel beyond their place


class BoxLayer:
    """Edits the box that the image's metadata hold; no part of the window."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._image: Image | None = None
        self._layer: Shapes | None = None
        viewer.layers.events.removed.connect(self._on_removed)

    def hold(self, image: Image | None) -> None:
        """Of this image from now on; its box is drawn where it has one."""
        if image != self._image:
            self._let_go()
            self._image = image
            self._draw()
        self.changed.emit()

    def value(self) -> Box | None:
        return None if self._image is None else _notes.box_of(self._image)

    def setValue(self, box: Box | None) -> None:
        if self._image is not None and box != self.value():
            _notes.set_box(self._image, box)
            self._draw()
            self.changed.emit()

    def take_view(self) -> None:
        """What of the image is in the picture."""
        if self._image is None:
            return
        try:
            _layers.plane_affine(self._image)
        except ValueError as e:
            show_error(str(e))
            self.changed.emit()  # there is none
        else:
            first, last = np.asarray(self._image.corner_pixels, float)[:, -2:]  # pixels of a level, both included
            level = self._image.downsample_factors[self._image.data_level][-2:] if self._image.multiscale else 1
            self.setValue(box_around(np.stack([first, last + 1]) * level, _layers.image_space(self._image)))

    def adjust(self) -> None:
        """Give the person the rectangle, with the tool that moves it."""
        if self._layer is not None:
            self._viewer.layers.selection.active = self._layer
            self._layer.mode = "select"
            self._layer.selected_data = {0}

    def end(self) -> None:
        self._let_go()
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _draw(self) -> None:
        """The layer as the box is."""
        box, layer = self.value(), self._layer
        if box is None:
            self._let_go()
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
            return
        corners = np.array([[box.top, box.left], [box.bottom, box.right]]) - HALF
        if layer is None:
            layer = _layers.found_box_layer(self._viewer, self._image)  # drawn when the image was in hand before
            self._layer = layer or _layers.box_layer(self._viewer, self._image, corners)
            self._layer.events.data.connect(self._on_data)
        if layer is not None:
            with layer.events.data.blocker():
                layer.data = []
                layer.add_rectangles([corners])

    def _let_go(self) -> None:
        if self._layer is not None:
            self._layer.events.data.disconnect(self._on_data)
            self._layer = None

    def _on_data(self, event: object = None) -> None:
        """The person has moved it, or deleted it."""
        shapes = self._layer.data
        box = None
        if len(shapes):
            box = box_around(np.asarray(shapes[-1])[:, -2:] + HALF, _layers.image_space(self._image))
        if str(getattr(event, "action", "changed")).endswith(("changed", "added", "removed")) and box != self.value():
            _notes.set_box(self._image, box)
            self.changed.emit()

    def _on_removed(self, event: object) -> None:
        """A person who deletes the layer wants no box."""
        if self._layer is not None and event.value == self._layer:
            self._let_go()
            if self._image in self._viewer.layers:
                self.setValue(None)
