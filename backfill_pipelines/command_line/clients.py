"""`backfill clients`: the registry, a check of every access in it, and tokens minted for a client.

Belongs here: what is printed. Does not belong here: calling the vendors (`access_checks.py`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.markup import escape
from rich.table import Table

from backfill_pipelines.backfills.client_leads_proof import bison_access
from backfill_pipelines.command_line.access_checks import check_accesses, email_bison_of
from backfill_pipelines.command_line.failures import FAILED, UsageError, print_json
from backfill_pipelines.command_line.output import wide_console
from backfill_pipelines.engine.client_rows import with_clients_of
from backfill_pipelines.engine.runtime import open_database
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Client, Registry, load_registry, registry_path
from backfill_pipelines.vendors.transport import open_http_client


def list_clients(*, check: bool, as_json: bool) -> int:
    """Print the registry's clients and workspaces; with `check` call each vendor once. Returns the exit code."""
    registry = _whole_registry()
    checks = asyncio.run(check_accesses(registry)) if check else {}
    entries = [
        *(
            {"key": c.key, "kind": "client", "uses": _sections(c, "email_bison", "gohighlevel", "leads")}
            for c in registry.clients
        ),
        *(
            {"key": w.key, "kind": "workspace", "uses": _sections(w, "clerk", "attio", "convex")}
            for w in registry.workspaces
        ),
    ]
    if as_json:
        print_json({"clients": [{**entry, "checks": checks.get(str(entry["key"]), {})} for entry in entries]})
    else:
        _print(entries, checks, check=check)
    return FAILED if any(answer != "ok" for answers in checks.values() for answer in answers.values()) else 0


def _whole_registry() -> Registry:
    """The registry as a run sees it. Where it takes clients from no database, none is opened: listing needs none."""
    registry = load_registry(registry_path(os.environ, Path.cwd()), environ=os.environ)
    if not registry.clients_from_database:
        return registry
    with open_database() as (engine, _):
        return with_clients_of(engine, registry)


def _sections(entry: object, *names: str) -> list[str]:
    return [name for name in names if getattr(entry, name) is not None]


def _print(entries: list[dict[str, Any]], checks: dict[str, dict[str, str]], *, check: bool) -> None:
    table = Table()
    for column in ("key", "kind", "uses", *(("check",) if check else ())):
        table.add_column(column)
    for entry in entries:
        answers = checks.get(str(entry["key"]), {})
        checked = "; ".join(f"{vendor}: {answer}" for vendor, answer in answers.items()) or "not checked"
        # Escaped: an error's code stands in brackets, as rich's own marks do.
        table.add_row(entry["key"], entry["kind"], ", ".join(entry["uses"]), *((escape(checked),) if check else ()))
    wide_console().print(table)


def mint_client_token(key: str) -> int:
    """Mint a client's own token and print it once; returns the exit code. Refuses anything but a terminal."""
    if not sys.stdout.isatty():
        raise UsageError("not_a_terminal", "A token is printed to a terminal only; run this without a pipe or a file.")
    registry = load_registry(registry_path(os.environ, Path.cwd()), environ=os.environ)
    client = registry.client(key)
    admin = registry.bison_instance(client).admin_token
    if admin is None:
        raise ConfigurationError(
            "no_admin_token", f"The Email Bison instance of client {key} has no admin_token in the registry; add it."
        )
    token = asyncio.run(_mint(registry, client, admin.resolve()))
    print(token.get_secret_value())
    print("Shown once. Put it into the environment and name it as this client's email_bison.token.", file=sys.stderr)
    return 0


async def _mint(registry: Registry, client: Client, admin: SecretStr) -> SecretStr:
    async with open_http_client() as http:
        bison = email_bison_of(http, registry, client, admin)
        return await bison.mint_token(bison_access(client).workspace_id, name="backfill_pipelines")
