"""Write the sample datasets: python sample_data/generate.py [FOLDER]. The same files, byte for byte, on every run.

Three nnU-Net v2 raw datasets, cardiac/, microscopy/ and endoscopy/: the image, strokes in labelsTr with the label
`ignore` where nobody drew, and in denseTr the dense truth that the strokes were drawn from.
"""

import gzip
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from cardiac import CLASSES as CARDIAC
from cardiac import SPACING, cardiac
from endoscopy import CLASSES as ENDOSCOPY
from endoscopy import endoscopy, octagon
from microscopy import CLASSES as MICROSCOPY
from microscopy import microscopy
from skimage.io import imsave
from strokes import cardiac_strokes, endoscopy_strokes, microscopy_strokes


def generate(folder: Path) -> None:
    """All three datasets under `folder`."""
    write_cardiac(folder / "cardiac")
    write_microscopy(folder / "microscopy")
    write_endoscopy(folder / "endoscopy")


def write_cardiac(folder: Path) -> None:
    image, truth = cardiac()
    strokes = cardiac_strokes(truth, np.random.default_rng(1))
    write(folder, "heart", ".nii.gz", image, strokes, truth, CARDIAC, ["cine MRI"])


def write_microscopy(folder: Path) -> None:
    image, truth, numbers = microscopy()
    strokes = microscopy_strokes(numbers, np.random.default_rng(2))
    write(folder, "nuclei", ".png", image, strokes, truth, MICROSCOPY, ["DAPI"])


def write_endoscopy(folder: Path) -> None:
    image, truth = endoscopy()
    strokes = endoscopy_strokes(truth, octagon() > 0.5, np.random.default_rng(3))
    write(folder, "colon", ".png", image, strokes, truth, ENDOSCOPY, ["R", "G", "B"])


def write(
    folder: Path,
    case: str,
    ending: str,
    image: np.ndarray,
    strokes: np.ndarray,
    truth: np.ndarray,
    classes: tuple[str, ...],
    channels: list[str],
) -> None:
    save(folder / "imagesTr" / f"{case}_0000{ending}", image)
    save(folder / "labelsTr" / f"{case}{ending}", strokes)
    save(folder / "denseTr" / f"{case}{ending}", truth)
    table = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {name: i for i, name in enumerate([*classes, "ignore"])},
        "numTraining": 1,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(table, indent=1) + "\n")


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        imsave(path, values, check_contrast=False)
    else:
        path.write_bytes(gzip.compress(nifti(values), mtime=0))  # mtime: no clock in the file


def nifti(values: np.ndarray) -> bytes:
    """values (z, y, x) -> an uncompressed NIfTI file of (x, y, z) in mm."""
    image = nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([*SPACING[::-1], 1.0]))
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
