"""The command that scores two folders of label files."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from trainer.evaluate import evaluate, main

TABLE = {"channel_names": {"0": "MRI"}, "numTraining": 1, "file_ending": ".png"}


def png(file: Path, rows: list[list[int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(file)


def folders(root: Path) -> tuple[Path, Path]:
    """One case: of four pixels of class 1 the prediction finds two."""
    png(root / "predictions/a.png", [[0, 0, 0, 0], [1, 1, 0, 0]])
    png(root / "data/dense/a.png", [[0, 0, 0, 0], [1, 1, 1, 1]])
    return root / "predictions", root / "data/dense"


def name_classes(root: Path, **labels: int) -> None:
    (root / "data/dataset.json").write_text(json.dumps({**TABLE, "labels": labels}))


def refused(capsys: pytest.CaptureFixture, predictions: Path, references: Path) -> str:
    """The one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(predictions, references)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path)
    name_classes(tmp_path, background=0, RV=1)
    file = tmp_path / "new/scores.json"
    flags = ["--predictions", predictions, "--references", references, "--json", file, "--tolerance", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.evaluate", *map(str, flags)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mean_foreground" in done.stdout and "RV" in done.stdout and "0.667" in done.stdout
    result = json.loads(file.read_text())
    assert result["mean_foreground"]["dice"] == pytest.approx(2 * 2 / 6)
    assert result["mean_foreground"]["iou"] == pytest.approx(2 / 4)
    assert result["mean_all"]["dice"] == pytest.approx((2 * 4 / 10 + 2 * 2 / 6) / 2)
    assert result["classes"]["RV"] == result["cases"]["a"]["RV"] == result["mean_foreground"]
    # distances of the surfaces: 0, 0 one way, 0, 0, 1, 2 the other
    assert result["classes"]["RV"]["nsd"] == pytest.approx(5 / 6)
    assert result["classes"]["RV"]["asd"] == pytest.approx(0.375)
    assert result["left_out"] == {"background": 0, "RV": 0}
    assert (result["tolerance"], result["unscored"]) == (1.0, [])


def test_without_a_table_the_classes_are_numbered(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path)
    png(predictions / "b.png", [[2, 0]])
    png(references / "b.png", [[2, 0]])
    result = evaluate(predictions, references)
    assert list(result["classes"]) == ["background", "class 1", "class 2"]
    assert result["left_out"] == {"background": 0, "class 1": 1, "class 2": 1}


def test_a_mask_of_0_and_255_has_no_254_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    png(references / "a.png", [[0, 0, 0, 0], [255, 255, 255, 255]])
    assert "a.png has the label value 255" in (said := refused(capsys, predictions, references)) and "write 1" in said


def test_the_spacing_of_the_files_counts(tmp_path: Path) -> None:
    ids = np.zeros((4, 5, 6), np.uint8)
    ids[1, 2, 3] = 1
    for folder, labels in (("p", np.roll(ids, 1, axis=2)), ("r", ids)):  # z is 7 mm
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([1.0, 2.0, 7.0, 1.0])), tmp_path / folder / "a.nii.gz")
    assert evaluate(tmp_path / "p", tmp_path / "r")["classes"]["class 1"]["hd95"] == pytest.approx(7.0)
    tifffile.imwrite(tmp_path / "p/a.tif", ids.transpose(), photometric="minisblack")
    with pytest.raises(ValueError, match=r"has a\.nii\.gz and a\.tif; keep one label file a case"):
        evaluate(tmp_path / "p", tmp_path / "r")
    (tmp_path / "p/a.nii.gz").unlink()  # a TIFF of spacing 1 against a NIfTI of (7, 2, 1)
    with pytest.raises(ValueError, match=r"a\.tif has spacing \(1\.0, 1\.0, 1\.0\), but .*a\.nii\.gz has \(7\.0, 2\.0"):
        evaluate(tmp_path / "p", tmp_path / "r")


def test_predictions_without_a_reference_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    png(predictions / "extra.png", [[0, 1]])
    main(predictions, references)
    assert "not scored, no reference: extra" in capsys.readouterr().out


def test_a_missing_prediction_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    png(references / "b.png", [[0, 1]])
    assert "predictions has no prediction of b; predict all cases" in refused(capsys, predictions, references)


def test_folders_must_exist_and_hold_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    assert "nowhere is not a folder" in refused(capsys, tmp_path / "nowhere", references)
    (tmp_path / "empty").mkdir()
    assert "no label files in" in refused(capsys, predictions, tmp_path / "empty")


def test_a_file_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    name_classes(tmp_path, background=0, RV=1)
    png(predictions / "a.png", [[0, 0, 0], [1, 1, 0]])
    assert "predictions/a.png has shape (2, 3)" in refused(capsys, predictions, references)
    png(predictions / "a.png", [[0, 0, 0, 5], [1, 1, 0, 0]])
    assert "predictions/a.png has label values [5], but the classes are 0..1" in refused(
        capsys, predictions, references
    )
    (predictions / "a.png").write_bytes(b"broken")
    assert "predictions/a.png cannot be read" in refused(capsys, predictions, references)


def test_references_must_be_dense(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions, references = folders(tmp_path)
    name_classes(tmp_path, background=0, RV=1, ignore=2)
    png(references / "a.png", [[2, 2, 0, 0], [1, 1, 1, 1]])
    assert "dense/a.png has unlabelled pixels ('ignore', 2)" in refused(capsys, predictions, references)


def test_objects_are_counted_in_each_image_and_the_mean_leaves_out_the_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    predictions, references = tmp_path / "predictions", tmp_path / "labels"
    png(references / "a.png", [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]])
    png(predictions / "a.png", [[7, 7, 0, 0, 0], [7, 0, 0, 3, 0]])  # 3 of 4 pixels, and 1 of 4
    png(references / "b.png", [[0, 5, 5, 0, 0]])
    png(predictions / "b.png", [[0, 1, 1, 0, 0]])
    png(references / "c.png", [[0, 0]])
    png(predictions / "c.png", [[0, 0]])
    main(predictions, references, json=tmp_path / "scores.json", instances=True)
    assert json.loads((tmp_path / "scores.json").read_text()) == {
        "f1": 0.75,
        "iou": 0.5,
        "cases": {
            "a": {"f1": 0.5, "predicted": 2, "real": 2},
            "b": {"f1": 1.0, "predicted": 1, "real": 1},
            "c": {"f1": None, "predicted": 0, "real": 0},
        },
        "unscored": [],
    }
    printed = capsys.readouterr().out
    assert "F1 at IoU 0.5" in printed and "0.750" in printed
    (tmp_path / "dataset.json").write_text(json.dumps({**TABLE, "task": "instances"}))
    assert evaluate(predictions, references)["f1"] == 0.75  # no flag: the dataset says what its labels are


def test_a_failed_write_keeps_the_scores_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    predictions, references = folders(tmp_path)
    file = tmp_path / "scores.json"
    file.write_text("before")
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(SystemExit):
        main(predictions, references, json=file)
    assert "what was there before is kept" in capsys.readouterr().err and file.read_text() == "before"
