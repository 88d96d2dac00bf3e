"""Which slices of a stack are drawn on, and ways to jump among them."""

from collections.abc import Callable, Mapping

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QToolButton, QWidget

from napari_scribblemamba._keys import BACK, ON


class SlicesPanel(QWidget):
    """Edits the slice in view."""

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._slices: list[int] = []
        self._current = 0
        self._list = QComboBox()
        self._list.setToolTip("Slices with strokes, and how many pixels; choose one to see it")
        self._list.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._back = _arrow("◂", f"To the slice with strokes before this one ( {BACK} )")
        self._on = _arrow("▸", f"To the next slice with strokes ( {ON} )")
        self._list.activated.connect(lambda row: self._go(self._slices[row]))
        self._back.clicked.connect(self.back)
        self._on.clicked.connect(self.on)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._back)
        row.addWidget(self._list, 1)
        row.addWidget(self._on)
        self.setSlices({})

    def value(self) -> int:
        return self._current

    def setValue(self, index: int) -> None:
        self._current = index
        with QSignalBlocker(self._list):
            self._list.setCurrentIndex(self._slices.index(index) if index in self._slices else -1)
        self._back.setEnabled(any(z < index for z in self._slices))
        self._on.setEnabled(any(z > index for z in self._slices))

    def setSlices(self, pixels: Mapping[int, int], name: Callable[[int], str] = "slice {}".format) -> None:
        """slice -> pixels drawn on it, in order; name: what people call it."""
        self._slices = list(pixels)
        with QSignalBlocker(self._list):
            self._list.clear()
            self._list.addItems([f"{name(z)} · {n:,} px" for z, n in pixels.items()])
        count = len(self._slices)
        drawn = f"{count} slice{'s' * (count > 1)} with strokes" if count else "no strokes yet"
        self._list.setPlaceholderText(drawn)
        self._list.setEnabled(bool(count))
        self.setValue(self._current)

    def back(self) -> None:
        if earlier := [z for z in self._slices if z < self._current]:
            self._go(earlier[-1])

    def on(self) -> None:
        if later := [z for z in self._slices if z > self._current]:
            self._go(later[0])

    def _go(self, index: int) -> None:
        self.setValue(index)
        self.valueChanged.emit()


def _arrow(text: str, tip: str) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setAutoRepeat(True)
    return button
