"""The sandbox's server: all fake vendors in one process, on 127.0.0.1.

Belongs here: sockets, starting and stopping, and the control routes under `/_sandbox`. Does not belong here: what a
vendor answers (its own file) and what happens to each request (exchange.py).

Every port serves everything; the ports differ so that the accounts of a vendor (the instances of Email Bison) are on
hosts of their own, as they are in the world. Loopback addresses other than 127.0.0.1 would do on Linux only.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router

from backfill_pipelines.sandbox.connections import Connections
from backfill_pipelines.sandbox.exchange import Endpoint, Exchange, Vendor
from backfill_pipelines.sandbox.faults import (
    SHARED_KINDS,
    Fault,
    FaultBook,
    FaultFormatError,
    FaultKinds,
    Trigger,
    describe_fault,
    parse_faults,
)
from backfill_pipelines.sandbox.traffic import LoggedRequest, RequestLog

HOST = "127.0.0.1"
START_SECONDS = 30.0


class SandboxStartError(RuntimeError):
    """The sandbox could not start; the text says why and what to do."""


class SandboxServer:
    """Fake vendors on real sockets.

    A context manager: inside it, a thread of this process serves. `serve_forever` serves in the foreground instead.
    `port` 0 takes free ports; else the first account has `port`, the next one `port` + 1, and so on. `latency_seconds`
    is added to every answer of a vendor.
    """

    def __init__(
        self,
        vendors: Sequence[Vendor],
        *,
        port: int = 0,
        seed: int = 1,
        faults: Sequence[Fault] = (),
        latency_seconds: float = 0.0,
    ) -> None:
        self._vendors = tuple(vendors)
        self._wanted_port = port
        self._log = RequestLog()
        self._connections = Connections()
        self._faults = FaultBook(seed=seed, kinds=known_fault_kinds(vendors), check=self._check_fault, faults=faults)
        self._exchange = Exchange(self._faults, self._log, self._connections, latency_seconds)
        self._ports: list[int] = []
        self._server: _ThreadedServer | None = None
        self._thread: threading.Thread | None = None

    # --- where it is ---------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT` of the first port; the control routes are below it."""
        return self._origin(0)

    def account_urls(self, vendor_name: str) -> dict[str, str]:
        """Account -> base URL of the vendor's API for it, each on its own port, without a slash at the end."""
        vendor = next(vendor for vendor in self._vendors if vendor.name == vendor_name)
        return {
            account: self._origin(position) + vendor.mount_path.replace("{account}", account)
            for position, account in enumerate(vendor.accounts)
        }

    def _origin(self, position: int) -> str:
        if not self._ports:
            raise SandboxStartError("the sandbox is not running; start it before asking for its address")
        return f"http://{HOST}:{self._ports[position]}"

    # --- what it saw, what it does -------------------------------------------------------------------------------

    @property
    def requests(self) -> list[LoggedRequest]:
        """The requests answered so far, oldest first."""
        return self._log.entries()

    def add_faults(self, document: object) -> None:
        """Arm faults, written as in a faults file (a list of mappings). Raises FaultFormatError."""
        self._faults.add(parse_faults(document, self._faults.kinds))

    def clear_faults(self) -> None:
        """Take all faults and hooks away."""
        self._faults.clear()

    def after(self, trigger: Trigger, action: Callable[[], None]) -> None:
        """Call `action` in the server's thread after each request the trigger strikes, before its answer is sent."""
        self._faults.after(trigger, action)

    def reset(self) -> None:
        """Back to the seeded state: data, sessions, quotas, log, and the faults it was started with; hooks are gone."""
        for vendor in self._vendors:
            vendor.reset()
        self._faults.reset()
        self._log.reset()

    # --- running -------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Serve in a thread; returns when the sockets answer. Raises SandboxStartError."""
        server, sockets = self._prepare()
        thread = threading.Thread(target=server.run_until_stopped, args=(sockets,), name="sandbox", daemon=True)
        thread.start()
        server.settled.wait(START_SECONDS)
        if not server.started:
            self._ports = []
            raise SandboxStartError("the sandbox's server did not start; its log says why")
        self._server, self._thread = server, thread
        return self

    def stop(self) -> None:
        """Stop serving; open connections are closed. Does nothing when it does not run."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()
        self._server, self._thread, self._ports = None, None, []

    def serve_forever(self, announce: Callable[[SandboxServer], None]) -> None:
        """Serve in the foreground until SIGINT or SIGTERM; `announce` is called once the addresses are known."""
        server, sockets = self._prepare()
        announce(self)
        server.run(sockets=sockets)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> tuple[_ThreadedServer, list[socket.socket]]:
        count = max((len(vendor.accounts) for vendor in self._vendors), default=1)
        sockets = _listen(self._wanted_port, count)
        self._ports = [each.getsockname()[1] for each in sockets]
        configuration = uvicorn.Config(
            self._application(),
            http=self._connections.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        return _ThreadedServer(configuration), sockets

    def _application(self) -> Starlette:
        routes: list[BaseRoute] = [
            Route("/_sandbox/requests", self._show_requests, methods=["GET"]),
            Route("/_sandbox/faults", self._show_faults, methods=["GET"]),
            Route("/_sandbox/faults", self._post_faults, methods=["POST"]),
            Route("/_sandbox/faults", self._delete_faults, methods=["DELETE"]),
            Route("/_sandbox/reset", self._post_reset, methods=["POST"]),
        ]
        routes += [Mount(vendor.mount_path, app=self._vendor_router(vendor)) for vendor in self._vendors]
        return Starlette(routes=routes)

    def _vendor_router(self, vendor: Vendor) -> Router:
        return Router(
            routes=[
                Route(
                    route.path,
                    Endpoint(self._exchange, vendor, route.path.replace(":int}", "}"), route.handler),
                    methods=[route.method],
                )
                for route in vendor.routes()
            ],
            default=Endpoint(self._exchange, vendor, "unknown", vendor.unknown_route),
            redirect_slashes=False,
        )

    def _check_fault(self, fault: Fault) -> None:
        for vendor in self._vendors:
            if fault.kind in vendor.fault_kinds:
                vendor.check_fault(fault)

    async def _show_requests(self, _request: Request) -> Response:
        return _json({"total": self._log.total(), "counts": self._log.counts()})

    async def _show_faults(self, _request: Request) -> Response:
        return _json({"faults": [describe_fault(fault) for fault in self._faults.in_force()]})

    async def _post_faults(self, request: Request) -> Response:
        try:
            self.add_faults(orjson.loads(await request.body()))
        except (orjson.JSONDecodeError, FaultFormatError) as error:
            return _json({"error": str(error)}, status=422)
        return await self._show_faults(request)

    async def _delete_faults(self, request: Request) -> Response:
        self.clear_faults()
        return await self._show_faults(request)

    async def _post_reset(self, _request: Request) -> Response:
        self.reset()
        return _json({"reset": True})


def known_fault_kinds(vendors: Sequence[Vendor]) -> FaultKinds:
    """Every kind of fault these vendors show, with the parameters it takes."""
    kinds = dict(SHARED_KINDS)
    for vendor in vendors:
        kinds.update(vendor.fault_kinds)
    return kinds


class _ThreadedServer(uvicorn.Server):
    """uvicorn's server, with an event for "it serves, or it failed"."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()

    def run_until_stopped(self, sockets: list[socket.socket]) -> None:
        """The thread's body."""
        try:
            self.run(sockets)
        finally:
            self.settled.set()


def _listen(port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets: on `port` and the following ones, or on free ports for 0."""
    sockets: list[socket.socket] = []
    for position in range(count):
        each = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sockets.append(each)
        try:
            each.bind((HOST, port + position if port else 0))
        except OSError:
            for opened in sockets:
                opened.close()
            message = f"port {port + position} is taken; stop what listens there or choose another with --port"
            raise SandboxStartError(message) from None
        each.listen(2048)
    return sockets


def _json(document: Mapping[str, object], *, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


__all__ = ["SandboxServer", "SandboxStartError", "known_fault_kinds"]
