"""The replies of a seeded workspace.

Belongs here: who writes, from which address, when, and how often a reply looks odd. Does not belong here: ids and dates
in step with the other workspaces of the instance (email_bison_data.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from backfill_pipelines.sandbox.email_bison_records import MICROSECONDS_A_DAY, Lead, Reply, Workspace
from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import BROKEN_ADDRESSES, PEOPLE, PEOPLE_DOMAINS

FOLDERS_OF_OTHERS = ("Inbox", "Bounced", "Inbox", "Sent", "Inbox", "Spam")
DAYS_IMPORTED_LATE = 20
MICROSECONDS_A_SECOND = 1_000_000

IMPORTED_LATE = Every(15, at=6)
"""A high id on an old message: the highest id is not the latest date."""
EXACT_TIME = Every(5, at=0)
"""Microseconds that are not zero."""
FROM_ANOTHER_ADDRESS = Every(10, at=4)
IN_SPAM = Every(12, at=5)
AUTOMATED = Every(4, at=1)
UNREAD = Every(3, at=0)

UNTRACKED = Every(20, at=9)
# The following ones are choices among the untracked; where two hold, the one further up counts.
FROM_A_LEAD_WHO_WRITES_AGAIN = Every(40, at=29)
FROM_A_BROKEN_ADDRESS = Every(100, at=89)
FROM_A_NUL_IN_NAME = Every(120, at=49)
FROM_NOBODY_NAMED = Every(120, at=89)
WITHOUT_SENDER_EMAIL = Every(3, at=0)


class ReplyMaker:
    """Makes the replies of one workspace, oldest first.

    `interested` says of each reply whether it is; the first `interested_leads` leads write the interested ones.
    """

    def __init__(
        self, workspace: Workspace, *, interested: Sequence[bool], interested_leads: int, rng: random.Random
    ) -> None:
        self._interested = interested
        self._senders = [each.id for each in workspace.sender_emails]
        self._campaigns = {each.id for each in workspace.campaigns}
        leads = workspace.leads
        replied = max(interested_leads, len(leads) - len(leads) // 4)
        # Squaring makes some leads write often and many once.
        self._leads = [leads[int(rng.random() ** 2 * (interested_leads if each else replied))] for each in interested]
        self._numbers = {True: 0, False: 0}
        self.replies: list[Reply] = []

    def make(self, reply_id: int, arrived_at: int) -> None:
        """Add the next reply; `arrived_at` in microseconds since 1970."""
        position = len(self.replies)
        interested = self._interested[position]
        number = self._numbers[interested]
        self._numbers[interested] += 1
        received_at = arrived_at - arrived_at % MICROSECONDS_A_SECOND
        if IMPORTED_LATE.holds(number):
            received_at -= DAYS_IMPORTED_LATE * MICROSECONDS_A_DAY
        if EXACT_TIME.holds(number):
            received_at += reply_id * 7_919 % MICROSECONDS_A_SECOND
        if UNTRACKED.holds(number):
            self.replies.append(self._untracked(reply_id, received_at, number, interested=interested))
        else:
            lead = self._leads[position]
            self.replies.append(self._tracked(reply_id, received_at, number, lead, interested=interested))

    def _tracked(self, reply_id: int, received_at: int, number: int, lead: Lead, *, interested: bool) -> Reply:
        address = lead.email
        if FROM_ANOTHER_ADDRESS.holds(number) and _looks_like_an_address(lead.email):
            address = f"assistant.{number}@frontdesk.example.com"
        in_deleted_campaign = lead.campaign_id not in self._campaigns
        return Reply(
            reply_id,
            lead.id,
            lead.campaign_id,
            None if in_deleted_campaign and number % 2 else self._senders[number % len(self._senders)],
            " ".join(part for part in (lead.first_name, lead.last_name) if part) or None,
            address,
            received_at,
            interested,
            not interested and AUTOMATED.holds(number),
            not UNREAD.holds(number),
            _folder(number, interested=interested),
        )

    def _untracked(self, reply_id: int, received_at: int, number: int, *, interested: bool) -> Reply:
        """A message in no known thread: from a stranger, or from a lead who will write again, in thread."""
        first, last, local = PEOPLE[number % len(PEOPLE)]
        name: str | None = f"{first} {last}"
        address: str | None = f"{local}.walkin{reply_id}@{PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]}"
        following = len(self.replies) + 1
        if FROM_A_LEAD_WHO_WRITES_AGAIN.holds(number):
            if following < len(self._leads) and self._interested[following]:
                address = self._leads[following].email
        elif FROM_A_BROKEN_ADDRESS.holds(number):
            address = BROKEN_ADDRESSES[FROM_A_BROKEN_ADDRESS.turn(number) % len(BROKEN_ADDRESSES)]
        elif FROM_A_NUL_IN_NAME.holds(number):
            name = f"{local.partition('.')[0]}\x00"
        elif FROM_NOBODY_NAMED.holds(number):
            name = None
        sender = None if WITHOUT_SENDER_EMAIL.holds(number) else self._senders[number % len(self._senders)]
        return Reply(
            id=reply_id,
            lead_id=None,
            campaign_id=None,
            sender_email_id=sender,
            from_name=name,
            from_email_address=address,
            received_at=received_at,
            interested=interested,
            automated=False,
            read=False,
            folder="Inbox",
        )


def _looks_like_an_address(text: str | None) -> bool:
    return text is not None and text not in BROKEN_ADDRESSES


def _folder(number: int, *, interested: bool) -> str:
    if interested:
        return "Spam" if IN_SPAM.holds(number) else "Inbox"
    return FOLDERS_OF_OTHERS[number % len(FOLDERS_OF_OTHERS)]


__all__ = ["ReplyMaker"]
