"""The failures TaskQL expects; everything else is a bug and is masked.

TaskQLError
├── StartupError       the process cannot start as it was asked to: one line for the operator, exit code 1
└── RequestError       a request cannot be answered: one GraphQL error with `extensions.code`
    ├── Unauthenticated
    ├── BadUserInput
    ├── MethodNotAllowed
    ├── PersistedQueryNotFound
    ├── PersistedQueryNotSupported
    ├── IntrospectionRefused
    ├── UntrustedDocument
    ├── LimitExceeded
    ├── RateLimited
    ├── FullSyncRequired
    └── Unavailable
"""

from typing import Any

RETRY_AFTER_SECONDS = 1


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
    """No token, or one that is not accepted; `reason` tells clients whether to get another one."""

    code = "UNAUTHENTICATED"

    # Reasons: no token came; it was good and a new one will be; it will be good later; it will never be accepted.
    MISSING, EXPIRED, NOT_YET_VALID, INVALID = "MISSING", "EXPIRED", "NOT_YET_VALID", "INVALID"

    def __init__(self, message: str, reason: str = INVALID) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "reason": self.reason}


class BadUserInput(RequestError):
    """An argument that no form would let through: a malformed id, cursor or text."""

    code = "BAD_USER_INPUT"


class MethodNotAllowed(RequestError):
    """A way to ask that is not for what was asked: a mutation by GET."""

    code = "METHOD_NOT_ALLOWED"


class PersistedQueryNotFound(RequestError):
    """The hash of a document that is not known here: Apollo's protocol has the client send it along."""

    code = "PERSISTED_QUERY_NOT_FOUND"


class PersistedQueryNotSupported(RequestError):
    """The hash of a document where no such documents are kept: the client sends texts from now on."""

    code = "PERSISTED_QUERY_NOT_SUPPORTED"


class IntrospectionRefused(RequestError):
    """A question about the schema, where it is not shown."""

    code = "GRAPHQL_VALIDATION_FAILED"


class UntrustedDocument(RequestError):
    """A document that is not in the manifest of those this server answers."""

    code = "UNTRUSTED_DOCUMENT"


class LimitExceeded(RequestError):
    """More than this server does for one request."""

    code = "LIMIT_EXCEEDED"


class RateLimited(RequestError):
    """The caller has asked for more than its share of a window of time, which ends in `seconds`."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "retryAfter": self.seconds}


class FullSyncRequired(RequestError):
    """A sync token that does not lead on: it is damaged or another user's, or from before a purge or a restore."""

    code = "FULL_SYNC_REQUIRED"

    def __init__(self) -> None:
        super().__init__("The token does not lead on; ask the query taskChanges, which begins anew, for another.")


class Unavailable(RequestError):
    """What is needed cannot answer now; the same request may succeed in some `seconds`."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, seconds: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.seconds = seconds

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "retryAfter": self.seconds}
