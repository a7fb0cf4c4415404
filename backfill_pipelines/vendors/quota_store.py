"""Where request budgets are kept, and how they are kept without a database.

Belongs here: the protocol of a store, what its operations return, and the store in memory for callers without a
database (and for tests of the limiter). Does not belong here: the rules (`budget.py`), the shared store
(`postgres_quota_store.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from backfill_pipelines.vendors.budget import (
    BudgetChange,
    BudgetRow,
    Terms,
    apply_change,
    give_back,
    refuse,
    reserve_slots,
    spacing,
    take,
)
from backfill_pipelines.vendors.clock import Clock


@dataclass(frozen=True, slots=True)
class QuotaKey:
    """Whose budget: `account` is the vendor's name for the customer (a location id), never a credential."""

    vendor: str
    account: str
    kind: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row as an operation left it.

    `now` is the store's clock while it held the row, `sent_at` and `received_at` the caller's monotonic clock just
    before and just after.
    """

    row: BudgetRow
    now: float
    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """Slots reserved ahead: `count` of them, `gap` seconds apart, ending one gap before `snapshot.row.next_slot_at`."""

    snapshot: Snapshot
    gap: float


@dataclass(frozen=True, slots=True)
class Taken:
    """Permits taken from a fixed window; `granted` may be fewer than asked for, or none."""

    snapshot: Snapshot
    granted: int


class QuotaStore(Protocol):
    """One row per key, changed atomically, on one clock that all users of the store share.

    All operations raise `TransientError` when the store cannot be reached. Those that return None found no row.
    """

    async def open(self, key: QuotaKey, *, permits: int, window_seconds: float) -> Snapshot:
        """Make the row, or set its budget to what is configured; what the vendor taught an earlier process is
        learned again from the first response."""
        ...

    async def reserve(self, key: QuotaKey, count: int, terms: Terms, *, lead: float) -> Reservation | None:
        """Reserve the next `count` slots of a paced budget, none of them earlier than `lead` seconds from now."""
        ...

    async def take(self, key: QuotaKey, count: int, terms: Terms) -> Taken | None:
        """Take up to `count` permits of a counted budget."""
        ...

    async def give_back(self, key: QuotaKey, count: int, *, window_started_at: float) -> None:
        """Return permits of a counted budget that were not used."""
        ...

    async def refuse(self, key: QuotaKey, pause: float) -> Snapshot | None:
        """Stop everybody for `pause` seconds and halve a paced budget until its window is over."""
        ...

    async def change(self, key: QuotaKey, change: BudgetChange) -> Snapshot | None:
        """Write what a vendor's headers taught."""
        ...


class InMemoryQuotaStore:
    """Budgets of one process, gone when it ends: for commands that have no database."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[QuotaKey, BudgetRow] = {}

    async def open(self, key: QuotaKey, *, permits: int, window_seconds: float) -> Snapshot:
        """See `QuotaStore`."""
        row = self._rows.get(key, BudgetRow(permits=permits, window_seconds=window_seconds))
        return self._keep(key, replace(row, permits=permits, window_seconds=window_seconds), self._clock.time())

    async def reserve(self, key: QuotaKey, count: int, terms: Terms, *, lead: float) -> Reservation | None:
        """See `QuotaStore`."""
        row, now = self._rows.get(key), self._clock.time()
        if row is None:
            return None
        reserved = reserve_slots(row, now, count, terms, lead=lead)
        return Reservation(self._keep(key, reserved, now), spacing(row, now, terms))

    async def take(self, key: QuotaKey, count: int, terms: Terms) -> Taken | None:
        """See `QuotaStore`."""
        row, now = self._rows.get(key), self._clock.time()
        if row is None:
            return None
        row, granted = take(row, now, count, terms)
        return Taken(self._keep(key, row, now), granted)

    async def give_back(self, key: QuotaKey, count: int, *, window_started_at: float) -> None:
        """See `QuotaStore`."""
        if (row := self._rows.get(key)) is not None:
            self._rows[key] = give_back(row, count, window_started_at)

    async def refuse(self, key: QuotaKey, pause: float) -> Snapshot | None:
        """See `QuotaStore`."""
        row, now = self._rows.get(key), self._clock.time()
        return None if row is None else self._keep(key, refuse(row, now, pause), now)

    async def change(self, key: QuotaKey, change: BudgetChange) -> Snapshot | None:
        """See `QuotaStore`."""
        row, now = self._rows.get(key), self._clock.time()
        return None if row is None else self._keep(key, apply_change(row, now, change), now)

    def _keep(self, key: QuotaKey, row: BudgetRow, now: float) -> Snapshot:
        self._rows[key] = row
        moment = self._clock.monotonic()
        return Snapshot(row=row, now=now, sent_at=moment, received_at=moment)
