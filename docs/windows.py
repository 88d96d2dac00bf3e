"""Pictures of the real window: python docs/windows.py [--minutes 1] [--out docs/windows]

Opens the app on each generated sample, as a person would, takes a picture, presses Train, and takes another one when
the training has ended. Without a display: xvfb-run -s "-screen 0 1400x1000x24" python docs/windows.py
"""

import gc
import time
from dataclasses import dataclass, replace
from pathlib import Path

import napari
import tyro
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_scribblemamba.__main__ import PLUGIN

SAMPLES = ("cardiac", "microscopy", "endoscopy")
SIZE = 1300, 900  # pixels


@dataclass(frozen=True)
class Options:
    """Take pictures of the window before and after a training."""

    minutes: float = 1.0
    """Of each training."""
    samples: tuple[str, ...] = SAMPLES
    out: Path = Path(__file__).parent / "windows"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    for sample in options.samples:
        take(sample, options)
        gc.collect()


def take(sample: str, options: Options) -> None:
    viewer = napari.Viewer(title="ScribbleMamba", show=True)
    viewer.window.resize(*SIZE)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN)
    widget.tour.setValue(None)
    viewer.open_sample(PLUGIN, sample)
    wait(2)
    viewer.reset_view()
    if viewer.dims.ndim == 3 and not viewer.layers[0].rgb:
        viewer.dims.set_point(0, middle(viewer))
    wait(1)
    picture(viewer, options.out / f"{sample}-before.png")
    widget.settings.setValue(replace(widget.settings.value(), minutes=options.minutes, iterations=None))
    widget.training.button.click()
    wait(1)
    while widget.session.state != "idle":
        wait(0.2)
    wait(1)
    picture(viewer, options.out / f"{sample}-after.png")
    viewer.close()


def middle(viewer: napari.Viewer) -> float:
    """Where the middle slice lies."""
    low, high, _ = viewer.dims.range[0]
    return (low + high) / 2


def wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def picture(viewer: napari.Viewer, file: Path) -> None:
    shot = viewer.screenshot(canvas_only=False, flash=False)
    few = Image.fromarray(shot[..., :3]).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(file, optimize=True)  # a third of the bytes, and colours that are rare stay what they are
    print(file, flush=True)


if __name__ == "__main__":
    main()
