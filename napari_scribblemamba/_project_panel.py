"""Where the strokes are kept: save them as a project, open one, take up what an earlier session has not saved."""

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

HINT = "color: #9aa4b0; font-size: 8pt;"
NOTHING = "Your strokes are kept from the first one on."


class ProjectPanel(QWidget):
    """Edits nothing itself: says where the strokes are and asks for folders."""

    saveRequested = Signal(Path)
    openRequested = Signal(Path)
    forgetRequested = Signal(Path)

    def __init__(self) -> None:
        super().__init__()
        self._recovered: Path | None = None
        self._save = _button("Save project…", "Keep image, strokes and their history in a folder of your choice")
        self._open = _button("Open project…", "Go on with the strokes of a project folder")
        self._take_up, self._forget = _button("Open", "Go on with them"), _button("Forget", "Delete them for good")
        self._line, self._lost = _small(NOTHING), _small("")
        self._save.clicked.connect(self._ask_save)
        self._open.clicked.connect(self._ask_open)
        self._take_up.clicked.connect(lambda: self.openRequested.emit(self._recovered))
        self._forget.clicked.connect(lambda: self.forgetRequested.emit(self._recovered))
        self._offer = QWidget()
        offer = QHBoxLayout(self._offer)
        offer.setContentsMargins(0, 0, 0, 0)
        offer.addWidget(self._lost, 1)
        offer.addWidget(self._take_up)
        offer.addWidget(self._forget)
        row = QHBoxLayout()
        row.addWidget(self._save, 1)
        row.addWidget(self._open, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._offer)
        layout.addLayout(row)
        layout.addWidget(self._line)
        self.set_recovered(None)

    def set_line(self, text: str) -> None:
        """Where the strokes in hand are kept; "" where nothing is drawn."""
        self._line.setText(text or NOTHING)

    def line(self) -> str:
        return self._line.text()

    def set_recovered(self, folder: Path | None, name: str = "") -> None:
        """Offer what an earlier session has not saved."""
        self._recovered = folder
        self._lost.setText(f"Recovered strokes of <b>{name}</b>")
        self._offer.setVisible(folder is not None)

    def recovered(self) -> Path | None:
        return self._recovered

    def _ask_save(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "Save the project as a new folder", "project")[0]:
            self.saveRequested.emit(Path(path))

    def _ask_open(self) -> None:
        if path := QFileDialog.getExistingDirectory(self, "Choose a project folder"):
            self.openRequested.emit(Path(path))


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _small(text: str) -> QLabel:
    label = QLabel(text)
    label.setStyleSheet(HINT)
    label.setWordWrap(True)
    return label
