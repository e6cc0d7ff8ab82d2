"""Garbage collection with short pauses.

A full collection traverses all objects and stops all threads for 50 ms and more. Nearly all garbage is freed without
one. So the objects that exist at startup are excluded, and full collections are rare.
"""

import gc
import threading
import time

# Seconds between full collections.
INTERVAL = 300.0
NEVER = 1_000_000_000


def settle() -> None:
    """Exclude all existing objects from collections, and run full collections at intervals. For server processes."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    threading.Thread(target=_collect, name="garbage", daemon=True).start()


def _collect() -> None:
    while True:
        time.sleep(INTERVAL)
        gc.collect()
