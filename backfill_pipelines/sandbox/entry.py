"""The sandbox as one call, for the command line and for whoever starts it beside other services.

Belongs here: which vendors there are, from a seed. Does not belong here: printing; the caller says where it listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backfill_pipelines.sandbox.email_bison import DEFAULT_RATE_LIMIT, EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.faults import Fault, read_faults_file
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines.sandbox.leads_filling import demo_clients
from backfill_pipelines.sandbox.registry_file import client_ids, registry_yaml
from backfill_pipelines.sandbox.server import SandboxServer, known_fault_kinds
from backfill_pipelines.sandbox.traffic import RateLimit

DEFAULT_PORT = 8900


@dataclass(frozen=True, slots=True)
class Sandbox:
    """All fake vendors of one seed, and the server that serves them (not started yet)."""

    email_bison_world: EmailBisonWorld
    email_bison: EmailBisonSandbox
    server: SandboxServer
    seed: int

    def product_clients(self) -> list[SeededClient]:
        """The same clients in the product's own tables: leads, jobs, and customers that people made."""
        world = self.email_bison_world
        workspaces = {client_id: world.client(key)[1] for key, client_id in client_ids(world).items()}
        return demo_clients(
            list(workspaces),
            seed=self.seed,
            names={client_id: workspace.name for client_id, workspace in workspaces.items()},
            phone_regions={client_id: workspace.phone_region for client_id, workspace in workspaces.items()},
        )

    def registry_yaml(self, *, admin_only: bool = False) -> str:
        """The `clients.yaml` of the running sandbox."""
        urls = self.server.account_urls(self.email_bison.name)
        return registry_yaml(self.email_bison_world, urls, admin_only=admin_only)


def build_sandbox(
    *,
    seed: int = 1,
    clients: int = 24,
    scale: float = 1.0,
    port: int = 0,
    faults_file: Path | None = None,
    latency_seconds: float = 0.0,
    email_bison_rate_limit: RateLimit = DEFAULT_RATE_LIMIT,
) -> Sandbox:
    """The vendors of a seed. Raises FaultFormatError for a faults file that cannot be used."""
    world = build_email_bison_world(seed=seed, clients=clients, scale=scale)
    email_bison = EmailBisonSandbox(world, rate_limit=email_bison_rate_limit)
    faults: list[Fault] = []
    if faults_file is not None:
        faults = read_faults_file(faults_file, known_fault_kinds([email_bison]))
    server = SandboxServer([email_bison], port=port, seed=seed, faults=faults, latency_seconds=latency_seconds)
    return Sandbox(world, email_bison, server, seed)


def serve_sandbox(sandbox: Sandbox, announce: Callable[[Sandbox], None]) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; `announce` is called when the addresses are known.

    Raises SandboxStartError where a port is taken.
    """
    sandbox.server.serve_forever(lambda _server: announce(sandbox))


__all__ = ["DEFAULT_PORT", "Sandbox", "build_sandbox", "serve_sandbox"]
