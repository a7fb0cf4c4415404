"""Every personal value and secret of a fake world: none of them may come up in a log, an event or an answer.

Belongs here: collecting them, and finding them in text. Does not belong here: where to look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Workspace

_SHORTEST = 4
"""Shorter values (`Li`, `Bo`) stand in other words by chance."""


def canaries_of(world: EmailBisonWorld) -> set[str]:
    """Addresses, names, companies, phones and tokens of everybody in the world, as they are spelt there."""
    found: set[str] = set()
    for instance in world.instances:
        found |= {instance.admin_token, instance.other_session_token}
    public = set()
    for _, workspace in world.all_workspaces():
        found |= {value.strip() for value in _values(workspace) if value is not None}
        public |= set(re.findall(r"\w+", f"{workspace.name} {workspace.client_key}".lower()))
    # What a client's own name holds is shown everywhere, by design.
    return {value for value in found if len(value) >= _SHORTEST and value.lower() not in public}


def _values(workspace: Workspace) -> Iterator[str | None]:
    yield workspace.token
    yield workspace.token.partition("|")[2]
    for sender in workspace.sender_emails:
        yield sender.email
    for lead in workspace.leads:
        yield from (lead.email, lead.first_name, lead.last_name, lead.company)
        yield from (
            value for name, value in lead.custom_variables if "phone" in name.lower() or "mobile" in name.lower()
        )
    for reply in workspace.replies:
        yield from (reply.from_name, reply.from_email_address)


def found_in(texts: Iterable[str], canaries: Iterable[str]) -> set[str]:
    """The canaries that stand in any of the texts: as words of their own, in whatever case, as JSON spells them too."""
    everything = "\n".join(texts).lower()
    return {
        canary
        for canary in canaries
        if any(_stands_in(everything, spelling.lower()) for spelling in {canary, json.dumps(canary)[1:-1]})
    }


def _stands_in(everything: str, spelling: str) -> bool:
    return spelling in everything and re.search(rf"(?<!\w){re.escape(spelling)}(?!\w)", everything) is not None
