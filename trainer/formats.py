"""Image files: one NIfTI, PNG or TIFF in or out, as nnU-Net v2 reads them; ACDC's h5 in. Folders: dicom.py, omezarr.py.

Arrays are (C, z, y, x) or (C, y, x), files keep their own order and geometry: NIfTI is (x, y, z) in nibabel and is
transposed, never reoriented. Images are called CASE_0000.tif (the number is the channel), labels CASE.tif. The spacing
of a TIFF stands in CASE.json beside it, {"spacing": [z, y, x]}; a PNG has spacing 1.
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import gzip
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import get_ident
from types import ModuleType

import nibabel
import numpy as np
import tifffile
from PIL import Image

from trainer.files import replacing
from trainer.sample import IGNORE

log = logging.getLogger(__name__)


# ----------------------------------------------------------------------------------------------------- read and write


def read_image(files: Sequence[Path]) -> tuple[np.ndarray, tuple[float, ...]]:
    """The channel files of one case -> float32 (C, *space) and its spacing in mm; see also `sample.check_image`."""
    parts = [_read(Path(file)) for file in files]
    for file, (array, spacing) in zip(files, parts, strict=True):
        check_same_grid(file, (array.shape[1:], spacing), files[0], (parts[0][0].shape[1:], parts[0][1]))
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which check_image reports
        return np.concatenate([array for array, _ in parts]).astype(np.float32), parts[0][1]


def read_labels(file: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """A label file -> integers (*space) and its spacing in mm."""
    array, spacing = _read(Path(file), labels=True)
    if len(array) != 1:
        raise ValueError(f"{file} has {len(array)} channels; a label file holds one class id a pixel: save it as grey")
    labels = array[0]
    if labels.dtype == bool:
        return labels.astype(np.uint8), spacing
    if not np.issubdtype(labels.dtype, np.integer):
        if not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
            raise ValueError(f"{file} has values that are no integers; a label file holds class ids 0, 1, 2, ...")
        labels = labels.astype(np.int64)
    return labels, spacing


def write_array(file: Path, array: np.ndarray, spacing: tuple[float, ...], labels: bool = False) -> None:
    """One channel (*space), a colour picture (H, W, 3) for PNG, or labels; for a TIFF the JSON of the spacing, too."""
    kind = format_of(file)
    file.write_bytes(_packed(file, kind.encode(array, spacing)))
    if kind is TIFF:
        _spacing_file(file, labels).write_text(json.dumps({"spacing": spacing}))


def write_labels(file: Path, labels: np.ndarray, like: Path, dtype: type = np.uint8) -> None:
    """Class ids (*space) as uint8, or instances as uint16, with the geometry (affine, or the JSON of the spacing) of
    the image file `like`.

    dtype: uint8, or for the ids of instances uint16. The file appears whole or not at all; what was there before is
    replaced.
    """
    file, like = Path(file), Path(like)
    kind = format_of(like)
    if format_of(file) is not kind:
        raise ValueError(f"{file} and {like} are of different kinds; write the labels as {strip_ending(like)[1]}")
    highest = np.iinfo(dtype).max
    if labels.min(initial=0) < 0 or labels.max(initial=0) > highest:
        raise ValueError(f"{file}: ids must lie in 0..{highest}, found {labels.min()} to {labels.max()}")
    labels = labels.astype(dtype)
    if kind is NIFTI:
        return _replace(file, _packed(file, _encode_nifti_like(file, labels, like)))
    spacing = _spacing_file(like)
    if spacing.is_file():
        _replace(_spacing_file(file, labels=True), spacing.read_bytes())
    _replace(file, kind.encode(labels, ()))


def check_same_grid(file: Path, of: tuple, other: Path, of_other: tuple) -> None:
    """Raises ValueError unless two (shape, spacing) agree; spacing to 1 part in 1000, headers round it."""
    for what, a, b, tolerance in zip(("shape", "spacing"), of, of_other, (0, 1e-3), strict=True):
        if len(a) != len(b) or not np.allclose(a, b, rtol=tolerance, atol=0):
            raise ValueError(f"{file} has {what} {a}, but {other} has {b}; make both on the same grid")


def compare_affines(label: Path, image: Path) -> None:
    """Logs NIfTI files that lie differently in space: they are matched voxel by voxel, as nnU-Net does."""
    if format_of(label) is NIFTI:
        if not np.allclose(nibabel.load(label).affine, nibabel.load(image).affine, rtol=1e-3, atol=1e-2):
            log.warning("%s and %s differ in origin or direction; check that they lie on each other", label, image)


def read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; it must hold an object, {{...}}")
    return content


def _read(file: Path, labels: bool = False) -> tuple[np.ndarray, tuple[float, ...]]:
    """(C, *space) in the file's own dtype, and the spacing."""
    kind = format_of(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    array, spacing = kind.read(file, labels)
    if array.ndim not in (3, 4):
        raise ValueError(f"{file} has {array.ndim - 1} axes {array.shape[1:]}; save 2-D or 3-D, a file a channel")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{file} holds values of type {array.dtype}; save integers or real numbers, a file a channel")
    spacing = spacing or (1.0,) * (array.ndim - 1)
    _check_spacing(file, array.shape[1:], spacing)
    return np.ascontiguousarray(array), spacing


def _check_spacing(file: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    if len(spacing) != len(shape) or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"{file} has spacing {spacing} for shape {shape}; give one positive number an axis")


@contextmanager
def decoding(file: Path) -> Iterator[None]:
    """Names the file in whatever the decoders raise: EOFError, zlib.error, SyntaxError, struct.error, ..."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # on one line
        raise ValueError(f"{file} cannot be read ({reason}); it may be truncated or corrupt: copy it again") from error


def _replace(file: Path, content: bytes) -> None:
    with replacing(file) as draft:
        draft.write_bytes(content)


# --------------------------------------------------------------------------------------------------------- file names


def strip_ending(path: Path) -> tuple[str, str]:
    """("patient030", ".nii.gz") of any/where/patient030.nii.gz"""
    name = Path(path).name
    for ending in FORMATS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], name[-len(ending) :]
    raise ValueError(f"{path}: unknown file ending; use {', '.join(FORMATS)}")


def case_of(file: Path) -> str:
    """The name of an image's case: "CASE" of CASE_0001.png, and of CASE.png that is its only file."""
    return re.sub(r"(?<=.)_\d{4}$", "", strip_ending(file)[0])


def split_channel(file: Path) -> tuple[str, int]:
    """("CASE", 1) of CASE_0001.png"""
    stem, ending = strip_ending(file)
    match = re.fullmatch(r"(.+)_(\d{4})", stem)
    if not match:
        raise ValueError(f"{file} does not say its channel; rename it to {stem}_0000{ending}")
    return match[1], int(match[2])


def is_image(file: Path) -> bool:
    """Whether its name says that it can be read here, as image or labels; hidden files do not count."""
    return file.is_file() and not file.name.startswith(".") and file.name.lower().endswith(tuple(FORMATS))


def format_of(file: Path) -> "Format":
    return FORMATS[strip_ending(file)[1].lower()]


def _spacing_file(file: Path, labels: bool = False) -> Path:
    """CASE.json beside the image CASE_0000.tif or the labels CASE.tif."""
    return file.with_name(f"{strip_ending(file)[0] if labels else case_of(file)}.json")


# -------------------------------------------------------------------------------------------------------------- NIfTI


def read_nifti(file: Path) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """The array (z, y, x), (y, x) or (t, z, y, x) in the file's dtype, its spacing in mm (and s), and the affine."""
    [array], spacing = _read_nifti(Path(file), labels=False)
    if array.ndim == 4 and spacing[0] == 0:  # the frames' distance is often left out
        spacing = (1.0, *spacing[1:])
    _check_spacing(file, array.shape, spacing)
    return array, spacing, nifti_affine(file)


def nifti_affine(file: Path) -> np.ndarray:
    """(4, 4): the file's own (x, y, z) -> mm in RAS+, as nibabel has it."""
    with decoding(file):
        nifti = nibabel.load(file)
    return np.diag([*(_millimetres(nifti),) * 3, 1.0]) @ nifti.affine


def write_nifti(file: Path, array: np.ndarray, spacing: tuple[float, ...], affine: np.ndarray | None = None) -> None:
    """An array (y, x), (z, y, x) or (t, z, y, x); `affine` as `read_nifti` gives it. The file is whole or not there."""
    if affine is None:
        return _replace(file, _packed(file, _encode_nifti(array, spacing)))
    nifti = nibabel.Nifti1Image(array.transpose(), affine)
    nifti.header.set_zooms(tuple(reversed(spacing)))
    nifti.header.set_xyzt_units("mm", "sec")
    _replace(file, _packed(file, nifti.to_bytes()))


def _read_nifti(file: Path, labels: bool) -> tuple[np.ndarray, tuple[float, ...]]:
    with decoding(file):
        nifti = nibabel.load(file)
        array = np.asanyarray(nifti.dataobj)  # (x, y, z)
        zooms, size = nifti.header.get_zooms(), _millimetres(nifti)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    lengths = [float(str(zoom)) for zoom in zooms[: array.ndim]]  # via str: 0.7, not 0.69999998807 (float32)
    spacing = tuple(length * size if i < 3 else length for i, length in enumerate(lengths))[::-1]
    return array.transpose()[None], spacing  # (1, z, y, x)


def _millimetres(nifti: nibabel.Nifti1Image) -> float:
    """mm in the header's unit of length; most programs leave it unknown and mean mm."""
    return {"meter": 1e3, "micron": 1e-3}.get(nifti.header.get_xyzt_units()[0], 1.0)


def _encode_nifti(array: np.ndarray, spacing: tuple[float, ...]) -> bytes:
    nifti = nibabel.Nifti1Image(array.transpose(), np.diag([*reversed(spacing), *(1.0,) * (4 - array.ndim)]))
    nifti.header.set_xyzt_units("mm")
    return nifti.to_bytes()


def _encode_nifti_like(file: Path, labels: np.ndarray, like: Path) -> bytes:
    with decoding(like):
        image = nibabel.load(like)
    if image.shape[: labels.ndim] != labels.shape[::-1]:
        raise ValueError(f"{file}: labels of shape {labels.shape}, but {like} has (x, y, z) {image.shape}")
    header = image.header.copy()
    header.set_data_dtype(labels.dtype)
    header["cal_min"] = header["cal_max"] = 0  # the image's grey window would hide the labels
    return type(image)(labels.transpose(), image.affine, header).to_bytes()


def _packed(file: Path, content: bytes) -> bytes:
    """Compressed for .nii.gz, as nibabel does: fast, and the same bytes each time."""
    return gzip.compress(content, compresslevel=1, mtime=0) if file.name.lower().endswith(".gz") else content


# ---------------------------------------------------------------------------------------------------------------- PNG


def _read_png(file: Path, labels: bool) -> tuple[np.ndarray, tuple[float, ...]]:
    with decoding(file), Image.open(file, formats=["PNG"]) as png:
        if png.mode == "P" and not labels:  # a label file's palette only colours the class ids
            png = png.convert("RGBA" if "transparency" in png.info else "RGB")
        array, bands, header = np.asarray(png), png.getbands(), file.read_bytes()[:26]
    if len(bands) > 1 and header[24] == 16:  # byte 24: bit depth; Pillow would cut the values to 8 bits
        raise ValueError(f"{file} is a 16-bit colour PNG, which cannot be read in full; save one grey file a channel")
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)  # (C, H, W)
    return _without_alpha(array, file) if bands[-1] == "A" else array, ()


def _encode_png(array: np.ndarray, _: tuple[float, ...]) -> bytes:
    stream = BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def _without_alpha(array: np.ndarray, file: Path) -> np.ndarray:
    alpha = array[-1]
    if alpha.min() != alpha.max():
        found = f"transparency that varies ({alpha.min()} to {alpha.max()})"
        raise ValueError(f"{file} has {found}; flatten the picture and save it without an alpha channel")
    return array[:-1]


# --------------------------------------------------------------------------------------------------------------- TIFF


def _read_tiff(file: Path, labels: bool) -> tuple[np.ndarray, tuple[float, ...]]:
    with decoding(file), _tiff_errors(), tifffile.TiffFile(file) as tiff:
        series, photometric = tiff.series, tiff.pages[0].photometric
        array, axes = series[0].asarray(), series[0].axes
    if photometric == tifffile.PHOTOMETRIC.PALETTE and not labels:
        raise ValueError(f"{file} is a palette TIFF, its values are no intensities; save it as grey or RGB")
    if len(series) > 1:
        raise ValueError(f"{file} holds {len(series)} images of different kinds; keep one")
    spacing = _read_spacing(_spacing_file(file, labels))
    # a stack of three or four slices is often tagged as planes of colour; a spacing for every axis says that it is none
    where = [] if len(spacing) == array.ndim else [i for i, axis in enumerate(axes) if axis in "SC"]
    array = np.moveaxis(array, where[0], 0) if where else array[None]  # (C, *space)
    if photometric == tifffile.PHOTOMETRIC.RGB and len(array) == 4:
        array = _without_alpha(array, file)
    return array, spacing


def _encode_tiff(array: np.ndarray, _: tuple[float, ...]) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, array, photometric="minisblack")
    return stream.getvalue()


def _read_spacing(file: Path) -> tuple[float, ...]:
    """The spacing in CASE.json; () where there is no such file."""
    if not file.is_file():
        return ()
    spacing = read_json(file).get("spacing")
    if not isinstance(spacing, list) or not all(isinstance(s, int | float) for s in spacing) or not spacing:
        raise ValueError(f'{file} has "spacing" {spacing!r}; write a list of numbers, mm along each axis')
    return tuple(float(s) for s in spacing)


def write_tiff(file: Path, array: np.ndarray, spacing: tuple[float, ...]) -> None:
    """Labels (y, x), (z, y, x) or (t, z, y, x), spacing in mm (and s) in ImageJ's tags, or in OME's for .ome.tif."""
    axes = "TZYX"[-array.ndim :]
    if Path(file).name.lower().endswith((".ome.tif", ".ome.tiff")):
        sizes = {f"PhysicalSize{axis}": s for axis, s in zip(axes, spacing, strict=True) if axis != "T"}
        units = {f"{name}Unit": "mm" for name in sizes}
        more = {"TimeIncrement": spacing[0], "TimeIncrementUnit": "s"} if axes[0] == "T" else {}
        options: dict = {"ome": True, "metadata": {"axes": axes, **sizes, **units, **more}}
    else:
        array = _imagej_dtype(file, array)
        y, x = spacing[-2:]
        more = {"spacing": spacing[-3]} if "Z" in axes else {}
        more |= {"finterval": spacing[0]} if axes[0] == "T" else {}
        options = {"imagej": True, "resolution": (1 / x, 1 / y), "metadata": {"axes": axes, "unit": "mm", **more}}
    stream = BytesIO()
    tifffile.imwrite(stream, array, photometric="minisblack", compression="zlib", **options)
    _replace(file, stream.getvalue())


def _imagej_dtype(file: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.uint8, np.uint16, np.float32):
        return array
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        found = f"{array.min()} to {array.max()}"
        raise ValueError(f"{file}: ImageJ's TIFF holds 0 to 65535, found {found}; name it .ome.tif, which holds more")
    return array.astype(np.uint16)


@contextmanager
def _tiff_errors() -> Iterator[None]:
    """Raises what tifffile only logs: of a truncated stack it would return the first slice."""
    errors: list[str] = []
    handler, logger, thread = logging.Handler(logging.ERROR), logging.getLogger("tifffile"), get_ident()
    handler.emit = lambda record: errors.append(record.getMessage()) if record.thread == thread else None
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if errors:
        raise ValueError(errors[0])


# -------------------------------------------------------------------------------------------------------------- ACDC h5

ACDC_CLASSES = ("background", "RV", "MYO", "LV")


def read_acdc(file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An h5 of ACDC with scribbles: the image (*space), and class ids of `scribble` and `label` where it has them.

    In the scribble 4 means unlabelled and becomes IGNORE (255). Needs h5py. https://github.com/HiLab-git/WSL4MIS
    """
    h5py = optional("h5py", "HDF5")
    with decoding(file), h5py.File(file, "r") as content:
        found = sorted(content)
        arrays = {key: content[key][()] for key in ("image", "scribble", "label") if key in content}
    if "image" not in arrays or np.ndim(arrays["image"]) not in (2, 3):
        raise ValueError(f"{file} has the keys {found}; ACDC's files hold an image (y, x) or (z, y, x) under 'image'")
    image = arrays.pop("image")
    return image, {key: _acdc_target(file, key, array, image.shape) for key, array in arrays.items()}


def _acdc_target(file: Path, key: str, array: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    ids, highest = np.unique(array).tolist(), len(ACDC_CLASSES) - (key == "label")
    if array.shape != space:
        raise ValueError(f"{file}: '{key}' has shape {array.shape}, but 'image' has {space}; export the file again")
    if unknown := [i for i in ids if i not in range(highest + 1)]:
        raise ValueError(f"{file}: '{key}' holds {unknown[:8]}; expected ids 0 to {highest} (4: unlabelled)")
    return np.where(array == len(ACDC_CLASSES), IGNORE, array).astype(np.uint8)


# --------------------------------------------------------------------------------------------------- optional libraries


def optional(module: str, what: str, at_least: str = "") -> ModuleType:
    """A library that only some people need; ImportError says what for and how to get it."""
    requirement = f"{module}>={at_least}" if at_least else module
    try:
        found = import_module(module)
    except ImportError as error:
        raise ImportError(f'{what} needs {module}, which is not installed: pip install "{requirement}"') from error
    if at_least and int(found.__version__.split(".")[0]) < int(at_least):
        raise ImportError(f'{what} needs {requirement}, found {found.__version__}: pip install -U "{requirement}"')
    return found


# ---------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Format:
    read: Callable[[Path, bool], tuple[np.ndarray, tuple[float, ...]]]  # file, is it labels -> (C, *space), mm or ()
    encode: Callable[[np.ndarray, tuple[float, ...]], bytes]  # (*space), mm -> what the file holds


NIFTI = Format(_read_nifti, _encode_nifti)
PNG = Format(_read_png, _encode_png)
TIFF = Format(_read_tiff, _encode_tiff)
FORMATS = {".nii.gz": NIFTI, ".nii": NIFTI, ".png": PNG, ".tif": TIFF, ".tiff": TIFF}
