"""What to do with a model: keep it, predict with it, hand it on, take up another; and export the strokes behind it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QLabel, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_scribblemamba._folded import Folded
from napari_scribblemamba._model_export import FORMS
from napari_scribblemamba._runs_panel import RunsPanel

if TYPE_CHECKING:
    from napari_scribblemamba._runs import Entry
    from trainer import Model


class ModelsPanel(QWidget):
    """Edits nothing itself: shows the model at hand and the others there are, and asks for folders."""

    predictRequested = Signal()
    allRequested = Signal()  # to predict all images of the project
    folderRequested = Signal(Path, Path)  # of images, for labels
    stopRequested = Signal()
    saveRequested = Signal(Path)
    loadRequested = Signal(Path)
    exportRequested = Signal(Path)
    modelExportRequested = Signal(Path, str)  # new folder, one of FORMS

    def __init__(self) -> None:
        super().__init__()
        self._label, self._told = QLabel(), QLabel()
        for label in (self._label, self._told):
            label.setWordWrap(True)
        self._has_model, self._state = False, "idle"
        self._predict = _button("Predict image", "Segment all of the chosen image with the model at hand")
        self._folder = _button(
            "Predict folder…",
            "Label every image of a folder (NIfTI, TIFF, PNG) with the model at hand; geometry is kept.\n"
            "What python -m trainer.predict does",
        )
        self._load = _button("Load run…", "Take up the model of a run folder, from here or from python -m trainer.fit")
        self._save = _button("Save run…", "Write the model as a run folder: weights, settings, class names")
        self._export = _button(
            "Export strokes…",
            "Write image and strokes as a dataset (nnU-Net format) that python -m trainer.fit reads",
        )
        self._model_export = _button("Export model…", "Write the model for other programs: ONNX, BioImage Model Zoo")
        self._menu = QMenu(self)
        for form, title in FORMS.items():
            self._menu.addAction(f"{title}…", lambda form=form: self._ask_model_export(form))
        self._start = QCheckBox("Train from this model on")
        self._start.setToolTip("The next training begins with these weights; networks, classes and channels must match")
        self._all = _button("Predict all images", "Segment every image of the project, also those without strokes")
        self._all.clicked.connect(self.allRequested)
        self.runs = RunsPanel()
        self._listed = Folded("Models", self.runs)
        self._predict.clicked.connect(lambda: self._ask_or_stop("predicting", self.predictRequested.emit))
        self._folder.clicked.connect(lambda: self._ask_or_stop("labelling", self._ask_folder))
        self._model_export.clicked.connect(lambda: self._ask_or_stop("exporting", self._show_menu))
        self._save.clicked.connect(self._ask_save)
        self._load.clicked.connect(self._ask_load)
        self._export.clicked.connect(self._ask_export)
        self.runs.useRequested.connect(self.loadRequested)

        buttons = (self._predict, self._folder, self._load, self._save, self._model_export, self._export)
        grid = QGridLayout()
        for i, button in enumerate(buttons):
            grid.addWidget(button, i // 2, i % 2)
        grid.addWidget(self._all, 2, 0, 1, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._label)
        layout.addWidget(self._listed)
        layout.addLayout(grid)
        layout.addWidget(self._told)
        layout.addWidget(self._start)
        self.set_several(False)
        self.set_model(None)
        self.set_entries([])
        self.set_told("")

    def set_several(self, several: bool) -> None:
        """Whether the project has more images than the one in hand."""
        self._all.setVisible(several)

    def set_model(self, model: "Model | None") -> None:
        """Name the model at hand."""
        self._has_model = model is not None
        self._start.setVisible(self._has_model)
        self._label.setText(_describe(model) if model else "No model yet: train one, or choose one of the list.")
        self._update()

    def set_entries(self, entries: Sequence["Entry"]) -> None:
        """The models that can be taken up."""
        self.runs.setEntries(entries)
        bundled = sum(entry.bundled for entry in entries)
        counts = {"bundled": bundled, "saved": len(entries) - bundled}
        self._listed.set_title(" · ".join(["Models", *(f"{n} {kind}" for kind, n in counts.items() if n)]))

    def set_told(self, text: str) -> None:
        """What became of a folder; "" takes it back."""
        self._told.setText(text)
        self._told.setVisible(bool(text))

    def told(self) -> str:
        return self._told.text()

    def starts(self) -> bool:
        """Whether the next training begins with the model at hand."""
        return self._has_model and self._start.isChecked()

    def set_state(self, state: str) -> None:
        """Allow what the session can do now."""
        self._state = state
        self._update()

    def _update(self) -> None:
        idle = self._state == "idle"
        own = {"predicting": self._predict, "labelling": self._folder, "exporting": self._model_export}
        titles = {"predicting": "Predict image", "labelling": "Predict folder…", "exporting": "Export model…"}
        for state, button in own.items():
            button.setText("Stop" if self._state == state else titles[state])
            button.setEnabled(self._has_model and (idle or self._state == state))
        self._all.setEnabled(self._has_model and idle)
        self._save.setEnabled(self._has_model and idle)
        self._load.setEnabled(idle)
        self._export.setEnabled(idle)
        self.runs.allow(idle)

    def _ask_or_stop(self, state: str, ask: Callable[[], object]) -> None:
        (self.stopRequested.emit if self._state == state else ask)()

    def _show_menu(self) -> None:
        self._menu.popup(self._model_export.mapToGlobal(self._model_export.rect().bottomLeft()))

    def _ask_folder(self) -> None:
        if images := QFileDialog.getExistingDirectory(self, "Choose the folder of images"):
            suggested = str(Path(images).with_name(f"{Path(images).name}-labels"))
            if out := QFileDialog.getSaveFileName(self, "Write the labels into the folder", suggested)[0]:
                self.folderRequested.emit(Path(images), Path(out))

    def _ask_save(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "Save the run as a new folder", "run")[0]:
            self.saveRequested.emit(Path(path))

    def _ask_load(self) -> None:
        if path := QFileDialog.getExistingDirectory(self, "Choose a run folder"):
            self.loadRequested.emit(Path(path))

    def _ask_export(self) -> None:
        if path := QFileDialog.getSaveFileName(
            self, "Export the strokes as a new dataset folder", "Dataset001_strokes"
        )[0]:
            self.exportRequested.emit(Path(path))

    def _ask_model_export(self, form: str) -> None:
        if path := QFileDialog.getSaveFileName(self, "Export the model as a new folder", f"model-{form}")[0]:
            self.modelExportRequested.emit(Path(path), form)


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _describe(model: "Model") -> str:
    return f"<b>{', '.join(model.names)}</b> for {', '.join(model.classes)}"
