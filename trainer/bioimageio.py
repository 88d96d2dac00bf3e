"""A run's networks as models of the BioImage Model Zoo: a folder with rdf.yaml and a zip of it for each.

Reference: https://bioimage.io and its model specification 0.5, https://github.com/bioimage-io/spec-bioimage-io

C channels · K classes · space is (H, W) or (D, H, W), which the zoo calls y x or z y x
"""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.batches import normalise
from trainer.config import Config
from trainer.export import OPSET, checked_patch, write_onnx
from trainer.files import replacing
from trainer.model import Model
from trainer.tiled import INPUT, OUTPUT, OnnxNetwork, require

FORMAT = "0.5.7"  # of rdf.yaml: the first that we know to have both softmax and clipping at percentiles
CITE = [
    {
        "text": "Wang et al.: Weak-Mamba-UNet: Visual Mamba Makes CNN and ViT Work Better for Scribble-based Medical "
        "Image Segmentation, arXiv 2402.10887",
        "url": "https://arxiv.org/abs/2402.10887",
    }
]
WEIGHTS, RAW, ANSWER, CARD = "weights.onnx", "test_input.npy", "test_output.npy", "README.md"
Step = dict[str, object]  # of the zoo's preprocessing: its name and its arguments


def export_bioimageio(
    model: Model, folder: Path, authors: Sequence[str], licence: str, patch: tuple[int, ...] = ()
) -> Iterator[Path]:
    """Writes FOLDER/NETWORK/ and, as it is iterated, NETWORK.zip after NETWORK.zip; errors as of `write_onnx`."""
    require("yaml")
    patch = checked_patch(patch, model.config)
    for name in model.shares:  # what has not begun to learn is no model
        network, package = model.networks[name], folder / name
        package.mkdir(parents=True, exist_ok=True)
        write_onnx(network, (model.channels, *patch), package / WEIGHTS)
        write_test(package, model.channels, patch, model.config)
        write_description(package, model, name, patch, authors, licence)
        yield write_zip(package)


def write_test(package: Path, channels: int, patch: tuple[int, ...], config: Config) -> None:
    """An image before its preprocessing, and the probabilities that come of it, both of a batch of one."""
    raw = raw_image((channels, *patch))
    image = normalise(raw, config)
    if described(config) is None:  # then what the zoo's programs are given is normalised already
        raw = image
    logits = OnnxNetwork(package / WEIGHTS, threads=1).session.run([OUTPUT], {INPUT: image[None]})[0]
    grown = np.exp(logits - logits.max(1, keepdims=True))
    np.save(package / RAW, raw[None])
    np.save(package / ANSWER, (grown / grown.sum(1, keepdims=True)).astype(np.float32))


def raw_image(size: tuple[int, ...]) -> np.ndarray:
    """(C, *space) float32: a bright ball in grey noise."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size[1:]), indexing="ij")
    ball = sum(axis**2 for axis in axes) < 0.25
    return (100 * ball + np.random.default_rng(0).normal(100, 10, size)).astype(np.float32)


def write_description(
    package: Path, model: Model, name: str, patch: tuple[int, ...], authors: Sequence[str], licence: str
) -> None:
    import yaml

    (package / CARD).write_text(card(model, name, patch), encoding="utf-8")
    content = {
        "type": "model",
        "format_version": FORMAT,
        "name": f"{name} of napari-scribblemamba for {' and '.join(model.classes[1:])}"[:128],
        "description": f"Segments {', '.join(model.classes)}; trained with napari-scribblemamba.",
        "authors": [{"name": author} for author in authors],
        "license": licence,
        "cite": CITE,
        "documentation": CARD,
        "git_repo": "https://github.com/napari-scribblemamba/napari-scribblemamba",
        "tags": ["segmentation", "semantic-segmentation", "napari", "scribbles", "onnx", f"{len(patch)}d", name],
        "inputs": [image_tensor(model, patch)],
        "outputs": [probability_tensor(model, patch)],
        "weights": {"onnx": {"source": WEIGHTS, "sha256": sha256(package / WEIGHTS), "opset_version": OPSET}},
    }
    with replacing(package / "rdf.yaml") as draft:
        draft.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def image_tensor(model: Model, patch: tuple[int, ...]) -> dict:
    names = [f"channel{i}" for i in range(model.channels)]
    return {
        "id": INPUT,
        "description": normalisation_in_words(model.config),
        "axes": axes_of(names, patch, model.config),
        "data": {"type": "float32"},
        "test_tensor": {"source": RAW},
        "preprocessing": described(model.config) or [],
    }


def probability_tensor(model: Model, patch: tuple[int, ...]) -> dict:
    return {
        "id": "probabilities",
        "description": f"Probability of each class: {', '.join(model.classes)}",
        "axes": axes_of([identifier(name) for name in model.classes], patch, model.config),
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": {"source": ANSWER},
        "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
    }


def axes_of(channels: list[str], patch: tuple[int, ...], config: Config) -> list[dict]:
    spacing = config.spacing or (None,) * len(patch)
    space = [
        {"type": "space", "id": axis, "size": n} | ({} if mm is None else {"unit": "millimeter", "scale": mm})
        for axis, n, mm in zip(space_names(patch), patch, spacing, strict=True)
    ]
    return [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *space]


def space_names(patch: tuple[int, ...]) -> list[str]:
    return ["z", "y", "x"][-len(patch) :]


def identifier(name: str) -> str:
    """The zoo takes letters, digits and underscores, and no digit in front."""
    plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return plain if plain[:1].isalpha() else f"class_{plain}"


def described(config: Config) -> list[Step] | None:
    """`trainer.batches.normalise` in the zoo's words, or None where it has none for it."""
    if config.masked:
        return None
    standard = step("zero_mean_unit_variance", axes=space_names(config.patch), eps=1e-8)
    if config.normalisation == "zscore":
        return [standard]
    if config.normalisation == "percentile":
        limits = step("clip", max_percentile=99.0, axes=space_names(config.patch))
        return [limits, step("scale_range", axes=space_names(config.patch), eps=1e-12)]
    if config.normalisation == "planned" and not any(config.intensities):
        return [standard]
    if config.normalisation == "planned" and len(set(config.intensities)) == 1:
        mean, deviation, low, high = config.intensities[0]
        fixed = step("fixed_zero_mean_unit_variance", mean=mean, std=max(deviation, 1e-6))
        return [step("clip", min=low, max=high), fixed]
    return None


def step(name: str, **arguments: object) -> Step:
    return {"id": name, "kwargs": arguments}


def normalisation_in_words(config: Config) -> str:
    """At most 128 characters, as the zoo wants it."""
    if described(config) is not None:
        return "Raw intensities; a stack is best normalised as a whole, as it was for the training"
    how = f"{config.normalisation}, masked" if config.masked else config.normalisation
    return f"Whole images normalised by trainer.batches.normalise ({how}), for which the zoo has no word"


def card(model: Model, name: str, patch: tuple[int, ...]) -> str:
    config = model.config
    rows = {
        "Network": f"{name}, size {config.size}",
        "Classes": ", ".join(model.classes),
        "Objective": config.objective + (f" of {', '.join(model.names)}" if len(model.names) > 1 else ""),
        "Input": f"{model.channels} channel(s) of {' x '.join(map(str, patch))} voxels; larger images in tiles",
        "Normalisation": normalisation_in_words(config),
    }
    table = "\n".join(f"- {key}: {value}" for key, value in rows.items())
    return (
        f"# {name}\n\nA segmentation network, trained with napari-scribblemamba.\n\n{table}\n\n## Validation\n\n"
        "No scores are stored with the run; compare with labels of your own before you rely on it "
        "(`python -m trainer.evaluate`).\n"
    )


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_zip(package: Path) -> Path:
    """NETWORK.zip beside NETWORK/."""
    target = package.with_suffix(".zip")
    with replacing(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("rdf.yaml", WEIGHTS, RAW, ANSWER, CARD):
            archive.write(package / name, name)
    return target
