"""A Run and a Model without networks, and a run_in_background that runs on the spot."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer import Config, Sample

CLASSES = ("background", "disc")
CONFIG = Config(iterations=3, networks=("unet", "swinunet"))


@dataclass(frozen=True)
class FakeProgress:
    iteration: int
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    fraction: float = 0.0
    rate: float = 0.0
    remaining: float | None = None
    stage: str = "training"


class FakeModel:
    """Calls class 1 whatever is brighter than the mean of the whole image."""

    volumetric = False
    names = ("unet", "swinunet")
    classes = CLASSES

    def __init__(self) -> None:
        self.looked_at: list[int] = []
        self.saved: Path | None = None

    def prepared(self, image: np.ndarray, name: str, spacing: object = None) -> np.ndarray:
        stack = image if image.ndim == 4 else image[:, None]
        return stack[0] > stack[0].mean()  # (D, H, W)

    def item_probabilities(self, prepared: np.ndarray, z: int) -> dict[str, np.ndarray]:
        self.looked_at.append(z)
        probabilities = np.stack([~prepared[z], prepared[z]]).astype(np.float32)
        return dict.fromkeys((*self.names, "ensemble"), probabilities)

    def save(self, folder: Path) -> None:
        self.saved = folder


class FakeRun:
    """Propagates everything to class 0, without being sure at all, then counts iterations."""

    def __init__(self, samples: Sequence[Sample], config: Config, classes: Sequence[str]) -> None:
        self.samples, self.config, self.classes = samples, config, classes
        self.model, self.teachers, self.parts, self.iteration = FakeModel(), {}, {}, 0
        self.stopped = self.paused = False
        self.shortfall, self.start = "", None

    def stop(self) -> None:
        self.stopped = True

    def pause(self) -> None:
        self.paused = True

    def go_on(self) -> None:
        self.paused = False

    def update(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __iter__(self) -> Iterator[FakeProgress]:
        for sample in self.samples:
            background = [np.full(sample.target.shape, 0.498 + 0.004 * (c == 0), np.float16) for c in (0, 1)]
            self.parts[sample.name], self.teachers[sample.name] = sample.part, np.stack(background)
        yield FakeProgress(0, stage="propagation")
        for i in range(1, self.config.iterations + 1):
            if self.stopped:
                return
            self.iteration = i
            losses = {name: 1 / i for name in self.config.networks}
            yield FakeProgress(i, losses, seconds=float(i), fraction=i / self.config.iterations, rate=1.0)


def on_the_spot(events: Generator, *, on_event: Callable, on_done: Callable, on_error: Callable) -> None:
    """run_in_background without a thread."""
    try:
        while True:
            on_event(next(events))
    except StopIteration as end:
        result = end.value
    except Exception as error:
        on_error(error)
        return
    on_done(result)


class Later:
    """run_in_background that waits: `step` lets one event through, `finish` all of them."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Generator, dict[str, Callable]]] = []

    def __call__(self, events: Generator, **callbacks: Callable) -> None:
        self.jobs.append((events, callbacks))

    def step(self, job: int = -1) -> None:
        events, callbacks = self.jobs[job]
        callbacks["on_event"](next(events))

    def finish(self, job: int = -1) -> None:
        events, callbacks = self.jobs[job]
        on_the_spot(events, **callbacks)


def disc_sample(depth: int = 0, name: str = "disc") -> Sample:
    """A bright disc on dark ground, (32, 32) or (depth, 32, 32), with a stroke of each class in every slice."""
    y, x = np.indices((32, 32))
    image = np.where(np.hypot(y - 16, x - 16) < 8, 200, 30).astype(np.float32)
    target = np.full((32, 32), 255, np.uint8)
    target[16, 12:20], target[2, 4:28] = 1, 0
    if depth:
        image, target = np.stack([image] * depth), np.stack([target] * depth)
    return Sample(image[None], target, (1.0,) * target.ndim, name)
