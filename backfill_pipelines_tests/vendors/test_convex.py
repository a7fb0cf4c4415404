"""The client of Convex against a server that answers as a script says: what it sends, what it makes of any answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ConfigurationError, ErrorCategory
from backfill_pipelines.vendors.convex import Convex, Outcome, Page, Patch, TableNames, connect
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, Received, ScriptedServer, answer, reset
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
KEY = SecretStr("prod:mellow-heron-105|a-key-of-the-test")
NAMES = TableNames()
SERVER_ERROR = "[Request ID: 5a4db0c5e0b14c0f] Server Error"
CONFIGURATION, TRANSIENT, DATA = ErrorCategory.CONFIGURATION, ErrorCategory.TRANSIENT, ErrorCategory.DATA


def scripted(
    question: Callable[[Convex], Awaitable[Answer]],
    *script: Behaviour,
    clock: InstantClock | None = None,
    names: TableNames = NAMES,
    **sizes: int,
) -> tuple[Answer | BackfillError, list[Received]]:
    """What came of it, an error of ours included, and the requests it took."""
    time = clock or InstantClock()

    async def asked(url: str) -> Answer:
        async with open_http_client() as http:
            convex = connect(
                http, url=url, deploy_key=KEY, names=names, retry_budget=RetryBudget(), clock=time, **sizes
            )
            return await question(convex)

    with ScriptedServer(*script) as server:
        try:
            result: Answer | BackfillError = asyncio.run(asked(server.url))
        except BackfillError as error:
            result = error
        return result, server.received


def success(value: Any) -> Behaviour:
    return answer(200, {"status": "success", "value": value})


def failure(message: str = "", data: Any = None, *, status: int = 200) -> Behaviour:
    body = {"status": "error", "errorMessage": f"{SERVER_ERROR}\n{message}" if message else SERVER_ERROR}
    return answer(status, body if data is None else {**body, "errorData": data})


def coded(code: str) -> Behaviour:
    return failure('Uncaught ConvexError: {"canary": 1}', {"backfill": 1.0, "code": code, "canary": "canary"})


def page_of(*clerk_ids: str, cursor: str = "end", done: bool = True) -> Behaviour:
    rows = [{"id": f"j57{each}", "clerkId": each, "fields": {"createdAt": 1.7e12}} for each in clerk_ids]
    return success({"version": 1.0, "rows": rows, "cursor": cursor, "isDone": done})


def outcomes(*each: str) -> Behaviour:
    return success({"version": 1.0, "outcomes": list(each)})


def renamed(*clerk_ids: str) -> list[Patch]:
    return [
        Patch(document_id=f"j57{each}", clerk_id=each, before={"firstName": "canary"}, after={"firstName": "canary 2"})
        for each in clerk_ids
    ]


async def all_pages(convex: Convex) -> list[Page]:
    return [page async for page in convex.pages()]


def asked_for(request: Received) -> dict[str, Any]:
    """What a function was asked for."""
    inner: dict[str, Any] = json.loads(request.body)["args"]["request"]
    return inner


def code_of(result: object) -> tuple[str, ErrorCategory]:
    assert isinstance(result, BackfillError), result
    shown = f"{result!r} {result} {result.__dict__!r} {result.__cause__!r}"
    assert "canary" not in shown
    assert KEY.get_secret_value() not in shown
    return result.code, result.category


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_page_is_asked_for_with_the_key_and_the_names() -> None:
    names = TableNames(table="members", index="by_identity", id_field="identity")
    result, [request] = scripted(all_pages, page_of("user_1"), names=names)
    assert isinstance(result, list)
    assert (request.method, request.path) == ("POST", "/api/query")
    assert request.headers["authorization"] == f"Convex {KEY.get_secret_value()}"
    assert json.loads(request.body) == {
        "path": "backfill:page",
        "args": {
            "version": 1,
            "request": {
                "table": "members",
                "index": "by_identity",
                "idField": "identity",
                "cursor": None,
                "rows": 4000,
            },
        },
        "format": "json",
    }


def test_patches_are_sent_with_what_is_expected_and_what_is_wanted() -> None:
    patch = Patch(document_id="j57a", clerk_id="user_1", before={"username": None}, after={"createdAt": 5})
    result, [request] = scripted(lambda convex: convex.patch([patch]), outcomes("patched"))
    assert result == [Outcome.PATCHED]
    assert (request.method, request.path) == ("POST", "/api/mutation")
    body = json.loads(request.body)
    assert (body["path"], body["format"]) == ("backfill:patch", "json")
    assert body["args"]["request"] == {
        "table": "users",
        "index": "by_clerkId",
        "idField": "clerkId",
        "patches": [{"id": "j57a", "clerkId": "user_1", "before": {"username": None}, "after": {"createdAt": 5}}],
    }


def test_nothing_to_write_is_no_call() -> None:
    result, requests = scripted(lambda convex: convex.patch([]), outcomes())
    assert (result, requests) == ([], [])


def test_a_check_reads_one_row_and_a_check_of_writing_writes_none() -> None:
    result, [request] = scripted(lambda convex: convex.check(), page_of("user_1", cursor="a", done=False))
    assert result is None
    assert asked_for(request)["rows"] == 1
    result, [request] = scripted(lambda convex: convex.check_writing(), outcomes())
    assert result is None
    assert asked_for(request)["patches"] == []


# --- pages ------------------------------------------------------------------------------------------------------------


def test_pages_follow_one_another_until_the_end_whatever_their_length() -> None:
    result, requests = scripted(
        all_pages,
        page_of("user_1", "user_2", cursor="a", done=False),
        page_of(cursor="b", done=False),
        page_of("user_3", cursor="c", done=True),
    )
    assert isinstance(result, list)
    assert [[row.clerk_id for row in page.rows] for page in result] == [["user_1", "user_2"], [], ["user_3"]]
    assert [page.following for page in result] == ["a", "b", None]
    assert [asked_for(each)["cursor"] for each in requests] == [None, "a", "b"]
    assert repr(result[0].rows[0].fields["createdAt"]) == "1700000000000"


def test_rows_that_cannot_be_read_are_counted_and_the_others_go_on() -> None:
    rows = [{"id": "a", "clerkId": 5, "fields": {}}, {"id": "b", "clerkId": "user_1", "fields": {"email": 5}}, 7]
    good = {"id": "c", "clerkId": "user_2", "fields": {}}
    result, _ = scripted(all_pages, success({"version": 1, "rows": [*rows, good], "cursor": "x", "isDone": True}))
    assert isinstance(result, list)
    assert [(each.id, each.code) for each in result[0].rejected] == [
        ("a", "malformed_clerk_id"),
        ("b", "malformed_email"),
        (None, "not_an_object"),
    ]
    assert [row.document_id for row in result[0].rows] == ["c"]


def test_a_page_that_is_too_much_is_halved_and_stays_so() -> None:
    result, requests = scripted(
        all_pages,
        coded("too_much"),
        failure("Uncaught Error: Too many bytes read in a single function execution (limit: 16777216 bytes)."),
        page_of("user_1", cursor="a", done=False),
        page_of("user_2"),
        rows_a_page=100,
    )
    assert isinstance(result, list)
    assert [(asked_for(each)["cursor"], asked_for(each)["rows"]) for each in requests] == [
        (None, 100),
        (None, 50),
        (None, 25),
        ("a", 25),
    ]


def test_a_single_row_that_is_too_much_is_said() -> None:
    result, requests = scripted(all_pages, coded("too_much"), rows_a_page=5)
    assert code_of(result) == ("convex_limit", DATA)
    assert [asked_for(each)["rows"] for each in requests] == [5, 2, 1]


def test_the_same_place_again_and_again_is_said() -> None:
    result, requests = scripted(
        all_pages, page_of("user_1", cursor="a", done=False), page_of("user_2", cursor="a", done=False)
    )
    assert code_of(result) == ("cursor_stuck", DATA)
    assert len(requests) == 2


# --- patches ----------------------------------------------------------------------------------------------------------


def test_more_than_a_batch_is_several_and_outcomes_keep_their_order() -> None:
    result, requests = scripted(
        lambda convex: convex.patch(renamed("a", "b", "c", "d", "e")),
        outcomes("patched", "already"),
        outcomes("conflict", "missing"),
        outcomes("duplicate_rows"),
        rows_a_batch=2,
    )
    assert result == ["patched", "already", "conflict", "missing", "duplicate_rows"]
    assert [[each["clerkId"] for each in asked_for(request)["patches"]] for request in requests] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]


def test_a_batch_that_is_too_much_is_halved_and_none_is_left_out() -> None:
    async def write(convex: Convex) -> list[Outcome]:
        return [*await convex.patch(renamed("a", "b", "c", "d")), *await convex.patch(renamed("e", "f", "g"))]

    result, requests = scripted(
        write,
        coded("too_much"),
        outcomes("patched", "conflict"),
        outcomes("other_clerk_id", "patched"),
        outcomes("patched", "patched"),
        outcomes("refused_by_schema"),
    )
    assert result == [
        "patched",
        "conflict",
        "other_clerk_id",
        "patched",
        "patched",
        "patched",
        "refused_by_schema",
    ]
    assert [[each["clerkId"] for each in asked_for(request)["patches"]] for request in requests] == [
        ["a", "b", "c", "d"],
        ["a", "b"],
        ["c", "d"],
        ["e", "f"],
        ["g"],
    ]


TOO_MUCH = [
    "Too many reads in a single function execution (limit: 4096). Consider using smaller limits in your queries",
    "Too many documents read in a single function execution (limit: 32000).",
    "Too many bytes read in a single function execution (limit: 16777216 bytes).",
    "Too many writes in a single function execution (limit: 16000)",
    "Too many bytes written in a single function execution (limit: 16777216 bytes)",
    "Function execution timed out (maximum duration: 1s)",
    "Your request timed out performing too many system operations.",
    "Arguments for backfill.js:patch are too large (17.96 MiB, limit: 16 MiB)",
    "Function backfill.js:page return value is too large (17.5 MiB, limit: 16 MiB)",
    "Function backfill.js:page return value invalid: Array length is too long (9154 > maximum length 8192)",
    "JavaScript execution ran out of memory (maximum memory usage: 64 MB)",
]


@pytest.mark.parametrize("text", TOO_MUCH)
@pytest.mark.parametrize("status", [200, 560])
def test_every_limit_is_known_by_its_wording(text: str, status: int) -> None:
    result, _ = scripted(
        lambda convex: convex.patch(renamed("a", "b")),
        failure(f"Uncaught Error: {text}", status=status),
        outcomes("patched"),
        outcomes("patched"),
    )
    assert result == ["patched", "patched"]


@pytest.mark.parametrize(
    ("status", "code"), [(400, "TooManyReads"), (400, "TooManyBytesWritten"), (413, "RequestTooLarge")]
)
def test_a_limit_that_is_told_by_status_is_known_as_well(status: int, code: str) -> None:
    result, _ = scripted(
        lambda convex: convex.patch(renamed("a", "b")),
        answer(status, {"code": code, "message": "canary"}),
        outcomes("patched"),
        outcomes("patched"),
    )
    assert result == ["patched", "patched"]


def test_a_batch_that_others_keep_breaking_is_halved_in_the_end() -> None:
    conflict = answer(503, {"code": "OptimisticConcurrencyControlFailure", "message": "canary"})
    result, requests = scripted(
        lambda convex: convex.patch(renamed("a", "b")), *[conflict] * 5, outcomes("patched"), outcomes("patched")
    )
    assert result == ["patched", "patched"]
    assert len(requests) == 7
    result, _ = scripted(lambda convex: convex.patch(renamed("a")), conflict)
    assert code_of(result) == ("write_conflicts", TRANSIENT)


def test_a_lost_answer_is_asked_for_again() -> None:
    result, requests = scripted(lambda convex: convex.patch(renamed("a")), reset, outcomes("already"))
    assert result == [Outcome.ALREADY]
    assert requests[0].body == requests[1].body


def test_refusals_for_being_one_too_many_are_waited_out_with_jitter() -> None:
    clock = InstantClock()
    busy = answer(429, {"code": "TooManyConcurrentRequests", "message": "canary"})
    result, requests = scripted(
        lambda convex: convex.patch(renamed("a")), *[busy] * 6, outcomes("patched"), clock=clock
    )
    assert result == [Outcome.PATCHED]
    assert len(requests) == 7
    assert len(set(clock.slept)) == 6


# --- failures ---------------------------------------------------------------------------------------------------------

NOT_FOUND = "Could not find public function for 'backfill:page'. Did you forget to run `npx convex dev`?"
NOT_PERMITTED = "You do not have permission to perform this operation (deployment:functions:runInternalQueries)."


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (failure(NOT_FOUND), ("functions_not_deployed", CONFIGURATION)),
        (failure("Could not find function for 'backfill:page'."), ("functions_not_deployed", CONFIGURATION)),
        (answer(404, {"code": "FunctionPathNotFound", "message": "x"}), ("functions_not_deployed", CONFIGURATION)),
        (failure(NOT_PERMITTED), ("missing_permission", CONFIGURATION)),
        (answer(403, {"code": "OperationNotPermitted", "message": "canary"}), ("missing_permission", CONFIGURATION)),
        (answer(403, {"code": "Unauthorized", "message": "canary"}), ("missing_permission", CONFIGURATION)),
        (answer(401, {"code": "BadAdminKey", "message": "canary"}), ("deploy_key_refused", CONFIGURATION)),
        (answer(401, b"<html>canary</html>"), ("deploy_key_refused", CONFIGURATION)),
        (answer(403, {"code": "BadDeployKey", "message": "canary"}), ("deploy_key_refused", CONFIGURATION)),
        (answer(400, {"code": "InvalidHeaderFailure", "message": "x"}), ("invalid_deploy_key", CONFIGURATION)),
        (answer(404, {"code": "InstanceNotFound", "message": "canary"}), ("unknown_deployment", CONFIGURATION)),
        (answer(404, b"<html>canary</html>"), ("unknown_deployment", CONFIGURATION)),
        (answer(200, {"hello": "canary"}), ("unknown_deployment", CONFIGURATION)),
        (answer(200, []), ("unknown_deployment", CONFIGURATION)),
        (answer(308, b"", {"Location": "https://canary.example"}), ("unknown_deployment", CONFIGURATION)),
        (failure("Cannot run functions while this deployment is paused."), ("deployment_paused", CONFIGURATION)),
        (coded("missing_table"), ("missing_table", CONFIGURATION)),
        (coded("missing_index"), ("missing_index", CONFIGURATION)),
        (coded("index_not_ready"), ("index_not_ready", TRANSIENT)),
        (coded("cursor_refused"), ("cursor_refused", DATA)),
        (coded("other_version"), ("functions_of_another_version", CONFIGURATION)),
        (coded("bad_request"), ("functions_of_another_version", CONFIGURATION)),
        (coded("a_code_of_the_future"), ("functions_of_another_version", CONFIGURATION)),
        (
            failure('ArgumentValidationError: Object contains extra field `request`. Object: {name: "canary"}'),
            ("functions_of_another_version", CONFIGURATION),
        ),
        (
            failure("Trying to execute backfill.js:page as Query, but it is defined as Mutation."),
            ("functions_of_another_version", CONFIGURATION),
        ),
        (answer(400, {"code": "BadJsonBody", "message": "canary"}), ("rejected_request", DATA)),
        (answer(500, {"code": "InternalServerError", "message": "canary"}), ("vendor_unavailable", TRANSIENT)),
        (answer(503, {"code": "ExpiredInQueue", "message": "canary"}), ("vendor_unavailable", TRANSIENT)),
        (answer(200, b"<html>canary</html>"), ("malformed_response", TRANSIENT)),
        (reset, ("deployment_unreachable", TRANSIENT)),
    ],
)
def test_a_failure_is_told_by_its_cause_and_holds_no_value(
    behaviour: Behaviour, expected: tuple[str, ErrorCategory]
) -> None:
    result, _ = scripted(all_pages, behaviour)
    assert code_of(result) == expected


def test_a_failure_of_the_function_may_come_with_560() -> None:
    result, _ = scripted(all_pages, failure(NOT_FOUND, status=560))
    assert code_of(result) == ("functions_not_deployed", CONFIGURATION)


def test_how_to_deploy_is_said() -> None:
    result, _ = scripted(all_pages, failure(NOT_FOUND))
    assert "backfill convex install DIR" in str(result)
    assert "npx convex deploy" in str(result)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"updated": 1},
        {"rows": [], "cursor": "x", "isDone": True},
        {"version": 2, "rows": [], "cursor": "x", "isDone": True},
        {"version": 1, "rows": {}, "cursor": "x", "isDone": True},
        {"version": 1, "rows": [], "cursor": None, "isDone": True},
        {"version": 1, "rows": [], "cursor": "x"},
    ],
)
def test_a_page_of_another_form_is_a_function_of_another_version(value: Any) -> None:
    result, _ = scripted(all_pages, success(value))
    assert code_of(result) == ("functions_of_another_version", CONFIGURATION)


@pytest.mark.parametrize(
    "value",
    [
        None,
        ["patched"],
        {"updated": 1},
        {"outcomes": ["patched"]},
        {"version": 2, "outcomes": ["patched"]},
        {"version": 1, "outcomes": []},
        {"version": 1, "outcomes": ["patched", "patched"]},
        {"version": 1, "outcomes": ["overwritten"]},
        {"version": 1, "outcomes": [{"outcome": "patched"}]},
    ],
)
def test_outcomes_of_another_form_are_a_function_of_another_version(value: Any) -> None:
    result, _ = scripted(lambda convex: convex.patch(renamed("a")), success(value))
    assert code_of(result) == ("functions_of_another_version", CONFIGURATION)


# --- a deployment that hides why --------------------------------------------------------------------------------------


def test_a_hidden_failure_of_a_function_that_never_answered_is_looked_at_with_one_row() -> None:
    result, requests = scripted(all_pages, failure())
    assert code_of(result) == ("convex_function_failed", CONFIGURATION)
    assert [asked_for(each)["rows"] for each in requests] == [4000, 1]
    for hint in ("backfill convex install DIR", "permissions", "5a4db0c5e0b14c0f"):
        assert hint in str(result)


def test_a_hidden_failure_that_one_row_does_not_have_was_one_of_size() -> None:
    result, requests = scripted(
        all_pages, failure(), page_of("user_1", cursor="a", done=False), failure(), page_of("user_2")
    )
    assert isinstance(result, list)
    assert [asked_for(each)["rows"] for each in requests] == [4000, 1, 2000, 1000]


def test_a_hidden_failure_of_a_single_row_is_a_matter_of_that_row() -> None:
    async def write(convex: Convex) -> list[Outcome]:
        return [*await convex.patch(renamed("a", "b")), *await convex.patch(renamed("c", "d"))]

    result, requests = scripted(write, outcomes("patched", "patched"), failure("Uncaught Error: canary"))
    assert code_of(result) == ("convex_function_failed", DATA)
    assert [len(asked_for(each)["patches"]) for each in requests] == [2, 2, 1]


# --- the key ----------------------------------------------------------------------------------------------------------


def refused_before_any_call(key: str, url: str = "https://mellow-heron-105.convex.cloud") -> str:
    async def connected() -> None:
        async with open_http_client() as http:
            connect(
                http,
                url=url,
                deploy_key=SecretStr(key),
                names=NAMES,
                retry_budget=RetryBudget(),
                clock=InstantClock(),
            )

    with pytest.raises(ConfigurationError) as refused:
        asyncio.run(connected())
    assert key not in str(refused.value) or not key
    return refused.value.code


@pytest.mark.parametrize(
    "key",
    [
        "",
        "sk_live_canary",
        "eyJhbGciOiJIUzI1NiJ9.canary",
        "prod:mellow-heron-105",
        "prod:mellow-heron-105|",
        "prod:mellow heron|key",
        "prod:mellow-heron-105|ke y",
        "preview:my-team:my-app|key",
        "project:my-team:my-app|key",
    ],
)
def test_what_is_no_deploy_key_is_told_before_any_call(key: str) -> None:
    assert refused_before_any_call(key) == "invalid_deploy_key"


def test_a_key_of_another_deployment_is_told_before_any_call() -> None:
    assert refused_before_any_call("prod:other-owl-7|key") == "deploy_key_of_another_deployment"
    assert refused_before_any_call(KEY.get_secret_value(), "https://x.convex.site") == "invalid_convex_url"
    assert refused_before_any_call(KEY.get_secret_value(), "mellow-heron-105.convex.cloud") == "invalid_base_url"


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("prod:mellow-heron-105|key", "https://mellow-heron-105.convex.cloud"),
        ("dev:mellow-heron-105|key==", "https://mellow-heron-105.eu-west-1.convex.cloud/"),
        ("prod:mellow-heron-105|key\n", "https://convex.my-app.example"),
        ("convex-self-hosted|0123abcd", "http://127.0.0.1:3210"),
        ("a-bare-name|0123abcd", "https://mellow-heron-105.convex.cloud"),
    ],
)
def test_a_key_that_may_fit_is_left_to_the_deployment(key: str, url: str) -> None:
    async def connected() -> Convex:
        async with open_http_client() as http:
            return connect(
                http, url=url, deploy_key=SecretStr(key), names=NAMES, retry_budget=RetryBudget(), clock=InstantClock()
            )

    assert isinstance(asyncio.run(connected()), Convex)
