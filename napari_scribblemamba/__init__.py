"""napari-scribblemamba: the napari side. Draw a few strokes, press Train, see three networks agree."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("napari-scribblemamba")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "unknown"
