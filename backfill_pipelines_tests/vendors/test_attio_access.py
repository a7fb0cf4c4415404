"""The way in to Attio: keys, budgets, and how fast one may write."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ConfigurationError
from backfill_pipelines.sandbox.attio_limits import Window, WindowKind
from backfill_pipelines.sandbox.attio_records import PEOPLE
from backfill_pipelines.vendors.attio_access import (
    WRITE_SLACK,
    WRITES_PER_SECOND,
    connect,
    identify,
    quotas,
)
from backfill_pipelines.vendors.attio_records import TokenInfo
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore, QuotaKey, Reservation
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.sandbox.attio_rig import EMPTY, AttioRig, running_attio
from backfill_pipelines_tests.vendors.attio_asking import ask_at, record, refusal
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, ScriptedServer, answer
from backfill_pipelines_tests.vendors.virtual_time import InstantClock, LoopClock, VirtualTimeLoop, run_virtually

WHO = {"active": True, "workspace_id": "w-1", "scope": "record_permission:read object_configuration:read"}


def identified(url: str, token: str = "a-token") -> TokenInfo:
    async def asked() -> TokenInfo:
        async with open_http_client() as http:
            return await identify(
                http, api_key=SecretStr(token), retry_budget=RetryBudget(), clock=InstantClock(), base_url=url
            )

    return asyncio.run(asked())


# --- the key ---------------------------------------------------------------------------------------------------------


def test_a_key_tells_its_workspace_and_what_it_may_do() -> None:
    with running_attio(EMPTY) as rig:
        found = identified(rig.url, rig.seeded.token)
        assert found == TokenInfo(workspace_id=rig.seeded.id, scopes=frozenset(rig.seeded.scopes))


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [(answer(200, {"active": False}), "token_inactive"), (refusal(401, "unauthorized"), "unauthorized")],
)
def test_a_dead_key_is_a_matter_of_configuration_whichever_way_it_is_said(behaviour: Behaviour, code: str) -> None:
    with ScriptedServer(behaviour) as server, pytest.raises(ConfigurationError) as error:
        identified(server.url)
    assert error.value.code == code


def test_the_key_is_sent_as_a_bearer_token_below_v2() -> None:
    with ScriptedServer(answer(200, WHO)) as server:
        identified(f"{server.url}/", "secret-key")
        (request,) = server.received
    assert (request.method, request.path) == ("GET", "/v2/self")
    assert request.headers["authorization"] == "Bearer secret-key"


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_429_is_waited_for_until_the_date_it_names_by_the_vendors_own_clock() -> None:
    clock = InstantClock()
    busy = answer(
        429,
        {"status_code": 429, "type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Later."},
        {"Retry-After": "Tue, 23 May 2023 14:42:07 GMT", "Date": "Tue, 23 May 2023 14:42:00 GMT"},
    )
    with ScriptedServer(busy, answer(200, {"data": [record({})]})) as server:
        assert ask_at(server.url, lambda attio: attio.has_more_than(PEOPLE, 0), clock=clock) is True
        assert len(server.received) == 2
    assert 7 <= clock.passed < 8


def test_a_5xx_storm_ends_in_one_clear_sentence() -> None:
    with ScriptedServer(answer(503, b"Service Unavailable")) as server:
        with pytest.raises(BackfillError) as error:
            ask_at(server.url, lambda attio: attio.has_more_than(PEOPLE, 0))
        assert error.value.code == "vendor_unavailable"
        assert len(server.received) == 5


# --- budgets ---------------------------------------------------------------------------------------------------------


class NotingStore(InMemoryQuotaStore):
    """The store in memory, which notes whose permits are asked for."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.asked: list[QuotaKey] = []

    async def reserve(self, key: QuotaKey, *arguments: Any, **named: Any) -> Reservation | None:
        self.asked.append(key)
        return await super().reserve(key, *arguments, **named)


def kinds_asked(rig: AttioRig, *questions: Any) -> list[str]:
    async def asked() -> list[str]:
        clock = InstantClock()
        store = NotingStore(clock)
        budgets = quotas(rig.seeded.id, store=store, clock=clock)
        async with open_http_client() as http, budgets.read, budgets.write:
            attio = connect(
                http,
                api_key=SecretStr(rig.seeded.token),
                quotas=budgets,
                retry_budget=RetryBudget(),
                clock=clock,
                base_url=rig.url,
            )
            for question in questions:
                await question(attio)
        assert {(key.vendor, key.account) for key in store.asked} == {("attio", rig.seeded.id)}
        return [key.kind for key in store.asked]

    return asyncio.run(asked())


def test_queries_take_from_the_reads_and_changes_from_the_writes() -> None:
    with running_attio(EMPTY) as rig:
        made = rig.state.write(PEOPLE, {"name": "Ada"}, actor=rig.seeded.member).id
        kinds = kinds_asked(
            rig,
            lambda attio: attio.people_with_ids([made]),
            lambda attio: attio.has_more_than(PEOPLE, 0),
            lambda attio: attio.authorship(PEOPLE, made),
            lambda attio: attio.set_text(PEOPLE, made, "user_id", "user_1"),
            lambda attio: attio.delete(PEOPLE, made),
        )
    assert kinds == ["read", "read", "read", "write", "write"]


@pytest.mark.parametrize("kind", ["sliding", "clock"])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("starts_at", [0.0, 0.5, 0.999])
def test_a_thousand_writes_take_41_seconds_and_fit_either_window(
    kind: WindowKind, processes: int, starts_at: float
) -> None:
    """On a virtual clock: what is left for the jitter of processes and networks is `WRITE_SLACK` of a second."""
    loop = VirtualTimeLoop()
    clock = LoopClock(loop, error=starts_at)
    store = InMemoryQuotaStore(clock)
    window = Window(WRITES_PER_SECOND, 1.0, kind=kind, clock=clock.time)
    sent: list[float] = []

    def process(writes: int) -> Coroutine[Any, Any, None]:
        async def work() -> None:
            async with quotas("w", store=store, clock=clock).write as quota:

                async def worker(count: int) -> None:
                    for _ in range(count):
                        await quota.acquire()
                        assert window.refused_until() is None
                        sent.append(clock.time())

                await asyncio.gather(*(worker(writes // 10) for _ in range(10)))

        return work()

    async def main() -> None:
        await asyncio.gather(*(process(1_020 // processes) for _ in range(processes)))

    run_virtually(main(), loop)
    assert len(sent) >= 1_000
    assert sent[999] - sent[0] <= 41.0
    assert (len(sent) - 1) / (sent[-1] - sent[0]) >= 0.975 * WRITES_PER_SECOND
    spans = [later - earlier for earlier, later in zip(sent, sent[WRITES_PER_SECOND:], strict=False)]
    assert min(spans) >= 1 + 0.99 * WRITE_SLACK
    assert min(later - earlier for earlier, later in pairwise(sent)) > 0.03
