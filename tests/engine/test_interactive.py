"""A few strokes and forty steps: what the plugin shows is no worse than the forest of pixel classifiers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contestants import Work, forest
from trainer.config import PRESETS
from trainer.dataset import load_dataset
from trainer.formats import read_labels
from trainer.metrics import dice
from trainer.run import Run
from trainer.sample import IGNORE, Sample

SAMPLES = Path(__file__).parents[2] / "sample_data"


def scribbled(name: str) -> tuple[Sample, np.ndarray, tuple[str, ...]]:
    """The generated sample, its truth and its classes."""
    dataset = load_dataset(SAMPLES / name)
    (sample,) = dataset.samples
    return sample, read_labels(SAMPLES / name / "denseTr" / f"{sample.name}{dataset.ending}")[0], dataset.classes


def score(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    return float(np.mean([dice(labels == c, truth == c) for c in range(1, classes)]))


@pytest.mark.parametrize("name", ["microscopy", "endoscopy"])
def test_forty_steps_are_not_behind_the_forest(name: str) -> None:
    sample, truth, classes = scribbled(name)
    trees = forest(Work([sample], classes, minutes=None))[0].answers(sample)[""]
    config = dataclasses.replace(PRESETS["interactive"], minutes=None, iterations=40, threads=1, device="cpu")
    run = Run([sample], config, classes)
    for _ in run:
        pass
    assert (sample.target != IGNORE).mean() < 0.05  # strokes, not masks
    assert score(run.model.fill_in(sample), truth, len(classes)) > score(trees, truth, len(classes)) - 0.01
