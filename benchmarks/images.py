"""Real images with their truth, which half of them is for tuning and which for reporting, and strokes on them.

Data: the .npz files (image, label[, scribble, spacing_zyx_mm]) under SCRIBBLEMAMBA_DATA, by default ../shared/data.

The split. Cardiac: acdc/splits.json, the 68 patients of "train" for tuning and the 12 of "val" for reporting, at end
diastole (frame01; frame04 of patient090). Everything else: the files of each pattern in natural order (b2 before b10);
the first half of the people, or of the images where nobody is named, for tuning and the rest for reporting; where the
number is odd, tuning has one more. No person is known to be in both halves: all of cvc612_fine_3 is one colonoscopy,
for tuning. But the EM images are slices of one stack, cut in two, and of the crops in histology and bright field nobody
says which are of one slide.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from trainer import annotator
from trainer.sample import IGNORE, Sample

DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", "../shared/data"))
Half = Literal["tuning", "reporting"]
Modality = Literal["cardiac", "fluorescence", "histology", "brightfield", "em", "endoscopy", "skin", "ct", "mr"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
PATTERNS: dict[Modality, tuple[str, ...]] = {
    "cardiac": ("acdc/dev/patient*_frame01.npz", "acdc/dev/patient090_frame04.npz"),
    "fluorescence": ("microscopy/dsb18_fluo_*.npz", "microscopy/stardist_*.npz"),
    "histology": ("microscopy/dsb18_histo_*.npz",),
    "brightfield": ("microscopy/dsb18_bf_*.npz",),
    "em": ("microscopy_em/isbi2012_*.npz",),
    "endoscopy": ("endoscopy/cvc612_*.npz", "endoscopy/kvasirseg_*.npz"),
    "skin": ("dermoscopy/isic17_*.npz",),
    "ct": ("abdomen_ct/chaosctliver_*.npz", "abdomen_ct/msdspleen_*.npz"),
    "mr": ("abdomen_mr/pancreasT2_*.npz",),
}
PERSON = re.compile(r"patient\d+|chaosctliver_\d+|msdspleen_\d+|pancreasT2_\d+|cvc612_fine_\d+")
ALL = 10  # a budget of so many slices, or more, is all strokes of a volume


@dataclass(frozen=True, eq=False)
class Case:
    """An image, its truth, and the strokes that an expert drew on it, where there are any."""

    truth: Sample
    classes: tuple[str, ...]
    expert: np.ndarray | None = None  # uint8 (*space), class or IGNORE

    @property
    def name(self) -> str:
        return self.truth.name


# ---- files ----


def cases(modality: Modality, half: Half, count: int) -> list[Case]:
    """At most `count` of them, evenly spread over the half. FileNotFoundError where the data is not here."""
    return [read(file) for file in picked(files(modality, half), count)]


def transferred(modality: Modality, half: Half, drawn: int, tested: int) -> tuple[list[Case], list[Case]]:
    """Images to draw on and images that nobody draws on, of other people.

    To report, strokes are drawn in the tuning half and the reporting half is tested; to tune, the tuning half is cut
    in two by the same rule.
    """
    if half == "reporting":
        return cases(modality, "tuning", drawn), cases(modality, "reporting", tested)
    found = files(modality, "tuning")
    parts = halves([person(file.stem) for file in found])
    first, second = ([f for f in found if person(f.stem) in parts[side]] for side in ("tuning", "reporting"))
    return [read(f) for f in picked(first, drawn)], [read(f) for f in picked(second, tested)]


def files(modality: Modality, half: Half) -> list[Path]:
    found = []
    for pattern in PATTERNS[modality]:
        family = sorted(DATA.glob(pattern), key=lambda file: natural(file.name))
        if not family:
            raise FileNotFoundError(f"no {pattern} in {DATA}; set SCRIBBLEMAMBA_DATA to the folder of the images")
        names = of_acdc(half) if modality == "cardiac" else halves([person(file.stem) for file in family])[half]
        found += [file for file in family if person(file.stem) in names]
    return found


def of_acdc(half: Half) -> set[str]:
    split = json.loads((DATA / "acdc/splits.json").read_text())
    return set(split[{"tuning": "train", "reporting": "val"}[half]])


def halves(people: Sequence[str]) -> dict[Half, set[str]]:
    """The split: people in the order given, each once; the first half, and one more of an odd number, for tuning."""
    once = list(dict.fromkeys(people))
    middle = (len(once) + 1) // 2
    return {"tuning": set(once[:middle]), "reporting": set(once[middle:])}


def person(stem: str) -> str:
    """Whose image it is; the image itself where nobody is named."""
    named = PERSON.match(stem)
    return named.group() if named else stem


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts b2 before b10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def picked(items: Sequence, count: int) -> list:
    """At most `count` of them, evenly spread."""
    if count >= len(items):
        return list(items)
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def read(file: Path) -> Case:
    content = np.load(file)
    image, label = content["image"].astype(np.float32), content["label"]
    if "scribble" in content:
        classes, strokes = ("background", "RV", "MYO", "LV"), content["scribble"].astype(np.uint8)
        strokes[strokes == len(classes)] = IGNORE
        spacing = tuple(content["spacing_zyx_mm"].tolist())
        return Case(Sample(image[None], label.astype(np.uint8), spacing, file.stem), classes, strokes)
    image = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]  # (C, H, W)
    truth = Sample(image, (label > 0).astype(np.uint8), (1.0, 1.0), file.stem)  # nuclei are numbered: > 0
    return Case(truth, ("background", "object"))


# ---- strokes ----


def drawn(case: Case, budget: int, seed: int) -> tuple[Sample, float | None]:
    """The image with strokes, and the seconds that drawing took, None for an expert's.

    Of a volume: strokes on `budget` slices, evenly spread, from ALL on everywhere; of an image: `budget` strokes for
    each class. The same seed gives the same strokes; of an image, a smaller budget's are among those of a larger one.
    """
    if case.expert is not None:
        return replace(case.truth, target=kept(case.expert, case.truth.target, budget)), None
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    label = case.truth.target
    if label.ndim == 2:
        strokes = annotator.scribble(label, budget, rng)
    else:
        strokes = annotator.scribble_slices(label, annotator.spread(label, slices(budget)), 1, rng)
    return replace(case.truth, target=annotator.painted(strokes, label.shape)), annotator.seconds(strokes)


def kept(strokes: np.ndarray, label: np.ndarray, budget: int) -> np.ndarray:
    """An expert's strokes on `budget` slices that show an object; from ALL on, all of them."""
    if budget >= ALL:
        return strokes
    shown = strokes.copy()
    shown[~label.any((1, 2))] = IGNORE
    hidden = np.setdiff1d(np.arange(len(strokes)), annotator.spread(shown, budget))
    shown[hidden] = IGNORE
    return shown


def slices(budget: int) -> int:
    return budget if budget < ALL else 10**6
