"""What changes in the fake Attio while it runs: what a write does, what Attio does by itself, what other people do.

Belongs here: the mutable copy of the seeded workspaces and every change to it. Does not belong here: HTTP. Safe to call
from the server's thread and from a test's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from backfill_pipelines.sandbox.attio_errors import (
    invalid_value,
    not_found,
    refusal,
    uniqueness_conflict,
    unknown_attribute,
)
from backfill_pipelines.sandbox.attio_records import (
    COMPANIES,
    PEOPLE,
    SYSTEM,
    Actor,
    AttioWorkspace,
    SeededCompany,
    SeededPerson,
    stable_uuid,
)
from backfill_pipelines.sandbox.attio_tables import ObjectTable, Record
from backfill_pipelines.sandbox.attio_values import (
    NANOSECONDS,
    Attribute,
    Content,
    Value,
    comparable,
    read_value,
    root_domain,
)

FREE_MAIL = frozenset({"gmail.com", "googlemail.com", "hotmail.com", "icloud.com", "outlook.com", "yahoo.com"})
"""Domains that make no company."""


class OpenQuestions(NamedTuple):
    """What the vendor's documentation leaves open. A client has to live with every answer."""

    not_empty_on_text: Literal["honoured", "refused", "ignored"] = "honoured"
    """`$not_empty` is not listed for texts; "ignored": it holds for every record."""
    clears: Literal["either", "empty_list", "null", "neither"] = "either"
    """What takes the value of a single-select attribute away; what does not is refused, an empty list ignored."""
    refuses_scores_with: Literal[400, 429] = 400
    """The status for a query that is too complex by itself."""
    uniqueness_status: Literal[400, 409] = 400
    refuses_malformed_addresses: bool = False
    """Whether a filter for an address that is none is refused, instead of choosing nobody."""


class Token(NamedTuple):
    """What an API key stands for."""

    workspace_key: str
    actor: Actor
    scopes: frozenset[str]


class WorkspaceState:
    """One workspace as it is now. What touches `tables` from outside holds `lock`, as the methods here do."""

    def __init__(
        self, seeded: AttioWorkspace, *, questions: OpenQuestions, clock: Callable[[], float], lock: threading.RLock
    ) -> None:
        self.seeded = seeded
        self.lock = lock
        self.id = seeded.id
        self.questions = questions
        self._clock = clock
        self._made = 0
        self.tables = {
            slug: ObjectTable(
                slug,
                workspace_id=seeded.id,
                origin=f"https://app.attio.com/{seeded.key}",
                custom=seeded.user_id_attribute,
            )
            for slug in (PEOPLE, COMPANIES)
        }
        self.tables[COMPANIES].related = self.tables[PEOPLE]
        self.tables[PEOPLE].related = self.tables[COMPANIES]
        for company in seeded.companies:
            self.tables[COMPANIES].add(self._seeded_company(company))
        for person in seeded.people:
            record = self._seeded_person(person)
            self.tables[PEOPLE].add(record)
            self._link_company(record, now=record.created_at)

    def now(self) -> int:
        """Nanoseconds since 1970."""
        return int(self._clock() * NANOSECONDS)

    # --- reading, for tests ------------------------------------------------------------------------------------------

    def find(self, object_slug: str, attribute: str, content: Content) -> list[str]:
        """Ids of the records that have this value now."""
        with self.lock:
            return sorted(self.tables[object_slug].holders(attribute, content))

    def contents(self, object_slug: str, record_id: str, attribute: str) -> list[Content]:
        """The current values of one attribute of a record. Raises KeyError."""
        with self.lock:
            table = self.tables[object_slug]
            return [value.content for value in table.active(table.records[record_id], attribute)]

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(
        self,
        object_slug: str,
        values: Mapping[str, Any],
        *,
        actor: Actor,
        record_id: str | None = None,
        multiselect: Literal["add", "replace"] = "add",
        matching: str | None = None,
    ) -> Record:
        """Create a record, or update the one with `record_id`, or the one that `matching` finds (an assert).

        `multiselect`: what happens to the values that a multiselect attribute has already; those of a matching
        attribute always stay. Raises the vendor's refusals, and then nothing has changed.
        """
        with self.lock:
            return self._write(
                self.tables[object_slug],
                values,
                actor=actor,
                record_id=record_id,
                multiselect=multiselect,
                matching=matching,
            )

    def _write(
        self,
        table: ObjectTable,
        values: Mapping[str, Any],
        *,
        actor: Actor,
        record_id: str | None,
        multiselect: Literal["add", "replace"],
        matching: str | None,
    ) -> Record:
        contents = {
            attribute: self._read(attribute, given)
            for attribute, given in ((self._attribute(table, name, actor), given) for name, given in values.items())
        }
        matched = None if matching is None else self._match(table, matching, contents)
        record = table.records.get(record_id or (matched[1] if matched else None) or "")
        if record is None and record_id is not None:
            raise not_found(f'Record with ID "{record_id}" not found.')
        for attribute, given in contents.items():
            self._insist_on_uniqueness(table, record, attribute, given or [])
        now = self.now()
        if record is None:
            for attribute in table.attributes.values():
                if attribute.required and not contents.get(attribute):
                    raise refusal(
                        400, "missing_value", f'Required value for attribute with ID "{attribute.id}" was not provided.'
                    )
            record = Record(self._new_id(table.slug), now, actor)
            table.add(record)
        for attribute, given in contents.items():
            added = multiselect == "add" or (matched is not None and attribute == matched[0])
            self._apply(table, record, attribute, given, actor=actor, keep=added and attribute.multiselect, now=now)
        if table.slug == PEOPLE:
            self._link_company(record, now=now)
        return record

    def delete(self, object_slug: str, record_id: str) -> None:
        """Delete a record and the references to it. Raises the vendor's 404."""
        with self.lock:
            table = self.tables[object_slug]
            if record_id not in table.records:
                raise not_found(f'Record with ID "{record_id}" not found.')
            if object_slug == COMPANIES:
                self._set_team(table.records[record_id], [], actor=SYSTEM, keep=False, now=self.now())
            table.remove(record_id)

    def alter_attribute(self, object_slug: str, slug: str, **changes: object) -> None:
        """Somebody changes an attribute: `archived=True`, `type="number"`, `unique=True`. Raises KeyError."""
        with self.lock:
            self.tables[object_slug].alter_attribute(slug, **changes)

    def enrich(self, object_slug: str, record_id: str, values: Mapping[str, Any]) -> None:
        """Attio itself learns something: the values are written by the system."""
        self.write(object_slug, values, actor=SYSTEM, record_id=record_id)

    def _attribute(self, table: ObjectTable, name: str, actor: Actor) -> Attribute:
        attribute = table.usable(name)
        if attribute is None:
            raise unknown_attribute(name)
        if not attribute.writable and actor != SYSTEM:
            raise invalid_value(f'Attribute with slug "{attribute.slug}" is not writable.')
        return attribute

    def _read(self, attribute: Attribute, given: Any) -> list[Content] | None:
        """The values of a request for one attribute; None: they change nothing."""
        if given is None or given == []:
            return self._read_nothing(attribute, given)
        if attribute.multiselect and not isinstance(given, list):
            raise invalid_value(f'Multi-select attribute with slug "{attribute.slug}" requires an array of values.')
        items = given if isinstance(given, list) else [given]
        if len(items) > 1 and not attribute.multiselect:
            raise invalid_value(f'Attribute with slug "{attribute.slug}" takes a single value.')
        if attribute.type == "record-reference":
            items = [self._reference(attribute, item) for item in items]
        contents = [read_value(attribute, item) for item in items]
        if attribute.type == "record-reference":
            for content in contents:
                target, record_id = content if isinstance(content, tuple) else ("", "")
                if target not in self.tables or record_id not in self.tables[target].records:
                    raise refusal(400, "value_not_found", "The referenced record was not found.")
        return list({comparable(attribute.type, content): content for content in contents}.values())

    def _read_nothing(self, attribute: Attribute, given: Any) -> list[Content] | None:
        spelling = "null" if given is None else "empty_list"
        if attribute.multiselect or self.questions.clears in ("either", spelling):
            return []
        if given is None or self.questions.clears == "neither":
            raise invalid_value(f'An invalid value was passed to attribute with slug "{attribute.slug}".')
        return None

    def _reference(self, attribute: Attribute, given: Any) -> Any:
        """References may be written in short: a company's domain, a person's address, or `{"domains": [...]}`."""
        target, key = (COMPANIES, "domains") if attribute.slug == "company" else (PEOPLE, "email_addresses")
        if isinstance(given, Mapping) and isinstance(given.get(key), list):
            parts = [item.get(key[:-1] if key == "domains" else "email_address", "") for item in given[key]]
        elif isinstance(given, str):
            parts = [given]
        else:
            return given
        found = [record_id for part in parts for record_id in self.find(target, key, part)]
        if not found:
            raise refusal(400, "value_not_found", "The referenced record was not found.")
        return {"target_object": target, "target_record_id": found[0]}

    def _match(
        self, table: ObjectTable, matching: str, contents: Mapping[Attribute, list[Content] | None]
    ) -> tuple[Attribute, str | None]:
        attribute = table.usable(matching)
        if attribute is None:
            message = f'No attribute was found for matching_attribute slug/ID "{matching}".'
            raise refusal(400, "value_not_found", message)
        if not attribute.unique:
            message = "The matching attribute specified is not a unique attribute."
            raise refusal(400, "matching_attribute_definition_not_unique", message)
        given = contents.get(attribute)
        if not given:
            raise refusal(400, "missing_value", f'A value for matching attribute "{matching}" was not provided.')
        found = {record_id for content in given for record_id in table.holders(attribute.slug, content)}
        if len(found) > 1:
            raise uniqueness_conflict(attribute.slug, found, status=self.questions.uniqueness_status)
        return attribute, next(iter(found), None)

    def _insist_on_uniqueness(
        self, table: ObjectTable, record: Record | None, attribute: Attribute, contents: Sequence[Content]
    ) -> None:
        own = "" if record is None else record.id
        others = {each for content in contents for each in table.holders(attribute.slug, content)} - {own}
        if attribute.unique and others:
            raise uniqueness_conflict(attribute.slug, others, status=self.questions.uniqueness_status)

    def _apply(
        self,
        table: ObjectTable,
        record: Record,
        attribute: Attribute,
        contents: Sequence[Content] | None,
        *,
        actor: Actor,
        keep: bool,
        now: int,
    ) -> None:
        if contents is None:
            return
        if attribute.slug == "team":
            self._set_team(record, contents, actor=actor, keep=keep, now=now)
            return
        before = list(record.values.get(attribute.slug, ()))
        standing = {comparable(attribute.type, value.content): value for value in before}
        keys = [comparable(attribute.type, content) for content in contents]
        # A value that is there already keeps its history: it is not written again.
        after = [standing.get(key) or Value(content, now, actor) for key, content in zip(keys, contents, strict=True)]
        if keep:
            after = [value for value in after if value not in before] + before
        if after != before:
            table.put(record, attribute.slug, after, now=now)

    def _set_team(self, company: Record, contents: Sequence[Content], *, actor: Actor, keep: bool, now: int) -> None:
        people = self.tables[PEOPLE]
        link: Content = (COMPANIES, company.id)
        wanted = {str(content[1]) for content in contents if isinstance(content, tuple)}
        members = set(people.holders("company", link))
        leaving = set() if keep else members - wanted
        for person_id in sorted(leaving | (wanted - members)):
            linked = [] if person_id in leaving else [Value(link, now, actor)]
            people.put(people.records[person_id], "company", linked, now=now)

    # --- what Attio does by itself -----------------------------------------------------------------------------------

    def _link_company(self, person: Record, *, now: int) -> None:
        """A person with an address at an organisation's domain gets that company, which is made where there is none."""
        if person.values.get("company"):
            return
        companies = self.tables[COMPANIES]
        for value in person.values.get("email_addresses", ()):
            domain = str(value.content).lower().rpartition("@")[2]
            if domain in FREE_MAIL:
                continue
            found = [each for name in (domain, root_domain(domain)) for each in companies.holders("domains", name)]
            if not found:
                name = root_domain(domain)
                company = Record(self._new_id(COMPANIES), now, SYSTEM)
                company.values = {
                    "domains": [Value(name, now, SYSTEM)],
                    "name": [Value(name.partition(".")[0].capitalize(), now, SYSTEM)],
                }
                companies.add(company)
                found = [company.id]
            people = self.tables[PEOPLE]
            link: list[Content] = [(COMPANIES, found[0])]
            self._apply(people, person, people.attributes["company"], link, actor=SYSTEM, keep=False, now=now)
            return

    # --- seeding -----------------------------------------------------------------------------------------------------

    def _seeded_person(self, person: SeededPerson) -> Record:
        made, member = person.created_at, self.seeded.member
        record = Record(person.record_id, made, member)
        full = f"{person.first_name} {person.last_name}".strip()
        record.values["name"] = [Value((person.first_name, person.last_name, full), made, member)]
        record.values["email_addresses"] = [Value(address, made, member) for address in person.addresses]
        if person.user_id is not None and "user_id" in self.tables[PEOPLE].attributes:
            record.values["user_id"] = [Value(person.user_id, made, self.seeded.integration)]
        if person.job_title is not None:
            record.values["job_title"] = [Value(person.job_title, made, SYSTEM)]
        return record

    def _seeded_company(self, company: SeededCompany) -> Record:
        made, member = company.created_at, self.seeded.member
        record = Record(company.record_id, made, member)
        record.values["name"] = [Value(company.name, made, member)]
        record.values["domains"] = [Value(domain, made, member) for domain in company.domains]
        if company.org_id is not None and "org_id" in self.tables[COMPANIES].attributes:
            record.values["org_id"] = [Value(company.org_id, made, self.seeded.integration)]
        return record

    def _new_id(self, object_slug: str) -> str:
        self._made += 1
        return stable_uuid(self.seeded.seed, self.id, object_slug, "made", self._made)


class AttioState:
    """All workspaces as they are now, and their API keys."""

    def __init__(
        self, seeded: Sequence[AttioWorkspace], *, questions: OpenQuestions, clock: Callable[[], float]
    ) -> None:
        self.lock = threading.RLock()
        self._seeded = tuple(seeded)
        self._questions = questions
        self._clock = clock
        self.workspaces: dict[str, WorkspaceState] = {}
        self.tokens: dict[str, Token] = {}
        self.reset()

    def reset(self) -> None:
        """Back to the seeded workspaces."""
        with self.lock:
            self.workspaces = {
                each.key: WorkspaceState(each, questions=self._questions, clock=self._clock, lock=self.lock)
                for each in self._seeded
            }
            self.tokens = {
                each.token: Token(each.key, each.token_actor, frozenset(each.scopes)) for each in self._seeded
            }

    def set_scopes(self, token: str, scopes: Sequence[str]) -> None:
        """Somebody edits an API key. Raises KeyError."""
        with self.lock:
            self.tokens[token] = self.tokens[token]._replace(scopes=frozenset(scopes))

    def revoke(self, token: str) -> None:
        """Somebody deletes an API key."""
        with self.lock:
            self.tokens.pop(token, None)


__all__ = ["FREE_MAIL", "AttioState", "OpenQuestions", "Token", "WorkspaceState"]
