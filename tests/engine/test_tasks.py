"""What is asked about whole volumes, classes and landmarks; and classes that are known to be absent from a slice."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK, dense_disc, scribbled_disc, scribbled_stack

from trainer.batches import Batches, Case
from trainer.config import TASK_PRESETS, Config
from trainer.dataset import load_dataset, save_dataset
from trainer.evaluate import _show_wholes, evaluate
from trainer.fit import fit, parse
from trainer.metrics import classification_scores, landmark_scores, radial_errors
from trainer.model import Model, without_absent
from trainer.objectives import heat_map_loss
from trainer.predict import Predict, predict
from trainer.propagation import Teacher
from trainer.run import Run, knowing_absent
from trainer.sample import IGNORE, Sample, check_strokes, undrawn
from trainer.tables import read_label_table, read_landmark_table, read_probabilities, write_label_table
from trainer.wholes import heat_maps, peak, points_of

SIZE, SPACING = (15, 18, 21), (2.0, 1.0, 1.5)  # of the volumes below: odd, and not cubes in mm either
KINDS, POINTS = ("dark", "bright"), ("ball", "bead")
FAST = {"minutes": None, "patch": (16, 16, 16), "device": "cpu", "dtype": "float32", "threads": 1, "batch": 4}
CLASSIFY = dataclasses.replace(TASK_PRESETS["classification"], **FAST, iterations=50, learning_rate=3e-3)
LOCATE = dataclasses.replace(TASK_PRESETS["landmarks"], **FAST, iterations=80, learning_rate=4e-3, sigma=3.0)


def away_from(points: np.ndarray | list[float]) -> np.ndarray:
    """mm of each voxel to a point."""
    places = np.moveaxis(np.indices(SIZE), 0, -1) * SPACING
    return np.linalg.norm(places - points, axis=-1)


def place(rng: np.random.Generator, margin: float) -> np.ndarray:
    return rng.uniform(margin, (np.array(SIZE) - 1) * SPACING - margin)


def classified(count: int, seed: int) -> list[Sample]:
    """A ball anywhere in noise, darker than the rest in every other volume."""
    rng, samples = np.random.default_rng(seed), []
    for i in range(count):
        ball = away_from(place(rng, 6.0)) < 5
        image = rng.normal(0, 0.2, (1, *SIZE)) + (1.0 if i % 2 else -1.0) * ball
        samples.append(Sample(image.astype(np.float32), undrawn(SIZE), SPACING, f"case{i}", label=i % 2))
    return samples


def located(count: int, seed: int) -> list[Sample]:
    """A bright ball and a dark bead; the landmarks are their centres."""
    rng, samples = np.random.default_rng(seed), []
    for i in range(count):
        points = np.stack([place(rng, 6.0), place(rng, 3.0)])
        image = rng.normal(0, 0.2, (1, *SIZE)) + (away_from(points[0]) < 5) - 2.0 * (away_from(points[1]) < 3)
        samples.append(Sample(image.astype(np.float32), undrawn(SIZE), SPACING, f"case{i}", landmarks=points))
    return samples


def trained(run: Run) -> Run:
    for _ in run:
        pass
    return run


# Learning


@pytest.mark.parametrize("sequence_head", [False, True])
def test_a_class_is_learnt_and_kept(tmp_path: Path, sequence_head: bool) -> None:
    config = dataclasses.replace(CLASSIFY, sequence_head=sequence_head)
    model = trained(Run(classified(12, 0), config, KINDS, folder=tmp_path)).model
    unseen = classified(8, 1)
    found = [model.classify(sample.image, sample.spacing) for sample in unseen]
    assert [P.argmax() for P in found] == [sample.label for sample in unseen]
    assert [P.sum() for P in found] == pytest.approx([1.0] * 8)
    again = Model.load(tmp_path, "cpu")
    np.testing.assert_allclose(again.classify(unseen[0].image, SPACING), found[0], rtol=1e-5)


def test_landmarks_are_learnt_in_mm_also_where_some_are_not_to_be_seen(tmp_path: Path) -> None:
    samples = located(12, 0)
    samples[3].landmarks[1] = samples[4].landmarks[0] = np.nan
    model = trained(Run(samples, LOCATE, POINTS, folder=tmp_path)).model
    unseen = located(6, 1)
    found = [model.locate(sample.image, sample.spacing) for sample in unseen]
    errors = [radial_errors(points, sample.landmarks) for points, sample in zip(found, unseen, strict=True)]
    assert np.mean(errors) < 2.0  # a voxel of a view is 2 mm
    np.testing.assert_allclose(Model.load(tmp_path, "cpu").locate(unseen[0].image, SPACING), found[0], atol=1e-3)


def test_a_classification_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    samples, config = classified(5, 0), dataclasses.replace(CLASSIFY, iterations=6)
    whole = trained(Run(samples, config, KINDS)).model.state()
    run = Run(samples, config, KINDS, folder=tmp_path)
    for progress in run:
        if progress.iteration == 3:
            run.stop()
    again = trained(Run(samples, config, KINDS, folder=tmp_path, resume=True))
    assert again.iteration == 6
    for name, value in again.model.state().items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


@pytest.mark.parametrize(("config", "make"), [(CLASSIFY, classified), (LOCATE, located)])
def test_the_best_weights_on_validation_volumes_are_kept(config: Config, make) -> None:
    config = dataclasses.replace(config, iterations=2, validate_every=1)
    names = KINDS if make is classified else POINTS
    run = Run(make(4, 0), config, names, validation=make(2, 1))
    scores = [progress.validation for progress in run]
    assert run._best == max(scores)
    assert all(0 <= s <= 1 for s in scores) if make is classified else all(s < 0 for s in scores)


def test_a_new_label_reaches_the_run() -> None:
    samples = classified(2, 0)
    run = Run(samples, dataclasses.replace(CLASSIFY, iterations=1), KINDS)
    first = case_of(run, samples[0])
    assert case_of(run, samples[0]) is first
    assert case_of(run, dataclasses.replace(samples[0], label=1)) is not first


def case_of(run: Run, sample: Sample) -> Case:
    """What the run makes of a sample."""
    preparing = run.prepared(sample)
    while True:
        try:
            next(preparing)
        except StopIteration as end:
            return end.value


# Views and heat maps


def test_the_heat_map_of_a_turned_view_is_where_the_image_shows_the_landmark() -> None:
    point = np.array([16.0, 9.0, 15.0])
    image = np.exp(-(away_from(point) ** 2) / 18)[None].astype(np.float32)
    config = dataclasses.replace(LOCATE, augmentation="strong", patch=(16, 20, 24))
    sample = Sample(image, undrawn(SIZE), SPACING, "bead", landmarks=point[None])
    batches = Batches([Case.of(sample, None, config)], config)
    for i in range(6):
        batch = batches[i]
        assert batch.image.shape == (4, 1, 16, 20, 24) and batch.target.shape == (4, 1, 16, 20, 24)
        for shown, heat in zip(batch.image[:, 0], batch.target[:, 0], strict=True):
            assert not heat.isnan().any()
            np.testing.assert_allclose(peak(heat.numpy()), peak((shown - shown.min()).numpy()), atol=1.1)


def test_an_epoch_of_volumes_is_filled_up_so_that_all_batches_are_alike() -> None:
    batches = Batches([Case.of(sample, None, CLASSIFY) for sample in classified(5, 0)], CLASSIFY)
    chosen = [case for i in (0, 1) for case, _ in batches.choose(i, np.random.default_rng(0))]
    assert len(chosen) == 8 and set(chosen) == {0, 1, 2, 3, 4}
    assert batches[0].target.shape == (4,) and batches[0].target.dtype == torch.int64


def test_heat_maps_by_hand() -> None:
    line = np.moveaxis(np.indices((1, 1, 5)), 0, -1) * 2.0  # five voxels, 2 mm apart
    points = np.array([[0.0, 0, 4], [0.0, 0, 5], [np.nan] * 3, [0.0, 0, 40]])
    maps = heat_maps(points, line, sigma=4.0)[:, 0, 0]
    np.testing.assert_allclose(maps[0], np.exp(-np.array([16, 4, 0, 4, 16]) / 32), rtol=1e-6)
    np.testing.assert_allclose(maps[1], np.exp(-np.array([25, 9, 1, 1, 9]) / 32), rtol=1e-6)
    assert maps[2:].isnan().all()  # unknown, and beyond the view
    narrow = heat_maps(points[:1], line, sigma=0.1)[0, 0, 0]
    assert narrow[1] == pytest.approx(math.exp(-0.5))  # no narrower than the voxels are apart


def test_a_point_comes_back_from_its_heat_map_between_the_voxels() -> None:
    spans = [np.linspace(0, (n - 1) * s, 16) for n, s in zip(SIZE, SPACING, strict=True)]
    view = np.stack(np.meshgrid(*spans, indexing="ij"), -1)  # the whole volume, resized
    points = np.array([[10.3, 8.1, 20.7], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(points_of(heat_maps(points, view, 4.0).numpy(), SIZE, SPACING), points, atol=1e-3)


def test_heat_map_loss_by_hand() -> None:
    h = torch.tensor([[[1.0, 0.0]]])  # mean .5: weights 1.5 and .5
    assert heat_map_loss(torch.zeros(1, 1, 2), h) == pytest.approx(0.75)
    assert heat_map_loss(torch.tensor([[[1.0, 2.0]]]), h) == pytest.approx(1.0)
    unseen = torch.tensor([[[1.0, 0.0], [math.nan, math.nan]]])
    x = torch.zeros(1, 2, 2, requires_grad=True)
    loss = heat_map_loss(x, unseen)
    loss.backward()
    assert loss.item() == pytest.approx(0.75) and (x.grad[0, 1] == 0).all() and x.grad.isfinite().all()


# Scores


def test_scores_of_classes_by_hand() -> None:
    P = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    scores = classification_scores(P, np.array([0, 0, 1, 1]), KINDS)
    assert scores["accuracy"] == 0.75 and scores["auc"] == 1.0
    assert scores["classes"]["dark"] == {"auc": 1.0, "f1": pytest.approx(2 / 3), "images": 2}
    assert scores["classes"]["bright"]["f1"] == pytest.approx(0.8) and scores["f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    alone = classification_scores(P[:1], np.array([0]), KINDS)
    assert alone["auc"] is None and alone["classes"]["bright"]["f1"] is None and alone["f1"] == 1.0


def test_scores_of_landmarks_by_hand() -> None:
    points = np.array([[[3.0, 4, 0], [0, 0, 0]], [[0, 0, 2.0], [0, 0, 3]]])
    reference = np.zeros((2, 2, 3))
    reference[0, 1] = np.nan
    errors = radial_errors(points, reference)
    np.testing.assert_array_equal(errors, [[5, np.nan], [2, 3]])
    scores = landmark_scores(errors, POINTS)
    assert scores["mre"] == pytest.approx(10 / 3) and scores["points"] == 3
    assert scores["success"] == {"2": pytest.approx(1 / 3), "3": pytest.approx(2 / 3), "4": pytest.approx(2 / 3)}
    assert scores["landmarks"]["bead"] == {"mre": 3.0, "success": {"2": 0.0, "3": 1.0, "4": 1.0}, "points": 1}


# Datasets and tables


def test_datasets_of_classes_come_back(tmp_path: Path) -> None:
    save_dataset(tmp_path / "set", classified(3, 0), KINDS, task="classification")
    assert (tmp_path / "set" / "labels.csv").read_text().split() == ["case,class", "case0,dark", "case1,bright",
                                                                     "case2,dark"]  # fmt: skip
    assert not (tmp_path / "set" / "labelsTr").exists()
    dataset = load_dataset(tmp_path / "set")
    assert (dataset.task, dataset.classes) == ("classification", KINDS)
    assert [sample.label for sample in dataset.samples] == [0, 1, 0]
    assert (dataset.samples[0].target == IGNORE).all() and dataset.samples[0].spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_datasets_of_landmarks_come_back(tmp_path: Path, ending: str) -> None:
    samples = located(3, 0)
    samples[1].landmarks[0] = np.nan
    samples[2].landmarks[:] = np.nan
    save_dataset(tmp_path / "set", samples, POINTS, task="landmarks", ending=ending)
    assert (tmp_path / "set" / "landmarks.csv").read_text().startswith("case,landmark,z,y,x\ncase0,ball,")
    dataset = load_dataset(tmp_path / "set")
    assert (dataset.task, dataset.classes) == ("landmarks", POINTS)
    for before, after in zip(samples, dataset.samples, strict=True):
        np.testing.assert_array_equal(after.landmarks, before.landmarks)


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("classification", "case0,dark\ncase1,grey\n", "case1 is of class 'grey'; known are dark, bright"),
        ("classification", "case0,dark\n", "has no row of case1"),
        ("classification", "case0,dark\ncase1,dark\n", "no image of 2 has bright"),
        ("classification", "case0,dark\ncase0,bright\ncase1,dark\n", "two rows of case0"),
        ("classification", "case0,dark\ncase1,\n", "row 3: class is empty"),
        ("classification", "case0,dark\ncase1,bright\ncase7,dark\n", "case7 .* has no image"),
        ("landmarks", "case0,ball,1,2,3\ncase0,tail,1,2,3\n", "the landmark 'tail'; known are ball, bead"),
        ("landmarks", "case0,ball,1,2,3\ncase0,bead,1,two,3\n", "y of case0 is 'two'; write a number"),
        ("landmarks", "case0,ball,1,2,3\ncase0,ball,1,2,3\n", "two rows of ball in case0"),
        ("landmarks", "case0,ball,1,2,3\n", "no image of 2 has bead"),
    ],
)
def test_tables_that_do_not_fit_are_told_in_words(tmp_path: Path, task: str, rows: str, message: str) -> None:
    make, names, head = (classified, KINDS, "case,class\n") if task == "classification" else (
        located, POINTS, "case,landmark,z,y,x\n")  # fmt: skip
    save_dataset(tmp_path / "set", make(2, 0), names, task=task)
    (tmp_path / "set" / ("labels.csv" if task == "classification" else "landmarks.csv")).write_text(head + rows)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_dataset(tmp_path / "set")


def test_datasets_that_lack_something_are_told_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save_dataset(folder, classified(2, 0), KINDS, task="classification")
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table.replace("class", "diagnosis"))
    with pytest.raises(ValueError, match=r"labels.csv has no column class"):
        load_dataset(folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels.csv is missing; write a table with the columns case,class"):
        load_dataset(folder)
    header = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(header | {"task": "regression"}))
    with pytest.raises(ValueError, match="task is 'regression'; it must be one of segmentation"):
        load_dataset(folder)
    with pytest.raises(ValueError, match="'case0' has the class None"):
        save_dataset(tmp_path / "new", located(1, 0), KINDS, task="classification")
    with pytest.raises(ValueError, match="is for volumes, but 'disc' is 2-D"):
        save_dataset(tmp_path / "new", [scribbled_disc()], KINDS, task="classification")


def test_predicted_probabilities_come_back(tmp_path: Path) -> None:
    write_label_table(tmp_path / "t.csv", {"a": 1}, KINDS, {"a": np.array([0.25, 0.75])})
    assert (tmp_path / "t.csv").read_text().split() == ["case,class,dark,bright", "a,bright,0.25,0.75"]
    assert read_label_table(tmp_path / "t.csv", KINDS) == {"a": 1}
    np.testing.assert_array_equal(read_probabilities(tmp_path / "t.csv", KINDS)["a"], [0.25, 0.75])


# The commands


def flags(config: Config) -> list[str]:
    """What `trainer.fit` is told to train as this config does."""
    asked = {"networks": config.networks, "patch": config.patch, "batch": (4,), "iterations": (config.iterations,)}
    asked |= {name: (getattr(config, name),) for name in ("objective", "view", "normalisation", "augmentation")}
    asked |= {"learning-rate": (config.learning_rate,), "sigma": (config.sigma,), "threads": (1,)}
    said = [word for name, values in asked.items() for word in (f"--{name}", *map(str, values))]
    return [*said, "--no-propagation", "--no-deep-supervision", "--device", "cpu", "--dtype", "float32"]


@pytest.mark.parametrize("task", ["classification", "landmarks"])
def test_from_a_dataset_to_scores(tmp_path: Path, task: str) -> None:
    make, names, config = (classified, KINDS, CLASSIFY) if task == "classification" else (located, POINTS, LOCATE)
    save_dataset(tmp_path / "set", make(8, 0), names, task=task)
    save_dataset(tmp_path / "truth", make(4, 1), names, task=task)
    config = dataclasses.replace(config, iterations=4)
    fit(parse([str(tmp_path / "set"), "--out", str(tmp_path / "run"), *flags(config)]))
    predict(Predict(tmp_path / "run", tmp_path / "out", tmp_path / "truth" / "imagesTr", device="cpu"))
    result = evaluate(tmp_path / "out", tmp_path / "truth")
    assert set(result["cases"]) == {"case0", "case1", "case2", "case3"} and not result["unscored"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    if task == "classification":
        right = [row["class"] == row["predicted"] for row in result["cases"].values()]
        assert result["accuracy"] == np.mean(right)
    else:
        found = read_landmark_table(tmp_path / "out" / "landmarks.csv", names)
        truth = [radial_errors(found[sample.name], sample.landmarks) for sample in make(4, 1)]
        assert result["mre"] == pytest.approx(np.mean(truth))


def test_scores_are_shown_and_predictions_that_lack_something_are_not_scored(tmp_path: Path) -> None:
    from rich.console import Console

    save_dataset(tmp_path / "truth", located(2, 0), POINTS, task="landmarks")
    perfect = evaluate(tmp_path / "truth", tmp_path / "truth")
    assert perfect["mre"] == 0 and perfect["success"]["2"] == 1
    console = Console(record=True, width=100)
    _show_wholes(perfect, console)
    assert [line.split() for line in console.export_text().splitlines() if "bead" in line] == [
        ["bead", "2", "0.000", "1.000", "1.000", "1.000"]
    ]
    (tmp_path / "out").mkdir()
    lines = (tmp_path / "truth" / "landmarks.csv").read_text().splitlines()
    (tmp_path / "out" / "landmarks.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="has no bead of case1"):
        evaluate(tmp_path / "out", tmp_path / "truth")
    (tmp_path / "out" / "landmarks.csv").write_text("\n".join(lines[:3]))
    with pytest.raises(FileNotFoundError, match="no prediction of case1"):
        evaluate(tmp_path / "out", tmp_path / "truth")


# Configs and models


@pytest.mark.parametrize("name", TASK_PRESETS)
def test_presets_of_tasks_are_sound_and_survive_json(name: str) -> None:
    config = TASK_PRESETS[name].checked()
    assert config.task == name and Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CLASSIFY, {"networks": ("nnmamba",)}, "classification takes the network nnmamba_cls only"),
        (LOCATE, {"networks": ("nnmamba_cls",)}, "nnmamba_cls is for the objective classification"),
        (CLASSIFY, {"patch": (32, 32)}, "is for volumes; give a patch of three axes"),
        (LOCATE, {"augmentation": "nnunet"}, "a mirrored landmark is another one"),
        (LOCATE, {"view": "patch"}, "landmarks wants view resize, got patch"),
        (CLASSIFY, {"propagation": True}, "classification wants propagation False"),
        (LOCATE, {"sigma": 0.0}, "sigma must be more than 0 mm"),
    ],
)
def test_configs_that_cannot_work(config: Config, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change).checked()


def test_a_model_says_what_it_was_trained_for() -> None:
    classifier, segmenter = Model.new(CLASSIFY, KINDS, 1), Model.new(QUICK, CLASSES, 1)
    image = classified(1, 0)[0].image
    with pytest.raises(ValueError, match=r"trained for classification, not segmentation; .* or classify\(\)"):
        classifier.predict(image)
    with pytest.raises(ValueError, match="trained for segmentation, not landmarks"):
        segmenter.locate(image)
    with pytest.raises(ValueError, match="2 channels"):
        classifier.classify(np.concatenate([image, image]))


# Classes that are absent from a slice


def test_an_absent_class_is_impossible_and_the_others_share_what_it_had() -> None:
    P = np.full((3, 2, 1, 2), [[0.5, 0.0]], np.float16)  # (K, D, H, W)
    P[1:] = np.array([0.25, 0.5])
    teacher = knowing_absent(Teacher(P, np.full((2, 1, 2), 0.5, np.float16)), ((1, 1),))
    np.testing.assert_array_equal(teacher.probabilities[:, 0], P[:, 0])
    np.testing.assert_allclose(teacher.probabilities[:, 1, 0].T, [[2 / 3, 0, 1 / 3], [0, 0, 1]], atol=1e-3)
    assert (teacher.confidence == 0.5).all()


def test_where_nothing_is_left_but_background_it_is_certain() -> None:
    sample = dataclasses.replace(scribbled_stack(), absent=((0, 1),))
    run = Run([sample], QUICK, CLASSES)
    (*_, plain), (*_, told) = run.taught(scribbled_stack()), run.taught(sample)
    assert (plain.probabilities[1, 0] > 0).any() and (plain.confidence[0] < 1).any()
    assert (told.probabilities[0, 0] == 1).all() and (told.confidence[0] == 1).all()
    np.testing.assert_array_equal(told.probabilities[:, 1:], plain.probabilities[:, 1:])
    np.testing.assert_array_equal(run.teachers["stack"], told.probabilities)
    run.begin()
    assert not case_of(run, scribbled_stack()).confidence[0].eq(1).all()
    assert case_of(run, sample).confidence[0].eq(1).all()  # a mark is news
    filled = Model.new(QUICK, CLASSES, 1).fill_in(sample)
    assert not filled[0].any() and filled[1].any()


def test_a_picture_is_one_slice() -> None:
    np.testing.assert_array_equal(without_absent(np.full((2, 1, 1), 0.5), [(0, 1)]).ravel(), [1, 0])


@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_absent_classes_come_back_from_disk(tmp_path: Path, ending: str) -> None:
    sample = dataclasses.replace(scribbled_stack(), absent=((0, 1), (2, 1)))
    save_dataset(
        tmp_path / "set", [sample, dataclasses.replace(scribbled_stack(), name="other")], CLASSES, ending=ending
    )
    said = json.loads((tmp_path / "set" / "labelsTr" / "stack.json").read_text())
    assert said["absent"] == [[0, 1], [2, 1]] and said.get("spacing") == ([5, 1, 1] if ending == ".tif" else None)
    other, stack = load_dataset(tmp_path / "set").samples
    assert stack.absent == sample.absent and stack.spacing == (5, 1, 1) and other.absent == ()


def test_absent_classes_that_cannot_be_are_told_in_words(tmp_path: Path) -> None:
    painted = dataclasses.replace(scribbled_stack(), absent=((1, 1),))
    with pytest.raises(ValueError, match=r"class 1 \(disc\) is marked as absent from slice 1 of 'stack', but painted"):
        check_strokes([painted], CLASSES)
    for mark in ((3, 1), (0, 0), (0, 2)):
        with pytest.raises(ValueError, match="there are slices 0 to 2 and classes 1 to 1"):
            check_strokes([dataclasses.replace(painted, absent=(mark,))], CLASSES)
    save_dataset(tmp_path / "set", [dense_disc()], CLASSES, sparse=False)
    (tmp_path / "set" / "labelsTr" / "disc.json").write_text('{"spacing": [1, 1], "absent": [0, 1]}')
    with pytest.raises(ValueError, match=r"disc.json has \"absent\" \[0, 1\]; write \[\[slice, class\], ...\]"):
        load_dataset(tmp_path / "set")
