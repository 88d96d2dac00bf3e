"""Intensities as the networks see them. The masked ones are nnU-Net's: its class ZScoreNormalization with
use_mask_for_norm, and its create_nonzero_mask."""

import dataclasses

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK

from trainer.batches import Batches, Case, normalise
from trainer.config import Config
from trainer.model import Model
from trainer.sample import Sample

MASKED = dataclasses.replace(QUICK, normalisation="zscore", masked=True)
BRAIN = np.array([[0, 0, 1, 3], [0, 0, 1, 3]], np.float32)  # in the head: mean 2, deviation 1


def test_by_the_image_without_the_zeros_around_which_stay() -> None:
    np.testing.assert_array_equal(normalise(BRAIN[None], MASKED)[0], [[0, 0, -1, 1], [0, 0, -1, 1]])
    plain = normalise(BRAIN[None], dataclasses.replace(MASKED, masked=False))[0]
    np.testing.assert_allclose(plain[0], (np.array([0, 0, 1, 3]) - 1) / np.sqrt(1.5), rtol=1e-6)


def test_outside_is_where_every_channel_is_zero() -> None:
    other = np.array([[0, 4, 4, 8], [0, 4, 4, 8]], np.float32)  # of the head it sees a column more
    first, second = normalise(np.stack([BRAIN, other]), MASKED)
    np.testing.assert_allclose(first[0], [0, *(np.array([0, 1, 3]) - 4 / 3) / np.std([0, 1, 3])], rtol=1e-6)
    np.testing.assert_allclose(second[0], [0, *(np.array([4, 4, 8]) - 16 / 3) / np.std([4, 4, 8])], rtol=1e-6)


def test_zeros_that_a_volume_encloses_are_inside() -> None:
    volume = np.full((3, 3, 3), 27 / 26, np.float32)
    volume[1, 1, 1] = 0  # mean 1
    found = normalise(volume[None], MASKED)[0]
    assert found[1, 1, 1] == pytest.approx(-1 / volume.std(), rel=1e-5)
    assert normalise(volume[None, 1], MASKED)[0, 1, 1] == 0  # a picture, as nnU-Net sees it, has an open hole there


def test_of_a_plan_ct_is_not_masked() -> None:
    planned = dataclasses.replace(MASKED, normalisation="planned", intensities=((2.0, 4.0, 1.0, 2.0), ()))
    ct, other = normalise(np.stack([BRAIN, BRAIN]), planned)
    np.testing.assert_array_equal(ct[0], [-0.25, -0.25, -0.25, 0])
    np.testing.assert_array_equal(other[0], [0, 0, -1, 1])


@pytest.mark.parametrize("augmentation", ["none", "strong", "nnunet"])
def test_while_it_trains_the_outside_stays_zero_whatever_happens_to_grey_values(augmentation: str) -> None:
    image = np.random.default_rng(0).uniform(50, 90, (1, 40, 40)).astype(np.float32)
    image[:, :, :20] = 0
    target = (image[0] > 0).astype(np.uint8)
    config = dataclasses.replace(MASKED, augmentation=augmentation, interpolation="nearest", batch=8)
    batch = Batches([Case.of(Sample(image, target, (1.0, 1.0), "half"), None, config)], config)[0]
    outside, inside = ((batch.target == c)[:, None] for c in (0, 1))
    assert outside.any() and (batch.image[outside] == 0).all() and (batch.image[inside] != 0).all()


def test_a_run_keeps_it_and_predicts_by_it(tmp_path) -> None:
    config = dataclasses.replace(MASKED, networks=("unet",), objective="supervised", patch=(16, 16))
    Model.new(config, CLASSES, 1).save(tmp_path)
    image = np.pad(BRAIN, 20)[None]
    seen = Model.load(tmp_path, "cpu").prepared(image).items
    torch.testing.assert_close(seen[0, 0, 20, 20:24], torch.tensor([0.0, 0, -1, 1]))
    assert seen[0, 0, :20].eq(0).all()


def test_other_normalisations_have_no_mask() -> None:
    with pytest.raises(ValueError, match="masked is for the normalisations zscore and planned, got equalised"):
        Config(iterations=1, masked=True).checked()
