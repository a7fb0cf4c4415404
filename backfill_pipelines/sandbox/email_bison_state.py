"""What changes in the fake Email Bison while it runs: sessions, marks, new replies, minted tokens.

Belongs here: the mutable copy of the seeded world, look-ups in it, and the changes a person or another program could
make at any moment. Does not belong here: HTTP. Safe to call from the server's thread and from a test's.
"""

from __future__ import annotations

import random
import string
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from backfill_pipelines.sandbox.email_bison_records import (
    MICROSECONDS_A_DAY,
    Campaign,
    EmailBisonWorld,
    Instance,
    Lead,
    Reply,
    SenderEmail,
    Workspace,
)

Record = TypeVar("Record")

REMEMBERED_SELECTIONS = 64
"""Filtered lists kept per workspace: paging asks for the same list again; filtering 10,000 rows takes 5 ms."""


class Token(NamedTuple):
    """What a bearer token stands for: `api-user` has one workspace for ever, `super-admin` has its user's."""

    kind: Literal["api-user", "super-admin"]
    user_id: int
    workspace_id: int | None


class WorkspaceState:
    """The records of one workspace as they are now."""

    def __init__(self, seeded: Workspace) -> None:
        self.seeded = seeded
        self.id = seeded.id
        self.name = seeded.name
        self.client_key = seeded.client_key
        # Each by id, oldest first.
        self.campaigns: dict[int, Campaign] = {each.id: each for each in seeded.campaigns}
        self.sender_emails: dict[int, SenderEmail] = {each.id: each for each in seeded.sender_emails}
        self.leads: dict[int, Lead] = {each.id: each for each in seeded.leads}
        self.replies: dict[int, Reply] = {each.id: each for each in reversed(seeded.replies)}
        self._replies_of_lead = Counter(each.lead_id for each in seeded.replies)
        self._selections: dict[Hashable, Sequence[object]] = {}

    def reply_count(self, lead_id: int) -> int:
        """How many tracked replies a lead has written."""
        return self._replies_of_lead[lead_id]

    def selection(self, key: Hashable, select: Callable[[], list[Record]]) -> Sequence[Record]:
        """The list of a filter, remembered until a record of the workspace changes."""
        remembered = self._selections.get(key)
        if remembered is None:
            if len(self._selections) >= REMEMBERED_SELECTIONS:
                self._selections.clear()
            remembered = self._selections[key] = select()
        return remembered  # type: ignore[return-value] # a key belongs to one kind of list

    def put_reply(self, reply: Reply) -> None:
        """Add or replace a reply. A new one must have a higher id than all before."""
        if reply.id not in self.replies:
            self._replies_of_lead[reply.lead_id] += 1
        self.replies[reply.id] = reply
        self._selections.clear()

    def remove_lead(self, lead_id: int) -> None:
        """Delete a lead. Raises KeyError."""
        del self.leads[lead_id]
        self._selections.clear()

    def remove_campaign(self, campaign_id: int) -> None:
        """Delete a campaign. Raises KeyError."""
        del self.campaigns[campaign_id]
        self._selections.clear()


def newest_first(records: Mapping[int, Record]) -> list[Record]:
    """The records of a workspace in the order the vendor lists them."""
    return list(records.values())[::-1]


class InstanceState:
    """One instance as it is now: its workspaces, tokens, and where each user stands."""

    def __init__(self, seeded: Instance, *, seed: int) -> None:
        self.seeded = seeded
        self.name = seeded.name
        self.workspaces = {each.id: WorkspaceState(each) for each in seeded.workspaces}
        self.tokens: dict[str, Token] = {
            seeded.admin_token: Token("super-admin", seeded.user_id, None),
            seeded.other_session_token: Token("super-admin", seeded.user_id, None),
            **{each.token: Token("api-user", seeded.user_id, each.id) for each in seeded.workspaces},
        }
        # The root of all mix-ups: which workspace a super-admin token serves is kept per USER.
        self.current_team = {seeded.user_id: min(self.workspaces)}
        self._last_token_id = max(int(token.partition("|")[0]) for token in self.tokens)
        self._last_reply_id = max((each.replies[0].id for each in seeded.workspaces if each.replies), default=0)
        self._random = random.Random(f"{seed}:{seeded.name}")  # noqa: S311 # invented data

    def next_reply_id(self) -> int:
        """Reply ids grow over the whole instance."""
        self._last_reply_id += 1
        return self._last_reply_id

    def mint_token(self, workspace_id: int, *, user_id: int) -> tuple[int, str]:
        """A new api-user token: its id and its plain text."""
        self._last_token_id += 1
        plain = f"{self._last_token_id}|" + "".join(self._random.choices(string.ascii_letters + string.digits, k=40))
        self.tokens[plain] = Token("api-user", user_id, workspace_id)
        return self._last_token_id, plain

    def workspace_named(self, name: str) -> WorkspaceState | None:
        """A workspace by its id or by its client's key."""
        for each in self.workspaces.values():
            if name and name in {str(each.id), each.client_key}:
                return each
        return None


class EmailBisonState:
    """All instances as they are now, and what people do in them meanwhile."""

    def __init__(self, world: EmailBisonWorld) -> None:
        self.world = world
        self.lock = threading.RLock()
        self.instances: dict[str, InstanceState] = {}
        self._random = random.Random(0)  # noqa: S311 # invented data
        self.reset()

    def reset(self) -> None:
        """Back to the seeded world."""
        with self.lock:
            self.instances = {each.name: InstanceState(each, seed=self.world.seed) for each in self.world.instances}
            self._random = random.Random(f"motion:{self.world.seed}")  # noqa: S311 # invented data

    def snapshot(self) -> EmailBisonWorld:
        """The world as it is now, for comparing with what was read from it."""
        with self.lock:
            return self.world._replace(
                instances=tuple(
                    state.seeded._replace(workspaces=tuple(_snapshot(each) for each in state.workspaces.values()))
                    for state in self.instances.values()
                )
            )

    # --- what others do, at any moment ---------------------------------------------------------------------------

    def interested_ids(self, client_key: str) -> list[int]:
        """Ids of the client's interested replies, newest first."""
        with self.lock:
            return [each.id for each in newest_first(self.client(client_key)[1].replies) if each.interested]

    def move_newest(self, client_key: str, *, interested: bool) -> None:
        """The newest reply that is not so yet gets the mark (or loses it); nothing where there is none."""
        with self.lock:
            replies = newest_first(self.client(client_key)[1].replies)
            for reply_id in [each.id for each in replies if each.interested != interested][:1]:
                self.mark(client_key, reply_id, interested=interested)

    def mark(self, client_key: str, reply_id: int, *, interested: bool) -> None:
        """Somebody marks a reply as interested, or takes the mark away. Raises KeyError."""
        with self.lock:
            workspace = self.client(client_key)[1]
            workspace.put_reply(workspace.replies[reply_id]._replace(interested=interested))

    def add_reply(self, client_key: str, *, interested: bool = True) -> int:
        """A lead of the client writes again, after everything so far; the new reply's id."""
        with self.lock:
            instance, workspace = self.client(client_key)
            replies = newest_first(workspace.replies)
            pattern = next(each for each in replies if each.lead_id is not None)
            reply_id = instance.next_reply_id()
            received_at = max(each.received_at for each in replies) + MICROSECONDS_A_DAY
            workspace.put_reply(pattern._replace(id=reply_id, received_at=received_at, interested=interested))
            return reply_id

    def delete_lead(self, client_key: str, lead_id: int) -> None:
        """Somebody deletes a lead; its replies stay. Raises KeyError."""
        with self.lock:
            self.client(client_key)[1].remove_lead(lead_id)

    def delete_campaign(self, client_key: str, campaign_id: int) -> None:
        """Somebody deletes a campaign; its replies stay. Raises KeyError."""
        with self.lock:
            self.client(client_key)[1].remove_campaign(campaign_id)

    def current_team(self, instance: str) -> int:
        """The workspace the instance's user stands in."""
        with self.lock:
            state = self.instances[instance]
            return state.current_team[state.seeded.user_id]

    def switch_workspace(self, instance: str, team_id: int) -> None:
        """Another session of the same user switches: a browser, a cron job, a colleague's script. Raises KeyError."""
        with self.lock:
            state = self.instances[instance]
            state.current_team[state.seeded.user_id] = state.workspaces[team_id].id

    def revoke(self, token: str) -> None:
        """A token stops working everywhere."""
        with self.lock:
            for each in self.instances.values():
                each.tokens.pop(token, None)

    def move_at_random(self, client_key: str) -> None:
        """One change a person could make: a mark, a mark taken away, a new interested reply. Seeded."""
        with self.lock:
            replies = newest_first(self.client(client_key)[1].replies)
            change = self._random.choice(("unmark", "mark", "add"))
            candidates = [each.id for each in replies if each.interested == (change == "unmark")]
            if not replies:
                return
            if change == "add" or not candidates:
                self.add_reply(client_key)
            else:
                self.mark(client_key, self._random.choice(candidates), interested=change == "mark")

    def client(self, client_key: str) -> tuple[InstanceState, WorkspaceState]:
        """A client's workspace and its instance; hold `lock` while using them. Raises KeyError."""
        for instance in self.instances.values():
            for workspace in instance.workspaces.values():
                if client_key and workspace.client_key == client_key:
                    return instance, workspace
        raise KeyError(client_key)


def _snapshot(state: WorkspaceState) -> Workspace:
    return state.seeded._replace(
        campaigns=tuple(state.campaigns.values()),
        sender_emails=tuple(state.sender_emails.values()),
        leads=tuple(state.leads.values()),
        replies=tuple(newest_first(state.replies)),
    )


__all__ = ["EmailBisonState", "InstanceState", "Token", "WorkspaceState", "newest_first"]
