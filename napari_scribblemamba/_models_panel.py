"""What to do with a model: keep it, take up another, predict; and export the strokes it learnt from."""

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from trainer import Model


class ModelsPanel(QWidget):
    """Edits nothing itself: shows the model at hand and asks for folders."""

    predictRequested = Signal()
    allRequested = Signal()  # to predict all images of the project
    stopRequested = Signal()
    saveRequested = Signal(Path)
    loadRequested = Signal(Path)
    exportRequested = Signal(Path)

    def __init__(self) -> None:
        super().__init__()
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._has_model, self._state = False, "idle"
        self._predict = QPushButton("Predict image")
        self._predict.setToolTip("Segment all of the chosen image with the model at hand")
        self._load = QPushButton("Load run…")
        self._load.setToolTip("Take up the model of a run folder, from here or from python -m trainer.fit")
        self._save = QPushButton("Save run…")
        self._save.setToolTip("Write the model as a run folder: weights, settings, class names")
        self._export = QPushButton("Export strokes…")
        self._export.setToolTip(
            "Write image and strokes as a dataset (nnU-Net format) that python -m trainer.fit reads"
        )
        self._start = QCheckBox("Train from this model on")
        self._start.setToolTip("The next training begins with these weights; networks, classes and channels must match")
        self._all = QPushButton("Predict all images")
        self._all.setToolTip("Segment every image of the project, also those without strokes")
        self._all.clicked.connect(self.allRequested)
        self._predict.clicked.connect(self._on_predict)
        self._save.clicked.connect(self._ask_save)
        self._load.clicked.connect(self._ask_load)
        self._export.clicked.connect(self._ask_export)

        grid = QGridLayout()
        for i, button in enumerate((self._predict, self._export, self._load, self._save)):
            grid.addWidget(button, i // 2, i % 2)
        grid.addWidget(self._all, 2, 0, 1, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._label)
        layout.addLayout(grid)
        layout.addWidget(self._start)
        self.set_several(False)
        self.set_model(None)

    def set_several(self, several: bool) -> None:
        """Whether the project has more images than the one in hand."""
        self._all.setVisible(several)

    def set_model(self, model: "Model | None") -> None:
        """Name the model at hand."""
        self._has_model = model is not None
        self._start.setVisible(self._has_model)
        self._label.setText(_describe(model) if model else "No model yet: train one, or load a run.")
        self._update()

    def starts(self) -> bool:
        """Whether the next training begins with the model at hand."""
        return self._has_model and self._start.isChecked()

    def set_state(self, state: str) -> None:
        """Allow what the session can do now."""
        self._state = state
        self._update()

    def _update(self) -> None:
        idle, predicting = self._state == "idle", self._state == "predicting"
        self._predict.setText("Stop predicting" if predicting else "Predict image")
        self._predict.setEnabled(self._has_model and (idle or predicting))
        self._all.setEnabled(self._has_model and idle)
        self._save.setEnabled(self._has_model and idle)
        self._load.setEnabled(idle)
        self._export.setEnabled(idle)

    def _on_predict(self) -> None:
        (self.stopRequested if self._state == "predicting" else self.predictRequested).emit()

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


def _describe(model: "Model") -> str:
    return f"<b>{', '.join(model.names)}</b> for {', '.join(model.classes)}"
