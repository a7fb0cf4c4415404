"""The fake Attio: its HTTP routes, tokens, scopes and limits.

Belongs here: what each route answers and to whom. Does not belong here: the data (attio_data.py), its changes
(attio_state.py), filters (attio_filters.py), the shape of values and errors (attio_values.py, attio_errors.py).

The properties of the vendor that matter most: there is no bulk write; `POST` refuses a value that another record has,
and names that record only in a sentence; `PATCH` adds to what has several values and `PUT` replaces it; a dead token
gets a friendly answer from `/v2/self` and 401 elsewhere; a record appears by itself (the company of a new person).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request

from backfill_pipelines.sandbox import attio_errors as errors
from backfill_pipelines.sandbox.attio_filters import EVERYTHING, read_filter, select
from backfill_pipelines.sandbox.attio_limits import AttioLimits, WorkspaceLimits, score
from backfill_pipelines.sandbox.attio_records import AttioWorkspace
from backfill_pipelines.sandbox.attio_state import AttioState, OpenQuestions, Token, WorkspaceState
from backfill_pipelines.sandbox.attio_tables import ObjectTable, Record
from backfill_pipelines.sandbox.attio_values import NANOSECONDS, Json, attribute_row
from backfill_pipelines.sandbox.exchange import Answer, Handler, RefusalError, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call, Fault, FaultKinds

DEFAULT_LIMITS = AttioLimits()
ROWS_A_PAGE = 500
"""The default limit of a query, and here its highest; the vendor does not state one."""
QUERY = "/v2/objects/{object}/records/query"
ATTRIBUTE_TYPES = frozenset(
    {
        "text",
        "number",
        "checkbox",
        "currency",
        "date",
        "timestamp",
        "rating",
        "status",
        "select",
        "record-reference",
        "actor-reference",
        "location",
        "domain",
        "email-address",
        "phone-number",
    }
)
REMEMBERED_SELECTIONS = 16
"""Sorted lists kept: the pages of one query ask for the same list again; sorting 100,000 records takes 0.2 s."""

FAULT_KINDS: FaultKinds = {
    # 409 for a write, which is not executed.
    "concurrent_write_conflict": {},
    "expired_token": {},
    # The message of a uniqueness_conflict does not name the other record.
    "nameless_conflict": {},
    # A query does not show records that were made within so many seconds (3,600 unless said).
    "lagging_query": {"seconds": float},
    # The record of the path is being merged: 404 to a read and a DELETE, 400 to a change.
    "merge_in_progress": {},
}

_Endpoint = Callable[[Visit, WorkspaceState], Answer]


class AttioSandbox:
    """A vendor for `SandboxServer`. `state` holds what tests change while it serves.

    `limits` hold per workspace; `clock` gives seconds since 1970; `questions` choose among the answers that the
    vendor's documentation leaves open.
    """

    name = "attio"
    accounts: Sequence[str] = ("api",)
    mount_path = "/attio"
    fault_kinds: FaultKinds = FAULT_KINDS

    def __init__(
        self,
        workspaces: Sequence[AttioWorkspace],
        *,
        limits: AttioLimits = DEFAULT_LIMITS,
        questions: OpenQuestions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._questions = questions or OpenQuestions()
        self.state = AttioState(workspaces, questions=self._questions, clock=clock)
        self.limits = {each.key: WorkspaceLimits(limits, clock=clock) for each in workspaces}
        self._clock = clock
        self._selections: OrderedDict[tuple[str, str, int, bytes], list[Record]] = OrderedDict()

    # --- what the server asks ----------------------------------------------------------------------------------------

    def routes(self) -> Sequence[VendorRoute]:
        """Every route of the vendor that the sandbox knows."""
        records = "/v2/objects/{object}/records"
        configuration, reading, writing = "object_configuration", "record_permission:read", "record_permission"
        write = f"{writing}:read-write"
        attributes = "/v2/objects/{object}/attributes"
        return [
            VendorRoute("GET", "/v2/self", self._identify),
            self._route("GET", attributes, self._list_attributes, f"{configuration}:read"),
            self._route("POST", attributes, self._create_attribute, f"{configuration}:read-write"),
            self._route("POST", QUERY, self._query, reading, f"{configuration}:read"),
            self._route("POST", records, self._create, write, f"{configuration}:read"),
            self._route("PUT", records, self._assert, write, f"{configuration}:read"),
            self._route("GET", records + "/{record_id}", self._show, reading, f"{configuration}:read"),
            self._route("PATCH", records + "/{record_id}", self._update, write, f"{configuration}:read"),
            self._route("PUT", records + "/{record_id}", self._overwrite, write, f"{configuration}:read"),
            self._route("DELETE", records + "/{record_id}", self._delete, write, f"{configuration}:read"),
        ]

    def unknown_route(self, _visit: Visit) -> Answer:
        """404 with the vendor's body."""
        return errors.not_found("Could not find endpoint.").answer

    def check_fault(self, _fault: Fault) -> None:
        """Its own faults take no parameters."""

    def describe(self, request: Request, template: str) -> Call:
        """Whose request it is; an unknown token has no workspace."""
        with self.state.lock:
            token = self.state.tokens.get(_bearer(request))
            workspace = None if token is None else self.state.workspaces[token.workspace_key]
        return Call(
            vendor=self.name,
            account="api",
            workspace="" if workspace is None else workspace.id,
            client="" if workspace is None else workspace.seeded.key,
            method=request.method,
            path=request.scope["path"].removeprefix(self.mount_path),
            template=template,
        )

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a permit of the workspace. A query is a read, though it is a POST."""
        limits = self.limits.get(call.client)
        if limits is None:
            return {}, None
        window = limits.reads if call.method == "GET" or call.template == QUERY else limits.writes
        until = window.refused_until()
        return {}, None if until is None else errors.rate_limited(until)

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:
        """The vendor's own 429."""
        return errors.rate_limited(int(self._clock()) + retry_after_seconds)

    def after_request(self, visit: Visit) -> None:
        """Nothing moves by itself."""

    def reset(self) -> None:
        """Back to the seeded workspaces, with every permit given back."""
        self.state.reset()
        self._selections.clear()
        for limits in self.limits.values():
            limits.reset()

    def _route(self, method: str, path: str, endpoint: _Endpoint, *scopes: str) -> VendorRoute:
        return VendorRoute(method, path, self._authorized(endpoint, scopes, writes=method != "GET" and path != QUERY))

    def _authorized(self, endpoint: _Endpoint, scopes: Sequence[str], *, writes: bool) -> Handler:
        def answer(visit: Visit) -> Answer:
            with self.state.lock:
                token = self._token(visit)
                if token is None:
                    raise errors.unauthenticated()
                for scope in scopes:
                    if not token.scopes & {scope, f"{scope.partition(':')[0]}:read-write"}:
                        raise errors.missing_scope(scope)
                if writes and visit.fault("concurrent_write_conflict") is not None:
                    raise errors.concurrent_write_conflict()
                if "record_id" in visit.request.path_params and visit.fault("merge_in_progress") is not None:
                    raise errors.merge_in_progress(status=400 if visit.request.method in ("PATCH", "PUT") else 404)
                try:
                    return endpoint(visit, self.state.workspaces[token.workspace_key])
                except RefusalError as refusal:
                    raise self._without_names(visit, refusal) from None

        return answer

    def _without_names(self, visit: Visit, refusal: RefusalError) -> RefusalError:
        body = orjson.loads(refusal.answer.body)
        if visit.fault("nameless_conflict") is None or body["code"] != "uniqueness_conflict":
            return refusal
        slug = body["message"].split('"')[1]
        return errors.uniqueness_conflict(slug, (), status=refusal.answer.status, named=False)

    def _token(self, visit: Visit) -> Token | None:
        return None if visit.fault("expired_token") is not None else self.state.tokens.get(_bearer(visit.request))

    # --- the token and the attributes --------------------------------------------------------------------------------

    def _identify(self, visit: Visit) -> Answer:
        """200 for every token; a dead one is told that it is not active."""
        with self.state.lock:
            token = self._token(visit)
            if token is None:
                return Answer.json(200, {"active": False})
            workspace = self.state.workspaces[token.workspace_key]
        client_id = workspace.seeded.integration.id
        document = {
            "active": True,
            "scope": " ".join(sorted(token.scopes)),
            "client_id": client_id,
            "token_type": "Bearer",
            "exp": None,
            "iat": 1_672_560_000,
            "sub": workspace.id,
            "aud": client_id,
            "iss": "attio.com",
            "token_level": "workspace",
            "authorized_by_workspace_member_id": workspace.seeded.member.id,
            "workspace_id": workspace.id,
            "workspace_name": workspace.seeded.name,
            "workspace_slug": workspace.seeded.key,
            "workspace_logo_url": None,
        }
        return Answer.json(200, document)

    def _list_attributes(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table = _table(visit, workspace)
        query = visit.request.query_params
        archived = query.get("show_archived", "false").lower() == "true"
        offset, limit = (_count(query.get(name), default) for name, default in (("offset", 0), ("limit", ROWS_A_PAGE)))
        listed = [each for each in table.attributes.values() if archived or not each.archived]
        page = listed[offset : offset + limit]
        rows = [attribute_row(each, workspace_id=workspace.id, object_slug=table.slug) for each in page]
        return Answer.json(200, {"data": rows})

    def _create_attribute(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table = _table(visit, workspace)
        data = _body(visit).get("data")
        if not isinstance(data, dict):
            raise errors.invalid_value("data is required.")
        texts = [data.get(name) for name in ("title", "api_slug", "type")]
        flags = [data.get(name) for name in ("is_required", "is_unique", "is_multiselect")]
        forms = all(isinstance(each, str) and each for each in texts) and all(isinstance(each, bool) for each in flags)
        if not forms or "description" not in data or not isinstance(data.get("config"), dict):
            raise errors.invalid_value("A required field of the attribute is missing or has the wrong type.")
        title, slug, kind = map(str, texts)
        if kind not in ATTRIBUTE_TYPES:
            raise errors.invalid_value(f'There is no attribute type "{kind}".')
        if slug in table.attributes:  # an archived one keeps its slug
            message = "An attribute with the same API slug already exists on this object."
            raise errors.refusal(409, "slug_conflict", f"{message} Please choose a different API slug.")
        attribute = table.add_attribute(
            slug,
            title=title,
            kind=kind,
            created_at=workspace.now(),
            description=data["description"],
            required=data["is_required"],
            unique=data["is_unique"],
            multiselect=data["is_multiselect"],
        )
        return Answer.json(200, {"data": attribute_row(attribute, workspace_id=workspace.id, object_slug=table.slug)})

    # --- records -----------------------------------------------------------------------------------------------------

    def _query(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table, body = _table(visit, workspace), _body(visit)
        if not body.keys() <= {"filter", "sorts", "limit", "offset"}:
            raise errors.filter_error()
        sorts = body.get("sorts") or []
        if not isinstance(sorts, list):
            raise errors.filter_error("Error in sorts.")
        offset, limit = (_count(body.get(name), default) for name, default in (("offset", 0), ("limit", ROWS_A_PAGE)))
        given = body.get("filter")
        condition = EVERYTHING if given is None else read_filter(workspace, table, given)
        self._charge(workspace, score(conditions=condition.parts, sorts=len(sorts), records=len(table.records)))
        if condition.among is not None:  # an index makes it cheap, and few ask for the same records twice
            selected = select(workspace, table, condition, sorts)
        else:
            version = sum(each.version for each in workspace.tables.values())
            key = (workspace.id, table.slug, version, orjson.dumps([given, sorts]))
            if key not in self._selections:
                self._selections[key] = select(workspace, table, condition, sorts)
                if len(self._selections) > REMEMBERED_SELECTIONS:
                    self._selections.popitem(last=False)
            selected = self._selections[key]
        lagging = visit.fault("lagging_query")
        if lagging is not None:
            shown_until = workspace.now() - int(lagging.number("seconds", 3_600) * NANOSECONDS)
            selected = [each for each in selected if each.created_at <= shown_until]
        page = selected[offset : offset + min(limit, ROWS_A_PAGE)]
        return Answer(200, b'{"data":[' + b",".join(map(table.row_json, page)) + b"]}")

    def _charge(self, workspace: WorkspaceState, points: int) -> None:
        """Refuse a query that is too complex by itself, for ever, or together with the others, for a while."""
        limits = self.limits[workspace.seeded.key]
        if points > limits.limits.query_score:
            if self._questions.refuses_scores_with == 429:  # noqa: PLR2004
                raise RefusalError(self.rate_limited(retry_after_seconds=1))
            raise errors.filter_error("The query is too complex. Please simplify its filters and sorts.")
        until = limits.scores.refused_until(points)
        if until is not None:
            raise RefusalError(errors.rate_limited(until))

    def _create(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table = _table(visit, workspace)
        record = workspace.write(table.slug, _values(visit), actor=self._actor(visit))
        return _one(table, record)

    def _assert(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        """Create, or update the record that the matching attribute finds. The answer does not say which."""
        table = _table(visit, workspace)
        matching = visit.request.query_params.get("matching_attribute")
        if matching is None:
            raise errors.invalid_value("matching_attribute is required.")
        values, actor = _values(visit), self._actor(visit)
        record = workspace.write(table.slug, values, actor=actor, multiselect="replace", matching=matching)
        return _one(table, record)

    def _show(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table, record_id = _table(visit, workspace), visit.request.path_params["record_id"]
        if record_id not in table.records:
            raise errors.not_found(f'Record with ID "{record_id}" not found.')
        return _one(table, table.records[record_id])

    def _update(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table, record_id = _table(visit, workspace), visit.request.path_params["record_id"]
        record = workspace.write(table.slug, _values(visit), actor=self._actor(visit), record_id=record_id)
        return _one(table, record)

    def _overwrite(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        table, record_id = _table(visit, workspace), visit.request.path_params["record_id"]
        values, actor = _values(visit), self._actor(visit)
        record = workspace.write(table.slug, values, actor=actor, record_id=record_id, multiselect="replace")
        return _one(table, record)

    def _delete(self, visit: Visit, workspace: WorkspaceState) -> Answer:
        workspace.delete(_table(visit, workspace).slug, visit.request.path_params["record_id"])
        return Answer.json(200, {})

    def _actor(self, visit: Visit) -> Any:
        return self.state.tokens[_bearer(visit.request)].actor


def _one(table: ObjectTable, record: Record) -> Answer:
    return Answer(200, b'{"data":' + table.row_json(record) + b"}")


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _table(visit: Visit, workspace: WorkspaceState) -> ObjectTable:
    """The object that the path names by slug or id."""
    name = visit.request.path_params["object"]
    for table in workspace.tables.values():
        if name in (table.slug, table.id):
            return table
    raise errors.not_found(f'Object with slug/ID "{name}" not found.')


def _body(visit: Visit) -> Json:
    try:
        body = orjson.loads(visit.body or b"{}")
    except orjson.JSONDecodeError:
        raise errors.invalid_value("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise errors.invalid_value("The body is no JSON object.")
    return body


def _values(visit: Visit) -> Json:
    data = _body(visit).get("data")
    if not isinstance(data, dict) or data.keys() != {"values"} or not isinstance(data["values"], dict):
        raise errors.invalid_value("data.values is required, and nothing else in data.")
    return data["values"]


def _count(given: Any, default: int) -> int:
    """A limit or an offset; a float without a fraction is one, too (`number` in the vendor's file)."""
    try:
        number = default if given is None else float(given)
    except (TypeError, ValueError):
        number = -1.0
    if number < 0 or number != int(number):
        raise errors.invalid_value("limit and offset are whole numbers.")
    return int(number)


__all__ = ["DEFAULT_LIMITS", "AttioSandbox"]
