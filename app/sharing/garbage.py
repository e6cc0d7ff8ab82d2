"""Garbage collection that holds up no request.

A full collection looks at every object there is, and stops all threads for 50 ms and more meanwhile. Nearly all garbage
goes without one. So what a server is made of is left out from the start, and full collections are few.
"""

import gc
import threading
import time

# Seconds between full collections.
INTERVAL = 300.0
NEVER = 1_000_000_000


def settle() -> None:
    """Leave out what there is now, and collect the old of what comes only now and then. For processes that serve."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    threading.Thread(target=_collect, name="garbage", daemon=True).start()


def _collect() -> None:
    while True:
        time.sleep(INTERVAL)
        gc.collect()
