"""The Dagster UI as a user has it: `backfill dev` in a process of its own, driven over the webserver's GraphQL.

Belongs here: starting and ending it, launching, waiting, and reading back what it shows. Does not belong here: what is
expected of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

LONG_ENOUGH = 180.0
"""Seconds after which what a test waits for will not come any more. The daemon looks for backfills every 30."""
_BETWEEN_LOOKS = 0.25
_END_SECONDS = 60.0
_SET_SIGNAL_OF_PARENTS_DEATH = 1
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")

SOURCE = ["client_leads", "email_bison_replies"]
PLAN = ["client_leads", "plan"]
TARGET = ["client_leads", "client_leads"]
ALL = (SOURCE, PLAN, TARGET)
CHECK = {"assetKey": {"path": TARGET}, "name": "source_equals_target"}

_METADATA = """metadataEntries {
    label description
    ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr } ... on JsonMetadataEntry { jsonString }
    ... on IntMetadataEntry { intValue } ... on BoolMetadataEntry { boolValue } ... on FloatMetadataEntry { floatValue }
}"""
_ERROR = "message className stack errorChain { error { message className stack } }"
_RUN = f"""query ($id: ID!, $after: String) {{ runOrError(runId: $id) {{ ... on Run {{
    runId status jobName runConfigYaml rootRunId parentRunId assetSelection {{ path }} tags {{ key value }}
    eventConnection(afterCursor: $after) {{ cursor hasMore events {{
        __typename
        ... on MessageEvent {{ message eventType stepKey }}
        ... on DisplayableEvent {{ label description {_METADATA} }}
        ... on ErrorEvent {{ error {{ {_ERROR} }} }}
        ... on ExecutionStepFailureEvent {{ failureMetadata {{ {_METADATA} }} }}
        ... on MaterializationEvent {{ partition assetKey {{ path }} }}
        ... on AssetCheckEvaluationEvent {{ evaluation {{ success description {_METADATA} }} }}
    }} }}
}} }} }}"""


def wait_until(reached: Callable[[], bool], what: str) -> None:
    """Wait for a condition; there is no telling how long it takes on a busy host."""
    deadline = time.monotonic() + LONG_ENOUGH
    while not reached():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(_BETWEEN_LOOKS)


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run as the UI shows it."""

    id: str
    status: str
    tags: Mapping[str, str]
    events: Sequence[Mapping[str, Any]]
    document: Mapping[str, Any]

    def messages(self) -> list[str]:
        return [event.get("message") or "" for event in self.events]

    def materialized(self, asset: Sequence[str] = TARGET) -> list[str]:
        """The partitions of an asset that the run materialized, sorted."""
        return sorted(
            event["partition"]
            for event in self.events
            if event["__typename"] == "MaterializationEvent" and event["assetKey"]["path"] == list(asset)
        )

    def metadata(self, partition: str, asset: Sequence[str] = TARGET) -> dict[str, Any]:
        """What a partition's materialization shows, by label."""
        (event,) = (
            event
            for event in self.events
            if event["__typename"] == "MaterializationEvent"
            and (event["assetKey"]["path"], event["partition"]) == (list(asset), partition)
        )
        return _values(event["metadataEntries"])

    def check(self) -> tuple[bool, str, dict[str, Any]]:
        """What the run said about the asset check: whether it passed, in words, and its metadata."""
        (event,) = (event for event in self.events if event["__typename"] == "AssetCheckEvaluationEvent")
        evaluation = event["evaluation"]
        return evaluation["success"], evaluation["description"], _values(evaluation["metadataEntries"])

    def process_id(self) -> int:
        """The process that works on it."""
        (started,) = (message for message in self.messages() if message.startswith("Started process for run (pid: "))
        return int(started.partition("pid: ")[2].partition(")")[0])


def _values(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        entry["label"]: next(value for name, value in entry.items() if name not in ("label", "description"))
        for entry in entries
    }


@dataclass
class DagsterUi:
    """GraphQL of a running webserver."""

    url: str
    seen: list[str] = field(default_factory=list)
    """Every answer, as it came."""

    def ask(self, query: str, **variables: Any) -> Any:
        """Send a query or mutation; its one field's value."""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        self.seen.append(answer.text)
        document = answer.json()
        assert "errors" not in document, document["errors"]
        (value,) = document["data"].values()
        return value

    def launch_backfill(self, partitions: Sequence[str], assets: Sequence[Sequence[str]] = ALL) -> str:
        """What the UI does for several partitions; the daemon makes runs of it. Returns the backfill's id."""
        launched = self.ask(
            "mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {"
            " __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p={"assetSelection": [{"path": list(asset)} for asset in assets], "partitionNames": list(partitions)},
        )
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def backfill(self, backfill_id: str) -> Mapping[str, Any]:
        """Its status and its runs' ids."""
        found: Mapping[str, Any] = self.ask(
            "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {"
            " status runs { id status } error { message } } } }",
            id=backfill_id,
        )
        return found

    def runs_of_backfill(self, backfill_id: str) -> list[ShownRun]:
        """Its runs, once there are any and all have ended."""

        def ended() -> bool:
            runs = self.backfill(backfill_id)["runs"]
            return bool(runs) and all(run["status"] in _ENDED for run in runs)

        wait_until(ended, f"the runs of backfill {backfill_id}")
        return [self.run(run["id"]) for run in self.backfill(backfill_id)["runs"]]

    def launch_run(
        self,
        *,
        assets: Sequence[Sequence[str]] = (),
        partitions: Sequence[str] = (),
        checks: Sequence[Mapping[str, Any]] = (),
        job: str = "__ASSET_JOB",
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """What the UI does for one partition, a check or a job, and a schedule for a range of partitions."""
        names = ("dagster/partition",) if len(partitions) == 1 else _RANGE_TAGS
        tags = dict(zip(names, (partitions[0], partitions[-1]), strict=False)) if partitions else {}
        selector: dict[str, Any] = {
            "repositoryLocationName": "backfill_pipelines.definitions",
            "repositoryName": "__repository__",
            "jobName": job,
        }
        if job == "__ASSET_JOB":
            selector |= {
                "assetSelection": [{"path": list(asset)} for asset in assets],
                "assetCheckSelection": list(checks),
            }
        launched = self.ask(
            "mutation ($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }"
            " ... on RunConfigValidationInvalid { errors { message } } } }",
            p={
                "selector": selector,
                "runConfigData": dict(config or {}),
                "mode": "default",
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            },
        )
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """What the button "Terminate" does."""
        answer = self.ask(
            "mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }",
            id=run_id,
        )
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run(self, run_id: str) -> ShownRun:
        """A run with all its events so far."""
        events: list[Mapping[str, Any]] = []
        cursor, more, document = None, True, {}
        while more:
            document = self.ask(_RUN, id=run_id, after=cursor)
            page = document["eventConnection"]
            events, cursor, more = events + page["events"], page["cursor"], page["hasMore"]
        tags = {tag["key"]: tag["value"] for tag in document["tags"]}
        return ShownRun(id=run_id, status=document["status"], tags=tags, events=events, document=document)

    def ended(self, run_id: str) -> ShownRun:
        """A run, once it has ended."""
        wait_until(lambda: self._status(run_id) in _ENDED, f"the end of run {run_id}")
        return self.run(run_id)

    def retry_of(self, run_id: str) -> str:
        """The id of the run that the daemon makes of one that died."""

        def found() -> list[str]:
            group = self.ask(
                "query ($id: ID!) { runGroupOrError(runId: $id) { ... on RunGroup { runs { id } } } }", id=run_id
            )
            return [run["id"] for run in group["runs"] if run["id"] != run_id]

        wait_until(lambda: bool(found()), f"a retry of run {run_id}")
        (retry,) = found()
        return retry

    def every_run(self) -> list[ShownRun]:
        runs = self.ask("{ runsOrError(limit: 1000) { ... on Runs { results { id } } } }")["results"]
        return [self.run(run["id"]) for run in runs]

    def partitions(self, asset: Sequence[str] = TARGET) -> dict[str, set[str]]:
        """The partitions of an asset by their state: materialized, failed, missing."""
        statuses = "materializedPartitions failedPartitions unmaterializedPartitions"
        found = self.ask(
            "query ($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { assetPartitionStatuses {"
            f" ... on DefaultPartitionStatuses {{ {statuses} }} }} }} }} }}",
            k={"path": list(asset)},
        )["assetPartitionStatuses"]
        failed, missing = set(found["failedPartitions"]), set(found["unmaterializedPartitions"])
        return {"materialized": set(found["materializedPartitions"]), "failed": failed, "missing": missing - failed}

    def _status(self, run_id: str) -> str:
        found = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        return str(found["status"])


_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@contextmanager
def running_ui(folder: Path, environ: Mapping[str, str]) -> Iterator[DagsterUi]:
    """`backfill dev` in `folder`, until the end of the block; its output is in `output` there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backfill_pipelines.cli", "dev", "--port", str(port)],
            cwd=folder,
            env=dict(environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_this_process if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call
        )
    ui = DagsterUi(f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: process.poll() is not None or _answers(ui.url), "the UI")
        assert process.poll() is None, (folder / "output").read_text(encoding="utf-8")[-3000:]
        yield ui
        process.send_signal(signal.SIGINT)
        assert process.wait(_END_SECONDS) == 0
    finally:
        if process.poll() is None:
            # It ends its children on the first one, and itself with them.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _end_with_this_process() -> None:
    """Let the kernel send SIGTERM when the tests' own process is killed: five processes would stay for ever."""
    ctypes.CDLL(None).prctl(_SET_SIGNAL_OF_PARENTS_DEATH, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/server_info", timeout=5).is_success
    except httpx.HTTPError:
        return False


def kill(process_id: int) -> None:
    """As the kernel does when memory ends."""
    os.kill(process_id, signal.SIGKILL)


def shown_text(runs: Sequence[ShownRun]) -> list[str]:
    """Everything that the UI has of runs: events, metadata, errors, tags, configuration."""
    return [json.dumps([run.document, list(run.events)], ensure_ascii=False) for run in runs]
