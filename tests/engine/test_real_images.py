"""Real hearts with expert strokes, where they are at hand: set SCRIBBLEMAMBA_DATA to a folder that has acdc/dev."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.metrics import dice
from trainer.propagation import propagate

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", ROOT / "../shared/data"))
sys.path.insert(0, str(ROOT / "benchmarks"))

pytestmark = pytest.mark.skipif(not (DATA / "acdc/dev").is_dir(), reason=f"no ACDC volumes in {DATA}")


@pytest.mark.parametrize(("patient", "least"), [("065", 0.85), ("070", 0.85), ("045", 0.77)])
def test_three_scribbled_slices_spread_over_the_heart(patient: str, least: float) -> None:
    from three_slices import three_slices

    sample, dense = three_slices(DATA / f"acdc/dev/patient{patient}_frame01.npz")
    labels = propagate(sample, classes=4).labels
    assert np.mean([dice(labels == c, dense.target == c) for c in (1, 2, 3)]) > least
