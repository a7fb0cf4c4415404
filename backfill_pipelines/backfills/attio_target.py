"""One text attribute of Attio's records, written and taken back by compare-and-set: how the Attio backfills load.

Belongs here: reading records again just before they are written, what each answer to a write means, and taking a write
back. Does not belong here: creating records (`attio_people_target.py`), which value a record gets (the plans).

**The gap that remains.** Attio has no conditional write. A record is read again in a batch of 25 and written within
three seconds (three batches share 25 writes a second); what somebody else writes to the same attribute in these three
seconds is overwritten, and undo then brings back what was there before them. Nothing else of the record is touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backfill_pipelines.backfills.attio_workspace import attio_of
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.journal import CHANGED_SINCE, STALE, Change, ChangeState, Outcome, remaining_rows
from backfill_pipelines.engine.record_by_record import UNKNOWN
from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import (
    COMPANIES,
    ORG_ID,
    PEOPLE,
    USER_ID,
    Company,
    Found,
    Person,
    UniquenessConflictError,
)
from backfill_pipelines.vendors.transport import AmbiguousWriteError, NotFoundError, VendorError

RECORD_GONE = "record_gone"
"""The code of a record that was deleted between plan and load."""
MERGING = "merge_in_progress"
"""The code, Attio's own as well, of a record that is being merged with another one: soon it has another id."""
_WRITES_AT_ONCE = 10
"""Writes of one batch that are under way: with three batches enough for 25 a second at answers of a second, and few
enough that a key that is refused is not refused a hundred times."""
_LOST_IN_A_ROW = 20
"""So many lost replies without an answer between them are an outage: a window of 10,000 rows is not thrown at it."""
_ROUNDS = 3
"""How often a change is taken back whose reply was lost."""

Item = TypeVar("Item", Person, Company)
Values = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextAttribute(Generic[Item]):
    """A text attribute of an object: where it is and how records are read for it."""

    object_slug: str
    slug: str
    look_up: Callable[[Attio, Collection[str]], Awaitable[Found[Item]]]
    """The records with these ids."""
    held: Callable[[Item], Values]
    """The current values of the attribute."""
    taken: str
    """The code of a conflict with another record that has the value, where the workspace wants values unique."""


USER_ID_OF_PEOPLE = TextAttribute[Person](
    object_slug=PEOPLE,
    slug=USER_ID,
    look_up=Attio.people_with_ids,
    held=lambda person: person.user_ids,
    taken="id_on_other_person",
)
ORG_ID_OF_COMPANIES = TextAttribute[Company](
    object_slug=COMPANIES,
    slug=ORG_ID,
    look_up=Attio.companies_with_ids,
    held=lambda company: () if company.org_id is None else (company.org_id,),
    taken="id_on_other_company",
)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Records as they are now: their values by id, and why some cannot be read. What is in neither is gone."""

    values: Mapping[str, Values]
    unreadable: Mapping[str, str]


class AttioTextTarget:
    """A `RecordTarget` over plan rows whose `before` and `after` name a `record_id` and the attribute by its slug.

    `before` holds what the plan saw there, None for nothing; other keys of either are ignored. Outcomes besides
    `applied`: conflicts `stale`, `record_gone`, `merge_in_progress`, the attribute's `taken`, the reason why the record
    cannot be read; `failed` with the code of Attio's refusal. What every further write would meet as well (a refused
    key, an outage) is raised, by the first call after the one whose outcomes are known, so that those are journalled.
    """

    batch_rows = 25
    window_rows = 10_000
    """Between windows the pace is lost for a second, of the four that 10,000 writes have to spare."""
    concurrency = 3

    def __init__(self, scope: Scope, attribute: TextAttribute[Any]) -> None:
        self.scope = scope
        self.attribute = attribute
        self._failure: Exception | None = None
        self._lost_in_a_row = 0
        self._sent: set[int] = set()
        self._progress = _Progress(scope)

    # --- load --------------------------------------------------------------------------------------------------------

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:  # noqa: ARG002 - the protocol's
        """Nothing: at 25 writes a second a window takes minutes, so `write` compares, batch by batch."""
        return {}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Read the records again, and write those that are as the plan saw them."""
        self.go_on()
        await self._progress.begin()
        outcomes = await self.write_batch(await attio_of(self.scope), changes)
        self._progress.tell(outcomes)
        return outcomes

    async def write_batch(self, attio: Attio, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One batch, compared and written."""
        standing = await self.standing(attio, [record_id_of(change) for change in changes])
        return await side_by_side(changes, lambda change: self.write_if_unmoved(attio, change, standing))

    async def write_if_unmoved(self, attio: Attio, change: Change, standing: Standing) -> Outcome:
        """Write one row, unless the record is not as the plan saw it."""
        record_id = record_id_of(change)
        values = standing.values.get(record_id)
        if values is None:
            return conflict(change, standing.unreadable.get(record_id, RECORD_GONE))
        if values == self._after(change) and self.was_sent(change):
            return applied(change, record_id)  # by an attempt whose reply was lost and that took its time
        if values != self._before(change):
            return conflict(change, STALE)

        async def set_text() -> str:
            await attio.set_text(self.attribute.object_slug, record_id, self.attribute.slug, self._after(change)[0])
            return record_id

        return await self.attempt(change, set_text)

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        """Of rows that were sent, or about to be: those whose record has our value."""
        self.go_on()
        standing = await self.standing(await attio_of(self.scope), [record_id_of(change) for change in changes])
        return {
            change.seq: applied(change, record_id_of(change))
            for change in changes
            if standing.values.get(record_id_of(change)) == self._after(change)
        }

    def go_on(self) -> None:
        """Stop where somebody asked for it, or where a write failed as every further one would."""
        self.scope.safe_point()
        if self._failure is not None:
            raise self._failure

    def was_sent(self, change: Change) -> bool:
        """Whether a write for this row has left before, from this process or one that died."""
        return change.attempted or change.seq in self._sent

    async def attempt(self, change: Change, send: Callable[[], Awaitable[str]]) -> Outcome:
        """Send one write, which answers with the record's id, and say what its answer means for the row.

        `UniquenessConflictError` is the attribute's `taken`; a caller that knows more about it catches it in `send`.
        """
        if self._failure is not None:
            return unknown(change)
        self._sent.add(change.seq)
        try:
            record_id = await send()
        except AmbiguousWriteError as lost:
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= _LOST_IN_A_ROW:
                self._failure = lost
            return unknown(change)
        except DataError as error:
            outcome = self._meaning(change, error)
        except Exception as failure:  # noqa: BLE001 - raised by the next call, once what is known is journalled
            self._failure = failure
            return unknown(change)
        else:
            outcome = applied(change, record_id)
        self._lost_in_a_row = 0
        return outcome

    def _meaning(self, change: Change, error: DataError) -> Outcome:
        """What a refusal says about the row. A record that is being merged is no record that is gone."""
        if isinstance(error, UniquenessConflictError):
            return conflict(change, self.attribute.taken)
        if being_merged(error):
            return conflict(change, MERGING)
        if isinstance(error, NotFoundError) and error.vendor_code == "not_found":
            return conflict(change, RECORD_GONE)
        return Outcome(seq=change.seq, state=ChangeState.FAILED, error_code=error.code)

    # --- undo --------------------------------------------------------------------------------------------------------

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        """Put back what was there before, where our value still stands."""
        self.scope.safe_point()
        attio = await attio_of(self.scope)
        outcomes: list[Outcome] = []
        pending = list(changes)
        for left in reversed(range(_ROUNDS)):
            standing = await self.standing(attio, [record_id_of(change) for change in pending])

            async def one(change: Change, standing: Standing = standing, last: bool = not left) -> Outcome:  # noqa: FBT001
                try:
                    return await self._undo_one(attio, change, standing, dry_run=dry_run)
                except AmbiguousWriteError:
                    if last:
                        raise
                    return unknown(change)

            answers = await side_by_side(pending, one)
            outcomes += [answer for answer in answers if answer.error_code != UNKNOWN]
            lost = {answer.seq for answer in answers if answer.error_code == UNKNOWN}
            pending = [change for change in pending if change.seq in lost]
            if not pending:
                break
        return outcomes

    async def _undo_one(self, attio: Attio, change: Change, standing: Standing, *, dry_run: bool) -> Outcome:
        record_id = record_id_of(change)
        values, before = standing.values.get(record_id), self._before(change)
        if values is not None and values == before:
            return undone(change)  # by an attempt whose reply was lost, or by somebody who thought the same
        if values != self._after(change):
            return left_as_it_is(change)
        if not dry_run:
            place = (self.attribute.object_slug, record_id, self.attribute.slug)
            try:
                await (attio.set_text(*place, before[0]) if before else attio.clear_text(*place))
            except DataError as error:
                if being_merged(error):
                    return left_as_it_is(change, MERGING)
                since = isinstance(error, UniquenessConflictError | NotFoundError)
                return left_as_it_is(change, CHANGED_SINCE if since else error.code)
        return undone(change)

    # --- the record and the row --------------------------------------------------------------------------------------

    async def standing(self, attio: Attio, record_ids: Collection[str]) -> Standing:
        """The records as they are now. Raises `DataError("lookup_refused")` where Attio does not answer for one."""
        found = await self.attribute.look_up(attio, record_ids)
        require_answered(found, self.attribute.object_slug)
        return Standing(
            values={record.record_id: self.attribute.held(record) for record in found.records},
            unreadable={each.record_id: each.reason for each in found.rejected if each.record_id is not None},
        )

    def _before(self, change: Change) -> Values:
        value = None if change.before is None else change.before[self.attribute.slug]
        return () if value is None else (str(value),)

    def _after(self, change: Change) -> Values:
        if change.after is None:  # only rows with one are executed
            raise ValueError("a plan row to be written has no values")
        return (str(change.after[self.attribute.slug]),)


class _Progress:
    """How far the load is, told batch by batch: a window takes minutes."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._done = 0
        self._total: int | None = None

    async def begin(self) -> None:
        if self._total is None:
            self._total = 0  # whoever comes meanwhile need not count as well
            self._total = await asyncio.to_thread(self._remaining)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._done += sum(outcome.error_code != UNKNOWN for outcome in outcomes)
        if self._total and self._done <= self._total:
            self._scope.report("load", self._done, self._total)

    def _remaining(self) -> int:
        with self._scope.engine.connect() as connection:
            return len(remaining_rows(connection, self._scope.run_id, limit=self._scope.options.max_records))


# --- rows and outcomes -----------------------------------------------------------------------------------------------


async def side_by_side(changes: Sequence[Change], work: Callable[[Change], Awaitable[Outcome]]) -> Sequence[Outcome]:
    """Work the rows of a batch, some at a time; all have ended when this returns or raises."""
    places = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def one(change: Change) -> Outcome:
        async with places:
            return await work(change)

    answers = await asyncio.gather(*map(one, changes), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if isinstance(answer, Outcome)]


def require_answered(found: Found[Any], object_slug: str) -> None:
    """Raise `DataError("lookup_refused")` where Attio does not take a question about an id."""
    if found.refused:
        raise DataError(
            "lookup_refused",
            f"Attio does not answer questions about {len(found.refused)} ids of {object_slug}, so nothing was written "
            "to these records; look at the attributes of the object in Attio, then run again.",
        )


def record_id_of(change: Change) -> str:
    """The record that a row changes."""
    record_id = (change.after or {}).get("record_id") or change.record_id
    if not record_id:
        raise ValueError("a plan row names no record")
    return str(record_id)


def being_merged(error: Exception) -> bool:
    """Whether Attio refuses because it is merging the record."""
    return isinstance(error, VendorError) and error.vendor_code == MERGING


def applied(change: Change, record_id: str) -> Outcome:
    """It is written."""
    return Outcome(seq=change.seq, state=ChangeState.APPLIED, record_id=record_id)


def conflict(change: Change, code: str) -> Outcome:
    """It was left: the record is not as the plan saw it."""
    return Outcome(seq=change.seq, state=ChangeState.CONFLICT, error_code=code)


def unknown(change: Change) -> Outcome:
    """Whether it is written has to be looked up."""
    return Outcome(seq=change.seq, state=ChangeState.PLANNED, error_code=UNKNOWN)


def undone(change: Change) -> Outcome:
    """It is taken back."""
    return Outcome(seq=change.seq, state=ChangeState.UNDONE)


def left_as_it_is(change: Change, code: str = CHANGED_SINCE) -> Outcome:
    """It is not taken back: somebody has changed the record since, or Attio refuses to."""
    return Outcome(seq=change.seq, state=ChangeState.APPLIED, error_code=code)
