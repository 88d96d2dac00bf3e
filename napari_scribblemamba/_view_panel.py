"""How the predictions are seen: outlines, opacity, off and on, what two networks disagree on, probabilities."""

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_scribblemamba._folded import Folded
from napari_scribblemamba._keys import COMPARE
from napari_scribblemamba._layers import View

ENSEMBLE = "ensemble"
LINE = 90  # percent of opacity


class ViewPanel(QWidget):
    """Edits a View, that of all prediction layers at once; asks for layers made from predictions."""

    valueChanged = Signal()
    differenceRequested = Signal(str, str)  # two networks
    probabilityRequested = Signal(str)  # a network; of the class in hand
    disagreementRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._names: tuple[str, ...] = ()
        self._has_model, self._state = False, "idle"
        self._contour = QCheckBox("Outlines")
        self._contour.setToolTip("Only the borders of what is predicted")
        self._opacity = QSlider(Qt.Orientation.Horizontal)
        self._opacity.setRange(0, 100)
        self._opacity.setToolTip("Opacity of all predictions")
        self._hide = QPushButton("Hide")
        self._hide.setCheckable(True)
        self._hide.setToolTip(f"Predictions off and on, to compare with the image ( {COMPARE} )")
        row = QHBoxLayout()
        row.addWidget(self._contour)
        row.addWidget(self._opacity, 1)
        row.addWidget(self._hide)

        self._one, self._other, self._of = QComboBox(), QComboBox(), QComboBox()
        for combo in (self._one, self._other, self._of):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._difference = QPushButton("Show where they differ")
        self._difference.setToolTip("A layer that shows where these two disagree")
        self._probability = QPushButton("Show how sure")
        self._probability.setToolTip("Predict again, and show how sure it is of the class in hand, as an image")
        self._disagreement = QPushButton("Show where all disagree")
        self._disagreement.setToolTip("A layer of how far the networks are apart, kept up to date as they learn")
        rare = QWidget()
        grid = QGridLayout(rare)
        grid.setContentsMargins(0, 0, 0, 0)
        for column, widget in enumerate((self._one, QLabel("–"), self._other)):
            grid.addWidget(widget, 0, column)
        grid.addWidget(self._difference, 1, 0, 1, 3)
        grid.addWidget(self._disagreement, 2, 0, 1, 3)
        grid.addWidget(self._of, 3, 0)
        grid.addWidget(self._probability, 3, 1, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(2, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(Folded("Differences and probabilities", rare))
        self.setValue(View())
        self._update()

        self._contour.toggled.connect(self._on_contour)
        self._opacity.valueChanged.connect(self.valueChanged)
        self._hide.toggled.connect(self._on_hide)
        self._difference.clicked.connect(
            lambda: self.differenceRequested.emit(self._one.currentText(), self._other.currentText())
        )
        self._disagreement.clicked.connect(self.disagreementRequested)
        self._probability.clicked.connect(lambda: self.probabilityRequested.emit(self._of.currentText()))
        for combo in (self._one, self._other):
            combo.currentTextChanged.connect(self._update)

    def value(self) -> View:
        return View(self._contour.isChecked(), self._opacity.value() / 100, self._hide.isChecked())

    def setValue(self, view: View) -> None:
        changed = view != self.value()
        blockers = [QSignalBlocker(widget) for widget in (self._contour, self._opacity, self._hide)]
        self._contour.setChecked(view.contour)
        self._opacity.setValue(round(100 * view.opacity))
        self._hide.setChecked(view.hidden)
        del blockers
        self._hide.setText("Show" if view.hidden else "Hide")
        if changed:
            self.valueChanged.emit()

    def blink(self) -> None:
        """Off where the predictions are on, and on where they are off."""
        self._hide.toggle()

    def set_names(self, names: Sequence[str]) -> None:
        """The networks whose predictions there are, the ensemble among them."""
        if tuple(names) == self._names:
            return
        self._names = tuple(names)
        for combo, row in ((self._one, 0), (self._other, min(1, len(names) - 1)), (self._of, 0)):
            with QSignalBlocker(combo):
                combo.clear()
                combo.addItems(self._names)
                combo.setCurrentIndex(row)
        with QSignalBlocker(self._of):
            self._of.setCurrentText(ENSEMBLE)
        self._update()

    def set_model(self, has_model: bool) -> None:
        self._has_model = has_model
        self._update()

    def set_state(self, state: str) -> None:
        self._state = state
        self._update()

    def _on_contour(self, contour: bool) -> None:
        """A line needs more ink than a surface."""
        with QSignalBlocker(self._opacity):
            self._opacity.setValue(LINE if contour else round(100 * View().opacity))
        self.valueChanged.emit()

    def _on_hide(self, hidden: bool) -> None:
        self._hide.setText("Show" if hidden else "Hide")
        self.valueChanged.emit()

    def _update(self) -> None:
        self.setVisible(bool(self._names))  # nothing to see yet
        self._difference.setEnabled(self._one.currentText() != self._other.currentText())
        self._disagreement.setEnabled(len(set(self._names) - {ENSEMBLE}) > 1)
        free = self._state in ("idle", "predicting")
        self._probability.setEnabled(self._has_model and free and bool(self._names))
