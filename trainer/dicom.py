"""DICOM: the series in a folder, as volumes with their place in the patient. Needs pydicom."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.formats import decoding, optional

if TYPE_CHECKING:
    from pydicom import Dataset as Dicom

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one DICOM series that lie on one grid."""

    name: str
    image: np.ndarray  # (z, y, x), (t, z, y, x), or either with a last axis of RGB; rescaled (CT: Hounsfield units)
    spacing: tuple[float, ...]  # mm, one per axis z, y, x
    affine: np.ndarray  # (4, 4): (x, y, z) -> mm in RAS+, as nibabel has it
    colours: bool = False


def is_dicom(file: Path) -> bool:
    """Whether the file says so itself, in the four bytes after the preamble."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> list[Series]:
    """Every series in a folder and the folders in it, or the one that a file belongs to. Needs pydicom.

    Slices are sorted by their place along the normal of their plane; several at each place are a film (t, z, y, x).
    Series with a size or orientation that changes are split. ValueError for gaps, doublets and multi-frame files; in a
    folder these are left out, and logged, where others can be read.
    """
    path = Path(path)
    pydicom = optional("pydicom", "DICOM")
    files = [file for file in sorted(path.parent.iterdir() if path.is_file() else path.rglob("*")) if file.is_file()]
    groups: dict[tuple, list[tuple[Path, Dicom]]] = {}
    refused: list[ValueError] = []
    for file in filter(is_dicom, files):
        with decoding(file):
            header = pydicom.dcmread(file, stop_before_pixels=True)
        if "Rows" in header and "Columns" in header:  # others are reports, directories
            try:
                groups.setdefault(_series_of(header, file), []).append((file, header))
            except ValueError as e:
                refused += [e] if path in (file, *file.parents) else []
    if path.is_file():
        groups = {key: group for key, group in groups.items() if path in [file for file, _ in group]}
    found = list(_assembled(groups.values(), refused))
    if not found and not refused:
        raise ValueError(f"{path} holds no DICOM image (.dcm files begin with DICM at byte 128); choose another folder")
    if not found:
        raise refused[0]
    for e in refused:
        log.warning("left out: %s", e)
    return found


def _assembled(groups: "Iterable[list[tuple[Path, Dicom]]]", refused: list[ValueError]) -> Iterator[Series]:
    for group in groups:
        try:
            yield _assemble(group)
        except ValueError as e:
            refused.append(e)


def _series_of(header: "Dicom", file: Path) -> tuple:
    if int(header.get("NumberOfFrames") or 1) > 1:
        frames = f"{header.NumberOfFrames} frames in one file"
        raise ValueError(f"{file} has {frames}; convert it (dcm2niix makes NIfTI of it), or export a file a slice")
    plane = tuple(round(v, 3) for v in _orientation(header))
    return header.get("SeriesInstanceUID", ""), int(header.Rows), int(header.Columns), plane


def _orientation(header: "Dicom") -> list[float]:
    """Unit vectors along a row and along a column."""
    return [float(v) for v in header.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0)]


def _number(header: "Dicom") -> int:
    return int(header.get("InstanceNumber") or 0)


def _assemble(group: "list[tuple[Path, Dicom]]") -> Series:
    """(file, header) of the slices of one series, in any order -> the image."""
    row, column = np.reshape(_orientation(group[0][1]), (2, 3))
    normal = np.cross(row, column)
    order = sorted(group, key=lambda one: (round(_place(one, group) @ normal, 3), _number(one[1])))
    positions = [round(float(_place(one, group) @ normal), 3) for one in order]
    thickness, frames = _check_places(positions, order)
    image = np.stack([_pixels(file) for file, _ in order])  # (z * t, y, x[, 3])
    if frames > 1:
        image = np.moveaxis(image.reshape(-1, frames, *image.shape[1:]), 1, 0)  # (t, z, y, x[, 3])
    header = order[0][1]
    dy, dx = _pixel_spacing(order[0][0], header)
    lps = np.eye(4)  # DICOM's own axes: to the left, to the back, to the head
    lps[:3] = np.stack([row * dx, column * dy, normal * thickness, _place(order[0], group)], axis=1)
    name = str(header.get("SeriesDescription") or f"series {header.get('SeriesNumber') or 1}")
    colours = int(header.get("SamplesPerPixel", 1)) == 3
    return Series(name, image, (thickness, dy, dx), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, colours)


def _pixel_spacing(file: Path, header: "Dicom") -> tuple[float, float]:
    """mm from row to row, from column to column."""
    found = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not found:
        log.warning("%s has no PixelSpacing; a pixel is taken to be 1 mm", file)
        return 1.0, 1.0
    return float(found[0]), float(found[1])


def _place(one: "tuple[Path, Dicom]", group: "list[tuple[Path, Dicom]]") -> np.ndarray:
    """ImagePositionPatient; without one, slices of a series cannot be put in order."""
    file, header = one
    if header.get("ImagePositionPatient"):
        return np.array([float(v) for v in header.ImagePositionPatient])
    if len(group) > 1:
        raise ValueError(f"{file} has no ImagePositionPatient, so its place among {len(group)} slices is unknown")
    return np.zeros(3)


def _check_places(positions: list[float], order: "list[tuple[Path, Dicom]]") -> tuple[float, int]:
    """mm from slice to slice, and how many frames there are at each place."""
    places, counts = np.unique(positions, return_counts=True)
    file, header = order[0]
    if counts.min() != counts.max():
        odd = places[counts != np.bincount(counts).argmax()][0]
        raise ValueError(
            f"{file.parent}: {counts.max()} slices at most places of the series, but another number at {odd:g} mm; "
            "remove doublets, or copy the missing slices"
        )
    if len(places) == 1:
        return float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1), int(counts[0])
    gaps = np.diff(places)
    step = float(np.median(gaps))
    if (wrong := np.abs(gaps - step) > 0.05 * step).any():
        where = int(np.argmax(wrong))
        raise ValueError(
            f"{file.parent}: slices are {step:g} mm apart, but {gaps[where]:g} mm after {places[where]:g} mm; "
            "a slice is missing, or the series is two: copy it again or resample it"
        )
    return step, int(counts[0])


def _pixels(file: Path) -> np.ndarray:
    """(y, x) or (y, x, 3) with the slope and intercept applied; integers stay integers where there are none."""
    pydicom = import_module("pydicom")
    with decoding(file):
        content = pydicom.dcmread(file)
        stored = content.pixel_array
        slope, intercept = float(content.get("RescaleSlope") or 1), float(content.get("RescaleIntercept") or 0)
    return stored if (slope, intercept) == (1, 0) else (stored * slope + intercept).astype(np.float32)
