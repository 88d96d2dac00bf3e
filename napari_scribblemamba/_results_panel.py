"""What becomes of predictions: strokes to correct, objects to count and measure, the command that repeats it."""

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget


class ResultsPanel(QWidget):
    """Edits nothing itself; says what was found."""

    acceptRequested = Signal()
    objectsRequested = Signal()
    tableRequested = Signal(Path)
    copyRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        accept = _button(
            "Accept slice",
            "Copy the ensemble's prediction of this slice into the strokes, where nothing is drawn, to correct it;\n"
            "all of it counts as drawn from then on. Ctrl+Z takes it back.",
        )
        objects = _button("Objects", "Number and measure the objects of the ensemble's prediction, as a layer")
        self._table = _button("Save table…", "The measures of the objects as CSV, one row each")
        copy = _button("Copy as command", "The command that trains with these settings without a window, to paste")
        accept.clicked.connect(self.acceptRequested)
        objects.clicked.connect(self.objectsRequested)
        self._table.clicked.connect(self._ask_table)
        copy.clicked.connect(self.copyRequested)
        self._found = QLabel()
        self._found.setWordWrap(True)
        grid = QGridLayout()
        for i, button in enumerate((accept, objects, copy, self._table)):
            grid.addWidget(button, i // 2, i % 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addWidget(self._found)
        self._needing = (accept, objects)
        self.set_predicted(False)
        self.set_found("")

    def set_predicted(self, yes: bool) -> None:
        """There are predictions of the image."""
        for button in self._needing:
            button.setEnabled(yes)

    def set_found(self, text: str) -> None:
        """ "54 objects"; "" where none were looked for."""
        self._found.setText(text)
        self._found.setVisible(bool(text))
        self._table.setEnabled(bool(text))

    def found(self) -> str:
        return self._found.text()

    def _ask_table(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "The objects as a table", "objects.csv", "CSV (*.csv)")[0]:
            self.tableRequested.emit(Path(path))


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button
