"""Plans: those of nnU-Net 2.8.1 for four datasets, those of U-Mamba's, and each rule by itself."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import PRESETS
from trainer.dataset import save_dataset
from trainer.networks import build
from trainer.plan import (
    BUDGET,
    Fingerprint,
    Intensities,
    Plan,
    Stages,
    fingerprint,
    fitting,
    network_arguments,
    plan,
    planned,
    recommended,
    stages_of,
    target_spacing,
)
from trainer.sample import IGNORE, Sample

DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", Path(__file__).parents[2] / "../shared/data"))
CLASSES = ("background", "object")


def like(shape: tuple[int, ...], spacing: tuple[float, ...], images: int = 20, **others: object) -> Fingerprint:
    """Of that many images, all alike."""
    return dataclasses.replace(
        Fingerprint(CLASSES, ("image",), (shape,) * images, (spacing,) * images, 1.0, (None,)), **others
    )


def cube(edge: int, value: float = 1.0, name: str = "cube") -> Sample:
    """A cube of one value, its foreground, amid zeros; 20 voxels along each axis."""
    image, target = np.zeros((20, 20, 20), np.float32), np.zeros((20, 20, 20), np.uint8)
    image[:edge, :edge, :edge], target[:edge, :edge, :edge] = value, 1
    return Sample(image[None], target, (2.0, 1.0, 1.0), name)


# What nnU-Net plans, as run by itself: version 2.8.1, ExperimentPlanner, 8 GB


def halved(times: int) -> tuple[tuple[int, int], ...]:
    return ((1, 1), *((2, 2),) * times)


HEART = like((10, 256, 216), (10.0, 1.4843775033950806, 1.4843775033950806))
HEART_STRIDES = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
HEART_KERNELS = ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4)
FLUO, POLYP, EM = ((360, 360), 16), ((531, 622), 11), ((512, 512), 15)  # median size, images


def test_heart_slices() -> None:
    found = plan(HEART, 2)
    assert found.patch == (256, 224) and found.batch == 10
    assert found.spacing == (1.4843775033950806,) * 2
    assert found.strides == halved(5) and found.kernels == ((3, 3),) * 6
    assert found.features == (32, 64, 128, 256, 512, 512)
    assert [(norm.scheme, norm.masked) for norm in found.normalisation] == [("z-score", False)]


def test_heart_volumes_have_flat_kernels_until_their_pixels_are_nearly_as_coarse_as_slices() -> None:
    found = plan(HEART, 3)
    assert found.patch == (10, 256, 224) and found.batch == 2
    assert found.spacing == (10.0, 1.4843775033950806, 1.4843775033950806)
    assert found.strides == HEART_STRIDES and found.kernels == HEART_KERNELS
    assert found.features == (32, 64, 128, 256, 320, 320)


@pytest.mark.parametrize(
    ("size", "images", "patch", "times"),
    [(*FLUO, (384, 384), 6), (*POLYP, (640, 640), 7), (*EM, (512, 512), 7)],
    ids=["fluorescence", "polyps", "electron microscopy"],
)
def test_pictures(size: tuple[int, int], images: int, patch: tuple[int, int], times: int) -> None:
    found = plan(like(size, (1.0, 1.0), images), 2)
    assert found.patch == patch and found.batch == 2 and found.spacing == (1.0, 1.0)
    assert found.strides == halved(times) and found.kernels == ((3, 3),) * (times + 1)
    assert found.features == (32, 64, 128, 256, 512, 512, 512, 512)[: times + 1]


def real(pattern: str, images: int) -> Fingerprint:
    """Of the first files that match. Test is skipped where they are absent."""
    files = sorted(DATA.glob(pattern))[:images]
    if len(files) < images:
        pytest.skip(f"{len(files)} of {images} images {pattern} in {DATA}")
    samples = [load(file) for file in files]
    return fingerprint(samples, ("background", "a", "b", "c"), "RGB" if len(samples[0].image) == 3 else ("image",))


def load(file: Path) -> Sample:
    with np.load(file) as arrays:
        image = arrays["image"].astype(np.float32)
        image = np.moveaxis(image, -1, 0) if image.shape[-1] == 3 else image[None]
        target = arrays["scribble"] if "scribble" in arrays else arrays["label"] > 0
        spacing = arrays["spacing_zyx_mm"].tolist() if "spacing_zyx_mm" in arrays else (1.0, 1.0)
    return Sample(image, np.where(target == 4, IGNORE, target).astype(np.uint8), tuple(spacing), file.stem)


def test_real_hearts() -> None:
    found = real("acdc/dev/patient0[2-5]*_frame01.npz", 20)
    slices, volumes = plan(found, 2), plan(found, 3)
    assert (slices.patch, slices.batch) == ((256, 224), 10)
    assert slices.spacing == pytest.approx((1.4843775033950806,) * 2, rel=1e-6)  # NIfTI headers are float32
    assert (volumes.patch, volumes.batch) == ((10, 256, 224), 2)
    assert volumes.strides == HEART_STRIDES and volumes.kernels == HEART_KERNELS
    assert volumes.spacing == pytest.approx((10.0, 1.4843775033950806, 1.4843775033950806), rel=1e-6)
    assert recommended(found) == 2


@pytest.mark.parametrize(
    ("pattern", "images", "patch", "times", "channels"),
    [
        ("microscopy/dsb18_fluo_*.npz", 16, (384, 384), 6, 1),
        ("endoscopy/kvasirseg*.npz", 11, (640, 640), 7, 3),
        ("microscopy_em/*.npz", 15, (512, 512), 7, 1),
    ],
)
def test_real_pictures(pattern: str, images: int, patch: tuple[int, int], times: int, channels: int) -> None:
    found = plan(real(pattern, images), 2)
    assert (found.patch, found.batch, found.spacing) == (patch, 2, (1.0, 1.0))
    assert found.strides == halved(times)
    assert [(norm.scheme, norm.masked) for norm in found.normalisation] == [("z-score", False)] * channels


VOLUME = ((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 3, (1, 2, 2))


@pytest.mark.parametrize(
    ("patch", "spacing", "strides"),
    [
        ((512, 512), (0.8, 0.8), halved(7)),
        ((40, 224, 192), (2.5, 0.8, 0.8), VOLUME),
        ((320, 320), (1.2, 1.2), halved(6)),
        ((48, 160, 224), (3.0, 1.2, 1.2), VOLUME),
        ((384, 640), (1.0, 1.0), halved(6)),
        ((512, 512), (1.0, 1.0), halved(7)),
    ],
    ids=["CT 2-D", "CT", "MR 2-D", "MR", "endoscopy", "microscopy"],
)
def test_the_stages_of_u_mambas_data(patch: tuple, spacing: tuple, strides: tuple) -> None:
    found = stages_of(spacing, patch)
    flat = [(1, 3, 3)] if len(patch) == 3 else [(3, 3)]
    assert found.patch == patch and found.strides == strides
    assert found.kernels == (*flat, *((3,) * len(patch),) * (len(strides) - 1))


# Fingerprints


def test_zeros_around_an_image_do_not_count() -> None:
    found = fingerprint([cube(10)], CLASSES, ["image"])
    assert found.shapes == ((10, 10, 10),) and found.spacings == ((2.0, 1.0, 1.0),)
    assert found.kept == 1 / 8
    assert plan(found, 3).normalisation[0].masked


def test_little_is_lost_and_the_zeros_stay() -> None:
    assert not plan(fingerprint([cube(19)], CLASSES, ["image"]), 3).normalisation[0].masked  # .857 is kept


def test_every_image_counts_the_same_in_the_intensities_of_ct() -> None:
    small, large = cube(1, 100.0), cube(15, 300.0)
    norm = plan(fingerprint([small, large], CLASSES, ["CT"]), 3).normalisation[0]
    assert norm.scheme == "ct" and not norm.masked
    assert norm.foreground == Intensities(mean=200.0, deviation=100.0, low=100.0, high=300.0)


def test_half_a_percent_is_clipped_at_either_end() -> None:
    values = np.arange(8000, dtype=np.float32).reshape(20, 20, 20)
    sample = Sample(values[None], np.ones(values.shape, np.uint8), (1.0, 1.0, 1.0))
    (ct,) = fingerprint([sample], CLASSES, ["CT"]).intensities
    assert (ct.mean, ct.low, ct.high) == pytest.approx((3999.5, 40, 7960), abs=1)
    assert ct.deviation == pytest.approx(8000 / math.sqrt(12), rel=1e-3)


def test_what_nobody_drew_on_is_no_foreground() -> None:
    sample = cube(10)
    sample.target[:] = IGNORE
    sample.target[0, 0, :2] = (0, 1)
    sample.image[0, 0, 0, 1] = 7.0
    assert fingerprint([sample], CLASSES, ["CT"]).intensities == (Intensities(7.0, 0.0, 7.0, 7.0),)
    sample.target[0, 0, 1] = 0
    found = fingerprint([sample], CLASSES, ["CT"])
    assert found.intensities == (None,)
    with pytest.raises(ValueError, match="only background is drawn"):
        plan(found, 3)


def test_modalities_have_each_their_own_normalisation() -> None:
    ct = Intensities(50.0, 10.0, 0.0, 100.0)
    found = plan(like((100, 100), (1, 1), channels=("ct", "PET"), intensities=(ct, ct), kept=0.5), 2)
    assert [(norm.channel, norm.scheme, norm.masked) for norm in found.normalisation] == [
        ("ct", "ct", False),
        ("PET", "z-score", True),
    ]
    assert found.intensities == ((50.0, 10.0, 0.0, 100.0), ())


def test_narrow_images_are_planned_for_with_a_patch_that_networks_can_read() -> None:
    """Views go on beyond the border, mirrored. The config of the run could not be read again otherwise."""
    rng = np.random.default_rng(0)
    narrow = Sample(rng.random((1, 12, 200), np.float32), rng.integers(0, 2, (12, 200), np.uint8), (1.0, 1.0), "narrow")
    config = planned(
        dataclasses.replace(PRESETS["supervised"], device="cpu"), [narrow], ("ground", "object"), ("grey",)
    )
    assert config.patch[0] == 16 and config.checked()


def test_a_run_leaves_out_the_zeros_where_the_plan_says_so() -> None:
    supervised = dataclasses.replace(PRESETS["supervised"], device="cpu")
    small, all_of_it = cube(10), cube(19)
    assert planned(supervised, [small], CLASSES, ["MRI"]).masked
    assert not planned(supervised, [all_of_it], CLASSES, ["MRI"]).masked
    assert not planned(supervised, [small], CLASSES, ["CT"]).masked
    equalised = dataclasses.replace(supervised, normalisation="equalised")
    assert not planned(equalised, [small], CLASSES, ["MRI"]).masked


@pytest.mark.parametrize(
    ("samples", "channels", "message"),
    [
        ([], ["image"], "without images"),
        ([cube(10)], "RGB", "has 1 channels, but"),
        ([cube(10), Sample(np.eye(9)[None], np.eye(9), (1.0, 1.0), "flat")], ["image"], "'cube' and 'flat' differ"),
        ([cube(0)], ["image"], "constant"),
    ],
)
def test_samples_that_are_no_dataset(samples: list[Sample], channels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fingerprint(samples, CLASSES, channels)


# Spacing, patch, batch


def test_the_spacing_is_the_median_but_of_few_thick_slices_the_tenth_percentile() -> None:
    thickness = [5.0, 5.0, *[10.0] * 8]
    shapes, spacings = ((10, 256, 256),) * 10, tuple((thick, 1.0, 1.0) for thick in thickness)
    assert target_spacing(like((), (), shapes=shapes, spacings=spacings)) == (5.0, 1.0, 1.0)
    many = ((90, 256, 256),) * 10  # slices, no fewer than a third of the pixels: the median
    assert target_spacing(like((), (), shapes=many, spacings=spacings)) == (10.0, 1.0, 1.0)
    thin = tuple((0.5 if thick == 5.0 else thick, 1.0, 1.0) for thick in thickness)  # never finer than the pixels
    assert target_spacing(like((), (), shapes=shapes, spacings=thin)) == (1.00001, 1.0, 1.0)


def test_the_patch_is_cut_where_it_covers_most_of_the_image_until_two_fit() -> None:
    whole, half = (plan(like((128, 128, 128), (1.0, 1.0, 1.0)), 3, memory) for memory in (8, 4))
    assert whole.patch == (128, 128, 128) and whole.batch == 2 and len(whole.strides) == 6
    # from the last axis on, in steps of 16: 112 is halved four times only, since after that it has 7 < 8 voxels
    assert half.patch == (112, 112, 96) and half.batch == 2 and len(half.strides) == 5


def test_the_values_of_a_tiny_u_are_counted_as_on_paper() -> None:
    tiny = Stages(patch=(8, 8), strides=halved(1), kernels=((3, 3),) * 2)
    down, up, logits = 2 * 32 * 64 + 2 * 64 * 16, 3 * 32 * 64, 5 * 64
    assert tiny.features == (32, 64) and tiny.values(classes=5) == down + up + logits


def test_more_memory_means_more_patches_until_a_batch_shows_a_twentieth_of_the_data() -> None:
    few, many = like((256, 256), (1.0, 1.0), 100), like((256, 256), (1.0, 1.0), 10_000)
    assert plan(few, 2).batch == plan(few, 2, 16).batch == 5
    each = 65536 * (2 * (62.5 + 1 / 8) + 3 * 62.5 + 2)  # 32 + 16 + 8 + 4 + 2 + 1/2 = 62.5 features a pixel, then 1/8
    assert plan(many, 2).batch == round(12 * 85e6 / each) == 49 and plan(many, 2, 16).batch == 99


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(8, 600), st.floats(0.3, 9.0)), min_size=2, max_size=3),
    st.integers(2, 30),
    st.sampled_from([1.0, 8.0, 24.0]),
)
def test_any_plan_fits(axes: list[tuple[int, float]], classes: int, memory: float) -> None:
    size, spacing = zip(*axes, strict=True)
    budget = BUDGET[len(axes)] * memory / 8
    found = fitting(spacing, size, classes, budget)
    assert 2 * found.values(classes) <= budget
    assert len(found.strides) == len(found.kernels) == len(found.features)
    for patch, multiple, voxels in zip(found.patch, found.multiple, size, strict=True):
        assert patch % multiple == 0 and patch < voxels + multiple
        assert multiple == 1 or patch // multiple >= 4


@pytest.mark.parametrize(
    ("found", "dimensions", "memory", "message"),
    [
        (like((100, 100), (1, 1)), 3, 8, "2-D images cannot be planned for in 3-D"),
        (like((1, 100, 100), (1, 1, 1)), 3, 8, "1 x 100 x 100 voxels, a single slice"),
        (like((100, 100), (1, 1)), 4, 8, "dimensions must be 2 or 3, got 4"),
        (like((100, 100), (1, 1)), 2, 0, "no patch fits into the memory"),
        (like((100, 100), (1, 1), channels=("rescale_to_0_1",)), 2, 8, "'rescale_to_0_1' asks for a normalisation"),
    ],
)
def test_what_cannot_be_planned(found: Fingerprint, dimensions: int, memory: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(found, dimensions, memory)


@pytest.mark.parametrize(
    ("shape", "spacing", "dimensions"),
    [
        ((300, 300), (1.0, 1.0), 2),
        ((1, 300, 300), (1.0, 1.0, 1.0), 2),
        ((10, 256, 216), (10.0, 1.5, 1.5), 2),  # heart, short axis
        ((20, 320, 320), (3.6, 0.6, 0.6), 3),  # prostate
        ((100, 512, 512), (2.5, 0.8, 0.8), 3),  # abdominal CT
        ((10, 40, 40), (1.0, 1.0, 1.0), 3),
        ((216, 256, 10), (1.5, 1.5, 10.0), 3),  # slices are cut along the first axis
    ],
)
def test_the_number_of_axes_that_is_recommended(shape: tuple, spacing: tuple, dimensions: int) -> None:
    assert recommended(like(shape, spacing)) == dimensions


# On disk, and on to the networks


def test_plan_and_fingerprint_come_back_from_disk(tmp_path: Path) -> None:
    ct = Intensities(50.0, 10.25, 0.0, 100.0)
    found = dataclasses.replace(HEART, channels=("CT", "T2"), intensities=(ct, None))
    planned, file = plan(found, 3), tmp_path / "plan.json"
    planned.save(file)
    assert Plan.load(file) == planned
    assert '\n  "patch": [10, 256, 224],\n' in file.read_text()
    with pytest.raises(ValueError, match="no fingerprint"):
        Fingerprint.load(file)
    found.save(file)
    assert Fingerprint.load(file) == found


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
@pytest.mark.parametrize(
    ("found", "dimensions", "patch"),
    [(like((60, 44), (1.0, 1.0)), 2, (64, 48)), (like((8, 32, 30), (8.0, 1.0, 1.0)), 3, (8, 32, 32))],
)
def test_a_planned_network_takes_the_planned_patch(
    name: str, found: Fingerprint, dimensions: int, patch: tuple[int, ...]
) -> None:
    planned = plan(found, dimensions)
    narrow = dataclasses.replace(planned, features=tuple(min(2 * 2**s, 4) for s in range(len(planned.features))))
    network = build(name, 1, 2, **network_arguments(narrow, name)).eval()
    assert planned.patch == patch and tuple(network.widths) == narrow.features
    convolutions = [stage[0].conv1 for stage in network.encoder.stages]
    assert tuple(conv.kernel_size for conv in convolutions) == planned.kernels
    assert tuple(conv.stride for conv in convolutions) == planned.strides
    with torch.no_grad():
        assert network(torch.randn(1, 1, *patch)).shape == (1, 2, *patch)


def test_the_planned_widths_are_nnu_nets() -> None:
    for dimensions in (2, 3):
        planned = plan(HEART, dimensions)
        with torch.device("meta"):
            network = build("umamba_enc", 1, 4, **network_arguments(planned, "umamba_enc"))
        assert tuple(network.widths) == planned.features


def test_other_networks_have_their_own_stages() -> None:
    with pytest.raises(ValueError, match="got 'unet'"):
        network_arguments(plan(HEART, 2), "unet")


def test_the_command_line_writes_a_plan_and_neither_needs_torch_nor_a_window(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [cube(16, 5.0)], CLASSES, channels=["CT"], sparse=False)
    call = "import sys, tyro; from trainer.plan import main; tyro.cli(main); assert 'torch' not in sys.modules"
    flags = [tmp_path / "data", "--out", tmp_path / "plan.json", "--memory", "4"]
    done = subprocess.run([sys.executable, "-c", call, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    planned = Plan.load(tmp_path / "plan.json")
    assert planned.patch == (16, 16, 16) and planned.spacing == (2.0, 1.0, 1.0) and planned.batch == 2
    assert planned.intensities == ((5.0, 0.0, 5.0, 5.0),)
    assert "16 x 16 x 16 voxels" in " ".join(done.stdout.split())
    failed = subprocess.run([sys.executable, "-m", "trainer.plan", tmp_path / "no"], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("trainer.plan: ") and "no" in failed.stderr
