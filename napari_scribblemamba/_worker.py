"""run_in_background(): a generator in a thread, its events and end on the GUI thread. The only file with threads."""

from collections.abc import Callable, Generator
from typing import TypeVar

from qtpy.QtCore import QThreadPool
from superqt.utils import create_worker

from napari_scribblemamba._opengl import keep_triton_out

Event = TypeVar("Event")
Result = TypeVar("Result")


class EngineError(Exception):
    """A RuntimeError from torch in clothes that superqt's GeneratorWorker does not swallow."""


def _guarded(events: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
    try:
        return (yield from events)
    except RuntimeError as e:
        raise EngineError(str(e)) from e


def run_in_background(
    events: Generator[Event, None, Result],
    *,
    on_event: Callable[[Event], object],
    on_done: Callable[[Result], object],
    on_error: Callable[[Exception], object],
) -> None:
    """Drain `events` in a thread. The callbacks run on the calling thread, which needs a Qt event loop."""
    keep_triton_out()  # what runs there uses torch
    # superqt's worker and not napari's, which would show every error a second time
    create_worker(_guarded, events, _connect={"yielded": on_event, "returned": on_done, "errored": on_error})


def wait_for_background(seconds: float) -> bool:
    """Give threads that were told to stop the time to do so; whether they did. For the end of the program."""
    return QThreadPool.globalInstance().waitForDone(round(1000 * seconds))
