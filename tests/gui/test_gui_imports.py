"""The window opens without torch; the engine is imported in the background, later."""

import subprocess
import sys


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_widget_imports_neither_torch_nor_monai() -> None:
    assert not {"torch", "monai"} & modules_after("import napari_scribblemamba._widget")


def test_the_session_imports_no_qt() -> None:
    modules = modules_after("import napari_scribblemamba._session")
    assert not {"qtpy", "PyQt6", "PySide6", "napari", "torch"} & modules


def test_the_package_itself_is_light() -> None:
    assert not {"numpy", "qtpy", "napari", "trainer"} & modules_after("import napari_scribblemamba")
