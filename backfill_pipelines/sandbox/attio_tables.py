"""Objects of the fake Attio as tables: their attributes, and their records with an index on every value.

Belongs here: keeping values and finding records by them. Does not belong here: what a write means (attio_state.py),
what a query means (attio_filters.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE, Actor, stable_uuid
from backfill_pipelines.sandbox.attio_values import (
    Attribute,
    Content,
    Json,
    Relation,
    Value,
    comparable,
    timestamp,
    value_row,
)

OBJECTS_MADE_AT = 1_672_560_000_000_000_000
"""2023-01-01T08:00:00Z: when the workspace's objects and attributes were made."""
CUSTOM = {PEOPLE: ("user_id", "Clerk user ID"), COMPANIES: ("org_id", "Clerk organization ID")}
"""The attributes of this project, which a workspace may lack."""


class Record:
    """One record as it is now: the active values of each attribute, newest first, and those that were replaced.

    Ask its table for the values of an attribute: some are not kept here.
    """

    __slots__ = ("created_at", "created_by", "history", "id", "rendered", "values")

    def __init__(self, record_id: str, created_at: int, created_by: Actor) -> None:
        self.id = record_id
        self.created_at = created_at
        self.created_by = created_by
        self.values: dict[str, list[Value]] = {}
        self.history: list[tuple[str, Value]] = []
        self.rendered: bytes | None = None
        """Its JSON, until something in it changes. A page of 500 rendered anew would hold all other requests up for
        60 ms, and so make those that arrive meanwhile look as if they came at once."""


class ObjectTable:
    """An object: its attributes by slug, its records by id. `origin`: where the workspace is seen in a browser."""

    def __init__(self, slug: str, *, workspace_id: str, origin: str, custom: bool) -> None:
        self.slug = slug
        self.workspace_id = workspace_id
        self._origin = origin
        self.id = stable_uuid(workspace_id, slug)
        self.attributes: dict[str, Attribute] = {}
        self.records: dict[str, Record] = {}
        self.version = 0
        """Grows with every change, so that what was computed from the table knows when it is old."""
        self.related: ObjectTable | None = None
        """For companies the people, whose `company` makes up their `team`; for people the companies."""
        self._index: dict[str, dict[Content, dict[str, None]]] = {}
        for attribute in _standard_attributes(slug, workspace_id):
            self.attributes[attribute.slug] = attribute
        if custom and slug in CUSTOM:
            name, title = CUSTOM[slug]
            self.add_attribute(name, title=title, kind="text", created_at=OBJECTS_MADE_AT)

    def add_attribute(
        self,
        slug: str,
        *,
        title: str,
        kind: str,
        created_at: int,
        description: str | None = None,
        unique: bool = False,
        multiselect: bool = False,
        required: bool = False,
    ) -> Attribute:
        """Make a custom attribute."""
        attribute = Attribute(
            stable_uuid(self.workspace_id, self.slug, slug),
            slug,
            title,
            kind,
            created_at,
            system=False,
            unique=unique,
            multiselect=multiselect,
            required=required,
            description=description,
        )
        self.attributes[slug] = attribute
        self._attributes_changed()
        return attribute

    def alter_attribute(self, slug: str, **changes: object) -> None:
        """Somebody changes an attribute: `archived=True`, `type="number"`, `unique=True`. Raises KeyError."""
        self.attributes[slug] = self.attributes[slug]._replace(**changes)  # type: ignore[arg-type] # names are fields
        self._attributes_changed()

    def usable(self, name: str) -> Attribute | None:
        """The attribute of this slug or id, unless it is archived."""
        found = self.attributes.get(name) or next((each for each in self.attributes.values() if each.id == name), None)
        return None if found is None or found.archived else found

    # --- records -----------------------------------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """Take a record in."""
        self.records[record.id] = record
        for slug, values in record.values.items():
            self._enter(record, slug, values)
        self._changed(record, record.values.get("company", ()))

    def remove(self, record_id: str) -> Record:
        """Delete a record for good. Raises KeyError."""
        record = self.records.pop(record_id)
        for slug in record.values:
            self._leave(record, slug)
        self._changed(record, record.values.get("company", ()))
        return record

    def put(self, record: Record, slug: str, values: Sequence[Value], *, now: int) -> None:
        """Make these the current values of an attribute; those that go stay in the history."""
        before = record.values.get(slug, [])
        gone = [value for value in before if value not in values]
        record.history += [(slug, value._replace(active_until=now)) for value in gone]
        self._leave(record, slug)
        record.values[slug] = list(values)
        self._enter(record, slug, values)
        self._changed(record, [*before, *values] if slug == "company" else ())

    def active(self, record: Record, slug: str) -> Sequence[Value]:
        """The current values of an attribute: kept, or one of the three that every record has, or a company's team.

        The two ends of the relationship between people and companies are one and the same; it is kept at the person.
        """
        match slug:
            case "record_id":
                content: Content = record.id
            case "created_at":
                content = timestamp(record.created_at)
            case "created_by":
                content = (record.created_by.type, record.created_by.id or "")
            case "team" if self.related is not None:
                return [
                    self.related.records[person_id].values["company"][0]._replace(content=(PEOPLE, person_id))
                    for person_id in self.related.holders("company", (self.slug, record.id))
                ]
            case _:
                return record.values.get(slug, ())
        return (Value(content, record.created_at, record.created_by),)

    def holders(self, slug: str, content: Content) -> Iterable[str]:
        """The ids of the records that have this value now, as equality sees it."""
        if slug == "record_id":
            return (str(content),) if content in self.records else ()
        return self._index.get(slug, {}).get(comparable(self.attributes[slug].type, content), {})

    def row_json(self, record: Record) -> bytes:
        """A record as the vendor answers it."""
        if record.rendered is None:
            record.rendered = orjson.dumps(self.row(record))
        return record.rendered

    def row(self, record: Record) -> Json:
        """The same: every attribute that is not archived, empty lists for those without a value."""
        return {
            "id": {"workspace_id": self.workspace_id, "object_id": self.id, "record_id": record.id},
            "created_at": timestamp(record.created_at),
            "web_url": f"{self._origin}/{self.slug}/{record.id}",
            "values": {
                slug: [value_row(attribute, value) for value in self.active(record, slug)]
                for slug, attribute in self.attributes.items()
                if not attribute.archived
            },
        }

    def _changed(self, record: Record, links: Iterable[Value]) -> None:
        """Forget what was computed from the record, and from the companies that it is, or was, linked to."""
        self.version += 1
        record.rendered = None
        for link in links:
            company = self.related.records.get(str(link.content[1])) if self.related is not None else None  # type: ignore[index] # a reference
            if company is not None:
                company.rendered = None

    def _attributes_changed(self) -> None:
        self.version += 1
        for record in self.records.values():
            record.rendered = None

    def _enter(self, record: Record, slug: str, values: Iterable[Value]) -> None:
        kind = self.attributes[slug].type
        index = self._index.setdefault(slug, {})
        for value in values:
            index.setdefault(comparable(kind, value.content), {})[record.id] = None

    def _leave(self, record: Record, slug: str) -> None:
        kind = self.attributes[slug].type
        index = self._index.get(slug, {})
        for value in record.values.get(slug, ()):
            holders = index.get(comparable(kind, value.content), {})
            holders.pop(record.id, None)
            if not holders:
                index.pop(comparable(kind, value.content), None)


def _standard_attributes(object_slug: str, workspace_id: str) -> list[Attribute]:
    """The attributes that Attio gives to every workspace; those that no consumer reads are left out."""

    def standard(slug: str, title: str, kind: str, **settings: bool | Relation) -> Attribute:
        attribute_id = stable_uuid(workspace_id, object_slug, slug)
        return Attribute(attribute_id, slug, title, kind, OBJECTS_MADE_AT, **settings)  # type: ignore[arg-type] # fields

    every = [
        standard("record_id", "Record ID", "text", writable=False, unique=True),
        standard("created_at", "Created at", "timestamp", writable=False),
        standard("created_by", "Created by", "actor-reference", writable=False),
    ]
    if object_slug == PEOPLE:
        return [
            *every,
            standard("name", "Name", "personal-name"),
            standard("email_addresses", "Email addresses", "email-address", unique=True, multiselect=True),
            standard(
                "company",
                "Company",
                "record-reference",
                relates_to=Relation(COMPANIES, "team", "Team", multiselect=True),
            ),
            standard("job_title", "Job title", "text"),
            standard("description", "Description", "text"),
            standard("strongest_connection_user", "Strongest connection", "actor-reference", writable=False),
        ]
    return [
        *every,
        standard("name", "Name", "text"),
        standard("domains", "Domains", "domain", unique=True, multiselect=True),
        standard("description", "Description", "text"),
        standard(
            "team",
            "Team",
            "record-reference",
            multiselect=True,
            relates_to=Relation(PEOPLE, "company", "Company", multiselect=False),
        ),
    ]


__all__ = ["CUSTOM", "OBJECTS_MADE_AT", "ObjectTable", "Record"]
