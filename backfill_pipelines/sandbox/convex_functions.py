"""What the two functions of `backfill.ts` mean, executed on the fake's tables.

Belongs here: a transaction with its limits, and the functions. Does not belong here: HTTP and who may call. It is the
same meaning as the TypeScript's, written a second time: `cases.json` of the tests is run against both.

Sources of limits and wording: docs.convex.dev/production/state/limits; get-convex/convex-backend, crates/database
(reads.rs, writes.rs) and crates/isolate.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from backfill_pipelines.sandbox.convex_data import FIELDS, TEXT_FIELDS, Document
from backfill_pipelines.sandbox.convex_state import ConvexDeploymentState, TableState

VERSION = 1
MOST_ROWS_A_PAGE = 8_192
MEBIBYTE = 2**20
_ABSENT = object()
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ADVICE = (
    "Consider using smaller limits in your queries, paginating your queries, or using indexed queries with a selective "
    "index range expressions."
)


class ConvexLimits(NamedTuple):
    """The limits of one transaction and of one deployment. `patches_in_time` is what takes a second of code."""

    documents_read: int = 32_000
    bytes_read: int = 16 * MEBIBYTE
    index_ranges: int = 4_096
    documents_written: int = 16_000
    bytes_written: int = 16 * MEBIBYTE
    array: int = 8_192
    body_bytes: int = 16 * MEBIBYTE + 2_000
    patches_in_time: int = 5_000
    slots: int = 16
    shortens_pages: bool = True
    """Whether a page that would read too much ends before it does (the vendor's way), or fails (convex-test's)."""


class FunctionError(Exception):
    """A function failed: the text that is shown unless it is hidden, and the data of a ConvexError, which always is."""

    def __init__(self, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class TooMuchError(FunctionError):
    """A limit that the function can catch and say in its own way."""


class Transaction:
    """Reads and writes of one function: counted, and committed together."""

    def __init__(self, table: TableState, limits: ConvexLimits) -> None:
        self.table = table
        self._limits = limits
        self._writes: dict[str, Document] = {}
        self._ranges = self._read = self._bytes_read = self._bytes_written = self._written = 0

    def open_range(self) -> None:
        """One range of an index, or one document by its id, is about to be read."""
        self._ranges += 1
        limit = self._limits.index_ranges
        if self._ranges > limit:
            raise TooMuchError(f"Too many reads in a single function execution (limit: {limit}). {_ADVICE}")

    def read(self, document: Document) -> Document:
        """Count a document; as this transaction sees it."""
        seen = self._writes.get(document["_id"], document)
        self._read += 1
        self._bytes_read += _size(seen)
        limits = self._limits
        if self._read > limits.documents_read:
            raise TooMuchError(
                f"Too many documents read in a single function execution (limit: {limits.documents_read}). {_ADVICE}"
            )
        if self._bytes_read > limits.bytes_read:
            raise TooMuchError(
                f"Too many bytes read in a single function execution (limit: {limits.bytes_read} bytes). {_ADVICE}"
            )
        return seen

    def write(self, document: Document) -> None:
        """Put a document in the place of the one with its id. Raises FunctionError where the schema forbids it."""
        problem = _schema_problem(self.table, document)
        if problem is not None:
            raise FunctionError(
                f'Failed to insert or update a document in table "{self.table.name}" because it does not match the '
                f"schema: {problem}"
            )
        self._written += 1
        self._bytes_written += _size(document)
        limits = self._limits
        if self._written > limits.documents_written:
            raise TooMuchError(f"Too many writes in a single function execution (limit: {limits.documents_written})")
        if self._bytes_written > limits.bytes_written:
            raise TooMuchError(
                f"Too many bytes written in a single function execution (limit: {limits.bytes_written} bytes)"
            )
        self._writes[document["_id"]] = document

    def commit(self) -> None:
        """Make the writes everybody's."""
        for document in self._writes.values():
            self.table.write(document)


def run_page(state: ConvexDeploymentState, limits: ConvexLimits, args: Mapping[str, Any]) -> Document:
    """`backfill:page`."""
    request = _request(args, {"cursor", "rows"})
    rows, cursor = request["rows"], request["cursor"]
    paged = isinstance(rows, float) and rows.is_integer() and 1 <= rows <= MOST_ROWS_A_PAGE
    if not paged or not (cursor is None or isinstance(cursor, str)):
        raise _failure("bad_request")
    table, id_field = _table(state, request)
    transaction = Transaction(table, limits)
    started_at = _moment(table.name, cursor)
    found: list[Document] = []
    whole = table.after(started_at, int(rows))
    for document in whole:
        try:
            found.append(transaction.read(document))
        except TooMuchError:
            if not limits.shortens_pages or not found:
                raise _failure("too_much") from None
            break
    ended_at = found[-1]["_creationTime"] if found else started_at
    return {
        "version": float(VERSION),
        "rows": [_row(document, id_field) for document in found],
        "cursor": base64.urlsafe_b64encode(orjson.dumps([table.name, ended_at])).decode(),
        # A full page does not look whether there is something behind it: the last page may be an empty one.
        "isDone": len(found) == len(whole) < rows,
    }


def run_patch(state: ConvexDeploymentState, limits: ConvexLimits, args: Mapping[str, Any]) -> Document:
    """`backfill:patch`."""
    request = _request(args, {"patches"})
    if not isinstance(request["patches"], list):
        raise _failure("bad_request")
    patches = [_checked_patch(each) for each in request["patches"]]
    table, id_field = _table(state, request)
    transaction = Transaction(table, limits)
    if len(patches) > limits.patches_in_time:
        raise FunctionError("Function execution timed out (maximum duration: 1s)")
    try:
        transaction.open_range()  # the look at the index
        outcomes = [_patch(transaction, id_field, each) for each in patches]
    except TooMuchError:
        raise _failure("too_much") from None
    transaction.commit()
    state.outcomes.update(outcomes)
    return {"version": float(VERSION), "outcomes": outcomes}


def _patch(transaction: Transaction, id_field: str, patch: Mapping[str, Any]) -> str:
    transaction.open_range()
    holders = [transaction.read(each) for each in transaction.table.holding(id_field, patch["clerkId"])[:2]]
    if len(holders) > 1:
        return "duplicate_rows"
    if not holders or holders[0]["_id"] != patch["id"]:
        named = transaction.table.documents.get(patch["id"])
        if named is None:
            return "missing"
        transaction.open_range()
        transaction.read(named)
        return "other_clerk_id"
    return _compare_and_set(transaction, holders[0], before=patch["before"], after=patch["after"])


def _compare_and_set(
    transaction: Transaction, document: Document, *, before: Mapping[str, Any], after: Mapping[str, Any]
) -> str:
    fields = [field for field in FIELDS if field in before or field in after]
    if all(_same(document.get(field, _ABSENT), after.get(field, _ABSENT)) for field in fields):
        return "already"
    if not all(_same(document.get(field, _ABSENT), before.get(field, _ABSENT)) for field in fields):
        return "conflict"
    kept = {name: value for name, value in document.items() if name not in fields}
    try:
        transaction.write({**kept, **{field: after[field] for field in fields if field in after}})
    except TooMuchError:
        raise
    except FunctionError:
        return "refused_by_schema"
    return "patched"


def _request(args: Mapping[str, Any], own: set[str]) -> Mapping[str, Any]:
    if args["version"] != VERSION:
        raise _failure("other_version")
    request = args["request"]
    if not isinstance(request, dict) or request.keys() != {"table", "index", "idField"} | own:
        raise _failure("bad_request")
    names = [request[each] for each in ("table", "index", "idField")]
    if not all(isinstance(each, str) for each in names) or names[2] in FIELDS or names[2].startswith("_"):
        raise _failure("bad_request")
    return request


def _table(state: ConvexDeploymentState, request: Mapping[str, Any]) -> tuple[TableState, str]:
    table = state.tables.get(request["table"]) if _TABLE_NAME.fullmatch(request["table"]) else None
    if table is not None and request["index"] in table.indexes_under_way:
        raise _failure("index_not_ready")
    if table is None or table.indexes.get(request["index"]) != request["idField"]:
        raise _failure("missing_index" if table is not None and table.documents else "missing_table")
    return table, request["idField"]


def _checked_patch(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict) or given.keys() != {"id", "clerkId", "before", "after"}:
        raise _failure("bad_request")
    if not isinstance(given["id"], str) or not isinstance(given["clerkId"], str) or not given["clerkId"]:
        raise _failure("bad_request")
    for fields in (given["before"], given["after"]):
        if not isinstance(fields, dict) or not all(_may_hold(field, value) for field, value in fields.items()):
            raise _failure("bad_request")
    return given


def _may_hold(field: str, value: Any) -> bool:
    return field in FIELDS and (value is None or isinstance(value, str if field in TEXT_FIELDS else float))


def _moment(table: str, cursor: str | None) -> float:
    """The moment of creation behind which a cursor goes on."""
    if cursor is None:
        return float("-inf")
    try:
        of_table, moment = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError):
        raise _failure("cursor_refused") from None
    if of_table != table:
        raise _failure("cursor_refused")
    return float("-inf") if moment is None else float(moment)


def _row(document: Document, id_field: str) -> Document:
    row: Document = {"id": document["_id"], "fields": {name: document[name] for name in FIELDS if name in document}}
    if id_field in document:
        row["clerkId"] = document[id_field]
    return row


def _same(left: Any, right: Any) -> bool:
    # A bool is a number to Python, and only the very same list is the same to JavaScript.
    return type(left) is type(right) and not isinstance(left, (list, dict)) and bool(left == right)


def _schema_problem(table: TableState, document: Document) -> str | None:
    if table.kinds is None:
        return None
    for name in document.keys() - {"_id", "_creationTime"} - table.kinds.keys():
        return f"Object contains extra field `{name}` that is not in the validator."
    for name, allowed in table.kinds.items():
        value = document.get(name, _ABSENT)
        kind = "absent" if value is _ABSENT else "null" if value is None else _kind(value)
        if kind not in allowed:
            return f"Field `{name}` does not match the validator."
    return None


def _kind(value: Any) -> str:
    return "string" if isinstance(value, str) else "number" if isinstance(value, float) else "other"


def _size(document: Document) -> int:
    return len(orjson.dumps(document))


def _failure(code: str) -> FunctionError:
    data = {"backfill": float(VERSION), "code": code}
    return FunctionError(f"Uncaught ConvexError: {orjson.dumps(data).decode()}", data)


__all__ = ["VERSION", "ConvexLimits", "FunctionError", "Transaction", "run_page", "run_patch"]
