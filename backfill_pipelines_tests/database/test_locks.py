"""Advisory locks: one holder for a name, whoever and wherever it is, and free again whatever happens to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
from pydantic import SecretStr

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.errors import TransientError
from backfill_pipelines_tests.database.holders import wait_until

NAME = "backfill/client_leads/harbour-dental"
HOLDER = """
import sys
from pydantic import SecretStr
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.locks import AdvisoryLocks
locks = AdvisoryLocks(create_database_engine(SecretStr(sys.argv[1])), per_transaction=sys.argv[2] == "True")
print(locks.try_acquire(sys.argv[3]), flush=True)
sys.stdin.read()
"""

Open = Callable[[], AdvisoryLocks]


@pytest.fixture(params=[False, True], ids=["sessions", "transaction pooler"])
def per_transaction(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def open_locks(database_url: SecretStr, per_transaction: bool) -> Iterator[Open]:
    """Opens the locks of one more process: an engine of its own."""
    opened: list[tuple[AdvisoryLocks, sqlalchemy.Engine]] = []

    def another() -> AdvisoryLocks:
        engine = create_database_engine(database_url)
        opened.append((AdvisoryLocks(engine, per_transaction=per_transaction), engine))
        return opened[-1][0]

    yield another
    for locks, engine in opened:
        locks.close()
        engine.dispose()


def cut_connections(database: sqlalchemy.Engine) -> None:
    """End every session of the database but this one, as a server that restarts does."""
    with database.connect() as connection:
        connection.execute(
            sqlalchemy.text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def test_a_lock_has_one_holder_among_processes(open_locks: Open) -> None:
    ours, theirs = open_locks(), open_locks()
    assert ours.try_acquire(NAME)
    assert not theirs.try_acquire(NAME)
    assert theirs.try_acquire(NAME + "-2")
    ours.release(NAME)
    assert theirs.try_acquire(NAME)


def test_a_lock_has_one_holder_within_a_process(open_locks: Open) -> None:
    locks = open_locks()
    assert locks.try_acquire(NAME)
    assert not locks.try_acquire(NAME)
    locks.release(NAME)
    assert locks.try_acquire(NAME)


def test_of_many_threads_that_ask_at_once_one_gets_the_lock(open_locks: Open) -> None:
    locks = [open_locks() for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda number: locks[number % 4].try_acquire(NAME), range(16)))
    assert got.count(True) == 1


def test_giving_back_one_lock_leaves_the_others(open_locks: Open) -> None:
    ours, theirs = open_locks(), open_locks()
    for number in range(5):
        assert ours.try_acquire(f"{NAME}-{number}")
    ours.release(f"{NAME}-2")
    assert [theirs.try_acquire(f"{NAME}-{number}") for number in range(5)] == [False, False, True, False, False]
    for number in (0, 1, 3, 4):
        ours.require(f"{NAME}-{number}")


def test_giving_back_what_one_does_not_hold_is_nothing(open_locks: Open) -> None:
    ours, theirs = open_locks(), open_locks()
    assert theirs.try_acquire(NAME)
    ours.release(NAME)
    assert not ours.try_acquire(NAME)


def test_closing_gives_every_lock_back(open_locks: Open) -> None:
    ours, theirs = open_locks(), open_locks()
    assert ours.try_acquire(NAME)
    ours.close()
    wait_until(lambda: theirs.try_acquire(NAME))


def test_a_killed_holder_has_given_its_lock_back(
    open_locks: Open, database_url: SecretStr, per_transaction: bool
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url.get_secret_value(), str(per_transaction), NAME],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        locks = open_locks()
        assert not locks.try_acquire(NAME)
        holder.kill()
        wait_until(lambda: locks.try_acquire(NAME))


def test_a_lock_that_is_not_held_is_missed(open_locks: Open) -> None:
    with pytest.raises(TransientError) as caught:
        open_locks().require(NAME)
    assert caught.value.code == "lock_lost"


def test_a_lock_whose_connection_was_cut_is_missed_and_can_be_taken_again(
    open_locks: Open, database: sqlalchemy.Engine
) -> None:
    locks = open_locks()
    assert locks.try_acquire(NAME)
    locks.require(NAME)
    cut_connections(database)
    for _ in range(2):
        with pytest.raises(TransientError) as caught:
            locks.require(NAME)
        assert caught.value.code == "lock_lost"
    locks.release(NAME)
    assert locks.try_acquire(NAME)
    locks.require(NAME)


def test_giving_back_a_lock_that_was_lost_unnoticed_is_no_error(open_locks: Open, database: sqlalchemy.Engine) -> None:
    locks = open_locks()
    assert locks.try_acquire(NAME)
    cut_connections(database)
    locks.release(NAME)
    assert locks.try_acquire(NAME)


def test_another_lock_can_be_taken_after_the_connection_was_cut_and_the_lost_one_stays_lost(
    open_locks: Open, database: sqlalchemy.Engine
) -> None:
    locks = open_locks()
    assert locks.try_acquire(NAME)
    cut_connections(database)
    assert locks.try_acquire(NAME + "-2")
    locks.require(NAME + "-2")
    with pytest.raises(TransientError):
        locks.require(NAME)


def test_locks_leave_the_pool_to_the_work(database_url: SecretStr, per_transaction: bool) -> None:
    engine = create_database_engine(database_url)
    with AdvisoryLocks(engine, per_transaction=per_transaction) as locks:
        for number in range(25):
            assert locks.try_acquire(f"{NAME}-{number}")
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


@pytest.mark.parametrize(("port", "pooled"), [(6543, True), (5432, False)])
def test_supabases_port_for_transactions_tells_what_kind_of_lock_to_take(port: int, pooled: bool) -> None:
    engine = create_database_engine(SecretStr(f"postgresql://user:pw@pooler.example.com:{port}/postgres"))
    assert AdvisoryLocks(engine)._per_transaction is pooled  # the choice shows nowhere else
    engine.dispose()
