"""Config: every choice of a run in one frozen value; the flags, the form and config.json all come from it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

NetworkName = Literal[
    "unet", "swinunet", "mambaunet", "umamba_bot", "umamba_enc", "vmunet", "swin_umamba", "swin_umamba_d"
]
FORMAT = 1  # of config.json; raised when an older version could not read it


@dataclass(frozen=True)
class Config:
    """What to train, on what view of the images, for how long, and on which machine.

    The defaults are those of a person who waits; `PRESETS` holds the published recipe and the supervised one.
    """

    networks: tuple[NetworkName, ...] = ("unet", "swinunet", "mambaunet")
    """Networks that learn together; one named twice is numbered (unet, unet2)."""
    size: Literal["official", "small"] = "small"
    """Widths and depths: as published, or small enough for a laptop."""
    objective: Literal["cross_teaching", "supervised"] = "cross_teaching"
    """Networks that teach each other from strokes, or each network alone on the labels."""

    minutes: float | None = None
    """Wall time from the start of the command to the saved model; or give iterations."""
    iterations: int | None = None
    """Optimiser steps; or give minutes."""
    seed: int = 0
    """Same seed, machine, threads and iterations: same weights."""

    view: Literal["patch", "resize"] = "patch"
    """Patches at the image's own resolution, or the whole slice resized."""
    patch: tuple[int, int] = (128, 128)
    """Height and width in pixels of what a network sees while training."""
    batch: int = 4
    """Views per step."""
    normalisation: Literal["equalised", "percentile", "zscore"] = "equalised"
    """Intensities: mean of logarithm and equalised histogram; or 99th percentile to 1; or mean 0, deviation 1."""
    augmentation: Literal["none", "paper", "strong"] = "strong"
    """Random changes of a view: none; the paper's turns and flips; or rotation, scale, shift and grey values."""
    interpolation: Literal["nearest", "linear"] = "linear"
    """How an image is resampled. The published script uses nearest, for images too."""

    propagation: bool = True
    """Spread the strokes over their slices and to the neighbours first, and learn from that too."""
    teaching: float = 1.0
    """Weight of the Dice loss against the networks' mixed prediction."""
    ramp_up: bool = True
    """Let that weight grow over the run. The published script computes a ramp and does not use it."""
    squared_dice: bool = True
    """Dice with squared probabilities in the denominator, as published; or plain sums."""
    dice_background: bool = True
    """Count the background class in the Dice loss, as published."""

    optimiser: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1.5e-3
    """Of the first step; it decays as (1 - progress)^0.9."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-2
    unet_rate_decays: bool = True
    """The published script forgets to decay the rate of its UNet."""
    clip: float | None = 10.0
    """Largest norm of a network's gradient."""

    validate_every: int = 200
    """Iterations between two looks at the validation images, where there are any."""
    checkpoint_seconds: float = 15.0
    """Time between two checkpoints on disk."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products and convolutions; the scan, norms and losses stay in float32."""
    threads: int = 0
    """Processor threads; 0 takes as many as torch does by itself, one a core."""
    kernel: str = "auto"
    """Scan kernel that the run found, for the record; the variable SCRIBBLEMAMBA_SCAN forces one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, those named twice numbered: ("unet", "unet2", "mambaunet")."""
        counts: dict[str, int] = {}
        names = []
        for network in self.networks:
            counts[network] = counts.get(network, 0) + 1
            names.append(network if counts[network] == 1 else f"{network}{counts[network]}")
        return tuple(names)

    def checked(self) -> "Config":
        """This config; ValueError where its values cannot work together."""
        problems = [
            (self.iterations is None) == (self.minutes is None)
            and f"give either iterations or minutes, got {self.iterations} and {self.minutes}",
            self.objective == "cross_teaching"
            and len(self.networks) < 2
            and f"cross_teaching needs two networks or more, got {list(self.networks)}; "
            "name another or use the objective supervised",
            not self.networks and "networks is empty; name at least one",
            self.batch < 1 and f"batch must be 1 or more, got {self.batch}",
            min(self.patch) < 16 and f"patch must be 16 pixels or more along each side, got {self.patch}",
            self.iterations is not None
            and self.iterations < 1
            and f"iterations must be 1 or more, got {self.iterations}",
            self.minutes is not None
            and not 0 < self.minutes < float("inf")
            and f"minutes must be more than 0, got {self.minutes}",
            self.validate_every < 1 and f"validate_every must be 1 or more, got {self.validate_every}",
            self.threads < 0 and f"threads must be 0 or more, got {self.threads}",
        ]
        for problem in filter(None, problems):
            raise ValueError(f"Config: {problem}")
        return self

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The config of such a dict, as JSON brings it back. ValueError names a field this version does not know."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"config: unknown fields {unknown}; it was written by another version")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}).checked()


def write_config(file: Path, config: Config, classes: tuple[str, ...], channels: int) -> None:
    """config.json of a run: the settings it used, the class names and the number of image channels."""
    content = {"format": FORMAT, "classes": list(classes), "channels": channels, "config": config.to_dict()}
    file.write_text(json.dumps(content, indent=1) + "\n")


def read_config(file: Path) -> tuple[Config, tuple[str, ...], int]:
    """(config, classes, channels) of a run's config.json. Errors name the file."""
    if not file.is_file():
        raise FileNotFoundError(f"no run in {file.parent}: {file.name} is missing; train one with trainer.fit")
    try:
        content = json.loads(file.read_text())
        if content["format"] > FORMAT:
            raise ValueError(f"format {content['format']} is newer than this version reads ({FORMAT}); update")
        return Config.from_dict(content["config"]), tuple(content["classes"]), int(content["channels"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{file} is not the config of a run: {e}") from e


PRESETS: dict[str, Config] = {
    "interactive": Config(minutes=5.0),
    # Weak-Mamba-UNet, arXiv 2402.10887, as its released script trains it
    "paper": Config(
        size="official",
        iterations=30_000,
        seed=2022,
        view="resize",
        patch=(224, 224),
        batch=12,
        normalisation="percentile",
        augmentation="paper",
        interpolation="nearest",
        propagation=False,
        ramp_up=False,
        optimiser="sgd",
        learning_rate=1e-2,
        weight_decay=1e-4,
        unet_rate_decays=False,
        clip=None,
        dtype="float32",
    ),
    "supervised": Config(
        networks=("unet",),
        size="official",
        objective="supervised",
        minutes=10.0,
        patch=(192, 192),
        batch=8,
        propagation=False,
        dice_background=False,
        normalisation="zscore",
        learning_rate=1e-3,
    ),
}

NETWORK_NAMES: tuple[str, ...] = get_args(NetworkName)
