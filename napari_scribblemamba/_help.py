"""The manual in a window of its own, from the files that come with the package: it needs no network."""

from pathlib import Path

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QImage, QTextDocument
from qtpy.QtWidgets import QTextBrowser, QWidget

SIZE = 760, 820  # pixels
MARGIN = 60  # pixels beside a picture


class Help(QTextBrowser):
    """Shows a page of the manual; links to the other pages work, and those to the web open the browser."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowFlag(Qt.WindowType.Window)
        self.setWindowTitle("ScribbleMamba help")
        self.setOpenExternalLinks(True)
        self.resize(*SIZE)
        self.setSource(QUrl.fromLocalFile(str(docs_folder() / "manual.md")))

    def loadResource(self, kind: int, name: QUrl) -> object:
        """Pictures of whole windows are made as narrow as the page."""
        found = super().loadResource(kind, name)
        if kind != QTextDocument.ResourceType.ImageResource.value:
            return found
        image = QImage(self.source().resolved(name).toLocalFile())
        smooth, widest = Qt.TransformationMode.SmoothTransformation, SIZE[0] - MARGIN
        return image.scaledToWidth(widest, smooth) if image.width() > widest else image


def docs_folder() -> Path:
    """Where the manual lies: beside this file in an installed wheel, beside the package in a checkout."""
    package = Path(__file__).parent
    places = [package / "docs", package.parent / "docs"]
    for place in places:
        if (place / "manual.md").is_file():
            return place
    raise FileNotFoundError(f"no manual in {' or '.join(map(str, places))}; reinstall napari-scribblemamba")
