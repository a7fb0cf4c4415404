"""The fake vendors in a process of their own, so that they do not share an interpreter with what is measured.

Belongs here: starting them with a latency, their registry, and what they counted. Does not belong here: measuring.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import httpx
import yaml

from backfill_pipelines.sandbox.entry import Sandbox, build_sandbox, serve_sandbox
from backfill_pipelines.sandbox.traffic import RateLimit

REQUESTS_PER_MINUTE = 60_000
"""A limit that nobody meets: the benchmarks are not about the quota."""


@dataclass(frozen=True, kw_only=True)
class RunningSandbox:
    """Where the fake vendors are."""

    base_url: str
    registry: str
    """A `clients.yaml` of all its clients, with tokens of their own and the same limit."""

    def calls_by_client(self) -> Counter[str]:
        """The requests answered since the last reset, by the client whose token they came with."""
        answer = httpx.get(f"{self.base_url}/_sandbox/requests", trust_env=False).raise_for_status().json()
        calls: Counter[str] = Counter()
        for row in answer["counts"]:
            calls[row["client"]] += row["count"]
        return calls

    def reset(self) -> None:
        """Back to the seeded data, with an empty log."""
        httpx.post(f"{self.base_url}/_sandbox/reset", trust_env=False).raise_for_status()


@contextmanager
def running_sandbox(*, clients: int, scale: float, latency_seconds: float) -> Iterator[RunningSandbox]:
    """Serve the seeded clients; every answer takes `latency_seconds`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, clients, scale, latency_seconds))
    process.start()
    try:
        if not here.poll(60):
            raise RuntimeError("the fake vendors did not start")
        base_url, registry = here.recv()
        yield RunningSandbox(base_url=base_url, registry=registry)
    finally:
        process.terminate()
        process.join()


def _serve(announce: Connection, clients: int, scale: float, latency_seconds: float) -> None:
    def tell(sandbox: Sandbox) -> None:
        document = yaml.safe_load(sandbox.registry_yaml())
        for instance in document["email_bison"].values():
            instance["requests_per_minute"] = REQUESTS_PER_MINUTE
        announce.send((sandbox.server.base_url, yaml.safe_dump(document, allow_unicode=True)))

    limit = RateLimit(REQUESTS_PER_MINUTE, 60.0)
    serve_sandbox(
        build_sandbox(clients=clients, scale=scale, latency_seconds=latency_seconds, email_bison_rate_limit=limit), tell
    )
