"""The failures TaskQL expects; everything else is a bug and is masked.

TaskQLError
├── StartupError       the process cannot start as it was asked to: one line for the operator, exit code 1
└── RequestError       a request cannot be answered: one GraphQL error with `extensions.code`
    ├── Unauthenticated
    ├── BadUserInput
    ├── LimitExceeded
    └── Unavailable
"""

from typing import Any


class TaskQLError(Exception):
    """Base of every expected failure; its text is for the person who meets it."""


class StartupError(TaskQLError):
    """What is wrong, where, and what to do, in one line."""


class RequestError(TaskQLError):
    """Becomes a top-level GraphQL error; graphql-core copies `extensions` into the answer."""

    code = "INTERNAL"

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code}


class Unauthenticated(RequestError):
    """No token, or one that does not hold."""

    code = "UNAUTHENTICATED"


class BadUserInput(RequestError):
    """An argument that no form would let through: a malformed id, cursor or text."""

    code = "BAD_USER_INPUT"


class LimitExceeded(RequestError):
    """More than this server does for one request."""

    code = "LIMIT_EXCEEDED"


class Unavailable(RequestError):
    """The database cannot answer now; the same request may succeed later."""

    code = "UNAVAILABLE"
