"""Where to draw next: the coach's advice, the networks' places, the referee's verdict, and the way to each place."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtCore import QObject

from napari_scribblemamba import _layers
from napari_scribblemamba._box import Box
from napari_scribblemamba._drawing import Drawing
from napari_scribblemamba._gallery import Gallery
from napari_scribblemamba._guide import Guidance, is_undrawn
from napari_scribblemamba._guide_panel import GuidePanel
from napari_scribblemamba._hand import Hand
from napari_scribblemamba._overlays import Overlays
from napari_scribblemamba._session import Session, once
from napari_scribblemamba._worker import run_in_background
from trainer.sample import IGNORE, Sample
from trainer.stack import Part

if TYPE_CHECKING:
    from trainer.coach import Advice
    from trainer.disagreement import Place

COACHED = 2**26  # voxels of a sample, at most, whose strokes the coach looks at


class Advisor(QObject):
    """Says it in the panel of the guide."""

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        hand: Hand,
        drawing: Drawing,
        gallery: Gallery,
        overlays: Overlays,
        panel: GuidePanel,
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(panel)  # and goes with it: what a thread finds afterwards nobody hears
        self._viewer, self._session, self._hand, self._drawing = viewer, session, hand, drawing
        self._gallery, self._overlays, self._panel, self._failed = gallery, overlays, panel, failed
        self.thinking = self._again = False
        panel.nextRequested.connect(lambda place: self._go_to(place.image, place.slice, place.row, place.column))
        panel.placeRequested.connect(lambda advice: self._go_to(advice.image, advice.slice or 0, *advice.place))
        session.guided.connect(self._on_guided)
        viewer.layers.events.removed.connect(self._on_removed)

    def end(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def forget(self) -> None:
        """A training begins, and what was said of the one before is past."""
        self._panel.setPlaces([])
        self._panel.setVerdict(None, ())

    def coach(self) -> None:
        """What to say about the strokes in hand and on the images beside; thought out in the background."""
        image, names, sample = self._hand.image, self._hand.names(), self._in_hand()
        if sample is None:
            return
        self._leave_out_drawn(image, sample)
        samples = [self._in_box(each) for each in (sample, *self.strokes_beside(image, names))]
        if self.thinking:
            self._again = True
        else:
            self._think(samples, names, self._seen(image, sample.part, names))

    def _in_hand(self) -> Sample | None:
        """The strokes in hand; None where there are none, or too many to look at."""
        image, strokes = self._hand.image, self._hand.strokes
        if image is None or strokes is None:
            return None
        try:
            sample = _layers.strokes_alone(strokes, image, self._hand.names(), self._drawing.tally)
        except ValueError:  # strokes of another image; Train says so
            return None
        return sample if sample.target.size <= COACHED else None

    def strokes_beside(self, image: Image, names: tuple[str, ...]) -> list[Sample]:
        """Those on the project's other images that are loaded, as far as these are not too large."""
        found = []
        for other, strokes in self._gallery.images.loaded():
            if other != image and strokes is not None and strokes.data.size <= COACHED:
                with suppress(ValueError):  # strokes of another image; Train says so
                    found.append(_layers.strokes_alone(strokes, other, names))
        return found

    def _seen(self, image: Image, part: Part | None, names: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]] | None:
        """What each network says where the image was drawn on; while it still learns, strokes contradict it anyway."""
        if self._session.state != "idle" or self._overlays.names != names:
            return None
        found = _layers.predicted_classes(self._viewer, image, part)
        seen = {name: classes for name, classes in found.items() if name in self._overlays.answered}
        return {image.name: seen} if seen else None

    def _think(
        self, samples: list[Sample], names: tuple[str, ...], predictions: dict[str, dict[str, np.ndarray]] | None
    ) -> None:
        self.thinking = True
        run_in_background(
            once(lambda: _advised(samples, names, predictions)),
            on_event=lambda _: None,
            on_done=self._on_advice,
            on_error=self._on_failed,
        )

    def _on_advice(self, advice: "list[Advice]") -> None:
        self.thinking = False
        self._panel.setAdvice(advice)
        if self._again:  # drawn on meanwhile
            self._again = False
            self.coach()

    def _on_failed(self, error: Exception) -> None:
        self.thinking = False
        self._failed(error)

    def _in_box(self, sample: Sample) -> Sample:
        """Without the strokes outside the box that was predicted: nobody has said anything of what is there."""
        box, corner = self._overlays.boxes.get(sample.name), (0, 0) if sample.part is None else sample.part.corner
        return sample if box is None else replace(sample, target=box.seen_from(*corner).masked(sample.target, IGNORE))

    def _leave_out_drawn(self, image: Image, sample: Sample) -> None:
        """A place of this image that was drawn on is answered."""
        name = self._overlays.name_of(image)
        if places := self._panel.places():
            self._show([p for p in places if p.image != name or is_undrawn(p, sample)])

    def _on_guided(self, guidance: Guidance) -> None:
        boxes = self._overlays.boxes
        self._show([_moved(place, boxes.get(place.image)) for place in guidance.places])
        if guidance.verdict is not None:  # that of a training stays when other images are looked at
            self._panel.setVerdict(guidance.verdict, self._overlays.names)
        if self._session.state not in ("training", "paused") and (sample := self._in_hand()) is not None:
            self._leave_out_drawn(self._hand.image, sample)  # the image was looked at without its strokes

    def _on_removed(self, event: object) -> None:
        if places := self._panel.places():
            self._show(places)

    def _show(self, places: "list[Place]") -> None:
        """Those whose images are in the viewer: who removes an image need not draw on it."""
        images = {place.image: self._image(place.image) for place in places}
        there = [place for place in places if images[place.image] is not None]
        self._panel.setPlaces(there, [name for name, image in images.items() if image is not None and image.ndim == 2])

    def _go_to(self, name: str, index: int, row: int, column: int) -> None:
        image = self._image(name)
        if image is not None:
            self._gallery.bring_forward(image)
            _layers.go_to(self._viewer, image, index, row, column)

    def _image(self, name: str) -> Image | None:
        """That was called so when it was looked at: its layer may have another name by now."""
        loaded = [image for image, _ in self._gallery.images.loaded()]
        called_so = [image for image in (*loaded, self._hand.image) if image is not None and image.name == name]
        known = [self._overlays.image(name), *called_so]
        return next((image for image in known if image in self._viewer.layers), None)


def _moved(place: "Place", box: Box | None) -> "Place":
    """A place in a box as one of the image."""
    return place if box is None else replace(place, row=place.row + box.top, column=place.column + box.left)


def _advised(
    samples: list[Sample], names: tuple[str, ...], predictions: dict[str, dict[str, np.ndarray]] | None
) -> "list[Advice]":
    """In the thread: what the coach says about the strokes of some samples."""
    from trainer.coach import advice

    parts = {sample.name: sample.part for sample in samples}
    return [_placed(each, parts.get(each.image)) for each in advice(samples, names, predictions)]


def _placed(advice: "Advice", part: Part | None) -> "Advice":
    """Advice about a part of a stack, with its place in the stack."""
    if part is None or advice.slice is None:
        return advice
    top, left = part.corner
    place = advice.place and (advice.place[0] + top, advice.place[1] + left)
    return replace(advice, slice=part.slices[advice.slice], place=place)
