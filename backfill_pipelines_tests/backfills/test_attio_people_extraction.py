"""What `attio_people` lands of Attio: all people or those the users may be, resumable, and nobody who is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills import attio_people_source
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines.vendors import attio_queries
from backfill_pipelines_tests.backfills.attio_product import (
    ACME,
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    PEOPLE_QUERY,
    UNLIMITED,
    AttioProduct,
    Vendors,
    failure,
    running_vendors,
    serving,
    succeeded,
    unhurried,
    verified,
)

CROWD = build_attio_workspace(seed=21, key=ACME, other_people=2_600, other_companies=0)
"""More people than a handful of users are worth reading: six pages."""


class Opens(Protocol):
    def __call__(self, **given: object) -> AbstractContextManager[AttioProduct]: ...


@pytest.fixture
def opens(database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opens:
    unhurried(monkeypatch)
    return partial(serving, database, database_url, tmp_path, instance=EMPTY_CLERK)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def crowded() -> Iterator[Vendors]:
    with running_vendors(instance=EMPTY_CLERK, workspace=CROWD) as running:
        yield running


@pytest.fixture
def crowd(
    crowded: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    return crowded.product(database, database_url, tmp_path)


def queries(product: AttioProduct) -> int:
    return len(product.requests(PEOPLE_QUERY))


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read all people, however few users there are."""

    async def always(_: object) -> str:
        return "whole"

    monkeypatch.setattr(attio_people_source._Landing, "_way", always)


def stop_at_query(product: AttioProduct, nth: int) -> threading.Event:
    """Ask the run to stop while a query is answered."""
    stop = threading.Event()
    product.after(stop.set, path=PEOPLE_QUERY, nth=nth)
    return stop


def test_few_users_are_looked_up_among_many_people(crowd: AttioProduct) -> None:
    known, by_other, new, elsewhere = (
        crowd.user("known@example.com"),
        crowd.user("by@example.com", "OTHER@example.com"),
        crowd.user("new@example.com"),
        crowd.user("moved@example.com"),
    )
    records = [
        crowd.person("Known@Example.com"),
        crowd.person("other@example.com"),
        crowd.person("moved.away@example.com", user_id=elsewhere),
    ]
    run = crowd.run(steps=DRY_RUN)
    assert succeeded(run)
    # Whether there are more than 1,000; the addresses; the ids.
    assert (queries(crowd), crowd.landed()) == (3, set(records))
    rows = crowd.outcomes(run.id)
    assert {key: action for key, (action, _, _) in rows.items()} == {known: "update", by_other: "update", new: "create"}
    assert run.reasons == {"set_elsewhere": 1}
    done = crowd.run()
    assert verified(done)["passed"]
    assert (done.counts["applied"], len(crowd.people_with(new))) == (3, 1)


def test_many_users_are_matched_with_all_people_page_by_page(opens: Opens) -> None:
    with opens(workspace=CROWD) as product:
        users = [product.user(f"person{number}@example.com") for number in range(301)]
        run = product.run(steps=DRY_RUN)
        assert succeeded(run)
        # 8 look-ups, or 6 pages: one read tells, the first page comes alone, then four at once, twice.
        assert queries(product) == 1 + 1 + 4 + 4
        assert product.landed() == product.people().keys()
        assert run.counts["create"] == len(users)


def test_both_ways_come_to_the_same_plan(crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        user_id = crowd.user(f"person{number}@example.com", f"second{number}@example.com")
        if number % 3:
            crowd.person(f"second{number}@example.com", user_id=user_id if number % 2 else None)
    looked_up = crowd.run(steps=DRY_RUN)
    whole(monkeypatch)
    read = crowd.run(steps=DRY_RUN, fresh=True)
    assert (looked_up.details["attio_people_read"], read.details["attio_people_read"]) == (6, 2_606)
    assert looked_up.plan_hash == read.plan_hash


def test_a_workspace_with_a_low_limit_for_questions_is_asked_smaller_ones(opens: Opens) -> None:
    limits = UNLIMITED._replace(query_score=20)
    with opens(workspace=CROWD, limits=limits) as product:
        for number in range(40):
            product.user(f"person{number}@example.com")
            product.person(f"person{number}@example.com")
        run = product.run(steps=DRY_RUN)
        assert succeeded(run)
        assert (run.counts["update"], run.counts["create"]) == (40, 0)


def test_an_address_that_attio_takes_in_no_question_is_nobodys(opens: Opens) -> None:
    with opens(workspace=CROWD, questions=OpenQuestions(refuses_malformed_addresses=True)) as product:
        odd = product.user("ada@münchen.example", "ada@example.com")
        bad = product.user("not an address at all")
        run = product.run(steps=DRY_RUN)
        assert succeeded(run)
        assert product.outcomes(run.id)[bad] == ("reject", "planned", "invalid_email")
        assert product.outcomes(run.id)[odd][0] == "create"


def test_without_users_nobody_is_read(crowd: AttioProduct) -> None:
    run = crowd.run()
    assert succeeded(run)
    assert (run.counts["source"], queries(crowd), crowd.landed()) == (0, 1, set())


def test_without_people_everybody_is_created(opens: Opens) -> None:
    with opens(workspace=EMPTY_ATTIO) as product:
        product.user("ada@example.com")
        run = product.run()
        assert succeeded(run)
        assert (run.counts["create"], verified(run)["passed"]) == (1, True)


def test_who_is_gone_does_not_stay_landed(crowd: AttioProduct) -> None:
    crowd.user("ada@example.com")
    record_id = crowd.person("ada@example.com")
    assert succeeded(crowd.run(steps=DRY_RUN))
    assert crowd.landed() == {record_id}
    crowd.crm.delete("people", record_id)
    run = crowd.run(steps=DRY_RUN, fresh=True)
    assert (crowd.landed(), run.counts["create"]) == (set(), 1)


def test_a_person_that_cannot_be_read_is_told_of_and_matches_nobody(
    crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = crowd.user("ada@example.com")
    record_id = crowd.person("ada@example.com")
    with crowd.crm.lock:
        table = crowd.crm.tables["people"]
        record = table.records[record_id]
        blank = record.values["email_addresses"][0]._replace(content="")
        table.put(record, "email_addresses", [blank], now=crowd.crm.now())
    whole(monkeypatch)
    run = crowd.run()
    assert succeeded(run)
    assert ("unreadable_people" in run.warnings, run.details["unreadable_people"]) == (True, 1)
    assert len(crowd.people_with(ada)) == 1


# --- resuming --------------------------------------------------------------------------------------------------------


def user_pages(product: AttioProduct) -> int:
    return len(product.requests("/users", vendor="clerk"))


def test_a_resumed_run_reads_no_page_twice(crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(monkeypatch)
    crowd.user("ada@example.com")
    stopped = crowd.run(stop=stop_at_query(crowd, 3))
    assert failure(stopped) == (State.INTERRUPTED, "interrupted")
    assert len(crowd.landed()) == 2_500, "of the pages under way none is lost"
    asked, users_asked = queries(crowd), user_pages(crowd)
    done = crowd.run()
    assert succeeded(done)
    assert done.id == stopped.id
    assert crowd.landed() == crowd.people().keys()
    # The pages that were left, one look-up before the create, and all pages after the load.
    assert queries(crowd) - asked == 4 + 1 + (1 + 4 + 4)
    assert user_pages(crowd) == users_asked


def test_a_dry_run_goes_on_with_what_an_interrupted_run_has_landed(
    crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch)
    crowd.user("ada@example.com")
    stopped = crowd.run(stop=stop_at_query(crowd, 3))
    asked, users_asked = queries(crowd), user_pages(crowd)
    done = crowd.run(steps=DRY_RUN)
    assert succeeded(done)
    assert done.id != stopped.id
    assert (queries(crowd) - asked, user_pages(crowd) - users_asked) == (4, 0)
    assert crowd.landed() == crowd.people().keys()


def test_a_fresh_run_begins_anew(crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(monkeypatch)
    crowd.user("ada@example.com")
    assert not crowd.run(stop=stop_at_query(crowd, 3)).planned_at
    asked, users_asked = queries(crowd), user_pages(crowd)
    assert succeeded(crowd.run(steps=DRY_RUN, fresh=True))
    assert (queries(crowd) - asked, user_pages(crowd) - users_asked) == (1 + 4 + 4, 1)


@pytest.fixture
def one_key_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attio_queries, "KEYS_A_QUESTION", 1)
    monkeypatch.setattr(attio_people_source, "AT_ONCE", 1)


@pytest.mark.usefixtures("one_key_at_a_time")
def test_a_resumed_look_up_goes_on_behind_the_last_key(crowd: AttioProduct) -> None:
    users = [crowd.user(f"person{number}@example.com") for number in range(2)]
    records = {crowd.person("person0@example.com"), crowd.person("no@example.com", user_id=users[1])}
    # The probe and two addresses; the two ids are left.
    stopped = crowd.run(stop=stop_at_query(crowd, 3))
    assert failure(stopped) == (State.INTERRUPTED, "interrupted")
    assert (queries(crowd), len(crowd.landed())) == (3, 1)
    done = crowd.run(steps=DRY_RUN)
    assert succeeded(done)
    assert (queries(crowd), crowd.landed()) == (5, records)
    assert (done.counts["update"], done.reasons) == (1, {"set_elsewhere": 1})


@pytest.mark.usefixtures("one_key_at_a_time")
def test_a_place_among_users_that_were_read_again_is_worth_nothing(crowd: AttioProduct) -> None:
    gone, _ = crowd.user("person5@example.com"), crowd.user("person6@example.com")
    stopped = crowd.run(steps=DRY_RUN, stop=stop_at_query(crowd, 3))
    assert failure(stopped) == (State.INTERRUPTED, "interrupted")
    # The users are read again, and by now there is one whose address comes before the others.
    crowd.users.delete_users([gone])
    user_id = crowd.user("aaa@example.com")
    record_id = crowd.person("aaa@example.com")
    crowd.execute("UPDATE backfill.cursor SET position = position || '{\"account\": \"\"}' WHERE backfill = 'clerk'")
    done = crowd.run(steps=DRY_RUN)
    assert done.id == stopped.id
    assert crowd.outcomes(done.id)[user_id] == ("update", "planned", None)
    assert crowd.landed() == {record_id}


def test_a_reading_after_a_load_is_worth_nothing_after_the_next_part_of_it(
    crowd: AttioProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch)
    # On the first page, which is read again before the load goes on.
    for person in [each for each in CROWD.people[:20] if each.addresses][:6]:
        crowd.user(person.addresses[0])
    # Nine pages, one look-up before the writes, and the first page after them.
    stopped = crowd.run(max_records=2, stop=stop_at_query(crowd, 9 + 1 + 1))
    assert failure(stopped) == (State.INTERRUPTED, "interrupted")
    assert stopped.counts["applied"] == 2
    done = crowd.run(max_records=5)
    assert (done.id, done.counts["applied"]) == (stopped.id, 5)
    assert verified(done)["missing"] == 1


# --- what a long load tells ------------------------------------------------------------------------------------------


def test_progress_is_told_batch_by_batch(crowd: AttioProduct) -> None:
    for number in range(60):
        crowd.user(f"person{number}@example.com")
    told: list[tuple[str, int, int | None]] = []

    class Ear:
        def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
            assert partition_key == ACME
            told.append((step, done, total))

    assert succeeded(crowd.run(progress=Ear()))
    loads = [(done, total) for step, done, total in told if step == "load"]
    assert loads[-1] == (60, 60)
    assert {(25, 60), (50, 60), (35, 60), (10, 60)} & set(loads), "before the end, too"
    assert {total for _, total in loads} == {60}
    assert {step for step, _, _ in told} >= {"clerk users", "attio people", "plan", "load", "verify"}
