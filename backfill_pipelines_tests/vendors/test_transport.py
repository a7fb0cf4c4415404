"""The door to a vendor, against real sockets that break in every way; only waiting is virtual."""

from __future__ import annotations

import asyncio
import gzip
import logging
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backfill_pipelines.errors import ConfigurationError, ErrorCategory, ParkedError, TransientError
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import (
    AmbiguousWriteError,
    ApiClient,
    ConflictError,
    ForbiddenError,
    MalformedResponseError,
    NotFoundError,
    RateLimitedError,
    RejectedRequestError,
    RetryBudget,
    RetryPolicy,
    UnauthorizedError,
    UnexpectedRedirectError,
    VendorError,
    VendorUnavailableError,
    open_http_client,
)
from backfill_pipelines_tests.vendors.scripted_server import (
    ScriptedServer,
    answer,
    close,
    hang,
    reset,
    trickle,
    truncate,
)
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

OK = answer(200, {"data": 1})
HTML = answer(200, b"<html>Down for maintenance</html>")


class Door:
    """A client on a server, with everything a test looks at."""

    def __init__(self, url: str, http: Any, **arguments: Any) -> None:
        self.clock = InstantClock()
        self.store = InMemoryQuotaStore(self.clock)
        quotas = arguments.pop("quotas", {"requests": (1000, 10.0)})
        self.quotas = {
            kind: Quota(
                vendor="acme",
                account="one",
                kind=kind,
                permits=permits,
                window_seconds=window,
                store=self.store,
                clock=self.clock,
            )
            for kind, (permits, window) in quotas.items()
        }
        defaults: dict[str, Any] = {
            "vendor": "acme",
            "base_url": url,
            "authorization": SecretStr("Bearer canary-token"),
            "http": http,
            "quotas": list(self.quotas.values()),
            "retry": RetryPolicy(),
            "retry_budget": RetryBudget(),
            "clock": self.clock,
            "jitter": lambda: 0.999,
        }
        self.api = ApiClient(**defaults | arguments)


@asynccontextmanager
async def door(server: ScriptedServer | str, **arguments: Any) -> AsyncIterator[Door]:
    async with open_http_client() as http:
        made = Door(server if isinstance(server, str) else server.url, http, **arguments)
        yield made
        for quota in made.quotas.values():
            await quota.aclose()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks were left behind: {left}"


def calls(server: ScriptedServer, use: Callable[[Door], Awaitable[Any]], **arguments: Any) -> Any:
    """Run one use of the door; returns its result, or the error it raised."""

    async def main() -> Any:
        async with door(server, **arguments) as opened:
            try:
                return await use(opened)
            except (VendorError, ParkedError) as error:
                return error

    return asyncio.run(main())


def read(opened: Door) -> Awaitable[Any]:
    return opened.api.get("/things")


def write(opened: Door) -> Awaitable[Any]:
    return opened.api.post("/things", json={"name": "Kim"}, idempotent=False)


# The ordinary way


def test_a_request_carries_path_parameters_body_and_headers() -> None:
    with ScriptedServer(OK) as server:

        async def use(opened: Door) -> None:
            assert await opened.api.get("things/1", params={"page": 2, "tag": ["a", "b"]}) == {"data": 1}
            for method in ("post", "put", "patch", "delete"):
                await getattr(opened.api, method)("/things", json={"a": "é"}, idempotent=True)

        calls(server, use, headers={"Version": "7"}, base_url=f"{server.url}/api/")
        got, *others = server.received
    assert (got.method, got.path, got.body) == ("GET", "/api/things/1?page=2&tag=a&tag=b", b"")
    assert got.headers["authorization"] == "Bearer canary-token"
    assert got.headers["version"] == "7"
    assert [one.method for one in others] == ["POST", "PUT", "PATCH", "DELETE"]
    assert {(one.body, one.headers["content-type"]) for one in others} == {('{"a":"é"}'.encode(), "application/json")}


def test_a_success_without_a_body_is_none_for_a_write_and_204() -> None:
    with ScriptedServer(answer(200), answer(204)) as server:
        assert calls(server, write) is None
        assert calls(server, read) is None


def test_control_characters_and_halves_of_emoji_inside_strings_are_read() -> None:
    with ScriptedServer(answer(200, b'{"text": "a\x01b\\u0000\\ud83d"}')) as server:
        assert calls(server, read) == {"text": "a\x01b\x00\ufffd"}


def test_hundreds_of_requests_in_flight_at_once_on_a_real_web_server() -> None:
    async def everyone(request: Request) -> Response:
        """Answers when all have come, so nothing below the door may queue; sets a cookie that must not come back."""
        arrived.append(request)
        if len(arrived) == 300:
            complete.set()
        try:
            await asyncio.wait_for(complete.wait(), timeout=20)
        except TimeoutError:
            return Response(status_code=404)
        return Response(
            gzip.compress(JSONResponse({"number": request.query_params["number"]}).body),
            headers={"content-encoding": "gzip", "content-type": "application/json", "set-cookie": "session=other"},
        )

    arrived: list[Request] = []
    complete = asyncio.Event()
    with web_server(Starlette(routes=[Route("/things", everyone)])) as url:

        async def main() -> None:
            async with door(url, quotas={}) as opened:
                bodies = await asyncio.gather(
                    *(opened.api.get("/things", params={"number": number}) for number in range(300))
                )
                assert bodies == [{"number": str(number)} for number in range(300)]
                await opened.api.get("/things", params={"number": 1})
                assert "cookie" not in arrived[-1].headers

        asyncio.run(main())


@contextmanager
def web_server(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        # By name: a cookie jar takes no cookie from an address.
        yield f"http://localhost:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


# Failures that pass


@pytest.mark.parametrize(
    "fault",
    [reset, close, truncate, HTML, answer(200), answer(200, b'{"data": ['), *map(answer, (408, 500, 502, 503, 504))],
    ids=["reset", "close", "truncated", "html", "empty", "half", "408", "500", "502", "503", "504"],
)
def test_a_read_that_fails_is_tried_again(fault: Any) -> None:
    with ScriptedServer(fault, fault, OK) as server:
        assert calls(server, read) == {"data": 1}
        assert len(server.received) == 3


def test_an_idempotent_write_that_fails_is_tried_again() -> None:
    with ScriptedServer(reset, answer(503), OK) as server:
        assert calls(server, lambda opened: opened.api.put("/things/1", json={}, idempotent=True)) == {"data": 1}


def test_waits_grow_and_every_attempt_asks_the_quota() -> None:
    with ScriptedServer(answer(500)) as server:

        async def use(opened: Door) -> None:
            with pytest.raises(VendorUnavailableError):
                await opened.api.get("/things")
            assert opened.quotas["requests"].row.next_slot_at == pytest.approx(opened.clock.time(), abs=1)
            assert [wait for wait in opened.clock.slept if wait > 0.5] == pytest.approx([0.999, 1.998, 3.996, 7.992])

        calls(server, use)
        assert len(server.received) == 5


def test_the_waits_of_one_request_are_bounded_together() -> None:
    with ScriptedServer(answer(503, headers={"Retry-After": "50"})) as server:

        async def use(opened: Door) -> None:
            with pytest.raises(VendorUnavailableError):
                await opened.api.get("/things")
            assert sum(opened.clock.slept) < 120

        calls(server, use)
        assert len(server.received) == 3


def test_a_storm_of_retries_is_stopped_by_the_budget() -> None:
    with ScriptedServer(answer(503)) as server:

        async def use(opened: Door) -> None:
            results = await asyncio.gather(*(opened.api.get("/things") for _ in range(100)), return_exceptions=True)
            assert {result.code for result in results if isinstance(result, VendorError)} == {"vendor_unavailable"}
            assert len(results) == 100

        calls(server, use)
        assert 100 < len(server.received) <= 100 + 10 + 20


def test_nobody_listening_is_one_clear_error_and_safe_to_repeat_for_a_write() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def main() -> None:
        async with door(f"http://127.0.0.1:{port}") as opened:
            with pytest.raises(VendorUnavailableError) as caught:
                await write(opened)
            assert caught.value.status is None
            assert "no connection" in str(caught.value)
            assert len([wait for wait in opened.clock.slept if wait > 0.5]) == 4

    asyncio.run(main())


def test_a_body_that_trickles_is_bounded() -> None:
    with ScriptedServer(trickle) as server:
        error = calls(server, read, response_seconds=0.2, retry=RetryPolicy(attempts=1))
    assert isinstance(error, VendorUnavailableError)
    assert "no answer in time" in str(error)


# Writes whose answer is lost


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
@pytest.mark.parametrize(
    "fault",
    [reset, close, truncate, hang, HTML, *map(answer, (408, 500, 502, 503))],
    ids=["reset", "close", "truncated", "hang", "html", "408", "500", "502", "503"],
)
def test_a_write_whose_answer_is_lost_is_not_sent_again(method: str, fault: Any) -> None:
    with ScriptedServer(OK, fault, OK) as server:

        async def use(opened: Door) -> Any:
            await opened.api.get("/things")  # the fault then hits a connection that was kept, where libraries repeat
            if fault is hang:
                opened.api._response_seconds = 0.1
            return await getattr(opened.api, method)("/things", json={"name": "Kim"}, idempotent=False)

        error = calls(server, use)
        assert isinstance(error, AmbiguousWriteError)
        assert (error.code, error.category) == ("ambiguous_write", ErrorCategory.TRANSIENT)
        assert len(server.received) == 2


def test_a_write_that_the_vendor_says_it_did_not_execute_is_sent_again() -> None:
    conflict = answer(409, {"code": "concurrent_write_conflict"})
    overloaded = answer(503, {"code": "RejectedBeforeExecution", "message": "busy"})
    with ScriptedServer(conflict, overloaded, answer(429, headers={"Retry-After": "1"}), OK) as server:
        codes = {"concurrent_write_conflict", "rejected_before_execution"}
        assert calls(server, write, not_executed_codes=codes) == {"data": 1}
    with ScriptedServer(conflict) as server:
        assert isinstance(calls(server, write), ConflictError)
        assert len(server.received) == 1


# Refusals


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Retry-After": "8"}, None),
        ({"Retry-After": "Tue, 23 May 2023 14:42:09 GMT", "Date": "Tue, 23 May 2023 14:42:01 GMT"}, None),
        ({}, {"error": "rate_limited", "retry_after": 8}),
        ({"Retry-After": "1"}, {"error": "rate_limited", "retry_after": 8.0}),
        ({"X-RateLimit-Reset": "1684852929", "Date": "Tue, 23 May 2023 14:42:01 GMT"}, b"<html>Too many</html>"),
    ],
    ids=["seconds", "date", "body", "body_longer", "laravel"],
)
def test_a_429_waits_as_long_as_the_vendor_asks(headers: dict[str, str], body: Any) -> None:
    with ScriptedServer(answer(429, body, headers), OK) as server:

        async def use(opened: Door) -> None:
            assert await write(opened) == {"data": 1}
            assert 8.0 <= opened.clock.passed < 8.1
            assert opened.quotas["requests"].row.reduced_permits == 500

        calls(server, use)
        assert len(server.received) == 2


def test_a_429_without_a_quota_waits_in_the_request() -> None:
    with ScriptedServer(answer(429, headers={"Retry-After": "8"}), answer(429), OK) as server:

        async def use(opened: Door) -> None:
            await opened.api.get("/things")
            assert opened.clock.slept == [8.0, pytest.approx(1.998)]

        calls(server, use, quotas={})


def test_refusals_do_not_spend_the_retry_budget_but_end_too() -> None:
    with ScriptedServer(answer(429, {"code": "rate_limit_exceeded"}, {"Retry-After": "1"})) as server:
        budget = RetryBudget(floor=1, share=0)
        error = calls(server, read, retry_budget=budget)
        assert isinstance(error, RateLimitedError)
        assert (error.code, error.category, error.vendor_code) == (
            "rate_limited",
            ErrorCategory.TRANSIENT,
            "rate_limit_exceeded",
        )
        assert len(server.received) == 11
        assert budget.spend()


def test_an_absurd_wait_fails_at_once() -> None:
    with ScriptedServer(answer(429, headers={"Retry-After": "86400"})) as server:

        async def use(opened: Door) -> None:
            with pytest.raises(RateLimitedError):
                await opened.api.get("/things")
            assert opened.clock.passed == 0

        calls(server, use)


def test_an_absurd_wait_parks_where_the_vendor_has_a_daily_budget() -> None:
    with ScriptedServer(answer(429, headers={"Retry-After": "7200"})) as server:

        async def use(opened: Door) -> None:
            with pytest.raises(ParkedError) as caught:
                await opened.api.get("/things")
            assert caught.value.wake_at.timestamp() == pytest.approx(opened.clock.time() + 7200)

        calls(server, use, quotas={"day": (1000, 86_400.0), "requests": (100, 10.0)})
        assert len(server.received) == 1


# Budgets and headers


def test_the_headers_of_a_response_reach_the_budgets_they_speak_of() -> None:
    headers = {
        "X-RateLimit-Max": "200",
        "X-RateLimit-Remaining": "199",
        "X-RateLimit-Interval-Milliseconds": "5000",
        "X-RateLimit-Limit-Daily": "300000",
        "X-RateLimit-Daily-Remaining": "100000",
    }
    with ScriptedServer(answer(200, {}, headers)) as server:

        async def use(opened: Door) -> None:
            await opened.api.get("/things")
            requests, day = opened.quotas["requests"].row, opened.quotas["day"].row
            assert (requests.permits, requests.window_seconds) == (200, 5.0)
            assert (day.permits, day.used) == (300_000, 200_000)

        calls(server, use, quotas={"requests": (100, 10.0), "day": (200_000, 86_400.0)})


def test_a_paced_budget_that_fails_gives_the_days_permit_back() -> None:
    with ScriptedServer(OK) as server:

        async def use(opened: Door) -> None:
            await opened.quotas["requests"].aclose()
            with pytest.raises(RuntimeError):
                await opened.api.get("/things")
            await opened.quotas["day"].aclose()
            assert opened.store._rows[opened.quotas["day"].key].used == 0

        calls(server, use, quotas={"requests": (100, 10.0), "day": (1000, 86_400.0)})


def test_a_reply_is_not_lost_when_the_budget_cannot_be_updated(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(answer(200, {"data": 1}, {"X-RateLimit-Limit": "7"})) as server:

        async def use(opened: Door) -> Any:
            async def unavailable(*_: Any) -> None:
                raise TransientError("quota_unavailable", "The store is down.")

            opened.store.change = unavailable  # type: ignore[method-assign]
            return await write(opened)

        assert calls(server, use) == {"data": 1}
    assert "quota_unavailable" in caplog.text


def test_cancelling_a_request_leaves_nothing_behind() -> None:
    with ScriptedServer(hang) as server:

        async def use(opened: Door) -> None:
            task = asyncio.ensure_future(opened.api.get("/things"))
            while not server.received:  # noqa: ASYNC110 - another thread's list
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        calls(server, use)


# Outcomes and their errors


@pytest.mark.parametrize(
    ("status", "kind", "code", "category"),
    [
        (301, UnexpectedRedirectError, "unexpected_redirect", ErrorCategory.CONFIGURATION),
        (400, RejectedRequestError, "rejected_request", ErrorCategory.DATA),
        (401, UnauthorizedError, "unauthorized", ErrorCategory.CONFIGURATION),
        (403, ForbiddenError, "forbidden", ErrorCategory.CONFIGURATION),
        (404, NotFoundError, "not_found", ErrorCategory.DATA),
        (409, ConflictError, "conflict", ErrorCategory.DATA),
        (418, RejectedRequestError, "rejected_request", ErrorCategory.DATA),
        (422, RejectedRequestError, "rejected_request", ErrorCategory.DATA),
        (500, VendorUnavailableError, "vendor_unavailable", ErrorCategory.TRANSIENT),
        (560, RejectedRequestError, "rejected_request", ErrorCategory.DATA),
        (599, VendorUnavailableError, "vendor_unavailable", ErrorCategory.TRANSIENT),
        (700, MalformedResponseError, "malformed_response", ErrorCategory.TRANSIENT),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[VendorError], code: str, category: ErrorCategory) -> None:
    headers = {"X-Request-Id": "req-7", "Location": "https://elsewhere.test/"}
    with ScriptedServer(answer(status, {"code": "SomeCode", "message": "no"}, headers)) as server:
        error = calls(server, read, retry=RetryPolicy(attempts=1))
    assert type(error) is kind
    assert (error.code, error.category) == (code, category)
    assert (error.vendor, error.status, error.vendor_code, error.request_id) == ("acme", status, "some_code", "req-7")
    assert f"HTTP {status}, code some_code, request req-7" in str(error)
    assert error.body == {"code": "SomeCode", "message": "no"}


def test_a_website_instead_of_json_is_a_malformed_response() -> None:
    with ScriptedServer(HTML) as server:
        error = calls(server, read)
        assert isinstance(error, MalformedResponseError)
        assert len(server.received) == 5


def test_an_error_survives_pickling_without_its_body() -> None:
    error = NotFoundError(vendor="acme", status=404, vendor_code="gone", request_id="r", body={"email": "canary"})
    copy = pickle.loads(pickle.dumps(error))
    assert b"canary" not in pickle.dumps(error)
    assert (type(copy), str(copy), copy.status, copy.body) == (NotFoundError, str(error), 404, None)


@pytest.mark.parametrize(
    "base_url", ["ftp://a.test", "no url", "", "https://", "https://kim:canary@a.test", "https://a.test?x=1"]
)
def test_a_base_url_that_is_none_is_a_configuration_error(base_url: str) -> None:
    with ScriptedServer(OK) as server, pytest.raises(ConfigurationError, match="registry") as caught:
        calls(server, read, base_url=base_url)
    assert caught.value.code == "invalid_base_url"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("token", ["Bearer canary\n", "Bearer canary…"])
def test_a_token_with_a_line_break_is_a_configuration_error(token: str) -> None:
    with ScriptedServer(OK) as server, pytest.raises(ConfigurationError) as caught:
        calls(server, read, authorization=SecretStr(token))
    assert caught.value.code == "invalid_token"
    assert "canary" not in str(caught.value)


def everything_said_by(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "fault",
    [
        *(
            answer(
                status,
                {
                    "code": "canary@example.com",
                    "message": "canary",
                    "error": "canary 5550100",
                    "errors": [{"code": "x canary"}],
                },
                {"X-Request-Id": "canary@example.com", "Location": "https://canary.test/", "Set-Cookie": "canary=1"},
            )
            for status in (200, 301, 400, 401, 403, 404, 409, 422, 429, 500)
        ),
        answer(200, b"canary"),
        answer(400, b"canary"),
        reset,
        close,
        truncate,
        hang,
    ],
)
def test_nothing_personal_is_in_any_error_or_log_record(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "httpx", "httpcore", "aiohttp", "aiohttp.client", "asyncio", "backfill_pipelines"):
        caplog.set_level(logging.DEBUG, logger=name)
    with ScriptedServer(fault) as server:

        async def use(opened: Door) -> str:
            said = ""
            for idempotent in (True, False):
                try:
                    await opened.api.post(
                        "/leads/canary@example.com",
                        params={"email": "canary@example.com"},
                        json={"email": "canary@example.com"},
                        idempotent=idempotent,
                    )
                except VendorError as error:
                    said += everything_said_by(error)
            return said + repr(opened.api) + str(vars(opened.api))

        said = calls(server, use, response_seconds=0.2, headers={}, retry=RetryPolicy(attempts=2, refusals=1))
    assert "canary" not in said.lower()
    records = [str(vars(record)) + record.getMessage() for record in caplog.records]
    assert not [record for record in records if "canary" in record.lower()]
