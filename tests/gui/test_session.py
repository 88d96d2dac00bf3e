"""The Session without a window: states, order of events, errors, and what becomes of late answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import CLASSES, CONFIG, FakeModel, FakeProgress, FakeRun, Later, disc_sample, on_the_spot

from napari_scribblemamba._session import Prediction, Session, stroke_accuracy
from trainer.config import Config
from trainer.dataset import IGNORE, Sample, load_dataset


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
    assert last.source == "ensemble of 2 networks"
    assert set(last.labels) == {"unet", "swinunet", "ensemble"}
    assert np.array_equal(last.labels["ensemble"], disc_sample().image[0] > 100)


def test_while_training_it_looks_at_the_visible_slice_every_other_time() -> None:
    session, said = make_session()
    session.visible = ("disc", 3)
    session.train([disc_sample(depth=5)], CLASSES, replace(CONFIG, iterations=60))
    looked = [p.index for p in predictions(said)][1:]  # the first is the propagation of all slices
    assert looked[:4] == [3, 2, 3, 4]
    assert sorted(looked[-5:]) == [0, 1, 2, 3, 4]  # at the end every slice once,
    assert looked[-5] == 3  # the visible one first
    assert predictions(said)[-1].fraction == 1


def test_stop_ends_the_run_and_keeps_what_was_learnt() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, replace(CONFIG, iterations=1000))
    for _ in range(3):  # iteration 0, its overlay, iteration 1
        later.step()
    session.stop()
    assert session.state == "stopping"
    later.finish()
    assert session.state == "idle"
    assert session.model is not None
    assert max(p.iteration for p in said if isinstance(p, FakeProgress)) == 1


def test_stop_before_the_run_exists_trains_nothing() -> None:
    later = Later()
    session, said = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    session.stop()
    later.finish()
    assert session.state == "idle"
    assert session.model is None
    assert max(p.iteration for p in said if isinstance(p, FakeProgress)) == 0


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


def test_the_propagated_strokes_stay_until_the_ensemble_knows_the_strokes() -> None:
    sample = disc_sample()
    drawn = sample.target != IGNORE
    contrary = replace(sample, target=np.where(drawn, 1 - sample.target, IGNORE).astype(np.uint8))
    for strokes, expected in ((sample, "ensemble of 2 networks"), (contrary, "propagated strokes")):
        later = Later()
        session, said = make_session(later)
        session.train([strokes], CLASSES, replace(CONFIG, iterations=60))
        for _ in range(40):
            later.step()
        look = predictions(said)[-1]
        assert look.source == expected and ("ensemble" in look.labels) == (expected != "propagated strokes")


def test_accuracy_on_strokes_is_the_mean_over_classes() -> None:
    target = np.array([[0, 0, 0, 0, 1, IGNORE]])
    prediction = Prediction("", None, {"ensemble": np.array([[0, 0, 0, 1, 1, 1]])}, "")
    assert stroke_accuracy(prediction, target) == (0.75 + 1) / 2
    assert stroke_accuracy(prediction, np.full((1, 6), IGNORE)) == 0


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
    assert session.state == "stopping"
    later.finish()
    assert session.state == "idle" and session.model is not None


def test_new_strokes_go_to_the_run_and_are_what_is_predicted() -> None:
    later = Later()
    session, _ = make_session(later)
    session.train([disc_sample()], CLASSES, CONFIG)
    later.step()
    more = replace(disc_sample(), target=np.zeros((32, 32), np.uint8))
    session.update([more])
    assert session._run.samples == [more] == session._samples
