"""Where to draw next, which network to trust so far, and what the coach says about the strokes."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from trainer.coach import Advice
    from trainer.disagreement import Place
    from trainer.referee import Score, Verdict

View = TypeVar("View", bound=QAbstractItemView)
NEXT = "N"  # the key, of the strokes' layer
TALLEST = 150  # pixels of a list, before it scrolls
OVERALL = "all"
HELD_OUT = "Scored on strokes that were held out; bold: the best so far."
NO_VERDICT = "No scores yet: they need four strokes of a class, and a training."
MARKS = {
    "missing": "●",
    "background": "●",
    "slip": "▲",
    "rare": "○",
    "border": "○",
    "left out": "○",
}  # kind of advice -> its mark


class GuidePanel(QWidget):
    """Edits the place to draw at next, one of those that were last found, or None."""

    valueChanged = Signal()
    nextRequested = Signal(object)  # Place
    placeRequested = Signal(object)  # Advice with a place
    allRequested = Signal()  # train on all strokes, also those held out
    told = Signal(str)  # the news in a word, for a title

    def __init__(self) -> None:
        super().__init__()
        self._places: list[Place] = []
        self._advice: list[Advice] = []
        self._next = QPushButton(f"Next place ( {NEXT} )")
        self._next.setToolTip("Go to the spot where the networks know least and nobody has drawn")
        self._list, self._coach = _list(), _list()
        self._coach.setWordWrap(True)
        self._coach.setTextElideMode(Qt.TextElideMode.ElideNone)
        self._table = _table()
        self._note = _note("")
        self._judge = QCheckBox("Keep 15 % of strokes to judge")
        self._judge.setToolTip("The next training does not learn from them; it scores every network on them instead")
        self._all = QPushButton("Train on all strokes")
        self._all.setToolTip("Learn from the held-out strokes too, once you know which network to trust")
        self._next.clicked.connect(self.next)
        self._list.itemClicked.connect(lambda item: self._go(self._list.row(item)))
        self._coach.itemClicked.connect(lambda item: self._look(self._coach.row(item)))
        self._all.clicked.connect(self._on_all)
        self._judge.toggled.connect(lambda: self._note.setVisible(self.judges() or not self._table.isHidden()))
        self._lay_out()
        self.setPlaces([])
        self.setVerdict(None, ())
        self.setAdvice([])

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._next)
        column.addWidget(self._list)
        column.addWidget(self._coach)
        column.addWidget(self._judge)
        column.addWidget(self._table)
        row = QHBoxLayout()
        row.addWidget(self._note, 1)
        row.addWidget(self._all)
        column.addLayout(row)
        column.addStretch(1)

    # the value ------------------------------------------------------------------------------------------------------

    def value(self) -> "Place | None":
        row = self._list.currentRow()
        return self._places[row] if row >= 0 else None

    def setValue(self, place: "Place | None") -> None:
        """Choose a place without going there. ValueError where it is none of the list."""
        if place is not None and place not in self._places:
            raise ValueError(f"{place} is none of the {len(self._places)} places; set them first")
        before = self.value()
        self._list.setCurrentRow(-1 if place is None else self._places.index(place))
        if self.value() != before:
            self.valueChanged.emit()

    def judges(self) -> bool:
        """Whether some strokes are held out of the next training."""
        return self._judge.isChecked()

    def set_judges(self, yes: bool) -> None:
        self._judge.setChecked(yes)

    def _on_all(self) -> None:
        self.set_judges(False)
        self.allRequested.emit()

    def next(self) -> None:
        """Go to the place after the one in hand, after the last to the first."""
        if self._places:
            self._go((self._list.currentRow() + 1) % len(self._places))

    def _go(self, row: int) -> None:
        self.setValue(self._places[row])
        self.nextRequested.emit(self._places[row])

    # what is shown --------------------------------------------------------------------------------------------------

    def setPlaces(self, places: "Sequence[Place]", flat: Container[str] = ()) -> None:
        """The list, best first; the place in hand stays where it is still in it, else `next` begins at the first.

        flat: names of the images that have no slices
        """
        kept = self.value()
        self._places = list(places)
        self._list.clear()
        self._list.addItems([_where(place, place.image in flat) for place in self._places])
        self._list.setVisible(bool(self._places))
        self._next.setEnabled(bool(self._places))
        self._list.setCurrentRow(self._places.index(kept) if kept in self._places else -1)
        self._tell()
        if self.value() != kept:
            self.valueChanged.emit()

    def places(self) -> "list[Place]":
        return list(self._places)

    def setVerdict(self, verdict: "Verdict | None", classes: Sequence[str]) -> None:
        """Networks by classes, F1 in percent; None where nothing is scored yet."""
        shown = verdict is not None and verdict.best is not None
        self._table.setVisible(shown)
        self._all.setVisible(shown)
        self._note.setText(HELD_OUT if shown else NO_VERDICT)
        self._note.setVisible(shown or self.judges())
        if shown:
            columns = {OVERALL: verdict.mean} | {
                name: {network: scores[c] for network, scores in verdict.classes.items()}
                for c, name in enumerate(classes)
            }
            self._fill(columns, list(verdict.mean))

    def setAdvice(self, advice: "Sequence[Advice]") -> None:
        """The coach's lines; those with a place can be clicked."""
        self._advice = list(advice)
        self._coach.clear()
        for each in self._advice:
            item = QListWidgetItem(f"{MARKS[each.kind]} {each.text}")
            item.setToolTip("Click to see it" if each.place is not None else each.text)
            self._coach.addItem(item)
        self._coach.setVisible(bool(self._advice))
        self._tell()

    def _tell(self) -> None:
        """How much there is, for the title of what is folded."""
        counts = ((len(self._places), "place"), (len(self._advice), "hint"))
        self.told.emit(" · ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counts if n))

    def _look(self, row: int) -> None:
        if self._advice[row].place is not None:
            self.placeRequested.emit(self._advice[row])

    def _fill(self, columns: "Mapping[str, Mapping[str, Score | None]]", networks: Sequence[str]) -> None:
        self._table.setRowCount(len(networks))
        self._table.setColumnCount(len(columns))
        self._table.setVerticalHeaderLabels(networks)
        self._table.setHorizontalHeaderLabels(list(columns))
        for j, name in enumerate(columns):  # a narrow column shows the beginning only
            self._table.horizontalHeaderItem(j).setToolTip(name)
        for j, scores in enumerate(columns.values()):
            best = max((score.f1 for score in scores.values() if score is not None), default=None)
            for i, network in enumerate(networks):
                self._table.setItem(i, j, _cell(scores[network], best))
        self._table.updateGeometry()


def _where(place: "Place", flat: bool) -> str:
    pixel = f"row {place.row}, column {place.column} · {place.image}"
    return pixel if flat else f"slice {place.slice} · {pixel}"


def _cell(score: "Score | None", best: float | None) -> QTableWidgetItem:
    """F1 in percent and its interval; bold where nothing is better."""
    if score is None:
        item = QTableWidgetItem("–")
        item.setToolTip("No stroke of this class is held out yet")
    else:
        low, high = round(100 * score.low), round(100 * score.high)
        item = QTableWidgetItem(f"{100 * score.f1:.0f}\n{low}-{high}")
        strokes = f"{score.strokes} held-out stroke{'s' * (score.strokes > 1)}"
        item.setToolTip(f"F1 {score.f1:.2f}, most likely {low}-{high} %; finds {100 * score.accuracy:.0f} %; {strokes}")
        font = item.font()
        font.setBold(score.f1 == best)
        item.setFont(font)
    item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
    return item


def _list() -> QListWidget:
    shown = _as_high_as_its_lines(QListWidget())
    shown.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    shown.setMaximumHeight(TALLEST)
    return shown


def _table() -> QTableWidget:
    table = _as_high_as_its_lines(QTableWidget())
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
    for header in (table.verticalHeader(), table.horizontalHeader()):
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    return table


def _as_high_as_its_lines(view: View) -> View:
    """And as wide as there is room."""
    view.setSizeAdjustPolicy(QAbstractItemView.SizeAdjustPolicy.AdjustToContents)
    view.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Maximum)
    view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
    return view


def _note(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    return label
