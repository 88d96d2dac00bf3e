"""Does it pay to draw where we say? Dice against seconds of drawing, for several ways to choose the next stroke.

    python -m benchmarks.annotation --quick                        one image of each kind, two rounds
    python -m benchmarks.annotation --cases 6 --half reporting     what counts

A simulated annotator (trainer.annotator) begins with a stroke of every class, of a volume on its middle slice. The
networks train for some iterations, the answer is scored, and each policy draws for the same seconds more; the training
goes on with the new strokes, as in the plugin. The answer is that of Model.fill_in. Policies:
    doubt          what the plugin says: places of the answer's entropy, slice by slice, and of a 2-D image what looks
                   like nothing drawn (trainer.disagreement)
    ensemble       the same with the entropy of the networks' ensemble alone
    disagreement   the same with the divergence of the networks
    ordered        the same with the UNet's entropy
    chance         the same with a map of random numbers: what the order gives by itself
    entropy        where the UNet's entropy is largest, whatever slice and class
    slices         places anywhere, and before the next a stroke of each class that is missing on the slice, as above
    random         places anywhere
    error          the largest mistake, which only one who knows the truth can find: an upper bound

Writes FILE.json, by default benchmarks/results/annotation-<date>-<half>.json, after every curve, and a plot beside it:
    settings  what all curves have in common
    sittings  when, with which options, on what machine
    entries   one curve each: modality, case, policy, seed, and points [[seconds drawn, dice of the answer, dice of
              the networks' ensemble alone], ...], one a round
    summary   for each modality, all images of nuclei being one more, each policy and of these two: mean Dice of each
              round, its mean over the rounds after the first, and by how much that, and the last round, is above random
              places, above these with each slice finished, and above entropy, paired by image: mean and 95 % interval
              (bootstrap over images)
"""

import datetime
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tyro

from benchmarks.images import Case, Half, Modality, cases
from benchmarks.interactive import interval, sitting, write_lines
from trainer import PRESETS, Run
from trainer.annotator import (
    Hand,
    Stroke,
    as_slices,
    at,
    classes_of,
    correct,
    painted,
    scribble,
    scribble_slices,
    seconds,
    spread,
)
from trainer.disagreement import Place, apart, divergence, entropy, peaks, places, undrawn
from trainer.metrics import mean_dice
from trainer.model import ENSEMBLE, with_teacher
from trainer.sample import IGNORE

Policy = Literal["random", "slices", "entropy", "chance", "ordered", "disagreement", "ensemble", "doubt", "error"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Entry = dict  # one curve, as in the file
MOST = 50  # places asked for in a round; nobody draws as many
IMAGE = "image"  # the only one there is
SHOWN = "shown"  # what networks and propagated strokes say together, beside what each network says
RIVALS: tuple[Policy, ...] = ("random", "slices", "entropy")
NUCLEI: tuple[Modality, ...] = ("fluorescence", "histology", "brightfield")
ANSWERS = {"shown": 1, "networks": 2}  # -> its place in a point
AFTER, LAST = slice(1, None), slice(-1, None)  # rounds after the first drawing, and the last
COLOURS = {
    "doubt": "tab:red",
    "ensemble": "tab:orange",
    "disagreement": "tab:purple",
    "ordered": "tab:blue",
    "entropy": "tab:green",
    "chance": "tab:olive",
    "slices": "tab:brown",
    "random": "tab:gray",
    "error": "black",
}


@dataclass(frozen=True)
class Options:
    modality: tuple[Modality, ...] = ("cardiac", "fluorescence")
    half: Half = "tuning"
    cases: int = 3
    """Images of each kind."""
    seeds: tuple[int, ...] = (0,)
    """Of the annotator's hand and the networks; all policies begin with the same strokes and weights."""
    policies: tuple[Policy, ...] = POLICIES
    rounds: int = 4
    """Trainings, with drawing in between."""
    iterations: int = 80
    """Of a round."""
    seconds: float = 20.0
    """Of drawing between two rounds."""
    batch: int = 4
    threads: int = 1
    quick: bool = False
    """One image of each kind, two rounds of twenty iterations."""
    resume: bool = False
    """Keep what FILE already has."""
    out: Path | None = None

    @property
    def settings(self) -> dict:
        """What makes curves comparable."""
        return {k: getattr(self, k) for k in ("half", "rounds", "iterations", "seconds", "batch")}

    def settled(self) -> "Options":
        return replace(self, cases=1, rounds=2, iterations=20) if self.quick else self

    @property
    def file(self) -> Path:
        name = f"annotation-{datetime.date.today()}-{self.half}{'-quick' * self.quick}.json"
        return self.out or Path(__file__).parent / "results" / name


def main(options: Options) -> None:
    options = options.settled()
    sittings, entries = before(options) if options.resume else ([], [])
    sittings.append(sitting(options))
    known = {key_of(entry) for entry in entries}
    for entry, case in wanted(options):
        if key_of(entry) not in known:
            points = list(curve(case, entry["policy"], entry["seed"], options))
            entries.append({**entry, "points": points})
            write(options, sittings, entries)
            print(*key_of(entry), *(f"{d:.3f}/{n:.3f}@{s:.0f}s" for s, d, n in points), flush=True)
    for each in summary(entries):
        print(each)
    plot(options.file.with_suffix(".png"), entries)
    print(f"written to {options.file}")


def before(options: Options) -> tuple[list[dict], list[Entry]]:
    """The sittings and curves that the file has; SystemExit where these are of other settings."""
    if not options.file.is_file():
        return [], []
    content = json.loads(options.file.read_text())
    if content["settings"] != options.settings:
        raise SystemExit(f"error: {options.file} is of {content['settings']}; name another file with --out")
    return content["sittings"], content["entries"]


def wanted(options: Options) -> Iterator[tuple[Entry, Case]]:
    """What each curve is of, without its points, and the image."""
    for modality in options.modality:
        for case in cases(modality, options.half, options.cases):
            for seed, policy in product(options.seeds, options.policies):
                yield {"modality": modality, "case": case.name, "policy": policy, "seed": seed}, case


def key_of(entry: Entry) -> tuple:
    return tuple(entry[k] for k in ("modality", "case", "policy", "seed"))


# ---- one curve ----


def curve(case: Case, policy: Policy, seed: int, options: Options) -> Iterator[tuple[float, float, float]]:
    """(seconds drawn, Dice of the answer, of the ensemble) after each round of training."""
    truth, rng = case.truth.target, np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    strokes = first(truth, rng)
    begun = seconds(strokes)
    config = replace(
        PRESETS["interactive"],
        minutes=None,
        iterations=options.rounds * options.iterations,
        batch=options.batch,
        threads=options.threads,
        device="cpu",
        seed=seed,
    )
    run = Run([replace(case.truth, target=painted(strokes, truth.shape))], config, case.classes)
    run.patience = 0.0  # what was drawn counts in the next step, on a slow machine too
    for progress in run:
        if progress.stage != "training" or progress.iteration % options.iterations:
            continue
        P, labels = answer(run, case.name)
        both = labels, P[ENSEMBLE].argmax(0)
        scores = (round(mean_dice(each, truth, range(1, len(case.classes))), 4) for each in both)
        yield round(seconds(strokes), 1), *scores
        if progress.iteration < config.iterations:
            until = begun + options.seconds * progress.iteration / options.iterations
            strokes += drawn_until(until, strokes, NEXT[policy], P, labels, case, rng)
            run.update([replace(case.truth, target=painted(strokes, truth.shape))])


def first(truth: np.ndarray, rng: np.random.Generator) -> list[Stroke]:
    """A stroke of each class; of a volume, on its middle slice."""
    return scribble(truth, 1, rng) if truth.ndim == 2 else scribble_slices(truth, spread(truth, 1), 1, rng)


def answer(run: Run, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """P of each network, the ensemble and SHOWN, and the labels (*space) on the screen: what Model.fill_in says,
    without propagating again."""
    (sample,) = run.samples
    P = run.model.probabilities(sample.image)
    P[SHOWN] = with_teacher(P[ENSEMBLE], run.teachers[name])
    labels = P[SHOWN].argmax(0).astype(np.uint8)
    return P, np.where(sample.target == IGNORE, labels, sample.target)


# ---- who chooses ----

Next = Callable[[list[Stroke], dict[str, np.ndarray], np.ndarray, Case, np.random.Generator], Iterator[Stroke]]


def drawn_until(
    until: float,
    strokes: list[Stroke],
    policy: Next,
    P: dict[str, np.ndarray],
    labels: np.ndarray,
    case: Case,
    rng: np.random.Generator,
) -> list[Stroke]:
    """New strokes, until so many seconds are spent on all."""
    new: list[Stroke] = []
    for stroke in policy(strokes, P, labels, case, rng):
        new.append(stroke)
        if seconds([*strokes, *new]) >= until:
            break
    return new


def guided(
    choose: Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray, Case, np.random.Generator], list[Place]],
    finish: bool = True,
) -> Next:
    """Draws at the places that `choose` finds, by P, the labels on the screen and what is drawn (*space).

    finish: before it leaves a slice of a volume it draws the classes that are missing there, as the manual says
    """

    def strokes(
        before: list[Stroke], P: dict[str, np.ndarray], labels: np.ndarray, case: Case, rng: np.random.Generator
    ) -> Iterator[Stroke]:
        truth, drawn = case.truth.target, list(before)
        found = choose(P, labels, painted(before, truth.shape), case, rng)
        for stroke in visits(found, truth, drawn, rng, finish and truth.ndim == 3):
            drawn.append(stroke)
            yield stroke

    return strokes


def visits(
    found: list[Place], truth: np.ndarray, drawn: list[Stroke], rng: np.random.Generator, finish: bool
) -> Iterator[Stroke]:
    """What is drawn at these places, one after the other; `drawn` grows meanwhile."""
    for place, following in pairwise([*found, None]):
        if undrawn([place], {IMAGE: painted(drawn, truth.shape)}):
            yield from at(truth, [(place.slice, place.row, place.column)[-truth.ndim :]], rng)
        if finish and (following is None or following.slice != place.slice):
            yield from missing(truth, place.slice, drawn, rng)


def missing(truth: np.ndarray, z: int, strokes: list[Stroke], rng: np.random.Generator) -> Iterator[Stroke]:
    """A stroke of each class of a slice that has none there."""
    drawn = {stroke.label for stroke in strokes if stroke.slice == z}
    for c in classes_of(truth[z]):
        if c not in drawn:
            yield Hand(truth, c, rng, only=z).draw()


def of_map(heat: Callable[[dict[str, np.ndarray], np.random.Generator], np.ndarray]) -> Next:
    """At the places of a map (*space) that is made of P, as the plugin names them."""

    def choose(
        P: dict[str, np.ndarray], labels: np.ndarray, drawn: np.ndarray, case: Case, rng: np.random.Generator
    ) -> list[Place]:
        each = (heat(P, rng), drawn, labels, case.truth.image)
        maps, strokes, classes, images = ({IMAGE: values} for values in each)
        return places(maps, strokes, classes, MOST, images)

    return guided(choose)


def divided(P: dict[str, np.ndarray]) -> np.ndarray:
    """(*space): the divergence of the networks; the entropy of the first, as long as it leads."""
    each = {name: p for name, p in P.items() if name not in (ENSEMBLE, SHOWN)}
    return divergence(each) if len(each) > 1 else entropy(P[ENSEMBLE])


def noise(P: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(*space) of random numbers."""
    return rng.random(next(iter(P.values())).shape[1:], np.float32)


def anywhere(
    P: dict[str, np.ndarray], labels: np.ndarray, drawn: np.ndarray, case: Case, rng: np.random.Generator
) -> list[Place]:
    """Pixels at random."""
    pixels = rng.choice(drawn.size, MOST, replace=False)
    spots = zip(*np.unravel_index(pixels, as_slices(drawn).shape), strict=True)
    return [Place(IMAGE, int(z), int(row), int(column), 0.0) for z, row, column in spots]


def uncertain(
    P: dict[str, np.ndarray], labels: np.ndarray, drawn: np.ndarray, case: Case, rng: np.random.Generator
) -> list[Place]:
    """Where one network knows least."""
    found = peaks(IMAGE, entropy(P["unet"]), drawn, np.zeros_like(labels), MOST)
    return apart(sorted(found, key=lambda place: -place.score), MOST)


def mistakes(
    before: list[Stroke], P: dict[str, np.ndarray], labels: np.ndarray, case: Case, rng: np.random.Generator
) -> Iterator[Stroke]:
    """The largest mistake, then the next."""
    strokes = list(before)
    while (stroke := correct(case.truth.target, labels, strokes, rng)) is not None:
        strokes.append(stroke)
        yield stroke


NEXT: dict[Policy, Next] = {
    "random": guided(anywhere, finish=False),
    "slices": guided(anywhere),
    "chance": of_map(noise),
    "ordered": of_map(lambda P, rng: entropy(P["unet"])),
    "entropy": guided(uncertain, finish=False),
    "disagreement": of_map(lambda P, rng: divided(P)),
    "ensemble": of_map(lambda P, rng: entropy(P[ENSEMBLE])),
    "doubt": of_map(lambda P, rng: entropy(P[SHOWN])),
    "error": mistakes,
}


# ---- summing up ----


def summary(entries: list[Entry]) -> list[dict]:
    """A row for each kind of image, policy and answer."""
    groups = grouped(entries)
    rows = []
    for (modality, policy), own in groups.items():
        rivals = {rival: groups.get((modality, rival), []) for rival in RIVALS if rival != policy}
        rows += [row(modality, policy, answer, own, rivals) for answer in ANSWERS]
    return rows


def row(modality: str, policy: str, answer: str, own: list[Entry], rivals: dict[str, list[Entry]]) -> dict:
    points = np.array([entry["points"] for entry in own])  # (curves, rounds, 3)
    found = {
        "modality": modality,
        "policy": policy,
        "answer": answer,
        "images": len({entry["case"] for entry in own}),
        "seconds": points[..., 0].mean(0).round(1).tolist(),
        "dice": points[..., ANSWERS[answer]].mean(0).round(4).tolist(),
        "after_drawing": round(float(points[:, AFTER, ANSWERS[answer]].mean()), 4),
    }
    for rival, theirs in rivals.items():
        for name, rounds in (("above", AFTER), ("last_above", LAST)):
            if gains := gain(own, theirs, answer, rounds):
                found[f"{name}_{rival}"] = [round(x, 4) for x in (float(np.mean(gains)), *interval(gains))]
    return found


def grouped(entries: list[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """By (modality, policy); images of nuclei also together."""
    found = defaultdict(list)
    for entry in entries:
        found[entry["modality"], entry["policy"]].append(entry)
    if len({entry["modality"] for entry in entries} & set(NUCLEI)) > 1:
        for entry in entries:
            if entry["modality"] in NUCLEI:
                found["nuclei", entry["policy"]].append(entry)
    return found


def gain(own: list[Entry], rivals: list[Entry], answer: str, rounds: slice = AFTER) -> list[float]:
    """Of each image that both have: mean Dice of these rounds above the rival's, mean over seeds."""
    ours, theirs = ({(e["case"], e["seed"]): dice_of(e, answer, rounds) for e in each} for each in (own, rivals))
    gains = defaultdict(list)
    for key in ours.keys() & theirs.keys():
        gains[key[0]].append(ours[key] - theirs[key])
    return [float(np.mean(each)) for _, each in sorted(gains.items())]


def dice_of(entry: Entry, answer: str, rounds: slice) -> float:
    return float(np.mean([point[ANSWERS[answer]] for point in entry["points"][rounds]]))


def write(options: Options, sittings: list[dict], entries: list[Entry]) -> None:
    found = {"settings": options.settings, "sittings": sittings, "summary": summary(entries), "entries": entries}
    write_lines(options.file, found)


def plot(file: Path, entries: list[Entry]) -> None:
    """Mean Dice against mean seconds of drawing: a column for each kind of image, a row for each answer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = summary(entries)
    kinds = list(dict.fromkeys(each["modality"] for each in rows))
    shape = {"figsize": (5 * len(kinds), 3.2 * len(ANSWERS)), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(ANSWERS), len(kinds), **shape)
    for each in rows:
        ax = axes[list(ANSWERS).index(each["answer"]), kinds.index(each["modality"])]
        ax.plot(each["seconds"], each["dice"], "o-", color=COLOURS[each["policy"]], label=each["policy"])
        ax.set(title=f"{each['modality']}, {each['answer']}", xlabel="seconds of drawing", ylabel="Dice")
        ax.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
