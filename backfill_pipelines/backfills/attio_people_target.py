"""How `attio_people` writes: people are created, or get their `user_id`, and both are taken back.

Belongs here: creating, what is done where Attio knows the address already, looking up what may have been created,
deleting. Does not belong here: setting an attribute by compare-and-set (`attio_target.py`), the rules
(`attio_people_plan.py`).

A person is created by POST, which Attio refuses where the address is taken: assert (PUT) would overwrite a person that
somebody made a moment ago. A refused row is planned again, once, by the same rules on the people as they are then;
where that makes it an update, the row is changed in the journal *before* it is written, so that a crash, and an undo,
find what was done.

**Ids that move.** Where a user's id stands on a person who loses it by the same plan (`freed_from`, only with
`--overwrite`), the row is written after that, and only if that person has lost it: no two people have one id.

**The gap that remains.** Only the address that is created is protected by Attio. A person that somebody makes for
another verified address of the user between plan and load stays beside ours; the next plan finds both.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import select

from backfill_pipelines.backfills.attio_people_plan import FREED_FROM, ON_OTHER, TARGET, decide
from backfill_pipelines.backfills.attio_target import (
    MERGING,
    USER_ID_OF_PEOPLE,
    AttioTextTarget,
    Standing,
    applied,
    being_merged,
    conflict,
    left_as_it_is,
    record_id_of,
    require_answered,
    side_by_side,
    undone,
    unknown,
)
from backfill_pipelines.backfills.attio_workspace import attio_of
from backfill_pipelines.database.tables import change as change_table
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.email_address import normalise_email
from backfill_pipelines.engine.journal import STALE, Change, Outcome, replan_row
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import (
    EMAIL_ADDRESSES,
    PEOPLE,
    USER_ID,
    Person,
    RejectedRecord,
    UniquenessConflictError,
)
from backfill_pipelines.vendors.transport import NotFoundError, RejectedRequestError

REPLANNED = "matched_since_plan"
"""The reason of a row that was planned as a create and has become an update."""


class AttioPeopleTarget(AttioTextTarget):
    """Rows of the plan of `attio_people`; `overwrite` as the plan was made."""

    def __init__(self, scope: Scope, *, overwrite: bool) -> None:
        super().__init__(scope, USER_ID_OF_PEOPLE)
        self._overwrite = overwrite
        self._replanned: dict[int, Change] = {}
        self._claims = _Claims(scope)
        self._under_way: dict[int, asyncio.Event] = {}
        """Batches by their first row, in the order in which they were begun; each event comes at its end."""
        self._undoes_freed = False

    # --- load --------------------------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One batch of several beside one another, noted before it waits for anything: so they are in order."""
        with self._begun(changes):
            return await super().write(changes)

    async def write_batch(self, attio: Attio, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One batch; rows whose id others have to lose before are written one by one, when all before them are done."""
        rows = self._as_planned_now(changes)
        waiting = [row for row in rows if _freed_from(row)]
        outcomes = list(await self._write_rows(attio, [row for row in rows if not _freed_from(row)]))
        if waiting:
            await self._those_before(changes)
        for row in waiting:
            if self._failure is not None:
                outcomes.append(unknown(row))
                continue
            still = await self._not_freed(attio, row)
            outcomes += await self._write_rows(attio, [row]) if still is None else [still]
        return outcomes

    async def _write_rows(self, attio: Attio, rows: Sequence[Change]) -> Sequence[Outcome]:
        """People to be updated are read again, and who has the ids of those to be created is looked up."""
        updates = [record_id_of(row) for row in rows if row.action == Action.UPDATE]
        standing = await self.standing(attio, updates) if updates else Standing(values={}, unreadable={})
        holders = await self._holders(attio, [row for row in rows if row.action == Action.CREATE])

        async def one(row: Change) -> Outcome:
            if row.action == Action.UPDATE:
                return await self.write_if_unmoved(attio, row, standing)
            return await self._create(attio, row, taken=bool(holders.get(_text(row, "user_id"))))

        return await side_by_side(rows, one)

    @contextmanager
    def _begun(self, changes: Sequence[Change]) -> Iterator[None]:
        done = self._under_way[changes[0].seq] = asyncio.Event()
        try:
            yield
        finally:
            done.set()
            del self._under_way[changes[0].seq]

    async def _those_before(self, changes: Sequence[Change]) -> None:
        """Wait until the batches that were begun before this one are done."""
        for seq, done in list(self._under_way.items()):
            if seq == changes[0].seq:
                return
            await done.wait()

    async def _not_freed(self, attio: Attio, row: Change) -> Outcome | None:
        """What becomes of a row whose id is still on a person who was to lose it: that write has failed."""
        for record_id in _freed_from(row):
            try:
                person = await attio.person(record_id)
            except NotFoundError as error:
                if not being_merged(error):
                    raise
                return conflict(row, MERGING)
            if isinstance(person, RejectedRecord):
                return conflict(row, person.reason)
            if person is not None and _text(row, USER_ID) in person.user_ids:
                return conflict(row, ON_OTHER)
        return None

    async def _holders(self, attio: Attio, creates: Sequence[Change]) -> Mapping[str, Sequence[Person]]:
        """The people that have the user ids of these rows. `user_id` need not be unique, so Attio would not object."""
        found: defaultdict[str, list[Person]] = defaultdict(list)
        if creates:
            people = await attio.people_with_user_ids([_text(row, "user_id") for row in creates])
            require_answered(people, PEOPLE)
            # A query may show people yet with an id that they have just lost.
            freed = {record_id for row in creates for record_id in _freed_from(row)}
            for person in people.records:
                for user_id in person.user_ids if person.record_id not in freed else ():
                    found[user_id].append(person)
        return found

    async def _create(self, attio: Attio, row: Change, *, taken: bool) -> Outcome:
        sent_before = self.was_sent(row)
        if taken:
            return await self._plan_again(attio, row, refusal=None, sent_before=sent_before)
        refusals: list[UniquenessConflictError] = []

        async def send() -> str:
            try:
                person = await attio.create_person(
                    address=_text(row, "address"),
                    user_id=_text(row, "user_id"),
                    first_name=_optional(row, "first_name"),
                    last_name=_optional(row, "last_name"),
                )
            except UniquenessConflictError as refusal:
                refusals.append(refusal)
                raise
            return person.record_id

        outcome = await self.attempt(row, send)
        if refusals:
            return await self._plan_again(attio, row, refusal=refusals[0], sent_before=sent_before)
        return outcome

    async def _plan_again(
        self, attio: Attio, row: Change, *, refusal: UniquenessConflictError | None, sent_before: bool
    ) -> Outcome:
        """Plan one row anew, on the people who stand in its way, and execute what comes of it unless that is a create.

        `refusal` names people whom Attio knows to have the address or the id, however they spell it. They are read one
        by one: a query may not show yet whom we created a moment ago, when the reply was lost.
        """
        user_id, key = _text(row, "user_id"), normalise_email(_text(row, "address"))
        named = () if refusal is None else refusal.record_ids
        try:
            standing = [found for record_id in named if (found := await attio.person(record_id)) is not None]
        except NotFoundError as error:
            if not being_merged(error):
                raise
            return unknown(row) if sent_before else conflict(row, MERGING)
        answers = [
            await attio.people_with_user_ids([user_id]),
            await attio.people_with_addresses([_text(row, "address")]),
        ]
        require_answered(answers[0], PEOPLE)
        known = [*(each for answer in answers for each in (*answer.records, *answer.rejected)), *standing]
        unreadable = [each.reason for each in known if isinstance(each, RejectedRecord)]
        if unreadable:
            return conflict(row, unreadable[0])
        # Of one that was found in both ways, the last says what it is now.
        people = {each.record_id: each for each in known if isinstance(each, Person)}
        by_address = refusal is not None and refusal.attribute == EMAIL_ADDRESSES
        matched = [
            person
            for person in people.values()
            if key in person.addresses or (by_address and person.record_id in named)
        ]
        if len(matched) == 1 and matched[0].user_ids == (user_id,) and sent_before:
            return applied(row, matched[0].record_id)  # created by an attempt whose reply was lost
        claims = await self._claims.by_record()
        decision = decide(
            user_id,
            [person.user_ids for person in matched],
            shared=any(claims.get(person.record_id, row.seq) != row.seq for person in matched),
            elsewhere=any(user_id in person.user_ids for person in people.values() if person not in matched),
            overwrite=self._overwrite,
        )
        if decision.action is Action.UPDATE:
            claims[matched[0].record_id] = row.seq
            return await self._update_instead(attio, row, matched[0])
        if decision.action is Action.CREATE and sent_before:
            return unknown(row)  # what stands in the way may be what we created
        # A person that stood in the way a moment ago and is gone now: the next run will create it.
        return conflict(row, decision.reason or STALE)

    async def _update_instead(self, attio: Attio, row: Change, person: Person) -> Outcome:
        record_id, user_id = person.record_id, _text(row, "user_id")
        before = {"record_id": record_id, USER_ID: person.user_ids[0] if person.user_ids else None}
        after = {"record_id": record_id, USER_ID: user_id}
        await asyncio.to_thread(self._journal_update, row.seq, before, after)
        update = replace(row, action=Action.UPDATE.value, reason=REPLANNED, before=before, after=after)
        self._replanned[row.seq] = update

        async def set_user_id() -> str:
            await attio.set_text(PEOPLE, record_id, USER_ID, user_id)
            return record_id

        return await self.attempt(update, set_user_id)

    def _journal_update(self, seq: int, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> None:
        with self.scope.engine.begin() as connection:
            replan_row(
                connection,
                self.scope.run_id,
                seq,
                action=Action.UPDATE,
                reason=REPLANNED,
                before=before,
                after=after,
            )

    def _as_planned_now(self, changes: Sequence[Change]) -> list[Change]:
        return [self._replanned.get(change.seq, change) for change in changes]

    # --- after a lost reply, or a process that died ------------------------------------------------------------------

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        """Updates by their record; creates by address *and* id: a person with the one alone is not the one we made."""
        self.go_on()
        rows = self._as_planned_now(changes)
        updates = [row for row in rows if row.action == Action.UPDATE]
        found = dict(await super().find_written(updates)) if updates else {}
        creates = [row for row in rows if row.action == Action.CREATE]
        holders = await self._holders(await attio_of(self.scope), creates)
        for row in creates:
            key = normalise_email(_text(row, "address"))
            people = [each for each in holders.get(_text(row, "user_id"), ()) if key in each.addresses]
            if people:
                found[row.seq] = applied(row, people[0].record_id)
        return found

    # --- undo --------------------------------------------------------------------------------------------------------

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        """Put back a `user_id`; delete a created person on whom nobody but we and Attio itself has written anything.

        A company that Attio made for the person's address stays: it may have become somebody's by now.
        """
        waited = [change for change in changes if _freed_from(change)]
        self._undoes_freed = self._undoes_freed or bool(waited)
        outcomes: list[Outcome] = []
        with self._begun(changes):
            if self._undoes_freed:
                await self._those_before(changes)
            # Last first, as they come: nobody gets an id back before the other person has lost it.
            for change in waited:
                outcomes += await self._undo_rows([change], dry_run=dry_run)
            rest = [change for change in changes if not _freed_from(change)]
            return [*outcomes, *await self._undo_rows(rest, dry_run=dry_run)]

    async def _undo_rows(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        updates = [change for change in changes if change.action == Action.UPDATE]
        created = [change for change in changes if change.action == Action.CREATE]
        outcomes = list(await super().undo(updates, dry_run=dry_run)) if updates else []
        self.scope.safe_point()
        attio = await attio_of(self.scope)

        async def delete(change: Change) -> Outcome:
            try:
                return await delete_own(change)
            except (NotFoundError, RejectedRequestError) as error:
                if not being_merged(error):
                    raise
                return left_as_it_is(change, MERGING)

        async def delete_own(change: Change) -> Outcome:
            authorship = await attio.authorship(PEOPLE, record_id_of(change))
            if authorship is None:
                return undone(change)  # by an attempt whose reply was lost, or by somebody who thought the same
            # Somebody may have written a value, or have taken one of ours away, of which nothing else tells.
            standing = {value.attribute for value in authorship.values}
            if authorship.written_by_others() or not standing >= {EMAIL_ADDRESSES, USER_ID}:
                return left_as_it_is(change)
            if not dry_run:
                await attio.delete(PEOPLE, authorship.record_id)
            return undone(change)

        return [*outcomes, *await side_by_side(created, delete)]


class _Claims:
    """Which row of the plan writes to which person: no person gets two users."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._reading = asyncio.Lock()
        self._rows: dict[str, int] | None = None

    async def by_record(self) -> dict[str, int]:
        """The row (`seq`) by record id; whoever decides to write to a person puts its row in before it awaits."""
        async with self._reading:
            if self._rows is None:
                self._rows = await asyncio.to_thread(self._of_plan)
        return self._rows

    def _of_plan(self) -> dict[str, int]:
        """A million rows take two seconds once, where a query for each refusal would take half of one each time."""
        rows = select(change_table.c.after["record_id"].astext, change_table.c.seq).where(
            change_table.c.run_id == self._scope.run_id,
            change_table.c.target == TARGET,
            change_table.c.action == Action.UPDATE,
        )
        with self._scope.engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(rows)}


def _freed_from(row: Change) -> Sequence[str]:
    record_ids: Sequence[str] = (row.before or {}).get(FREED_FROM, ())
    return record_ids


def _text(row: Change, name: str) -> str:
    value = _optional(row, name)
    if value is None:
        raise ValueError(f"a plan row has no {name}")
    return value


def _optional(row: Change, name: str) -> str | None:
    value = (row.after or {}).get(name)
    return value if isinstance(value, str) else None
