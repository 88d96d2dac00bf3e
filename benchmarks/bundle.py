"""Make a bundled model, score it, and write its card: python -m benchmarks.bundle nuclei|skin [--score]

Trained on generated images (benchmarks/generated.py) and on real ones whose terms allow it, of the tuning half of
benchmarks/images.py; scored on the reporting half beside Otsu's threshold (IEEE Trans. SMC 1979), whose connected
pieces are the objects. One thread, so that minutes are minutes of CPU; --score only scores what is there. Data:
SCRIBBLEMAMBA_DATA, by default ../shared/data.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu
from skimage.transform import rescale, resize

from benchmarks.generated import lesion, nuclei
from benchmarks.images import Half, Modality, files
from trainer.bundled import CARD, FOLDER, Card, Scores
from trainer.config import SUPERVISED, Config
from trainer.files import replacing, write_tensors
from trainer.instances import (
    BACKGROUND,
    BOUNDARY,
    CLASSES,
    INTERIOR,
    LEAST,
    SHARE,
    f1,
    objects,
    renumbered,
    to_boundary_classes,
    to_instances,
    typical_size,
)
from trainer.metrics import dice
from trainer.model import WEIGHTS, Model
from trainer.run import Run
from trainer.sample import Sample

console = Console(stderr=True)

Rng = np.random.Generator
LOOKS: tuple[Modality, ...] = ("fluorescence", "histology", "brightfield")
VIEWS = 45  # of the real images of a look: resampled, with other weights of their colours
GENERATED = {"nuclei": 90, "skin": 500}
HELD_OUT = 10**6  # seeds from here on are not trained on
TESTED = 50  # generated images to score on
SIZES = 7.0, 45.0  # pixels across that nuclei are resampled to
RIM = 0.08  # of a nucleus's diameter is boundary, but at least a pixel


@dataclass(frozen=True)
class Options:
    """Train, score and describe a bundled model."""

    name: tyro.conf.Positional[Literal["nuclei", "skin"]]
    score: bool = False
    """Only score what is there, and print it."""
    iterations: int | None = None
    """In the place of the recipe's."""
    out: Path = FOLDER
    """Folder that holds the models."""


BASE = dataclasses.replace(
    SUPERVISED, minutes=None, normalisation="equalised", device="cpu", threads=1, learning_rate=2e-3
)
CONFIGS: dict[str, Config] = {
    "nuclei": dataclasses.replace(
        BASE, networks=("umamba_bot",), iterations=1800, patch=(128, 128), batch=4, colours="mean"
    ),
    "skin": dataclasses.replace(
        BASE, networks=("vmunet",), iterations=3000, view="resize", patch=(128, 128), batch=8, deep_supervision=False
    ),
}
CLASS_NAMES = {"nuclei": CLASSES, "skin": ("background", "lesion")}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    folder = options.out / options.name
    if not options.score:
        config = CONFIGS[options.name]
        config = dataclasses.replace(config, iterations=options.iterations or config.iterations)
        write(train(options.name, config), folder)
    scores = SCORES[options.name](Model.load(folder, "cpu"))
    for kind, row in scores.items():
        console.print(kind, row)
    if not options.score:
        write_card(options.name, folder, scores)


def train(name: str, config: Config) -> Model:
    run = Run(list(SAMPLES[name](np.random.default_rng(config.seed))), config, CLASS_NAMES[name])
    losses = []
    for progress in run:
        losses += progress.losses.values()
        if progress.iteration % 100 == 0 and losses:
            console.print(f"{progress.iteration}: loss {np.mean(losses[-100:]):.3f}, {progress.rate:.2f} it/s")
    return run.model


def write(model: Model, folder: Path) -> None:
    """A run folder for any machine, its weights rounded to float16."""
    settings = dataclasses.replace(model.config, device="auto", dtype="float32", kernel="auto", threads=0)
    Model(model.networks, settings, model.classes, model.channels).save(folder)
    write_tensors(folder / WEIGHTS, {name: value.half() for name, value in model.state().items()})


# ---- nuclei: what they are trained on


def nuclei_samples(rng: Rng) -> Iterator[Sample]:
    """Views of real images, as many of each look, and generated ones."""
    for look in LOOKS:
        images = [numbered(file) for file in files(look, "tuning")]
        for i in range(VIEWS):
            image, ids = images[i % len(images)]
            yield of_nuclei(*resampled(image, ids, rng), f"{look} {i}")
    for i in range(GENERATED["nuclei"]):
        image, ids = nuclei(np.random.default_rng([0, i]))
        yield of_nuclei(image, ids, f"generated {i}")


def of_nuclei(image: np.ndarray, ids: np.ndarray, name: str) -> Sample:
    return Sample(image[None].astype(np.float32), with_rims(ids), (1.0, 1.0), name)


def numbered(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W) or (H, W, 3), and the ids of its nuclei (H, W)."""
    content = np.load(file)
    return content["image"].astype(np.float32), content["label"].astype(np.uint16)


def resampled(image: np.ndarray, ids: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Grey (H', W') and ids of a view whose nuclei have another size, each colour with a weight by lot."""
    grey = image @ rng.dirichlet([4, 4, 4]).astype(np.float32) if image.ndim == 3 else image
    across = np.sqrt(np.median(np.unique(ids[ids > 0], return_counts=True)[1]))
    low, high = (np.log(np.clip(size / across, 0.4, 2.5)) for size in SIZES)
    scale = float(np.exp(rng.uniform(low, high)))
    small = rescale(grey, scale, order=1, anti_aliasing=scale < 1, preserve_range=True)
    numbers = resize(ids, small.shape, order=0, anti_aliasing=False, preserve_range=True).astype(np.uint16)
    return (small.max() - small if rng.uniform() < 0.1 else small), numbers


def with_rims(ids: np.ndarray) -> np.ndarray:
    """Classes (H, W) as of trainer.instances, the boundary of large nuclei thicker than a pixel."""
    target = to_boundary_classes(ids)
    numbers, counts = np.unique(ids, return_counts=True)
    thick = np.zeros(int(ids.max()) + 1)
    thick[numbers] = RIM * np.sqrt(counts)
    near = ndi.distance_transform_edt(target != BOUNDARY) < thick[ids]
    return np.where((target == INTERIOR) & near, BOUNDARY, target).astype(np.uint8)


# ---- nuclei: how well they are found


def nuclei_scores(model: Model) -> Scores:
    """Mean F1 at an IoU of .5 of the images of each look, of the model and of Otsu's threshold."""
    found: Scores = {}
    for look in LOOKS:
        pairs = [f1_of(model, *numbered(file)) for file in files(look, "reporting")]
        found[f"{look} ({len(pairs)} images)"] = means(pairs)
    pairs = [f1_of(model, *nuclei(np.random.default_rng([0, HELD_OUT + i]))) for i in range(TESTED)]
    return {**found, f"generated ({TESTED} images)": means(pairs)}


def f1_of(model: Model, image: np.ndarray, ids: np.ndarray) -> tuple[float, float]:
    channels = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
    return f1(objects(model.probabilities(channels)["ensemble"]), ids), f1(pieces(channels.mean(0)), ids)


def pieces(grey: np.ndarray) -> np.ndarray:
    """Otsu's threshold: the smaller side is the nuclei, its connected pieces their ids."""
    above = grey > threshold_otsu(grey)
    nucleus = above if above.mean() < 0.5 else ~above
    target = np.where(ndi.binary_fill_holes(nucleus), INTERIOR, BACKGROUND).astype(np.uint8)
    ids = to_instances(target, LEAST)
    return renumbered(ids, int(SHARE * typical_size(ids)))  # the rule of `objects`, so that it is no advantage


def means(pairs: list[tuple[float, float]]) -> dict[str, float]:
    ours, otsu = np.mean(pairs, 0)
    return {"model": round(float(ours), 3), "Otsu": round(float(otsu), 3)}


# ---- skin


def skin_samples(rng: Rng) -> Iterator[Sample]:
    """Generated lesions alone: so that every real one may be scored on."""
    for i in range(GENERATED["skin"]):
        image, mask = lesion(np.random.default_rng([0, i]))
        yield Sample(image, mask.astype(np.uint8), (1.0, 1.0), f"generated {i}")


def skin_scores(model: Model) -> Scores:
    """Dice of each real image, and the mean of generated ones."""
    found: Scores = {}
    halves: tuple[Half, ...] = ("tuning", "reporting")
    for half in halves:
        for file in files("skin", half):
            image, ids = numbered(file)
            found[f"{file.stem} ({half} half)"] = means([dice_of(model, np.moveaxis(image, -1, 0), ids > 0)])
    made = (lesion(np.random.default_rng([0, HELD_OUT + i])) for i in range(TESTED))
    return {**found, f"generated ({TESTED} images)": means([dice_of(model, *pair) for pair in made])}


def dice_of(model: Model, image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    return dice(model.predict(image) == 1, mask), dice(dark(image.mean(0)), mask)


def dark(grey: np.ndarray) -> np.ndarray:
    """Otsu's threshold: the largest dark piece that does not touch the border of the image, filled."""
    numbers, count = ndi.label(grey < threshold_otsu(grey))
    inner = np.setdiff1d(np.arange(1, count + 1), np.r_[numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    largest = max(inner, key=lambda number: (numbers == number).sum(), default=0)
    return ndi.binary_fill_holes(numbers == largest) if largest else np.zeros(grey.shape, bool)


SAMPLES: dict[str, Callable[[Rng], Iterator[Sample]]] = {"nuclei": nuclei_samples, "skin": skin_samples}
SCORES: dict[str, Callable[[Model], Scores]] = {"nuclei": nuclei_scores, "skin": skin_scores}


# ---- the card


WORDS: dict[str, dict[str, str]] = {
    "nuclei": {
        "title": "Nuclei in fluorescence, histology and bright field",
        "about": "Tells nuclei from each other (interior, boundary), about 8 to 50 pixels across; resample others "
        "first.",
        "images": "2-D, grey or colour, whose channels are averaged; nuclei bright on dark or dark on bright",
        "trained_on": "17 images of DSB 2018 (BBBC038) and of StarDist's samples, the tuning half of "
        "benchmarks/images.py, and 90 generated ones",
        "data_licence": "DSB 2018: CC0; StarDist: BSD-3-Clause; generated: none needed",
        "score": "F1 of objects at an IoU of .5, mean over images that it was not trained on",
    },
    "skin": {
        "title": "Lesions of the skin",
        "about": "The one lesion that a dermatoscopic picture is of. For trying out and to train on from, not for "
        "diagnosis: it was tested on five real images, two of which have a coarse polygon as their truth (0012388, "
        "0014489).",
        "images": "2-D, RGB; the whole picture is resized to 128 x 128 pixels",
        "trained_on": "500 generated images; no real one, so that the real ones could all be scored on",
        "data_licence": "none needed; those of the scores are of ISIC 2017, CC0",
        "score": "Dice of the lesion, on images that it was not trained on",
    },
}


def write_card(name: str, folder: Path, scores: Scores) -> None:
    weights, command = folder / WEIGHTS, f"python -m benchmarks.bundle {name}"
    model = Model.load(folder, "cpu")
    card = Card(
        **WORDS[name],
        networks=model.names,
        classes=model.classes,
        scores=scores,
        scored_by=f"{command} --score",
        made_by=command,
        licence="BSD-3-Clause",
        parameters=sum(p.numel() for network in model.networks.values() for p in network.parameters()),
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )
    with replacing(folder / CARD) as file:
        file.write_text(json.dumps(card.to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
