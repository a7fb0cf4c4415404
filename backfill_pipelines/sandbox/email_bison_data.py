"""The seeded world of the fake Email Bison: who is in it and what they wrote.

Belongs here: the generation of a world from a seed: workspaces, ids, sizes. Does not belong here: leads and replies
(email_bison_seeded_leads.py, email_bison_seeded_replies.py), what a record holds (email_bison_records.py) and what
changes while the sandbox runs (email_bison_state.py).

Rarities come by position and not by chance ("every 23rd lead has a broken address"): a small world has them too.
"""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from backfill_pipelines.sandbox.email_bison_records import (
    MICROSECONDS_A_DAY,
    WORLD_BEGINS,
    Campaign,
    EmailBisonWorld,
    Instance,
    Reply,
    SenderEmail,
    Workspace,
)
from backfill_pipelines.sandbox.email_bison_seeded_leads import make_leads
from backfill_pipelines.sandbox.email_bison_seeded_replies import ReplyMaker
from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import (
    CAMPAIGN_NAMES,
    CLIENT_ADJECTIVES,
    CLIENT_NAMES,
    CLIENT_NOUNS,
    PEOPLE,
    PHONE_FORMATS,
)

INSTANCE_NAMES = ("main", "second")
WORLD_LASTS = 1_000 * MICROSECONDS_A_DAY
FIRST_REPLY_ID = 1_000
SMALLEST_CLIENT, LARGEST_CLIENT, SKEW = 15, 3_000, 1.3
"""Interested replies of the smallest and the largest client; the skew makes 24 clients have 12,000 together."""
SMALLEST_SCALED_CLIENT = 3
OTHER_REPLIES_PER_INTERESTED = 2.5
REPLIES_PER_INTERESTED_LEAD = 1.7
REPLIES_PER_OTHER_LEAD = 1.4
SILENT_PER_REPLIED_LEAD = 0.33
US_SHARE = 0.6
"""Clients in the United States; the others are spread over the regions that have numbers for fiction."""
ON_SECOND_INSTANCE = (Every(5, at=1), Every(5, at=3))
GAP_BEFORE_REPLY = Every(4, at=0)


class _Ids:
    """Instance-wide counters, as a database's sequences: never reused, shared by all workspaces."""

    def __init__(self) -> None:
        self.campaign, self.sender_email, self.lead, self.token = 100, 500, 20_000, 30


class _Draft(NamedTuple):
    """A workspace whose replies have no ids yet: those are given in the order of all workspaces' messages."""

    workspace: Workspace
    interested_leads: int
    interested: list[bool]


def build_email_bison_world(
    *, seed: int, clients: int = 24, scale: float = 1.0, interested_replies: Sequence[int] | None = None
) -> EmailBisonWorld:
    """The world of a seed: `clients` workspaces on two instances. 24 of them have 12,000 interested replies together.

    `scale` multiplies the sizes; `interested_replies` states them instead, one per client, in the order of the invented
    names (amber-ridge-roofing first). Raises ValueError where their number is not that of the clients.
    """
    rng = random.Random(f"email-bison:{seed}")  # noqa: S311 # invented data
    names = _client_names(clients)
    if interested_replies is None:
        sizes = _skewed_sizes(clients, scale)
        rng.shuffle(sizes)
    elif len(interested_replies) != clients:
        raise ValueError(f"{len(interested_replies)} sizes were given for {clients} clients")
    else:
        sizes = list(interested_replies)
    placed = list(zip(names, sizes, strict=True))
    instances = [
        _build_instance(name, rng, [each for place, each in enumerate(placed) if _instance_of(place) == position])
        for position, name in enumerate(INSTANCE_NAMES)
    ]
    return EmailBisonWorld(seed, tuple(instances))


def client_key_of(name: str) -> str:
    """A registry key for a display name: ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _instance_of(place: int) -> int:
    """Two of five clients are on the second instance."""
    return 1 if any(each.holds(place) for each in ON_SECOND_INSTANCE) else 0


def _skewed_sizes(clients: int, scale: float) -> list[int]:
    spread = LARGEST_CLIENT / SMALLEST_CLIENT
    steps = max(clients - 1, 1)
    return [
        max(SMALLEST_SCALED_CLIENT, round(scale * SMALLEST_CLIENT * spread ** ((1 - rank / steps) ** SKEW)))
        for rank in range(clients)
    ]


def _client_names(clients: int) -> list[str]:
    names = list(CLIENT_NAMES[:clients])
    for number in range(clients - len(names)):
        adjective = CLIENT_ADJECTIVES[number % len(CLIENT_ADJECTIVES)]
        noun = CLIENT_NOUNS[number // len(CLIENT_ADJECTIVES) % len(CLIENT_NOUNS)]
        round_number = number // (len(CLIENT_ADJECTIVES) * len(CLIENT_NOUNS))
        names.append(f"{adjective} {noun}" + (f" {round_number + 1}" if round_number else ""))
    return names


def _build_instance(name: str, rng: random.Random, placed: Sequence[tuple[str, int]]) -> Instance:
    ids = _Ids()
    agency = Workspace(1, "Lanternfish Outreach", "", "US", _token(ids, rng), (), (), (), ())
    drafts: list[_Draft] = []
    workspace_id = 1
    for client_name, size in placed:
        workspace_id += 1 + int(rng.random() * 3)
        drafts.append(_draft_workspace(workspace_id, client_name, size, ids, rng))
    replies = _interleave_replies(drafts, rng)
    workspaces = [
        draft.workspace._replace(replies=tuple(reversed(each))) for draft, each in zip(drafts, replies, strict=True)
    ]
    return Instance(name, 1, _token(ids, rng), _token(ids, rng), (agency, *workspaces))


def _token(ids: _Ids, rng: random.Random) -> str:
    ids.token += 1
    return f"{ids.token}|" + "".join(rng.choices(string.ascii_letters + string.digits, k=40))


def _draft_workspace(workspace_id: int, name: str, size: int, ids: _Ids, rng: random.Random) -> _Draft:
    campaigns = []
    for number in range(2 + size // 150):
        ids.campaign += 1 + int(rng.random() * 3)
        title = CAMPAIGN_NAMES[number % len(CAMPAIGN_NAMES)]
        round_number = number // len(CAMPAIGN_NAMES)
        status = ("Active", "Paused", "Completed")[number % 3]
        campaigns.append(Campaign(ids.campaign, title + (f" {round_number + 1}" if round_number else ""), status))
    ids.campaign += 1
    deleted_campaign_id = ids.campaign
    key = client_key_of(name)
    senders = []
    for number in range(4 + size // 100):
        ids.sender_email += 1 + int(rng.random() * 3)
        first, last, local = PEOPLE[number % len(PEOPLE)]
        senders.append(SenderEmail(ids.sender_email, f"{first} {last}", f"{local}.{number}@{key}.example"))
    region = "US" if rng.random() < US_SHARE else sorted(PHONE_FORMATS)[int(rng.random() * len(PHONE_FORMATS))]
    others = round(size * OTHER_REPLIES_PER_INTERESTED)
    interested_leads = max(1, int(size / REPLIES_PER_INTERESTED_LEAD))
    leads = make_leads(
        replied=interested_leads + int(others / REPLIES_PER_OTHER_LEAD),
        silent_per_replied=SILENT_PER_REPLIED_LEAD,
        campaign_ids=[each.id for each in campaigns],
        deleted_campaign_id=deleted_campaign_id,
        phone_region=region,
        first_id=ids.lead + 1,
        rng=rng,
    )
    ids.lead += len(leads)
    interested = [True] * size + [False] * others
    rng.shuffle(interested)
    workspace = Workspace(
        workspace_id, name, key, region, _token(ids, rng), tuple(campaigns), tuple(senders), leads, ()
    )
    return _Draft(workspace, interested_leads, interested)


def _interleave_replies(drafts: Sequence[_Draft], rng: random.Random) -> list[list[Reply]]:
    """Replies per draft, oldest first. Ids grow over the whole instance in the order in which messages come in."""
    order = [position for position, draft in enumerate(drafts) for _ in draft.interested]
    rng.shuffle(order)
    makers = [
        ReplyMaker(draft.workspace, interested=draft.interested, interested_leads=draft.interested_leads, rng=rng)
        for draft in drafts
    ]
    reply_id = FIRST_REPLY_ID
    step = WORLD_LASTS // (len(order) + 1)
    for turn, position in enumerate(order):
        reply_id += 2 if GAP_BEFORE_REPLY.holds(turn) else 1
        makers[position].make(reply_id, WORLD_BEGINS + turn * step)
    return [maker.replies for maker in makers]


__all__ = ["INSTANCE_NAMES", "build_email_bison_world", "client_key_of"]
