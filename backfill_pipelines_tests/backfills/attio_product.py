"""A product with users and a CRM: fake Clerk and fake Attio on sockets, a database, a registry, runs of `attio_people`.

Belongs here: driving whole runs, doing what people do meanwhile, and reading what a run left. Does not belong here:
what is expected of it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.attio_people import AttioPeople
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.backfill import Backfill, Progress
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, undo_run
from backfill_pipelines.engine.verify import verify_partition
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.attio import QUERY, AttioSandbox
from backfill_pipelines.sandbox.attio_data import ProductUser, build_attio_workspace
from backfill_pipelines.sandbox.attio_limits import AttioLimits
from backfill_pipelines.sandbox.attio_records import PEOPLE, Actor, AttioWorkspace
from backfill_pipelines.sandbox.attio_state import OpenQuestions, WorkspaceState
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkInstance, ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.sandbox.traffic import LoggedRequest, RateLimit
from backfill_pipelines.vendors import attio_access, clerk
from backfill_pipelines.vendors.transport import RetryPolicy

BACKFILL = AttioPeople()
ACME = "acme"
RUN = Steps()
DRY_RUN = Steps(load=False)
LOAD_ONLY = Steps(extract=False, plan=False)
RECORDS = "/v2/objects/people/records"
PEOPLE_QUERY = QUERY.replace("{object}", PEOPLE)
UNLIMITED = AttioLimits(reads=10**6, writes=10**6, query_score=10**6, score_sum=10**9)

CLERK = build_clerk_instance(seed=11, users=130)
EMPTY_CLERK = build_clerk_instance(seed=12, users=0)

Row = dict[str, Any]
Document = dict[str, Any]
Addresses = tuple[str, ...]


def crm_of(instance: ClerkInstance, *, other_people: int = 20) -> AttioWorkspace:
    """The CRM of the product whose users these are: part of them are people already, some in an odd way."""
    users = [
        ProductUser(user.id, tuple(each.address for each in user.emails), user.first_name, user.last_name)
        for user in instance.seeded_users()
        if user.emails
    ]
    return build_attio_workspace(seed=11, key=ACME, users=users, other_people=other_people)


ATTIO = crm_of(CLERK)
EMPTY_ATTIO = build_attio_workspace(seed=12, key=ACME, other_people=0, other_companies=0)._replace(companies=())


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for permits, which the tests are not about, nor between attempts."""
    monkeypatch.setattr(attio_access, "READS_PER_SECOND", 10**6)
    monkeypatch.setattr(attio_access, "WRITES_PER_SECOND", 10**6)
    monkeypatch.setattr(clerk, "LIVE_REQUESTS", 10**6)
    for module in (attio_access, clerk):
        monkeypatch.setattr(module, "RetryPolicy", partial(RetryPolicy, base_seconds=0.001))


@dataclass(kw_only=True)
class AttioProduct:
    """Both vendors and the database; `edit` changes the registry's document before it is written."""

    clerk: ClerkSandbox
    attio: AttioSandbox
    server: SandboxServer
    database: Engine
    database_url: SecretStr
    folder: Path
    edit: Callable[[Document], None] | None = None
    backfill: Backfill = field(default=BACKFILL)

    # --- driving ------------------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        access = {
            "clerk": {"secret_key": self.clerk.world.instance(ACME).secret_key},
            "attio": {"api_key": self.crm.seeded.token},
        }
        document: Document = {
            "workspaces": [{"key": ACME, **access}],
            "vendors": {name: {"base_url": self.server.account_urls(name)["api"]} for name in ("clerk", "attio")},
        }
        if self.edit is not None:
            self.edit(document)
        path = self.folder / "clients.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_registry(path, environ={})

    @contextmanager
    def runtime(self, *, stop: threading.Event | None = None, progress: Progress | None = None) -> Iterator[Runtime]:
        """One process's worth of shared things."""
        engine = create_database_engine(self.database_url)
        with Runtime(registry=self.registry(), engine=engine, stop=stop, progress=progress) as runtime:
            yield runtime

    def run_all(
        self,
        *keys: str,
        steps: Steps = RUN,
        stop: threading.Event | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> dict[str, Run]:
        """Workspaces side by side, in a process of their own."""
        with self.runtime(stop=stop, progress=progress) as runtime:
            works = [
                run_partition(
                    runtime,
                    self.backfill,
                    key,
                    steps=steps,
                    options=self.backfill.options_model(**options),
                    dagster_run_id=None,
                    root_run_id=None,
                )
                for key in keys
            ]
            return {run.partition_key: run for run in runtime.run_all(works)}

    def run(self, **given: Any) -> Run:
        """A run of the one workspace: `run_all`'s arguments, and options."""
        return self.run_all(ACME, **given)[ACME]

    def verify(self) -> Run:
        with self.runtime() as runtime:
            return runtime.run(verify_partition(runtime, self.backfill, ACME))

    def undo(self, run: Run, *, dry_run: bool = False) -> UndoResult:
        with self.runtime() as runtime:
            return runtime.run(undo_run(runtime, self.backfill, run, dry_run=dry_run))

    # --- the vendors, and what people do there ------------------------------------------------------------------------

    @property
    def users(self) -> ClerkInstanceState:
        return self.clerk.states[ACME]

    @property
    def crm(self) -> WorkspaceState:
        return self.attio.state.workspaces[ACME]

    def user(self, *addresses: str, **fields: Any) -> str:
        """Somebody signs up, with verified addresses, the first one primary; the id."""
        plain = {"first_name": None, "last_name": None, "banned": False, "deprovisioned": False}
        return self.users.create_user([(each, "verified") for each in addresses], **{**plain, **fields})

    def person(self, *addresses: str, user_id: str | None = None, by: Actor | None = None, **values: Any) -> str:
        """Somebody is entered in the CRM, by a member unless said otherwise; the record's id."""
        held = {"email_addresses": list(addresses), **values, **({} if user_id is None else {"user_id": [user_id]})}
        return self.crm.write(PEOPLE, held, actor=by or self.crm.seeded.member).id

    def set_user_id(self, record_id: str, user_id: str | None, *, by: Actor | None = None) -> None:
        """Somebody sets the attribute, or empties it."""
        values = {"user_id": [] if user_id is None else [user_id]}
        self.crm.write(PEOPLE, values, actor=by or self.crm.seeded.member, record_id=record_id)

    def after(self, action: Callable[[], None], *, path: str, method: str = "*", nth: int = 1) -> None:
        """Do it once such a request has had its effect, before it is answered."""
        self.server.after(Trigger(vendor="attio", path=path, method=method, nth=nth), action)

    def fault(self, kind: str, **trigger: Any) -> None:
        """Let Attio misbehave, unless another vendor is named."""
        self.server.add_faults([{"kind": kind, "vendor": "attio", **trigger}])

    # --- looking ------------------------------------------------------------------------------------------------------

    def people(self) -> dict[str, tuple[Addresses, Addresses]]:
        """Every person's addresses, in lower case, and ids."""
        with self.crm.lock:
            table = self.crm.tables[PEOPLE]
            return {
                key: (
                    tuple(str(each.content).lower() for each in table.active(record, "email_addresses")),
                    tuple(str(each.content) for each in table.active(record, "user_id")),
                )
                for key, record in table.records.items()
            }

    def everything(self) -> dict[str, Mapping[str, Sequence[Any]]]:
        """Every value of every person, with who wrote it and when."""
        with self.crm.lock:
            return {key: dict(record.values) for key, record in self.crm.tables[PEOPLE].records.items()}

    def people_with(self, user_id: str) -> list[str]:
        return sorted(key for key, (_, user_ids) in self.people().items() if user_id in user_ids)

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        with self.database.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def execute(self, statement: str) -> None:
        with self.database.begin() as connection:
            connection.exec_driver_sql(statement)

    def changes(self, run_id: UUID) -> dict[str, Row]:
        """The rows of a plan by user id."""
        rows = self.query("SELECT * FROM backfill.change WHERE run_id = :run_id ORDER BY seq", run_id=run_id)
        assert len({row["record_key"] for row in rows}) == len(rows)
        return {row["record_key"]: row for row in rows}

    def outcomes(self, run_id: UUID) -> dict[str, tuple[str, str, str | None]]:
        """Of each row: action, state, and the code that says why."""
        return {
            key: (row["action"], row["state"], row["error_code"] or row["reason"])
            for key, row in self.changes(run_id).items()
        }

    def landed(self) -> set[str]:
        """The ids of the people that are landed."""
        return {row["record_id"] for row in self.query("SELECT record_id FROM backfill.attio_person")}

    def requests(self, path: str = "*", *, method: str = "*", vendor: str = "attio") -> list[LoggedRequest]:
        """The requests to a vendor, in order."""
        return [
            each
            for each in self.server.requests
            if each.call.vendor == vendor and path in ("*", each.path) and method in ("*", each.method)
        ]

    def writes(self) -> Counter[str]:
        """How many requests of each writing method Attio got."""
        return Counter(
            each.method for each in self.requests() if each.method != "GET" and not each.path.endswith("/query")
        )


class Vendors(NamedTuple):
    """Both vendors, served; a server takes longer to stop than most tests do to run."""

    clerk: ClerkSandbox
    attio: AttioSandbox
    server: SandboxServer

    def product(self, database: Engine, database_url: SecretStr, folder: Path) -> AttioProduct:
        """The product of one test, as it was seeded."""
        self.server.reset()
        return AttioProduct(**self._asdict(), database=database, database_url=database_url, folder=folder)


@contextmanager
def running_vendors(
    *,
    instance: ClerkInstance = CLERK,
    workspace: AttioWorkspace = ATTIO,
    questions: OpenQuestions | None = None,
    limits: AttioLimits = UNLIMITED,
) -> Iterator[Vendors]:
    """Both vendors, for any number of tests."""
    users = ClerkSandbox(ClerkWorld((instance,)), live_limit=RateLimit(permits=10**6, window_seconds=10.0))
    crm = AttioSandbox([workspace], limits=limits, questions=questions)
    with SandboxServer([users, crm]) as server:
        yield Vendors(users, crm, server)


@contextmanager
def serving(database: Engine, database_url: SecretStr, folder: Path, **world: Any) -> Iterator[AttioProduct]:
    """Both vendors, for one test: `running_vendors` of this world."""
    with running_vendors(**world) as vendors:
        yield vendors.product(database, database_url, folder)


def succeeded(*runs: Run) -> bool:
    """Whether all of them did; fails with the first one's own words, which say more than a state."""
    for run in runs:
        assert run.state is State.SUCCEEDED, f"{run.partition_key}: {run.error_code}: {run.error_message}"
    return True


def failure(run: Run) -> tuple[State, str | None]:
    """How a run failed: its state and its code."""
    return run.state, run.error_code


def verified(run: Run) -> dict[str, Any]:
    """What a comparison found."""
    assert succeeded(run)
    assert run.verification is not None
    names = ("equal", "missing", "extra", "different", "explained", "passed")
    return {name: run.verification[name] for name in names}
