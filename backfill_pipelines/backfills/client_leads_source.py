"""The extraction of `client_leads`: interested replies and their leads from one Email Bison workspace, proven its own.

Belongs here: the sweep over pages that shift while they are read, the checks of whose rows they are, and landing them
page by page with the cursor. Does not belong here: how one answer is proven (`vendors/email_bison_workspace.py`), and
what the rows mean for the target (`client_leads_plan.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, text

from backfill_pipelines.backfills.client_leads_proof import WorkspaceLists
from backfill_pipelines.database.bulk import land_rows, storable_text
from backfill_pipelines.database.tables import bison_lead, bison_reply
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import read_cursor, write_cursor
from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.email_bison import ForeignRecordError, Page
from backfill_pipelines.vendors.email_bison_workspace import WorkspaceReader

REPLIES = "replies"
LEADS = "leads"
_INTERESTED = {"status": "interested", "folder": "all"}
_REPLIED = {"filters[lead_campaign_status]": "replied"}
_SWEEPS = 5
_BIGINT = 2**63
_SINGLE_READS_AT_ONCE = 8
_NAMED_CLIENTS = 5
_PHONE_NAMES = {"phone", "phone number", "cell phone", "mobile"}


class ForeignRowsError(DataError):
    """Rows that belong to another workspace; `reply_ids` go into the ledger, `owners` are its clients if known."""

    def __init__(self, message: str, *, reply_ids: Sequence[int], owners: Collection[str] = ()) -> None:
        super().__init__("foreign_rows", message)
        self.reply_ids = reply_ids
        self.owners = sorted(owners)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Where a sweep over the pages stands; what the cursor of the stream `replies` holds."""

    number: int = 1
    page: int = 0
    """The last page that is landed; 0 before the first."""
    first_total: int | None = None
    """`meta.total` as page 1 told it."""
    last_total: int | None = None
    finished: bool = False
    """Whether the last page is landed."""
    counts: bool = False
    """Whether the sweep counts: its total stood still and equals its distinct ids."""

    def after(self, page: Page) -> Sweep:
        """The sweep after one more page."""
        return Sweep(
            number=self.number,
            page=page.number,
            first_total=page.total if page.number == 1 else self.first_total,
            last_total=page.total,
            finished=page.number >= page.last_page,
        )


@dataclass(kw_only=True)
class Extraction:
    """One partition's extraction."""

    scope: Scope
    reader: WorkspaceReader
    lists: WorkspaceLists
    instance: str
    pages_ahead: int
    """How many pages are requested before the one that is landed: 1 where every page needs its own two checks."""
    _sweep: Sweep = field(default_factory=Sweep)

    async def run(self) -> None:
        """Land the replies, then their leads; goes on from the cursors."""
        self._sweep = await asyncio.to_thread(self._read_sweep)
        while not self._sweep.counts:
            await self._read_replies()
        await self._read_leads()
        await asyncio.to_thread(self._note_figures)

    async def _read_replies(self) -> None:
        """Sweep over the pages until one sweep counts, at most five times.

        Rows shift while they are paged: replies appear and are un-marked. A sweep counts when the vendor's total was
        the same on its first and last page and equals its distinct ids; the ids of that sweep are the extraction.
        """
        if not self._sweep.finished:
            async with aclosing(self._pages("/replies", _INTERESTED, after=self._sweep.page)) as pages:
                async for page in pages:
                    self.scope.safe_point()
                    self._check_page(page)
                    await asyncio.to_thread(self._land_page, page)
                    self.scope.report("replies", page.number, page.last_page)
        distinct = await asyncio.to_thread(self._distinct_ids)
        if self._sweep.first_total == self._sweep.last_total == distinct:
            await asyncio.to_thread(self._accept_sweep)
            return
        if self._sweep.number >= _SWEEPS:
            raise DataError(
                "unstable_source",
                f"The interested replies of {self.scope.partition_key} kept changing while they were read, "
                f"{_SWEEPS} times over; nothing was written. Run again at a quieter time.",
            )
        self._sweep = Sweep(number=self._sweep.number + 1)

    async def _pages(self, path: str, filters: Mapping[str, str], *, after: int) -> AsyncGenerator[Page, None]:
        """Yield the pages after one, in order, up to the last; later ones are requested while one is worked on."""
        under_way: dict[int, asyncio.Task[Page]] = {}
        number, last_page = after + 1, None
        try:
            while last_page is None or number <= last_page:
                # How many pages there are is known from the first answer on.
                ahead = 1 if last_page is None else min(self.pages_ahead, last_page - number + 1)
                for wanted in range(number, number + ahead):
                    if wanted not in under_way:
                        under_way[wanted] = asyncio.ensure_future(
                            self.reader.page(path, number=wanted, filters=filters)
                        )
                page = await under_way.pop(number)
                yield page
                last_page, number = page.last_page, number + 1
        finally:
            await _end(under_way.values())

    def _check_page(self, page: Page) -> None:
        """Refuse a page that shows that its rows are not what was asked for."""
        if any(row.get("interested") is not True for row in page.rows):
            raise DataError(
                "filter_not_honoured",
                f"Email Bison returned replies of {self.scope.partition_key} that are not marked interested: it "
                "ignored the filter status=interested, so nothing was written; check the instance's version.",
            )
        owners = {row["id"]: found for row in page.rows if (found := self.lists.owners(row))}
        if owners:
            clients = set().union(*owners.values())
            raise ForeignRowsError(
                f"{len(owners)} replies on page {page.number} of {self.scope.partition_key} belong to the workspace of "
                f"{_named(clients)}; nothing was written. Check the tokens and workspace ids of these clients.",
                reply_ids=list(owners),
                owners=clients,
            )

    def _read_sweep(self) -> Sweep:
        with self.scope.engine.begin() as connection:
            position = self._cursor(connection, REPLIES)
            if position is None:
                # Leads belong to one extraction: they change as replies do.
                connection.execute(delete(bison_lead).where(bison_lead.c.partition_key == self.scope.partition_key))
                return Sweep()
            return Sweep(**position)

    def _land_page(self, page: Page) -> None:
        sweep = self._sweep.after(page)
        with self.scope.engine.begin() as connection:
            if page.number == 1:
                connection.execute(delete(bison_reply).where(bison_reply.c.partition_key == self.scope.partition_key))
            land_rows(connection, bison_reply, [self._reply_row(row) for row in page.rows])
            self._move(connection, REPLIES, vars(sweep))
        self._sweep = sweep

    def _reply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "partition_key": self.scope.partition_key,
            "reply_id": row["id"],
            "instance": self.instance,
            "lead_id": _id(row.get("lead_id")),
            "campaign_id": _id(row.get("campaign_id")),
            "sender_email_id": _id(row.get("sender_email_id")),
            "known": self.lists.is_own(row),
            "date_received": _time(row.get("date_received")),
            "from_name": storable_text(row.get("from_name")),
            "from_email_address": storable_text(row.get("from_email_address")),
        }

    def _distinct_ids(self) -> int:
        statement = select(func.count()).where(bison_reply.c.partition_key == self.scope.partition_key)
        with self.scope.engine.connect() as connection:
            return connection.scalar(statement) or 0

    def _accept_sweep(self) -> None:
        """Let the sweep count, once no other client's partition turns out to have landed one of its replies."""
        self._note_figures()
        self._check_landed_elsewhere()
        accepted = Sweep(**{**vars(self._sweep), "counts": True})
        with self.scope.engine.begin() as connection:
            self._move(connection, REPLIES, vars(accepted))
        self._sweep = accepted

    def _note_figures(self) -> None:
        """Note what tells two workspaces apart: equal totals with an equal newest id cannot both be right."""
        newest = select(func.max(bison_reply.c.reply_id)).where(bison_reply.c.partition_key == self.scope.partition_key)
        with self.scope.engine.connect() as connection:
            self.scope.details |= {
                "instance": self.instance,
                "source_total": self._sweep.last_total,
                "newest_reply_id": connection.scalar(newest),
            }

    def _check_landed_elsewhere(self) -> None:
        mine, other = bison_reply.alias("mine"), bison_reply
        landed_twice = (
            (mine.c.partition_key == self.scope.partition_key)
            & (other.c.instance == mine.c.instance)
            & (other.c.reply_id == mine.c.reply_id)
            & (other.c.partition_key != self.scope.partition_key)
        )
        with self.scope.engine.begin() as connection:
            if getattr(self.scope.options, "accept_moved", False):
                connection.execute(delete(other).where(landed_twice))
                return
            statement = select(mine.c.reply_id, other.c.partition_key).where(landed_twice).order_by(mine.c.reply_id)
            found = connection.execute(statement).all()
        if found:
            reply_ids, owners = {row.reply_id for row in found}, {row.partition_key for row in found}
            raise ForeignRowsError(
                f"{len(reply_ids)} replies of {self.scope.partition_key} were landed for {_named(owners)} before; "
                "nothing was written. If a sender has moved between these clients, run again with --accept-moved; "
                "else check their tokens and workspace ids.",
                reply_ids=sorted(reply_ids),
                owners=owners,
            )

    async def _read_leads(self) -> None:
        """Land the replies' leads: in bulk where that takes fewer calls, by id for the rest."""
        wanted = await asyncio.to_thread(self._wanted_leads)
        position = await asyncio.to_thread(self._lead_position)
        if len(wanted) > 1 and not position["finished"]:
            async with aclosing(self._pages("/leads", _REPLIED, after=position["page"])) as pages:
                async for page in pages:
                    self.scope.safe_point()
                    found = [row for row in page.rows if row["id"] in wanted]
                    wanted -= {row["id"] for row in found}
                    pages_left = page.last_page - page.number
                    position = {"page": page.number, "finished": pages_left <= 0 or pages_left >= len(wanted)}
                    await asyncio.to_thread(self._land_leads, [self._lead_row(row) for row in found], position)
                    self.scope.report("leads", page.number, page.last_page)
                    if position["finished"]:
                        break
        total, done = len(wanted), 0
        waiting = sorted(wanted)
        while waiting:
            self.scope.safe_point()
            batch, waiting = waiting[:_SINGLE_READS_AT_ONCE], waiting[_SINGLE_READS_AT_ONCE:]
            rows = await self._leads_by_id(batch)
            await asyncio.to_thread(self._land_leads, rows, None)
            done += len(batch)
            self.scope.report("leads by id", done, total)

    async def _leads_by_id(self, lead_ids: Sequence[int]) -> list[dict[str, Any]]:
        if self.pages_ahead == 1:
            return [await self._lead_by_id(lead_id) for lead_id in lead_ids]
        reads = [asyncio.ensure_future(self._lead_by_id(lead_id)) for lead_id in lead_ids]
        try:
            return list(await asyncio.gather(*reads))
        finally:
            await _end(reads)

    async def _lead_by_id(self, lead_id: int) -> dict[str, Any]:
        try:
            record = await self.reader.record(f"/leads/{lead_id}")
        except ForeignRecordError:
            replies = await asyncio.to_thread(self._replies_of_lead, lead_id)
            raise ForeignRowsError(
                f"Email Bison says that lead {lead_id}, which replies of {self.scope.partition_key} refer to, belongs "
                "to another workspace; nothing was written. Check the client's token and workspace_id.",
                reply_ids=replies,
            ) from None
        return self._lead_row({"id": lead_id}, known=False) if record is None else self._lead_row(record)

    def _replies_of_lead(self, lead_id: int) -> list[int]:
        statement = select(bison_reply.c.reply_id).where(
            bison_reply.c.partition_key == self.scope.partition_key, bison_reply.c.lead_id == lead_id
        )
        with self.scope.engine.connect() as connection:
            return sorted(connection.scalars(statement))

    def _wanted_leads(self) -> set[int]:
        with self.scope.engine.connect() as connection:
            return set(
                connection.scalars(
                    text(
                        "SELECT lead_id FROM backfill.bison_reply WHERE partition_key = :key AND lead_id IS NOT NULL"
                        " EXCEPT SELECT lead_id FROM backfill.bison_lead WHERE partition_key = :key"
                    ),
                    {"key": self.scope.partition_key},
                )
            )

    def _lead_position(self) -> dict[str, Any]:
        """The last page of leads that is landed, and whether reading them in bulk is over."""
        with self.scope.engine.connect() as connection:
            return self._cursor(connection, LEADS) or {"page": 0, "finished": False}

    def _land_leads(self, rows: Sequence[dict[str, Any]], position: Mapping[str, Any] | None) -> None:
        with self.scope.engine.begin() as connection:
            land_rows(connection, bison_lead, rows)
            if position is not None:
                self._move(connection, LEADS, position)

    def _lead_row(self, lead: Mapping[str, Any], *, known: bool = True) -> dict[str, Any]:
        return {
            "partition_key": self.scope.partition_key,
            "lead_id": lead["id"],
            "known": known,
            **{name: storable_text(lead.get(name)) for name in ("email", "first_name", "last_name", "company")},
            "phone": phone_of(lead.get("custom_variables")),
        }

    def _cursor(self, connection: Connection, stream: str) -> dict[str, Any] | None:
        return read_cursor(
            connection, backfill=self.scope.backfill, partition_key=self.scope.partition_key, stream=stream
        )

    def _move(self, connection: Connection, stream: str, position: Mapping[str, Any]) -> None:
        write_cursor(
            connection,
            backfill=self.scope.backfill,
            partition_key=self.scope.partition_key,
            stream=stream,
            position=position,
        )


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel requests that nobody waits for any more, and see them off."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _named(clients: Collection[str]) -> str:
    """A few of the clients' keys, for a sentence."""
    return ", ".join(sorted(clients)[:_NAMED_CLIENTS])


def phone_of(custom_variables: object) -> str | None:
    """The lead's first custom variable that is a phone and not empty.

    Users name them freely: "Phone", "phone number", "Cell Phone", "mobile", with underscores too.
    """
    if not isinstance(custom_variables, list):
        return None
    for variable in custom_variables:
        if not isinstance(variable, dict):
            continue
        name = storable_text(variable.get("name")) or ""
        value = (_as_text(variable.get("value")) or "").strip()
        if value and " ".join(name.replace("_", " ").lower().split()) in _PHONE_NAMES:
            return value
    return None


def _as_text(value: object) -> str | None:
    """A phone may come as a JSON number."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else storable_text(value)


def _id(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BIGINT else None


def _time(value: object) -> str | None:
    """An ISO time as UTC; a time without a zone is UTC, as Laravel writes it. Anything else is no time."""
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None
