"""What TaskQL relies on in libraries beyond what they promise, checked at import: an upgrade fails at once.

There is no public way to the same thing where this is used; the reason stands beside each use.
"""


def require(holds: bool, relied_on: str) -> None:  # noqa: FBT001 - it is what is required
    """ImportError that names what a library has changed, unless it `holds`."""
    if not holds:
        raise ImportError(
            f"The installed version of a library differs from the one that TaskQL is written for. {relied_on}"
            " Install what requirements/ pins."
        )
