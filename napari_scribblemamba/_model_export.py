"""The model at hand in the forms that other programs read, as python -m trainer.export writes them. No Qt."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer import Model

FORMS = {"onnx": "ONNX", "bioimageio": "BioImage Model Zoo"}


def exporting(model: "Model", folder: Path, form: str) -> Generator[float, None, None]:
    """In the thread: how much is done, 0..1, after each network. ModuleNotFoundError says what to install."""
    from trainer.bioimageio import export_bioimageio
    from trainer.export import Export, export_onnx

    model = on_processor(model)
    if form == "onnx":
        files = export_onnx(model, folder)
    else:
        files = export_bioimageio(model, folder, Export.author, Export.license)
    for count, _ in enumerate(files, start=1):
        yield count / len(model.names)


def on_processor(model: "Model") -> "Model":
    """A copy in float32 on the CPU: the exporter takes no other, and the model at hand stays as it is."""
    from trainer.machine import settled
    from trainer.model import Model

    config = settled(replace(model.config, device="cpu", dtype="float32", kernel="auto"))
    copy = Model.new(config, model.classes, model.channels)
    copy.load_state({name: value.cpu() for name, value in model.state().items()}, Path("the model at hand"))
    return copy
