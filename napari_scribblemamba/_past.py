"""Past: the strokes in hand as they were at a moment, on a layer of their own; the real ones are hidden meanwhile."""

import math
import time

from napari.layers import Labels
from napari.viewer import Viewer
from psygnal import Signal

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._recorder import Recorder
from napari_scribblemamba._strokes import Place


class Past:
    """Changes nothing of what is drawn: it reads the journal. No part of the window."""

    ended = Signal()  # now is seen again

    def __init__(self, viewer: Viewer, recorder: Recorder) -> None:
        self._viewer, self._recorder = viewer, recorder
        self._layer: Labels | None = None  # that shows the past
        self._strokes: Labels | None = None  # that are hidden meanwhile
        self._mode = ""  # of theirs
        self._places: set[Place] = set()  # planes of the layer on which something is
        viewer.layers.events.removed.connect(self._on_removed)

    def moments(self) -> list[float]:
        """When the strokes in hand changed, seconds since 1970."""
        journal = self._recorder.journal
        return [] if journal is None else journal.moments

    def shown(self) -> bool:
        return self._layer is not None

    def words(self) -> str:
        """For the picture; "" where it shows now."""
        return "" if self._layer is None else "the past, to look at only · Back to now is in the panel"

    def show(self, steps: int | None) -> None:
        """The strokes after so many changes; None: as they are now."""
        if steps is None or self._recorder.journal is None:
            self.end()
            return
        self._recorder.settle()
        if self._layer is None:
            self._begin()
        moments = self.moments()
        state = self._recorder.journal.at(moments[min(steps, len(moments)) - 1] if steps else -math.inf)
        layer, places = self._layer, {key[:-2] for key in state.tiles}
        for place in self._places | places:
            layer.data[place] = state.read(place)[(0,) * len(place)]
        self._places = places
        _notes.colour(layer, [_notes.Brush(each.name, each.colour) for each in state.classes])
        layer.refresh()

    def end(self) -> None:
        """Back to now."""
        layer, strokes, self._layer, self._strokes = self._layer, self._strokes, None, None
        if layer is None:
            return
        self._places = set()
        if layer in self._viewer.layers:
            _layers.unlock(layer)
            self._viewer.layers.remove(layer)
        if strokes in self._viewer.layers:
            strokes.visible = strokes.editable = True
            self._viewer.layers.selection.active = strokes
            strokes.mode = self._mode
        self.ended.emit()

    def close(self) -> None:
        self.end()
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _begin(self) -> None:
        image, strokes = self._recorder.layers
        self._strokes, self._mode = strokes, str(strokes.mode)
        self._layer = _layers.past_layer(self._viewer, image, strokes)
        strokes.visible = strokes.editable = False
        self._viewer.layers.selection.active = self._layer

    def _on_removed(self, event: object) -> None:
        if self._layer is not None and event.value == self._layer:
            self.end()


def spoken(seconds: float) -> str:
    """A moment for people: the time, with its day where that is not today."""
    moment, today = time.localtime(seconds), time.localtime()
    day = "" if moment[:3] == today[:3] else time.strftime("%d %b ", moment)
    return day + time.strftime("%H:%M:%S", moment)


def minutes_spoken(minutes: float) -> str:
    return "under a minute" if minutes < 1 else f"{math.floor(minutes)} min"
