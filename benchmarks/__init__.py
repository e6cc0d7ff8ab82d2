"""Measures TaskQL beside a plain server of the same tasks: scripts/bench."""
