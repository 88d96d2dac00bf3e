"""A part of a panel that is needed rarely: a line with a triangle, which a click unfolds."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QSizePolicy, QVBoxLayout, QWidget

LINE = "QPushButton { text-align: left; border: 0; padding: 2px 0; background: transparent; }"
HIDDEN, SHOWN = "▸", "▾"  # in the text: an arrow drawn by Qt is black on napari's dark theme


class Folded(QWidget):
    """Shows a title; the content under it where it was unfolded. It is as high as its content, whatever becomes of it,
    which superqt's QCollapsible is not."""

    toggled = Signal(bool)

    def __init__(self, title: str, content: QWidget, unfolded: bool = False) -> None:
        super().__init__()
        self._title, self._content = title, content
        self._line = QPushButton()
        self._line.setCheckable(True)
        self._line.setStyleSheet(LINE)
        self._line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # a long title is cut
        self._line.toggled.connect(self.unfold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._line)
        layout.addWidget(content)
        self.unfold(unfolded)

    def unfolded(self) -> bool:
        return self._line.isChecked()

    def unfold(self, yes: bool = True) -> None:
        self._line.setChecked(yes)
        self._content.setVisible(yes)
        self.set_title(self._title)
        self.toggled.emit(yes)

    def set_title(self, title: str) -> None:
        self._title = title
        self._line.setText(f"{SHOWN if self.unfolded() else HIDDEN} {title}")
