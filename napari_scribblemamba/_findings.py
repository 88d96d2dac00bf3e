"""What predictions are good for: a slice that is accepted as strokes, objects that are counted and measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from napari.viewer import Viewer
from qtpy.QtCore import QObject

from napari_scribblemamba import _layers
from napari_scribblemamba._drawing import Drawing
from napari_scribblemamba._hand import Hand
from napari_scribblemamba._overlays import Overlays
from napari_scribblemamba._results_panel import ResultsPanel
from napari_scribblemamba._session import once
from napari_scribblemamba._view_panel import ENSEMBLE
from napari_scribblemamba._worker import run_in_background


class Findings(QObject):
    """By the ensemble's predictions of the image in hand."""

    def __init__(
        self,
        viewer: Viewer,
        hand: Hand,
        drawing: Drawing,
        overlays: Overlays,
        panel: ResultsPanel,
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(panel)  # and goes with it: what a thread finds afterwards nobody hears
        self._viewer, self._hand, self._drawing, self._overlays = viewer, hand, drawing, overlays
        self._panel, self._failed = panel, failed
        panel.acceptRequested.connect(self._accept)
        panel.objectsRequested.connect(self._find_objects)
        panel.tableRequested.connect(self._save_table)

    def show(self) -> None:
        """What was found in the image in hand."""
        image = self._hand.image
        layer = None if image is None else _layers.objects_layer(self._viewer, image)
        count = 0 if layer is None else len(layer.features)
        told = f"{count:,} object{'s' * (count != 1)}; point at one to read its measures"
        self._panel.set_found("" if layer is None else told)

    def _accept(self) -> None:
        """The prediction of the slice in view becomes strokes, to be corrected."""
        try:
            drawn = self._accepted()
        except ValueError as e:
            show_error(str(e))
        else:
            show_info(f"{drawn:,} pixels accepted; correct them with the brush, or take them back with Ctrl+Z")

    def _accepted(self) -> int:
        """Pixels."""
        image, strokes = self._hand.needed()
        names, z = self._overlays.names, _layers.visible_slice(self._viewer, image)
        name = self._overlays.name_of(image)
        known = [key for key in ((name, z), (name, None)) if key in self._overlays.predicted]
        if not known:
            raise ValueError("this slice is not predicted yet; wait for it, or press Predict image")
        if self._hand.names() != names:
            raise ValueError(f"the predictions are of {', '.join(names)}; train again with the new classes")
        _layers.strokes_alone(strokes, image, names, self._drawing.tally)  # of this image and these classes
        seen = _layers.prediction_layers(self._viewer, image)[ENSEMBLE]
        return _layers.accept(strokes, seen, z, self._overlays.predicted[known[0]])

    def _find_objects(self) -> None:
        """Number and measure them in the background."""
        try:
            image = self._hand.needed_image()
            classes, pixels = self._predicted(image), _layers.image_array(image)
        except ValueError as e:
            show_error(str(e))
            return
        unit = "mm" if image.units[-1].is_compatible_with("mm") else "pixel"
        self._panel.set_found("Measuring…")
        spacing, names = _layers.spacing_of(image), self._overlays.names
        run_in_background(
            once(lambda: _measured(classes, pixels, spacing, names, unit)),
            on_event=lambda _: None,
            on_done=lambda found: self._on_objects(image, *found),
            on_error=self._on_failed,
        )

    def _predicted(self, image: Image) -> np.ndarray:
        """uint8 (*space) classes, what is not predicted as background."""
        if _layers.is_large(image) or image.ndim > 3:
            raise ValueError(
                f"'{image.name}' is too large to be measured at once, or several volumes; save the prediction, and "
                "measure a part of it"
            )
        if ENSEMBLE not in (layers := _layers.prediction_layers(self._viewer, image)):
            raise ValueError(f"there is no prediction for '{image.name}'; train, or press Predict image")
        if self._overlays.name_of(image) not in self._overlays.complete:
            raise ValueError(
                f"of '{image.name}' there is what was looked at while networks learnt, some of it older than the rest; "
                "press Predict image first"
            )
        return np.maximum(layers[ENSEMBLE].data, 1) - np.uint8(1)

    def _on_objects(self, image: Image, objects: np.ndarray, table: dict[str, np.ndarray]) -> None:
        if image in self._viewer.layers and _layers.image_space(image) == objects.shape:
            _layers.add_objects_layer(self._viewer, image, objects, table)
        self.show()

    def _on_failed(self, error: Exception) -> None:
        self.show()
        self._failed(error)

    def _save_table(self, file: Path) -> None:
        image = self._hand.image
        layer = None if image is None else _layers.objects_layer(self._viewer, image)
        try:
            if layer is None:
                raise ValueError("there are no measured objects of this image; press Objects")
            from napari_scribblemamba._results import write_table  # with skimage: not at the window's start

            write_table(file, {name: column.to_numpy() for name, column in layer.features.items()})
        except (ValueError, OSError) as e:
            show_error(str(e))
        else:
            show_info(f"saved to {file}")


def _measured(
    classes: np.ndarray, pixels: np.ndarray, spacing: tuple[float, ...], names: tuple[str, ...], unit: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """In the thread: objects (*space) of the classes (*space), and their table."""
    from napari_scribblemamba._results import label_objects, object_table
    from trainer.instances import CLASSES, to_instances

    if names == CLASSES:  # interior and boundary are parts of the same objects, which are of one kind
        objects = to_instances(classes)
        return objects, object_table(objects, spacing, pixels, unit=unit)
    objects = label_objects(classes)
    return objects, object_table(objects, spacing, pixels, classes=classes, names=names, unit=unit)
