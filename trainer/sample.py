"""Sample: one annotated image, as everything here takes it; and whether it can be learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.config import Task
from trainer.stack import Part, Stack

IGNORE = 255


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated image. Its label and landmarks are for tasks that ask about it as a whole; then nobody need draw,
    and the target is `undrawn`."""

    image: np.ndarray | Stack  # float32 (C, *space), raw intensities; space is (H, W) or (D, H, W)
    target: np.ndarray  # uint8 (*space): class 0..K-1, or IGNORE where nobody drew
    spacing: tuple[float, ...]  # mm per voxel, one per spatial axis
    name: str = ""
    label: int | None = None  # class of the whole image
    landmarks: np.ndarray | None = None  # (n, axes) mm from the centre of the first voxel, NaN where not to be seen
    absent: tuple[tuple[int, int], ...] = ()  # (slice, class): that class is known to be absent from that slice
    part: Part | None = None  # of a larger stack, or of several volumes; None: it is whole, and one
    like: np.ndarray | None = None  # (C, m) intensities of the whole that it is a part of; None: its own


def loaded(sample: Sample) -> Sample:
    """The sample with its image in memory. ValueError for one that is not fit to learn from."""
    if not isinstance(sample.image, Stack):
        return sample
    image = np.asarray(sample.image)
    check_image(image, f"the part of '{sample.name}' around the strokes")
    return replace(sample, image=image, like=sample.image.values())


def volumes(sample: Sample) -> list[Sample]:
    """The volumes that a sample is made of, each with a name of its own; one that is whole is its only one."""
    if sample.part is None:
        return [sample]
    read, runs = loaded(sample), sample.part.runs
    return [
        replace(
            read,
            image=read.image[:, run.start : run.stop],
            target=read.target[run.start : run.stop],
            name=f"{sample.name}_{sample.part.slices[run.start]:05d}",
            absent=tuple((z - run.start, c) for z, c in sample.absent if z in run),
            part=None,
            like=None,
        )
        for run in runs
    ]


def plane_of(sample: Sample, values: np.ndarray, number: int | None) -> np.ndarray:
    """Of values (*space) of the sample, slice `number` of its stack in the sample's box: uint8 (h, w), IGNORE where
    they do not reach; all of them where the number is None."""
    if number is None or sample.part is None:
        return values if number is None else values[number]
    position = sample.part.position(number)
    return undrawn(values.shape[1:]) if position is None else values[position]


def undrawn(space: tuple[int, ...]) -> np.ndarray:
    """uint8 (*space), read-only: the target of an image that nobody drew on. It takes no memory."""
    return np.broadcast_to(np.uint8(IGNORE), space)


# --------------------------------------------------------------------------------------------------------------- checks


def check(
    samples: Sequence[Sample], classes: Sequence[str], task: Task = "segmentation", before: Sequence[Sample] = ()
) -> None:
    """ValueError where images or what is said of them cannot be trained on, together or with those from before."""
    known = {id(sample.image) for sample in before}
    for sample in samples:
        if not isinstance(sample.image, Stack) and id(sample.image) not in known:  # a Stack is checked as it is read
            check_image(sample.image, f"'{sample.name}'")
    check_grids([*before[:1], *samples])
    if task == "segmentation":
        check_strokes(samples, classes)
    else:
        check_wholes(samples, classes, task)
    names = [sample.name for sample in samples]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two images are called {', '.join(map(repr, twice))}; give each a name of its own")


def check_grids(samples: Sequence[Sample]) -> None:
    """ValueError where labels do not fit their image, or one image has other channels or axes than the first."""
    for sample in samples:
        image, first = sample.image.shape, samples[0].image.shape
        if sample.target.shape != image[1:]:
            raise ValueError(f"'{sample.name}': the labels have shape {sample.target.shape}, the image {image[1:]}")
        if (image[0], len(image)) != (first[0], len(first)):
            raise ValueError(
                f"'{sample.name}' has {image[0]} channels and {len(image) - 1} axes, "
                f"'{samples[0].name}' {first[0]} and {len(first) - 1}; train on images of one kind"
            )


def check_strokes(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raises ValueError unless there are two classes and each has a stroke somewhere; a case without any is fine."""
    if len(classes) < 2:
        raise ValueError(f"only one class ({', '.join(classes)}); at least two are needed: add one and paint both")
    check_absent(samples, classes)
    drawn: set[int] = set()
    for sample in samples:
        ids = set(np.flatnonzero(np.bincount(sample.target[sample.target != IGNORE])).tolist())
        if unknown := sorted(i for i in ids if i >= len(classes)):
            raise ValueError(f"'{sample.name}' has strokes of class {unknown}, but there are {len(classes)} classes")
        drawn |= ids
    if not drawn:
        where = f"'{samples[0].name}'" if len(samples) == 1 else f"any of {len(samples)} images"
        raise ValueError(f"no scribbles on {where}; paint a stroke of each class")
    absent = [f"{i} ({name})" for i, name in enumerate(classes) if i not in drawn]
    if absent:
        raise ValueError(f"no scribbles for class {', '.join(absent)} in any image; paint a stroke or remove the class")


def check_absent(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raises ValueError for a mark of absence that names no slice or class, or contradicts what is drawn."""
    for sample in samples:
        planes = sample.target if sample.target.ndim == 3 else sample.target[None]
        for z, c in sample.absent:
            if not (0 <= z < len(planes) and 0 < c < len(classes)):
                raise ValueError(
                    f"'{sample.name}' has class {c} marked as absent from slice {z}, but there are slices 0 to "
                    f"{len(planes) - 1} and classes 1 to {len(classes) - 1} (the background is never absent)"
                )
            if (planes[z] == c).any():
                number = z if sample.part is None else sample.part.slices[z]
                raise ValueError(
                    f"class {c} ({classes[c]}) is marked as absent from slice {number} of '{sample.name}', but painted "
                    "there; remove the mark or the paint"
                )


def check_wholes(samples: Sequence[Sample], names: Sequence[str], task: Task) -> None:
    """Raises ValueError unless each sample has its class, or its landmarks, and every name is there at least once."""
    check_names(names, task)
    if flat := [sample.name for sample in samples if sample.image.ndim != 4]:
        raise ValueError(f"{task} is for volumes, but '{flat[0]}' is 2-D; save it as a stack")
    if task == "classification":
        for sample in samples:
            if sample.label is None or not 0 <= sample.label < len(names):
                raise ValueError(f"'{sample.name}' has the class {sample.label}; give one of 0 to {len(names) - 1}")
        found = {sample.label for sample in samples}
    else:
        for sample in samples:
            _check_points(sample, names)
        found = {int(i) for sample in samples for i in np.flatnonzero(~np.isnan(sample.landmarks).any(1))}
    if missing := [name for i, name in enumerate(names) if i not in found]:
        raise ValueError(f"no image of {len(samples)} has {', '.join(missing)}; add one that has, or remove the name")


def _check_points(sample: Sample, names: Sequence[str]) -> None:
    shape = (len(names), 3)
    if sample.landmarks is None or sample.landmarks.shape != shape:
        found = None if sample.landmarks is None else sample.landmarks.shape
        raise ValueError(f"'{sample.name}' has landmarks of shape {found}; expected {shape}, one row a name, in mm")
    if np.isinf(sample.landmarks).any():
        raise ValueError(f"'{sample.name}' has a landmark at infinity; give mm, or NaN where it is not to be seen")


def check_names(names: Sequence[str], task: str) -> None:
    least = 2 if task == "classification" else 1
    if len(names) < least:
        raise ValueError(f"{task} needs {least} names or more, got {list(names)}; add one")
    if len(set(names)) < len(names) or not all(names) or {"case", "class"} & set(names):
        raise ValueError(f"names must differ, and 'case' and 'class' are reserved, got {list(names)}; rename")


def check_image(image: np.ndarray, name: str) -> None:
    """Raises ValueError for an image (C, *space) that is empty, a line, constant, or holds NaN or infinity."""
    if image.size == 0:
        raise ValueError(f"{name} is empty, its shape is {image.shape}; remove it or export it again")
    if min(image.shape[-2:]) < 2:
        raise ValueError(f"{name} is a line of pixels, its shape is {image.shape}; it takes two rows and two columns")
    bad = image.size - np.count_nonzero(np.isfinite(image))
    if bad:
        raise ValueError(f"{name} has NaN or infinity in {bad} of {image.size} values; replace them by numbers")
    if all(channel.min() == channel.max() for channel in image):
        value = ", ".join(f"{channel.flat[0]:g}" for channel in image)
        raise ValueError(f"{name} is constant, every pixel is {value}: there is nothing to see in it; leave it out")
