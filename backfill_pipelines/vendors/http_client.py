"""The one pool of connections that all vendors' clients of a process share.

Belongs here: how connections are made, kept and timed. Does not belong here: anything about a vendor or an account.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Between two packets of a response; a response as a whole is bounded by `ApiClient`. Half of a request's minute
(`RetryPolicy.give_up_after_seconds`), so that one answer that never comes is asked for again. The longest that a vendor
documents is about 20 s: a Convex mutation waits 5 s for its slot and may take 15 s."""
CONNECTIONS = 400
"""100 locations with 3 requests in flight each, and room: one that waits for a connection is sent after its slot."""
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which common servers (Node, uvicorn) close an idle connection: one that closes while we
send makes a write ambiguous."""


@asynccontextmanager
async def open_http_client(*, connections: int = CONNECTIONS) -> AsyncIterator[httpx.AsyncClient]:
    """Open the shared client; everything in it is closed on leaving.

    - aiohttp's transport costs a fifth of the processor time of httpx's own.
    - The environment is not trusted: proxy variables would swap that transport for httpx's own and send the sandbox's
      loopback traffic to a proxy, and a `.netrc` could add credentials of its own. `SSL_CERT_FILE` is still honoured.
    - No redirects: a token must not follow one. No cookies, in either library: they would carry the session of one
      account into the requests of another.
    - aiohttp's own repetition of a PUT or DELETE on a broken connection is off: what is sent twice is decided here.
    """
    _silence_request_lines()
    context = httpx.create_ssl_context()
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=context)
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    session._retry_connection = False  # there is no public switch; a test sees to it that this one still works
    async with httpx.AsyncClient(
        transport=AiohttpTransport(verify=context, client=session),
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=READ_SECONDS),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield client


def _below_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _silence_request_lines() -> None:
    """httpx logs every URL at INFO, and a URL may hold an e-mail address. A filter holds whatever level is set."""
    request_lines = logging.getLogger("httpx")
    if _below_warning not in request_lines.filters:
        request_lines.addFilter(_below_warning)
