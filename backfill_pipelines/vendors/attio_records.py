"""What Attio's JSON means: tokens, attributes, people, companies, and who wrote a value.

Belongs here: the types that the rest of the project sees, and pure functions from JSON to them, lenient where the
vendor may say more than it must and strict where a mistake would be written down. Does not belong here: HTTP
(`attio.py`).

No personal value stands in a `repr`: these objects end up in tracebacks. Source of the shapes: the vendor's OpenAPI
file of October 2025 and docs.attio.com (attribute types, actors).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from backfill_pipelines.errors import ConfigurationError, DataError, TransientError
from backfill_pipelines.vendors.vendor_errors import VendorError

PEOPLE, COMPANIES = "people", "companies"
EMAIL_ADDRESSES = "email_addresses"
USER_ID, ORG_ID = "user_id", "org_id"
"""The custom attributes of people and of companies that this project writes."""

READ_SCOPES = ("record_permission:read", "object_configuration:read")
WRITE_SCOPES = ("record_permission:read-write", "object_configuration:read")
ATTRIBUTE_SCOPES = ("object_configuration:read-write",)
"""What creating attributes needs."""

ONE_WRITE = timedelta(seconds=5)
"""Values that one request wrote become active within it; whatever came later was another request."""

_RECORD_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9a-zA-Z-])")
_CONFLICTING = re.compile(rf"Conflicting record IDs?:\s*({_RECORD_ID.pattern}(?:[\s,]+{_RECORD_ID.pattern})*)")
_CONFLICTING_SLUG = re.compile(r'attribute with slug "([a-z0-9_-]{1,100})"')

Item = TypeVar("Item")


# --- the types -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """What an API key stands for. The vendor's limits are the workspace's, so `workspace_id` names the quota."""

    workspace_id: str
    scopes: frozenset[str]

    def missing(self, needed: Collection[str]) -> tuple[str, ...]:
        """The scopes that are lacking; `read-write` includes `read`."""
        return tuple(scope for scope in needed if not self.scopes & {scope, f"{scope.partition(':')[0]}:read-write"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """An attribute of an object, as far as writing it needs."""

    slug: str
    kind: str
    writable: bool
    archived: bool
    unique: bool
    multiselect: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A person. `addresses` are in lower case, as Attio normalised them and, where that differs, as they were typed."""

    record_id: str
    created_at: datetime
    addresses: tuple[str, ...] = field(repr=False)
    user_ids: tuple[str, ...] = field(repr=False)
    """Every current value of `user_id`: one at most, unless the attribute is not what it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Company:
    """A company. `domains` are in lower case."""

    record_id: str
    created_at: datetime
    domains: tuple[str, ...] = field(repr=False)
    org_id: str | None = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRecord:
    """A record that cannot be used, with a code for the reason; `record_id` None: not even that is readable."""

    record_id: str | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[Item]):
    """One page of an object. `next_offset` is the position to go on from, None after the last page."""

    records: tuple[Item, ...]
    rejected: tuple[RejectedRecord, ...]
    next_offset: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[Item]):
    """What a look-up by keys found. Of the keys in `refused` nothing is known: Attio does not take the question."""

    records: tuple[Item, ...]
    rejected: tuple[RejectedRecord, ...]
    refused: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something: `workspace-member`, `api-token`, `app` or `system` (Attio itself, without an id)."""

    kind: str | None
    id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenValue:
    """That somebody wrote a value of an attribute; the value itself is nobody's business here."""

    attribute: str
    actor: Actor
    written_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Authorship:
    """Who created a record and who wrote each of its current values."""

    record_id: str
    created_at: datetime
    created_by: Actor | None
    values: tuple[WrittenValue, ...]

    def written_by_others(self) -> tuple[str, ...]:
        """The attributes with a value that neither the creator wrote in creating the record nor Attio itself.

        A later value counts as somebody else's even where the actor is the same: the API key may serve another program
        as well. So does one of which it is not clear who wrote it, or when.
        """
        return tuple(sorted({value.attribute for value in self.values if not self._harmless(value)}))

    def _harmless(self, value: WrittenValue) -> bool:
        if value.actor.kind == "system":
            return True
        at_once = value.written_at is not None and value.written_at - self.created_at <= ONE_WRITE
        return self.created_by is not None and value.actor == self.created_by and at_once


class UniquenessConflictError(DataError):
    """A value is taken. `record_ids` are the records that have it, never empty; `attribute` is its slug if stated."""

    def __init__(self, *, record_ids: Sequence[str], attribute: str | None) -> None:
        super().__init__(
            "uniqueness_conflict",
            "Attio has another record with a value that was to be written: "
            f"{', '.join(record_ids)}. Nothing was written; run again to plan it anew.",
        )
        self.record_ids = tuple(record_ids)
        self.attribute = attribute

    def __reduce__(self) -> tuple[Any, ...]:
        return _uniqueness_conflict, (self.record_ids, self.attribute)


def _uniqueness_conflict(record_ids: Sequence[str], attribute: str | None) -> UniquenessConflictError:
    return UniquenessConflictError(record_ids=record_ids, attribute=attribute)


# --- what is wrong with an attribute ---------------------------------------------------------------------------------


def attribute_problem(attribute: Attribute | None) -> str | None:
    """Why an attribute cannot hold our ids: `missing`, `archived`, `not_text`, `multiselect` or `read_only`."""
    if attribute is None:
        return "missing"
    problems = {
        "archived": attribute.archived,
        "not_text": attribute.kind != "text",
        "multiselect": attribute.multiselect,
        "read_only": not attribute.writable,
    }
    return next((problem for problem, holds in problems.items() if holds), None)


# --- reading JSON ----------------------------------------------------------------------------------------------------


def malformed(what: str) -> TransientError:
    """An answer that is JSON and not what was asked for; `what` completes "Attio's answer ..."."""
    return TransientError("malformed_response", f"Attio's answer {what}.")


def read_token(body: Any) -> TokenInfo:
    """From `GET /v2/self`. Raises `ConfigurationError("token_inactive")`: a dead token is answered with 200."""
    if isinstance(body, dict) and body.get("active") is False:
        raise ConfigurationError(
            "token_inactive", "Attio says that the API key is not active: make a new one and set attio.api_key to it."
        )
    workspace_id = _text(body, "workspace_id") or _text(body, "sub")
    # A key without any scope has an empty text there.
    scopes = body.get("scope") if isinstance(body, dict) else None
    if workspace_id is None or not isinstance(scopes, str):
        raise malformed("to /v2/self names no workspace or no scopes")
    return TokenInfo(workspace_id=workspace_id, scopes=frozenset(scopes.split()))


def read_attribute(item: Any) -> Attribute:
    """One attribute. What is not said counts against it. Raises `malformed_response` without slug or type."""
    slug, kind = _text(item, "api_slug"), _text(item, "type")
    if slug is None or kind is None:
        raise malformed("holds an attribute without slug or type")
    return Attribute(
        slug=slug,
        kind=kind,
        writable=item.get("is_writable") is True,
        archived=item.get("is_archived") is not False,
        unique=item.get("is_unique") is True,
        multiselect=item.get("is_multiselect") is not False,
    )


class _UnusableError(ValueError):
    """The record cannot be used; the text is the reason's code."""


def read_person(item: Any) -> Person | RejectedRecord:
    """A person of an answer, or why it cannot be one."""
    try:
        record_id, created_at, values = _record(item)
        addresses = [
            spelling.lower()
            for value in _active(values, EMAIL_ADDRESSES)
            for spelling in _spellings(value, "email_address", "original_email_address")
        ]
        user_ids = _texts(values, USER_ID)
    except _UnusableError as reason:
        return _rejected(item, reason)
    return Person(
        record_id=record_id, created_at=created_at, addresses=tuple(dict.fromkeys(addresses)), user_ids=user_ids
    )


def read_company(item: Any) -> Company | RejectedRecord:
    """A company of an answer, or why it cannot be one."""
    try:
        record_id, created_at, values = _record(item)
        domains = [spelling.lower() for value in _active(values, "domains") for spelling in _spellings(value, "domain")]
        org_ids = _texts(values, ORG_ID)
    except _UnusableError as reason:
        return _rejected(item, reason)
    if len(org_ids) > 1:
        return RejectedRecord(record_id=record_id, reason="several_org_ids")
    org_id = org_ids[0] if org_ids else None
    return Company(record_id=record_id, created_at=created_at, domains=tuple(dict.fromkeys(domains)), org_id=org_id)


def read_authorship(item: Any) -> Authorship:
    """Who wrote what of a record. Raises `malformed_response` where the record has no id, creation or values."""
    try:
        record_id, created_at, values = _record(item)
        written = [
            WrittenValue(
                attribute=slug, actor=_actor(value.get("created_by_actor")), written_at=_moment(value, "active_from")
            )
            for slug in values
            for value in _active(values, slug)
        ]
        creators = [
            Actor(_text(value, "referenced_actor_type"), _text(value, "referenced_actor_id"))
            for value in _active(values, "created_by")
        ]
    except _UnusableError:
        raise malformed("holds a record that cannot be read") from None
    creator = creators[0] if len(creators) == 1 and creators[0].kind is not None else None
    return Authorship(record_id=record_id, created_at=created_at, created_by=creator, values=tuple(written))


def current_texts(item: Any, attribute: str) -> tuple[str, ...] | None:
    """The current values of a text attribute of a record in an answer; None where they cannot be read."""
    try:
        return _texts(_record(item)[2], attribute)
    except _UnusableError:
        return None


def uniqueness_conflict(error: VendorError) -> DataError:
    """What a `uniqueness_conflict` says. The vendor names the other record only in a sentence; where that cannot be
    read, nobody knows what stands in the way: `DataError("nameless_conflict")`."""
    message = _text(error.body, "message") or ""
    named = _CONFLICTING.search(message)
    if named is None:
        return DataError(
            "nameless_conflict",
            "Attio refuses a value that another record has and does not say which record. Nothing was written; look "
            "for the value in Attio.",
        )
    slug = _CONFLICTING_SLUG.search(message)
    record_ids = [each.lower() for each in _RECORD_ID.findall(named[1])]
    return UniquenessConflictError(record_ids=record_ids, attribute=None if slug is None else slug[1])


def _record(item: Any) -> tuple[str, datetime, Mapping[str, Any]]:
    record_id = _record_id(item)
    if record_id is None:
        raise _UnusableError("no_record_id")
    created_at = _moment(item, "created_at")
    if created_at is None:
        raise _UnusableError("no_created_at")
    values = item.get("values")
    if not isinstance(values, dict):
        raise _UnusableError("no_values")
    return record_id, created_at, values


def _record_id(item: Any) -> str | None:
    found = _text(item.get("id"), "record_id") if isinstance(item, dict) else None
    return found.lower() if found is not None and _RECORD_ID.fullmatch(found) else None


def _rejected(item: Any, reason: _UnusableError) -> RejectedRecord:
    return RejectedRecord(record_id=_record_id(item), reason=str(reason))


def _active(values: Mapping[str, Any], slug: str) -> list[Mapping[str, Any]]:
    """The current values of an attribute; one that is absent or null has none."""
    found = values.get(slug)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
        raise _UnusableError(f"bad_{slug}")
    return [value for value in found if value.get("active_until") is None]


def _texts(values: Mapping[str, Any], slug: str) -> tuple[str, ...]:
    found = [value.get("value") for value in _active(values, slug)]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise _UnusableError(f"bad_{slug}")
    return tuple(text for text in texts if text.strip())  # a blank one says nothing


def _spellings(value: Mapping[str, Any], needed: str, *others: str) -> list[str]:
    first = _text(value, needed)
    if first is None:
        raise _UnusableError(f"bad_{needed}")
    return [first, *(text for name in others if (text := _text(value, name)) is not None)]


def _actor(given: Any) -> Actor:
    return Actor(_text(given, "type"), _text(given, "id"))


def _text(given: Any, name: str) -> str | None:
    found = given.get(name) if isinstance(given, dict) else None
    return found if isinstance(found, str) and found else None


def _moment(given: Mapping[str, Any], name: str) -> datetime | None:
    """A moment such as `2022-11-21T13:22:49.061281000Z`; nanoseconds are cut to microseconds."""
    try:
        moment = datetime.fromisoformat(_text(given, name) or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
