"""What to train and for how long: a form for the few fields of Config that people change."""

from dataclasses import replace

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QGridLayout, QHBoxLayout, QWidget

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
    "paper": "Weak-Mamba-UNet as published: large networks, hours on a CPU",
    "supervised": "One network on densely painted labels",
    "umamba": "U-Mamba as published, on densely painted labels: plans itself like nnU-Net",
    "vmunet": "VM-UNet as published, on densely painted labels",
    "swin_umamba": "Swin-UMamba as published, on densely painted labels",
    "nnmamba": "nnMamba on densely painted volumes",
}


class SettingsPanel(QWidget):
    """Edits a Config: preset, networks, length. What it does not show it keeps."""

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._config = PRESETS["interactive"]
        self._preset = QComboBox()
        for i, name in enumerate(PRESETS):
            self._preset.addItem(name)
            self._preset.setItemData(i, HINTS.get(name, ""), 3)  # 3: Qt.ToolTipRole
        self._networks = {name: QCheckBox(TITLES[name]) for name in NETWORK_NAMES}
        self._length = QDoubleSpinBox()
        self._length.setToolTip("How long to train; Stop ends it earlier and keeps what was learnt")
        self._unit = QComboBox()
        self._unit.addItems(["minutes", "iterations"])

        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Preset", self._preset)
        form.addRow(_grid(*self._networks.values()))
        form.addRow("Length", _row(self._length, self._unit))
        self.setValue(self._config)

        self._preset.activated.connect(self._on_preset)
        self._unit.currentTextChanged.connect(self._on_unit)
        self._length.valueChanged.connect(self.valueChanged)
        for box in self._networks.values():
            box.toggled.connect(self.valueChanged)

    def value(self) -> Config:
        minutes = self._unit.currentText() == "minutes"
        length = self._length.value()
        return replace(
            self._config,
            networks=self._chosen_networks(),
            minutes=length if minutes else None,
            iterations=None if minutes else round(length),
        )

    def setValue(self, config: Config) -> None:
        before = self.value() if self._length.maximum() > 100 else None
        self._config = config
        blockers = [QSignalBlocker(w) for w in (self._preset, self._unit, self._length, *self._networks.values())]
        self._preset.setCurrentText(_preset_of(config) or "interactive")
        self._preset.setToolTip(HINTS.get(self._preset.currentText(), ""))
        for name, box in self._networks.items():
            box.setChecked(name in config.networks)
        self._unit.setCurrentText("iterations" if config.minutes is None else "minutes")
        self._set_range()
        self._length.setValue(config.iterations if config.minutes is None else config.minutes)
        del blockers
        if before != config:
            self.valueChanged.emit()

    def _chosen_networks(self) -> tuple[str, ...]:
        chosen = tuple(name for name, box in self._networks.items() if box.isChecked())
        # a config may name a network twice, or in another order: kept until a box is clicked
        return self._config.networks if set(chosen) == set(self._config.networks) else chosen

    def _on_preset(self) -> None:
        self.setValue(PRESETS[self._preset.currentText()])

    def _on_unit(self, unit: str) -> None:
        self._set_range()
        self._length.setValue(5 if unit == "minutes" else 500)
        self.valueChanged.emit()

    def _set_range(self) -> None:
        minutes = self._unit.currentText() == "minutes"
        self._length.setDecimals(2 if minutes else 0)
        self._length.setRange(0.05 if minutes else 1, 10_000 if minutes else 1_000_000)
        self._length.setSingleStep(1 if minutes else 100)


def _preset_of(config: Config) -> str | None:
    """The preset that this config is a variation of: all but networks and length agree."""

    def rest(c: Config) -> Config:
        return replace(c, networks=(), minutes=None, iterations=None, threads=0)

    return next((name for name, preset in PRESETS.items() if rest(preset) == rest(config)), None)


def _grid(*widgets: QWidget) -> QGridLayout:
    grid = QGridLayout()
    for i, widget in enumerate(widgets):
        grid.addWidget(widget, i // COLUMNS, i % COLUMNS)
    return grid


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(6)
    for widget in widgets:
        row.addWidget(widget, 1)
    return row
