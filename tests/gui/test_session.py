"""The Session without a window: states, order of events, errors, and what becomes of late answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import CLASSES, CONFIG, FakeModel, FakeProgress, FakeRun, Later, disc_sample, on_the_spot

from napari_scribblemamba._predictor import Prediction, SlicePredictor, filled_in
from napari_scribblemamba._session import Session, describe_machine
from trainer.config import Config
from trainer.dataset import load_dataset
from trainer.likeness import Likeness
from trainer.model import with_teacher
from trainer.sample import IGNORE, Sample
from trainer.stack import Stack


class CheckedRun(FakeRun):
    """Looks at its samples as the real one does."""

    def __init__(self, samples: Sequence[Sample], config: Config, classes: Sequence[str]) -> None:
        from trainer.run import check

        check(samples, classes)
        super().__init__(samples, config, classes)


def ticking() -> Callable[[], float]:
    """A clock on which a second passes between two looks at it."""
    seconds = iter(range(10**6))
    return lambda: float(next(seconds))


def make_session(run_in_background: Callable = on_the_spot, make_run: Callable = FakeRun) -> tuple[Session, list]:
    """A session, and the list of all that it says."""
    session = Session(run_in_background, make_run, load_model=lambda folder: FakeModel(), clock=ticking())
    said: list = []
    for signal in (session.state_changed, session.progressed, session.predicted, session.failed, session.saved):
        signal.connect(said.append)
    return session, said


def predictions(said: list) -> list[Prediction]:
    return [event for event in said if isinstance(event, Prediction)]


def test_train_goes_through_its_states_and_keeps_the_model() -> None:
    session, said = make_session()
    session.train([disc_sample()], CLASSES, CONFIG)
    assert [s for s in said if isinstance(s, str)] == ["training", "idle", "predicting", "idle"]
    assert [p.iteration for p in said if isinstance(p, FakeProgress)] == [0, 1, 2, 3]
    assert isinstance(session.model, FakeModel)


def test_the_propagated_strokes_come_first_and_the_ensemble_last() -> None:
    session, said = make_session()
    session.train([disc_sample()], CLASSES, CONFIG)
    first, last = predictions(said)[0], predictions(said)[-1]
    assert (first.source, list(first.labels), first.labels["ensemble"].sum()) == ("propagated strokes", ["ensemble"], 0)
    assert last.source == "2 networks and propagated strokes"
    assert set(last.labels) == {"unet", "swinunet", "ensemble"}
    assert np.array_equal(last.labels["ensemble"], disc_sample().image[0] > 100)


def test_propagated_strokes_are_shown_as_far_as_they_reach() -> None:
    class Spreading(FakeRun):
        def __iter__(self):
            even = np.full((2, 3, 32, 32), 0.5, np.float16)
            for reached in ([1], [0, 1, 2]):
                self.teachers["disc"] = even = even.copy()
                even[1, reached] = 0.9
                yield FakeProgress(0, stage="propagation")

    session, said = make_session(make_run=Spreading)
    session.train([disc_sample(depth=3)], CLASSES, CONFIG)
    one, rest = predictions(said)
    assert (one.index, one.labels["ensemble"].shape, one.labels["ensemble"].all()) == (1, (32, 32), True)
    assert (rest.index, rest.labels["ensemble"].shape, rest.labels["ensemble"].all()) == (None, (3, 32, 32), True)


def test_while_training_it_looks_at_the_visible_slice_every_other_time() -> None:
    session, said = make_session()
    session.visible = ("disc", 3)
    session.train([disc_sample(depth=5)], CLASSES, replace(CONFIG, iterations=60))
    looked = [p.index for p in predictions(said)][1:]  # the first is the propagation of all slices
    assert looked[:4] == [3, 2, 3, 4]
    assert sorted(looked[-5:]) == [0, 1, 2, 3, 4]  # at the end every slice once,
    assert looked[-5] == 3  # the visible one first
    assert predictions(said)[-1].fraction == 1


def test_a_slice_that_cannot_be_read_does_not_end_the_training() -> None:
    """It is told when it is first looked at, and of all others there is a prediction."""

    class Reader(FakeModel):
        def prepared(self, image: np.ndarray, name: str, spacing: object = None, like: object = None) -> np.ndarray:
            return super().prepared(image, name, spacing)

    class Run(FakeRun):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.model = Reader()

    def read(number: int, rows: slice, columns: slice) -> np.ndarray:
        if number == 0:
            raise OSError("chunk 0 is not to be read")
        return np.eye(32, dtype=np.float32)[None, rows, columns]

    session, said = make_session(make_run=Run)
    session.visible = ("disc", 0)
    sample = replace(disc_sample(depth=12), image=Stack(read, (1, 12, 32, 32), 12))
    session.train([sample], CLASSES, replace(CONFIG, iterations=60))
    assert [str(event) for event in said if isinstance(event, OSError)] == ["chunk 0 is not to be read"] * 2
    assert session.state == "idle" and [p.iteration for p in said if isinstance(p, FakeProgress)][-1] == 60
    assert {p.index for p in predictions(said)[-11:]} == set(range(1, 12))


def test_what_a_run_had_no_time_for_is_told_once() -> None:
    class Run(FakeRun):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.shortfall = "half of the time was gone"

    session, said = make_session(make_run=Run)
    session.train([disc_sample()], CLASSES, CONFIG)
    assert [str(event) for event in said if isinstance(event, ValueError)] == ["half of the time was gone"]
    assert session.model is not None


def test_stop_ends_the_run_and_keeps_what_was_learnt() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, replace(CONFIG, iterations=1000))
    for _ in range(3):  # iteration 0, its overlay, iteration 1
        later.step()
    session.stop()
    assert session.state == "idle"
    assert session.model is session._ending.run.model
    later.finish()
    assert session.state == "idle"
    assert max(p.iteration for p in said if isinstance(p, FakeProgress)) == 1


def test_stop_before_the_run_exists_trains_nothing() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    session.stop()
    later.finish()
    assert session.state == "idle"
    assert session.model is None
    assert not [p for p in said if isinstance(p, FakeProgress)]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])  # nothing yet, propagated, its overlay shown, one iteration
def test_stop_is_answered_before_the_thread_has_ended(steps: int) -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    for _ in range(steps):
        later.step()
    session.stop()
    assert session.state == "idle"
    assert (session.model is None) == (steps < 3)
    before = len(said)
    later.finish()
    assert len(said) == before and session._ending is None


@pytest.mark.parametrize("ask", ["train", "save", "predict"])
def test_what_is_asked_for_after_stop_waits_for_the_thread(ask: str, tmp_path: Path) -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    for _ in range(3):
        later.step()
    session.stop()
    work = {
        "train": ("training", lambda: session.train([disc_sample(name="other")], CLASSES, CONFIG)),
        "save": ("saving", lambda: session.save(tmp_path)),
        "predict": ("predicting", lambda: session.predict([disc_sample(name="other")])),
    }
    state, begin = work[ask]
    begin()
    assert session.state == state and len(later.jobs) == 1  # the networks may still be in the middle of a step
    later.finish()
    assert len(later.jobs) == 2
    later.finish()
    assert len(later.jobs) == 2 + (ask == "train")  # after a training it predicts
    later.finish()
    assert session.state == "idle" and not [e for e in said if isinstance(e, Exception)]


def test_a_training_that_never_began_can_be_stopped_too() -> None:
    later = Later()
    session, _ = make_session(later)
    for _ in range(3):
        session.train([disc_sample()], CLASSES, CONFIG)
        session.stop()
        assert session.state == "idle" and len(later.jobs) == 1
    session.train([disc_sample()], CLASSES, CONFIG)
    later.finish()
    later.finish()
    assert len(later.jobs) == 3 and session.model is not None


def test_an_error_after_stop_is_nobodys_business() -> None:
    class Breaks(FakeRun):
        def __iter__(self):
            yield FakeProgress(0, stage="propagation")
            raise MemoryError("no room")

    later = Later()
    session, said = make_session(later, make_run=Breaks)
    session.train([disc_sample()], CLASSES, CONFIG)
    later.step()
    session.stop()
    session.train([disc_sample()], CLASSES, CONFIG)
    later.finish()
    assert len(later.jobs) == 2 and session.state == "training"
    assert not [e for e in said if isinstance(e, Exception)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, target=np.full_like(s.target, IGNORE)), "no scribbles"),
        (lambda s: replace(s, target=np.where(s.target == 1, IGNORE, s.target)), r"class 1 \(disc\)"),
        (lambda s: replace(s, image=np.full_like(s.image, np.nan)), "NaN"),
    ],
)
def test_bad_input_arrives_as_a_message_and_train_works_again(change: Callable, message: str) -> None:
    session, said = make_session(make_run=CheckedRun)
    session.train([change(disc_sample())], CLASSES, CONFIG)
    assert session.state == "idle"
    with pytest.raises(ValueError, match=message):
        raise said[-1]
    session.train([disc_sample()], CLASSES, CONFIG)
    assert session.model is not None


def test_an_error_in_the_middle_of_a_run_ends_in_idle() -> None:
    class Failing(FakeRun):
        def __iter__(self):
            yield FakeProgress(0, stage="propagation")
            raise MemoryError("no room")

    session, said = make_session(make_run=Failing)
    session.train([disc_sample()], CLASSES, CONFIG)
    assert session.state == "idle"
    assert isinstance(said[-1], MemoryError)


def test_answers_to_an_older_question_are_dropped() -> None:
    later = Later()
    session, said = make_session(later)
    session.load(Path("run"))
    later.finish()
    session.predict([disc_sample(name="old")])
    session.predict([disc_sample(name="new")])
    later.finish(job=2)
    later.finish(job=1)
    assert [p.image for p in predictions(said)] == ["new"]
    assert session.state == "idle"


def test_a_prediction_can_be_stopped() -> None:
    later = Later()
    session, said = make_session(later)
    session.load(Path("run"))
    later.finish()
    session.predict([disc_sample(depth=4)])
    later.step()
    session.stop()
    later.finish()
    assert session.state == "idle"
    assert len(predictions(said)) == 1
    assert session.model.looked_at == [0]


def test_close_stops_the_run_and_says_nothing_more() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    later.step()
    session.close()
    before = len(said)
    later.finish()
    assert len(said) == before


def test_two_things_at_a_time_are_refused() -> None:
    session, _ = make_session(Later())
    session.train([disc_sample()], CLASSES, CONFIG)
    with pytest.raises(ValueError, match="still training"):
        session.load(Path("run"))


def test_save_load_and_export(tmp_path: Path) -> None:
    session, said = make_session()
    session.load(tmp_path)
    session.save(tmp_path / "run")
    assert session.model.saved == tmp_path / "run" == said[-1]
    session.export(tmp_path / "data", [disc_sample(depth=3)], CLASSES)
    [sample] = load_dataset(tmp_path / "data").samples
    assert np.array_equal(sample.target, disc_sample(depth=3).target)
    assert np.array_equal(sample.image, disc_sample(depth=3).image)


def test_networks_and_propagated_strokes_answer_together_and_what_was_drawn_stays() -> None:
    sample = disc_sample()
    drawn = sample.target != IGNORE
    contrary = replace(sample, target=np.where(drawn, 1 - sample.target, IGNORE).astype(np.uint8))
    session, said = make_session()
    session.train([contrary], CLASSES, replace(CONFIG, iterations=60))
    last = predictions(said)[-1]
    assert last.source == "2 networks and propagated strokes"
    assert np.array_equal(last.labels["ensemble"][drawn], contrary.target[drawn])
    assert np.array_equal(last.labels["unet"], sample.image[0] > 100)  # of a network, what it says alone


def test_a_class_that_is_marked_as_absent_is_not_seen_on_its_slice() -> None:
    """The window says what predict --dataset writes."""
    sample = replace(disc_sample(depth=3), absent=((1, 1),))
    sample.target[1] = IGNORE
    for teachers in ({}, {"disc": np.stack([sample.image[0] < 100, sample.image[0] > 100]).astype(np.float32)}):
        predict = SlicePredictor(FakeModel(), teachers, {"disc": None}, [sample])
        assert [predict(sample, z).labels["ensemble"].any() for z in range(3)] == [True, False, True]
        assert predict(sample, 1).labels["unet"].any()  # of a network, what it says alone


def test_fresh_networks_do_not_spoil_what_the_strokes_say() -> None:
    """The less the two agree, the less the networks are heard."""
    teacher = np.zeros((2, 4, 4), np.float32)
    teacher[1, :2], teacher[0, 2:] = 0.7, 0.7
    teacher[0, :2], teacher[1, 2:] = 0.3, 0.3
    assert np.array_equal(filled_in(teacher[::-1], teacher).argmax(0), teacher.argmax(0))


def test_networks_find_what_the_strokes_lost_on_their_way_through_a_stack() -> None:
    """On one slice the strokes reach nothing; on the others networks and strokes agree, so the networks are heard."""
    sample = disc_sample(depth=4)
    sample = replace(sample, target=np.full_like(sample.target, IGNORE))
    disc = sample.image[0] > 100
    teacher = np.stack([~disc, disc]).astype(np.float32)
    teacher[:, 3] = [[[0.6]], [[0.4]]]
    predict = SlicePredictor(FakeModel(), {"disc": teacher}, {"disc": None}, [sample])
    assert not predict(sample, 3).labels["ensemble"].any()
    for z in range(3):
        predict(sample, z)
    assert np.array_equal(predict(sample, 3).labels["ensemble"], disc[3])
    networks = np.stack([~disc, disc]).astype(np.float32)
    assert np.array_equal(with_teacher(networks, teacher).argmax(0), disc)  # all at once, as Model.fill_in does


def test_what_looks_like_the_strokes_is_shown_of_other_images_while_networks_are_young() -> None:
    """Where no stroke reaches: on an image without any, and on slices that were not come to yet."""

    class Wrong(FakeModel):
        def item_probabilities(self, prepared: np.ndarray, z: int) -> dict[str, np.ndarray]:
            return {name: P[::-1] for name, P in super().item_probabilities(prepared, z).items()}

    drawn, other = disc_sample(depth=3), disc_sample(depth=3, name="other")
    other.target[:] = IGNORE
    disc = other.image[0, 0] > 100
    reached = np.stack([~disc, disc])[:, None] * np.array([1, 0, 0]).reshape(3, 1, 1) + 0.5  # one slice of three
    run = SimpleNamespace(samples=[drawn, other], classes=CLASSES, iteration=4, start=None)
    teachers, parts = {"disc": reached, "other": np.full((2, 3, 32, 32), 0.5)}, {"disc": None, "other": None}
    predict = SlicePredictor(Wrong(), teachers, parts, run.samples, likeness=Likeness(run))
    for sample, z in ((other, 1), (drawn, 2)):
        found = predict(sample, z)
        assert found.source == "2 networks and what looks like the strokes"
        assert (found.labels["ensemble"] == disc).mean() > 0.9 and np.array_equal(found.labels["unet"], ~disc)
    assert predict(drawn, 0).source == "2 networks and propagated strokes"
    run.iteration = 1000
    assert predict(other, 1).source == "ensemble of 2 networks"


def test_of_the_images_beside_those_that_were_in_view_are_predicted() -> None:
    """While networks learn, and once more when they have learnt; one joins the training when it is drawn on."""
    later, said = Later(), []
    session = Session(later, FakeRun, clock=ticking())
    session.predicted.connect(said.append)
    drawn = [disc_sample(name=name) for name in ("one", "two", "three")]
    one, *beside = (
        replace(each, target=np.full_like(each.target, IGNORE)) if each.name != "one" else each for each in drawn
    )
    session.visible = ("two", None)
    session.train([one], CLASSES, replace(CONFIG, iterations=9), beside=beside)
    for _ in range(8):
        later.step()
    assert {each.image for each in said} == {"one", "two"} and session.samples == [one]
    session.update([one, drawn[1]])
    assert (session.samples, session.known) == ([one, drawn[1]], [one, drawn[1], beside[1]])
    session.visible = ("three", None)
    said.clear()
    later.finish()
    assert "three" in {each.image for each in said}
    said.clear()
    later.finish()  # the prediction of what has been learnt
    assert {each.image for each in said} == {"one", "two", "three"} and session.state == "idle"


def test_an_image_that_nobody_drew_on_is_left_to_the_networks(tmp_path: Path) -> None:
    session, said = make_session()
    session.train([disc_sample()], CLASSES, CONFIG)
    session.predict([disc_sample(name="other")])
    assert predictions(said)[-1].source == "ensemble of 2 networks"
    session.load(tmp_path)  # another run knows nothing of these strokes
    session.predict([disc_sample()])
    assert predictions(said)[-1].source == "ensemble of 2 networks"


def test_an_error_leaves_what_was_learnt() -> None:
    class Breaks(FakeRun):
        def __iter__(self):
            for progress in super().__iter__():
                if progress.iteration == 2:
                    raise FloatingPointError("the loss became nan")
                yield progress

    session, said = make_session(make_run=Breaks)
    session.train([disc_sample()], CLASSES, CONFIG)
    assert session.state == "idle" and isinstance(session.model, FakeModel)
    assert any(isinstance(event, FloatingPointError) for event in said)


class BreaksAtOnce(FakeRun):
    """As where the memory of a GPU does not suffice."""

    def __iter__(self):
        yield FakeProgress(0, stage="propagation")
        raise RuntimeError("out of memory")


class StopsAtOnce(FakeRun):
    def __iter__(self):
        yield FakeProgress(0, stage="propagation")


@pytest.mark.parametrize("run", [BreaksAtOnce, StopsAtOnce])
def test_a_training_that_learnt_nothing_leaves_the_model_with_what_is_shown_beside_it(run: type[FakeRun]) -> None:
    session, said = make_session(make_run=lambda *all: runs.pop(0)(*all))
    runs = [FakeRun, run]
    other = replace(disc_sample(name="other"), target=np.full((32, 32), IGNORE, np.uint8))
    session.train([disc_sample()], CLASSES, CONFIG, beside=[other])
    session.predict([disc_sample(), other])
    before = [each.source for each in predictions(said)[-2:]]
    assert before == ["2 networks and propagated strokes", "2 networks and what looks like the strokes"]
    session.train([disc_sample()], CLASSES, CONFIG, beside=[other])
    session.predict([disc_sample(), other])
    assert [each.source for each in predictions(said)[-2:]] == before and session._likeness.say == 1 - 3 / 400


def test_an_image_beside_that_cannot_be_predicted_is_told_once_and_the_training_goes_on() -> None:
    class Particular(FakeModel):
        def prepared(self, image: np.ndarray, name: str, spacing: object = None) -> np.ndarray:
            if np.isnan(image).any():
                raise ValueError(f"{name} has pixels that are no numbers")
            return super().prepared(image, name, spacing)

    class Long(FakeRun):
        def __init__(self, *all: object) -> None:
            super().__init__(*all)
            self.model = Particular()

    session, said = make_session(make_run=Long)
    drawn, bad = disc_sample(), disc_sample(depth=3, name="bad")
    bad = replace(bad, image=np.full_like(bad.image, np.nan), target=np.full_like(bad.target, IGNORE))
    session.visible = ("bad", 1)
    session.train([drawn], CLASSES, replace(CONFIG, iterations=9), beside=[bad])
    assert len([e for e in said if isinstance(e, ValueError)]) == 2  # while it trains, and when all is predicted
    assert isinstance(session.model, Particular) and predictions(said)[-1].image == "disc"
    with_both = len(said)
    session.predict([bad])
    assert "'bad' has pixels that are no numbers" in str(said[with_both:][-1])


def test_strokes_that_cannot_be_used_do_not_end_a_training_that_is_about_to_begin() -> None:
    class Refuses(FakeRun):
        def update(self, samples: Sequence[Sample]) -> None:
            raise ValueError("no strokes of class 1")

    later = Later()
    session, said = make_session(later, Refuses)
    session.train([disc_sample()], CLASSES, CONFIG)
    session.update([disc_sample(name="without")])
    later.finish()
    assert "no strokes of class 1" in [str(e) for e in said if isinstance(e, ValueError)]
    assert isinstance(session.model, FakeModel)


def test_a_run_closed_before_its_thread_began_does_not_train() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    session.close()
    later.finish()
    assert not [p for p in said if isinstance(p, FakeProgress)]


def test_pause_waits_and_resume_goes_on() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    later.step()
    session.pause()
    assert session.state == "paused" and session._run.paused
    session.resume()
    assert session.state == "training" and not session._run.paused
    later.finish()
    assert [s for s in said if isinstance(s, str)][:4] == ["training", "paused", "training", "idle"]


def test_a_paused_training_can_be_stopped() -> None:
    later = Later()
    session, _ = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    for _ in range(4):
        later.step()
    session.pause()
    session.stop()
    assert session.state == "idle" and session.model is not None
    later.finish()
    assert session.state == "idle"


def test_new_strokes_go_to_the_run_and_are_what_is_predicted() -> None:
    later = Later()
    session, _ = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    later.step()
    more = replace(disc_sample(), target=np.zeros((32, 32), np.uint8))
    session.update([more])
    assert session._run.samples == [more] == session._samples


def test_new_strokes_that_come_before_the_run_is_made_reach_it() -> None:
    """It is not made while torch is imported, or an earlier training's thread has not ended."""
    later = Later()
    session, _ = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    more = replace(disc_sample(), target=np.zeros((32, 32), np.uint8))
    session.update([more])
    later.step()
    assert session._run.samples == [more] == session._samples


def test_what_cannot_begin_changes_nothing() -> None:
    later = Later()
    session, _ = make_session(later)
    first = disc_sample()
    session.train([first], CLASSES, CONFIG)
    later.step()
    with pytest.raises(ValueError, match="still training"):
        session.train([disc_sample(name="other")], CLASSES, CONFIG)
    assert session.samples == [first]
    later.finish()


def test_what_the_run_settled_on_is_told_once() -> None:
    class Settled(FakeRun):
        def __iter__(self):
            self.config = replace(self.config, device="cpu", dtype="float32", kernel="torch")
            yield from super().__iter__()

    session, _ = make_session(make_run=Settled)
    told: list[str] = []
    session.settled.connect(lambda config: told.append(describe_machine(config)))
    session.train([disc_sample()], CLASSES, CONFIG)
    assert told == ["cpu · float32 · scan: torch"]


def test_the_time_of_a_training_is_foretold_from_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import doctor

    monkeypatch.setattr(doctor, "seconds_a_step", lambda name, config, machine: {"unet": 0.5, "swinunet": 1.0}[name])
    config = replace(CONFIG, iterations=10, device="cpu", dtype="float32")
    later = Later()
    session, _ = make_session(later)
    told: list = []
    session.measured.connect(lambda config, seconds: told.append((config, seconds)))
    session.measure(config)
    later.finish()
    assert told == [(config, 15.0)]
    session.measure(config)
    session.train([disc_sample()], CLASSES, CONFIG)  # has the machine to itself
    later.finish(job=1)
    assert len(told) == 1
    with pytest.raises(ValueError, match="depends on minutes"):
        session.measure(replace(CONFIG, iterations=None, minutes=1.0))


def test_probabilities_come_along_where_they_are_asked_for() -> None:
    session, said = make_session()
    session.load(Path("run"))
    session.predict([disc_sample(depth=2)], "ensemble")
    for prediction in predictions(said):
        assert prediction.network == "ensemble"
        assert np.array_equal(prediction.probabilities[1], prediction.labels["ensemble"])
    session.predict([disc_sample()])
    assert predictions(said)[-1].probabilities is None


def test_the_memory_of_a_gpu_is_given_back_after_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    network = torch.nn.Linear(2, 2)
    network.weight.grad = torch.ones(2, 2)

    class OnAGpu(FakeRun):
        def __iter__(self):
            yield from super().__iter__()
            self.model.networks = {"unet": network}
            self.config = replace(self.config, device="cuda:0", dtype="float32", kernel="triton")

    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    session, _ = make_session(make_run=OnAGpu)
    session.train([disc_sample()], CLASSES, CONFIG)
    assert emptied == [True] and network.weight.grad is None
