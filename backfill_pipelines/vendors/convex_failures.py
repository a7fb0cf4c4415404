"""Why a call of a Convex function failed, and what is said about it.

Belongs here: recognizing a failure by codes and fixed patterns, the error of each. Does not belong here: calling, and
asking for less at once (`convex.py`).

A failed function is answered with HTTP 200 (or 560) and a text that may hold values of rows, so that nothing of it ever
gets into an error of ours. Production deployments may hide the text; our own functions therefore throw codes as data,
which is never hidden. Sources: get-convex/convex-backend, crates/udf/src/validation.rs, crates/database (reads.rs,
writes.rs), crates/application/src/redaction.rs; docs.convex.dev/production/state/limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError, TransientError
from backfill_pipelines.vendors.convex_records import TableNames
from backfill_pipelines.vendors.vendor_errors import UnexpectedRedirectError, VendorError

DEPLOY_COMMAND = "backfill convex install DIR (DIR is the project's convex folder), then npx convex deploy"
FUNCTION_FAILED = 560


class Failure(Enum):
    """Why a call failed."""

    TOO_MUCH = "too_much"
    """It was about too many rows: half of them may do."""
    CONTENDED = "contended"
    """Others wrote the same rows meanwhile, again and again: a smaller transaction meets fewer of them."""
    UNEXPLAINED = "unexplained"
    """The deployment does not say, or says something unheard of."""
    NOT_DEPLOYED = "not_deployed"
    NOT_PERMITTED = "not_permitted"
    OTHER_VERSION = "other_version"
    MISSING_TABLE = "missing_table"
    MISSING_INDEX = "missing_index"
    INDEX_NOT_READY = "index_not_ready"
    CURSOR_REFUSED = "cursor_refused"
    PAUSED = "paused"
    OTHER_DEPLOYMENT = "other_deployment"
    MALFORMED_KEY = "malformed_key"
    UNKNOWN_DEPLOYMENT = "unknown_deployment"


class FunctionFailedError(Exception):
    """Ends a call within this client; whoever makes the call decides what follows. `request_id`: the vendor's."""

    def __init__(self, failure: Failure, request_id: str | None = None) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.request_id = request_id


_OUR_CODES = {
    "other_version": Failure.OTHER_VERSION,
    # A request that the functions do not understand was made for others.
    "bad_request": Failure.OTHER_VERSION,
    "missing_table": Failure.MISSING_TABLE,
    "missing_index": Failure.MISSING_INDEX,
    "index_not_ready": Failure.INDEX_NOT_READY,
    "cursor_refused": Failure.CURSOR_REFUSED,
    "too_much": Failure.TOO_MUCH,
}
_TEXTS: tuple[tuple[re.Pattern[str], Failure], ...] = (
    (re.compile(r"Could not find (public )?function for '"), Failure.NOT_DEPLOYED),
    (re.compile(r"You do not have permission to perform this operation"), Failure.NOT_PERMITTED),
    (re.compile(r"Cannot run functions while this deployment is|your deployments have been disabled"), Failure.PAUSED),
    (re.compile(r"ArgumentValidationError|Trying to execute \S+ as |ReturnsValidationError"), Failure.OTHER_VERSION),
    (re.compile(r"Too many (reads|writes|documents read|bytes (read|written)) in a single"), Failure.TOO_MUCH),
    (re.compile(r"Function execution timed out|timed out performing too many system operations"), Failure.TOO_MUCH),
    (
        re.compile(r"(are|is) too large \([\d.]+ \w+, limit|Array length is too long|ran out of memory"),
        Failure.TOO_MUCH,
    ),
)
"""Wordings of the vendor. Each is matched within the first lines, where no value of a row stands before it."""
_TEXT_EXAMINED = 2_000
_HTTP_CODES = {
    "too_many_reads": Failure.TOO_MUCH,
    "too_many_documents_read": Failure.TOO_MUCH,
    "too_many_bytes_read": Failure.TOO_MUCH,
    "too_many_writes": Failure.TOO_MUCH,
    "too_many_bytes_written": Failure.TOO_MUCH,
    "optimistic_concurrency_control_failure": Failure.CONTENDED,
    "function_path_not_found": Failure.NOT_DEPLOYED,
    "bad_deploy_key": Failure.OTHER_DEPLOYMENT,
    "bad_admin_key": Failure.OTHER_DEPLOYMENT,
    "invalid_admin_key": Failure.MALFORMED_KEY,
    "header_parse_failure": Failure.MALFORMED_KEY,
    "invalid_header_failure": Failure.MALFORMED_KEY,
}
_STATUSES = {
    401: Failure.OTHER_DEPLOYMENT,
    403: Failure.NOT_PERMITTED,
    404: Failure.UNKNOWN_DEPLOYMENT,
    413: Failure.TOO_MUCH,
}
_REQUEST_ID = re.compile(r"\[Request ID: ([0-9a-f]{6,32})\]")


def value_of(answer: Any) -> Any:
    """The value that a function returned. Raises FunctionFailedError."""
    status = answer.get("status") if isinstance(answer, dict) else None
    if status == "success":
        return answer.get("value")
    if status == "error":
        raise FunctionFailedError(*_explained(answer))
    raise FunctionFailedError(Failure.UNKNOWN_DEPLOYMENT)


def explained(error: VendorError) -> FunctionFailedError | None:
    """What an answer other than 200 says about the call; None where it says nothing but that the vendor is not well."""
    body = error.body
    if error.status == FUNCTION_FAILED and isinstance(body, dict) and body.get("status") == "error":
        return FunctionFailedError(*_explained(body))
    failure = _HTTP_CODES.get(error.vendor_code or "") or _STATUSES.get(error.status or 0)
    if isinstance(error, UnexpectedRedirectError):
        failure = Failure.UNKNOWN_DEPLOYMENT
    return None if failure is None else FunctionFailedError(failure, error.request_id)


def _explained(answer: dict[str, Any]) -> tuple[Failure, str | None]:
    data, text = answer.get("errorData"), answer.get("errorMessage")
    text = text[:_TEXT_EXAMINED] if isinstance(text, str) else ""
    named = _REQUEST_ID.match(text)
    request_id = named[1] if named else None
    if isinstance(data, dict) and "backfill" in data:
        # A code that is unknown here comes from functions that are newer.
        return _OUR_CODES.get(str(data.get("code")), Failure.OTHER_VERSION), request_id
    failure = next((each for pattern, each in _TEXTS if pattern.search(text)), Failure.UNEXPLAINED)
    return failure, request_id


def error_for(failed: FunctionFailedError, *, function: str, names: TableNames, proven: bool) -> BackfillError:
    """What a user is told. `proven`: the function has answered before, so that it is there and may be called."""
    if failed.failure is Failure.UNEXPLAINED:
        return _unexplained(function, failed.request_id, proven=proven)
    return _ERRORS[failed.failure](function, names)


def other_version(function: str) -> ConfigurationError:
    """What answers is not what this version of the pipelines needs."""
    return ConfigurationError(
        "functions_of_another_version",
        f"The Convex function {function} is not of the version that this program needs: update it with "
        f"{DEPLOY_COMMAND}.",
    )


def _unexplained(function: str, request_id: str | None, *, proven: bool) -> BackfillError:
    where = f"look up request {request_id} in the deployment's log" if request_id else "look at the deployment's log"
    if proven:
        return DataError(
            "convex_function_failed",
            f"The Convex function {function} fails even for a single row and the deployment does not say why: {where}.",
        )
    return ConfigurationError(
        "convex_function_failed",
        f"The Convex function {function} fails and the deployment hides why: deploy it ({DEPLOY_COMMAND}), give the "
        f"deploy key the permissions to run internal queries and mutations, or {where}.",
    )


_ERRORS: dict[Failure, Callable[[str, TableNames], BackfillError]] = {
    Failure.TOO_MUCH: lambda function, names: DataError(
        "convex_limit",
        f"Convex's limits of a transaction do not even allow one row of table {names.table} in {function}: look in the "
        "deployment's log for what makes a row so large or slow.",
    ),
    Failure.CONTENDED: lambda _, names: TransientError(
        "write_conflicts",
        f"Others write the same rows of Convex's table {names.table} all the time: run again when the app is quieter.",
    ),
    Failure.NOT_DEPLOYED: lambda function, _: ConfigurationError(
        "functions_not_deployed",
        f"The Convex deployment has no function {function}, or the deploy key is none of this deployment: run "
        f"{DEPLOY_COMMAND}, and check convex.url and convex.deploy_key in the registry.",
    ),
    Failure.NOT_PERMITTED: lambda function, _: ConfigurationError(
        "missing_permission",
        f"The Convex deploy key may not run {function}: make one with the permissions "
        "deployment:functions:runInternalQueries and deployment:functions:runInternalMutations in the Convex dashboard "
        "and set convex.deploy_key in the registry.",
    ),
    Failure.OTHER_VERSION: lambda function, _: other_version(function),
    Failure.MISSING_TABLE: lambda _, names: ConfigurationError(
        "missing_table",
        f"The Convex deployment has no table {names.table} with rows and an index {names.index}: check convex.table "
        "and convex.url in the registry.",
    ),
    Failure.MISSING_INDEX: lambda _, names: ConfigurationError(
        "missing_index",
        f"Table {names.table} in Convex has no index {names.index} that begins with {names.id_field}: add "
        f'.index("{names.index}", ["{names.id_field}"]) to its schema and deploy, or correct convex.index and '
        "convex.id_field in the registry.",
    ),
    Failure.INDEX_NOT_READY: lambda _, names: TransientError(
        "index_not_ready",
        f"Convex is still building index {names.index} of table {names.table}: run again when the dashboard shows it "
        "as ready.",
    ),
    Failure.CURSOR_REFUSED: lambda _, names: DataError(
        "cursor_refused",
        f"Convex does not accept the place at which reading table {names.table} was to go on: run again with --fresh "
        "to read it from the beginning.",
    ),
    Failure.PAUSED: lambda _function, _names: ConfigurationError(
        "deployment_paused",
        "The Convex deployment is paused or disabled: resume it in the settings of the Convex dashboard.",
    ),
    Failure.OTHER_DEPLOYMENT: lambda _function, _names: ConfigurationError(
        "deploy_key_refused",
        "The Convex deployment does not accept the deploy key: check that convex.deploy_key and convex.url in the "
        "registry belong to the same deployment.",
    ),
    Failure.MALFORMED_KEY: lambda _function, _names: ConfigurationError(
        "invalid_deploy_key",
        "Convex cannot read the deploy key: set convex.deploy_key in the registry to the whole key, as the Convex "
        "dashboard shows it.",
    ),
    Failure.UNKNOWN_DEPLOYMENT: lambda _function, _names: ConfigurationError(
        "unknown_deployment",
        "No Convex deployment answers at convex.url: set it in the registry to the deployment's URL, such as "
        "https://NAME.convex.cloud.",
    ),
}
