"""The shared budgets in a real Postgres: the statements agree with the arithmetic, also when many use a row at once."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.vendors.budget import (
    BudgetChange,
    BudgetRow,
    Terms,
    apply_change,
    give_back,
    refuse,
    reserve_slots,
    slots_before,
    spacing,
    take,
)
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore, QuotaKey

KEY = QuotaKey(vendor="acme", account="one", kind="requests")
Answer = TypeVar("Answer")


def wait_for(operation: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(operation)


@pytest.fixture
def store(database: sqlalchemy.Engine) -> PostgresQuotaStore:
    return PostgresQuotaStore(database, SystemClock())


def put(engine: sqlalchemy.Engine, row: BudgetRow) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM backfill.quota"))
        connection.execute(
            text(
                "INSERT INTO backfill.quota (vendor, account, kind, permits, window_seconds, next_slot_at, "
                "reduced_permits, reduced_until, window_started_at, used) VALUES ('acme', 'one', 'requests', :permits, "
                ":window_seconds, :next_slot_at, :reduced_permits, :reduced_until, :window_started_at, :used)"
            ),
            asdict(row),
        )


def stored(engine: sqlalchemy.Engine) -> BudgetRow:
    names = ", ".join(BudgetRow.__dataclass_fields__)
    with engine.connect() as connection:
        return BudgetRow(**connection.execute(text(f"SELECT {names} FROM backfill.quota")).one()._mapping)


def database_time(engine: sqlalchemy.Engine) -> float:
    with engine.connect() as connection:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


# Relative to now, and far enough from it that the time between the test's clock and the statement's cannot matter.
moments = st.sampled_from([-90_000.0, -5000.0, -70.0, -30.0, 30.0, 70.0, 5000.0])


@st.composite
def rows(draw: st.DrawFn) -> BudgetRow:
    """A row in which moments are relative to now."""
    reduced = draw(st.none() | st.integers(1, 300))
    return BudgetRow(
        permits=draw(st.integers(1, 300)),
        window_seconds=draw(st.sampled_from([1.0, 10.0, 60.0, 86_400.0])),
        next_slot_at=draw(moments),
        reduced_permits=reduced,
        reduced_until=None if reduced is None else draw(moments),
        window_started_at=draw(st.none() | moments.filter(lambda moment: moment < 0)),
        used=draw(st.integers(0, 400)),
    )


def at(row: BudgetRow, now: float) -> BudgetRow:
    return replace(
        row,
        next_slot_at=now + row.next_slot_at,
        reduced_until=None if row.reduced_until is None else now + row.reduced_until,
        window_started_at=None if row.window_started_at is None else now + row.window_started_at,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    relative=rows(),
    terms=st.builds(
        Terms, reserve=st.sampled_from([0.0, 0.07, 0.1]), ceiling=st.none() | st.integers(1, 200), slack=st.just(0.015)
    ),
    count=st.integers(1, 10),
    lead=st.sampled_from([0.0, 0.02]),
    change=st.builds(
        BudgetChange,
        permits=st.none() | st.integers(1, 500),
        reduced_permits=st.none() | st.integers(1, 500),
        reduced_seconds=st.sampled_from([5.0, 500.0]),
        used=st.none() | st.integers(0, 500),
        recount=st.booleans(),
        window_age=st.none() | st.sampled_from([0.0, 50.0]),
    ),
)
def test_every_operation_does_to_the_row_what_the_arithmetic_says(
    *, database: sqlalchemy.Engine, relative: BudgetRow, terms: Terms, count: int, lead: float, change: BudgetChange
) -> None:
    store = PostgresQuotaStore(database, SystemClock())
    row = at(relative, database_time(database))

    put(database, row)
    reservation = wait_for(store.reserve(KEY, count, terms, lead=lead))
    assert reservation is not None
    now = reservation.snapshot.now
    assert reservation.snapshot.row == stored(database)
    reserved = reserve_slots(row, now, count, terms, lead=lead)
    assert stored(database) == replace(reserved, next_slot_at=pytest.approx(reserved.next_slot_at, rel=0, abs=1e-5))
    assert reservation.gap == pytest.approx(spacing(row, now, terms))

    put(database, row)
    taken = wait_for(store.take(KEY, count, terms))
    assert taken is not None
    expected, granted = take(row, taken.snapshot.now, count, terms)
    assert (taken.snapshot.row, taken.granted) == (expected, granted)
    assert stored(database) == expected

    put(database, row)
    refused = wait_for(store.refuse(KEY, 4.0))
    assert refused is not None
    assert refused.row == stored(database) == refuse(row, refused.now, 4.0)

    put(database, row)
    changed = wait_for(store.change(KEY, change))
    assert changed is not None
    assert changed.row == stored(database) == apply_change(row, changed.now, change)

    put(database, row)
    started = row.window_started_at or 0.0
    wait_for(store.give_back(KEY, count, window_started_at=started))
    assert stored(database) == give_back(row, count, started)


def test_opening_makes_the_row_and_later_sets_it_to_what_is_configured(
    database: sqlalchemy.Engine, store: PostgresQuotaStore
) -> None:
    wait_for(store.open(KEY, permits=100, window_seconds=10.0))
    wait_for(store.reserve(KEY, 1, Terms(), lead=0.0))
    before = stored(database)
    wait_for(store.open(KEY, permits=100, window_seconds=10.0))
    assert stored(database) == before
    wait_for(store.open(KEY, permits=50, window_seconds=1.0))
    assert stored(database) == replace(before, permits=50, window_seconds=1.0)


def test_without_a_row_every_operation_says_so(store: PostgresQuotaStore) -> None:
    assert wait_for(store.reserve(KEY, 1, Terms(), lead=0.0)) is None
    assert wait_for(store.take(KEY, 1, Terms())) is None
    assert wait_for(store.refuse(KEY, 1.0)) is None
    assert wait_for(store.change(KEY, BudgetChange(permits=1))) is None


def test_threads_that_reserve_at_once_get_slots_of_their_own_a_spacing_apart(store: PostgresQuotaStore) -> None:
    async def reserve_often() -> list[float]:
        slots: list[float] = []

        async def one() -> None:
            for count in (1, 10, 3, 7, 2):
                reservation = await store.reserve(KEY, count, Terms(), lead=0.0)
                assert reservation is not None
                slots.extend(slots_before(reservation.snapshot.row.next_slot_at, count, reservation.gap))

        await store.open(KEY, permits=100, window_seconds=10.0)
        await asyncio.gather(*(one() for _ in range(20)))
        return sorted(slots)

    slots = wait_for(reserve_often())
    assert len(slots) == 20 * 23
    assert min(later - earlier for earlier, later in pairwise(slots)) >= 0.1015 - 1e-5


@pytest.mark.parametrize("operation", ["reserve", "take", "refuse"])
def test_the_clock_is_read_after_the_wait_for_the_row(
    database: sqlalchemy.Engine, store: PostgresQuotaStore, operation: str
) -> None:
    """Else a slot handed out after a long wait lies in the past, and another process may have been given it too."""
    operations: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "reserve": lambda: store.reserve(KEY, 1, Terms(), lead=0.0),
        "take": lambda: store.take(KEY, 1, Terms()),
        "refuse": lambda: store.refuse(KEY, 1.0),
    }
    wait_for(store.open(KEY, permits=100, window_seconds=10.0))
    with ThreadPoolExecutor(1) as pool, database.connect() as holder:
        holder.execute(text("UPDATE backfill.quota SET used = 0"))
        waiting = pool.submit(lambda: wait_for(operations[operation]()))
        with database.connect() as observer:
            blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not observer.execute(blocked).scalar_one():
                assert not waiting.done()
        released_at = holder.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8")).scalar_one()
        holder.commit()
        answer = waiting.result()
    assert getattr(answer, "snapshot", answer).now >= released_at


def test_threads_that_take_at_once_take_exactly_the_budget(
    database: sqlalchemy.Engine, store: PostgresQuotaStore
) -> None:
    async def take_often() -> int:
        await store.open(KEY, permits=333, window_seconds=86_400.0)
        taken = await asyncio.gather(*(store.take(KEY, 10, Terms(reserve=0.1)) for _ in range(60)))
        return sum(answer.granted for answer in taken if answer is not None)

    assert wait_for(take_often()) == 299
    assert stored(database).used == 299


def acquire_in_a_process(url: str, permits: int, answers: Any) -> None:
    """A process of its own with workers of its own; reports the slots it was given, on the database's clock."""

    class Recording(PostgresQuotaStore):
        async def reserve(self, key: QuotaKey, count: int, terms: Terms, *, lead: float) -> Any:
            reservation = await super().reserve(key, count, terms, lead=lead)
            if reservation is not None:
                slots.extend(slots_before(reservation.snapshot.row.next_slot_at, count, reservation.gap))
            return reservation

    async def acquire_all() -> None:
        async with Quota(
            vendor="acme",
            account="one",
            kind="requests",
            permits=5000,
            window_seconds=10.0,
            store=store,
            clock=SystemClock(),
        ) as quota:
            await asyncio.gather(*(quota.acquire() for _ in range(permits)))

    slots: list[float] = []
    store = Recording(create_database_engine(SecretStr(url)), SystemClock())
    asyncio.run(acquire_all())
    answers.put(slots)


def test_processes_share_one_budget(database_url: SecretStr) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=acquire_in_a_process, args=(database_url.get_secret_value(), 150, answers))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    slots = sorted(slot for _ in processes for slot in answers.get(timeout=60))
    for process in processes:
        process.join()
    assert len(slots) >= 450  # late permits are dropped and leased anew
    assert min(later - earlier for earlier, later in pairwise(slots)) >= 10 / 5000


def test_accounting_does_not_wait_for_the_disk_and_nothing_else_is_affected(
    database: sqlalchemy.Engine, store: PostgresQuotaStore
) -> None:
    """The server tells at the moment of the commit, in a deferred trigger; the connection's next user is durable."""
    with database.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(
            "CREATE TABLE seen (setting text);"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            "  INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON backfill.quota DEFERRABLE INITIALLY DEFERRED"
            "  FOR EACH ROW EXECUTE FUNCTION note()"
        )
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = on'))
    database.dispose()
    wait_for(store.open(KEY, permits=100, window_seconds=10.0))
    for operation in (store.reserve(KEY, 1, Terms(), lead=0.0), store.take(KEY, 1, Terms()), store.refuse(KEY, 1.0)):
        wait_for(operation)
    with database.connect() as connection:
        assert connection.execute(text("SELECT setting FROM seen")).scalars().all() == ["off"] * 3
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


# When things break


def test_a_database_without_the_table_says_what_to_run(database: sqlalchemy.Engine, store: PostgresQuotaStore) -> None:
    with database.begin() as connection:
        connection.execute(text("DROP TABLE backfill.quota"))
    with pytest.raises(ConfigurationError) as caught:
        wait_for(store.open(KEY, permits=1, window_seconds=1.0))
    assert caught.value.code == "quota_table_missing"
    assert "backfill db upgrade" in str(caught.value)


def test_an_unreachable_database_is_one_sentence_without_the_password() -> None:
    engine = create_database_engine(SecretStr("postgresql+psycopg://kim:canary-secret@127.0.0.1:1/canary"))
    with pytest.raises(TransientError) as caught:
        wait_for(PostgresQuotaStore(engine, SystemClock()).reserve(KEY, 1, Terms(), lead=0.0))
    assert caught.value.code == "quota_unavailable"
    assert "canary" not in repr(caught.value) + str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_both_stores_forget_nothing_of_the_protocol() -> None:
    names = {name for name in vars(InMemoryQuotaStore) if not name.startswith("_")}
    assert names == {name for name in vars(PostgresQuotaStore) if not name.startswith("_")}
