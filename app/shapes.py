"""Checks at import what TaskQL uses of libraries beyond their public interfaces, so that an upgrade fails at once.

It is used only where the public interface does not suffice, with the reason next to it.
"""


def require(holds: bool, relied_on: str) -> None:  # noqa: FBT001 - it is what is required
    """Raise ImportError, which says what has changed, unless the assumption `holds`."""
    if not holds:
        raise ImportError(
            f"An installed library differs from the version that TaskQL is written for. {relied_on}"
            " Install the versions that requirements/ pins."
        )
