"""Model: trained networks, their Config and the class names; predict, save, load.

C channels · K classes · space is (H, W) or (D, H, W)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from trainer.batches import items, normalise, normalise_like, wanted_spacing
from trainer.bundled import run_folder
from trainer.config import Config, read_config, write_config
from trainer.files import read_tensors, replacing, write_tensors
from trainer.inference import probabilities_of
from trainer.machine import settled
from trainer.networks import build_for
from trainer.networks.pretrained import misfits
from trainer.propagation import propagate
from trainer.resampling import resample_image, resample_probabilities
from trainer.sample import IGNORE, Sample, check_image
from trainer.wholes import output_of, points_of

ENSEMBLE, SHARES = "ensemble", "shares"
WEIGHTS, CHECKPOINT, CONFIG = "weights.safetensors", "checkpoint.safetensors", "config.json"
Probabilities = dict[str, np.ndarray]  # name of a network, or "ensemble" -> float32 (K, *space)


@dataclass(frozen=True)
class Prepared:
    """An image as the networks see it: normalised, at the spacing of their training."""

    items: Tensor  # (n, C, *space'): its slices, or the volume as one
    space: tuple[int, ...]  # of an item as the image has it


def with_teacher(P: np.ndarray, teacher: np.ndarray, overlaps: Sequence[np.ndarray] = ()) -> np.ndarray:
    """(K, *space): what networks and propagated strokes say together.

    The networks' share is half of the square of the Dice between the two answers, of all classes but the background:
    fresh networks say next to nothing, and those that have learnt are heard as much as the strokes. Mostly that is
    better than either, and hardly ever worse than the strokes (docs/log.md). `overlaps` are those of all slices of the
    image that are known, where this is one of them: where the strokes' object is lost, the networks' may be there.
    """
    shared, sizes = np.sum(overlaps or [overlap(P, teacher)], 0)[:, 1:]
    agreement = (2 * shared[sizes > 0] / sizes[sizes > 0]).mean() if sizes.any() else 0.0
    share = np.float32(max(0.5 * agreement**2, 0.01))  # where the strokes say nothing at all, any share decides
    return share * P + (1 - share) * teacher.astype(np.float32)


def overlap(P: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """(2, K): of each class how many pixels are its by both P (K, *space), and how many by either, added."""
    one, other = P.argmax(0), teacher.argmax(0)
    counts = [np.bincount(each.ravel(), minlength=len(P)) for each in (one[one == other], one, other)]
    return np.stack([counts[0], counts[1] + counts[2]])


def without_absent(P: np.ndarray, absent: Sequence[tuple[int, int]]) -> np.ndarray:
    """Probabilities (K, *space) -> float32, 0 for each (slice, class) of `absent`, the other classes in proportion."""
    P = P.astype(np.float32)
    planes = P if P.ndim == 4 else P[:, None]  # (K, D, H, W)
    for z in {z for z, _ in absent}:
        there = [c for c in range(len(P)) if (z, c) not in absent]
        shares = planes[there, z] + 1e-6  # evenly where nothing else was thought possible
        planes[:, z] = 0
        planes[there, z] = shares / shares.sum(0)
    return P


class Model:
    """Networks that answer together: `predict` gives labels, `probabilities` what each network thinks; of whole
    volumes `classify` the class, `locate` the landmarks."""

    def __init__(self, networks: dict[str, nn.Module], config: Config, classes: tuple[str, ...], channels: int) -> None:
        self.networks, self.config, self.classes, self.channels = networks, config, classes, channels

    @classmethod
    def new(cls, config: Config, classes: tuple[str, ...], channels: int) -> "Model":
        """Untrained networks; the same seed gives the same weights, whatever the host program drew before."""
        networks = {}
        for index, name in enumerate(config.names):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed + index)
                network = build_for(config, name, channels, len(classes))
            networks[name] = network.to(config.device)
            if len(config.patch) == 2:
                networks[name].to(memory_format=torch.channels_last)
        return cls(networks, config, classes, channels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.networks)

    @property
    def shares(self) -> dict[str, float]:
        """Of the networks in the ensemble, 1 together; without those that have not begun to learn."""
        shares = self.config.shares or (1 / len(self.networks),) * len(self.networks)
        return {name: share for name, share in zip(self.networks, shares, strict=True) if share > 0}

    @property
    def volumetric(self) -> bool:
        """Whether the networks look at volumes; else at one slice at a time."""
        return len(self.config.patch) == 3

    def prepared(
        self,
        image: np.ndarray,
        name: str = "the image",
        spacing: tuple[float, ...] | None = None,
        like: np.ndarray | None = None,
    ) -> "Prepared":
        """Raw intensities (C, *space), spacing in mm (None: that of the training) -> what `item_probabilities` takes.

        like: (C, m) intensities of the image that this is a slice of; None: it is all of it
        ValueError where the image has other channels than the networks were trained on, unless they see the mean of
        them, or is NaN or constant.
        """
        if image.shape[0] != self.channels and self.config.colours == "apart":
            raise ValueError(
                f"{name} has {image.shape[0]} channels, but the networks were trained on {self.channels}; "
                "choose an image like those they were trained on"
            )
        if like is None:  # a slice may well be constant
            check_image(image, name)
        if self.volumetric and image.ndim < 4:
            raise ValueError(f"{name} is 2-D, but the networks were trained on volumes; give them a stack")
        space = image.shape[1:]
        image = normalise(image, self.config) if like is None else normalise_like(image, like, self.config)
        if self.config.spacing is not None and spacing is not None:
            image = resample_image(image, spacing, wanted_spacing(spacing, self.config))
        axes = len(self.config.patch)
        return Prepared(items(image, axes), space[-axes:])

    def item_probabilities(self, prepared: "Prepared", z: int, network: str = ENSEMBLE) -> Probabilities:
        """Of slice z, or of the volume (z 0): float32 (K, *space) for each network that has learnt and their weighted
        mean, the ensemble; or for one network alone."""
        names, one = tuple(self.shares) if network == ENSEMBLE else (network,), prepared.items[z : z + 1]
        each = {name: probabilities_of(self.networks[name], one, self.config)[0].numpy() for name in names}
        each = {name: resample_probabilities(P, prepared.space) for name, P in each.items()}
        return {**each, ENSEMBLE: self.together(each)} if network == ENSEMBLE else each

    def together(self, each: Probabilities) -> np.ndarray:
        """float32 (K, *space): the networks' mean, each with its share."""
        return np.sum([np.float32(share) * each[name] for name, share in self.shares.items()], 0)

    def stream(
        self,
        image: np.ndarray,
        network: str = ENSEMBLE,
        name: str = "the image",
        spacing: tuple[float, ...] | None = None,
    ) -> Iterator[Probabilities]:
        """`item_probabilities` of slice after slice, or of the volume; `name` is what an error calls the image."""
        self.check_task("segmentation")
        prepared = self.prepared(image, name, spacing)
        return (self.item_probabilities(prepared, z, network) for z in range(len(prepared.items)))

    def probabilities(
        self,
        image: np.ndarray,
        spacing: tuple[float, ...] | None = None,
        name: str = "the image",
        network: str = ENSEMBLE,
    ) -> Probabilities:
        """Image (C, *space), spacing in mm -> float32 (K, *space) for each network and the ensemble, or for one."""
        parts = list(self.stream(image, network, name, spacing))
        return {n: np.stack([one[n] for one in parts], 1).reshape(-1, *image.shape[1:]) for n in parts[0]}

    def predict(
        self,
        image: np.ndarray,
        spacing: tuple[float, ...] | None = None,
        network: str = ENSEMBLE,
        name: str = "the image",
    ) -> np.ndarray:
        """Image (C, *space), spacing in mm -> uint8 (*space) class ids, by one network or the ensemble."""
        self.check_name(network)
        parts = self.stream(image, network, name, spacing)
        labels = [one[network].argmax(0).astype(np.uint8) for one in parts]
        return np.stack(labels).reshape(image.shape[1:])

    def fill_in(self, sample: Sample, network: str = ENSEMBLE) -> np.ndarray:
        """uint8 (*space) classes of an image that was drawn on: what the networks and the propagated strokes say
        together, and the strokes themselves. Without strokes that can be propagated it is `predict`."""
        self.check_name(network)
        teacher = propagate(sample, len(self.classes))
        P = self.probabilities(sample.image, sample.spacing, network=network)[network]
        P = without_absent(with_teacher(P, teacher.probabilities), sample.absent)
        labels = P.argmax(0).astype(np.uint8)
        return np.where(sample.target == IGNORE, labels, sample.target)

    def classify(
        self, image: np.ndarray, spacing: tuple[float, ...] | None = None, name: str = "the image"
    ) -> np.ndarray:
        """Volume (C, D, H, W) -> float32 (K,) probabilities of its class, the networks' weighted mean."""
        self.check_task("classification")
        each = self.outputs(image, spacing, name)
        return self.together({name: softmax(logits) for name, logits in each.items()})

    def locate(
        self, image: np.ndarray, spacing: tuple[float, ...] | None = None, name: str = "the image"
    ) -> np.ndarray:
        """Volume (C, D, H, W), mm per voxel (None: 1) -> (n, 3) landmarks, in mm from the centre of its first voxel."""
        self.check_task("landmarks")
        maps = self.together(self.outputs(image, spacing, name))  # (n, *patch)
        return points_of(maps, image.shape[1:], spacing or (1.0, 1.0, 1.0))

    def outputs(self, image: np.ndarray, spacing: tuple[float, ...] | None, name: str) -> dict[str, np.ndarray]:
        """What each network says of the whole volume: logits (K,) or heat maps (n, *patch)."""
        prepared = self.prepared(image, name, spacing)
        return {name: output_of(self.networks[name], prepared.items, self.config) for name in self.shares}

    def check_task(self, task: str) -> None:
        ways = {"segmentation": "predict", "classification": "classify", "landmarks": "locate"}
        if self.config.task != task:
            own = self.config.task
            raise ValueError(f"this run was trained for {own}, not {task}; ask it by trainer.predict or {ways[own]}()")

    def check_name(self, network: str) -> None:
        """ValueError where nobody of that name can answer."""
        if network not in (known := (*self.shares, ENSEMBLE)):
            problem = f"{network} has not begun to learn" if network in self.names else f"has no network {network!r}"
            raise ValueError(f"this run: {problem}; choose {', '.join(known)}")

    def save(self, folder: Path | str) -> None:
        """weights.safetensors and config.json; a file that exists is replaced only when the new one is complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        write_tensors(folder / WEIGHTS, self.state())

    def save_config(self, folder: Path) -> None:
        with replacing(folder / CONFIG) as file:
            write_config(file, self.config, self.classes, self.channels)

    def state(self) -> dict[str, Tensor]:
        """Every weight, named "unet/encoder..." and so on, and the networks' shares where a run has found them."""
        shares = {SHARES: torch.tensor(self.config.shares, dtype=torch.float64)} if self.config.shares else {}
        each = ((name, net.state_dict()) for name, net in self.networks.items())
        return {f"{name}/{key}": value for name, weights in each for key, value in weights.items()} | shares

    def load_state(self, state: dict[str, Tensor], source: Path) -> None:
        """Strictly; ValueError says what does not fit."""
        for name, net in self.networks.items():
            own = {key.split("/", 1)[1]: value for key, value in state.items() if key.startswith(f"{name}/")}
            try:
                net.load_state_dict(own, strict=True)
            except RuntimeError as e:
                what = misfits(net.state_dict(), own)
                raise ValueError(f"{source} does not hold the weights of this {name}: {what or e}") from e
        if SHARES in state:
            self.config = dataclasses.replace(self.config, shares=tuple(state[SHARES].tolist()))

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto") -> "Model":
        """The model of a run's folder or of "bundled:NAME"; of an unfinished run, its last checkpoint. Errors name the
        file."""
        folder = run_folder(folder)
        config, classes, channels = read_config(folder / CONFIG)
        dtype = config.dtype if config.dtype == "float32" or device == config.device else "auto"
        config = settled(dataclasses.replace(config, device=device, dtype=dtype))
        model = cls.new(config, classes, channels)
        file = next((folder / n for n in (WEIGHTS, CHECKPOINT) if (folder / n).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"no weights in {folder}: {WEIGHTS} is missing; train first")
        model.load_state(read_tensors(file)[0], file)
        return model
