"""Schemathesis against a running server: valid and invalid operations generated from the schema."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from conftest import SECRET, Server, Serving, User, serving
from schemathesis.checks import not_a_server_error

from schema import sdl

FUZZED = schemathesis.graphql.from_file(sdl())
EXAMPLES = 20
CODES = {"BAD_USER_INPUT", "LIMIT_EXCEEDED", "GRAPHQL_VALIDATION_FAILED"}
"""What may be wrong with an operation that the schema allows, and with one that it does not."""


@pytest.fixture(scope="module")
def served(server: Server, settings: object) -> Iterator[Serving]:
    """A server process."""
    del settings
    environment = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}
    with serving(**environment, RATE_LIMIT="off") as served:
        yield served


@FUZZED.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(hypothesis.HealthCheck),
)
async def test_no_operation_is_a_server_error(case: schemathesis.Case[Any], served: Serving, alice: User) -> None:
    """Every operation that the schema allows gets a result or a client error."""
    response = case.call(base_url=f"{served.url}/graphql", headers={"Authorization": f"Bearer {alice.token}"})

    case.validate_response(response, checks=[not_a_server_error])
    answer = response.json()
    assert "data" in answer or "errors" in answer
    assert {error["extensions"]["code"] for error in answer.get("errors", [])} <= CODES
