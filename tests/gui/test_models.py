"""Models in the window: the list with its cards, a folder of images, exports; by clicks, without code."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tyro
from napari import Viewer
from napari.utils.notifications import notification_manager
from PIL import Image as Picture
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog
from test_widget import disc_image, docked, messages

from napari_scribblemamba import _layers, _runs
from napari_scribblemamba._batch import Batch
from napari_scribblemamba._models_panel import ModelsPanel
from napari_scribblemamba._runs_panel import RunsPanel
from napari_scribblemamba._widget import ScribbleMamba
from trainer import bundled
from trainer.config import Config
from trainer.labelling import Step
from trainer.predict import Predict

pytestmark = pytest.mark.bindings

TINY = Config(networks=("unet",), objective="supervised", patch=(32, 32), iterations=1, device="cpu", dtype="float32")
CLASSES = ("background", "disc")
CARD = bundled.Card(
    title="Discs",
    about="finds discs <b>",
    images="grey pictures",
    networks=("unet",),
    classes=CLASSES,
    trained_on="drawn discs",
    data_licence="CC0-1.0",
    score="Dice",
    scores={"held-out discs": {"model": 0.934, "threshold": 0.5}},
    scored_by="python -m score",
    made_by="python -m make",
    licence="BSD-3-Clause",
    parameters=1,
    sha256="0",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A saved run, the same whenever it is made."""
    from trainer.model import Model

    folder = tmp_path / "runs" / "heart"
    Model.new(TINY, CLASSES, 1).save(folder)
    return folder


@pytest.fixture
def discs(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only bundled model."""
    folder = tmp_path / "models" / "discs"
    run.rename(tmp_path / "moved")
    folder.parent.mkdir()
    (tmp_path / "moved").rename(folder)
    (folder / "card.json").write_text(json.dumps(CARD.to_dict()))
    monkeypatch.setattr(bundled, "FOLDER", folder.parent)
    return folder


def click(widget: object) -> None:
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def done(qtbot: QtBot, widget: ScribbleMamba) -> None:
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=120_000)


# the list -----------------------------------------------------------------------------------------------------------


def test_a_run_is_remembered_until_it_is_forgotten_or_gone(run: Path, tmp_path: Path) -> None:
    other = run.with_name("other")
    assert _runs.recent() == []
    _runs.remember(run)
    other.mkdir()
    for file in run.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    _runs.remember(other)
    _runs.remember(run)
    assert _runs.recent() == [run, other]
    [text] = [entry.text for entry in _runs.entries() if entry.folder == run]
    assert "unet" in text and "background, disc" in text and "slices of 32 x 32" in text
    _runs.forget(run)
    assert _runs.recent() == [other] and run.is_dir()
    (other / "weights.safetensors").unlink()
    assert _runs.recent() == []


def test_a_bundled_model_shows_its_card_and_a_broken_run_is_passed_over(discs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "weights.safetensors"):
        (broken / name).write_text("{")
    _runs.remember(broken)
    _runs.remember(discs)  # is there anyway
    [entry] = _runs.entries()
    assert (entry.title, entry.folder, entry.bundled) == ("Discs", discs, True)
    for words in ("finds discs &lt;b&gt;", "drawn discs (CC0-1.0)", "held-out discs: model 0.93", "BSD-3-Clause"):
        assert words in entry.text


def test_preferences_that_cannot_be_read_are_begun_anew(preferences: Path, run: Path) -> None:
    (preferences / "runs.json").write_text("{")
    assert _runs.recent() == []
    _runs.remember(run)
    assert _runs.recent() == [run]


def test_the_list_edits_the_chosen_folder(qtbot: QtBot) -> None:
    panel = RunsPanel()
    qtbot.addWidget(panel)
    one, other = (_runs.Entry(name, Path(name), f"about {name}", name == "one") for name in ("one", "other"))
    panel.setEntries([one, other])
    assert panel.value() is None and panel._use.isHidden()
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue(Path("other"))
    assert panel.value() == Path("other") and panel._card.text() == "about other"
    assert not panel._forget.isHidden()
    panel.setValue(Path("one"))
    assert panel._forget.isHidden()  # what comes with the package stays
    with qtbot.waitSignal(panel.useRequested) as used:
        panel._use.click()
    assert used.args == [Path("one")]
    panel.setEntries([other])
    assert panel.value() is None
    panel.setValue(Path("nowhere"))
    assert panel.value() is None


def test_a_bundled_model_predicts_with_three_clicks(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, discs: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), name="disc")
    widget = docked(viewer)
    models = widget.models
    assert "1 bundled" in models._listed._line.text()
    models._listed.unfold()
    qtbot.wait(50)
    row = models.runs._list.visualItemRect(models.runs._list.item(0)).center()
    QTest.mouseClick(models.runs._list.viewport(), Qt.MouseButton.LeftButton, pos=row)
    assert "drawn discs" in models.runs._card.text()
    click(models.runs._use)
    qtbot.waitUntil(lambda: widget.session.model is not None, timeout=60_000)
    done(qtbot, widget)
    click(models._predict)
    done(qtbot, widget)
    assert _layers.prediction_layers(viewer, image)["unet"].data.shape == (48, 48)
    seen = _layers.predicted_classes(viewer, image)["unet"]
    expected = widget.session.model.predict(disc_image()[None])
    assert np.array_equal(seen, expected)
    assert _runs.recent() == []  # it is in the list already


def test_what_is_saved_and_loaded_is_listed(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, run: Path, tmp_path: Path
) -> None:
    widget = docked(make_napari_viewer())
    widget.models.loadRequested.emit(run)
    qtbot.waitUntil(lambda: widget.models.runs.value() == run, timeout=60_000)
    widget.models.saveRequested.emit(tmp_path / "copy")
    done(qtbot, widget)
    assert widget.models.runs.value() == tmp_path / "copy"
    assert [entry.folder for entry in widget.models.runs.entries() if not entry.bundled] == [tmp_path / "copy", run]
    widget.models.runs._forget.click()
    assert _runs.recent() == [run] and (tmp_path / "copy").is_dir()


# a folder of images -------------------------------------------------------------------------------------------------


def loaded(viewer: Viewer, qtbot: QtBot, run: Path) -> ScribbleMamba:
    widget = docked(viewer)
    widget.models.loadRequested.emit(run)
    qtbot.waitUntil(lambda: widget.session.model is not None and widget.session.state == "idle", timeout=60_000)
    return widget


def answer(monkeypatch: pytest.MonkeyPatch, opened: Path, saved: Path) -> None:
    """What the person chooses in the file dialogs."""
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(opened))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(saved), ""))


def test_a_folder_is_labelled_and_what_fails_is_told_at_the_end(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    affine = np.diag([2.0, 1.5, 8.0, 1.0])
    stack = np.random.default_rng(0).integers(0, 255, (40, 36, 3), np.uint8)
    nib.save(nib.Nifti1Image(stack, affine), images / "stack.nii.gz")
    nib.save(nib.Nifti1Image(stack[..., :1], affine), images / "slice.nii.gz")
    (images / "broken.nii.gz").write_bytes(b"no image")
    widget, said = loaded(make_napari_viewer(show=True), qtbot, run), len(messages())
    answer(monkeypatch, images, out)
    with qtbot.waitSignal(widget.progress._bar.valueChanged, timeout=60_000):
        click(widget.models._folder)
        assert widget.models._folder.text() == "Stop" and not widget.models._predict.isEnabled()
    done(qtbot, widget)
    qtbot.waitUntil(lambda: bool(widget.models.told()))
    assert sorted(file.name for file in out.iterdir()) == ["slice.nii.gz", "stack.nii.gz"]
    np.testing.assert_array_equal(nib.load(out / "stack.nii.gz").affine, affine)
    told = widget.models.told()
    assert told.startswith(f"2 images labelled in {out}\n1 could not be labelled:\nbroken: ")
    assert messages()[said:] == [told]
    widget._copy_command()
    words = shlex.split(QApplication.clipboard().text())
    assert words[:3] == ["python", "-m", "trainer.predict"]
    assert tyro.cli(Predict, args=words[3:]) == Predict(run=run, images=images, out=out)


def test_a_folder_can_be_stopped(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    for i in range(200):
        Picture.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8)).save(images / f"i{i:03}.png")
    widget = loaded(make_napari_viewer(show=True), qtbot, run)
    answer(monkeypatch, images, out)
    click(widget.models._folder)
    qtbot.waitUntil(lambda: out.is_dir() and any(out.iterdir()), timeout=60_000)
    click(widget.models._folder)
    assert widget.session.state == "idle" and "then stopped" in widget.models.told()
    written = len(list(out.iterdir()))
    qtbot.wait(300)
    assert len(list(out.iterdir())) <= written + 1 < 200  # the one that was being written


def test_a_folder_without_images_says_so(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, run: Path, tmp_path: Path
) -> None:
    widget = loaded(make_napari_viewer(), qtbot, run)
    (tmp_path / "empty").mkdir()
    widget.models.folderRequested.emit(tmp_path / "empty", tmp_path / "labels")
    done(qtbot, widget)
    qtbot.waitUntil(lambda: "no images in" in messages()[-1], timeout=10_000)
    assert widget.models.told() == "" and widget.models._folder.isEnabled()


def test_a_summary_names_the_first_errors() -> None:
    batch = Batch(Path("out"))
    for i in range(5):
        batch.take(Step(f"case{i}", (i + 1) / 5, error="damaged"))
    assert batch.summary().splitlines() == [
        "0 images labelled in out",
        "5 could not be labelled:",
        "case0: damaged",
        "case1: damaged",
        "case2: damaged",
        "and 2 more",
    ]


# other programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "file"), [("onnx", "unet.onnx"), ("bioimageio", "unet.zip")])
def test_a_model_is_exported(
    form: str,
    file: str,
    make_napari_viewer: Callable[..., Viewer],
    qtbot: QtBot,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime", "yaml"):
        pytest.importorskip(module)
    widget, out = loaded(make_napari_viewer(), qtbot, run), tmp_path / "out"
    answer(monkeypatch, tmp_path, out)
    action = next(
        each for each in widget.models._menu.actions() if each.text().startswith(("ONNX", "BioImage")[form != "onnx"])
    )
    action.trigger()
    assert widget.models._model_export.text() == "Stop"
    done(qtbot, widget)
    assert (out / file).is_file() and messages()[-1] == f"saved to {out}"
    assert _runs.recent() == [run]  # an export is no run
    if form == "onnx":
        from trainer.tiled import OnnxPredictor

        found = OnnxPredictor(out).predict(disc_image()[None])
        assert (found == widget.session.model.predict(disc_image()[None])).mean() > 0.999


def test_a_missing_package_is_named(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a))
    widget = loaded(make_napari_viewer(), qtbot, run)
    widget.models.modelExportRequested.emit(tmp_path / "out", "onnx")
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=60_000)
    qtbot.waitUntil(lambda: 'pip install "napari-scribblemamba[export]"' in messages()[-1], timeout=10_000)
    assert notification_manager.records[-1].severity == "error"


def test_the_copy_that_is_exported_is_its_own(run: Path) -> None:
    from napari_scribblemamba._model_export import on_processor
    from trainer.model import Model

    model = Model.load(run, "cpu")
    copy = on_processor(model)
    assert copy.networks["unet"] is not model.networks["unet"]
    image = disc_image()[None]
    assert np.array_equal(copy.predict(image), model.predict(image))
    assert dataclasses.replace(copy.config, threads=0) == dataclasses.replace(model.config, threads=0)


def test_buttons_while_something_runs(qtbot: QtBot) -> None:
    panel = ModelsPanel()
    qtbot.addWidget(panel)
    for state, button in (("labelling", panel._folder), ("exporting", panel._model_export)):
        panel._has_model = True
        panel.set_state(state)
        assert (button.text(), button.isEnabled(), panel._load.isEnabled()) == ("Stop", True, False)
        with qtbot.waitSignal(panel.stopRequested):
            button.click()
        panel.set_state("idle")
        assert button.isEnabled() and button.text() != "Stop"
