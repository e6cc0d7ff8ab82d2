"""The version of the installed TaskQL, from pyproject.toml."""

from importlib.metadata import version

VERSION = version("taskql")
