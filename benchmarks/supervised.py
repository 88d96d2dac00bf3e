"""The supervised networks on dense labels of hearts: python -m benchmarks.supervised [--minutes 10] [--out FILE.json]

Twenty training patients and the twelve validation patients of acdc/splits.json (end diastole), through the command
lines trainer.fit, trainer.predict and trainer.evaluate as a user runs them: preset supervised at small width, planned
for the dataset, one thread, so that minutes are minutes of CPU. Dice, and HD95 in mm, mean of RV, MYO and LV. A network
that is in the file already is skipped. Data: SCRIBBLEMAMBA_DATA, by default ../shared/data.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.images import cases
from trainer.dataset import save_dataset
from trainer.files import replacing

NETWORKS = ("unet", "vmunet", "umamba_bot", "umamba_enc", "swin_umamba_d", "nnmamba")


@dataclass(frozen=True)
class Options:
    """Train each network for some minutes, and score it on patients that it has not seen."""

    minutes: float = 10.0
    """Of processor time for each training, on one thread."""
    networks: tuple[str, ...] = NETWORKS
    patients: int = 20
    """To train on."""
    out: Path = Path("benchmarks/results/supervised.json")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            made(Path(folder) / half, half, n) for half, n in (("tuning", options.patients), ("reporting", 12))
        )
        runs = Path(folder)
        fill(options.out, options.networks, options.minutes, lambda n: scored(n, train, test, runs / n, options))


def fill(out: Path, networks: Sequence[str], minutes: float, score: Callable[[str], dict]) -> None:
    """The scores of those that the file has not yet, written after each. SystemExit where it is of other minutes."""
    found = json.loads(out.read_text()) if out.exists() else {}
    if other := {each["minutes"] for each in found.values()} - {minutes}:
        raise SystemExit(f"error: {out} is of trainings of {other} minutes; name another file with --out")
    for network in networks:
        if network not in found:
            found[network] = score(network)
            print(network, found[network], flush=True)
            with replacing(out) as file:
                file.write_text(json.dumps(found, indent=1) + "\n")


def made(folder: Path, half: str, count: int) -> Path:
    """The dataset of that half."""
    hearts = cases("cardiac", half, count)
    save_dataset(folder, [heart.truth for heart in hearts], hearts[0].classes, sparse=False)
    return folder


def scored(network: str, train: Path, test: Path, run: Path, options: Options) -> dict[str, float]:
    fit(network, train, run, options.minutes)
    call("predict", "--run", run, "--images", test / "imagesTr", "--out", run / "labels", "--device", "cpu")
    report = run / "scores.json"
    call("evaluate", "--predictions", run / "labels", "--references", test / "labelsTr", "--json", report)
    mean = json.loads(report.read_text())["mean_foreground"]
    scores = {name: round(score, 4) for name, score in mean.items()}
    return {**scores, **settings(run, options.minutes, ("patch", "batch", "spacing"))}


def fit(network: str, train: Path, run: Path, minutes: float) -> None:
    flags = ["--preset", "supervised", "--networks", network, "--minutes", minutes, "--threads", 1]
    call("fit", train, "--out", run, *flags, "--device", "cpu")


def settings(run: Path, minutes: float, names: Sequence[str]) -> dict:
    """How long it was trained, and what was planned for it."""
    config = json.loads((run / "config.json").read_text())["config"]
    steps = len((run / "history.csv").read_text().splitlines()) - 1
    return {"steps": steps, "minutes": minutes, **{name: config[name] for name in names}}


def call(verb: str, *arguments: object) -> None:
    """A command line of ours, to which minutes are those of its own processor time: other work does not count."""
    program = f"""import runpy, time
time.monotonic = time.process_time
runpy.run_module("trainer.{verb}", run_name="__main__", alter_sys=True)"""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"trainer.{verb} failed: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
