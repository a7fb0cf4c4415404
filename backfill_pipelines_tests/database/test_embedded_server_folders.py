"""Where the server's files may lie, whose they are, and what the server writes into them."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backfill_pipelines.database.cluster_account import ClusterAccount, account_for, server_program
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.database.holders import Holder, lives, query, stop


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A short folder that every user may enter, unlike those that pytest makes."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def socket_folder(server: EmbeddedServer) -> Path:
    return Path(str(query(server.url("postgres").get_secret_value(), "SHOW unix_socket_directories")).strip('"'))


@pytest.mark.parametrize("name", ["Application Support", "comma, \"quote\" and 'apostrophe' ünï", "x" * 200])
def test_any_path_will_do(initialised_data_folder: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / name / "postgres"
    data.parent.mkdir()
    shutil.copytree(initialised_data_folder, data)
    with EmbeddedServer.start(data) as server:
        assert query(server.url("postgres").get_secret_value(), "SHOW data_directory") == str(data)
    assert not lives(data)


def test_a_data_folder_behind_a_link_is_the_folder_itself(data_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(data_folder)
    with EmbeddedServer.start(data_folder) as server, EmbeddedServer.start(link) as same:
        assert server.url("postgres") == same.url("postgres")


def test_only_we_can_reach_the_socket_and_no_other_folder_is_opened(data_folder: Path) -> None:
    data_folder.parent.chmod(0o700 if account_for(data_folder).user is None else 0o711)
    above = [data_folder.parent, *data_folder.parent.parents]
    before = [(mode(folder), folder.stat().st_uid) for folder in above]
    with EmbeddedServer.start(data_folder) as server:
        sockets = socket_folder(server)
        assert mode(sockets) == 0o700
        assert mode(data_folder) == 0o700
        assert data_folder.stat().st_uid == account_for(data_folder).owner
        assert [(mode(folder), folder.stat().st_uid) for folder in above] == before
    assert not sockets.exists()


def test_processes_with_different_temporary_folders_share_one_server(data_folder: Path, open_folder: Path) -> None:
    odd = open_folder / 'a b "c"'
    odd.mkdir()
    with Holder(data_folder, environment={"TMPDIR": str(odd)}) as first:
        assert "a%20b" in first.url
        with EmbeddedServer.start(data_folder) as second:
            assert second.url("postgres").get_secret_value() == first.url
        assert first.leave() == 0


@pytest.mark.parametrize("name", ["x" * 120, "a, b"])
def test_a_temporary_folder_that_no_socket_can_lie_in_is_not_used(
    data_folder: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (open_folder / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder / name))
    with EmbeddedServer.start(data_folder) as server:
        assert socket_folder(server).parent == Path("/tmp")


def test_a_socket_folder_that_others_can_write_to_is_refused(data_folder: Path) -> None:
    with EmbeddedServer.start(data_folder) as server:
        sockets = socket_folder(server)
    sockets.mkdir()
    try:
        sockets.chmod(0o777)
        with pytest.raises(ConfigurationError, match="socket folder") as refused:
            EmbeddedServer.start(data_folder)
        assert refused.value.code == "embedded_server_folder"
    finally:
        sockets.rmdir()


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    photo = tmp_path / "holiday.jpg"
    photo.write_bytes(b"sea")
    with pytest.raises(ConfigurationError, match="not empty") as refused:
        EmbeddedServer.start(tmp_path)
    assert refused.value.code == "embedded_server_folder"
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="writable") as refused:
        EmbeddedServer.start(tmp_path / "file" / "postgres")
    assert refused.value.code == "embedded_server_folder"


def test_without_user_namespaces_root_leaves_the_server_to_nobody(open_folder: Path) -> None:
    data = open_folder / "postgres"
    nobody = pwd.getpwnam("nobody").pw_uid
    programs = Path(server_program("postgres"))
    reachable = all(mode(folder) & 0o001 for folder in [programs, *programs.parents])
    with Holder(data, environment={"PATH": ""}) as holder:  # without PATH there is no `unshare`
        try:
            if os.geteuid() == 0 and not reachable:
                assert holder.url == ""
                assert "initdb" in data.with_name("postgres.log").read_text()
                return
            expected = nobody if os.geteuid() == 0 else os.geteuid()
            assert query(holder.url, "SHOW data_directory") == str(data)
            assert data.stat().st_uid == expected
            # Whoever has user namespaces again still joins it and stops it.
            with EmbeddedServer.start(data) as joined:
                assert joined.url("postgres").get_secret_value() == holder.url
            assert holder.leave() == 0
            assert not lives(data)
            assert data.parent.stat().st_uid == os.geteuid()
        finally:
            stop(data)


def test_data_that_is_kept_waits_for_the_disk_and_test_data_does_not(data_folder: Path) -> None:
    for durable, expected in ((True, "on"), (False, "off")):
        with EmbeddedServer.start(data_folder, durable=durable) as server:
            url = server.url("postgres").get_secret_value()
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                assert query(url, f"SHOW {setting}") == expected
            assert query(url, "SHOW max_connections") == "200"
            assert query(url, "SHOW listen_addresses") == ""
            assert query(url, "SHOW TimeZone") == "UTC"
            assert query(url, "SELECT lower('ÄÉ')") == "äé"


def test_no_value_of_a_failing_statement_reaches_the_log(data_folder: Path) -> None:
    with EmbeddedServer.start(data_folder) as server:
        url = server.url("postgres").get_secret_value()
        query(url, "CREATE TABLE lead (email text PRIMARY KEY)")
        for statement in (
            "SELECT 'canary@example.test'::int",
            "INSERT INTO lead VALUES ('canary@example.test'), ('canary@example.test') RETURNING 1",
            "SELECT canary_example",
            "DO $$ BEGIN RAISE WARNING 'canary@example.test'; RAISE EXCEPTION 'canary@example.test'; END $$",
        ):
            with pytest.raises(psycopg.Error, match="canary"):
                query(url, statement)
    log = data_folder.with_name("postgres.log")
    assert "canary" not in log.read_text()
    assert mode(log) == 0o600


def test_the_server_inherits_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", "canary")
    monkeypatch.setenv("PGHOST", "canary")
    assert ClusterAccount().run(["/usr/bin/env"], log=tmp_path / "log") == 0
    printed = (tmp_path / "log").read_text()
    assert "LC_ALL=C" in printed
    assert "canary" not in printed
