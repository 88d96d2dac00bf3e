"""What to train and for how long: preset, networks and length at hand, every other field of Config under Advanced."""

from dataclasses import fields, replace

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QGridLayout, QHBoxLayout, QLabel, QWidget

from napari_scribblemamba._config_form import ConfigForm
from napari_scribblemamba._folded import Folded
from trainer.config import NETWORK_NAMES, PRESETS, Config

TITLES = {
    "unet": "UNet",
    "swinunet": "SwinUNet",
    "mambaunet": "MambaUNet",
    "umamba_bot": "U-Mamba Bot",
    "umamba_enc": "U-Mamba Enc",
    "vmunet": "VM-UNet",
    "swin_umamba": "Swin-UMamba",
    "swin_umamba_d": "Swin-UMamba†",
    "nnmamba": "nnMamba (3-D)",
    "unet_cct": "UNet, two decoders",
}
COLUMNS = 2  # of network boxes
HINTS = {
    "interactive": "Small networks that learn from your strokes while you wait",
    "paper": "Weak-Mamba-UNet as published, from strokes: large networks",
    "supervised": "One network on densely painted labels",
    "umamba": "U-Mamba as published, on densely painted labels: plans itself like nnU-Net",
    "vmunet": "VM-UNet as published, on densely painted labels",
    "swin_umamba": "Swin-UMamba as published, on densely painted labels",
    "nnmamba": "nnMamba on densely painted volumes",
}
HINT = "color: #9aa4b0; font-size: 8pt;"
AT_HAND = ("networks", "minutes", "iterations")  # fields with a place of their own above the form
FOUND = ("kernel",)  # noted by a run, not chosen


class SettingsPanel(QWidget):
    """Edits a Config. `value` raises ValueError where something was typed that is no value of its field."""

    valueChanged = Signal()
    presetChosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._config = PRESETS["interactive"]
        self._estimate = ""
        self._preset = QComboBox()
        for i, name in enumerate(PRESETS):
            self._preset.addItem(name)
            self._preset.setItemData(i, HINTS.get(name, ""), 3)  # 3: Qt.ToolTipRole
        self._hint = QLabel()
        self._hint.setWordWrap(True)
        self._hint.setStyleSheet(HINT)
        self._hint.setMinimumHeight(2 * self._hint.fontMetrics().height() - 4)  # else its second line may be cut
        self._networks = {name: QCheckBox(TITLES.get(name, name)) for name in NETWORK_NAMES}
        self._length = QDoubleSpinBox()
        self._length.setToolTip("How long to train; Stop ends it earlier and keeps what was learnt")
        self._unit = QComboBox()
        self._unit.addItems(["minutes", "iterations"])
        self._form = ConfigForm(self._config, without=(*AT_HAND, *FOUND))
        self._chosen = Folded("Networks", _grid(*self._networks.values()))
        self._advanced = Folded("Advanced", self._form)

        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.addRow("Preset", self._preset)
        form.addRow(self._hint)
        form.addRow("Length", _row(self._length, self._unit))
        form.addRow(self._chosen)
        form.addRow(self._advanced)
        self.setValue(self._config)

        self._preset.activated.connect(self._on_preset)
        self._unit.currentTextChanged.connect(self._on_unit)
        self._length.valueChanged.connect(self._on_changed)
        self._form.valueChanged.connect(self._on_changed)
        for box in self._networks.values():
            box.toggled.connect(self._on_changed)

    def value(self) -> Config:
        minutes = self._unit.currentText() == "minutes"
        length = self._length.value()
        return replace(
            self._form.value(),
            networks=self._chosen_networks(),
            minutes=length if minutes else None,
            iterations=None if minutes else round(length),
        )

    def setValue(self, config: Config) -> None:
        changed = config != self._config
        self._config, self._estimate = config, ""
        editors = (self._preset, self._unit, self._length, self._form, *self._networks.values())
        blockers = [QSignalBlocker(editor) for editor in editors]
        self._preset.setCurrentText(preset_of(config))
        self._form.setValue(config)
        for name, box in self._networks.items():
            box.setChecked(name in config.networks)
        self._unit.setCurrentText("iterations" if config.minutes is None else "minutes")
        self._set_range()
        self._length.setValue(config.iterations if config.minutes is None else config.minutes)
        del blockers
        self._describe()
        if changed:
            self.valueChanged.emit()

    def shows(self, config: Config) -> bool:
        """Whether this is what the form holds; what is half typed is nothing."""
        try:
            return self.value() == config
        except ValueError:
            return False

    def set_estimate(self, text: str) -> None:
        """How long this takes here, for people; gone with the next change."""
        self._estimate = text
        self._describe()

    def _describe(self) -> None:
        preset = self._preset.currentText()
        estimate = f" · {self._estimate}" if self._estimate else ""
        self._hint.setText(HINTS.get(preset, "") + estimate)
        titles = [TITLES.get(name, name) for name in self._chosen_networks()]
        self._chosen.set_title(f"Networks: {', '.join(titles)}" if len(titles) < 3 else f"Networks: {len(titles)}")
        self._chosen.setToolTip(", ".join(titles))
        changes = self._changes(preset)
        self._advanced.set_title(f"Advanced · {len(changes)} changed" if changes else "Advanced")
        self._advanced.setToolTip(f"Unlike {preset}: {', '.join(changes)}" if changes else "")

    def _changes(self, preset: str) -> list[str]:
        try:
            return [name for name in differences(PRESETS[preset], self.value()) if name not in (*AT_HAND, *FOUND)]
        except ValueError:  # in the middle of typing; Train says what is wrong
            return ["…"]

    def _chosen_networks(self) -> tuple[str, ...]:
        chosen = tuple(name for name, box in self._networks.items() if box.isChecked())
        # a config may name a network twice, or in another order: kept until a box is clicked
        return self._config.networks if set(chosen) == set(self._config.networks) else chosen

    def _on_preset(self) -> None:
        self.setValue(PRESETS[self._preset.currentText()])
        self.presetChosen.emit()

    def _on_changed(self) -> None:
        self._estimate = ""
        self._describe()
        self.valueChanged.emit()

    def _on_unit(self, unit: str) -> None:
        self._set_range()
        self._length.setValue(5 if unit == "minutes" else 500)
        self._on_changed()

    def _set_range(self) -> None:
        minutes = self._unit.currentText() == "minutes"
        self._length.setDecimals(2 if minutes else 0)
        self._length.setRange(0.05 if minutes else 1, 10_000 if minutes else 1_000_000)
        self._length.setSingleStep(1 if minutes else 100)


def differences(one: Config, other: Config) -> list[str]:
    """Names of the fields in which they differ."""
    return [f.name for f in fields(Config) if getattr(one, f.name) != getattr(other, f.name)]


def preset_of(config: Config) -> str:
    """The preset that this config is the least variation of."""
    return min(PRESETS, key=lambda name: len(differences(PRESETS[name], config)))


def _grid(*widgets: QWidget) -> QWidget:
    box = QWidget()
    grid = QGridLayout(box)
    grid.setContentsMargins(0, 0, 0, 0)
    for i, widget in enumerate(widgets):
        grid.addWidget(widget, i // COLUMNS, i % COLUMNS)
    return box


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(6)
    for widget in widgets:
        row.addWidget(widget, 1)
    return row
