"""GoHighLevel's contacts, read only: all of a location, some by address, one by id.

Belongs here: the vendor's paths, headers and token. Does not belong here: how a search is asked and proven
(`gohighlevel_search.py`), the shapes of contacts (`gohighlevel_records.py`), limits (`gohighlevel_limits.py`), what
refusals mean (`gohighlevel_refusals.py`), which way of finding contacts is the cheapest (the backfill).

Sources: GoHighLevel/highlevel-api-docs, apps/contacts.json, `Version: 2021-07-28`; the vendor's page on searching
contacts. Nothing in here writes.

All methods raise `ConfigurationError` (`unauthorized`, `missing_scope`, `forbidden_location`, `unknown_location`),
`TransientError` (`vendor_unavailable`, `malformed_response`, `rate_limited`, `quota_unavailable`) and `ParkedError`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.gohighlevel_limits import GoHighLevelQuotas, quotas
from backfill_pipelines.vendors.gohighlevel_records import (
    Contact,
    Foreign,
    Gone,
    RejectedContact,
    address_key,
    read_contact,
)
from backfill_pipelines.vendors.gohighlevel_refusals import refused_contact, refused_token
from backfill_pipelines.vendors.gohighlevel_search import (
    ContactPage,
    Found,
    Position,
    Searches,
    canary_of,
    malformed,
)
from backfill_pipelines.vendors.transport import ApiClient, RetryBudget, RetryPolicy, VendorError

API_VERSION = "2021-07-28"
BASE_URL = "https://services.leadconnectorhq.com"
INVALID_ID = "invalid_contact_id"
OTHER_CONTACT = "another_contact"
_CONTACT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class GoHighLevel:
    """One location, as one token sees it."""

    def __init__(self, api: ApiClient, location_id: str) -> None:
        self._api = api
        self.location_id = location_id
        self._searches = Searches(api, location_id)

    async def total(self) -> int | None:
        """How many contacts the location has, if the vendor says so.

        The cheapest request that shows that token and location fit.
        """
        return await self._searches.total()

    def scan(self, position: Position | None = None) -> AsyncGenerator[ContactPage, None]:
        """All contacts from a position on, oldest first, 500 a page; one request for each page and one at the end.

        It ends on an empty page or a cursor that it has been given before, never on a short page. Contacts may come
        twice: keep one of each id. Compare the distinct ids (rejected and foreign ones included) with `total`: the
        vendor's index lags by seconds, and rows that come and go meanwhile are no reason for alarm.
        Raises `DataError("cursor_refused")` where the vendor does not go on from a stored position.
        """
        return self._searches.scan(position)

    async def by_emails(self, emails: Iterable[str], *, canary: str) -> Found:
        """The contacts that have one of these addresses, as many asked for at once as the vendor takes (49 at first).

        `canary`: an address that exists in the location (`canary_of`); an answer without it, or with contacts that were
        not asked for, shows that the location does not honour such a question (`Found.honoured`). Whether contacts
        that have an address as an additional one come too is the vendor's affair. To ask faster than one question
        after the other, call it with parts of the addresses at the same time.
        """
        return await self._searches.by_emails(emails, canary=canary)

    async def by_email(self, email: str) -> Found:
        """The contacts that have this address, with one request."""
        return await self._searches.by_email(email)

    async def duplicate(self, email: str) -> Contact | Foreign | RejectedContact | None:
        """The one contact that the vendor would take for a duplicate of this address, if it has it; of any length.

        Which one it is of several, and whether additional addresses count, depends on the location's settings.
        """
        params = {"locationId": self.location_id, "email": address_key(email)}
        try:
            body = await self._api.get("/contacts/search/duplicate", params=params)
        except VendorError as error:
            raise refused_token(error, self.location_id) from None
        if not isinstance(body, dict):
            raise malformed("is no object")
        if body.get("contact") is None:
            return None
        found = read_contact(body["contact"], self.location_id)
        if isinstance(found, Contact) and address_key(email) not in found.addresses:
            return None  # found by something else, a phone perhaps
        return found

    async def contact(self, contact_id: str) -> Contact | Gone | Foreign | RejectedContact:
        """One contact by its id, with its names as they are spelled.

        Codes of a rejected one: `malformed_contact`; `invalid_contact_id`, for an id that cannot be one (no request is
        made); `refused_contact_id`, for one that the vendor does not take; `another_contact`, where another id comes
        back.
        """
        if not _CONTACT_ID.fullmatch(contact_id):
            return RejectedContact(None, INVALID_ID)
        try:
            body = await self._api.get(f"/contacts/{quote(contact_id, safe='')}")
        except VendorError as error:
            return refused_contact(error, contact_id, self.location_id)
        if not isinstance(body, dict):
            raise malformed("is no object")
        if body.get("contact") is None:
            return Gone(contact_id)
        found = read_contact(body["contact"], self.location_id)
        if isinstance(found, Foreign):
            return Foreign(contact_id)
        if isinstance(found, RejectedContact):
            return RejectedContact(contact_id, found.code)
        return found if found.id == contact_id else RejectedContact(contact_id, OTHER_CONTACT)


def connect(
    http: httpx.AsyncClient,
    *,
    token: SecretStr,
    location_id: str,
    quotas: GoHighLevelQuotas,
    retry_budget: RetryBudget,
    clock: Clock,
    base_url: str = BASE_URL,
) -> GoHighLevel:
    """A client for one location. `token`: of the location's private integration, or an OAuth location token."""
    api = ApiClient(
        vendor="GoHighLevel",
        base_url=base_url,
        authorization=SecretStr(f"Bearer {token.get_secret_value()}"),
        http=http,
        quotas=quotas,
        retry=RetryPolicy(),
        retry_budget=retry_budget,
        clock=clock,
        headers={"Version": API_VERSION},
    )
    return GoHighLevel(api, location_id)


__all__ = [
    "BASE_URL",
    "Contact",
    "ContactPage",
    "Foreign",
    "Found",
    "GoHighLevel",
    "GoHighLevelQuotas",
    "Gone",
    "Position",
    "RejectedContact",
    "canary_of",
    "connect",
    "quotas",
]
