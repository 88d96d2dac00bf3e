"""What is drawn is counted slice by slice, and a stroke costs one slice."""

import numpy as np

from napari_scribblemamba._tally import Tally


def counted(data: np.ndarray) -> Tally:
    tally = Tally(data)
    list(tally.work())
    return tally


def test_pixels_of_each_label_and_the_slices_drawn_on() -> None:
    strokes = np.zeros((4, 5, 5), np.uint8)
    strokes[1, 0, :3], strokes[3, 2, :2], strokes[3, 4, :4] = 1, 1, 2
    tally = counted(strokes)
    assert [tally.pixels(label) for label in (1, 2, 3)] == [5, 4, 0]
    assert tally.slices == {1: 3, 3: 6}


def test_a_stroke_recounts_its_slice_only() -> None:
    strokes = np.zeros((4, 5, 5), np.uint8)
    tally = counted(strokes)
    strokes[2, 0], strokes[3, 0] = 1, 1
    tally.recount(2)
    assert tally.slices == {2: 5}
    strokes[2] = 0
    tally.recount()
    assert tally.due == [0, 1, 2, 3]  # nothing is counted before there is time
    assert [next(tally.work()) for _ in range(4)] == [3, 2, 1, 0]
    assert tally.slices == {3: 5}


def test_a_plane_is_one_slice_and_labels_may_be_large() -> None:
    assert counted(np.array([[0, 1], [2, 2]])).slices == {0: 3}
    assert counted(np.array([[10**9, -3]])).pixels(1) == 0
