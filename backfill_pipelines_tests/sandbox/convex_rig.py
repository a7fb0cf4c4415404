"""A running fake Convex with one small deployment, for the tests of the fake and for those of its client.

Belongs here: starting it and speaking to it. Does not belong here: data of single tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backfill_pipelines.sandbox.clerk_data import build_clerk_instance
from backfill_pipelines.sandbox.convex import ConvexQuestions, ConvexSandbox
from backfill_pipelines.sandbox.convex_data import (
    ID_FIELD,
    INDEX,
    USERS,
    ConvexDeployment,
    ConvexTable,
    Kinds,
    build_convex_deployment,
    deployment_of,
    document_id,
    stored,
)
from backfill_pipelines.sandbox.convex_functions import VERSION, ConvexLimits
from backfill_pipelines.sandbox.convex_state import ConvexDeploymentState
from backfill_pipelines.sandbox.server import SandboxServer

KEY = "acme"
SEED = 5
CLERK = build_clerk_instance(seed=SEED, users=200)
DEPLOYMENT = build_convex_deployment(seed=SEED, users=CLERK.seeded_users())
NAMES = {"table": USERS, "index": INDEX, "idField": ID_FIELD}
CASES = json.loads((Path(__file__).parent.parent / "convex" / "cases.json").read_text(encoding="utf-8"))


@dataclass
class ConvexRig:
    """A fake that serves, and its one deployment."""

    vendor: ConvexSandbox
    server: SandboxServer
    seeded: ConvexDeployment
    opened: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The deployment's URL, without `/api`."""
        return self.server.account_urls("convex")[self.seeded.key]

    @property
    def state(self) -> ConvexDeploymentState:
        """The deployment as it is now."""
        return self.vendor.states[self.seeded.key]

    def client(self, authorization: str | None = "deploy key") -> httpx.Client:
        """A client of the API, with the deployment's own key unless another header, or none, is given."""
        header = f"Convex {self.seeded.deploy_key}" if authorization == "deploy key" else authorization
        headers = {} if header is None else {"Authorization": header}
        client = httpx.Client(base_url=f"{self.url}/api", headers=headers, timeout=10, verify=False)
        self.opened.append(client)
        return client


@contextmanager
def running_convex(
    seeded: ConvexDeployment = DEPLOYMENT,
    *,
    limits: ConvexLimits | None = None,
    questions: ConvexQuestions | None = None,
    faults: Sequence[Mapping[str, Any]] = (),
    latency_seconds: float = 0.0,
) -> Iterator[ConvexRig]:
    """Serve a deployment."""
    vendor = ConvexSandbox([seeded], limits=limits, questions=questions)
    with SandboxServer([vendor], latency_seconds=latency_seconds) as server:
        server.add_faults([dict(each) for each in faults])
        rig = ConvexRig(vendor, server, seeded)
        yield rig
        for client in rig.opened:
            client.close()


def deployment_with(documents: Sequence[Mapping[str, Any]], *, kinds: Kinds | None = None) -> ConvexDeployment:
    """A deployment with these users, and two other tables: one with another index, one without."""
    users = ConvexTable(USERS, {INDEX: ID_FIELD}, _numbered(documents), kinds)
    others = [ConvexTable("members", {"by_identity": "identity"}), ConvexTable("unindexed", {})]
    return deployment_of(seed=SEED, key=KEY, tables=[users, *others])


def _numbered(documents: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"_id": document_id(SEED, USERS, number), "_creationTime": 1e12 + number, **stored(dict(document))}
        for number, document in enumerate(documents)
    )


def call_body(path: str, request: Any, *, version: Any = VERSION, form: str = "json") -> dict[str, Any]:
    """The body of a call of one of the functions."""
    return {"path": path, "args": {"version": version, "request": request}, "format": form}


def page_body(cursor: str | None = None, *, rows: int = 1_000, **names: Any) -> dict[str, Any]:
    """The body of a call that reads."""
    return call_body("backfill:page", {**NAMES, **names, "cursor": cursor, "rows": rows})


def patch_body(*patches: Mapping[str, Any], **names: Any) -> dict[str, Any]:
    """The body of a call that writes."""
    return call_body("backfill:patch", {**NAMES, **names, "patches": list(patches)})


def value(answer: httpx.Response) -> Any:
    """What a function returned."""
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "success"), answer.text
    return body["value"]


def failed(answer: httpx.Response) -> str:
    """The text of a function's failure, without the request's id."""
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "error"), answer.text
    first, _, message = body["errorMessage"].partition("\n")
    assert first.startswith("[Request ID: ")
    assert first.endswith("] Server Error")
    return str(message)


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose body has the vendor's form."""
    body = answer.json()
    assert body.keys() == {"code", "message"}
    return answer.status_code, body["code"]
