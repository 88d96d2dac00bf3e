"""The guide: places to go to, one after another; scores with the best in bold; advice that can be clicked."""

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from napari_scribblemamba._guide_panel import GuidePanel
from trainer.coach import Advice
from trainer.disagreement import Place
from trainer.referee import Answers, verdict

pytestmark = pytest.mark.bindings

PLACES = [Place("heart", 4, 100, 90, 31.0), Place("heart", 2, 60, 70, 20.5), Place("another heart", 0, 5, 6, 3.0)]
SLIP = Advice("slip", "Check this stroke of RV: every network sees LV there.", "heart", 3, (50, 60))
MISSING = Advice("missing", "Paint a stroke of MYO, or remove the class.")


@pytest.fixture
def panel(qtbot: QtBot) -> GuidePanel:
    panel = GuidePanel()
    qtbot.addWidget(panel)
    panel.resize(340, 500)
    panel.show()
    return panel


def click(qtbot: QtBot, shown: object, row: int) -> None:
    middle = shown.visualItemRect(shown.item(row)).center()
    qtbot.mouseClick(shown.viewport(), Qt.MouseButton.LeftButton, pos=middle)


@pytest.mark.parametrize("place", [*PLACES, None])
def test_the_value(panel: GuidePanel, place: Place | None) -> None:
    panel.setPlaces(PLACES)
    panel.setValue(place)
    assert panel.value() == place


def test_a_place_that_is_not_in_the_list(panel: GuidePanel) -> None:
    with pytest.raises(ValueError, match="none of the 0 places"):
        panel.setValue(PLACES[0])


def test_next_goes_through_the_list_and_round(qtbot: QtBot, panel: GuidePanel) -> None:
    assert not panel._next.isEnabled()
    panel.next()  # nothing to go to
    panel.setPlaces(PLACES)
    gone: list[Place] = []
    panel.nextRequested.connect(gone.append)
    for _ in range(4):
        qtbot.mouseClick(panel._next, Qt.MouseButton.LeftButton)
    assert gone == [*PLACES, PLACES[0]] and panel.value() == PLACES[0]


def test_a_click_on_a_place_goes_there(qtbot: QtBot, panel: GuidePanel) -> None:
    panel.setPlaces(PLACES)
    with qtbot.waitSignal(panel.nextRequested) as asked:
        click(qtbot, panel._list, 1)
    assert asked.args == [PLACES[1]] and panel.value() == PLACES[1]


def test_a_place_in_hand_stays_while_it_is_in_doubt(qtbot: QtBot, panel: GuidePanel) -> None:
    panel.setPlaces(PLACES)
    panel.setValue(PLACES[1])
    panel.setPlaces(PLACES[1:])
    assert panel.value() == PLACES[1]
    with qtbot.waitSignal(panel.valueChanged):
        panel.setPlaces(PLACES[:1])
    assert panel.value() is None


def test_the_referee(panel: GuidePanel) -> None:
    """One network has all pixels right and one half of class 0; of class 2 nothing is held out."""
    right = np.array([[10, 0, 0], [10, 0, 0], [0, 10, 0], [0, 10, 0]])
    half = np.array([[0, 10, 0], [10, 0, 0], [0, 10, 0], [0, 10, 0]])
    assert panel._table.isHidden() and panel._all.isHidden()
    found = verdict(Answers(np.array([0, 0, 1, 1]), {"unet": half, "ensemble": right}))
    panel.setVerdict(found, ("background", "RV", "LV"))
    table = panel._table
    headers = [table.horizontalHeaderItem(j).text() for j in range(table.columnCount())]
    assert headers == ["all", "background", "RV", "LV"]
    assert [table.verticalHeaderItem(i).text() for i in range(2)] == ["unet", "ensemble"]
    assert [table.item(1, j).text() for j in range(4)] == ["100\n100-100", "100\n100-100", "100\n100-100", "–"]
    assert table.item(0, 1).text().startswith("67\n") and table.item(0, 2).text().startswith("80\n")
    assert [table.item(i, j).font().bold() for i in (0, 1) for j in (0, 1, 2)] == [False] * 3 + [True] * 3
    assert "2 held-out strokes" in table.item(1, 1).toolTip()
    panel.setVerdict(None, ())
    assert table.isHidden() and "No scores yet" in panel._note.text()


def test_train_on_all_strokes(qtbot: QtBot, panel: GuidePanel) -> None:
    panel.setVerdict(verdict(Answers(np.array([0, 1]), {"unet": np.eye(2, dtype=int)})), ("a", "b"))
    with qtbot.waitSignal(panel.allRequested):
        qtbot.mouseClick(panel._all, Qt.MouseButton.LeftButton)


def test_advice_with_a_place_is_a_link(qtbot: QtBot, panel: GuidePanel) -> None:
    panel.setAdvice([MISSING, SLIP])
    assert [panel._coach.item(i).text()[2:] for i in range(2)] == [MISSING.text, SLIP.text]
    with qtbot.waitSignal(panel.placeRequested) as asked:
        click(qtbot, panel._coach, 1)
    assert asked.args == [SLIP]
    with qtbot.assertNotEmitted(panel.placeRequested):
        click(qtbot, panel._coach, 0)
    panel.setAdvice([])
    assert panel._coach.isHidden()


def test_it_fits_a_narrow_window(panel: GuidePanel) -> None:
    panel.setPlaces([Place("a very long name of an image of a patient, as they come " * 3, 12, 345, 678, 1.0)])
    panel.setAdvice([Advice("rare", "Paint more of myocardium: " + "and so on " * 20)])
    panel.setVerdict(verdict(Answers(np.array([0, 1]), {"mambaunet": np.eye(6, dtype=int)[:2]})), tuple("abcdef"))
    assert panel.minimumSizeHint().width() <= 340
