"""Clients that the user's own table `"Client"` adds to the registry.

Belongs here: the pure rule that merges them. Does not belong here: reading the table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pydantic import SecretStr

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

    A client of the registry wins over the row with its `leads.client_id`, and over a row with its location: such a row
    adds what the client does not say, its location or its leads, and no client. A key is made of the name; where it is
    taken, the row with the smaller id keeps it and the other's ends in its id. So the result does not depend on the
    order of the rows, and a new row with a larger id renames no partition.

    Where two rows share a location, or the row with a client's id has another client's location, both clients have it:
    one row of a table must not keep every other client from running. `Registry.require_own_location` stops those two.
    """
    clients = list(registry.clients)
    by_id = {client.leads.client_id.identity(): place for place, client in enumerate(clients) if client.leads}
    declared = {
        client.gohighlevel.location_id.identity(): place for place, client in enumerate(clients) if client.gohighlevel
    }
    taken = {*registry.partition_keys("client"), *registry.partition_keys("workspace")}
    for row in sorted(rows, key=lambda row: _natural(row.id)):
        location = (row.ghl_location_id or "").strip()
        token = (row.ghl_private_key.get_secret_value() if row.ghl_private_key else "").strip()
        if not location or not token:
            continue
        access = GoHighLevelAccess(location_id=ConfiguredText.literal(location), token=ConfiguredSecret.literal(token))
        leads = LeadRows(client_id=ConfiguredText.literal(row.id))
        place, winner = by_id.get(row.id), declared.get(location)
        if place is not None:
            if clients[place].gohighlevel is not None:
                continue
            clients[place] = clients[place].model_copy(update={"gohighlevel": access})
        elif winner is not None:
            if clients[winner].leads is None:
                clients[winner] = clients[winner].model_copy(update={"leads": leads})
                by_id[row.id] = winner
            continue
        else:
            key = _free_key(row, taken)
            taken.add(key)
            place = len(clients)
            name = ConfiguredText.literal((row.name or "").strip() or key)
            clients.append(Client(key=key, name=name, gohighlevel=access, leads=leads))
        by_id[row.id] = place
    return registry.model_copy(update={"clients": tuple(clients)})


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
