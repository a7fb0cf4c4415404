"""The fake Email Bison: its HTTP routes, tokens and quota.

Belongs here: what each route answers and to whom. Does not belong here: the data (email_bison_data.py), its changes
(email_bison_state.py), the shape of rows and errors (email_bison_rows.py).

Three properties of the vendor matter most. A request never names a workspace: the token does, and for a super-admin
token it is whatever workspace its user stands in at that moment. A list has 15 rows a page whatever is asked. A filter
the vendor does not know is ignored in silence.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import orjson
from starlette.requests import Request

from backfill_pipelines.sandbox import email_bison_rows as rows
from backfill_pipelines.sandbox.email_bison_filters import choose_leads, choose_replies
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.email_bison_state import (
    EmailBisonState,
    InstanceState,
    Token,
    WorkspaceState,
    newest_first,
)
from backfill_pipelines.sandbox.exchange import Answer, Handler, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call, Fault, FaultFormatError, FaultKinds
from backfill_pipelines.sandbox.traffic import RateLimit, RateWindow

UsersAnswer = Literal["team", "workspace", "neither", "owner_team"]
"""What `GET /users` says about the workspace: the token's under `data.team` or `data.workspace`, nothing at all, or
(for api-user tokens too) the workspace that the token's OWNER stands in. The vendor's documentation leaves it open."""

DEFAULT_RATE_LIMIT = RateLimit(permits=3_000, window_seconds=60.0)
Record = TypeVar("Record")

FAULT_KINDS: FaultKinds = {
    # Serve the rows of the workspace `serve` (id or client key). /users and /workspaces keep telling the truth.
    "wrong_workspace": {"serve": str},
    "ignore_status_filter": {},
    # meta.total grows with every answer, for ever.
    "total_drift": {},
    "expired_token": {},
    # Once the answer is made up, the newest reply of the caller's workspace that is not so yet is marked as
    # interested, loses its mark, a new interested one comes in, or one of the three by chance.
    "mark_newest": {},
    "unmark_newest": {},
    "add_reply": {},
    "live_motion": {},
    # Once the answer is made up, another session of the same user switches to the workspace `team`.
    "switch_workspace": {"team": int},
}


class EmailBisonSandbox:
    """A vendor for `SandboxServer`. `state` holds what tests change while it serves.

    `rate_limit` counts per instance; `clock` gives seconds since 1970.
    """

    name = "email-bison"
    mount_path = "/email-bison/{account}/api"
    fault_kinds: FaultKinds = FAULT_KINDS

    def __init__(
        self,
        world: EmailBisonWorld,
        *,
        rate_limit: RateLimit = DEFAULT_RATE_LIMIT,
        users_answer: UsersAnswer = "team",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = EmailBisonState(world)
        self.accounts: Sequence[str] = [each.name for each in world.instances]
        self._clock = clock
        self._users_answer = users_answer
        self._windows = {name: RateWindow(rate_limit, clock=clock) for name in self.accounts}
        self._drift = 0

    # --- what the server asks ------------------------------------------------------------------------------------

    def routes(self) -> Sequence[VendorRoute]:
        """Every route of the vendor that the sandbox knows."""
        return [
            self._route("GET", "/users", self._show_user),
            self._route("GET", "/workspaces", self._list_workspaces),
            self._route("GET", "/workspaces/v1.1", self._list_workspaces),
            self._route("POST", "/workspaces/switch-workspace", self._switch_workspace),
            self._route("POST", "/workspaces/v1.1/switch-workspace", self._switch_workspace),
            self._route("GET", "/workspaces/v1.1/{id:int}", self._show_workspace),
            self._route("POST", "/workspaces/v1.1/{id:int}/api-tokens", self._mint_token),
            self._route("GET", "/replies", self._list_replies),
            self._route("GET", "/replies/{id:int}", self._show_reply),
            self._route("GET", "/campaigns", self._list_campaigns),
            self._route("GET", "/campaigns/{id:int}", self._show_campaign),
            self._route("GET", "/campaigns/{id:int}/replies", self._list_campaign_replies),
            self._route("GET", "/leads", self._list_leads),
            self._route("GET", "/leads/{id:int}", self._show_lead),
            self._route("GET", "/leads/{id:int}/replies", self._list_lead_replies),
            self._route("GET", "/sender-emails", self._list_sender_emails),
            self._route("GET", "/sender-emails/{id:int}", self._show_sender_email),
            self._route("GET", "/sender-emails/{id:int}/replies", self._list_sender_email_replies),
        ]

    def unknown_route(self, visit: Visit) -> Answer:
        """404 with the vendor's sentence; an unknown instance is no route either."""
        return rows.route_not_found("api" + visit.call.path)

    def describe(self, request: Request, template: str) -> Call:
        """Whose request it is; an unknown token has no workspace."""
        account = str(request.path_params.get("account", ""))
        path = request.scope["path"].partition("/api")[2]
        workspace = None
        with self.state.lock:
            instance = self.state.instances.get(account)
            token = None if instance is None else instance.tokens.get(_bearer(request))
            if instance is not None and token is not None:
                workspace = _workspace_of(instance, token)
        return Call(
            vendor=self.name,
            account=account,
            workspace="" if workspace is None else str(workspace.id),
            client="" if workspace is None else workspace.client_key,
            method=request.method,
            path=path,
            template=template,
        )

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a permit of the instance. The headers are Laravel's."""
        window = self._windows.get(call.account)
        if window is None:
            return {}, None
        admission = window.admit()
        headers = {
            "X-RateLimit-Limit": str(window.limit.permits),
            "X-RateLimit-Remaining": str(admission.remaining),
        }
        if admission.admitted:
            return headers, None
        headers["X-RateLimit-Reset"] = str(int(self._clock()) + admission.retry_after_seconds)
        return headers, rows.rate_limited(admission.retry_after_seconds)

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:
        """The vendor's own 429."""
        return rows.rate_limited(retry_after_seconds)

    def check_fault(self, fault: Fault) -> None:
        """A workspace that a fault names must exist. Raises FaultFormatError."""
        instances = self.state.instances.values()
        if fault.kind == "wrong_workspace" and not any(each.workspace_named(fault.text("serve")) for each in instances):
            raise FaultFormatError("wrong_workspace needs a workspace's id or a client's key as 'serve'")
        if fault.kind == "switch_workspace" and not any(
            int(fault.number("team", 0)) in each.workspaces for each in instances
        ):
            raise FaultFormatError("switch_workspace needs a workspace's id as 'team'")

    def after_request(self, visit: Visit) -> None:
        """Motion and other sessions' switches, where a fault asks for them."""
        client_key = visit.call.client
        with self.state.lock:
            for fault in visit.faults:
                if fault.kind == "switch_workspace":
                    self.state.switch_workspace(visit.call.account, int(fault.number("team", 1)))
                elif client_key and fault.kind in {"mark_newest", "unmark_newest"}:
                    self.state.move_newest(client_key, interested=fault.kind == "mark_newest")
                elif client_key and fault.kind == "add_reply":
                    self.state.add_reply(client_key)
                elif client_key and fault.kind == "live_motion":
                    self.state.move_at_random(client_key)

    def reset(self) -> None:
        """Back to the seeded world, with every permit given back."""
        self.state.reset()
        self._drift = 0
        for window in self._windows.values():
            window.reset()

    def _route(self, method: str, path: str, handler: Callable[[Visit, InstanceState, Token], Answer]) -> VendorRoute:
        return VendorRoute(method, path, self._authenticated(handler))

    def _authenticated(self, handler: Callable[[Visit, InstanceState, Token], Answer]) -> Handler:
        def answer(visit: Visit) -> Answer:
            with self.state.lock:
                instance = self.state.instances.get(visit.call.account)
                if instance is None:
                    return self.unknown_route(visit)
                token = instance.tokens.get(_bearer(visit.request))
                if token is None or visit.fault("expired_token") is not None:
                    raise rows.unauthenticated()
                return handler(visit, instance, token)

        return answer

    # --- users and workspaces ------------------------------------------------------------------------------------

    def _show_user(self, _visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace = _workspace_of(instance, token)
        if self._users_answer == "owner_team":
            workspace = instance.workspaces[instance.current_team[token.user_id]]
        user: rows.Row = {
            "id": token.user_id,
            "name": "Robin Lantern",
            "email": "robin@lanternfish.example",
            "profile_photo_path": None,
            "profile_photo_url": "https://lanternfish.example/robin.png",
            "created_at": "2024-01-01T08:00:00.000000Z",
            "updated_at": "2024-01-01T08:00:00.000000Z",
        }
        if self._users_answer != "neither":
            key = "workspace" if self._users_answer == "workspace" else "team"
            user[key] = _workspace_row(workspace)
        return Answer.json(200, {"data": user})

    def _list_workspaces(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        """All of the user's workspaces; an api-user token sees its own only (the vendor does not say)."""
        if token.kind == "api-user":
            return self._page(visit, [_workspace_of(instance, token)], _workspace_row)
        return self._page(visit, list(instance.workspaces.values()), _workspace_row)

    def _show_workspace(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace = self._workspace_in_path(visit, instance)
        if token.kind == "api-user" and token.workspace_id != workspace.id:
            raise rows.forbidden(rows.FOREIGN_RECORD)
        return Answer.json(200, {"data": _workspace_row(workspace)})

    def _switch_workspace(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        """Moves the USER: every session and super-admin token of theirs is in the new workspace from now on."""
        if token.kind != "super-admin":
            raise rows.forbidden()
        team_id = _body(visit).get("team_id")
        if not isinstance(team_id, int) or isinstance(team_id, bool):
            raise rows.invalid({"team_id": "The team id field is required."})
        if team_id not in instance.workspaces:
            raise rows.record_not_found("workspace", str(team_id))
        instance.current_team[token.user_id] = team_id
        return Answer.json(200, {"data": _workspace_row(instance.workspaces[team_id])})

    def _mint_token(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        """A new api-user token for the workspace in the path; nobody is switched. Its plain text is shown here only."""
        if token.kind != "super-admin":
            raise rows.forbidden()
        workspace = self._workspace_in_path(visit, instance)
        name = _body(visit).get("name")
        if not isinstance(name, str) or not name:
            raise rows.invalid({"name": "The name field is required."})
        token_id, plain = instance.mint_token(workspace.id, user_id=token.user_id)
        minted = {
            "id": token_id,
            "name": name,
            "plain_text_token": plain,
            "token_hash": hashlib.sha256(plain.partition("|")[2].encode()).hexdigest(),
            "abilities": ["*"],
            "created_at": "2026-11-01T08:00:00.000000Z",
            "updated_at": "2026-11-01T08:00:00.000000Z",
        }
        return Answer.json(201, {"data": minted})

    def _workspace_in_path(self, visit: Visit, instance: InstanceState) -> WorkspaceState:
        workspace = instance.workspaces.get(visit.request.path_params["id"])
        if workspace is None:
            raise rows.record_not_found("workspace", str(visit.request.path_params["id"]))
        return workspace

    # --- lists ---------------------------------------------------------------------------------------------------

    def _list_replies(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        return self._reply_page(visit, instance, self._served(visit, instance, token), {})

    def _list_campaign_replies(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace, campaign = self._record(visit, instance, token, "campaign", lambda each: each.campaigns)
        return self._reply_page(visit, instance, workspace, {"campaign_id": str(campaign.id)})

    def _list_lead_replies(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace, lead = self._record(visit, instance, token, "lead", lambda each: each.leads)
        return self._reply_page(visit, instance, workspace, {"lead_id": str(lead.id)})

    def _list_sender_email_replies(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace, sender = self._record(visit, instance, token, "sender_email", lambda each: each.sender_emails)
        return self._reply_page(visit, instance, workspace, {"sender_email_id": str(sender.id)})

    def _reply_page(
        self, visit: Visit, instance: InstanceState, workspace: WorkspaceState, fixed: Mapping[str, str]
    ) -> Answer:
        query = {**visit.request.query_params, **fixed}
        if visit.fault("ignore_status_filter") is not None:
            query.pop("status", None)
        selected = choose_replies(workspace, query)
        return self._page(visit, selected, lambda each: rows.reply_row(each, workspace, instance))

    def _list_leads(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace = self._served(visit, instance, token)
        selected = choose_leads(workspace, visit.request.query_params)
        return self._page(visit, selected, lambda each: rows.lead_row(each, workspace))

    def _list_campaigns(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace = self._served(visit, instance, token)
        selected = newest_first(workspace.campaigns)
        return self._page(visit, selected, lambda each: rows.campaign_row(each, instance))

    def _list_sender_emails(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace = self._served(visit, instance, token)
        return self._page(visit, newest_first(workspace.sender_emails), rows.sender_email_row)

    def _page(self, visit: Visit, records: Sequence[Record], row: Callable[[Record], rows.Row]) -> Answer:
        page = rows.page_number(visit.request.query_params.get("page"))
        start = (page - 1) * rows.ROWS_A_PAGE
        total = len(records)
        if visit.fault("total_drift") is not None:
            self._drift += 1
            total += self._drift
        url = f"http://{visit.request.headers.get('host', '')}{visit.request.scope['path']}"
        shown = [row(each) for each in records[start : start + rows.ROWS_A_PAGE]]
        return Answer.json(200, rows.page_envelope(shown, total=total, page=page, url=url))

    # --- single records ------------------------------------------------------------------------------------------

    def _show_reply(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace, reply = self._record(visit, instance, token, "reply", lambda each: each.replies)
        return Answer.json(200, {"data": rows.reply_row(reply, workspace, instance)})

    def _show_campaign(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        _, campaign = self._record(visit, instance, token, "campaign", lambda each: each.campaigns)
        return Answer.json(200, {"data": rows.campaign_row(campaign, instance)})

    def _show_lead(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        workspace, lead = self._record(visit, instance, token, "lead", lambda each: each.leads)
        return Answer.json(200, {"data": rows.lead_row(lead, workspace)})

    def _show_sender_email(self, visit: Visit, instance: InstanceState, token: Token) -> Answer:
        _, sender = self._record(visit, instance, token, "sender_email", lambda each: each.sender_emails)
        return Answer.json(200, {"data": rows.sender_email_row(sender)})

    def _record(
        self,
        visit: Visit,
        instance: InstanceState,
        token: Token,
        model: str,
        table: Callable[[WorkspaceState], Mapping[int, Record]],
    ) -> tuple[WorkspaceState, Record]:
        """The record in the path: 403 where it is another workspace's, 404 where it is nobody's."""
        record_id = visit.request.path_params["id"]
        workspace = self._served(visit, instance, token)
        record = table(workspace).get(record_id)
        if record is not None:
            return workspace, record
        if any(record_id in table(each) for each in instance.workspaces.values()):
            raise rows.forbidden(rows.FOREIGN_RECORD)
        raise rows.record_not_found(model, str(record_id))

    def _served(self, visit: Visit, instance: InstanceState, token: Token) -> WorkspaceState:
        """The workspace whose rows the caller gets: its own, unless a fault mixes them up."""
        workspace = _workspace_of(instance, token)
        fault = visit.fault("wrong_workspace")
        if fault is not None:
            workspace = instance.workspace_named(fault.text("serve")) or workspace
        visit.served_workspace = str(workspace.id)
        return workspace


def _workspace_of(instance: InstanceState, token: Token) -> WorkspaceState:
    if token.workspace_id is not None:
        return instance.workspaces[token.workspace_id]
    return instance.workspaces[instance.current_team[token.user_id]]


def _workspace_row(workspace: WorkspaceState) -> rows.Row:
    return rows.workspace_row(workspace, main=not workspace.client_key)


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


def _body(visit: Visit) -> Mapping[str, object]:
    try:
        document = orjson.loads(visit.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


__all__ = ["DEFAULT_RATE_LIMIT", "EmailBisonSandbox", "UsersAnswer"]
