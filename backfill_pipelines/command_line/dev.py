"""`backfill dev`: the databases, optionally the fake vendors, then the Dagster UI and daemon until Ctrl-C.

Belongs here: starting and stopping those processes. Does not belong here: what they run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import httpx

from backfill_pipelines.command_line.demo import make_product_tables, sandbox_environment
from backfill_pipelines.command_line.failures import FAILED, UsageError
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.services import PROJECT_FOLDER, dagster_environment, open_instance
from backfill_pipelines.definitions import all_backfills
from backfill_pipelines.engine.dagster_adapter import sync_partitions
from backfill_pipelines.engine.dagster_orphans import end_orphaned_runs
from backfill_pipelines.engine.runtime import open_runtime
from backfill_pipelines.sandbox.entry import DEFAULT_PORT, build_sandbox
from backfill_pipelines.sandbox.server import SandboxStartError

_STOP_SECONDS = 30
_LOOK_SECONDS = 0.5


def serve_ui(*, sandbox: bool, port: int) -> int:
    """Serve the UI on a port of this machine until Ctrl-C; returns the exit code."""
    configure_logs(verbose=True)
    with ExitStack() as stack:
        if sandbox:
            try:
                vendors = build_sandbox(port=DEFAULT_PORT)
                stack.enter_context(sandbox_environment(vendors))
            except SandboxStartError as error:
                raise UsageError("port_taken", str(error)) from None
            make_product_tables(vendors)
        stack.enter_context(dagster_environment())
        with open_runtime() as runtime, open_instance() as instance:
            end_orphaned_runs(instance, runtime.locks)
            for backfill in all_backfills():
                sync_partitions(instance, backfill, runtime.registry)
        return _run_dagster(port)


def _run_dagster(port: int) -> int:
    """Run Dagster's own development server as a child, in a process group that Ctrl-C here ends as a whole."""
    asked = threading.Event()
    previous = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [
            # Superseded by `dg dev`, whose package is for development only; it stays part of Dagster 1.13.
            sys.executable, "-W", "ignore:Function `dev_command`", "-m", "dagster", "dev",
            "--workspace", str(PROJECT_FOLDER / "workspace.yaml"), "--log-level", "warning",
            "--host", "127.0.0.1", "--port", str(port),
        ],
        start_new_session=True,
    )  # fmt: skip
    try:
        _announce(port, child, asked)
        while child.poll() is None and not asked.wait(_LOOK_SECONDS):
            pass
        if asked.is_set():
            return 0
        print("error: the Dagster UI ended by itself; its output is above", file=sys.stderr)
        return FAILED
    finally:
        _end(child)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _announce(port: int, child: subprocess.Popen[bytes], asked: threading.Event) -> None:
    """Tell when the UI answers; it takes 10 to 30 seconds."""
    print("starting the Dagster UI …", file=sys.stderr)
    started = time.monotonic()
    while child.poll() is None and not asked.wait(_LOOK_SECONDS):
        try:
            httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).raise_for_status()
        except httpx.HTTPError:
            continue
        print(
            f"http://127.0.0.1:{port} is up after {time.monotonic() - started:.0f} s; Ctrl-C ends it", file=sys.stderr
        )
        return


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole group: webserver, daemon, code server, and runs, which stop at their next safe point."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
