"""The command `backfill`: its arguments, exit codes, and how errors are shown.

Belongs here: arguments and options. Does not belong here: doing anything: each command imports what it needs from
`command_line/` when it is called, so that `backfill --help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Backfills between SaaS systems and Postgres: planned, resumable, undoable.",
    no_args_is_help=True,
    # A traceback with local variables would print personal values.
    pretty_exceptions_enable=False,
    add_completion=False,
)
customers_app = typer.Typer(
    help="What people decide about customers, and why they are as they are.", no_args_is_help=True
)
clients_app = typer.Typer(help="The registry's clients and workspaces.", invoke_without_command=True)
database_app = typer.Typer(help="The schema backfill and the embedded server.", no_args_is_help=True)
report_app = typer.Typer(help="Reports over what was written.", no_args_is_help=True)
attio_app = typer.Typer(help="What Attio needs for our backfills.", no_args_is_help=True)
convex_app = typer.Typer(help="Our functions in an app's Convex project.", no_args_is_help=True)
app.add_typer(attio_app, name="attio")
app.add_typer(clients_app, name="clients")
app.add_typer(convex_app, name="convex")
app.add_typer(customers_app, name="customers")
app.add_typer(database_app, name="db")
app.add_typer(report_app, name="report")

BackfillName = Annotated[str, typer.Argument(metavar="NAME", help="The backfill, such as client_leads.")]
Partitions = Annotated[
    list[str] | None, typer.Option("--client", metavar="KEY", help="A client or workspace; may be given several times.")
]
EveryPartition = Annotated[bool, typer.Option("--all", help="Every client (or workspace) of the registry.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log more to stderr.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Partitions per Dagster run; 6 by default, 100 of lead_hydration."),
]
MaxRecords = Annotated[
    int | None, typer.Option("--max-records", min=1, help="Load at most N creates and updates per partition.")
]


@app.command()
def demo(
    *,
    clients: Annotated[int, typer.Option(min=1, help="How many invented clients.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Try everything on invented data: an embedded Postgres, fake vendors, all backfills, verified."""
    from backfill_pipelines.command_line.demo import run_demo

    _leave(run_demo(clients=clients, as_json=as_json))


@app.command()
def dev(
    *,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="With fake vendors and invented data.")] = False,
    port: Annotated[int, typer.Option(help="The port of the UI.")] = 3000,
) -> None:
    """Open the Dagster UI with its daemon, until Ctrl-C."""
    from backfill_pipelines.command_line.dev import serve_ui

    _leave(serve_ui(sandbox=sandbox, port=port))


@app.command()
def run(
    name: BackfillName,
    *,
    client: Partitions = None,
    all_partitions: EveryPartition = False,
    dry_run: DryRun = False,
    max_records: MaxRecords = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming.")] = False,
    accept_moved: Annotated[
        bool, typer.Option("--accept-moved", help="client_leads: accept replies landed for another client before.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="attio_people: replace another user_id that a person has.")
    ] = False,
    include_banned: Annotated[
        bool, typer.Option("--include-banned", help="attio_people, attio_company_orgs: banned users as all others.")
    ] = False,
    min_members: Annotated[
        int | None, typer.Option("--min-members", min=1, help="attio_company_orgs: leave out smaller organizations.")
    ] = None,
    clear_nulls: Annotated[
        bool, typer.Option("--clear-nulls", help="convex_users: remove what Clerk has empty.")
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="lead_hydration: locations at work at once.")
    ] = None,
    per_location_rps: Annotated[
        float | None,
        typer.Option("--per-location-rps", help="lead_hydration: requests a second to one location at most."),
    ] = None,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Extract, plan and load. Exit: 0 done, 1 some failed, 2 a dry run found changes, 3 configuration, 4 parked."""
    from backfill_pipelines.command_line.run import run_backfill

    options = {
        "max_records": max_records,
        "fresh": fresh,
        "accept_moved": accept_moved,
        "overwrite": overwrite,
        "include_banned": include_banned,
        "min_members": min_members,
        "clear_nulls": clear_nulls,
        "concurrency": concurrency,
        "per_location_rps": per_location_rps,
    }
    _leave(
        run_backfill(
            name,
            clients=client or [],
            all_partitions=all_partitions,
            dry_run=dry_run,
            # What was not asked for is left to the backfill, which may not know the option.
            options={option: value for option, value in options.items() if value is not None and value is not False},
            batch_size=batch_size,
            as_json=as_json,
            verbose=verbose,
        )
    )


@app.command()
def verify(
    name: BackfillName,
    *,
    client: Partitions = None,
    all_partitions: EveryPartition = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read source and target again and compare them. Exit: 0 equal, 1 differences."""
    from backfill_pipelines.command_line.verify import verify_backfill

    _leave(verify_backfill(name, clients=client or [], all_partitions=all_partitions, as_json=as_json, verbose=verbose))


@app.command()
def status(name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, *, as_json: AsJson = False) -> None:
    """What ran, per partition."""
    from backfill_pipelines.command_line.inspect_runs import show_status

    _leave(show_status(name, as_json=as_json))


@app.command()
def undo(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID",
            help="A run's id, or a Dagster run's: all its partitions. Or, with --client, a backfill's name.",
        ),
    ],
    *,
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="KEY", help="With a backfill's name: all its runs of that client."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Take a run back, by compare-and-set. Exit: 0 all undone, 1 conflicts left, 2 a dry run found something.

    With a backfill's name and --client, all runs of that client that have something left to undo, newest first. Their
    dry run looks at each one by itself: what a newer run holds counts as a conflict there.
    """
    from backfill_pipelines.command_line import undo as command

    _leave(command.undo(run_id, client=client, dry_run=dry_run, as_json=as_json, verbose=verbose))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    *,
    action: Annotated[str | None, typer.Option(help="Only create, update, conflict, reject or skip.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The changes of a run, with values at a terminal and masked anywhere else."""
    from backfill_pipelines.command_line.inspect_runs import show_changes

    _leave(show_changes(run_id, action=action, limit=limit, as_json=as_json))


@customers_app.command("merge")
def customers_merge(
    *,
    into: Annotated[str, typer.Option("--into", metavar="ID", help="The customer that stays.")],
    gone: Annotated[str, typer.Option("--from", metavar="ID", help="The one that moves into it, and is deleted.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make two customers of a client one. Exit: 0 done, 1 failed or something left, 2 a dry run found changes.

    Leads and jobs move, empty fields are filled, and the other customer is deleted unless something else points to it.
    Later runs of the backfill keep to it, until `backfill undo RUN_ID` takes it back.
    """
    from backfill_pipelines.command_line.customers import merge

    _leave(merge(into=into, gone=gone, dry_run=dry_run, as_json=as_json, verbose=verbose))


@customers_app.command("split")
def customers_split(
    *,
    customer: Annotated[str, typer.Option("--customer", metavar="ID", help="The customer that they are linked to.")],
    leads: Annotated[
        list[str], typer.Option("--leads", metavar="ID,ID", help="The leads; may be given several times.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The new customer's name; that of its newest lead if not given.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Give leads of a customer one of their own. Exit: 0 done, 1 failed or something left, 2 a dry run found changes.

    Their jobs move with them. Later runs of the backfill keep to it, until `backfill undo RUN_ID` takes it back.
    """
    from backfill_pipelines.command_line.customers import split

    _leave(split(customer=customer, leads=leads, name=name, dry_run=dry_run, as_json=as_json, verbose=verbose))


@customers_app.command("why")
def customers_why(
    lead_a: Annotated[str, typer.Argument(metavar="LEAD_A", help="A lead's id.")],
    lead_b: Annotated[str, typer.Argument(metavar="LEAD_B", help="Another lead's id.")],
    *,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the values, at a terminal only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say why two leads are the same customer or not: what they share, the rule, the guard, the run. Reads only."""
    from backfill_pipelines.command_line.customers import explain

    _leave(explain(lead_a, lead_b, reveal=reveal, as_json=as_json))


@attio_app.command("create-attributes")
def attio_create_attributes(
    *, client: Partitions = None, all_workspaces: EveryPartition = False, as_json: AsJson = False
) -> None:
    """Make user_id of people and org_id of companies where they are missing. Exit: 0 all there, 1 not everywhere."""
    from backfill_pipelines.command_line.attio import create_attributes

    _leave(create_attributes(client or [], all_workspaces=all_workspaces, as_json=as_json))


@convex_app.command("install")
def convex_install(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The convex/ folder of the app's project.")],
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a backfill.ts that is another file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy our functions into a project's convex/ folder; `npx convex deploy` then brings them to Convex."""
    from backfill_pipelines.command_line.convex import install

    _leave(install(folder=folder, overwrite=overwrite, as_json=as_json))


@clients_app.callback()
def clients(
    context: typer.Context,
    *,
    check: Annotated[bool, typer.Option("--check", help="Call each vendor once.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registry's clients and workspaces."""
    if context.invoked_subcommand is None:
        from backfill_pipelines.command_line.clients import list_clients

        _leave(list_clients(check=check, as_json=as_json))


@clients_app.command("mint-token")
def mint_token(key: Annotated[str, typer.Argument(metavar="KEY")]) -> None:
    """Make a client's own Email Bison token from the instance's admin token; printed once, to a terminal only."""
    from backfill_pipelines.command_line.clients import mint_client_token

    _leave(mint_client_token(key))


@app.command()
def sandbox(
    *,
    port: Annotated[int, typer.Option(help="The first port; the second instance has the next one.")] = 8900,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 1,
    clients: Annotated[int, typer.Option(min=1)] = 24,
    faults: Annotated[Path | None, typer.Option(metavar="FILE", help="Faults to inject, as YAML or JSON.")] = None,
) -> None:
    """Serve only the fake vendors, until Ctrl-C."""
    from backfill_pipelines.command_line.demo import serve_fake_vendors

    _leave(serve_fake_vendors(port=port, seed=seed, clients=clients, faults=faults))


@database_app.command("upgrade")
def database_upgrade(*, as_json: AsJson = False) -> None:
    """Bring the schema backfill to the newest version."""
    from backfill_pipelines.command_line.database import upgrade

    _leave(upgrade(as_json=as_json))


@database_app.command("url")
def database_url(*, as_json: AsJson = False) -> None:
    """Print where the database is, for psql."""
    from backfill_pipelines.command_line.database import print_url

    _leave(print_url(as_json=as_json))


@database_app.command("reset")
def database_reset(
    *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: AsJson = False
) -> None:
    """Delete the schema backfill, and with it the ledger and every possibility of undo; then make it anew."""
    from backfill_pipelines.command_line.database import reset

    _leave(reset(confirmed=yes, as_json=as_json))


@report_app.command("kpi")
def report_kpi(
    *,
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="The month, in each client's time zone.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the files.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Interested leads per client in a month, as CSV and HTML."""
    from backfill_pipelines.command_line.report import write_kpi_report

    _leave(write_kpi_report(month=month, folder=out, as_json=as_json))


def _leave(exit_code: int) -> None:
    raise typer.Exit(exit_code)


def main() -> None:
    """Run the command; every failure is one sentence on stderr and an exit code, never a traceback with values."""
    _make_streams_usable()
    try:
        # Outside standalone mode the exit code of a command is what the call returns.
        sys.exit(app(prog_name="backfill", standalone_mode=False) or 0)
    except Exception as error:  # noqa: BLE001 - the last place that can keep values from the terminal
        from backfill_pipelines.command_line.failures import report_failure

        sys.exit(report_failure(error, as_json="--json" in sys.argv[1:]))


def _make_streams_usable() -> None:
    """Let no character and no closed stream stop a command: not in the locale C, not under cron with `>&-`."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the process is
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
