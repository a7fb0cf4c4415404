"""A server on a real socket that answers each request as a script says, faults included.

Belongs here: what a connection can do to a client. Does not belong here: anything about one vendor.
"""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Behaviour = Callable[["_Connection"], bool]
"""Does something with the connection; True if it stays open."""


def answer(status: int = 200, body: Any = None, headers: Mapping[str, str] | None = None) -> Behaviour:
    """A complete response; anything but bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    response = "\r\n".join([*lines, "", ""]).encode() + content

    def behave(connection: _Connection) -> bool:
        connection.wfile.write(response)
        return True

    return behave


def reset(connection: _Connection) -> bool:
    """The connection breaks after the request was read."""
    connection.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def close(connection: _Connection) -> bool:
    """The connection ends in good order, without an answer."""
    return False


def truncate(connection: _Connection) -> bool:
    """Half of a body, then the end."""
    connection.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"data": [')
    return False


def trickle(connection: _Connection) -> bool:
    """A body that never ends and never pauses for long."""
    connection.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not connection.server.stopping.wait(0.02):
        connection.wfile.write(b" ")
    return False


def hang(connection: _Connection) -> bool:
    """No answer at all."""
    connection.server.stopping.wait()
    return False


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        try:
            while (received := self._read()) is not None and self.server.next_behaviour(received)(self):
                pass
        except OSError:
            pass  # the client has gone; what it does then is its own test

    def _read(self) -> Received | None:
        line = self.rfile.readline().decode("latin-1").split()
        if not line:
            return None
        headers: dict[str, str] = {}
        while (header := self.rfile.readline().decode("latin-1").strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        return Received(line[0], line[1], headers, self.rfile.read(int(headers.get("content-length", 0))))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 500

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.stopping = threading.Event()
        self.received: list[Received] = []
        self.script: list[Behaviour] = []
        self._lock = threading.Lock()

    def next_behaviour(self, received: Received) -> Behaviour:
        with self._lock:
            self.received.append(received)
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class ScriptedServer:
    """Answers with `script` in order, and with its last line from then on."""

    def __init__(self, *script: Behaviour) -> None:
        self._server = _Server()
        self._server.script = list(script)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def received(self) -> list[Received]:
        return self._server.received

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
