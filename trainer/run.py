"""Run: the one training loop, weak or supervised. `for progress in run:` trains; `run.model` is what it has learned.

B batch · C channels · K classes · every random number of iteration i comes from (seed, i), so a resume repeats nothing
"""

import copy
import csv
import dataclasses
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainer.batches import Ahead, Batches, Case
from trainer.config import Config, read_config
from trainer.files import read_tensors, replacing, write_tensors
from trainer.inference import autocast
from trainer.machine import accelerated, batch_thread, settled, side_by_side
from trainer.metrics import dice, radial_errors
from trainer.model import CHECKPOINT, CONFIG, ENSEMBLE, WEIGHTS, Model, without_absent
from trainer.networks import family
from trainer.networks.blocks import seed_dropout
from trainer.networks.pretrained import Report, load_official
from trainer.objectives import OBJECTIVES, WHOLE_OBJECTIVES, Batch, Logits, ema_update, new_teacher
from trainer.propagation import Teacher, propagating
from trainer.sample import IGNORE, Sample, check, check_grids, check_wholes, loaded
from trainer.stack import Part, Stack

Result = TypeVar("Result")
HISTORY, BEST = "history.csv", "best.safetensors"
RECENT, PICKY = 20, 4.0  # steps whose losses say what each network has learnt, and how much that counts
SPREADING = 0.5  # of a budget in minutes, after which no more strokes are spread: something has to learn
LEAVE = 1.0  # seconds that python takes to start and to go, which no clock of ours sees


@dataclass(frozen=True)
class Progress:
    """What the loop yields after each step; plain values, so that they may cross to another thread or process."""

    iteration: int  # finished steps; 0 while the strokes are being propagated
    losses: dict[str, float]  # network -> loss; empty at iteration 0
    seconds: float  # since the run began
    fraction: float  # 0..1 of the budget
    rate: float  # steps per second; 0 where it is not known yet
    remaining: float | None  # seconds to go, an estimate; None where it is not known, as while one network leads
    stage: str = "training"  # or "propagation"
    validation: float | None = None  # of the ensemble, where it was just measured: mean foreground Dice, accuracy, or
    # for landmarks the mean distance in mm, negative: more is better


class Run:
    """Train networks on samples. Nothing happens before the first `next`; the model is usable between two steps.

    `channels` names those of the images ("CT" is planned for as such); `folder` receives checkpoints, history.csv and
    config.json; `validation` holds dense samples whose Dice picks the weights to keep; `start` is a model to go on
    from; `started` is the time.monotonic() that a budget in minutes counts from, by default the first `next`; with
    `resume` the run goes on from the folder's checkpoint. ValueError where samples or config cannot work.
    """

    patience = 3.0  # new strokes wait for so many times as long as taking up the ones before took
    meanwhile = 1.0  # and so does the next image whose strokes are still to be spread: what is there is learnt from

    def __init__(
        self,
        samples: Sequence[Sample],
        config: Config,
        classes: Sequence[str],
        *,
        channels: Sequence[str] = (),
        folder: Path | str | None = None,
        validation: Sequence[Sample] = (),
        start: Model | None = None,
        started: float | None = None,
        resume: bool = False,
    ) -> None:
        self.config, self.classes = config.checked(), tuple(classes)
        self.samples, self.validation = list(samples), list(validation)
        self.channels = tuple(channels) or tuple(f"channel {c}" for c in range(self.samples[0].image.shape[0]))
        self.folder = None if folder is None else Path(folder)
        self.start, self.started, self.resume = start, started, resume
        check(self.samples, self.classes, config.task)
        check_grids([self.samples[0], *self.validation])
        if self.validation and config.task != "segmentation":
            check_wholes(self.validation, self.classes, config.task)
        self.objective = (OBJECTIVES | WHOLE_OBJECTIVES)[config.objective]
        self.unspread: set[str] = set()  # samples whose strokes there was no time to spread
        self.teachers: dict[str, np.ndarray] = {}  # sample name -> float16 (K, *space), the propagated strokes
        self.parts: dict[str, Part | None] = {}  # sample name -> where in its stack these are
        self._cases: dict[str, tuple[Sample, Case]] = {}  # sample name -> what was made of which sample
        self.reports: dict[str, Report] = {}  # network -> what it took from a pretrained checkpoint
        self.model: Model | None = None
        self.iteration = 0
        self._stopped = False
        self._going = threading.Event()
        self._going.set()
        self._fresh: deque[list[Sample]] = deque(maxlen=1)  # new strokes, from another thread
        self._busy_until = 0.0  # time.monotonic() before which newer ones have to wait
        self._earlier = 0.0  # seconds trained before a resume
        self._best = -math.inf

    def stop(self) -> None:
        """End kindly after the current step; from any thread. The model stays."""
        self._stopped = True
        self._going.set()

    def pause(self) -> None:
        """Wait after the current step, with the clock; from any thread, until `go_on` or `stop`."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def update(self, samples: Sequence[Sample]) -> None:
        """Go on with these samples from the next step; from any thread. ValueError where they cannot be used."""
        samples = list(samples)
        check(samples, self.classes, self.config.task, self.samples)
        self._fresh.append(samples)

    def __iter__(self) -> Iterator[Progress]:
        self.begin()
        with side_by_side(self.config) as self._map, batch_thread(self.config) as self._pool:
            batches = yield from self.renewed()
            while not self.finished:
                if (self._fresh or not self.all_taken) and time.monotonic() >= self._busy_until:
                    batches = yield from self.renewed()
                self.learning = self.learners()
                losses = self.step(batches[self.iteration])
                values = finite(dict(zip(self.learning, losses.tolist(), strict=True)), self.iteration)
                self.iteration += 1
                yield self.record(values)
                self.wait()
            self.finish()

    def wait(self) -> None:
        """While the run is paused; that time is not of its budget."""
        begun = time.monotonic()
        if not self._going.wait(0):
            self._going.wait()
            self.started += time.monotonic() - begun
            self._last_step = time.monotonic()

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step of all that are learning; the loss of each, (n,) on the device: nothing here waits for it.

        The networks meet only in the objective: down to the logits the gradient is common, from there each goes its
        own way, so that they can run side by side. A network whose gradient is not finite stays as it is, and its loss
        says so.
        """
        config, progress = self.config, self.fraction
        batch = Batch(*(part if part is None else part.to(config.device, non_blocking=True) for part in batch))
        outputs = self.each(lambda name: self.forward(name, batch.image))
        logits = {name: leaf(output) for name, output in outputs.items()}  # (B, K, *space), or a list of scales
        losses = self.losses(logits, batch, progress)
        sum(losses.values()).backward()
        norms = self.each(lambda name: self.descend(name, outputs[name], logits[name], progress))
        values = [loss.detach().where(norms[name].isfinite(), math.nan) for name, loss in losses.items()]
        return torch.stack(values)

    def losses(self, logits: Logits, batch: Batch, progress: float) -> dict[str, Tensor]:
        """What the objective says of each network; first its mean teacher looks at the batch, where it has one."""
        rng = np.random.default_rng([self.config.seed, self.iteration, 2])
        mix = self.objective.mix(len(logits), rng)
        teachers = {}
        if self.objective.mean_teacher is not None:
            with autocast(self.config, batch.image.device):
                views = {name: self.objective.mean_teacher(self.averages[name], batch, rng) for name in logits}
            teachers = {"teachers": views}
        return self.objective.loss(logits, batch, self.model.config, mix, progress, **teachers)

    def learners(self) -> list[str]:
        """The networks that learn now: all, or the first alone as long as it has the lead. Once all have learnt, here
        or in the model that the run starts from, nobody leads."""
        if self._ready is None and self.all_taken:
            self._ready = self.fraction
        until = 1.0 if self._ready is None else self._ready + self.config.lead * (1 - self._ready)
        leads = not self._begun_with and not all(self.steps.values()) and self.fraction < until
        return list(self.networks)[: 1 if leads else None]

    def each(self, work: Callable[[str], Result]) -> dict[str, Result]:
        return dict(zip(self.learning, self._map(work, self.learning), strict=True))

    def forward(self, name: str, image: Tensor) -> Tensor | list[Tensor]:
        if self.config.speedup != "graphs":  # their dropout draws from the device's generator
            seed_dropout(self.networks[name], self.config.seed * 1_000_003 + self.iteration)
        with autocast(self.config, image.device):
            return self.calls[name](image)

    def descend(
        self, name: str, output: Tensor | list[Tensor], logits: Tensor | list[Tensor], progress: float
    ) -> Tensor:
        """One step of a network along the gradient of its output; the norm of its gradient."""
        network, optimiser = self.networks[name], self.optimisers[name]
        self.set_rate(name, progress)
        optimiser.zero_grad()
        self.backpropagate(name, output, logits)
        if self.steps[name] < self.config.frozen:
            freeze(network)
        limit = math.inf if self.config.clip is None else self.config.clip
        norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
        optimiser.found_inf = (~norm.isfinite()).float()  # the fused optimisers then leave the weights alone
        optimiser.step()
        if name in self.averages:
            ema_update(self.averages[name], network, self.steps[name])
        return norm

    def backpropagate(self, name: str, output: Tensor | list[Tensor], logits: Tensor | list[Tensor]) -> None:
        """The gradient of a network, from that of its output."""
        pairs = zip(flat(output), flat(logits), strict=True)
        asked = [(out, leaf.grad) for out, leaf in pairs if leaf.grad is not None]
        torch.autograd.backward(*zip(*asked, strict=True))

    def set_rate(self, name: str, progress: float) -> None:
        """Decay of every network's rate, but for that of a UNet among others where the config says so."""
        forgotten = self.config.objective == "cross_teaching" and family(name) == "unet"
        decays = self.config.unet_rate_decays or not forgotten
        rate = learning_rate(self.config, progress, self.iteration) if decays else self.config.learning_rate
        for group in self.optimisers[name].param_groups:
            group["lr"] = rate

    # ---- time ----

    @property
    def minutes(self) -> float:
        """Of the budget; 0 where it is of iterations, as spreading strokes takes none of these."""
        return self.config.minutes or 0.0

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """0..1 of the budget."""
        if self.config.iterations is not None:
            return min(1.0, self.iteration / self.config.iterations)
        return min(1.0, self.seconds / (60 * self.config.minutes))

    @property
    def finished(self) -> bool:
        """Stopped, or no time for another step and for saving."""
        if self._stopped or not self.iteration:  # one step at least: there would be nothing to save
            return self._stopped
        if self.config.iterations is not None:
            return self.iteration >= self.config.iterations
        ending = self._step_seconds + self._look_seconds + 2 * self._save_seconds + LEAVE
        return self.seconds + ending >= 60 * self.config.minutes

    @property
    def late(self) -> bool:
        """Whether so much time is gone before all strokes are spread that the rest is for learning. A run that goes
        on has to spread them again, and counts from there."""
        if not self.minutes or self._ready is not None:
            return False
        return self.seconds - self._earlier > SPREADING * (60 * self.minutes - self._earlier)

    @property
    def all_taken(self) -> bool:
        """Whether every sample is learnt from by now."""
        return self._taken >= len(self.samples)

    @property
    def shortfall(self) -> str:
        """What there was no time for; "" where there is nothing."""
        many = f"{len(self.unspread)} of {len(self.samples)} images"
        spent = f"the strokes of {many} were not spread, as half of the time was gone; give more minutes to spread all"
        return spent if self.unspread else ""

    # ---- beginning ----

    def begin(self) -> None:
        """Settle the machine, build the networks, and take up the checkpoint of a run that goes on."""
        if self.model is not None:
            raise RuntimeError("a Run trains once; make a new one, with resume=True to go on from its folder")
        self.started = time.monotonic() if self.started is None else self.started
        self.config = settled(self.config)
        if self.config.unplanned:
            from trainer.plan import planned

            self.config = planned(self.config, list(map(loaded, self.samples)), self.classes, self.channels)
        channels = 1 if self.config.colours == "mean" else self.samples[0].image.shape[0]
        self.model = Model.new(self.config, self.classes, channels)
        if self.start is not None:
            take_up(self.start, self.model)
        elif self.config.pretrained and not self.goes_on:
            self.reports = load_official(self.model.networks, self.config)
        self.networks = copy.deepcopy(self.model.networks) if self.config.averaging else self.model.networks
        self.objective.check(self.networks, self.config)
        self.optimisers = {name: new_optimiser(net, self.config) for name, net in self.networks.items()}
        self.averages = {name: new_teacher(net) for name, net in self.networks.items() if self.objective.mean_teacher}
        self.calls = {name: accelerated(net, self.config) for name, net in self.networks.items()}
        for network in self.networks.values():
            network.train()
        self._history: list[list[float]] = []
        self.steps = dict.fromkeys(self.networks, 0)  # of each network
        self._ready: float | None = None  # fraction of the budget that was gone when all samples were learnt from
        self._taken = 0  # samples that are learnt from by now
        self._begun_with = self.start is not None and len(self.start.shares) == len(self.networks)  # all have learnt
        self._step_seconds = self._save_seconds = self._look_seconds = 0.0
        self._last_step = self._last_save = time.monotonic()
        if self.folder is not None:
            self.open_folder()

    def batches(self) -> Generator[Progress, None, Batches | Ahead]:
        """Prepare the samples, a Progress whenever more strokes are propagated; returns the batches by iteration."""
        cases = []
        for sample in self.in_turn():
            case = yield from self.prepared(sample)
            cases.append(case)
        self._taken = len(cases)
        self._last_step = time.monotonic()
        batches = Batches(cases, self.config)
        return batches if self._pool is None else Ahead(batches, self._pool, self.config.device.startswith("cuda"))

    def in_turn(self) -> Iterator[Sample]:
        """What is learnt from now: as before, and up to one more image whose strokes are to be spread, which takes
        seconds. All at once where steps are counted, as these are to be the same on any machine."""
        for place, sample in enumerate(self.samples):
            yield sample
            spread = self.config.propagation and (sample.target != IGNORE).any()
            if place >= self._taken and spread and self.minutes and not self.late:
                return

    def renewed(self) -> Generator[Progress, None, Batches | Ahead]:
        """The batches of the newest strokes, or of one more image. The next ones wait for a while (`patience`,
        `meanwhile`): who draws on and on wants to see it learn."""
        begun, wait = time.monotonic(), self.patience if self._fresh else self.meanwhile
        if self._fresh:
            self.samples = self._fresh.pop()
        batches = yield from self.batches()
        self._busy_until = self._last_step + wait * (self._last_step - begun)
        return batches

    def prepared(self, sample: Sample) -> Generator[Progress, None, Case]:
        """The sample as tensors; what has not changed stays."""
        before, case = self._cases.get(sample.name, (None, None))
        if before is not None and unchanged(before, sample):
            return case
        read = loaded(sample)  # a part of a large image is held in memory only as the case that is made of it
        teacher: Teacher | None = None
        for so_far in self.taught(read):
            teacher = so_far
            yield self.progress({}, stage="propagation")
        case = Case.of(read, teacher, self.config)
        self._cases[sample.name] = sample, case
        return case

    def taught(self, sample: Sample) -> Iterator[Teacher]:
        """What its strokes say: of the slices that were drawn on, then of all; nothing where that is not wanted. What
        was spread before stays where further strokes are stopped on their way."""
        if not self.config.propagation:
            return
        first = sample.name not in self.teachers
        self.unspread.discard(sample.name)
        for teacher in propagating(sample, len(self.classes), lambda: self.cut_short(sample.name, first)):
            if self._stopped and not first:
                return
            teacher = knowing_absent(teacher, sample.absent)
            self.parts[sample.name] = sample.part  # first: who sees the new teacher looks here
            self.teachers[sample.name] = teacher.probabilities
            yield teacher

    def cut_short(self, name: str, first: bool) -> bool:
        """Whether spreading its strokes ends here; that there is no time for the first ones is noted."""
        if late := first and self.late:
            self.unspread.add(name)
        return self._stopped or late

    # ---- along the way ----

    def record(self, losses: dict[str, float]) -> Progress:
        """Note a step, and write a checkpoint or look at the validation images when it is time."""
        self.answer_with(losses)
        now = time.monotonic()
        step = now - self._last_step
        self._step_seconds = step if not self._step_seconds else 0.9 * self._step_seconds + 0.1 * step
        each = (losses.get(name, math.nan) for name in self.networks)
        self.note([self.iteration, round(self.seconds, 3), *each])
        self.weigh()
        score = None
        if self.validation and self.iteration % self.config.validate_every == 0:
            score = self.validate()
        if self.folder is not None and now - self._last_save >= self.config.checkpoint_seconds:
            self.save_checkpoint()
        self._last_step = time.monotonic()
        return self.progress(losses, validation=score)

    def answer_with(self, names: Iterable[str]) -> None:
        """Let the model answer with what these networks have become, or with the mean of what they were of late."""
        for name in names if self.config.averaging else ():
            keep = min(self.config.averaging, 1 - 1 / (self.steps[name] + 1))  # the first step is all there is then
            follow(self.model.networks[name], self.networks[name], keep)

    def note(self, row: list[float]) -> None:
        """Of a step in the history: iteration, seconds, and the loss of each network, NaN where it does not learn."""
        self._history.append(row)
        for name, loss in zip(self.networks, row[2:], strict=True):
            self.steps[name] += not math.isnan(loss)

    def weigh(self) -> None:
        """Give each network its share in the ensemble: the less it lost of late, the more; none before it learns."""
        lost = np.ma.masked_invalid(np.array(self._history[-RECENT:])[:, 2:]).mean(0).filled(np.inf)  # (networks,)
        heard = np.exp(PICKY * (lost.min() - lost))
        self.model.config = dataclasses.replace(self.model.config, shares=tuple((heard / heard.sum()).tolist()))

    def progress(self, losses: dict[str, float], stage: str = "training", validation: float | None = None) -> Progress:
        rate = 1 / self._step_seconds if self._step_seconds else 0.0
        if self.config.iterations is None:
            remaining = max(0.0, 60 * self.config.minutes - self.seconds)
        elif rate and len(self.learning) == len(self.networks):  # else steps will take longer
            remaining = (self.config.iterations - self.iteration) / rate
        else:
            remaining = None
        return Progress(self.iteration, losses, self.seconds, self.fraction, rate, remaining, stage, validation)

    def validate(self) -> float:
        """The ensemble's score over the validation images, as in Progress; the best weights are kept."""
        begun = time.monotonic()
        score = float(np.mean([s for sample in self.validation for s in scores(self.model, sample)]))
        if score > self._best:
            self._best, self._best_state = score, {k: v.detach().clone() for k, v in self.model.state().items()}
            if self.folder is not None:
                write_tensors(self.folder / BEST, self._best_state, {"score": repr(score)})
        self._look_seconds = time.monotonic() - begun
        return score

    def finish(self) -> None:
        """A last checkpoint, the best weights where there was a validation, and the model on disk."""
        if not self.iteration:  # stopped before anything was learnt
            return
        if self.folder is not None:
            self.save_checkpoint()
        if self.validation and not self._stopped and self.iteration % self.config.validate_every:
            self.validate()
        if self._best > -math.inf:
            self.model.load_state(self._best_state, Path(BEST))
        if self.folder is not None:
            self.model.save(self.folder)

    # ---- the folder ----

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.resume and self.folder is not None and (self.folder / CHECKPOINT).is_file()

    def open_folder(self) -> None:
        """A new folder of a run, or the state of the one that goes on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.goes_on:
            self.check_alike()
            self.load_checkpoint()
        elif self.resume and (self.folder / WEIGHTS).is_file():
            raise ValueError(f"{self.folder} has a model but no {CHECKPOINT} to go on from; train into a new folder")
        self.model.save_config(self.folder)
        if self.start is not None and not self.goes_on:  # who resumes a run that was killed early does not name it
            self.save_checkpoint()

    def check_alike(self) -> None:
        """ValueError where the folder's run cannot go on as this one."""
        config, classes, channels = read_config(self.folder / CONFIG)
        pairs = {
            name: (getattr(config, name), getattr(self.config, name))
            for name in ("networks", "size", "optimiser", "objective", "averaging")
        }
        pairs |= {"classes": (classes, self.classes), "channels": (channels, self.model.channels)}
        for name, (before, now) in pairs.items():
            if before != now:
                raise ValueError(f"{self.folder} was trained with {name} {before}, not {now}; train into a new folder")

    @property
    def beside(self) -> dict[str, dict[str, nn.Module]]:
        """What a checkpoint holds beside the model, by folder: mean teachers, and what learns where a mean answers."""
        return {"average": self.averages} | ({"learning": self.networks} if self.config.averaging else {})

    def save_checkpoint(self) -> None:
        """Weights, optimisers and history up to this step; the file is whole or the one before.

        The weights of a run that had ended before it went on are older, and go.
        """
        begun = time.monotonic()
        state = self.model.state()
        for folder, networks in self.beside.items():
            for name, network in networks.items():
                state |= {f"{folder}/{name}/{key}": value for key, value in network.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                state |= {f"optimiser/{name}/{index}/{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        ready = None if self._ready is None else self._ready * self.minutes * 60  # seconds: a budget may grow
        note = {"iteration": self.iteration, "seconds": self.seconds, "ready": ready, "started": self._begun_with}
        self.write_history()
        write_tensors(self.folder / CHECKPOINT, state, {name: json.dumps(value) for name, value in note.items()})
        (self.folder / WEIGHTS).unlink(missing_ok=True)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - begun

    def load_checkpoint(self) -> None:
        file = self.folder / CHECKPOINT
        state, note = read_tensors(file)
        note = {name: json.loads(value) for name, value in note.items()}
        self.iteration, self._earlier = note["iteration"], note["seconds"]
        if note["ready"] is not None:
            self._ready = min(1.0, note["ready"] / (60 * self.minutes)) if self.minutes else 0.0
        self._begun_with = note["started"]
        self.model.load_state(state, file)
        for folder, networks in self.beside.items():
            for name, network in networks.items():
                load_network(network, state, f"{folder}/{name}/")
        for name, optimiser in self.optimisers.items():
            load_optimiser(optimiser, state, f"optimiser/{name}/")
        for row in read_history(self.folder / HISTORY, self.iteration):
            self.note(row)
        if self.validation and (self.folder / BEST).is_file():
            self._best_state, best = read_tensors(self.folder / BEST)
            self._best = float(best["score"])

    def write_history(self) -> None:
        """One row a step: iteration, seconds, and the loss of each network."""
        with replacing(self.folder / HISTORY) as draft, draft.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["iteration", "seconds", *self.networks])
            rows.writerows(self._history)


def scores(model: Model, sample: Sample) -> list[float]:
    """What there is to average of a sample: Dice of each foreground class; or right or wrong; or -mm of each point."""
    if model.config.task == "classification":
        return [float(model.classify(sample.image, sample.spacing).argmax() == sample.label)]
    if model.config.task == "landmarks":
        errors = radial_errors(model.locate(sample.image, sample.spacing), sample.landmarks)
        return (-errors[~np.isnan(errors)]).tolist()
    labels = model.predict(sample.image, sample.spacing, ENSEMBLE)
    each = [dice(labels == c, sample.target == c) for c in range(1, len(model.classes))]
    return [score for score in each if score is not None]


def knowing_absent(teacher: Teacher, absent: Sequence[tuple[int, int]]) -> Teacher:
    """The teacher without the classes that are known to be absent from a slice; sure where only background is left."""
    if not absent:
        return teacher
    P = without_absent(teacher.probabilities, absent).astype(np.float16)
    weight = teacher.confidence.copy()
    planes = weight if weight.ndim == 3 else weight[None]  # (D, H, W)
    for z in {z for z, _ in absent}:
        if all((z, c) in absent for c in range(1, len(P))):
            planes[z] = 1
    return Teacher(P, weight)


def unchanged(before: Sample, now: Sample) -> bool:
    """Whether the two say the same of the same image."""
    points = (before.landmarks is None) == (now.landmarks is None) and (
        now.landmarks is None or np.array_equal(before.landmarks, now.landmarks, equal_nan=True)
    )
    image = before.image.same_as(now.image) if isinstance(before.image, Stack) else before.image is now.image
    same = image and (before.label, before.absent, before.part) == (now.label, now.absent, now.part)
    return same and points and np.array_equal(before.target, now.target)


def take_up(start: Model, model: Model) -> None:
    """Give a new model the weights of another; ValueError where they are of another kind."""
    pairs = {
        "networks": (start.names, model.names),
        "size": (start.config.size, model.config.size),
        "classes": (start.classes, model.classes),
        "channels": (start.channels, model.channels),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            raise ValueError(f"the model to start from has the {what} {before}, this training {now}; choose another")
    model.load_state(start.state(), Path("the model to start from"))


def learning_rate(config: Config, progress: float, iteration: int) -> float:
    """Of a step, `progress` 0..1 of the run."""
    if config.schedule == "cosine":
        t = iteration / config.period if config.period else progress
        return config.final_rate + (config.learning_rate - config.final_rate) * (1 + math.cos(math.pi * t)) / 2
    return config.learning_rate * ((1 - progress) ** 0.9 if config.schedule == "poly" else 1.0)


def new_optimiser(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    parameters, shared = list(network.parameters()), {"weight_decay": config.weight_decay, "fused": True}
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, **shared
        )
    return torch.optim.AdamW(parameters, config.learning_rate, **shared)


def freeze(network: nn.Module) -> None:
    """Take the gradients of Swin-UMamba's encoder away, but for those of its patch embedding."""
    for name, parameter in network.named_parameters():
        if name.startswith("vssm_encoder.") and "patch_embed" not in name:
            parameter.grad = None


def leaf(output: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """Where the common part of the gradient ends."""
    return [leaf(each) for each in output] if isinstance(output, list) else output.detach().requires_grad_()


def flat(output: Tensor | list[Tensor]) -> list[Tensor]:
    return output if isinstance(output, list) else [output]


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Weights and statistics of a running mean: so much of itself, the rest the network's; counts are the network's."""
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        slow.lerp_(fast, 1 - keep) if slow.is_floating_point() else slow.copy_(fast)


def load_network(network: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """From the tensors "<prefix><key>" of a checkpoint."""
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Tensor], prefix: str) -> None:
    """From the tensors "<prefix><index>/<key>" of a checkpoint."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    values: dict[int, dict[str, Tensor]] = {}
    for name in filter(lambda name: name.startswith(prefix), state):
        index, key = name.removeprefix(prefix).split("/")
        values.setdefault(int(index), {})[key] = laid_out_like(parameters[int(index)], state[name])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": values})


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the parameter's memory format: the fused optimisers walk through both side by side."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def finite(losses: dict[str, float], iteration: int) -> dict[str, float]:
    """These losses; FloatingPointError where one is not a number."""
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of {name} became {loss} at iteration {iteration}; "
                "lower the learning rate, or use --dtype float32"
            )
    return losses


def read_history(file: Path, until: int) -> list[list[float]]:
    """Rows up to an iteration: what was written after the checkpoint is trained again. ValueError where the file is not
    as it was written, since what each network has learnt of late is in it."""
    try:
        with file.open(newline="") as lines:
            names, *rows = csv.reader(lines)
        numbers = [[float(value) for value in row] for row in rows]
        if any(len(row) != len(names) for row in numbers):
            raise ValueError("a row is cut off")
    except (OSError, ValueError) as e:
        raise ValueError(f"{file} is needed to go on, and is not as the run wrote it: {e}; bring it back") from e
    return [[int(row[0]), *row[1:]] for row in numbers if row[0] <= until]
