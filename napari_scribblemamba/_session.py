"""Session: what the plugin is doing (idle, training, predicting, ...); owns the Run and the Model. No Qt.

Work is a generator of events that `run_in_background` drains in a thread; its callbacks come back on the caller's
thread. Every piece of work has a generation number: what arrives late from an older one is dropped. So Stop is answered
at once, whatever the thread is in the middle of; what is asked for next begins when that thread has ended.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from psygnal import Signal

from napari_scribblemamba._batch import Batch, labelling
from napari_scribblemamba._guide import Guidance, Guide
from napari_scribblemamba._model_export import exporting
from napari_scribblemamba._predictor import Prediction, SlicePredictor, first_overlays, pieces_of
from trainer.sample import IGNORE
from trainer.stack import Stack

if TYPE_CHECKING:
    from trainer import Config, Model, Progress, Run, Sample
    from trainer.labelling import Step
    from trainer.likeness import Likeness, Settled
    from trainer.stack import Part

Result = TypeVar("Result")
State = Literal["idle", "training", "paused", "predicting", "saving", "loading", "labelling", "exporting"]
LOOK_EVERY = 0.5  # seconds between two predictions while training
LOOK_SHARE = 0.2  # of the time, at most, goes into looking instead of learning


@dataclass(eq=False)
class Training:
    """One press of Train: its run, once there is one, and whether Stop was pressed."""

    run: Run | None = None
    stopped: bool = False
    newer: list[Sample] | None = None  # what was drawn since

    def hold(self, run: Run) -> None:
        """In the thread: this is the run. It ends at once where Stop came first, and takes up what came since."""
        self.run = run
        if self.stopped:
            run.stop()
        elif self.newer is not None:
            run.update(self.newer)

    def update(self, samples: Sequence[Sample]) -> None:
        """Go on with these; ValueError from the run, once there is one."""
        self.newer = list(samples)  # first: `hold` looks here after it has set the run
        if self.run is not None:
            self.run.update(samples)

    def stop(self) -> None:
        self.stopped = True
        if self.run is not None:
            self.run.stop()

    @property
    def learnt(self) -> Model | None:
        return self.run.model if self.run is not None and self.run.iteration else None


def make_run(samples: Sequence[Sample], config: Config, classes: Sequence[str], start: Model | None = None) -> Run:
    from trainer import Run  # imports torch: seconds, so only here, in the background

    return Run(samples, config, classes, start=start)


def rehearsal(threads: int) -> Generator[Prediction | Guidance | Progress, None, None]:
    """In the background: a training of one step on a toy image, and a look at it.

    What it imports, measures and compiles, seconds of work, the first Train need not wait for.
    """
    import torch

    from trainer import IGNORE, Config, Run, Sample

    torch.set_num_threads(threads)  # with all cores busy the window stutters
    y = np.indices((3, 48, 48))[1]
    target = np.full(y.shape, IGNORE, np.uint8)
    target[1, 8:40:16, 8:16], target[1, 16:48:16, 32:40] = 0, 1  # two strokes of each class, on one slice
    sample = Sample((y + y // 8 % 2 * 40).astype(np.float32)[None], target, (1.0,) * 3, "toy")
    run = Run([sample], Config(iterations=1, patch=(32, 32), batch=2, threads=threads), ("background", "toy"))
    yield from run
    guide = Guide({"toy": target})
    yield SlicePredictor(run.model, run.teachers, run.parts, [sample], guide=guide)(sample, 1)
    yield guide.guidance([sample])


def load_model(folder: Path) -> Model:
    from trainer import Model

    return Model.load(folder)


class Session:
    """One person's work on some images; `run_in_background` is that of `_worker.py`, or a test's."""

    state_changed = Signal(str)
    progressed = Signal(object)  # Progress
    predicted = Signal(object)  # Prediction
    guided = Signal(object)  # Guidance
    model_changed = Signal(object)  # Model
    settled = Signal(object)  # Config of a training that has begun: what its run settled on
    measured = Signal(object, float)  # Config, seconds that a training with it takes here
    saved = Signal(object)  # Path
    loaded = Signal(object)  # Path of the run that the model at hand came from
    stepped = Signal(float)  # how much of a folder is labelled, or of a model exported
    labelled = Signal(object)  # Batch, whether it went to its end or was stopped
    failed = Signal(Exception)
    broken = Signal(Exception)  # the same, where the work has ended by it

    def __init__(
        self,
        run_in_background: Callable[..., None],
        make_run: Callable[..., Run] = make_run,
        load_model: Callable[[Path], Model] = load_model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "idle"
        self.model: Model | None = None
        self.visible: tuple[str, int | None] = (
            "",
            None,
        )  # (sample, slice) in view; set by the window, read in the thread
        self._training: Training | None = None  # the one that runs
        self._ending: Training | None = None  # the one that was stopped, and whose thread has not ended yet
        self._waiting: Callable[[], None] | None = None  # begins what was asked for meanwhile
        self._samples: list[Sample] = []  # that the run learns from
        self._beside: list[Sample] = []  # that are looked at, too, where they come into view
        self._looked_at: set[str] = set()  # names of samples
        self._teachers: dict[str, np.ndarray] = {}  # sample name -> its propagated strokes (K, *space)
        self._parts: dict[str, Part | None] = {}  # sample name -> where in its stack these are
        self._likeness: Likeness | Settled | None = None  # what images without strokes look like
        self._guide = Guide()  # of the images that are trained on
        self._overlaps: dict[str, dict[int | None, np.ndarray]] = {}  # of their slices, as SlicePredictor notes them
        self._batch: Batch | None = None  # the folder that is being labelled
        self._told = False  # what the run has settled on
        self._generation = 0
        self._run_in_background, self._make_run, self._load_model = run_in_background, make_run, load_model
        self._clock = clock

    # what the person asks for ---------------------------------------------------------------------------------------

    def train(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        config: Config,
        held: Mapping[str, np.ndarray] | None = None,
        start: Model | None = None,
        beside: Sequence[Sample] = (),
    ) -> None:
        """Train on these samples, then predict them whole. Errors, those of the checks too, arrive as `failed`.

        held: {sample: uint8 (*space)}, strokes to judge the networks by; start: a model to go on from; beside: samples
        without strokes, which are looked at where they are in view
        """

        def done(model: Model | None) -> None:
            self._finish()
            if model is not None:
                self._set_model(model)
                self.predict([*self._samples, *(each for each in self._beside if each.name in self._looked_at)])

        self.check_free()
        self._samples, self._beside, self._looked_at, self._told = list(samples), list(beside), set(), False
        self._guide, self._overlaps = Guide(held), {}
        training = Training()
        self._begin("training", self._learning(training, samples, classes, config, start), done, training=training)

    def pause(self) -> None:
        """Let the training wait after the current step, clock and all, until `resume` or `stop`."""
        if self.state == "training" and self._run is not None:
            self._run.pause()
            self._set_state("paused")

    def resume(self) -> None:
        if self.state == "paused":
            self._run.go_on()
            self._set_state("training")

    def update(self, samples: Sequence[Sample], held: Mapping[str, np.ndarray] | None = None) -> None:
        """Go on training with these strokes. ValueError where they cannot be used; then the ones before stay."""
        if self.state in ("training", "paused"):
            self._training.update(samples)
            names = {sample.name for sample in samples}
            self._samples = list(samples)
            self._beside = [sample for sample in self._beside if sample.name not in names]
            self._guide.held = dict(held or {})

    @property
    def samples(self) -> list[Sample]:
        """What the run learns from."""
        return list(self._samples)

    @property
    def known(self) -> list[Sample]:
        """These, and those that can be learnt from as soon as somebody draws on them."""
        return [*self._samples, *self._beside]

    def _in_sight(self) -> list[Sample]:
        """What is learnt from, and of the others the one in view."""
        return [*self._samples, *(sample for sample in self._beside if sample.name == self.visible[0])]

    def measure(self, config: Config) -> None:
        """Try how fast networks of this size train here, in the background; the answer arrives as `measured`.

        Only where config says how many steps on what patch of a slice; for nothing else can it be foretold.
        """
        if config.iterations is None or len(config.patch) != 2:
            raise ValueError("how long this takes depends on minutes, or on the images")
        generation = self._generation

        def done(seconds: float | None) -> None:
            if seconds is not None and generation == self._generation:
                self.measured.emit(config, seconds)

        self._run_in_background(
            self._measuring(config, generation),
            on_event=lambda _: None,
            on_done=done,
            on_error=self.failed.emit,
        )

    def stop(self) -> None:
        """End the training, its model stays; or end what else can be. Idle at once: the thread ends on its own."""
        if self.state not in ("training", "paused", "predicting", "labelling", "exporting"):
            return
        self._generation += 1
        training, self._training, self._waiting = self._training, None, None
        if training is not None:
            training.stop()
            self._ending = self._ending or training  # that of an earlier one, where this one had to wait for it
        self._set_state("idle")
        if training is not None and (model := training.learnt) is not None:
            self._set_model(model)
        self._tell_batch()

    def predict(self, samples: Sequence[Sample], probabilities: str | None = None) -> None:
        """Every slice of the samples, the nearest to the visible one first; with the probabilities of one network.

        Of a sample that is a part of a stack too large for memory, the slices of the part and the visible one, and of
        these the box of the part.
        """
        model = self._model_at_hand()
        events = self._predicting(model, samples, self._generation + 1, probabilities)
        self._begin("predicting", events, lambda _: self._finish())

    def look(self) -> None:
        """The visible slice of what was trained on, alone; nothing while other work is under way."""
        seen = [sample for sample in self.known if sample.name == self.visible[0]]
        if self.state == "idle" and self.model is not None and seen:
            events = self._looking(self.model, seen[0], self.visible[1])
            self._begin("predicting", events, lambda _: self._finish())

    def label(self, images: Path, out: Path) -> None:
        """Every image of a folder; how far it is arrives as `stepped`, what became of them as `labelled`."""
        events = self._while_current(labelling(self._model_at_hand(), images, out))
        self.check_free()
        self._batch = batch = Batch(out)

        def take(step: Step) -> None:
            batch.take(step)
            self.stepped.emit(step.fraction)

        def done(_: None) -> None:
            self._finish()
            self._tell_batch()

        self._begin("labelling", events, done, take)

    def export_model(self, folder: Path, form: str) -> None:
        """Write the model for other programs, "onnx" or "bioimageio"; see `saved` and `failed`."""
        events = self._while_current(exporting(self._model_at_hand(), folder, form))

        def done(_: None) -> None:
            self._finish()
            self.saved.emit(folder)

        self._begin("exporting", events, done, self.stepped.emit)

    def save(self, folder: Path) -> None:
        """Write the model as a run folder."""
        if self.model is None:
            raise ValueError("there is no model yet; train one before saving it")
        self._write(folder, self.model.save)

    def export(self, folder: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
        """Write images and strokes as a dataset that `python -m trainer.fit` (and nnU-Net) reads: a case for each
        volume of a series, and for each piece of a large stack that is learnt from."""
        from trainer.dataset import save_dataset
        from trainer.sample import check_strokes, volumes

        def write(folder: Path) -> None:
            check_strokes(samples, classes)
            save_dataset(folder, [volume for sample in samples for volume in volumes(sample)], classes)

        self._write(folder, write)

    def load(self, folder: Path) -> None:
        """Take up the model of a run folder."""

        def done(model: Model) -> None:
            self._finish()
            self._teachers, self._parts, self._overlaps, self._likeness = {}, {}, {}, None
            self._samples, self._beside = [], []
            self._set_model(model)
            self.loaded.emit(folder)

        self._begin("loading", once(lambda: self._load_model(folder)), done)

    def close(self) -> None:
        """The window goes away: end everything, tell nobody."""
        self._generation += 1
        for training in filter(None, (self._training, self._ending)):
            training.stop()
        self._training = self._ending = self._waiting = None

    @property
    def _run(self) -> Run | None:
        return None if self._training is None else self._training.run

    def check_free(self) -> None:
        """ValueError while work is under way that other work may not end."""
        if self.state not in ("idle", "predicting"):
            raise ValueError(f"still {self.state}; wait until it is done")

    # how it is done -------------------------------------------------------------------------------------------------

    def _learning(
        self,
        training: Training,
        samples: Sequence[Sample],
        classes: Sequence[str],
        config: Config,
        start: Model | None,
    ) -> Generator[Progress | Prediction | Guidance | Exception, None, Model | None]:
        """In the thread: train, and look at a slice now and then. Gives the model, None where nothing was learnt."""
        run = self._make_run(samples, config, classes, *([] if start is None else [start]))
        try:
            training.hold(run)
        except ValueError as error:  # strokes that came before there was a run to refuse them
            yield error
        if not training.stopped:
            with self._shown_by(run):
                yield from self._steps(training, run)
        return training.learnt

    @contextmanager
    def _shown_by(self, run: Run) -> Iterator[None]:
        """In the thread: what its strokes say is shown beside its networks, and afterwards, too, where it has learnt;
        else what belongs to the model before it comes back."""
        from trainer.likeness import Likeness  # imports torch: only here, in the background

        before, likeness = (self._teachers, self._parts, self._likeness), Likeness(run)
        self._teachers, self._parts, self._likeness = run.teachers, run.parts, likeness
        try:
            yield
        finally:
            if self._likeness is likeness:  # and not that of newer work
                if run.iteration:
                    self._likeness = likeness.settled(anew=bool(self._beside))  # which holds on to no images
                else:
                    self._teachers, self._parts, self._likeness = before

    def _steps(self, training: Training, run: Run) -> Iterator[Progress | Prediction | Guidance | Exception]:
        """In the thread: step after step, and a look now and then."""
        due, told = 0.0, False
        looks: Iterator[Prediction | Exception] | None = None
        shown: dict[str, np.ndarray] = {}
        for progress in run:
            if progress.iteration and progress.stage == "training" and run.shortfall and not told:
                told = True
                yield ValueError(run.shortfall)
            yield progress
            if progress.stage == "propagation":
                yield from first_overlays(run.teachers, run.parts, shown)
            elif self.state == "training" and not training.stopped and self._clock() >= due:
                looks = looks or self._looks(run)
                begun = self._clock()
                if (seen := next(looks, None)) is not None:
                    yield seen
                yield self._guide.guidance(self.known)
                due = begun + max(LOOK_EVERY, (self._clock() - begun) / LOOK_SHARE)

    def _measuring(self, config: Config, generation: int) -> Generator[None, None, float | None]:
        """In the thread: steps of one network after the other; None where newer work has begun meanwhile."""
        from trainer.doctor import seconds_a_step
        from trainer.machine import settled

        machine, step = settled(config), 0.0
        for index, network in enumerate(config.networks):
            if generation != self._generation:
                return None
            step += (1 - config.lead * (index > 0)) * seconds_a_step(network, config, machine)
            yield
        return step * config.iterations

    def _looks(self, run: Run) -> Iterator[Prediction | Exception]:
        """Without end: the slice in view every other time, else the longest unseen. One that cannot be read, or an
        image beside that cannot be predicted, is told once, and left out: the training can do without."""
        predict = self._predictor(run.model, self._guide)
        seen: dict[tuple[str, int | None], int] = {}
        broken: set[tuple[str, int | None]] = set()
        last = None
        for turn in itertools.count():
            # an update brings other strokes on the same images
            known = pieces_of(self._in_sight(), run.model.volumetric, self.visible)
            pieces = {(s.name, i): (s, i) for s, i in known if (s.name, i) not in broken}
            if not pieces:
                return
            nearest = min(pieces, key=lambda key: self._distance(*pieces[key]))
            oldest = min(pieces, key=lambda key: (seen.get(key, -1), self._distance(*pieces[key])))
            last = nearest if last != nearest else oldest
            seen[last] = turn
            self._looked_at.add(last[0])
            found = tried(predict, *pieces[last])
            if isinstance(found, Exception):
                on_disk = isinstance(pieces[last][0].image, Stack)  # other slices may well be readable
                broken |= {last} if on_disk else {key for key in pieces if key[0] == last[0]}
            yield found

    def _predicting(
        self, model: Model, samples: Sequence[Sample], generation: int, probabilities: str | None
    ) -> Generator[Prediction | Guidance | Exception, None, None]:
        """In the thread: every slice, what is in view first; ends early where newer work has begun. Of slices and
        images that cannot be predicted the first is told; ValueError where there is no other image."""
        guide = self._guide if all(sample in self.known for sample in samples) else Guide()
        predict = self._predictor(model, guide, probabilities)
        pieces = pieces_of(samples, model.volumetric, self.visible)
        total, whole = len(pieces), True
        while pieces and generation == self._generation:
            nearest = min(range(len(pieces)), key=lambda i: self._distance(*pieces[i]))
            piece = pieces.pop(nearest)
            found = tried(predict, *piece, 1 - len(pieces) / total, alone=len(samples) == 1)
            failed = isinstance(found, Exception)
            if whole or not failed:
                yield found
            whole = whole and not failed
        if generation == self._generation:
            yield guide.guidance(samples)

    def _looking(self, model: Model, sample: Sample, index: int | None) -> Generator[Prediction, None, None]:
        yield self._predictor(model, self._guide)(sample, index)

    def _predictor(self, model: Model, guide: Guide, probabilities: str | None = None) -> SlicePredictor:
        taught = self._teachers, self._parts, self.known
        return SlicePredictor(model, *taught, probabilities, guide, self._overlaps, self._likeness)

    def _distance(self, sample: Sample, index: int | None) -> float:
        """Slices between this one and the one in view."""
        name, visible = self.visible
        if sample.name != name:
            return math.inf
        return abs((index or 0) - (visible or 0))

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        def done(_: None) -> None:
            self._finish()
            self.saved.emit(folder)

        self._begin("saving", once(lambda: write(folder)), done)

    def _model_at_hand(self) -> Model:
        if self.model is None:
            raise ValueError("there is no model yet; train one or load a run")
        return self.model

    def _while_current(self, events: Iterator[Result]) -> Iterator[Result]:
        """In the thread: the same events, until the person has stopped this or begun something else."""
        generation = self._generation + 1  # that of the work which is about to begin
        return itertools.takewhile(lambda _: generation == self._generation, events)

    def _begin(
        self,
        state: State,
        events: Iterator,
        done: Callable,
        on_event: Callable[[object], None] | None = None,
        training: Training | None = None,
    ) -> None:
        self.check_free()
        self._generation += 1
        generation, self._training = self._generation, training

        def current(callback: Callable[[object], None]) -> Callable[[object], None]:
            return lambda value: callback(value) if generation == self._generation else None

        def last(callback: Callable[[object], None]) -> Callable[[object], None]:
            def call(value: object) -> None:
                current(callback)(value)
                if training is not None and training is self._ending:
                    self._on_ended()

            return call

        def begin() -> None:
            self._run_in_background(
                events,
                on_event=current(on_event or self._on_event),
                on_done=last(done),
                on_error=last(self._on_error),
            )

        self._set_state(state)
        if self._ending is None:
            begin()
        else:  # its thread may be in the middle of a step, with the networks that are wanted now
            self._waiting = begin

    def _on_ended(self) -> None:
        """The thread of a training that was stopped is done."""
        training, self._ending = self._ending, None
        self._free(training)
        begin, self._waiting = self._waiting, None
        if begin is not None:
            begin()

    def _on_event(self, event: Progress | Prediction | Guidance | Exception) -> None:
        if self._run is not None and not self._told:  # its first sign of life: device and kernel are known now
            self._told = True
            self.settled.emit(self._run.config)
        if isinstance(event, Guidance):
            self.guided.emit(event)
        elif isinstance(event, Exception):  # that the work goes on without
            self.failed.emit(event)
        else:
            (self.predicted if isinstance(event, Prediction) else self.progressed).emit(event)

    def _on_error(self, error: Exception) -> None:
        """What was learnt before the error stays."""
        learnt = None if self._training is None else self._training.learnt
        self._finish()
        if learnt is not None:
            self._set_model(learnt)
        self._batch = None  # the folder as a whole cannot be used
        self.broken.emit(error)
        self.failed.emit(error)

    def _tell_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            self.labelled.emit(batch)

    def _finish(self) -> None:
        training, self._training = self._training, None
        self._free(training)
        self._set_state("idle")

    def _free(self, training: Training | None) -> None:
        """The memory of a GPU that only the training needed."""
        run = None if training is None else training.run
        if run is not None and run.config.device.startswith("cuda"):
            self._run_in_background(
                once(partial(_empty, run.model)),
                on_event=lambda _: None,
                on_done=lambda _: None,
                on_error=self.failed.emit,
            )

    def _set_model(self, model: Model) -> None:
        self.model = model
        self.model_changed.emit(model)

    def _set_state(self, state: State) -> None:
        self.state = state
        self.state_changed.emit(state)


def tried(
    predict: SlicePredictor, sample: Sample, index: int | None, fraction: float = 1.0, alone: bool = False
) -> Prediction | Exception:
    """A slice, or why it cannot be seen where others may well be: one of many that lie on a disk, or an image that
    nobody drew on and that is not the only one asked for."""
    try:
        return predict(sample, index, fraction)
    except (ValueError, OSError) as error:
        if isinstance(sample.image, Stack) or not (alone or (sample.target != IGNORE).any()):
            return error
        raise


def describe_machine(config: Config) -> str:
    """What a run settled on: "cpu · float32 · scan: native (avx512)"."""
    kernel = config.kernel
    if kernel == "native":
        from trainer.networks.scan.native import instruction_set

        kernel += f" ({instruction_set()})"
    return f"{config.device} · {config.dtype} · scan: {kernel}"


def _empty(model: Model | None) -> None:
    """In the thread: what only a training needs goes from the GPU; gradients and optimisers, that is most of it."""
    import gc

    import torch

    for network in model.networks.values() if model is not None else ():
        network.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()


def once(work: Callable[[], Result]) -> Generator[None, None, Result]:
    """For a thread: work that has no events, only a result."""
    return work()
    yield  # makes it a generator, one without events
