"""One request from arrival to answer, the same for every fake vendor.

Belongs here: the order of things (quota, faults, delay, the vendor's handler, hooks, log, delivery) and the broken ways
of delivering an answer. Does not belong here: sockets (server.py) and what a vendor answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from backfill_pipelines.sandbox.connections import Connections
from backfill_pipelines.sandbox.faults import Call, Fault, FaultBook, FaultKinds
from backfill_pipelines.sandbox.traffic import RequestLog

SLOW_CHUNKS = 8
"""Pieces a slow body is sent in: enough that a timeout between two bytes and one for the whole differ."""


@dataclass(slots=True)
class Answer:
    """A response before it is delivered."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, document: object, *, headers: Mapping[str, str] | None = None) -> Answer:
        """An answer whose body is this document."""
        return cls(status, orjson.dumps(document), headers=headers or {})


class RefusalError(Exception):
    """Ends a handler with an answer: the vendor's own error."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(slots=True)
class Visit:
    """One request on its way through a vendor's handler.

    `served_workspace` starts as the caller's own and is for the log; a handler that serves another's rows says so here.
    """

    request: Request
    body: bytes
    call: Call
    faults: tuple[Fault, ...]
    served_workspace: str

    def fault(self, kind: str) -> Fault | None:
        """The first fault of this kind that strikes this request."""
        return next((fault for fault in self.faults if fault.kind == kind), None)


Handler = Callable[[Visit], Answer]


@dataclass(frozen=True, slots=True)
class VendorRoute:
    """A path below the vendor's mount point (Starlette's syntax) and who answers it."""

    method: str
    path: str
    handler: Handler


class Vendor(Protocol):
    """What a fake vendor gives to the server."""

    name: str
    accounts: Sequence[str]
    """Each is served from a host of its own (another port), in this order."""
    mount_path: str
    """Where its routes begin, with the path parameter `{account}` if it has several."""
    fault_kinds: FaultKinds
    """The kinds of fault that only this vendor shows."""

    def routes(self) -> Sequence[VendorRoute]:
        """Its routes; what none of them matches goes to `unknown_route`."""
        ...

    def unknown_route(self, visit: Visit) -> Answer:
        """The answer to a path the vendor does not have."""
        ...

    def check_fault(self, fault: Fault) -> None:
        """Refuse a fault of its own kinds that makes no sense here. Raises FaultFormatError."""
        ...

    def describe(self, request: Request, template: str) -> Call:
        """Whose request this is. Never fails: an unknown caller has no workspace."""
        ...

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a permit of the caller's quota: headers for every answer, and the refusal if there was none left."""
        ...

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:
        """The vendor's own 429."""
        ...

    def after_request(self, visit: Visit) -> None:
        """Changes of the vendor's own faults that happen once the answer is made up."""
        ...

    def reset(self) -> None:
        """Back to the seeded state."""
        ...


@dataclass(slots=True)
class Exchange:
    """What all vendors of one server share."""

    faults: FaultBook
    log: RequestLog
    connections: Connections
    latency_seconds: float


class Endpoint:
    """The ASGI application behind one route of a vendor."""

    def __init__(self, exchange: Exchange, vendor: Vendor, template: str, handler: Handler) -> None:
        self._exchange = exchange
        self._vendor = vendor
        self._template = template
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        body = await request.body()
        call = self._vendor.describe(request, self._template)
        faults = self._exchange.faults.striking(call)
        visit = Visit(request, body, call, faults, served_workspace=call.workspace)
        headers, refusal = self._vendor.admit(call)
        answer = refusal or await self._answer(visit)
        dropped = refusal is None and any(fault.kind in {"reset", "lost_reply"} for fault in faults)
        self._exchange.log.add(
            call,
            query=scope["query_string"].decode("latin-1"),
            served_workspace=visit.served_workspace,
            status=0 if dropped else answer.status,
            faults=tuple(fault.kind for fault in faults),
        )
        if dropped:
            await self._exchange.connections.drop(scope, receive)
            return
        answer.headers = {**headers, **answer.headers}
        await self._deliver(answer, visit, receive, send)

    async def _answer(self, visit: Visit) -> Answer:
        """The vendor's answer, or the one of a fault that comes before it; then whatever is due after the request."""
        delay = self._exchange.latency_seconds
        delay += sum(fault.number("seconds", 1.0) for fault in visit.faults if fault.kind == "latency")
        if delay > 0:
            await asyncio.sleep(delay)
        answer = self._fault_before(visit)
        if answer is None:
            try:
                answer = self._handler(visit)
            except RefusalError as refusal:
                answer = refusal.answer
        self._vendor.after_request(visit)
        for action in self._exchange.faults.actions_after(visit.call):
            action()
        return answer

    def _fault_before(self, visit: Visit) -> Answer | None:
        for fault in visit.faults:
            if fault.kind == "status":
                return error_page(int(fault.number("status", 500)))
            if fault.kind == "rate_limited":
                return self._vendor.rate_limited(retry_after_seconds=int(fault.number("retry_after", 1)))
            if fault.kind == "reset":
                return error_page(503)
        return None

    async def _deliver(self, answer: Answer, visit: Visit, receive: Receive, send: Send) -> None:
        """Send the answer, broken where a fault says so."""
        body = answer.body
        if visit.fault("truncated_json") is not None:
            body = body[: len(body) // 2]
        headers = {"content-type": answer.content_type, "content-length": str(len(body)), **answer.headers}
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        slow = visit.fault("slow_body")
        if visit.fault("cut_body") is not None:
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await self._exchange.connections.drop(visit.request.scope, receive)
        elif slow is not None:
            step = -(-len(body) // SLOW_CHUNKS) or 1
            for start in range(0, len(body), step):
                await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
                await asyncio.sleep(slow.number("seconds", 1.0) / SLOW_CHUNKS)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": body})


def error_page(status: int) -> Answer:
    """What a proxy in front of a vendor answers: HTML where JSON is expected."""
    title = {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out"}
    heading = f"{status} {title.get(status, 'Error')}"
    page = f"<html>\r\n<head><title>{heading}</title></head>\r\n<body>\r\n<center><h1>{heading}</h1></center>\r\n"
    return Answer(status, (page + "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n").encode(), "text/html")


__all__ = ["Answer", "Endpoint", "Exchange", "Handler", "RefusalError", "Vendor", "VendorRoute", "Visit", "error_page"]
