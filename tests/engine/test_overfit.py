"""Every segmentation network can learn one generated image by heart, in seconds, at small width."""

import dataclasses

import pytest
from test_volumes import VOLUMES, ball, overlap, trained
from toys import dense_disc

from trainer.config import AXES
from trainer.networks import NETWORKS

FLAT = dataclasses.replace(VOLUMES, iterations=40, patch=(40, 40), augmentation="none", deep_supervision=False)
SOLID = dataclasses.replace(FLAT, iterations=30, patch=(16, 24, 24))


@pytest.mark.parametrize("name", [name for name in NETWORKS if 2 in AXES.get(name, (2,))])
def test_it_learns_a_disc_by_heart(name: str) -> None:
    sample = dense_disc()
    assert overlap(trained(dataclasses.replace(FLAT, networks=(name,)), sample), sample) > 0.95


@pytest.mark.parametrize("name", [name for name in NETWORKS if 3 in AXES.get(name, (2,))])
def test_it_learns_a_ball_by_heart(name: str) -> None:
    sample = ball((16, 24, 24), (5, 7, 7))
    assert overlap(trained(dataclasses.replace(SOLID, networks=(name,)), sample), sample) > 0.95
