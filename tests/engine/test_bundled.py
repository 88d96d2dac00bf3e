"""Bundled models: found by name, their cards say what they are."""

import json
from pathlib import Path

import pytest

from trainer.bundled import Card, bundled, card, run_folder

CARD = Card(
    title="Dots",
    about="Finds dots.",
    images="grey",
    networks=("unet",),
    classes=("background", "dot"),
    trained_on="generated dots",
    data_licence="none needed",
    score="Dice",
    scores={"dots": {"model": 0.9, "Otsu": 0.8}},
    scored_by="python -m benchmarks.bundle dots --score",
    made_by="python -m benchmarks.bundle dots",
    licence="BSD-3-Clause",
    parameters=7,
    sha256="0" * 64,
)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models that holds one, called dots."""
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots/card.json").write_text(json.dumps(CARD.to_dict()))
    monkeypatch.setattr("trainer.bundled.FOLDER", tmp_path)
    return tmp_path


def test_a_bundled_name_is_a_folder_and_any_other_text_a_path(shelf: Path) -> None:
    assert bundled() == {"dots": shelf / "dots"}
    assert run_folder("bundled:dots") == run_folder(Path("bundled:dots")) == shelf / "dots"
    assert run_folder("runs/heart") == Path("runs/heart")


def test_an_unknown_name_is_told_what_there_is(shelf: Path) -> None:
    with pytest.raises(ValueError, match="no model 'hearts' is bundled; there is dots"):
        run_folder("bundled:hearts")


def test_a_card_comes_back_as_it_was_written(shelf: Path) -> None:
    assert card(shelf / "dots") == CARD
    assert card(shelf) is None  # most run folders have none


def test_a_card_with_other_fields_is_refused_by_its_name(shelf: Path) -> None:
    values = {**CARD.to_dict(), "colour": "red"}
    del values["licence"]
    (shelf / "dots/card.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"card\.json is not the card of a run: .*: colour, licence;"):
        card(shelf / "dots")
