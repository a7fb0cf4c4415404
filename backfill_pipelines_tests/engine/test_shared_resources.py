"""What all partitions of a process share is opened once, and one partition's end is no other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backfill_pipelines.engine.backfill import SharedResources
from backfill_pipelines.errors import TransientError


class Factory:
    """Makes a resource when it is let, and counts how often it was asked to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.made = 0
        self.started = asyncio.Event()
        self.allowed = asyncio.Event()
        self._failures = failures

    async def make(self) -> str:
        self.made += 1
        self.started.set()
        await self.allowed.wait()
        if self.made <= self._failures:
            raise TransientError("vendor_unavailable", "Down.")
        return f"resource {self.made}"


def test_of_many_that_ask_at_once_one_makes_it_and_all_get_the_same() -> None:
    async def scenario() -> None:
        shared, factory = SharedResources(), Factory()
        asking = [asyncio.ensure_future(shared.get("key", factory.make)) for _ in range(5)]
        await factory.started.wait()
        factory.allowed.set()
        assert await asyncio.gather(*asking) == ["resource 1"] * 5
        assert await shared.get("key", factory.make) == "resource 1"
        assert await shared.get("another key", factory.make) == "resource 2"

    asyncio.run(scenario())


def test_a_failure_is_told_to_all_who_wait_and_then_forgotten() -> None:
    async def scenario() -> None:
        shared, factory = SharedResources(), Factory(failures=1)
        asking = [asyncio.ensure_future(shared.get("key", factory.make)) for _ in range(3)]
        await factory.started.wait()
        factory.allowed.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(answer) for answer in told] == [TransientError] * 3
        assert await shared.get("key", factory.make) == "resource 2"

    asyncio.run(scenario())


def test_a_waiter_that_is_cancelled_cancels_nobody_else() -> None:
    async def scenario() -> None:
        shared, factory = SharedResources(), Factory()
        first = asyncio.ensure_future(shared.get("key", factory.make))
        second = asyncio.ensure_future(shared.get("key", factory.make))
        await factory.started.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        factory.allowed.set()
        assert await second == "resource 1"
        assert factory.made == 1

    asyncio.run(scenario())


def test_a_failure_that_nobody_waited_for_any_more_is_not_told_to_the_next() -> None:
    async def scenario() -> None:
        shared, factory = SharedResources(), Factory(failures=1)
        asking = asyncio.ensure_future(shared.get("key", factory.make))
        await factory.started.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        factory.allowed.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await shared.get("key", factory.make) == "resource 2"

    asyncio.run(scenario())


def test_closing_closes_what_was_opened_last_one_first_and_gives_up_what_is_being_made() -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        yield name
        closed.append(name)

    async def scenario() -> None:
        shared, factory = SharedResources(), Factory()
        for name in ("connections", "quota"):
            assert await shared.enter(resource(name)) == name
        waiting = asyncio.ensure_future(shared.get("key", factory.make))
        await factory.started.wait()
        await shared.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    assert closed == ["quota", "connections"]
