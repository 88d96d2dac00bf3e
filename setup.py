"""The C kernel of the selective scan; without a compiler the scan runs in torch. All else is in pyproject.toml."""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SCAN = Path("trainer/networks/scan")


class BuildLibrary(build_ext):
    """A plain shared library for ctypes: there is no Python in it, so no ABI in its name and no PyInit to export."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".dll" if os.name == "nt" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols

    def build_extensions(self) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        for ext in self.extensions:
            ext.extra_compile_args = ["/O2"] if msvc else ["-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi"]
        super().build_extensions()

    def run(self) -> None:
        super().run()
        if not is_built(self):
            self.warn("no C compiler works here, so the selective scan will run in plain torch, several times slower")


class PlatformWheel(bdist_wheel):
    """py3-none-<platform> with the library, for any Python 3; py3-none-any without."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2] if is_built(self.get_finalized_command("build_ext")) else "any"
        return "py3", "none", platform


def is_built(command: build_ext) -> bool:
    return all(os.path.exists(command.get_ext_fullpath(ext.name)) for ext in command.extensions)


setup(
    ext_modules=[
        Extension(
            "trainer.networks.scan.libscan",
            sources=[str(file) for file in sorted(SCAN.glob("native/*.c"))],
            depends=[str(file) for file in sorted(SCAN.glob("native/*.h"))],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
