"""The dock widget, and the index of the GUI: makes the panels and wires them to the Session.

Press Train: `_train` below -> Session.train (_session.py) -> run_in_background (_worker.py) -> trainer.Run.
"""

import logging
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager, show_error, show_info
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QFrame, QGroupBox, QPushButton, QScrollArea, QVBoxLayout, QWidget
from superqt.utils import qthrottled

from napari_scribblemamba import _layers
from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._layers_panel import LayersPanel
from napari_scribblemamba._models_panel import ModelsPanel
from napari_scribblemamba._progress_panel import ProgressPanel
from napari_scribblemamba._session import Prediction, Session
from napari_scribblemamba._settings_panel import SettingsPanel
from napari_scribblemamba._worker import EngineError, run_in_background

log = logging.getLogger(__name__)
THREADS = max(1, (os.cpu_count() or 2) - 1)  # one core stays with the window
REFRESH = 500  # ms between two refreshes of the prediction layers
WIDTH = 340  # pixels
BUTTONS = {  # state -> text, colour and tooltip of the main button
    "training": ("Stop", "#b4530a", "End after this step; what was learnt is kept"),
    "stopping": ("Stopping…", "#5b6470", "The current step is being finished"),
}
TRAIN = ("Train", "#0b6bab", "Learn from the strokes (paint some of each class, the background too)")


class ScribbleMamba(QWidget):
    """Draw strokes, press Train, watch the networks' predictions come in."""

    def __init__(self, napari_viewer: Viewer, session: Session | None = None) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session = session or Session(run_in_background)
        self._images: dict[str, Image] = {}  # sample name -> the layer it came from
        self._names: tuple[str, ...] = ()  # of the classes in the predictions
        self._warm = False
        self._held: Labels | None = None  # strokes whose label the chosen row follows
        self._refresh = qthrottled(self._refresh_predictions, timeout=REFRESH, leading=True)

        self.layers = LayersPanel(napari_viewer.layers)
        self.classes = ClassesPanel()
        self.settings = SettingsPanel()
        self.progress = ProgressPanel()
        self.models = ModelsPanel()
        self.button = QPushButton()
        self.button.setMinimumHeight(34)
        self._lay_out()
        self._wire()
        self._on_layers_changed()
        self._on_state("idle")

    def _lay_out(self) -> None:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(6)
        column.addWidget(_group("Image and strokes", self.layers))
        column.addWidget(_group("Classes", self.classes))
        column.addWidget(_group("Training", self.settings, self.button))
        column.addWidget(_group("Progress", self.progress))
        column.addWidget(_group("Model", self.models))
        column.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        self.setMinimumWidth(WIDTH)

    def _wire(self) -> None:
        session = self.session
        self.layers.valueChanged.connect(self._on_layers_changed)
        self.layers.newRequested.connect(self._new_strokes)
        self.classes.valueChanged.connect(self._on_classes_changed)
        self.classes.currentChanged.connect(self._take_brush)
        self.classes.removed.connect(self._erase_class)
        self.button.clicked.connect(self._on_button)
        self.models.predictRequested.connect(self._predict)
        self.models.stopRequested.connect(session.stop)
        self.models.saveRequested.connect(session.save)
        self.models.loadRequested.connect(session.load)
        self.models.exportRequested.connect(self._export)
        session.state_changed.connect(self._on_state)
        session.progressed.connect(self._on_progress)
        session.predicted.connect(self._on_predicted)
        session.model_changed.connect(self._on_model)
        session.saved.connect(self._on_saved)
        session.failed.connect(self._on_failed)
        self._viewer.dims.events.point.connect(self._on_dims)
        # the window may delete this widget, or only take it out of its dock (see `event`); no reference to self here
        self._endings = endings = [
            session.close,
            self.layers.unfollow,
            self._refresh.cancel,
            self.progress.redraw.cancel,
        ]
        self.destroyed.connect(lambda: [end() for end in endings])

    def sizeHint(self) -> QSize:
        return QSize(WIDTH, 800)

    # the person does something --------------------------------------------------------------------------------------

    def _on_button(self) -> None:
        if self.session.state == "training":
            self.session.stop()
        else:
            self._train()

    def _train(self) -> None:
        try:
            image, strokes = self._image_and_strokes()
            config = replace(self.settings.value(), threads=THREADS).checked()
            sample = _layers.sample_from_layers(image, strokes, self._class_names())
        except ValueError as e:
            show_error(str(e))
            return
        self._watch(image, self._class_names())
        self.progress.setValue([])
        self.progress.set_shown("")
        _layers.clear_predictions(self._viewer, image)
        self.session.train([sample], self._names, config)

    def _predict(self) -> None:
        try:
            image, _ = self._image_and_strokes(strokes_needed=False)
            sample = _layers.sample_from_layers(image, None, self.session.model.classes)
        except ValueError as e:
            show_error(str(e))
            return
        self._watch(image, self.session.model.classes)
        self.session.predict([sample])

    def _export(self, folder: Path) -> None:
        try:
            image, strokes = self._image_and_strokes()
            sample = _layers.sample_from_layers(image, strokes, self._class_names())
        except ValueError as e:
            show_error(str(e))
            return
        self.session.export(folder, [sample], self._class_names())

    def _new_strokes(self) -> None:
        image, _ = self.layers.value()
        try:
            strokes = _layers.new_scribble_layer(self._viewer, image, self.classes.value())
        except ValueError as e:
            show_error(str(e))
            return
        self.layers.setValue((image, strokes))
        self.classes.setCurrent(1)

    def _take_brush(self, index: int) -> None:
        """The class in hand: paint with it from now on."""
        _, strokes = self.layers.value()
        if strokes is not None and index >= 0:
            self._viewer.layers.selection.active = strokes
            _layers.start_painting(strokes, label=index + 1)

    def _erase_class(self, index: int) -> None:
        _, strokes = self.layers.value()
        if strokes is not None:
            _layers.erase_class(strokes, index)

    def _on_classes_changed(self) -> None:
        _, strokes = self.layers.value()
        if strokes is not None:
            _layers.set_brushes(strokes, self.classes.value())
        for image in self._watched():
            _layers.recolour_predictions(self._viewer, image, self._brushes())

    def _on_layers_changed(self) -> None:
        """Other strokes bring their own classes, or take those of the panel."""
        image, strokes = self.layers.value()
        if strokes is not None:
            if brushes := _layers.brushes_of(strokes):
                self.classes.setValue(brushes)
            _layers.set_brushes(strokes, self.classes.value())
        self._hold(strokes)
        if image is not None and not self._warm:
            self._warm = True
            run_in_background(_import_engine(), on_event=log.debug, on_done=log.debug, on_error=self._on_failed)
        self._on_dims()

    def _hold(self, strokes: Labels | None) -> None:
        """The chosen row and the layer's label are one thing: whichever changes, the other follows."""
        if strokes is self._held:
            return
        if self._held is not None:
            self._held.events.selected_label.disconnect(self._on_label)
        self._held = strokes
        if strokes is not None:
            strokes.selected_label = self.classes.current() + 1
            strokes.events.selected_label.connect(self._on_label)

    def _on_label(self, event: object = None) -> None:
        self.classes.mark(self._held.selected_label - 1)

    def _on_dims(self, event: object = None) -> None:
        """Tell the session which slice is in view."""
        for name, image in self._images.items():
            self.session.visible = (name, _layers.visible_slice(self._viewer, image))

    # the session tells something ------------------------------------------------------------------------------------

    def _on_state(self, state: str) -> None:
        text, colour, tip = BUTTONS.get(state, TRAIN)
        self.button.setText(text)
        self.button.setToolTip(tip)
        self.button.setStyleSheet(_button_style(colour))
        self.button.setEnabled(state in ("idle", "predicting", "training"))
        busy = state in ("training", "stopping")
        self.settings.setEnabled(not busy)
        self.models.set_state(state)
        self.progress.set_state(state)

    def _on_progress(self, progress: object) -> None:
        self.progress.show_progress(progress)

    def _on_predicted(self, prediction: Prediction) -> None:
        image = self._images.get(prediction.image)
        shape = next(iter(prediction.labels.values())).shape
        if image not in self._viewer.layers or _layers.image_space(image)[-len(shape) :] != shape:
            return  # removed or replaced meanwhile
        _layers.show_prediction(self._viewer, image, prediction.labels, prediction.index, self._brushes())
        self.progress.set_shown(prediction.source)
        if self.session.state == "predicting":
            self.progress.set_fraction(prediction.fraction)
        self._refresh()

    def _refresh_predictions(self) -> None:
        for image in self._watched():
            for layer in _layers.prediction_layers(self._viewer, image).values():
                layer.refresh()

    def _on_model(self, model: object) -> None:
        self.models.set_model(model)
        _, strokes = self.layers.value()
        if strokes is None:  # a run was loaded before anything was drawn: its classes are what one would draw
            self.classes.setValue(_layers.default_brushes(model.classes))

    def _on_saved(self, folder: Path) -> None:
        show_info(f"saved to {folder}")

    def _on_failed(self, error: Exception) -> None:
        """A message that says what to do; for what nobody foresaw, napari's own with its traceback."""
        if isinstance(error, EngineError):
            log.error("the engine failed", exc_info=error)
            show_error(_explain(error))
        elif isinstance(error, (ValueError, OSError, ArithmeticError)):
            show_error(str(error))
        else:
            notification_manager.receive_error(type(error), error, error.__traceback__)

    # helpers --------------------------------------------------------------------------------------------------------

    def _image_and_strokes(self, strokes_needed: bool = True) -> tuple[Image, Labels | None]:
        image, strokes = self.layers.value()
        if image is None:
            raise ValueError("there is no image to segment; open one, or File > Open Sample > ScribbleMamba")
        if strokes is None and strokes_needed:
            raise ValueError(f"there are no strokes on '{image.name}'; press New and paint some of each class")
        return image, strokes

    def _class_names(self) -> tuple[str, ...]:
        return tuple(brush.name for brush in self.classes.value())

    def _brushes(self) -> tuple[_layers.Brush, ...]:
        """The colours of the predicted classes: those of the brushes, where there is one of that name."""
        colours = {brush.name: brush.colour for brush in self.classes.value()}
        return tuple(replace(b, colour=colours.get(b.name, b.colour)) for b in _layers.default_brushes(self._names))

    def _watch(self, image: Image, names: tuple[str, ...]) -> None:
        """From now on predictions are of this image and these classes."""
        self._images, self._names = {image.name: image}, names
        self._on_dims()

    def _watched(self) -> list[Image]:
        return [image for image in self._images.values() if image in self._viewer.layers]

    def event(self, event: QEvent) -> bool:
        """Out of its dock the widget is closed: napari takes away its parent and forgets it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            for end in self._endings:
                end()
        return super().event(event)


def _import_engine() -> Generator[None, None, None]:
    """Seconds that the first Train need not wait for."""
    import torch

    import trainer.run  # noqa: F401

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first optimiser imports half of torch
    torch.set_num_threads(THREADS)  # with all cores busy the window stutters
    return
    yield  # makes it a generator, one without events


def _explain(error: EngineError) -> str:
    text = str(error)
    if "memory" in text.lower():
        return f"out of memory: {text.splitlines()[0]}\nTrain fewer networks, or close what else uses memory."
    return f"the engine failed: {text}"


def _group(title: str, *widgets: QWidget) -> QGroupBox:
    group = QGroupBox(title)
    layout = QVBoxLayout(group)
    layout.setContentsMargins(6, 6, 6, 6)
    layout.setSpacing(6)
    for widget in widgets:
        layout.addWidget(widget)
    return group


def _button_style(colour: str) -> str:
    return f"QPushButton {{ background: {colour}; color: white; font-weight: bold; border-radius: 4px; }}"
