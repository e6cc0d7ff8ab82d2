"""Time limits for many short waits. One timer serves all of them: a timer for each would cost more than the wait."""

import asyncio
from time import monotonic
from types import TracebackType

LOOK_SECONDS = 0.1


class Deadlines:
    """The current waits and their deadlines. A wait may take up to `LOOK_SECONDS` longer."""

    def __init__(self) -> None:
        self.running: dict[Deadline, float] = {}
        self.is_watched = False

    def watch(self) -> None:
        """Cancel expired waits, and repeat while any wait is running."""
        now = monotonic()
        for deadline in [deadline for deadline, until in self.running.items() if until <= now]:
            deadline.expire()
        self.is_watched = bool(self.running)
        if self.is_watched:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self.watch)


class Deadline:
    """The time limit of a `with` block, which is cancelled and raises TimeoutError, as with `asyncio.timeout`."""

    __slots__ = ("_all", "_cancelled_before", "_is_late", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._all, self._seconds, self._is_late = deadlines, seconds, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - all callers run in a task
        self._task, self._cancelled_before = task, task.cancelling()
        self._all.running[self] = monotonic() + self._seconds
        if not self._all.is_watched:
            self._all.watch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._all.running[self]
        if self._is_late and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the wait, once."""
        if not self._is_late:
            self._is_late = self._task.cancel()
