"""What is in hand: an image, its strokes, and the classes that they are drawn with. The panels are asked each time."""

from napari.layers import Image, Labels

from napari_scribblemamba._classes_panel import ClassesPanel
from napari_scribblemamba._layers_panel import LayersPanel


class Hand:
    def __init__(self, layers: LayersPanel, classes: ClassesPanel) -> None:
        self._layers, self._classes = layers, classes

    @property
    def image(self) -> Image | None:
        return self._layers.value()[0]

    @property
    def strokes(self) -> Labels | None:
        return self._layers.value()[1]

    def needed_image(self) -> Image:
        """ValueError where there is none."""
        if self.image is None:
            raise ValueError("there is no image to segment; open one, or File > Open Sample > ScribbleMamba")
        return self.image

    def needed(self) -> tuple[Image, Labels]:
        """The image and its strokes. ValueError where there are none."""
        image = self.needed_image()
        if self.strokes is None:
            raise ValueError(f"there are no strokes on '{image.name}'; press New and paint some of each class")
        return image, self.strokes

    def take(self, image: Image, strokes: Labels | None) -> None:
        self._layers.setValue((image, strokes))

    def channels(self) -> tuple[Image, ...]:
        """That are joined with the image."""
        return tuple(self._layers.channels())

    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(brush.name for brush in self._classes.value())
