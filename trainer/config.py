"""Config: every choice of a run in one frozen value; the flags, the form and config.json all come from it."""

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Suppress

SegmenterName = Literal[
    "unet",
    "swinunet",
    "mambaunet",
    "umamba_bot",
    "umamba_enc",
    "vmunet",
    "swin_umamba",
    "swin_umamba_d",
    "nnmamba",
    "unet_cct",
]
NetworkName = Literal[SegmenterName, "nnmamba_cls"]
ObjectiveName = Literal[
    "cross_teaching",  # Weak-Mamba-UNet
    "supervised",  # cross-entropy and Dice on dense labels, or on what is drawn
    "pce",
    "entropy_min",
    "tv",
    "inter_intra",
    "mumford_shah",
    "gated_crf",
    "ustm",
    "scribblevs",
    "dmpls",
    "dmsps",
    "classification",  # one class for the whole image
    "landmarks",  # points in the image, by heat maps
]
Task = Literal["segmentation", "classification", "landmarks"]
Numbers = tuple[tuple[float, ...], ...]  # some for each channel, or for each stage
NARROWEST = 16  # pixels of a patch along each side of a slice
AXES: dict[str, tuple[int, ...]] = {  # of space that a network can read; 2 where it is not named
    "umamba_bot": (2, 3),
    "umamba_enc": (2, 3),
    "nnmamba": (3,),
    "nnmamba_cls": (3,),
}
WHOLE: dict[str, object] = {  # what classification and landmarks ask of a config: volumes seen whole, and no strokes
    "view": "resize",
    "spacing": None,
    "interpolation": "linear",
    "propagation": False,
    "lead": 0.0,
    "deep_supervision": False,
}
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
    objective: ObjectiveName = "cross_teaching"
    """Networks that teach each other from strokes; or each alone, on the labels or by one of the literature's ways."""

    minutes: float | None = None
    """Wall time from the start of the command to the saved model; or give iterations."""
    iterations: int | None = None
    """Optimiser steps; or give minutes."""
    seed: int = 0
    """Same seed, machine, threads and iterations: same weights."""

    view: Literal["patch", "resize"] = "patch"
    """Patches at the image's own resolution, or the whole slice resized."""
    patch: tuple[int, ...] = (128, 128)
    """Voxels along each axis of what a network sees while training: H W for slices, D H W for volumes; empty: what
    `trainer.plan` finds for the images, and with it batch, spacing, intensities, strides and kernels."""
    batch: int = 4
    """Views per step; 0, where a patch or intensities are planned: as planned, on a processor two."""
    spacing: tuple[float, ...] | None = None
    """mm per voxel, one an axis of the patch, that every image is brought to first; none: each stays as it is."""
    colours: Literal["apart", "mean"] = "apart"
    """Channels of an image: each seen by itself; or their mean, so that one run reads grey and colour images alike."""
    normalisation: Literal["equalised", "percentile", "zscore", "planned"] = "equalised"
    """Intensities: mean of logarithm and equalised histogram; or 99th percentile to 1; or mean 0, deviation 1; or as
    the plan says, by the image or, for CT, by all images."""
    intensities: Annotated[Numbers, Suppress] = ()
    """Of "planned", for each channel: mean, deviation, lowest and highest; nothing for one that is not CT."""
    masked: bool = False
    """Let "zscore" and "planned" take mean and deviation of what is not the zeros around a brain or body, which stay
    zero; CT is not masked. A plan decides it as nnU-Net does."""
    strides: Annotated[Numbers, Suppress] = ()
    """Of each stage of a U-Mamba, from its plan; empty: the size's own."""
    kernels: Annotated[Numbers, Suppress] = ()
    """Of each stage of a U-Mamba, from its plan; empty: 3."""
    augmentation: Literal["none", "paper", "strong", "nnunet"] = "strong"
    """Random changes of a view: none; the paper's turns and flips; rotation, scale, shift and grey values; or
    nnU-Net's."""
    interpolation: Literal["nearest", "linear"] = "linear"
    """How an image is resampled. The published script uses nearest, for images too."""

    propagation: bool = True
    """Spread the strokes over their slices and to the neighbours first, and learn from that too."""
    teaching: float = 1.0
    """Weight of the Dice loss against the networks' mixed prediction, or of another objective's own term."""
    ramp_up: bool = True
    """Let that weight grow over the run. The published script computes a ramp and does not use it."""
    lead: float = 0.0
    """Share of the budget, after the strokes are spread, in which the first network learns alone; then the others
    join it."""
    shares: Annotated[tuple[float, ...], Suppress] = ()
    """Of each network in the ensemble, as the run found them; empty: alike."""
    mix_by_loss: bool = False
    """Let the mixed prediction hear a network the more, the smaller its loss, as the ensemble does. Published: by
    chance alone, so that two networks that have just begun to learn outvote a third that has learnt."""
    averaging: float = 0.0
    """Answer with a running mean of the weights, that keeps so much of itself at each step, 0 to less than 1: what is
    seen while training is steadier. 0: with the weights of the last step, as published."""
    deep_supervision: bool = False
    """Losses at coarser scales too, in the networks that have the layers for it."""
    pretrained: str = ""
    """Checkpoints to begin with: official, which takes each network's own; or one by name, a file, or a folder of
    files (`trainer.networks.pretrained`). Empty: none."""
    sequence_head: bool = False
    """nnMamba's paper lets a Mamba read the features before they are classified; its released code does not."""
    sigma: float = 4.0
    """mm, of the Gaussian that a landmark is in its heat map; a voxel of the view where that is more."""
    squared_dice: bool = True
    """Dice with squared probabilities in the denominator, as published; or plain sums."""
    dice_background: bool = True
    """Count the background class in the Dice loss, as published."""

    optimiser: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1.5e-3
    """Of the first step."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """Of the learning rate: (1 - progress)^0.9; or half a cosine down to final_rate; or no decay."""
    final_rate: float = 0.0
    """Where the cosine ends."""
    period: int | None = None
    """Iterations of the cosine's way down, after which it comes up again; none: the whole run."""
    frozen: int = 0
    """Iterations that the encoder of Swin-UMamba, but for its patch embedding, stays as it is."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
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
    speedup: Literal["none", "compile", "graphs"] = "none"
    """torch.compile the networks (minutes at first); or replay their steps as CUDA graphs. Where that fails, the run
    says so and goes on without."""
    threads: int = 0
    """Processor threads; 0 takes as many as torch does by itself, one a core."""
    kernel: str = "auto"
    """Scan kernel that the run found, for the record; the variable SCRIBBLEMAMBA_SCAN forces one."""

    @property
    def task(self) -> Task:
        return self.objective if self.objective in ("classification", "landmarks") else "segmentation"

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, those named twice numbered: ("unet", "unet2", "mambaunet")."""
        counts: dict[str, int] = {}
        names = []
        for network in self.networks:
            counts[network] = counts.get(network, 0) + 1
            names.append(network if counts[network] == 1 else f"{network}{counts[network]}")
        return tuple(names)

    @property
    def unplanned(self) -> bool:
        """Whether something is left to `trainer.plan`."""
        return not self.patch or (self.normalisation == "planned" and not self.intensities)

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
            self.batch < (not self.unplanned) and f"batch must be 1 or more, got {self.batch}",
            len(self.patch) not in (0, 2, 3) and f"patch must have two axes or three, got {self.patch}",
            min(self.patch[-2:], default=NARROWEST) < NARROWEST
            and f"patch must be {NARROWEST} pixels or more along each side, got {self.patch}",
            len(self.patch) == 3 and self.augmentation == "paper" and "the paper's augmentation is for slices only",
            len(self.patch) == 3
            and self.view == "resize"
            and self.task == "segmentation"
            and "volumes are seen in patches; use the view patch",
            self.spacing is not None
            and len(self.spacing) != len(self.patch)
            and f"spacing must have as many axes as the patch {self.patch}, got {self.spacing}",
            not all(0 < side < math.inf for side in self.spacing or ())
            and f"spacing must be more than 0 mm along each axis, got {self.spacing}",
            self.iterations is not None
            and self.iterations < 1
            and f"iterations must be 1 or more, got {self.iterations}",
            self.minutes is not None
            and not 0 < self.minutes < float("inf")
            and f"minutes must be more than 0, got {self.minutes}",
            self.validate_every < 1 and f"validate_every must be 1 or more, got {self.validate_every}",
            not 0 <= self.averaging < 1 and f"averaging must be 0 or more and less than 1, got {self.averaging}",
            not 0 <= self.lead < 1 and f"lead must be 0 or more and less than 1, got {self.lead}",
            self.threads < 0 and f"threads must be 0 or more, got {self.threads}",
            self.masked
            and self.normalisation not in ("zscore", "planned")
            and f"masked is for the normalisations zscore and planned, got {self.normalisation}",
            *self._problems_of_task(),
        ]
        for problem in filter(None, problems):
            raise ValueError(f"Config: {problem}")
        return self

    def _problems_of_task(self) -> list[str | bool]:
        task, classifiers = self.task, [name == "nnmamba_cls" for name in self.networks]
        if task != "classification" and any(classifiers):
            return [f"nnmamba_cls is for the objective classification, got {self.objective}"]
        if task == "segmentation":
            return []
        return [
            len(self.patch) != 3 and f"{task} is for volumes; give a patch of three axes, got {self.patch}",
            task == "classification" and not all(classifiers) and "classification takes the network nnmamba_cls only",
            task == "landmarks"
            and self.augmentation == "nnunet"
            and "nnU-Net's augmentation mirrors, and a mirrored landmark is another one; use strong",
            not 0 < self.sigma < float("inf") and f"sigma must be more than 0 mm, got {self.sigma}",
            *(
                getattr(self, name) != value and f"{task} wants {name} {value}, got {getattr(self, name)}"
                for name, value in WHOLE.items()
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The config of such a dict, as JSON brings it back. ValueError names a field this version does not know."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"config: unknown fields {unknown}; it was written by another version")
        return cls(**{name: as_tuple(value) for name, value in values.items()}).checked()


def as_tuple(value: object) -> object:
    """JSON's lists as tuples, those within too."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


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


SUPERVISED = Config(
    networks=("unet",),
    objective="supervised",
    minutes=10.0,
    patch=(),
    batch=0,
    normalisation="planned",
    augmentation="nnunet",
    propagation=False,
    dice_background=False,
    squared_dice=False,
    deep_supervision=True,
    learning_rate=1e-3,
)

PresetName = Literal["interactive", "paper", "supervised", "umamba", "vmunet", "swin_umamba", "nnmamba"]
PRESETS: dict[PresetName, Config] = {
    "interactive": Config(minutes=5.0, lead=0.3, mix_by_loss=True, averaging=0.9),
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
    # one network on dense labels, on patches that are planned for them
    "supervised": SUPERVISED,
    # arXiv 2401.04722, as its trainers inherit it from nnU-Net: 1000 epochs of 250 iterations
    "umamba": replace(
        SUPERVISED,
        networks=("umamba_enc",),
        size="official",
        minutes=None,
        iterations=250_000,
        optimiser="sgd",
        learning_rate=1e-2,
        momentum=0.99,
        nesterov=True,
        weight_decay=3e-5,
        clip=12.0,
    ),
    # arXiv 2402.02491: whole images of 256 pixels, flips and rotations, AdamW, half a cosine of 50 epochs
    "vmunet": replace(
        SUPERVISED,
        networks=("vmunet",),
        size="official",
        minutes=None,
        iterations=20_000,
        view="resize",
        patch=(256, 256),
        batch=32,
        normalisation="zscore",
        augmentation="paper",
        deep_supervision=False,
        schedule="cosine",
        final_rate=1e-5,
        period=3_000,
        clip=None,
    ),
    # arXiv 2402.03302: nnU-Net's patches and losses, AdamW, cosine, the encoder frozen for ten epochs
    "swin_umamba": replace(
        SUPERVISED,
        networks=("swin_umamba_d",),
        size="official",
        minutes=None,
        iterations=25_000,
        learning_rate=1e-4,
        weight_decay=0.05,
        schedule="cosine",
        final_rate=1e-6,
        frozen=2_500,
    ),
    # arXiv 2402.03526
    "nnmamba": replace(
        SUPERVISED,
        networks=("nnmamba",),
        size="official",
        minutes=None,
        iterations=25_000,
        patch=(128, 128, 128),
        batch=2,
        normalisation="zscore",
        schedule="cosine",
        final_rate=1e-6,
    ),
}

VOLUMES = replace(
    SUPERVISED,
    networks=("nnmamba",),
    objective="landmarks",
    view="resize",
    patch=(64, 64, 64),
    batch=4,
    normalisation="zscore",
    augmentation="strong",
    deep_supervision=False,
)

# of what is asked about whole volumes
TaskPresetName = Literal["classification", "landmarks"]
TASK_PRESETS: dict[TaskPresetName, Config] = {
    "classification": replace(VOLUMES, networks=("nnmamba_cls",), objective="classification"),
    "landmarks": VOLUMES,
}

NETWORK_NAMES: tuple[str, ...] = get_args(SegmenterName)
