"""What is read is proven: the order of switching, asking who we are, reading and asking again, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.vendors.email_bison import ForeignRecordError, connect, requests_quota
from backfill_pipelines.vendors.email_bison_workspace import AdminReader, OwnTokenReader
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, UnauthorizedError, open_http_client
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, ScriptedServer, answer
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

OURS, THEIRS = 17, 18
SWITCHED = answer(200, {"data": {"name": "Umber"}})
FOREIGN = answer(403, {"data": {"message": "The api key does not match the workspace the record is on."}})


def users(workspace_id: int) -> Behaviour:
    return answer(200, {"data": {"team": {"id": workspace_id}}})


def page(row_id: int) -> Behaviour:
    return answer(200, {"data": [{"id": row_id}], "meta": {"total": 1, "last_page": 1}})


def admin(work: Callable[[AdminReader], Awaitable[Any]], *script: Behaviour) -> tuple[Any, list[str]]:
    """What came of the work, an error of ours included, and the paths it asked for."""
    return _run(lambda bison: work(AdminReader(bison, workspace_id=OURS)), *script)


def own(work: Callable[[OwnTokenReader], Awaitable[Any]], *script: Behaviour) -> tuple[Any, list[str]]:
    return _run(lambda bison: work(OwnTokenReader(bison, workspace_id=OURS, partition_key="umber")), *script)


def _run(work: Callable[[Any], Awaitable[Any]], *script: Behaviour) -> tuple[Any, list[str]]:
    async def asked(url: str) -> Any:
        clock = InstantClock()
        quota = requests_quota("bison.test", per_minute=None, store=InMemoryQuotaStore(clock), clock=clock)
        token = SecretStr("1|x")
        async with open_http_client() as http, quota:
            bison = connect(http, base_url=url, token=token, quota=quota, retry_budget=RetryBudget(), clock=clock)
            try:
                return await work(bison)
            except BackfillError as error:
                return error

    with ScriptedServer(*script) as server:
        result = asyncio.run(asked(server.url))
        return result, [each.path.partition("?")[0].rpartition("/")[2] for each in server.received]


async def read(reader: AdminReader | OwnTokenReader) -> int:
    return int((await reader.page("/replies", number=1)).rows[0]["id"])


# --- a token of its own -----------------------------------------------------------------------------------------------


def test_an_own_token_is_proven_by_asking_and_reads_without_asking() -> None:
    async def work(reader: OwnTokenReader) -> int:
        await reader.prove()
        await reader.record("/leads/7")
        return await read(reader)

    found, paths = own(work, users(OURS), answer(200, {"data": {"id": 7}}), page(5))
    assert (found, paths) == (5, ["users", "7", "replies"])


def test_an_own_token_of_another_workspace_is_told_with_both_ids_and_the_client() -> None:
    found, _ = own(lambda reader: reader.prove(), users(THEIRS))
    assert (found.code, found.category) == ("wrong_workspace", ErrorCategory.CONFIGURATION)
    assert {"umber", "18", "17"} <= set(str(found).replace(",", "").replace(";", "").split())


# --- the admin's ------------------------------------------------------------------------------------------------------


def test_the_check_after_one_answer_is_the_check_before_the_next() -> None:
    async def work(reader: AdminReader) -> list[Any]:
        return [await read(reader), await read(reader), await reader.record("/leads/7"), await reader.prove()]

    lead = answer(200, {"data": {"id": 7}})
    script = [SWITCHED, users(OURS), page(1), users(OURS), page(2), users(OURS), lead, users(OURS), users(OURS)]
    found, paths = admin(work, *script)
    assert found == [1, 2, {"id": 7}, None]
    assert paths == ["switch-workspace", "users", "replies", "users", "replies", "users", "7", "users", "users"]


def test_what_was_read_between_two_different_answers_is_thrown_away() -> None:
    thrown = [page(666), users(THEIRS), SWITCHED, users(OURS)]
    found, paths = admin(read, SWITCHED, users(OURS), *thrown, page(5), users(OURS))
    assert found == 5
    assert paths == ["switch-workspace", "users", "replies", "users"] * 2


def test_a_switch_that_has_not_worked_is_made_again_before_anything_is_read() -> None:
    found, paths = admin(read, SWITCHED, users(THEIRS), SWITCHED, users(OURS), page(5), users(OURS))
    assert found == 5
    assert paths == ["switch-workspace", "users", "switch-workspace", "users", "replies", "users"]


def test_a_refusal_counts_only_between_two_answers_that_name_the_workspace() -> None:
    async def lead(reader: AdminReader) -> Any:
        return await reader.record("/leads/7")

    found, _ = admin(lead, SWITCHED, users(OURS), FOREIGN, users(OURS))
    assert isinstance(found, ForeignRecordError)
    again = [SWITCHED, users(OURS), answer(200, {"data": {"id": 7}}), users(OURS)]
    found, _ = admin(lead, SWITCHED, users(OURS), FOREIGN, users(THEIRS), *again)
    assert found == {"id": 7}


def test_after_a_refusal_the_next_read_needs_no_switch() -> None:
    async def work(reader: AdminReader) -> int:
        with pytest.raises(ForeignRecordError):
            await reader.record("/leads/7")
        return await read(reader)

    found, paths = admin(work, SWITCHED, users(OURS), FOREIGN, users(OURS), page(5), users(OURS))
    assert found == 5
    assert paths.count("switch-workspace") == 1


def test_after_an_answer_that_was_lost_the_next_read_switches_again() -> None:
    async def work(reader: AdminReader) -> int:
        with pytest.raises(UnauthorizedError):
            await read(reader)
        return await read(reader)

    lost = answer(401, {"message": "Unauthenticated."})
    found, paths = admin(work, SWITCHED, users(OURS), page(1), lost, SWITCHED, users(OURS), page(5), users(OURS))
    assert found == 5
    assert paths.count("switch-workspace") == 2


@pytest.mark.parametrize("unproven", [[page(666), users(THEIRS)], []])
def test_five_answers_in_a_row_that_could_not_be_proven_are_enough(unproven: list[Behaviour]) -> None:
    round_of = [SWITCHED, users(OURS), *unproven] if unproven else [SWITCHED, users(THEIRS)]
    found, paths = admin(read, *(round_of * 5), page(667))
    assert (found.code, found.category) == ("workspace_contended", ErrorCategory.TRANSIENT)
    assert "mint-token" in str(found)
    assert len(paths) == len(round_of * 5)


def test_four_in_a_row_are_not_however_often_they_come() -> None:
    thrown = [page(666), users(THEIRS), SWITCHED, users(OURS)] * 4

    async def work(reader: AdminReader) -> list[int]:
        return [await read(reader), await read(reader)]

    proven = [page(5), users(OURS)]
    found, _ = admin(work, SWITCHED, users(OURS), *thrown, *proven, *thrown, *proven)
    assert found == [5, 5]
