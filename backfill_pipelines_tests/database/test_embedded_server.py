"""Processes that start, share, lose and leave one server: each test with real processes and a real kill."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from backfill_pipelines.database import cluster_files, embedded_server
from backfill_pipelines.database.cluster_account import account_for, server_program
from backfill_pipelines.database.cluster_files import ClusterFiles
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines_tests.database.holders import Holder, lives, postmaster, query, stop, wait_until


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Postgres."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def in_threads(calls: Sequence[Callable[[], object]]) -> None:
    """Make all the calls at the same moment; raises what one of them raised."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        for result in [pool.submit(run, call) for call in calls]:
            result.result()


def test_four_processes_that_start_at_once_make_one_server_and_the_last_one_out_stops_it(tmp_path: Path) -> None:
    data = tmp_path / "new" / "postgres"
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(Holder(data)) for _ in range(4)]
        stack.callback(stop, data)
        url = holders[0].url
        assert {postmaster(holder.url) for holder in holders} == {postmaster(url)}
        log = data.with_name("postgres.log").read_text()
        assert log.count("You can now start the database server") == 1
        assert log.count("starting PostgreSQL") == 1
        for holder in holders[:3]:
            assert holder.leave() == 0
            assert query(url, "SELECT 1") == 1
        assert holders[3].leave() == 0
        assert not lives(data)
        with pytest.raises(psycopg.OperationalError):
            query(url, "SELECT 1")


def test_a_killed_holder_does_not_keep_the_server_alive(data_folder: Path) -> None:
    with Holder(data_folder) as killed, Holder(data_folder) as other:
        assert killed.url == other.url
        killed.process.kill()
        killed.process.wait()
        assert query(other.url, "SELECT 1") == 1
        assert other.leave() == 0
        assert not lives(data_folder)


def test_the_server_of_a_killed_only_holder_is_joined_by_the_next_and_stopped_when_that_one_leaves(
    data_folder: Path,
) -> None:
    with Holder(data_folder) as killed:
        before = postmaster(killed.url)
    assert lives(data_folder)
    with EmbeddedServer.start(data_folder) as server:
        assert postmaster(server.url("postgres").get_secret_value()) == before
    assert not lives(data_folder)


def test_a_killed_server_is_started_again_with_its_data_while_an_older_holder_remains(data_folder: Path) -> None:
    with EmbeddedServer.start(data_folder) as first:
        url = first.url("postgres").get_secret_value()
        query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(postmaster(url), signal.SIGKILL)
        with EmbeddedServer.start(data_folder) as second:
            assert query(second.url("postgres").get_secret_value(), "SELECT answer FROM kept") == 42
            # The older holder's URL is good again too.
            assert second.url("postgres") == first.url("postgres")
        assert query(url, "SELECT 1") == 1
    assert not lives(data_folder)


def test_a_process_id_that_now_belongs_to_a_stranger_neither_prevents_the_start_nor_harms_the_stranger(
    data_folder: Path, stranger: subprocess.Popen[bytes]
) -> None:
    with EmbeddedServer.start(data_folder) as server:
        url = server.url("postgres").get_secret_value()
        socket_lock = Path(str(query(url, "SHOW unix_socket_directories")).strip('"')) / ".s.PGSQL.5432.lock"
        os.kill(postmaster(url), signal.SIGKILL)
    wait_until(lambda: not lives(data_folder))
    for file in (data_folder / "postmaster.pid", socket_lock):
        file.write_text(re.sub(r"\A\d+", str(stranger.pid), file.read_text()))
    with EmbeddedServer.start(data_folder) as server:
        assert postmaster(server.url("postgres").get_secret_value()) != stranger.pid
    assert not lives(data_folder)
    assert stranger.poll() is None


def test_leaving_a_dead_server_whose_process_id_a_stranger_has_does_not_harm_the_stranger(
    data_folder: Path, stranger: subprocess.Popen[bytes]
) -> None:
    with EmbeddedServer.start(data_folder) as server:
        os.kill(postmaster(server.url("postgres").get_secret_value()), signal.SIGKILL)
        wait_until(lambda: not lives(data_folder))
        record = data_folder / "postmaster.pid"
        record.write_text(re.sub(r"\A\d+", str(stranger.pid), record.read_text()))
    assert stranger.poll() is None


@pytest.mark.parametrize("record", ["", "not a number\n", "-1\n"])
def test_a_broken_record_of_a_crashed_host_does_not_prevent_the_start(data_folder: Path, record: str) -> None:
    (data_folder / "postmaster.pid").write_text(record)
    with EmbeddedServer.start(data_folder) as server:
        assert query(server.url("postgres").get_secret_value(), "SELECT 1") == 1


def test_a_copied_data_folder_gets_a_server_of_its_own_while_the_original_runs(
    data_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data_folder, copy)
    with EmbeddedServer.start(data_folder) as original:
        # Same identifier, and a record that leads to the original's server.
        shutil.copy(data_folder / "postmaster.pid", copy)
        with EmbeddedServer.start(copy) as server:
            assert query(server.url("postgres").get_secret_value(), "SHOW data_directory") == str(copy)
        assert not lives(copy)
        assert query(original.url("postgres").get_secret_value(), "SELECT 1") == 1


def test_the_record_of_the_original_is_not_believed_while_a_copys_own_server_begins(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = ClusterFiles(tmp_path / "copy")
    shutil.copytree(data_folder, copy.data)
    copy.locks.mkdir()
    with EmbeddedServer.start(data_folder), copy.server_lock():
        shutil.copy(data_folder / "postmaster.pid", copy.data)
        monkeypatch.setattr(embedded_server, "START_SECONDS", 0.2)
        with pytest.raises(TransientError) as waited:
            EmbeddedServer.start(copy.data)
    assert waited.value.code == "embedded_server_timeout"


def test_the_server_of_a_deleted_folder_is_not_taken_for_that_of_the_folder_made_anew(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew, deleted = tmp_path / "anew", tmp_path / "deleted"
    EmbeddedServer.start(anew, durable=False).close()
    with EmbeddedServer.start(data_folder):
        monkeypatch.setattr(embedded_server, "START_SECONDS", 0.2)
        shutil.copy(data_folder / "postmaster.pid", anew)
        data_folder.rename(deleted)
        anew.rename(data_folder)
        with pytest.raises(TransientError) as waited:
            EmbeddedServer.start(data_folder)
        assert waited.value.code == "embedded_server_timeout"
        data_folder.rename(anew)
        deleted.rename(data_folder)


def test_only_one_process_at_a_time_starts_or_stops(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ClusterFiles(data_folder)
    server = EmbeddedServer.start(data_folder)
    monkeypatch.setattr(cluster_files, "TURN_SECONDS", 0.1)
    with files.turn():
        for attempt in (lambda: EmbeddedServer.start(data_folder), server.close):
            with pytest.raises(TransientError) as waited:
                attempt()
            assert waited.value.code == "embedded_server_busy"
    EmbeddedServer.start(data_folder).close()
    assert not files.server_lives()


def test_a_server_that_was_started_by_hand_is_not_run_over(data_folder: Path, tmp_path: Path) -> None:
    account = account_for(data_folder)
    log = tmp_path / "by_hand.log"
    sockets = Path(tempfile.mkdtemp())
    account.give(sockets)
    account.give(data_folder)
    options = f"-c listen_addresses='' -c unix_socket_directories='{sockets}'"
    control = [server_program("pg_ctl"), "-D", str(data_folder), "-s"]
    account.run([*control, "-W", "-o", options, "start"], log=log)
    wait_until(lambda: "ready to accept" in log.read_text())
    try:
        with pytest.raises(ConfigurationError) as refused:
            EmbeddedServer.start(data_folder)
        assert refused.value.code == "embedded_server_failed"
        assert "shared memory" in data_folder.with_name("postgres.log").read_text()
        assert "shutdown" not in log.read_text()
    finally:
        assert account.run([*control, "-m", "fast", "stop"], log=log) == 0
        sockets.rmdir()
    EmbeddedServer.start(data_folder).close()


def test_a_start_that_is_killed_while_the_folder_is_being_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    with Holder(data):
        wait_until((tmp_path / "postgres.new").exists)
    with EmbeddedServer.start(data, durable=False) as server:
        assert query(server.url("postgres").get_secret_value(), "SELECT 1") == 1
    assert not (tmp_path / "postgres.new").exists()


def test_a_half_made_folder_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    script = """
import os, signal, sys
from pathlib import Path
from backfill_pipelines.database.embedded_server import EmbeddedServer
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
EmbeddedServer.start(Path(sys.argv[1]), durable=False)
"""
    assert subprocess.run([sys.executable, "-c", script, str(data)], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "postgres.new" / "PG_VERSION").exists()
    assert not data.exists()
    with EmbeddedServer.start(data, durable=False) as server:
        assert query(server.url("postgres").get_secret_value(), "SELECT 1") == 1
    assert not (tmp_path / "postgres.new").exists()


def test_of_holders_that_leave_at_the_same_moment_one_stops_the_server(data_folder: Path) -> None:
    for _ in range(3):
        servers = [EmbeddedServer.start(data_folder, durable=False) for _ in range(8)]
        in_threads([server.close for server in servers])
        assert not lives(data_folder)


def test_a_server_that_cannot_start_names_its_log_and_starts_once_it_is_repaired(data_folder: Path) -> None:
    settings = data_folder / "postgresql.auto.conf"
    settings.write_text("shared_buffers = nonsense\n")
    with pytest.raises(ConfigurationError, match=re.escape(str(data_folder.with_name("postgres.log")))) as failed:
        EmbeddedServer.start(data_folder)
    assert failed.value.code == "embedded_server_failed"
    settings.write_text("")
    EmbeddedServer.start(data_folder).close()


def test_an_interrupt_at_the_terminal_reaches_the_holder_and_not_the_server(data_folder: Path) -> None:
    with Holder(data_folder) as interrupted:
        url = interrupted.url
        with EmbeddedServer.start(data_folder):
            before = postmaster(url)
            os.killpg(interrupted.process.pid, signal.SIGINT)  # as Ctrl-C does: the whole foreground group
            interrupted.process.wait(timeout=60)
            assert postmaster(url) == before
            assert "shutdown request" not in data_folder.with_name("postgres.log").read_text()
    assert not lives(data_folder)


def test_a_forked_child_that_closes_leaves_its_parent_the_server(data_folder: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from backfill_pipelines.database.embedded_server import EmbeddedServer
server = EmbeddedServer.start(Path(sys.argv[1]), durable=False)
if not (child := os.fork()):
    server.close()
    os._exit(0)
os.waitpid(child, 0)
EmbeddedServer.start(Path(sys.argv[1])).close()
server.ensure_database("still_here")
server.close()
"""
    subprocess.run([sys.executable, "-c", script, str(data_folder)], check=True)
    assert not lives(data_folder)


def test_a_server_can_be_left_twice(data_folder: Path) -> None:
    server = EmbeddedServer.start(data_folder)
    server.close()
    server.close()
    assert not lives(data_folder)


def test_leaving_the_server_of_a_deleted_folder_does_not_stop_the_one_of_the_folder_made_anew(
    data_folder: Path, tmp_path: Path
) -> None:
    one, other = EmbeddedServer.start(data_folder), EmbeddedServer.start(data_folder)
    for name in ("postgres", "postgres.locks"):
        (tmp_path / name).rename(tmp_path / f"deleted.{name}")
    one.close()
    with EmbeddedServer.start(data_folder, durable=False) as new:
        assert new.url("postgres") != other.url("postgres")
        other.close()
        assert query(new.url("postgres").get_secret_value(), "SELECT 1") == 1
    for name in ("postgres", "postgres.locks"):
        shutil.rmtree(tmp_path / name)
        (tmp_path / f"deleted.{name}").rename(tmp_path / name)
    stop(data_folder)  # the old one, which would have ended by itself had it been deleted in earnest
    assert not lives(data_folder)


def test_a_database_asked_for_by_several_at_once_is_created_once(data_folder: Path) -> None:
    with EmbeddedServer.start(data_folder) as server:
        url = server.url('Odd "name"').get_secret_value()
        in_threads([lambda: server.ensure_database('Odd "name"')] * 4)
        assert query(url, "SELECT current_database()") == 'Odd "name"'
        assert server.ensure_database('Odd "name"').get_secret_value() == url
