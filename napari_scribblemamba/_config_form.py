"""Every field of a Config as a form: magicgui makes each row's widget from the field's type."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from pydantic import TypeAdapter
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QSizePolicy, QWidget
from tyro.conf import Suppress

from trainer.config import Config

LARGEST = 2**31 - 1  # of what a spin box can hold
WANTED = {
    float: "a number",
    float | None: "a number or None",
    int | None: "a whole number or None",
    tuple[int, ...]: "whole numbers in brackets, such as (128, 128)",
    tuple[float, ...] | None: "numbers in brackets, such as (1.5, 1.5), or None",
}


class ConfigForm(QWidget):
    """Edits a Config but for the fields in `without` and those that are nobody's to choose, which it keeps."""

    valueChanged = Signal()

    def __init__(self, config: Config, without: Sequence[str] = ()) -> None:
        super().__init__()
        self._config = config
        hints = get_type_hints(Config, include_extras=True)
        names = [f.name for f in fields(Config) if Suppress not in get_args(hints[f.name]) and f.name not in without]
        self._types = {name: hints[name] for name in names}
        self._widgets = {name: _field(hint) for name, hint in self._types.items()}
        self._lay_out()
        self.setValue(config)
        for widget in self._widgets.values():
            widget.changed.connect(lambda _: self.valueChanged.emit())

    def value(self) -> Config:
        """ValueError where what was typed is no value of its field."""
        return replace(self._config, **{name: self._read(name) for name in self._widgets})

    def setValue(self, config: Config) -> None:
        changed = config != self._config
        self._config = config
        for name, widget in self._widgets.items():
            with widget.changed.blocked():
                widget.value = getattr(config, name)
        if changed:
            self.valueChanged.emit()

    def _read(self, name: str) -> Any:
        widget, hint = self._widgets[name], self._types[name]
        try:
            return TypeAdapter(hint).validate_python(widget.value)
        except (ValueError, SyntaxError) as e:
            text = widget.native.text()
            raise ValueError(f"{_title(name)} must be {WANTED.get(hint, hint)}, got '{text}'; correct it") from e

    def _lay_out(self) -> None:
        said = {each.arg_name: each.description for each in docstring_parser.parse_from_object(Config).params}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        for name, widget in self._widgets.items():
            native = widget.native
            native.setToolTip(said.get(name, ""))
            native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            native.setMinimumWidth(110)
            native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            native.installEventFilter(self)
            if isinstance(native, QComboBox):
                native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            form.addRow(_title(name), native)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The wheel scrolls the panel, not the values that pass under the mouse."""
        if event.type() == QEvent.Type.Wheel and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)


def _field(hint: Any) -> ValueWidget:
    if hint is int:
        return create_widget(annotation=int, options={"min": 0, "max": LARGEST})
    if hint in (bool, str) or get_origin(hint) is Literal:
        return create_widget(annotation=hint)
    return create_widget(widget_type="LiteralEvalLineEdit")  # numbers of any size, tuples, None


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
