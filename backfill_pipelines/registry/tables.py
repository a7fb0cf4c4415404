"""The names of the user's tables and columns, and how the registry's `tables:` changes them.

Belongs here: which logical names there are, and the actual ones behind them. Does not belong here: types, keys and
privileges, which the database's catalogue tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

KNOWN_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Client": ("id", "name", "ghl_location_id", "ghl_private_key"),
        "Lead": (
            "id",
            "client_id",
            "messenger_psid",
            "phone",
            "email",
            "first_name",
            "last_name",
            "company_name",
            "ghl_contact_id",
            "customer_id",
            "created_at",
            "updated_at",
        ),
        "Job": ("id", "lead_id", "customer_id", "created_at"),
        "Customer": (
            "id",
            "client_id",
            "name",
            "phone",
            "email",
            "messenger_psid",
            "metadata",
            "created_at",
            "updated_at",
        ),
        "CustomerAddress": ("id", "customer_id", "line1", "city", "created_at", "updated_at"),
        "Audit": ("id", "action", "payload", "created_at"),
        "client_leads": (
            "id",
            "workspace_name",
            "lead_email",
            "first_name",
            "last_name",
            "company",
            "phone",
            "interested",
            "interested_at",
            "date_received",
            "bison_reply_id",
            "bison_lead_id",
            "bison_campaign_id",
            "bison_instance",
            "bison_workspace_id",
            "pipeline_stage",
            "notes",
            "deleted_at",
            "created_at",
            "updated_at",
        ),
    }
)
"""The logical columns of each logical table; by default the actual names are the same."""


@dataclass(frozen=True, slots=True)
class TableNames:
    """Where a logical table is: `schema` is None where the role's search path decides."""

    logical: str
    schema: str | None
    name: str
    renamed: Mapping[str, str]

    def column(self, logical: str) -> str:
        """The actual name of a column. Raises ValueError for one that the table is not known to have."""
        if logical not in KNOWN_COLUMNS[self.logical]:
            msg = f"{self.logical} has no logical column {logical!r}"
            raise ValueError(msg)
        return self.renamed.get(logical, logical)

    def columns(self, *logical: str) -> dict[str, str]:
        """Logical to actual names of these columns, of all known ones where none is named."""
        return {name: self.column(name) for name in logical or KNOWN_COLUMNS[self.logical]}
