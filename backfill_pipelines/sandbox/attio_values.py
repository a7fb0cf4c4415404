"""Values of the fake Attio: what is accepted for an attribute, and how it is written in an answer.

Belongs here: one value of one attribute, from a request's JSON and into an answer's. Does not belong here: records and
which values a write keeps (attio_state.py).

Every value in an answer stands in a list and carries when it became active, until when, and who wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from backfill_pipelines.sandbox.attio_errors import invalid_value
from backfill_pipelines.sandbox.attio_records import Actor, stable_uuid

Json = dict[str, Any]
Content = str | float | bool | tuple[str, ...]
"""What a value holds: a text (an address and a domain as they were typed), a number, or the parts of a name, of a
reference (object, record id) or of an actor (type, id)."""

NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ADDRESS = re.compile(r"[^@\s<>,;\"]+@(?:[^@\s.<>,;\"]+\.)+[^@\s.<>,;\"]{2,}")
_DOMAIN = re.compile(r"(?:[^@\s./:]+\.)+[^@\s./:]{2,}")
_SECOND_LEVELS = frozenset({"ac", "co", "com", "edu", "gov", "net", "org"})
"""Labels below a country's top level that are no owner's name: `example.co.uk` is a root domain."""


class Value(NamedTuple):
    """One value. Moments are nanoseconds since 1970; `active_until` None: it is the current one."""

    content: Content
    active_from: int
    actor: Actor
    active_until: int | None = None


class Relation(NamedTuple):
    """The attribute at the other end of a relationship."""

    object_slug: str
    slug: str
    title: str
    multiselect: bool


class Attribute(NamedTuple):
    """An attribute of an object."""

    id: str
    slug: str
    title: str
    type: str
    created_at: int
    system: bool = True
    writable: bool = True
    unique: bool = False
    multiselect: bool = False
    required: bool = False
    archived: bool = False
    description: str | None = None
    relates_to: Relation | None = None


def timestamp(nanoseconds: int) -> str:
    """As the vendor writes moments: `2023-01-01T15:00:00.000000000Z`."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def root_domain(domain: str) -> str:
    """The domain that somebody registered: `example.com` for `mail.example.com`."""
    labels = domain.split(".")
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVELS  # noqa: PLR2004
    return ".".join(labels[-3:] if country else labels[-2:])


def comparable(kind: str, content: Content) -> Content:
    """What equality and uniqueness go by: addresses and domains in lower case."""
    return content.lower() if isinstance(content, str) and kind in {"email-address", "domain"} else content


# --- from a request --------------------------------------------------------------------------------------------------


def read_value(attribute: Attribute, given: Any) -> Content:
    """One value of a request. Raises the vendor's `validation_type` for a form it does not take.

    A reference to a company by its domains stays a mapping's work: see `AttioTable.resolve`.
    """
    match attribute.type:
        case "text":
            content: Any = given.get("value") if isinstance(given, Mapping) else given
            valid = isinstance(content, str)
        case "number":
            content = given.get("value") if isinstance(given, Mapping) else given
            valid = isinstance(content, int | float) and not isinstance(content, bool)
        case "checkbox":
            content = given.get("value") if isinstance(given, Mapping) else given
            valid = isinstance(content, bool)
        case "email-address":
            content = given.get("email_address") if isinstance(given, Mapping) else given
            valid = isinstance(content, str) and ADDRESS.fullmatch(content) is not None
        case "domain":
            content = given.get("domain") if isinstance(given, Mapping) else given
            valid = isinstance(content, str) and _DOMAIN.fullmatch(content.lower()) is not None
        case "personal-name":
            content = _name(given)
            valid = content is not None
        case "record-reference":
            content = _reference(given)
            valid = content is not None
        case _:
            content, valid = None, False
    if not valid:
        raise invalid_value(f'An invalid value was passed to attribute with slug "{attribute.slug}".')
    return content  # type: ignore[no-any-return] # checked above


def _name(given: Any) -> tuple[str, ...] | None:
    """First, last and full name: all three must be set, or one text "Last, First" (without comma: the first name)."""
    if isinstance(given, str):
        last, comma, first = given.partition(",")
        first, last = (first.strip(), last.strip()) if comma else (given.strip(), "")
        return first, last, f"{first} {last}".strip()
    if isinstance(given, Mapping):
        parts = [given.get(part) for part in ("first_name", "last_name", "full_name")]
        if all(isinstance(part, str) for part in parts):
            return tuple(str(part) for part in parts)
    return None


def _reference(given: Any) -> tuple[str, ...] | None:
    if isinstance(given, Mapping):
        target, record_id = given.get("target_object"), given.get("target_record_id")
        return (target, record_id) if isinstance(target, str) and isinstance(record_id, str) else None
    return None


# --- into an answer --------------------------------------------------------------------------------------------------


def value_fields(attribute_type: str, content: Content) -> Json:
    """The fields of a value that depend on its type."""
    match attribute_type:
        case "email-address":
            return _address_fields(str(content))
        case "domain":
            domain = str(content).lower()
            return {"domain": domain, "root_domain": root_domain(domain)}
        case "personal-name" if isinstance(content, tuple):
            return dict(zip(("first_name", "last_name", "full_name"), content, strict=True))
        case "record-reference" if isinstance(content, tuple):
            return dict(zip(("target_object", "target_record_id"), content, strict=True))
        case "actor-reference" if isinstance(content, tuple):
            return {"referenced_actor_type": content[0], "referenced_actor_id": content[1] or None}
        case _:
            return {"value": content}


def _address_fields(original: str) -> Json:
    address = original.lower()
    local, _, domain = address.rpartition("@")
    return {
        "original_email_address": original,
        "email_address": address,
        "email_domain": domain,
        "email_root_domain": root_domain(domain),
        "email_local_specifier": local,
    }


def value_row(attribute: Attribute, value: Value) -> Json:
    """A value as it stands in a record."""
    return {
        "active_from": timestamp(value.active_from),
        "active_until": None if value.active_until is None else timestamp(value.active_until),
        "created_by_actor": {"type": value.actor.type, "id": value.actor.id},
        **value_fields(attribute.type, value.content),
        "attribute_type": attribute.type,
    }


def attribute_row(attribute: Attribute, *, workspace_id: str, object_slug: str) -> Json:
    """An attribute as the vendor lists it."""
    return {
        "id": _attribute_id(workspace_id, object_slug, attribute.slug),
        "title": attribute.title,
        "description": attribute.description,
        "api_slug": attribute.slug,
        "type": attribute.type,
        "is_system_attribute": attribute.system,
        "is_writable": attribute.writable,
        "is_required": attribute.required,
        "is_unique": attribute.unique,
        "is_multiselect": attribute.multiselect,
        "is_default_value_enabled": False,
        "is_archived": attribute.archived,
        "default_value": None,
        "relationship": None if attribute.relates_to is None else _relation_row(workspace_id, attribute.relates_to),
        "created_at": timestamp(attribute.created_at),
        "config": {
            "currency": {"default_currency_code": None, "display_type": None},
            "record_reference": {"allowed_object_ids": None},
        },
    }


def _relation_row(workspace_id: str, relation: Relation) -> Json:
    """What the other end is called is newer than the vendor's file of October 2025."""
    return {
        "id": _attribute_id(workspace_id, relation.object_slug, relation.slug),
        "object_slug": relation.object_slug,
        "title": relation.title,
        "api_slug": relation.slug,
        "is_multiselect": relation.multiselect,
    }


def _attribute_id(workspace_id: str, object_slug: str, slug: str) -> Json:
    return {
        "workspace_id": workspace_id,
        "object_id": stable_uuid(workspace_id, object_slug),
        "attribute_id": stable_uuid(workspace_id, object_slug, slug),
    }


__all__ = [
    "ADDRESS",
    "NANOSECONDS",
    "Attribute",
    "Content",
    "Json",
    "Relation",
    "Value",
    "attribute_row",
    "comparable",
    "read_value",
    "root_domain",
    "timestamp",
    "value_fields",
    "value_row",
]
