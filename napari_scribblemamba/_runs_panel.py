"""A list of models with their cards: a click shows what is known of one, Use takes it up."""

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, QSize, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QListWidget, QListWidgetItem, QPushButton, QVBoxLayout, QWidget

from napari_scribblemamba._runs import Entry

ROWS = 5  # that are seen at once
HEIGHT = 24  # pixels of a row
NOTHING = "None yet. What you save or load is listed here."


class RunsPanel(QWidget):
    """Edits which run of the list is chosen: its folder, or None."""

    valueChanged = Signal()
    useRequested = Signal(Path)
    forgetRequested = Signal(Path)

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[Entry] = []
        self._list = QListWidget()
        self._list.setToolTip("Models that come with ScribbleMamba, and runs that were saved or loaded here")
        self._card = QLabel()
        self._card.setWordWrap(True)
        self._card.setTextInteractionFlags(self._card.textInteractionFlags().TextSelectableByMouse)
        self._use = QPushButton("Use this model")
        self._use.setToolTip("Take it up, to predict with or to train on; it takes the place of the model at hand")
        self._forget = QPushButton("Forget")
        self._forget.setToolTip("Take it out of the list; its files stay")
        self._list.currentRowChanged.connect(self._on_row)
        self._list.itemDoubleClicked.connect(self._on_use)
        self._use.clicked.connect(self._on_use)
        self._forget.clicked.connect(self._on_forget)
        row = QHBoxLayout()
        row.addWidget(self._use, 1)
        row.addWidget(self._forget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)
        layout.addWidget(self._card)
        layout.addLayout(row)
        self.setEntries([])

    def value(self) -> Path | None:
        row = self._list.currentRow()
        return self._entries[row].folder if row >= 0 else None

    def setValue(self, folder: Path | None) -> None:
        """A folder that is not listed is none."""
        folders = [entry.folder for entry in self._entries]
        self._list.setCurrentRow(folders.index(folder) if folder in folders else -1)

    def entries(self) -> list[Entry]:
        return list(self._entries)

    def setEntries(self, entries: Sequence[Entry]) -> None:
        """List these; the chosen one stays chosen where it is among them."""
        chosen = self.value()
        with QSignalBlocker(self._list):
            self._entries = list(entries)
            self._list.clear()
            for entry in self._entries:
                item = QListWidgetItem(f"{entry.title}  ·  bundled" if entry.bundled else entry.title)
                item.setToolTip(str(entry.folder))
                item.setSizeHint(QSize(0, HEIGHT))
                self._list.addItem(item)
            self._list.setCurrentRow(-1)
            self.setValue(chosen)
        rows = min(max(len(self._entries), 1), ROWS)
        self._list.setFixedHeight(rows * HEIGHT + 2 * self._list.frameWidth() + 2)
        self._list.setVisible(bool(self._entries))
        self._show()
        if self.value() != chosen:
            self.valueChanged.emit()

    def allow(self, yes: bool) -> None:
        """Whether a model can be taken up now."""
        self._use.setEnabled(yes)

    def _chosen(self) -> Entry | None:
        row = self._list.currentRow()
        return self._entries[row] if row >= 0 else None

    def _show(self) -> None:
        entry = self._chosen()
        self._card.setText(entry.text if entry else "" if self._entries else NOTHING)
        self._card.setVisible(bool(self._card.text()))
        self._use.setVisible(entry is not None)
        self._forget.setVisible(entry is not None and not entry.bundled)

    def _on_row(self) -> None:
        self._show()
        self.valueChanged.emit()

    def _on_use(self) -> None:
        if (entry := self._chosen()) and self._use.isEnabled():
            self.useRequested.emit(entry.folder)

    def _on_forget(self) -> None:
        if entry := self._chosen():
            self.forgetRequested.emit(entry.folder)
