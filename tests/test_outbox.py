"""Devices that write offline, over a network that loses requests and responses; scripts/oracle draws new seeds."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import asyncpg
import httpx
import hypothesis
import hypothesis.strategies as st
from conftest import NEVER_CHECKED, Application, User
from outbox import Device, History, check, purge

STEPS = 60


class Lossy(httpx.AsyncBaseTransport):
    """A transport that sometimes loses a request, and sometimes the response to one that was run."""

    def __init__(self, inner: httpx.AsyncBaseTransport, random: Random) -> None:
        self._inner, self._random, self.loses = inner, random, True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chance = self._random.random() if self.loses else 1.0
        if chance < 0.1:
            raise httpx.ConnectError("lost on the way")
        response = await self._inner.handle_async_request(request)
        if chance < 0.35:
            await response.aread()
            raise httpx.ReadError("lost on the way back")
        return response


@hypothesis.settings(
    max_examples=50,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[*NEVER_CHECKED, hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(seed=st.integers(0, 2**32))
async def test_three_devices(
    application: Application,
    new_user: Callable[..., Awaitable[User]],
    owner: "asyncpg.Connection[Any]",
    seed: int,
) -> None:
    """Edits merge, conflicts are resolved, trash is purged: at the end all devices equal the database."""
    random = Random(seed)  # noqa: S311 - must be repeatable
    network = Lossy(httpx.ASGITransport(application.app), random)
    async with httpx.AsyncClient(transport=network, base_url="http://127.0.0.1") as client:
        user, history = replace(await new_user(), http=client), History(random)
        devices = [Device(user, history) for _ in range(3)]
        for _ in range(STEPS):
            device = random.choice(devices)
            if random.random() < 0.15:
                device.is_online = not device.is_online
            device.act()
            if device.is_online and random.random() < 0.5:
                await device.meet()
            if random.random() < 0.02:
                await purge(owner, user, history)
        for device in devices:
            await device.finish()
        network.loses = False
        for device in devices:
            await device.finish()
        await check(owner, user, devices, history)
