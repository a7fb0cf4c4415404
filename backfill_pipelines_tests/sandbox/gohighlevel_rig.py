"""A running fake GoHighLevel with small locations, for the tests of the fake and for those of its client.

Belongs here: starting it, speaking to it over HTTP, and asking it through our client with a clock that does not wait.
Does not belong here: data of single tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from backfill_pipelines.sandbox.gohighlevel import GoHighLevelSandbox
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, LocationHabits, build_gohighlevel_location
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.sandbox.gohighlevel_state import LocationState
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.gohighlevel import GoHighLevel, connect, quotas
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
Question = Callable[[GoHighLevel], Awaitable[Answer]]
LOCATION = "locLanternfish000001"
TOKEN = "pit-lanternfish"
UNLIMITED = GoHighLevelLimits(burst=1_000_000, daily=10**9)
VERSION = "2021-07-28"


@dataclass
class SettableClock:
    """Seconds since 1970, as a test sets them."""

    now: float = 1_790_000_000.25

    def __call__(self) -> float:
        return self.now


def location(contacts: int = 1_200, *, seed: int = 3, **habits: Any) -> GoHighLevelLocation:
    """A location of invented contacts, with these habits."""
    return build_gohighlevel_location(seed, LOCATION, TOKEN, contacts=contacts, habits=LocationHabits(**habits))


@dataclass
class GoHighLevelRig:
    """A fake that serves; its first location is the one that is asked."""

    vendor: GoHighLevelSandbox
    server: SandboxServer
    clock: SettableClock
    opened: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The base URL."""
        return self.server.account_urls("gohighlevel")["api"]

    @property
    def seeded(self) -> GoHighLevelLocation:
        """The first location as it was seeded."""
        return self.vendor.locations[0]

    @property
    def state(self) -> LocationState:
        """The first location as it is now."""
        return self.vendor.states[self.seeded.id]

    def client(self, *, token: str | None = None, version: str | None = VERSION) -> httpx.Client:
        """A client of the API, with the first location's token unless another is given."""
        headers = {"Authorization": f"Bearer {self.seeded.token if token is None else token}"}
        if version is not None:
            headers["Version"] = version
        client = httpx.Client(base_url=self.url, headers=headers, timeout=10, verify=False)
        self.opened.append(client)
        return client

    def search(self, **body: Any) -> dict[str, Any]:
        """The document of a search that succeeds."""
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def post(self, **body: Any) -> httpx.Response:
        """A search; `None` leaves a field out."""
        whole = {"locationId": self.seeded.id, "pageLimit": 500, **body}
        sent = {name: value for name, value in whole.items() if value is not None}
        return self.client().post("/contacts/search", json=sent)

    def calls(self, path: str = "/contacts/search") -> int:
        """How many requests came for a path."""
        return sum(each.path == path for each in self.server.requests)

    def ask(
        self, question: Question[Answer], *, token: str | None = None, location_id: str | None = None, **terms: Any
    ) -> Answer:
        """Ask one thing through our client."""
        return ask_at(
            self.url, question, token=token or self.seeded.token, location_id=location_id or self.seeded.id, **terms
        )


def ask_at(
    url: str,
    question: Question[Answer],
    *,
    token: str = TOKEN,
    location_id: str = LOCATION,
    clock: InstantClock | None = None,
    **terms: Any,
) -> Answer:
    """Ask a server one thing through our client and close everything again."""

    async def asked() -> Answer:
        own = clock or InstantClock()
        budgets = quotas(location_id, store=InMemoryQuotaStore(own), clock=own, **terms)
        async with open_http_client() as http, budgets.burst, budgets.daily:
            client = connect(
                http,
                base_url=url,
                token=SecretStr(token),
                location_id=location_id,
                quotas=budgets,
                retry_budget=RetryBudget(),
                clock=own,
            )
            return await question(client)

    return asyncio.run(asked())


@contextmanager
def running_gohighlevel(
    *locations: GoHighLevelLocation,
    limits: GoHighLevelLimits = UNLIMITED,
    faults: Sequence[dict[str, Any]] = (),
) -> Iterator[GoHighLevelRig]:
    """Serve locations."""
    clock = SettableClock()
    vendor = GoHighLevelSandbox(locations, limits=limits, clock=clock)
    with SandboxServer([vendor]) as server:
        server.add_faults(list(faults))
        rig = GoHighLevelRig(vendor, server, clock)
        yield rig
        for client in rig.opened:
            client.close()
