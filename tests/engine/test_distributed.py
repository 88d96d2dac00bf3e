"""Two processes that share every batch take the steps of one. This file is also what the two processes run."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from tests.engine.toys import CLASSES, QUICK, dense_disc, scribbled_disc
from trainer.distributed import SharedRun, first, joined, own_views, run_class
from trainer.networks.blocks import Dropout
from trainer.run import Run

ROOT = Path(__file__).parents[2]
# three views and two processes: one of them has a view that only fills up
SUMS = replace(
    QUICK,
    networks=("unet", "swinunet"),
    batch=3,
    propagation=False,
    optimiser="sgd",
    learning_rate=0.02,
    schedule="constant",
    mix_by_loss=True,
    ramp_up=False,  # it would know how long the run is to be
)
LIVELY = replace(
    SUMS,
    iterations=None,
    minutes=5.0,
    schedule="poly",
    threads=2,
    objective="ustm",
    propagation=True,
    validate_every=2,
)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Three steps, and two more after a resume, without what draws lots or looks at the batch of one process: the
    losses and the weights of one process with the whole batch."""
    still, lively = tmp_path / "still", tmp_path / "lively"
    torchrun(still, lively)
    alone = trained(Run, tmp_path / "alone", 5)

    reported = [json.loads((tmp_path / f"still-{rank}.json").read_text()) for rank in (0, 1)]
    assert reported[0] == reported[1] and len(reported[0]) == 5
    for ours, one in zip(reported[0], alone, strict=True):
        assert all(abs(ours[name] - one[name]) < 1e-6 for name in ("unet", "swinunet"))
    two, one = (load_file(folder / "weights.safetensors") for folder in (still, tmp_path / "alone"))
    start = untrained()
    assert one.keys() - start.keys() == {"shares"}
    moved = {name: (one[name] - start[name]).abs().max().item() for name in start if one[name].is_floating_point()}
    assert max(moved.values()) > 1e-2, "the networks hardly learnt: nothing is compared"
    assert max((two[name] - one[name]).abs().max().item() for name in (*moved, "shares")) < 1e-6

    # with all that draws lots, a clock each, a thread a network and mean teachers, stopped in the first process: both
    # end after that step, and have the same weights to the last bit
    ends = [json.loads((tmp_path / f"lively-{rank}.json").read_text()) for rank in (0, 1)]
    assert ends[0]["iteration"] == ends[1]["iteration"] == 3
    assert ends[0]["sum"] == ends[1]["sum"]
    assert (ends[0]["looks"], ends[1]["looks"]) == (1, 0), "only the first process validates"
    assert sorted(p.name for p in lively.iterdir()) == [
        "best.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "history.csv",
        "weights.safetensors",
    ]


def test_the_views_of_a_process(monkeypatch) -> None:
    """Of five views, three processes have two each; the last one fills up with the first."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    for rank, views in ((0, [0, 3]), (1, [1, 4]), (2, [2, 5])):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        assert own_views(5).tolist() == views


def test_alone_it_is_a_plain_run(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert run_class() is Run and first()
    with joined():
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_class() is SharedRun


# ---- what runs in the processes ----


def torchrun(still: Path, lively: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, __file__, still, lively], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def trained(kind: type[Run], folder: Path, iterations: int) -> list[dict[str, float]]:
    """The losses of each step, with BatchNorm and dropout as in evaluation, the networks in float64: on some processors
    the rounding of float32 flips a rectifier within five steps, and that is seen in the fourth digit."""

    class Still(kind):
        def begin(self) -> None:
            torch.set_default_dtype(torch.float64)
            super().begin()
            torch.set_default_dtype(torch.float32)
            for network in self.networks.values():
                network.register_forward_pre_hook(lambda _, images: images[0].double())
                for module in network.modules():
                    if isinstance(module, nn.BatchNorm2d | Dropout):
                        module.eval()

    samples = [scribbled_disc("one"), scribbled_disc("two", seed=1)]
    run = Still(samples, replace(SUMS, iterations=iterations), CLASSES, folder=folder, resume=True)
    return [progress.losses for progress in run]


def untrained() -> dict[str, torch.Tensor]:
    run = Run([scribbled_disc()], SUMS, CLASSES)
    run.begin()
    return run.model.state()


def main(still: Path, lively: Path) -> None:
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    with joined():
        losses = [*trained(SharedRun, still, 3), *trained(SharedRun, still, 5)]
        still.with_name(f"still-{rank}.json").write_text(json.dumps(losses))

        run = SharedRun([scribbled_disc()], LIVELY, CLASSES, folder=lively, validation=[dense_disc()])
        looks = 0
        for progress in run:
            looks += progress.validation is not None
            if first() and progress.iteration == 3:
                run.stop()
        if first():  # its model has the best weights, the other's the last
            run.load_checkpoint()
        values = [value for network in run.networks.values() for value in network.state_dict().values()]
        total = sum(value.double().abs().sum().item() for value in values)
        end = {"iteration": run.iteration, "sum": total, "looks": looks}
        lively.with_name(f"lively-{rank}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
