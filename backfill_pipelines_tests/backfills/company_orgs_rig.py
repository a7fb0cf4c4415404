"""A product's companies at work: the rig of `attio_product.py` driving `attio_company_orgs`.

Belongs here: what people do to companies, and both vendors as a world that the reference understands. Does not belong
here: what is expected of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills.attio_company_orgs import AttioCompanyOrgs
from backfill_pipelines.backfills.attio_company_orgs_choice import Rules
from backfill_pipelines.sandbox.attio import QUERY, AttioSandbox
from backfill_pipelines.sandbox.attio_records import COMPANIES
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.sandbox.traffic import RateLimit
from backfill_pipelines_tests.backfills.attio_product import UNLIMITED, AttioProduct, Document, crm_of
from backfill_pipelines_tests.backfills.company_orgs_worlds import Person, World, expected

COMPANIES_QUERY = QUERY.replace("{object}", COMPANIES)
CLERK = build_clerk_instance(seed=5, users=160)
ANY_SIZE = Rules(min_members=1)
ATTIO = crm_of(CLERK, other_people=0)


@dataclass(kw_only=True)
class CompanyProduct(AttioProduct):
    """The product, seen from its companies."""

    def configure(self, **settings: Any) -> None:
        """Write these settings of the backfill into the workspace's entry of the registry."""

        def edit(document: Document) -> None:
            document["workspaces"][0]["attio_company_orgs"] = settings

        self.edit = edit

    # --- what people do there -----------------------------------------------------------------------------------------

    def set_org_id(self, record_id: str, org_id: str | None) -> None:
        """Somebody sets the attribute in the browser, or empties it."""
        values = {"org_id": [] if org_id is None else [org_id]}
        self.crm.write(COMPANIES, values, actor=self.crm.seeded.member, record_id=record_id)

    # --- looking ------------------------------------------------------------------------------------------------------

    def org_ids(self) -> dict[str, str | None]:
        """What every company has now."""
        with self.crm.lock:
            table = self.crm.tables[COMPANIES]
            found = {key: table.active(record, "org_id") for key, record in table.records.items()}
        return {key: str(values[0].content) if values else None for key, values in found.items()}

    def everything_else(self) -> dict[str, Any]:
        """Every other value of every record, with who wrote it and when."""
        with self.crm.lock:
            return {
                key: {slug: list(values) for slug, values in record.values.items() if slug != "org_id"}
                for table in self.crm.tables.values()
                for key, record in table.records.items()
            }

    def world(self) -> World:
        """Both vendors as they are now."""
        with self.crm.lock, self.users.lock:
            table, org_ids, users = self.crm.tables[COMPANIES], self.org_ids(), self.users
            return World(
                companies={
                    key: (tuple(str(each.content) for each in table.active(record, "domains")), org_ids[key])
                    for key, record in table.records.items()
                },
                people=[self._person(number) for number in users.users],
                organizations={each.id: (users.members[each.number], each.created_at) for each in users.organizations},
                memberships=[
                    (users.seeded.user_id(each.user_number), users.organizations[each.organization_number].id)
                    for each in users.memberships
                ],
            )

    def _person(self, number: int) -> Person:
        user = self.users.user(number)
        primary = [each for each in user.emails if each.id == user.primary_email_id]
        emails = [*primary, *(each for each in user.emails if each not in primary)]
        return Person(
            user.id,
            tuple((each.address, each.status == "verified") for each in emails),
            primary=bool(primary),
            banned=user.banned or user.deprovisioned,
        )

    def chosen(self, rules: Rules = ANY_SIZE) -> dict[str, str]:
        """The companies that the reference gives an organization as things are now, and which."""
        outcomes = expected(self.world(), rules)
        return {key: org_id for key, (_, org_id) in outcomes.items() if org_id is not None}

    def landed(self) -> set[str]:
        """The ids of the companies that are landed."""
        return {row["record_id"] for row in self.query("SELECT record_id FROM backfill.attio_company")}

    def seen(self) -> int:
        """How many requests there were so far."""
        return len(self.server.requests)

    def calls(self, *, since: int = 0) -> Counter[str]:
        """How often each path was asked for; records by their ids are one path."""
        return Counter(each.call.template for each in self.server.requests[since:])

    def patched(self) -> list[str]:
        """The records that were written, in order."""
        return [each.path.rpartition("/")[2] for each in self.requests(method="PATCH")]


@contextmanager
def serving_companies(
    database: Engine, database_url: SecretStr, folder: Path, *, questions: OpenQuestions | None = None
) -> Iterator[CompanyProduct]:
    """Both vendors, for one test."""
    users = ClerkSandbox(ClerkWorld((CLERK,)), live_limit=RateLimit(permits=10**6, window_seconds=10.0))
    crm = AttioSandbox([ATTIO], limits=UNLIMITED, questions=questions)
    with SandboxServer([users, crm]) as server:
        yield CompanyProduct(
            clerk=users,
            attio=crm,
            server=server,
            database=database,
            database_url=database_url,
            folder=folder,
            backfill=AttioCompanyOrgs(),
        )
