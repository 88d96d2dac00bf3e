"""The classes: named brushes in colours, each with its key and how much of it is drawn. The chosen row is in hand."""

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path

from qtpy.QtCore import QModelIndex, QPoint, QRect, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QColorDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_scribblemamba._keys import ABSENT, CHOOSE, ERASE, spoken
from napari_scribblemamba._notes import Brush, default_brushes, default_colour

KEYS = (
    "Click a class, then draw. <b>[</b> <b>]</b> or <b>Alt</b>+move: brush size<br>"
    f"<b>{spoken(ERASE)}</b> erase · <b>Ctrl+Z</b> undo · <b>{ABSENT}</b> absent on this slice"
)
HINT = "color: #9aa4b0; font-size: 8pt;"
CHOSEN = "QListWidget::item:selected { background: #0b6bab; color: white; }"
FAINT = "#9aa4b0"
FEWEST = 2  # classes: the background and something
MARGIN = 8  # pixels at the right of a row
ERASED = -1  # instead of a class: its strokes go
KEY, PIXELS = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1  # of an item: its key and what is drawn of it


class ClassesPanel(QWidget):
    """Edits a tuple of Brush, background first."""

    valueChanged = Signal()
    currentChanged = Signal(int)  # class in hand
    renumbered = Signal(list)  # for each class there was: its new number, or ERASED; before valueChanged
    absentRequested = Signal()  # the class in hand, on the slice in view; or take that back
    importRequested = Signal(Path)
    exportRequested = Signal(Path)

    def __init__(self) -> None:
        super().__init__()
        self._brushes: list[Brush] = []
        self._pixels: list[int] = []  # drawn of each class
        self._absent: Container[int] = ()
        self._list = QListWidget()
        self._list.setItemDelegate(Row(self._list))
        self._list.setStyleSheet(CHOSEN)
        self._list.setIconSize(QSize(18, 18))
        self._list.setToolTip("Click a class, then draw. Double-click to rename it.")
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.currentRowChanged.connect(self._on_row_changed)
        self._list.itemChanged.connect(self._on_item_changed)
        self._list.itemClicked.connect(lambda item: self.currentChanged.emit(self._list.row(item)))

        self._add = _button("Add", "One more class", self.add)
        self._remove = _button("Remove", "Remove the chosen class; you are asked about its strokes", self._ask_remove)
        self._up = _button("▴", "Move the chosen class up, with its strokes", lambda: self.move(-1))
        self._down = _button("▾", "Move the chosen class down, with its strokes", lambda: self.move(1))
        self._more = QToolButton()
        self._more.setText("⋯")
        self._more.setToolTip("Colour, absence, import and export")
        self._more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._more.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        self._more.setMenu(self._rare_menu())
        buttons = QHBoxLayout()
        for button in (self._add, self._remove):
            buttons.addWidget(button, 1)
        for button in (self._up, self._down, self._more):
            button.setFixedWidth(34)
            buttons.addWidget(button)
        hint = QLabel(KEYS)
        hint.setStyleSheet(HINT)
        hint.setWordWrap(True)
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
        self._pixels = [*self._pixels, *[0] * len(brushes)][: len(brushes)]
        with QSignalBlocker(self._list):
            self._list.clear()
            for i, brush in enumerate(self._brushes):
                self._list.addItem(_item(brush, spoken(CHOOSE[i]) if i < len(CHOOSE) else ""))
            self._list.setCurrentRow(min(row, len(brushes) - 1) if row > 0 else 1)
        self._fit_height()
        self._show_drawn()
        self._update()
        self.valueChanged.emit()

    def set_drawn(self, pixels: Sequence[int], absent: Container[int] = ()) -> None:
        """How many pixels are drawn of each class, and which are marked as absent from the slice in view."""
        self._pixels, self._absent = list(pixels), absent
        self._show_drawn()

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
            self._update()

    def add(self) -> None:
        """A class with a name and a colour that no other has (while colours last)."""
        names, colours = {b.name for b in self._brushes}, {b.colour for b in self._brushes}
        free = [default_colour(i) for i in range(1, 8) if default_colour(i) not in colours]
        name = next(n for i in range(1, 256) if (n := f"class {i}") not in names)
        colour = free[0] if free else default_colour(len(self._brushes))
        self.setValue((*self._brushes, Brush(name, colour)))
        self.setCurrent(len(self._brushes) - 1)

    def remove(self, heir: int = ERASED) -> None:
        """Remove the chosen class; its strokes become the heir's, or go. The background stays."""
        index = self.current()
        if self._removable():
            rest = [i for i in range(len(self._brushes)) if i != index]
            self._arrange(rest, {index: ERASED if heir == ERASED else rest.index(heir)})
            self.currentChanged.emit(self.current())

    def move(self, by: int) -> None:
        """Move the chosen class up (-1) or down (1) the list; the background stays first."""
        index, there = self.current(), self.current() + by
        if self._movable(by):
            order = list(range(len(self._brushes)))
            order[index], order[there] = there, index
            self._arrange(order, {})
            self.setCurrent(there)

    def recolour(self, colour: str) -> None:
        """Give the chosen class this colour, "#rrggbb"."""
        row = self.current()
        self.setValue([replace(b, colour=colour) if i == row else b for i, b in enumerate(self._brushes)])

    def _arrange(self, order: Sequence[int], fates: dict[int, int]) -> None:
        """The classes in this order; `fates` of those that are not in it."""
        numbers = {old: new for new, old in enumerate(order)} | fates
        self._pixels = [self._pixels[i] for i in order]  # for now: the strokes are counted again
        self.renumbered.emit([numbers[old] for old in range(len(self._brushes))])
        self.setValue([self._brushes[i] for i in order])

    def _removable(self) -> bool:
        return len(self._brushes) > FEWEST and self.current() > 0

    def _movable(self, by: int) -> bool:
        return self.current() > 0 and 0 < self.current() + by < len(self._brushes)

    def _update(self) -> None:
        self._remove.setEnabled(self._removable())
        self._up.setEnabled(self._movable(-1))
        self._down.setEnabled(self._movable(1))

    def _ask_remove(self) -> None:
        """What shall become of the strokes? Nothing to ask where there are none."""
        if self._pixels[self.current()]:
            self._fates = self._removal_menu()  # kept: it is shown until something is chosen
            self._fates.popup(self._remove.mapToGlobal(QPoint(0, self._remove.height())))
        else:
            self.remove()

    def _removal_menu(self) -> QMenu:
        index = self.current()
        menu = QMenu(self)
        menu.addAction(f"Erase its {self._pixels[index]:,} pixels").triggered.connect(lambda: self.remove())
        for i, brush in enumerate(self._brushes):
            if i != index:
                action = menu.addAction(_swatch(brush.colour), f"Give them to {brush.name}")
                action.triggered.connect(lambda _=False, heir=i: self.remove(heir))
        return menu

    def _rare_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.addAction("Colour…").triggered.connect(self._ask_colour)
        menu.addAction(f"Absent on this slice\t{ABSENT}").triggered.connect(lambda: self.absentRequested.emit())
        menu.addSeparator()
        menu.addAction("Import classes…").triggered.connect(self._ask_import)
        menu.addAction("Export classes…").triggered.connect(self._ask_export)
        return menu

    def _ask_colour(self) -> None:
        brush = self._brushes[self.current()]
        colour = QColorDialog.getColor(QColor(brush.colour), self, f"Colour of {brush.name}")
        if colour.isValid():
            self.recolour(colour.name())

    def _ask_import(self) -> None:
        if path := QFileDialog.getOpenFileName(self, "Classes from a table", "", "CSV (*.csv)")[0]:
            self.importRequested.emit(Path(path))

    def _ask_export(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "Classes as a table", "classes.csv", "CSV (*.csv)")[0]:
            self.exportRequested.emit(Path(path))

    def _on_row_changed(self, row: int) -> None:
        self._update()
        self.currentChanged.emit(row)

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        """A name was typed; empty and double ones are taken back."""
        row, name = self._list.row(item), item.text().strip()
        if name and name not in {b.name for i, b in enumerate(self._brushes) if i != row}:
            self._brushes[row] = replace(self._brushes[row], name=name)
            self.valueChanged.emit()
        with QSignalBlocker(self._list):
            item.setText(self._brushes[row].name)

    def _show_drawn(self) -> None:
        with QSignalBlocker(self._list):
            for i, pixels in enumerate(self._pixels[: len(self._brushes)]):
                drawn = f"{pixels:,} px" if pixels else ""
                self._list.item(i).setData(PIXELS, "absent here" if i in self._absent else drawn)
        self._list.viewport().update()

    def _fit_height(self) -> None:
        """As high as its rows, up to seven."""
        rows = sum(self._list.sizeHintForRow(i) for i in range(min(len(self._brushes), 7)))
        self._list.setFixedHeight(rows + 2 * self._list.frameWidth() + 4)


class Row(QStyledItemDelegate):
    """Paints key and pixels at the right of a class's name."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        super().initStyleOption(option, index)
        room = option.rect.width() - 40 - option.fontMetrics.horizontalAdvance(_drawn_text(index)) - 2 * MARGIN
        option.text = option.fontMetrics.elidedText(option.text, Qt.TextElideMode.ElideRight, room)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        super().paint(painter, option, index)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        where = QRect(option.rect).adjusted(0, 0, -MARGIN, 0)
        painter.save()
        painter.setPen(QColor("white" if chosen else FAINT))
        painter.drawText(where, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, _drawn_text(index))
        painter.restore()


def _drawn_text(index: QModelIndex) -> str:
    return "   ".join(filter(None, (index.data(PIXELS), index.data(KEY))))


def _item(brush: Brush, key: str) -> QListWidgetItem:
    item = QListWidgetItem(_swatch(brush.colour), brush.name)
    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
    item.setSizeHint(QSize(0, 26))
    item.setData(KEY, key)
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


def _button(text: str, tip: str, slot: Callable[[], object]) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.clicked.connect(lambda: slot())  # without the click's `checked`
    return button
