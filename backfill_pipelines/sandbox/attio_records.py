"""The records of the fake Attio, as they are seeded: compact and immutable.

Belongs here: what a seeded person, company and workspace hold, and who can have written a value. Does not belong here:
where they come from (attio_data.py), what changes while the sandbox runs (attio_state.py), JSON (attio_values.py).
"""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

PEOPLE, COMPANIES = "people", "companies"
ALL_SCOPES = ("object_configuration:read-write", "record_permission:read-write", "user_management:read")


class Actor(NamedTuple):
    """Who wrote a value. `type`: `workspace-member`, `api-token`, `app`, or `system`, which has no id."""

    type: str
    id: str | None


SYSTEM = Actor("system", None)
"""Attio itself, which links companies and enriches."""


class SeededPerson(NamedTuple):
    """A person that was there before anybody called the API. `created_at` is in nanoseconds since 1970."""

    record_id: str
    created_at: int
    first_name: str
    last_name: str
    addresses: tuple[str, ...]
    user_id: str | None
    job_title: str | None


class SeededCompany(NamedTuple):
    """A company that was there before. `created_at` is in nanoseconds since 1970."""

    record_id: str
    created_at: int
    name: str
    domains: tuple[str, ...]
    org_id: str | None


class AttioWorkspace(NamedTuple):
    """One Attio workspace. `key` is the registry's name for it; `token` is one API key with `scopes`."""

    seed: int
    key: str
    id: str
    name: str
    token: str
    token_actor: Actor
    """Who a value is written by that is written with the token."""
    member: Actor
    """A person at work in the workspace's browser window."""
    integration: Actor
    """Another program with an API key of its own."""
    people: tuple[SeededPerson, ...]
    companies: tuple[SeededCompany, ...]
    scopes: tuple[str, ...] = ALL_SCOPES
    user_id_attribute: bool = True
    """Whether people have the custom attribute `user_id`, and companies `org_id`."""


def stable_uuid(*parts: object) -> str:
    """A UUID that is always the same for the same parts."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


__all__ = [
    "ALL_SCOPES",
    "COMPANIES",
    "PEOPLE",
    "SYSTEM",
    "Actor",
    "AttioWorkspace",
    "SeededCompany",
    "SeededPerson",
    "stable_uuid",
]
