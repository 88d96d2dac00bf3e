"""A slider through everything that was drawn: to look at, not to change."""

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QToolButton, QVBoxLayout, QWidget

from napari_scribblemamba._past import spoken
from napari_scribblemamba._training_panel import button_style

HINT = "color: #9aa4b0; font-size: 8pt;"
LENGTH = 8.0  # seconds that a replay takes
FRAME = 40  # ms, the shortest time between two steps of it


class ReplayPanel(QWidget):
    """Edits how many of the changes are seen; None: all of them, which is now, and one may draw."""

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._moments: list[float] = []
        self._past = False
        self._play, self._slider, self._line = QToolButton(), QSlider(Qt.Orientation.Horizontal), QLabel()
        self._play.setText("▶")
        self._play.setToolTip("Replay all that was drawn, pauses left out")
        self._slider.setToolTip("The strokes at any moment; nothing is changed")
        self._line.setStyleSheet(HINT)
        self._now = QPushButton("Back to now")
        self._now.setStyleSheet(button_style("#b4530a"))
        self._now.setMinimumHeight(28)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._on_frame)
        self._slider.valueChanged.connect(self._on_slider)
        self._play.clicked.connect(self._on_play)
        self._now.clicked.connect(lambda: self.setValue(None))
        row = QHBoxLayout()
        row.addWidget(self._play)
        row.addWidget(self._slider, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(row)
        layout.addWidget(self._line)
        layout.addWidget(self._now)
        self.set_moments([])

    def value(self) -> int | None:
        return self._slider.value() if self._past else None

    def setValue(self, steps: int | None) -> None:
        before, self._past = self.value(), steps is not None
        with QSignalBlocker(self._slider):
            self._slider.setValue(len(self._moments) if steps is None else steps)
        if steps is None:
            self._timer.stop()
        self._tell()
        if self.value() != before:
            self.valueChanged.emit()

    def set_moments(self, moments: Sequence[float]) -> None:
        """When something changed, seconds since 1970, in order."""
        self._moments = list(moments)
        with QSignalBlocker(self._slider):
            self._slider.setMaximum(len(self._moments))
            if not self._past:
                self._slider.setValue(len(self._moments))
        self._tell()

    def _on_slider(self, steps: int) -> None:
        self._past = True  # also at the end: who drags there looks on; the button leads back
        self._tell()
        self.valueChanged.emit()

    def _on_play(self) -> None:
        if self._timer.isActive():
            self._timer.stop()
            return
        if self.value() is None or self._slider.value() == self._slider.maximum():
            self.setValue(0)
        self._timer.start(max(FRAME, round(1000 * LENGTH / max(1, len(self._moments)))))

    def _on_frame(self) -> None:
        """A step, or more of them where there are very many."""
        stride = max(1, round(len(self._moments) * FRAME / (1000 * LENGTH)))
        self._slider.setValue(self._slider.value() + stride)
        if self._slider.value() == self._slider.maximum():
            self._timer.stop()

    def _tell(self) -> None:
        count, steps = len(self._moments), self.value()
        self._now.setVisible(self._past)
        if steps is None:
            self._line.setText(f"now, after {count:,} change{'s' * (count != 1)}")
        else:
            when = f", {spoken(self._moments[steps - 1])}" if steps else ", before the first"
            self._line.setText(f"after {steps:,} of {count:,}{when}")
