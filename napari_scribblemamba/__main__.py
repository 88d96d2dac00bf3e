"""The desktop app: `scribblemamba [IMAGE|PROJECT|RUN]` opens napari with the panel docked, `--sample cardiac` with an
image and strokes."""

import gc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from napari import Viewer

    from napari_scribblemamba._widget import ScribbleMamba

PLUGIN = "napari-scribblemamba"


def open_app(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    sample: Literal["cardiac", "microscopy", "endoscopy"] | None = None,
) -> None:
    """Draw a few strokes on an image, press Train, and watch three networks learn to segment it.

    Args:
        images: Images for napari to open; folders of projects, datasets and DICOM series; a run folder, whose model is
            taken up.
        sample: A generated image to try it on, with its strokes.
    """
    import napari  # here: --help should not take seconds

    from napari_scribblemamba._worker import wait_for_background

    open_window(images, sample)
    napari.run()
    wait_for_background(seconds=30)  # python must not go while a thread is in the middle of a step


def open_window(
    images: tuple[Path, ...] = (), sample: Literal["cardiac", "microscopy", "endoscopy"] | None = None
) -> "tuple[Viewer, ScribbleMamba]":
    """napari with our panel docked and these images or this sample open."""
    with suppress(ImportError):
        import triton  # noqa: F401  before OpenGL, after which it may have to stay out: see _opengl.py
    import napari
    from napari.settings import get_settings
    from qtpy.QtCore import QTimer

    from napari_scribblemamba._garbage import spare
    from napari_scribblemamba._readers import plugin_for
    from napari_scribblemamba._runs import is_run

    viewer = napari.Viewer(title="ScribbleMamba", show_welcome_screen=not images and sample is None)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN)
    if get_settings().application.window_size is None:  # the first start; later ones find the window as it was left
        viewer.window.resize(1300, 900)
    for path in images:
        if is_run(path):
            widget.session.load(path)
        else:
            viewer.open(str(path), plugin=plugin_for(path))
    if sample is not None:
        viewer.open_sample(PLUGIN, sample)
    QTimer.singleShot(200, viewer.reset_view)  # the image in full, once the docks have found their sizes
    gc.collect()
    spare()
    return viewer, widget


def main() -> None:
    tyro.cli(open_app, prog="scribblemamba")


if __name__ == "__main__":
    main()
