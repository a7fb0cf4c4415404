"""What a backfill is: the contract between one file in `backfills/` and the engine.

Belongs here: the protocol, and the plain values that pass through it. Does not belong here: anything that does
something (`partition_run.py` does it, in order).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable
from uuid import UUID

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine

from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.record_by_record import RecordTarget
from backfill_pipelines.engine.set_based import SetBasedTarget
from backfill_pipelines.errors import BackfillError, InterruptedRunError
from backfill_pipelines.registry import Registry

_Resource = TypeVar("_Resource")


class RunOptions(BaseModel):
    """What a run may be asked for, whatever the backfill. A backfill adds its own by subclassing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_records: int | None = Field(
        default=None, ge=1, description="Load at most this many creates and updates per partition; the rest waits."
    )
    fresh: bool = Field(default=False, description="Start anew instead of going on with an interrupted run.")

    def partitions_at_once(self, registry: Registry) -> int:
        """How many partitions of the process may be at work at once."""
        return registry.defaults.max_parallel_clients


class SharedResources:
    """Resources that all partitions of a process share, each opened once, whoever asks first: clients, quotas, lists.

    Lives on the event loop; not for threads.
    """

    def __init__(self) -> None:
        self._tasks: dict[object, asyncio.Task[Any]] = {}
        self._open = AsyncExitStack()

    async def get(self, key: object, make: Callable[[], Awaitable[_Resource]]) -> _Resource:
        """Return the resource, made on the first call; who asks meanwhile waits for the same one.

        A failure is told to everyone who waits and then forgotten, so that a retry makes it anew.
        """
        task = self._tasks.get(key)
        if task is None or _failed(task):
            task = self._tasks[key] = asyncio.ensure_future(make())
        # Shielded: one partition that is cancelled must not cancel what the others wait for.
        return cast("_Resource", await asyncio.shield(task))

    async def enter(self, context: AbstractAsyncContextManager[_Resource]) -> _Resource:
        """Open something that stays open until the process is done."""
        return await self._open.enter_async_context(context)

    async def close(self) -> None:
        """Close what was opened, last one first; what is still being made is given up."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self._open.aclose()


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


class Progress(Protocol):
    """Where a run tells how far it is. Called from any thread; numbers and keys only."""

    def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
        """`done` of `total` units (pages, rows) of a step of a partition; `total` is None while unknown."""


@dataclass(kw_only=True)
class Scope:
    """One partition at work: what the four steps of a backfill get to see."""

    backfill: str
    partition_key: str
    registry: Registry
    engine: Engine
    shared: SharedResources
    options: RunOptions
    progress: Progress
    stop: threading.Event
    run_id: UUID
    locks: AdvisoryLocks
    require_lock: Callable[[], None]
    """Raises where the partition's lock was lost."""
    warnings: set[str] = field(default_factory=set)
    reasons: dict[str, int] = field(default_factory=dict)
    """Counted reasons of the extraction that are no plan rows."""
    details: dict[str, Any] = field(default_factory=dict)
    """The backfill's own figures; nothing personal."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What a step has read and later steps of the same run need again, by names of the backfill's own."""

    def safe_point(self) -> None:
        """Stop here if somebody asked for it: everything done so far is committed."""
        if self.stop.is_set():
            raise InterruptedRunError(
                "interrupted",
                "Stopped on request, with everything done so far kept; the same command again goes on from here.",
            )

    def report(self, step: str, done: int, total: int | None) -> None:
        """Tell how far a step is."""
        self.progress.report(self.partition_key, step, done, total)


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """Source against target, as counts of records by key; ids at most, never values."""

    equal: int
    missing: int
    extra: int
    different: int
    explained: int = 0
    """Records that differ because a plan rejected them or left them as a conflict."""
    passed: bool
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Up to 20 source ids each of what is missing, extra or different."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The backfill's own figures of the comparison."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a backfill's plan function says: how many source records it looked at, and the rows."""

    source: int
    frames: Iterable[pd.DataFrame]
    """Frames with `PLAN_COLUMNS`, sorted by key over all frames; consumed once."""
    skips: Mapping[str, int] = field(default_factory=dict)
    """Further records that are skipped, counted by reason: a million rows that nobody stores need not be made."""


class Backfill(Protocol):
    """A backfill. Its steps are called in the order below, each for one partition."""

    name: ClassVar[str]
    description: ClassVar[str]
    source_asset: ClassVar[str]
    target_asset: ClassVar[str]
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]]
    partition_kind: ClassVar[Literal["client", "workspace"]]
    options_model: ClassVar[type[RunOptions]]
    schedule: ClassVar[str]
    """Cron expression (UTC) of its schedule, which starts stopped."""

    @property
    def uses(self) -> str | frozenset[str]:
        """The section of a client's or workspace's entry that makes it a partition of this backfill, or several that
        it needs together. (A property, so that a backfill may declare the narrower of the two types.)"""

    def preflight(self, scope: Scope) -> None:
        """Raise `ConfigurationError` for whatever would keep the partition from running. Reads only."""

    async def extract(self, scope: Scope) -> None:
        """Land the source, from the cursor on; prove whose data it is."""

    def plan(self, scope: Scope) -> Plan:
        """Say what to do, from what is landed and what is in the target. Reads only."""

    def target(self, scope: Scope) -> SetBasedTarget | RecordTarget:
        """What executes the plan's rows, and takes them back."""

    def verify(self, scope: Scope) -> Reconciliation:
        """Compare what is landed with the target, read again."""

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        """Look over the newest run of every partition; a warning code by key for those that cannot all be right."""


@runtime_checkable
class ReadsTargetAgain(Protocol):
    """A backfill whose target is landed too: its `verify` asks nobody and needs it read again after a load."""

    async def read_target(self, scope: Scope) -> None:
        """Land the target as it is after a load. Called after every load; where it wrote nothing there is no need."""


@runtime_checkable
class AuditedBackfill(Protocol):
    """A backfill that leaves a trace of its runs in the user's own tables."""

    def audit(self, scope: Scope, run: Run, failure: BackfillError | None) -> None:
        """Write down how a run ended that loads or takes back, in a transaction of its own; again changes nothing more.

        `run` is the run at its end, with its counts, but not closed yet.
        """
