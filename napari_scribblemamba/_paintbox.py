"""The classes and their strokes: the brush in hand, what is drawn of each class and where, classes marked as absent."""

from functools import partial
from pathlib import Path

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_error, show_info
from napari.viewer import Viewer
from psygnal import Signal
from superqt.utils import qthrottled

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._class_table import read_classes, write_classes
from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._drawing import Drawing
from napari_scribblemamba._hand import Hand
from napari_scribblemamba._keys import CHOOSE
from napari_scribblemamba._past import Past
from napari_scribblemamba._recorder import Recorder
from napari_scribblemamba._slices_panel import SlicesPanel

TALLY = 200  # ms between two updates of the numbers beside the classes


class Paintbox:
    """Of the strokes in hand; their layer is painted with what is chosen here."""

    taken = Signal()  # a brush, to paint with now
    marked = Signal()  # a class, as absent from a slice or not

    def __init__(
        self,
        viewer: Viewer,
        hand: Hand,
        drawing: Drawing,
        recorder: Recorder,
        past: Past,
        panel: ClassesPanel,
        slices: SlicesPanel,
    ) -> None:
        self._viewer, self._hand, self._drawing, self._recorder, self._past = viewer, hand, drawing, recorder, past
        self._panel, self._slices = panel, slices
        self._tell = qthrottled(self.show_tally, timeout=TALLY, leading=True)
        panel.valueChanged.connect(self._on_classes)
        panel.currentChanged.connect(self._take_brush)
        panel.renumbered.connect(lambda numbers: self._renumber(numbers, panel.current()))
        panel.absentRequested.connect(self.toggle_absent)
        panel.importRequested.connect(self._import)
        panel.exportRequested.connect(self._export)
        slices.valueChanged.connect(self._jump)
        drawing.labelled.connect(self._on_label)
        drawing.counted.connect(self._tell)
        recorder.reclassed.connect(self._on_reclassed)

    def end(self) -> None:
        self._tell.cancel()

    # the brush ------------------------------------------------------------------------------------------------------

    def choose(self, key: str) -> None:
        """By one of the keys of CHOOSE, where there are as many classes."""
        if CHOOSE.index(key) < len(self._panel.value()):
            self._panel.setCurrent(CHOOSE.index(key))

    def erase(self) -> None:
        self._drawing.strokes.mode = "erase"

    def _take_brush(self, index: int) -> None:
        """The class in hand: paint with it from now on."""
        strokes = self._hand.strokes
        self.taken.emit()
        if strokes is not None and index >= 0:
            self._viewer.layers.selection.active = strokes
            _layers.start_painting(strokes, label=index + 1)

    def _on_label(self, label: int) -> None:
        self._panel.mark(label - 1)

    # the classes ----------------------------------------------------------------------------------------------------

    def _on_classes(self) -> None:
        if self._hand.strokes is not None:
            _notes.set_brushes(self._hand.strokes, self._panel.value())
            self._recorder.take_classes(self._panel.value())
        self.show_tally()

    def _on_reclassed(self, strokes: Labels) -> None:
        """An undo gave other classes or marks back."""
        if strokes == self._hand.strokes:
            self._panel.setValue(_notes.brushes_of(strokes))
            strokes.selected_label = self._panel.current() + 1  # the class in hand may be gone
        self.show_tally()

    def _renumber(self, numbers: list[int], chosen: int = -1) -> None:
        """Classes moved or went: their strokes follow, to its heir where the chosen one went."""
        if self._hand.strokes is not None:
            self._recorder.renumber(self._hand.strokes, numbers, chosen)
            self._drawing.recount()

    def _import(self, file: Path) -> None:
        """Take the classes of a table; strokes stay with the names of theirs."""
        try:
            brushes = read_classes(file)
            self._renumber(self._places_in(brushes, file))
        except (ValueError, OSError) as e:
            show_error(str(e))
            return
        self._panel.setValue(brushes)

    def _export(self, file: Path) -> None:
        try:
            write_classes(file, self._panel.value())
        except OSError as e:
            show_error(str(e))

    def _places_in(self, brushes: tuple[_notes.Brush, ...], file: Path) -> list[int]:
        """Of each class at hand its number among these; -1 where it is not there, and nothing is drawn of it."""
        numbers, tally = {brush.name: i for i, brush in enumerate(brushes)}, self._drawing.tally
        for c, name in enumerate(self._hand.names()):
            if name not in numbers and tally is not None and tally.pixels(c + 1):
                raise ValueError(f"there are strokes of '{name}', which {file} does not name; remove that class first")
        return [numbers.get(name, -1) for name in self._hand.names()]

    # what is drawn --------------------------------------------------------------------------------------------------

    def toggle_absent(self) -> None:
        """Say that the class in hand is nowhere on this slice; or take it back."""
        strokes, c = self._drawing.strokes, self._panel.current()
        if strokes is None:
            show_error("there are no strokes yet; press New")
            return
        z = _layers.visible_slice(self._viewer, strokes) or 0
        absent = z not in _notes.absent_of(strokes).get(c, ())
        try:
            if absent and (np.asarray(strokes.data[_layers.place_of(strokes, z)]) == c + 1).any():
                raise ValueError(f"'{self._hand.names()[c]}' is drawn on this slice; erase it there, or choose another")
            _notes.mark_absent(strokes, c, z, absent)
            self._recorder.mark_absent(c, z, absent)
        except ValueError as e:
            show_info(str(e))
        self.show_tally()
        self.marked.emit()

    def show_tally(self) -> None:
        """What is drawn: beside each class, and in which slices."""
        strokes, tally = self._drawing.strokes, self._drawing.tally
        self._slices.setVisible(strokes is not None and strokes.ndim > 2)
        self._slices.setSlices(tally.slices if tally else {}, partial(_layers.name_of_slice, strokes))
        self.show_slice()

    def show_slice(self) -> None:
        """What belongs to the slice in view: its number, and the classes marked as absent from it."""
        strokes, tally, names = self._drawing.strokes, self._drawing.tally, self._hand.names()
        absent = []
        if strokes is not None:
            z = _layers.visible_slice(self._viewer, strokes) or 0
            self._slices.setValue(z)
            absent = [c for c, slices in _notes.absent_of(strokes).items() if z in slices]
        self._panel.set_drawn([tally.pixels(c + 1) if tally else 0 for c in range(len(names))], absent)
        said = ", ".join(names[c] for c in sorted(absent) if c < len(names))
        _layers.write_on_slice(self._viewer, self._past.words() or (f"absent here: {said}" if said else ""))

    def _jump(self) -> None:
        if self._drawing.strokes is not None:
            _layers.show_slice(self._viewer, self._drawing.strokes, self._slices.value())
