"""A running fake Attio with one small workspace, for the tests of the fake and for those of its client.

Belongs here: starting it and speaking to it. Does not belong here: data of single tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from backfill_pipelines.sandbox.attio import AttioSandbox
from backfill_pipelines.sandbox.attio_data import build_attio_workspace, invent_users
from backfill_pipelines.sandbox.attio_limits import AttioLimits
from backfill_pipelines.sandbox.attio_records import PEOPLE, AttioWorkspace
from backfill_pipelines.sandbox.attio_state import OpenQuestions, WorkspaceState
from backfill_pipelines.sandbox.server import SandboxServer

KEY = "lanternfish"
UNLIMITED = AttioLimits(reads=100_000, writes=100_000, query_score=100_000, score_sum=10**9)
WORKSPACE = build_attio_workspace(seed=3, key=KEY, users=invent_users(60, seed=3), other_people=15, other_companies=6)
EMPTY = build_attio_workspace(seed=3, key=KEY, other_people=0, other_companies=0)._replace(companies=())


@dataclass
class SettableClock:
    """Seconds since 1970, as a test sets them."""

    now: float = 1_790_000_000.25

    def __call__(self) -> float:
        return self.now


@dataclass
class AttioRig:
    """A fake that serves, and its one workspace."""

    vendor: AttioSandbox
    server: SandboxServer
    seeded: AttioWorkspace
    opened: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The base URL, without `/v2`."""
        return self.server.account_urls("attio")["api"]

    @property
    def state(self) -> WorkspaceState:
        """The workspace as it is now."""
        return self.vendor.state.workspaces[self.seeded.key]

    def client(self, *, token: str | None = None) -> httpx.Client:
        """A client of the API, with the workspace's own token unless another is given."""
        headers = {"Authorization": f"Bearer {self.seeded.token if token is None else token}"}
        client = httpx.Client(base_url=f"{self.url}/v2", headers=headers, timeout=10, verify=False)
        self.opened.append(client)
        return client

    def statuses(self) -> list[tuple[str, str, int]]:
        """Method, path and status of every request so far."""
        return [(each.method, each.path, each.status) for each in self.server.requests]


@contextmanager
def running_attio(
    seeded: AttioWorkspace = WORKSPACE,
    *,
    limits: AttioLimits = UNLIMITED,
    questions: OpenQuestions | None = None,
    clock: Any = None,
    others: Sequence[AttioWorkspace] = (),
) -> Iterator[AttioRig]:
    """Serve a workspace, and others beside it."""
    arguments = {} if clock is None else {"clock": clock}
    vendor = AttioSandbox([seeded, *others], limits=limits, questions=questions, **arguments)
    with SandboxServer([vendor]) as server:
        rig = AttioRig(vendor, server, seeded)
        yield rig
        for client in rig.opened:
            client.close()


def data(answer: httpx.Response) -> Any:
    """The data of a success."""
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose body has the vendor's form."""
    body = answer.json()
    assert body["status_code"] == answer.status_code
    assert isinstance(body["message"], str)
    return answer.status_code, body["code"]


def query(client: httpx.Client, object_slug: str = PEOPLE, **body: Any) -> list[dict[str, Any]]:
    """The rows of a query."""
    rows: list[dict[str, Any]] = data(client.post(f"/objects/{object_slug}/records/query", json=body))
    return rows


def ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The record ids of rows, in their order."""
    return [row["id"]["record_id"] for row in rows]


def create(client: httpx.Client, object_slug: str = PEOPLE, **values: Any) -> dict[str, Any]:
    """Create a record and return it."""
    answer = client.post(f"/objects/{object_slug}/records", json={"data": {"values": values}})
    row: dict[str, Any] = data(answer)
    return row


def held(row: dict[str, Any], slug: str, name: str = "value") -> list[Any]:
    """One field of every current value of an attribute."""
    return [value[name] for value in row["values"][slug]]
