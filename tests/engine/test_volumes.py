"""Volumes: patches with three axes, networks that read them, images brought to one spacing and back."""

import dataclasses

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK, dense_disc, scribbled_disc

from trainer.augmentation import new_shade, nnunet_turn
from trainer.batches import Batches, Case
from trainer.model import Model
from trainer.resampling import new_space, resample_image, resample_labels, resample_probabilities
from trainer.run import Run
from trainer.sample import IGNORE, Sample

VOLUMES = dataclasses.replace(
    QUICK,
    networks=("umamba_bot",),
    objective="supervised",
    iterations=30,
    propagation=False,
    patch=(8, 32, 32),
    normalisation="zscore",
    augmentation="nnunet",
    learning_rate=3e-3,
    deep_supervision=True,
)


def ball(shape: tuple[int, ...] = (12, 40, 40), radii: tuple[int, ...] = (4, 10, 10), seed: int = 0) -> Sample:
    """A bright ellipsoid in noise, with its dense labels; slices are three times as thick as pixels are wide."""
    places = [(np.arange(n) - n / 2) / r for n, r in zip(shape, radii, strict=True)]
    truth = (sum(np.square(np.meshgrid(*places, indexing="ij"))) < 1).astype(np.uint8)
    image = 100.0 * truth + 30 + np.random.default_rng(seed).normal(0, 5, shape)
    return Sample(image[None].astype(np.float32), truth, (3.0, 1.0, 1.0), f"ball{seed}")


def trained(config: object, sample: Sample) -> Model:
    run = Run([sample], config, CLASSES)
    for _ in run:
        pass
    return run.model


def overlap(model: Model, sample: Sample) -> float:
    found = model.predict(sample.image, sample.spacing)
    return 2 * (found & sample.target).sum() / (found.sum() + sample.target.sum())


def test_a_ball_is_found_in_other_noise() -> None:
    assert overlap(trained(VOLUMES, ball()), ball(seed=3)) > 0.85


def test_volumes_of_any_size_come_back_in_theirs() -> None:
    model = trained(dataclasses.replace(VOLUMES, iterations=1), ball())
    odd = ball((5, 37, 61))
    assert model.predict(odd.image, odd.spacing).shape == (5, 37, 61)


def test_networks_may_teach_each_other_on_volumes() -> None:
    config = dataclasses.replace(
        VOLUMES, networks=("umamba_bot", "nnmamba"), objective="cross_teaching", deep_supervision=False, iterations=2
    )
    assert set(trained(config, ball()).names) == {"umamba_bot", "nnmamba"}


def test_a_network_of_slices_refuses_volumes_and_the_reverse() -> None:
    with pytest.raises(ValueError, match="unet takes patches of 2 axes"):
        trained(dataclasses.replace(VOLUMES, networks=("unet",)), ball())
    with pytest.raises(ValueError, match="nnmamba takes patches of 3 axes"):
        trained(dataclasses.replace(VOLUMES, networks=("nnmamba",), patch=(32, 32)), ball())
    with pytest.raises(ValueError, match="'disc' is 2-D"):
        trained(VOLUMES, dense_disc())


def test_training_at_another_spacing_predicts_on_the_images_own_grid() -> None:
    config = dataclasses.replace(VOLUMES, spacing=(3.0, 2.0, 2.0), patch=(8, 16, 16))
    model = trained(config, ball())
    assert model.prepared(ball().image, spacing=(3.0, 1.0, 1.0)).items.shape == (1, 1, 12, 20, 20)
    assert overlap(model, ball(seed=3)) > 0.85


def test_slices_keep_their_distance_where_the_spacing_has_two_axes() -> None:
    config = dataclasses.replace(QUICK, spacing=(2.0, 2.0))
    case = Case.of(ball(), None, config)
    assert case.image.shape == (12, 1, 20, 20) and case.target.shape == (12, 20, 20)


# Resampling


def test_the_new_space_has_the_old_extent() -> None:
    assert new_space((10, 40, 41), (3.0, 1.0, 1.0), (1.5, 2.0, 2.0)) == (20, 20, 20)


def test_labels_keep_their_ids_and_what_nobody_drew() -> None:
    labels = np.full((4, 8), IGNORE, np.uint8)
    labels[:, :4] = 2
    halved = resample_labels(labels, (1.0, 1.0), (2.0, 2.0))
    assert halved.tolist() == [[2, 2, IGNORE, IGNORE]] * 2


@pytest.mark.parametrize("factor", [2.5, 3.0, 4.0])
def test_thin_strokes_stay_on_a_coarser_grid(factor: float) -> None:
    """Most of every voxel is IGNORE; one that has pixels of two classes gets the one with more."""
    labels = np.full((400, 400), IGNORE, np.uint8)
    labels[60:62, 20:380], labels[200:202, 20:380], labels[301, 20:380] = 0, 1, 2
    labels[200, 20] = 2
    coarse = resample_labels(labels, (1.0, 1.0), (factor, factor))
    for c, row in ((0, 60), (1, 200), (2, 301)):
        line = (coarse == c).any(1)
        assert line.sum() in (1, 2) and abs(np.flatnonzero(line)[0] - row / factor) <= 1
        assert (coarse == c).sum() >= 350 / factor
    whole = np.repeat(np.array([0, 1], np.uint8), 200)[:, None].repeat(400, 1)
    assert set(np.unique(resample_labels(whole, (1.0, 1.0), (factor, factor)))) == {0, 1}


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.broadcast_to(np.arange(32.0, dtype=np.float32), (1, 8, 32))
    coarse = resample_image(ramp, (1.0, 1.0), (1.0, 2.0))
    np.testing.assert_allclose(coarse[0, 0, 2:-2], np.arange(0.5, 32, 2)[2:-2], atol=0.05)


def test_thick_slices_are_not_interpolated() -> None:
    stack = np.stack([np.full((8, 8), z, np.float32) for z in (0, 10)])[None]
    assert set(np.unique(resample_image(stack, (8.0, 1.0, 1.0), (4.0, 1.0, 1.0)))) == {0, 10}
    assert set(np.unique(resample_image(stack, (2.0, 1.0, 1.0), (1.0, 1.0, 1.0)))) != {0, 10}


def test_probabilities_come_back_to_the_size_of_the_image() -> None:
    half = np.stack([np.full((3, 4, 4), 0.25), np.full((3, 4, 4), 0.75)])
    assert resample_probabilities(half, (5, 9, 7)).shape == (2, 5, 9, 7)
    np.testing.assert_allclose(resample_probabilities(half, (5, 9, 7)).sum(0), 1, rtol=1e-6)


# Augmentation


def test_nnunet_turns_flat_patches_in_their_plane_only() -> None:
    rng = np.random.default_rng(0)
    turns = np.stack([nnunet_turn((8, 64, 64), rng) for _ in range(200)])
    assert (turns[:, 0, 1:] == 0).all() and (abs(turns[:, 0, 0]) == 1).all()
    solid = np.stack([nnunet_turn((64, 64, 64), rng) for _ in range(200)])
    assert (solid[:, 0, 1:] != 0).any()


@pytest.mark.parametrize("augmentation", ["none", "strong", "nnunet"])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_batch_of_an_iteration_is_always_the_same(augmentation: str, axes: int) -> None:
    config = dataclasses.replace(VOLUMES, augmentation=augmentation, patch=(8, 32, 32)[-axes:])
    cases = [Case.of(ball(), None, config)]
    first, second = Batches(cases, config), Batches(cases, config)
    first[0], first[1]  # another history
    assert torch.equal(first[5].image, second[5].image) and torch.equal(first[5].target, second[5].target)
    assert first[5].image.shape == (2, 1, *config.patch)
    assert not torch.equal(first[5].image, first[6].image)


def test_nnunet_shades_change_grey_values_but_not_shapes() -> None:
    shade, image = new_shade("nnunet", 3), torch.rand(2, 8, 16, 16)
    changed = [shade(image, np.random.default_rng(i)) for i in range(8)]
    assert all(type(x) is torch.Tensor and x.shape == image.shape and x.isfinite().all() for x in changed)
    assert any(not torch.equal(x, image) for x in changed)


def test_places_far_outside_are_read_like_those_of_the_whole_image() -> None:
    """Only a box is read for a view; at the borders that gives what reading all of the image would."""
    from trainer.batches import look

    config = dataclasses.replace(QUICK, augmentation="strong")
    case = Case.of(scribbled_disc(), None, config)
    places = np.stack(np.meshgrid(np.linspace(-15, 20, 24), np.linspace(25, 60, 24), indexing="ij"), -1)
    everywhere = np.concatenate([places.reshape(-1, 2), [[-39, -39], [78, 78]]])[None]  # makes the box the image
    near, whole = look(case, 0, places, config), look(case, 0, everywhere, config)
    torch.testing.assert_close(near.image.flatten(1), whole.image[:, 0, :-2], atol=1e-4, rtol=0)
    assert torch.equal(near.target.flatten(), whole.target[0, :-2])


def test_an_empty_patch_is_planned_for_the_images() -> None:
    from trainer.config import PRESETS

    config = dataclasses.replace(
        PRESETS["supervised"], networks=("umamba_enc",), minutes=None, iterations=1, batch=2, device="cpu"
    )
    run = Run([ball((20, 40, 40))], config, CLASSES)
    list(run)
    assert run.config.patch == (20, 40, 40) and run.config.spacing == (3.0, 1.0, 1.0)
    assert len(run.model.networks["umamba_enc"].widths) == len(run.config.strides)
    thick = dataclasses.replace(ball((6, 40, 40)), spacing=(5.0, 1.0, 1.0))
    flat = Run([thick], config, CLASSES)  # few slices far apart: they are planned for one by one
    list(flat)
    assert flat.config.patch == (40, 40)


def test_a_given_patch_stays_and_the_rest_is_planned_for_a_processor() -> None:
    from trainer.config import PRESETS

    config = dataclasses.replace(PRESETS["supervised"], patch=(32, 32), minutes=None, iterations=1, device="cpu")
    run = Run([ball((20, 40, 40))], config.checked(), CLASSES)
    list(run)
    assert run.config.patch == (32, 32) and run.config.batch == 2 and run.config.spacing == (1.0, 1.0)
