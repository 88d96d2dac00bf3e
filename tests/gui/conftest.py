"""GUI tests find their fakes in this folder, and leave no thread behind."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    from napari_scribblemamba._worker import wait_for_background

    assert wait_for_background(seconds=60)
