"""Asking the Attio client one thing, against the stateful fake or against a script.

Belongs here: connecting with a clock that does not wait. Does not belong here: data of the tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_access import connect, quotas
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.sandbox.attio_rig import AttioRig
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, Received, ScriptedServer, answer
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
Question = Callable[[Attio], Awaitable[Answer]]
TOKEN = SecretStr("a-token-of-the-test")
RECORD_ID = "0a1b2c3d-0000-4000-8000-0000000000aa"
CREATED_AT = "2024-05-06T07:08:09.123456789Z"


def ask_at(
    url: str, question: Question[Answer], *, token: SecretStr = TOKEN, clock: InstantClock | None = None
) -> Answer:
    """Ask one thing and close everything again."""

    async def asked() -> Answer:
        own = clock or InstantClock()
        budgets = quotas("workspace-of-the-test", store=InMemoryQuotaStore(own), clock=own)
        async with open_http_client() as http, budgets.read, budgets.write:
            attio = connect(http, api_key=token, quotas=budgets, retry_budget=RetryBudget(), clock=own, base_url=url)
            return await question(attio)

    return asyncio.run(asked())


def ask(rig: AttioRig, question: Question[Answer], *, clock: InstantClock | None = None) -> Answer:
    """Ask the fake."""
    return ask_at(rig.url, question, token=SecretStr(rig.seeded.token), clock=clock)


def scripted(question: Question[Answer], *script: Behaviour) -> tuple[Answer | BackfillError, list[Received]]:
    """What came of it, an error of ours included, and the requests it took."""
    with ScriptedServer(*script) as server:
        try:
            result: Answer | BackfillError = ask_at(server.url, question)
        except BackfillError as error:
            result = error
        return result, server.received


def refusal(status: int, code: str, message: str = "No.") -> Behaviour:
    """An error of the vendor's form."""
    kind = "auth_error" if status in (401, 403) else "invalid_request_error"
    return answer(status, {"status_code": status, "type": kind, "code": code, "message": message})


def value(kind: str = "text", *, actor: str = "api-token", **fields: Any) -> dict[str, Any]:
    """A value as it stands in a record."""
    by = {"type": actor, "id": None if actor == "system" else "token-1"}
    return {
        "active_from": CREATED_AT,
        "active_until": None,
        "created_by_actor": by,
        "attribute_type": kind,
        **fields,
    }


def address(text: str, **fields: Any) -> dict[str, Any]:
    """An address as it stands in a person."""
    return value("email-address", email_address=text.lower(), original_email_address=text, **fields)


def record(values: Mapping[str, Any], /, *, record_id: str = RECORD_ID, **fields: Any) -> dict[str, Any]:
    """A record of an answer."""
    return {
        "id": {"workspace_id": "w", "object_id": "o", "record_id": record_id},
        "created_at": CREATED_AT,
        "web_url": "https://app.example.test/x",
        "values": values,
        **fields,
    }


def sent(request: Received) -> Any:
    """The body of a request."""
    return json.loads(request.body)
