"""The engine of napari-scribblemamba: strokes in, networks and label images out; it never heard of a window.

The public names are loaded at first use, so that `import trainer` is quick and imports neither torch nor Qt.
"""

import os
from importlib import import_module

# Read when torch loads its OpenMP. Waiting threads that spin share a core with whatever else runs: beside one busy
# process, two spinning threads on two cores trained 15 times slower than two that sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PUBLIC = {  # name -> the module that defines it
    "Config": "config",
    "PRESETS": "config",
    "Sample": "dataset",
    "IGNORE": "dataset",
    "load_dataset": "dataset",
    "save_dataset": "dataset",
    "Run": "run",
    "Progress": "run",
    "Model": "model",
    "NETWORKS": "networks",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f"trainer.{_PUBLIC[name]}"), name)
