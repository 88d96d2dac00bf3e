"""The package installs without a C compiler, and says what that costs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.name == "nt", reason="the compiler cannot be hidden on Windows")
def test_without_a_compiler_torch_runs_and_the_doctor_says_so(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="builds need setuptools 77")
    source, site = tmp_path / "source", tmp_path / "site"
    copy_of_the_source(source)
    pip = [sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--no-build-isolation", "--no-index"]
    hidden = os.environ | {"CC": str(tmp_path / "no-compiler")}
    installed = run([*pip, "--target", site, source], tmp_path, hidden)
    assert installed.returncode == 0, installed.stderr
    assert (
        "no C compiler works here, so the selective scan will run in plain torch" in installed.stdout + installed.stderr
    )
    assert not list(site.rglob("libscan*")) and not list(site.rglob("*.c"))
    models = {file.relative_to(ROOT) for file in (ROOT / "trainer/models").rglob("*.*")}
    assert models and models <= {file.relative_to(site) for file in (site / "trainer").rglob("*.*")}
    (tag,) = (line for file in site.glob("*.dist-info/WHEEL") for line in lines_with("Tag: ", file.read_text()))
    assert tag == "Tag: py3-none-any"

    forced = {"SCRIBBLEMAMBA_SCAN", "SCRIBBLEMAMBA_ISA"}
    there = {k: v for k, v in os.environ.items() if k not in forced} | {"PYTHONPATH": str(site)}
    doctor = run([sys.executable, "-m", "trainer.doctor", "--quick", "--device", "cpu"], tmp_path, there)
    assert doctor.returncode == 0, doctor.stderr
    assert str(site) in doctor.stdout  # of what was installed, not of these sources
    (said,) = lines_with("not built", doctor.stderr)
    assert said.startswith("the selective scan runs in plain torch, about ten times slower: libscan.so was not built")
    assert "the scan runs on: torch\n" in doctor.stdout
    (native,) = lines_with("  native ", doctor.stdout)
    assert "libscan.so was not built; install a C compiler and run pip install again" in native


def copy_of_the_source(to: Path) -> None:
    """What a source distribution has: a build leaves files beside them."""
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.dll")
    for name in ("trainer", "napari_scribblemamba", "sample_data", "docs"):
        shutil.copytree(ROOT / name, to / name, ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)


def run(command: list[object], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def lines_with(words: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if words in line]
