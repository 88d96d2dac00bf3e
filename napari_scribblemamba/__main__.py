"""The desktop app: `scribblemamba` opens napari with the panel docked, `--sample cardiac` with an image and strokes."""

import gc
from pathlib import Path
from typing import Annotated, Literal

import tyro

PLUGIN = "napari-scribblemamba"


def open_app(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    sample: Literal["cardiac", "microscopy", "endoscopy"] | None = None,
) -> None:
    """Draw a few strokes on an image, press Train, and watch three networks learn to segment it.

    Args:
        images: Files for napari to open.
        sample: A generated image to try it on, with its strokes.
    """
    import napari  # here: --help should not take seconds

    viewer = napari.Viewer(title="ScribbleMamba", show_welcome_screen=not images and sample is None)
    if images:
        viewer.open([str(path) for path in images])
    if sample is not None:
        viewer.open_sample(PLUGIN, sample)
    viewer.window.add_plugin_dock_widget(PLUGIN)
    # collections of the oldest generation were the only long stalls of the window: what stands now is never garbage
    gc.collect()
    gc.freeze()
    napari.run()


def main() -> None:
    tyro.cli(open_app, prog="scribblemamba")


if __name__ == "__main__":
    main()
