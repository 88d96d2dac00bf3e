"""Train from a dataset folder: python -m trainer.fit DATASET --out RUN [--preset interactive] [--minutes 3]

DATASET is in the nnU-Net v2 raw format; where its labels have the class "ignore", what nobody drew on is left out.
The run's folder then holds weights.safetensors, config.json, history.csv and a checkpoint that --resume goes on from.
"""

import time

STARTED = time.monotonic()  # first of all: a budget in minutes counts the imports below

import dataclasses  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Annotated  # noqa: E402

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

from trainer.bundled import run_folder  # noqa: E402
from trainer.config import PRESETS, TASK_PRESETS, Config, PresetName, TaskPresetName, read_config  # noqa: E402
from trainer.formats import read_json  # noqa: E402

if TYPE_CHECKING:
    import trainer

FIRST = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started; alone, it is
console = Console(stderr=True, quiet=not FIRST)


@dataclass(frozen=True)
class Fit:
    """Train networks on a dataset, from strokes or from dense labels."""

    dataset: tyro.conf.Positional[Path]
    """Folder in the nnU-Net v2 raw format."""
    out: Path
    """Folder of the run; new or empty, unless --resume."""
    preset: PresetName | TaskPresetName | None = None
    """Where it is not given: interactive for strokes, supervised for dense labels, else the dataset's task."""
    validation: Path | None = None
    """Dataset with dense labels; the weights that do best on it are kept."""
    resume: bool = False
    """Go on with the run in --out, with its own config; a larger budget may be given."""
    start: Path | None = None
    """Folder of a run, or bundled:NAME, to begin with the weights of, and where no --preset is given with its config,
    too."""
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["interactive"]


def main() -> None:
    try:
        fit(parse(sys.argv[1:]))
    except (ValueError, OSError, FloatingPointError) as e:
        sys.exit(f"trainer.fit: {e}")
    except KeyboardInterrupt:
        sys.exit("trainer.fit: interrupted")


def parse(argv: list[str]) -> Fit:
    """The flags; those of the config start from the preset, which follows from the dataset where it is not given."""
    first = tyro.cli(Fit, args=argv, description=__doc__)
    if first.start and first.resume:
        raise ValueError("give either --start, which begins a run, or --resume, which goes on with one")
    preset = first.preset or (None if first.start else preset_for(first.dataset))
    base = base_of(first, preset)
    given = tyro.cli(Fit, args=argv, default=dataclasses.replace(first, preset=preset, config=base))
    return dataclasses.replace(given, config=one_budget(given.config, base))


def base_of(options: Fit, preset: str | None) -> Config:
    """What the flags change: the config of the run that goes on or is begun with, or the preset's."""
    if options.resume:
        return resumed(options.out)
    return begun_with(run_folder(options.start)) if preset is None else (PRESETS | TASK_PRESETS)[preset]


def preset_for(dataset: Path) -> str:
    """By the task in its dataset.json, and whether its labels list "ignore": a quick look, before it is read."""
    file = dataset / "dataset.json"
    if not file.is_file():
        raise FileNotFoundError(f"{dataset} is no dataset: {file.name} is missing; give a folder in nnU-Net v2 format")
    content = read_json(file)
    if content.get("task") in TASK_PRESETS:
        return content["task"]
    return "interactive" if "ignore" in (content.get("labels") or {}) else "supervised"


def resumed(folder: Path) -> Config:
    config, _, _ = read_config(folder / "config.json")
    return config


def begun_with(folder: Path) -> Config:
    """A run's config, but for what it found out about its machine."""
    config = resumed(folder)
    dtype = config.dtype if config.dtype == "float32" else "auto"  # the preset paper asks for it
    return dataclasses.replace(config, device="auto", dtype=dtype, threads=0, kernel="auto", pretrained="", shares=())


def one_budget(config: Config, base: Config) -> Config:
    """Where the user gave minutes to a preset that counts iterations, or the reverse, theirs is the budget."""
    if config.minutes != base.minutes and config.iterations == base.iterations:
        return dataclasses.replace(config, iterations=None)
    if config.iterations != base.iterations and config.minutes == base.minutes:
        return dataclasses.replace(config, minutes=None)
    return config


def fit(options: Fit) -> None:
    config = options.config.checked()
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"{options.out} is a file; name a folder for the run")
    if FIRST and not options.resume and options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"{options.out} is not empty; add --resume to go on with its run, or name a new folder")
    console.print(f"{described_start(options)}: {', '.join(config.names)}, {config.objective}")
    if config.pretrained and not (options.resume or options.start):
        fetch_checkpoints(config)
    run = new_run(options)
    with stopping_on_ctrl_c(run):
        show(run)
    if run.shortfall:
        console.print(run.shortfall)
    if not run.iteration:
        console.print("stopped before the first step; nothing was learnt and nothing saved")
    else:
        console.print(f"{run.iteration} iterations in {run.seconds:.0f} s; the run is in {options.out}")


def fetch_checkpoints(config: Config) -> None:
    """Those that are not on this disk, with a bar."""
    from trainer.networks.checkpoints import fetch, wanted

    if Path(config.pretrained).exists():
        return
    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), console=console) as bar:
        for name in sorted(set(wanted(config).values())):
            task = bar.add_task(name, total=None)
            fetch(name, tell=lambda done, total, task=task: bar.update(task, completed=done, total=total or None))


def described_start(options: Fit) -> str:
    parts = [
        options.resume and f"going on with {options.out}",
        options.start and f"beginning with {options.start}",
        options.preset and not options.resume and f"preset {options.preset}",
    ]
    return ", ".join(filter(None, parts))


def new_run(options: Fit) -> "trainer.Run":
    from trainer.dataset import load_dataset
    from trainer.distributed import run_class
    from trainer.model import Model

    dataset = load_dataset(options.dataset)
    validation = load_dataset(options.validation) if options.validation else None
    if validation and (validation.sparse or validation.classes != dataset.classes):
        raise ValueError(
            f"{options.validation} must have dense labels of the classes {dataset.classes}, got "
            f"{'strokes of ' if validation.sparse else ''}{validation.classes}"
        )
    return run_class()(
        dataset.samples,
        options.config,
        dataset.classes,
        channels=dataset.channels,
        folder=options.out,
        validation=validation.samples if validation else (),
        start=Model.load(options.start, "cpu") if options.start else None,
        started=STARTED,
        resume=options.resume,
    )


@contextmanager
def stopping_on_ctrl_c(run: "trainer.Run") -> Iterator[None]:
    """Ctrl-C ends after the current step and keeps the model; a second one ends at once."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        console.print("stopping after this step; press Ctrl-C again to lose it")
        run.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show(run: "trainer.Run") -> None:
    """Train, with the loss of each network, steps per second and the time left on one line."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(), console=console
    ) as bar:
        task, told = bar.add_task("reading strokes", total=1.0), 0.0
        for progress in announced(run):
            bar.update(task, completed=progress.fraction, description=described(progress))
            if not console.is_terminal and progress.seconds - told >= 10:  # a log file gets a line now and then
                told = progress.seconds
                console.print(f"{progress.seconds:5.0f} s  {described(progress)}")


def announced(run: "trainer.Run") -> "Iterator[trainer.Progress]":
    """The steps of the run; before the first, what its networks took from checkpoints."""
    for index, progress in enumerate(run):
        for name, report in run.reports.items() if index == 0 else ():
            console.print(f"{name}, pretrained: {report}")
        yield progress


def described(progress: "trainer.Progress") -> str:
    if progress.stage == "propagation":
        return "spreading the strokes"
    left = "" if progress.remaining is None else f"  {progress.remaining:.0f} s left"
    losses = "  ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items())
    score = "" if progress.validation is None else f"  validation {progress.validation:.3f}"
    return f"{progress.iteration}  {losses}  {progress.rate:.1f} it/s{left}{score}"


if __name__ == "__main__":
    main()
