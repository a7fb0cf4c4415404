"""A `clients.yaml` that points at a running sandbox.

Belongs here: the text of that file. Does not belong here: reading one. The tokens stand in it literally: they open
nothing but the sandbox they were invented for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld

DEFAULT_REGION = "US"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceAccess:
    """A product's keys and addresses."""

    key: str
    clerk_secret_key: str
    attio_api_key: str
    convex_url: str
    convex_deploy_key: str


class LocationAccess(NamedTuple):
    """A client's GoHighLevel location and the token for it."""

    location_id: str
    token: str


def client_ids(world: EmailBisonWorld) -> dict[str, str]:
    """The ids of the clients in the product's tables, by key."""
    return {key: str(1001 + place) for place, key in enumerate(world.client_keys())}


def registry_yaml(
    world: EmailBisonWorld,
    instance_urls: Mapping[str, str],
    *,
    admin_only: bool = False,
    locations: Mapping[str, LocationAccess] | None = None,
    workspaces: Sequence[WorkspaceAccess] = (),
    vendor_urls: Mapping[str, str] | None = None,
) -> str:
    """The registry of all clients of a world, sorted by key, and of the workspaces.

    `instance_urls` is `SandboxServer.account_urls("email-bison")`; `vendor_urls` are those of vendors with one address.
    `locations` are by client; who has none stays without.
    With `admin_only` the clients have no token of their own and the instances' admin tokens must do.
    """
    document: dict[str, Any] = {
        "defaults": {"phone_region": DEFAULT_REGION, "timezone": "America/Los_Angeles"},
        "email_bison": {
            instance.name: {"base_url": instance_urls[instance.name], "admin_token": instance.admin_token}
            for instance in world.instances
        },
        "clients": [],
    }
    for key in world.client_keys():
        instance, workspace = world.client(key)
        bison: dict[str, Any] = {"instance": instance.name, "workspace_id": workspace.id}
        if not admin_only:
            bison["token"] = workspace.token
        client: dict[str, Any] = {"key": key, "name": workspace.name, "email_bison": bison}
        if locations and key in locations:
            client["gohighlevel"] = locations[key]._asdict()
        client["leads"] = {"client_id": client_ids(world)[key]}
        if workspace.phone_region != DEFAULT_REGION:
            client["phone_region"] = workspace.phone_region
        document["clients"].append(client)
    if workspaces:
        document["workspaces"] = [
            {
                "key": each.key,
                "clerk": {"secret_key": each.clerk_secret_key},
                "attio": {"api_key": each.attio_api_key},
                "convex": {"url": each.convex_url, "deploy_key": each.convex_deploy_key},
            }
            for each in workspaces
        ]
    if vendor_urls:
        document["vendors"] = {name: {"base_url": url} for name, url in vendor_urls.items()}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


__all__ = ["LocationAccess", "WorkspaceAccess", "client_ids", "registry_yaml"]
