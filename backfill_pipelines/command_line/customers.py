"""`backfill customers merge`, `split` and `why`.

Belongs here: asking for one, showing its outcome, the exit code; masking. Does not belong here: what a merge or a split
does, and why two leads are one customer (`backfills/customers_manual_run.py`, `customers_why.py`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any

from backfill_pipelines.backfills.customers_manual_run import merge_customers, split_customer
from backfill_pipelines.backfills.customers_why import EXPLANATIONS, Decision, Identifier, LeadFacts, Why
from backfill_pipelines.backfills.customers_why_source import why
from backfill_pipelines.command_line.failures import FAILED, UsageError, print_json
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.output import explanations, run_as_json, terminal_progress, wide_console
from backfill_pipelines.command_line.run import exit_code
from backfill_pipelines.command_line.services import stop_on_signals
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.runtime import Runtime, open_runtime

_MASK = "•••"
_DONE = {
    "customers_created": "customers made",
    "customers_deleted": "customers deleted",
    "leads_linked": "leads moved",
    "jobs_linked": "jobs moved",
}


def merge(*, into: str, gone: str, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Merge two customers; returns the exit code."""
    return _decide(
        "merge",
        lambda runtime: merge_customers(runtime, into=into, gone=gone, dry_run=dry_run),
        dry_run=dry_run,
        as_json=as_json,
        verbose=verbose,
    )


def split(*, customer: str, leads: Sequence[str], name: str | None, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Split leads off a customer; `leads` are ids, or several with commas between them. Returns the exit code."""
    chosen = [lead.strip() for given in leads for lead in given.split(",")]
    return _decide(
        "split",
        lambda runtime: split_customer(runtime, customer=customer, leads=chosen, name=name, dry_run=dry_run),
        dry_run=dry_run,
        as_json=as_json,
        verbose=verbose,
    )


def _decide(
    command: str,
    work: Callable[[Runtime], Coroutine[Any, Any, Run]],
    *,
    dry_run: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    configure_logs(verbose=verbose)
    stop = threading.Event()
    with ExitStack() as stack:
        progress = stack.enter_context(terminal_progress(f"customers: {command}{' (dry run)' if dry_run else ''}"))
        runtime = stack.enter_context(open_runtime(progress=progress, stop=stop))
        with stop_on_signals(stop):
            run = runtime.run(work(runtime))
    if as_json:
        shown = {**run_as_json(run), "plan_hash": run.details.get("plan_hash")}
        print_json({"backfill": run.backfill, "command": command, "mode": run.mode, "partitions": [shown]})
    else:
        _print_run(command, run, dry_run=dry_run)
    code = exit_code([run], dry_run=dry_run)
    # What it had to leave, somebody has to look at: half a merge is no merge.
    return FAILED if code == 0 and not dry_run and run.counts.get("conflict") else code


def _print_run(command: str, run: Run, *, dry_run: bool) -> None:
    console = wide_console()

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if run.state is State.SUCCEEDED:
        done = ", ".join(f"{run.details.get(name, 0)} {words}" for name, words in _DONE.items())
        tell(f"{run.partition_key}: {command}{' (dry run)' if dry_run else ''}: {done}")
        tell(f"customer: {run.details.get('into_customer') or run.details.get('new_customer')}")
    for line in explanations([run], unaccounted=[]):
        tell(line)
    if run.reasons.get("in_use"):
        tell("The customer that was merged stays: something else points to it. Later backfills take it for the other.")
    if run.state is State.SUCCEEDED:
        tell(f"look:    backfill show {run.id}")
        if not dry_run:
            tell(f"undo:    backfill undo {run.id}")


# --- why -------------------------------------------------------------------------------------------------------------


def explain(lead: str, other: str, *, reveal: bool, as_json: bool) -> int:
    """Say why two leads are the same customer or not; returns the exit code."""
    if reveal and (as_json or not sys.stdout.isatty()):
        raise UsageError(
            "no_terminal", "--reveal prints people's values, to a terminal only; leave it out, or call it at one."
        )
    configure_logs(verbose=False)
    with ExitStack() as stack:
        progress = stack.enter_context(terminal_progress("customers: why"))
        runtime = stack.enter_context(open_runtime(progress=progress))
        answer = why(runtime, lead, other)
    if as_json:
        print_json(_as_json(answer))
    else:
        _print_answer(answer, reveal=reveal)
    return 0


def _as_json(answer: Why) -> dict[str, Any]:
    return {
        "same": answer.is_same,
        "decided_by": answer.decided_by,
        "explanation": EXPLANATIONS[answer.decided_by],
        "shared": list(answer.shared),
        "masked": True,
        "leads": [_lead_as_json(lead) for lead in answer.leads],
        "merges": [{"from": merge.gone, "into": merge.into, "run_id": merge.run_id} for merge in answer.merges],
    }


def _lead_as_json(lead: LeadFacts) -> dict[str, Any]:
    return {
        "id": lead.id,
        "customer_id": lead.customer_id,
        "linked": lead.is_linked,
        "rule": lead.rule,
        "guards": list(lead.guards),
        "identifiers": [
            {"kind": each.kind, "state": each.state, "value": None if each.value is None else _MASK}
            for each in lead.identifiers
        ],
        "linked_by": _decision_as_json(lead.linked_by),
        "split_off": _decision_as_json(lead.split_off),
    }


def _decision_as_json(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    at = None if decision.at is None else decision.at.isoformat()
    return {"run_id": decision.run_id, "command": decision.command, "customer_id": decision.customer_id, "at": at}


def _print_answer(answer: Why, *, reveal: bool) -> None:
    console = wide_console()

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    tell(f"{'The same customer' if answer.is_same else 'Not the same customer'}: {EXPLANATIONS[answer.decided_by]}")
    tell(f"decided by {answer.decided_by}; shared: {', '.join(answer.shared) or 'nothing'}")
    for lead in answer.leads:
        tell("")
        tell(f"lead {_printable(lead.id)}: {_standing(lead)}")
        if lead.rule is not None:
            tell(f"  rule     {lead.rule}")
        for identifier in lead.identifiers:
            tell(f"  {identifier.kind:<8} {_shown(identifier, reveal=reveal)}")
        if lead.guards:
            tell(f"  guards   {', '.join(lead.guards)}")
        if lead.split_off is not None:
            tell(f"  split    off by run {lead.split_off.run_id}")
    for merge in answer.merges:
        tell(f"\nmerged: {merge.gone} into {merge.into} by run {merge.run_id}")
    if not reveal and any(lead.identifiers for lead in answer.leads):
        tell("\nValues are masked; --reveal shows them at a terminal.")


def _standing(lead: LeadFacts) -> str:
    if lead.customer_id is None:
        return f"no customer ({lead.conflict})" if lead.conflict else "a new customer, once a run has made it"
    if not lead.is_linked:
        return f"customer {lead.customer_id}, once a run has linked it"
    if lead.linked_by is None:
        return f"customer {lead.customer_id}, linked by somebody else than a run that is known"
    by = "run" if lead.linked_by.command == "run" else f"{lead.linked_by.command}, run"
    return f"customer {lead.customer_id}, linked by {by} {lead.linked_by.run_id}"


def _shown(identifier: Identifier, *, reveal: bool) -> str:
    if identifier.value is None:
        return "none"
    return f"{_printable(identifier.value) if reveal else _MASK} ({identifier.state})"


def _printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return repr(text)[1:-1]
