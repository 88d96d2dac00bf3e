"""Keys of the strokes in hand, beside napari's own: bound on that one layer, gone from it when another is taken. Those
that lead back to it, and those that change nothing, work with any layer: bound on the viewer, after the layer's own.

Classes have Ctrl, for napari takes Shift away from digits and has the bare ones for its tools.
"""

from collections.abc import Callable

from napari.layers import Layer
from napari.viewer import Viewer
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QMainWindow

CHOOSE = tuple(f"Control-{digit}" for digit in range(1, 10))  # of the first nine classes
ERASE = "Control-0"
ABSENT = "A"
COMPARE = "C"
BACK, ON = ",", "."
NEXT = "N"
BEFORE, AFTER = "PageUp", "PageDown"  # images of the project
UNDO, REDO = "Control-Z", "Control-Shift-Z"
ANYWHERE = (*CHOOSE, COMPARE, NEXT, BEFORE, AFTER)
KEYS = (*ANYWHERE, ERASE, ABSENT, BACK, ON, UNDO, REDO)


class Keys:
    """Tells which of our keys was pressed: all of them while the layer in hand is the active one, else ANYWHERE's."""

    pressed = Signal(str)

    def __init__(self, viewer: Viewer) -> None:
        self._viewer, self._layer = viewer, None
        self._claim = Claim(lambda: self._layer is not None and viewer.layers.selection.active == self._layer)
        for key in ANYWHERE:
            viewer.bind_key(key, self._teller(key), overwrite=True)

    def claim(self, window: QMainWindow) -> None:
        """Let our erase key come before the menu entry of this window that has it as well."""
        window.installEventFilter(self._claim)

    def hold(self, layer: Layer | None) -> None:
        """Listen on this layer from now on, or on none."""
        if layer == self._layer:  # not `is`: a plugin gets its layers in wrappings, every time in a new one
            return
        if self._layer is not None:
            for key in KEYS:
                self._layer.bind_key(key, None)
        self._layer = layer
        if layer is not None:
            for key in KEYS:
                layer.bind_key(key, self._teller(key), overwrite=True)

    def end(self) -> None:
        self.hold(None)
        for key in ANYWHERE:
            self._viewer.bind_key(key, None)

    def _teller(self, key: str) -> Callable[[Layer | Viewer], None]:
        return lambda _: self.pressed.emit(key)


class Claim(QObject):
    """Keeps a window's menus from taking Ctrl+0 (napari 0.9: View > Original size) where the strokes want it."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def eventFilter(self, window: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.ShortcutOverride:
            return False
        ours = event.key() == Qt.Key.Key_0 and event.modifiers() == Qt.KeyboardModifier.ControlModifier
        if ours and self._wanted():
            event.accept()  # no shortcut: a key like others
            return True
        return False


def spoken(key: str) -> str:
    """ "Control-1" -> "Ctrl+1", as people read it."""
    return key.replace("Control-", "Ctrl+")
