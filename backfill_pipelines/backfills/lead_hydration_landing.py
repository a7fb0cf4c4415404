"""What is landed of a GoHighLevel location, and how far its reading is: each a short transaction.

Belongs here: the rows of contacts and look-ups, and the document that tells where the reading stands. Both commit
together, so that whoever goes on repeats at most what was in flight. Does not belong here: asking the vendor
(`lead_hydration_source.py`, `lead_hydration_lookups.py`).

A reading is a *sweep* with a number, and one more for each time it begins anew. Rows carry the number that saw them
last; what no sweep of a reading has seen is deleted at its end: whoever plans meanwhile sees a whole list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ARRAY, Connection, Text, any_, delete, func, literal, select

from backfill_pipelines.backfills.lead_hydration_matching import (
    CONTACT_GONE,
    FOREIGN_CONTACT,
    SEARCHED,
    Asked,
    Contacts,
    Wanted,
    address_key,
)
from backfill_pipelines.backfills.lead_hydration_tables import landed_contacts, landed_lookups
from backfill_pipelines.database.bulk import land_rows, storable_text
from backfill_pipelines.database.tables import cursor, ghl_contact, ghl_lookup
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import read_cursor, write_cursor
from backfill_pipelines.vendors.gohighlevel import Contact, Foreign, Gone, Position, RejectedContact
from backfill_pipelines.vendors.gohighlevel_search import LONGEST_VALUE

_TICKET_LASTS = timedelta(hours=1)
OWNER, STREAM = "gohighlevel", "contacts"
"""Under which name the document of a landing is kept. It outlives the run: a plan is verified and loaded by it."""
Way = Literal["none", "scan", "look_ups"]
Row = Mapping[str, Any]


@dataclass
class Reading:
    """Where the reading of a location stands. A document of the cursor; nothing personal."""

    sweep: int
    first_sweep: int
    location_id: str
    way: Way | None = None
    position: Position | None = None
    swept: bool = False
    """The sweep is at its end; whether it counts is not decided."""
    scanned: bool = False
    """All contacts were read, as far as that can be known."""
    rescans: int = 0
    read: int = 0
    total: int | None = None
    distinct: int = 0
    groups: bool | None = None
    """Whether the location honours a group of addresses; None while that was not tried."""
    additional: bool | None = None
    """Whether its filter sees additional addresses."""
    calls: int = 0
    finished: bool = False


class Landing:
    """The landing of one partition."""

    def __init__(self, scope: Scope, location_id: str) -> None:
        self._scope, self._location_id = scope, location_id
        self._ticket_taken = datetime.min.replace(tzinfo=UTC)

    # --- the document ----------------------------------------------------------------------------------------------

    def begin(self) -> Reading:
        """Go on with the reading that this extraction has begun, or begin one."""
        with self._scope.engine.begin() as connection:
            reading = read_reading(connection, self._scope.partition_key)
            ticket = self._ticket(connection)
            if reading is not None and ticket == reading.first_sweep and reading.location_id == self._location_id:
                return reading
            newest = max(
                connection.scalar(
                    select(func.max(table.c.sweep)).where(table.c.partition_key == self._scope.partition_key)
                )
                or 0
                for table in (ghl_contact, ghl_lookup)
            )
            sweep = max(newest, 0 if reading is None else reading.sweep) + 1
            begun = Reading(sweep=sweep, first_sweep=sweep, location_id=self._location_id)
            self._write(connection, begun)
            return begun

    def commit(self, reading: Reading, contacts: Sequence[Row] = (), lookups: Sequence[Row] = ()) -> None:
        """Land rows together with where the reading stands after them."""
        with self._scope.engine.begin() as connection:
            land_rows(connection, ghl_contact, contacts)
            land_rows(connection, ghl_lookup, lookups)
            self._write(connection, reading)

    def finish(self, reading: Reading) -> None:
        """Forget what this reading has not seen: it is gone."""
        with self._scope.engine.begin() as connection:
            for table in (ghl_contact, ghl_lookup):
                connection.execute(
                    delete(table).where(
                        table.c.partition_key == self._scope.partition_key, table.c.sweep < reading.first_sweep
                    )
                )
            reading.finished = True
            self._write(connection, reading)

    def discard(self) -> None:
        """Forget all that is landed: it cannot be told whose it is."""
        key = self._scope.partition_key
        with self._scope.engine.begin() as connection:
            for table in (ghl_contact, ghl_lookup):
                connection.execute(delete(table).where(table.c.partition_key == key))
            connection.execute(delete(cursor).where(cursor.c.backfill == OWNER, cursor.c.partition_key == key))

    def _write(self, connection: Connection, reading: Reading) -> None:
        key = self._scope.partition_key
        write_cursor(connection, backfill=OWNER, partition_key=key, stream=STREAM, position=asdict(reading))
        # The ledger takes this one away whenever the next run is to read anew, and after a day.
        if datetime.now(UTC) - self._ticket_taken < _TICKET_LASTS:
            return
        self._ticket_taken = datetime.now(UTC)
        write_cursor(
            connection,
            backfill=self._scope.backfill,
            partition_key=key,
            stream=STREAM,
            position={"sweep": reading.first_sweep},
        )

    def _ticket(self, connection: Connection) -> int | None:
        ticket = read_cursor(
            connection, backfill=self._scope.backfill, partition_key=self._scope.partition_key, stream=STREAM
        )
        return None if ticket is None else int(ticket["sweep"])

    # --- what is landed --------------------------------------------------------------------------------------------

    def distinct(self, reading: Reading) -> int:
        """How many contacts the reading has seen."""
        with self._scope.engine.connect() as connection:
            return connection.scalar(select(func.count()).where(*self._of(reading))) or 0

    def known_ids(self, reading: Reading, ids: Collection[str]) -> set[str]:
        """Those of these contacts that the reading has landed, whatever came of them."""
        with self._scope.engine.connect() as connection:
            named = ghl_contact.c.contact_id == any_(literal(list(ids), ARRAY(Text)))
            return set(connection.scalars(select(ghl_contact.c.contact_id).where(*self._of(reading), named)))

    def has_lowercased_names(self, reading: Reading) -> bool:
        """Whether any contact was read without the spelling of its names."""
        with self._scope.engine.connect() as connection:
            lowercased = select(ghl_contact.c.contact_id).where(*self._of(reading), ghl_contact.c.names_lowercased)
            return connection.scalar(select(lowercased.exists())) or False

    def foreign_ids(self, reading: Reading) -> set[str]:
        """The contacts that turned out to be another location's."""
        with self._scope.engine.connect() as connection:
            statement = select(ghl_contact.c.contact_id).where(
                *self._of(reading), ghl_contact.c.rejected == FOREIGN_CONTACT
            )
            return set(connection.scalars(statement))

    def asked(self, reading: Reading) -> Asked:
        """What the location was asked."""
        with self._scope.engine.connect() as connection:
            return asked_of(connection, self._scope.partition_key, reading)

    def contacts(self, reading: Reading, wanted: Wanted) -> Contacts:
        """The landed contacts that are wanted."""
        asked = self.asked(reading)
        with self._scope.engine.begin() as connection:
            frames = landed_contacts(connection, self._scope.partition_key, since_sweep=reading.first_sweep)
            return Contacts(frames, wanted, asked)

    def an_address(self, reading: Reading, *, but: Collection[str]) -> str | None:
        """A primary address that surely exists in the location and that a filter takes; none of these.

        One with capitals if there is one: whether the vendor tells them apart is not documented, and it shows that.
        """
        with self._scope.engine.connect() as connection:
            addresses = connection.scalars(
                select(ghl_contact.c.email)
                .where(
                    *self._of(reading),
                    func.length(ghl_contact.c.email) <= LONGEST_VALUE,
                    # Of other letters it is not known how the vendor makes them small.
                    ghl_contact.c.email.regexp_match("^[!-~]+$"),
                )
                .order_by(ghl_contact.c.email == func.lower(ghl_contact.c.email), ghl_contact.c.contact_id)
            )
            return next((each for each in addresses if address_key(each) not in but), None)

    def an_additional_address(self, reading: Reading) -> tuple[str, str] | None:
        """A contact's id and an additional address of it that no landed contact has as its primary one."""
        with self._scope.engine.connect() as connection:
            rows = connection.execute(
                select(ghl_contact.c.contact_id, ghl_contact.c.email, ghl_contact.c.additional_emails).where(
                    *self._of(reading)
                )
            ).all()
        primary = {row.email.lower() for row in rows if row.email}
        return next(
            (
                (row.contact_id, address)
                for row in rows
                for address in row.additional_emails
                if address.lower() not in primary and len(address) <= LONGEST_VALUE
            ),
            None,
        )

    def _of(self, reading: Reading) -> tuple[Any, ...]:
        return ghl_contact.c.partition_key == self._scope.partition_key, ghl_contact.c.sweep >= reading.first_sweep

    # --- rows ------------------------------------------------------------------------------------------------------

    def contact_rows(
        self, reading: Reading, found: Iterable[Contact | Gone | Foreign | RejectedContact], *, named: str | None = None
    ) -> list[Row]:
        """What was found, as rows. `named`: the id that was asked for, where only one was."""
        rows: list[Row] = []
        for number, each in enumerate(found):
            # One without even an id still counts as one.
            identifier = named or storable_text(each.id) or f"unreadable {reading.read + number}"
            row = {"partition_key": self._scope.partition_key, "contact_id": identifier, "sweep": reading.sweep}
            rows.append(row | (_fields(each) if isinstance(each, Contact) else _NOTHING | {"rejected": _code(each)}))
        return rows

    def lookup_rows(self, reading: Reading, addresses: Iterable[str], outcome: str = SEARCHED) -> list[Row]:
        """Addresses that were asked for, as rows."""
        common = {"partition_key": self._scope.partition_key, "sweep": reading.sweep, "outcome": outcome}
        return [common | {"email": each} for each in addresses]


def read_reading(connection: Connection, partition_key: str) -> Reading | None:
    """The document of a partition's landing."""
    document = read_cursor(connection, backfill=OWNER, partition_key=partition_key, stream=STREAM)
    return None if document is None else Reading(**document)


def asked_of(connection: Connection, partition_key: str, reading: Reading) -> Asked:
    """What a location was asked, as a reading of it says."""
    return landed_lookups(
        connection,
        partition_key,
        since_sweep=reading.first_sweep,
        scanned=reading.scanned,
        additional=bool(reading.additional),
    )


_NOTHING: dict[str, Any] = {"additional_emails": [], "names_lowercased": False}


def _fields(contact: Contact) -> dict[str, Any]:
    return {
        "rejected": None,
        "email": storable_text(contact.email),
        "additional_emails": [storable_text(each) for each in contact.additional_emails],
        "phone": storable_text(contact.phone),
        "first_name": storable_text(contact.first_name),
        "last_name": storable_text(contact.last_name),
        "company_name": storable_text(contact.company_name),
        "names_lowercased": contact.names_lowercased,
    }


def _code(found: Gone | Foreign | RejectedContact) -> str:
    if isinstance(found, Gone):
        return CONTACT_GONE
    return FOREIGN_CONTACT if isinstance(found, Foreign) else found.code
