"""Reads and writes the files of commands: with errors that name the file, and never half a file."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from app.errors import StartupError

# The name of the standard input and output.
STANDARD = Path("-")


def read(path: Path) -> bytes:
    """The content of a file. Raises StartupError if it cannot be read."""
    try:
        return sys.stdin.buffer.read() if path == STANDARD else path.read_bytes()
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}.") from None


@contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that writes to a file, which gets its name at the end of the block, if that raises nothing.

    A new file is only readable by its owner. Raises StartupError if it cannot be written.
    """
    with _errors(path):
        file, temporary = _opened(path)

    def write(data: bytes) -> None:
        with _errors(path):
            file.write(data)

    try:
        yield write
        with _errors(path):
            file.flush()
            if temporary:
                temporary.replace(path)
    finally:
        if path != STANDARD:
            with suppress(OSError):  # reported by the flush
                file.close()
        if temporary:
            temporary.unlink(missing_ok=True)


def _opened(path: Path) -> tuple[BinaryIO, Path | None]:
    """A file to write to, and its temporary name. Stdout, devices and pipes are written to directly."""
    if path == STANDARD:
        return sys.stdout.buffer, None
    if path.exists() and not path.is_file():
        return path.open("wb"), None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    return os.fdopen(handle, "wb"), Path(name)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Only around operations on the file: errors of the database can be of the same type."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of stdout has ended
    except OSError as error:
        raise StartupError(f"{path} cannot be written: {error.strerror}.") from None
