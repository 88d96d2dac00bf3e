"""How good, how soon: Dice against seconds for each contestant, from the same strokes, in the same run.

    python -m benchmarks.interactive --quick                          three images, 15 s each: about five minutes
    python -m benchmarks.interactive --modality em --minutes 1        one kind of image
    python -m benchmarks.interactive --full --half reporting          the whole matrix: many hours; --resume goes on
    python -m benchmarks.interactive --workers 2                      two trainings side by side, a core each

Two tasks. fill-in: the images that were drawn on, one training each. transfer: images of other people, on which nobody
drew, after one training on `--drawn` images. The score is the mean Dice of the objects' classes, of a volume in 3-D.
Who competes stands in contestants.py; which images are for tuning and which for reporting, in images.py.

Writes FILE.json, by default benchmarks/results/interactive-<date>-<half>.json, after every image, and beside it at the
end plots, and FILE.md with a table of each panel:
    sittings  when, on which machine, and with which options; --resume adds one
    entries   one curve each: half, task, modality, budget, minutes, images (drawn on), threads, taught (their names),
              seed, case, contestant, answer, drawing (seconds of the simulated annotator, null for an expert's
              strokes), and points [[wall, cpu, dice], ...]
    summary   for each panel and answer, at each time: mean, median, and, of five cases or more, a 95 % interval of the
              mean (bootstrap over cases, of each case the mean over seeds); only where every case has an answer by then
    behind    for each panel and rival: when, and by how much, the median of what we show is below the rival's
"""

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import starmap
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from benchmarks.contestants import FILL_IN, TRANSFER, Look, Watch, Work, warm_up
from benchmarks.images import MODALITIES, Case, Half, Modality, cases, drawn, transferred
from trainer import Sample
from trainer.files import replacing
from trainer.metrics import mean_dice
from trainer.sample import IGNORE

Task = Literal["fill-in", "transfer"]
Name = Literal["forest", "walker", "propagation", "pce", "unet", "interactive", "paper", "dense"]
Entry = dict  # one curve, as in the file
PANEL = ("task", "modality", "budget", "minutes", "images", "threads")  # what curves have in common that are compared
Panel = tuple[str, str, int, float, int, int]
JOB = ("half", "task", "modality", "budget", "minutes", "seed")  # what a job and its curves both say
TIMES = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600)  # seconds, of the summary
TOLD = (3, 10, 30, 60, 300)  # of these, in the tables
OURS = "interactive shown"
RIVALS = ("forest", "pce")
WALL, CPU, DICE = range(3)  # of a point
MANY = 5  # cases from which on an interval says something
USUAL: tuple[Name, ...] = ("forest", "walker", "propagation", "pce", "unet", "interactive")
FOUR: tuple[Name, ...] = ("forest", "propagation", "pce", "interactive")
COLOURS = {
    "forest": "tab:olive",
    "walker": "tab:brown",
    "propagation": "tab:gray",
    "pce": "tab:pink",
    "unet": "tab:cyan",
    "interactive unet": "tab:blue",
    "interactive swinunet": "tab:orange",
    "interactive mambaunet": "tab:green",
    "interactive ensemble": "tab:purple",
    "interactive shown": "tab:red",
    "paper ensemble": "gold",
    "dense": "black",
}


@dataclass(frozen=True)
class Options:
    """Measure who is how good how soon."""

    quick: bool = False
    """Three images of three kinds, 15 seconds each."""
    full: bool = False
    """The whole matrix: five minutes where it matters, one minute for the rest."""
    modality: tuple[Modality, ...] = ("cardiac", "fluorescence", "endoscopy")
    task: tuple[Task, ...] = ("fill-in",)
    budgets: tuple[int, ...] = (3,)
    """Strokes for each class of an image; slices of a volume, 10 or more: all of them."""
    minutes: float = 1.0
    """Of each training."""
    cases: int = 6
    """Images of each kind."""
    drawn: int = 5
    """Images drawn on, for transfer."""
    seeds: tuple[int, ...] = (0,)
    contestants: tuple[Name, ...] = USUAL
    workers: int = 1
    """Trainings side by side, each on its share of the cores (Linux): more curves in an hour, each of fewer threads."""
    half: Half = "tuning"
    """Images to tune on, or those to report on."""
    resume: bool = False
    """Keep what FILE already has."""
    out: Path | None = None
    """JSON file; plots go beside it."""

    def parts(self) -> "list[Options]":
        """What is measured one after the other."""
        if self.quick:
            return [replace(self, minutes=0.25, cases=1, budgets=(3,), seeds=(0,), task=("fill-in",))]
        if not self.full:
            return [self]
        cardiac = replace(self, modality=("cardiac",), minutes=5.0, contestants=FOUR)
        return [
            replace(cardiac, budgets=(3,)),
            replace(self, modality=MODALITIES, budgets=(1, 3, 10), cases=3),
            *(replace(cardiac, task=("transfer",), drawn=n, contestants=(*FOUR, "unet", "dense")) for n in (5, 20)),
            replace(self, modality=MODALITIES[1:], task=("transfer",), contestants=(*FOUR, "unet", "dense")),
        ]

    @property
    def threads(self) -> int:
        """Of each training."""
        return cores() // self.workers if self.workers > 1 else torch.get_num_threads()

    @property
    def file(self) -> Path:
        name = f"interactive-{datetime.date.today()}-{self.half}{'-quick' if self.quick else ''}.json"
        return self.out or Path(__file__).parent / "results" / name


@dataclass(frozen=True, eq=False)
class Job:
    """One training of each contestant, and the images that it is scored on."""

    half: Half
    task: Task
    modality: str
    budget: int
    minutes: float
    seed: int
    contestants: tuple[str, ...]
    taught: list[Case]
    tested: list[Case]

    def keys(self, contestant: str, threads: int) -> set[tuple]:
        """Of the curves that come of it, as `key_of` has them, whatever the answers."""
        job = *(getattr(self, k) for k in JOB), threads, contestant, self.names
        return {(*job, case.name) for case in self.tested}

    @property
    def names(self) -> str:
        """Of the images drawn on."""
        return " ".join(case.name for case in self.taught)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not 1 <= options.workers <= cores():
        raise SystemExit(f"error: --workers {options.workers} on {cores()} cores; each wants one of its own")
    sittings, entries = before(options) if options.resume else ([], [])
    sittings.append(sitting(options))
    failed = []
    for new in results(list(missing(options, entries)), options.workers):
        if isinstance(new, Failed):
            failed.append(new)
            print(new, flush=True)
            continue
        again = {key_of(entry) for entry in new}
        entries = [entry for entry in entries if key_of(entry) not in again] + new
        write(options.file, sittings, entries)
        print(told(new), flush=True)
    report(options.file, entries)
    if failed:
        raise SystemExit(f"error: {len(failed)} failed; --resume tries them again")


def before(options: Options) -> tuple[list[dict], list[Entry]]:
    """The sittings and curves that the file has; SystemExit where these are of the other half."""
    if not options.file.is_file():
        return [], []
    content = json.loads(options.file.read_text())
    if any(entry["half"] != options.half for entry in content["entries"]):
        raise SystemExit(f"error: {options.file} is not of the {options.half} half; name another with --out")
    return content["sittings"], content["entries"]


def missing(options: Options, entries: list[Entry]) -> Iterator[tuple["Job", str]]:
    """Jobs and contestants of which some curve is not there yet."""
    known = {key_of(entry) for entry in entries}
    for part in options.parts():
        for job in jobs(part):
            yield from ((job, name) for name in job.contestants if not job.keys(name, options.threads) <= known)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Failed(str):
    """What went wrong with a job, and with which: the others go on."""


def results(todo: list[tuple["Job", str]], workers: int) -> Iterator[list[Entry] | Failed]:
    """`tried` of each, one after the other, or as they come from processes that have a share of the cores each."""
    if workers == 1:
        warm_up()
        yield from starmap(tried, todo)
        return
    context = get_context("spawn")
    shares = context.Queue()
    for share in shared(sorted(os.sched_getaffinity(0)), workers):
        shares.put(share)
    with ProcessPoolExecutor(workers, context, settle, (shares,)) as pool:
        for done in as_completed([pool.submit(tried, *each) for each in todo]):
            yield done.result()


def shared(cores: list[int], workers: int) -> list[list[int]]:
    """As many cores for each worker; what is left over stays idle."""
    each = len(cores) // workers
    return [cores[worker * each : (worker + 1) * each] for worker in range(workers)]


def settle(shares: "Queue[list[int]]") -> None:
    """A process begins: on its cores, with a thread on each."""
    cores = shares.get()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    warm_up()


def key_of(entry: Entry) -> tuple:
    """Of the job, its contestant and the case."""
    return tuple(entry[k] for k in (*JOB, "threads", "contestant", "taught", "case"))


def told(entries: list[Entry]) -> str:
    """The last score of each answer, in a line."""
    last = defaultdict(list)
    for entry in entries:
        last[label(entry)].append(entry["points"][-1][DICE])
    first = entries[0]
    scores = "  ".join(f"{name} {np.mean(values):.3f}" for name, values in last.items())
    return f"{first['task']} {first['modality']} budget {first['budget']} {first['case']}: {scores}"


# ---- measuring ----


def jobs(options: Options) -> Iterator[Job]:
    for task in options.task:
        table = FILL_IN if task == "fill-in" else TRANSFER
        names = tuple(name for name in options.contestants if name in table)
        for modality in options.modality:
            if task == "fill-in":
                groups = [([case], [case]) for case in cases(modality, options.half, options.cases)]
            else:
                groups = [transferred(modality, options.half, options.drawn, options.cases)]
            for taught, tested in groups:
                for budget in options.budgets:
                    for seed in options.seeds:
                        what = options.half, task, modality, budget, options.minutes, seed
                        yield Job(*what, names, taught, tested)


def tried(job: Job, contestant: str) -> list[Entry] | Failed:
    try:
        return measured(job, contestant)
    except Exception as error:  # whatever it is, hours of other jobs are worth more
        where = f"{job.task} {job.modality} budget {job.budget} {job.names}"
        return Failed(f"{where}: {contestant} failed: {type(error).__name__}: {error}")


def measured(job: Job, contestant: str) -> list[Entry]:
    """The curves of one contestant: train, then score its looks on every image."""
    strokes = [drawn(case, job.budget, job.seed) for case in job.taught]
    samples = [sample for sample, _ in strokes]
    truth = [case.truth for case in job.taught]
    work = Work(samples, job.taught[0].classes, job.minutes, seed=job.seed, truth=truth)
    looks = (FILL_IN if job.task == "fill-in" else TRANSFER)[contestant](work)
    seen = {sample.name: sample for sample in samples}
    took = [seconds for _, seconds in strokes]
    common = {k: getattr(job, k) for k in JOB}
    common |= {
        "images": len(job.taught),
        "threads": torch.get_num_threads(),
        "taught": job.names,
        "contestant": contestant,
        "drawing": None if None in took else round(sum(took), 1),
    }
    return [
        {**common, "case": case.name, "answer": answer, "points": points}
        for case in job.tested
        for answer, points in curves(looks, case, seen.get(case.name)).items()
    ]


def curves(looks: Sequence[Look], case: Case, sample: Sample | None) -> dict[str, list[list[float]]]:
    """answer -> [[wall, cpu, dice], ...] by time; `sample` is the image with its strokes, None where nobody drew."""
    if sample is None:
        sample = replace(case.truth, target=np.full_like(case.truth.target, IGNORE))
    found: dict[str, list[list[float]]] = defaultdict(list)
    for look in looks:
        watch = Watch()
        answers = look.answers(sample)
        wall, cpu = watch()
        for answer, labels in answers.items():
            score = mean_dice(labels, case.truth.target, range(1, len(case.classes)))
            found[answer].append([round(look.wall + wall, 3), round(look.cpu + cpu, 3), round(score, 4)])
    return {answer: sorted(points) for answer, points in found.items()}


# ---- summing up ----


def label(entry: Entry) -> str:
    return f"{entry['contestant']} {entry['answer']}".strip()


def at(points: list[list[float]], seconds: float, clock: int = WALL) -> float | None:
    """The score on the screen at a time: that of the last point before; None where there is none yet."""
    before = [point for point in points if point[clock] <= seconds]
    return before[-1][DICE] if before else None


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % of the means of so many bootstrap samples; one value has no spread to tell."""
    values = np.asarray(values, float)
    means = values[np.random.default_rng(0).integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def panels(entries: list[Entry]) -> dict[Panel, dict[str, list[Entry]]]:
    """Panel -> answer -> its curves."""
    found: dict[Panel, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        found[tuple(entry[k] for k in PANEL)][label(entry)].append(entry)
    return found


def per_case(entries: list[Entry], seconds: float, clock: int = WALL) -> list[float] | None:
    """The score of each image at a time, mean over seeds; None where one has no answer yet."""
    scores = defaultdict(list)
    for entry in entries:
        scores[entry["case"], entry["taught"]].append(at(entry["points"], seconds, clock))
    if any(score is None for each in scores.values() for score in each):
        return None
    return [float(np.mean(each)) for each in scores.values()]


def together(answers: dict[str, list[Entry]]) -> list[Entry]:
    return [entry for found in answers.values() for entry in found]


def times(entries: list[Entry], clock: int = WALL) -> list[float]:
    """Those of TIMES until the last point, and one more."""
    last = max(point[clock] for entry in entries for point in entry["points"])
    return [t for i, t in enumerate(TIMES) if i == 0 or TIMES[i - 1] < last]


def summary(entries: list[Entry], clock: int = WALL) -> list[dict]:
    """A row for each panel, answer and time."""
    rows = []
    for panel, answers in panels(entries).items():
        moments = times(together(answers), clock)
        for name, found in answers.items():
            for t in moments:
                if (scores := per_case(found, t, clock)) is not None:
                    where = {**dict(zip(PANEL, panel, strict=True)), "answer": name, "seconds": t}
                    rows.append({**where, "cases": len(scores), **figures(scores)})
    return rows


def figures(scores: list[float]) -> dict[str, float]:
    found = {"mean": np.mean(scores), "median": np.median(scores)}
    if len(scores) >= MANY:
        found["low"], found["high"] = interval(scores)
    return {name: round(float(value), 4) for name, value in found.items()}


def behind(entries: list[Entry]) -> list[dict]:
    """Where what we show is below a rival, over the cases of both: a row for each panel and rival, with {seconds: by
    how much}."""
    rows = []
    for panel, answers in panels(entries).items():
        ours = answers[OURS]
        for rival in RIVALS:
            if mine := common(ours, answers[rival]):
                lost = losses(mine, common(answers[rival], ours))
                rows.append({**dict(zip(PANEL, panel, strict=True)), "rival": rival, "lost": lost})
    return rows


def losses(mine: list[Entry], theirs: list[Entry]) -> dict[str, float]:
    """Second -> by how much the median case of mine is below that of theirs, where it is."""
    lost = {}
    for t in times(mine + theirs):
        pair = per_case(mine, t), per_case(theirs, t)
        if None not in pair and (gap := float(np.median(pair[0]) - np.median(pair[1]))) < 0:
            lost[str(t)] = round(gap, 4)
    return lost


def common(entries: list[Entry], others: list[Entry]) -> list[Entry]:
    """The curves of cases that the others have, too."""
    known = {(entry["case"], entry["taught"]) for entry in others}
    return [entry for entry in entries if (entry["case"], entry["taught"]) in known]


# ---- telling ----


def sitting(options: object) -> dict:
    """When, with which options (of any benchmark), what machine and which state of the code."""
    machine = {
        "processor": processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }
    chosen = {k: v.name if isinstance(v, Path) else v for k, v in asdict(options).items()}
    return {"date": str(datetime.date.today()), "commit": commit(), "machine": machine, "options": chosen}


def processor() -> str:
    """Its name, as Linux tells it; elsewhere what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return named.group(1) if named else platform.processor() or platform.machine()


def commit() -> str | None:
    """Of the code, as git describes it; None outside of a repository."""
    if shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def write(file: Path, sittings: list[dict], entries: list[Entry]) -> None:
    found = {"sittings": sittings, "summary": summary(entries), "behind": behind(entries), "entries": entries}
    write_lines(file, found)


def write_lines(file: Path, content: dict) -> None:
    """JSON with a line for each item of a list, so that a file can be read and compared."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        new.write_text("{\n" + ",\n".join(f'"{k}": {lines(v)}' for k, v in content.items()) + "\n}\n")


def lines(value: object) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def report(file: Path, entries: list[Entry]) -> None:
    """Tables on the screen and plots beside the file."""
    told = "\n".join(markdown(*each) for each in panels(entries).items())
    file.with_suffix(".md").write_text(told)
    print(told)
    for row in behind(entries):
        where = " ".join(str(row[k]) for k in PANEL)
        print(f"{where}:", f"behind {row['rival']}, {row['lost']}" if row["lost"] else f"never behind {row['rival']}")
    groups = defaultdict(list)
    for entry in entries:
        groups["{task}-{images}-{minutes:g}min-threads{threads}".format(**entry)].append(entry)
    for title, chosen in groups.items():
        for clock, name in ((WALL, "wall"), (CPU, "cpu")):
            plot(file.with_name(f"{file.stem}-{title}-{name}.png"), chosen, clock)
    print(f"written to {file}")


def markdown(panel: Panel, answers: dict[str, list[Entry]]) -> str:
    """A table of the panel: mean Dice and its interval at some times, and when there was a first answer."""
    columns = [t for t in TOLD if t in times(together(answers))]
    cases = len({entry["case"] for entry in together(answers)})
    lines = [
        "## {} {}, budget {}, {:g} min, {} drawn on, threads {}\n".format(*panel) + f"\n{cases} images scored.\n",
        "| answer | first at | " + " | ".join(f"{t} s" for t in columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
    ]
    for name, found in answers.items():
        first = max(entry["points"][0][WALL] for entry in found)
        scores = [per_case(found, t) for t in columns]
        lines.append(f"| {name} | {first:.1f} s | " + " | ".join(map(cell, scores)) + " |")
    return "\n".join(lines) + "\n"


def cell(scores: list[float] | None) -> str:
    if scores is None:
        return ""
    mean = f"{np.mean(scores):.2f}"
    return mean if len(scores) < MANY else "{} ({:.2f}-{:.2f})".format(mean, *interval(scores))


def plot(file: Path, entries: list[Entry], clock: int) -> None:
    """Mean Dice and its interval against seconds; rows are kinds of images, columns budgets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = panels(entries)
    rows, columns = (list(dict.fromkeys(panel[i] for panel in found)) for i in (1, 2))
    shape = {
        "figsize": (5 * len(columns) + 2, 3.2 * len(rows)),
        "sharey": True,
        "squeeze": False,
        "layout": "constrained",
    }
    figure, axes = plt.subplots(len(rows), len(columns), **shape)
    for (_, modality, budget, *_), answers in found.items():
        ax = axes[rows.index(modality), columns.index(budget)]
        end = max(point[clock] for entry in together(answers) for point in entry["points"])
        for name, curve in answers.items():
            plot_curve(ax, name, curve, clock, end)
        ax.set(title=f"{modality}, budget {budget}", xscale="log", ylim=(0, 1))
        ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel(f"{'wall' if clock == WALL else 'CPU'} seconds")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean foreground Dice")
    handles = {name: line for ax in axes.flat for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_curve(ax: object, name: str, entries: list[Entry], clock: int, end: float) -> None:
    """One answer's steps, from the moment on when every image has one, to the end of the panel."""
    moments = sorted({point[clock] for entry in entries for point in entry["points"]} | {end})
    scores = {t: each for t in moments if (each := per_case(entries, t, clock)) is not None}
    colour = COLOURS.get(name)
    ax.step(list(scores), [np.mean(each) for each in scores.values()], where="post", label=name, color=colour)
    if all(len(each) >= MANY for each in scores.values()):
        low, high = zip(*map(interval, scores.values()), strict=True)
        ax.fill_between(list(scores), low, high, step="post", alpha=0.12, color=colour)


if __name__ == "__main__":
    main()
