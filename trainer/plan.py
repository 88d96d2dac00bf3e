"""Self-configuration: what a dataset is like, and the memory at hand, settle patch, spacing, batch, stages and norms.

    python -m trainer.plan DATASET [--out plan.json] [--memory 8] [--dimensions 3]

The rules are nnU-Net's, from which U-Mamba inherits them: Isensee et al., "nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation", Nature Methods 2021, arXiv 1904.08128; numbers as in its version 2.8, for
a plain U-Net. Three things are our own: slices are cut along the first axis of an array, where nnU-Net takes the
coarsest one; the foreground is what was drawn, never "ignore"; there is no cascade from a low resolution.

n axes, 2 or 3, in the order of the arrays · a stage: convolutions between two halvings · voxels are pixels in 2-D
"""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.ndimage import find_objects

from trainer.config import AXES, NARROWEST, Config, as_tuple
from trainer.dataset import load_dataset
from trainer.formats import read_json
from trainer.sample import IGNORE, Sample, check_image

Ints = tuple[int, ...]
Floats = tuple[float, ...]
Dimensions = Literal[2, 3]

BUDGET = {2: 12 * 85e6, 3: 2 * 560e6}  # values in the feature maps of a batch that trains in 8 GB
REFERENCE_GB = 8.0
CPU_GB = 1.0  # of steps that a processor makes in seconds
LARGEST = {2: 2048**2, 3: 256**3}  # voxels of a patch, before it is cut to the image and to the memory
WIDTH, WIDEST = 32, {2: 512, 3: 320}  # features of the first stage, and of any
SHORTEST = 4  # voxels of a feature along an axis that was halved
SMALLEST_BATCH = 2
COVERED = 0.05  # of the dataset's voxels, the most that a batch may show
COARSE = 3.0  # an axis is coarse whose spacing is that many times the others'
FEW_SLICES = 16  # of fewer, halved twice, less than SHORTEST is left
CROPPED = 0.75  # z-scores leave the zeros out where cropping them keeps less than this of the median image
VALUES = 10_000  # of the foreground of an image, so that large ones do not count for more than small ones
UNSUPPORTED = ("nonorm", "rescale_to_0_1", "rgb_to_0_1")  # nnU-Net's other names of channels


# ------------------------------------------------------------------------------------------------- what goes in and out


@dataclass(frozen=True)
class Intensities:
    """Of one channel in the foreground of all images."""

    mean: float
    deviation: float
    low: float  # 0.5th percentile
    high: float  # 99.5th percentile


@dataclass(frozen=True)
class Fingerprint:
    """What a plan has to know of a dataset."""

    classes: tuple[str, ...]
    channels: tuple[str, ...]  # as dataset.json names them: "CT" is a modality of its own
    shapes: tuple[Ints, ...]  # of each image, without the zeros around it
    spacings: tuple[Floats, ...]  # mm, of each image
    kept: float  # share of its voxels that the median image keeps without the zeros around it
    intensities: tuple[Intensities | None, ...]  # of each channel; None where no foreground was drawn

    @classmethod
    def load(cls, file: Path) -> "Fingerprint":
        content = read_fields(file, cls)
        known = [part and Intensities(**part) for part in content.pop("intensities")]
        return cls(intensities=tuple(known), **content)

    def save(self, file: Path) -> None:
        write_fields(file, self)


@dataclass(frozen=True)
class Normalisation:
    """Of one channel."""

    channel: str
    scheme: Literal["ct", "z-score"]  # by the dataset's foreground, clipped to its percentiles; or by the image itself
    masked: bool = False  # mean and deviation of the z-score leave the zeros around the image out, and these stay zero
    foreground: Intensities | None = None  # for CT


@dataclass(frozen=True)
class Plan:
    """How to train on a dataset."""

    dimensions: Dimensions  # of patches: 2 cuts a volume into slices along its first axis
    patch: Ints  # voxels along each axis; a multiple of all strides
    spacing: Floats  # mm, that images are resampled to
    batch: int
    features: Ints  # channels of each stage, finest first
    strides: tuple[Ints, ...]  # of each stage; the first is 1
    kernels: tuple[Ints, ...]  # of each stage
    normalisation: tuple[Normalisation, ...]  # of each channel
    classes: tuple[str, ...]

    @property
    def intensities(self) -> tuple[Floats, ...]:
        """Of each channel: mean, deviation, lowest and highest value for CT, nothing for others; as Config has it."""
        known = [channel.foreground for channel in self.normalisation]
        return tuple(() if part is None else dataclasses.astuple(part) for part in known)

    @classmethod
    def load(cls, file: Path) -> "Plan":
        content = read_fields(file, cls)
        channels = [(part, part.pop("foreground")) for part in content.pop("normalisation")]
        norms = [Normalisation(**part, foreground=known and Intensities(**known)) for part, known in channels]
        return cls(normalisation=tuple(norms), **content)

    def save(self, file: Path) -> None:
        write_fields(file, self)


def write_fields(file: Path, value: Fingerprint | Plan) -> None:
    """JSON, a line for each field."""
    fields = (f"  {json.dumps(key)}: {json.dumps(part)}" for key, part in dataclasses.asdict(value).items())
    file.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")


def read_fields(file: Path, kind: type) -> dict[str, object]:
    content, expected = read_json(file), [field.name for field in dataclasses.fields(kind)]
    if set(content) != set(expected):
        raise ValueError(f"{file} is no {kind.__name__.lower()}: it has {sorted(content)}, expected {expected}")
    return {key: as_tuple(part) for key, part in content.items()}


# --------------------------------------------------------------------------------------------------------- fingerprint


def fingerprint(samples: Sequence[Sample], classes: Sequence[str], channels: Sequence[str]) -> Fingerprint:
    """What the samples are like; `channels` are their names. ValueError where they differ in axes or channels."""
    check_alike(samples, channels)
    shapes = [shape_of_content(sample.image) for sample in samples]
    kept = [math.prod(shape) / sample.target.size for shape, sample in zip(shapes, samples, strict=True)]
    return Fingerprint(
        tuple(classes),
        tuple(channels),
        tuple(shapes),
        tuple(tuple(map(float, sample.spacing)) for sample in samples),
        float(np.median(kept)),
        tuple(foreground(samples, channel) for channel in range(len(channels))),
    )


def shape_of_content(image: np.ndarray) -> Ints:
    """(C, *space) -> the shape of the smallest box that holds all its values but zeros."""
    (box,) = find_objects((image != 0).any(0).astype(np.uint8))
    return tuple(side.stop - side.start for side in box)


def foreground(samples: Sequence[Sample], channel: int) -> Intensities | None:
    """Of a channel, where a class other than the background was drawn; every image counts the same."""
    drawn = (s.image[channel][(s.target != 0) & (s.target != IGNORE)] for s in samples)
    spread = [evenly(values) for values in drawn if len(values)]
    if not spread:
        return None
    values = np.concatenate(spread).astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    return Intensities(float(values.mean()), float(values.std()), float(low), float(high))


def evenly(values: np.ndarray) -> np.ndarray:
    """(any,) -> (VALUES,) of them, distributed alike."""
    place = (np.arange(VALUES) + 0.5) / VALUES
    return np.sort(values)[(place * len(values)).astype(int)]


def check_alike(samples: Sequence[Sample], channels: Sequence[str]) -> None:
    if not samples:
        raise ValueError("a dataset without images cannot be planned for; give one or more")
    for sample in samples:
        check_image(sample.image, f"'{sample.name}'")
        if sample.target.ndim != samples[0].target.ndim:
            raise ValueError(f"'{samples[0].name}' and '{sample.name}' differ in their number of axes; split them")
        if len(sample.image) != len(channels):
            raise ValueError(f"'{sample.name}' has {len(sample.image)} channels, but {tuple(channels)} are named")


# ---------------------------------------------------------------------------------------------------- for a training


def planned(config: Config, samples: Sequence[Sample], classes: Sequence[str], channels: Sequence[str]) -> Config:
    """The config with the patch that these samples ask for, and what goes with it; what was given stays.

    Planned for nnU-Net's 8 GB on a graphics card; on a processor, which gains no speed from a larger batch, for CPU_GB
    and batches of two. Volumes are trained in 3-D where every network can read them and `recommended` says so, or
    where one of them reads nothing else; parts of one are not, unless it must be.
    """
    if config.colours == "mean":
        from trainer.batches import seen  # here: it imports torch, which a plan does not need

        samples, channels = [dataclasses.replace(s, image=seen(s.image, config)) for s in samples], ("mean",)
    found = fingerprint(samples, classes, channels)
    axes = [AXES.get(name, (2,)) for name in config.networks]
    whole = all(sample.part is None for sample in samples)
    able = whole and all(3 in known for known in axes)
    solid = any(known == (3,) for known in axes) or (able and recommended(found) == 3)
    dimensions, slow = len(config.patch) or (3 if solid else 2), config.device == "cpu"
    chosen = plan(found, dimensions, CPU_GB if slow else REFERENCE_GB)
    wide = *chosen.patch[:-2], *(max(side, NARROWEST) for side in chosen.patch[-2:])  # of narrow images, mirrored
    return dataclasses.replace(
        config,
        patch=config.patch or wide,
        batch=config.batch or (SMALLEST_BATCH if slow else chosen.batch),
        spacing=config.spacing or chosen.spacing,
        intensities=chosen.intensities,
        masked=config.masked or (config.normalisation == "planned" and any(n.masked for n in chosen.normalisation)),
        strides=chosen.strides,
        kernels=chosen.kernels,
    ).checked()


# ----------------------------------------------------------------------------------------------------------- the plan


def plan(fingerprint: Fingerprint, dimensions: Dimensions, memory_gb: float = REFERENCE_GB) -> Plan:
    """The plan of patches with that many axes, for a graphics card of that memory.

    ValueError where the images have fewer axes, or one slice only, or no patch fits into the memory.
    """
    spacing = target_spacing(fingerprint)
    size = median_size(fingerprint, spacing)
    check_dimensions(dimensions, size)
    budget = BUDGET[dimensions] * memory_gb / REFERENCE_GB
    stages = fitting(spacing[-dimensions:], size[-dimensions:], len(fingerprint.classes), budget)
    voxels = len(fingerprint.shapes) * math.prod(size)
    return Plan(
        dimensions,
        stages.patch,
        spacing[-dimensions:],
        batch_size(stages, len(fingerprint.classes), budget, voxels),
        stages.features,
        stages.strides,
        stages.kernels,
        normalisation(fingerprint),
        fingerprint.classes,
    )


def recommended(fingerprint: Fingerprint) -> Dimensions:
    """3 for volumes; 2 for pictures, and for stacks of fewer than 16 slices over 3 times as thick as a pixel is wide.

    nnU-Net itself trains both and keeps the better. In stacks as flat as that a 3-D network hardly halves the
    slices more than once, and a slice's neighbours are far away.
    """
    spacing = target_spacing(fingerprint)
    size = median_size(fingerprint, spacing)
    if len(size) == 2 or min(size) < 2:
        return 2
    return 2 if size[0] < FEW_SLICES and spacing[0] > COARSE * max(spacing[1:]) else 3


def target_spacing(fingerprint: Fingerprint) -> Floats:
    """(n,) mm: the median; of a coarse and short axis the tenth percentile, so that few slices are invented."""
    spacings = np.array(fingerprint.spacings)  # (images, n)
    target, size = np.median(spacings, 0), np.median(fingerprint.shapes, 0)
    coarsest = int(np.argmax(target))
    finer, longer = np.delete(target, coarsest).max(), np.delete(size, coarsest).min()
    if len(target) == 3 and target[coarsest] > COARSE * finer and COARSE * size[coarsest] < longer:
        tenth = np.percentile(spacings[:, coarsest], 10)
        target[coarsest] = tenth if tenth >= finer else finer + 1e-5  # it stays the coarsest
    return tuple(target.tolist())


def median_size(fingerprint: Fingerprint, spacing: Floats) -> Floats:
    """(n,) voxels of the median image at that spacing, halves among them."""
    scale = np.array(fingerprint.spacings) / spacing
    return tuple(np.median(np.round(scale * fingerprint.shapes), 0).tolist())


def batch_size(stages: "Stages", classes: int, budget: float, voxels: float) -> int:
    """As many patches as fit, but for a twentieth of the dataset's voxels; two at least."""
    fits = round(budget / stages.values(classes))
    fair = round(COVERED * voxels / math.prod(stages.patch))
    return max(min(fits, fair), SMALLEST_BATCH)


def normalisation(fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
    """CT by the foreground of all images, since its values have a unit; others by the image itself."""
    masked = fingerprint.kept < CROPPED
    channels = zip(fingerprint.channels, fingerprint.intensities, strict=True)
    return tuple(normalised(channel, known, masked) for channel, known in channels)


def normalised(channel: str, known: Intensities | None, masked: bool) -> Normalisation:
    if channel.casefold() in UNSUPPORTED:
        raise ValueError(f"the channel name {channel!r} asks for a normalisation we lack; call it 'CT' or by modality")
    if channel.casefold() != "ct":
        return Normalisation(channel, "z-score", masked)
    if known is None:
        raise ValueError("CT is normalised by its foreground, but only background is drawn; draw another class")
    return Normalisation(channel, "ct", foreground=known)


def check_dimensions(dimensions: int, size: Floats) -> None:
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    if dimensions > len(size):
        raise ValueError("2-D images cannot be planned for in 3-D; take dimensions 2")
    if dimensions == 3 and min(size) < 2:
        raise ValueError(f"the median volume has {by(size)} voxels, a single slice; take dimensions 2")


# -------------------------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stages:
    """The U that a patch goes through."""

    patch: Ints
    strides: tuple[Ints, ...]
    kernels: tuple[Ints, ...]

    @property
    def features(self) -> Ints:
        return tuple(min(WIDTH * 2**s, WIDEST[len(self.patch)]) for s in range(len(self.strides)))

    @property
    def multiple(self) -> Ints:
        """What each axis of the patch is a multiple of."""
        return tuple(map(math.prod, zip(*self.strides, strict=True)))

    def values(self, classes: int) -> int:
        """In the feature maps of one patch: each stage convolves twice on the way down, and on the way up, but for the
        deepest, twice after an upsampling; at last come the logits."""
        maps, voxels = [], math.prod(self.patch)
        for stride, features in zip(self.strides, self.features, strict=True):
            voxels //= math.prod(stride)
            maps.append(features * voxels)
        return 2 * sum(maps) + 3 * sum(maps[:-1]) + classes * math.prod(self.patch)


def stages_of(spacing: Floats, size: Sequence[float]) -> Stages:
    """The stages for a patch of that size or, where the strides ask for it, the next larger one.

    Kernels stay flat along an axis until the others are, by being halved, nearly as coarse.
    """
    strides, kernels, kernel = [(1,) * len(size)], [], (1,) * len(size)
    space, finer = tuple(size), tuple(spacing)
    while axes := axes_to_halve(finer, space):
        kernel = tuple(3 if s / min(finer) < 2 else k for k, s in zip(kernel, finer, strict=True))
        stride = tuple(2 if axis in axes else 1 for axis in range(len(size)))
        space = tuple(math.ceil(voxels / t) for voxels, t in zip(space, stride, strict=True))
        finer = tuple(s * t for s, t in zip(finer, stride, strict=True))
        strides, kernels = [*strides, stride], [*kernels, kernel]
    multiple = map(math.prod, zip(*strides, strict=True))
    patch = tuple(math.ceil(voxels / m) * m for voxels, m in zip(size, multiple, strict=True))
    return Stages(patch, tuple(strides), (*kernels, (3,) * len(size)))


def axes_to_halve(spacing: Floats, size: Sequence[float]) -> list[int]:
    """The finest of those that are long enough, and others less than twice as coarse; one alone must be longer."""
    long = [axis for axis, voxels in enumerate(size) if voxels >= 2 * SHORTEST]
    finest = min((spacing[axis] for axis in long), default=math.inf)
    axes = [axis for axis in long if spacing[axis] / finest < 2]
    return [] if len(axes) == 1 and size[axes[0]] < 3 * SHORTEST else axes


def fitting(spacing: Floats, size: Floats, classes: int, budget: float) -> Stages:
    """The stages of the largest patch, no larger than the image, of which two fit into the budget."""
    edge = (LARGEST[len(size)] * math.prod(spacing)) ** (1 / len(size))  # mm: a cube before it is cut
    stages = stages_of(spacing, [min(round(edge / s), voxels) for s, voxels in zip(spacing, size, strict=True)])
    while SMALLEST_BATCH * stages.values(classes) > budget:
        patch = shortened(stages, spacing, size)
        if min(patch) < 1:
            raise ValueError(f"no patch fits into the memory, not even one of {by(stages.patch)}; give more than that")
        stages = stages_of(spacing, patch)
    return stages


def shortened(stages: Stages, spacing: Floats, size: Floats) -> Ints:
    """The patch, less one step along the axis that covers most of the image.

    A shorter axis may be halved less often and thus be cut in smaller steps: 256 is followed by 224, not by 192.
    """
    axis = max(range(len(size)), key=lambda a: (stages.patch[a] / size[a], a))
    step = stages_of(spacing, less(stages.patch, axis, stages.multiple[axis])).multiple[axis]
    return less(stages.patch, axis, step)


def less(patch: Ints, axis: int, step: int) -> Ints:
    return (*patch[:axis], patch[axis] - step, *patch[axis + 1 :])


# ------------------------------------------------------------------------------------------------------ what follows it


def network_arguments(plan: Plan, name: str) -> dict[str, object]:
    """Arguments of `trainer.networks.build` that make a "umamba_bot" or "umamba_enc" the network of the plan."""
    if name not in ("umamba_bot", "umamba_enc"):
        raise ValueError(
            f"plans are for umamba_bot and umamba_enc, got {name!r}; other networks have stages of their own"
        )
    return {
        "dim": plan.dimensions,
        "strides": plan.strides,
        "kernels": plan.kernels,
        "features": plan.features[0],
        "max_features": max(plan.features),
    }


def by(numbers: Sequence[float]) -> str:
    """(10, 1.5) -> "10 x 1.5"."""
    return " x ".join(f"{number:.5g}" for number in numbers)


def table(plan: Plan) -> Table:
    """For people."""
    rows = Table("stage", "features", "stride", "kernel", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for stage, (features, stride, kernel) in enumerate(zip(plan.features, plan.strides, plan.kernels, strict=True)):
        rows.add_row(str(stage), str(features), by(stride), by(kernel))
    rows.title = f"{plan.dimensions}-D, {plan.batch} patches of {by(plan.patch)} voxels of {by(plan.spacing)} mm"
    rows.caption = ", ".join(f"{n.channel}: {'masked ' * n.masked}{n.scheme}" for n in plan.normalisation)
    return rows


def main(
    dataset: tyro.conf.Positional[Path],
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    memory: float = REFERENCE_GB,
    dimensions: Dimensions | None = None,
) -> None:
    """Plans patch, spacing, batch, stages and normalisation for a dataset, by nnU-Net's rules.

    Args:
        dataset: folder in the nnU-Net v2 raw format.
        out: write the plan to this JSON file.
        memory: of the graphics card, in GB.
        dimensions: of the patches, 2 or 3; by default 3 for volumes, but 2 for stacks of few thick slices.
    """
    try:
        loaded = load_dataset(dataset)
        found = fingerprint(loaded.samples, loaded.classes, loaded.channels)
        planned = plan(found, dimensions or recommended(found), memory)
        if out is not None:
            planned.save(out)
    except (ValueError, OSError) as error:
        sys.exit(f"trainer.plan: {error}")
    Console().print(table(planned))


if __name__ == "__main__":
    tyro.cli(main, prog="python -m trainer.plan")
