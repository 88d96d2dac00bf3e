"""Export a run: python -m trainer.export --run RUN --to onnx|bioimageio --out FOLDER [--patch 256 256]

onnx        FOLDER/NETWORK.onnx of each network and config.json: what `trainer.tiled.OnnxPredictor` reads
bioimageio  FOLDER/NETWORK.zip of each network, a model of the BioImage Model Zoo, and the same unpacked beside it

An ONNX file takes "image" (batch, C, *patch), normalised, and gives "logits" (batch, K, *patch), float32: any batch,
one patch. It is compared with its network before it is kept. Needs pip install "napari-scribblemamba[export]".
"""

import dataclasses
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.config import Config
    from trainer.model import Model

OPSET = 18
TOLERANCE = 1e-4  # between the logits of torch and onnxruntime, of the largest one where that is above 1
REGRETS = "torch.onnx._internal.exporter._registration"  # warns at length that there is no torchvision
console = Console(stderr=True)


@dataclass(frozen=True)
class Export:
    """Write the networks of a run in a form that other programs read."""

    run: Path
    """Folder that trainer.fit wrote, or bundled:NAME."""
    out: Path
    """Folder for the exported networks."""
    to: Literal["onnx", "bioimageio"] = "onnx"
    """ONNX files; or packages for the BioImage Model Zoo, with an ONNX file each."""
    patch: tuple[int, ...] = ()
    """Voxels along each axis of what a file takes; none: the windows of trainer.predict, which are twice the run's
    patch for slices, and the run's patch for resized slices and volumes."""
    author: tuple[str, ...] = ("A user of napari-scribblemamba",)
    """For bioimageio: who trained the run."""
    license: str = "CC-BY-4.0"
    """For bioimageio: under which others may use the weights, a name of spdx.org/licenses."""


def main() -> None:
    options = tyro.cli(Export, description=__doc__)
    logging.getLogger(REGRETS).setLevel(logging.ERROR)
    try:
        export(options)
    except (ValueError, ArithmeticError, OSError, ImportError) as e:
        sys.exit(f"trainer.export: {e}")
    except KeyboardInterrupt:
        sys.exit("trainer.export: interrupted")


def export(options: Export) -> None:
    from trainer.bioimageio import described, export_bioimageio, normalisation_in_words
    from trainer.model import Model

    model = Model.load(options.run, device="cpu")
    if options.to == "onnx":
        files = export_onnx(model, options.out, options.patch)
    else:
        files = export_bioimageio(model, options.out, options.author, options.license, options.patch)
        if described(model.config) is None:
            console.print(normalisation_in_words(model.config))
        console.print(f"licence {options.license}, by {', '.join(options.author)} (change with --license, --author)")
    for file in track(files, "exporting", len(model.names), console=console):
        console.print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def export_onnx(model: "Model", folder: Path, patch: tuple[int, ...] = ()) -> Iterator[Path]:
    """Writes config.json and, as it is iterated, NETWORK.onnx after NETWORK.onnx; see `write_onnx` for errors."""
    from trainer.config import write_config
    from trainer.model import CONFIG

    patch = checked_patch(patch, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(model.config, device="cpu", dtype="float32", kernel="auto")
    write_config(folder / CONFIG, config, model.classes, model.channels)
    for name, network in model.networks.items():
        write_onnx(network, (model.channels, *patch), folder / f"{name}.onnx")
        yield folder / f"{name}.onnx"


def checked_patch(patch: tuple[int, ...], config: "Config") -> tuple[int, ...]:
    """The patch, or where it is empty what trainer.predict shows the networks of a large image."""
    if patch and len(patch) != len(config.patch):
        raise ValueError(f"the networks take {len(config.patch)} axes, got the patch {patch}")
    as_trained = config.view == "resize" or len(config.patch) == 3
    return patch or tuple(n if as_trained else 2 * n for n in config.patch)


def write_onnx(network: "nn.Module", size: tuple[int, ...], file: Path) -> None:
    """A network on the processor as a file for images of `size` (C, *patch).

    ModuleNotFoundError where the extra `export` is not installed, ArithmeticError if ONNX computes something else.
    """
    import torch

    from trainer.files import replacing
    from trainer.tiled import require

    require("onnx", "onnxscript", "onnxruntime")
    generator, training = torch.Generator().manual_seed(0), network.training
    network.eval()
    try:
        with torch.no_grad(), replacing(file) as draft:
            trace(network, torch.randn(2, *size, generator=generator), draft)
            for batch in (1, 3):
                check_equal(network, torch.randn(batch, *size, generator=generator), draft)
    finally:
        network.train(training)


def trace(network: "nn.Module", image: "Tensor", file: Path) -> None:
    """By torch.export: the older exporter, which runs the network once and notes each step, unrolls the scans."""
    import torch

    from trainer.networks.scan.onnx_function import selective_scan
    from trainer.tiled import INPUT, OUTPUT

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's about torch
        torch.onnx.export(
            network,
            (image,),
            file,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table={torch.ops.scribblemamba.scan.default: selective_scan},
            verbose=False,
        )


def check_equal(network: "nn.Module", image: "Tensor", file: Path) -> None:
    from trainer.tiled import OnnxNetwork

    expected, found = network(image), OnnxNetwork(file, threads=1).run(image)
    difference, scale = (expected - found).abs().max().item(), expected.abs().max().item()
    if not difference <= TOLERANCE * max(1.0, scale):
        raise ArithmeticError(
            f"onnxruntime's logits differ from torch's by {difference:.1e} where the largest is {scale:.1e}; "
            f"{file.name} is not kept; try another version of onnxruntime"
        )


if __name__ == "__main__":
    main()
