"""The loop learns, stops, resumes, and takes new strokes."""

import dataclasses
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK, dense_disc, disc, scribbled_disc, scribbled_stack

import trainer.run
from trainer.config import Config
from trainer.dataset import save_dataset
from trainer.files import read_tensors
from trainer.model import Model
from trainer.objectives import OBJECTIVES, Objective
from trainer.run import PICKY, RECENT, Run
from trainer.sample import IGNORE


def trained(run: Run) -> Run:
    for _ in run:
        pass
    return run


def same_weights(a: Model, b: Model) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state().values(), b.state().values(), strict=True))


def interrupted_and_resumed(config: Config, folder: Path) -> Run:
    """Cut off after its third step, of which there is a checkpoint, and gone on with."""
    run = Run([scribbled_disc()], config, CLASSES, folder=folder)
    for progress in run:
        if progress.iteration == 3:
            run.save_checkpoint()
            break
    return trained(Run([scribbled_disc()], config, CLASSES, folder=folder, resume=True))


def test_three_networks_learn_a_disc_from_two_strokes() -> None:
    config = dataclasses.replace(QUICK, iterations=60, batch=4)
    run = trained(Run([scribbled_disc()], config, CLASSES))
    image, truth = disc(seed=7)
    for network in (*run.model.names, "ensemble"):
        found = run.model.predict(image[None], network=network)
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert dice > 0.9, network


def test_supervised_learns_dense_labels() -> None:
    config = dataclasses.replace(
        QUICK, networks=("unet",), objective="supervised", iterations=40, propagation=False, normalisation="zscore"
    )
    run = trained(Run([dense_disc()], config, CLASSES))
    image, truth = disc(seed=3)
    assert (run.model.predict(image[None]) == truth).mean() > 0.97


def test_progress_counts_up_to_the_budget() -> None:
    run = Run([scribbled_disc()], QUICK, CLASSES)
    events = list(run)
    assert [p.stage for p in events] == ["propagation"] + ["training"] * 6
    assert [p.iteration for p in events] == [0, 1, 2, 3, 4, 5, 6]
    assert set(events[-1].losses) == {"unet", "swinunet", "mambaunet"} and events[-1].fraction == 1


def test_the_first_event_brings_the_propagated_strokes() -> None:
    run = Run([scribbled_stack()], QUICK, CLASSES)
    next(iter(run))
    assert run.teachers["stack"].shape == (2, 3, 40, 40)


def test_same_seed_same_weights_whatever_the_host_drew() -> None:
    first = trained(Run([scribbled_disc()], QUICK, CLASSES))
    torch.rand(17)
    second = trained(Run([scribbled_disc()], QUICK, CLASSES))
    assert same_weights(first.model, second.model)
    other = trained(Run([scribbled_disc()], dataclasses.replace(QUICK, seed=1), CLASSES))
    assert not same_weights(first.model, other.model)


def test_networks_side_by_side_in_threads_learn_the_same_every_time() -> None:
    config = dataclasses.replace(QUICK, threads=2, dtype="bfloat16")
    first, second = (trained(Run([scribbled_disc()], config, CLASSES)) for _ in range(2))
    assert same_weights(first.model, second.model)


def test_the_host_program_keeps_its_random_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(Run([scribbled_disc()], QUICK, CLASSES))
    assert torch.equal(torch.rand(3), expected)


def test_stop_keeps_the_model() -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=1000), CLASSES)
    for progress in run:
        if progress.iteration == 2:
            run.stop()
    assert run.iteration == 2
    assert run.model.predict(disc()[0][None]).shape == (40, 40)


def test_a_budget_in_minutes_ends_in_time() -> None:
    config = dataclasses.replace(QUICK, iterations=None, minutes=3 / 60)
    started = time.monotonic()
    run = trained(Run([scribbled_disc()], config, CLASSES, started=started))
    assert run.iteration > 0
    assert run.fraction <= 1


def test_a_budget_that_spreading_would_use_up_still_teaches() -> None:
    """Half of it is for the strokes; of what is not spread by then the strokes alone are learnt."""
    config = dataclasses.replace(QUICK, iterations=None, minutes=1e-4)
    run = trained(Run([scribbled_disc(), scribbled_disc("second", seed=1)], config, CLASSES))
    assert run.iteration >= 1 and run.unspread == {"disc", "second"}
    assert "2 of 2 images were not spread" in run.shortfall
    assert trained(Run([scribbled_disc()], QUICK, CLASSES)).shortfall == ""


def test_what_was_spread_stays_where_further_strokes_are_stopped_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    run, quick = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=1000), CLASSES), trainer.run.propagating
    for progress in run:
        if progress.iteration == 2:
            before, sample = run.teachers["disc"], scribbled_disc()
            monkeypatch.setattr("trainer.run.propagating", lambda *all: run.stop() or quick(*all))
            sample.target[20, 20:30] = 1
            run.update([sample])
    assert run.iteration < 1000 and run.teachers["disc"] is before


def test_further_strokes_are_spread_although_others_have_no_time_for_it() -> None:
    config = dataclasses.replace(QUICK, iterations=None, minutes=1.0)
    run = Run([scribbled_disc(), scribbled_disc("second", seed=1)], config, CLASSES)
    run.begin()
    list(run.taught(run.samples[0]))
    run._earlier = 45.0  # of the minute: most of it is gone, none of what this process has of it
    assert not run.late
    run._earlier, run.started = 0.0, run.started - 45
    assert run.late and run.cut_short("second", first=True) and not run.cut_short("disc", first=False)
    assert run.unspread == {"second"}


def test_new_strokes_enter_a_running_training() -> None:
    run = Run([scribbled_disc()], QUICK, CLASSES)
    for progress in run:
        if progress.iteration == 2 and len(run.samples) == 1:
            run.update([scribbled_disc(), scribbled_disc("second", seed=1)])
    assert set(run.teachers) == {"disc", "second"} and run.iteration == 6


def test_who_draws_on_and_on_still_sees_it_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Propagating takes a quarter of the time at most: strokes that come meanwhile wait, and the newest are taken."""
    quick = trainer.run.propagating
    monkeypatch.setattr("trainer.run.propagating", lambda *all: time.sleep(0.5) or quick(*all))
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=20), CLASSES)
    stages = []
    for progress in run:
        stages.append(progress.stage)
        sample = scribbled_disc()
        sample.target[20, 20 : 21 + progress.iteration] = 1  # another stroke, every time
        run.update([sample])
    assert stages.count("propagation") < 10 and stages.count("training") == 20


def test_what_is_spread_is_learnt_from_while_the_rest_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image with strokes at a time, where the budget is one of minutes; the lead lasts until all are there."""
    quick = trainer.run.propagating
    monkeypatch.setattr("trainer.run.propagating", lambda *all: time.sleep(0.3) or quick(*all))
    samples = [scribbled_disc(f"disc {i}", seed=i) for i in range(3)]
    config = dataclasses.replace(QUICK, iterations=None, minutes=10.0, lead=1e-9)
    run, known = Run(samples, config, CLASSES), []
    for progress in run:
        if progress.stage == "training":
            known.append((len(run.teachers), len(progress.losses)))
        if len(progress.losses) == 3:
            run.stop()
    assert [count for count, _ in known] == sorted(count for count, _ in known)
    assert {(1, 1), (2, 1), (3, 3)} <= set(known) and not run.shortfall
    counted = Run(samples, QUICK, CLASSES)  # steps are the same on any machine
    assert {len(counted.teachers) for progress in counted if progress.iteration} == {3}


def test_an_interrupted_run_that_resumes_equals_an_undisturbed_one(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, lead=0.4)  # the others join after the checkpoint
    undisturbed = trained(Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "a"))
    run = Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "b")
    for progress in run:
        if progress.iteration == 2:
            run.save_checkpoint()
        if progress.iteration == 4:  # trained, but after the checkpoint: lost
            break
    assert Model.load(tmp_path / "b", "cpu").shares == {"unet": 1.0}
    resumed = trained(Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "b", resume=True))
    assert same_weights(undisturbed.model, resumed.model) and undisturbed.model.shares == resumed.model.shares
    rows = [(folder / "history.csv").read_text().splitlines() for folder in (tmp_path / "a", tmp_path / "b")]
    assert [r.split(",")[0] for r in rows[0]] == [r.split(",")[0] for r in rows[1]]


def test_a_mean_of_the_weights_answers_and_is_resumed(tmp_path: Path) -> None:
    """Of those that learn, not of those that wait; as soon as one has learnt a step, its weights are what there is."""
    config = dataclasses.replace(QUICK, lead=0.4, averaging=0.75)
    undisturbed = Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "a")
    mean = None
    for progress in undisturbed:
        if progress.iteration:
            keep = min(0.75, 1 - 1 / progress.iteration)
            now = weights(undisturbed.networks)
            mean = now if mean is None else keep * mean + (1 - keep) * now
            assert torch.allclose(weights(undisturbed.model.networks), mean, atol=1e-6)
        if progress.iteration == 2:
            assert same_weights_of("swinunet", undisturbed)  # it has not begun
    assert not torch.equal(mean, weights(undisturbed.networks))
    resumed = interrupted_and_resumed(config, tmp_path / "b")
    assert same_weights(undisturbed.model, resumed.model)
    assert torch.equal(weights(undisturbed.networks), weights(resumed.networks))
    other = dataclasses.replace(config, averaging=0.0)
    with pytest.raises(ValueError, match=r"was trained with averaging 0\.75, not 0\.0"):
        next(iter(Run([scribbled_disc()], other, CLASSES, folder=tmp_path / "b", resume=True)))


def weights(networks: dict[str, torch.nn.Module]) -> torch.Tensor:
    """Some of UNet's."""
    return next(networks["unet"].parameters()).detach().clone()


def same_weights_of(network: str, run: Run) -> bool:
    pair = (networks[network].state_dict().values() for networks in (run.networks, run.model.networks))
    return all(map(torch.equal, *pair))


@pytest.mark.parametrize(
    "history", [None, "iteration,seconds,unet,swinunet,mambaunet\n1,0.1,1.", "iteration;seconds\n1;2"]
)
def test_a_history_that_is_gone_or_damaged_is_named(history: str | None, tmp_path: Path) -> None:
    trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path))
    (tmp_path / "history.csv").unlink()
    if history:
        (tmp_path / "history.csv").write_text(history)
    with pytest.raises(ValueError, match="is needed to go on"):
        next(iter(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path, resume=True)))


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal of POSIX")
def test_kill_9_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_disc()], CLASSES)
    flags = "--iterations 40 --patch 32 32 --batch 2 --device cpu --dtype float32 --threads 1 --checkpoint-seconds 0.2"
    command = [sys.executable, "-m", "trainer.fit", str(tmp_path / "data"), *flags.split(), "--out"]
    subprocess.run([*command, str(tmp_path / "a")], check=True, capture_output=True)
    victim = subprocess.Popen([*command, str(tmp_path / "b")], stderr=subprocess.DEVNULL)
    while not (tmp_path / "b" / "checkpoint.safetensors").is_file():
        assert victim.poll() is None, "the run ended before it wrote a checkpoint"
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "b" / "weights.safetensors").exists()
    subprocess.run([*command, str(tmp_path / "b"), "--resume"], check=True, capture_output=True)
    assert same_weights(Model.load(tmp_path / "a", "cpu"), Model.load(tmp_path / "b", "cpu"))


def test_validation_keeps_the_best_weights(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, validate_every=2)
    run = Run([scribbled_disc()], config, CLASSES, folder=tmp_path, validation=[dense_disc(seed=4)])
    states, scores = {}, {}
    for progress in run:
        if progress.validation is not None:
            scores[progress.iteration] = progress.validation
            states[progress.iteration] = {k: v.clone() for k, v in run.model.state().items()}
    assert list(scores) == [2, 4, 6]
    best = states[max(scores, key=scores.get)]
    assert "shares" in best and all(torch.equal(value, best[key]) for key, value in run.model.state().items())


def test_unet_rate_stays_where_the_published_script_forgot_it() -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, unet_rate_decays=False), CLASSES)
    list(run)
    rates = {name: optimiser.param_groups[0]["lr"] for name, optimiser in run.optimisers.items()}
    assert rates["unet"] == QUICK.learning_rate
    assert rates["swinunet"] == rates["mambaunet"] == pytest.approx(QUICK.learning_rate * (1 / 6) ** 0.9)


def test_a_unet_alone_decays_as_its_own_script_does() -> None:
    config = dataclasses.replace(QUICK, networks=("unet",), objective="pce", unet_rate_decays=False)
    run = trained(Run([scribbled_disc()], config, CLASSES))
    assert run.optimisers["unet"].param_groups[0]["lr"] == pytest.approx(QUICK.learning_rate * (1 / 6) ** 0.9)


@pytest.mark.parametrize(
    ("objective", "change", "message"),
    [("dmpls", {}, "no second decoder.*unet_cct"), ("ustm", {"patch": (16, 16, 16)}, "is for slices")],
)
def test_what_an_objective_needs_is_known_before_any_time_is_spent(objective: str, change: dict, message: str) -> None:
    networks = ("umamba_bot",) if change else ("unet",)
    config = dataclasses.replace(QUICK, networks=networks, objective=objective, lead=0.0, **change)
    run = Run([scribbled_stack(16)], config, CLASSES)
    with pytest.raises(ValueError, match=message):
        next(iter(run))
    assert not run.teachers


def test_the_first_network_learns_alone_until_its_lead_is_over() -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=4 * RECENT, lead=0.5), CLASSES)
    for progress in run:
        alone = 0 < progress.iteration <= 2 * RECENT
        if alone:
            assert list(progress.losses) == ["unet"] and run.model.shares == {"unet": 1.0}
        if progress.iteration == 2 * RECENT:
            late = run.model.networks["swinunet"].state_dict()
            before = {name: value.clone() for name, value in late.items()}
            assert list(run.model.probabilities(disc()[0][None])) == ["unet", "ensemble"]
    assert list(progress.losses) == list(run.model.shares) == ["unet", "swinunet", "mambaunet"]
    fresh = Model.new(run.config, CLASSES, 1).networks["swinunet"].state_dict()
    assert all(torch.equal(before[name], fresh[name]) for name in fresh)
    assert any(not torch.equal(before[name], value) for name, value in late.items())
    going_on = Run([scribbled_disc()], dataclasses.replace(run.config, iterations=1), CLASSES, start=run.model)
    assert [len(progress.losses) for progress in going_on] == [0, 3]


def test_what_remains_is_foretold_when_all_learn() -> None:
    """While one leads, nobody knows yet how long the others' steps will take."""
    events = list(Run([scribbled_disc()], dataclasses.replace(QUICK, lead=0.5), CLASSES))
    assert [progress.remaining is None for progress in events] == [True] * 4 + [False] * 3
    assert events[-1].remaining == 0


def test_the_mean_teacher_of_who_joins_late_begins_as_its_network() -> None:
    late = dataclasses.replace(QUICK, objective="ustm", networks=("unet", "swinunet"), lead=0.5)
    for progress in (run := Run([scribbled_disc()], late, CLASSES)):
        copied = [all(map(torch.equal, run.averages[n].parameters(), run.networks[n].parameters())) for n in late.names]
        if i := progress.iteration:  # the first step of SwinUNet is the fourth; after it the teachers lag
            assert copied == [i == 1, i <= 4], i


def test_nobody_leads_who_has_learnt_with_the_others(tmp_path: Path) -> None:
    """A run that resumes with more to do has its lead behind it; a model that was stopped in its lead has not."""
    config = dataclasses.replace(QUICK, lead=0.5)
    trained(Run([scribbled_disc()], config, CLASSES, folder=tmp_path))
    longer = Run([scribbled_disc()], dataclasses.replace(config, iterations=20), CLASSES, folder=tmp_path, resume=True)
    assert {len(progress.losses) for progress in longer if progress.stage == "training"} == {3}
    stopped = Run([scribbled_disc()], config, CLASSES)
    for progress in stopped:
        if progress.iteration == 2:
            stopped.stop()
    again = Run([scribbled_disc()], config, CLASSES, start=stopped.model)
    assert [len(progress.losses) for progress in again] == [0, 1, 1, 1, 3, 3, 3]


def test_the_lead_is_of_what_spreading_the_strokes_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=None, minutes=10.0, lead=0.3), CLASSES)
    steps = iter(run)
    assert next(steps).stage == "propagation"
    for fraction, learning in ((0.2, 1), (0.2 + 0.3 * 0.79, 1), (0.2 + 0.3 * 0.81, 3)):
        monkeypatch.setattr(Run, "fraction", fraction)
        assert len(next(steps).losses) == learning


def test_a_finished_run_that_resumes_hears_its_networks_as_before(tmp_path: Path) -> None:
    shares = trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path)).model.shares
    assert len(set(shares.values())) == 3
    assert trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path, resume=True)).model.shares == shares
    assert Model.load(tmp_path, "cpu").shares == shares


def test_who_loses_less_is_heard_more() -> None:
    run = trained(Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=1), CLASSES))
    run._history = [[0, 0.0, 9.0, 1.0, 0.1], *[[i, 0.1 * i, 0.5, 1.0, math.nan] for i in range(1, RECENT + 1)]]
    run.weigh()
    assert run.model.shares.keys() == {"unet", "swinunet"}  # of the third nothing is known of late
    assert run.model.shares["unet"] == pytest.approx(1 / (1 + math.exp(-PICKY * 0.5)))
    run._history[-1][-1] = 1.5  # it has just begun
    run.weigh()
    assert run.model.shares["mambaunet"] / run.model.shares["unet"] == pytest.approx(math.exp(-PICKY))
    image = disc()[0][None]
    P = run.model.probabilities(image)
    expected = sum(share * P[name] for name, share in run.model.shares.items())
    np.testing.assert_allclose(P["ensemble"], expected, atol=1e-6)


def test_a_network_named_twice_is_numbered() -> None:
    config = dataclasses.replace(QUICK, networks=("unet", "unet"), iterations=1)
    run = trained(Run([scribbled_disc()], config, CLASSES))
    assert run.model.names == ("unet", "unet2")
    assert not same_weights(*(Model({"x": net}, config, CLASSES, 1) for net in run.networks.values()))


def test_a_stack_is_trained_and_predicted_slice_by_slice() -> None:
    sample = scribbled_stack()
    run = trained(Run([sample], QUICK, CLASSES))
    probabilities = run.model.probabilities(sample.image)
    assert {name: p.shape for name, p in probabilities.items()} == {
        name: (2, 3, 40, 40) for name in ("unet", "swinunet", "mambaunet", "ensemble")
    }
    np.testing.assert_allclose(probabilities["ensemble"].sum(0), 1, atol=1e-5)


def test_strokes_that_cannot_be_learned_from_are_refused() -> None:
    sample = scribbled_disc()
    empty = dataclasses.replace(sample, target=np.full_like(sample.target, IGNORE))
    with pytest.raises(ValueError, match="stroke"):
        Run([empty], QUICK, CLASSES)
    with pytest.raises(ValueError, match="rim"):
        Run([sample], QUICK, (*CLASSES, "rim"))
    with pytest.raises(ValueError, match="NaN"):
        Run([dataclasses.replace(sample, image=np.full_like(sample.image, np.nan))], QUICK, CLASSES)


def test_a_loss_that_is_not_finite_says_so() -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, learning_rate=1e30, clip=None), CLASSES)
    with pytest.raises(ArithmeticError, match="learning rate"):
        list(run)


def test_partial_cross_entropy_looks_where_somebody_drew() -> None:
    """Nothing is to be learnt elsewhere; where networks teach each other there is."""
    from trainer.batches import Case, weights

    alone = dataclasses.replace(QUICK, networks=("unet",), objective="pce", propagation=False)
    case = Case.of(scribbled_stack(depth=3), None, alone)
    assert weights([case], alone).tolist() == [0, 1, 0]
    assert (weights([case], dataclasses.replace(QUICK, propagation=False)) > 0).all()


def test_images_that_nobody_drew_on_take_half_of_the_views_at_most() -> None:
    """However many there are; those with strokes share the rest alike, whatever is drawn on each."""
    from trainer.batches import Case, weights

    config = dataclasses.replace(QUICK, propagation=False)
    drawn, fewer = scribbled_disc(), scribbled_disc("fewer")
    fewer.target[fewer.target == 1] = IGNORE
    bare = dataclasses.replace(drawn, target=np.full_like(drawn.target, IGNORE))
    cases = [Case.of(each, None, config) for each in (bare, drawn, fewer, *[bare] * 7)]
    found = weights(cases, config)
    assert found.sum() == pytest.approx(1) and found[1] == found[2] == pytest.approx(0.5 / 10 + 0.5 / 2)
    assert np.allclose(np.delete(found, [1, 2]), 0.5 / 10)
    assert np.allclose(weights(cases[:1], config), 1)


def test_partial_cross_entropy_leaves_out_images_that_nobody_drew_on() -> None:
    from trainer.batches import Batches, Case

    alone = dataclasses.replace(QUICK, networks=("unet",), objective="pce", propagation=False)
    drawn = scribbled_disc()
    bare = dataclasses.replace(scribbled_disc("bare"), target=np.full_like(drawn.target, IGNORE))
    assert Batches([Case.of(each, None, alone) for each in (bare, drawn)], alone).weights.tolist() == [0, 1]


def test_slices_are_looked_at_by_how_many_classes_were_drawn_on_them() -> None:
    """One that alone has them all does not take half of the views, and strokes of one class count too."""
    from trainer.batches import Case, weights

    config = dataclasses.replace(QUICK, objective="supervised", networks=("unet",), propagation=False)
    stack = scribbled_stack(depth=5)
    stack.target[:, :5] = 0
    found = weights([Case.of(stack, None, config)], config)
    assert found[2] == found.max() and found[2] == pytest.approx(0.1 + 0.5 / 3)
    assert np.allclose(np.delete(found, 2), 0.1 + 0.25 / 3)


def test_paper_views_are_whole_slices_in_shuffled_epochs() -> None:
    from trainer.batches import Batches, Case

    samples = [scribbled_disc(str(i), seed=i) for i in range(5)]
    config = Config(iterations=9, view="resize", patch=(48, 64), batch=2, propagation=False, augmentation="paper")
    batches = Batches([Case.of(s, None, config) for s in samples], config)
    epochs = [[batches.choose(i, np.random.default_rng(0)) for i in range(e * 3, e * 3 + 3)] for e in (0, 1)]
    for epoch in epochs:
        assert [len(views) for views in epoch] == [2, 2, 1]
        assert sorted(c for views in epoch for c, _ in views) == [0, 1, 2, 3, 4]
    assert epochs[0] != epochs[1]
    assert batches[0].image.shape == (2, 1, 48, 64) and batches[0].target.shape == (2, 48, 64)


def test_an_unturned_view_is_the_image_itself() -> None:
    from trainer.batches import Batches, Case

    sample = scribbled_disc()
    for view in ("resize", "patch"):
        config = Config(
            iterations=1,
            view=view,
            patch=(40, 40),
            batch=1,
            augmentation="none",
            propagation=False,
            normalisation="zscore",
        )
        case = Case.of(sample, None, config)
        batch = Batches([case], config)[0]
        torch.testing.assert_close(batch.image[0], case.image[0], atol=1e-4, rtol=0)
        assert torch.equal(batch.target[0], case.target[0].long())


def test_image_strokes_and_teacher_turn_together() -> None:
    """After strong augmentation a bright pixel is still the disc's."""
    from trainer.batches import Batches, Case
    from trainer.propagation import propagate

    sample = scribbled_disc()
    config = dataclasses.replace(QUICK, normalisation="zscore", batch=8, patch=(40, 40))
    batch = Batches([Case.of(sample, propagate(sample, 2), config)], config)[3]
    assert batch.image[:, 0][batch.target == 1].mean() - batch.image[:, 0][batch.target == 0].mean() > 1
    for image, teacher in zip(batch.image, batch.teacher, strict=True):
        assert torch.corrcoef(torch.stack([image[0].ravel(), teacher[1].ravel()]))[0, 1] > 0.8


def test_a_run_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path))
    fewer = dataclasses.replace(QUICK, networks=("unet", "swinunet"))
    with pytest.raises(ValueError, match="trained with networks"):
        list(Run([scribbled_disc()], fewer, CLASSES, folder=tmp_path, resume=True))
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(ValueError, match="no checkpoint"):
        list(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path, resume=True))


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    next(iter(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path)))
    resumed = trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path, resume=True))
    assert resumed.iteration == 6


def test_a_start_is_not_forgotten_by_who_resumes_before_the_first_step(tmp_path: Path) -> None:
    first = trained(Run([scribbled_disc()], QUICK, CLASSES))
    next(iter(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path, start=first.model)))
    resumed = Run([scribbled_disc()], dataclasses.replace(QUICK, lead=0.5), CLASSES, folder=tmp_path, resume=True)
    steps = iter(resumed)
    next(steps)
    weights = {name: value for name, value in first.model.state().items() if name != "shares"}
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state().items() if name in weights)
    assert len(next(steps).losses) == 3  # all had learnt before


def test_the_lead_grows_with_the_budget_of_who_resumes(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, iterations=None, minutes=10.0, lead=0.3)
    run = Run([scribbled_disc()], config, CLASSES, folder=tmp_path)
    next(steps := iter(run))
    run._ready = 0.4  # four minutes were spent on the strokes
    next(steps)
    run.save_checkpoint()
    for change, ready in (({"minutes": 40.0}, 0.1), ({"minutes": None, "iterations": 20}, 0.0)):
        longer = dataclasses.replace(config, **change)
        again = Run([scribbled_disc()], longer, CLASSES, folder=tmp_path, resume=True)
        next(iter(again))
        assert again._ready == pytest.approx(ready)


def test_going_on_without_the_validation_keeps_what_is_learnt_now(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, validate_every=1, iterations=2)
    trained(Run([scribbled_disc()], config, CLASSES, folder=tmp_path, validation=[dense_disc(seed=4)]))
    longer = dataclasses.replace(config, iterations=5)
    resumed = trained(Run([scribbled_disc()], longer, CLASSES, folder=tmp_path, resume=True))
    best, _ = read_tensors(tmp_path / "best.safetensors")  # of the first part, no longer wanted
    assert resumed.iteration == 5
    assert not all(torch.equal(value, best[key]) for key, value in resumed.model.state().items())


def test_the_weights_of_an_ended_run_do_not_outlive_a_newer_checkpoint(tmp_path: Path) -> None:
    trained(Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path))
    longer = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=50), CLASSES, folder=tmp_path, resume=True)
    for progress in longer:
        if progress.iteration == 8:
            longer.save_checkpoint()
            break
    assert same_weights(Model.load(tmp_path, "cpu"), longer.model)


def test_a_run_stopped_before_its_first_step_saves_nothing(tmp_path: Path) -> None:
    run = Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path)
    run.stop()
    list(run)
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_run_trains_once() -> None:
    run = trained(Run([scribbled_disc()], QUICK, CLASSES))
    with pytest.raises(RuntimeError, match="once"):
        list(run)


def test_images_that_do_not_go_together_are_refused() -> None:
    sample = scribbled_disc()
    colour = dataclasses.replace(sample, name="colour", image=np.repeat(sample.image, 3, 0))
    with pytest.raises(ValueError, match="'colour' has 3 channels"):
        Run([sample, colour], QUICK, CLASSES)
    with pytest.raises(ValueError, match="'colour' has 3 channels"):
        Run([sample], QUICK, CLASSES, validation=[dataclasses.replace(dense_disc("colour"), image=colour.image)])
    with pytest.raises(ValueError, match="labels have shape"):
        Run([dataclasses.replace(sample, target=sample.target[:30])], QUICK, CLASSES)
    with pytest.raises(ValueError, match="'disc'"):
        Run([sample, sample], QUICK, CLASSES)


def test_what_does_not_speed_up_here_is_said_and_left(caplog: pytest.LogCaptureFixture) -> None:
    plain = trained(Run([scribbled_disc()], QUICK, CLASSES))
    run = trained(Run([scribbled_disc()], dataclasses.replace(QUICK, speedup="graphs"), CLASSES))
    assert "CUDA graphs need a CUDA device" in caplog.text and run.iteration == plain.iteration


def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("torch.compile", lambda network: lambda image: calls.append(1) or network(image))
    plain = trained(Run([scribbled_disc()], QUICK, CLASSES))
    compiled = trained(Run([scribbled_disc()], dataclasses.replace(QUICK, speedup="compile"), CLASSES))
    assert len(calls) == 3 * (QUICK.iterations + 1)  # once more each, to see whether it works
    assert compiled.iteration == plain.iteration


def test_learning_rates_by_hand() -> None:
    from trainer.run import learning_rate

    poly = dataclasses.replace(QUICK, learning_rate=1.0)
    assert learning_rate(poly, 0.5, 0) == pytest.approx(0.5**0.9)
    assert learning_rate(dataclasses.replace(poly, schedule="constant"), 0.5, 0) == 1.0
    cosine = dataclasses.replace(poly, schedule="cosine", final_rate=0.1)
    assert [learning_rate(cosine, p, 0) for p in (0, 0.5, 1)] == pytest.approx([1.0, 0.55, 0.1])
    again = dataclasses.replace(cosine, period=50)  # down in 50 iterations, and up again
    assert [learning_rate(again, 0, i) for i in (0, 50, 100)] == pytest.approx([1.0, 0.1, 1.0])


def test_the_encoder_of_swin_umamba_waits_while_it_is_frozen() -> None:
    config = dataclasses.replace(
        QUICK, networks=("swin_umamba_d",), objective="supervised", propagation=False, frozen=2, iterations=3
    )
    run = Run([dense_disc()], config, CLASSES)
    moved, before = [], {}
    for progress in run:
        now = {k: v.clone() for k, v in run.networks["swin_umamba_d"].named_parameters()}
        if progress.iteration > 1:
            moved.append({k for k, v in now.items() if not torch.equal(v, before[k])})
        before = now
    encoder = {k for k in now if k.startswith("vssm_encoder.") and "patch_embed" not in k}
    assert not moved[0] & encoder and moved[0] and moved[1] & encoder


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(QUICK, networks=("unet",), objective="supervised", propagation=False)
    run = Run([dense_disc()], config, CLASSES)
    steps = iter(run)
    next(steps)
    before = {k: v.clone() for k, v in run.networks["unet"].named_parameters()}
    broken = Objective(lambda logits, *_: {"unet": logits["unet"].sum() * float("nan")})
    monkeypatch.setattr(run, "objective", broken)
    with pytest.raises(FloatingPointError, match="unet became nan at iteration 1"):
        next(steps)
    assert all(torch.equal(v, before[k]) for k, v in run.networks["unet"].named_parameters())


@pytest.mark.parametrize("objective", [name for name, o in OBJECTIVES.items() if o.decoders == 1])
def test_every_objective_learns_a_disc(objective: str) -> None:
    networks = ("unet", "unet") if OBJECTIVES[objective].networks_at_least == 2 else ("unet",)
    config = dataclasses.replace(
        QUICK, networks=networks, objective=objective, iterations=40, batch=4, propagation=False
    )
    run = trained(Run([scribbled_disc()], config, CLASSES))
    image, truth = disc(seed=7)
    found = run.model.predict(image[None])
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.6


def test_a_mean_teacher_resumes_too(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, networks=("unet",), objective="ustm")
    undisturbed = trained(Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "a"))
    resumed = interrupted_and_resumed(config, tmp_path / "b")
    assert same_weights(undisturbed.model, resumed.model)


def test_a_paused_run_waits_and_its_clock_too() -> None:
    run = Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=None, minutes=1.0), CLASSES)
    steps = iter(run)
    next(steps), next(steps)
    run.pause()
    threading.Timer(0.5, run.go_on).start()
    before, begun = run.seconds, time.monotonic()
    next(steps)
    assert run.seconds - before < time.monotonic() - begun - 0.4
    run.pause()
    run.stop()
    assert list(steps) == []  # who stops does not wait


def test_a_run_can_start_from_a_model() -> None:
    first = trained(Run([scribbled_disc()], QUICK, CLASSES))
    known = {name: value.clone() for name, value in first.model.state().items()}
    second = Run([scribbled_disc()], dataclasses.replace(QUICK, seed=9), CLASSES, start=first.model)
    next(iter(second))  # the strokes are propagated, nothing has been learnt yet
    assert all(torch.equal(value, known[name]) for name, value in second.model.state().items())
    other = dataclasses.replace(QUICK, networks=("unet", "unet"))
    with pytest.raises(ValueError, match="start from has the networks"):
        trained(Run([scribbled_disc()], other, CLASSES, start=first.model))
