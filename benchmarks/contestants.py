"""Who competes: each learns from some strokes, against a clock, and leaves looks that are scored afterwards.

A look is what a contestant knew at some moment (networks are copied), so that scoring never runs on anybody's clock.
The time of a prediction belongs to it and is added to the look's.

- forest       random forest on multi-scale features, the ilastik way (scikit-image, scikit-learn)
- walker       random walker of scikit-image on the whole image or volume, Grady 2006; no learning
- propagation  `trainer.propagation` alone: what our networks learn from first
- pce          one UNet, partial cross-entropy on the strokes and nothing else, on the slices that have some
- unet         one UNet on strokes and propagated strokes: our preset without the other two networks
- interactive  our preset as the plugin runs it: each network, the ensemble, and what is shown
- paper        the published recipe: official sizes, no propagation
- dense        an oracle: the UNet of `pce` on the full truth of the same images
"""

import copy
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from napari_scribblemamba._predictor import PROPAGATED, Prediction
from napari_scribblemamba._session import Session
from trainer import PRESETS, Config, Model, Run, Sample
from trainer.likeness import Likeness, Settled, with_likeness
from trainer.propagation import as_stack, propagate
from trainer.sample import IGNORE

LOOKS = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 60, 75, 90, 120, 150, 180, 210, 240, 270, 300)  # seconds
WALK = 1500.0  # beta of the random walker; the default, 130, is worse on four of five kinds of image
LATER = 120.0  # seconds between looks after the last of these
Answers = dict[str, np.ndarray]  # "unet", "ensemble", "shown", or "" where there is only one -> uint8 (*space)

INTERACTIVE = PRESETS["interactive"]
ALONE = replace(INTERACTIVE, networks=("unet",), objective="pce")  # what UNet does while it leads
PCE = replace(INTERACTIVE, networks=("unet",), objective="pce", propagation=False)
DENSE = replace(INTERACTIVE, networks=("unet",), objective="supervised", propagation=False)


@dataclass(frozen=True, eq=False)
class Work:
    """What a contestant is given."""

    samples: list[Sample]  # with strokes
    classes: tuple[str, ...]
    minutes: float | None  # budget of those who learn for as long as they may
    iterations: int | None = None  # or so many steps
    seed: int = 0
    truth: list[Sample] = field(default_factory=list)  # the same images, for the oracle alone

    def budgeted(self, config: Config) -> Config:
        return replace(config, minutes=self.minutes, iterations=self.iterations, seed=self.seed)


@dataclass(frozen=True, eq=False)
class Look:
    """What was known `wall` seconds after the strokes were handed in, at the cost of `cpu` seconds of all threads."""

    wall: float
    cpu: float
    answers: Callable[[Sample], Answers]  # of an image, with its strokes where it was drawn on


Contestant = Callable[[Work], Sequence[Look]]


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def __call__(self) -> tuple[float, float]:
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


class Agenda:
    """When to look."""

    def __init__(self) -> None:
        self.next = 0

    def due(self, seconds: float) -> bool:
        """True once for each of LOOKS that has passed, however many have."""
        passed = self.next
        while seconds >= self.time(self.next):
            self.next += 1
        return self.next > passed

    @staticmethod
    def time(i: int) -> float:
        return LOOKS[i] if i < len(LOOKS) else LOOKS[-1] + LATER * (i + 1 - len(LOOKS))


# ---- our own ----


def fitted(config: Config, work: Work) -> list[Look]:
    """A Run as the command line does it; every network, and their ensemble where there are several."""
    return looked_at(config, work, lambda run: lambda watch: look_at(run.model, watch))


def looked_at(config: Config, work: Work, looker: Callable[[Run], Callable[[Watch], Look]]) -> list[Look]:
    """A Run, and what is seen of it when it is time, and at its end, by the looker of this run."""
    watch, agenda, looks = Watch(), Agenda(), []
    run = Run(work.samples, work.budgeted(config), work.classes)
    look = looker(run)
    for progress in run:
        if progress.iteration and agenda.due(watch()[0]):
            looks.append(look(watch))
    return [*looks, look(watch)]


def dense(work: Work) -> list[Look]:
    return fitted(DENSE, replace(work, samples=work.truth))


def transferring(config: Config, work: Work) -> list[Look]:
    """As `fitted`, and what the plugin shows of an image without strokes: while networks are young, what looks there
    like the strokes."""
    return looked_at(config, work, lambda run: partial(look_elsewhere, run, Likeness(run)))


def look_elsewhere(run: Run, likeness: Likeness, watch: Watch) -> Look:
    snapshot, seen = copy.deepcopy(run.model), likeness.settled(anew=True)
    return Look(*watch(), partial(predicted_and_shown, snapshot, seen))


def predicted_and_shown(model: Model, likeness: Settled, sample: Sample) -> Answers:
    probabilities = model.probabilities(sample.image, sample.spacing)
    image, P = sample.image, probabilities["ensemble"]
    if image.ndim == 3:
        probabilities["shown"] = with_likeness(P, image, image, likeness)
    else:
        planes = [with_likeness(P[:, z], image[:, z], image, likeness) for z in range(image.shape[1])]
        probabilities["shown"] = np.stack(planes, 1)
    return {name: P.argmax(0).astype(np.uint8) for name, P in probabilities.items()}


def look_at(model: Model, watch: Watch) -> Look:
    snapshot = copy.deepcopy(model)
    return Look(*watch(), partial(predicted, snapshot))


def predicted(model: Model, sample: Sample) -> Answers:
    """All networks at once, as people have them predict; of a single one, its answer alone."""
    probabilities = model.probabilities(sample.image, sample.spacing)
    labels = {name: P.argmax(0).astype(np.uint8) for name, P in probabilities.items()}
    return labels if len(model.names) > 1 else {"": labels[model.names[0]]}


def plugin(config: Config, work: Work) -> list[Look]:
    """The plugin's own Session without its window, a person with the middle slice in view who waits.

    The networks and the ensemble are read from its Run; "shown" is what lies on the ensemble's layer: the propagated
    strokes until the Session hands over, afterwards slice after slice what it predicted last, at the end all anew.
    """
    watch, agenda, looks = Watch(), Agenda(), []
    canvas: dict[str, np.ndarray] = {}
    runs: list[Run] = []

    def make_run(samples: Sequence[Sample], config: Config, classes: Sequence[str]) -> Run:
        runs.append(Run(samples, config, classes))
        return runs[-1]

    def show(prediction: Prediction) -> None:
        if "ensemble" not in prediction.labels:
            return
        layer = canvas.setdefault(prediction.image, blank(work.samples, prediction.image))
        layer[... if prediction.index is None else prediction.index] = prediction.labels["ensemble"]
        if prediction.source == PROPAGATED:  # in the first seconds, each makes the answer another one
            looks.append(shown(canvas, watch))

    def note(progress: object) -> None:
        if progress.iteration and agenda.due(watch()[0]):
            looks.extend([shown(canvas, watch), look_at(runs[0].model, watch)])

    session = Session(at_once, make_run)
    session.visible = work.samples[0].name, len(as_stack(work.samples[0])[1]) // 2
    session.predicted.connect(show)
    session.progressed.connect(note)
    session.model_changed.connect(lambda model: looks.append(look_at(model, watch)))
    session.train(work.samples, work.classes, work.budgeted(config))
    return [*looks, shown(canvas, watch)]


def at_once(events: Generator, *, on_event: Callable, on_done: Callable, on_error: Callable) -> None:
    """The Session's background, in the foreground; an error ends the measurement, so that `on_error` has no work."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result = end.value
            break
        on_event(event)
    on_done(result)


def blank(samples: Sequence[Sample], name: str) -> np.ndarray:
    return np.zeros(next(sample.target.shape for sample in samples if sample.name == name), np.uint8)


def shown(canvas: dict[str, np.ndarray], watch: Watch) -> Look:
    """The layers as they are now; nothing for images that have none."""
    layers = {name: labels.copy() for name, labels in canvas.items()}
    return Look(*watch(), lambda sample: {"shown": layers[sample.name]} if sample.name in layers else {})


# ---- the others ----


def propagation(work: Work) -> list[Look]:
    return [once(lambda sample: propagate(sample, len(work.classes)).labels)]


def walker(work: Work) -> list[Look]:
    return [once(lambda sample: walked(sample, len(work.classes)))]


def once(predict: Callable[[Sample], np.ndarray]) -> Look:
    """Of those who learn nothing beforehand: all of their time is that of the prediction."""
    return Look(0.0, 0.0, lambda sample: {"": predict(sample)})


def walked(sample: Sample, classes: int) -> np.ndarray:
    """uint8 (*space); by the strokes alone, where there is one class, of that class everywhere."""
    from skimage.segmentation import random_walker

    drawn = sample.target != IGNORE
    present = np.unique(sample.target[drawn])
    if len(present) < 2:
        return np.full(sample.target.shape, present[0], np.uint8)
    seeds = np.where(drawn, np.searchsorted(present, sample.target).clip(max=len(present) - 1) + 1, 0)
    span = np.ptp(sample.image, axis=tuple(range(1, sample.image.ndim)), keepdims=True)
    image, spacing = np.moveaxis(sample.image / span.clip(1e-6), 0, -1), np.array(sample.spacing) / min(sample.spacing)
    with warnings.catch_warnings():  # probabilities that leave 0..1 by the solver's tolerance; their order is right
        warnings.filterwarnings("ignore", "The probability range is outside", UserWarning)
        found = random_walker(image, seeds, WALK, mode="cg_j", spacing=spacing, channel_axis=-1)
    return present[(found - 1).clip(0)].astype(np.uint8)


def forest(work: Work) -> list[Look]:
    """100 trees on the features of every drawn pixel, in 2-D."""
    from sklearn.ensemble import RandomForestClassifier

    watch, known = Watch(), {}
    for sample in work.samples:
        known[sample.name] = described(sample)
    pairs = [(known[sample.name], as_stack(sample)[1]) for sample in work.samples]
    x = np.concatenate([features[target != IGNORE] for features, target in pairs])  # (pixels, features)
    y = np.concatenate([target[target != IGNORE] for _, target in pairs])
    trees = RandomForestClassifier(100, n_jobs=torch.get_num_threads(), random_state=work.seed).fit(x, y)

    def predict(sample: Sample) -> Answers:
        features = known[sample.name] if sample.name in known else described(sample)
        labels = trees.predict(features.reshape(-1, features.shape[-1]))
        return {"": labels.astype(np.uint8).reshape(sample.target.shape)}

    return [Look(*watch(), predict)]


def described(sample: Sample) -> np.ndarray:
    """(D, H, W, features) float32 of z-scored channels: intensity, edges and texture at scales of 1 to 16 pixels."""
    from skimage.feature import multiscale_basic_features

    image = as_stack(sample)[0]  # (C, D, H, W)
    mean, deviation = (statistic(image, axis=(1, 2, 3), keepdims=True) for statistic in (np.mean, np.std))
    slices = ((image - mean) / deviation.clip(1e-8)).transpose(1, 2, 3, 0)
    return np.stack([multiscale_basic_features(s, channel_axis=-1) for s in slices])


FILL_IN: dict[str, Contestant] = {
    "forest": forest,
    "walker": walker,
    "propagation": propagation,
    "pce": partial(fitted, PCE),
    "unet": partial(fitted, ALONE),
    "interactive": partial(plugin, INTERACTIVE),
    "paper": partial(fitted, PRESETS["paper"]),
    "dense": dense,
}
TRANSFER: dict[str, Contestant] = {
    "forest": forest,
    "pce": partial(fitted, PCE),
    "unet": partial(fitted, ALONE),
    "interactive": partial(transferring, INTERACTIVE),
    "paper": partial(fitted, PRESETS["paper"]),
    "dense": dense,
}


def warm_up() -> None:
    """Libraries loaded, kernels built and threads started, as in a panel that has been open for a while."""
    rng = np.random.default_rng(0)
    target = np.full((48, 48), IGNORE, np.uint8)
    target[4], target[24] = 0, 1
    toy = Sample(rng.normal(size=(1, 48, 48)).astype(np.float32), target, (1.0, 1.0), "toy")
    for _ in Run([toy], replace(INTERACTIVE, minutes=None, iterations=2, patch=(32, 32), batch=2), ("ground", "line")):
        pass
    for contestant in (forest, walker):
        contestant(Work([toy], ("ground", "line"), 0.1))[0].answers(toy)
