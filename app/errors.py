"""Expected errors. All other exceptions are bugs, and are masked.

TaskQLError
├── StartupError       a command cannot run: one line for the operator, exit code 1
└── RequestError       a request fails: one GraphQL error with `extensions.code`
    ├── Unauthenticated
    ├── BadUserInput
    ├── MethodNotAllowed
    ├── PersistedQueryNotFound
    ├── PersistedQueryNotSupported
    ├── IntrospectionRefused
    ├── UntrustedDocument
    ├── LimitExceeded
    │   └── TooManyTags
    ├── RateLimited
    └── Unavailable
"""

from typing import Any

RETRY_AFTER_SECONDS = 1


class TaskQLError(Exception):
    """Base of all expected errors. The message is for the operator or the caller."""


class StartupError(TaskQLError):
    """Says in one line what is wrong, where, and what to do."""


class RequestError(TaskQLError):
    """Becomes a GraphQL error of the response; graphql-core copies `extensions` into it."""

    code = "INTERNAL"

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code}


class Unauthenticated(RequestError):
    """The request has no valid token. `reason` tells clients whether a new token helps."""

    code = "UNAUTHENTICATED"

    # No token was sent; get a new one; retry with the same one later; sign in again.
    MISSING, EXPIRED, NOT_YET_VALID, INVALID = "MISSING", "EXPIRED", "NOT_YET_VALID", "INVALID"

    def __init__(self, message: str, reason: str = INVALID) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "reason": self.reason}


class BadUserInput(RequestError):
    """An argument is malformed, such as an id or a cursor. `field` is its path, such as `input.id`, if it is known."""

    code = "BAD_USER_INPUT"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code} if self.field is None else {"code": self.code, "field": self.field}


class MethodNotAllowed(RequestError):
    """The HTTP method does not allow this operation, such as a mutation by GET."""

    code = "METHOD_NOT_ALLOWED"


class PersistedQueryNotFound(RequestError):
    """The hash is unknown: by Apollo's protocol, the client then sends the document with its hash."""

    code = "PERSISTED_QUERY_NOT_FOUND"


class PersistedQueryNotSupported(RequestError):
    """Persisted queries are off: by Apollo's protocol, the client then always sends the document."""

    code = "PERSISTED_QUERY_NOT_SUPPORTED"


class IntrospectionRefused(RequestError):
    """Introspection is not allowed."""

    code = "GRAPHQL_VALIDATION_FAILED"


class UntrustedDocument(RequestError):
    """The document is not in the manifest of trusted documents."""

    code = "UNTRUSTED_DOCUMENT"


class LimitExceeded(RequestError):
    """The request exceeds a limit."""

    code = "LIMIT_EXCEEDED"


class TooManyTags(LimitExceeded):
    """A write would give the user more different tags than a user may have."""


class RateLimited(RequestError):
    """The caller has used up its rate. The next window of time starts in `seconds`."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "retryAfter": self.seconds}


class Unavailable(RequestError):
    """The database or another resource is not available. The client can retry after `seconds`."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, seconds: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.seconds = seconds

    @property
    def extensions(self) -> dict[str, Any]:
        return {"code": self.code, "retryAfter": self.seconds}
