"""The buttons of a training: Train or Stop, Pause or Resume, and whether new strokes go on into what is running."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

BUTTONS = {  # state -> text, colour and tooltip of the main button
    "training": ("Stop", "#b4530a", "End now; what was learnt is kept"),
    "paused": ("Stop", "#b4530a", "End now; what was learnt is kept"),
}
TRAIN = ("Train", "#0b6bab", "Learn from the strokes (paint some of each class, the background too)")
PAUSES = {
    "training": ("Pause", "Wait after this step; the clock waits too"),
    "paused": ("Resume", "Go on where it was paused"),
}


class TrainingPanel(QWidget):
    """Edits whether a training takes up new strokes; shows the buttons that the session's state allows."""

    valueChanged = Signal()
    trainRequested = Signal()
    stopRequested = Signal()
    pauseRequested = Signal()
    resumeRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._state = "idle"
        self.button, self.pause = QPushButton(), QPushButton()
        for button in (self.button, self.pause):
            button.setMinimumHeight(34)
        self._keep = QCheckBox("Keep training while I draw")
        self._keep.setChecked(True)
        self._keep.setToolTip("New strokes enter the running training, a second after the last one; nothing restarts")
        self.button.clicked.connect(self._on_button)
        self.pause.clicked.connect(self._on_pause)
        self._keep.toggled.connect(self.valueChanged)

        row = QHBoxLayout()
        row.addWidget(self.button, 2)
        row.addWidget(self.pause, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self._keep)
        self.set_state("idle")

    def value(self) -> bool:
        return self._keep.isChecked()

    def setValue(self, keep: bool) -> None:
        self._keep.setChecked(keep)

    def set_state(self, state: str) -> None:
        self._state = state
        text, colour, tip = BUTTONS.get(state, TRAIN)
        self.button.setText(text)
        self.button.setToolTip(tip)
        self.button.setStyleSheet(button_style(colour))
        self.button.setEnabled(state in ("idle", "predicting", "training", "paused"))
        self.pause.setVisible(state in PAUSES)
        if state in PAUSES:
            text, tip = PAUSES[state]
            self.pause.setText(text)
            self.pause.setToolTip(tip)

    def _on_button(self) -> None:
        (self.stopRequested if self._state in PAUSES else self.trainRequested).emit()

    def _on_pause(self) -> None:
        (self.pauseRequested if self._state == "training" else self.resumeRequested).emit()


def button_style(colour: str) -> str:
    return f"QPushButton {{ background: {colour}; color: white; font-weight: bold; border-radius: 4px; }}"
