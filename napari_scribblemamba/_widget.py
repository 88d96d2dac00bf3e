"""The dock widget, and the index of the GUI: makes the panels and wires them to the Session.

Press Train: `_train` below -> Session.train (_session.py) -> run_in_background (_worker.py) -> trainer.Run.
"""

import gc
import logging
import os
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager, show_error, show_info, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qdebounced, qthrottled

from napari_scribblemamba import _layers, _recovery, _runs
from napari_scribblemamba._activity import Activity
from napari_scribblemamba._batch import Batch
from napari_scribblemamba._box import Box
from napari_scribblemamba._box_layer import BoxLayer
from napari_scribblemamba._box_panel import BoxPanel
from napari_scribblemamba._class_table import read_classes, write_classes
from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._command import fit_command, predict_command
from napari_scribblemamba._drawing import Drawing
from napari_scribblemamba._folded import Folded
from napari_scribblemamba._frames import Frames
from napari_scribblemamba._guide import Guidance, held_out, is_undrawn
from napari_scribblemamba._guide_panel import GuidePanel
from napari_scribblemamba._help import Help
from napari_scribblemamba._images import Images
from napari_scribblemamba._images_panel import ImagesPanel
from napari_scribblemamba._keys import (
    ABSENT,
    AFTER,
    BACK,
    BEFORE,
    CHOOSE,
    COMPARE,
    ERASE,
    NEXT,
    ON,
    REDO,
    UNDO,
    Keys,
)
from napari_scribblemamba._layers_panel import LayersPanel
from napari_scribblemamba._models_panel import ModelsPanel
from napari_scribblemamba._past import Past, minutes_spoken
from napari_scribblemamba._progress_panel import ProgressPanel
from napari_scribblemamba._project_panel import ProjectPanel
from napari_scribblemamba._recorder import Recorder
from napari_scribblemamba._replay_panel import ReplayPanel
from napari_scribblemamba._results_panel import ResultsPanel
from napari_scribblemamba._session import Prediction, Session, rehearsal
from napari_scribblemamba._settings_panel import SettingsPanel
from napari_scribblemamba._slices_panel import SlicesPanel
from napari_scribblemamba._tour import HINTS, TourPanel
from napari_scribblemamba._training_panel import TrainingPanel
from napari_scribblemamba._view_panel import ENSEMBLE, ViewPanel
from napari_scribblemamba._worker import EngineError, run_in_background
from trainer.config import Config
from trainer.dataset import IGNORE, Sample
from trainer.stack import Part

if TYPE_CHECKING:
    from trainer.coach import Advice
    from trainer.disagreement import Place

log = logging.getLogger(__name__)
THREADS = max(1, (os.cpu_count() or 2) - 1)  # one core stays with the window
TALLY = 200  # ms between two updates of the numbers beside the classes
LIST = 300  # ms between two updates of the list of images
LOOK = 150  # ms that a slice is in view before it is predicted
REFRESH = 500  # ms between two refreshes of the prediction layers
ARRIVAL = 100  # ms between two new prediction layers: each makes the window wait
WIDTH = 340  # pixels
FRAMED = "QGroupBox { border: 2px solid #2f8fd0; }"
LINK = "QPushButton { border: 0; padding: 2px 6px; background: transparent; color: #5fb0e6; }"
GUIDE = "Scribble here next"
COACHED = 2**26  # voxels of a sample, at most, whose strokes the coach looks at
UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


class ScribbleMamba(QWidget):
    """Draw strokes, press Train, watch the networks' predictions come in."""

    def __init__(self, napari_viewer: Viewer, session: Session | None = None) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session = session or Session(run_in_background)
        self._watched_images: dict[str, Image] = {}  # sample name -> the layer it came from
        self._boxes: dict[str, Box | None] = {}  # sample name -> what of the image it is
        self._held: dict[str, np.ndarray] = {}  # sample name -> strokes that judge, uint8 (*space)
        self._names: tuple[str, ...] = ()  # of the classes in the predictions
        self._predicted: set[tuple[str, int | None]] = set()  # (sample, slice) that can be accepted
        self._dataset = Path("Dataset001_strokes")  # where strokes were exported last
        self._run: Path | None = None  # folder of the model at hand, where it is saved
        self._folders: tuple[Path, Path] | None = None  # images and labels, where that was the last thing asked for
        self._coming: list[tuple[str, Image]] = []  # networks and images whose layers are to be made
        self._arrivals = QTimer(self)
        self._arrivals.setInterval(ARRIVAL)
        self._sure_of = 0  # class whose probability is shown where it was asked for
        self._mode = "paint"  # of the strokes that were in hand before
        self._help: Help | None = None
        self._warm = self._judged = self._coaching = self._coach_again = False
        self._refresh = qthrottled(self._refresh_predictions, timeout=REFRESH, leading=True)
        self._listing = QTimer(self)  # goes with this widget, which the recorder may outlive
        self._listing.setSingleShot(True)
        self._listing.setInterval(LIST)
        self._look = qdebounced(self._look_at_slice, timeout=LOOK)
        self._tell_tally = qthrottled(self._show_tally, timeout=TALLY, leading=True)

        self.layers = LayersPanel(napari_viewer.layers)
        self.list = ImagesPanel()
        self.slices = SlicesPanel()
        self.replay = ReplayPanel()
        self.box = BoxPanel()
        self.project = ProjectPanel()
        self.classes = ClassesPanel()
        self.settings = SettingsPanel()
        self.progress = ProgressPanel()
        self.view = ViewPanel()
        self.guide = GuidePanel()
        self.results = ResultsPanel()
        self.models = ModelsPanel()
        self.activity = Activity(self._stop)
        self.training = TrainingPanel()
        self.tour = TourPanel()
        self._tour_button = _link("Tour", "Five hints, to begin with")
        self._help_button = _link("Help", "The manual, in a window of its own")
        self.button = self.training.button
        self.drawing, self.keys = Drawing(napari_viewer), Keys(napari_viewer.layers)
        self.recorder = Recorder(napari_viewer)
        self.images, self.past = Images(napari_viewer, self.recorder), Past(napari_viewer, self.recorder)
        self.box_layer = BoxLayer(napari_viewer)
        self.frames = Frames()
        self._lay_out()
        self._wire()
        self._on_layers_changed()
        self._on_state("idle")
        self._offer_recovered()
        self.models.set_entries(_runs.entries())
        self.tour.offer()

    def _lay_out(self) -> None:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(6)
        self._list_line = Folded("Images", self.list, unfolded=True)
        self._list_line.hide()  # one image needs no list
        self._replay_line = Folded("Replay", self.replay)
        drawn = (self.layers, self._list_line, self.slices, self.project, self._replay_line)
        self._guide_line = Folded(GUIDE, self.guide)
        groups = (
            _group("Image and strokes", *drawn),
            _group("Classes", self.classes),
            _group("Training", self.settings, self.box, self.training),
            _group("Progress", self.progress, self.view, self._guide_line),
            _group("Results", self.results),
            _group("Model", self.models),
        )
        self._groups = {group.title(): group for group in groups}
        for group in groups:
            column.addWidget(group)
        column.addStretch(1)
        self._scroll = scroll = QScrollArea()
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(2)
        top = QHBoxLayout()
        top.addStretch(1)
        top.addWidget(self._tour_button)
        top.addWidget(self._help_button)
        outer.addLayout(top)
        outer.addWidget(self.tour)
        outer.addWidget(scroll)
        self.setMinimumWidth(WIDTH)

    def _wire(self) -> None:
        session = self.session
        self.layers.valueChanged.connect(self._on_layers_changed)
        self.layers.newRequested.connect(self._new_strokes)
        self.layers.denseRequested.connect(self._take_dense)
        self.classes.valueChanged.connect(self._on_classes_changed)
        self.classes.currentChanged.connect(self._take_brush)
        self.classes.renumbered.connect(lambda numbers: self._renumber(numbers, self.classes.current()))
        self.classes.absentRequested.connect(self._toggle_absent)
        self.classes.importRequested.connect(self._import_classes)
        self.classes.exportRequested.connect(self._export_classes)
        self.layers.refused.connect(show_error)
        self.slices.valueChanged.connect(self._jump)
        self._wire_images()
        self.replay.valueChanged.connect(self._show_past)
        self.past.ended.connect(lambda: self.replay.setValue(None))
        self._replay_line.toggled.connect(lambda unfolded: unfolded or self.replay.setValue(None))
        self.box.viewRequested.connect(self.box_layer.take_view)
        self.box.adjustRequested.connect(self.box_layer.adjust)
        self.box.valueChanged.connect(lambda: self.box_layer.setValue(self.box.value()))
        self.box_layer.changed.connect(self._on_box)
        self.keys.pressed.connect(self._on_key)
        self.drawing.labelled.connect(self._on_label)
        self.drawing.counted.connect(self._tell_tally)
        self.drawing.changed.connect(self._take_up_strokes)
        self.drawing.changed.connect(self.recorder.catch_up)
        self.drawing.changed.connect(self._coach)
        self.guide.nextRequested.connect(self._go_to_place)
        self.guide.placeRequested.connect(self._go_to_advice)
        self.guide.allRequested.connect(self._train)
        self.guide.told.connect(lambda news: self._guide_line.set_title(f"{GUIDE} · {news}" if news else GUIDE))
        self.recorder.told.connect(self._tell_kept)
        self.recorder.reclassed.connect(self._on_reclassed)
        self.recorder.failed.connect(self._on_failed)
        self.project.saveRequested.connect(self._save_project)
        self.project.openRequested.connect(self._open_project)
        self.project.forgetRequested.connect(self._forget)
        self.settings.presetChosen.connect(self._estimate)
        self.training.trainRequested.connect(self._train)
        self.training.stopRequested.connect(self._stop)
        self.training.pauseRequested.connect(session.pause)
        self.training.resumeRequested.connect(session.resume)
        self.training.valueChanged.connect(self._take_up_strokes)
        self.view.valueChanged.connect(self._show_view)
        self.view.differenceRequested.connect(self._show_difference)
        self.view.probabilityRequested.connect(self._predict)
        self.models.predictRequested.connect(self._predict)
        self.models.stopRequested.connect(self._stop)
        self.models.saveRequested.connect(session.save)
        self.models.loadRequested.connect(session.load)
        self.models.exportRequested.connect(self._export)
        self.models.folderRequested.connect(self._label_folder)
        self.models.modelExportRequested.connect(self._export_model)
        self.models.runs.forgetRequested.connect(self._forget_run)
        self.results.acceptRequested.connect(self._accept)
        self.results.objectsRequested.connect(self._find_objects)
        self.results.tableRequested.connect(self._save_table)
        self.results.copyRequested.connect(self._copy_command)
        self.tour.valueChanged.connect(self._show_hint)
        self.tour.sampleRequested.connect(self._open_sample)
        self._tour_button.clicked.connect(lambda: self.tour.setValue(0))
        self._help_button.clicked.connect(self._open_help)
        session.state_changed.connect(self._on_state)
        session.progressed.connect(self._on_progress)
        session.settled.connect(self._on_settled)
        self._arrivals.timeout.connect(self._add_layer)
        session.measured.connect(self._on_measured)
        session.predicted.connect(self._on_predicted)
        session.guided.connect(self._on_guided)
        session.model_changed.connect(self._on_model)
        session.saved.connect(self._on_saved)
        session.loaded.connect(self._list_run)
        session.stepped.connect(self._on_stepped)
        session.labelled.connect(self._on_labelled)
        session.failed.connect(self._on_failed)
        self._viewer.dims.events.point.connect(self._on_dims)
        # the window may delete this widget, or only take it out of its dock (see `event`); no reference to self here
        self._endings = endings = [
            session.close,
            self.past.close,
            self.box_layer.end,
            self.recorder.end,
            self.keys.end,
            self.frames.end,
            self.drawing.end,
            self._tell_tally.cancel,
            self._look.cancel,
            self.activity.end,
            self.layers.unfollow,
            self._refresh.cancel,
            self.progress.redraw.cancel,
        ]
        self.destroyed.connect(lambda: [end() for end in endings])

    def _wire_images(self) -> None:
        self.list.valueChanged.connect(lambda: self._show_image(self.list.value()))
        self.list.addRequested.connect(self._add_images)
        self.list.removeRequested.connect(self._remove_image)
        self.list.foundRequested.connect(self._relink)
        self.recorder.told.connect(self._listing.start)
        self._listing.timeout.connect(self._show_images)
        self.models.allRequested.connect(self._predict_all)

    def sizeHint(self) -> QSize:
        return QSize(WIDTH, 800)

    # the person does something --------------------------------------------------------------------------------------

    def _train(self) -> None:
        try:
            config = self.settings.value()
            config = replace(config, threads=config.threads or THREADS).checked()
            images, samples, note = self._drawn_samples()
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self._watch(images, self._class_names())
        self._boxes = {image.name: _layers.box_of(image) for image in images}
        self.progress.setValue([])
        self.progress.set_shown("")
        self._run = self._folders = None
        self.progress.set_note(note)
        for image in images:
            _layers.clear_predictions(self._viewer, image)
        self._coming = [(name, image) for image in images for name in (ENSEMBLE, *config.names)]
        self._predicted.clear()
        self.guide.setPlaces([])
        self.guide.setVerdict(None, ())
        samples, held = held_out(samples) if self.guide.judges() else (samples, None)
        self._judged, self._held = held is not None, held or {}
        start = self.session.model if self.models.starts() else None
        self.session.train(samples, self._names, config, held, start)
        self._arrivals.start()
        self._add_layer()

    def _drawn_samples(self) -> tuple[list[Image], list[Sample], str]:
        """All images of the project with strokes, the one in hand first; their samples, cut to their boxes; and what is
        left out. An image whose channels are joined is alone: nobody has said which channels the others have."""
        image, strokes = self._image_and_strokes()
        pairs, missing, channels = [(image, strokes)], [], self.layers.channels()
        if len(self.images.rows()) > 1 and not channels:
            others, missing = self.images.drawn()
            pairs += [pair for pair in others if pair[1] != strokes]
        names, samples, drawn = self._class_names(), [], []
        for layer, its in pairs:
            tally, box = self.drawing.tally if its == self.drawing.strokes else None, _layers.box_of(layer)
            samples.append(_layers.sample_from_layers(layer, its, names, channels, tally, box))
            drawn += [] if box is None else [_layers.strokes_alone(its, layer, names, tally)]
        _check_inside(drawn, samples, names)
        note = f"without {', '.join(missing)}: not to be found" if missing else ""
        return [layer for layer, _ in pairs], samples, note

    def _stop(self) -> None:
        self.session.stop()
        self.progress.set_stopped()

    def _take_up_strokes(self) -> None:
        """Give new strokes to the training that runs; where they cannot be used yet, it goes on with those before."""
        if self.session.state not in ("training", "paused") or not self.training.value():
            return
        image, strokes = self.layers.value()
        before = {sample.name: sample for sample in self.session.samples}
        if strokes is None or image is None or image.name not in before:
            if image is not None and self.drawing.tally is not None and self.drawing.tally.slices:
                self.progress.set_note(f"'{image.name}' is not in this training; it will be in the next")
            return
        try:
            if self._class_names() != self._names:
                raise ValueError("the classes are other ones now; stop and train again")
            old = before[image.name]
            new = _layers.redrawn(old, strokes, image, self._names, self.drawing.tally, self._boxes.get(image.name))
            [new], held = held_out([new]) if self._judged else ([new], {})
            self._held |= held
            same = (new.absent, new.part) == (old.absent, old.part)
            if not same or not np.array_equal(new.target, old.target):
                self.session.update(list((before | {image.name: new}).values()), self._held if self._judged else None)
        except ValueError as e:
            self.progress.set_note(f"New strokes wait: {e}")
        else:
            self.progress.set_note("")

    def _coach(self) -> None:
        """What to say about the strokes in hand and on the images beside; thought out in the background."""
        image, strokes = self.layers.value()
        if image is None or strokes is None:
            return
        try:
            names = self._class_names()
            sample = _layers.strokes_alone(strokes, image, names, self.drawing.tally)
        except ValueError:  # strokes of another image; Train says so
            return
        if sample.target.size > COACHED:
            return
        self._leave_out_drawn(sample)
        samples = [self._in_box(each) for each in (sample, *self._strokes_beside(image, names))]
        if self._coaching:
            self._coach_again = True
            return
        seen = _layers.predicted_classes(self._viewer, image, sample.part) if self.session.state == "idle" else {}
        predictions = {image.name: seen} if seen and self._names == names else None
        self._coaching = True
        run_in_background(
            _advised(samples, names, predictions),
            on_event=lambda _: None,
            on_done=self._on_advice,
            on_error=self._on_coach_failed,
        )

    def _strokes_beside(self, image: Image, names: tuple[str, ...]) -> list[Sample]:
        """Those on the project's other images that are loaded, as far as these are not too large."""
        found = []
        for other, strokes in self.images.loaded():
            if other != image and strokes is not None and strokes.data.size <= COACHED:
                with suppress(ValueError):  # strokes of another image; Train says so
                    found.append(_layers.strokes_alone(strokes, other, names))
        return found

    def _in_box(self, sample: Sample) -> Sample:
        """Without the strokes outside the box that was predicted: nobody has said anything of what is there."""
        box, corner = self._boxes.get(sample.name), (0, 0) if sample.part is None else sample.part.corner
        return sample if box is None else replace(sample, target=box.seen_from(*corner).masked(sample.target, IGNORE))

    def _leave_out_drawn(self, sample: Sample) -> None:
        """A place of this image that was drawn on is answered."""
        if places := self.guide.places():
            self.guide.setPlaces([p for p in places if p.image != sample.name or is_undrawn(p, sample)])

    def _on_advice(self, advice: list) -> None:
        self._coaching = False
        self.guide.setAdvice(advice)
        if self._coach_again:  # drawn on meanwhile
            self._coach_again = False
            self._coach()

    def _on_coach_failed(self, error: Exception) -> None:
        self._coaching = False
        self._on_failed(error)

    def _on_measuring_failed(self, error: Exception) -> None:
        self.results.set_found("")
        self._on_failed(error)

    def _go_to_place(self, place: "Place") -> None:
        self._go_to(place.image, place.slice, place.row, place.column)

    def _go_to_advice(self, advice: "Advice") -> None:
        self._go_to(advice.image, advice.slice or 0, *advice.place)

    def _go_to(self, name: str, index: int, row: int, column: int) -> None:
        known = [*self._watched_images.values(), *(image for image, _ in self.images.loaded()), self.layers.value()[0]]
        image = next((image for image in known if image is not None and image.name == name), None)
        if image in self._viewer.layers:
            self._bring_forward(image)
            _layers.go_to(self._viewer, image, index, row, column)

    def _on_guided(self, guidance: Guidance) -> None:
        self.guide.setPlaces([_moved(place, self._boxes.get(place.image)) for place in guidance.places])
        self.guide.setVerdict(guidance.verdict, self._names)

    def _estimate(self) -> None:
        """How long the chosen preset takes on this machine, where that can be foretold."""
        config = self.settings.value()
        if config.iterations is None or self.session.state in ("training", "paused"):
            return
        if len(config.patch) != 2:
            self.settings.set_estimate("the time depends on your images, and is shown once it trains")
            return
        self.settings.set_estimate("measuring how long that takes here…")
        self.session.measure(config)

    def _predict(self, probabilities: str | None = None) -> None:
        """The whole image by the model at hand; with how sure this network is of the class in hand."""
        try:
            image, _ = self._image_and_strokes(strokes_needed=False)
            self._predict_these([image], probabilities)
        except ValueError as e:
            show_error(str(e))

    def _predict_all(self) -> None:
        """Every image of the project, the one in hand first."""
        try:
            self._predict_these([self.images.open(row.key)[0] for row in self.images.rows() if row.where != "missing"])
        except (ValueError, OSError) as e:
            show_error(str(e))

    def _predict_these(self, images: list[Image], probabilities: str | None = None) -> None:
        classes, samples = self.session.model.classes, []
        for image in images:
            channels = self.layers.channels() if image == self.layers.value()[0] else ()
            samples.append(_layers.sample_from_layers(image, None, classes, channels, box=_layers.box_of(image)))
        self._boxes = {image.name: _layers.box_of(image) for image in images}
        self._watch(images, classes)
        self._sure_of = min(max(self.classes.current(), 0), len(self._names) - 1)
        self.session.predict(samples, probabilities)

    def _export(self, folder: Path) -> None:
        try:
            _, samples, _ = self._drawn_samples()
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self._dataset = folder
        self.session.export(folder, samples, self._class_names())

    def _show_hint(self) -> None:
        """Frame the part of the panel that the hint is about."""
        index = self.tour.value()
        chosen = None if index is None else self._groups[HINTS[index].group]
        for group in self._groups.values():
            group.setStyleSheet(FRAMED if group is chosen else "")
        if chosen is not None:
            self._scroll.ensureWidgetVisible(chosen)

    def _open_sample(self, name: str) -> None:
        try:
            self._viewer.open_sample("napari-scribblemamba", name)
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self._viewer.reset_view()

    def _open_help(self) -> None:
        """The manual; the same window where it is open already."""
        try:
            self._help = self._help or Help(self)
        except OSError as e:
            show_error(str(e))
            return
        self._help.show()
        self._help.raise_()

    def _label_folder(self, images: Path, out: Path) -> None:
        self.models.set_told("")
        self._folders = (images, out)
        try:
            self.session.label(images, out)
        except ValueError as e:
            show_error(str(e))

    def _export_model(self, folder: Path, form: str) -> None:
        try:
            self.session.export_model(folder, form)
        except ValueError as e:
            show_error(str(e))

    def _forget_run(self, folder: Path) -> None:
        _runs.forget(folder)
        self.models.set_entries(_runs.entries())

    def _accept(self) -> None:
        """The ensemble's prediction of the slice in view becomes strokes, to be corrected."""
        try:
            image, strokes = self._image_and_strokes()
            z = _layers.visible_slice(self._viewer, image)
            if not {(image.name, z), (image.name, None)} & self._predicted:
                raise ValueError("this slice is not predicted yet; wait for it, or press Predict image")
            if self._class_names() != self._names:
                raise ValueError(f"the predictions are of {', '.join(self._names)}; train again with the new classes")
            _layers.strokes_alone(strokes, image, self._names, self.drawing.tally)  # of this image and these classes
            seen = _layers.prediction_layers(self._viewer, image)[ENSEMBLE]
            drawn = _layers.accept(strokes, seen, z, self._boxes.get(image.name))
        except ValueError as e:
            show_error(str(e))
        else:
            show_info(f"{drawn:,} pixels accepted; correct them with the brush, or take them back with Ctrl+Z")

    def _find_objects(self) -> None:
        """Number and measure what the ensemble predicts, in the background."""
        try:
            image, _ = self._image_and_strokes(strokes_needed=False)
            if _layers.is_large(image) or image.ndim > 3:
                raise ValueError(
                    f"'{image.name}' is too large to be measured at once, or several volumes; save the prediction, and "
                    "measure a part of it"
                )
            if ENSEMBLE not in (layers := _layers.prediction_layers(self._viewer, image)):
                raise ValueError(f"there is no prediction for '{image.name}'; train, or press Predict image")
            pixels, spacing = _layers.image_array(image), _layers.spacing_of(image)
        except ValueError as e:
            show_error(str(e))
            return
        classes = np.maximum(layers[ENSEMBLE].data, 1) - np.uint8(1)
        unit = "mm" if image.units[-1].is_compatible_with("mm") else "pixel"
        self.results.set_found("Measuring…")
        run_in_background(
            _measured(classes, pixels, spacing, self._names, unit),
            on_event=lambda _: None,
            on_done=lambda found: self._on_objects(image, *found),
            on_error=self._on_measuring_failed,
        )

    def _on_objects(self, image: Image, objects: np.ndarray, table: dict[str, np.ndarray]) -> None:
        if image in self._viewer.layers and _layers.image_space(image) == objects.shape:
            _layers.add_objects_layer(self._viewer, image, objects, table)
            count = len(table["index"])
            self.results.set_found(f"{count:,} object{'s' * (count != 1)}; point at one to read its measures")

    def _save_table(self, file: Path) -> None:
        image, _ = self.layers.value()
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

    def _copy_command(self) -> None:
        """The line for what was asked for last: a training, or the labels of a folder."""
        if self._folders is not None:
            command = predict_command(self._run or Path("run"), *self._folders)
            missing = "" if self._run else "\nSave run writes the run that it reads."
        else:
            try:
                command = fit_command(self.settings.value(), self._dataset, Path("run"))
            except ValueError as e:
                show_error(str(e))
                return
            cut = ", cut to the box" if self.box.value() is not None else ""
            missing = "" if self._dataset.is_dir() else f"\nExport strokes writes the dataset that it reads{cut}."
        QApplication.clipboard().setText(command)
        show_info(f"copied: {command}{missing}")

    def _new_strokes(self) -> None:
        image, _ = self.layers.value()
        try:
            strokes = _layers.new_scribble_layer(self._viewer, image, self.classes.value())
        except ValueError as e:
            show_error(str(e))
            return
        self.layers.setValue((image, strokes))
        self.classes.setCurrent(1)

    # images of the project

    def _show_image(self, key: str) -> None:
        """This one in view and in hand, the others aside."""
        try:
            self.replay.setValue(None)
            self.layers.setValue(self.images.show(key))
        except (ValueError, OSError) as e:
            show_error(f"{e}; Find… says where it is" if isinstance(e, FileNotFoundError) else str(e))
            self.list.setValue(key)  # what to find
        else:
            self._take_in_hand()
            self._show_view()

    def _bring_forward(self, image: Image) -> None:
        """Where it is put aside for another one."""
        home = _layers.home_of(image)
        if _layers.is_aside(image) and home is not None and home[0] == str(self.recorder.project()):
            self._show_image(home[1])

    def _take_in_hand(self) -> None:
        """The strokes of another image, with the tool at hand."""
        _, strokes = self.layers.value()
        if strokes is not None:
            self._viewer.layers.selection.active = strokes
            strokes.mode = "erase" if self._mode == "erase" else "paint"

    def _add_images(self) -> None:
        for image in self.images.to_add():
            try:
                self.images.add(image)
            except (ValueError, OSError) as e:
                show_error(str(e))
        self._show_images()

    def _remove_image(self, key: str, forget: bool) -> None:
        try:
            if key == self.images.key():
                self._show_image(self.images.neighbour(key, 1))
            if key != self.images.key():  # else the other one cannot be shown, and that was said
                self.images.remove(key, forget)
        except (ValueError, OSError) as e:
            show_error(str(e))
        self._show_images()

    def _relink(self, key: str, path: Path) -> None:
        """Its file is elsewhere; where that is another one, it is asked whether it will do."""
        try:
            try:
                self.images.relink(key, path, changed=False)
            except ValueError as e:
                if not self.list.confirms(f"{e}\n\nUse it nevertheless?"):
                    return
                self.images.relink(key, path, changed=True)
        except OSError as e:
            show_error(str(e))
            return
        self._show_images()
        self._show_image(key)

    def _show_images(self) -> None:
        """The list, where there is more than the image in hand."""
        rows = self.images.rows()
        names = [image.name for image in self.images.to_add() if image not in self.layers.channels()] if rows else []
        self.list.setImages(rows)
        self.list.setValue(self.images.key())
        self.list.set_to_add(names)
        self._list_line.set_title(self.list.title())
        self._list_line.setVisible(len(rows) > 1 or bool(names))
        self.models.set_several(len(rows) > 1)
        self._show_minutes(len(rows))

    def _show_minutes(self, images: int) -> None:
        """How long was drawn, pauses left out."""
        journal, project = self.recorder.journal, self.recorder.opened
        self._replay_line.setVisible(journal is not None and bool(journal.moments))
        if journal is not None:
            self.replay.set_moments(journal.moments)
            self._replay_line.set_title(f"Replay · {minutes_spoken(journal.minutes())} drawn")
            whole = f"; {minutes_spoken(project.minutes)} on all {images} images" if images > 1 else ""
            self._replay_line.setToolTip(f"Time spent drawing, pauses left out{whole}")

    def _show_past(self) -> None:
        self.past.show(self.replay.value())
        self._show_absent()

    def _on_box(self) -> None:
        self.box.setValue(self.box_layer.value())
        image, _ = self.layers.value()
        if image is not None:
            self.recorder.keep_settings(image)

    def _take_dense(self, labels: Labels, objects: bool) -> None:
        image, _ = self.layers.value()
        try:
            strokes = _layers.strokes_from_labels(self._viewer, image, labels, objects)
        except ValueError as e:
            show_error(str(e))
            return
        self.layers.setValue((image, strokes))
        labels.visible = False  # they lie under the strokes now

    def _save_project(self, folder: Path) -> None:
        try:
            self.recorder.save_as(folder)
        except (ValueError, OSError) as e:
            show_error(str(e))
        else:
            show_info(f"saved to {folder}; from now on every stroke is kept there as you draw it")

    def _open_project(self, folder: Path) -> None:
        try:
            opened = self.images.open_project(folder)
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        if opened is not None:
            self.layers.setValue(opened)
            self._take_in_hand()
        if folder == self.project.recovered():
            self.project.set_recovered(None)

    def _forget(self, folder: Path) -> None:
        try:
            _recovery.forget(folder)
        except (ValueError, OSError) as e:
            show_error(str(e))
        self._offer_recovered()

    def _offer_recovered(self) -> None:
        """The newest strokes that an earlier session has not saved."""
        try:
            _recovery.prune()
            folders = _recovery.unsaved()
            self.project.set_recovered(*([folders[0], _recovery.title(folders[0])] if folders else [None]))
        except (ValueError, OSError) as e:
            log.warning("%s", e)

    def _show_view(self) -> None:
        for image in self._watched():
            _layers.set_view(self._viewer, image, self.view.value())

    def _show_difference(self, one: str, other: str) -> None:
        image, _ = self.layers.value()
        try:
            if image is not None:
                _layers.add_difference_layer(self._viewer, image, one, other)
        except ValueError as e:
            show_error(str(e))
        self._show_view()

    def _take_brush(self, index: int) -> None:
        """The class in hand: paint with it from now on."""
        _, strokes = self.layers.value()
        self.replay.setValue(None)
        if strokes is not None and index >= 0:
            self._viewer.layers.selection.active = strokes
            _layers.start_painting(strokes, label=index + 1)

    def _renumber(self, numbers: list[int], chosen: int = -1) -> None:
        """Classes moved or went: their strokes follow, to its heir where the chosen one went."""
        _, strokes = self.layers.value()
        if strokes is not None:
            self.recorder.renumber(strokes, numbers, chosen)
            self.drawing.recount()

    def _import_classes(self, file: Path) -> None:
        """Take the classes of a table; strokes stay with the names of theirs."""
        try:
            brushes = read_classes(file)
            self._renumber(self._places_in(brushes, file))
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self.classes.setValue(brushes)

    def _export_classes(self, file: Path) -> None:
        try:
            write_classes(file, self.classes.value())
        except OSError as e:
            show_error(str(e))

    def _places_in(self, brushes: tuple[_layers.Brush, ...], file: Path) -> list[int]:
        """Of each class at hand its number among these; -1 where it is not there, and nothing is drawn of it."""
        numbers, tally = {brush.name: i for i, brush in enumerate(brushes)}, self.drawing.tally
        for c, name in enumerate(self._class_names()):
            if name not in numbers and tally is not None and tally.pixels(c + 1):
                raise ValueError(f"there are strokes of '{name}', which {file} does not name; remove that class first")
        return [numbers.get(name, -1) for name in self._class_names()]

    def _toggle_absent(self) -> None:
        """Say that the class in hand is nowhere on this slice; or take it back."""
        strokes, c = self.drawing.strokes, self.classes.current()
        if strokes is None:
            show_error("there are no strokes yet; press New")
            return
        z = _layers.visible_slice(self._viewer, strokes)
        absent = (z or 0) not in _layers.absent_of(strokes).get(c, ())
        try:
            if absent and (np.asarray(strokes.data[_layers.place_of(strokes, z or 0)]) == c + 1).any():
                raise ValueError(
                    f"'{self._class_names()[c]}' is drawn on this slice; erase it there, or choose another"
                )
            _layers.mark_absent(strokes, c, z or 0, absent)
            self.recorder.mark_absent(c, z or 0, absent)
        except ValueError as e:
            show_info(str(e))
        self._show_tally()
        self._take_up_strokes()

    def _jump(self) -> None:
        if self.drawing.strokes is not None:
            _layers.show_slice(self._viewer, self.drawing.strokes, self.slices.value())

    def _on_key(self, key: str) -> None:
        if key in CHOOSE:
            if CHOOSE.index(key) < len(self.classes.value()):
                self.classes.setCurrent(CHOOSE.index(key))
        else:
            {
                ERASE: self._erase,
                ABSENT: self._toggle_absent,
                BACK: self.slices.back,
                ON: self.slices.on,
                COMPARE: self.view.blink,
                NEXT: self.guide.next,
                BEFORE: lambda: self.list.step(-1),
                AFTER: lambda: self.list.step(1),
                UNDO: self.recorder.undo,
                REDO: self.recorder.redo,
            }[key]()

    def _erase(self) -> None:
        self.drawing.strokes.mode = "erase"

    def _on_classes_changed(self) -> None:
        _, strokes = self.layers.value()
        if strokes is not None:
            _layers.set_brushes(strokes, self.classes.value())
            self.recorder.take_classes(self.classes.value())
        self._show_tally()
        for image in self._watched():
            _layers.recolour_predictions(self._viewer, image, self._brushes())

    def _on_layers_changed(self) -> None:
        """Other strokes bring their own classes, or take those of the panel."""
        image, strokes = self.layers.value()
        if strokes != self.drawing.strokes:
            self.replay.setValue(None)
        self.recorder.hold(image, strokes)  # first: from here on the panel's classes are those of these strokes
        if strokes is not None:
            if brushes := _layers.brushes_of(strokes):
                self.classes.setValue(brushes)
            _layers.set_brushes(strokes, self.classes.value())
        self.box_layer.hold(image)
        if strokes != self.drawing.strokes:
            if self.drawing.strokes is not None:
                self._mode = str(self.drawing.strokes.mode)
            self.keys.hold(strokes)
            self.drawing.hold(strokes)
            if strokes is not None:
                strokes.selected_label = self.classes.current() + 1
        if image is not None:
            _layers.keep_few_slices(image)
        if image is not None and not self._warm:
            self._warm = True
            run_in_background(rehearsal(THREADS), on_event=log.debug, on_done=_settle, on_error=self._on_failed)
        self._on_dims()

    def _tell_kept(self) -> None:
        self.project.set_line(self.recorder.line())

    def _on_reclassed(self, strokes: Labels) -> None:
        """An undo gave other classes or marks back."""
        if strokes == self.layers.value()[1]:
            self.classes.setValue(_layers.brushes_of(strokes))
        self._show_tally()

    def _on_label(self, label: int) -> None:
        self.classes.mark(label - 1)

    def _on_dims(self, event: object = None) -> None:
        """Another slice is in view."""
        image = self.layers.value()[0]
        if image is not None and image == self._watched_images.get(image.name):
            self.session.visible = (image.name, _layers.visible_slice(self._viewer, image))
        self._show_absent()
        self._look()

    def _look_at_slice(self) -> None:
        """Of an image too large to be predicted unasked, the slice in view."""
        name, _ = visible = self.session.visible
        image = self._watched_images.get(name)
        if image not in self._viewer.layers or visible in self._predicted:
            return
        if _layers.is_large(image, box=self._boxes.get(name)):
            self.session.look()

    def _show_tally(self) -> None:
        """What is drawn: beside each class, and in which slices."""
        strokes, tally = self.drawing.strokes, self.drawing.tally
        self.slices.setVisible(strokes is not None and strokes.ndim > 2)
        self.slices.setSlices(tally.slices if tally else {}, partial(_layers.name_of_slice, strokes))
        self._show_absent()

    def _show_absent(self) -> None:
        """What belongs to the slice in view: its number, and the classes marked as absent from it."""
        strokes, tally, absent = self.drawing.strokes, self.drawing.tally, []
        if strokes is not None:
            z = _layers.visible_slice(self._viewer, strokes) or 0
            self.slices.setValue(z)
            absent = [c for c, slices in _layers.absent_of(strokes).items() if z in slices]
        names = self._class_names()
        self.classes.set_drawn([tally.pixels(c + 1) if tally else 0 for c in range(len(names))], absent)
        said = ", ".join(names[c] for c in sorted(absent) if c < len(names))
        _layers.write_on_slice(self._viewer, self.past.words() or (f"absent here: {said}" if said else ""))

    # the session tells something ------------------------------------------------------------------------------------

    def _on_state(self, state: str) -> None:
        self.training.set_state(state)
        self.settings.setEnabled(state not in ("training", "paused"))
        self.models.set_state(state)
        self.view.set_state(state)
        self.activity.set_state(state)
        self.frames.set_busy(state == "training")
        self.progress.set_state(state)

    def _on_settled(self, machine: str) -> None:
        self.progress.set_machine(machine)

    def _add_layer(self) -> None:
        """The layers for a training's predictions come one by one, before they are wanted and before one draws on."""
        if not self._coming or self.session.state not in ("training", "paused"):
            self._arrivals.stop()
            return
        name, image = self._coming.pop(0)
        if image in self._watched() and name not in _layers.prediction_layers(self._viewer, image):
            _layers.add_prediction_layer(self._viewer, image, name, self._brushes())
            self._on_overlays(image)

    def _on_overlays(self, image: Image) -> None:
        """There is another layer of predictions."""
        names = _layers.prediction_layers(self._viewer, image)
        self.view.set_names(sorted(names, key=lambda name: (name == ENSEMBLE, name)))
        self._show_view()

    def _on_measured(self, config: Config, seconds: float) -> None:
        if self.settings.shows(config):
            self.settings.set_estimate(f"about {spoken(seconds)} on this machine")

    def _on_progress(self, progress: object) -> None:
        self.progress.show_progress(progress)
        self.activity.set_fraction(progress.fraction)

    def _on_predicted(self, prediction: Prediction) -> None:
        image, box = self._watched_images.get(prediction.image), self._boxes.get(prediction.image)
        shape = next(iter(prediction.labels.values())).shape
        if image not in self._viewer.layers:
            return
        space = _layers.image_space(image)
        if (space if box is None else (*space[:-2], *box.shape))[-len(shape) :] != shape:
            return  # removed or replaced meanwhile
        self._predicted.add((prediction.image, prediction.index))
        self.results.set_predicted(True)
        before = set(_layers.overlays(self._viewer, image))
        _layers.show_prediction(self._viewer, image, prediction.labels, prediction.index, self._brushes(), box)
        if prediction.probabilities is not None:
            self._show_probability(image, prediction)
        if set(_layers.overlays(self._viewer, image)) != before:
            self._on_overlays(image)
        self.progress.set_shown(prediction.source)
        if self.session.state == "predicting":
            self.progress.set_fraction(prediction.fraction)
            self.activity.set_fraction(prediction.fraction)
        self._refresh()

    def _show_probability(self, image: Image, prediction: Prediction) -> None:
        brush = self._brushes()[self._sure_of]
        layer = _layers.probability_layer(self._viewer, image, prediction.network, brush)
        where = _layers.index_of(image, prediction.index, self._boxes.get(prediction.image))
        layer.data[where] = prediction.probabilities[self._sure_of]

    def _refresh_predictions(self) -> None:
        for image in self._watched():
            for layer in _layers.overlays(self._viewer, image):
                layer.refresh()

    def _on_model(self, model: object) -> None:
        self.models.set_model(model)
        self.view.set_model(True)
        _, strokes = self.layers.value()
        if strokes is None:  # a run was loaded before anything was drawn: its classes are what one would draw
            self.classes.setValue(_layers.default_brushes(model.classes))

    def _on_saved(self, folder: Path) -> None:
        show_info(f"saved to {folder}")
        if _runs.is_run(folder):  # and not strokes, or a model for other programs
            self._list_run(folder)

    def _list_run(self, folder: Path) -> None:
        """A run that was saved or loaded is in the list from now on, and chosen."""
        _runs.remember(folder)
        self._run = folder
        self.models.set_entries(_runs.entries())
        self.models.runs.setValue(folder.resolve())

    def _on_stepped(self, fraction: float) -> None:
        self.progress.set_fraction(fraction)
        self.activity.set_fraction(fraction)

    def _on_labelled(self, batch: Batch) -> None:
        self.models.set_told(batch.summary())
        for case, error in batch.errors.items():
            log.warning("%s could not be labelled: %s", case, error)
        (show_warning if batch.errors else show_info)(batch.summary())

    def _on_failed(self, error: Exception) -> None:
        """A message that says what to do; for what nobody foresaw, napari's own with its traceback."""
        if isinstance(error, EngineError):
            log.error("the engine failed", exc_info=error)
            show_error(_explain(error))
        elif isinstance(error, (ValueError, OSError, ArithmeticError, ImportError)):
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

    def _watch(self, images: list[Image], names: tuple[str, ...]) -> None:
        """From now on predictions are of these images and these classes."""
        self._watched_images, self._names = {image.name: image for image in images}, names
        self._on_dims()

    def _watched(self) -> list[Image]:
        return [image for image in self._watched_images.values() if image in self._viewer.layers]

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        window = self.parentWidget()
        while window is not None and not isinstance(window, QMainWindow):
            window = window.parentWidget()
        if window is not None:
            self.keys.claim(window)
            self.frames.hold(window)

    def event(self, event: QEvent) -> bool:
        """Out of its dock the widget is closed: napari takes away its parent and forgets it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            for end in self._endings:
                end()
            _layers.write_on_slice(self._viewer, "")
        return super().event(event)


def _check_inside(drawn: list[Sample], inside: list[Sample], names: tuple[str, ...]) -> None:
    """ValueError for a class whose strokes are all outside the box."""
    before, after = (
        set().union(*(np.unique(sample.target).tolist() for sample in each)) - {IGNORE} for each in (drawn, inside)
    )
    if left := [names[c] for c in sorted(before - after)]:
        raise ValueError(f"all strokes of {', '.join(left)} are outside the box; draw some inside, or make it larger")


def _moved(place: "Place", box: Box | None) -> "Place":
    """A place in a box as one of the image."""
    return place if box is None else replace(place, row=place.row + box.top, column=place.column + box.left)


def _advised(
    samples: list[Sample], names: tuple[str, ...], predictions: dict[str, dict[str, np.ndarray]] | None
) -> Generator[None, None, "list[Advice]"]:
    """In the thread: what the coach says about the strokes of some samples."""
    from trainer.coach import advice

    parts = {sample.name: sample.part for sample in samples}
    return [_placed(each, parts.get(each.image)) for each in advice(samples, names, predictions)]
    yield  # makes it a generator, one without events


def _placed(advice: "Advice", part: Part | None) -> "Advice":
    """Advice about a part of a stack, with its place in the stack."""
    if part is None or advice.slice is None:
        return advice
    top, left = part.corner
    place = advice.place and (advice.place[0] + top, advice.place[1] + left)
    return replace(advice, slice=part.slices[advice.slice], place=place)


def _measured(
    classes: np.ndarray, pixels: np.ndarray, spacing: tuple[float, ...], names: tuple[str, ...], unit: str
) -> Generator[None, None, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """In the thread: objects (*space) of the classes (*space), and their table."""
    from napari_scribblemamba._results import label_objects, object_table

    objects = label_objects(classes)
    return objects, object_table(objects, spacing, pixels, classes=classes, names=names, unit=unit)
    yield  # makes it a generator, one without events


def _settle(_: object) -> None:
    """All of torch has come since the window stands: with it, a collection of garbage would take 200 ms."""
    gc.freeze()


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


def _link(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFlat(True)
    button.setStyleSheet(LINK)
    button.setCursor(Qt.CursorShape.PointingHandCursor)
    return button


def spoken(seconds: float) -> str:
    """5400 -> "1.5 hours"."""
    size, unit = next((u for u in UNITS if seconds >= 1.5 * u[0]), UNITS[-1])
    return f"{seconds / size:.2g} {unit}"
