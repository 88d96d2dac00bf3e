"""The images of a project: which of them is in hand, how much is drawn on each, whether its file is still there."""

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QMessageBox,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_scribblemamba._images import Row
from napari_scribblemamba._keys import AFTER, BEFORE

MOST = 5  # rows in view; then the list scrolls
KEEP, FORGET, CANCEL = "Keep them in the folder", "Delete them", "Cancel"
TELL = {
    "there": "",
    "changed": "The file is no longer what it was when the strokes were drawn",
    "missing": "The file is no longer there; Find… says where it is",
}


class ImagesPanel(QWidget):
    """Edits the key of the image in hand."""

    valueChanged = Signal()
    addRequested = Signal()  # what the viewer has and the project has not
    removeRequested = Signal(str, bool)  # key; whether its strokes are to be deleted
    foundRequested = Signal(str, Path)  # key; the file that it is now

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Row] = []
        self._key = ""
        self._list = QTreeWidget()
        self._list.setColumnCount(2)
        self._list.setHeaderHidden(True)
        self._list.setRootIsDecorated(False)
        self._list.setUniformRowHeights(True)
        self._list.setStyleSheet("QTreeView::item { padding: 2px 0; }")
        self._list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self._list.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self._list.itemClicked.connect(lambda item: self._go(self._list.indexOfTopLevelItem(item)))
        self._add, self._find, self._remove = QPushButton("Add"), QPushButton("Find…"), QPushButton("Remove…")
        self._find.setToolTip("Say where the file of this image is now")
        self._remove.setToolTip("Take this image out of the project; you are asked about its strokes")
        self._add.clicked.connect(self.addRequested)
        self._find.clicked.connect(self._ask_file)
        self._remove.clicked.connect(self._ask_remove)
        row = QHBoxLayout()
        row.addStretch(1)
        for button in (self._add, self._find, self._remove):
            row.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._list)
        layout.addLayout(row)
        self.set_to_add([])
        self.setImages([])

    def value(self) -> str:
        return self._key

    def setValue(self, key: str) -> None:
        """The image in hand; "" where it is none of the list."""
        self._key = key
        keys = [row.key for row in self._rows]
        with QSignalBlocker(self._list):
            self._list.setCurrentItem(self._list.topLevelItem(keys.index(key)) if key in keys else None)
        self._find.setVisible(any(row.key == key and row.where != "there" for row in self._rows))
        self._remove.setEnabled(key in keys and len(keys) > 1)

    def setImages(self, rows: Sequence[Row]) -> None:
        if list(rows) != self._rows or not self._list.topLevelItemCount():
            self._rows = list(rows)
            with QSignalBlocker(self._list):
                self._list.clear()
                self._list.addTopLevelItems([_item(row) for row in rows])
            height = self._list.sizeHintForRow(0) if rows else 0
            self._list.setFixedHeight(height * min(len(rows), MOST) + 2 * self._list.frameWidth() + 2)
        self._list.setVisible(bool(rows))
        self.setValue(self._key)

    def set_to_add(self, names: Sequence[str]) -> None:
        """Images in the viewer that the project has not."""
        self._add.setVisible(bool(names))
        self._add.setText(f"Add {len(names)} opened" if len(names) > 1 else "Add opened")
        self._add.setToolTip(f"Take into this project: {', '.join(names)}")

    def title(self) -> str:
        """Of the list, for the line above it."""
        drawn = sum(bool(row.drawn) for row in self._rows)
        return f"{len(self._rows)} image{'s' * (len(self._rows) != 1)}, {drawn} with strokes"

    def confirms(self, question: str) -> bool:
        """Whether the person says yes."""
        return QMessageBox.question(self, "Another file", question) == QMessageBox.StandardButton.Yes

    def step(self, places: int) -> None:
        """To the next image (1) or the one before (-1)."""
        keys = [row.key for row in self._rows]
        if len(keys) > 1:
            self._go(((keys.index(self._key) if self._key in keys else -1) + places) % len(keys))

    def _go(self, row: int) -> None:
        if self._rows[row].key != self._key:
            self.setValue(self._rows[row].key)
            self.valueChanged.emit()

    def _ask_file(self) -> None:
        if path := QFileDialog.getOpenFileName(self, "Where is this image now?")[0]:
            self.foundRequested.emit(self._key, Path(path))

    def _ask_remove(self) -> None:
        [row] = [row for row in self._rows if row.key == self._key]
        forget = False
        if row.drawn:
            answer = asked_about_strokes(self, row)
            if answer == CANCEL:
                return
            forget = answer == FORGET
        self.removeRequested.emit(row.key, forget or not row.drawn)


def asked_about_strokes(parent: QWidget, row: Row) -> str:
    """KEEP, FORGET or CANCEL."""
    question = f"What becomes of the strokes on '{row.name}' ({row.drawn})?"
    box = QMessageBox(QMessageBox.Icon.Question, "Remove image", question, parent=parent)
    buttons = {box.addButton(text, QMessageBox.ButtonRole.ActionRole): text for text in (KEEP, FORGET)}
    cancel = box.addButton(CANCEL, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(cancel)
    box.exec()
    return buttons.get(box.clickedButton(), CANCEL)


def _item(row: Row) -> QTreeWidgetItem:
    mark = "" if row.where == "there" else f"⚠ {row.where} · "
    item = QTreeWidgetItem([row.name, f"{mark}{row.drawn or 'nothing drawn'}"])
    item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    item.setToolTip(0, TELL[row.where] or f"Show this image and its strokes ( {BEFORE}, {AFTER}: its neighbours )")
    item.setToolTip(1, TELL[row.where])
    return item
