"""Clients that the user's own table `"Client"` adds to the registry.

Belongs here: the pure rule that merges them. Does not belong here: reading the table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry.configured import ConfiguredSecret, ConfiguredText
from backfill_pipelines.registry.partitions import MAXIMUM_KEY_LENGTH, is_partition_key, partition_key_for
from backfill_pipelines.registry.registry import Registry
from backfill_pipelines.registry.sections import Client, GoHighLevelAccess, LeadRows

_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseClient:
    """A row of `"Client"`."""

    id: str
    name: str | None
    ghl_location_id: str | None
    ghl_private_key: SecretStr | None


def with_database_clients(registry: Registry, rows: Iterable[DatabaseClient]) -> Registry:
    """The registry with a client for each row that has a location and a key, after its own, by ascending id.

    A client of the registry whose `leads.client_id` is the row's id wins: the row adds nothing. The key is made of the
    name; where it is taken, the row with the smaller id keeps it and the other's ends in its id. So the result does not
    depend on the order of the rows, and a new row with a larger id renames no partition.

    Raises ConfigurationError `duplicate_location` where a row shares its location with another client.
    """
    known_ids = {client.leads.client_id.identity() for client in registry.clients if client.leads is not None}
    taken = {*registry.partition_keys("client"), *registry.partition_keys("workspace")}
    owners = {
        client.gohighlevel.location_id.identity(): client.label
        for client in registry.clients
        if client.gohighlevel is not None
    }
    added = []
    for row in sorted(rows, key=lambda row: _natural(row.id)):
        location = (row.ghl_location_id or "").strip()
        token = (row.ghl_private_key.get_secret_value() if row.ghl_private_key else "").strip()
        if row.id in known_ids or not location or not token:
            continue
        key = _free_key(row, taken)
        if location in owners:
            raise ConfigurationError(
                "duplicate_location",
                f'{owners[location]} and the row of "Client" that would be client {key} have one GoHighLevel location; '
                f"correct one of them, or give the registry's client that row's id as leads.client_id.",
            )
        known_ids.add(row.id)
        taken.add(key)
        owners[location] = f"Client {key}"
        added.append(
            Client(
                key=key,
                name=ConfiguredText.literal((row.name or "").strip() or key),
                gohighlevel=GoHighLevelAccess(
                    location_id=ConfiguredText.literal(location), token=ConfiguredSecret.literal(token)
                ),
                leads=LeadRows(client_id=ConfiguredText.literal(row.id)),
            )
        )
    return registry.model_copy(update={"clients": (*registry.clients, *added)})


def _free_key(row: DatabaseClient, taken: Collection[str]) -> str:
    name = partition_key_for(row.name or "") or "client"
    digest = hashlib.sha256(row.id.encode()).hexdigest()[:_HASH_LENGTH]
    suffixes = [partition_key_for(row.id), digest, hashlib.sha256(row.id.encode()).hexdigest()[:40]]
    candidates = [name] if name != "client" else []
    candidates += [f"{name[: MAXIMUM_KEY_LENGTH - len(suffix) - 1]}-{suffix}" for suffix in suffixes if suffix]
    return next(key for key in candidates if key not in taken and is_partition_key(key))


def _natural(identifier: str) -> tuple[list[tuple[int, int, str]], str]:
    """Orders "9" before "10", and is total: equal only for equal ids."""
    parts = re.findall(r"[0-9]+|[^0-9]+", identifier)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], identifier
