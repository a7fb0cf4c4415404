"""The rows of the product's tables that the seeded leads come in, column by column as in product_schema.sql.

Belongs here: what a row holds. Does not belong here: where it comes from (leads_and_jobs.py).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class ClientRow(NamedTuple):
    """A row of "Client"."""

    id: str
    name: str
    ghl_location_id: str | None
    ghl_private_key: str | None


class CustomerRow(NamedTuple):
    """A row of "Customer". `metadata` is JSON text."""

    id: str
    client_id: str
    name: str | None
    phone: str | None
    email: str | None
    messenger_psid: str | None
    metadata: str
    created_at: datetime
    updated_at: datetime


class CustomerAddressRow(NamedTuple):
    """A row of "CustomerAddress"."""

    id: str
    customer_id: str
    line1: str
    city: str
    created_at: datetime
    updated_at: datetime


class LeadRow(NamedTuple):
    """A row of "Lead"."""

    id: str
    client_id: str
    messenger_psid: str | None
    phone: str | None
    email: str | None
    first_name: str | None
    last_name: str | None
    company_name: str | None
    ghl_contact_id: str | None
    customer_id: str | None
    created_at: datetime
    updated_at: datetime


class JobRow(NamedTuple):
    """A row of "Job"."""

    id: str
    lead_id: str | None
    customer_id: str | None
    created_at: datetime


__all__ = ["ClientRow", "CustomerAddressRow", "CustomerRow", "JobRow", "LeadRow"]
