"""The small readers of the transport: JSON, headers, error codes, the retry policy."""

from __future__ import annotations

import json
import string
from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.vendors.budget import RateLimitState
from backfill_pipelines.vendors.json_body import UndecodableBodyError, decode_json
from backfill_pipelines.vendors.rate_limit_headers import RateLimits, rate_limits, retry_after_seconds
from backfill_pipelines.vendors.retry import RetryBudget, RetryPolicy
from backfill_pipelines.vendors.vendor_errors import request_id, vendor_error_code

NOW = 1_684_852_921.0  # Tue, 23 May 2023 14:42:01 GMT

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(document=documents)
def test_what_json_can_say_is_read_alike_by_both_decoders(document: Any) -> None:
    assert decode_json(orjson.dumps(document)) == document
    assert decode_json(json.dumps(document).encode() + b"\n") == document


@given(content=st.binary() | st.text().map(str.encode))
def test_any_bytes_either_decode_to_what_can_be_encoded_again_or_are_no_json(content: bytes) -> None:
    with suppress(UndecodableBodyError):
        decoded = decode_json(content)
        json.dumps(decoded).encode()
        json.dumps(decoded, ensure_ascii=False).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"NaN", b'{"a": Infinity}', b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(UndecodableBodyError) as caught:
        decode_json(content)
    assert str(caught.value) == "the body is no JSON"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, None, None),
        ({"Retry-After": "8"}, None, 8.0),
        ({"Retry-After": " 2.5 "}, None, 2.5),
        ({"Retry-After": "-3"}, None, 0.0),
        ({"Retry-After": "Tue, 23 May 2023 14:42:09 GMT"}, None, 8.0),
        ({"Retry-After": "Tue, 23 May 2023 14:42:09 GMT", "Date": "Tue, 23 May 2023 14:42:08 GMT"}, None, 1.0),
        ({"Retry-After": "Tue, 23 May 2023 14:41:00 GMT"}, None, 0.0),
        ({"Retry-After": "Tue, 23 May 2023 14:42:09 -0000"}, None, 8.0),
        ({"Retry-After": "soon"}, None, None),
        ({"Retry-After": "nan"}, None, None),
        ({"Retry-After": "inf"}, None, None),
        ({"Retry-After": "Tue, 99 Foo 2023"}, {"retry_after": 3}, 3.0),
        ({}, {"error": "rate_limited", "retry_after": 8}, 8.0),
        ({}, {"retry_after": "1.5"}, 1.5),
        ({"Retry-After": "9"}, {"retry_after": 8}, 9.0),
        ({}, {"retry_after": True}, None),
        ({}, {"retry_after": None}, None),
        ({}, {"retry_after": 10**400}, None),
        ({}, ["retry_after"], None),
    ],
)
def test_the_wait_that_a_vendor_asks_for_in_each_of_its_forms(
    headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    assert retry_after_seconds(httpx.Headers(headers), body, NOW) == seconds


@given(
    name=st.sampled_from(["retry-after", "date", "x-ratelimit-reset", "x-ratelimit-limit"]), value=st.text(max_size=40)
)
def test_no_header_breaks_the_reader(name: str, value: str) -> None:
    seconds = retry_after_seconds({name: value}, None, NOW)
    assert seconds is None or seconds >= 0
    assert rate_limits({name: value}, NOW) is not None


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, RateLimits()),
        (
            {"X-RateLimit-Limit": "3000", "X-RateLimit-Remaining": "2999"},
            RateLimits(window=RateLimitState(limit=3000, remaining=2999)),
        ),
        (
            {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1684852951"},
            RateLimits(window=RateLimitState(limit=60, remaining=0, reset_after=30.0)),
        ),
        ({"X-RateLimit-Reset": "12"}, RateLimits(window=RateLimitState(reset_after=12.0))),
        (
            {
                "x-ratelimit-max": "100",
                "x-ratelimit-remaining": "7",
                "x-ratelimit-interval-milliseconds": "10000",
                "x-ratelimit-limit-daily": "200000",
                "x-ratelimit-daily-remaining": "199000",
            },
            RateLimits(
                window=RateLimitState(limit=100, remaining=7, window_seconds=10.0),
                day=RateLimitState(limit=200_000, remaining=199_000),
            ),
        ),
        ({"X-RateLimit-Limit": "100, 100;w=10", "X-RateLimit-Remaining": "-1"}, RateLimits()),
    ],
)
def test_the_limits_in_the_headers_of_laravel_and_gohighlevel(headers: dict[str, str], limits: RateLimits) -> None:
    assert rate_limits(httpx.Headers(headers), NOW) == limits


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"code": "uniqueness_conflict", "type": "invalid_request_error"}, "uniqueness_conflict"),
        ({"errors": [{"code": "form_param_value_invalid"}]}, "form_param_value_invalid"),
        ({"code": "OptimisticConcurrencyControlFailure"}, "optimistic_concurrency_control_failure"),
        ({"error": "rate_limited", "retry_after": 8}, "rate_limited"),
        ({"error": "Unauthorized", "statusCode": 401}, "unauthorized"),
        ({"error": {"code": "E_GONE"}}, "e_gone"),
        ({"error": "Unprocessable Entity", "type": "validation"}, "validation"),
        ({"error": "kim@example.com"}, None),
        ({"code": "tel5550100"}, None),
        ({"code": 17}, None),
        ({"code": "x" * 65}, None),
        ({"errors": []}, None),
        ({"errors": {"email": ["taken"]}}, None),
        (["code"], None),
        (None, None),
    ],
)
def test_a_vendors_code_is_taken_only_where_it_is_surely_a_code(body: Any, code: str | None) -> None:
    assert vendor_error_code(body) == code


@given(value=st.text(alphabet=string.printable))
def test_a_request_id_is_an_id_or_nothing(value: str) -> None:
    found = request_id({"x-request-id": value})
    assert found is None or (found == value and not set(found) & set("@ \n?&"))


@given(failures=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_waits_grow_with_the_failures_and_stay_below_the_maximum(failures: int, jitter: float) -> None:
    policy = RetryPolicy()
    assert 0 <= policy.delay(failures, jitter) <= min(policy.maximum_delay_seconds, 0.5 * 2.0 ** min(failures, 60))


@given(requests=st.lists(st.booleans(), max_size=300))
def test_retries_stay_below_their_share_and_the_floor(requests: list[bool]) -> None:
    budget, retries = RetryBudget(), 0
    for made, failed in enumerate(requests, start=1):
        budget.earn()
        while failed and budget.spend():
            retries += 1
        assert retries <= 0.2 * made + 10 + 1e-6
