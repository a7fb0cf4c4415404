"""The fake Convex: the HTTP routes that call functions, deploy keys, visibility, slots.

Belongs here: what each route answers and to whom. Does not belong here: the data (convex_data.py), its changes
(convex_state.py), what the functions do (convex_functions.py), the wording of errors (convex_errors.py).

Properties of the vendor that matter: a function that fails is answered with 200 and `status: "error"`. Its text may be
hidden, the data of a ConvexError never. An internal function does not exist for anyone but the holder of a deploy key
with the permission. All numbers are floats. A refusal for being one too many has no Retry-After.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from starlette.requests import Request

from backfill_pipelines.sandbox import convex_errors as errors
from backfill_pipelines.sandbox.convex_data import ConvexDeployment, Document, stored
from backfill_pipelines.sandbox.convex_functions import ConvexLimits, FunctionError, run_page, run_patch
from backfill_pipelines.sandbox.convex_state import ConvexDeploymentState
from backfill_pipelines.sandbox.exchange import Answer, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call, Fault, FaultKinds

FORMATS = frozenset({"json", "convex_encoded_json", "convex_json", "export_json"})
FUNCTION_FAILED_STATUS = 560
"""Convex's JavaScript client takes it for a failed function, as it does 200."""
REQUEST_ID = "5a4db0c5e0b14c0f"
FUNCTIONS = {"backfill:page": "query", "backfill:patch": "mutation"}
SLOTTED = {"/api/query": "query", "/api/mutation": "mutation", "/api/action": "action"}

FAULT_KINDS: FaultKinds = {
    # The mutation lost against other writers four times: nothing was executed.
    "write_conflict": {},
    "overloaded": {},
    "function_timeout": {},
    # A function that fails is answered with 560 instead of 200.
    "function_failure_560": {},
    # Once the answer is made up, people change the first names of so many users, or delete as many.
    "change_users": {"users": int},
    "delete_users": {"users": int},
}


class ConvexQuestions(NamedTuple):
    """What the vendor's sources leave open, or let a deployment decide."""

    hides_errors: bool = False
    """Whether texts of errors are hidden from holders of a deploy key as well, as a self-hosted deployment can."""
    refuses_permission_with: Literal["status", "function"] = "status"
    """How a missing permission is told: 403, or as a function that failed."""


class Int64:
    """An argument that is an int64: no number to a function."""


class ConvexSandbox:
    """A vendor for `SandboxServer`. `states` (by the workspace's key) holds what tests change while it serves.

    Each deployment is on a port of its own, with `/convex/KEY` as the path of its URL.
    """

    name = "convex"
    mount_path = "/convex/{account}"
    fault_kinds: FaultKinds = FAULT_KINDS

    def __init__(
        self,
        deployments: Sequence[ConvexDeployment],
        *,
        limits: ConvexLimits | None = None,
        questions: ConvexQuestions | None = None,
    ) -> None:
        self.accounts: Sequence[str] = [each.key for each in deployments]
        self.states = {each.key: ConvexDeploymentState(each) for each in deployments}
        self.limits = limits or ConvexLimits()
        self.questions = questions or ConvexQuestions()

    # --- what the server asks ------------------------------------------------------------------------------------

    def routes(self) -> Sequence[VendorRoute]:
        """The routes that call functions."""
        return [
            VendorRoute("POST", "/api/query", self._calling("query")),
            VendorRoute("GET", "/api/query", self._calling("query")),
            VendorRoute("POST", "/api/mutation", self._calling("mutation")),
            VendorRoute("POST", "/api/action", self._calling("action")),
            VendorRoute("POST", "/api/function", self._any_function),
            VendorRoute("POST", "/api/run/{identifier:path}", self._run_by_path),
        ]

    def unknown_route(self, _visit: Visit) -> Answer:
        """404 in the vendor's words."""
        return errors.no_such_route()

    def describe(self, request: Request, template: str) -> Call:
        """Which deployment it is for; an unknown key has no workspace."""
        account = str(request.path_params.get("account", ""))
        state = self.states.get(account)
        workspace = account if state is not None and _deploy_key(request) in state.keys else ""
        return Call(
            vendor=self.name,
            account=account,
            workspace=workspace,
            client=workspace,
            method=request.method,
            path=request.scope["path"].partition(f"/convex/{account}")[2],
            template=template,
        )

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a slot for the kind of function. The vendor waits five seconds for one first; this one does not."""
        state, kind = self.states.get(call.account), SLOTTED.get(call.path)
        if state is None or kind is None or state.enter(kind, slots=self.limits.slots):
            return {}, None
        return {}, errors.too_many_requests()

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:  # noqa: ARG002 # the vendor does not say
        """The vendor's own 429."""
        return errors.too_many_requests()

    def check_fault(self, fault: Fault) -> None:
        """Every fault of this vendor makes sense for any of its deployments."""

    def after_request(self, visit: Visit) -> None:
        """Give the slot back; then people change what a fault says."""
        state, kind = self.states.get(visit.call.account), SLOTTED.get(visit.call.path)
        if state is None:
            return
        if kind is not None:
            state.leave(kind)
        for fault in visit.faults:
            if fault.kind in ("change_users", "delete_users"):
                for each in state.documents()[: int(fault.number("users", 1))]:
                    if fault.kind == "change_users":
                        state.change(each["_id"], firstName=f"changed after request {sum(state.calls.values())}")
                    else:
                        state.delete(each["_id"])

    def reset(self) -> None:
        """Back to the seeded deployments."""
        for state in self.states.values():
            state.reset()

    # --- routes --------------------------------------------------------------------------------------------------

    def _calling(self, kind: str) -> Callable[[Visit], Answer]:
        def handle(visit: Visit) -> Answer:
            given = _query_parameters(visit) if visit.call.method == "GET" else self._body(visit)
            return self._call(visit, given, called_as=kind)

        return handle

    def _any_function(self, visit: Visit) -> Answer:
        state = self._state(visit)
        if _identity(visit.request, state) is None:
            raise errors.bad_deploy_key(state.seeded.name)
        return self._call(visit, self._body(visit), called_as=None)

    def _run_by_path(self, visit: Visit) -> Answer:
        module, _, name = str(visit.request.path_params["identifier"]).rpartition("/")
        if not module:
            raise errors.refusal(400, "MissingIdentifier", "Path or function name not provided in path.")
        return self._call(visit, {**self._body(visit), "path": f"{module}:{name}"}, called_as=None)

    def _state(self, visit: Visit) -> ConvexDeploymentState:
        state = self.states.get(visit.call.account)
        if state is None:
            raise errors.refusal(404, "DeploymentNotFound", "This deployment does not exist.")
        return state

    def _body(self, visit: Visit) -> Document:
        if len(visit.body) > self.limits.body_bytes:
            raise errors.body_too_large()
        try:
            body = orjson.loads(visit.body)
        except orjson.JSONDecodeError:
            raise errors.bad_body("Failed to parse the request body as JSON") from None
        if not isinstance(body, dict):
            raise errors.bad_body("Failed to deserialize the JSON body into the target type")
        return body

    # --- calling a function --------------------------------------------------------------------------------------

    def _call(self, visit: Visit, given: Mapping[str, Any], *, called_as: str | None) -> Answer:
        state = self._state(visit)
        for kind, answer in (("write_conflict", errors.write_conflict), ("overloaded", errors.overloaded)):
            if visit.fault(kind) is not None:
                return answer()
        permissions = _identity(visit.request, state)
        path, args = _checked_call(given)
        with state.lock:
            try:
                value = self._executed(visit, state, permissions, path=path, args=args, called_as=called_as)
            except FunctionError as error:
                status = 200 if visit.fault("function_failure_560") is None else FUNCTION_FAILED_STATUS
                return Answer.json(status, self._failed(error))
        return Answer.json(200, {"status": "success", "value": value})

    def _executed(
        self,
        visit: Visit,
        state: ConvexDeploymentState,
        permissions: frozenset[str] | None,
        *,
        path: str,
        args: Document,
        called_as: str | None,
    ) -> Any:
        if state.paused:
            raise FunctionError(errors.PAUSED)
        defined_as = None if state.functions == "absent" else FUNCTIONS.get(path)
        if defined_as is None or permissions is None:
            raise FunctionError(errors.function_not_found(path))
        if errors.DOCUMENTED_PERMISSIONS[defined_as] not in permissions:
            if self.questions.refuses_permission_with == "status":
                raise errors.not_permitted(defined_as)
            raise FunctionError(errors.not_permitted_text(defined_as))
        if called_as not in (None, defined_as):
            raise FunctionError(errors.wrong_function_type(path, called_as=str(called_as), defined_as=defined_as))
        _check_arguments(state, args)
        state.calls[path] += 1
        if visit.fault("function_timeout") is not None:
            raise FunctionError("Function execution timed out (maximum duration: 1s)")
        if state.functions == "other_answers":
            return {"updated": 0.0}
        if state.functions == "newer":
            args = {**args, "version": 0.0}
        return (run_page if path == "backfill:page" else run_patch)(state, self.limits, args)

    def _failed(self, error: FunctionError) -> Document:
        shown = "" if self.questions.hides_errors else f"\n{error.message}"
        body: Document = {"status": "error", "errorMessage": f"[Request ID: {REQUEST_ID}] Server Error{shown}"}
        if error.data is not None:
            body["errorData"] = error.data
        if not self.questions.hides_errors:
            body["logLines"] = ["[LOG] 'the function was called'"]
        return body


def _check_arguments(state: ConvexDeploymentState, args: Document) -> None:
    """What the validators of the deployed functions say: they take a version and a request."""
    takes = {"userId"} if state.functions == "other_arguments" else {"version", "request"}
    for name in takes - args.keys():
        raise FunctionError(f"ArgumentValidationError: Object is missing the required field `{name}`.")
    for name in args.keys() - takes:
        raise FunctionError(
            f"ArgumentValidationError: Object contains extra field `{name}` that is not in the validator."
        )
    if not isinstance(args.get("version", 0.0), float):
        raise FunctionError("ArgumentValidationError: Value does not match validator. Validator: v.float64()")


def _identity(request: Request, state: ConvexDeploymentState) -> frozenset[str] | None:
    """What the caller may do with a deploy key; None for a user and for nobody."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() not in ("convex", "bearer") or not credentials.strip():
        raise errors.malformed_header()
    if scheme.lower() == "bearer":
        return None
    permissions = state.keys.get(credentials.strip())
    if permissions is None:
        raise errors.bad_admin_key()
    return permissions


def _deploy_key(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "convex" else ""


def _query_parameters(visit: Visit) -> Document:
    query = visit.request.query_params
    try:
        args = orjson.loads(query.get("args", ""))
    except orjson.JSONDecodeError:
        raise errors.bad_body("Failed to deserialize query string") from None
    return {"path": query.get("path"), "args": args, "format": query.get("format")}


def _checked_call(given: Mapping[str, Any]) -> tuple[str, Document]:
    """The path of the function and its arguments, as the function will see them."""
    path, args, form = given.get("path"), given.get("args"), given.get("format")
    if isinstance(args, list) and len(args) == 1:
        [args] = args
    if not isinstance(path, str) or not isinstance(args, dict):
        raise errors.bad_body("Failed to deserialize the JSON body into the target type")
    if form is not None and form not in FORMATS:
        raise errors.bad_format(str(form))
    module, _, name = path.partition(":")
    return f"{module.removesuffix('.js')}:{name or 'default'}", stored(_decoded(args))


def _decoded(value: Any) -> Any:
    """What stands for something that JSON does not have."""
    if isinstance(value, dict):
        if value.keys() == {"$integer"}:
            return Int64()
        return {name: _decoded(each) for name, each in value.items()}
    return [_decoded(each) for each in value] if isinstance(value, list) else value


__all__ = ["FAULT_KINDS", "ConvexQuestions", "ConvexSandbox"]
