"""Five hints for a first start, each beside the part of the panel that it is about; the first offers the samples."""

from dataclasses import dataclass

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_scribblemamba import _preferences

SEEN = "tour"  # among the preferences
SAMPLES = {"cardiac": "Heart", "microscopy": "Nuclei", "endoscopy": "Endoscopy"}
LOOK = "#tour { background: rgba(47, 143, 208, 45); border: 1px solid #2f8fd0; border-radius: 4px; }"


@dataclass(frozen=True)
class Hint:
    group: str  # the title of the part of the panel
    title: str
    text: str


HINTS = (
    Hint(
        "Image and strokes",
        "Open an image",
        "Drop a file on the window, or take one of these samples, which have strokes already. "
        "<b>New</b> makes a layer to draw on.",
    ),
    Hint(
        "Classes",
        "Draw a few strokes",
        "Name your classes and draw a line or two of each, the background too. Nothing has to be filled. "
        "<b>Ctrl+1…9</b> choose a class, <b>Ctrl+0</b> erases.",
    ),
    Hint(
        "Training",
        "Press Train",
        "Within seconds the overlay shows your strokes spread over the image; three networks learn from them. "
        "<b>Stop</b> whenever you like what you see.",
    ),
    Hint(
        "Progress",
        "Draw where it is wrong",
        "New strokes enter the running training. <b>N</b> takes you to where the networks know least, "
        "<b>C</b> hides and shows the overlay.",
    ),
    Hint(
        "Model",
        "Keep it",
        "Every stroke is on disk as you draw it. <b>Save run</b> keeps the networks, <b>Predict folder</b> labels "
        "images that nobody drew on; <b>Help</b> above tells the rest.",
    ),
)


class TourPanel(QFrame):
    """Edits which hint is shown: 0..4, or None for none of them."""

    valueChanged = Signal()
    sampleRequested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._index: int | None = None
        self.setObjectName("tour")
        self.setStyleSheet(LOOK)
        self._text = QLabel()
        self._text.setWordWrap(True)
        self._samples = QWidget()
        samples = QHBoxLayout(self._samples)
        samples.setContentsMargins(0, 0, 0, 0)
        for name, title in SAMPLES.items():
            button = QPushButton(title)
            button.setToolTip(f"Open the {name} sample, a generated image with strokes")
            button.clicked.connect(lambda _=False, name=name: self.sampleRequested.emit(name))
            samples.addWidget(button)
        self._back, self._next, self._close = QPushButton("Back"), QPushButton(), QPushButton("Close")
        self._close.setToolTip("Tour, at the top of the panel, brings the hints back")
        self._back.clicked.connect(lambda: self.setValue(self._index - 1))
        self._next.clicked.connect(self._on_next)
        self._close.clicked.connect(lambda: self.setValue(None))
        row = QHBoxLayout()
        row.addWidget(self._close)
        row.addStretch(1)
        row.addWidget(self._back)
        row.addWidget(self._next)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self._text)
        layout.addWidget(self._samples)
        layout.addLayout(row)
        self._show()

    def value(self) -> int | None:
        return self._index

    def setValue(self, index: int | None) -> None:
        """Show a hint. Who closes the hints is not shown them again unless he asks."""
        if index == self._index:
            return
        self._index = index
        if index is None:
            _preferences.remember(SEEN, {"seen": True})
        self._show()
        self.valueChanged.emit()

    def offer(self) -> None:
        """Begin, if it is the first start."""
        if not _preferences.remembered(SEEN, {}):
            self.setValue(0)

    def _on_next(self) -> None:
        self.setValue(None if self._index == len(HINTS) - 1 else self._index + 1)

    def _show(self) -> None:
        self.setVisible(self._index is not None)
        if self._index is None:
            return
        hint = HINTS[self._index]
        self._text.setText(f"<b>{self._index + 1} of {len(HINTS)} · {hint.title}</b><br>{hint.text}")
        self._samples.setVisible(self._index == 0)
        self._back.setEnabled(self._index > 0)
        self._next.setText("Done" if self._index == len(HINTS) - 1 else "Next")
