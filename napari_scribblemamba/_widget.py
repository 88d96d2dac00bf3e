"""The dock widget, and the index of the GUI: makes the panels and wires them to the Session.

Press Train: `_train` below -> Session.train (_session.py) -> run_in_background (_worker.py) -> trainer.Run.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager, show_error, show_info, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QGroupBox,
    QHBoxLayout,
    QMainWindow,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qdebounced

from napari_scribblemamba import _layers, _notes, _runs
from napari_scribblemamba._activity import Activity
from napari_scribblemamba._advisor import Advisor
from napari_scribblemamba._batch import Batch
from napari_scribblemamba._box_layer import BoxLayer
from napari_scribblemamba._box_panel import BoxPanel
from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._column import Column
from napari_scribblemamba._command import fit_command, predict_command
from napari_scribblemamba._drawing import Drawing
from napari_scribblemamba._findings import Findings
from napari_scribblemamba._folded import Folded
from napari_scribblemamba._frames import Frames
from napari_scribblemamba._gallery import Gallery
from napari_scribblemamba._garbage import spare
from napari_scribblemamba._guide import held_out
from napari_scribblemamba._guide_panel import GuidePanel
from napari_scribblemamba._hand import Hand
from napari_scribblemamba._help import Help
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
from napari_scribblemamba._overlays import Overlays
from napari_scribblemamba._paintbox import Paintbox
from napari_scribblemamba._past import Past, minutes_spoken
from napari_scribblemamba._predictor import Prediction
from napari_scribblemamba._progress_panel import ProgressPanel
from napari_scribblemamba._project_panel import ProjectPanel
from napari_scribblemamba._recorder import Recorder
from napari_scribblemamba._replay_panel import ReplayPanel
from napari_scribblemamba._results_panel import ResultsPanel
from napari_scribblemamba._session import Session, describe_machine, rehearsal
from napari_scribblemamba._settings_panel import SettingsPanel
from napari_scribblemamba._slices_panel import SlicesPanel
from napari_scribblemamba._tour import HINTS, TourPanel
from napari_scribblemamba._training_panel import TrainingPanel
from napari_scribblemamba._view_panel import ViewPanel
from napari_scribblemamba._worker import EngineError, run_in_background
from trainer.config import Config
from trainer.sample import IGNORE, Sample, check

log = logging.getLogger(__name__)
THREADS = max(1, (os.cpu_count() or 2) - 1)  # one core stays with the window
ROOM = 2**28  # bytes of images without strokes that a training may look at, too
LOOK = 150  # ms that a slice is in view before it is predicted
WIDTH = 340  # pixels
FRAMED = "QGroupBox { border: 2px solid #2f8fd0; }"
LINK = "QPushButton { border: 0; padding: 2px 6px; background: transparent; color: #5fb0e6; }"
GUIDE = "Scribble here next"
UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


class ScribbleMamba(QWidget):
    """Draw strokes, press Train, watch the networks' predictions come in."""

    def __init__(self, napari_viewer: Viewer, session: Session | None = None) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session = session or Session(run_in_background)
        self._held: dict[str, np.ndarray] = {}  # sample name -> strokes that judge, uint8 (*space)
        self._visited: dict[object, tuple[Image, Labels]] = {}  # by image's id: in hand since strokes were taken up
        self._dataset = Path("Dataset001_strokes")  # where strokes were exported last
        self._run: Path | None = None  # folder of the model at hand, where it is saved
        self._folders: tuple[Path, Path] | None = None  # images and labels, where that was the last thing asked for
        self._shown: object = None  # the model that the overlays are of
        self._help: Help | None = None
        self._warm = self._judged = False
        self._look = qdebounced(self._look_at_slice, timeout=LOOK)
        self._looked: tuple[str, int | None] | None = None  # (sample, slice): one that fails is not tried on and on

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
        self.drawing, self.keys = Drawing(napari_viewer), Keys(napari_viewer)
        self.recorder = Recorder(napari_viewer)
        self.past, self.box_layer, self.frames = Past(napari_viewer, self.recorder), BoxLayer(napari_viewer), Frames()
        self._lay_out()
        self._share_out()
        self._wire()
        self._on_layers_changed()
        self._on_state("idle")
        self.gallery.offer_recovered()
        self.models.set_entries(_runs.entries())
        self.tour.offer()

    def _lay_out(self) -> None:
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
        self._column = Column(list(groups))
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(2)
        top = QHBoxLayout()
        top.addStretch(1)
        top.addWidget(self._tour_button)
        top.addWidget(self._help_button)
        outer.addLayout(top)
        outer.addWidget(self.tour)
        outer.addWidget(self._column)

    def _share_out(self) -> None:
        """Each part of the panel that is more than a line goes to one who looks after it."""
        viewer, hand = self._viewer, Hand(self.layers, self.classes)
        self.hand = hand
        self.overlays = Overlays(viewer, self.classes, self.view)
        self.gallery = Gallery(viewer, self.recorder, hand, self.list, self._list_line, self.project)
        self.paintbox = Paintbox(viewer, hand, self.drawing, self.recorder, self.past, self.classes, self.slices)
        self.findings = Findings(viewer, hand, self.drawing, self.overlays, self.results, self._on_failed)
        self.advisor = Advisor(
            viewer, self.session, hand, self.drawing, self.gallery, self.overlays, self.guide, self._on_failed
        )

    def _wire(self) -> None:
        session = self.session
        self.layers.valueChanged.connect(self._on_layers_changed)
        self.layers.imageChosen.connect(self.gallery.bring_into_view)
        self.layers.newRequested.connect(self._new_strokes)
        self.layers.denseRequested.connect(self._take_dense)
        self.classes.valueChanged.connect(self.overlays.recolour)
        self.overlays.missed.connect(self._on_missed)
        self.paintbox.taken.connect(self._end_replay)
        self.paintbox.marked.connect(self._take_up_strokes)
        self.gallery.leaving.connect(self._end_replay)
        self.gallery.shown.connect(self.overlays.show_view)
        self.gallery.listed.connect(self._on_listed)
        self.layers.refused.connect(show_error)
        self.replay.valueChanged.connect(self._show_past)
        self.past.ended.connect(self._end_replay)
        self._replay_line.toggled.connect(lambda unfolded: unfolded or self._end_replay())
        self.box.viewRequested.connect(self.box_layer.take_view)
        self.box.adjustRequested.connect(self.box_layer.adjust)
        self.box.valueChanged.connect(lambda: self.box_layer.setValue(self.box.value()))
        self.box_layer.changed.connect(self._on_box)
        self.keys.pressed.connect(self._on_key)
        self.drawing.changed.connect(self._take_up_strokes)
        self.drawing.changed.connect(self.recorder.catch_up)
        self.drawing.changed.connect(self.advisor.coach)
        self.guide.allRequested.connect(self._train_on_all)
        self.guide.told.connect(lambda news: self._guide_line.set_title(f"{GUIDE} · {news}" if news else GUIDE))
        self.recorder.failed.connect(self._on_failed)
        self.settings.presetChosen.connect(self._estimate)
        self.training.trainRequested.connect(self._train)
        self.training.stopRequested.connect(self._stop)
        self.training.pauseRequested.connect(session.pause)
        self.training.resumeRequested.connect(session.resume)
        self.training.valueChanged.connect(self._take_up_strokes)
        self.view.differenceRequested.connect(lambda *two: self.overlays.show_difference(self.hand.image, *two))
        self.view.probabilityRequested.connect(self._predict)
        self.view.disagreementRequested.connect(self._show_disagreement)
        self.models.predictRequested.connect(self._predict)
        self.models.allRequested.connect(self._predict_all)
        self.models.stopRequested.connect(self._stop)
        self.models.saveRequested.connect(session.save)
        self.models.loadRequested.connect(session.load)
        self.models.exportRequested.connect(self._export)
        self.models.folderRequested.connect(self._label_folder)
        self.models.modelExportRequested.connect(self._export_model)
        self.models.runs.forgetRequested.connect(self._forget_run)
        self.results.copyRequested.connect(self._copy_command)
        self.tour.valueChanged.connect(self._show_hint)
        self.tour.sampleRequested.connect(self._open_sample)
        self._tour_button.clicked.connect(lambda: self.tour.setValue(0))
        self._help_button.clicked.connect(self._open_help)
        session.state_changed.connect(self._on_state)
        session.progressed.connect(self._on_progress)
        session.settled.connect(self._on_settled)
        session.measured.connect(self._on_measured)
        session.predicted.connect(self._on_predicted)
        session.model_changed.connect(self._on_model)
        session.saved.connect(self._on_saved)
        session.loaded.connect(self._on_loaded)
        session.stepped.connect(self._on_stepped)
        session.labelled.connect(self._on_labelled)
        session.broken.connect(lambda error: self.progress.set_failed(_explain(error)))
        session.failed.connect(self._on_failed)
        self._viewer.dims.events.point.connect(self._on_dims)
        # the window may delete this widget, or only take it out of its dock (see `event`); no reference to self here
        self._endings = endings = [
            session.close,
            self.past.close,
            self.box_layer.end,
            self.recorder.end,
            self.gallery.end,
            self.keys.end,
            self.frames.end,
            self.drawing.end,
            self.paintbox.end,
            self.overlays.end,
            self.advisor.end,
            self._look.cancel,
            self.activity.end,
            self.layers.unfollow,
            self.progress.redraw.cancel,
        ]
        self.destroyed.connect(lambda: _end_all(endings))

    def sizeHint(self) -> QSize:
        return QSize(WIDTH, 800)

    # the person does something --------------------------------------------------------------------------------------

    def _train_on_all(self) -> None:
        """Learn from the held-out strokes too; a training under way ends for it."""
        if self.session.state in ("training", "paused"):
            self.session.stop()
        self._train()

    def _train(self) -> None:
        try:
            self.session.check_free()
            config = self.settings.value()
            config = replace(config, threads=config.threads or THREADS).checked()
            images, samples, note = self._drawn_samples()
            check(samples, self.hand.names())
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        beside = self._beside(samples)
        self._watch([*images, *beside], self.hand.names())
        self._folders = None
        self.progress.set_note(note)
        samples, held = held_out(samples) if self.guide.judges() else (samples, None)
        self._judged, self._held = held is not None, held or {}
        start = self.session.model if self.models.starts() else None
        self.session.train(samples, self.overlays.names, config, held, start, list(beside.values()))

    def _drawn_samples(self) -> tuple[list[Image], list[Sample], str]:
        """All images of the project with strokes, the one in hand first; their samples, cut to their boxes; and what is
        left out. An image whose channels are joined is alone: nobody has said which channels the others have."""
        image, strokes = self.hand.needed()
        pairs, missing, channels = [(image, strokes)], [], self.hand.channels()
        if len(self.gallery.images.rows()) > 1 and not channels:
            others, missing = self.gallery.images.drawn()
            pairs += [pair for pair in others if pair[1] != strokes]
        names, samples, drawn = self.hand.names(), [], []
        for layer, its in pairs:
            tally, box = self.drawing.tally if its == self.drawing.strokes else None, _notes.box_of(layer)
            samples.append(_layers.sample_from_layers(layer, its, names, channels, tally, box))
            drawn += [] if box is None else [_layers.strokes_alone(its, layer, names, tally)]
        _check_inside(drawn, samples, names)
        note = f"without {', '.join(missing)}: not to be found" if missing else ""
        return [layer for layer, _ in pairs], samples, note

    def _beside(self, samples: list[Sample]) -> dict[Image, Sample]:
        """Open images of the project that nobody drew on, and their samples, as far as memory has room for them: they
        are seen where they come into view, and learnt from once they are drawn on."""
        found, names, room = {}, {sample.name for sample in samples}, ROOM
        for image, _ in [] if self.hand.channels() else self.gallery.images.loaded():
            if image.name in names or _layers.is_large(image):
                continue
            size = np.float32().nbytes * math.prod(image.data.shape)
            if size > room or (sample := _undrawn(image)) is None or not _alike(sample, samples[0]):
                continue
            found[image] = sample
            names.add(image.name)
            room -= size
        return found

    def _stop(self) -> None:
        self.session.stop()
        self.progress.set_stopped()

    def _take_up_strokes(self) -> None:
        """Give new strokes to the training that runs; where they cannot be used yet, it goes on with those before."""
        trains = self.session.state in ("training", "paused")
        if trains and not self.training.value():
            return
        pairs, self._visited = [pair for pair in self._visited.values() if pair[0] in self._viewer.layers], {}
        self._visit()
        if trains:
            self.progress.set_note("\n".join(filter(None, [self._missed(), *(self._take_up(*pair) for pair in pairs)])))

    def _missed(self) -> str:
        """Which images of the training were removed from the viewer; "" where none was."""
        learnt = {sample.name for sample in self.session.samples}
        names = ", ".join(name for name in self.overlays.missing() if name in learnt)
        return f"{names} removed from the viewer; what was drawn there is learnt from all the same" if names else ""

    def _on_missed(self) -> None:
        if self.session.state in ("training", "paused"):
            self.progress.set_note(self._missed())

    def _visit(self) -> None:
        """The strokes in hand may be drawn on; who then goes on to another image at once loses none of them."""
        image, strokes = self.layers.value()
        if image is not None and strokes is not None:
            self._visited[image.unique_id] = image, strokes

    def _take_up(self, image: Image, strokes: Labels) -> str:
        """Those of one image; why they are not in the training, or ""."""
        name, names = self.overlays.name_of(image), self.overlays.names
        samples = {sample.name: sample for sample in self.session.known}
        tally = self.drawing.tally if strokes == self.drawing.strokes else None
        if name not in samples or self.overlays.image(name) != image:  # another layer may have got that name
            drawn = tally is not None and tally.slices
            return f"'{image.name}' is not in this training; it will be in the next" if drawn else ""
        learnt = any(sample.name == name for sample in self.session.samples)
        if not learnt and not np.any(strokes.data):  # nobody has drawn on it yet
            return ""
        try:
            if tuple(brush.name for brush in _notes.brushes_of(strokes)) != names:
                raise ValueError("the classes are other ones now; stop and train again")
            box = self.overlays.boxes.get(name)
            self._renew(samples[name], _layers.redrawn(samples[name], strokes, image, names, tally, box))
        except ValueError as e:
            self._visited[image.unique_id] = image, strokes  # to be tried again
            return f"New strokes wait: {e}"
        return ""

    def _renew(self, old: Sample, new: Sample) -> None:
        """Train with this sample in place of the one of its name, or beside those, where it says anything else."""
        [new], held = held_out([new]) if self._judged else ([new], {})
        same = (new.absent, new.part) == (old.absent, old.part) and np.array_equal(new.target, old.target)
        same = same and all(np.array_equal(self._held.get(each), judges) for each, judges in held.items())
        self._held |= held
        if not same:
            samples = {sample.name: sample for sample in self.session.samples} | {new.name: new}
            self.session.update(list(samples.values()), self._held if self._judged else None)

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
            self._predict_these([self.hand.needed_image()], probabilities)
        except ValueError as e:
            show_error(str(e))

    def _show_disagreement(self) -> None:
        """Where the networks disagree: while they train, as far as they look; else of the whole image at once."""
        try:
            self.overlays.add_disagreement(self.hand.needed_image())
        except ValueError as e:
            show_error(str(e))
        else:
            if self.session.state == "idle" and self.session.model is not None:
                self._predict()

    def _predict_all(self) -> None:
        """Every image of the project, the one in hand first."""
        try:
            images = self.gallery.images
            self._predict_these([images.open(row.key)[0] for row in images.rows() if row.where != "missing"])
        except (ValueError, OSError) as e:
            show_error(str(e))

    def _predict_these(self, images: list[Image], probabilities: str | None = None) -> None:
        classes, samples = self.session.model.classes, []
        for image in images:
            channels = self.hand.channels() if image == self.hand.image else ()
            samples.append(_layers.sample_from_layers(image, None, classes, channels, box=_notes.box_of(image)))
        self._watch(images, classes)
        self.session.predict(samples, probabilities)

    def _export(self, folder: Path) -> None:
        try:
            _, samples, _ = self._drawn_samples()
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self._dataset = folder
        self.session.export(folder, samples, self.hand.names())

    def _show_hint(self) -> None:
        """Frame the part of the panel that the hint is about."""
        index = self.tour.value()
        chosen = None if index is None else self._groups[HINTS[index].group]
        for group in self._groups.values():
            group.setStyleSheet(FRAMED if group is chosen else "")
        if chosen is not None:
            for part in (self.tour, self, self._column.widget()):  # their new heights first: it is scrolled by these
                part.layout().activate()
            self._column.ensureWidgetVisible(chosen)

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

    def _copy_command(self) -> None:
        """The line for what was asked for last: a training, or the labels of a folder."""
        if self._folders is not None:
            command = predict_command(self._run or Path("run"), *self._folders)
            missing = "" if self._run else "\nSave run writes the run that it reads."
        else:
            try:
                start = (self._run or Path("start")) if self.models.starts() else None
                command = fit_command(self.settings.value(), self._dataset, Path("run"), start)
            except ValueError as e:
                show_error(str(e))
                return
            cut = ", cut to the box" if self.box.value() is not None else ""
            missing = "" if self._dataset.is_dir() else f"\nExport strokes writes the dataset that it reads{cut}."
        QApplication.clipboard().setText(command)
        show_info(f"copied: {command}{missing}")

    def _new_strokes(self) -> None:
        image = self.hand.image
        try:
            strokes = _layers.new_scribble_layer(self._viewer, image, self.classes.value())
        except ValueError as e:
            show_error(str(e))
            return
        self.hand.take(image, strokes)
        self.gallery.bring_into_view()
        self.classes.setCurrent(1)

    def _end_replay(self) -> None:
        self.replay.setValue(None)

    def _on_listed(self, images: int) -> None:
        """How many the project has; and how long was drawn, pauses left out."""
        self.models.set_several(images > 1)
        journal, project = self.recorder.journal, self.recorder.opened
        self._replay_line.setVisible(journal is not None and bool(journal.moments))
        if journal is not None:
            self.replay.set_moments(journal.moments)
            self._replay_line.set_title(f"Replay · {minutes_spoken(journal.minutes())} drawn")
            whole = f"; {minutes_spoken(project.minutes)} on all {images} images" if images > 1 else ""
            self._replay_line.setToolTip(f"Time spent drawing, pauses left out{whole}")

    def _show_past(self) -> None:
        self.past.show(self.replay.value())
        self.paintbox.show_slice()

    def _on_box(self) -> None:
        self.box.setValue(self.box_layer.value())
        if self.hand.image is not None:
            self.recorder.keep_settings(self.hand.image)

    def _take_dense(self, labels: Labels, objects: bool) -> None:
        image = self.hand.image
        try:
            strokes = _layers.strokes_from_labels(self._viewer, image, labels, objects)
        except ValueError as e:
            show_error(str(e))
            return
        self.hand.take(image, strokes)
        labels.visible = False  # they lie under the strokes now

    def _on_key(self, key: str) -> None:
        if key in CHOOSE:
            self.paintbox.choose(key)
        else:
            {
                ERASE: self.paintbox.erase,
                ABSENT: self.paintbox.toggle_absent,
                BACK: self.slices.back,
                ON: self.slices.on,
                COMPARE: self.view.blink,
                NEXT: self.guide.next,
                BEFORE: lambda: self.list.step(-1),
                AFTER: lambda: self.list.step(1),
                UNDO: self.recorder.undo,
                REDO: self.recorder.redo,
            }[key]()

    def _on_layers_changed(self) -> None:
        """Other strokes bring their own classes, or take those of the panel."""
        image, strokes = self.layers.value()
        if strokes != self.drawing.strokes:
            self._end_replay()
        self.recorder.hold(image, strokes)  # first: from here on the panel's classes are those of these strokes
        if strokes is not None:
            if brushes := _notes.brushes_of(strokes):
                self.classes.setValue(brushes)
            _notes.set_brushes(strokes, self.classes.value())
        self._visit()
        self.box_layer.hold(image)
        if strokes != self.drawing.strokes:
            if self.drawing.strokes is not None:
                self.gallery.mode = str(self.drawing.strokes.mode)
            self.keys.hold(strokes)
            self.drawing.hold(strokes)
            if strokes is not None:
                strokes.selected_label = self.classes.current() + 1
        self._show_source()
        self.findings.show()
        if image is not None:
            _layers.keep_few_slices(image)
        if image is not None and not self._warm:
            self._warm = True
            run_in_background(rehearsal(THREADS), on_event=log.debug, on_done=_settle, on_error=self._on_failed)
        self._on_dims()

    def _show_source(self) -> None:
        """What the overlay of the image in hand shows, and whether there is one to work with."""
        source = self.overlays.source(self.hand.image)
        self.progress.set_shown(source)
        self.results.set_predicted(bool(source))

    def _on_dims(self, event: object = None) -> None:
        """Another slice is in view."""
        image = self.hand.image
        if image is not None and image == self.overlays.image(name := self.overlays.name_of(image)):
            self.session.visible = (name, _layers.visible_slice(self._viewer, image))
        self.paintbox.show_slice()
        self._look()

    def _look_at_slice(self) -> None:
        """Of an image too large to be predicted unasked, the slice in view."""
        name, _ = visible = self.session.visible
        image = self.overlays.image(name)
        if image is None or visible in self.overlays.predicted:
            return
        if _layers.is_large(image, box=self.overlays.boxes.get(name)):
            self._looked = visible if self.session.state == "idle" else self._looked
            self.session.look()

    # the session tells something ------------------------------------------------------------------------------------

    def _on_state(self, state: str) -> None:
        self.training.set_state(state)
        self.settings.setEnabled(state not in ("training", "paused"))
        self.models.set_state(state)
        self.view.set_state(state)
        self.activity.set_state(state)
        self.frames.set_busy(state == "training")
        self.progress.set_state(state)
        self.overlays.set_state(state)
        if state == "idle" and self.overlays.give_back():
            self._on_dims()
        if state == "idle" and self.session.visible != self._looked:  # it may have come into view meanwhile
            self._look()

    def _on_settled(self, config: Config) -> None:
        """A training has begun: what is there, which it had to leave alone until now, gives way to what is to come."""
        self.overlays.clear()
        self.overlays.expect(config.names, [sample.name for sample in self.session.samples])
        self.advisor.forget()
        self.progress.setValue(None)
        self._show_source()
        self.progress.set_machine(describe_machine(config))
        self._run = None

    def _on_measured(self, config: Config, seconds: float) -> None:
        if self.settings.shows(config):
            self.settings.set_estimate(f"about {spoken(seconds)} on this machine")

    def _on_progress(self, progress: object) -> None:
        self.progress.show_progress(progress)
        self.activity.set_fraction(progress.fraction)

    def _on_predicted(self, prediction: Prediction) -> None:
        if self.session.state == "predicting" and self.session.model is not self._shown:
            self.overlays.clear()  # what another one said would stay where this one has not looked yet
            self._shown = self.session.model
        if not self.overlays.show(prediction):
            return
        self._show_source()
        if self.session.state == "predicting":
            self._on_stepped(prediction.fraction)

    def _on_model(self, model: object) -> None:
        self._shown = model
        self.models.set_model(model)
        self.view.set_model(True)
        if self.hand.strokes is None:  # a run was loaded before anything was drawn: its classes are what one would draw
            self.classes.setValue(_notes.default_brushes(model.classes))

    def _on_saved(self, folder: Path) -> None:
        show_info(f"saved to {folder}")
        if _runs.is_run(folder):  # and not strokes, or a model for other programs
            self._list_run(folder)

    def _on_loaded(self, folder: Path) -> None:
        self._shown = None
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

    def _watch(self, images: list[Image], names: tuple[str, ...]) -> None:
        """From now on predictions are of these images and these classes."""
        self.overlays.watch(images, names)
        self._on_dims()

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
            _end_all(self._endings)
            _layers.write_on_slice(self._viewer, "")
        return super().event(event)


def _undrawn(image: Image) -> Sample | None:
    """Without strokes; None where it cannot be read, of which who goes there is told."""
    try:
        return _layers.sample_from_layers(image, None, (), box=_notes.box_of(image))
    except (ValueError, OSError):
        return None


def _alike(one: Sample, other: Sample) -> bool:
    """Whether they could be learnt from together: images of as many channels and axes."""
    return (one.image.shape[0], one.image.ndim) == (other.image.shape[0], other.image.ndim)


def _end_all(endings: list[Callable[[], object]]) -> None:
    """Each once: when it is closed and again when it is deleted is too late, what Qt had of it is gone by then."""
    while endings:
        endings.pop(0)()


def _check_inside(drawn: list[Sample], inside: list[Sample], names: tuple[str, ...]) -> None:
    """ValueError for a class whose strokes are all outside the box."""
    before, after = (
        set().union(*(np.unique(sample.target).tolist() for sample in each)) - {IGNORE} for each in (drawn, inside)
    )
    if left := [names[c] for c in sorted(before - after)]:
        raise ValueError(f"all strokes of {', '.join(left)} are outside the box; draw some inside, or make it larger")


def _settle(_: object) -> None:
    """All of torch has come since the window stands: with it, a collection of garbage would take 200 ms."""
    spare()


def _explain(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, EngineError):
        return text
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
