"""Benchmarks of TaskQL, next to a plain server with the same API: scripts/bench."""
