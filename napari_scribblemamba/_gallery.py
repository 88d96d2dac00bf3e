"""The images of a project in the window: the list to jump among them, and the project itself, saved and opened."""

import logging
from pathlib import Path

from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from napari.viewer import Viewer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_scribblemamba import _layers, _notes, _recovery
from napari_scribblemamba._folded import Folded
from napari_scribblemamba._hand import Hand
from napari_scribblemamba._images import Images
from napari_scribblemamba._images_panel import ImagesPanel
from napari_scribblemamba._project_panel import ProjectPanel
from napari_scribblemamba._recorder import Recorder

log = logging.getLogger(__name__)
LIST = 300  # ms between two updates of the list


class Gallery(QObject):
    """Shows one image of the project and puts the others aside; goes with its panel, which the recorder may outlive."""

    leaving = Signal()  # another image is about to be shown
    shown = Signal()
    listed = Signal(int)  # images of the project, at most every LIST ms

    def __init__(
        self, viewer: Viewer, recorder: Recorder, hand: Hand, panel: ImagesPanel, line: Folded, project: ProjectPanel
    ) -> None:
        super().__init__(panel)
        self._viewer, self._recorder, self._hand = viewer, recorder, hand
        self._panel, self._line, self._project = panel, line, project
        self.images = Images(viewer, recorder)
        self.mode = "paint"  # of the strokes that were in hand before
        self._listing = QTimer(self)
        self._listing.setSingleShot(True)
        self._listing.setInterval(LIST)
        self._listing.timeout.connect(self.list)
        self._coming = QTimer(self)  # until napari is through with layers that come and go
        self._coming.setSingleShot(True)
        self._coming.timeout.connect(self._leave_aside)
        viewer.layers.events.inserted.connect(self._on_layers)
        viewer.layers.events.removed.connect(self._on_layers)
        recorder.told.connect(self._tell)
        recorder.closed.connect(self._on_closed)
        panel.valueChanged.connect(lambda: self.show(panel.value()))
        panel.addRequested.connect(self._add)
        panel.removeRequested.connect(self._remove)
        panel.foundRequested.connect(self._relink)
        project.saveRequested.connect(self._save)
        project.openRequested.connect(self._open)
        project.forgetRequested.connect(self._forget)

    def end(self) -> None:
        """The viewer outlives the panel."""
        self._viewer.layers.events.inserted.disconnect(self._on_layers)
        self._viewer.layers.events.removed.disconnect(self._on_layers)

    # the images -----------------------------------------------------------------------------------------------------

    def show(self, key: str) -> None:
        """This one in view and in hand, the others aside."""
        self.leaving.emit()
        try:
            self._hand.take(*self.images.show(key))
        except (ValueError, OSError) as e:
            show_error(f"{e}; Find… says where it is" if isinstance(e, FileNotFoundError) else str(e))
            self._panel.setValue(key)  # what to find
        else:
            self._panel.setValue(key)
            self._take_in_hand()
            self.shown.emit()

    def bring_forward(self, image: Image) -> None:
        """Where another one is in hand, or it is hidden."""
        home, away = _notes.home_of(image), image != self._hand.image or not image.visible
        if away and home is not None and home[0] == str(self._recorder.project()):
            self.show(home[1])

    def bring_into_view(self) -> None:
        """The image in hand, where it is hidden or another one lies over it."""
        image, strokes = self._hand.image, self._hand.strokes
        if image is not None:
            _layers.bring_into_view(self._viewer, image, strokes, self._hand.channels())

    def list(self) -> None:
        """All images, where there are more than the one in hand."""
        rows = self.images.rows()
        others = self._others() if rows else []
        self._panel.setImages(rows)
        self._panel.setValue(self.images.key())
        self._panel.set_to_add([image.name for image in others])
        self._line.set_title(self._panel.title())
        self._line.setVisible(len(rows) > 1 or bool(others))
        self.listed.emit(len(rows))

    def _others(self) -> tuple[Image, ...]:
        """That could be added."""
        return tuple(image for image in self.images.to_add() if image not in self._hand.channels())

    def _tell(self) -> None:
        self._project.set_line(self._recorder.line())
        self._listing.start()

    def _take_in_hand(self) -> None:
        """The strokes of another image, with the tool at hand."""
        strokes = self._hand.strokes
        if strokes is not None:
            self._viewer.layers.selection.active = strokes
            strokes.mode = "erase" if self.mode == "erase" else "paint"

    def _on_layers(self, event: object) -> None:
        self._coming.start()
        self._listing.start()  # there may be more to add

    def _leave_aside(self) -> None:
        """Nobody looks at or draws on what is put aside, though it is in hand once the image before it is removed, or
        active as the last layer of a project that napari has read."""
        if self._hand.image is not None and _notes.is_aside(self._hand.image):
            self.bring_forward(self._hand.image)
            self.bring_into_view()  # where it has no strokes yet
        active = self._viewer.layers.selection.active
        if active is not None and _notes.is_aside(active):
            self._take_in_hand()

    def _add(self) -> None:
        for image in self._others():
            try:
                self.images.add(image)
            except (ValueError, OSError) as e:
                show_error(str(e))
        self.list()

    def _remove(self, key: str, forget: bool) -> None:
        try:
            if key == self.images.key():
                self.show(self.images.neighbour(key, 1))
            if key != self.images.key():  # else the other one cannot be shown, and that was said
                self.images.remove(key, forget)
        except (ValueError, OSError) as e:
            show_error(str(e))
        self.list()

    def _relink(self, key: str, path: Path) -> None:
        """Its file is elsewhere; where that is another one, it is asked whether it will do."""
        try:
            try:
                self.images.relink(key, path, changed=False)
            except ValueError as e:
                if not self._panel.confirms(f"{e}\n\nUse it nevertheless?"):
                    return
                self.images.relink(key, path, changed=True)
        except OSError as e:
            show_error(str(e))
            return
        self.list()
        self.show(key)

    # the project ----------------------------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        try:
            self._recorder.save_as(folder)
        except (ValueError, OSError) as e:
            show_error(str(e))
        else:
            show_info(f"saved to {folder}; from now on every stroke is kept there as you draw it")

    def _open(self, folder: Path) -> None:
        try:
            opened = self.images.open_project(folder)
        except (ValueError, OSError, ImportError) as e:
            show_error(str(e))
            return
        if opened is None:
            missing = ", ".join(_recovery.paths(folder)) or "it has none"
            show_error(f"no image of {folder} is where it was: {missing}. Put one back and open the project again")
            return
        self._hand.take(*opened)
        self.bring_into_view()
        self._take_in_hand()
        if folder == self._project.recovered():
            self.offer_recovered()  # the next: this one is open now

    def _on_closed(self, folder: Path) -> None:
        """Strokes were deleted from the viewer, not from the disk."""
        if _recovery.is_private(folder):
            self.offer_recovered()
        else:
            show_info(f"the strokes are kept in {folder}; Open project… brings them back")

    def _forget(self, folder: Path) -> None:
        try:
            _recovery.forget(folder)
        except (ValueError, OSError) as e:
            show_error(str(e))
        self.offer_recovered()

    def offer_recovered(self) -> None:
        """The newest strokes that nobody has saved, of those that can be read."""
        self._project.set_recovered(None)
        try:
            _recovery.prune()
            folders = _recovery.unsaved()
        except (ValueError, OSError) as e:
            log.warning("%s", e)
            return
        for folder in folders:
            try:
                self._project.set_recovered(folder, _recovery.title(folder))
                return
            except (ValueError, OSError) as e:
                log.warning("%s is not offered: %s", folder, e)
