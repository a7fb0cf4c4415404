"""The seeded deployments of the fake Convex: a table of users that once came from Clerk and has drifted since.

Belongs here: what a document holds and how often it differs from Clerk. Does not belong here: what changes while the
sandbox runs (convex_state.py), HTTP.

Documents come from the users of the fake Clerk by position and not by chance: of each five users the fifth never signed
in to the app and has no row, and the row of the fourth differs. Nobody in here exists.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from backfill_pipelines.sandbox.clerk_data import ClerkUser
from backfill_pipelines.sandbox.every import Every

Document = dict[str, Any]
Kinds = Mapping[str, frozenset[str]]
"""What a table's schema allows in each field: `string`, `number`, `null`, `absent`. A field without a name here may not
be there."""

USERS, INDEX, ID_FIELD = "users", "by_clerkId", "clerkId"
TEXT_FIELDS = ("firstName", "lastName", "email", "username", "imageUrl")
TIME_FIELDS = ("lastSignInAt", "createdAt", "lastActiveAt")
FIELDS = (*TEXT_FIELDS, *TIME_FIELDS)
ALL_PERMISSIONS = frozenset({"runInternalQueries", "runInternalMutations", "runInternalActions", "deploy"})

NEVER_IN_THE_APP = Every(5, at=4)
DIFFERENT = Every(5, at=3)
LEFTOVER = Every(25, at=1)
"""Holds a value in a field that Clerk has emptied: no difference unless nulls are to be cleared."""
DIFFERENCES: tuple[tuple[str, str], ...] = (
    ("firstName", "older"),
    ("email", "other_case"),
    ("lastSignInAt", "earlier"),
    ("imageUrl", "absent"),
    ("username", "null"),
    ("lastActiveAt", "earlier"),
    ("email", "absent"),
    ("lastName", "older"),
    ("createdAt", "seconds"),
    ("lastSignInAt", "zero"),
)
"""A field and how it differs, by turns. Where Clerk has nothing in the field, `createdAt` is absent instead."""


class ConvexTable(NamedTuple):
    """A table: its indexes (name and field), its documents in the order of their creation, and its schema if any."""

    name: str
    indexes: Mapping[str, str]
    documents: tuple[Mapping[str, Any], ...] = ()
    kinds: Kinds | None = None


class ConvexDeployment(NamedTuple):
    """A deployment as it is seeded. `key` is the workspace's in the registry; `scoped_keys` are deploy keys that may do
    less than everything."""

    seed: int
    key: str
    name: str
    deploy_key: str
    scoped_keys: Mapping[str, frozenset[str]]
    tables: tuple[ConvexTable, ...]

    @property
    def read_only_key(self) -> str:
        """A deploy key that may run internal queries and no mutations."""
        return self._key_with(frozenset({"runInternalQueries"}))

    @property
    def powerless_key(self) -> str:
        """A deploy key that may deploy and not run anything internal."""
        return self._key_with(frozenset({"deploy"}))

    def _key_with(self, permissions: frozenset[str]) -> str:
        return next(key for key, held in self.scoped_keys.items() if held == permissions)


def build_convex_deployment(
    *, seed: int, users: Iterable[ClerkUser], key: str = "acme", duplicates: int = 3, gone: int = 5
) -> ConvexDeployment:
    """The deployment whose table `users` was once filled from these users of Clerk.

    Four of five users have a row, and one of the five (a quarter of the rows) differs from it. `duplicates` users whose
    row does not differ have a second one, and `gone` rows have a Clerk id that is no user's.
    """
    documents = _users_table(seed, users, duplicates=duplicates, gone=gone)
    return deployment_of(seed=seed, key=key, tables=[ConvexTable(USERS, {INDEX: ID_FIELD}, tuple(documents))])


def deployment_of(*, seed: int, key: str, tables: Iterable[ConvexTable]) -> ConvexDeployment:
    """A deployment with certain tables, its name and its deploy keys."""
    name = f"mellow-heron-{100 + seed % 900}"
    prefix = f"prod:{name}|eyJ2MiI6"
    return ConvexDeployment(
        seed=seed,
        key=key,
        name=name,
        deploy_key=prefix + _digest(seed, "full key"),
        scoped_keys={
            prefix + _digest(seed, "read-only key"): frozenset({"runInternalQueries"}),
            prefix + _digest(seed, "powerless key"): frozenset({"deploy"}),
        },
        tables=tuple(tables),
    )


def profile_of(user: ClerkUser) -> dict[str, str | int | None]:
    """The eight fields as Clerk has them, None where it has nothing. The address is the primary one."""
    primary = next((each.address for each in user.emails if each.id == user.primary_email_id), None)
    return {
        "firstName": user.first_name,
        "lastName": user.last_name,
        "email": primary,
        "username": user.username,
        "imageUrl": user.image_url,
        "lastSignInAt": user.last_sign_in_at,
        "createdAt": user.created_at,
        "lastActiveAt": user.last_active_at,
    }


def document_id(seed: int, table: str, number: int) -> str:
    """The id of a document: 32 small letters and digits."""
    return "j5" + _digest(seed, f"{table} {number}")[:30]


def stored(value: Any) -> Any:
    """A value as Convex stores it: all numbers are floats."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        return [stored(each) for each in value]
    if isinstance(value, dict):
        return {name: stored(each) for name, each in value.items()}
    return value


def _users_table(seed: int, users: Iterable[ClerkUser], *, duplicates: int, gone: int) -> Iterator[Document]:
    twice: list[Document] = []
    written, created_at = 0, 0.0
    for user in users:
        if NEVER_IN_THE_APP.holds(user.number):
            continue
        fields = _fields(user)
        if len(twice) < duplicates and not DIFFERENT.holds(user.number):
            twice.append({**fields, "bio": "signed up twice"})
        created_at = max(created_at + 0.001, user.created_at + 1500.25)
        yield _document(seed, written, created_at, fields)
        written += 1
    forgotten = [
        {ID_FIELD: f"user_2gone{number:04d}", "firstName": "Nobody", "createdAt": 1_704_000_000_000.0}
        for number in range(gone)
    ]
    for fields in [*twice, *forgotten]:
        created_at += 60_000.0
        yield _document(seed, written, created_at, fields)
        written += 1


def _document(seed: int, number: int, created_at: float, fields: Document) -> Document:
    return {"_id": document_id(seed, USERS, number), "_creationTime": created_at, **fields}


def _fields(user: ClerkUser) -> Document:
    """A row's own fields: those from Clerk, and those of the app, which nobody else may touch."""
    fields: Document = {
        ID_FIELD: user.id,
        "role": "member",
        "credits": float(user.number % 50),
        "settings": {"dark": True},
    }
    for place, (name, value) in enumerate(profile_of(user).items()):
        if value is not None:
            fields[name] = stored(value)
        elif LEFTOVER.holds(user.number):
            fields[name] = "left over" if name in TEXT_FIELDS else 1_600_000_000_000.0
        elif (user.number + place) % 2:
            fields[name] = None
    if DIFFERENT.holds(user.number):
        _differ(fields, profile_of(user), DIFFERENT.turn(user.number))
    return fields


def _differ(fields: Document, profile: Mapping[str, str | int | None], turn: int) -> None:
    field, way = DIFFERENCES[turn % len(DIFFERENCES)]
    value = profile[field]
    if value is None:
        field, way = "createdAt", "absent"
    if way == "absent":
        del fields[field]
    elif way == "null":
        fields[field] = None
    elif way == "older":
        fields[field] = f"{value} (as it was)"
    elif way == "other_case":
        fields[field] = str(value).swapcase()
    elif way == "zero":
        fields[field] = 0.0
    else:
        fields[field] = fields[field] - 86_400_000.0 if way == "earlier" else fields[field] // 1000


def _digest(seed: int, text: str) -> str:
    hashed = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=25).digest()
    return base64.b32encode(hashed).decode().lower()


__all__ = [
    "ALL_PERMISSIONS",
    "FIELDS",
    "ID_FIELD",
    "INDEX",
    "TEXT_FIELDS",
    "TIME_FIELDS",
    "USERS",
    "ConvexDeployment",
    "ConvexTable",
    "Document",
    "Kinds",
    "build_convex_deployment",
    "deployment_of",
    "document_id",
    "profile_of",
    "stored",
]
