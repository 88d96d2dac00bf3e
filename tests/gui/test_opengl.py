"""Mesa's LLVM and Triton's in one process crash it; a window that trains must not."""

import subprocess
import sys
from pathlib import Path

import pytest

from napari_scribblemamba import _opengl


def libraries(folder: Path, text: str) -> Path:
    file = folder / "maps"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("loaded", "kept_out"),
    [
        ("7f00-7f10 r-xp 0 0 0 /usr/lib/libLLVM-15.so.1", True),
        ("7f00-7f10 r-xp 0 0 0 /usr/lib/libGLX_nvidia.so", False),
    ],
)
def test_triton_stays_out_where_mesa_has_llvm(
    loaded: str, kept_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(_opengl, "LIBRARIES", libraries(tmp_path, loaded))
    _opengl.keep_triton_out()
    assert ("triton" in sys.modules) == kept_out
    sys.modules.pop("triton", None)


def test_torch_trains_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
parameter = torch.nn.Parameter(torch.ones(1))
optimiser = torch.optim.AdamW([parameter])
parameter.grad = torch.ones(1)
optimiser.step()
from trainer.networks.scan import kernels
assert kernels("cpu")["torch"] == "usable"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
