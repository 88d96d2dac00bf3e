"""The pieces of the interactive benchmark, on generated images: split, strokes, curves, intervals, tiny runs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK, dense_disc, scribbled_disc

pytest.importorskip("sklearn", reason="the random forest of the benchmark needs scikit-learn")

from benchmarks import contestants, images, interactive
from benchmarks.contestants import Agenda, Look, Work, fitted, forest, plugin, propagation, walker
from benchmarks.images import Case, drawn, halves, kept, natural, person, picked
from benchmarks.interactive import Job, at, behind, curves, interval, measured, panels, summary
from trainer import Sample, load_dataset
from trainer.sample import IGNORE

ROOT = Path(__file__).parents[2]


def entry(answer: str, points: list[list[float]], case: str = "a", seed: int = 0) -> dict:
    where = {
        "half": "tuning",
        "task": "fill-in",
        "modality": "em",
        "budget": 3,
        "minutes": 1.0,
        "images": 1,
        "threads": 1,
        "seed": seed,
        "taught": case,
    }
    contestant, _, answer = answer.partition(" ")
    return {**where, "case": case, "contestant": contestant, "answer": answer, "drawing": 9.0, "points": points}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look after the first step, however quick or slow it is."""
    monkeypatch.setattr(contestants, "LOOKS", (0.0,))


def test_one_job_that_fails_leaves_the_curves_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    jobs = [(Job("tuning", "fill-in", "em", 3, 1.0, 0, (), [], []), name) for name in ("forest", "pce", "unet")]

    def measuring(job: Job, name: str) -> list[dict]:
        if name == "pce":
            raise ZeroDivisionError("no pixels")
        return [entry(name, [[1.0, 1.0, 0.5]])]

    monkeypatch.setattr(interactive, "measured", measuring)
    monkeypatch.setattr(interactive, "missing", lambda *_: jobs)
    monkeypatch.setattr(interactive, "warm_up", lambda: None)
    file = tmp_path / "some.json"
    monkeypatch.setattr("sys.argv", ["interactive", "--out", str(file)])
    with pytest.raises(SystemExit, match="1 failed; --resume"):
        interactive.main()
    assert [each["contestant"] for each in json.loads(file.read_text())["entries"]] == ["forest", "unet"]
    assert "em budget 3 : pce failed: ZeroDivisionError: no pixels" in capsys.readouterr().out


# ---- images and strokes ----


def test_nobody_is_in_both_halves() -> None:
    stems = ["chaosctliver_101_1009", "chaosctliver_101_1040", "chaosctliver_102_1009", "chaosctliver_103_1"]
    assert [person(stem) for stem in stems][:3] == ["chaosctliver_101"] * 2 + ["chaosctliver_102"]
    assert person("cvc612_fine_3_1") == person("cvc612_fine_3_20")  # frames of one colonoscopy
    assert person("dsb18_bf_08275a5b1c") == "dsb18_bf_08275a5b1c"  # nobody is named: the image is a person
    split = halves([person(stem) for stem in stems])
    assert split == {"tuning": {"chaosctliver_101", "chaosctliver_102"}, "reporting": {"chaosctliver_103"}}
    assert sorted(["b10", "b2"], key=natural) == ["b2", "b10"]


def test_cases_are_picked_evenly() -> None:
    assert picked(range(10), 2) == [2, 7] and picked(range(3), 6) == [0, 1, 2]


def test_images_are_read_as_they_lie_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DATA", tmp_path)
    (tmp_path / "microscopy").mkdir()
    numbered = np.zeros((8, 9), np.uint16)
    numbered[2, 2], numbered[5, 5] = 300, 2
    for i in range(3):
        np.savez(tmp_path / f"microscopy/dsb18_histo_{i}.npz", image=np.full((8, 9, 3), i, np.uint8), label=numbered)
    tuning, reporting = (images.cases("histology", half, 9) for half in ("tuning", "reporting"))
    assert [case.name for case in tuning + reporting] == ["dsb18_histo_0", "dsb18_histo_1", "dsb18_histo_2"]
    assert len(tuning) == 2 and tuning[1].truth.image.shape == (3, 8, 9)
    assert tuning[0].truth.target.sum() == 2 and tuning[0].truth.target.max() == 1
    taught, tested = images.transferred("histology", "tuning", 5, 5)
    assert [case.name for case in taught] == ["dsb18_histo_0"] and [case.name for case in tested] == ["dsb18_histo_1"]
    with pytest.raises(FileNotFoundError, match="SCRIBBLEMAMBA_DATA"):
        images.cases("skin", "tuning", 1)


def test_an_expert_s_strokes_on_so_many_slices() -> None:
    label = np.zeros((7, 4, 4), np.uint8)
    label[1:6, 1:3, 1:3] = 1
    strokes = np.full(label.shape, IGNORE, np.uint8)
    strokes[:, 0, 0] = 0  # also where there is nothing else to draw
    strokes[1:6, 1, 1] = 1
    on = {n: np.flatnonzero((kept(strokes, label, n) != IGNORE).any((1, 2))).tolist() for n in (1, 3, 10)}
    assert on == {1: [3], 3: [2, 3, 4], 10: [0, 1, 2, 3, 4, 5, 6]}


def test_strokes_of_a_budget_cost_their_seconds_and_tell_the_truth() -> None:
    case = Case(dense_disc(), CLASSES)
    (few, cheap), (many, dear) = (drawn(case, budget, 0) for budget in (1, 3))
    assert 0 < cheap < dear
    assert (few.target[few.target != IGNORE] == case.truth.target[few.target != IGNORE]).all()
    np.testing.assert_array_equal(many.target[few.target != IGNORE], few.target[few.target != IGNORE])
    assert (drawn(case, 1, 1)[0].target != few.target).any()


# ---- curves ----


def test_the_score_at_a_time_is_that_of_the_last_answer() -> None:
    points = [[1.0, 2.0, 0.5], [4.0, 8.0, 0.7]]
    assert [at(points, t) for t in (0.9, 1.0, 3.9, 4.0, 99)] == [None, 0.5, 0.5, 0.7, 0.7]
    assert at(points, 4.0, interactive.CPU) == 0.5


def test_an_interval_holds_the_mean_and_shrinks_with_cases() -> None:
    assert interval([0.4]) == (0.4, 0.4) and interval([0.4, 0.4, 0.4]) == pytest.approx((0.4, 0.4))
    few, many = interval([0.2, 0.8] * 2), interval([0.2, 0.8] * 50)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * 0.3 / 10, rel=0.15)  # the standard error of 100 such values


def test_the_summary_waits_for_every_case_and_means_over_seeds() -> None:
    entries = [
        entry("forest", [[1.0, 1.0, 0.2]], "a"),
        entry("forest", [[1.0, 1.0, 0.4]], "a", seed=1),
        entry("forest", [[4.0, 4.0, 0.9]], "b"),
    ]
    rows = summary(entries)
    assert [row["seconds"] for row in rows] == [5] and rows[0]["cases"] == 2
    assert rows[0]["mean"] == pytest.approx((0.3 + 0.9) / 2) and rows[0]["answer"] == "forest"
    assert list(panels(entries)) == [("fill-in", "em", 3, 1.0, 1, 1)]


def test_five_images_drawn_on_are_not_compared_with_twenty() -> None:
    few, many = (entry("forest", [[1.0, 1.0, score]]) | {"images": n} for n, score in ((5, 0.2), (20, 0.8)))
    assert [(row["images"], row["mean"]) for row in summary([few, many])] == [(5, 0.2), (20, 0.8)]


def test_few_cases_have_no_interval() -> None:
    each = [
        entry("forest", [[1.0, 1.0, score]], case)
        for case, score in zip("abcde", (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)
    ]
    assert "low" not in summary(each[:4])[0] and summary(each)[0]["low"] < 0.3 < summary(each)[0]["high"]
    assert interactive.cell([0.2, 0.4]) == "0.30"


def test_one_thread_is_not_compared_with_two() -> None:
    one, two = (entry("forest", [[1.0, 1.0, score]]) | {"threads": n} for n, score in ((1, 0.2), (2, 0.8)))
    assert [(row["threads"], row["mean"]) for row in summary([one, two])] == [(1, 0.2), (2, 0.8)]


def test_what_is_resumed_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More images to test on after the same training: it is done again."""
    options = interactive.Options(modality=("em",), task=("transfer",), contestants=("forest",), workers=1)
    a, b = (Case(dense_disc(name), CLASSES) for name in "ab")
    monkeypatch.setattr(interactive, "transferred", lambda *_: ([a], [a, b]))
    known = entry("forest", [], "a") | {"task": "transfer", "taught": "a", "threads": options.threads}
    assert [name for _, name in interactive.missing(options, [known])] == ["forest"]
    assert not list(interactive.missing(options, [known, known | {"case": "b"}]))
    assert list(interactive.missing(replace(options, half="reporting"), [known, known | {"case": "b"}]))


def test_a_file_of_one_half_is_not_resumed_with_the_other(tmp_path: Path) -> None:
    options = interactive.Options(out=tmp_path / "curves.json", half="reporting")
    assert interactive.before(options) == ([], [])
    interactive.write(options.file, [{"date": "today"}], [entry("forest", [[1.0, 1.0, 0.5]])])
    with pytest.raises(SystemExit, match="not of the reporting half"):
        interactive.before(options)
    sittings, entries = interactive.before(replace(options, half="tuning"))
    assert sittings == [{"date": "today"}] and [e["contestant"] for e in entries] == ["forest"]


def test_every_worker_has_as_many_cores() -> None:
    assert interactive.shared([0, 2, 4, 6, 8], 2) == [[0, 2], [4, 6]]


def test_falling_behind_is_told_with_its_time() -> None:
    entries = [
        entry("interactive shown", [[1.0, 1.0, 0.6], [9.0, 9.0, 0.3]]),
        entry("forest", [[2.0, 2.0, 0.5]]),
        entry("pce", [[2.0, 2.0, 0.1]]),
    ]
    found = {row["rival"]: row["lost"] for row in behind(entries)}
    assert found == {"forest": {"10": -0.2}, "pce": {}}
    alone = entry("forest", [[1.0, 1.0, 0.9]], case="b")  # nothing of ours to be compared with
    assert behind([*entries, alone]) == behind(entries)


def test_looks_come_once_for_each_time_that_has_passed() -> None:
    agenda = Agenda()
    first, second, third = contestants.LOOKS[:3]
    due = [agenda.due(t) for t in (first / 2, first, first, third, (second + third) / 2)]
    assert due == [False, True, False, True, False]
    assert agenda.due(contestants.LOOKS[-1] + contestants.LATER) and not agenda.due(contestants.LOOKS[-1])


# ---- contestants ----


@pytest.mark.parametrize("contestant", [forest, walker, propagation])
def test_those_without_networks_segment_a_disc(contestant: contestants.Contestant) -> None:
    sample, truth = scribbled_disc(), dense_disc()
    looks = contestant(Work([sample], CLASSES, 0.1))
    ((_, points),) = curves(looks, Case(truth, CLASSES), sample).items()
    assert len(points) == 1 and points[0][0] > 0 and points[0][2] > 0.9


def test_the_forest_answers_for_an_image_that_nobody_drew_on() -> None:
    looks = forest(Work([scribbled_disc()], CLASSES, 0.1))
    ((_, points),) = curves(looks, Case(dense_disc("other", seed=5), CLASSES), None).items()
    assert points[0][2] > 0.9


def test_the_walker_copes_with_one_class_and_with_one_that_is_missing() -> None:
    one = scribbled_disc()
    one.target[one.target == 1] = IGNORE
    assert (contestants.walked(one, 2) == 0).all()
    two = scribbled_disc()
    two.target[two.target == 1] = 2
    assert set(np.unique(contestants.walked(two, 3))) == {0, 2}


def test_a_network_is_scored_as_it_was_when_it_was_looked_at(always: None) -> None:
    config = replace(QUICK, networks=("unet",), objective="supervised", propagation=False)
    work = Work([scribbled_disc()], CLASSES, None, iterations=2)
    first, *_, last = fitted(config, work)
    labels = first.answers(work.samples[0])
    assert labels.keys() == {""} and labels[""].shape == (40, 40) and first.wall <= last.wall
    np.testing.assert_array_equal(labels[""], first.answers(work.samples[0])[""])
    assert not same_weights(first, last)


def test_the_plugin_shows_the_propagated_strokes_first(always: None) -> None:
    config = replace(QUICK, networks=("unet", "unet"))
    sample, looks = scribbled_disc(), plugin(config, Work([scribbled_disc()], CLASSES, None, iterations=2))
    found = curves(looks, Case(dense_disc(), CLASSES), sample)
    assert found.keys() == {"shown", "unet", "unet2", "ensemble"}
    ((_, expected),) = curves(propagation(Work([sample], CLASSES, 0.1)), Case(dense_disc(), CLASSES), sample).items()
    assert found["shown"][0][2] == expected[0][2]
    assert curves(looks, Case(dense_disc("other"), CLASSES), None).keys() == {"unet", "unet2", "ensemble"}


def test_every_contestant_of_a_task_has_a_name_that_can_be_chosen() -> None:
    names = set(interactive.Name.__args__)
    assert names == contestants.FILL_IN.keys() and contestants.TRANSFER.keys() < names


def test_a_sample_image_through_file_table_and_plot(tmp_path: Path) -> None:
    folder = ROOT / "sample_data/microscopy"
    (sample,) = load_dataset(folder).samples
    (dense,) = load_dense(folder)
    box = np.s_[..., 60:124, 60:124]
    truth = Sample(sample.image[box].copy(), dense[box].copy(), (1.0, 1.0), "nuclei")
    case = Case(truth, ("background", "object"))
    job = Job("tuning", "fill-in", "fluorescence", 3, 0.1, 0, ("forest", "propagation"), [case], [case])
    entries = [found for name in job.contestants for found in measured(job, name)]
    assert [{interactive.key_of(e)} for e in entries] == [job.keys(n, torch.get_num_threads()) for n in job.contestants]
    assert all(e["points"][0][2] > 0.5 and e["drawing"] > 2 * 3 * 2.4 for e in entries)
    file = tmp_path / "interactive.json"
    interactive.write(file, [interactive.sitting(interactive.Options())], entries)
    interactive.report(file, entries)
    content = json.loads(file.read_text())
    assert content["entries"] == entries and {row["answer"] for row in content["summary"]} == {"forest", "propagation"}
    assert all(f"| {name} | " in file.with_suffix(".md").read_text() for name in job.contestants)
    assert {f.name for f in tmp_path.glob("*.png")} == {
        f"interactive-fill-in-1-0.1min-threads{torch.get_num_threads()}-{c}.png" for c in ("wall", "cpu")
    }


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
def test_processes_side_by_side_measure_the_same() -> None:
    case = Case(dense_disc(), CLASSES)
    jobs = [
        Job("tuning", "fill-in", "fluorescence", budget, 0.1, 0, ("propagation",), [case], [case]) for budget in (1, 3)
    ]
    todo = [(job, "propagation") for job in jobs]
    found = {each["budget"]: each["points"][0][2] for (each,) in interactive.results(todo, workers=2)}
    assert found == {job.budget: measured(job, name)[0]["points"][0][2] for job, name in todo}


def same_weights(first: Look, last: Look) -> bool:
    a, b = (look.answers.args[0].state() for look in (first, last))
    return all(torch.equal(a[name], b[name]) for name in a)


def load_dense(folder: Path) -> list[np.ndarray]:
    from skimage.io import imread

    return [imread(file) for file in sorted((folder / "denseTr").glob("*.png"))]
