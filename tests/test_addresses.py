"""The client's address behind proxies: only entries that trusted proxies appended count."""

import httpx
import pytest
from conftest import SECRET, Server, made_settings, running

from app import settings as configuration
from app.addresses import Proxies, networks
from app.errors import StartupError
from app.settings import Settings

PROXY, CLIENT, FORGED = "127.0.0.1", "203.0.113.7", "9.9.9.9"
LONG = "9" * 90_000


@pytest.mark.parametrize(
    ("trusted", "hops", "peer", "forwarded", "client"),
    [
        (PROXY, 1, PROXY, CLIENT, CLIENT),
        (PROXY, 1, PROXY, f"{FORGED}, {CLIENT}", CLIENT),
        (PROXY, 1, CLIENT, FORGED, CLIENT),
        ("127.0.0.1,10.0.0.0/8", 1, PROXY, f"{FORGED}, {CLIENT}, 10.1.2.3", CLIENT),
        ("127.0.0.1,10.0.0.0/8", 1, PROXY, "10.1.2.3", "10.1.2.3"),
        ("*", 1, "198.51.100.1", f"{FORGED}, {CLIENT}", CLIENT),
        ("*", 2, "198.51.100.1", f"{FORGED}, {CLIENT}, 10.1.2.3", CLIENT),
        ("*", 2, "198.51.100.1", CLIENT, CLIENT),
        ("*", 1, "198.51.100.1", "unknown", "198.51.100.1"),
        ("*", 2, "198.51.100.1", f"_hidden, {CLIENT}", CLIENT),
        ("*", 1, "198.51.100.1", LONG, "198.51.100.1"),
        (PROXY, 1, PROXY, f"{LONG}, {CLIENT}", CLIENT),
        (PROXY, 1, PROXY, "", PROXY),
        (PROXY, 1, PROXY, ",", PROXY),
        (PROXY, 1, PROXY, f"{CLIENT}:4711", CLIENT),
        (PROXY, 1, PROXY, "[2001:db8::1]:4711", "2001:db8::1"),
        (PROXY, 1, PROXY, "2001:db8::1", "2001:db8::1"),
        (PROXY, 1, PROXY, f"::ffff:{CLIENT}", CLIENT),
        (PROXY, 1, "::ffff:127.0.0.1", CLIENT, CLIENT),
        ("10.0.0.0/8", 1, "", CLIENT, ""),
    ],
)
def test_the_client_behind_proxies(trusted: str, hops: int, peer: str, forwarded: str, client: str) -> None:
    """Addresses are counted from the right, past trusted proxies; an invalid one is ignored."""
    assert Proxies(networks(trusted), hops).client(peer, forwarded) == client


def test_lines_of_one_header() -> None:
    """Several lines of the header form one list."""
    scope = {"client": (PROXY, 1), "headers": [(b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-for", CLIENT.encode())]}
    Proxies(networks(PROXY), 1).see_through(scope)

    assert scope["client"] == (CLIENT, 1)


@pytest.mark.parametrize("proxies", ["*", "127.0.0.1"])
async def test_a_caller_cannot_choose_its_address(server: Server, settings: Settings, proxies: str) -> None:
    """An anonymous caller that forges a new address for each request is still charged as one client."""
    del settings
    update = {"forwarded_allow_ips": proxies, "rate_limit_anonymous": "120/minute"}
    async with running(made_settings(server, **update)) as application:

        async def ask(number: int) -> httpx.Response:
            headers = {"X-Forwarded-For": f"9.9.9.{number}, {CLIENT}"}
            return await application.http.post("/graphql", json={"query": "{ viewer { id } }"}, headers=headers)

        statuses = [(await ask(number)).status_code for number in range(30)]
        assert statuses[0] == 401
        assert 429 in statuses


@pytest.mark.parametrize("text", ["localhost", "10.0.0.0/33", "127.0.0.1 10.0.0.1"])
def test_invalid_proxies_are_rejected(text: str) -> None:
    """An invalid address or network is rejected with the name of the setting."""
    with pytest.raises(StartupError, match="FORWARDED_ALLOW_IPS"):
        configuration.load(forwarded_allow_ips=text, auth_secret=SECRET)
