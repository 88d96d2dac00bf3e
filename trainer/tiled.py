"""A run's ONNX files, as `trainer.export` writes them, as networks for images of any size: no torch network is built.

Reference: https://onnxruntime.ai

B batch · C channels · K classes · space is (H, W) or (D, H, W)
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import read_config
from trainer.inference import windowed
from trainer.model import CONFIG, ENSEMBLE, Model, Probabilities

INPUT, OUTPUT = "image", "logits"
LEAST = 1e-12  # of a probability, in front of a logarithm


def require(*modules: str) -> None:
    """ModuleNotFoundError that says what to install where one of the libraries of the extra `export` is missing."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f'{", ".join(missing)} not found, which exported networks need; pip install "napari-scribblemamba[export]"'
        )


class OnnxNetwork(nn.Module):
    """(B, C, *space) -> logits (B, K, *space), any space: an image of another size than the file's goes in tiles.

    Where tiles overlap, their probabilities are blended; the logits are then the logarithms of the blend. threads: of
    the processor, 0 takes all.
    """

    def __init__(self, file: Path, threads: int = 0) -> None:
        super().__init__()
        require("onnxruntime")
        from onnxruntime import InferenceSession, SessionOptions

        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; write it with trainer.export --to onnx")
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self.session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.patch = tuple(self.session.get_inputs()[0].shape[2:])
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # of no value, but on a device: the processor

    def forward(self, image: Tensor) -> Tensor:
        if tuple(image.shape[2:]) == self.patch:
            return self.run(image)
        return windowed(self.run, image, self.patch).clamp(min=LEAST).log()

    def run(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: image.float().numpy()})[0])


class OnnxPredictor:
    """The networks in a folder of `trainer.export --to onnx`: they prepare, cut, blend and vote as a Model does."""

    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        folder = Path(folder)
        config, classes, channels = read_config(folder / CONFIG)
        config = dataclasses.replace(config, device="cpu", dtype="float32")
        networks = {name: OnnxNetwork(folder / f"{name}.onnx", threads) for name in config.names}
        self.model = Model(networks, config, classes, channels)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    def predict(
        self, image: np.ndarray, spacing: tuple[float, ...] | None = None, network: str = ENSEMBLE
    ) -> np.ndarray:
        """Raw intensities (C, *space), spacing in mm -> uint8 (*space) class ids. Errors are those of a Model."""
        return self.model.predict(image, spacing, network)

    def probabilities(self, image: np.ndarray, spacing: tuple[float, ...] | None = None) -> Probabilities:
        """Raw intensities (C, *space), spacing in mm -> float32 (K, *space) for each network and the ensemble."""
        return self.model.probabilities(image, spacing)
