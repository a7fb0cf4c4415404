"""A running sandbox with a small world, and clients that speak to it over a real socket.

Belongs here: what several tests of the sandbox need. Does not belong here: data of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.server import SandboxServer

Connect = Callable[[str], httpx.Client]

AMBER = "amber-ridge-roofing"  # main
BIRCHWOOD = "birchwood-daughters"  # second
CAFE = "cafe-lumiere-catering"  # main
DOVETAIL = "dovetail-kitchens"  # main, three replies


@pytest.fixture(scope="package")
def world() -> EmailBisonWorld:
    return build_email_bison_world(seed=7, clients=5, interested_replies=[45, 40, 31, 20, 3])


@pytest.fixture(scope="package")
def running(world: EmailBisonWorld) -> Iterator[tuple[EmailBisonSandbox, SandboxServer]]:
    bison = EmailBisonSandbox(world)
    with SandboxServer([bison]) as server:
        yield bison, server


@pytest.fixture
def server(running: tuple[EmailBisonSandbox, SandboxServer]) -> SandboxServer:
    running[1].reset()
    return running[1]


@pytest.fixture
def bison(running: tuple[EmailBisonSandbox, SandboxServer], server: SandboxServer) -> EmailBisonSandbox:
    return running[0]


@pytest.fixture
def connect(server: SandboxServer) -> Iterator[Callable[[str, str], httpx.Client]]:
    """A client of one instance with one token, closed at the end of the test."""
    opened: list[httpx.Client] = []

    def open_client(instance: str, token: str) -> httpx.Client:
        url = server.account_urls("email-bison")[instance]
        client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10, verify=False)
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def client_of(world: EmailBisonWorld, connect: Callable[[str, str], httpx.Client]) -> Connect:
    """A client with the api-user token of a workspace, by its client's key."""

    def open_client(client_key: str) -> httpx.Client:
        instance, workspace = world.client(client_key)
        return connect(instance.name, workspace.token)

    return open_client


@pytest.fixture
def admin(world: EmailBisonWorld, connect: Callable[[str, str], httpx.Client]) -> httpx.Client:
    """A client with the super-admin token of the instance `main`."""
    return connect("main", world.instances[0].admin_token)


@pytest.fixture
def browser(world: EmailBisonWorld, connect: Callable[[str, str], httpx.Client]) -> httpx.Client:
    """Another session of the same user as `admin`."""
    return connect("main", world.instances[0].other_session_token)
