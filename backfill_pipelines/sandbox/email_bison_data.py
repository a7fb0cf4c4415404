"""The seeded world of the fake Email Bison: who is in it and what they wrote.

Belongs here: the records as the sandbox keeps them (compact, no HTTP) and their generation from a seed. Does not belong
here: how a record looks in JSON (email_bison_rows.py) and what changes while the sandbox runs (email_bison_state.py).

Rarities come by position and not by chance ("every 23rd lead has a broken address"), so that a small world has them too.
"""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from backfill_pipelines.sandbox.invented_people import (
    BROKEN_ADDRESSES,
    BROKEN_PHONES,
    CAMPAIGN_NAMES,
    CLIENT_ADJECTIVES,
    CLIENT_NAMES,
    CLIENT_NOUNS,
    COMPANIES,
    OTHER_LABELS,
    PEOPLE,
    PEOPLE_DOMAINS,
    PHONE_FORMATS,
    PHONE_LABELS,
)

INSTANCE_NAMES = ("main", "second")
MICROSECONDS_A_DAY = 86_400_000_000
WORLD_BEGINS = 1_704_700_800_000_000
"""2024-01-08T08:00:00Z in microseconds since 1970. A fixed date: the world has no clock."""
WORLD_LASTS = 1_000 * MICROSECONDS_A_DAY
SMALLEST_CLIENT, LARGEST_CLIENT, SKEW = 15, 3_000, 1.3
"""Interested replies of the smallest and the largest client; the skew makes 24 clients have 12,000 together."""
OTHER_REPLIES_PER_INTERESTED = 2.5


class Campaign(NamedTuple):
    """An outbound campaign. Names repeat between workspaces, as they do in an agency."""

    id: int
    name: str
    status: str


class SenderEmail(NamedTuple):
    """A mailbox the workspace sends from."""

    id: int
    name: str
    email: str


class Lead(NamedTuple):
    """A contact of one workspace. `campaign_status` is None where its campaign was deleted; `created_at` in microseconds."""

    id: int
    email: str | None
    first_name: str | None
    last_name: str | None
    company: str | None
    custom_variables: tuple[tuple[str, str], ...]
    campaign_id: int
    campaign_status: str | None
    created_at: int


class Reply(NamedTuple):
    """A message in the workspace's inbox. An untracked one has neither lead nor campaign. `received_at` in microseconds."""

    id: int
    lead_id: int | None
    campaign_id: int | None
    sender_email_id: int | None
    from_name: str | None
    from_email_address: str | None
    received_at: int
    interested: bool
    automated: bool
    read: bool
    folder: str


class Workspace(NamedTuple):
    """One customer of the agency. `replies` are newest first. `client_key` is empty for the agency's own workspace."""

    id: int
    name: str
    client_key: str
    phone_region: str
    token: str
    campaigns: tuple[Campaign, ...]
    sender_emails: tuple[SenderEmail, ...]
    leads: tuple[Lead, ...]
    replies: tuple[Reply, ...]


class Instance(NamedTuple):
    """One installation of Email Bison: its workspaces and the user who owns all tokens.

    `admin_token` and `other_session_token` are super-admin tokens of the same user: ours and, say, a browser's.
    """

    name: str
    user_id: int
    admin_token: str
    other_session_token: str
    workspaces: tuple[Workspace, ...]


class EmailBisonWorld(NamedTuple):
    """Everything the fake vendor knows. Equal for equal arguments of `build_email_bison_world`."""

    seed: int
    instances: tuple[Instance, ...]

    def client_keys(self) -> list[str]:
        """The clients' keys, sorted."""
        return sorted(each.client_key for _, each in self.all_workspaces() if each.client_key)

    def client(self, client_key: str) -> tuple[Instance, Workspace]:
        """The workspace of a client and its instance. Raises KeyError."""
        for instance, workspace in self.all_workspaces():
            if client_key and workspace.client_key == client_key:
                return instance, workspace
        raise KeyError(client_key)

    def all_workspaces(self) -> list[tuple[Instance, Workspace]]:
        """Each workspace with its instance."""
        return [(instance, workspace) for instance in self.instances for workspace in instance.workspaces]


class _Ids:
    """Instance-wide counters, as a database's sequences: never reused, shared by all workspaces."""

    def __init__(self) -> None:
        self.campaign, self.sender_email, self.lead, self.token = 100, 500, 20_000, 30


class _Draft(NamedTuple):
    """A workspace whose replies have no ids yet: those are given in the order of all workspaces' messages."""

    workspace: Workspace
    deleted_campaign_id: int
    interested_leads: int
    interested: list[bool]


def build_email_bison_world(
    *, seed: int, clients: int = 24, scale: float = 1.0, interested_replies: Sequence[int] | None = None
) -> EmailBisonWorld:
    """The world of a seed: `clients` workspaces on two instances. 24 of them have 12,000 interested replies together.

    `scale` multiplies the sizes; `interested_replies` states them instead, one per client, in the order of the invented
    names (amber-ridge-roofing first). Raises ValueError where their number is not that of the clients.
    """
    rng = random.Random(f"email-bison:{seed}")
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
    return 1 if place % 5 in {1, 3} else 0


def _skewed_sizes(clients: int, scale: float) -> list[int]:
    spread = LARGEST_CLIENT / SMALLEST_CLIENT
    steps = max(clients - 1, 1)
    return [
        max(3, round(scale * SMALLEST_CLIENT * spread ** ((1 - rank / steps) ** SKEW))) for rank in range(clients)
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
    workspaces = [draft.workspace._replace(replies=tuple(reversed(each))) for draft, each in zip(drafts, replies, strict=True)]
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
    regions = sorted(PHONE_FORMATS)
    region = "US" if rng.random() < 0.6 else regions[int(rng.random() * len(regions))]
    others = round(size * OTHER_REPLIES_PER_INTERESTED)
    interested_leads = max(1, int(size / 1.7))
    replied_leads = interested_leads + int(others / 1.4)
    campaign_ids = [each.id for each in campaigns]
    leads = _build_leads(replied_leads, replied_leads // 3, campaign_ids, deleted_campaign_id, region, ids, rng)
    interested = [True] * size + [False] * others
    rng.shuffle(interested)
    workspace = Workspace(
        workspace_id, name, key, region, _token(ids, rng), tuple(campaigns), tuple(senders), leads, ()
    )
    return _Draft(workspace, deleted_campaign_id, interested_leads, interested)


def _build_leads(
    replied: int,
    silent: int,
    campaign_ids: Sequence[int],
    deleted_campaign_id: int,
    region: str,
    ids: _Ids,
    rng: random.Random,
) -> tuple[Lead, ...]:
    """Leads of one workspace; the first `replied` ones have written, the others never have."""
    leads = []
    formats = PHONE_FORMATS[region]
    offset = int(rng.random() * len(PEOPLE))
    for number in range(replied + silent):
        ids.lead += 1
        first, last, local = PEOPLE[(number + offset) % len(PEOPLE)]
        company: str | None = COMPANIES[number % len(COMPANIES)]
        if number % 19 == 3:
            first = first[:1] + "\x00" + first[1:]
        if number % 19 == 7:
            company = "Under\x01score\x00 & Co\x1f"
        if number % 31 == 9:
            company = None
        deleted = number % 29 == 11
        status = ("replied" if number % 13 else "sequence_stopped") if number < replied else _silent_status(number)
        leads.append(
            Lead(
                ids.lead,
                _lead_address(number, local),
                None if number % 41 == 17 else first,
                None if number % 43 == 19 else last,
                company,
                _custom_variables(number, formats),
                deleted_campaign_id if deleted else campaign_ids[number % len(campaign_ids)],
                None if deleted else status,
                WORLD_BEGINS - MICROSECONDS_A_DAY + number * 1_000_000,
            )
        )
    return tuple(leads)


def _silent_status(number: int) -> str:
    return ("in_sequence", "sequence_finished", "never_contacted")[number % 3]


def _lead_address(number: int, local: str) -> str | None:
    """Mostly tidy; some mixed-case, padded, shared with other workspaces, twice in this one, or no address at all."""
    if number % 23 == 5:
        return BROKEN_ADDRESSES[number // 23 % len(BROKEN_ADDRESSES)]
    if number % 17 == 6:
        # The same person in every workspace that is large enough, on either instance.
        return f"shared.{number}@crossroads.example"
    if number % 37 == 12:
        # The record of the lead before, entered once more in capitals.
        return f"TWIN.{number - 1}@MAIL.EXAMPLE.COM"
    if number % 37 == 11:
        return f"twin.{number}@mail.example.com"
    address = f"{local}.{number}@{PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]}"
    if number % 7 == 2:
        address = address.title()
    if number % 9 == 4:
        address = f"  {address} "
    if number % 53 == 20:
        address = f"jürgen.{address.strip()}"
    return address


def _custom_variables(number: int, formats: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Free-form variables; a phone under one of many names in four of five, sometimes empty, doubled or nonsense."""
    other = OTHER_LABELS[number % len(OTHER_LABELS)]
    if number % 5 == 1:
        return (other,) if number % 2 else ()
    label = PHONE_LABELS[number % len(PHONE_LABELS)]
    digits = 5 + number % 95
    if number % 11 == 8:
        return ((label, BROKEN_PHONES[number % len(BROKEN_PHONES)].format(digits)), other)
    phone = formats[number % len(formats)].format(digits)
    if number % 13 == 2:
        # The first name that fits is empty, so the second one counts.
        return ((label, ""), other, ("mobile" if label != "mobile" else "Phone", phone))
    if number % 13 == 7:
        return (other, (label, phone), ("Mobile" if label != "Mobile" else "Phone", formats[0].format(5)))
    return ((label, phone),) if number % 2 else (other, (label, phone))


def _interleave_replies(drafts: Sequence[_Draft], rng: random.Random) -> list[list[Reply]]:
    """Replies per draft, oldest first. Ids grow over the whole instance in the order in which messages come in."""
    order = [position for position, draft in enumerate(drafts) for _ in draft.interested]
    rng.shuffle(order)
    makers = [_ReplyMaker(draft, rng) for draft in drafts]
    reply_id = 1_000
    step = WORLD_LASTS // (len(order) + 1)
    for turn, position in enumerate(order):
        reply_id += 1 + (turn % 4 == 0)
        makers[position].make(reply_id, WORLD_BEGINS + turn * step)
    return [maker.replies for maker in makers]


class _ReplyMaker:
    """Makes the replies of one workspace, oldest first."""

    def __init__(self, draft: _Draft, rng: random.Random) -> None:
        self._workspace = draft.workspace
        self._deleted_campaign_id = draft.deleted_campaign_id
        self._interested = draft.interested
        self._senders = [each.id for each in draft.workspace.sender_emails]
        leads = draft.workspace.leads
        replied = max(draft.interested_leads, len(leads) - len(leads) // 4)
        # Squaring makes some leads write often and many once.
        self._leads = [
            leads[int(rng.random() ** 2 * (draft.interested_leads if interested else replied))]
            for interested in draft.interested
        ]
        self._numbers = {True: 0, False: 0}
        self.replies: list[Reply] = []

    def make(self, reply_id: int, received_at: int) -> None:
        position = len(self.replies)
        lead = self._leads[position]
        interested = self._interested[position]
        number = self._numbers[interested]
        self._numbers[interested] += 1
        if number % 15 == 6:
            # Imported late: a high id on an old message, so that the highest id is not the latest date.
            received_at -= 20 * MICROSECONDS_A_DAY
        if number % 5 == 0:
            received_at += reply_id * 7_919 % 1_000_000
        else:
            received_at -= received_at % 1_000_000
        sender = self._senders[number % len(self._senders)]
        name = " ".join(part for part in (lead.first_name, lead.last_name) if part)
        automated = not interested and number % 4 == 1
        read = number % 3 != 0
        folder = self._folder(number, interested=interested)
        if number % 20 == 9:
            self._make_untracked(reply_id, received_at, number, sender, interested=interested)
            return
        address = f"assistant.{number}@frontdesk.example.com" if number % 10 == 4 else lead.email
        broken = lead.email is None or not lead.email.strip() or lead.email.count("@") != 1
        self.replies.append(
            Reply(
                reply_id,
                lead.id,
                lead.campaign_id,
                None if lead.campaign_id == self._deleted_campaign_id and number % 2 else sender,
                name or None,
                lead.email if broken else address,
                received_at,
                interested,
                automated,
                read,
                folder,
            )
        )

    def _make_untracked(self, reply_id: int, received_at: int, number: int, sender: int, *, interested: bool) -> None:
        """A message in no known thread: from a stranger, or from the lead who writes again, later and in thread."""
        first, last, local = PEOPLE[number % len(PEOPLE)]
        address: str | None = f"{local}.walkin{reply_id}@{PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]}"
        name: str | None = f"{first} {last}"
        following = len(self.replies) + 1
        if number % 40 == 29 and following < len(self._leads) and self._interested[following]:
            address = self._leads[following].email
        elif number % 100 == 89:
            address = BROKEN_ADDRESSES[number // 100 % len(BROKEN_ADDRESSES)]
        elif number % 60 == 49:
            name = local.split(".", maxsplit=1)[0] + "\x00" if number % 120 == 49 else None
        self.replies.append(
            Reply(
                reply_id,
                None,
                None,
                None if number % 3 == 0 else sender,
                name,
                address,
                received_at,
                interested,
                False,
                False,
                "Inbox",
            )
        )

    @staticmethod
    def _folder(number: int, *, interested: bool) -> str:
        if interested:
            return "Spam" if number % 12 == 5 else "Inbox"
        return ("Inbox", "Bounced", "Inbox", "Sent", "Inbox", "Spam")[number % 6]


__all__ = [
    "INSTANCE_NAMES",
    "Campaign",
    "EmailBisonWorld",
    "Instance",
    "Lead",
    "Reply",
    "SenderEmail",
    "Workspace",
    "build_email_bison_world",
    "client_key_of",
]
