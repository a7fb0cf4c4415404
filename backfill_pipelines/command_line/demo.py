"""`backfill demo` and `backfill sandbox`: the product on invented data.

Belongs here: putting the fake vendors, an embedded Postgres and the commands together. Does not belong here: the
vendors' behaviour and data (`sandbox/`), and anything a user's own database could notice: the demo has its own home.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from backfill_pipelines.command_line.failures import FAILED, USAGE_OR_CONFIGURATION, print_json
from backfill_pipelines.command_line.output import print_runs, terminal_progress, wide_console
from backfill_pipelines.command_line.run import execute_backfill
from backfill_pipelines.command_line.verify import comparison_as_json, verify_partitions
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.location import home_folder
from backfill_pipelines.database.tables import metadata
from backfill_pipelines.definitions import all_backfills
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import partition_keys
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.runtime import open_database, open_runtime
from backfill_pipelines.sandbox.entry import Sandbox, build_sandbox, serve_sandbox
from backfill_pipelines.sandbox.faults import FaultFormatError
from backfill_pipelines.sandbox.leads_filling import fill_clients
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines.sandbox.server import SandboxStartError
from backfill_pipelines.sandbox.traffic import RateLimit

# The demo shows what the product does, not how long a vendor's limit makes it wait.
_DEMO_RATE_LIMIT = RateLimit(60_000, 60.0)
# What the demo must never touch: it runs on its own server, whatever the environment names.
_REPLACED_VARIABLES = ("DATABASE_URL", "DAGSTER_POSTGRES_URL", "DAGSTER_HOME", "BACKFILL_HOME", "BACKFILL_CLIENTS")


def run_demo(*, clients: int, as_json: bool) -> int:
    """Run and verify every backfill on invented data; returns 0 when all are verified."""
    # What is told on the way goes where the document does not.
    console = Console(stderr=True) if as_json else wide_console()
    documents: list[dict[str, Any]] = []
    sandbox = build_sandbox(clients=clients, email_bison_rate_limit=_DEMO_RATE_LIMIT)
    with sandbox_environment(sandbox) as home:
        _make_product_tables(sandbox, anew=True)
        failed = False
        for backfill in all_backfills():
            console.rule(f"{backfill.name}: {backfill.description}", align="left")
            done = execute_backfill(backfill.name, clients=[], all_partitions=True, dry_run=False, options={})
            runs = _verify(backfill)
            failed |= done.exit_code != 0 or not all(run.verification and run.verification["passed"] for run in runs)
            if as_json:
                documents.append({**done.document(), "verification": [comparison_as_json(run) for run in runs]})
                continue
            print_runs(backfill.name, done.runs, dry_run=False, unaccounted=done.unaccounted)
            _print_summary(console, backfill, runs)
        if as_json:
            print_json({"verified": not failed, "home": str(home), "backfills": documents})
        else:
            _print_next_commands(console, home)
    return FAILED if failed else 0


def _verify(backfill: Backfill) -> list[Run]:
    with terminal_progress(f"{backfill.name}: verify") as progress, open_runtime(progress=progress) as runtime:
        return verify_partitions(runtime, backfill, partition_keys(backfill, runtime.registry))


def _print_summary(console: Console, backfill: Backfill, runs: Sequence[Run]) -> None:
    table = Table(title=f"{backfill.name}: source against target, read again", title_justify="left")
    for column in ("partition", "equal", "missing", "extra", "different", "explained", "verdict"):
        table.add_column(column, justify="left" if column in ("partition", "verdict") else "right")
    for run in runs:
        compared = run.verification or {}
        figures = [str(compared.get(name, "")) for name in ("equal", "missing", "extra", "different", "explained")]
        verdict = "[green]equal[/]" if compared.get("passed") else f"[red]{run.error_code or 'DIFFERENT'}[/]"
        table.add_row(run.partition_key, *figures, verdict)
    console.print(table)


def _print_next_commands(console: Console, home: Path) -> None:
    relative = os.path.relpath(home)
    console.print(
        "\nAll of this is in the demo's own database. Next:\n"
        "  make dev                      the same in the Dagster UI: partitions, runs, checks, undo\n"
        f"  export BACKFILL_HOME={relative} BACKFILL_CLIENTS={relative}/clients.yaml\n"
        "  backfill status               what ran; then backfill show RUN_ID, backfill undo RUN_ID\n"
        '  psql "$(backfill db url)"      the tables themselves, while make dev runs\n'
        'Your own clients: README.md, "The real thing".',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def sandbox_environment(sandbox: Sandbox) -> Iterator[Path]:
    """Serve the fake vendors, and let this process and its children see only them and the demo's own home."""
    home = home_folder({}, Path.cwd()) / "demo"
    home.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.pop(name) for name in _REPLACED_VARIABLES if name in os.environ}
    sandbox.server.start()
    try:
        (home / "clients.yaml").write_text(sandbox.registry_yaml(), encoding="utf-8")
        os.environ |= {"BACKFILL_HOME": str(home), "BACKFILL_CLIENTS": str(home / "clients.yaml")}
        yield home
    finally:
        sandbox.server.stop()
        _restore(before)


def _restore(before: Mapping[str, str]) -> None:
    for name in _REPLACED_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


def make_product_tables(sandbox: Sandbox) -> None:
    """Make and fill the product's tables in the demo's database, unless they are there."""
    _make_product_tables(sandbox, anew=False)


def _make_product_tables(sandbox: Sandbox, *, anew: bool) -> None:
    with open_database() as (engine, _), engine.begin() as connection:
        if anew:
            # The demo's own database on the demo's own server: see `sandbox_environment`.
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
            ours = ", ".join(table.fullname for table in metadata.sorted_tables)
            connection.execute(text(f"TRUNCATE {ours}"))
        if connection.scalar(text("SELECT to_regclass('public.client_leads')")) is None:
            connection.exec_driver_sql(product_schema_sql())
            fill_clients(driver_connection(connection), sandbox.product_clients)


def serve_fake_vendors(*, port: int, seed: int, clients: int, faults: Path | None) -> int:
    """Serve the fake vendors until Ctrl-C; returns the exit code."""

    def announce(sandbox: Sandbox) -> None:
        for instance, url in sandbox.server.account_urls(sandbox.email_bison.name).items():
            print(f"Email Bison, instance {instance}: {url}", file=sys.stderr)
        for vendor in (sandbox.gohighlevel, sandbox.clerk, sandbox.attio, sandbox.convex):
            for account, url in sandbox.server.account_urls(vendor.name).items():
                print(f"{vendor.name.title()}, {account}: {url}", file=sys.stderr)
        print(f"requests so far: {sandbox.server.base_url}/_sandbox/requests", file=sys.stderr)
        print("A clients.yaml for it is on stdout. Ctrl-C ends it.", file=sys.stderr)
        sys.stdout.write(sandbox.registry_yaml())
        sys.stdout.flush()

    try:
        serve_sandbox(build_sandbox(seed=seed, clients=clients, port=port, faults_file=faults), announce)
    except (SandboxStartError, FaultFormatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_OR_CONFIGURATION
    except KeyboardInterrupt:
        return 0
    return 0
