"""Builds the explorer before a wheel or sdist is made from a clone. An sdist contains the built explorer."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

BUILD = Path(__file__).parent / "scripts" / "explorer"


def build_explorer() -> None:
    """Fails if the explorer cannot be built: a published TaskQL includes it."""
    if BUILD.exists():
        subprocess.run([BUILD], check=True)  # noqa: S603 - our own script


class BuildWithExplorer(build_py):
    """An editable install, as scripts/setup makes, needs no explorer."""

    def run(self) -> None:
        if not self.editable_mode:
            build_explorer()
        super().run()


class PackWithExplorer(sdist):
    """Before the files are listed."""

    def run(self) -> None:
        build_explorer()
        super().run()


setup(cmdclass={"build_py": BuildWithExplorer, "sdist": PackWithExplorer})
