"""The classes: named brushes in colours. The chosen row is the brush in hand."""

from collections.abc import Sequence
from dataclasses import replace

from qtpy.QtCore import QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_scribblemamba._layers import Brush, default_brushes, default_colour

KEYS = "Click a class, then draw on the image.<br><b>[</b> <b>]</b> brush size · <b>E</b> erase · <b>Ctrl+Z</b> undo"
HINT = "color: #9aa4b0; font-size: 8pt;"
CHOSEN = "QListWidget::item:selected { background: #0b6bab; color: white; }"
FEWEST = 2  # classes: the background and something


class ClassesPanel(QWidget):
    """Edits a tuple of Brush, background first."""

    valueChanged = Signal()
    currentChanged = Signal(int)  # class in hand
    removed = Signal(int)  # this class went; its strokes have to go too

    def __init__(self) -> None:
        super().__init__()
        self._brushes: list[Brush] = []
        self._list = QListWidget()
        self._list.setStyleSheet(CHOSEN)
        self._list.setIconSize(QSize(18, 18))
        self._list.setToolTip("Click a class, then draw. Double-click to rename it.")
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.currentRowChanged.connect(self._on_row_changed)
        self._list.itemChanged.connect(self._on_item_changed)
        self._list.itemClicked.connect(lambda item: self.currentChanged.emit(self._list.row(item)))

        self._add = _button("Add", "One more class", self.add)
        self._remove = _button("Remove", "Remove the chosen class and erase its strokes", self.remove)
        self._recolour = _button("Colour…", "Choose another colour for the chosen class", self._ask_colour)
        buttons = QHBoxLayout()
        for button in (self._add, self._remove, self._recolour):
            buttons.addWidget(button)
        hint = QLabel(KEYS)
        hint.setStyleSheet(HINT)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)
        layout.addLayout(buttons)
        layout.addWidget(hint)
        self.setValue(default_brushes(["background", "object"]))

    def value(self) -> tuple[Brush, ...]:
        return tuple(self._brushes)

    def setValue(self, brushes: Sequence[Brush]) -> None:
        if tuple(brushes) == self.value():
            return
        row = self.current()
        self._brushes = list(brushes)
        with QSignalBlocker(self._list):
            self._list.clear()
            for brush in self._brushes:
                self._list.addItem(_item(brush))
            self._list.setCurrentRow(min(row, len(brushes) - 1) if row > 0 else 1)
        self._fit_height()
        self._remove.setEnabled(len(brushes) > FEWEST and self.current() > 0)
        self.valueChanged.emit()

    def current(self) -> int:
        return self._list.currentRow()

    def setCurrent(self, index: int) -> None:
        """Take this class in hand, also where its row is the chosen one already."""
        if index == self.current():
            self.currentChanged.emit(index)
        self._list.setCurrentRow(index)

    def mark(self, index: int) -> None:
        """Show which class is in hand; nobody is told. An index without a class changes nothing."""
        if 0 <= index < len(self._brushes):
            with QSignalBlocker(self._list):
                self._list.setCurrentRow(index)
            self._remove.setEnabled(len(self._brushes) > FEWEST and index > 0)

    def add(self) -> None:
        """A class with a name and a colour that no other has (while colours last)."""
        names, colours = {b.name for b in self._brushes}, {b.colour for b in self._brushes}
        free = [default_colour(i) for i in range(1, 8) if default_colour(i) not in colours]
        name = next(n for i in range(1, 256) if (n := f"class {i}") not in names)
        colour = free[0] if free else default_colour(len(self._brushes))
        self.setValue((*self._brushes, Brush(name, colour)))
        self.setCurrent(len(self._brushes) - 1)

    def remove(self) -> None:
        """Remove the chosen class; the background stays."""
        index = self.current()
        if index < 1 or len(self._brushes) <= FEWEST:
            return
        self.removed.emit(index)
        self.setValue([b for i, b in enumerate(self._brushes) if i != index])
        self.currentChanged.emit(self.current())

    def recolour(self, colour: str) -> None:
        """Give the chosen class this colour, "#rrggbb"."""
        row = self.current()
        self.setValue([replace(b, colour=colour) if i == row else b for i, b in enumerate(self._brushes)])

    def _ask_colour(self) -> None:
        brush = self._brushes[self.current()]
        colour = QColorDialog.getColor(QColor(brush.colour), self, f"Colour of {brush.name}")
        if colour.isValid():
            self.recolour(colour.name())

    def _on_row_changed(self, row: int) -> None:
        self._remove.setEnabled(len(self._brushes) > FEWEST and row > 0)
        self.currentChanged.emit(row)

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        """A name was typed; empty and double ones are taken back."""
        row, name = self._list.row(item), item.text().strip()
        if name and name not in {b.name for i, b in enumerate(self._brushes) if i != row}:
            self._brushes[row] = replace(self._brushes[row], name=name)
            self.valueChanged.emit()
        with QSignalBlocker(self._list):
            item.setText(self._brushes[row].name)

    def _fit_height(self) -> None:
        """As high as its rows, up to seven."""
        rows = sum(self._list.sizeHintForRow(i) for i in range(min(len(self._brushes), 7)))
        self._list.setFixedHeight(rows + 2 * self._list.frameWidth() + 4)


def _item(brush: Brush) -> QListWidgetItem:
    item = QListWidgetItem(_swatch(brush.colour), brush.name)
    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
    item.setSizeHint(QSize(0, 26))
    return item


def _swatch(colour: str) -> QIcon:
    pixmap = QPixmap(36, 36)  # twice the icon's size, for screens with fine pixels
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor(colour))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.drawRoundedRect(2, 2, 32, 32, 8, 8)
    painter.end()
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)  # else Qt tints the chosen class's colour
    return icon


def _button(text: str, tip: str, slot: object) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.clicked.connect(lambda: slot())  # without the click's `checked`
    return button
