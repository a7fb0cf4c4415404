"""Products with users and an app: fake Clerk and Convex on sockets, a database, a registry, runs of `convex_users`.

Belongs here: driving whole runs, doing what people do meanwhile, and reading what a run left. Does not belong here:
what is expected of it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.convex_users import ConvexTarget, ConvexUsers
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, undo_run
from backfill_pipelines.engine.verify import verify_partition
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkInstance, ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState
from backfill_pipelines.sandbox.convex import ConvexQuestions, ConvexSandbox
from backfill_pipelines.sandbox.convex_data import ConvexDeployment, build_convex_deployment, profile_of
from backfill_pipelines.sandbox.convex_functions import ConvexLimits
from backfill_pipelines.sandbox.convex_state import ConvexDeploymentState
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.sandbox.traffic import LoggedRequest, RateLimit
from backfill_pipelines.vendors import clerk, convex
from backfill_pipelines.vendors.transport import RetryPolicy
from backfill_pipelines_tests.backfills.convex_users_reference import FIELDS, KnownRow, KnownUser, KnownWorld

BACKFILL = ConvexUsers()
ACME, BOLT = "acme", "bolt"
RUN = Steps()
DRY_RUN = Steps(load=False)
LOAD_ONLY = Steps(extract=False, plan=False)
QUERY, MUTATION = "/api/query", "/api/mutation"
USERS, ROWS, DIFFERENT = 100, 88, 20
"""Of 100 users of Clerk 80 have a row, of which 20 differ and 3 are there twice; 5 rows more are nobody's."""
SMALL_PAGE, SMALL_BATCH = 20, 4

CLERK = build_clerk_instance(seed=11, users=USERS, key=ACME)
OTHER_CLERK = build_clerk_instance(seed=12, users=20, key=BOLT)
EMPTY_CLERK = build_clerk_instance(seed=13, users=0, key=ACME)

Row = dict[str, Any]
Document = dict[str, Any]


def app_of(instance: ClerkInstance) -> ConvexDeployment:
    """The app whose users these are."""
    return build_convex_deployment(seed=instance.seed, key=instance.key, users=instance.seeded_users())


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for permits, which the tests are not about, nor between attempts."""
    monkeypatch.setattr(clerk, "LIVE_REQUESTS", 10**6)
    for module in (clerk, convex):
        monkeypatch.setattr(module, "RetryPolicy", partial(RetryPolicy, base_seconds=0.001))


def in_small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 20 rows and batches of 4, two of them at once: several of each for a hundred users."""
    connect = partial(convex.connect, rows_a_page=SMALL_PAGE, rows_a_batch=SMALL_BATCH)
    monkeypatch.setattr(convex, "connect", connect)
    monkeypatch.setattr(ConvexTarget, "batch_rows", SMALL_BATCH)
    monkeypatch.setattr(ConvexTarget, "concurrency", 2)
    monkeypatch.setattr(ConvexTarget, "window_rows", 2 * SMALL_BATCH)


@dataclass(kw_only=True)
class ConvexProduct:
    """Both vendors and the database; `edit` changes the registry's document before it is written."""

    clerk: ClerkSandbox
    convex: ConvexSandbox
    server: SandboxServer
    database: Engine
    database_url: SecretStr
    folder: Path
    edit: Callable[[Document], None] | None = None
    environ: Mapping[str, str] | None = None

    # --- driving ------------------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        urls = self.server.account_urls("convex")
        document: Document = {
            "workspaces": [
                {
                    "key": each.key,
                    "clerk": {"secret_key": each.secret_key},
                    "convex": {"url": urls[each.key], "deploy_key": self.convex.states[each.key].seeded.deploy_key},
                }
                for each in self.clerk.world.instances
            ],
            "vendors": {"clerk": {"base_url": self.server.account_urls("clerk")["api"]}},
        }
        if self.edit is not None:
            self.edit(document)
        path = self.folder / "clients.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_registry(path, environ=self.environ or {})

    @contextmanager
    def runtime(self, *, stop: threading.Event | None = None) -> Iterator[Runtime]:
        """One process's worth of shared things."""
        engine = create_database_engine(self.database_url)
        with Runtime(registry=self.registry(), engine=engine, stop=stop) as runtime:
            yield runtime

    def run_all(
        self, *keys: str, steps: Steps = RUN, stop: threading.Event | None = None, **options: Any
    ) -> dict[str, Run]:
        """Workspaces side by side, in a process of their own."""
        with self.runtime(stop=stop) as runtime:
            works = [
                run_partition(
                    runtime,
                    BACKFILL,
                    key,
                    steps=steps,
                    options=BACKFILL.options_model(**options),
                    dagster_run_id=None,
                    root_run_id=None,
                )
                for key in keys
            ]
            return {run.partition_key: run for run in runtime.run_all(works)}

    def run(self, *, steps: Steps = RUN, stop: threading.Event | None = None, **options: Any) -> Run:
        return self.run_all(ACME, steps=steps, stop=stop, **options)[ACME]

    def verify(self) -> Run:
        with self.runtime() as runtime:
            return runtime.run(verify_partition(runtime, BACKFILL, ACME))

    def undo(self, run: Run, *, dry_run: bool = False) -> UndoResult:
        with self.runtime() as runtime:
            return runtime.run(undo_run(runtime, BACKFILL, run, dry_run=dry_run))

    # --- the vendors, and what people do there ------------------------------------------------------------------------

    @property
    def users(self) -> ClerkInstanceState:
        return self.clerk.states[ACME]

    @property
    def app(self) -> ConvexDeploymentState:
        return self.convex.states[ACME]

    def user(self, address: str | None = None, **fields: Any) -> str:
        """Somebody signs up at Clerk; the id."""
        nothing = {"first_name": None, "last_name": None, "username": None, "image_url": None}
        return self.users.create_user([] if address is None else [(address, "verified")], **{**nothing, **fields})

    def member(self, address: str | None = None, *, held: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """Somebody signs up at Clerk and has a row in the app that holds what Clerk has, but for `held`; the id."""
        user_id = self.user(address, **fields)
        profile = {name: value for name, value in self.profile(user_id).items() if value is not None}
        self.app.insert(clerkId=user_id, **{**profile, **(held or {})})
        return user_id

    def profile(self, user_id: str) -> dict[str, Any]:
        """The eight fields as Clerk has them."""
        number = self.users.seeded.user_number(user_id)
        assert number is not None
        return dict(profile_of(self.users.user(number)))

    def after(self, action: Callable[[], None], *, path: str, vendor: str = "convex", nth: int = 1) -> None:
        """Do it once such a request has had its effect, before it is answered."""
        self.server.after(Trigger(vendor=vendor, path=path, nth=nth), action)

    def fault(self, kind: str, **trigger: Any) -> None:
        """Let Convex misbehave, unless another vendor is named."""
        self.server.add_faults([{"kind": kind, "vendor": "convex", **trigger}])

    # --- looking ------------------------------------------------------------------------------------------------------

    def documents(self, key: str = ACME) -> dict[str, Document]:
        """Every row of the app's users, by its id."""
        return {each["_id"]: each for each in self.convex.states[key].documents()}

    def row(self, user_id: str) -> Document:
        """The one row of a user."""
        (document_id,) = self.app.ids_of(user_id)
        return self.documents()[document_id]

    def world(self) -> KnownWorld:
        """Both vendors as they are now, in the terms of the reference."""
        return KnownWorld(
            users=[KnownUser(id=user_id, profile=self.profile(user_id)) for user_id in self.users.user_ids()],
            rows=[
                KnownRow(id=key, clerk_id=each["clerkId"], fields=fields_of(each))
                for key, each in self.documents().items()
            ],
        )

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        with self.database.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def changes(self, run_id: UUID) -> dict[str, Row]:
        """The rows of a plan by their key."""
        rows = self.query("SELECT * FROM backfill.change WHERE run_id = :run_id ORDER BY seq", run_id=run_id)
        assert [row["record_key"] for row in rows] == sorted({row["record_key"] for row in rows})
        return {row["record_key"]: row for row in rows}

    def outcomes(self, run_id: UUID) -> dict[str, tuple[str, str, str | None]]:
        """Of each row of a plan: action, state, and the code that says why."""
        return {
            key: (row["action"], row["state"], row["error_code"] or row["reason"])
            for key, row in self.changes(run_id).items()
        }

    def states(self, run_id: UUID) -> Counter[str]:
        """How many rows that are to be written are in which state."""
        return Counter(row["state"] for row in self.changes(run_id).values() if row["action"] == "update")

    def requests(self, path: str, *, vendor: str = "convex", since: int = 0) -> list[LoggedRequest]:
        """The requests to a path, in order, from the one after a number of requests to anybody."""
        return [
            each for each in self.server.requests[since:] if each.call.vendor == vendor and path in ("*", each.path)
        ]

    def calls(self, *, since: int = 0) -> Counter[str]:
        """How many requests each path of the two vendors got."""
        return Counter(each.path for each in self.server.requests[since:])

    @property
    def patched(self) -> int:
        """How many rows were written since the start, undos included."""
        return self.app.outcomes["patched"]


@contextmanager
def serving(
    database: Engine,
    database_url: SecretStr,
    folder: Path,
    *,
    instances: Sequence[ClerkInstance] = (CLERK, OTHER_CLERK),
    limits: ConvexLimits | None = None,
    questions: ConvexQuestions | None = None,
) -> Iterator[ConvexProduct]:
    """Both vendors, for one test."""
    users = ClerkSandbox(ClerkWorld(tuple(instances)), live_limit=RateLimit(permits=10**6, window_seconds=10.0))
    app = ConvexSandbox([app_of(each) for each in instances], limits=limits, questions=questions)
    with SandboxServer([users, app]) as server:
        yield ConvexProduct(
            clerk=users, convex=app, server=server, database=database, database_url=database_url, folder=folder
        )


def fields_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the eight fields that a row has."""
    return {name: document[name] for name in FIELDS if name in document}


def others_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a row has besides the eight fields."""
    return {name: value for name, value in document.items() if name not in FIELDS}


def in_workspace(change: Callable[[Document], None], key: str = ACME) -> Callable[[Document], None]:
    """An edit of the registry that changes one workspace."""

    def edit(document: Document) -> None:
        for workspace in document["workspaces"]:
            if workspace["key"] == key:
                change(workspace)

    return edit


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
