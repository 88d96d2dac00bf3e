"""What happens on the strokes in hand: notices every stroke, counts it, and tells once the person pauses."""

import time

from napari.layers import Labels
from napari.viewer import Viewer
from psygnal import Signal
from qtpy.QtCore import QTimer
from superqt.utils import qdebounced, qthrottled

from napari_scribblemamba._layers import visible_slice
from napari_scribblemamba._tally import Tally

PAUSE = 1000  # ms without a stroke, after which what was drawn is told
COUNT_EVERY = 200  # ms, while a stroke is being drawn
SHARE = 0.005  # seconds of counting at a time: the window goes on


class Drawing:
    """Follows one scribble layer at a time; no part of the window, so that it may outlive it."""

    changed = Signal()  # what is drawn may be different now
    counted = Signal()  # `tally` has news
    labelled = Signal(int)  # the label in hand

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.strokes: Labels | None = None
        self.tally: Tally | None = None
        self._slice: int | None = None  # that was in view at the last event
        self._tell = qdebounced(self.changed.emit, timeout=PAUSE)
        self._soon = qthrottled(self._on_paint, timeout=COUNT_EVERY, leading=False)
        self._timer = QTimer()
        self._timer.setInterval(4 * round(1000 * SHARE))
        self._timer.timeout.connect(self._count_some)

    def hold(self, strokes: Labels | None) -> None:
        """Follow these strokes from now on, or none."""
        if strokes == self.strokes:
            return
        self._connect("disconnect")
        self.strokes = strokes
        self._connect("connect")
        self._on_data()

    def end(self) -> None:
        """Follow nothing any more."""
        self.hold(None)
        for later in (self._tell, self._soon):
            later.cancel()
        self._timer.stop()

    def recount(self) -> None:
        """All of it, as much at a time as the window can spare."""
        if self.tally is not None:
            self.tally.recount()
            self._count_some()

    def _connect(self, verb: str) -> None:
        if self.strokes is None:
            return
        events = self.strokes.events
        pairs = (
            (events.paint, self._on_paint),
            (events.labels_update, self._on_dab),
            (events.set_data, self._on_set_data),
            (events.data, self._on_data),
            (events.selected_label, self._on_label),
        )
        for event, callback in pairs:
            getattr(event, verb)(callback)

    def _on_data(self, event: object = None) -> None:
        """Other strokes altogether."""
        self.tally = None if self.strokes is None else Tally(self.strokes.data)
        self._slice = self._plane()
        self._count_some()
        self._tell()

    def _on_dab(self, event: object = None) -> None:
        self._soon()

    def _on_paint(self, event: object = None) -> None:
        """A stroke is drawn, or a part of one."""
        if self.strokes is None:
            return
        if (plane := self._plane()) is None:
            self.recount()
        else:
            self.tally.recount(plane)
            self.counted.emit()
        self._tell()

    def _on_set_data(self, event: object = None) -> None:
        """napari shows the strokes anew: because another slice came into view, or because of an undo anywhere."""
        before, self._slice = self._slice, self._plane()
        if before == self._slice:
            self.recount()
            self._tell()

    def _on_label(self, event: object = None) -> None:
        self.labelled.emit(self.strokes.selected_label)

    def _plane(self) -> int | None:
        """The slice that is drawn on; None where a stroke may cross several."""
        strokes, dims = self.strokes, self._viewer.dims
        if strokes is None or strokes.ndim == 2:
            return 0
        planes = set(dims.displayed) == {dims.ndim - 2, dims.ndim - 1}  # the last two axes are in view
        return visible_slice(self._viewer, strokes) if planes and strokes.n_edit_dimensions == 2 else None

    def _count_some(self) -> None:
        begun = time.monotonic()
        for _ in self.tally.work() if self.tally else ():
            if time.monotonic() - begun > SHARE:
                break
        if self.tally and self.tally.due:
            self._timer.start()
        else:
            self._timer.stop()
        self.counted.emit()
