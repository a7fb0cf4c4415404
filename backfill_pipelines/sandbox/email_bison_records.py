"""The records of the fake Email Bison, as the sandbox keeps them: compact and immutable.

Belongs here: what a record holds. Does not belong here: where it comes from (email_bison_data.py), how it looks in JSON
(email_bison_rows.py).
"""

from __future__ import annotations

from typing import NamedTuple

MICROSECONDS_A_DAY = 86_400_000_000
WORLD_BEGINS = 1_704_700_800_000_000
"""2024-01-08T08:00:00Z in microseconds since 1970. A fixed date: the world has no clock."""


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
    """A contact of one workspace. `campaign_status` is None where its campaign was deleted.

    `created_at` is in microseconds since 1970.
    """

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
    """A message in the workspace's inbox. An untracked one has neither lead nor campaign.

    `received_at` is in microseconds since 1970.
    """

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


__all__ = [
    "MICROSECONDS_A_DAY",
    "WORLD_BEGINS",
    "Campaign",
    "EmailBisonWorld",
    "Instance",
    "Lead",
    "Reply",
    "SenderEmail",
    "Workspace",
]
