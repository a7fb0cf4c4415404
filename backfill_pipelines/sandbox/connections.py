"""The server's side of a connection, so that a fault can break it.

Belongs here: finding the transport of a request and resetting it. Does not belong here: when to do so. ASGI has no way
to drop a connection, and an application that just returns makes uvicorn answer 500.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connections:
    """The open connections of one server.

    Found by both ends' addresses: the kernel gives the same client port to connections to different server ports.
    """

    def __init__(self) -> None:
        self._transports: dict[tuple[object, object], asyncio.Transport] = {}

    def protocol(self) -> type[HttpToolsProtocol]:
        """The HTTP protocol to give to uvicorn: its own, but each connection is noted here."""
        transports = self._transports

        class NotedProtocol(HttpToolsProtocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
                super().connection_made(transport)
                transports[self.client, self.server] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                transports.pop((self.client, self.server), None)

        return NotedProtocol

    async def drop(self, scope: Scope, receive: Receive) -> None:
        """Reset the connection of this request: the peer sees ECONNRESET, or an end without an answer."""
        transport = self._transports[scope["client"], scope["server"]]
        _reset_on_close(transport)
        transport.abort()
        # The server must have noticed before the application returns; else it would log a missing answer.
        while (await receive())["type"] != "http.disconnect":
            pass


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Make the close a TCP reset (linger of 0 s) and not an orderly end."""
    number = transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(number)) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


__all__ = ["Connections"]
