"""The sandbox as one call, for the command line and for whoever starts it beside other services.

Belongs here: which vendors there are, from a seed. Does not belong here: printing; the caller says where it listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backfill_pipelines.sandbox.attio import AttioSandbox
from backfill_pipelines.sandbox.attio_data import ProductUser, build_attio_workspace
from backfill_pipelines.sandbox.attio_records import AttioWorkspace
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkInstance, build_clerk_world
from backfill_pipelines.sandbox.convex import ConvexSandbox
from backfill_pipelines.sandbox.convex_data import build_convex_deployment
from backfill_pipelines.sandbox.email_bison import DEFAULT_RATE_LIMIT, EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.exchange import Vendor
from backfill_pipelines.sandbox.faults import Fault, read_faults_file
from backfill_pipelines.sandbox.gohighlevel import GoHighLevelSandbox
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation
from backfill_pipelines.sandbox.gohighlevel_leads import build_location_for_leads
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines.sandbox.leads_filling import demo_clients
from backfill_pipelines.sandbox.registry_file import LocationAccess, WorkspaceAccess, client_ids, registry_yaml
from backfill_pipelines.sandbox.server import SandboxServer, known_fault_kinds
from backfill_pipelines.sandbox.traffic import RateLimit

DEFAULT_PORT = 8900
WORKSPACES = ("cedar-desk", "tidewater")
"""The products of the sandbox, each with an instance of Clerk, a workspace of Attio and a deployment of Convex."""
USERS = 150
"""Users of each of them: at Attio's 25 writes a second a demo has no patience for many more."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """All fake vendors of one seed, and the server that serves them (not started yet)."""

    email_bison_world: EmailBisonWorld
    email_bison: EmailBisonSandbox
    product_clients: Sequence[SeededClient]
    """The same clients in the product's own tables: leads, jobs, and customers that people made."""
    gohighlevel: GoHighLevelSandbox
    clerk: ClerkSandbox
    attio: AttioSandbox
    convex: ConvexSandbox
    server: SandboxServer

    def registry_yaml(self, *, admin_only: bool = False) -> str:
        """The `clients.yaml` of the running sandbox."""
        return registry_yaml(
            self.email_bison_world,
            self.server.account_urls(self.email_bison.name),
            admin_only=admin_only,
            locations={each.key: LocationAccess(each.id, each.token) for each in self.gohighlevel.locations},
            workspaces=[
                WorkspaceAccess(
                    key=instance.key,
                    clerk_secret_key=instance.secret_key,
                    attio_api_key=self.attio.state.workspaces[instance.key].seeded.token,
                    convex_url=self.server.account_urls(self.convex.name)[instance.key],
                    convex_deploy_key=self.convex.states[instance.key].seeded.deploy_key,
                )
                for instance in self.clerk.world.instances
            ],
            vendor_urls={
                each.name: self.server.account_urls(each.name)["api"]
                for each in (self.gohighlevel, self.clerk, self.attio)
            },
        )


def build_sandbox(
    *,
    seed: int = 1,
    clients: int = 24,
    scale: float = 1.0,
    users: int = USERS,
    port: int = 0,
    faults_file: Path | None = None,
    latency_seconds: float = 0.0,
    email_bison_rate_limit: RateLimit = DEFAULT_RATE_LIMIT,
) -> Sandbox:
    """The vendors of a seed. Raises FaultFormatError for a faults file that cannot be used."""
    world = build_email_bison_world(seed=seed, clients=clients, scale=scale)
    email_bison = EmailBisonSandbox(world, rate_limit=email_bison_rate_limit)
    product_clients = _clients_of(world, seed=seed, scale=scale)
    gohighlevel = GoHighLevelSandbox(_locations_of(world, product_clients, seed=seed))
    clerk = ClerkSandbox(build_clerk_world(seed=seed, users=users, workspaces=WORKSPACES))
    attio = AttioSandbox([_crm_of(each) for each in clerk.world.instances])
    convex = ConvexSandbox(
        [
            build_convex_deployment(seed=each.seed, key=each.key, users=each.seeded_users())
            for each in clerk.world.instances
        ]
    )
    vendors: list[Vendor] = [email_bison, gohighlevel, clerk, attio, convex]
    faults: list[Fault] = []
    if faults_file is not None:
        faults = read_faults_file(faults_file, known_fault_kinds(vendors))
    server = SandboxServer(vendors, port=port, seed=seed, faults=faults, latency_seconds=latency_seconds)
    return Sandbox(world, email_bison, product_clients, gohighlevel, clerk, attio, convex, server)


def _clients_of(world: EmailBisonWorld, *, seed: int, scale: float) -> list[SeededClient]:
    workspaces = {client_id: world.client(key)[1] for key, client_id in client_ids(world).items()}
    return demo_clients(
        list(workspaces),
        seed=seed,
        scale=scale,
        names={client_id: workspace.name for client_id, workspace in workspaces.items()},
        phone_regions={client_id: workspace.phone_region for client_id, workspace in workspaces.items()},
    )


def _locations_of(
    world: EmailBisonWorld, product_clients: Sequence[SeededClient], *, seed: int
) -> list[GoHighLevelLocation]:
    """A location for each client, in which most of its leads are contacts."""
    return [
        build_location_for_leads(
            client.leads(),
            seed=seed + place,  # locations of one seed have contacts' ids in common, and the vendor's never have
            location_id=f"loc{seed % 10_000:04d}{client.client_id:0>13}",
            token=f"pit-sandbox-{seed}-{key}",
            key=key,
            phone_region=world.client(key)[1].phone_region,
        ).location
        for place, (key, client) in enumerate(zip(world.client_keys(), product_clients, strict=True))
    ]


def _crm_of(instance: ClerkInstance) -> AttioWorkspace:
    """The CRM of a product: part of its users are people there already."""
    users = [
        ProductUser(user.id, tuple(each.address for each in user.emails), user.first_name, user.last_name)
        for user in instance.seeded_users()
        if user.emails
    ]
    return build_attio_workspace(seed=instance.seed, key=instance.key, users=users)


def serve_sandbox(sandbox: Sandbox, announce: Callable[[Sandbox], None]) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; `announce` is called when the addresses are known.

    Raises SandboxStartError where a port is taken.
    """
    sandbox.server.serve_forever(lambda _server: announce(sandbox))


__all__ = ["DEFAULT_PORT", "Sandbox", "build_sandbox", "serve_sandbox"]
