"""Draw a report of trainer.bench: python benchmarks/plot_bench.py REPORT.json [--out FOLDER]

Writes NAME-scan.png, nanoseconds an element of every scan at every shape with the floors of the machine as lines, and
NAME-step.png, what a step of MambaUNet costs with other scans; each where the report has that part.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = "floor: "
DASHES = {"memory": ":", "arithmetic": "--", "arithmetic with softplus": "-"}
WORK = {"forward": "forward", "both": "forward and backward"}


@dataclass(frozen=True)
class Plot:
    """Draw a report as pictures."""

    report: Annotated[Path, tyro.conf.Positional]
    """JSON file that trainer.bench wrote."""
    out: Path = Path(__file__).parent / "results"
    """Folder of the pictures."""


def main() -> None:
    options = tyro.cli(Plot, description=__doc__)
    for file in plot(json.loads(options.report.read_text()), options.out, options.report.stem):
        print(file)


def plot(report: dict, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for part, draw in {"scan": draw_scan, "step": draw_step}.items():
        if part in report:
            files.append(folder / f"{name}-{part}.png")
            draw(report[part]).savefig(files[-1], dpi=120)
    return files


def draw_scan(scan: dict) -> "Figure":
    """A row for forward and one for both, a column for each N."""
    from matplotlib.figure import Figure  # no window, no global state

    labels = {tuple(label.split(", N ")): label for label in scan}  # (shape, N): "56 x 56, N 16"
    states = sorted({N for _, N in labels}, key=int)
    figure = Figure(figsize=(7 * len(states), 8), layout="constrained")
    all_axes = figure.subplots(len(WORK), len(states), squeeze=False, sharey=True)
    for row, work in zip(all_axes, WORK, strict=True):
        for axes, N in zip(row, states, strict=True):
            shapes = {shape: scan[label][work]["nanoseconds"] for (shape, n), label in labels.items() if n == N}
            draw_bars(axes, shapes)
            axes.set(title=f"N = {N}, {WORK[work]}", ylabel="ns an element")
    handles, names = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    return figure


def draw_bars(axes: "Axes", shapes: dict[str, dict[str, float]]) -> None:
    """A group of bars for each shape, a bar for each scan, and the floors as lines across the group."""
    names = list(next(iter(shapes.values())))
    scans = [name for name in names if not name.startswith(FLOOR)]
    width = 0.8 / len(scans)
    for i, scan in enumerate(scans):
        left = [group - 0.4 + i * width for group in range(len(shapes))]
        axes.bar(left, [times[scan] for times in shapes.values()], width, align="edge", label=scan)
    for name in (name.removeprefix(FLOOR) for name in names if name.startswith(FLOOR)):
        heights = [times[FLOOR + name] for times in shapes.values()]
        groups = range(len(shapes))
        ends = [g - 0.45 for g in groups], [g + 0.45 for g in groups]
        axes.hlines(heights, *ends, colors="black", linestyles=DASHES.get(name, "-."), label=FLOOR + name)
    axes.set_yscale("log")
    axes.set_xticks(range(len(shapes)), shapes)


def draw_step(step: dict) -> "Figure":
    """How many times our step each other one takes: from `mambaunet`, whose entries are batches."""
    from matplotlib.figure import Figure

    batches = step["mambaunet"]
    figure = Figure(figsize=(8, 1 + 2 * len(batches)), layout="constrained")
    all_axes = figure.subplots(len(batches), squeeze=False, sharex=True)[:, 0]
    for axes, (batch, figures) in zip(all_axes, batches.items(), strict=True):
        times = figures["milliseconds"]
        ours = next(iter(times))  # the first is our fastest
        bars = axes.barh(list(times), [t / times[ours] for t in times.values()])
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=f"a step of MambaUNet, {batch}, as multiples of ours ({ours})", xscale="log")
        axes.invert_yaxis()
    ticks = (0.5, 1, 2, 5, 10, 20, 50)
    axes.set_xticks(ticks, ticks)
    axes.set_xlim(0.3, 60)
    return figure


if __name__ == "__main__":
    main()
