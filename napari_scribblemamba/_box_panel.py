"""Whether one trains and predicts in a box only, and where that is."""

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_scribblemamba._box import Box

TITLE = "Only inside a box"


class BoxPanel(QWidget):
    """Edits a Box, or None; where it is, the viewer knows: asks for it."""

    valueChanged = Signal()  # None now
    viewRequested = Signal()
    adjustRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._box: Box | None = None
        self._on = QCheckBox(TITLE)
        self._on.setToolTip("Train and predict only what is in view now, of all slices; a rectangle shows it")
        self._view, self._adjust = QPushButton("Fit to view"), QPushButton("Adjust")
        self._view.setToolTip("The box is what of the image is in the picture now")
        self._adjust.setToolTip("Move the rectangle, or drag its corners; choose a class to go on drawing")
        self._on.toggled.connect(self._on_toggled)
        self._view.clicked.connect(self.viewRequested)
        self._adjust.clicked.connect(self.adjustRequested)
        self._row = QWidget()
        row = QHBoxLayout(self._row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._view, 1)
        row.addWidget(self._adjust, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._on)
        layout.addWidget(self._row)
        self.setValue(None)

    def value(self) -> Box | None:
        return self._box

    def setValue(self, box: Box | None) -> None:
        changed, self._box = box != self._box, box
        with QSignalBlocker(self._on):
            self._on.setChecked(box is not None)
        self._on.setText(TITLE if box is None else f"{TITLE}: {box.shape[0]} × {box.shape[1]} pixels")
        self._row.setVisible(box is not None)
        if changed:
            self.valueChanged.emit()

    def _on_toggled(self, on: bool) -> None:
        if on:
            self.viewRequested.emit()
        else:
            self.setValue(None)
